# SPDX-License-Identifier: Apache-2.0
"""Records of existing files: bytes as they were, duplicates as a plain implementation of Picard's rules finds them."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.record import UNPLACED
from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats import bgzf, bgzf_stream
from megabolt.formats.alignment_file import AlignmentFile
from megabolt.privacy.consent import Permit, authorize
from megabolt.reads.arena import BufferPool
from megabolt.reads.bins import BinStore
from megabolt.reads.duplicates.finder import DuplicateFinder, Duplicates
from megabolt.reads.existing import UNKNOWN_LIBRARY, ExistingReads
from megabolt.reads.scratch import Scratch

HEADER: dict[str, Any] = {
    "HD": {"VN": "1.6", "SO": "unknown"},
    "SQ": [{"SN": "chr1", "LN": 100_000}, {"SN": "chr2", "LN": 50_000}],
    "RG": [{"ID": "a", "SM": "S", "LB": "L1"}, {"ID": "b", "SM": "S", "LB": "L1"}, {"ID": "c", "SM": "S", "LB": "L2"}],
}
CIGARS = ("50M", "5S45M", "3H4S46M", "40M10S", "20M2D25M5S", "10M5I35M", "2S20M100N28M")
Segments = list[pysam.AlignedSegment]


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")


def make_segments(n: int, seed: int = 4) -> Segments:
    """Templates on few places, so that many are duplicates: pairs, single reads, unmapped mates, lost mates."""
    rng, header = np.random.default_rng(seed), pysam.AlignmentHeader.from_dict(HEADER)
    made: Segments = []

    def one(name: str, flag: int, group: str, place: tuple[int, int], mate: tuple[int, int]) -> pysam.AlignedSegment:
        segment = pysam.AlignedSegment(header)
        segment.query_name, segment.flag = name, flag | (0x400 if rng.integers(4) == 0 else 0)
        segment.reference_id, segment.reference_start = place
        segment.next_reference_id, segment.next_reference_start = mate
        segment.query_sequence = "".join(rng.choice(list("ACGT"), 50))
        segment.query_qualities = pysam.qualitystring_to_array("".join(rng.choice(list("#0<F"), 50)))
        if not flag & 4:
            segment.cigarstring, segment.mapping_quality = str(rng.choice(CIGARS)), 60
            segment.query_sequence = "A" * 50
        segment.set_tag("RG", group)
        segment.set_tag("DT", "LB")
        return segment

    def place() -> tuple[int, int]:
        return int(rng.integers(2)), 1000 + int(rng.integers(3))

    for k in range(n):
        name, group = f"q:{k}", str(rng.choice(["a", "b", "c"]))
        flags, places = [int(rng.integers(2)) * 16 for _ in range(2)], [place(), place()]
        kind = int(rng.integers(10))
        if kind == 0:
            made.append(one(name, flags[0], group, places[0], (-1, -1)))
            continue
        if kind == 1:  # mate 2 is unmapped
            made.append(one(name, 1 | 8 | 64 | flags[0], group, places[0], places[0]))
            made.append(one(name, 1 | 4 | 128, group, places[0], places[0]))
            continue
        if kind == 2 and k % 3 == 0:
            made += [one(name, 1 | 4 | 8 | 64, group, (-1, -1), (-1, -1)), one(name, 141, group, (-1, -1), (-1, -1))]
            continue
        pair = [one(name, 1 | (64 << m) | flags[m], group, places[m], places[1 - m]) for m in (0, 1)]
        if kind == 3:
            pair.pop(int(rng.integers(2)))
        if kind == 4:
            pair.insert(int(rng.integers(3)), one(name, 1 | 64 | 0x800 | flags[0], group, place(), places[1]))
        if kind == 5:
            pair.append(one(name, 1 | 128 | 0x100 | flags[1], group, place(), places[0]))
        made += pair
    return made


def write(path: Path, segments: Segments, header: dict[str, Any] = HEADER) -> Path:
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for segment in segments:
            file.write(segment)
    return path


def ordered(segments: Segments, order: str) -> Segments:
    if order == "grouped":
        return segments
    if order == "coordinate":
        return sorted(segments, key=lambda one: (one.reference_id % 3, one.reference_start))
    return [segments[i] for i in np.random.default_rng(1).permutation(len(segments))]


def end_of(one: pysam.AlignedSegment) -> tuple[int, int, bool]:
    """Contig, unclipped 5' end, strand."""
    cigar = one.cigartuples or []
    before, behind = (
        sum(n for _, n in takewhile(lambda item: item[0] in (4, 5), side)) for side in (cigar, cigar[::-1])
    )
    end = one.reference_end or 0
    return one.reference_id, end - 1 + behind if one.is_reverse else one.reference_start - before, one.is_reverse


def score_of(one: pysam.AlignedSegment) -> int:
    return sum(q for q in one.query_qualities or () if q >= 15)


