# SPDX-License-Identifier: Apache-2.0
"""Random records with everything that metrics must tell apart, and their blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pysam

from megabolt.formats.bam import RecordBlock, read_records
from megabolt.metrics import Collector, Counts, GroupInfo, MetricsOptions
from megabolt.privacy.consent import authorize
from megabolt.testing.records import TextReference, random_reference

GROUPS = (GroupInfo("A", "S", "L1", "U1"), GroupInfo("Bb", "S", "L1", "U2"), GroupInfo("C", "S", "L2", ""))
TARGETS = (
    np.array([[0, 30], [400, 401], [500, 900], [905, 1200], [2900, 3000]]),
    np.array([[100, 160]]),
    np.zeros((0, 2), np.int64),
)
_CIGARS = ("M", "SM", "MS", "SMS", "MIM", "MDM", "MNM", "HMS", "=X=", "MIMDM", "SMIMS", "M", "M", "M")
_CONSUMES_REFERENCE = (0, 2, 3, 7, 8)


def make_reference() -> TextReference:
    """Three contigs: one with N and a stretch of pure GC, a short one, one shorter than a GC window."""
    one = random_reference(3000, 1)
    one = one[:700] + "N" * 40 + one[740:1500] + "GC" * 100 + one[1700:1750] + "NNN" + one[1753:]
    return TextReference({"one": one, "two": random_reference(450, 2), "three": "ACGT" * 20, "empty": "A" * 300})


@dataclass(frozen=True)
class Region:
    """A piece of a contig."""

    contig: int
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Records of which first <= i < last are its own."""

    records: RecordBlock
    first: int
    last: int

    def own(self) -> RecordBlock:
        """The block's own records."""
        base = int(self.records.offsets[self.first])
        return RecordBlock(self.records.data[base:], self.records.offsets[self.first : self.last + 1] - base)


def make_bam(path: Path, reference: TextReference, seed: int, n_pairs: int = 1500) -> Path:
    """A sorted BAM of random pairs, single reads, and secondary and supplementary records."""
    rng = np.random.default_rng(seed)
    contigs = [{"SN": one.name, "LN": one.length} for one in reference.contigs]
    groups = [{"ID": one.identifier, "SM": one.sample, "LB": one.library} for one in GROUPS]
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": contigs, "RG": groups})
    records: list[Any] = []
    for k in range(n_pairs):
        records += _template(rng, header, reference, f"read:{k}" + "x" * int(rng.integers(0, 12)))
    records.sort(key=lambda one: (one.reference_id if one.reference_id >= 0 else 99, one.reference_start))
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for record in records:
            file.write(record)
    pysam.index(str(path))
    return path


def _template(rng: np.random.Generator, header: Any, reference: TextReference, name: str) -> list[Any]:
    single = rng.random() < 0.1
    contig = int(rng.choice([0, 0, 0, 0, 1, 2]))
    start = int(rng.integers(0, reference.contigs[contig].length - 60))
    group = rng.choice(["A", "Bb", "C", "unknown", ""], p=[0.5, 0.2, 0.2, 0.05, 0.05])
    ends = [_read(rng, header, reference, contig, start, name, str(group))]
    if not single:
        elsewhere = rng.random() < 0.1
        other = int(rng.integers(0, 3)) if elsewhere else contig
        near = int(np.clip(start + rng.integers(0, 60), 0, reference.contigs[other].length - 60))
        ends.append(_read(rng, header, reference, other, near, name, str(group)))
        _pair(rng, ends)
    flags = int(rng.choice([0, 0x400, 0x200, 0x600], p=[0.8, 0.15, 0.03, 0.02]))
    for end in ends:
        end.flag |= flags
        if rng.random() < 0.06:  # another record of the same read
            extra = pysam.AlignedSegment.fromstring(end.to_string(), header)
            if not extra.is_unmapped:
                extra.flag |= int(rng.choice([0x100, 0x800, 0x900]))
                ends = [*ends, extra]
    return ends


def _pair(rng: np.random.Generator, ends: list[Any]) -> None:
    first, second = ends if rng.random() < 0.5 else ends[::-1]
    first.flag |= 0x41
    second.flag |= 0x81
    for one, mate in ((first, second), (second, first)):
        one.flag |= 0x20 * mate.is_reverse | 0x8 * mate.is_unmapped
        one.next_reference_id, one.next_reference_start = mate.reference_id, mate.reference_start
        if not mate.is_unmapped and rng.random() < 0.5:
            one.set_tag("MQ", mate.mapping_quality, "i")
    if rng.random() < 0.05:  # neither end has a place
        for one in ends:
            one.flag = one.flag & ~0x30 | 0xC
            one.reference_id = one.next_reference_id = one.reference_start = one.next_reference_start = -1
            one.cigarstring, one.mapping_quality = None, 0
    both = not first.is_unmapped and not second.is_unmapped
    if both and first.reference_id == second.reference_id:
        left, right = sorted(ends, key=lambda one: one.reference_start)
        size = max(left.reference_end, right.reference_end) - left.reference_start
        size = size if rng.random() < 0.95 else 20_000 + size
        left.template_length, right.template_length = size, -size
        if rng.random() < 0.9:
            left.flag |= 2
            right.flag |= 2


