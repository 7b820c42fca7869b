# SPDX-License-Identifier: Apache-2.0
"""A whole comparison: two VCFs and a reference in, counts per class of variant out.

In: plain arguments. Out: `Comparison`, as a table, as JSON and as a list of errors.

Counting follows vcfeval: recall counts truth records, precision counts called records, so that two records
that say together what one truth record says are two true positives of the calls and one of the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megabolt import __version__
from megabolt.compare.clusters import make_clusters
from megabolt.compare.match import best_match
from megabolt.compare.reading import read_genotypes
from megabolt.compare.variants import Selection, Variant, VariantClass, VariantSet, collect
from megabolt.errors import UsageError
from megabolt.formats.bases import ASCII_OF_CODE
from megabolt.formats.bed import read_bed
from megabolt.formats.fasta import FastaReference, read_fasta
from megabolt.formats.output import atomic_output
from megabolt.formats.vcf import VcfRecord
from megabolt.privacy.consent import Permit, authorize

SCHEMA_VERSION = 1


@dataclass
class Counts:
    """Records of one class.

    tp_truth, fn: truth records found and missed. tp_calls, fp: called records right and wrong. Of the missed
    and the wrong ones, allele_truth and allele_calls share an allele with the other side: their genotype is
    wrong.
    """

    tp_truth: int = 0
    tp_calls: int = 0
    fp: int = 0
    fn: int = 0
    allele_truth: int = 0
    allele_calls: int = 0

    @property
    def recall(self) -> float:
        return _share(self.tp_truth, self.tp_truth + self.fn)

    @property
    def precision(self) -> float:
        return _share(self.tp_calls, self.tp_calls + self.fp)

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def _share(part: int, whole: int) -> float:
    """A share of nothing is 1: nothing was missed, nothing was wrong."""
    return part / whole if whole else 1.0


@dataclass(frozen=True)
class Verdict:
    """What was decided about one record: side "truth" or "calls", and "match", "allele" or "none"."""

    side: str
    contig: str
    record: int
    variant_class: VariantClass
    verdict: str


@dataclass
class Comparison:
    """Result of a comparison."""

    counts: dict[VariantClass, Counts] = field(
        default_factory=lambda: {variant_class: Counts() for variant_class in VariantClass}
    )
    errors: list[Verdict] = field(default_factory=list)
    n_approximate: int = 0
    skipped_truth: dict[str, int] = field(default_factory=dict)
    skipped_calls: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        """The counts as text."""
        head = ("class", "TP truth", "TP calls", "FP", "FN", "precision", "recall", "F1", "GT wrong")
        lines = ["{:<6} {:>9} {:>9} {:>7} {:>7} {:>10} {:>8} {:>8} {:>9}".format(*head)]
        for variant_class, c in self.counts.items():
            lines.append(
                f"{variant_class.value:<6} {c.tp_truth:>9} {c.tp_calls:>9} {c.fp:>7} {c.fn:>7}"
                f" {c.precision:>10.5f} {c.recall:>8.5f} {c.f1:>8.5f} {c.allele_calls:>9}"
            )
        return "\n".join(lines) + "\n"

    def report(self) -> dict[str, object]:
        """The counts for a JSON file."""
        classes = {
            variant_class.value: {**asdict(c), "precision": c.precision, "recall": c.recall, "f1": c.f1}
            for variant_class, c in self.counts.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "megabolt": __version__,
            "classes": classes,
            "approximate_clusters": self.n_approximate,
            "skipped": {"truth": self.skipped_truth, "calls": self.skipped_calls},
        }


@dataclass(frozen=True)
class CompareOptions:
    """What takes part: see `Selection`; `min_qual` applies to the calls only."""

    regions: Path | None = None
    truth_sample: str | None = None
    calls_sample: str | None = None
    min_qual: float | None = None
    all_records: bool = False


def run_compare(
    truth: Path,
    calls: Path,
    reference: Path,
    options: CompareOptions | None = None,
    *,
    json_path: Path | None = None,
    errors_path: Path | None = None,
    open_data: str | None = None,
    audit_log: Path | None = None,
) -> Comparison:
    """Compare two VCF files under one permit; writes the JSON report and the list of errors if asked for."""
    options = options or CompareOptions()
    subject = options.calls_sample or options.truth_sample or calls.name.partition(".")[0]
    permit = authorize(subject, "compare", open_data=open_data, audit_log=audit_log)
    comparison = compare_files(truth, calls, read_fasta(reference), options, permit)
    if json_path is not None:
        with atomic_output(json_path) as temporary:
            temporary.write_text(json.dumps(comparison.report(), indent=2) + "\n", encoding="utf-8")
    if errors_path is not None:
        permit.record("open-write", errors_path)
        write_errors(errors_path, comparison, truth, calls, options, permit)
    return comparison


def compare_files(
    truth: Path, calls: Path, reference: FastaReference, options: CompareOptions, permit: Permit
) -> Comparison:
    """Compare two VCF files."""
    regions = None
    if options.regions is not None:
        intervals = read_bed(options.regions, reference.contigs)
        regions = {contig.name: intervals[i] for i, contig in enumerate(reference.contigs)}
    sequences = _Letters(reference)
    everything = not options.all_records
    truth_set = collect(
        truth,
        read_genotypes(truth, permit, options.truth_sample),
        sequences,
        Selection(everything, None, regions),
    )
    calls_set = collect(
        calls,
        read_genotypes(calls, permit, options.calls_sample),
        sequences,
        Selection(everything, options.min_qual, regions),
    )
    if truth_set.n_records == 0 and calls_set.n_records == 0:
        raise UsageError("both VCFs are empty: there is nothing to compare", "Check the paths.")
    return compare_sets(truth_set, calls_set, sequences)


def compare_sets(truth: VariantSet, calls: VariantSet, sequences: Mapping[str, bytes]) -> Comparison:
    """Compare two sets of variants of the same reference."""
    result = Comparison(skipped_truth=truth.skipped, skipped_calls=calls.skipped)
    for contig in [name for name in sequences if name in truth.by_contig or name in calls.by_contig]:
        _compare_contig(
            contig,
            sequences[contig],
            truth.by_contig.get(contig, []),
            calls.by_contig.get(contig, []),
            result,
        )
    return result


class _Letters(Mapping[str, bytes]):
    """Upper-case letters of the contigs, in the order of the reference; made when first asked for."""

    def __init__(self, reference: FastaReference) -> None:
        self._reference = reference
        self._number = {contig.name: i for i, contig in enumerate(reference.contigs)}
        self._made: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._made:
            number = self._number[name]
            codes = self._reference.fetch(number, 0, self._reference.contigs[number].length)
            self._made[name] = ASCII_OF_CODE[codes].tobytes()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)


def _compare_contig(
    contig: str, sequence: bytes, truth: Sequence[Variant], calls: Sequence[Variant], result: Comparison
) -> None:
    missed, wrong = [], []
    for cluster in make_clusters(sequence, truth, calls):
        match = best_match(sequence, cluster)
        result.n_approximate += match.approximate
        for variant, found in zip(cluster.truth, match.truth):
            if not found:
                missed.append(variant)
            elif variant.inside:
                result.counts[variant.variant_class].tp_truth += 1
        for variant, right in zip(cluster.calls, match.calls):
            if not right:
                wrong.append(variant)
            elif variant.inside:
                result.counts[variant.variant_class].tp_calls += 1
    missed.sort(key=_by_place)
    wrong.sort(key=_by_place)
    for cluster in make_clusters(sequence, missed, wrong):
        match = best_match(sequence, cluster, n_haplotypes=1)
        _count_errors(contig, cluster.truth, match.truth, "truth", result)
        _count_errors(contig, cluster.calls, match.calls, "calls", result)


def _by_place(variant: Variant) -> tuple[int, int, int]:
    return variant.start, variant.stop, variant.record


def _count_errors(
    contig: str, variants: Sequence[Variant], shared: Sequence[bool], side: str, result: Comparison
) -> None:
    for variant, allele_shared in zip(variants, shared):
        if not variant.inside:
            continue
        counts = result.counts[variant.variant_class]
        if side == "truth":
            counts.fn += 1
            counts.allele_truth += allele_shared
        else:
            counts.fp += 1
            counts.allele_calls += allele_shared
        verdict = "allele" if allele_shared else "none"
        result.errors.append(Verdict(side, contig, variant.record, variant.variant_class, verdict))


def write_errors(
    path: Path, comparison: Comparison, truth: Path, calls: Path, options: CompareOptions, permit: Permit
) -> None:
    """Tab-separated list of missed and wrong records, in the order of the reference."""
    lines: list[tuple[str, int, str]] = []
    for side, file, sample in (
        ("truth", truth, options.truth_sample),
        ("calls", calls, options.calls_sample),
    ):
        wanted = {verdict.record: verdict for verdict in comparison.errors if verdict.side == side}
        lines += _error_lines(wanted, read_genotypes(file, permit, sample))
    lines.sort(key=lambda line: line[:2])
    with atomic_output(path) as temporary, open(temporary, "w", encoding="utf-8") as file_out:
        file_out.write("contig\tpos\tref\talt\tgenotype\tqual\tclass\terror\tallele_shared\n")
        file_out.writelines(text for _, _, text in lines)


def _error_lines(wanted: Mapping[int, Verdict], records: Iterable[VcfRecord]) -> Iterable[tuple[str, int, str]]:
    for number, record in enumerate(records):
        verdict = wanted.get(number)
        if verdict is not None:
            columns = (
                record.contig,
                record.start + 1,
                record.ref,
                ",".join(record.alts),
                record.genotype.get("GT", "."),
                "." if record.qual is None else round(record.qual, 2),
                verdict.variant_class.value,
                "FN" if verdict.side == "truth" else "FP",
                "yes" if verdict.verdict == "allele" else "no",
            )
            yield record.contig, record.start, "\t".join(str(column) for column in columns) + "\n"
