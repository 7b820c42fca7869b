# SPDX-License-Identifier: Apache-2.0
"""The kernel benchmarks run at toy size in every test run, so that they cannot rot."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).resolve().parents[3] / "benchmarks" / "kernels").glob("bench_*.py"))


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_toy_size(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(script))["main"](["--toy", "--repeats", "1"]) == 0
    assert "GCUPS" in capsys.readouterr().out


def test_there_are_benchmarks() -> None:
    assert BENCHMARKS
