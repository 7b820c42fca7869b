# SPDX-License-Identifier: Apache-2.0
"""megabolt align beside other aligners: FASTQ.gz to a sorted, duplicate-marked, indexed BAM; answer checked, cost.

    python benchmarks/pipeline/bench_align.py --reference ref.fa -1 R1.fq.gz -2 R2.fq.gz --work work \\
        --threads 1 2 --repeats 3 --json figures.json --open-data "J. Smith: HG002, open consent"

Without -2 the reads have no mates. Order of operations:
  1. indexes of all aligners, and megabolt's kernels, are made first and not counted;
  2. --repeats rounds, in each of them every number of threads and every aligner in turn; of an aligner's runs
     the one with the median of CPU seconds counts. N threads are N processors for all processes of a run together.
     What threads gain is the median over the rounds of the ratio of wall seconds within a round;
  3. every BAM is read: is it sorted and indexed, is each read of the FASTQ there once (primary records and their
     names), how many are mapped, properly paired, duplicates; reads named by `megabolt simulate` also say whether
     they are in their place (within 30 bases, same strand);
  4. if an answer is poor (--floor, --tolerance), the exit code is 1 and no ratio is printed: speed of wrong answers
     is no figure.

Peers' SAM goes through samtools fixmate, sort and markdup; SNAP sorts and marks by itself, which is faster. Costs
are defined in runs.py. A peer that is not on PATH, or fails, is named and left out. Ratios hold on this machine,
for this input, within this run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pysam
from runs import (
    BWA,
    FINISH,
    READ_GROUP,
    Cost,
    StepFailed,
    measure,
    megabolt,
    missing,
    prepare_megabolt,
    processor,
    quoted,
    shell,
    versions,
)

from megabolt.simulate.reads import ReadOrigin, parse_name

#: A simulated read is in its place if it starts this near to where it was drawn from.
NEAR = 30

#: Sums of names are kept to 64 bits.
MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Peer:
    """Another aligner: programs it needs, the command that makes its index, a file of that index, its run."""

    programs: tuple[str, ...]
    index: str
    index_file: str
    run: str


PEERS = {
    "bwa": Peer(("bwa", "samtools"), "bwa index {reference}", "{reference}.bwt", BWA + FINISH),
    "bwa-mem2": Peer(
        ("bwa-mem2", "samtools"),
        "bwa-mem2 index {reference}",
        "{reference}.bwt.2bit.64",
        BWA.replace("bwa mem", "bwa-mem2 mem") + FINISH,
    ),
    "strobealign": Peer(
        ("strobealign", "samtools"),
        "strobealign --create-index {reference} {reads}",
        "{reference}.r*.sti",
        "strobealign --use-index -t {threads} --rg-id={sample} --rg=SM:{sample} --rg=LB:{sample} --rg=PL:ILLUMINA"
        " {reference} {reads}" + FINISH,
    ),
    "minimap2": Peer(
        ("minimap2", "samtools"),
        "minimap2 -x sr -d {reference}.mmi {reference}",
        "{reference}.mmi",
        f"minimap2 -ax sr -t {{threads}} -R '{READ_GROUP}' {{reference}}.mmi {{reads}}" + FINISH,
    ),
    "snap": Peer(
        ("snap-aligner",),
        "snap-aligner index {reference} {reference}.snap",
        "{reference}.snap/GenomeIndex",
        f"snap-aligner {{mode}} {{reference}}.snap {{reads}} -t {{threads}} -b- -so -R '{READ_GROUP}' -o {{bam}}",
    ),
}


@dataclass(frozen=True)
class Answer:
    """What a BAM holds. `names` is a sum over the primary records, the same for any order of them."""

    records: int
    primary: int
    names: int
    sorted: bool
    indexed: bool
    mapped: int
    proper: int
    duplicates: int
    supplementary: int
    right: int | None


@dataclass
class Run:
    """An aligner with a number of threads: its cost, size of its BAM, what the BAM holds."""

    name: str
    threads: int
    cost: Cost
    bam_bytes: int
    answer: Answer
    costs: list[Cost] = field(default_factory=list)


def fastq_names(path: Path) -> Iterator[str]:
    """The reads' names, without what follows a blank or a closing /1 or /2."""
    with gzip.open(path, "rb") as file:
        for number, line in enumerate(file):
            if number % 4 == 0:
                name = line[1:].split()[0].decode()
                yield name[:-2] if name[-2:] in ("/1", "/2") else name


