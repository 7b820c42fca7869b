# SPDX-License-Identifier: Apache-2.0
"""Bins: every record once, sorted, halos complete, the same for any order of arrival."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabolt.align.record import NO_END, RECORDS_PER_READ, UNPLACED, RecordChunk
from megabolt.errors import InternalError, OutputError, ResourceError
from megabolt.reads.arena import SLAB_BYTES, BufferPool
from megabolt.reads.bins import (
    BIN_BASES,
    HALO,
    TAG_ALL,
    TAG_OPTICAL,
    BinLayout,
    BinStore,
    Finish,
    Region,
    slice_block,
)
from megabolt.reads.scratch import SpillFile

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
    for k in range(store.layout.n_bins + 1):
        a, b = store.sorted_block(k, pool).records, other.sorted_block(k, pool).records
        assert parse(a) == parse(b)


def test_mapped_records_of_duplicates_are_flagged() -> None:
    chunk = fake_chunk(np.random.default_rng(1), 50, 0)
    store, pool = BinStore(CONTIGS, 1 << 26), BufferPool()
    store.add(chunk)
    store.duplicate = np.packbits(np.isin(np.arange(50), (10, 12)), bitorder="little")
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
    store.duplicate = np.zeros(n // 8 + 1, np.uint8)  # takes no memory until it is written
    store.duplicate[(n - 1) >> 3] = 1 << ((n - 1) & 7)
    rows = parse(store.sorted_block(0, pool).own())
    assert [row[3] for row in rows] == sorted(row[3] for row in rows)
    assert len(rows) == chunk.n_records
    for row in rows:
        assert bool(row[2] & 0x400) == (row[3] // (2 * RECORDS_PER_READ) == n - 1 and not row[2] & 0x4)


def test_too_little_memory_says_how_much_is_needed() -> None:
    store = BinStore(CONTIGS, 4 * SLAB_BYTES)
    chunk = fake_chunk(np.random.default_rng(1), 500, 0)
    with pytest.raises(ResourceError, match=r"fill the 0\.00 GB(.|\n)*--memory"):
        store.add(chunk)


def test_an_empty_store_has_empty_blocks() -> None:
    store, pool = BinStore(CONTIGS, 1 << 26), BufferPool()
    assert parse(store.sorted_block(0, pool).own()) == []
    assert parse(store.sorted_block(store.layout.n_bins, pool).own()) == []


# --- beyond memory ---

TINY = 1 << 20


def fill_tiny(chunks: list[RecordChunk], folder: Path, *, budget: int = TINY, n_threads: int = 3) -> BinStore:
    """A store that holds a part of the records in memory, filled by several threads."""
    store = BinStore(CONTIGS, budget, lambda: SpillFile(folder))
    threads = [
        threading.Thread(target=lambda part: [store.add(chunk) for chunk in part], args=(chunks[k::n_threads],))
        for k in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return store


def many_chunks(n_pairs: int = 6000, per_chunk: int = 250) -> list[RecordChunk]:
    """4 MB of records by default."""
    rng = np.random.default_rng(11)
    return [fake_chunk(rng, per_chunk, first) for first in range(0, n_pairs, per_chunk)]


def sorted_rows(store: BinStore, finish: Finish | None = None) -> list[Any]:
    """The own records of all parts."""
    pool, found = BufferPool(), []
    for part in store.parts():
        block = store.sorted_part(part, pool, finish=finish or Finish())
        found += parse(block.own())
        pool.give_back(block.records.data)
    return found


@pytest.mark.parametrize(("budget", "room"), [(TINY, 0), (2 * TINY, TINY), (3 * TINY, 3 * TINY), (64 * TINY, 0)])
def test_any_budget_gives_the_sorted_input(tmp_path: Path, budget: int, room: int) -> None:
    chunks = many_chunks()
    store = fill_tiny(chunks, tmp_path, budget=budget)
    assert store.used <= budget
    assert (store.spilled_bytes > 0) == (budget < 4 * TINY)
    store.seal(room, threads=2)
    assert store.used <= budget - room
    parts = store.parts()
    assert (len(parts) > store.layout.n_bins + 1) == (budget < 4 * TINY)
    assert max(part.n_bytes for part in parts) <= budget // 4
    assert sorted_rows(store) == all_records(chunks)
    assert store.used == 0


def test_parts_have_their_halos(tmp_path: Path) -> None:
    chunks = many_chunks()
    everything = all_records(chunks)
    by_contig = {c: [row for row in everything if row[0] == c] for c in range(len(CONTIGS))}
    store, pool, covered = fill_tiny(chunks, tmp_path), BufferPool(), Counter()
    for part in store.parts():
        block = store.sorted_part(part, pool)
        for region, start, stop in part.stretches(store.layout):
            covered[region.contig] += stop - start
            expected = [row for row in by_contig[region.contig] if start - HALO <= row[1] < stop + HALO]
            assert parse(block.around(region, start, stop)) == expected
    assert [covered[c] for c in range(len(CONTIGS))] == CONTIGS


def test_a_chunk_may_be_larger_than_the_budget(tmp_path: Path) -> None:
    chunks = many_chunks(per_chunk=6000)
    assert len(chunks) == 1
    assert sorted_rows(fill_tiny(chunks, tmp_path)) == all_records(chunks)


def test_blocks_of_a_bin_come_in_order(tmp_path: Path) -> None:
    chunks, pool = many_chunks(), BufferPool()
    store = fill_tiny(chunks, tmp_path)
    n = store.layout.n_bins
    found = [parse(block.own()) for k in range(n + 1) for block in store.blocks_of(k, pool)]
    assert len(found) > n + 1
    assert [row for rows in found for row in rows] == all_records(chunks)


def test_records_of_bins_are_there_once_and_stay(tmp_path: Path) -> None:
    chunks = many_chunks()
    store = fill_tiny(chunks, tmp_path)
    store.duplicate = np.full(1000, 0xFF, np.uint8)
    for _ in range(2):
        blocks = [parse(block) for k in range(store.layout.n_bins + 1) for block in store.records_of(k)]
        rows = [row for block in blocks for row in block]
        assert len(blocks) > 20
        expected = Counter((*row[:2], row[2] | (0 if row[2] & 4 else 0x400), row[3]) for row in all_records(chunks))
        assert Counter(row[:4] for row in rows) == expected
    assert len(sorted_rows(store)) == len(rows)


def test_scratch_that_fails_stops_every_thread(tmp_path: Path) -> None:
    class Broken(SpillFile):
        def append(self, buffer: Any) -> Any:
            raise OutputError("no room")

    store = BinStore(CONTIGS, TINY, lambda: Broken(tmp_path))
    errors = []

    def work(chunks: list[RecordChunk]) -> None:
        try:
            for chunk in chunks:
                store.add(chunk)
        except OutputError as error:
            errors.append(error.why)

    chunks = many_chunks()
    threads = [threading.Thread(target=work, args=(chunks[k::3],)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == ["no room"] * 3


def test_too_many_reads_at_one_place_are_named(tmp_path: Path) -> None:
    chunks = many_chunks()
    for chunk in chunks:
        chunk.key[: chunk.n_records] = 1 << 33 | 501 << 1  # contig 1, base 501
    store = BinStore(CONTIGS, TINY, lambda: SpillFile(tmp_path), contig_names=["a", "b", *"cdefg"])
    for chunk in chunks:
        store.add(chunk)
    with pytest.raises(
        ResourceError, match=r"around b:1 take \d MB, more than a quarter of the 1 MB(.|\n)*Give 2\d MB"
    ):
        store.parts()


def test_duplicates_can_be_left_out(tmp_path: Path) -> None:
    chunks = many_chunks(2000)
    store = fill_tiny(chunks, tmp_path)
    copies = np.random.default_rng(3).random(2000) < 0.3
    store.duplicate = np.packbits(copies, bitorder="little")
    expected = [row for row in all_records(chunks) if not copies[row[3] // (2 * RECORDS_PER_READ)]]
    assert sorted_rows(store, Finish(remove=True)) == expected


def with_tags(record: bytes, tags: bytes) -> bytes:
    return struct.pack("<I", len(record) - 4 + len(tags)) + record[4:] + tags


def tagged_chunk(tags: list[bytes]) -> RecordChunk:
    """Template i has one mapped record with tags[i] at its end."""
    chunk, p = RecordChunk.allocate(len(tags), 700), 0
    for i, tag in enumerate(tags):
        record = with_tags(fake_record(0, 100 + i, 0, i, 0), tag)
        chunk.data[p : p + len(record)] = np.frombuffer(record, np.uint8)
        chunk.offsets[i], chunk.key[i], chunk.ordinal[i] = p, (101 + i) << 1, i
        p += len(record)
    chunk.offsets[len(tags)] = p
    chunk.signature[:] = NO_END
    chunk.n_pairs = chunk.n_records = len(tags)
    return chunk


BEFORE = b"NMC\x01XAZDT,5;\0XHH00\0XBBS\x02\0\0\0DTDTXfBI\x01\0\0\0aaaaXAAxXsS\x01\x02XiI\0\0\0\1XFBc\x03\0\0\0DTZ"


@pytest.mark.parametrize("tagging", [TAG_OPTICAL, TAG_ALL])
def test_duplicates_are_tagged_as_picard_does_it(tagging: int) -> None:
    tags = [b"", BEFORE, BEFORE + b"DTZLB\0" + BEFORE, b"DTZSQ\0", b"", b"DTZold\0"]
    store = BinStore(CONTIGS, TINY, ordinal_shift=0)
    store.add(tagged_chunk(tags))
    store.duplicate = np.packbits([1, 1, 1, 1, 0, 0], bitorder="little")
    store.optical = np.packbits([0, 1, 1, 0, 0, 0], bitorder="little")
    library = [b"DTZLB\0"] * 2 if tagging == TAG_ALL else [b"", b"DTZSQ\0"]
    expected = [library[0], BEFORE + b"DTZSQ\0", 2 * BEFORE + b"DTZSQ\0", library[1], b"", b"DTZold\0"]
    rows = parse(store.sorted_block(0, BufferPool(), finish=Finish(tagging=tagging)).own())
    assert [row[4][38:] for row in rows] == expected
    assert [bool(row[2] & 0x400) for row in rows] == [True] * 4 + [False] * 2


def test_flags_must_reach_to_the_last_template() -> None:
    store = BinStore(CONTIGS, 1 << 26)
    store.add(fake_chunk(np.random.default_rng(1), 9, 0))
    store.duplicate = np.zeros(1, np.uint8)
    with pytest.raises(InternalError, match="flags of 8 templates, records of 9"):
        store.sorted_block(0, BufferPool())


def test_records_longer_than_a_slab_are_refused() -> None:
    store, chunk = BinStore(CONTIGS, 1 << 28), tagged_chunk([b""])
    chunk.offsets[1] = SLAB_BYTES - 7
    with pytest.raises(ResourceError, match="a record of 131,065 bytes is too long"):
        store.add(chunk)


PEAK = """
import sys
from pathlib import Path
import numpy as np
from megabolt.align.record import RecordChunk
from megabolt.compute.bits import PADDING
from megabolt.reads.arena import BufferPool
from megabolt.reads.bins import BinStore
from megabolt.reads.scratch import SpillFile

