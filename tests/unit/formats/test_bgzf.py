# SPDX-License-Identifier: Apache-2.0
"""BGZF: round trips, order, virtual offsets, damage."""

from __future__ import annotations

import gzip
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pysam
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats import bgzf


def mixed_bytes(n: int) -> bytes:
    """Half compressible, half not."""
    rng = np.random.default_rng(n)
    data = rng.integers(0, 4, n, dtype=np.uint8)
    data[n // 2 :] = rng.integers(0, 256, n - n // 2, dtype=np.uint8)
    return data.tobytes()


@pytest.mark.parametrize("n", [0, 1, bgzf.BLOCK_SIZE - 1, bgzf.BLOCK_SIZE, bgzf.BLOCK_SIZE + 1, 1_000_000])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_round_trip(n: int, level: int) -> None:
    data = mixed_bytes(n)
    packed = bgzf.compress_blocks(data, level) + bgzf.EOF_BLOCK
    assert gzip.decompress(packed) == data
    inflated = bgzf.decompress(packed, "x")
    assert inflated[: len(inflated) - PADDING].tobytes() == data
    assert not inflated[len(inflated) - PADDING :].any()
    bgzf.check_end(packed, "x")


def test_htslib_reads_it_and_is_read(tmp_path) -> None:
    data = mixed_bytes(200_000)
    ours, theirs = tmp_path / "ours.gz", tmp_path / "theirs.gz"
    ours.write_bytes(bgzf.compress_blocks(data) + bgzf.EOF_BLOCK)
    with pysam.BGZFile(str(ours), "rb") as file:
        assert file.read() == data
    with pysam.BGZFile(str(theirs), "wb") as file:
        file.write(data)
    packed = theirs.read_bytes()
    bgzf.check_end(packed, theirs)
    assert bgzf.decompress(packed, theirs)[:-PADDING].tobytes() == data


@pytest.mark.parametrize("threads", [0, 3])
def test_writer_keeps_order_and_offsets(threads: int) -> None:
    rng = np.random.default_rng(1)
    data = mixed_bytes(5_000_000)
    raw = io.BytesIO()
    pool = ThreadPoolExecutor(threads) if threads else None
    writer = bgzf.BgzfWriter(raw, pool=pool, in_flight=2)
    places = [0]
    while places[-1] < len(data):
        piece = data[places[-1] : places[-1] + int(rng.integers(1, 400_000))]
        writer.write(piece)
        places.append(writer.tell())
        if rng.random() < 0.3:
            writer.flush_block()
    writer.close()
    if pool:
        pool.shutdown()
    packed = raw.getvalue()
    assert gzip.decompress(packed) == data
    for place, virtual in zip(places[:-1], writer.virtual_offsets(np.array(places[:-1])).tolist()):
        body = bgzf.inflate_block(packed, bgzf.read_block_at(packed, virtual >> 16, "x"), "x")
        expected = data[place : place + 50]
        assert body[virtual & 0xFFFF :][:50] == expected[: len(body) - (virtual & 0xFFFF)]
        assert len(body) > virtual & 0xFFFF
    end = int(writer.virtual_offsets(np.array([len(data)]))[0])
    assert end == (len(packed) - len(bgzf.EOF_BLOCK)) << 16


def test_every_truncation_is_noticed() -> None:
    packed = bgzf.compress_blocks(mixed_bytes(70_000)) + bgzf.EOF_BLOCK
    for stop in [1, 5, 17, 100, len(packed) - 29, len(packed) - 28, len(packed) - 1]:
        with pytest.raises(InputFormatError, match="truncated"):
            bgzf.check_end(packed[:stop], "cut.bam")
        if stop != len(packed) - 28:  # there the cut lies between two blocks
            with pytest.raises(InputFormatError, match="truncated"):
                bgzf.decompress(packed[:stop], "cut.bam")


def test_damage_names_the_byte() -> None:
    first = bgzf.compress_blocks(b"A" * 1000)
    packed = bytearray(first + bgzf.compress_blocks(mixed_bytes(5000)) + bgzf.EOF_BLOCK)
    packed[len(first) + 60] ^= 0xFF
    with pytest.raises(InputFormatError, match="damaged block") as caught:
        bgzf.decompress(bytes(packed), "bad.bam")
    assert caught.value.where == f"byte {len(first)}"
    packed[len(first)] = 0
    with pytest.raises(InputFormatError, match="no BGZF block") as caught:
        bgzf.decompress(bytes(packed), "bad.bam")
    assert caught.value.where == f"byte {len(first)}"


def test_plain_gzip_is_not_bgzf() -> None:
    with pytest.raises(InputFormatError, match="BGZF"):
        bgzf.decompress(gzip.compress(b"x"), "plain.gz")


def test_flipped_bits_never_pass_silently() -> None:
    data = mixed_bytes(3000)
    packed = bgzf.compress_blocks(data)
    rng = np.random.default_rng(3)
    for _ in range(200):
        bad = bytearray(packed)
        i = int(rng.integers(10, len(bad)))  # bytes 4..9 (time, flags, system) carry no data
        bad[i] ^= 1 << int(rng.integers(8))
        try:
            inflated = bgzf.decompress(bytes(bad), "x")[:-PADDING].tobytes()
        except InputFormatError:
            continue
        assert inflated == data
