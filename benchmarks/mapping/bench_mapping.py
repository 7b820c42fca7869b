# SPDX-License-Identifier: Apache-2.0
"""Mapping accuracy and calibration on simulated reads: megabolt beside every aligner found on PATH.

Sets are described in a JSON file (paths relative to it):

    [{"name": "hard", "reference": "ref.fa", "reads": ["R1.fastq.gz", "R2.fastq.gz"],
      "truth": "truth.bam", "classes": "classes.bed", "bams": {"bwa": "bwa.bam"}}]

One FASTQ: single-end. The reads are those of `megabolt simulate`. Optional: `truth` (`simulate --truth-bam`; without it
bases are not judged), `classes` (`simulate --hard`; without it classes are copy numbers of the reference's own
24-mers), `bams` (alignments that exist; .sam too).

    megabolt simulate --hard --genome-size 64000000 --pairs 1000000 --truth-bam --outdir hard
    python benchmarks/mapping/bench_mapping.py sets.json --run --out results
    python benchmarks/mapping/bench_mapping.py sets.json --set hard --bam mine=other.bam

--run aligns with every tool found that has no BAM yet (bwa, bwa-mem2, minimap2, strobealign, snap-aligner,
megabolt) and keeps BAMs and indexes in OUT/work. OUT gets mapping.json, mapping.md and roc-SET.svg; the short table
goes to the terminal. What is counted, and how, is said in mapping_judge.py.

Exit code 1 if, with --check TOOL, that aligner does worse than --base in a set: placed right outside the interval of
the difference in some class, fewer reads at MAPQ >= 20, more wrong ones, or a bin of MAPQ that breaks its promise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapping_judge import bed_classes, multiplicity_classes
from mapping_reads import cached_placed, read_genome, read_reads
from mapping_report import compact, judge_set, markdown, svg

from megabolt.privacy.consent import Permit, authorize

READ_GROUP = r"@RG\tID:lane1\tSM:S\tLB:S\tPL:ILLUMINA"


@dataclass(frozen=True)
class ReadSet:
    """A reference, reads with known origin, and alignments of them that exist already."""

    name: str
    reference: Path
    reads: list[Path]
    truth: Path | None = None
    classes: Path | None = None
    bams: dict[str, Path] = field(default_factory=dict)


def read_sets(path: Path) -> list[ReadSet]:
    """The sets of a JSON file."""
    folder = path.parent
    return [
        ReadSet(
            entry["name"],
            folder / entry["reference"],
            [folder / name for name in entry["reads"]],
            folder / entry["truth"] if entry.get("truth") else None,
            folder / entry["classes"] if entry.get("classes") else None,
            {tool: folder / bam for tool, bam in entry.get("bams", {}).items()},
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


@dataclass(frozen=True)
class Aligner:
    """How to run an aligner. In the commands: {ref}, {reads}, {mode} (paired or single), {threads}, {out}.

    `index` makes `made` beside {ref} if it is missing; `align` writes SAM to its standard output unless it names
    {out}.
    """

    program: str
    align: str
    index: str = ""
    made: str = ""


ALIGNERS = {
    "bwa": Aligner("bwa", "bwa mem -t {threads} -R {group} {ref} {reads}", "bwa index {ref}", "{ref}.bwt"),
    "bwa-mem2": Aligner(
        "bwa-mem2", "bwa-mem2 mem -t {threads} -R {group} {ref} {reads}", "bwa-mem2 index {ref}", "{ref}.bwt.2bit.64"
    ),
    "minimap2": Aligner("minimap2", "minimap2 -ax sr -t {threads} -R {group} {ref} {reads}"),
    "strobealign": Aligner("strobealign", "strobealign -t {threads} --rg-id=lane1 --rg=SM:S {ref} {reads}"),
    "snap": Aligner(
        "snap-aligner",
        "snap-aligner {mode} {ref}.snap {reads} -t {threads} -R {group} -o -bam {out}",
        "snap-aligner index {ref} {ref}.snap -t{threads}",
        "{ref}.snap/GenomeIndex",
    ),
    "megabolt": Aligner(
        "megabolt",
        "megabolt align -q --reference {ref} {mates} --sample S --threads {threads} -o {out} --open-data {open_data}",
        "megabolt index -q {ref}",
        "{ref}.mbx",
    ),
}


def run_aligners(read_set: ReadSet, folder: Path, threads: int, open_data: str) -> dict[str, Path]:
    """BAMs by aligner: those of the set, those made before in `folder`, and of every other program on PATH."""
    found = dict(read_set.bams)
    home = folder / read_set.name.replace("/", "-")
    home.mkdir(parents=True, exist_ok=True)
    reference = folder / f"{read_set.reference.resolve().parent.name}-{read_set.reference.name}"
    if not reference.exists():
        reference.symlink_to(read_set.reference.resolve())
    words: dict[str, Any] = {
        "ref": shlex.quote(str(reference)),
        "reads": shlex.join(map(str, read_set.reads)),
        "mates": " ".join(f"-{i} {shlex.quote(str(path))}" for i, path in enumerate(read_set.reads, 1)),
        "mode": "paired" if len(read_set.reads) == 2 else "single",
        "threads": threads,
        "group": shlex.quote(READ_GROUP),
        "open_data": shlex.quote(open_data),
    }
    for tool, aligner in ALIGNERS.items():
        bam = home / f"{tool}.bam"
        if tool in found or shutil.which(aligner.program) is None:
            continue
        if not bam.exists():
            part = home / f"{tool}.part.bam"
            words["out"] = shlex.quote(str(part))
            if aligner.index and not Path(aligner.made.format(**{**words, "ref": reference})).exists():
                _shell(aligner.index.format(**words), home / f"{tool}.index.log")
            command = aligner.align.format(**words)
            if "{out}" not in aligner.align:
                command += f" | samtools view -1 -b -o {words['out']} -"
            _shell(command, home / f"{tool}.log")
            part.replace(bam)
        found[tool] = bam
    return found


def _shell(command: str, log: Path) -> None:
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{command}\nfailed with {done.returncode}; see {log}")


def measure(
    read_set: ReadSet, bams: dict[str, Path], base: str, permit: Permit, cache: Path | None = None
) -> dict[str, Any]:
    """The figures of one set."""
    genome = read_genome(read_set.reference)
    reads = read_reads(read_set.reads, genome, permit, read_set.truth)
    n_rows = len(reads.length)
    placements = {tool: cached_placed(bam, n_rows, genome, permit, cache) for tool, bam in bams.items()}
    if read_set.classes is not None:
        classes = bed_classes(read_set.classes, genome, reads)
    else:
        classes = multiplicity_classes(genome, reads)
    return judge_set(read_set.name, reads, genome, placements, classes, base)


def failures(result: dict[str, Any], tool: str) -> Iterator[str]:
    """What an aligner does worse than the base, or than it promises, in one set."""
    entry = result["tools"][tool]
    base = result["tools"].get(result["base"])
    for label, told in entry["groups"].items():
        if base is None or "versus" not in told:
            continue
        theirs = base["groups"][label]
        if told["versus"]["right"][2] < 0:
            yield f"{label}: {100 * told['versus']['right'][0]:+.4f} points placed right"
        if told["wrong20"] > theirs["wrong20"]:
            yield f"{label}: {told['wrong20']} wrong at MAPQ >= 20, not {theirs['wrong20']}"
        if told["at20"] < theirs["at20"]:
            yield f"{label}: {100 * told['versus']['at20'][0]:+.4f} points at MAPQ >= 20"
    for row in entry["calibration"]:
        if row["over"]:
            yield f"MAPQ {row['low']}-{row['high']}: error {row['observed']:.1e}, promised {row['promised']:.1e}"


def write_results(folder: Path, results: list[dict[str, Any]]) -> None:
    """mapping.json, mapping.md and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mapping.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = "# Mapping accuracy and calibration\n\n"
    for result in results:
        plot = f"roc-{result['set'].replace('/', '-')}.svg"
        (folder / plot).write_text(svg(result), encoding="utf-8")
        text += markdown(result) + f"\n![ROC over MAPQ]({plot})\n\n"
    (folder / "mapping.md").write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, help="JSON file that describes the sets")
    parser.add_argument("--set", action="append", metavar="NAME", help="only this set; may be repeated")
    parser.add_argument("--bam", action="append", default=[], metavar="TOOL=PATH", help="one more BAM of the set")
    parser.add_argument("--tools", metavar="A,B,...", help="only these aligners")
    parser.add_argument("--run", action="store_true", help="align with every aligner on PATH")
    parser.add_argument("--base", default="bwa", metavar="TOOL", help="compare with this aligner (default: bwa)")
    parser.add_argument("--check", metavar="TOOL", help="exit with 1 if this aligner fails")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep what was read of BAMs, for the next time")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument(
        "--open-data",
        default="reads simulated by megabolt simulate",
        metavar="TEXT",
        help="who says that the data are openly consented, if the haplotypes are a person's",
    )
    args = parser.parse_args(argv)
    if args.run and args.out is None:
        parser.error("--run needs --out")
    permit = authorize("benchmark", "mapping benchmark", open_data=args.open_data)
    sets = [one for one in read_sets(args.sets) if not args.set or one.name in args.set]
    if not sets or len(sets) < len(args.set or []):
        parser.error(f"{args.sets} has no such set")
    results, failed = [], False
    for one in sets:
        bams = run_aligners(one, args.out / "work", args.threads, args.open_data) if args.run else dict(one.bams)
        for text in args.bam:
            tool, _, path = text.rpartition("=")
            bams[tool or Path(path).stem] = Path(path)
        if args.tools:
            bams = {tool: bam for tool, bam in bams.items() if tool in args.tools.split(",")}
        if not bams:
            parser.error(f"{one.name}: no alignments; give --run or --bam")
        result = measure(one, bams, args.base, permit, args.cache)
        results.append(result)
        print("\n".join(compact(result)))
        if args.check in result["tools"]:
            for line in failures(result, args.check):
                print(f"FAILS {one.name}, {line}")
                failed = True
        print(flush=True)
    if args.out is not None:
        write_results(args.out, results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