def name_sum(names: Iterator[tuple[str, int]]) -> tuple[int, int]:
    """How many (name, mate) there are and a sum that does not depend on their order."""
    count, total = 0, 0
    for pair in names:
        count += 1
        total += hash(pair)
    return count, total & MASK


def reads_of(fastqs: Sequence[Path]) -> tuple[int, int]:
    """Number and sum of the reads' names of one or two FASTQ files; mate 0 if there is one."""
    mates = range(1, 3) if len(fastqs) == 2 else range(1)
    found = [name_sum((name, mate) for name in fastq_names(path)) for mate, path in zip(mates, fastqs)]
    return sum(count for count, _ in found), sum(total for _, total in found) & MASK


def read_answer(bam: Path) -> Answer:
    """Look through a BAM once, with a reader that is none of the aligners'."""
    counts = dict.fromkeys(("records", "mapped", "proper", "duplicates", "supplementary", "right"), 0)
    in_order, known = True, True
    last = (-1, -1)
    unplaced = 1 << 40

    def primary(file: pysam.AlignmentFile) -> Iterator[tuple[str, int]]:
        nonlocal in_order, known, last
        for record in file:
            counts["records"] += 1
            place = (record.reference_id if record.reference_id >= 0 else unplaced, record.reference_start)
            in_order, last = in_order and place >= last, place
            if record.flag & 0x900:
                counts["supplementary"] += bool(record.flag & 0x800)
                continue
            counts["mapped"] += not record.is_unmapped
            counts["proper"] += record.is_proper_pair
            counts["duplicates"] += record.is_duplicate
            name = record.query_name or ""
            if known:
                origin = origin_of(name)
                known = origin is not None
                counts["right"] += origin is not None and in_place(record, origin)
            yield name, record.is_read1 + 2 * record.is_read2

    with pysam.AlignmentFile(str(bam)) as file:
        n_primary, names = name_sum(primary(file))
        indexed = file.has_index()
        in_order = in_order and file.header.to_dict().get("HD", {}).get("SO") == "coordinate"
    right = counts.pop("right")
    return Answer(
        primary=n_primary, names=names, sorted=in_order, indexed=indexed, right=right if known else None, **counts
    )


def origin_of(name: str) -> ReadOrigin | None:
    """Where a simulated read comes from; None for other names."""
    try:
        return parse_name(name) if name.startswith("sim") else None
    except (ValueError, IndexError):
        return None


def in_place(record: pysam.AlignedSegment, origin: ReadOrigin) -> bool:
    """Is a primary record where its read was drawn from?"""
    if record.is_unmapped or record.reference_name != origin.contig:
        return False
    mate = int(record.is_read2)
    operation, length = (record.cigartuples or [(0, 0)])[0]
    clipped = length if operation in (4, 5) else 0
    distance = min(abs(record.reference_start - shift - origin.start[mate]) for shift in (0, clipped))
    return distance <= NEAR and record.is_reverse == origin.reverse[mate]


def words_of(args: argparse.Namespace, reference: Path, threads: int, bam: Path) -> dict[str, object]:
    """What the peers' commands are filled with."""
    return {
        "reference": quoted(reference),
        "reads": quoted(*args.fastqs),
        "mode": "paired" if len(args.fastqs) == 2 else "single",
        "work": quoted(args.work),
        "bam": quoted(bam),
        "sample": args.sample,
        "threads": threads,
    }


def prepare(args: argparse.Namespace, peers: Sequence[str]) -> Path:
    """A plain FASTA in the working folder with the indexes of all aligners; nothing of this is counted."""
    reference = prepare_megabolt(args.reference, args.work)
    words = words_of(args, reference, 1, args.work)
    for name in peers:
        pattern = Path(PEERS[name].index_file.format(reference=reference))
        if not list(pattern.parent.glob(pattern.name)):
            measure(shell(PEERS[name].index.format(**words)), args.work / "prepare.log")
    return reference


