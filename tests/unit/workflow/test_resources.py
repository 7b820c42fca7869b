# SPDX-License-Identifier: Apache-2.0
"""Amounts of memory and processors."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabolt.errors import UsageError
from megabolt.workflow.resources import allowed_memory, allowed_threads, default_memory, parse_memory


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8G", 8 << 30),
        ("8GB", 8 << 30),
        ("8GiB", 8 << 30),
        ("1.5g", 3 << 29),
        ("500M", 500 << 20),
        ("1073741824", 1 << 30),
    ],
)
def test_amounts(text: str, n_bytes: int) -> None:
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize("text", ["", "G", "eight", "8X", "-8G", "8 G B", "8G8"])
def test_not_an_amount(text: str) -> None:
    with pytest.raises(UsageError, match="not an amount of memory"):
        parse_memory(text)


def test_a_forgotten_unit_is_noticed() -> None:
    with pytest.raises(UsageError, match="too little"):
        parse_memory("8")


def test_control_group_limits_win(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{1 << 27}\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert allowed_memory(tmp_path) == 1 << 27
    assert allowed_threads(tmp_path) == 1


def test_no_control_group_limits(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert allowed_memory(tmp_path) > 1 << 28
    assert allowed_threads(tmp_path) >= 1
    assert 0 < default_memory() < allowed_memory(tmp_path)