def expected_flags(segments: Segments) -> list[bool]:
    """By Picard's rules, record by record; all records of a template share its fate."""
    library = {line["ID"]: line["LB"] for line in HEADER["RG"]}
    reads: dict[tuple[str, str], list[int]] = defaultdict(list)
    records: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, one in enumerate(segments):
        name = str(one.get_tag("RG")), one.query_name or ""
        records[name].append(i)
        if not one.flag & 0x904:
            reads[name].append(i)
    pairs: dict[Any, list[Any]] = defaultdict(list)
    lone: dict[Any, list[Any]] = defaultdict(list)
    paired_ends = set()
    for name, rows in reads.items():
        lib = library[name[0]]
        ends = sorted((end_of(segments[i])[:2], i, end_of(segments[i])) for i in rows)
        score = sum(score_of(segments[i]) for i in rows)
        if len(rows) == 2:
            key = (lib, *sorted(end[2] for end in ends))
            pairs[key].append((-score, *(1 << 20,) * 3, ends[0][1], name))
            paired_ends |= {(lib, end[2]) for end in ends}
        elif segments[rows[0]].is_paired and not segments[rows[0]].mate_is_unmapped:
            paired_ends.add((lib, ends[0][2]))
        else:
            lone[lib, ends[0][2]].append((-score, ends[0][1], name))
    marked = {one[-1] for group in pairs.values() for one in sorted(group)[1:]}
    for key, group in lone.items():
        marked |= {one[-1] for one in sorted(group)[key not in paired_ends :]}
    flags = np.zeros(len(segments), bool)
    for name in marked:
        flags[records[name]] = True
    return flags.tolist()


def marked_by_us(path: Path, permit: Permit, **options: Any) -> tuple[list[bool], Duplicates, ExistingReads]:
    with ExistingReads(path, permit, **options) as reads:
        finder = DuplicateFinder(reads.libraries)
        for chunk, templates, _ in reads.chunks():
            finder.add(templates)
            reads.give_back(chunk)
    found = finder.resolve()
    bits = reads.spread(found.duplicate)
    return np.unpackbits(bits, bitorder="little", count=reads.n_records).astype(bool).tolist(), found, reads


@pytest.mark.parametrize("order", ["grouped", "coordinate", "random"])
@pytest.mark.parametrize("threads", [1, 3])
def test_flags_are_those_of_the_rules(tmp_path: Path, permit: Permit, order: str, threads: int) -> None:
    segments = ordered(make_segments(3000), order)
    path = write(tmp_path / "x.bam", segments)
    expected = expected_flags(segments)
    flags, found, reads = marked_by_us(path, permit, threads=threads)
    assert flags == expected
    assert 500 < sum(flags) < len(flags) - 500
    assert reads.n_records == len(segments)
    assert reads.libraries == ("L1", "L1", "L2")
    assert reads.n_without_mate > 100
    others = sum(bool(one.flag & 0x900) for one in segments)
    assert sum(one.secondary_or_supplementary_reads for one in found.metrics) == others > 100
    assert sum(one.unmapped_reads for one in found.metrics) == sum(one.is_unmapped for one in segments)


