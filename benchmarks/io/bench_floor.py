# SPDX-License-Identifier: Apache-2.0
"""How far megabolt align is from the least that can be done: FASTQ.gz only unpacked, its BAM only packed.

    python benchmarks/io/bench_floor.py --reference ref.fa -1 R1.fq.gz -2 R2.fq.gz --work work --repeats 3 \\
        --json figures.json --open-data "simulated"

Order of operations:
  1. index and kernels are made first and not counted;
  2. `megabolt align` and the two parts of the floor take turns, --repeats rounds; of each the run with the median of
     CPU seconds counts;
  3. the BAM is read: each read of the FASTQ there once, sorted, indexed, enough of them mapped (--floor). If not, the
     exit code is 1 and no ratio is printed.

The floor, always in one thread:
  unpack  every byte of the FASTQ files through the reader that the aligner uses, into a buffer that is used again;
  pack    every inflated byte of the BAM that `megabolt align` just wrote, already in memory, through the writer that
          it uses, at its level, into a file.

The floor counts CPU seconds of these loops alone: no start of an interpreter, no parsing, no index. For `align` all of
the process counts. A faster isal makes both faster: the ratio says what the program adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from bench_align import Run, faults, read_answer, reads_of, run_once
from runs import Cost, prepare_megabolt, processor, versions

from megabolt.compute.bits import PADDING
from megabolt.formats.bgzf import BgzfWriter, decompress
from megabolt.formats.inflate import InputStream

_BUFFER = 1 << 20


def timed(work: Callable[[], tuple[int, int]]) -> dict[str, float]:
    """CPU and wall seconds of some work, the bytes it took and those it gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    taken, given = work()
    return {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "bytes_in": taken,
        "bytes_out": given,
    }


def unpack(paths: Sequence[Path]) -> dict[str, float]:
    """Inflate FASTQ files, one after another."""
    buffer = bytearray(_BUFFER)

    def work() -> tuple[int, int]:
        n = 0
        for path in paths:
            with InputStream(path) as stream:
                while got := stream.readinto(buffer):
                    n += got
        return sum(path.stat().st_size for path in paths), n

    return timed(work)


def pack(bam: Path, target: Path) -> dict[str, float]:
    """Compress the content of a BAM into another file."""
    data = decompress(bam.read_bytes(), bam)
    data = data[: len(data) - PADDING]

    def work() -> tuple[int, int]:
        with target.open("wb") as file:
            writer = BgzfWriter(file)
            for start in range(0, len(data), _BUFFER):
                writer.write(data[start : start + _BUFFER])
            writer.close()
        return len(data), target.stat().st_size

    return timed(work)


