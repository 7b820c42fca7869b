# SPDX-License-Identifier: Apache-2.0
"""The jobs of one sample on a small genome: results, independence of threads, nothing left after errors."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.engine import PairAligner
from megabolt.align.index import build_index, open_index
from megabolt.align.options import AlignOptions
from megabolt.errors import ConsentRefused, InputFormatError, ResourceError, UsageError
from megabolt.formats.lane import FastqLane
from megabolt.reads.bins import BIN_BASES
from megabolt.testing.toy_sample import LENGTHS, MEMORY, N_COPIES, OPEN, ToySample, arguments, fastq, make_sample
from megabolt.workflow import read_input
from megabolt.workflow.germline import command_line, run_align, run_call, run_germline
from megabolt.workflow.read_groups import read_groups


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> ToySample:
    return make_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def results(sample: ToySample, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of complete runs by number of threads."""
    folders = {}
    for threads in (1, 3):
        folders[threads] = tmp_path_factory.mktemp(f"threads{threads}")
        run_germline(**arguments(sample, outdir=folders[threads], threads=threads, gvcf=True))
    return folders


def bam_text(path: Path) -> list[str]:
    with pysam.AlignmentFile(str(path)) as file:
        return [str(file.header), *(record.to_string() for record in file.fetch(until_eof=True))]


