# SPDX-License-Identifier: Apache-2.0
"""The records of an existing BAM or CRAM file, to be sorted and marked anew without aligning them again.

In: a file in any order. Out: for each piece of it a `RecordChunk` for the bins and the `Templates` that it completes
for the duplicate finder. Next: `reads/bins.py` (with ordinal_shift 0) and `reads/duplicates/finder.py`.

The bytes of the records stay as they are, but for the duplicate flag, which is cleared. Each record has a number, its
place in the file; that is its ordinal in the bins. A template has the number of the record that decides about ties in
Picard: of the mate whose end lies lower, on a tie of the one that comes first. When duplicates are known, `spread`
passes the mark on to all records of their templates: the mate and what is secondary or supplementary, which is found
by name.

Memory: some 100 bytes for each read that waits for a mate far away in the file, 16 for each secondary or supplementary
record, and 24 for each template, which go to scratch if there is some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import RecordChunk
from megabolt.compute.bits import U, load_i32, load_u16
from megabolt.compute.jit import kernel
from megabolt.errors import InternalError
from megabolt.formats.alignment_file import AlignmentFile
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.name_join import NameJoin
from megabolt.formats.record_facts import OTHER, Describer, Facts, HeaderGroup, read_groups_of
from megabolt.privacy.consent import Permit
from megabolt.reads.completion import complete
from megabolt.reads.duplicates.rows import Spill
from megabolt.reads.duplicates.templates import (
    ALONE,
    MATE_ABSENT,
    MATE_NOWHERE,
    RecordEnds,
    Templates,
    end_offsets,
    ends_of_records,
    join_ends,
)
from megabolt.reads.packing import Packed
from megabolt.reads.scratch import Frame

#: See `ExistingReads.chunks`.
Pack = Callable[[NDArray[np.uint8], NDArray[np.int64]], Packed]
#: Picard's name for the library of read groups that tell none.
UNKNOWN_LIBRARY = "Unknown Library"
_NO_END = U(0xFFFFFFFFFFFFFFFF)
_UNPLACED = U(0xFFFFFFFFFFFFFFFF)
_MOST_OTHERS = 65535
#: ALONE, MATE_ABSENT, MATE_NOWHERE: kernels may not take constants of other files.
_ALONE, _ABSENT, _NOWHERE = -1, -2, -3
if (_ALONE, _ABSENT, _NOWHERE) != (ALONE, MATE_ABSENT, MATE_NOWHERE):
    raise InternalError("the words for missing mates differ from those of the duplicate finder")


class _Prepared(NamedTuple):
    """A block and what could be found out without knowing the others."""

    block: RecordBlock
    packed: Packed | None
    first_record: int
    key: NDArray[np.uint64]
    missing: NDArray[np.int8]
    facts: Facts
    ends: RecordEnds


class ExistingReads:
    """Records of a file for the bins, and their templates for the duplicate finder.

    Parameters
    ----------
    path, permit, reference, threads
        As for `AlignmentFile`, whose threads look at the records as well.
    want_umi, duplex
        As for `templates_of`.
    spill
        Takes what is kept of each template; None: memory does.

    Attributes
    ----------
    header
        Of the file.
    read_groups
        Of the header, in its order.
    libraries
        For `DuplicateFinder`: of each read group; one, `UNKNOWN_LIBRARY`, if there is no read group.
    n_records, n_templates
        So far.
    n_without_mate
        Reads of pairs whose mates the file lacks; known at the end.
    """

    def __init__(
        self,
        path: Path | str,
        permit: Permit,
        *,
        reference: Path | None = None,
        threads: int = 1,
        want_umi: bool = False,
        duplex: bool = False,
        spill: Spill | None = None,
    ) -> None:
        self._file = AlignmentFile(path, permit, reference=reference, threads=threads)
        self.header = self._file.header
        try:
            self.read_groups: tuple[HeaderGroup, ...] = read_groups_of(self.header, path)
        except BaseException:
            self._file.close()
            raise
        self.libraries = tuple(group.library or UNKNOWN_LIBRARY for group in self.read_groups) or (UNKNOWN_LIBRARY,)
        self.n_records = self.n_templates = self.n_without_mate = 0
        self._want_umi, self._duplex = want_umi, duplex
        self._describer = Describer([group.name for group in self.read_groups], path)
        self._offsets = end_offsets(np.array([contig.length for contig in self.header.contigs], np.int64))
        self._join = NameJoin(strict=False)
        self._waiting = _WaitingEnds(want_umi)
        self._links = _Links(spill)
        self._others = np.zeros(len(self.libraries), np.int64)  # not yet in any template's count

    def chunks(self, pack: Pack | None = None) -> Iterator[tuple[RecordChunk, Templates, Packed | None]]:
        """The file, once, piece by piece: its records, and the templates that are complete with them.

        The last chunk has no records: its templates are those of reads whose mates never came. A chunk's memory is
        the caller's until `give_back`. Chunks may go into the bins, templates into the finder, in any order and from
        any thread.

        Parameters
        ----------
        pack
            `BinStore.pack`: what it makes of the records comes third, and the chunk is without them. The threads that
            inflate call it, while their cores have the records in the cache.
        """

        def prepare(block: RecordBlock, first_record: int) -> _Prepared:
            return self._prepare(block, first_record, pack)

        for _, prepared in self._file.looked(prepare):
            templates = self._take(prepared)
            yield self._chunk(prepared, templates.n), templates, prepared.packed
        last = self._take_lonely()
        nothing = RecordChunk.allocate(0)
        nothing.first_pair, nothing.n_pairs = self.n_records, 0
        yield nothing, last, None

    def give_back(self, chunk: RecordChunk) -> None:
        """The records have been copied: let their memory be used again."""
        if len(chunk.data):
            self._file.give_back(RecordBlock(chunk.data, chunk.offsets))

    def spread(self, flags: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Flags of records from flags of templates, both a bit each (bit i & 7 of byte i >> 3).

        Parameters
        ----------
        flags
            `Duplicates.duplicate` or `.optical`, once all chunks have been asked for.

        Returns
        -------
        uint8 [(n_records + 7) // 8], for `BinStore.duplicate` or `.optical`.
        """
        return self._links.spread(flags, self.n_records)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ExistingReads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, block: RecordBlock, first_record: int, pack: Pack | None) -> _Prepared:
        facts = self._describer.describe(block, first_record)
        key, missing = np.empty(block.n, np.uint64), np.empty(block.n, np.int8)
        _keys_and_flags(block.data, block.offsets, key, missing)
        ends = ends_of_records(block, self._offsets, want_umi=self._want_umi, duplex=self._duplex)
        packed = None
        if pack is not None:
            packed = pack(block.data, block.offsets)
            self._file.give_back(block)
            block = RecordBlock(np.zeros(0, np.uint8), block.offsets)
        return _Prepared(block, packed, first_record, key, missing, facts, ends)

    def _chunk(self, prepared: _Prepared, n_templates: int) -> RecordChunk:
        n = prepared.block.n
        return RecordChunk(
            data=prepared.block.data,
            offsets=prepared.block.offsets,
            key=prepared.key,
            ordinal=np.arange(n),
            signature=np.empty((0, 2), np.uint64),
            quality_sum=np.empty(0, np.int32),
            first_pair=prepared.first_record,
            n_pairs=n_templates,
            n_records=n,
        )

    def _take(self, prepared: _Prepared) -> Templates:
        """The templates that a block completes."""
        facts, base = prepared.facts, prepared.first_record
        n = prepared.block.n
        self.n_records += n
        partner, own, _ = self._join.join(facts.kind, facts.hash)
        others = np.flatnonzero(facts.kind == OTHER)
        if len(others):
            self._links.add_others(facts.hash[others, 0], base + others)
            self._others += np.bincount(facts.group[others], minlength=len(self._others))
        waiting = self._waiting
        templates, links = complete(
            facts, prepared.ends, base, partner, own, self._join.record, waiting.kind, waiting.ends
        )
        still = np.flatnonzero(own >= 0)
        waiting.keep(own[still], still, prepared)
        self._join.release(partner[partner >= 0])
        self._count_others(templates)
        self._links.add(links)
        self.n_templates += templates.n
        return templates

    def _count_others(self, templates: Templates) -> None:
        """Secondary and supplementary records count for the metrics of their library: any template of it will do."""
        for group in np.flatnonzero(self._others).tolist():
            rows = np.flatnonzero(templates.read_group == group)
            if len(rows):
                n = min(int(self._others[group]), _MOST_OTHERS)
                templates.others[rows[0]] = n
                self._others[group] -= n

    def _take_lonely(self) -> Templates:
        """Reads whose mates never came."""
        entries = self._join.waiting()
        self.n_without_mate = len(entries)
        ends, n = _joined(None, self._waiting.ends, entries), len(entries)
        rows = np.arange(n)
        second = np.where(ends.end == _NO_END, ALONE, self._waiting.missing[entries]).astype(np.int64)
        group = self._waiting.group[entries]
        templates = join_ends(ends, rows, second, (ends.end & U(1)).astype(np.bool_), group.astype(np.uint16))
        templates.index = self._join.record[entries]
        templates.unmapped = (ends.end == _NO_END).astype(np.uint16)
        no_mates, names = np.full(n, -1, np.int64), self._waiting.hash[entries].view(np.int64)
        self._links.add(np.stack([templates.index, no_mates, names]))
        self.n_templates += n
        self._count_others(templates)
        return templates


