# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

#: Real reads with truth lie beside the checkout, never in it.
SHARED_DATA = CHECKOUT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _private_audit_log(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permits given in tests are not recorded in the user's own log."""
    monkeypatch.setenv("MEGABOLT_AUDIT_LOG", str(tmp_path_factory.getbasetemp() / "audit.jsonl"))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data; where it is not, the test is skipped."""
    folder = Path(os.environ.get("MEGABOLT_TEST_DATA", SHARED_DATA))
    if not (folder / "INDEX.md").is_file():
        pytest.skip(f"real test data are not at {folder} (set MEGABOLT_TEST_DATA to their folder)")
    return folder
