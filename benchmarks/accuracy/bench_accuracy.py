# SPDX-License-Identifier: Apache-2.0
"""Accuracy of callers on sets with a truth: one table, every caller beside its peers on the same reads.

A set is described in a JSON file (paths relative to it):

    [{"name": "sim10", "truth": "truth.vcf.gz", "reference": "ref.fa", "regions": null, "bam": "our.bam",
      "calls": {"other": "other.vcf.gz"}, "min_qual": {"other": 20}}]

    python benchmarks/accuracy/bench_accuracy.py sets.json --open-data "who says so and why"

Calls that are given are compared as they are. With "bam", the callers of --callers are run on it, one thread each and
one after the other, or taken from an earlier run: what they found and took lies in FOLDER/NAME of --work (default: the
JSON file's folder). Each stands in the table with the filtering of its documentation that gives it the fewest errors.
--json and --markdown write the figures, with ratios, genotypes right and GQ by decade, --again runs megabolt anew.

--toy needs no data: it simulates a small genome, spoils its truth in a known way and checks the counts.
With --vcfeval COMMAND, a command that takes TRUTH CALLS REF BED|- OUTDIR and leaves counts.json there, its counts
are printed below ours; a difference of more than two records in a class ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy_peers import COMMANDS, FILTERINGS, Runner, filtered
from accuracy_report import OURS, Line, markdown, report, shortfalls
from accuracy_scores import best, score

from megabolt.compare.job import CompareOptions, Counts, run_compare
from megabolt.compare.variants import VariantClass
from megabolt.formats.fasta import read_fasta
from megabolt.privacy.consent import authorize
from megabolt.simulate import files
from megabolt.simulate.genome import GenomeOptions
from megabolt.simulate.haplotypes import PhasedVariant
from megabolt.simulate.job import SimulationRequest, run_simulate

#: Records by which two comparisons may differ in a class: ties between equally good matches.
TOLERANCE = 2

HEAD = (
    f"{'set':<12} {'caller':<14} {'class':<6} {'TP':>7} {'FP':>6} {'FN':>6} {'precision':>10} {'recall':>8} {'F1':>8}"
)


@dataclass(frozen=True)
class CallSet:
    """Truth, reference, and the calls of one or more callers."""

    name: str
    truth: Path
    reference: Path
    calls: dict[str, Path]
    regions: Path | None = None
    min_qual: dict[str, float] = field(default_factory=dict)
    bam: Path | None = None


def read_sets(path: Path) -> list[CallSet]:
    """The sets of a JSON file."""
    folder = path.parent
    return [
        CallSet(
            entry["name"],
            folder / entry["truth"],
            folder / entry["reference"],
            {caller: folder / calls for caller, calls in entry.get("calls", {}).items()},
            folder / entry["regions"] if entry.get("regions") else None,
            entry.get("min_qual", {}),
            folder / entry["bam"] if entry.get("bam") else None,
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def row(call_set: str, caller: str, variant_class: VariantClass, counts: Counts) -> str:
    return (
        f"{call_set:<12} {caller:<14} {variant_class.value:<6} {counts.tp_truth:>7} {counts.fp:>6} {counts.fn:>6}"
        f" {counts.precision:>10.5f} {counts.recall:>8.5f} {counts.f1:>8.5f}"
    )


def measure(call_set: CallSet, open_data: str | None, vcfeval: str | None) -> Iterator[tuple[str, bool]]:
    """Lines of the table, and whether each agrees with vcfeval."""
    for caller, calls in call_set.calls.items():
        options = CompareOptions(regions=call_set.regions, min_qual=call_set.min_qual.get(caller))
        result = run_compare(call_set.truth, calls, call_set.reference, options, open_data=open_data)
        theirs = second_opinion(vcfeval, call_set, calls) if vcfeval and options.min_qual is None else {}
        for variant_class, counts in result.counts.items():
            yield row(call_set.name, caller, variant_class, counts), True
            other = theirs.get(variant_class)
            if other is not None:
                yield row("", "(vcfeval)", variant_class, other), agree(counts, other)


def measure_callers(
    call_set: CallSet, args: argparse.Namespace, runner: Runner, work: Path
) -> Iterator[tuple[Line, list[tuple[str, bool]]]]:
    """Each caller on the set's BAM with its best filtering, and the lines of its table with vcfeval's verdict."""
    assert call_set.bam is not None
    options = CompareOptions(regions=call_set.regions)
    for caller in args.callers:
        calls, cost = runner.stored(caller, call_set.bam, call_set.reference, work, args.again and caller == OURS)
        with tempfile.TemporaryDirectory() as folder:
            scores: dict[str, Any] = {}
            for filtering in FILTERINGS[caller]:
                left = filtered(calls, filtering, Path(folder))
                scores[filtering.name] = score(
                    call_set.truth, left, call_set.reference, filtering.name, options, args.open_data
                )
            line = Line(call_set.name, caller, best(scores.values()), cost)
            chosen = next(one for one in FILTERINGS[caller] if one.name == line.score.filtering)
            left = filtered(calls, chosen, Path(folder))
            theirs = second_opinion(args.vcfeval, call_set, left) if args.vcfeval else {}
        rows = []
        for variant_class, counts in line.score.counts.items():
            rows.append((row(call_set.name, caller, variant_class, counts), True))
            other = theirs.get(variant_class)
            if other is not None:
                rows.append((row("", "(vcfeval)", variant_class, other), agree(counts, other)))
        yield line, rows


def second_opinion(command: str, call_set: CallSet, calls: Path) -> dict[VariantClass, Counts]:
    """The counts of vcfeval."""
    with tempfile.TemporaryDirectory() as folder:
        outdir = Path(folder) / "vcfeval"
        regions = str(call_set.regions) if call_set.regions else "-"
        arguments = [command, str(call_set.truth), str(calls), str(call_set.reference), regions, str(outdir)]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((outdir / "counts.json").read_text(encoding="utf-8"))
    return {VariantClass(name): Counts(c["tp_baseline"], c["tp_call"], c["fp"], c["fn"]) for name, c in found.items()}


def agree(ours: Counts, theirs: Counts) -> bool:
    pairs = ((ours.tp_truth, theirs.tp_truth), (ours.tp_calls, theirs.tp_calls))
    return all(abs(a - b) <= TOLERANCE for a, b in (*pairs, (ours.fp, theirs.fp), (ours.fn, theirs.fn)))


def toy(folder: Path) -> CallSet:
    """A simulated truth, and calls that lack every tenth of its records and have every seventh genotype wrong."""
    made = run_simulate(
        SimulationRequest(outdir=folder, pairs=10, seed=3, genome=GenomeOptions(size=200_000, n_contigs=2))
    )
    reference, truth = made.files["reference"], made.files["truth"]
    fasta = read_fasta(reference)
    contigs = [(contig.name, fasta.fetch(i, 0, contig.length)) for i, contig in enumerate(fasta.contigs)]
    permit = authorize("toy", "benchmark", open_data="simulated by this benchmark")
    calls: list[PhasedVariant] = []
    for i, variant in enumerate(files.read_phased_variants(truth, contigs, permit)):
        genotype = variant.genotype
        if i % 7 == 3 and len(variant.alts) == 1:
            genotype = (0, 1) if genotype == (1, 1) else (1, 1)
        if i % 10 != 5:
            calls.append(PhasedVariant(variant.contig, variant.start, variant.ref, variant.alts, genotype))
    spoilt = folder / "spoilt.vcf.gz"
    files.write_truth(spoilt, contigs, calls, "toy", permit)
    return CallSet("toy", truth, reference, {"truth": truth, "spoilt": spoilt})


def check_toy(call_set: CallSet) -> None:
    """The counts of the toy set are known: assert them before anything is printed."""
    same = run_compare(call_set.truth, call_set.truth, call_set.reference, open_data="simulated by this benchmark")
    n = sum(counts.tp_truth for counts in same.counts.values())
    if n == 0 or any(counts.fp or counts.fn for counts in same.counts.values()):
        raise AssertionError("the truth does not agree with itself")
    spoilt = run_compare(
        call_set.truth, call_set.calls["spoilt"], call_set.reference, open_data="simulated by this benchmark"
    )
    missed = sum(counts.fn for counts in spoilt.counts.values())
    expected = sum(i % 10 == 5 or i % 7 == 3 for i in range(n))
    if not 0.9 * expected <= missed <= expected:  # sites with two alleles keep their genotype
        raise AssertionError(f"{missed} of {n} records missed, not about {expected}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="?", help="JSON file that describes the sets")
    parser.add_argument("--toy", action="store_true", help="simulate a small set instead")
    parser.add_argument("--open-data", metavar="TEXT", help="who says that the data are openly consented, and why")
    parser.add_argument("--vcfeval", metavar="COMMAND", help="a second opinion")
    parser.add_argument("--callers", nargs="*", choices=COMMANDS, default=list(COMMANDS), help="to run on BAMs")
    parser.add_argument("--gatk", metavar="COMMAND", default="gatk", help="how GATK is started (default: gatk)")
    parser.add_argument("--niceness", type=int, default=0, help="of the callers (default: 0)")
    parser.add_argument("--again", action="store_true", help="run megabolt even if its calls are there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where calls and costs are kept")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write tables here")
    parser.add_argument("--heading", default="Accuracy of callers", help="of the Markdown file")
    args = parser.parse_args(argv)
    if args.toy == (args.sets is not None):
        parser.error("give either a JSON file or --toy")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    runner = Runner(args.gatk, args.open_data, args.niceness)
    lines: list[Line] = []
    agreed = True
    with tempfile.TemporaryDirectory() as folder:
        if args.toy:
            sets = [toy(Path(folder))]
            check_toy(sets[0])
            args.open_data = "simulated by this benchmark"
        else:
            sets = read_sets(args.sets)
        print(HEAD)
        for call_set in sets:
            found = list(measure(call_set, args.open_data, args.vcfeval))
            if call_set.bam is not None:
                work = (args.work or args.sets.parent) / call_set.name
                for line, rows in measure_callers(call_set, args, runner, work):
                    lines.append(line)
                    found += rows
            for text, same in found:
                print(text if same else f"{text}   DIFFERS")
                agreed &= same
    if args.json:
        args.json.write_text(json.dumps(report(lines), indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(lines, args.heading), encoding="utf-8")
    for missed in shortfalls(lines):
        print("not reached:", missed)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