def _read(
    rng: np.random.Generator, header: Any, reference: TextReference, contig: int, start: int, name: str, group: str
) -> Any:
    record = pysam.AlignedSegment(header)
    record.query_name = name
    record.flag = int(rng.choice([0, 0x10]))
    record.reference_id, record.reference_start = contig, start
    record.mapping_quality = int(rng.choice([0, 4, 5, 19, 20, 60], p=[0.05, 0.05, 0.05, 0.05, 0.2, 0.6]))
    text = reference.sequences[reference.contigs[contig].name]
    cigar, bases, at = [], "", start
    for operation in str(rng.choice(_CIGARS)):
        length = int(rng.integers(1, 9)) if operation in "IDSNHX" else int(rng.integers(8, 26))
        code = "MIDNSHP=X".index(operation)
        room = len(text) - at
        if code in _CONSUMES_REFERENCE:
            length = min(length, room)
        if length <= 0:
            break
        cigar.append((code, length))
        if code in (0, 7, 8):
            bases += text[at : at + length]
        elif code in (1, 4):
            bases += "".join(rng.choice(list("ACGT"), length))
        at += length if code in _CONSUMES_REFERENCE else 0
    letters = list(bases)
    for k in np.flatnonzero(rng.random(len(letters)) < rng.choice([0.0, 0.1])):
        letters[k] = str(rng.choice(list("ACGTN")))
    record.query_sequence = "".join(letters)
    if rng.random() < 0.97:
        qualities = rng.choice([2, 11, 19, 20, 25, 41], len(letters))
        record.query_qualities = pysam.qualitystring_to_array("".join(chr(33 + q) for q in qualities))
    record.cigartuples = cigar
    if rng.random() < 0.05:
        record.flag |= 4
        record.mapping_quality = 0
        if rng.random() < 0.5:
            record.cigarstring = None
    tags: list[Any] = [("XA", "c", "A"), ("NM", 3, "C"), ("MD", "10A3", "Z"), ("XF", 1.5, "f")]
    if group:
        tags.append(("RG", group, "Z"))
    if rng.random() < 0.1:
        tags.append(("SA", "one,5,+,30M,60,0;", "Z"))
    rng.shuffle(tags)
    record.set_tags(tags)
    return record


def blocks_of(bam: Path, reference: TextReference, step: int) -> Iterator[tuple[Block, list[Region]]]:
    """The file in blocks: pieces of `step` bases, or all of it at once (0); the unplaced reads last."""
    records = read_records(bam, authorize("s", "test", open_data="T. Tester: made up for a test"))
    data = records.data
    contig = np.array(
        [int.from_bytes(data[p + 4 : p + 8].tobytes(), "little", signed=True) for p in records.offsets[:-1]]
    )
    start = np.array(
        [int.from_bytes(data[p + 8 : p + 12].tobytes(), "little", signed=True) for p in records.offsets[:-1]]
    )
    n_placed = int((contig >= 0).sum())
    pieces = [Region(k, 0, one.length) for k, one in enumerate(reference.contigs)]
    if step == 0:
        yield Block(records, 0, n_placed), list(pieces)
    else:
        for whole in pieces:
            for low in range(0, whole.stop, step):
                piece = Region(whole.contig, low, min(whole.stop, low + step))
                here = contig == piece.contig
                near = np.flatnonzero(here & (start >= piece.start - 4096) & (start < piece.stop + 4096))
                mine = np.flatnonzero(here & (start >= piece.start) & (start < piece.stop))
                first = int(near[0]) if len(near) else 0
                base = int(records.offsets[first])
                stop = first + len(near)
                cut = RecordBlock(data[base:], records.offsets[first : stop + 1] - base)
                low_own = int(mine[0]) - first if len(mine) else 0
                yield Block(cut, low_own, low_own + len(mine)), [piece]
    base = int(records.offsets[n_placed])
    rest = RecordBlock(data[base:], records.offsets[n_placed:] - base)
    yield Block(rest, 0, rest.n), []


def count_bam(
    bam: Path, reference: TextReference, step: int, *, targets: Any = None, wgs: bool = True
) -> tuple[Counts, Collector]:
    """All counts of a file."""
    collector = Collector(reference.contigs, reference, targets, GROUPS, MetricsOptions(wgs=wgs))
    for block, regions in blocks_of(bam, reference, step):
        collector.add(block, regions)
    return collector.total(), collector
