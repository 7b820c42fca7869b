# SPDX-License-Identifier: Apache-2.0
"""Which variants can influence each other's match, and which cannot.

In: truth and calls of one contig. Out: `Cluster`s that can be compared one by one without loss. Next: match.

Two haplotypes that are d bases out of step stay equal through a stretch of reference only if the stretch repeats
itself with period d. So the steps that truth and calls can be apart are followed from variant to variant: each
adds the changes of length that its alleles bring, each stretch between two variants removes those it does not
repeat with. Where only 0 is left, whatever lies behind is independent of what lies before: the split is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megabolt.compare.variants import Variant

#: Bases looked at first when a stretch is tested for a period; nearly all stretches fail there.
_PROBE = 48


@dataclass(slots=True)
class Cluster:
    """Variants of both sides over reference bases [start, stop), and the steps they can leave behind."""

    start: int
    stop: int
    truth: list[Variant] = field(default_factory=list)
    calls: list[Variant] = field(default_factory=list)
    steps: set[int] = field(default_factory=lambda: {0})


def make_clusters(sequence: bytes, truth: Sequence[Variant], calls: Sequence[Variant]) -> list[Cluster]:
    """Split the variants of a contig (each side sorted by start)."""
    merged = sorted(
        [(v.start, v.stop, 0, v) for v in truth] + [(v.start, v.stop, 1, v) for v in calls],
        key=lambda entry: entry[:3],
    )
    clusters: list[Cluster] = []
    for start, stop, side, variant in merged:
        if not clusters or _separates(sequence, clusters[-1], start):
            clusters.append(Cluster(start, stop))
        cluster = clusters[-1]
        cluster.stop = max(cluster.stop, stop)
        changes = variant.length_changes
        if changes:
            signed = [0, *(-change if side else change for change in changes)]
            cluster.steps = {step + change for step in cluster.steps for change in signed}
        (cluster.calls if side else cluster.truth).append(variant)
    return clusters


def has_period(sequence: bytes, start: int, stop: int, period: int) -> bool:
    """Whether sequence[start:stop] repeats itself with this period."""
    probe = min(stop, start + period + _PROBE)
    if sequence[start : probe - period] != sequence[start + period : probe]:
        return False
    return sequence[start : stop - period] == sequence[start + period : stop]


def _separates(sequence: bytes, cluster: Cluster, next_start: int) -> bool:
    """Whether the bases up to the next variant bring all haplotypes into step; removes steps they exclude."""
    gap = next_start - cluster.stop
    if gap < 1:
        return False
    if len(cluster.steps) > 1:
        cluster.steps = {
            step
            for step in cluster.steps
            if abs(step) >= gap or step == 0 or has_period(sequence, cluster.stop, next_start, abs(step))
        }
    return cluster.steps == {0}
