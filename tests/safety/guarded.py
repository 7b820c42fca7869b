# SPDX-License-Identifier: Apache-2.0
"""Runs commands with every buffer between guard pages: `python guarded.py SIDE CASE ARGUMENT...`.

SIDE is "end" or "start": every array that the package makes ends right before, or starts right behind, a page that
must not be touched; the process dies of SIGSEGV at the first stray load or store of a kernel. Arrays that kernels
make themselves get the canaries of Python's debug allocator (set PYTHONMALLOC=debug), behind at most 64 bytes that
Numba aligns them with: it aborts if one was changed.
Fresh memory is filled with a pattern, so that a kernel that reads what nobody wrote gives another result.

This is the program of test_guard_pages.py, which says what the cases are.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numba
import numpy as np
from numba.core.runtime import _nrt_python

_nrt_python.memsys_use_cpython_allocator()  # before any kernel has made an array

from megabolt.compute.warmup import kernel_modules  # noqa: E402

PAGE = mmap.PAGESIZE
PATTERN = 0xA5
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded_empty(shape: Any, dtype: Any = np.float64, side: str = "end") -> Any:
    """Like np.empty, but its last (first) byte touches a page that kills."""
    dtype = np.dtype(dtype)
    shape = (int(shape),) if np.isscalar(shape) else tuple(int(n) for n in shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size == 0:
        return _ORIGINAL["empty"](shape, dtype)
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    address = ctypes.addressof(view)
    ctypes.memset(address, PATTERN, len(memory))
    del view
    guard = address + pages * PAGE if side == "end" else address
    if _mprotect(guard, PAGE, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.ndarray(shape, dtype, buffer=memory, offset=pages * PAGE - size if side == "end" else PAGE)


def guarded_copy(array: Any, side: str) -> Any:
    """The same numbers beside a guard page."""
    if array.ndim == 0 or array.dtype.hasobject:
        return array
    copy = guarded_empty(array.shape, array.dtype, side)
    copy[...] = array
    return copy


_ORIGINAL: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "full_like", "array", "concatenate",
                 "ascontiguousarray", "repeat", "cumsum", "frombuffer")
}  # fmt: skip


def guard_numpy(side: str) -> None:
    """Let the package's calls of these functions give guarded arrays, those of others plain ones."""

    def wrapped(name: str) -> Callable[..., Any]:
        original = _ORIGINAL[name]

        def make(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if not isinstance(result, np.ndarray) or not caller.startswith("megabolt"):
                return result
            if name == "frombuffer" and not isinstance(args[0], bytes):
                return result  # memory that is shared on purpose
            if name == "ascontiguousarray" and result is args[0]:
                return result
            if name.startswith("empty"):
                return guarded_empty(result.shape, result.dtype, side)
            return guarded_copy(result, side)

        return make

    for name in _ORIGINAL:
        setattr(np, name, wrapped(name))


def with_guards(inputs: Any, side: str) -> Any:
    """A dataclass of arrays, each beside a guard page."""
    arrays = {
        one.name: guarded_copy(getattr(inputs, one.name), side)
        for one in fields(inputs)
        if isinstance(getattr(inputs, one.name), np.ndarray)
    }
    return replace(inputs, **arrays)


def run_kernels(side: str) -> None:
    """The algorithms with vector code, on inputs that end at a guard page, against their plain references."""
    from megabolt.compute.banded_affine import AffineScores
    from megabolt.compute.banded_affine import numba_cpu as affine
    from megabolt.compute.banded_affine import reference as plain_affine
    from megabolt.compute.pairhmm import numba_cpu as pairhmm
    from megabolt.compute.pairhmm import reference as plain_pairhmm
    from megabolt.testing import kernel_cases as cases

    rng = np.random.default_rng(1)
    scores = AffineScores()
    for longest in (1, 7, 31, 64, 150):
        batch = cases.random_pairhmm_batch(
            rng, n_reads=5, n_haps=3, read_length=(1, longest), hap_length=(max(1, longest // 2), longest + 40)
        )
        expected = plain_pairhmm.log10_likelihood(batch)
        cases.assert_log10_close(pairhmm.log10_likelihood(with_guards(batch, side)), expected, batch)
        for band in (1, 12, 44):
            jobs = cases.random_affine_jobs(rng, 9, query_length=(1, longest), band=band, spread=3)
            found = affine.align(with_guards(jobs, side), scores)
            cases.assert_same_alignments(found, plain_affine.align(jobs, scores), jobs)


@numba.njit
def _store_at(array: Any, index: Any, n: Any) -> None:
    for i in range(index, index + n):
        array[i] = 1


@numba.njit
def _overrun_inside(n: Any) -> Any:
    own = np.zeros(n, np.uint8)
    _store_at(own, n, 128)
    return own


def main(side: str, case: str, *arguments: str) -> int:
    for name in kernel_modules():  # numba must see the real np.zeros
        importlib.import_module(name)
    importlib.import_module("megabolt.cli.main")
    if case == "stray":  # the control: what must not survive
        array = guarded_empty(100, np.uint8, side)
        _store_at(array, 99 if side == "end" else 0, 1)
        print("inside", flush=True)
        _store_at(array, 100 if side == "end" else -1 - 100, 1)
    elif case == "stray_inside":
        print("inside", flush=True)
        _overrun_inside(100)
    elif case == "kernels":
        guard_numpy(side)
        run_kernels(side)
    elif case == "command":
        from megabolt.cli.main import main as command

        guard_numpy(side)
        return command(list(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
