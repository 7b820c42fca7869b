# SPDX-License-Identifier: Apache-2.0
"""Flags, optical duplicates and metrics are Picard MarkDuplicates' own, with and without UMIs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.privacy.consent import authorize
from megabolt.reads.duplicates.finder import DuplicateFinder, DuplicateOptions
from megabolt.reads.duplicates.metrics import write_duplication_metrics
from megabolt.reads.existing import ExistingReads

LENGTHS = {"one": 40_000, "two": 20_000}
GROUPS = [("a", "L1"), ("b", "L2"), ("c", "L1"), ("d", "L3")]
CIGARS = ["50M", "4S46M", "45M5S", "20M2D30M", "3H50M", "20M4I26M", "2S46M2S"]
PICARD = "PicardCommandLine"


class Writer:
    """SAM lines of templates on few places; paired: without single reads."""

    def __init__(self, seed: int, paired: bool) -> None:
        self.paired = paired
        self.rng = np.random.default_rng(seed)
        self.lines = ["@HD\tVN:1.6\tSO:unsorted\tGO:query"]
        self.lines += [f"@SQ\tSN:{name}\tLN:{length}" for name, length in LENGTHS.items()]
        self.lines += [f"@RG\tID:{group}\tLB:{library}\tSM:S" for group, library in GROUPS]

    def end(self) -> tuple[str, int, bool, str]:
        """Contig, start, strand, CIGAR of one of a few 5' ends."""
        reverse = bool(self.rng.integers(2))
        cigar = str(self.rng.choice(CIGARS))
        contig = str(self.rng.choice(list(LENGTHS), p=[0.9, 0.1]))
        place = 1000 + 7 * int(self.rng.integers(4))
        parts = pysam.AlignedSegment.from_dict(
            {"name": "x", "flag": "0", "ref_name": "*", "ref_pos": "1", "map_quality": "0", "cigar": cigar}
            | {"next_ref_name": "*", "next_ref_pos": "0", "length": "0", "seq": "*", "qual": "*", "tags": []},
            pysam.AlignmentHeader.from_references(["one"], [100]),
        ).cigartuples
        assert parts is not None
        clips = [0, 0]
        for side, ordered in enumerate((parts, parts[::-1])):
            for kind, length in ordered:
                if kind not in (4, 5):
                    break
                clips[side] += length
        span = sum(length for kind, length in parts if kind in (0, 2))
        return contig, place + clips[0] if not reverse else place + 500 - span - clips[1], reverse, cigar

    def add(self, number: int) -> None:
        """A pair, a pair with one mate unmapped, a single read or an unmapped pair."""
        rng = self.rng
        tile, x, y = 1101 + int(rng.integers(2)), int(rng.integers(900)), int(rng.integers(900))
        name = f"M:{number}:F:1:{tile}:{x}:{y}" if number % 9 else f"q{number}"
        one, two = self.end(), self.end()
        kind = rng.choice(["pair", "half", "single", "none"], p=[0.8, 0.1, 0.06, 0.04])
        kind = "pair" if kind == "single" and self.paired else kind
        umi = f"RX:Z:{rng.choice(['AA', 'AC'])}-{rng.choice(['AA', 'AC', 'GN'])}"
        tags = f"RG:Z:{GROUPS[int(rng.integers(4))][0]}\t{umi}"
        if kind == "pair":
            flags = [1 | 16 * one[2] | 32 * two[2] | 64, 1 | 16 * two[2] | 32 * one[2] | 128]
            self.line(name, flags[0], one, two, tags)
            if rng.random() < 0.1:
                self.line(name, flags[0] | 2048, ("one", 3000, bool(one[2]), "30M20S"), two, tags)
            self.line(name, flags[1], two, one, tags)
        elif kind == "half":
            self.line(name, 1 | 8 | 16 * one[2] | 64, one, (*one[:3], ""), tags)
            self.line(name, 1 | 4 | 32 * one[2] | 128, (*one[:3], "*"), one, tags)
        elif kind == "single":
            self.line(name, 16 * one[2], one, None, tags)
        else:
            for flag in (77, 141):
                self.line(name, flag, ("*", -1, False, "*"), None, tags)

    def line(
        self,
        name: str,
        flag: int,
        own: tuple[str, int, bool, str],
        mate: tuple[str, int, bool, str] | None,
        tags: str,
    ) -> None:
        length = sum(n for kind, n in _parts(own[3]) if kind in "MSI") or 50
        quality = "".join(self.rng.choice(list("#/0?I"), length))
        flag |= 0x200 * bool(self.rng.random() < 0.02)
        place = f"{mate[0]}\t{mate[1] + 1}" if mate is not None else "*\t0"
        cigar_of_mate = f"\tMC:Z:{mate[3]}" if mate is not None and mate[3] not in ("", "*") else ""
        mapq = 60 if own[3] != "*" else 0
        text = f"{name}\t{flag}\t{own[0]}\t{own[1] + 1}\t{mapq}\t{own[3]}\t{place}\t0\t{'A' * length}\t{quality}"
        self.lines.append(f"{text}\t{tags}{cigar_of_mate}")


