# SPDX-License-Identifier: Apache-2.0
"""The mapping benchmark counts what it says it counts: records made by hand, and a simulation judged whole."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pysam
import pytest
from numpy.typing import NDArray

from megabolt.cli import main as cli
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.privacy.consent import authorize

OPEN = "simulated for a test"


@pytest.fixture(scope="module")
def bench(checkout: Path) -> Any:
    """The benchmark's modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks" / "mapping"))
        import bench_mapping
        import mapping_judge
        import mapping_reads
        import mapping_report

        yield SimpleNamespace(script=bench_mapping, judge=mapping_judge, reads=mapping_reads, report=mapping_report)


class Hand:
    """Two contigs, the second with a copy of a[1000:1600] at 500 and a reversed one at 1500; reads by hand."""

    def __init__(self, bench: Any, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        rng = np.random.default_rng(4)
        a, b = (rng.integers(0, 4, n).astype(np.uint8) for n in (6000, 3000))
        b[500:1100] = a[1000:1600]
        b[1500:2100] = reverse_complement(a[1000:1600])
        self.sequence = {"a": a, "b": b}
        text = "".join(f">{name}\n{decode(codes)}\n" for name, codes in self.sequence.items())
        (folder / "ref.fa").write_text(text)
        self.genome = bench.reads.read_genome(folder / "ref.fa")
        self.permit = authorize("test", "benchmark", open_data=OPEN)

    def simulate(self, places: list[tuple[str, int, str, int, str]], length: int = 100) -> Any:
        """Pairs (contig, position, strand, position, strand), without errors; single-end if position 2 is -1."""
        texts = ["", ""]
        for i, (contig, first, sign, second, other) in enumerate(places):
            name = f"sim{i}_1_{first + 1}{sign}_{max(second, 0) + 1}{other}_F_{contig}"
            for mate, (start, strand) in enumerate(((first, sign), (second, other))):
                if start >= 0:
                    codes = self.sequence[contig][start : start + length]
                    bases = decode(reverse_complement(codes) if strand == "-" else codes)
                    texts[mate] += f"@{name}\n{bases}\n+\n{'F' * length}\n"
        paths = []
        for mate, text in enumerate(texts):
            if text:
                paths.append(self.folder / f"R{mate + 1}.fastq")
                paths[-1].write_text(text)
        return self.bench.reads.read_reads(paths, self.genome, self.permit)

    def place(self, records: list[str], n_rows: int, name: str = "hand.sam") -> Any:
        """SAM records, as name flag contig position mapq cigar."""
        lines = ["@HD\tVN:1.6"] + [f"@SQ\tSN:{n}\tLN:{len(c)}" for n, c in self.sequence.items()]
        for record in records:
            query, flag, contig, position, mapq, cigar = record.split()
            fields = [query, flag, contig, position, mapq, cigar, "*", "0", "0", "*", "*"]
            lines.append("\t".join(fields))
        (self.folder / name).write_text("\n".join(lines) + "\n")
        return self.bench.reads.read_placed(self.folder / name, n_rows, self.genome, self.permit)


@pytest.fixture
def hand(bench: Any, tmp_path: Path) -> Hand:
    return Hand(bench, tmp_path)


def test_right_and_wrong_by_place(bench: Any, hand: Hand) -> None:
    reads = hand.simulate([("a", 3000, "+", 3300, "-")] * 6)
    placed = hand.place(
        [
            "sim0_1_x 99 a 3001 60 100M",  # exactly there
            "sim0_1_x 147 a 3341 60 40S60M",  # the clipped bases lead back to the true start
            "sim1_1_x 99 a 3031 60 100M",  # 30 bases off: still there
            "sim1_1_x 147 a 3332 60 100M",  # 31 bases off
            "sim2_1_x 83 a 3001 60 100M",  # wrong strand
            "sim2_1_x 147 b 2301 60 100M",  # wrong contig
            "sim3_1_x 99 a 3101 7 60D100M",  # the end is 160 bases off, the start too
            "sim3_1_x 147 a 3241 7 30M60D70M",  # the end is right
            "sim4_1_x 69 a 3301 0 *",  # unmapped, placed with its mate
            "sim4_1_x 153 a 3301 60 100M",
            "sim5_1_x 99 a 5001 60 30H70M",  # wrong, and what is not primary says nothing
            "sim5_1_x 2147 a 3001 60 100M",
            "sim5_1_x 403 a 3301 60 100M",
        ],
        12,
    )
    right = bench.judge.right_by_place(placed, reads)
    assert right.tolist() == [True, True, True, False, False, False, False, True, False, True, False, False]
    assert placed.mapped.tolist() == [True] * 8 + [False, True, True, False]
    assert placed.mapq.tolist() == [60, 60, 60, 60, 60, 60, 7, 7, 0, 60, 60, -1]
    group = bench.report._group(placed, right, None, reads.length > 0)
    assert group["n"] == 12
    assert group["right"] == pytest.approx(5 / 12)
    assert (group["wrong20"], group["wrong1"], group["wrong"], group["unmapped"]) == (4, 5, 5, 2)
    assert group["at20"] == pytest.approx(8 / 12)


def test_single_end_reads_have_no_mates(bench: Any, hand: Hand) -> None:
    reads = hand.simulate([("a", 3000, "-", -1, "+"), ("b", 100, "+", -1, "-"), ("a", 1200, "+", -1, "-")])
    assert (reads.length > 0).tolist() == [True, False] * 3
    placed = hand.place(
        ["sim0_1_x 16 a 3001 60 100M", "sim1_1_x 0 b 201 60 100M", "sim2_1_x 0 b 701 0 100M"], len(reads.length)
    )
    assert bench.judge.right_by_place(placed, reads)[0::2].tolist() == [True, False, False]
    state = bench.judge.rivals(reads, hand.genome, [placed])
    assert state.tolist() == [0, 0, 0, 0, bench.judge.TIED, 0]


def test_reads_that_no_aligner_can_place_are_set_apart(bench: Any, hand: Hand) -> None:
    reads = hand.simulate(
        [
            ("a", 1050, "+", 1350, "-"),  # both mates in the copied block
            ("a", 800, "+", 1100, "-"),  # mate 1 outside: mate 2 belongs to it
            ("a", 1050, "+", 1350, "-"),
            ("a", 1050, "+", 1350, "-"),
            ("a", 4000, "+", 4300, "-"),
        ]
    )
    one = hand.place(
        [
            "sim0_1_x 99 b 551 0 100M",
            "sim0_1_x 147 b 851 0 100M",
            "sim1_1_x 73 a 801 60 100M",
            "sim1_1_x 145 b 601 0 100M",
            "sim2_1_x 83 b 1951 0 100M",  # the reversed copy
            "sim2_1_x 163 b 1651 0 100M",
            "sim3_1_x 99 a 1051 0 100M",
            "sim3_1_x 147 a 1351 0 100M",
            "sim4_1_x 99 b 51 60 100M",
            "sim4_1_x 147 a 4301 60 100M",
        ],
        10,
    )
    other = hand.place(
        ["sim3_1_x 99 b 551 0 100M", "sim3_1_x 147 b 851 0 100M", "sim4_1_x 99 a 4001 60 100M"], 10, "other.sam"
    )
    tied = bench.judge.TIED
    alone = bench.judge.rivals(reads, hand.genome, [one])
    assert alone.tolist() == [tied, tied, 0, 0, tied, tied, 0, 0, 0, 0]
    together = bench.judge.rivals(reads, hand.genome, [one, other])
    assert together.tolist() == [tied, tied, 0, 0, tied, tied, tied, tied, 0, 0]
    # Without its mate's place, the read of pair 1 would be a tie as well.
    single = hand.simulate([("a", 1100, "-", -1, "+")])
    placed = hand.place(["sim0_1_x 16 b 601 0 100M"], len(single.length))
    assert bench.judge.rivals(single, hand.genome, [placed])[0] == tied


def test_a_variant_that_makes_another_place_better(bench: Any, hand: Hand) -> None:
    hand.sequence["a"][1230] = (hand.sequence["a"][1230] + 1) % 4  # in the reads only
    reads = hand.simulate([("a", 1200, "+", -1, "-")])
    placed = hand.place(["sim0_1_x 0 b 701 40 100M"], len(reads.length))
    assert bench.judge.rivals(reads, hand.genome, [placed])[0] == bench.judge.TIED
    codes = hand.genome.codes.copy()
    codes[6000 + 730] = hand.sequence["a"][1230]
    genome = bench.reads.Genome(hand.genome.names, hand.genome.offset, codes)
    assert bench.judge.rivals(reads, genome, [placed])[0] == bench.judge.BEATEN


def test_bases_are_judged_by_the_true_alignment(bench: Any, hand: Hand) -> None:
    reads = hand.simulate([("a", 3000, "+", 3300, "-")] * 4)
    truth = hand.place(
        [f"sim{i}_1_x 99 a 3001 60 50M10D50M" for i in range(4)]
        + [f"sim{i}_1_x 147 a 3301 60 10S90M" for i in range(4)],
        8,
        "truth.sam",
    )
    reads = bench.reads.Reads(reads.codes, reads.length, truth)
    placed = hand.place(
        [
            "sim0_1_x 99 a 3001 60 50M10D50M",  # all
            "sim0_1_x 147 a 3301 60 10S90M",
            "sim1_1_x 99 a 3001 60 48M10D52M",  # two bases on the wrong side of the gap
            "sim1_1_x 147 a 3291 60 100M",  # the clipped bases do not count
            "sim2_1_x 99 a 3001 60 50M50S",  # half
            "sim2_1_x 147 a 3301 60 90M",  # ten bases trimmed at the read's 3' end, which lies left
            "sim3_1_x 99 b 2001 60 50M10D50M",
            "sim3_1_x 147 a 3302 60 10S90M",  # one base off: none
        ],
        8,
    )
    same, total = bench.judge.right_bases(placed, reads)
    assert total.tolist() == [100, 90] * 4
    assert same.tolist() == [100, 90, 98, 90, 50, 90, 0, 0]
    assert bench.judge.right_bases(placed, hand.simulate([("a", 0, "+", 300, "-")] * 4)) is None


def plain_score(read: NDArray[np.uint8], reference: NDArray[np.uint8]) -> int:
    """Affine score of a whole read anywhere in a short reference, by the book."""
    n, m = len(read), len(reference)
    none = -(10**6)
    h = np.full((n + 1, m + 1), none)
    deletion, insertion = h.copy(), h.copy()
    best = none
    for i in range(1, n + 1):
        for j in range(m + 1):
            fresh = 0 if i == 1 else -5
            insertion[i, j] = max(h[i - 1, j] - 7, insertion[i - 1, j] - 1)
            if j > 0:
                deletion[i, j] = max(h[i, j - 1] - 7, deletion[i, j - 1] - 1)
                match = -1 if max(read[i - 1], reference[j - 1]) > 3 else (1 if read[i - 1] == reference[j - 1] else -4)
                h[i, j] = max(h[i - 1, j - 1], fresh) + match
            h[i, j] = max(h[i, j], insertion[i, j], deletion[i, j])
            best = max(best, h[i, j] - (0 if i == n else 5))
    return int(best)


def test_score_is_that_of_the_textbook(bench: Any) -> None:
    rng = np.random.default_rng(11)
    work = np.empty((5, 1400), np.int64)
    for case in range(60):
        reference = rng.integers(0, 4, 110).astype(np.uint8)
        if case % 5 == 0:
            reference[int(rng.integers(110))] = 4
        read = reference[30:80].copy()
        hits = rng.random(len(read)) < 0.06 * (case % 3)
        read[hits] = (read[hits] + 1) % 4
        at = int(rng.integers(5, 45))
        if case % 4 == 1:
            read = np.delete(read, slice(at, at + 1 + case % 7))
        elif case % 4 == 2:
            read = np.insert(read, at, rng.integers(0, 4, 1 + case % 7).astype(np.uint8))
        elif case % 4 == 3:
            read[:at] = rng.integers(0, 4, at)
        score = bench.judge.affine_score(read, len(read), reference, 0, len(reference), 30, 80 - len(read), 64, work)
        assert score == plain_score(read, reference), case


def test_score_stays_inside_the_contig(bench: Any) -> None:
    rng = np.random.default_rng(12)
    reference = rng.integers(0, 4, 300).astype(np.uint8)
    work = np.empty((5, 1400), np.int64)
    read = reference[80:130].copy()
    assert bench.judge.affine_score(read, 50, reference, 0, 300, 80, 80, 20, work) == 50
    assert bench.judge.affine_score(read, 50, reference, 100, 300, 80, 80, 0, work) == 30 - 5
    assert bench.judge.affine_score(read, 50, reference, 0, 120, 80, 80, 0, work) == 40 - 5


def test_classes_of_a_bed(bench: Any, hand: Hand) -> None:
    bed = hand.folder / "classes.bed"
    bed.write_text("b\t0\t1000\tsegdup\na\t0\t3000\tunique\na\t3000\t6000\tsegdup\n")
    reads = hand.simulate([("a", 2960, "+", 2940, "-"), ("b", 949, "+", 951, "-")])
    classes = bench.judge.bed_classes(bed, hand.genome, reads)
    assert classes.names == ("segdup", "unique", "elsewhere")
    assert classes.of_row.tolist() == [0, 1, 0, 2]


def test_classes_by_multiplicity(bench: Any, hand: Hand) -> None:
    reads = hand.simulate([("a", 1200, "+", 4000, "-"), ("b", 700, "+", 1930, "-"), ("a", 980, "+", 900, "-")])
    classes = bench.judge.multiplicity_classes(hand.genome, reads)
    assert [classes.names[k] for k in classes.of_row] == [
        "2-10 copies",
        "unique",
        "2-10 copies",
        "2-10 copies",
        "2-10 copies",
        "unique",
    ]


def test_copies_are_counted_on_both_strands(bench: Any) -> None:
    rng = np.random.default_rng(3)
    unit = rng.integers(0, 4, 60).astype(np.uint8)
    pieces = []
    for k in range(14):
        pieces += [rng.integers(0, 4, 50).astype(np.uint8), unit if k % 2 else reverse_complement(unit)]
    codes = np.concatenate([*pieces, np.full(40, 4, np.uint8), unit[:30], np.full(30, 4, np.uint8)])
    found = bench.judge.copy_classes(codes, np.array([0, 500, len(codes)], np.int64))
    texts = [decode(codes[i : i + 24]) for i in range(len(codes) - 23)]
    canonical = [min(text, decode(reverse_complement(encode(text)))) for text in texts]
    counts = dict.fromkeys(canonical, 0)
    crossing = set(range(477, 500))
    for i, text in enumerate(canonical):
        if i not in crossing and "N" not in text:
            counts[text] += 1
    for i, text in enumerate(canonical):
        if i not in crossing and "N" not in text:
            assert found[i] == (0 if counts[text] == 1 else (1 if counts[text] <= 10 else 2))


def test_intervals(bench: Any) -> None:
    low, high = bench.judge.wilson(5, 100)
    assert (low, high) == (pytest.approx(0.02154, abs=1e-5), pytest.approx(0.11175, abs=1e-5))
    assert bench.judge.wilson(0, 1000) == (pytest.approx(0.0), pytest.approx(0.003827, abs=1e-6))
    mine, theirs = np.zeros(1000, np.bool_), np.zeros(1000, np.bool_)
    mine[:30] = theirs[10:80] = True  # 10 of ours only, 50 of theirs only
    difference, low, high = bench.judge.paired_difference(mine, theirs)
    assert difference == pytest.approx(-0.04)
    half = 1.959964 * math.sqrt((11 + 51 - 40 * 40 / 1002) / 1002 / 1002)
    assert (low, high) == (pytest.approx(-40 / 1002 - half), pytest.approx(-40 / 1002 + half))


def test_calibration_marks_broken_promises(bench: Any) -> None:
    mapq = np.array([0] * 3000 + [10] * 3000 + [20] * 3000 + [30] * 1000, np.int16)
    right = np.ones(10_000, np.bool_)
    right[:1500] = False  # MAPQ 0: half of them, and promised is nothing
    right[3000:3500] = False  # MAPQ 10: 0.167, promised 0.1
    right[6000:6072] = False  # MAPQ 20: 10 beaten, and 0.0207 of the others, promised 0.01
    right[9000:9500] = False  # MAPQ 30: half, but of 1000 only
    beaten = np.zeros(10_000, np.bool_)
    beaten[6000:6010] = True
    table = {row["low"]: row for row in bench.judge.calibration(mapq, right, beaten)}
    assert sorted(table) == [0, 10, 20, 30]
    assert [table[q]["over"] for q in (0, 10, 20, 30)] == [False, False, True, False]
    assert not table[20]["sure"]  # 62 of 2990 may be 48
    assert (table[20]["n"], table[20]["wrong"], table[20]["beaten"], table[20]["wrong_beaten"]) == (2990, 62, 10, 10)
    assert table[20]["observed_all"] == pytest.approx(72 / 3000)
    assert table[10]["promised"] == pytest.approx(0.1)
    right[6000:6100] = False
    assert next(row for row in bench.judge.calibration(mapq, right, beaten) if row["low"] == 20)["sure"]


def test_roc_and_who_lies_above(bench: Any) -> None:
    mapq = np.array([60, 60, 60, 10, 10, 0], np.int16)
    right = np.array([True, True, True, True, False, False])
    points = bench.judge.roc(mapq, right, 10)
    assert [(p["mapq"], p["right"], p["n_wrong"]) for p in points] == [(60, 0.3, 0), (10, 0.4, 1), (0, 0.4, 2)]
    better = bench.judge.roc(mapq, np.array([True, True, True, True, True, False]), 10)
    told = bench.judge.roc_versus(points, better)  # to place 0.5 right is out of reach, 0.3 is not
    assert (told["points"], told["below"], told["certain"]) == (2, 1, 1)
    assert told["worst"] == {"mapq": 10, "right": 0.5, "theirs": 0, "needed": None}
    assert bench.judge.roc_versus(better, points) == {"points": 2, "below": 0, "certain": 0, "worst": None}
    assert bench.judge.roc_versus(points, points)["below"] == 0


def test_few_wrong_reads_more_may_be_chance(bench: Any) -> None:
    def curve(wrong: int) -> list[dict[str, float]]:
        return [
            {"mapq": 60, "right": 0.8, "n_wrong": 0, "wrong": 0.0},
            {"mapq": 0, "right": 0.9, "n_wrong": wrong, "wrong": wrong / 1000},
        ]

    theirs = [{"mapq": 10, "right": 0.85, "n_wrong": 1, "wrong": 0.001}]
    for wrong, below, certain in ((2, 0, 0), (4, 1, 0), (10, 1, 0), (18, 1, 1), (4000, 1, 1)):
        told = bench.judge.roc_versus(curve(wrong), theirs)
        assert (told["below"], told["certain"]) == (below, certain), wrong


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hard genome, its truth as one aligner's BAM, and the same spoilt as another's."""
    folder = tmp_path_factory.mktemp("simulated")
    arguments = ["simulate", "--hard", "--genome-size", "300000", "--pairs", "3000", "--truth-bam"]
    assert cli.main([*arguments, "--outdir", str(folder)]) == 0
    spoilt_name = folder / "spoilt.bam"
    with (
        pysam.AlignmentFile(str(folder / "truth.bam")) as source,
        pysam.AlignmentFile(str(spoilt_name), "wb", template=source) as out,
    ):
        for i, record in enumerate(source.fetch(until_eof=True)):
            if i % 100 == 7:  # 60 reads to some other place
                record.reference_start = (record.reference_start + 40_000) % 70_000
            out.write(record)
    entry = {
        "name": "toy/hard",
        "reference": "ref.fa",
        "reads": ["R1.fastq.gz", "R2.fastq.gz"],
        "truth": "truth.bam",
        "classes": "classes.bed",
        "bams": {"perfect": "truth.bam", "spoilt": "spoilt.bam"},
    }
    (folder / "sets.json").write_text(json.dumps([entry]))
    return folder


def test_whole_run(bench: Any, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(simulated / "sets.json"), "--base", "perfect", "--out", str(tmp_path)]
    arguments += ["--cache", str(tmp_path / "cache")]
    run: Callable[[list[str]], int] = bench.script.main
    assert run([*arguments, "--check", "spoilt"]) == 1
    printed = capsys.readouterr().out
    assert "FAILS toy/hard, all classes" in printed
    result = json.loads((tmp_path / "mapping.json").read_text())[0]
    assert result["reads"] == 6000
    assert result["not_only_best"] <= 3  # a spoilt place is a rival only by accident
    perfect, spoilt = (result["tools"][tool]["groups"]["all classes"] for tool in ("perfect", "spoilt"))
    assert perfect["right"] == perfect["right_bases"] == 1.0
    assert 57 <= spoilt["wrong20"] <= 60
    assert spoilt["versus"]["right"][2] < 0
    labels = set(result["tools"]["perfect"]["groups"])
    assert {"unique", "interspersed", "segdup"} <= labels
    assert "| toy" not in (tmp_path / "mapping.md").read_text().splitlines()[0]
    root = ElementTree.parse(tmp_path / "roc-toy-hard.svg").getroot()
    assert sum(node.tag.endswith("polyline") for node in root.iter()) == 2
    dots = [node for node in root.iter() if node.tag.endswith("circle")]
    assert dots
    assert all(80 <= float(dot.get("cx", 0)) <= 570 and 39 <= float(dot.get("cy", 0)) <= 424 for dot in dots)
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2
    again = tmp_path / "again"
    assert run([*arguments[:-4], "--out", str(again), "--cache", str(tmp_path / "cache")]) == 0
    assert json.loads((again / "mapping.json").read_text())[0]["reads"] == 6000


def test_one_more_bam_and_only_some_tools(bench: Any, simulated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(simulated / "sets.json"), "--base", "perfect", "--set", "toy/hard"]
    arguments += ["--bam", f"third={simulated / 'spoilt.bam'}", "--tools", "perfect,third"]
    assert bench.script.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "third" in printed
    assert "spoilt" not in printed


def test_names_of_other_reads_are_refused(hand: Hand) -> None:
    (hand.folder / "R1.fastq").write_text("@read1\nACGT\n+\nFFFF\n")
    with pytest.raises(ValueError, match="no name of megabolt simulate"):
        hand.bench.reads.read_reads([hand.folder / "R1.fastq"], hand.genome, hand.permit)
    with pytest.raises(ValueError, match="name is not one of megabolt simulate"):
        hand.place(["read1 0 a 1 60 100M"], 2)
