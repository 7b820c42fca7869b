# SPDX-License-Identifier: Apache-2.0
"""megabolt markdup beside samtools and Picard: an unsorted BAM to a sorted, duplicate-marked, indexed one.

    bwa mem ref.fa R1.fq.gz R2.fq.gz | samtools view -b -o unsorted.bam -
    python benchmarks/io/bench_markdup.py unsorted.bam --work work --threads 1 2 --repeats 3 --json figures.json \\
        --open-data "J. Smith: HG002, open consent"

Order of operations:
  1. megabolt's kernels are compiled first and not counted;
  2. for each number of threads every program runs once, one after another, --repeats rounds; of each program's runs the
     one with the median of CPU seconds counts. N threads are N processors for all processes of a run together;
  3. every output is read: sorted, indexed, the input's records (primary ones by name), and which of them are marked.
     Picard MarkDuplicates is run once more on the input as it stands, not counted: flags that differ from these may be
     --differences of all primary records. (Of copies with equal scores Picard keeps one by its place in the file, so
     what it marks behind SortSam differs.) The share of duplicates of each program may be --tolerance away;
  4. if an answer is poor, the exit code is 1 and no ratio is printed.

The input's templates must stand together, as aligners write them. All programs compress as they do unless told
otherwise, samtools passes uncompressed data on. Costs are defined in runs.py. A peer that is not on PATH is named and
left out. Ratios hold on this machine, for this input, within this run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pysam

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from bench_align import name_sum
from runs import VERSION_OF, Cost, StepFailed, measure, megabolt, missing, processor, quoted, shell, versions

VERSION_OF["PicardCommandLine"] = "PicardCommandLine MarkDuplicates --version 2>&1 | grep -o '[0-9][0-9.]*' | head -n 1"

#: Programs that a chain needs, and its steps as one shell command.
PEERS = {
    "samtools": (
        ("samtools",),
        "samtools fixmate -m -u -@ {extra} {source} - | samtools sort -u -@ {extra} -T {work}/sort -"
        " | samtools markdup -@ {extra} - {bam} && samtools index -@ {extra} {bam}",
    ),
    "picard": (
        ("PicardCommandLine",),
        "PicardCommandLine SortSam INPUT={source} OUTPUT={work}/sorted.bam SORT_ORDER=coordinate TMP_DIR={work}"
        " VALIDATION_STRINGENCY=SILENT QUIET=true && PicardCommandLine MarkDuplicates INPUT={work}/sorted.bam"
        " OUTPUT={bam} METRICS_FILE={work}/picard.txt CREATE_INDEX=true TMP_DIR={work}"
        " VALIDATION_STRINGENCY=SILENT QUIET=true",
    ),
}


#: Picard's flags for the input in its own order.
PICARD_AS_IT_STANDS = (
    "PicardCommandLine MarkDuplicates INPUT={source} OUTPUT={bam} METRICS_FILE={work}/picard.txt TMP_DIR={work}"
    " ASSUME_SORT_ORDER=queryname VALIDATION_STRINGENCY=SILENT QUIET=true"
)


@dataclass(frozen=True)
class Answer:
    """What a BAM holds; `names` is a sum over the primary records; `marked` identifies those marked as duplicates."""

    records: int
    primary: int
    names: int
    sorted: bool
    indexed: bool
    marked: frozenset[int] = field(repr=False)


@dataclass
class Run:
    """A program with a number of threads: its cost (the median), the size of its BAM, what that holds."""

    name: str
    threads: int
    cost: Cost
    bam_bytes: int
    answer: Answer
    costs: list[Cost]


def read_answer(bam: Path) -> Answer:
    """Look through a BAM once, with a reader that is none of the programs'."""
    records = 0
    marked: set[int] = set()
    in_order = True
    last = (-1, -1)
    unplaced = 1 << 40

    def primary(file: pysam.AlignmentFile) -> Iterator[tuple[str, int]]:
        nonlocal records, in_order, last
        for record in file.fetch(until_eof=True):
            records += 1
            place = (record.reference_id if record.reference_id >= 0 else unplaced, record.reference_start)
            in_order, last = in_order and place >= last, place
            if record.flag & 0x900:
                continue
            one = (record.query_name or "", record.is_read1 + 2 * record.is_read2)
            if record.is_duplicate:
                marked.add(hash(one))
            yield one

    with pysam.AlignmentFile(str(bam), check_sq=False) as file:
        n_primary, names = name_sum(primary(file))
        in_order = in_order and file.header.to_dict().get("HD", {}).get("SO") == "coordinate"
    indexed = any(path.exists() for path in (Path(f"{bam}.bai"), Path(f"{bam}.csi"), bam.with_suffix(".bai")))
    return Answer(records, n_primary, names, in_order, indexed, frozenset(marked))


def run_once(name: str, args: argparse.Namespace, threads: int) -> Cost:
    """One run of a program."""
    bam = bam_of(args, name)
    if name in PEERS:
        words = {"source": quoted(args.bam), "work": quoted(args.work), "bam": quoted(bam), "extra": threads - 1}
        command = shell(PEERS[name][1].format(**words))
    else:
        own: list[object] = ["markdup", args.bam, "-o", bam, "--threads", threads]
        own += ["--memory", args.memory] if args.memory else []
        own += ["--open-data", args.open_data] if args.open_data else []
        command = megabolt(*own)
    return measure(command, args.work / f"{name}.log", processors=threads)


def bam_of(args: argparse.Namespace, name: str) -> Path:
    return Path(args.work / f"{name}.bam")