def _parts(cigar: str) -> list[tuple[str, int]]:
    parts, number = [], ""
    for letter in cigar.replace("*", ""):
        if letter.isdigit():
            number += letter
        else:
            parts.append((letter, int(number)))
            number = ""
    return parts


def body(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.skipif(shutil.which(PICARD) is None, reason="needs Picard")
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (DuplicateOptions(), []),
        (
            DuplicateOptions(umi=True, umi_mismatches=0, optical_distance=300),
            ["BARCODE_TAG=RX", "OPTICAL_DUPLICATE_PIXEL_DISTANCE=300"],
        ),
        (DuplicateOptions(umi=True, umi_mismatches=0, duplex=True), ["BARCODE_TAG=RX", "DUPLEX_UMI=true"]),
    ],
    ids=["plain", "umi", "duplex"],
)
def test_as_picard_marks_them(options: DuplicateOptions, arguments: list[str], tmp_path: Path) -> None:
    writer = Writer(11, paired=options.duplex)  # with DUPLEX_UMI Picard dies of a single read
    for number in range(4000):
        writer.add(number)
    sam, bam, marked = tmp_path / "x.sam", tmp_path / "x.bam", tmp_path / "marked.bam"
    sam.write_text("".join(f"{line}\n" for line in writer.lines))
    pysam.view("-b", "-o", str(bam), str(sam), catch_stdout=False)
    fixed = ["VALIDATION_STRINGENCY=SILENT", "TAGGING_POLICY=All", "ASSUME_SORT_ORDER=queryname", "QUIET=true"]
    command = [PICARD, "MarkDuplicates", f"I={bam}", f"O={marked}", f"M={tmp_path / 'theirs'}", *fixed, *arguments]
    subprocess.run(command, check=True, capture_output=True)
    permit = authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")
    reads = ExistingReads(bam, permit, want_umi=options.umi, duplex=options.duplex)
    finder = DuplicateFinder(reads.libraries, options)
    for chunk, templates, _ in reads.chunks():
        finder.add(templates)
        reads.give_back(chunk)
    found = finder.resolve(2)
    reads.close()
    spread = [reads.spread(bits) for bits in (found.duplicate, found.optical)]
    ours = np.stack([np.unpackbits(bits, bitorder="little", count=reads.n_records) for bits in spread], axis=1)
    with pysam.AlignmentFile(str(marked)) as file:
        theirs = [
            [int(one.is_duplicate), int(one.has_tag("DT") and one.get_tag("DT") == "SQ")]
            for one in file.fetch(until_eof=True)
        ]
    assert ours.tolist() == theirs
    assert min(sum(column) for column in zip(*theirs, strict=True)) > 100
    write_duplication_metrics(tmp_path / "ours", found.metrics, found.set_sizes)
    assert body(tmp_path / "ours") == body(tmp_path / "theirs")