class _WaitingEnds:
    """What is kept of reads whose mates have not come, by entry of the name join."""

    def __init__(self, want_umi: bool) -> None:
        self._want_umi = want_umi
        self.kind, self.group = np.zeros((2, 0), np.int64)
        self.hash = np.zeros(0, np.uint64)
        self.missing = np.zeros(0, np.int8)
        self.ends = self._no_ends(0)

    def _no_ends(self, n: int) -> RecordEnds:
        umi = np.zeros(n, np.uint64) if self._want_umi else None
        location = np.zeros((n, 3), np.int32)
        return RecordEnds(np.zeros(n, np.uint64), np.zeros(n, np.int32), location, np.zeros(n, np.uint8), umi)

    def _grow(self, n: int) -> None:
        more = n - len(self.kind)
        self.kind = np.concatenate([self.kind, np.zeros(more, np.int64)])
        self.group = np.concatenate([self.group, np.zeros(more, np.int64)])
        self.hash = np.concatenate([self.hash, np.zeros(more, np.uint64)])
        self.missing = np.concatenate([self.missing, np.zeros(more, np.int8)])
        self.ends = _joined(self.ends, self._no_ends(more), np.arange(more))

    def keep(self, entries: NDArray[np.int64], rows: NDArray[np.int64], prepared: _Prepared) -> None:
        """Keep rows of a block under entries."""
        if not len(entries):
            return
        top = int(entries.max()) + 1
        if top > len(self.kind):
            self._grow(max(top, 2 * len(self.kind)))
        _put(self.ends, entries, prepared.ends, rows)
        self.kind[entries] = prepared.facts.kind[rows]
        self.group[entries] = prepared.facts.group[rows]
        self.hash[entries] = prepared.facts.hash[rows, 0]
        self.missing[entries] = prepared.missing[rows]


