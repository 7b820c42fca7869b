# SPDX-License-Identifier: Apache-2.0
"""Packed BAM records and references made by hand, for tests of everything that works on records.

In: reads drawn under their reference, or given field by field. Out: `RecordBlock`, an in-memory `Reference`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import NIBBLE_OF_CODE, N, encode
from megabolt.formats.fasta import Contig

_OPERATIONS = "MIDNSHP=X"
PAIRED, PROPER, REVERSE, FIRST, SECOND, DUPLICATE = 0x1, 0x2, 0x10, 0x40, 0x80, 0x400


@dataclass(frozen=True)
class TextReference:
    """A reference from texts, one per contig; fulfils `formats.fasta.Reference`."""

    sequences: Mapping[str, str]
    path: Path = Path("text.fa")
    contigs: tuple[Contig, ...] = field(init=False)

    def __post_init__(self) -> None:
        contigs = tuple(
            Contig(name, len(text), hashlib.md5(text.upper().encode(), usedforsecurity=False).hexdigest())
            for name, text in self.sequences.items()
        )
        object.__setattr__(self, "contigs", contigs)

    def fetch(self, contig: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Codes 0..4 (uint8 [stop - start]); places outside the contig are N."""
        codes = encode(self.sequences[self.contigs[contig].name])
        out = np.full(max(0, stop - start), N, np.uint8)
        low, high = max(0, start), min(stop, len(codes))
        if low < high:
            out[low - start : high - start] = codes[low:high]
        return out


@dataclass(frozen=True)
class HandRead:
    """One aligned read.

    start: 0-based. cigar: text. quality: Phred, one for all bases or one each.
    """

    start: int
    cigar: str
    sequence: str
    name: str = ""
    quality: int | tuple[int, ...] = 35
    mapq: int = 60
    flag: int = 0
    contig: int = 0


def pack(read: HandRead, ordinal: int = 0) -> bytes:
    """The packed BAM record of a read, without tags."""
    name = (read.name or f"read{ordinal}").encode() + b"\0"
    cigar = [int(length) << 4 | _OPERATIONS.index(op) for length, op in re.findall(r"(\d+)([MIDNSHP=X])", read.cigar)]
    codes = encode(read.sequence)
    nibbles = NIBBLE_OF_CODE[np.append(codes, codes[: len(codes) % 2])]
    packed = (nibbles[0::2] << 4 | nibbles[1::2]).astype(np.uint8)
    if len(codes) % 2:
        packed[-1] &= 0xF0
    qualities = (read.quality,) * len(codes) if isinstance(read.quality, int) else read.quality
    body = struct.pack(
        "<iiBBHHHiiii", read.contig, read.start, len(name), read.mapq, 4680, len(cigar), read.flag, len(codes),
        -1, -1, 0,
    )  # fmt: skip
    body += name + struct.pack(f"<{len(cigar)}I", *cigar) + packed.tobytes() + bytes(qualities)
    return struct.pack("<i", len(body)) + body


def make_block(reads: Iterable[HandRead]) -> RecordBlock:
    """A coordinate-sorted block of the reads; ties keep their order."""
    ordered = sorted(enumerate(reads), key=lambda pair: (pair[1].contig, pair[1].start))
    records = [pack(read, i) for i, read in ordered]
    offsets = np.cumsum([0, *(len(record) for record in records)]).astype(np.int64)
    data = np.zeros(int(offsets[-1]) + PADDING, np.uint8)
    data[: offsets[-1]] = np.frombuffer(b"".join(records), np.uint8)
    return RecordBlock(data, offsets)


def draw(reference: str, picture: str, **fields: object) -> list[HandRead]:
    """Reads drawn as text under the reference, one per line, all with the same other fields.

    `.` is the reference's base, a letter another one, `-` a deleted base, `[ACG]` bases inserted before the next
    column, and spaces are not covered. Empty lines are skipped; every line begins at the first reference base.

    >>> draw("ACGTACGT", " ..G.[TT]..")[0].cigar
    '4M2I2M'
    """
    reads = []
    for line in picture.splitlines():
        if line.strip():
            reads.append(_read_of_line(reference, line.rstrip(), fields))
    return reads


def _read_of_line(reference: str, line: str, fields: Mapping[str, object]) -> HandRead:
    operations: list[str] = []
    sequence = ""
    start = column = len(line) - len(line.lstrip())
    for token in re.findall(r"\[[ACGTN]+\]|\S", line):
        if token.startswith("["):
            operations += "I" * (len(token) - 2)
            sequence += token[1:-1]
            continue
        if token == "-":
            operations.append("D")
        else:
            operations.append("M")
            sequence += reference[column] if token == "." else token
        column += 1
    cigar = "".join(f"{len(m.group(0))}{m.group(1)}" for m in re.finditer(r"(.)\1*", "".join(operations)))
    return HandRead(start, cigar, sequence, **fields)  # type: ignore[arg-type]


def random_reference(length: int, seed: int) -> str:
    """A random sequence without long repeats, the same for the same seed."""
    generator = np.random.default_rng(seed)
    return "".join("ACGT"[i] for i in generator.integers(0, 4, length))


def reads_of_haplotype(
    reference: str,
    events: Iterable[tuple[int, str, str]],
    *,
    depth: int,
    read_length: int = 100,
    prefix: str = "h",
    start: int = 0,
    stop: int | None = None,
    quality: int = 35,
    mapq: int = 60,
) -> list[HandRead]:
    """Perfect reads of a haplotype, aligned as an ideal aligner would, every read_length / depth bases.

    Parameters
    ----------
    events
        (0-based start, ref, alt), sorted, apart; indels anchored by their first base as in VCF.
    start, stop
        The stretch of the reference that reads are made from.
    """
    bases: list[str] = []  # per column of reference or insertion
    kinds: list[str] = []
    places: list[int] = []
    stop = len(reference) if stop is None else stop
    p = start
    for at, ref, alt in events:
        for q in range(p, at):
            bases.append(reference[q])
            kinds.append("M")
            places.append(q)
        shared = min(len(ref), len(alt))
        for k in range(shared):
            bases.append(alt[k])
            kinds.append("M")
            places.append(at + k)
        for k in range(shared, len(alt)):
            bases.append(alt[k])
            kinds.append("I")
            places.append(at + shared)
        for k in range(shared, len(ref)):
            bases.append("")
            kinds.append("D")
            places.append(at + k)
        p = at + len(ref)
    for q in range(p, stop):
        bases.append(reference[q])
        kinds.append("M")
        places.append(q)
    step = max(1, round(read_length / depth))
    reads = []
    for n, i in enumerate(range(0, len(bases) - read_length, step)):
        j = i + read_length
        while kinds[i] != "M":
            i += 1
        while j > i and kinds[j - 1] != "M":
            j -= 1
        cigar = "".join(f"{len(m.group(0))}{m.group(1)}" for m in re.finditer(r"(.)\1*", "".join(kinds[i:j])))
        flag = REVERSE if n % 2 else 0
        reads.append(
            HandRead(places[i], cigar, "".join(bases[i:j]), f"{prefix}{n}", quality=quality, mapq=mapq, flag=flag)
        )
    return reads
