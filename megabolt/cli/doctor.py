# SPDX-License-Identifier: Apache-2.0
"""Show what this machine offers: versions, processor, memory, compute backends, caches and tools.

Prints one item a line and changes nothing. Put its output into every bug report. The exit code is 0 also
where something optional is missing; the line says what it would be good for.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from megabolt import __version__
from megabolt.workflow.resources import allowed_memory, allowed_threads

PACKAGES = ("numpy", "numba", "llvmlite", "pysam", "isal", "snakemake", "pyopencl", "cupy-cuda12x")

#: Programs that megabolt does not need, and what they are good for beside it.
TOOLS = {
    "bwa": "peer chain of the benchmark",
    "samtools": "peer chain of the benchmark; looking at BAM",
    "bcftools": "peer chain of the benchmark; looking at VCF",
    "freebayes": "peer chain of the benchmark",
    "rtg": "vcfeval, a second opinion beside `megabolt compare`",
}

FEATURES = ("sse4_2", "avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512vl", "avx512_vbmi", "asimd", "sve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults()


def main(args: argparse.Namespace) -> int:
    for title, lines in sections():
        print(title)
        for name, value in lines:
            print(f"  {name:<14}{value}")
    return 0


def sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles with their (name, value) lines."""
    yield "versions", [("megabolt", __version__), ("python", sys.version.split()[0]), *_packages()]
    yield "machine", _machine()
    yield "backends", _backends()
    yield "folders", _folders()
    yield "tools", [(name, shutil.which(name) or f"not on PATH ({use})") for name, use in TOOLS.items()]


def _packages() -> list[tuple[str, str]]:
    lines = []
    for name in PACKAGES:
        try:
            lines.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            lines.append((name, "not installed"))
    return lines


def _machine() -> list[tuple[str, str]]:
    model, flags = _processor()
    features = " ".join(name for name in FEATURES if name in flags)
    return [
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("processor", model),
        ("features", features or "unknown"),
        ("threads", f"{allowed_threads()} allowed of {os.cpu_count()}"),
        ("memory", f"{allowed_memory() / 2**30:.1f} GiB allowed"),
        ("scratch", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here"),
    ]


def _processor() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return model, flags
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            model = value
        elif key in ("flags", "Features"):
            flags = set(value.split())
            break
    return model, flags


def _backends() -> list[tuple[str, str]]:
    """Each compute backend: ready, or what is missing."""
    from megabolt.compute.backend import Backend, availability

    found = [availability(backend) for backend in Backend]
    return [(one.backend.value, f"{'ready' if one.available else 'not here'}: {one.detail}") for one in found]


def _folders() -> list[tuple[str, str]]:
    from megabolt.compute.warmup import kernel_cache
    from megabolt.privacy.audit import default_log

    folder = kernel_cache()
    compiled = list(folder.rglob("*.nbc")) if folder.is_dir() else []
    state = f"{len(compiled)} compiled kernels" if compiled else "empty: the first run compiles, or `megabolt warmup`"
    return [("kernel cache", f"{folder} ({state})"), ("audit log", str(default_log()))]
