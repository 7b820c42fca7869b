# SPDX-License-Identifier: Apache-2.0
"""`doctor` and `warmup`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megabolt.cli.main import main
from megabolt.compute import warmup
from megabolt.compute.backend import Backend


def test_doctor_names_everything_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for words in (
        "megabolt",
        "numba",
        "snakemake",
        "processor",
        "threads",
        "memory",
        "kernel cache",
        "audit log",
        "bwa",
    ):
        assert words in text
    for backend in Backend:
        assert f"  {backend.value} " in text
    assert "numba         ready" in text


def test_doctor_says_why_a_backend_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    backends = lines[lines.index("backends") + 1 : lines.index("folders")]
    for line in backends:
        state = line.split(maxsplit=1)[1]
        assert state.startswith(("ready: ", "not here: "))
        assert len(state.partition(": ")[2]) > 3


def test_every_module_with_kernels_is_warmed_up(checkout: Path) -> None:
    found = warmup.kernel_modules()
    assert "megabolt.compute.pairhmm.numba_cpu" in found
    decorated = {
        path
        for path in (checkout / "megabolt").rglob("*.py")
        if any(line.lstrip().startswith("@kernel(") for line in path.read_text().splitlines())
    }
    assert len(found) == len(decorated)


def test_warmup_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup", "--list"]) == 0
    assert capsys.readouterr().out.split() == warmup.kernel_modules()


def test_warmup_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "megabolt", "warmup"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file/cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "NUMBA_CACHE_DIR" in done.stderr
