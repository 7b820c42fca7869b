# SPDX-License-Identifier: Apache-2.0
"""The figures of an accuracy benchmark as a Markdown table and as JSON.

Bounds that megabolt is held to, of the best peer of each class: 0.7 of the errors in SNPs and 0.5 in indels; 0.999 of
the genotypes right; 1/20 of GATK's CPU seconds and 1/4 of freebayes'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accuracy_scores import ALLOWED_EXCESS, ENOUGH_CALLS, Score
from runs import Cost

from megabolt.compare.variants import VariantClass

OURS = "megabolt"
BOUND = {VariantClass.SNP: 0.7, VariantClass.INDEL: 0.5}
CPU_BOUND = {"gatk": 20.0, "freebayes": 4.0}
CONCORDANCE = 0.999


@dataclass(frozen=True)
class Line:
    """One caller on one set: its best filtering, and what it took, if it was run here."""

    call_set: str
    caller: str
    score: Score
    cost: Cost | None = None


def errors_ratio(lines: list[Line], variant_class: VariantClass) -> float | None:
    """Our errors over those of the best peer of a set; None without peers."""
    ours = [line.score.errors(variant_class) for line in lines if line.caller == OURS]
    peers = [line.score.errors(variant_class) for line in lines if line.caller != OURS]
    return ours[0] / max(min(peers), 1) if ours and peers else None


def cpu_ratio(lines: list[Line], caller: str) -> float | None:
    """How many times our CPU seconds a peer took."""
    cost = {line.caller: line.cost for line in lines if line.cost is not None}
    if OURS not in cost or caller not in cost:
        return None
    return cost[caller].cpu_seconds / max(cost[OURS].cpu_seconds, 1e-9)


def by_set(lines: list[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.call_set, []).append(line)
    return found


def markdown(lines: list[Line], heading: str) -> str:
    """Table of all sets and callers, ratios with their bounds, calibration of megabolt's GQ."""
    text = [f"# {heading}", "", "Errors are FP / FN as `megabolt compare` counts them. Each caller stands with the"]
    text += ["filtering of its documentation that gives it the fewest errors.", ""]
    text += ["| set | caller | filtering | SNP | indel | errors | F1 SNP | F1 indel | genotypes right | CPU s |"]
    text += ["|---|---|---|---|---|---|---|---|---|---|"]
    for line in lines:
        snp, indel = (line.score.counts[one] for one in (VariantClass.SNP, VariantClass.INDEL))
        cpu = f"{line.cost.cpu_seconds:.1f}" if line.cost else ""
        text.append(
            f"| {line.call_set} | {line.caller} | {line.score.filtering} | {snp.fp} / {snp.fn} |"
            f" {indel.fp} / {indel.fn} | {line.score.errors()} | {snp.f1:.5f} | {indel.f1:.5f}"
            f" | {line.score.concordance():.5f} | {cpu} |"
        )
    return "\n".join([*text, "", *_ratios(lines), "", *_calibration(lines)]) + "\n"


def _ratios(lines: list[Line]) -> list[str]:
    text = ["| set | errors, SNP (bound 0.7) | errors, indel (0.5) | GATK CPU x (20) | freebayes CPU x (4) |"]
    text.append("|---|---|---|---|---|")
    for name, group in by_set(lines).items():
        values = [errors_ratio(group, one) for one in BOUND] + [cpu_ratio(group, one) for one in CPU_BOUND]
        text.append(f"| {name} | " + " | ".join("" if v is None else f"{v:.2f}" for v in values) + " |")
    return text


def _calibration(lines: list[Line]) -> list[str]:
    text = [
        f"megabolt's GQ by decade: wrong calls may be {ALLOWED_EXCESS:.0f} times those promised, "
        f"where there are {ENOUGH_CALLS} calls or more. Chance: how often as many are wrong if just that holds.",
        "",
        "| set | GQ | calls | wrong | promised | keeps | chance |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if line.caller == OURS:
            for d in line.score.decades:
                said = "few" if d.n < ENOUGH_CALLS else ("yes" if d.keeps else "**no**")
                text.append(
                    f"| {line.call_set} | {d.low}+ | {d.n} | {d.wrong} | {d.promised:.2g} | {said} | {d.chance:.2g} |"
                )
    return text


def shortfalls(lines: list[Line]) -> list[str]:
    """What is not reached, in words; empty if all bounds hold."""
    missed = []
    for name, group in by_set(lines).items():
        for one, bound in BOUND.items():
            ratio = errors_ratio(group, one)
            if ratio is not None and ratio > bound:
                missed.append(f"{name}: {one.value} errors are {ratio:.2f} of the best peer's, not {bound}")
        for caller, bound in CPU_BOUND.items():
            times = cpu_ratio(group, caller)
            if times is not None and times < bound:
                missed.append(f"{name}: {caller} takes {times:.1f} times our CPU seconds, not {bound:.0f}")
        for line in group:
            if line.caller == OURS:
                if line.score.concordance() < CONCORDANCE:
                    missed.append(
                        f"{name}: {line.score.concordance():.5f} of the genotypes are right, not {CONCORDANCE}"
                    )
                missed += [
                    f"{name}: GQ {d.low}+ has {d.wrong} errors, promised {d.promised:.2f}"
                    for d in line.score.decades
                    if not d.keeps
                ]
    return missed


def report(lines: list[Line]) -> dict[str, Any]:
    """Everything for a JSON file."""
    sets = {}
    for name, group in by_set(lines).items():
        sets[name] = {
            "callers": {
                line.caller: {**line.score.report(), "cost": vars(line.cost) if line.cost else None} for line in group
            },
            "errors_of_best_peer": {one.value: errors_ratio(group, one) for one in BOUND},
            "cpu_times_ours": {caller: cpu_ratio(group, caller) for caller in CPU_BOUND},
        }
    return {"schema_version": 1, "sets": sets, "shortfalls": shortfalls(lines)}
