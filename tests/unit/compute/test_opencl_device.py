# SPDX-License-Identifier: Apache-2.0
"""Arrays go to the OpenCL device and come back; a device is chosen by name; a missing one is said to be missing."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pyopencl
import pytest

from megabolt.compute import opencl_device
from megabolt.compute.opencl_device import OpenClDevice
from megabolt.errors import BackendUnavailable


@pytest.fixture(scope="module")
def device() -> OpenClDevice:
    return OpenClDevice()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(1,), (7, 3), (0,), (0, 4)])
def test_round_trip(device: OpenClDevice, dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    back = device.download(device.upload(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_no_groups_is_no_launch(device: OpenClDevice) -> None:
    device.launch(source="none", kernel="none", n_groups=0, group_size=1, args=[])


def test_choice_by_name(monkeypatch: pytest.MonkeyPatch, device: OpenClDevice) -> None:
    monkeypatch.setenv("MEGABOLT_OPENCL_DEVICE", device.name[:8].upper())
    assert device.name[:8].upper() in OpenClDevice().name.upper()
    monkeypatch.setenv("MEGABOLT_OPENCL_DEVICE", "abacus")
    with pytest.raises(BackendUnavailable, match="'abacus'") as caught:
        OpenClDevice()
    assert device.name in caught.value.help


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyopencl, "get_platforms", list)
    with pytest.raises(BackendUnavailable, match="no OpenCL device") as caught:
        OpenClDevice()
    assert "pocl" in caught.value.help


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_pyopencl(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pyopencl":
            raise ImportError("No module named 'pyopencl'")
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_pyopencl)
    with pytest.raises(BackendUnavailable, match="PyOpenCL cannot be imported"):
        opencl_device._import_pyopencl()
