# SPDX-License-Identifier: Apache-2.0
"""Reads of existing BAM and CRAM files: what samtools fastq gives, in pairs, whatever the order of the file."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, ResourceError
from megabolt.formats.alignment_file import AlignmentFile
from megabolt.formats.bam_input import AlignedInput
from megabolt.formats.fastq import PairBatch
from megabolt.formats.record_facts import read_groups_of
from megabolt.privacy.consent import Permit, authorize

HEADER: dict[str, Any] = {
    "HD": {"VN": "1.6", "SO": "unknown"},
    "SQ": [{"SN": "chr1", "LN": 5000}, {"SN": "chr2", "LN": 3000}],
    "RG": [{"ID": "a", "SM": "S", "LB": "L1"}, {"ID": "ab", "SM": "S", "LB": "L2"}],
}
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
#: name, read group, UMI, sequences and qualities of one read or two
Template = tuple[str, str, str, tuple[tuple[str, str], ...]]


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")


def read_alignment_file(path: Path, permit: Permit, **options: Any) -> Iterator[PairBatch]:
    """All batches of a file."""
    with AlignedInput(path, permit, **options) as reads:
        yield from reads.batches()


def make_templates(n: int, seed: int = 3) -> list[Template]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        reads = []
        for _ in range(1 if k % 7 == 0 else 2):
            length = int(rng.integers(1, 160))
            bases = "".join(rng.choice(list("ACGTN"), length))
            reads.append((bases, rng.integers(33, 127, length).astype(np.uint8).tobytes().decode()))
        umi = "" if k % 3 else "".join(rng.choice(list("ACGT"), 9)) + "-ACG"
        name = f"r{k}:" + "y" * int(rng.integers(0, 60))
        made.append((name, "ab" if rng.random() < 0.3 else "a", umi, tuple(reads)))
    return made


def segments_of(template: Template, rng: Any, header: pysam.AlignmentHeader) -> list[pysam.AlignedSegment]:
    """Primary records on either strand or without a place, and now and then one that is not primary."""
    name, group, umi, reads = template
    found = []
    for mate, (bases, quality) in enumerate(reads):
        reverse, mapped = bool(rng.integers(2)), bool(rng.integers(4))
        segment = pysam.AlignedSegment(header)
        segment.query_name = name
        segment.flag = (16 * reverse) | (0 if mapped else 4) | ((1 | (64 << mate)) if len(reads) == 2 else 0)
        if mapped:
            segment.reference_id, segment.reference_start = int(rng.integers(2)), int(rng.integers(2000))
            segment.mapping_quality = 60
            clip = len(bases) // 3
            segment.cigartuples = [(4, clip), (0, len(bases) - clip)] if clip else [(0, len(bases))]
        segment.query_sequence = bases.translate(COMPLEMENT)[::-1] if reverse else bases
        segment.query_qualities = pysam.qualitystring_to_array(quality[::-1] if reverse else quality)
        segment.set_tag("NM", 3)
        segment.set_tag("ZB", np.arange(5, dtype=np.int16).tolist())
        segment.set_tag("RG", group)
        if umi:
            segment.set_tag("RX", umi)
        found.append(segment)
        if mapped and rng.integers(3) == 0:
            again = pysam.AlignedSegment.from_dict(segment.to_dict(), header)
            again.flag |= int(rng.choice([0x100, 0x800]))
            if len(bases) > 1:
                again.cigartuples = [(5, 1), (0, len(bases) - 1)]
                again.query_sequence, again.query_qualities = bases[1:], pysam.qualitystring_to_array(quality[1:])
            found.append(again)
    return found


def write(path: Path, segments: list[pysam.AlignedSegment], mode: str = "wb", **options: Any) -> Path:
    header = pysam.AlignmentHeader.from_dict(HEADER)
    with pysam.AlignmentFile(str(path), mode, header=header, **options) as file:
        for segment in segments:
            file.write(segment)
    return path


def all_segments(templates: list[Template]) -> list[pysam.AlignedSegment]:
    rng, header = np.random.default_rng(8), pysam.AlignmentHeader.from_dict(HEADER)
    return [segment for template in templates for segment in segments_of(template, rng, header)]


def shuffled(segments: list[pysam.AlignedSegment], order: str) -> list[pysam.AlignedSegment]:
    if order == "grouped":
        return segments
    if order == "coordinate":
        return sorted(segments, key=lambda one: (one.reference_id % 3, one.reference_start, one.flag & 16))
    return [segments[i] for i in np.random.default_rng(1).permutation(len(segments))]


def texts_of(batch: PairBatch, mate: int) -> list[tuple[str, str, str, str]]:
    text, found = batch.text[mate], []
    assert not text[:PADDING].any()
    for name, name_size, bases, quality, size, umi, umi_size in batch.fields[mate].tolist():
        assert max(name + name_size, bases + size, quality + size, umi + umi_size) + PADDING <= len(text)
        pieces = ((name, name_size), (bases, size), (quality, size), (umi, umi_size))
        found.append(tuple(text[start : start + length].tobytes().decode() for start, length in pieces))
    return found  # type: ignore[return-value]


def templates_of(batches: list[PairBatch], groups: list[str]) -> list[Template]:
    found: list[Template] = []
    n = 0
    for batch in batches:
        assert batch.first_pair == n
        n += batch.n_pairs
        for one, two in zip(texts_of(batch, 0), texts_of(batch, 1)):
            assert one[0] == two[0]
            assert two[3] == ""
            reads = (one[1:3], two[1:3]) if batch.paired else (one[1:3],)
            assert batch.paired or two[1:3] == ("", "")
            found.append((one[0], groups[batch.read_group], one[3], reads))
    return found


@pytest.mark.parametrize("order", ["grouped", "coordinate", "random"])
@pytest.mark.parametrize("batch", [1, 100, 8192])
def test_reads_come_back_as_they_were(tmp_path: Path, permit: Permit, order: str, batch: int) -> None:
    templates = make_templates(150 if batch == 1 else 900)
    path = write(tmp_path / "x.bam", shuffled(all_segments(templates), order))
    reads = AlignedInput(path, permit, pairs_per_batch=batch)
    batches = list(reads.batches())
    reads.close()
    found = templates_of(batches, ["a", "ab"])
    assert sorted(found) == sorted(templates)
    assert all(one.n_pairs == batch for one in batches[:-4])
    assert reads.n_without_mate == 0
    assert reads.n_left_out > 10
    if order == "grouped":
        for group in ("a", "ab"):
            pairs = [one for one in templates if len(one[3]) == 2 and one[1] == group]
            assert [one for one in found if len(one[3]) == 2 and one[1] == group] == pairs


def test_reads_that_wait_over_many_pieces(tmp_path: Path, permit: Permit) -> None:
    """Mates lie a whole file apart: all reads of one mate wait; 12 MB are several pieces."""
    templates = [one for one in make_templates(20_000) if len(one[3]) == 2]
    rng, header = np.random.default_rng(8), pysam.AlignmentHeader.from_dict(HEADER)
    apart: list[list[pysam.AlignedSegment]] = [[], []]
    for template in templates:
        primary = [one for one in segments_of(template, rng, header) if not one.flag & 0x900]
        for mate in (0, 1):
            apart[mate].append(primary[mate])
    path = write(tmp_path / "x.bam", apart[1] + apart[0])
    found = templates_of(list(read_alignment_file(path, permit)), ["a", "ab"])
    assert sorted(found) == sorted(templates)
    reads = AlignedInput(path, permit, waiting_bytes=1_000_000)
    with pytest.raises(ResourceError, match="the reads that wait for their mates fill 0"):
        list(reads.batches())
    reads.close()


def test_reads_without_mates_come_last_and_unpaired(tmp_path: Path, permit: Permit) -> None:
    templates = make_templates(300)
    segments = all_segments(templates)
    lonely = {one[0] for one in templates[::10] if len(one[3]) == 2}
    kept = [one for one in segments if not (one.query_name in lonely and one.flag & 0x80)]
    reads = AlignedInput(write(tmp_path / "x.bam", shuffled(kept, "coordinate")), permit)
    found = templates_of(list(reads.batches()), ["a", "ab"])
    reads.close()
    assert reads.n_without_mate == len(lonely)
    expected = [(*one[:3], one[3][:1]) if one[0] in lonely else one for one in templates]
    assert sorted(found) == sorted(expected)


def test_original_qualities(tmp_path: Path, permit: Permit) -> None:
    templates = make_templates(60)
    segments = all_segments(templates)
    for segment in segments:
        quality = pysam.qualities_to_qualitystring(segment.query_qualities)
        if not segment.flag & 0x900:
            segment.set_tag("OQ", quality)
            segment.query_qualities = pysam.qualitystring_to_array("#" * len(quality))
    path = write(tmp_path / "x.bam", shuffled(segments, "random"))
    reads = AlignedInput(path, permit)
    assert sorted(templates_of(list(reads.batches()), ["a", "ab"])) == sorted(templates)
    reads.close()
    reads = AlignedInput(path, permit, original_qualities=False)
    found = templates_of(list(reads.batches()), ["a", "ab"])
    reads.close()
    assert {quality for one in found for _, quality in one[3]} == {"#" * n for n in range(1, 160)} & {
        "#" * len(quality) for one in templates for _, quality in one[3]
    }


def test_cram_with_and_without_reference(tmp_path: Path, permit: Permit) -> None:
    templates = make_templates(400)
    rng = np.random.default_rng(2)
    fasta = tmp_path / "ref.fa"
    fasta.write_text("".join(f">{one['SN']}\n{''.join(rng.choice(list('ACGT'), one['LN']))}\n" for one in HEADER["SQ"]))
    pysam.faidx(str(fasta))
    segments = shuffled(all_segments(templates), "coordinate")
    path = write(tmp_path / "x.cram", segments, "wc", reference_filename=str(fasta))
    found = templates_of(list(read_alignment_file(path, permit, reference=fasta, threads=2)), ["a", "ab"])
    assert sorted(found) == sorted(templates)
    with pytest.raises(InputFormatError, match="a CRAM file needs its reference"):
        AlignedInput(path, permit)
    other = tmp_path / "other.fa"
    other.write_text(fasta.read_text().replace("chr2", "chr3"))
    with pytest.raises(InputFormatError, match="no contig chr2 of 3000 bases"):
        AlignedInput(path, permit, reference=other)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputFormatError, match=r"x\.cram: cannot be decoded"):
        list(read_alignment_file(path, permit, reference=fasta))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: setattr(one, "cigarstring", f"2H{len(one.query_sequence)}M"), r"\(?.*hard-clipped"),
        (lambda one: one.set_tag("RG", "b"), "the header lacks the record's read group"),
        (lambda one: one.set_tag("RG", None), "no read group"),
        (lambda one: setattr(one, "flag", 1), "first or the last"),
        (lambda one: setattr(one, "query_qualities", None), "no base qualities"),
        (lambda one: setattr(one, "query_sequence", "=" + one.query_sequence[1:]), "'='"),
        (lambda one: setattr(one, "flag", one.flag ^ 0xC0), "there twice"),
    ],
    ids=["hard clip", "unknown group", "no group", "no number", "no qualities", "equal signs", "twice"],
)
def test_what_cannot_be_aligned_again_is_named(tmp_path: Path, permit: Permit, change: Any, why: str) -> None:
    segments = all_segments([one for one in make_templates(90) if len(one[3]) == 2])
    segments = [one for one in segments if not one.flag & 0x900]
    quality = segments[41].query_qualities
    change(segments[41])
    if why == "'='":
        segments[41].query_qualities = quality
    path = write(tmp_path / "x.bam", segments)
    with pytest.raises(InputFormatError, match=f"x.bam, record 42.*{why}"):
        list(read_alignment_file(path, permit))


def test_long_reads_are_refused(tmp_path: Path, permit: Permit) -> None:
    path = write(tmp_path / "x.bam", all_segments([("long", "a", "", (("A" * 501, "I" * 501),))]))
    with pytest.raises(InputFormatError, match="record 1: the read is longer than 500 bases"):
        list(read_alignment_file(path, permit))


def test_read_groups(tmp_path: Path, permit: Permit) -> None:
    def groups(lines: list[dict[str, str]]) -> Any:
        path = tmp_path / "h.bam"
        pysam.AlignmentFile(str(path), "wb", header={**HEADER, "RG": lines}).close()
        with AlignmentFile(path, permit) as file:
            assert list(file.blocks()) == []
            return read_groups_of(file.header, path)

    found = groups([{"ID": "a", "SM": "S", "LB": "L", "PU": "x"}, {"ID": "b", "SM": "T"}])
    assert [(one.name, one.sample, one.library) for one in found] == [("a", "S", "L"), ("b", "T", "")]
    assert set(found[0].line.split("\t")) == {"@RG", "ID:a", "SM:S", "LB:L", "PU:x"}
    assert groups([]) == ()
    with pytest.raises(InputFormatError, match="read group a has no sample"):
        groups([{"ID": "a", "LB": "L"}])


def test_a_file_without_read_groups_has_group_0(tmp_path: Path, permit: Permit) -> None:
    segments = all_segments(make_templates(20))
    path = tmp_path / "x.bam"
    with pysam.AlignmentFile(str(path), "wb", header={**HEADER, "RG": []}) as file:
        for segment in segments:
            file.write(segment)
    assert {batch.read_group for batch in read_alignment_file(path, permit)} == {0}


def test_damaged_files(tmp_path: Path, permit: Permit) -> None:
    path = write(tmp_path / "x.bam", all_segments(make_templates(3000)))
    whole = path.read_bytes()
    for content, why in (
        (b"", "the file is empty"),
        (b"@HD\tVN:1.6\n", "not a BAM file"),
        (whole[:-28], f"byte {len(whole) - 28}: the end-of-file block is missing"),
        (whole[: len(whole) // 2] + whole[-28:], "byte "),
        (whole[:-28] + b"x" * 28, "the end-of-file block is missing"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputFormatError, match=f"x.bam.*{why}"):
            list(read_alignment_file(path, permit))


@pytest.mark.parametrize(
    "name",
    [
        "hg002_chr20_10.0M_nist30x_hg19/HG002.chr20_10.0-10.1M.bam",
        "umi_exome_nfcore/test.paired_end.unsorted_tagged.bam",
        "mito_NA12878/NA12878.chrM.gatk_mito.bam",
        "somatic/hcc1395_exome_chr17_unaligned_GRCh38/2895499223.bam",
    ],
)
def test_real_files_as_samtools_reads_them(shared_data: Path, permit: Permit, name: str) -> None:
    if not (shared_data / name).is_file() or shutil.which("samtools") is None:
        pytest.skip("not among the data, or no samtools")
    expected = defaultdict(list)
    made = subprocess.run(
        ["samtools", "fastq", "-n", "-F", "0x900", str(shared_data / name)], capture_output=True, check=True, text=True
    )
    lines = made.stdout.splitlines()
    for i in range(0, len(lines), 4):
        expected[lines[i][1:]].append((lines[i + 1], lines[i + 3]))
    reads = AlignedInput(shared_data / name, permit, original_qualities=False)
    found = Counter()
    for batch in reads.batches():
        for mate in range(1 + batch.paired):
            found.update(one[:3] for one in texts_of(batch, mate))
    reads.close()
    assert found == Counter((name, *one) for name, both in expected.items() for one in both)
