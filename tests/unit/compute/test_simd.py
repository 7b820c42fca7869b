# SPDX-License-Identifier: Apache-2.0
"""Vector values inside kernels: every operation against NumPy, and the machine code of the real kernels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import numba
import numpy as np
import pytest

from megabolt.compute import simd
from megabolt.compute.banded_affine import numba_cpu as affine_cpu
from megabolt.compute.jit import kernel
from megabolt.compute.pairhmm import numba_cpu as pairhmm_cpu
from megabolt.compute.simd import (
    aligned_empty,
    broadcast,
    flush_denormals,
    fma,
    lanes,
    load,
    maximum,
    minimum,
    restore_denormals,
    saturating_add,
    saturating_sub,
    splat,
    store,
    where,
)
from megabolt.errors import UsageError

LANES_I16, LANES_F32 = simd.REGISTER_BITS // 16, simd.REGISTER_BITS // 32


@kernel("void(int16[::1], int16[::1], int16[:,::1])")
def _integers(a: Any, b: Any, out: Any) -> None:
    x, y = load(a, 0), load(b, 0)
    flat = out.reshape(out.size)
    n = out.shape[1]
    store(flat, 0, x + y)
    store(flat, n, x - y)
    store(flat, 2 * n, x * y)
    store(flat, 3 * n, maximum(x, y))
    store(flat, 4 * n, minimum(x, y))
    store(flat, 5 * n, saturating_add(x, y))
    store(flat, 6 * n, saturating_sub(x, y))
    store(flat, 7 * n, where(x > y, splat(a, 1), splat(a, 0)))
    store(flat, 8 * n, where(x == y, x, splat(a, -7)))


def test_integer_operations() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-32768, 32768, (2, LANES_I16)).astype(np.int16)
    b[::3] = a[::3]
    out = np.zeros((9, LANES_I16), np.int16)
    _integers(a, b, out)
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    expected = [
        (wide_a + wide_b).astype(np.int16),
        (wide_a - wide_b).astype(np.int16),
        (wide_a * wide_b).astype(np.int16),
        np.maximum(a, b),
        np.minimum(a, b),
        np.clip(wide_a + wide_b, -32768, 32767),
        np.clip(wide_a - wide_b, -32768, 32767),
        a > b,
        np.where(a == b, a, -7),
    ]
    np.testing.assert_array_equal(out, np.array(expected, np.int16))


@kernel("void(float32[::1], float32[::1], float32[:,::1])")
def _floats(a: Any, b: Any, out: Any) -> None:
    x, y = load(a, 0), load(b, 0)
    flat = out.reshape(out.size)
    n = out.shape[1]
    store(flat, 0, x + y)
    store(flat, n, x - y)
    store(flat, 2 * n, x * y)
    store(flat, 3 * n, fma(x, y, splat(a, 0.5)))
    store(flat, 4 * n, broadcast(a, 1))
    store(flat, 5 * n, where(x > y, x, y))


def test_float_operations() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, LANES_F32)).astype(np.float32)
    out = np.zeros((6, LANES_F32), np.float32)
    _floats(a, b, out)
    exact_fma = (a.astype(np.float64) * b + 0.5).astype(np.float32)
    expected = [a + b, a - b, a * b, exact_fma, np.full(LANES_F32, a[1]), np.maximum(a, b)]
    np.testing.assert_array_equal(out[[0, 1, 2, 4, 5]], np.array(expected, np.float32)[[0, 1, 2, 4, 5]])
    np.testing.assert_allclose(out[3], exact_fma, rtol=2e-7)  # once or twice rounded, as the processor can


@kernel("int32(float32[::1], float32[::1])")
def _flushed_product(a: Any, out: Any) -> int:
    old = flush_denormals()
    store(out, 0, load(a, 0) * load(a, 0))
    restore_denormals(old)
    return old


@kernel("void(int16[::1], float32[::1], float64[::1], int64[::1])")
def _lane_counts(a: Any, b: Any, c: Any, out: Any) -> None:
    out[0], out[1], out[2] = lanes(a), lanes(b), lanes(c)
    store(c, 0, fma(load(c, 0), splat(c, 2), splat(c, 1)))


def test_lanes_fill_a_register_of_every_type() -> None:
    out, doubles = np.zeros(3, np.int64), np.arange(8.0)
    _lane_counts(np.zeros(1, np.int16), np.zeros(1, np.float32), doubles, out)
    assert out.tolist() == [LANES_I16, LANES_F32, LANES_F32 // 2]
    expected = np.arange(8.0)
    expected[: out[2]] = expected[: out[2]] * 2 + 1
    np.testing.assert_array_equal(doubles, expected)


def test_denormals_are_flushed_inside_and_kept_outside() -> None:
    a, out = np.full(LANES_F32, 1e-20, np.float32), np.ones(LANES_F32, np.float32)
    _flushed_product(a, out)
    if simd.platform.machine().lower() in ("x86_64", "amd64"):
        assert not out.any()
    with np.errstate(under="ignore"):
        assert (a * a).any()  # 1e-40 is denormal, and this thread can still hold it


@pytest.mark.parametrize("length", [1, 63, 1000])
def test_aligned_empty(length: int) -> None:
    array = aligned_empty(length, np.int16)
    assert array.shape == (length,)
    assert array.dtype == np.int16
    assert array.ctypes.data % 64 == 0
    assert array.flags.writeable
    assert array.flags.c_contiguous


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        ({"sse2"}, 128),
        ({"sse2", "avx"}, 128),
        ({"avx2", "fma"}, 256),
        ({"avx2", "avx512f"}, 256),  # no 16-bit lanes
        ({"avx2", "avx512bw", "avx512vl", "avx512dq"}, 512),
    ],
)
def test_width_follows_the_processor(monkeypatch: pytest.MonkeyPatch, features: set[str], bits: int) -> None:
    monkeypatch.delenv("MEGABOLT_SIMD_BITS", raising=False)
    assert simd._register_bits(features) == bits


def test_an_impossible_width_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGABOLT_SIMD_BITS", "1024")
    with pytest.raises(UsageError, match="'1024'"):
        simd._register_bits(set())


@pytest.mark.skipif(bool(numba.config.BOUNDSCHECK), reason="bounds checks are no vector code")
@pytest.mark.parametrize(
    ("function", "operation"),
    [(affine_cpu._align, r"vpmaxsw|pmaxsw|smax"), (pairhmm_cpu._two_rows, r"vfmadd\w+ps|mulps|fmla")],
    ids=["banded_affine", "pairhmm"],
)
def test_machine_code_uses_whole_registers(function: Any, operation: str) -> None:
    """Compiled anew, because Numba keeps no assembly of what it loads from its cache."""
    fresh = numba.njit(function.signature, nogil=True, error_model="numpy")(function.py_func)
    assembly = next(iter(fresh.inspect_asm().values()))
    register = {128: r"%xmm|\bv\d+\.", 256: "%ymm", 512: "%zmm"}[simd.REGISTER_BITS]
    vector_lines = [line for line in assembly.splitlines() if re.search(register, line)]
    assert len(vector_lines) > 50
    assert sum(bool(re.search(operation, line)) for line in vector_lines) >= 5


OTHER_WIDTHS = """
import numpy as np
from megabolt.compute import simd
from megabolt.compute.backend import Backend
from megabolt.compute.banded_affine import align
from megabolt.compute.pairhmm import log10_likelihood
from megabolt.testing.kernel_cases import *
assert simd.REGISTER_BITS == {bits}
rng = np.random.default_rng(1)
jobs = random_affine_jobs(rng, 37, query_length=(5, 30), band=6)
assert_same_alignments(align(jobs), align(jobs, backend=Backend.REFERENCE), jobs)
batch = random_pairhmm_batch(rng, n_reads=19, n_haps=2, read_length=(5, 20), hap_length=(20, 30))
assert_log10_close(log10_likelihood(batch), log10_likelihood(batch, backend=Backend.REFERENCE), batch)
"""


@pytest.mark.parametrize("bits", [bits for bits in (128, 256, 512) if bits != simd.REGISTER_BITS])
def test_other_widths_give_the_same_answers(bits: int) -> None:
    environment = {**os.environ, "MEGABOLT_SIMD_BITS": str(bits)}
    environment.pop("NUMBA_CACHE_DIR", None)  # each width has its own folder
    code = OTHER_WIDTHS.format(bits=bits)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
