# SPDX-License-Identifier: Apache-2.0
"""Covariates of blocks of records: observed bases and mismatches, as arrays that add up.

In: `RecordBlock`s with duplicates flagged, in any order and from any thread. Out: `Counts`. Next: `table.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fasta import Reference
from megabolt.recalibrate.counting import count_records, find_extents, new_scratch
from megabolt.recalibrate.known_sites import KnownSites
from megabolt.recalibrate.options import N_CONTEXTS, N_QUALITIES, CountOptions
from megabolt.recalibrate.read_groups import UNKNOWN_GROUP, GroupMap

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Counts:
    """Bases and errors by covariate; `a += b` adds.

    Attributes
    ----------
    by_cycle, cycle_errors
        int64 and float64 [rows, qualities, 2 * max_cycle + 1]; cycle c (negative for second reads) at c + max_cycle.
    by_context, context_errors
        int64 and float64 [rows, qualities, 17]; 4 * (base before) + base, as sequenced, codes 0..3; 16 for no context.
    totals
        int64 [2]: reads and bases counted.
    """

    by_cycle: NDArray[np.int64]
    cycle_errors: NDArray[np.float64]
    by_context: NDArray[np.int64]
    context_errors: NDArray[np.float64]
    totals: NDArray[np.int64]

    @classmethod
    def empty(cls, n_rows: int, max_cycle: int) -> Counts:
        """Nothing counted, for so many rows of read groups."""
        cycles, contexts = (n_rows, N_QUALITIES, 2 * max_cycle + 1), (n_rows, N_QUALITIES, N_CONTEXTS + 1)
        return cls(
            np.zeros(cycles, np.int64),
            np.zeros(cycles, np.float64),
            np.zeros(contexts, np.int64),
            np.zeros(contexts, np.float64),
            np.zeros(2, np.int64),
        )

    def __iadd__(self, other: Counts) -> Counts:
        for mine, more in zip(self._arrays(), other._arrays()):
            mine += more
        return self

    def _arrays(self) -> tuple[NDArray[np.int64] | NDArray[np.float64], ...]:
        return self.by_cycle, self.cycle_errors, self.by_context, self.context_errors, self.totals

    @property
    def max_cycle(self) -> int:
        """The longest read that can be counted."""
        return int(self.by_cycle.shape[2]) // 2

    @property
    def n_reads(self) -> int:
        """Reads counted."""
        return int(self.totals[0])

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return sum(array.nbytes for array in self._arrays())


class Counter:
    """Counts covariates; may be used by several threads at once.

    Parameters
    ----------
    reference
        The genome that the reads are aligned to.
    known
        Its known variants.
    groups
        The read groups of the reads.
    options
        What is counted.
    """

    def __init__(
        self, reference: Reference, known: KnownSites, groups: GroupMap, options: CountOptions | None = None
    ) -> None:
        self.reference, self.known, self.groups = reference, known, groups
        self.options = options or CountOptions()
        self._lengths = np.array([contig.length for contig in reference.contigs], np.int64)

    def empty(self) -> Counts:
        """Counts of nothing, to add to."""
        return Counts.empty(len(self.groups.names), self.options.max_cycle)

    def count(self, block: RecordBlock, rows: NDArray[np.int32] | None = None, *, into: Counts | None = None) -> Counts:
        """Count a block's records.

        Parameters
        ----------
        block
            Records, duplicates flagged; each of the sample's records must be counted once.
        rows
            int32 [n], row of each record as of `GroupMap.rows_of`, which is asked when it is not given.
        into
            Counts to add to, no other thread's; new ones otherwise.

        Raises
        ------
        UsageError
            A read that is too long, or one of a read group that the header lacks.
        """
        counts = into if into is not None else self.empty()
        if block.n == 0:
            return counts
        rows = rows if rows is not None else self.groups.rows_of(block)
        check_groups(rows, block)
        codes, shifts = self._reference_of(block)
        fault = int(
            count_records(
                block.data, block.offsets, rows, codes, shifts, self._lengths, self.known.words, self.known.bits,
                self.known.joined, self.options.preserve_below, self.options.low_quality_tail, self.options.max_cycle,
                counts.by_cycle.reshape(-1), counts.cycle_errors.reshape(-1), counts.by_context.reshape(-1),
                counts.context_errors.reshape(-1), counts.totals, new_scratch(),
            )
        )  # fmt: skip
        if fault >= 0:
            raise UsageError(
                f"read {name_of(block, fault)} is longer than the {self.options.max_cycle} cycles that are counted",
                "Base quality recalibration is for short reads; leave --bqsr out.",
            )
        return counts

    def _reference_of(self, block: RecordBlock) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Codes under the block's reads, and what to add to a place of each contig to get its index in them."""
        n = len(self._lengths)
        low, high = np.full(n, _FAR, np.int64), np.zeros(n, np.int64)
        find_extents(block.data, block.offsets, low, high)
        shifts = np.zeros(n, np.int64)
        pieces, filled = [np.zeros(0, np.uint8)], 0
        for contig in np.flatnonzero(high > 0):
            start, stop = int(low[contig]), int(high[contig])
            pieces.append(self.reference.fetch(int(contig), start, stop))
            shifts[contig] = filled - start
            filled += stop - start
        return np.concatenate(pieces), shifts


def check_groups(rows: NDArray[np.int32], block: RecordBlock) -> None:
    """Raise `UsageError` if a record names a read group that the header lacks."""
    unknown = np.flatnonzero(rows == UNKNOWN_GROUP)
    if len(unknown):
        raise UsageError(
            f"read {name_of(block, int(unknown[0]))} is of a read group that the header lacks",
            "Add the @RG line to the header, or set the reads' groups anew: samtools addreplacerg.",
        )


def name_of(block: RecordBlock, i: int) -> str:
    """The name of record i."""
    start = int(block.offsets[i])
    name = block.data[start + 36 : start + 36 + int(block.data[start + 12])].tobytes()
    return name.split(b"\0")[0].decode("ascii", "replace")