def run_once(name: str, args: argparse.Namespace, reference: Path, threads: int, bam: Path) -> Cost:
    """One run of an aligner."""
    if name in PEERS:
        command = shell(PEERS[name].run.format(**words_of(args, reference, threads, bam)))
    else:
        words: list[object] = ["align", "--reference", reference, "--sample", args.sample]
        words += ["-1", args.fastqs[0], "-2", args.fastqs[1]] if len(args.fastqs) == 2 else ["--single", *args.fastqs]
        words += ["-o", bam, "--threads", threads]
        words += ["--memory", args.memory] if args.memory else []
        words += ["--open-data", args.open_data] if args.open_data else []
        command = megabolt(*words)
    return measure(command, args.work / f"{name}.log", processors=threads)


def run_all(names: Sequence[str], args: argparse.Namespace, reference: Path) -> list[Run]:
    """All rounds; runs take turns, so that a slow minute of the machine does not meet one kind of them alone."""
    costs: dict[tuple[int, str], list[Cost]] = {(threads, name): [] for threads in args.threads for name in names}
    for _ in range(args.repeats):
        for threads, name in list(costs):
            try:
                cost = run_once(name, args, reference, threads, bam_of(args, name, threads))
                costs[threads, name].append(cost)
            except StepFailed as failure:
                if name not in PEERS:
                    raise
                print(f"left out {name}, {threads} threads: {failure}", file=sys.stderr)
                del costs[threads, name]
    runs = []
    for (threads, name), taken in costs.items():
        median = sorted(taken, key=lambda cost: cost.cpu_seconds)[(args.repeats - 1) // 2]
        bam = bam_of(args, name, threads)
        runs.append(Run(name, threads, median, bam.stat().st_size, read_answer(bam), taken))
    return runs


def bam_of(args: argparse.Namespace, name: str, threads: int) -> Path:
    return Path(args.work / f"{name}.{threads}.bam")


def scaling(runs: Sequence[Run]) -> list[str]:
    """How much less wall time an aligner takes with more threads than with the fewest, a line each."""
    lines = []
    for run in runs:
        fewest = min((one for one in runs if one.name == run.name), key=lambda one: one.threads)
        if run.threads > fewest.threads:
            ratios = [one.wall_seconds / more.wall_seconds for one, more in zip(fewest.costs, run.costs)]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(
                f"{run.name}: {run.threads} threads are {statistics.median(ratios):.2f} times as fast as"
                f" {fewest.threads} (rounds: {each})"
            )
    return lines


def faults(runs: Sequence[Run], n_reads: int, names: int, floor: float, tolerance: float) -> list[str]:
    """What is wrong with the answers, in words.

    Shares of mapped and of properly paired reads may be `tolerance` below, that of duplicates above or below, the
    median of all aligners.
    """
    found = []
    for run in runs:
        answer = run.answer
        said = []
        if answer.primary != n_reads:
            said.append(f"{answer.primary} primary records of {n_reads} reads")
        elif answer.names != names:
            said.append("the names are not those of the FASTQ")
        if not answer.sorted:
            said.append("not sorted by coordinate")
        if not answer.indexed:
            said.append("no index")
        for what in ("mapped", "right"):
            share = getattr(answer, what)
            if share is not None and share < floor * n_reads:
                said.append(f"{what} {share / n_reads:.4f} is below {floor}")
        for what in ("mapped", "proper", "duplicates"):
            away = (getattr(answer, what) - statistics.median(getattr(one.answer, what) for one in runs)) / n_reads
            if away < -tolerance or (what == "duplicates" and away > tolerance):
                said.append(f"{what} {away:+.4f} from the median of all aligners")
        found += [f"{run.name}, {run.threads} threads: {word}" for word in said]
    return found


def table(runs: Sequence[Run], n_templates: int, n_reads: int) -> str:
    """Costs, ratios to megabolt's with as many threads, and what the BAMs hold."""
    unit = "pairs" if n_reads > n_templates else "reads"
    lines = [
        f"{'aligner':<13}{'threads':>7}{f'CPU s/M {unit}':>15}{'wall s':>9}{'peak GB':>9}{'BAM MB':>8}"
        f"{'CPU x':>8}{'wall x':>8}{'mapped':>9}{'proper':>9}{'dup.':>9}{'right':>9}"
    ]
    for run in runs:
        ours = next(one.cost for one in runs if one.name == "megabolt" and one.threads == run.threads)
        cost, answer = run.cost, run.answer
        right = "-" if answer.right is None else f"{answer.right / n_reads:.5f}"
        lines.append(
            f"{run.name:<13}{run.threads:>7}{cost.cpu_seconds * 1e6 / n_templates:>15.2f}{cost.wall_seconds:>9.2f}"
            f"{cost.peak_bytes / 1e9:>9.2f}{run.bam_bytes / 1e6:>8.1f}{cost.cpu_seconds / ours.cpu_seconds:>8.2f}"
            f"{cost.wall_seconds / ours.wall_seconds:>8.2f}{answer.mapped / n_reads:>9.5f}"
            f"{answer.proper / n_reads:>9.5f}{answer.duplicates / n_reads:>9.5f}{right:>9}"
        )
    return "\n".join(lines)


def write_json(path: Path, runs: Sequence[Run], found: dict[str, str], n_templates: int, n_reads: int) -> None:
    """All figures, those of the rounds that do not count included."""
    content = {
        "schema_version": 1,
        "processor": processor(),
        "versions": found,
        "templates": n_templates,
        "reads": n_reads,
        "runs": [
            {
                "name": run.name,
                "threads": run.threads,
                "cpu_seconds_per_million": run.cost.cpu_seconds * 1e6 / n_templates,
                **vars(run.cost),
                "bam_bytes": run.bam_bytes,
                "answer": {key: value for key, value in asdict(run.answer).items() if key != "names"},
                "rounds": [vars(cost) for cost in run.costs],
            }
            for run in runs
        ],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="FASTA, plain or gzipped")
    parser.add_argument("-1", dest="fastq_1", type=Path, required=True)
    parser.add_argument("-2", dest="fastq_2", type=Path, help="without it: reads without mates")
    parser.add_argument("--sample", default="sample")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all there are")
    parser.add_argument("--threads", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the median counts")
    parser.add_argument("--memory", help="passed on to megabolt")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--floor", type=float, default=0.9, help="lowest share of reads mapped, and in their place")
    parser.add_argument("--tolerance", type=float, default=0.02, help="largest difference of the shares of two BAMs")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--open-data", help="as for megabolt align")
    args = parser.parse_args(argv)
    most = len(os.sched_getaffinity(0))
    if args.repeats < 1 or not all(1 <= threads <= most for threads in args.threads):
        parser.error(f"--repeats is at least 1, --threads between 1 and {most}")
    args.fastqs = [path for path in (args.fastq_1, args.fastq_2) if path is not None]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    peers = []
    for name in dict.fromkeys(args.peers):
        absent = missing(PEERS[name].programs)
        if absent:
            print(f"skipped {name}: {', '.join(absent)} not on PATH")
        else:
            peers.append(name)
    reference = prepare(args, peers)
    runs = run_all([*peers, "megabolt"], args, reference)
    found = versions(sorted({program for name in peers for program in PEERS[name].programs}))
    print(f"{processor()}; " + ", ".join(f"{program} {version}" for program, version in found.items()))
    n_reads, names = reads_of(args.fastqs)
    wrong = faults(runs, n_reads, names, args.floor, args.tolerance)
    if wrong:
        print("no ratio:", "; ".join(wrong), file=sys.stderr)
        return 1
    n_templates = n_reads // len(args.fastqs)
    print("\n".join([table(runs, n_templates, n_reads), *scaling(runs)]))
    if args.json:
        write_json(args.json, runs, found, n_templates, n_reads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
