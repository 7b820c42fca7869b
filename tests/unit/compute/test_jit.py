# SPDX-License-Identifier: Apache-2.0
"""Kernels are compiled when first called, once, also from kernels and from several threads; who may allocate."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numba
import pytest

import megabolt
from megabolt.compute.jit import KERNELS, Kernel, kernel


@kernel("int64(int64)")
def _twice(x: Any) -> Any:
    return 2 * x


@kernel("int64(int64)")
def _four_times(x: Any) -> Any:
    return _twice(_twice(x))


@kernel(["int64(int64)", "float64(float64)"])
def _half(x: Any) -> Any:
    return x / 2


def test_a_kernel_is_compiled_at_its_first_call() -> None:
    lazy = Kernel(_twice.py_func, "int64(int64)", False)  # type: ignore[attr-defined]
    assert lazy._compiled is None
    assert lazy(21) == 42
    compiled = lazy._compiled
    assert compiled is not None
    assert lazy.load() is compiled
    assert KERNELS.pop() is lazy


def test_kernels_call_kernels_and_know_their_names() -> None:
    assert _four_times(3) == 12
    assert _twice.__name__ == "_twice"
    assert _twice in KERNELS
    assert _half(3.0) == 1.5


def test_a_kernel_takes_its_signature_only() -> None:
    with pytest.raises(TypeError):
        _twice("text")


def test_threads_share_one_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    compile_it = numba.njit
    monkeypatch.setattr(numba, "njit", lambda *a, **k: made.append(1) or compile_it(*a, **k))  # type: ignore[func-returns-value]
    lazy = cast(Any, Kernel(_twice.py_func, "int64(int64)", False))  # type: ignore[attr-defined]
    start = threading.Barrier(4)

    def call(x: int) -> int:
        start.wait()
        return int(lazy(x))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [0, 2, 4, 6]
    assert made == [1]
    KERNELS.remove(lazy)


_CACHED = """
import sys
from megabolt.compute.jit import kernel
from megabolt.formats.bam_records import hop_records
import numpy as np

hop_records(np.zeros(64, np.uint8), 0, 0, np.zeros(2, np.int64))
print("numba.np.arrayobj" in sys.modules)

def compiled(x):
    return np.sqrt(np.zeros(2) + x).sum()

print(kernel(sys.argv[1])(compiled)(9.0))
"""


def test_cached_kernels_need_no_compiler_and_others_find_it(tmp_path: Path) -> None:
    """The first process compiles, the second takes the kernel from the cache; both compile another one then."""
    script = tmp_path / "cached.py"
    script.write_text(_CACHED, encoding="utf-8")
    paths = os.pathsep.join([str(Path(megabolt.__file__).parent.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run(
            [sys.executable, str(script), signature], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for signature in ("float64(float64)", "float32(float64)")
    ]
    assert said == [["True", "6.0"], ["False", "6.0"]]


def test_no_callee_calls_one_that_allocates() -> None:
    """It counts no references and would never give the arrays back; Numba does not say so."""
    marked: dict[str, list[ast.FunctionDef]] = {"callee": [], "allocating_callee": []}
    for path in Path(megabolt.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Name) and mark.id in marked:
                        marked[mark.id].append(node)
    allocating = {function.name for function in marked["allocating_callee"]}
    assert len(allocating) >= 3
    assert len(marked["callee"]) > 50
    for function in marked["callee"]:
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        assert not names & allocating, function.name