def part(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part of the floor in a process of its own, on one processor; what it says of itself."""
    files = args.fastqs if name == "unpack" else [args.work / "megabolt.bam", args.work / "floor.bam"]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:1])
    try:
        said = subprocess.run(
            [sys.executable, __file__, "--part", name, *map(str, files)], capture_output=True, text=True, check=True
        )
    finally:
        os.sched_setaffinity(0, allowed)
    return dict(json.loads(said.stdout))


def median(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one with the median of CPU seconds."""
    return sorted(found, key=lambda one: float(one["cpu_seconds"]))[(len(found) - 1) // 2]


def run_all(args: argparse.Namespace, reference: Path) -> tuple[Run, dict[str, list[dict[str, Any]]]]:
    """All rounds: align (its file is what `pack` packs), then the floor."""
    costs: list[Cost] = []
    parts: dict[str, list[dict[str, Any]]] = {"unpack": [], "pack": []}
    for _ in range(args.repeats):
        costs.append(run_once("megabolt", args, reference, args.threads, args.work / "megabolt.bam"))
        for name, found in parts.items():
            found.append(part(name, args))
    middle = sorted(costs, key=lambda cost: cost.cpu_seconds)[(len(costs) - 1) // 2]
    bam = args.work / "megabolt.bam"
    return Run("megabolt", args.threads, middle, bam.stat().st_size, read_answer(bam), costs), parts


def table(run: Run, parts: dict[str, list[dict[str, Any]]], n_templates: int, unit: str) -> str:
    """The parts, their sum, and align beside it."""
    per_million = 1e6 / n_templates
    lines = [f"{'':<9}{f'CPU s/M {unit}':>15}{'wall s':>9}{'MB in':>9}{'MB out':>9}{'MB/s':>8}{'x floor':>9}"]
    chosen = {name: median(found) for name, found in parts.items()}
    floor = sum(one["cpu_seconds"] for one in chosen.values())
    for name, one in chosen.items():
        inflated = one["bytes_out"] if name == "unpack" else one["bytes_in"]
        lines.append(
            f"{name:<9}{one['cpu_seconds'] * per_million:>15.2f}{one['wall_seconds']:>9.2f}"
            f"{one['bytes_in'] / 1e6:>9.1f}{one['bytes_out'] / 1e6:>9.1f}{inflated / 1e6 / one['cpu_seconds']:>8.0f}"
        )
    lines.append(f"{'floor':<9}{floor * per_million:>15.2f}{'':>9}{'':>9}{'':>9}{'':>8}{1:>9.2f}")
    cost = run.cost
    lines.append(
        f"{'align':<9}{cost.cpu_seconds * per_million:>15.2f}{cost.wall_seconds:>9.2f}{'':>9}"
        f"{run.bam_bytes / 1e6:>9.1f}{'':>8}{cost.cpu_seconds / floor:>9.2f}"
    )
    return "\n".join(lines)


def content(run: Run, parts: dict[str, list[dict[str, Any]]], n_templates: int) -> dict[str, Any]:
    """All figures, those of the rounds that do not count included."""
    floor = sum(median(found)["cpu_seconds"] for found in parts.values())
    return {
        "schema_version": 1,
        "processor": processor(),
        "versions": versions([]),
        "templates": n_templates,
        "floor_cpu_seconds_per_million": floor * 1e6 / n_templates,
        "align_cpu_seconds_per_million": run.cost.cpu_seconds * 1e6 / n_templates,
        "ratio": run.cost.cpu_seconds / floor,
        "threads": run.threads,
        "bam_bytes": run.bam_bytes,
        "align": [vars(cost) for cost in run.costs],
        **parts,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="FASTA, plain or gzipped")
    parser.add_argument("-1", dest="fastq_1", type=Path, required=True)
    parser.add_argument("-2", dest="fastq_2", type=Path, help="without it: reads without mates")
    parser.add_argument("--sample", default="sample")
    parser.add_argument("--threads", type=int, default=1, help="of align; the floor has one (default: 1)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the median counts")
    parser.add_argument("--memory", help="passed on to megabolt")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--floor", type=float, default=0.9, help="lowest share of reads mapped, and in their place")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--open-data", help="as for megabolt align")
    args = parser.parse_args(argv)
    if args.repeats < 1 or not 1 <= args.threads <= len(os.sched_getaffinity(0)):
        parser.error("--repeats is at least 1, --threads at most the number of processors")
    args.fastqs = [path for path in (args.fastq_1, args.fastq_2) if path is not None]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    reference = prepare_megabolt(args.reference, args.work)
    run, parts = run_all(args, reference)
    print(f"{processor()}; megabolt {versions([])['megabolt']}, {args.threads} threads")
    n_reads, names = reads_of(args.fastqs)
    wrong = faults([run], n_reads, names, args.floor, tolerance=1.0)
    if wrong:
        print("no ratio:", "; ".join(wrong), file=sys.stderr)
        return 1
    n_templates = n_reads // len(args.fastqs)
    print(table(run, parts, n_templates, "pairs" if len(args.fastqs) == 2 else "reads"))
    if args.json:
        args.json.write_text(json.dumps(content(run, parts, n_templates), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        files = [Path(word) for word in sys.argv[3:]]
        print(json.dumps(unpack(files) if sys.argv[2] == "unpack" else pack(files[0], files[1])))
        sys.exit(0)
    sys.exit(main())
