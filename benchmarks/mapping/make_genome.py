# SPDX-License-Identifier: Apache-2.0
"""A genome of any size out of real pieces: for figures of scale, where a human genome is not at hand.

    python benchmarks/mapping/make_genome.py --out g3.fa --size 3e9 --keep GRCh38.mix.fa.gz chr17.fa.gz

The FASTA of --keep comes first, unchanged, so that reads of it can be mapped in both and compared. The rest are
segments of 20 to 400 kb of all pieces, in random order and orientation, each with its own divergence from the real
sequence: substitutions, and a tenth as many insertions and deletions of 1 to 20 bases. With --size 3e9 and 50 Mb of
pieces every real base comes back about sixty times: in 5 % of them nearly the same (1-3 %, as in recent segmental
duplications), in 25 % 5-12 % apart, in the rest 15-30 % (as good as unique). Reads of the kept contigs, which all
copies resemble, are therefore harder than those of a human genome.

What such divergence would wipe out is put back: a tenth of the bases are copies, 2-18 % apart, of forty families of
300 to 6,000 bases (as Alu and L1), and a fiftieth are satellites: arrays of a higher-order repeat of 12 monomers of
171 bases, 1-2 % between its copies.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from megabolt.formats.bases import ASCII_OF_CODE, N, reverse_complement
from megabolt.formats.fasta import read_contigs

Codes = NDArray[np.uint8]

_SEGMENT = 20_000, 400_000
_WIDTH = 60
#: Share of the segments, and the range of their divergence.
_DIVERGENCE = (0.05, 0.01, 0.03), (0.25, 0.05, 0.12), (0.70, 0.15, 0.30)
_INDELS, _LONGEST_INDEL = 0.1, 20
#: Families of repeats: their lengths, the share of the bases, the divergence of copies.
_FAMILIES = (300,) * 25 + (1_000,) * 10 + (6_000,) * 5
_REPEATS, _REPEAT_DIVERGENCE = 0.1, (0.02, 0.18)
_SATELLITES, _ARRAY, _MONOMER, _MONOMERS = 0.02, 500_000, 171, 12


def diverged(codes: Codes, divergence: float, rng: np.random.Generator) -> Codes:
    """Codes with substitutions at this rate, and a tenth as many indels. N stays N."""
    codes = codes.copy()
    n = len(codes)
    at = rng.integers(0, n, rng.binomial(n, divergence))
    at = at[codes[at] < N]
    codes[at] = (codes[at] + rng.integers(1, 4, len(at), dtype=np.uint8)) & 3
    parts, done = [], 0
    for place in np.sort(rng.integers(0, n, rng.binomial(n, divergence * _INDELS / _LONGEST_INDEL * 2))).tolist():
        if place < done:
            continue
        parts.append(codes[done:place])
        length = int(rng.integers(1, _LONGEST_INDEL + 1))
        if rng.random() < 0.5:
            parts.append(rng.integers(0, 4, length, dtype=np.uint8))
            done = place
        else:
            done = place + length
    parts.append(codes[done:])
    return np.concatenate(parts)


def _window(pieces: list[Codes], length: int, rng: np.random.Generator) -> Codes:
    """A stretch of the pieces without N."""
    while True:
        piece = pieces[rng.integers(len(pieces))]
        start = int(rng.integers(0, max(1, len(piece) - length)))
        window = piece[start : start + length]
        if len(window) == length and window.max() < N:
            return window


def with_repeats(segment: Codes, families: list[Codes], rng: np.random.Generator) -> Codes:
    """A segment with diverged copies of the families, each as likely to be met, in place of a share of its bases."""
    segment = segment.copy()
    mean = np.mean(_FAMILIES)
    for _ in range(rng.poisson(_REPEATS * len(segment) / mean)):
        copy = diverged(families[rng.integers(len(families))], rng.uniform(*_REPEAT_DIVERGENCE), rng)
        if rng.random() < 0.5:
            copy = reverse_complement(copy)
        at = int(rng.integers(0, max(1, len(segment) - len(copy))))
        segment[at : at + len(copy)] = copy[: len(segment) - at]
    return segment


def satellite(pieces: list[Codes], rng: np.random.Generator) -> Codes:
    """An array of a higher-order repeat."""
    monomer = _window(pieces, _MONOMER, rng)
    unit = np.concatenate([diverged(monomer, rng.uniform(0.2, 0.3), rng) for _ in range(_MONOMERS)])
    return np.concatenate([diverged(unit, rng.uniform(0.01, 0.02), rng) for _ in range(_ARRAY // len(unit))])


def segments(pieces: list[Codes], rng: np.random.Generator) -> Iterator[Codes]:
    """Diverged segments of the pieces with repeats, and satellites, without end."""
    families = [_window(pieces, length, rng) for length in _FAMILIES]
    satellites_per_segment = _SATELLITES / (1 - _SATELLITES) * np.mean(_SEGMENT) / _ARRAY
    weights = np.array([len(piece) for piece in pieces], float)
    shares = [share for share, _, _ in _DIVERGENCE]
    while True:
        piece = pieces[rng.choice(len(pieces), p=weights / weights.sum())]
        start = int(rng.integers(0, max(1, len(piece) - _SEGMENT[0])))
        segment = piece[start : start + int(rng.integers(*_SEGMENT))]
        if (segment == N).mean() > 0.2:
            continue
        _, low, high = _DIVERGENCE[rng.choice(len(shares), p=shares)]
        segment = with_repeats(diverged(segment, rng.uniform(low, high), rng), families, rng)
        yield reverse_complement(segment) if rng.random() < 0.5 else segment
        if rng.random() < satellites_per_segment:
            yield satellite(pieces, rng)


class FastaWriter:
    """Writes contigs piece by piece, in lines of _WIDTH bases."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._rest = np.empty(0, np.uint8)

    def begin(self, name: str) -> None:
        self._handle.write(f">{name}\n".encode("ascii"))

    def write(self, codes: Codes) -> None:
        letters = np.concatenate([self._rest, ASCII_OF_CODE[codes]])
        whole = len(letters) // _WIDTH * _WIDTH
        lines = np.full((whole // _WIDTH, _WIDTH + 1), ord("\n"), np.uint8)
        lines[:, :_WIDTH] = letters[:whole].reshape(-1, _WIDTH)
        self._handle.write(lines.data)
        self._rest = letters[whole:]

    def end(self) -> None:
        if len(self._rest):
            self._handle.write(self._rest.tobytes() + b"\n")
        self._rest = np.empty(0, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="+", type=Path, help="FASTA files to take segments from, with that of --keep")
    parser.add_argument("--out", type=Path, required=True, help="FASTA to write")
    parser.add_argument("--keep", type=Path, help="FASTA that comes first, unchanged")
    parser.add_argument("--size", type=float, default=3e9, help="bases in all (default 3e9)")
    parser.add_argument("--contigs", type=int, default=24, help="contigs made of segments (default 24)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    pieces, total = [], 0
    with args.out.open("wb") as handle:
        writer = FastaWriter(handle)
        if args.keep:
            for contig, codes in read_contigs(args.keep):
                pieces.append(codes.copy())
                writer.begin(contig.name)
                writer.write(codes)
                writer.end()
                total += len(codes)
        for path in args.pieces:
            pieces += [codes.copy() for _, codes in read_contigs(path)]
        # As in a karyotype, the first contig is about five times as long as the last.
        shares = np.linspace(5.0, 1.0, args.contigs)
        lengths = (shares / shares.sum() * max(0.0, args.size - total)).astype(np.int64)
        source = segments(pieces, rng)
        for i, length in enumerate(lengths.tolist()):
            writer.begin(f"made{i + 1}")
            while length > 0:
                segment = next(source)[:length]
                writer.write(segment)
                length -= len(segment)
            writer.end()
            print(f"made{i + 1} of {args.contigs}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
