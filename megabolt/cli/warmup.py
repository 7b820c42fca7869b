# SPDX-License-Identifier: Apache-2.0
"""Compile all kernels now, so that the first sample does not have to wait.

Kernels are compiled for this machine's processor when they are first used and kept in a cache folder
(`megabolt doctor` names it). Two processes that start together would compile everything twice; this command
takes a lock, so that it can be put in front of a batch of jobs. What is already there is only loaded.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import time
from pathlib import Path

from megabolt.errors import OutputError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="print the modules with kernels and leave")


def main(args: argparse.Namespace) -> int:
    modules = kernel_modules()
    if args.list:
        print("\n".join(modules))
        return 0
    folder, seconds = warm_up(modules)
    print(f"{len(modules)} kernel modules ready in {seconds:.1f} s: {folder}")
    return 0


def kernel_modules(package: Path | None = None) -> list[str]:
    """Names of the modules that define kernels, found in their source text, not by importing them."""
    root = package or Path(__file__).resolve().parent.parent
    found = []
    for path in sorted(root.rglob("*.py")):
        if "\n@kernel(" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def kernel_cache() -> Path:
    """The folder that Numba was told to keep compiled kernels in."""
    importlib.import_module("megabolt.compute.jit")  # sets the variable, unless the user has
    return Path(os.environ["NUMBA_CACHE_DIR"])


def warm_up(modules: list[str]) -> tuple[Path, float]:
    """Import the modules under the lock of the cache folder; returns that folder and the wall seconds."""
    import fcntl

    folder = kernel_cache()
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
        for name in modules:
            began = time.perf_counter()
            importlib.import_module(name)
            log.info("%s: %.1f s", name, time.perf_counter() - began)
    return folder, time.perf_counter() - start