def test_reads_that_wait_over_many_pieces_and_scratch(tmp_path: Path, permit: Permit) -> None:
    """All of mate 2 before all of mate 1; several pieces of the file."""
    segments = sorted(make_segments(15_000), key=lambda one: one.flag & 64)
    path = write(tmp_path / "x.bam", segments)
    expected = expected_flags(segments)
    assert marked_by_us(path, permit)[0] == expected
    with Scratch(tmp_path, "test") as scratch:
        spill = scratch.open_file()
        assert marked_by_us(path, permit, spill=spill)[0] == expected
        assert spill.n_bytes > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_records_over_the_ends_of_pieces(
    tmp_path: Path, permit: Permit, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that end with a record, as htslib writes them, then blocks that end anywhere, then the former again."""
    monkeypatch.setattr(bgzf_stream, "_RUN_BYTES", 1 << 16)
    segments = make_segments(3000)
    path, mixed = write(tmp_path / "x.bam", segments), tmp_path / "mixed.bam"
    raw = path.read_bytes()
    starts = [block.start for block in bgzf.blocks(raw, path)]
    first, last = starts[len(starts) // 3], starts[2 * len(starts) // 3]
    middle = bgzf.decompress(raw[first:last], path)[:-PADDING].tobytes()
    cut = [bgzf.compress_block(middle[i : i + 60_001]) for i in range(0, len(middle), 60_001)]
    mixed.write_bytes(raw[:first] + b"".join(cut) + raw[last:])
    with AlignmentFile(mixed, permit, threads=threads) as file:
        n_header = len(file.header.encode())
        blocks = list(file.blocks())
    assert len(blocks) > len(cut) > 3
    assert sum(block.n for block in blocks) == len(segments)
    found = b"".join(block.data[block.offsets[0] : block.offsets[-1]].tobytes() for block in blocks)
    assert found == bgzf.decompress(raw, path)[n_header:-PADDING].tobytes()


@pytest.mark.parametrize("early", [False, True], ids=["packed in the bins", "packed early"])
def test_records_go_through_the_bins_unchanged(tmp_path: Path, permit: Permit, early: bool) -> None:
    segments = ordered(make_segments(2000), "random")
    segments[7].reference_start = -1  # a contig but no place: sorted to the contig's start
    path = write(tmp_path / "x.bam", segments)
    reads = ExistingReads(path, permit, threads=2)
    store = BinStore([one.length for one in reads.header.contigs], 1 << 26, ordinal_shift=0)
    finder = DuplicateFinder(reads.libraries)
    n_placed = 0
    for chunk, templates, packed in reads.chunks(store.pack if early else None):
        n_placed += int((chunk.key[: chunk.n_records] != UNPLACED).sum())
        assert (packed is not None) == (early and chunk.n_records > 0)
        store.add(chunk, packed)
        finder.add(templates)
        reads.give_back(chunk)
    reads.close()
    assert n_placed == sum(one.reference_id >= 0 for one in segments)
    store.duplicate = reads.spread(finder.resolve().duplicate)
    found, pool = [], BufferPool()
    store.seal()
    for k in range(store.layout.n_bins + 1):
        for block in store.blocks_of(k, pool):
            own = block.own()
            found += [own.data[a:b].tobytes() for a, b in zip(own.offsets[:-1].tolist(), own.offsets[1:].tolist())]
    with AlignmentFile(path, permit) as file:
        blocks = list(file.blocks())
    raw = [b.data[i:j].tobytes() for b in blocks for i, j in zip(b.offsets[:-1].tolist(), b.offsets[1:].tolist())]

    def with_flag(record: bytes, flag: bool) -> bytes:
        clear = bytearray(record)
        clear[19] = (clear[19] & 0xFB) | (4 if flag and not clear[18] & 4 else 0)
        return bytes(clear)

    expected = [with_flag(one, flag) for one, flag in zip(raw, expected_flags(segments))]
    assert sorted(found) == sorted(expected)
    places = [(int.from_bytes(one[4:8], "little"), int.from_bytes(one[8:12], "little", signed=True)) for one in found]
    assert [one[0] for one in places] == sorted(one[0] for one in places)


def test_files_without_read_groups(tmp_path: Path, permit: Permit) -> None:
    segments = make_segments(300)
    reads = marked_by_us(write(tmp_path / "x.bam", segments, {**HEADER, "RG": []}), permit)[2]
    assert reads.libraries == (UNKNOWN_LIBRARY,)
    with pytest.raises(InputFormatError, match="read group a has no sample"):
        ExistingReads(write(tmp_path / "x.bam", [], {**HEADER, "RG": [{"ID": "a"}]}), permit)
    with pytest.raises(InputFormatError, match=r"record 1 \(q:0\): the header lacks the record's read group"):
        marked_by_us(write(tmp_path / "x.bam", segments, {**HEADER, "RG": [{"ID": "x", "SM": "S"}]}), permit)


def test_an_empty_file(tmp_path: Path, permit: Permit) -> None:
    flags, found, reads = marked_by_us(write(tmp_path / "x.bam", []), permit)
    assert (flags, reads.n_records, reads.n_templates) == ([], 0, 0)
    assert not found.duplicate.any()


@pytest.mark.parametrize(
    ("name", "by_name"),
    [
        ("gatk_bqsr_markdup_hc_unit/unDuplicateMarked.gatk4.CEUTrio.HiSeq.WGS.b37.ch20.1m-1m1k.NA12878.bam", False),
        ("gatk_bqsr_markdup_hc_unit/htsjdk.CEUTrio.HiSeq.WGS.b37.NA12878.20.first.8000.bam", False),
        ("hg002_chr20_10.0M_nist30x_hg19/HG002.chr20_10.0-10.1M.bam", False),
        ("mito_NA12878/NA12878.chrM.gatk_mito.bam", True),
    ],
)
def test_real_files_as_picard_marks_them(
    shared_data: Path, tmp_path: Path, permit: Permit, name: str, by_name: bool
) -> None:
    if not (shared_data / name).is_file() or shutil.which("PicardCommandLine") is None:
        pytest.skip("not among the data, or no Picard")
    path = shared_data / name
    if by_name:
        path = tmp_path / "named.bam"
        pysam.sort("-n", "-o", str(path), str(shared_data / name))
    options = ["VALIDATION_STRINGENCY=SILENT", "QUIET=true", "TAGGING_POLICY=All", f"M={tmp_path / 'metrics'}"]
    options += ["ASSUME_SORT_ORDER=queryname"] if by_name else []
    marked = tmp_path / "marked.bam"
    command = ["PicardCommandLine", "MarkDuplicates", f"I={path}", f"O={marked}", *options]
    subprocess.run(command, check=True, capture_output=True)
    flags, found, reads = marked_by_us(path, permit)
    optical = np.unpackbits(reads.spread(found.optical), bitorder="little", count=reads.n_records)
    different = []
    with pysam.AlignmentFile(str(marked), check_sq=False) as file:
        for i, one in enumerate(file.fetch(until_eof=True)):
            if one.is_unmapped or (one.flag & 0x900 and not by_name):
                continue  # in sorted files Picard leaves them alone
            is_optical = one.is_duplicate and one.get_tag("DT") == "SQ"
            if (flags[i], bool(optical[i])) != (one.is_duplicate, is_optical):
                different.append(one.query_name)
    assert different == []
    assert sum(flags) > 50
