# SPDX-License-Identifier: Apache-2.0
"""The audit log: append-only JSON lines, each chained to the one before by its hash.

In: an event. Out: a record that is on disk before the caller goes on. Next: `verify_log` finds edits.

A record is one line of canonical JSON (sorted keys, no spaces) with `previous`, the hash of the record
before, and `hash`, the SHA-256 of the line without itself. Beside the log, `<log>.head` names the newest
record, so that a cut tail is found as well; a log and a head that are forged together need a witness
elsewhere to be found.
If the log cannot be written, the action does not happen: every failure here is `ConsentRefused`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabolt.errors import ConsentRefused, InputFormatError

#: `previous` of the first record.
GENESIS = "0" * 64
#: Version of the record layout.
LOG_VERSION = 1
_TAIL = 1 << 16  # bytes read to find the last record; no record may be longer
_PRIVATE = 0o600


@dataclass(frozen=True)
class LogSummary:
    """What `verify_log` found: the number of records and the hash of the newest one."""

    n_records: int
    head: str


def default_log() -> Path:
    """$MEGABOLT_AUDIT_LOG, else megabolt/audit.jsonl below $XDG_STATE_HOME or ~/.local/state."""
    named = os.environ.get("MEGABOLT_AUDIT_LOG")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    root = Path(state) if state else Path.home() / ".local" / "state"
    return root / "megabolt" / "audit.jsonl"


def now() -> str:
    """The present moment, ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def append(log: Path, event: Mapping[str, Any]) -> str:
    """Add one record; it is flushed to disk when this returns.

    Parameters
    ----------
    log
        The log file; it and its folder are made if missing (readable by their owner only).
    event
        What happened; values that JSON can hold. `n`, `time`, `previous` and `hash` are added.

    Returns
    -------
    The hash of the new record.

    Raises
    ------
    ConsentRefused
        The log cannot be written, or its last record is damaged.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(log) as descriptor:
            size = os.fstat(descriptor).st_size
            n, previous = _last_record(descriptor, size, log)
            record = {**event, "n": n + 1, "time": now(), "previous": previous, "version": LOG_VERSION}
            record["hash"] = digest = _digest(record)
            line = _canonical(record) + b"\n"
            if len(line) > _TAIL:
                raise _refused(log, "a record of more than 64 KiB was asked for")
            _write_or_undo(descriptor, line, size)
            _write_head(log, n + 1, digest)
    except OSError as error:
        raise _refused(log, error.strerror or str(error)) from error
    return digest


def verify_log(log: Path) -> LogSummary:
    """Check the whole chain.

    Raises
    ------
    InputFormatError
        Names the first line that was edited, inserted, removed or moved, or the cut tail; or the file
        cannot be read.
    """
    n, previous, hashes = 0, GENESIS, [GENESIS]
    try:
        with log.open("rb") as lines:
            for line in lines:
                n += 1
                previous = _check_line(log, n, line, previous)
                hashes.append(previous)
        head = _read_head(log)
    except OSError as error:
        raise InputFormatError(log, "", f"cannot be read ({error.strerror})", "Check the path.") from error
    if n and head is None:
        raise _tampered(log, f"line {n}", f"{head_path(log).name}, which names the newest record, is missing")
    if head is not None and (head[0] > n or hashes[head[0]] != head[1]):
        raise _tampered(log, f"line {n}", f"record {head[0]}, written before, is missing: the tail was cut")
    return LogSummary(n_records=n, head=previous)


def head_path(log: Path) -> Path:
    """The file beside a log that names its newest record."""
    return log.with_name(log.name + ".head")


def _check_line(log: Path, n: int, line: bytes, previous: str) -> str:
    where = f"line {n}"
    try:
        record = json.loads(line)
        digest = record.pop("hash")
        chained, number = record["previous"], record["n"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _tampered(log, where, "not an audit record") from error
    if not line.endswith(b"\n") or _digest(record) != digest:
        raise _tampered(log, where, "the record was changed after it was written")
    if chained != previous or number != n:
        raise _tampered(log, where, "a record was removed, inserted or moved before this one")
    return str(digest)


def _tampered(log: Path, where: str, why: str) -> InputFormatError:
    return InputFormatError(log, where, why, "Keep the file as evidence and compare it with a backup.")


def _refused(log: Path, why: str) -> ConsentRefused:
    return ConsentRefused(
        f"the audit log {log} cannot be written ({why}): without a record nothing is opened",
        "Make it writable, or name another with the environment variable MEGABOLT_AUDIT_LOG.",
    )


@contextmanager
def _locked(log: Path) -> Iterator[int]:
    """The log opened for reading and appending, locked against other processes and threads."""
    descriptor = os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by close
        yield descriptor
    finally:
        os.close(descriptor)


def _last_record(descriptor: int, size: int, log: Path) -> tuple[int, str]:
    """Number and hash of the newest record; (0, GENESIS) in a new log."""
    head = _read_head(log)
    if size == 0:
        if head is not None:
            raise _refused(log, "it is empty, but records were written to it before; see `megabolt audit`")
        return 0, GENESIS
    tail = os.pread(descriptor, min(size, _TAIL + 1), max(0, size - _TAIL - 1))
    line = tail.rstrip(b"\n").rsplit(b"\n", 1)[-1]
    try:
        record = json.loads(line)
        digest, n = str(record.pop("hash")), int(record["n"])
        intact = tail.endswith(b"\n") and _digest(record) == digest
    except (ValueError, KeyError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise _refused(log, "its last record is damaged; keep the file as evidence and begin another")
    if head is not None and (head[0] > n or (head[0] == n and head[1] != digest)):
        raise _refused(log, f"its tail was cut after record {n}; keep the file as evidence and begin another")
    return n, digest


def _write_or_undo(descriptor: int, line: bytes, size: int) -> None:
    """Append and flush a whole line, or leave the log as it was (a full disk must not damage it)."""
    try:
        written = os.write(descriptor, line)
        if written != len(line):  # a disk that has just become full takes a part
            os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _write_head(log: Path, n: int, digest: str) -> None:
    """Name the newest record. The log's lock is held, so the temporary name is ours alone.

    Not flushed: after a power cut the head may be older than the log, which is legal, never newer.
    """
    temporary = log.with_name(log.name + ".head.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE)
    try:
        os.write(descriptor, f"{n} {digest}\n".encode())
    finally:
        os.close(descriptor)
    os.replace(temporary, head_path(log))


def _read_head(log: Path) -> tuple[int, str] | None:
    try:
        words = head_path(log).read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    if len(words) != 2 or not words[0].isdigit():
        return None  # lost in a power cut
    return int(words[0]), words[1]


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(record)).hexdigest()
