# SPDX-License-Identifier: Apache-2.0
"""BGZF in order, by any number of threads: the same bytes as gzip gives; damage is named with its byte."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats import bgzf
from megabolt.formats.bgzf_stream import BgzfStream, block_size
from megabolt.formats.fastq import read_lanes
from megabolt.formats.inflate import InputStream
from megabolt.formats.lane import FastqLane
from megabolt.privacy.consent import authorize

RNG = np.random.default_rng(5)
#: 9 MB that compress well, then some that do not: several tasks, blocks of all sizes.
DATA = RNG.integers(65, 70, 3_000_000, np.uint8).tobytes() + bytes(6_000_000) + RNG.bytes(400_000)
THREADS = pytest.mark.parametrize("threads", [0, 1, 3])


def packed(data: bytes = DATA, end: bytes = bgzf.EOF_BLOCK) -> bytes:
    return bgzf.compress_blocks(data) + end


def content_of(raw: BinaryIO, threads: int, front: int = 0) -> tuple[bytes, BgzfStream]:
    stream = BgzfStream(raw, "x.bgz", threads=threads, front=front)
    parts = []
    try:
        while (run := stream.next_run()) is not None:
            assert run.start == front
            assert len(run.data) >= run.stop + PADDING
            parts.append(run.data[run.start : run.stop].tobytes())
            stream.give_back(run.data)
    finally:
        stream.close()
    return b"".join(parts), stream


@THREADS
def test_runs_hold_what_gzip_finds(threads: int) -> None:
    compressed = packed()
    assert gzip.decompress(compressed) == DATA
    content, stream = content_of(io.BytesIO(compressed), threads, front=4096)
    assert content == DATA
    assert stream.whole
    assert stream.rest == b""


@THREADS
def test_readinto_fills_buffers_of_any_size(threads: int) -> None:
    stream = BgzfStream(io.BytesIO(packed()), "x.bgz", threads=threads)
    sizes, parts = [1, 70_001, 5_000_000, 3, 100_000], []
    for k in range(1000):
        buffer = bytearray(sizes[k % 5])
        n = stream.readinto(memoryview(buffer))
        parts.append(bytes(buffer[:n]))
        if n < len(buffer):
            break
    stream.close()
    assert b"".join(parts) == DATA


def test_a_file_without_its_end_is_not_whole() -> None:
    content, stream = content_of(io.BytesIO(packed(end=b"")), 1)
    assert content == DATA
    assert not stream.whole


def test_a_pipe_that_gives_little_at_a_time() -> None:
    compressed = packed(DATA[:500_000])
    receive, send = os.pipe()

    def feed() -> None:
        with os.fdopen(send, "wb", buffering=0) as pipe:
            for i in range(0, len(compressed), 777):
                pipe.write(compressed[i : i + 777])

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(receive, "rb", buffering=0) as pipe:
        content, stream = content_of(pipe, 2)
    feeder.join()
    assert content == DATA[:500_000]
    assert stream.whole


@THREADS
def test_damage_is_named_behind_what_is_sound(threads: int) -> None:
    blocks = [bgzf.compress_block(DATA[i : i + 50_000]) for i in range(0, 500_000, 50_000)]
    starts = np.cumsum([0, *(len(block) for block in blocks)]).tolist()
    whole = b"".join(blocks)
    wrong_bit = bytearray(whole)
    wrong_bit[starts[4] + 200] ^= 16
    wrong_crc = bytearray(whole)
    wrong_crc[starts[5] - 6] ^= 1
    wrong_size = bytearray(whole)
    wrong_size[starts[5] - 1] = 1
    no_room = bytearray(whole)
    no_room[starts[4] + 16 : starts[4] + 18] = b"\x14\x00"
    for damaged, at, why in (
        (wrong_bit, starts[4], "damaged block"),
        (wrong_crc, starts[4], "checksum or size"),
        (wrong_size, starts[4], "more than 64 KiB"),
        (no_room, starts[4], "impossible"),
        (whole[: starts[7] + 100], starts[7], "truncated inside the block"),
        (whole[: starts[7] + 5], starts[7], "truncated inside the block"),
    ):
        with pytest.raises(InputFormatError, match=f"x.bgz, byte {at}: .*{why}"):
            content_of(io.BytesIO(bytes(damaged)), threads)


def test_sound_blocks_come_before_the_error() -> None:
    compressed = packed()
    stream = BgzfStream(io.BytesIO(compressed[:-1000]), "x.bgz", threads=2)
    assert sum(run.stop - run.start for run in (stream.next_run(), stream.next_run()) if run) > 7_000_000
    with pytest.raises(InputFormatError, match="truncated"):
        list(iter(stream.next_run, None))
    stream.close()


def test_a_disk_that_fails() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1 << 20:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(InputFormatError, match="cannot be read \\(Input/output error\\)"):
        content_of(Failing(packed()), 1)


def test_sizes_of_blocks() -> None:
    block = bgzf.compress_block(b"abc")
    assert block_size(block) == (len(block), 18)
    assert block_size(block[:9]) == (0, 0)
    assert block_size(b"") == (0, 0)
    assert block_size(gzip.compress(b"abc")) == (-1, 0)
    other = b"XY\x03\x00abc"  # a subfield of another kind before BC
    size = len(block) + len(other) - 1
    longer = block[:10] + (6 + len(other)).to_bytes(2, "little") + other + block[12:16] + size.to_bytes(2, "little")
    assert block_size(longer + block[18:]) == (size + 1, 18 + len(other))
    assert content_of(io.BytesIO(longer + block[18:]), 0)[0] == b"abc"


@THREADS
def test_input_stream_of_bgzip_and_what_follows_it(tmp_path: Path, threads: int) -> None:
    text = DATA[:700_000]
    for name, content, expected in (
        ("bgzip", packed(text), text),
        ("no end", packed(text, end=b""), text),
        ("two", packed(text) + packed(text[:7]), text + text[:7]),
        ("gzip behind", packed(text) + gzip.compress(text[:99]) + gzip.compress(b"x"), text + text[:99] + b"x"),
        ("zeros behind", packed(text) + bytes(512), text),
    ):
        (tmp_path / "x.gz").write_bytes(content)
        with InputStream(tmp_path / "x.gz", threads=threads) as stream:
            assert stream.is_bgzip, name
            assert stream.read_all()[:-PADDING].tobytes() == expected, name
    (tmp_path / "x.gz").write_bytes(packed(text) + b"something else")
    with InputStream(tmp_path / "x.gz", threads=threads) as stream, pytest.raises(InputFormatError, match="damaged"):
        stream.read_all()
    (tmp_path / "x.gz").write_bytes(packed(text)[:-3000])
    with InputStream(tmp_path / "x.gz", threads=threads) as stream, pytest.raises(InputFormatError, match="truncated"):
        stream.read_all()


def test_fastq_pairs_do_not_depend_on_who_inflates(tmp_path: Path) -> None:
    permit = authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")
    for mate in (1, 2):
        bases = RNG.choice(list(b"ACGT"), (40_000, 100)).astype(np.uint8)
        text = b"".join(b"@r%d/%d\n%s\n+\n%s\n" % (k, mate, bases[k].tobytes(), b"F" * 100) for k in range(len(bases)))
        (tmp_path / f"{mate}.fq.gz").write_bytes(packed(text))
    lane = FastqLane(tmp_path / "1.fq.gz", tmp_path / "2.fq.gz")
    found = []
    for inflaters in (0, 2):
        batches = list(read_lanes([lane], permit, pairs_per_batch=3000, inflaters=inflaters))
        assert [batch.n_pairs for batch in batches] == [3000] * 13 + [1000]
        found.append([(*(t.tobytes() for t in b.text), *(f.tobytes() for f in b.fields)) for b in batches])
    assert found[0] == found[1]
    some = read_lanes([lane], permit, pairs_per_batch=100, inflaters=2)
    next(some)
    some.close()  # type: ignore[attr-defined]
    left = [thread for thread in threading.enumerate() if thread.name.startswith(("inflate", "fastq"))]
    for thread in left:
        thread.join(timeout=20)
    assert not [thread for thread in left if thread.is_alive()]
