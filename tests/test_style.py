# SPDX-License-Identifier: Apache-2.0
"""Format, lint and types, as part of the ordinary run: a check outside of it dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = {
    "format": ["ruff", "format", "--check", "megabolt", "tests", "benchmarks"],
    "lint": ["ruff", "check", "--output-format=concise", "megabolt", "tests", "benchmarks"],
    "types": ["mypy"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_style(name: str, checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *CHECKS[name]], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
