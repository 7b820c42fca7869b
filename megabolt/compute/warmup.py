# SPDX-License-Identifier: Apache-2.0
"""All kernels compiled, once, before they are needed.

A kernel is compiled when it is first called. `warm_up` compiles them all in a few processes side by side, under
the lock of the cache folder: of many jobs that start together on a fresh machine, one compiles and
the others wait for it. A stamp in the folder says that this source, Numba and processor have been done.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megabolt.errors import InternalError, OutputError

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent
_COMPILE = """
import importlib, sys
from megabolt.compute.jit import KERNELS
for name in sys.argv[1:]:
    importlib.import_module(name)
for kernel in KERNELS:
    if kernel.__module__ in sys.argv[1:]:
        kernel.load()
"""


def kernel_modules() -> list[str]:
    """Names of the modules that define kernels, found in their source text, not by importing them."""
    found = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        if "\n@kernel(" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def kernel_cache() -> Path:
    """The folder that Numba was told to keep compiled kernels in."""
    from megabolt.compute import jit  # sets the variable, unless the user has

    return Path(os.environ.get("NUMBA_CACHE_DIR") or jit.cache_folder())


def is_warm() -> bool:
    """Whether `warm_up` has nothing to do."""
    return (kernel_cache() / _stamp()).exists()


def warm_up(threads: int) -> tuple[Path, float]:
    """Compile what is not in the cache yet, in at most `threads` processes; the cache folder and the wall seconds.

    Raises
    ------
    OutputError
        The cache folder cannot be written.
    """
    folder, stamp = kernel_cache(), _stamp()
    start = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise OutputError(
            f"{folder}: the cache of compiled kernels cannot be written: {error.strerror}",
            "Set NUMBA_CACHE_DIR to a folder that can.",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / stamp).exists():  # else another process has compiled meanwhile
            with ThreadPoolExecutor(max(1, threads)) as pool:
                list(pool.map(_compile, _groups()))
            (folder / stamp).touch()
    return folder, time.perf_counter() - start


def _groups() -> list[list[str]]:
    """Modules that are compiled by one process: those of a package, which share what they import."""
    groups = defaultdict(list)
    for name in kernel_modules():
        groups[name.split(".")[1]].append(name)
    return list(groups.values())


def _compile(names: list[str]) -> None:
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_PACKAGE.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, *names], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InternalError(f"kernels of {', '.join(names)} do not compile:\n{done.stderr.strip()}")
    log.info("%s: %.1f s", ".".join(names[0].split(".")[:2]), time.perf_counter() - began)


def _stamp() -> str:
    """Name of the stamp: a digest of what decides the machine code."""
    import llvmlite.binding
    import numba

    digest = hashlib.sha256()
    for name in kernel_modules():
        path = _PACKAGE.joinpath(*name.split(".")[1:])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        digest.update(source.read_bytes())
    cpu = f"{numba.__version__} {llvmlite.binding.get_host_cpu_name()} {llvmlite.binding.get_host_cpu_features()}"
    digest.update(cpu.encode())
    return f".complete-{digest.hexdigest()[:16]}"
