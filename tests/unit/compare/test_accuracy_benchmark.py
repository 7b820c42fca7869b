# SPDX-License-Identifier: Apache-2.0
"""The accuracy benchmark runs at toy size, so that it cannot rot."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_toy_run(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(checkout / "benchmarks" / "accuracy" / "bench_accuracy.py"))
    assert script["main"](["--toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[1:]] == [
        ["truth", "SNP"],
        ["truth", "indel"],
        ["spoilt", "SNP"],
        ["spoilt", "indel"],
    ]
    assert [line.split()[-1] for line in lines[1:3]] == ["1.00000", "1.00000"]
