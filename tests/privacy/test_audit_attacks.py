# SPDX-License-Identifier: Apache-2.0
"""The audit log under attack and under load: edits are found, processes share one chain, no bases get in."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megabolt.errors import InputFormatError
from megabolt.formats.fastq import read_pairs
from megabolt.privacy import audit
from megabolt.privacy.consent import authorize

N_ATTACKS = 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    permit = authorize("S1", "test", open_data="test suite: simulated reads", audit_log=path)
    for i in range(30):
        permit.record("open-read", tmp_path / f"reads_{i}.fastq.gz", mate=1 + i % 2)
    return path


def edit(lines: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(lines))
    line = bytearray(lines[i])
    at = rng.randrange(len(line) - 1)
    line[at] = line[at] ^ (1 << rng.randrange(7))
    return [*lines[:i], bytes(line), *lines[i + 1 :]]


def delete(lines: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(lines))
    return lines[:i] + lines[i + 1 :]


def insert(lines: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(lines) + 1)
    return [*lines[:i], lines[rng.randrange(len(lines))], *lines[i:]]


def reorder(lines: list[bytes], rng: random.Random) -> list[bytes]:
    i, j = rng.sample(range(len(lines)), 2)
    changed = lines.copy()
    changed[i], changed[j] = changed[j], changed[i]
    return changed


def cut_tail(lines: list[bytes], rng: random.Random) -> list[bytes]:
    return lines[: rng.randrange(len(lines))]


def forge(lines: list[bytes], rng: random.Random) -> list[bytes]:
    """An edit whose own hash is made to fit."""
    i = rng.randrange(len(lines))
    record = json.loads(lines[i])
    record.pop("hash")
    record["subject"] = "S2"
    record["hash"] = audit._digest(record)
    return [*lines[:i], audit._canonical(record) + b"\n", *lines[i + 1 :]]


@pytest.mark.parametrize("attack", [edit, delete, insert, reorder, cut_tail, forge])
def test_every_attack_is_found(log: Path, attack) -> None:
    rng = random.Random(attack.__name__)
    lines = log.read_bytes().splitlines(keepends=True)
    for _ in range(N_ATTACKS):
        log.write_bytes(b"".join(attack(lines, rng)))
        with pytest.raises(InputFormatError):
            audit.verify_log(log)
    log.write_bytes(b"".join(lines))
    assert audit.verify_log(log).n_records == 31


def test_processes_share_one_chain(log: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from megabolt.privacy.consent import authorize\n"
        "permit = authorize('S1', 'test', open_data='test suite: simulated', audit_log=Path(sys.argv[1]))\n"
        "for _ in range(20):\n"
        "    permit.record('open-read', 'x')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(log)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert audit.verify_log(log).n_records == 31 + 3 * 21


def test_no_bases_and_no_names_of_reads_get_in(tmp_path: Path, log: Path) -> None:
    permit = authorize("S1", "test", open_data="test suite: simulated reads", audit_log=log)
    for mate in (1, 2):
        (tmp_path / f"r{mate}.fq").write_text(f"@canary\n{'ACGT' * 10}\n+\n{'I' * 40}\n")
    assert sum(batch.n_pairs for batch in read_pairs([tmp_path / "r1.fq"], [tmp_path / "r2.fq"], permit)) == 1
    text = log.read_text()
    assert "canary" not in text
    assert not re.search("[ACGTN]{20}", text)