def high_water(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))

def run(budget, n_chunks):
    store = BinStore([20 << 20], budget, lambda: SpillFile(Path(sys.argv[1])))
    for k in range(n_chunks):
        chunk.first_pair = k * n // 2
        records[:, 36:] = rng.integers(0, 256, (n, 364), np.uint8)
        store.add(chunk)
    parts, pool, total = store.parts(), BufferPool(), 0
    store.seal(3 * max(part.n_bytes for part in parts))
    for part in parts:
        block = store.sorted_part(part, pool)
        total += block.last - block.first
        pool.give_back(block.records.data)
    assert total == n * n_chunks
    return store.spilled_bytes

n, rng = 8192, np.random.default_rng(1)
data = np.zeros(n * 400 + PADDING, np.uint8)
records = data[: n * 400].reshape(n, 400)
places = rng.integers(0, 20 << 20, n)
records[:, :4] = np.frombuffer(np.uint32(396).tobytes(), np.uint8)
chunk = RecordChunk(
    data, np.arange(n + 1) * 400, (places.astype(np.uint64) + 1) << np.uint64(1), np.arange(n) * 16,
    np.full((n // 2, 2), (1 << 64) - 1, np.uint64), np.zeros(n // 2, np.int32), n_pairs=n // 2, n_records=n,
)
run(1 << 22, 2)
Path("/proc/self/clear_refs").write_text("5")
before = high_water("VmRSS")
spilled = run(64 << 20, 80)
print(spilled, high_water("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    """262 MB of records that cannot be compressed, 67 MB for them."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spilled, peak = map(int, done.stdout.split())
    assert spilled > 180e6
    assert peak < 1.1 * (64 << 20)
