# SPDX-License-Identifier: Apache-2.0
"""What the placement kernels share: packed reads, the index's arrays, the library's fragment lengths.

Each is a tuple of arrays and numbers that Numba takes as one argument; `*_TYPE` is its type in a signature.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING


class PackedReads(NamedTuple):
    """The reads of a batch, read r = 2 * pair + mate, of at most 512 bases.

    forward, reverse: uint64 [R * words], 2-bit bases of the read and of its reverse complement.
    class_forward, class_reverse: the same shape, quality classes 0..3 (>= 30, >= 20, >= 10, below or N).
    length: int64 [R], bases of the read that are placed; hidden: int64 [R], bases behind them that are not, because
    they are adapter or the like. name_hash: uint64 [R / 2].
    seeds: int32 [R * slots], start of each seed in the read; n_seeds: int64 [R].
    codes, scratch: working space of `seed.pack_reads`.
    """

    forward: NDArray[np.uint64]
    reverse: NDArray[np.uint64]
    class_forward: NDArray[np.uint64]
    class_reverse: NDArray[np.uint64]
    length: NDArray[np.int64]
    hidden: NDArray[np.int64]
    name_hash: NDArray[np.uint64]
    seeds: NDArray[np.int32]
    n_seeds: NDArray[np.int64]
    codes: NDArray[np.uint8]
    scratch: NDArray[np.uint32]
    words: int
    slots: int


class Tables(NamedTuple):
    """The arrays of an `Index`: see there.

    reference: uint64, 2-bit bases; table: uint64 [8 * n_buckets]; lists: uint64.
    contig_offset, contig_stop: int64 [n_contigs]; is_alt: uint8 [n_contigs].
    circular: int64 [2], place and length of the circular contig, (0, 0) if there is none.
    range_buckets: uint64, buckets of a range of the table.
    """

    reference: NDArray[np.uint64]
    table: NDArray[np.uint64]
    lists: NDArray[np.uint64]
    contig_offset: NDArray[np.int64]
    contig_stop: NDArray[np.int64]
    is_alt: NDArray[np.uint8]
    circular: NDArray[np.int64]
    range_buckets: np.uint64


#: Shortest and longest fragment of a proper pair: shorter ones are adapter dimers; the index keeps more filler
#: than the longest between contigs.
SHORTEST_INSERT, LONGEST_INSERT = 35, 3500
#: Pairs a library must show before its fragment lengths are believed.
_ENOUGH_PAIRS = 100


class InsertSize(NamedTuple):
    """Fragment lengths of a read group, in bases: mean, standard deviation, and the range of proper pairs."""

    mean: float = 400.0
    sd: float = 200.0
    low: int = SHORTEST_INSERT
    high: int = 1600

    @staticmethod
    def fitted(inserts: NDArray[np.int64]) -> InsertSize:
        """Fit to fragment lengths: the middle half sets the range in which mean and sd are taken, as in bwa."""
        if len(inserts) < _ENOUGH_PAIRS:
            return InsertSize()
        q25, q75 = np.percentile(inserts, (25, 75))
        spread = max(q75 - q25, 10.0)
        kept = inserts[(inserts >= q25 - 2 * spread) & (inserts <= q75 + 2 * spread)]
        mean, sd = float(kept.mean()), max(float(kept.std()), 5.0)
        return InsertSize(mean, sd, SHORTEST_INSERT, min(LONGEST_INSERT, int(mean + 6 * sd) + 1))


def allocate_reads(n_pairs: int, longest: int) -> PackedReads:
    """Room for a batch of `n_pairs` whose longest read has `longest` bases."""
    words = (longest + 31) // 32 + 2
    # Closed syncmers have density 2/9 on random sequence; low-complexity reads may have one at every base, of
    # which the surplus is not looked up.
    slots = max(16, longest // 3)
    n_reads = 2 * n_pairs

    def packed() -> NDArray[np.uint64]:
        return np.zeros(n_reads * words + 16, np.uint64)

    return PackedReads(
        forward=packed(),
        reverse=packed(),
        class_forward=packed(),
        class_reverse=packed(),
        length=np.zeros(n_reads, np.int64),
        hidden=np.zeros(n_reads, np.int64),
        name_hash=np.zeros(n_pairs, np.uint64),
        seeds=np.zeros(n_reads * slots, np.int32),
        n_seeds=np.zeros(n_reads, np.int64),
        codes=np.zeros(PADDING, np.uint8),
        scratch=np.zeros(4 * 1024, np.uint32),
        words=words,
        slots=slots,
    )


_WORDS, _PLACES, _BYTES = np.zeros(1, np.uint64), np.zeros(1, np.int64), np.zeros(1, np.uint8)
READS_TYPE = numba.typeof(allocate_reads(1, 1))
TABLES_TYPE = numba.typeof(Tables(_WORDS, _WORDS, _WORDS, _PLACES, _PLACES, _BYTES, _PLACES, np.uint64(1)))
INSERT_TYPE = numba.typeof(InsertSize())