def vcf_text(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return list(file)


def records(path: Path) -> list[Any]:
    with pysam.VariantFile(str(path)) as file:
        return list(file)


def test_all_files_are_there(results: dict[int, Path]) -> None:
    names = ["metrics", "s.bam", "s.bam.bai", "s.g.vcf.gz", "s.g.vcf.gz.tbi", "s.metrics.json"]
    names += ["s.vcf.gz", "s.vcf.gz.tbi"]
    for folder in results.values():
        assert sorted(path.name for path in folder.iterdir()) == names


def test_threads_do_not_change_the_answer(results: dict[int, Path]) -> None:
    one, three = results[1], results[3]
    assert bam_text(one / "s.bam") == bam_text(three / "s.bam")
    for name in ("s.vcf.gz", "s.g.vcf.gz"):
        assert vcf_text(one / name) == vcf_text(three / name)
    metrics = [json.loads((folder / "s.metrics.json").read_text()) for folder in (one, three)]
    for key in ("schema_version", "reads", "depth", "insert_size", "calls"):
        assert metrics[0][key] == metrics[1][key]


def test_the_bam_is_sorted_complete_and_indexed(sample: ToySample, results: dict[int, Path]) -> None:
    with pysam.AlignmentFile(str(results[1] / "s.bam")) as file:
        reads = list(file.fetch(until_eof=True))
        assert len(reads) == 2 * sample.n_pairs
        places = [(r.reference_id % 100, r.reference_start, r.is_reverse) for r in reads if r.reference_id >= 0]
        assert places == sorted(places)
        assert all(r.is_unmapped for r in reads[len(places) :])
        across = sum(r.reference_start < BIN_BASES < (r.reference_end or 0) for r in reads)
        found = [r for r in file.fetch("big", BIN_BASES, BIN_BASES + 1) if r.reference_start < BIN_BASES]
        assert len(found) == across > 5


def unclipped_end(read: Any) -> tuple[int, int, bool]:
    """Contig, 5' end before clipping, strand."""
    ends = read.cigartuples[-1 if read.is_reverse else 0]
    clipped = ends[1] if ends[0] == 4 else 0
    place = read.reference_end - 1 + clipped if read.is_reverse else read.reference_start - clipped
    return read.reference_id, place, read.is_reverse


def test_one_pair_of_each_molecule_is_not_marked(sample: ToySample, results: dict[int, Path]) -> None:
    templates: dict[str, list[Any]] = {}
    with pysam.AlignmentFile(str(results[1] / "s.bam")) as file:
        for read in file.fetch(until_eof=True):
            if not read.is_unmapped:
                templates.setdefault(read.query_name, []).append(read)
    molecules: dict[Any, list[Any]] = {}
    for reads in templates.values():
        molecules.setdefault(tuple(sorted(map(unclipped_end, reads))), []).append(reads)
    paired_ends = {end for ends in molecules if len(ends) == 2 for end in ends}
    for ends, copies in molecules.items():
        kept = [reads for reads in copies if not reads[0].is_duplicate]
        assert all(len({read.is_duplicate for read in reads}) == 1 for reads in copies)
        if len(ends) == 1 and ends[0] in paired_ends:
            assert kept == []
        else:
            scores = [sum(q for read in reads for q in read.query_qualities if q >= 15) for reads in copies]
            assert len(kept) == 1
            assert scores[copies.index(kept[0])] == max(scores)
    assert sum(len(copies) - 1 for copies in molecules.values()) >= N_COPIES * 0.8


def test_planted_snps_are_called(sample: ToySample, results: dict[int, Path]) -> None:
    found = {(r.contig, r.start): r for r in records(results[1] / "s.vcf.gz")}
    planted = [(contig, place, alt) for contig, places in sample.snps.items() for place, alt in places.items()]
    right = sum((c, p) in found and found[c, p].alts == (alt,) for c, p, alt in planted)
    assert right >= 0.97 * len(planted)
    assert len(found) <= 1.03 * len(planted)


def test_the_gvcf_covers_the_genome_without_gaps(results: dict[int, Path]) -> None:
    reached = dict.fromkeys(LENGTHS, 0)
    for record in records(results[1] / "s.g.vcf.gz"):
        assert record.start <= reached[record.contig]
        reached[record.contig] = max(reached[record.contig], record.stop)
    assert reached == LENGTHS


def test_metrics_describe_the_sample(sample: ToySample, results: dict[int, Path]) -> None:
    metrics = json.loads((results[1] / "s.metrics.json").read_text())
    assert metrics["reads"]["pairs"] == sample.n_pairs
    assert metrics["insert_size"]["mean"] == pytest.approx(400, abs=10)
    assert len(metrics["insert_size"]["learnt"]) == 2
    assert metrics["depth"]["over_bases"] == sum(LENGTHS.values())
    assert metrics["calls"]["snps"] > 70
    assert [stage["name"] for stage in metrics["stages"]][1:3] == ["align", "mark duplicates"]
    assert metrics["peak_rss_bytes"] > 50 << 20


def test_the_two_halves_give_the_same(sample: ToySample, results: dict[int, Path], tmp_path: Path) -> None:
    bam = tmp_path / "s.bam"
    run_align(**arguments(sample, output=bam))
    assert bam_text(bam) == bam_text(results[1] / "s.bam")
    common = {"reference": sample.reference, "threads": 2, "memory": MEMORY, "open_data": OPEN}
    run_call(bam=bam, output=tmp_path / "c.vcf.gz", gvcf=tmp_path / "c.g.vcf.gz", **common)
    assert vcf_text(tmp_path / "c.vcf.gz") == vcf_text(results[1] / "s.vcf.gz")
    assert vcf_text(tmp_path / "c.g.vcf.gz") == vcf_text(results[1] / "s.g.vcf.gz")
    run_call(bam=bam, output=tmp_path / "d.vcf.gz", **common)
    assert vcf_text(tmp_path / "d.vcf.gz") == vcf_text(results[1] / "s.vcf.gz")


def reads_of(path: Path) -> list[str]:
    """FASTQ records, each as one text."""
    with gzip.open(path, "rt") as file:
        lines = list(file)
    return ["".join(lines[i : i + 4]) for i in range(0, len(lines), 4)]


def in_turn(lane: FastqLane, path: Path) -> FastqLane:
    """The lane as one interleaved file."""
    assert lane.second is not None
    path.write_text("".join(a + b for a, b in zip(reads_of(lane.first), reads_of(lane.second))))
    return FastqLane(path, interleaved=True)


def test_mates_in_turn_give_the_same_records(sample: ToySample, results: dict[int, Path], tmp_path: Path) -> None:
    lanes = [sample.lanes[0], in_turn(sample.lanes[1], tmp_path / "i.fq")]
    run_align(**arguments(sample, output=tmp_path / "s.bam", reads=fastq(sample, lanes)))
    assert bam_text(tmp_path / "s.bam") == bam_text(results[1] / "s.bam")


def test_unpaired_reads(sample: ToySample, results: dict[int, Path], tmp_path: Path) -> None:
    """Places are those that the reads have as mates, but where the mate has helped; SNPs are found."""
    said: list[str] = []
    lanes = [FastqLane(path) for lane in sample.lanes for path in lane.files]
    groups = read_groups("s", [f"@RG\tID:lane{k}\tLB:lib" for k in range(4)], 4)
    given = arguments(sample, reads=fastq(sample, lanes, groups))
    summary = run_germline(**given, outdir=tmp_path / "2", say=said.append)
    assert "learnt" not in summary.metrics["insert_size"]
    assert any(f"{2 * sample.n_pairs:,} reads" in line for line in said)
    run_germline(**(given | {"threads": 1}), outdir=tmp_path / "1")
    assert bam_text(tmp_path / "1" / "s.bam") == bam_text(tmp_path / "2" / "s.bam")
    with pysam.AlignmentFile(str(results[1] / "s.bam")) as file:
        as_mates = {(r.query_name, r.is_read2): r for r in file if not r.is_supplementary}
    n_same = n_mapped = 0
    with pysam.AlignmentFile(str(tmp_path / "1" / "s.bam")) as file:
        for read in file:
            assert read.flag & ~(0x4 | 0x10 | 0x400 | 0x800) == 0
            assert (read.next_reference_id, read.template_length, read.has_tag("MC")) == (-1, 0, False)
            mate = as_mates[read.query_name, read.get_tag("RG") in ("lane1", "lane3")]
            n_mapped += not read.is_unmapped
            n_same += (read.reference_id, read.reference_start) == (mate.reference_id, mate.reference_start)
    assert n_mapped > 0.98 * 2 * sample.n_pairs
    assert n_same > 0.99 * n_mapped
    found = {(r.contig, r.start, r.alts[0]) for r in records(tmp_path / "1" / "s.vcf.gz")}
    planted = {(contig, place, alt) for contig, snps in sample.snps.items() for place, alt in snps.items()}
    assert len(planted & found) > 0.9 * len(planted)


def test_lanes_of_all_kinds_together(sample: ToySample, tmp_path: Path) -> None:
    """Each read group is treated in its own way; nothing depends on the number of threads."""
    first, second = sample.lanes
    assert first.second is not None
    lanes = [FastqLane(first.second), in_turn(second, tmp_path / "i.fq"), FastqLane(first.first)]
    groups = read_groups("s", [f"@RG\tID:{k}\tLB:lib{k}" for k in "abc"], 3)
    said: list[str] = []
    for threads in (1, 3):
        given = arguments(sample, reads=fastq(sample, lanes, groups), threads=threads)
        summary = run_align(**given, output=tmp_path / f"{threads}.bam", say=said.append)
        assert len(summary.metrics["insert_size"]["learnt"]) == 1
    assert bam_text(tmp_path / "1.bam") == bam_text(tmp_path / "3.bam")
    with pysam.AlignmentFile(str(tmp_path / "1.bam")) as file:
        found = [(read.get_tag("RG"), read.is_paired) for read in file if not read.is_supplementary]
    n_first = len(reads_of(first.first))
    n_second = sample.n_pairs - n_first
    assert {kind: found.count(kind) for kind in set(found)} == {
        ("a", False): n_first,
        ("b", True): 2 * n_second,
        ("c", False): n_first,
    }
    assert any(f"{2 * n_first + n_second:,} pairs and unpaired reads" in line for line in said)


@pytest.mark.parametrize("umi", ["name", "comment"])
def test_umis_become_tags(sample: ToySample, tmp_path: Path, umi: str) -> None:
    lane = sample.lanes[1]
    expected, paths = {}, []
    for mate, path in enumerate(lane.files, 1):
        text = ""
        for k, read in enumerate(reads_of(path)):
            name, rest = read[1:].split(f"/{mate}\n", 1)
            value = "ACGTN"[: 1 + k % 5] + ("+", "-", "_")[k % 3] + "GGT"
            header = f"{name}:{value}/{mate}" if umi == "name" else f"{name}/{mate}\tRX:Z:{value}"
            expected[header.split(f"/{mate}")[0]] = value.replace("+", "-").replace("_", "-")
            text += f"@{header}\n{rest}"
        paths.append(tmp_path / f"{mate}.fq")
        paths[-1].write_text(text)
    reads = fastq(sample, [FastqLane(*paths)], read_groups("s", [], 1), umi)
    run_align(**arguments(sample, reads=reads), output=tmp_path / "s.bam")
    with pysam.AlignmentFile(str(tmp_path / "s.bam")) as file:
        found = [(read.query_name, read.get_tag("RX")) for read in file if not read.is_supplementary]
    assert sorted(found) == sorted([*expected.items()] * 2)


ADAPTERS = "AGATCGGAAGAGCACACGTCTGAACTCCAGTCACATCACGATCTCGTATGCC", "AGATCGGAAGAGCGTCGTGTAGGGAAAGAGTGTAGATCTCGGTGGTCGCCG"


@pytest.mark.parametrize("adapters", ["clip", "trim", "off"])
def test_adapters(sample: ToySample, tmp_path: Path, adapters: str) -> None:
    """Fragments of 100 bases, read through: the options of the job reach the aligner and the records."""
    rng = np.random.default_rng(12)
    lines = sample.reference.read_text().split("\n")
    genome = lines[lines.index(">small") + 1]
    texts, expected = ["", ""], {}
    for k in range(300):
        start = int(rng.integers(0, len(genome) - 100))
        fragment = genome[start : start + 100]
        backwards = fragment[::-1].translate(str.maketrans("ACGT", "TGCA"))
        for mate, (bases, adapter) in enumerate(zip((fragment, backwards), ADAPTERS)):
            texts[mate] += f"@f{k}/{mate + 1}\n{bases}{adapter[:50]}\n+\n{'I' * 150}\n"
        expected[f"f{k}"] = start
    paths = [tmp_path / f"{mate}.fq" for mate in (1, 2)]
    for path, text in zip(paths, texts):
        path.write_text(text)
    options = AlignOptions(adapters=adapters)  # type: ignore[arg-type]
    given = arguments(sample, reads=fastq(sample, [FastqLane(*paths)], read_groups("s", [], 1)))
    run_align(**given, align_options=options, output=tmp_path / "s.bam")
    found = []
    with pysam.AlignmentFile(str(tmp_path / "s.bam")) as file:
        for read in file:
            shift = read.reference_start - expected[read.query_name]
            assert abs(shift) <= 5 * (adapters == "off")  # a base of an adapter may fit by chance
            found.append((read.query_length, read.cigarstring, read.template_length))
    assert len(found) == 600
    if adapters == "trim":
        assert {length for length, *_ in found} == {100}
        assert {cigar for _, cigar, _ in found} == {"100M"}
    else:
        assert {length for length, *_ in found} == {150}
    if adapters == "clip":
        assert {cigar for _, cigar, _ in found} == {"100M50S", "50S100M"}
    if adapters == "off":
        assert len({cigar for _, cigar, _ in found}) > 2


def test_cram_in_the_middle_gives_the_same_calls(sample: ToySample, results: dict[int, Path], tmp_path: Path) -> None:
    cram = tmp_path / "s.cram"
    run_align(**arguments(sample, output=cram))
    common = {"reference": sample.reference, "threads": 2, "memory": MEMORY, "open_data": OPEN}
    run_call(bam=cram, output=tmp_path / "c.vcf.gz", **common)
    assert vcf_text(tmp_path / "c.vcf.gz") == vcf_text(results[1] / "s.vcf.gz")


def test_targets_choose_calls_and_depth(sample: ToySample, results: dict[int, Path], tmp_path: Path) -> None:
    bed = tmp_path / "t.bed"
    bed.write_text(f"big\t{BIN_BASES - 3000}\t{BIN_BASES + 3000}\nsmall\t5000\t9000\n")
    summary = run_germline(**arguments(sample, outdir=tmp_path / "out", targets=bed, bam=False))
    inside = [
        (r.contig, r.start, r.ref, r.alts)
        for r in records(results[1] / "s.vcf.gz")
        if (r.contig == "big" and abs(r.start - BIN_BASES) < 3000) or (r.contig == "small" and 5000 <= r.start < 9000)
    ]
    found = [(r.contig, r.start, r.ref, r.alts) for r in records(tmp_path / "out" / "s.vcf.gz")]
    assert found == inside != []
    assert summary.metrics["depth"]["over_bases"] == 10_000
    assert summary.metrics["depth"]["mean"] == pytest.approx(20, abs=3)
    names = ["metrics", "s.metrics.json", "s.vcf.gz", "s.vcf.gz.tbi"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


class Failing(PairAligner):
    """Raises in the third batch."""

    def __init__(self, sample: ToySample, error: BaseException) -> None:
        super().__init__(open_index(sample.reference))
        self._error = error

    def align(self, batch: Any, insert_size: Any) -> Any:
        if batch.first_pair >= 2 * read_input.PAIRS_PER_BATCH:
            raise self._error
        return super().align(batch, insert_size)


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith(("megabolt", "fastq", "write"))]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left)


