# SPDX-License-Identifier: Apache-2.0
"""The largest set of truth and called variants that give the same two haplotypes.

In: a `Cluster`. Out: a `Match`: which of its variants agree. Next: counts.

Method (that of vcfeval, Cleary et al. 2015, as dynamic programming over variants instead of bases): variants
of both sides are taken by start. Each is left out or played onto the haplotypes in one of its phases. A state
keeps, for each haplotype, how far truth and calls have used up the reference and the bases that one side has
produced ahead of the other; where both have produced bases that differ, the state is dropped. States that are
equal in all of this have the same future: the one with more variants survives.

Where all haplotypes are level, variants of one side alone that cancel each other out are not accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from megabolt.compare.clusters import Cluster
from megabolt.compare.variants import Replacement, Variant

#: States kept in a cluster; beyond, the poorest are dropped and the match is marked as approximate. Real call
#: sets stay below a hundred.
MOST_STATES = 1000
#: States looked at in one cluster (about five seconds' worth) before it has to do with a few at a time.
PATIENCE = 200_000
FEW_STATES = 64

TRUTH, CALLS = 0, 1


@dataclass(frozen=True)
class Match:
    """Flags of the variants that agree, and whether the search had to be cut short."""

    truth: tuple[bool, ...]
    calls: tuple[bool, ...]
    approximate: bool = False


class Strand(NamedTuple):
    """One haplotype: reference used up by each side, bases ahead of the other side (one of them empty)."""

    truth_at: int
    calls_at: int
    truth_ahead: bytes
    calls_ahead: bytes


class State(NamedTuple):
    """Haplotypes so far, end of the last allele played, and which sides have played since they were level."""

    strands: tuple[Strand, ...]
    last_stop: int
    truth_played: bool
    calls_played: bool


class Chosen(NamedTuple):
    """A chain of the variants played: side, ordinal, the ones before."""

    side: int
    ordinal: int
    before: Chosen | None


class Record(NamedTuple):
    """How good a state is (`rank`) and how it came about.

    n_played: variants; surplus: of truth more than of calls since the last level place; n_settled: played up to there.

    Ties go to matches that use as many truth as called variants between level places, then to those that are
    level more often: the simpler explanation.
    """

    n_played: int
    balance: int
    n_level: int
    surplus: int
    n_settled: int
    chosen: Chosen | None

    @property
    def rank(self) -> tuple[int, int, int]:
        return self.n_played, self.balance, self.n_level


Phase = tuple[Replacement | None, ...]
States = dict[State, Record]


def best_match(sequence: bytes, cluster: Cluster, *, n_haplotypes: int = 2) -> Match:
    """Compare the two sides of a cluster.

    Parameters
    ----------
    sequence
        The contig, upper-case letters.
    cluster
        Variants of both sides.
    n_haplotypes
        2: genotypes must agree; 1: sites agree if they share an alternative allele.
    """
    if not cluster.truth or not cluster.calls:
        return Match((False,) * len(cluster.truth), (False,) * len(cluster.calls))
    if _same_variants(cluster):
        return Match((True,) * len(cluster.truth), (True,) * len(cluster.calls))
    return _search(sequence, cluster, n_haplotypes)


def phases(variant: Variant, n_haplotypes: int) -> list[Phase]:
    """The ways in which a variant can lie on the haplotypes."""
    found: dict[Phase, None] = {}
    for first, second in variant.placements:
        if n_haplotypes == 1:
            found.update({(allele,): None for allele in (first, second) if allele is not None})
        else:
            found.update({(first, second): None, (second, first): None})
    return list(found)


def _same_variants(cluster: Cluster) -> bool:
    """Both sides name the same alleles at the same places, one after another without overlap."""
    if len(cluster.truth) != len(cluster.calls):
        return False
    stop = -1
    for ours, theirs in zip(cluster.truth, cluster.calls):
        if ours.identity != theirs.identity or ours.start < stop:
            return False
        stop = ours.stop
    return True


def _search(sequence: bytes, cluster: Cluster, n_haplotypes: int) -> Match:
    events = sorted(
        [(v.start, v.stop, TRUTH, i, v) for i, v in enumerate(cluster.truth)]
        + [(v.start, v.stop, CALLS, i, v) for i, v in enumerate(cluster.calls)],
        key=lambda event: event[:4],
    )
    strand = Strand(cluster.start, cluster.start, b"", b"")
    states: States = {State((strand,) * n_haplotypes, cluster.start - 1, False, False): Record(0, 0, 0, 0, 0, None)}
    approximate, n_seen = False, 0
    for start, _, side, ordinal, variant in events:
        states = _advance(sequence, states, start)
        n_seen += len(states)
        limit = MOST_STATES if n_seen < PATIENCE else FEW_STATES
        if len(states) > limit:
            states = _keep_best(states, limit // 2)
            approximate = True
        choices = phases(variant, n_haplotypes)
        grown: States = dict(states)  # the variant left out
        for state, record in states.items():
            for phase in choices:
                _play(sequence, grown, state, record, side, ordinal, phase)
        states = grown
    # Behind the last base that any variant touches every haplotype must be level; one base more proves it.
    states = _advance(sequence, states, cluster.stop + 1)
    best: Record | None = None
    for state, record in states.items():
        level = all(not s.truth_ahead and not s.calls_ahead for s in state.strands)
        if level and (best is None or record.rank > best.rank):
            best = record
    return _flags(cluster, best, approximate)


def _flags(cluster: Cluster, best: Record | None, approximate: bool) -> Match:
    sides = ([False] * len(cluster.truth), [False] * len(cluster.calls))
    chosen = best.chosen if best is not None else None
    while chosen is not None:
        sides[chosen.side][chosen.ordinal] = True
        chosen = chosen.before
    return Match(tuple(sides[TRUTH]), tuple(sides[CALLS]), approximate)


def _keep_best(states: States, n_kept: int) -> States:
    """The states with most variants behind their last level place: what comes after it may yet turn out wrong.

    Among equals, those with the least left to settle: the state that plays nothing more is always among them.
    """

    def promise(item: tuple[State, Record]) -> tuple[int, int]:
        state, record = item
        ahead = sum(len(strand.truth_ahead) + len(strand.calls_ahead) for strand in state.strands)
        return -record.n_settled, ahead

    return dict(sorted(states.items(), key=promise)[:n_kept])


def _put(states: States, state: State, record: Record) -> None:
    known = states.get(state)
    if known is None or record.rank > known.rank:
        states[state] = record


def _advance(sequence: bytes, states: States, place: int) -> States:
    """All haplotypes use up the reference before `place`; states that disagree there are dropped."""
    advanced: States = {}
    for state, record in states.items():
        strands = []
        for strand in state.strands:
            moved = _extend(sequence, strand, place)
            if moved is None:
                break
            strands.append(moved)
        else:
            # The two haplotypes are interchangeable: one order of them stands for both.
            settled = _settle(State(tuple(sorted(strands)), *state[1:]), record, place)
            if settled is not None:
                _put(advanced, *settled)
    return advanced


def _extend(sequence: bytes, strand: Strand, place: int) -> Strand | None:
    truth_at, calls_at, truth_ahead, calls_ahead = strand
    if truth_at < place:
        truth_ahead += sequence[truth_at:place]
        truth_at = place
    if calls_at < place:
        calls_ahead += sequence[calls_at:place]
        calls_at = place
    return _cancel(truth_at, calls_at, truth_ahead, calls_ahead)


def _cancel(truth_at: int, calls_at: int, truth_ahead: bytes, calls_ahead: bytes) -> Strand | None:
    """Remove what both sides have produced; None if it differs."""
    common = min(len(truth_ahead), len(calls_ahead))
    if truth_ahead[:common] != calls_ahead[:common]:
        return None
    return Strand(truth_at, calls_at, truth_ahead[common:], calls_ahead[common:])


def _settle(state: State, record: Record, place: int) -> tuple[State, Record] | None:
    """At a level place: forget who played, or refuse if only one side did."""
    if not (state.truth_played or state.calls_played) or state.last_stop >= place:
        return state, record
    for strand in state.strands:
        if strand != (place, place, b"", b""):
            return state, record
    if state.truth_played != state.calls_played:
        return None
    level = Record(
        record.n_played, record.balance - abs(record.surplus), record.n_level + 1, 0, record.n_played, record.chosen
    )
    return State(state.strands, place - 1, False, False), level


def _play(
    sequence: bytes,
    states: States,
    state: State,
    record: Record,
    side: int,
    ordinal: int,
    phase: Sequence[Replacement | None],
) -> None:
    """Add the state in which a variant is played in one phase, if it fits behind what was played before."""
    strands = []
    last_stop = state.last_stop
    for strand, allele in zip(state.strands, phase):
        if allele is None:
            strands.append(strand)
            continue
        truth_at, calls_at, truth_ahead, calls_ahead = strand
        at = truth_at if side == TRUTH else calls_at
        if allele.start < at:
            return
        produced = sequence[at : allele.start] + allele.bases
        if side == TRUTH:
            moved = _cancel(allele.stop, calls_at, truth_ahead + produced, calls_ahead)
        else:
            moved = _cancel(truth_at, allele.stop, truth_ahead, calls_ahead + produced)
        if moved is None:
            return
        strands.append(moved)
        last_stop = max(last_stop, allele.stop)
    grown = State(tuple(strands), last_stop, state.truth_played or side == TRUTH, state.calls_played or side == CALLS)
    surplus = record.surplus + (1 if side == TRUTH else -1)
    chosen = Chosen(side, ordinal, record.chosen)
    _put(states, grown, Record(record.n_played + 1, record.balance, record.n_level, surplus, record.n_settled, chosen))
