# SPDX-License-Identifier: Apache-2.0
"""Which backend a name means, and what is said when it cannot run."""

from __future__ import annotations

import pytest

from megabolt.compute import backend as module
from megabolt.compute.backend import Availability, Backend, availability, require, resolve
from megabolt.compute.device import open_device
from megabolt.errors import BackendUnavailable, UsageError


def pretend(monkeypatch: pytest.MonkeyPatch, *found: Availability) -> None:
    table = {one.backend: one for one in found}
    monkeypatch.setattr(module, "availability", lambda one: table[one])


NUMBA = Availability(Backend.NUMBA, True, "this processor, 256-bit vectors")
NO_CUDA = Availability(Backend.CUDA, False, "no CUDA device")
GPU = Availability(Backend.CUDA, True, "a GPU", accelerator=True)
POCL = Availability(Backend.OPENCL, True, "PoCL")
FPGA = Availability(Backend.OPENCL, True, "an FPGA", accelerator=True)


def test_the_processor_is_always_there() -> None:
    for one in (Backend.REFERENCE, Backend.NUMBA):
        assert availability(one).available
        require(one)


def test_a_name() -> None:
    assert resolve("numba")[0] is Backend.NUMBA


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no backend 'gpu'") as caught:
        resolve("gpu")
    assert "auto, reference, numba, opencl, cuda" in caught.value.help


def test_a_named_backend_that_is_missing_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, NUMBA, NO_CUDA, POCL)
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        resolve("cuda")


@pytest.mark.parametrize(
    ("cuda", "opencl", "expected"),
    [
        (GPU, FPGA, Backend.CUDA),
        (NO_CUDA, FPGA, Backend.OPENCL),
        (NO_CUDA, POCL, Backend.NUMBA),
    ],
)
def test_auto_takes_the_best_accelerator_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, cuda: Availability, opencl: Availability, expected: Backend
) -> None:
    pretend(monkeypatch, NUMBA, cuda, opencl)
    chosen, reason = resolve("auto")
    assert chosen is expected
    if expected is Backend.NUMBA:
        assert "no CUDA device" in reason
        assert "only the processor" in reason


def test_only_device_backends_have_a_device() -> None:
    with pytest.raises(BackendUnavailable, match="numba has no device"):
        open_device(Backend.NUMBA)