def _put(target: RecordEnds, places: NDArray[np.int64], source: RecordEnds, rows: NDArray[np.int64]) -> None:
    target.end[places] = source.end[rows]
    target.score[places] = source.score[rows]
    target.location[places] = source.location[rows]
    target.flags[places] = source.flags[rows]
    if target.umi is not None and source.umi is not None:
        target.umi[places] = source.umi[rows]


def _joined(front: RecordEnds | None, source: RecordEnds, rows: NDArray[np.int64]) -> RecordEnds:
    """Rows of `source`, behind those of `front`."""
    umi = None if source.umi is None else source.umi[rows]
    found = RecordEnds(source.end[rows], source.score[rows], source.location[rows], source.flags[rows], umi)
    if front is None:
        return found
    if not len(rows):
        return front
    return RecordEnds(
        end=np.concatenate([front.end, found.end]),
        score=np.concatenate([front.score, found.score]),
        location=np.concatenate([front.location, found.location]),
        flags=np.concatenate([front.flags, found.flags]),
        umi=None if umi is None or front.umi is None else np.concatenate([front.umi, umi]),
    )


class _Links:
    """Which records belong to which template."""

    def __init__(self, spill: Spill | None) -> None:
        self._spill = spill
        self._kept: list[NDArray[np.int64]] = []
        self._frames: list[Frame] = []
        self._other_hash: list[NDArray[np.uint64]] = []
        self._other_record: list[NDArray[np.int64]] = []

    def add(self, rows: NDArray[np.int64]) -> None:
        """Templates, int64 [3, n]: number, record of the other mate (-1: none), name."""
        if not rows.size:
            return
        if self._spill is None:
            self._kept.append(rows)
        else:
            self._frames.append(self._spill.append(rows.reshape(-1).view(np.uint8)))

    def add_others(self, name_hash: NDArray[np.uint64], record: NDArray[np.int64]) -> None:
        """Secondary and supplementary records."""
        self._other_hash.append(name_hash)
        self._other_record.append(record)

    def spread(self, flags: NDArray[np.uint8], n_records: int) -> NDArray[np.uint8]:
        """See `ExistingReads.spread`."""
        out = np.zeros((n_records + 7) // 8, np.uint8)
        if not flags.any():
            return out
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._other_hash])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        records = np.concatenate([np.zeros(0, np.int64), *self._other_record])[order]
        for rows in self._all():
            _spread(rows, flags, hashes, records, out)
        return out

    def _all(self) -> Iterator[NDArray[np.int64]]:
        yield from self._kept
        for frame in self._frames:
            assert self._spill is not None
            rows = np.empty(frame.raw_size // 8, np.int64)
            self._spill.read(frame, rows.view(np.uint8))
            yield rows.reshape(3, -1)


# --- kernels ---


@kernel("void(uint8[::1], int64[::1], uint64[::1], int8[::1])")
def _keys_and_flags(data: Any, offsets: Any, keys: Any, missing: Any) -> None:
    """Keys as in `RecordChunk`; clears the duplicate flags; what each read is if its mate never comes."""
    for i in range(len(offsets) - 1):
        p = offsets[U(i)]
        contig, start = np.int64(load_i32(data, p + 4)), np.int64(load_i32(data, p + 8))
        flag = np.int64(load_u16(data, p + 18))
        data[U(p + 19)] &= np.uint8(0xFB)
        keys[U(i)] = _UNPLACED
        if contig >= 0:
            keys[U(i)] = (U(contig) << U(33)) | (U(max(start, np.int64(0)) + 1) << U(1)) | U((flag >> 4) & 1)
        missing[U(i)] = _ALONE
        if flag & 9 == 1:  # a mate that is said to be mapped but has no contig is half a pair for Picard
            missing[U(i)] = _ABSENT if load_i32(data, p + 24) >= 0 else _NOWHERE


@kernel("void(int64[:, ::1], uint8[::1], uint64[::1], int64[::1], uint8[::1])")
def _spread(rows: Any, flags: Any, other_hash: Any, other_record: Any, out: Any) -> None:
    """Set the bits of all records of flagged templates; other_hash is sorted."""
    n_others = len(other_hash)
    for k in range(rows.shape[1]):
        index = rows[0, U(k)]
        if (flags[U(index >> 3)] >> np.uint8(index & 7)) & np.uint8(1) == 0:
            continue
        out[U(index >> 3)] |= np.uint8(1 << (index & 7))
        other = rows[1, U(k)]
        if other >= 0:
            out[U(other >> 3)] |= np.uint8(1 << (other & 7))
        name = U(rows[2, U(k)])
        low, high = np.int64(0), np.int64(n_others)
        while low < high:
            middle = (low + high) >> 1
            if other_hash[U(middle)] < name:
                low = middle + 1
            else:
                high = middle
        while low < n_others and other_hash[U(low)] == name:
            record = other_record[U(low)]
            out[U(record >> 3)] |= np.uint8(1 << (record & 7))
            low += 1
