# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabolt.compute.backend import Backend, availability

CHECKOUT = Path(__file__).resolve().parent.parent

#: Real reads with truth lie beside the checkout, never in it.
SHARED_DATA = CHECKOUT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _private_audit_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Permits given in tests are not recorded in the user's own log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEGABOLT_AUDIT_LOG", str(tmp_path_factory.getbasetemp() / "audit.jsonl"))
        yield


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backends",
        default="numba,opencl",
        help="Compute backends whose absence fails the tests instead of skipping them (comma-separated; "
        "PoCL makes OpenCL available everywhere).",
    )


@pytest.fixture(scope="session", params=[one for one in Backend if one is not Backend.REFERENCE], ids=lambda b: b.value)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that is compared with the reference, one after another."""
    one: Backend = request.param
    found = availability(one)
    if not found.available:
        if one.value in request.config.getoption("--require-backends").split(","):
            pytest.fail(f"required backend {one.value} cannot run: {found.detail}")
        pytest.skip(f"backend {one.value} cannot run: {found.detail}")
    return one
