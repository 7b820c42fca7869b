# SPDX-License-Identifier: Apache-2.0
"""Which templates are copies of one molecule: decided once for the whole sample, by Picard MarkDuplicates' rules.

In: `Templates`, from any thread and in any order. Out: `Duplicates`, a bit per template. Next: sorted blocks.

Pairs with both mates mapped are copies if both unclipped 5' ends, both strands and the library agree; the pair with
the best score stays, on a tie the first by tile, x, y and then by the input. A lone read, single or with an unmapped
mate, is a copy if any mate of a mapped pair has its end, or if a better read like it has. Unmapped reads never are.
Only primary alignments count; the other records of a template share its fate, as they do in Picard for input that is
grouped by name. With UMIs, copies also share their UMI: see `duplicates/umi.py`.

Rows are kept in hash partitions (`duplicates/rows.py`), which are resolved one by one. Ends of lone reads are entered
in a bitmap; pairs whose ends it has send markers to the partitions of the lone reads, which come last. The result
does not depend on threads, memory or the order of the calls.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InternalError
from megabolt.reads.duplicates import groups
from megabolt.reads.duplicates.metrics import DuplicationMetrics
from megabolt.reads.duplicates.rows import N_PARTITIONS, PARTITION_SHIFT, RowStore, Spill, runs_of
from megabolt.reads.duplicates.templates import Templates
from megabolt.reads.duplicates.umi import join_umis

T = TypeVar("T")
U = np.uint64
#: Read groups and libraries that a row has bits for.
MAX_READ_GROUPS = 1 << 15
#: Rows of one task, unless a partition has more.
_TASK_ROWS = 1 << 16
#: Partitions with more rows are divided.
_LARGE_PARTITION = 1 << 16
_MAX_BITMAP_BITS = 30


@dataclass(frozen=True)
class DuplicateOptions:
    """What counts as a duplicate.

    Attributes
    ----------
    optical_distance
        Largest difference in x and in y of optical duplicates: 100, or 2500 for patterned flow cells; negative:
        they are not looked for.
    largest_optical_set
        In larger groups optical duplicates are not looked for (Picard's MAX_OPTICAL_DUPLICATE_SET_SIZE).
    umi
        Templates with different UMIs are different molecules.
    umi_mismatches
        A UMI is taken for an error of a more frequent one if that many bases differ: 0 or 1.
    duplex
        UMIs are those of both strands: see `templates_of`, which wants to know it too.
    """

    optical_distance: int = 100
    largest_optical_set: int = 300_000
    umi: bool = False
    umi_mismatches: int = 1
    duplex: bool = False


@dataclass
class Duplicates:
    """What came out.

    Attributes
    ----------
    duplicate
        uint8 [(n + 7) // 8]: bit i & 7 of byte i >> 3 is set if template i is a duplicate.
    optical
        The same for optical duplicates, all of which are duplicates as well.
    metrics
        Of each library, in the order of the read groups.
    set_sizes
        (pairs, optical duplicates) of a group of pairs -> number of such groups.
    """

    duplicate: NDArray[np.uint8]
    optical: NDArray[np.uint8]
    metrics: list[DuplicationMetrics]
    set_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)


class DuplicateFinder:
    """Collects templates and finds the duplicates among them.

    Parameters
    ----------
    libraries
        Library of each read group, in the order of the read groups' numbers.
    options
        See there.
    spill
        File for rows that memory does not hold.
    budget
        Bytes of memory for rows; `resolve` needs some more, for each thread 20 MB or twice a partition (1 / 256
        of the rows). Without `spill`, more rows are an error.
    """

    def __init__(
        self,
        libraries: Sequence[str],
        options: DuplicateOptions | None = None,
        spill: Spill | None = None,
        *,
        budget: int = 1 << 30,
    ) -> None:
        if not 0 < len(libraries) <= MAX_READ_GROUPS:
            raise InternalError(f"{len(libraries)} read groups; there must be 1 to {MAX_READ_GROUPS}")
        self.options = options or DuplicateOptions()
        self._names = list(dict.fromkeys(libraries))
        self._library = np.array([self._names.index(name) for name in libraries], np.uint64)
        width = 5 if self.options.umi else 4
        self._pairs = RowStore(width, budget * 3 // 4, spill)
        self._lone = RowStore(width, budget // 4, spill)
        self._lock = threading.Lock()
        self._kinds = np.zeros((len(self._names), 5), np.int64)  # pairs, lone, halves, unmapped reads, other records
        self._stop = 0

    @property
    def used(self) -> int:
        """Bytes of memory held."""
        return self._pairs.used + self._lone.used

    def add(self, templates: Templates, first_template: int = 0) -> None:
        """Enter templates; safe for threads, releases the GIL.

        Parameters
        ----------
        first_template
            Number of the first of them in the whole input, if they have no `index`.

        Raises
        ------
        ResourceError
            They do not fit the memory, and there is no spill file.
        OutputError
            The spill file cannot take them.
        """
        target = np.empty(templates.n, np.uint16)
        counts = np.zeros((2, N_PARTITIONS), np.int64)
        kinds = np.zeros_like(self._kinds)
        groups.classify(
            templates.signature,
            templates.read_group,
            templates.flags,
            templates.unmapped,
            templates.others,
            self._library,
            target,
            counts,
            kinds,
        )
        index = np.zeros(0, np.int64) if templates.index is None else templates.index
        stop = first_template + templates.n if templates.index is None else int(index.max(initial=-1)) + 1
        with self._lock:
            self._kinds += kinds
            self._stop = max(self._stop, stop)
        umi = templates.umi if templates.umi is not None else np.zeros(templates.n * self.options.umi, np.uint64)
        pieces = self._pairs.open_piece(counts[0]), self._lone.open_piece(counts[1])
        groups.pack(
            templates.signature,
            templates.quality_sum,
            templates.location,
            templates.read_group,
            templates.flags,
            umi,
            index,
            first_template,
            self._library,
            target,
            np.stack([piece.bounds[:-1] for piece in pieces]),
            pieces[0].rows,
            pieces[1].rows,
        )
        self._pairs.close_piece(pieces[0])
        self._lone.close_piece(pieces[1])

    def resolve(self, threads: int = 1) -> Duplicates:
        """Decide on all templates; call it once, when all are in."""
        return _Resolver(self, threads).resolve()


class _Resolver:
    """One call of `DuplicateFinder.resolve`."""

    def __init__(self, finder: DuplicateFinder, threads: int) -> None:
        self.finder, self.threads, self.options = finder, threads, finder.options
        self.joins = self.options.umi and self.options.umi_mismatches > 0
        self.n = finder._stop
        self.pairs, self.lone = finder._pairs, finder._lone
        self.duplicate = np.zeros(self.n // 64 + 1, np.uint64)
        self.optical = np.zeros(self.n // 64 + 1, np.uint64)
        n_lone = int(self.lone.counts.sum())
        self.bits = min(_MAX_BITMAP_BITS, max(14, (16 * n_lone).bit_length())) if n_lone else 0
        self.bitmap = np.zeros((1 << self.bits) // 64 if n_lone else 0, np.uint64)

    def resolve(self) -> Duplicates:
        """See `DuplicateFinder.resolve`."""
        counts = np.zeros((len(self.finder._names), groups.N_COUNTS), np.int64)
        set_sizes: Counter[tuple[int, int]] = Counter()
        if self.bits:
            self._each(self._enter, self.lone)
        for part, sizes in self._each(self._resolve_pairs, self.pairs):
            counts += part
            set_sizes.update(sizes)
        self.pairs.clear()
        if self.bits:
            for part in self._each(self._resolve_lone, self.lone):
                counts += part
            self.lone.clear()
        n_bytes = (self.n + 7) // 8
        return Duplicates(
            duplicate=self.duplicate.view(np.uint8)[:n_bytes],
            optical=self.optical.view(np.uint8)[:n_bytes],
            metrics=self._metrics(counts),
            set_sizes=set_sizes,
        )

    def _each(self, task: Callable[[int, int], T], store: RowStore) -> Iterable[T]:
        runs = runs_of(store.counts, _TASK_ROWS)
        if self.threads == 1:
            return [task(*run) for run in runs]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(lambda run: task(*run), runs))

    def _enter(self, first: int, last: int) -> None:
        groups.enter_ends(self.lone.take(first, last)[0], self.bitmap, self.bits)

    def _resolve_pairs(self, first: int, last: int) -> tuple[NDArray[np.int64], Counter[tuple[int, int]]]:
        rows, bounds = _divided(*self.pairs.take(first, last), groups.UPPER)
        n = len(rows)
        if self.joins:
            join_umis(rows, bounds, True)
        counts = np.zeros((len(self.finder._names), groups.N_COUNTS), np.int64)
        small = np.zeros((groups.SMALL, groups.SMALL), np.int64)
        large = np.empty(n // groups.SMALL + 1, np.int64)
        markers = np.empty((2 * n if self.bits else 0, rows.shape[1]), np.uint64)
        found = np.zeros(2, np.int64)
        groups.resolve_pairs(
            rows,
            bounds,
            self.options.umi,
            self.options.optical_distance,
            self.options.largest_optical_set,
            self.bitmap,
            self.bits,
            _table(bounds),
            np.empty((4, n), np.int32),
            np.empty(n, np.uint64),
            self.duplicate,
            self.optical,
            counts,
            small,
            large,
            markers,
            found,
        )
        if found[1]:
            self._add_markers(markers[: found[1]])
        sizes = Counter({(int(k), int(m)): int(small[k, m]) for k, m in zip(*np.nonzero(small), strict=True)})
        sizes.update((size >> 32, size & 0xFFFFFFFF) for size in large[: found[0]].tolist())
        return counts, sizes

    def _add_markers(self, markers: NDArray[np.uint64]) -> None:
        counts = np.zeros(N_PARTITIONS, np.int64)
        groups.count_rows(markers, U(0), PARTITION_SHIFT, counts)
        piece = self.lone.open_piece(counts)
        groups.move_rows(markers, U(0), PARTITION_SHIFT, piece.bounds[:-1].copy(), piece.rows)
        self.lone.close_piece(piece)

    def _resolve_lone(self, first: int, last: int) -> NDArray[np.int64]:
        rows, bounds = _divided(*self.lone.take(first, last), U(0))
        if self.joins:
            join_umis(rows, bounds, False)
        counts = np.zeros((len(self.finder._names), groups.N_COUNTS), np.int64)
        groups.resolve_lone(rows, bounds, self.options.umi, _table(bounds), self.duplicate, counts)
        return counts

    def _metrics(self, counts: NDArray[np.int64]) -> list[DuplicationMetrics]:
        out = []
        for name, kinds, found in zip(self.finder._names, self.finder._kinds.tolist(), counts.tolist(), strict=True):
            pairs, lone, halves, unmapped, others = kinds
            out.append(
                DuplicationMetrics(
                    library=name,
                    unpaired_reads_examined=lone,
                    read_pairs_examined=(2 * pairs + halves) // 2,
                    secondary_or_supplementary_reads=others,
                    unmapped_reads=unmapped,
                    unpaired_read_duplicates=found[groups.LONE_DUPLICATES],
                    read_pair_duplicates=found[groups.PAIR_DUPLICATES] + found[groups.HALF_DUPLICATES] // 2,
                    read_pair_optical_duplicates=found[groups.OPTICAL_PAIRS],
                )
            )
        return out


def _divided(
    rows: NDArray[np.uint64], bounds: NDArray[np.int64], upper: np.uint64
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A partition with many rows in parts whose tables a core's cache can hold."""
    if len(bounds) > 2 or len(rows) <= _LARGE_PARTITION:
        return rows, bounds
    bits = min(PARTITION_SHIFT, (len(rows) // _LARGE_PARTITION).bit_length() + 2)
    counts = np.zeros(1 << bits, np.int64)
    groups.count_rows(rows, upper, PARTITION_SHIFT - bits, counts)
    divided = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    out = np.empty_like(rows)
    groups.move_rows(rows, upper, PARTITION_SHIFT - bits, divided[:-1].copy(), out)
    return out, divided


def _table(bounds: NDArray[np.int64]) -> NDArray[np.int32]:
    """Slots for the largest partition, twice as many as rows and a power of two."""
    largest = int(np.diff(bounds).max(initial=1))
    return np.empty(max(16, 1 << (2 * largest - 1).bit_length()), np.int32)
