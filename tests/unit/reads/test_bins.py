# SPDX-License-Identifier: Apache-2.0
"""Bins: every record once, sorted, halos complete, the same for any order of arrival."""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
import pytest

from megabolt.align.record import NO_END, RECORDS_PER_READ, UNPLACED, RecordChunk
from megabolt.errors import InternalError, ResourceError
from megabolt.reads.arena import SLAB_BYTES, Arena, BufferPool
from megabolt.reads.bins import BIN_BASES, HALO, BinLayout, BinStore, Region, slice_block

TENTH = BIN_BASES // 10
CONTIGS = [2 * BIN_BASES + 1000, TENTH, 2 * TENTH, BIN_BASES, 7 * TENTH, 2 * TENTH, TENTH + 10]


def fake_record(contig: int, start: int, reverse: int, ordinal: int, length: int) -> bytes:
    """A record with the fields that bins look at; its name is its ordinal."""
    name = b"%d\0" % ordinal
    flag = (0x10 if reverse else 0) | (0x4 if contig < 0 else 0)
    body = struct.pack("<iiBBHHHIiii", contig, start, len(name), 60, 0, 0, flag, 0, -1, -1, 0) + name
    return struct.pack("<I", len(body) + length) + body + bytes([ordinal % 251]) * length


def fake_chunk(rng: np.random.Generator, n_pairs: int, first_pair: int) -> RecordChunk:
    """Two records a pair and now and then up to two more, each with any place."""
    chunk = RecordChunk.allocate(3 * n_pairs, 700)
    p = n = 0
    for i in range(2 * n_pairs):
        for k in range(int(rng.choice([1, 1, 1, 1, 2, 3]))):
            contig = int(rng.integers(-1, len(CONTIGS)))
            start, reverse = -1, 0
            if contig >= 0:
                edge = int(rng.choice([0, BIN_BASES, 2 * BIN_BASES]))
                start = int(rng.integers(edge - 2 * HALO, edge + 2 * HALO))
                if rng.random() < 0.5 or not 0 <= start < CONTIGS[contig]:
                    start = int(rng.integers(0, CONTIGS[contig]))
                reverse = int(rng.integers(2))
            ordinal = i * RECORDS_PER_READ + k
            name = 2 * RECORDS_PER_READ * first_pair + ordinal
            record = fake_record(contig, start, reverse, name, int(rng.integers(1, 600)))
            chunk.data[p : p + len(record)] = np.frombuffer(record, np.uint8)
            chunk.offsets[n] = p
            chunk.key[n] = contig << 33 | (start + 1) << 1 | reverse if contig >= 0 else UNPLACED
            chunk.ordinal[n] = ordinal
            p += len(record)
            n += 1
    chunk.offsets[n] = p
    chunk.signature[:] = NO_END
    chunk.n_pairs, chunk.n_records, chunk.first_pair = n_pairs, n, first_pair
    return chunk


def parse(block: Any) -> list[tuple[int, int, int, int, bytes]]:
    """(contig, start, flag, ordinal, whole record) of each record of a block."""
    rows = []
    for i in range(len(block.offsets) - 1):
        raw = bytes(block.data[block.offsets[i] : block.offsets[i + 1]])
        assert struct.unpack_from("<I", raw)[0] == len(raw) - 4
        contig, start, name_length = struct.unpack_from("<iiB", raw, 4)
        rows.append((contig, start, struct.unpack_from("<H", raw, 18)[0], int(raw[36 : 35 + name_length]), raw))
    return rows


def make_chunks() -> list[RecordChunk]:
    rng = np.random.default_rng(7)
    return [fake_chunk(rng, n, first) for n, first in ((300, 0), (1, 300), (700, 301), (999, 1001))]


def all_records(chunks: list[RecordChunk]) -> list[Any]:
    rows = [row for chunk in chunks for row in parse(slice_block(chunk, 0, chunk.n_records))]  # type: ignore[arg-type]
    big = 1 << 40
    return sorted(rows, key=lambda row: (row[0] if row[0] >= 0 else big, row[1], bool(row[2] & 0x10), row[3]))


def fill(chunks: list[RecordChunk]) -> BinStore:
    store = BinStore(CONTIGS, 1 << 28)
    for chunk in chunks:
        store.add(chunk)
    store.resolve_duplicates()
    return store


def test_layout_cuts_long_contigs_and_packs_short_ones() -> None:
    layout = BinLayout(CONTIGS)
    assert layout.regions == [
        [Region(0, 0, BIN_BASES, 0)],
        [Region(0, BIN_BASES, 2 * BIN_BASES, 0)],
        [Region(0, 2 * BIN_BASES, 2 * BIN_BASES + 1000, 0)],
        [Region(1, 0, TENTH, 0), Region(2, 0, 2 * TENTH, TENTH)],
        [Region(3, 0, BIN_BASES, 0)],
        [Region(4, 0, 7 * TENTH, 0), Region(5, 0, 2 * TENTH, 7 * TENTH)],
        [Region(6, 0, TENTH + 10, 0)],
    ]
    assert layout.first_bin.tolist() == [0, 3, 3, 4, 5, 5, 6]
    assert layout.last_bin.tolist() == [2, 3, 3, 4, 5, 5, 6]


