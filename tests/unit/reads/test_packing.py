# SPDX-License-Identifier: Apache-2.0
"""Packed records: as a plain rendering of the format has them, and the same bytes when they are unpacked."""

from __future__ import annotations

import struct
from itertools import groupby, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.reads.bin_kernels import SOURCE_SHIFT
from megabolt.reads.packing import NO_TAG, PACKING_BYTES, gather, pack_records, packed_room

RAW = 0xFFFF


def record(bases: str, qualities: bytes, name: str = "r", n_cigar: int = 1, tags: bytes = b"") -> bytes:
    codes = ["=ACMGRSVTWYHKDBN".index(base) for base in bases]
    packed = bytes(16 * a + b for a, b in zip(codes[::2], [*codes, 0][1::2]))
    fixed = struct.pack("<iiBBHHHIiii", 3, 77, len(name) + 1, 60, 4681, n_cigar, 99, len(bases), 3, 99, 172)
    body = fixed + name.encode() + b"\0" + struct.pack("<I", 16 * len(bases)) * n_cigar + packed + qualities + tags
    return struct.pack("<I", len(body)) + body


def packed_by_hand(plain: bytes) -> bytes:
    """The packed form, base by base and quality by quality."""
    n_name, n_cigar, length = plain[12], *struct.unpack_from("<H2xI", plain, 16)
    start = 36 + n_name + 4 * n_cigar
    middle = start + (length + 1) // 2
    bases, qualities = plain[start:middle], plain[middle : middle + length]
    coded = 0
    if all(half in (1, 2, 4, 8) for byte in bases[: length // 16 * 8] for half in (byte >> 4, byte & 15)):
        coded = 1
        words = []
        for k in range(length // 16):
            halves = [half for byte in bases[8 * k : 8 * k + 8] for half in (byte & 15, byte >> 4)]
            words.append(sum((1, 2, 4, 8).index(half) << 2 * i for i, half in enumerate(halves)))
        bases = struct.pack(f"<{len(words)}I", *words) + bases[8 * len(words) :]
    pairs: list[tuple[int, int]] = []
    for value, same in groupby(qualities):
        n = len(list(same))
        pairs += [(value, min(64, n - at)) for at in range(0, n, 64)]
    size, done = 2 * len(pairs), 0
    for k, (_, run) in enumerate(pairs):
        if 2 * k + 2 > min(length // 2, done // 2 + 16):
            size = RAW
        done += run
    if size != RAW:
        qualities = bytes(byte for pair in pairs for byte in pair)
    rest = plain[:4] + struct.pack("<HB", size, coded) + plain[4:start] + bases + qualities + plain[middle + length :]
    return struct.pack("<I", len(rest)) + rest


def records() -> list[bytes]:
    rng = np.random.default_rng(2)
    found = [record("", b""), record("N" * 40, bytes(40)), record("ACGT" * 40, b"\xff" * 160), record("A", b"!")]
    for length in [*range(1, 50), 100, 150, 151, 250, 301]:
        for steady, letters in ((0.95, "ACGT"), (0.5, "ACGT"), (0.0, "ACGTN")):
            qualities, last = [], 37
            for _ in range(length):
                last = last if rng.random() < steady else int(rng.integers(2, 42))
                qualities.append(last)
            tags = b"NMC\1" * int(rng.integers(3))
            name = "n" * int(rng.integers(1, 99))
            found.append(
                record("".join(rng.choice(list(letters), length)), bytes(qualities), name, int(rng.integers(4)), tags)
            )
    return found


def joined(plain: list[bytes], before: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = np.frombuffer(bytes(before) + b"".join(plain) + bytes(PADDING), np.uint8).copy()
    return data, before + np.cumsum([0, *map(len, plain)])


def unpacked(data: NDArray[np.uint8], packed: NDArray[np.int64], sizes: list[int]) -> list[bytes]:
    n = len(sizes)
    out, offsets = np.zeros(sum(sizes) + PADDING, np.uint8), np.zeros(n + 1, np.int64)
    sources = packed[:-1] | (np.array(sizes, np.int64) << SOURCE_SHIFT)
    none = np.zeros(0, np.uint8)
    assert gather(data, sources, np.arange(n, dtype=np.uint64), 0, none, none, 0, NO_TAG, out, offsets) == n
    return [out[a:b].tobytes() for a, b in pairwise(offsets)]


@pytest.mark.parametrize("before", [0, 5])
def test_packed_as_by_hand_and_back(before: int) -> None:
    plain = records()
    data, offsets = joined(plain, before)
    buffer = np.zeros(packed_room(offsets), np.uint8)
    packed = pack_records(data, offsets, buffer)
    for one, first, last in zip(plain, packed[:-1], packed[1:]):
        assert buffer[first:last].tobytes() == packed_by_hand(one)
        assert last - first <= len(one) + PACKING_BYTES
    assert unpacked(buffer, packed, [len(one) for one in plain]) == plain


def test_an_ordinary_read_takes_three_fifths() -> None:
    plain = record("ACGT" * 37 + "AC", bytes([37] * 100 + [23] * 9 + [37] * 41), "m" * 40, 1, b"NMC\0" * 12)
    data, offsets = joined([plain])
    packed = pack_records(data, offsets, np.zeros(packed_room(offsets), np.uint8))
    assert packed[-1] < 0.6 * len(plain)


def test_what_is_no_record_comes_back_as_it_was() -> None:
    odd = [
        struct.pack("<I", 60) + bytes([200]) * 60,
        struct.pack("<I", 33) + bytes(33),
        record("ACGT" * 9, b"") + b"x" * 3,
    ]
    odd[2] = struct.pack("<I", len(odd[2]) - 4) + odd[2][4:]
    data, offsets = joined(odd)
    buffer = np.zeros(packed_room(offsets), np.uint8)
    packed = pack_records(data, offsets, buffer)
    assert unpacked(buffer, packed, [len(one) for one in odd]) == odd