def run_all(names: Sequence[str], args: argparse.Namespace, threads: int) -> list[Run]:
    """All rounds; the programs take turns, so that a slow minute of the machine does not meet one of them alone."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(args.repeats):
        for name in [one for one in names if one in costs]:
            try:
                costs[name].append(run_once(name, args, threads))
            except StepFailed as failure:
                if name not in PEERS:
                    raise
                print(f"left out {name}, {threads} threads: {failure}", file=sys.stderr)
                del costs[name]
    runs = []
    for name, found in costs.items():
        median = sorted(found, key=lambda cost: cost.cpu_seconds)[(len(found) - 1) // 2]
        bam = bam_of(args, name)
        runs.append(Run(name, threads, median, bam.stat().st_size, read_answer(bam), found))
    return runs


def picards_flags(args: argparse.Namespace) -> frozenset[int]:
    """What Picard marks in the input as it stands."""
    bam = args.work / "as-it-stands.bam"
    words = {"source": quoted(args.bam), "work": quoted(args.work), "bam": quoted(bam)}
    measure(shell(PICARD_AS_IT_STANDS.format(**words)), args.work / "prepare.log")
    return read_answer(bam).marked


def faults(runs: Sequence[Run], source: Answer, expected: frozenset[int] | None, args: argparse.Namespace) -> list[str]:
    """What is wrong with the answers, in words; `expected`: Picard's flags, None without Picard."""
    found = []
    for run in runs:
        said = []
        answer = run.answer
        if (answer.records, answer.primary) != (source.records, source.primary):
            said.append(f"{answer.records} records, {answer.primary} primary; the input has {source}")
        elif answer.names != source.names:
            said.append("the names are not those of the input")
        if not answer.sorted:
            said.append("not sorted by coordinate")
        if not answer.indexed:
            said.append("no index")
        ours = next(one.answer for one in runs if one.name == "megabolt" and one.threads == run.threads)
        different = 0 if expected is None else len(expected ^ answer.marked)
        away = abs(len(ours.marked) - len(answer.marked)) / max(1, source.primary)
        if run.name == "megabolt" and different > args.differences * source.primary:
            said.append(f"{different} flags are not Picard's")
        if away > args.tolerance:
            said.append(f"duplicates {away:+.4f} from megabolt's")
        found += [f"{run.name}, {run.threads} threads: {word}" for word in said]
    return found


def table(runs: Sequence[Run], source: Answer) -> str:
    """Costs, ratios to megabolt's with as many threads, and how many flags differ from megabolt's."""
    lines = [
        f"{'program':<10}{'threads':>8}{'CPU s/M reads':>15}{'wall s':>9}{'peak GB':>9}{'BAM MB':>9}"
        f"{'CPU x':>8}{'wall x':>8}{'marked':>10}{'others':>9}"
    ]
    for run in runs:
        ours = next(one for one in runs if one.name == "megabolt" and one.threads == run.threads)
        cost = run.cost
        lines.append(
            f"{run.name:<10}{run.threads:>8}{cost.cpu_seconds * 1e6 / source.primary:>15.2f}{cost.wall_seconds:>9.2f}"
            f"{cost.peak_bytes / 1e9:>9.2f}{run.bam_bytes / 1e6:>9.1f}{cost.cpu_seconds / ours.cost.cpu_seconds:>8.2f}"
            f"{cost.wall_seconds / ours.cost.wall_seconds:>8.2f}{len(run.answer.marked):>10}"
            f"{len(run.answer.marked ^ ours.answer.marked):>9}"
        )
    return "\n".join(lines)


def content(runs: Sequence[Run], found: dict[str, str], source: Answer) -> dict[str, object]:
    """All figures, those of the rounds that do not count included."""
    return {
        "schema_version": 1,
        "processor": processor(),
        "versions": found,
        "records": source.records,
        "primary": source.primary,
        "runs": [
            {
                "name": run.name,
                "threads": run.threads,
                **vars(run.cost),
                "bam_bytes": run.bam_bytes,
                "duplicates": len(run.answer.marked),
                "rounds": [asdict(cost) for cost in run.costs],
            }
            for run in runs
        ],
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bam", type=Path, help="unsorted, templates together")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all there are")
    parser.add_argument("--threads", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the median counts")
    parser.add_argument("--memory", help="passed on to megabolt")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--differences", type=float, default=1e-5, help="share of flags that may differ from Picard's")
    parser.add_argument("--tolerance", type=float, default=0.01, help="largest difference of the shares of duplicates")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--open-data", help="as for megabolt markdup")
    args = parser.parse_args(argv)
    most = len(os.sched_getaffinity(0))
    if args.repeats < 1 or not all(1 <= threads <= most for threads in args.threads):
        parser.error(f"--repeats is at least 1, --threads between 1 and {most}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    peers = []
    for name in dict.fromkeys(args.peers):
        absent = missing(PEERS[name][0])
        if absent:
            print(f"skipped {name}: {', '.join(absent)} not on PATH")
        else:
            peers.append(name)
    measure(megabolt("warmup"), args.work / "prepare.log")
    runs = [run for threads in args.threads for run in run_all([*peers, "megabolt"], args, threads)]
    found = versions(sorted({program for name in peers for program in PEERS[name][0]}))
    print(f"{processor()}; " + ", ".join(f"{program} {version}" for program, version in found.items()))
    source = read_answer(args.bam)
    expected = picards_flags(args) if "picard" in peers else None
    wrong = faults(runs, source, expected, args)
    if wrong:
        print("no ratio:", "; ".join(wrong), file=sys.stderr)
        return 1
    print(table(runs, source))
    if expected is not None:
        different = [len(run.answer.marked ^ expected) for run in runs if run.name == "megabolt"]
        print(f"Picard marks {len(expected)} records of the input as it stands; megabolt differs in {max(different)}")
    if args.json:
        args.json.write_text(json.dumps(content(runs, found, source), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
