# SPDX-License-Identifier: Apache-2.0
"""Which variants can influence each other's match, and which cannot.

In: truth and calls of one contig. Out: `Cluster`s that can be compared one by one without loss. Next: match.

Two haplotypes that differ by d bases in length stay equal through a stretch of reference only if the stretch
repeats itself with period d. So a stretch between two variants separates them if it has no period of up to D,
the sum of all length changes before it: behind it, all haplotypes are level again. So the split is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megabolt.compare.variants import Variant

#: Bases looked at first when a stretch is tested for a period; nearly all stretches fail there.
_PROBE = 48


@dataclass(slots=True)
class Cluster:
    """Variants of both sides over reference bases [start, stop)."""

    start: int
    stop: int
    truth: list[Variant] = field(default_factory=list)
    calls: list[Variant] = field(default_factory=list)
    length_change: int = 0


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
        cluster.length_change += variant.length_change
        (cluster.calls if side else cluster.truth).append(variant)
    return clusters


def has_period(sequence: bytes, start: int, stop: int, period: int) -> bool:
    """Whether sequence[start:stop] repeats itself with this period."""
    probe = min(stop, start + period + _PROBE)
    if sequence[start : probe - period] != sequence[start + period : probe]:
        return False
    return sequence[start : stop - period] == sequence[start + period : stop]


def _separates(sequence: bytes, cluster: Cluster, next_start: int) -> bool:
    """Whether the bases between a cluster and the next variant make them independent."""
    gap = next_start - cluster.stop
    if gap < 1 or gap <= cluster.length_change:
        return False
    periods = range(1, cluster.length_change + 1)
    return not any(has_period(sequence, cluster.stop, next_start, period) for period in periods)
