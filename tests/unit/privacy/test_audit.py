# SPDX-License-Identifier: Apache-2.0
"""The audit log: chained, flushed, refusing, and verifiable."""

from __future__ import annotations

import json
import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from megabolt.errors import ConsentRefused, InputFormatError
from megabolt.privacy import audit


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "audit.jsonl"
    for i in range(5):
        audit.append(path, {"action": "open-read", "path": f"reads_{i}.fastq.gz"})
    return path


def rewrite(log: Path, lines: list[bytes]) -> None:
    log.write_bytes(b"".join(lines))


def test_chain_is_whole_and_private(log: Path) -> None:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["n"] for record in records] == [1, 2, 3, 4, 5]
    assert records[0]["previous"] == audit.GENESIS
    assert all(b["previous"] == a["hash"] for a, b in pairwise(records))
    assert audit.verify_log(log) == audit.LogSummary(5, records[-1]["hash"])
    assert log.stat().st_mode & 0o077 == 0


def test_each_append_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    audit.append(tmp_path / "audit.jsonl", {"action": "x"})
    assert len(flushed) == 1


@pytest.mark.parametrize(
    ("where", "attack"),
    [
        ("line 3", lambda lines: [*lines[:2], lines[2].replace(b"reads_2", b"reads_9"), *lines[3:]]),
        ("line 3", lambda lines: [*lines[:2], *lines[3:]]),
        ("line 2", lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]),
        ("line 4", lambda lines: [*lines[:3], lines[2], *lines[3:]]),
        ("line 4", lambda lines: lines[:4]),
        ("line 1", lambda lines: lines[1:]),
        ("line 2", lambda lines: [lines[0], b"not json\n", *lines[1:]]),
        ("line 5", lambda lines: [*lines[:4], lines[4][:-1]]),
        ("line 0", lambda lines: []),
    ],
    ids=["edit", "delete", "reorder", "insert", "cut-tail", "cut-head", "garbage", "torn", "empty"],
)
def test_verify_finds_attacks(log: Path, where: str, attack) -> None:
    rewrite(log, attack(log.read_bytes().splitlines(keepends=True)))
    with pytest.raises(InputFormatError) as caught:
        audit.verify_log(log)
    assert caught.value.where == where


def test_missing_head_is_found(log: Path) -> None:
    audit.head_path(log).unlink()
    with pytest.raises(InputFormatError, match="newest record"):
        audit.verify_log(log)


def test_verify_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputFormatError, match="cannot be read"):
        audit.verify_log(tmp_path / "none.jsonl")


@pytest.mark.parametrize("keep", [0, 4])
def test_cut_log_takes_no_more_records(log: Path, keep: int) -> None:
    rewrite(log, log.read_bytes().splitlines(keepends=True)[:keep])
    with pytest.raises(ConsentRefused):
        audit.append(log, {"action": "x"})


def test_torn_last_record_is_refused(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    with pytest.raises(ConsentRefused, match="damaged"):
        audit.append(log, {"action": "x"})


def test_full_disk_refuses_and_leaves_the_log_whole(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.read_bytes()
    real_write, calls = os.write, []

    def full_after_ten_bytes(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return real_write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full_after_ten_bytes)
    with pytest.raises(ConsentRefused, match="No space left"):
        audit.append(log, {"action": "x"})
    monkeypatch.undo()
    assert log.read_bytes() == before
    assert audit.verify_log(log).n_records == 5


def test_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConsentRefused, match="MEGABOLT_AUDIT_LOG") as caught:
        audit.append(tmp_path / "file" / "audit.jsonl", {"action": "x"})
    assert caught.value.exit_code == 77


def test_overlong_record_is_refused(log: Path) -> None:
    with pytest.raises(ConsentRefused, match="64 KiB"):
        audit.append(log, {"action": "x" * 70_000})
    assert audit.verify_log(log).n_records == 5


def test_threads_share_one_chain(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    threads = [
        threading.Thread(target=lambda: [audit.append(log, {"action": "x"}) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify_log(log).n_records == 80


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGABOLT_AUDIT_LOG", "/somewhere/a.jsonl")
    assert audit.default_log() == Path("/somewhere/a.jsonl")
    monkeypatch.delenv("MEGABOLT_AUDIT_LOG")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert audit.default_log() == Path("/state/megabolt/audit.jsonl")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert audit.default_log() == Path.home() / ".local/state/megabolt/audit.jsonl"
