# SPDX-License-Identifier: Apache-2.0
"""How right a call set is: errors per class, genotypes of the alleles found, and whether GQ keeps its promise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pysam

from megabolt.compare.job import CompareOptions, Counts, run_compare
from megabolt.compare.variants import VariantClass

#: Fewer calls than this in a decade of GQ say nothing about its promise.
ENOUGH_CALLS = 200

#: Observed genotype errors may be this many times those promised.
ALLOWED_EXCESS = 2.0


@dataclass(frozen=True)
class Decade:
    """Calls of GQ [low, low + 10): how many, how many of them wrong, how many errors their GQs promise."""

    low: int
    n: int
    wrong: int
    promised: float

    @property
    def chance(self) -> float:
        """P(as many wrong calls or more) if errors were just as frequent as is allowed: a Poisson tail."""
        allowed = ALLOWED_EXCESS * self.promised
        below = sum(math.exp(-allowed + k * math.log(allowed) - math.lgamma(k + 1)) for k in range(self.wrong))
        return max(0.0, 1.0 - below)

    @property
    def keeps(self) -> bool:
        return self.n < ENOUGH_CALLS or self.wrong <= ALLOWED_EXCESS * self.promised


@dataclass(frozen=True)
class Score:
    """One caller, one filtering, one set."""

    filtering: str
    counts: dict[VariantClass, Counts]
    decades: list[Decade] = field(default_factory=list)

    def errors(self, variant_class: VariantClass | None = None) -> int:
        """False positives and false negatives of one class or of both."""
        chosen = [variant_class] if variant_class else list(self.counts)
        return sum(self.counts[one].fp + self.counts[one].fn for one in chosen)

    def concordance(self, variant_class: VariantClass | None = None) -> float:
        """Share of right genotypes among called records with an allele of the truth; 1 if there are none."""
        chosen = [self.counts[one] for one in ([variant_class] if variant_class else self.counts)]
        right, wrong = sum(c.tp_calls for c in chosen), sum(c.allele_calls for c in chosen)
        return right / (right + wrong) if right + wrong else 1.0

    def report(self) -> dict[str, Any]:
        classes = {
            one.value: {
                **asdict(c),
                "f1": c.f1,
                "errors": self.errors(one),
                "genotype_concordance": self.concordance(one),
            }
            for one, c in self.counts.items()
        }
        decades = [{**asdict(decade), "keeps": decade.keeps, "chance": decade.chance} for decade in self.decades]
        return {"filtering": self.filtering, "classes": classes, "total": self.errors(), "gq_decades": decades}


def score(
    truth: Path, calls: Path, reference: Path, filtering: str, options: CompareOptions, open_data: str | None
) -> Score:
    """Compare and calibrate."""
    comparison = run_compare(truth, calls, reference, options, open_data=open_data)
    wrong = {verdict.record for verdict in comparison.errors if verdict.side == "calls"}
    return Score(filtering, comparison.counts, calibration(genotype_qualities(calls, options.regions), wrong))


def intervals_of(bed: Path) -> dict[str, list[tuple[int, int]]]:
    """Intervals of a BED file by contig, 0-based and half-open, as they stand there."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in bed.read_text(encoding="utf-8").splitlines():
        words = line.split("\t")
        if len(words) >= 3 and words[1].isdigit():
            found.setdefault(words[0], []).append((int(words[1]), int(words[2])))
    return found


def genotype_qualities(calls: Path, regions: Path | None = None) -> Iterator[tuple[int, float]]:
    """(ordinal of the record, GQ) of the calls that take part in a comparison and have a GQ."""
    inside = intervals_of(regions) if regions else None
    verbosity = pysam.set_verbosity(0)
    with pysam.VariantFile(str(calls)) as file:
        pysam.set_verbosity(verbosity)
        if "GQ" not in file.header.formats:
            return
        for i, record in enumerate(file):
            if inside is not None and not any(
                low < record.stop and record.start < high for low, high in inside.get(record.chrom, ())
            ):
                continue
            if set(record.filter.keys()) <= {"PASS"}:
                call = record.samples[0]
                if call.get("GQ") is not None and any(call["GT"]):
                    yield i, float(call["GQ"])


def calibration(qualities: Iterable[tuple[int, float]], wrong: set[int]) -> list[Decade]:
    """Calls by decade of GQ; 90 and above are one. `wrong`: ordinals of records that are false positives."""
    sums: dict[int, list[float]] = {}
    for ordinal, quality in qualities:
        row = sums.setdefault(min(int(quality) // 10, 9), [0, 0, 0.0])
        row[0] += 1
        row[1] += ordinal in wrong
        row[2] += 10 ** (-quality / 10)
    return [Decade(10 * k, int(n), int(bad), promised) for k, (n, bad, promised) in sorted(sums.items())]


def best(scores: Iterable[Score]) -> Score:
    """The filtering with the fewest errors over both classes."""
    return min(scores, key=Score.errors)