@pytest.mark.parametrize("error", [RuntimeError("third batch"), MemoryError(), KeyboardInterrupt()], ids=repr)
def test_an_error_in_a_worker_ends_the_job(
    sample: ToySample, tmp_path: Path, no_thread_left: None, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_input, "PAIRS_PER_BATCH", 500)
    with pytest.raises(type(error)):
        run_germline(**arguments(sample, outdir=tmp_path, aligner=Failing(sample, error)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["align", "mark duplicates", "sort, write and call", "finish the files"])
def test_an_interrupt_leaves_nothing(sample: ToySample, tmp_path: Path, no_thread_left: None, moment: str) -> None:
    def say(text: str) -> None:
        if text == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_germline(**arguments(sample, outdir=tmp_path, say=say))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_fastq_leaves_nothing(sample: ToySample, tmp_path: Path, no_thread_left: None) -> None:
    broken = tmp_path / "broken.fastq.gz"
    first, second = sample.lanes
    assert second.second is not None
    broken.write_bytes(second.second.read_bytes()[:-100])
    changed = arguments(sample, outdir=tmp_path / "out", reads=fastq(sample, [first, FastqLane(second.first, broken)]))
    with pytest.raises(InputFormatError, match=r"broken\.fastq\.gz"):
        run_germline(**changed)
    assert list((tmp_path / "out").iterdir()) == []


def test_too_little_memory_is_said_at_once(sample: ToySample, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="--memory"):
        run_germline(**arguments(sample, outdir=tmp_path, memory=128 << 20))
    assert list(tmp_path.iterdir()) == []


def test_no_consent_no_opening(sample: ToySample, tmp_path: Path) -> None:
    with pytest.raises(ConsentRefused):
        run_germline(**arguments(sample, outdir=tmp_path / "out", open_data=None))
    assert not (tmp_path / "out").exists()


def test_files_and_read_groups_must_agree_in_number(sample: ToySample) -> None:
    with pytest.raises(UsageError, match="read groups"):
        fastq(sample, groups=read_groups("s", [], 1))


def test_a_bam_of_another_reference_is_refused(sample: ToySample, results: dict[int, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.fa"
    other.write_text(">big\n" + "ACGT" * 9000 + "\n")
    build_index(other)
    with pytest.raises(InputFormatError, match="header"):
        run_call(
            reference=other,
            bam=results[1] / "s.bam",
            output=tmp_path / "c.vcf.gz",
            threads=1,
            memory=MEMORY,
            open_data=OPEN,
        )
    assert not (tmp_path / "c.vcf.gz").exists()


def test_the_declaration_is_not_in_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/usr/bin/megabolt", "germline", "--open-data", "J. Smith: mine", "--sample", "a b", "--open-data=K: x"]
    monkeypatch.setattr("sys.argv", words)
    assert command_line() == "megabolt germline --sample 'a b'"