def test_own_records_of_all_bins_are_the_sorted_input() -> None:
    chunks = make_chunks()
    store, pool, found = fill(chunks), BufferPool(), []
    for k in range(store.layout.n_bins + 1):
        block = store.sorted_block(k, pool)
        found += parse(block.own())
        pool.give_back(block.records.data)
    assert found == all_records(chunks)
    assert store.used < 2 * store.n_pairs  # the slabs are free again


def test_records_around_a_stretch_come_from_neighbouring_bins_too() -> None:
    chunks = make_chunks()
    everything, store, pool = all_records(chunks), fill(chunks), BufferPool()
    for k, regions in enumerate(store.layout.regions):
        block = store.sorted_block(k, pool)
        for region in regions:
            for start in range(region.start, region.stop, BIN_BASES // 4):
                stop = min(start + BIN_BASES // 4, region.stop)
                expected = [
                    row for row in everything if row[0] == region.contig and start - HALO <= row[1] < stop + HALO
                ]
                assert parse(block.around(region, start, stop)) == expected


def test_the_order_of_arrival_does_not_matter() -> None:
    chunks, pool = make_chunks(), BufferPool()
    store, other = fill(chunks), BinStore(CONTIGS, 1 << 28)
    threads = [threading.Thread(target=other.add, args=(chunk,)) for chunk in chunks[::-1]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.resolve_duplicates()
    for k in range(store.layout.n_bins + 1):
        a, b = store.sorted_block(k, pool).records, other.sorted_block(k, pool).records
        assert parse(a) == parse(b)


def test_mapped_records_of_duplicates_are_flagged() -> None:
    chunk = fake_chunk(np.random.default_rng(1), 50, 0)
    chunk.signature[10:13] = [2000, 3000]
    chunk.quality_sum[10:13] = [5, 9, 1]
    store, pool = BinStore(CONTIGS, 1 << 26), BufferPool()
    store.add(chunk)
    assert store.resolve_duplicates() == 2
    rows = [row for k in range(store.layout.n_bins + 1) for row in parse(store.sorted_block(k, pool).own())]
    assert len(rows) == chunk.n_records > 100
    pairs = [row[3] // (2 * RECORDS_PER_READ) for row in rows]
    assert pairs.count(10) + pairs.count(12) > 4  # further records are flagged as well
    for pair, row in zip(pairs, rows):
        assert bool(row[2] & 0x400) == (pair in (10, 12) and not row[2] & 0x4)


def test_ordinals_of_the_largest_inputs_do_not_run_into_each_other() -> None:
    n = 2**31 + 3  # pairs: more than a genome at 200x has
    chunk = fake_chunk(np.random.default_rng(1), 2, n - 2)
    chunk.key[: chunk.n_records] = 7 << 1  # all at one place: the ordinal decides
    store, pool = BinStore(CONTIGS, 1 << 26), BufferPool()
    store.add(chunk)
    store.duplicate = np.zeros(n, np.uint8)  # takes no memory until it is written
    store.duplicate[n - 1] = 1
    rows = parse(store.sorted_block(0, pool).own())
    assert [row[3] for row in rows] == sorted(row[3] for row in rows)
    assert len(rows) == chunk.n_records
    for row in rows:
        assert bool(row[2] & 0x400) == (row[3] // (2 * RECORDS_PER_READ) == n - 1 and not row[2] & 0x4)


def test_libraries_are_apart() -> None:
    store = BinStore(CONTIGS, 1 << 26)
    for k, library in enumerate((0, 1, 1)):
        chunk = fake_chunk(np.random.default_rng(1), 1, k)
        chunk.signature[0] = [2000, 3000]
        store.add(chunk, library)
    assert store.resolve_duplicates() == 1
    assert store.duplicate.tolist() == [0, 0, 1]


def test_too_little_memory_says_how_much_is_needed() -> None:
    store = BinStore(CONTIGS, 4 * SLAB_BYTES)
    chunk = fake_chunk(np.random.default_rng(1), 500, 0)
    with pytest.raises(ResourceError, match=r"fill the 0\.00 GB(.|\n)*--memory"):
        store.add(chunk)


def test_a_missing_batch_is_our_bug() -> None:
    store = BinStore(CONTIGS, 1 << 26)
    store.add(fake_chunk(np.random.default_rng(1), 2, 5))
    with pytest.raises(InternalError, match="read pair 1 is missing"):
        store.resolve_duplicates()


def test_an_empty_store_has_empty_blocks() -> None:
    store, pool = BinStore(CONTIGS, 1 << 26), BufferPool()
    assert store.resolve_duplicates() == 0
    assert parse(store.sorted_block(0, pool).own()) == []
    assert parse(store.sorted_block(store.layout.n_bins, pool).own()) == []


def test_arena_hands_released_slabs_out_again() -> None:
    arena = Arena(3 * SLAB_BYTES)
    starts = [arena.take() for _ in range(4)]
    assert starts == [0, SLAB_BYTES, 2 * SLAB_BYTES, None]
    arena.data[:] = 1
    arena.release([SLAB_BYTES, 0])
    assert arena.used == SLAB_BYTES
    assert {arena.take(), arena.take()} == {0, SLAB_BYTES}
    assert arena.take() is None


def test_pool_prefers_the_smallest_buffer_that_fits() -> None:
    pool = BufferPool()
    small, large = pool.take(1000), pool.take(100_000)
    pool.give_back(large)
    pool.give_back(small)
    assert pool.take(900) is small
    assert pool.take(900) is large
