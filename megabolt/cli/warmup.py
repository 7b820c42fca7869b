# SPDX-License-Identifier: Apache-2.0
"""Compile all kernels now, so that the first sample does not have to wait.

Kernels are compiled for this machine's processor when they are first needed and kept in a cache folder
(`megabolt doctor` names it). Jobs do this by themselves; this command does nothing else, for instance while an
image is built. It takes a lock: whoever comes second waits and finds the work done.
"""

from __future__ import annotations

import argparse

from megabolt.cli import _options
from megabolt.compute.warmup import kernel_modules, warm_up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="print the modules with kernels and leave")
    _options.add_threads(parser)


def main(args: argparse.Namespace) -> int:
    if args.list:
        print("\n".join(kernel_modules()))
        return 0
    folder, seconds = warm_up(_options.threads_of(args))
    print(f"{len(kernel_modules())} kernel modules ready in {seconds:.1f} s: {folder}")
    return 0
