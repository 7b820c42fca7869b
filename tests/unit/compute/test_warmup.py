# SPDX-License-Identifier: Apache-2.0
"""The kernel cache is filled once, by one process, and known to be full."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabolt.compute import warmup
from megabolt.errors import InternalError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_one_small_group_is_compiled_into_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "kernel_modules", lambda: ["megabolt.formats.fasta"])
    assert not warmup.is_warm()
    folder, _ = warmup.warm_up(2)
    assert folder == cache
    assert list(cache.rglob("*.nbc"))
    assert warmup.is_warm()


def test_the_second_comer_finds_the_work_done(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[list[str]] = []
    monkeypatch.setattr(warmup, "_compile", compiled.append)
    warmup.warm_up(1)
    once = list(compiled)
    assert sorted(name for group in once for name in group) == warmup.kernel_modules()
    warmup.warm_up(1)
    assert compiled == once


def test_kernels_that_do_not_compile_are_our_bug(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_groups", lambda: [["megabolt.absent"]])
    with pytest.raises(InternalError, match=r"megabolt\.absent"):
        warmup.warm_up(1)
    assert not warmup.is_warm()
