# SPDX-License-Identifier: Apache-2.0
"""OpenCL devices through PyOpenCL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute import sources
from megabolt.compute.device import Buffer
from megabolt.errors import BackendUnavailable, InternalError

BUILD_OPTIONS = ("-cl-std=CL1.2",)


def _import_pyopencl() -> Any:
    try:
        import pyopencl
    except ImportError as error:
        raise BackendUnavailable(
            f"PyOpenCL cannot be imported ({error})", "Install it: pip install 'megabolt[opencl]'."
        ) from error
    return pyopencl


def _label(device: Any) -> str:
    return f"{device.name.strip()} ({device.platform.version.strip()})"


def _find(cl: Any) -> Any:
    """The first device that is not a processor, else the first of all.

    Where there are several, MEGABOLT_OPENCL_DEVICE chooses: a part of the device's or the platform's name.
    """
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:  # the loader's way to say that it found no driver
        platforms = []
        why = f" ({error})"
    else:
        why = ""
    devices = [device for platform in platforms for device in platform.get_devices()]
    if not devices:
        raise BackendUnavailable(
            f"no OpenCL device was found{why}",
            "Install the device's driver, or PoCL for the processor: pip install pocl-binary-distribution.",
        )
    wanted = os.environ.get("MEGABOLT_OPENCL_DEVICE", "")
    chosen = [device for device in devices if wanted.lower() in _label(device).lower()]
    if not chosen:
        raise BackendUnavailable(
            f"no OpenCL device is called {wanted!r}",
            f"MEGABOLT_OPENCL_DEVICE must be a part of one of: {'; '.join(map(_label, devices))}.",
        )
    return min(chosen, key=lambda device: bool(device.type & cl.device_type.CPU))


class OpenClDevice:
    """See `megabolt.compute.device.Device`."""

    def __init__(self) -> None:
        self._cl = _import_pyopencl()
        device = _find(self._cl)
        self.name = _label(device)
        self.accelerator = not device.type & self._cl.device_type.CPU
        self._context = self._cl.Context([device])
        self._queue = self._cl.CommandQueue(self._context)
        self._programs: dict[str, Any] = {}
        self._lock = Lock()  # kernels carry their arguments, so two threads must not launch at once

    def upload(self, array: NDArray[Any]) -> Buffer:
        buffer = self.empty(array.shape, array.dtype)
        if array.size:
            self._cl.enqueue_copy(self._queue, buffer[0], np.ascontiguousarray(array))
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        n_bytes = max(1, int(np.prod(shape))) * np.dtype(dtype).itemsize
        memory = self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, n_bytes)
        return memory, shape, np.dtype(dtype)

    def launch(
        self, *, source: str, kernel: str, n_groups: int, group_size: int, args: Sequence[Buffer | np.generic]
    ) -> None:
        if n_groups == 0:
            return
        values = [value if isinstance(value, np.generic) else value[0] for value in args]
        with self._lock:
            function = self._cl.Kernel(self._program(source), kernel)
            function(self._queue, (n_groups * group_size,), (group_size,), *values)

    def download(self, buffer: Buffer) -> NDArray[Any]:
        memory, shape, dtype = buffer
        array = np.empty(shape, dtype)
        if array.size:
            self._cl.enqueue_copy(self._queue, array, memory)
        return array

    def _program(self, source: str) -> Any:
        if source not in self._programs:
            self._programs[source] = self.compile(source)
        return self._programs[source]

    def compile(self, source: str, *options: str) -> Any:
        """Build kernels/<source>.h; extra compiler options are for tests."""
        program = self._cl.Program(self._context, sources.text(source, "opencl"))
        try:
            return program.build(options=[*BUILD_OPTIONS, *options])
        except self._cl.RuntimeError as error:
            raise InternalError(f"{source}.h does not compile for {self.name}:\n{error}") from error
