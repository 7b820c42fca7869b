# SPDX-License-Identifier: Apache-2.0
"""What a launcher may ask of a device, whichever API drives it: four verbs.

Launchers (`*/launch.py`) are written against `Device` and import neither CuPy nor PyOpenCL.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.backend import Backend
from megabolt.errors import BackendUnavailable

#: An array in device memory; what it is, only its device knows.
Buffer = Any


class Device(Protocol):
    """A machine that runs the texts of `kernels/`."""

    name: str
    #: Not the processor that runs Python.
    accelerator: bool

    def upload(self, array: NDArray[Any]) -> Buffer:
        """A copy of the array in device memory; an empty array becomes one element."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """An array in device memory whose contents are undefined."""

    def launch(
        self, *, source: str, kernel: str, n_groups: int, group_size: int, args: Sequence[Buffer | np.generic]
    ) -> None:
        """Run `kernel` of kernels/<source>.h by n_groups groups of group_size items.

        Numbers among the arguments are NumPy scalars of exactly the kernel's type. The text is compiled at
        the first launch. Launches and downloads happen in the order in which they were asked for.
        """

    def download(self, buffer: Buffer) -> NDArray[Any]:
        """A copy in host memory, after all launches have finished."""


@cache
def open_device(backend: Backend) -> Device:
    """The device of a backend (one per process).

    Raises
    ------
    BackendUnavailable
        A library, a driver or a device is missing; the message says which.
    """
    if backend is Backend.OPENCL:
        from megabolt.compute.opencl_device import OpenClDevice

        return OpenClDevice()
    if backend is Backend.CUDA:
        from megabolt.compute.cuda_device import CudaDevice

        return CudaDevice()
    raise BackendUnavailable(f"backend {backend.value} has no device")
