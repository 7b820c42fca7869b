# SPDX-License-Identifier: Apache-2.0
"""Pieces hold the bytes of the sorted blocks one after another, whatever their size and wherever records lie."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from megabolt.align.record import UNPLACED, RecordChunk
from megabolt.reads.arena import BufferPool
from megabolt.reads.bins import BIN_BASES, BinStore, Finish
from megabolt.reads.pieces import Piece, cut
from megabolt.reads.scratch import SpillFile

CONTIGS = [BIN_BASES + 1000, 400_000, 3 * BIN_BASES // 2]


def records(n: int) -> RecordChunk:
    """Single reads with any place, or none, of 40 to 700 bytes."""
    rng = np.random.default_rng(5)
    chunk = RecordChunk.allocate(n, 800)
    p = 0
    for i in range(n):
        contig = int(rng.integers(-1, len(CONTIGS)))
        start = int(rng.integers(CONTIGS[contig])) if contig >= 0 else -1
        flag = 0x10 * int(rng.integers(2)) if contig >= 0 else 4
        size = int(rng.integers(0, 660))
        body = struct.pack("<iiBBHHHIiiii", contig, start, 2, 60, 0, 0, flag, 0, -1, -1, 0, i) + b"\0" * size
        record = struct.pack("<I", len(body)) + body
        chunk.data[p : p + len(record)] = np.frombuffer(record, np.uint8)
        chunk.offsets[i], chunk.ordinal[i] = p, i
        chunk.key[i] = contig << 33 | (start + 1) << 1 | int(flag == 0x10) if contig >= 0 else UNPLACED
        p += len(record)
    chunk.offsets[n] = p
    chunk.n_pairs = chunk.n_records = n
    return chunk


def filled(n: int, budget: int, folder: Path) -> BinStore:
    store = BinStore(CONTIGS, budget, lambda: SpillFile(folder), ordinal_shift=0)
    store.add(records(n))
    store.duplicate = np.packbits(np.arange(n) % 3 == 0, bitorder="little")
    store.seal()
    return store


def blocks(n: int, folder: Path, finish: Finish) -> tuple[bytes, list[int]]:
    """All sorted records by way of blocks, and where each begins."""
    store, pool = filled(n, 1 << 28, folder), BufferPool()
    content, begins = b"", []
    for part in store.parts():
        own = store.sorted_part(part, pool, finish=finish).own()
        begins += [len(content) + int(at) - int(own.offsets[0]) for at in own.offsets[:-1]]
        content += own.data[own.offsets[0] : own.offsets[-1]].tobytes()
    return content, begins


@pytest.mark.parametrize("size", [700, 5000, 1 << 20])
@pytest.mark.parametrize("budget", [1 << 28, 1 << 19])
@pytest.mark.parametrize("remove", [False, True])
def test_pieces_are_the_sorted_blocks(size: int, budget: int, remove: bool, tmp_path: Path) -> None:
    n = 2000
    expected, begins = blocks(n, tmp_path, Finish(remove=remove))
    store, pool = filled(n, budget, tmp_path), BufferPool()
    parts = store.parts()
    assert (store.spilled_bytes > 0) == (len(parts) > store.layout.n_bins + 1) == (budget < 1 << 20)
    filler = store.piece_filler(size)
    content, found, done = b"", [], []
    for piece in cut((store.order_of(part, pool, remove=remove) for part in parts), size):
        one = filler.fill(piece)
        assert len(one.content) == piece.n_bytes
        found += [len(content) + one.ahead + int(at - one.begun.offsets[0]) for at in one.begun.offsets[:-1]]
        last = slice(int(one.begun.offsets[-2]), int(one.begun.offsets[-1])) if one.begun.n else slice(0)
        whole = one.begun.data[last].tobytes()
        assert not whole or len(whole) == 4 + struct.unpack_from("<I", whole)[0]
        content += one.content.tobytes()
        for part in piece.done:
            store.forget(part, pool)
            done.append(part.part)
        filler.give_back(one)
    assert content == expected
    assert found == begins
    assert done == parts
    assert store.used == 0


def test_all_pieces_but_the_last_are_full(tmp_path: Path) -> None:
    store, pool = filled(500, 1 << 28, tmp_path), BufferPool()
    pieces: list[Piece] = list(cut((store.order_of(part, pool) for part in store.parts()), 3000))
    assert {piece.n_bytes for piece in pieces[:-1]} == {3000}
    assert 0 < pieces[-1].n_bytes <= 3000
    assert sum(piece.n_bytes for piece in pieces) == len(blocks(500, tmp_path, Finish())[0])


def test_no_records_no_bytes(tmp_path: Path) -> None:
    store, pool = filled(0, 1 << 28, tmp_path), BufferPool()
    pieces = list(cut((store.order_of(part, pool) for part in store.parts()), 3000))
    assert [piece.n_bytes for piece in pieces] == [0]
    assert len(pieces[0].done) == store.layout.n_bins + 1
    one = store.piece_filler(3000).fill(pieces[0])
    assert (one.begun.n, len(one.content)) == (0, 0)
