# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs through CuPy; the texts are compiled by NVRTC when first launched."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute import sources
from megabolt.compute.device import Buffer
from megabolt.errors import BackendUnavailable, InternalError

BUILD_OPTIONS = ("--std=c++17",)


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(
            f"CuPy cannot be imported ({error})", "Install it: pip install 'megabolt[cuda]'."
        ) from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"no CUDA device: {error}", "Install NVIDIA's driver.") from error
    if n_devices == 0:
        raise BackendUnavailable("CuPy found no CUDA device", "Check CUDA_VISIBLE_DEVICES and nvidia-smi.")
    return cupy


class CudaDevice:
    """See `megabolt.compute.device.Device`. Uses the current device and its default stream."""

    accelerator = True

    def __init__(self) -> None:
        self._cupy = _import_cupy()
        device = self._cupy.cuda.Device()
        properties = self._cupy.cuda.runtime.getDeviceProperties(device.id)
        capability = device.compute_capability
        self.name = f"{properties['name'].decode()} (compute capability {capability[:-1]}.{capability[-1]})"
        self._modules: dict[str, Any] = {}
        self._lock = Lock()

    def upload(self, array: NDArray[Any]) -> Buffer:
        return self._cupy.asarray(array) if array.size else self.empty((1,), array.dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        return self._cupy.empty(shape, dtype)

    def launch(
        self, *, source: str, kernel: str, n_groups: int, group_size: int, args: Sequence[Buffer | np.generic]
    ) -> None:
        if n_groups == 0:
            return
        with self._lock:
            if source not in self._modules:
                self._modules[source] = self._compile(source)
            function = self._modules[source].get_function(kernel)
        function((n_groups,), (group_size,), tuple(args))

    def download(self, buffer: Buffer) -> NDArray[Any]:
        array: NDArray[Any] = self._cupy.asnumpy(buffer)
        return array

    def _compile(self, source: str) -> Any:
        module = self._cupy.RawModule(code=sources.text(source, "cuda"), options=BUILD_OPTIONS)
        try:
            module.compile()
        except self._cupy.cuda.compiler.CompileException as error:
            raise InternalError(f"{source}.h does not compile for {self.name}:\n{error}") from error
        return module
