# SPDX-License-Identifier: Apache-2.0
"""Scratch: what goes in comes out, nothing stays behind, every failure of the disk names the folder."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from megabolt.errors import OutputError, ResourceError
from megabolt.reads.scratch import (
    Frame,
    Scratch,
    SpillFile,
    check_disk,
    disk_needed,
    free_bytes,
    leftovers,
    remove_leftover,
)


class Swap:
    """A cipher that others can read: the bytes, reversed, behind a mark."""

    def encrypt(self, data: bytes) -> bytes:
        return b"!" + data[::-1]

    def decrypt(self, data: bytes) -> bytes:
        if data[:1] != b"!":
            raise ValueError("no mark")
        return data[:0:-1]


def pieces(seed: int, n: int = 20) -> list[np.ndarray]:
    """Buffers of 0 to 300,000 bytes, some of which compress."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, rng.choice([2, 256]), int(rng.integers(0, 300_000)), np.uint8) for _ in range(n)]


@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.parametrize("cipher", [None, Swap()], ids=["plain", "cipher"])
def test_frames_come_back(tmp_path: Path, level: int, cipher: Swap | None) -> None:
    file = SpillFile(tmp_path, level=level, cipher=cipher)
    data = [np.zeros(0, np.uint8), *pieces(1)]
    frames = [file.append(piece) for piece in data]
    assert file.n_bytes == sum(frame.size for frame in frames)
    for frame, piece in list(zip(frames, data))[::-1]:
        out = np.full(len(piece) + 5, 7, np.uint8)
        file.read(frame, out)
        assert np.array_equal(out[: len(piece)], piece)
        assert out[len(piece) :].tolist() == [7] * 5
    stored = sum(map(len, data))
    assert (file.n_bytes < 0.9 * stored) == (level > 0)
    file.close()


def test_the_disk_of_forgotten_frames_is_free(tmp_path: Path) -> None:
    file = SpillFile(tmp_path, level=0)
    data = [np.full(1 << 20, k, np.uint8) for k in range(1, 4)]
    frames = [file.append(piece) for piece in data]
    before = os.fstat(file._file).st_blocks
    file.forget(frames[1])
    if os.fstat(file._file).st_blocks == before:
        pytest.skip("this file system has no holes")
    assert os.fstat(file._file).st_blocks * 512 < 2.5 * (1 << 20)
    assert [int(file.load(frames[k]).sum()) >> 20 for k in (0, 2)] == [1, 3]
    with pytest.raises(OutputError, match="damaged"):
        file.load(frames[1])


def test_threads_append_and_read_side_by_side(tmp_path: Path) -> None:
    file, wrong = SpillFile(tmp_path), []

    def work(seed: int) -> None:
        data = pieces(seed)
        frames = [file.append(piece) for piece in data]
        wrong.extend(seed for frame, piece in zip(frames, data) if not np.array_equal(file.load(frame), piece))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_has_a_name_and_nothing_stays(tmp_path: Path) -> None:
    def job() -> None:
        with Scratch(tmp_path, "sample") as scratch:
            scratch.open_file().append(np.zeros(10, np.uint8))
            assert scratch.path.parent == tmp_path
            assert scratch.path.stat().st_mode & 0o777 == 0o700
            assert [path.name for path in scratch.path.iterdir()] == ["lock"]
            assert leftovers(tmp_path) == []  # in use
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job()
    assert list(tmp_path.iterdir()) == []


def test_data_that_changed_on_disk_are_refused(tmp_path: Path) -> None:
    for level in (0, 1):
        file = SpillFile(tmp_path, level=level)
        frame = file.append(np.arange(10_000, dtype=np.uint8))
        os.pwrite(file._file, b"\xff\x00\xff", frame.size // 2)
        with pytest.raises(OutputError, match=r"damaged at byte 0(.|\n)*--scratch"):
            file.load(frame)
        with pytest.raises(OutputError, match="cannot be read: the file is shorter"):
            file.load(Frame(frame.offset, frame.size + 1, frame.raw_size, frame.crc))


def test_a_full_disk_names_the_folder_and_the_option(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = SpillFile(tmp_path, level=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OutputError, match=rf"scratch folder {tmp_path} cannot be written(.|\n)*--scratch"):
            file.append(np.zeros(10_000, np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_folders_that_cannot_be_made_say_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere cannot be written: No such file(.|\n)*--scratch"):
        Scratch(tmp_path / "nowhere", "s").__enter__()
    with pytest.raises(OutputError, match="nowhere cannot be used"):
        free_bytes(tmp_path / "nowhere")
    assert free_bytes(tmp_path) > 0


def test_the_folder_of_a_killed_job_is_found_and_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; import numpy as np; from megabolt.reads.scratch import Scratch\n"
        "with Scratch(Path(sys.argv[1]), 'sample 7') as s:\n"
        "    s.open_file().append(np.zeros(1000, np.uint8)); print('ready', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        assert leftovers(tmp_path) == []
        job.send_signal(signal.SIGKILL)
    found = leftovers(tmp_path)
    assert [one.label for one in found] == ["sample 7"]
    assert abs(found[0].started.timestamp() - time.time()) < 600
    assert found[0].bytes < 10_000  # the data went with the process
    remove_leftover(found[0])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="cannot be removed"):
        remove_leftover(found[0])


def test_other_folders_are_no_leftovers(tmp_path: Path) -> None:
    (tmp_path / "megabolt-1-x").mkdir()
    (tmp_path / "megabolt-1-y").mkdir()
    (tmp_path / "megabolt-1-y" / "lock").touch()  # its job has yet to take the lock
    (tmp_path / "other-1-z").mkdir()
    assert leftovers(tmp_path) == []


def test_the_disk_needed_shrinks_with_memory() -> None:
    sizes = {"FASTQ.gz": 10**9, "BAM": 10**8}
    records = 4.5e9 + 5.5e8
    assert disk_needed(sizes, 6 * 10**9) == 0
    assert disk_needed(sizes, 0) == 155 * 10**7
    assert disk_needed(sizes, int(records / 2)) == pytest.approx(775 * 10**6)


def test_a_disk_that_is_too_small_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    free = free_bytes(tmp_path)
    check_disk({tmp_path: free // 3, tmp_path / "a": free // 3})
    with pytest.raises(ResourceError, match=r"GB are free, about \d+\.\d GB are needed(.|\n)*--scratch"):
        check_disk({tmp_path: 2 * free // 3, tmp_path / "a": 2 * free // 3})
    with pytest.raises(OutputError, match="b cannot be used: No such file"):
        check_disk({tmp_path / "b": 1})
