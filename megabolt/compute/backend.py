# SPDX-License-Identifier: Apache-2.0
"""The compute backends: which there are, which this machine can run, and what `--backend auto` means.

Nothing outside `megabolt.compute` knows more about backends than this enumeration. Nothing falls back from
one backend to another unless the user said "auto", and then the choice and its reason are reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from megabolt.errors import BackendUnavailable, UsageError


class Backend(Enum):
    """How a kernel is computed."""

    REFERENCE = "reference"  # plain Python, slow, the oracle of the tests
    NUMBA = "numba"  # this processor, with SIMD: the default
    OPENCL = "opencl"  # any OpenCL device; PoCL on the processor proves the device text right, not fast
    CUDA = "cuda"  # an NVIDIA GPU


@dataclass(frozen=True)
class Availability:
    """Whether this machine can run a backend.

    Attributes
    ----------
    detail
        The device when available, else what is missing.
    accelerator
        The device is something other than the processor that runs Python.
    """

    backend: Backend
    available: bool
    detail: str
    accelerator: bool = False


@cache
def availability(backend: Backend) -> Availability:
    """Look for a backend's libraries and device (once per process; nothing is compiled)."""
    if backend is Backend.REFERENCE:
        return Availability(backend, True, "plain Python")
    if backend is Backend.NUMBA:
        from megabolt.compute.simd import REGISTER_BITS

        return Availability(backend, True, f"this processor, {REGISTER_BITS}-bit vectors")
    from megabolt.compute.device import open_device  # imports the vendor's library only when asked

    try:
        found = open_device(backend)
    except BackendUnavailable as error:
        return Availability(backend, False, error.why)
    return Availability(backend, True, found.name, found.accelerator)


def require(backend: Backend) -> None:
    """Raise BackendUnavailable, saying what is missing, unless this machine can run `backend`."""
    found = availability(backend)
    if not found.available:
        raise BackendUnavailable(
            f"backend {backend.value} cannot run here: {found.detail}",
            "Choose --backend numba, or auto; `megabolt doctor` lists what this machine can run.",
        )


def resolve(name: str) -> tuple[Backend, str]:
    """The backend for a `--backend` option and one sentence on why it was chosen.

    "auto" takes a CUDA device, else an OpenCL device that is not the processor, else Numba.

    Raises
    ------
    UsageError
        The name is unknown.
    BackendUnavailable
        A backend asked for by name cannot run here.
    """
    if name == "auto":
        return _choose()
    try:
        backend = Backend(name)
    except ValueError:
        known = ", ".join(["auto", *(one.value for one in Backend)])
        raise UsageError(f"there is no backend {name!r}", f"Known backends: {known}.") from None
    require(backend)
    return backend, f"asked for by name: {availability(backend).detail}"


def _choose() -> tuple[Backend, str]:
    reasons = []
    for backend in (Backend.CUDA, Backend.OPENCL):
        found = availability(backend)
        if found.available and found.accelerator:
            return backend, found.detail
        reasons.append(f"{backend.value}: {found.detail if not found.available else 'only the processor'}")
    return Backend.NUMBA, f"{availability(Backend.NUMBA).detail} ({'; '.join(reasons)})"
