# SPDX-License-Identifier: Apache-2.0
"""Windows over a site: reads taken, haplotypes tried, genotypes weighed, looked up in a `Trace`.

In: a filled `Trace`. Out: `WindowView`s. Next: `explain.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from megabolt.call.emit import genotype_priors
from megabolt.call.explained import GenotypeView, HaplotypeView, WindowView
from megabolt.call.genotype import SUPPORT_MARGIN
from megabolt.call.known import Event
from megabolt.call.ploidy import genotypes_of
from megabolt.call.trace import Scored, Trace

if TYPE_CHECKING:
    from megabolt.call.engine import _Chunk

#: Where reads of a window may begin or end beyond it, as `haplotypes.reads_of_windows` has it.
_TOUCH = 3


def event_of_candidate(chunk: _Chunk, c: int) -> Event:
    """A candidate in contig coordinates."""
    candidates = chunk.candidates
    return (
        int(candidates.start[c]) + chunk.origin,
        int(candidates.stop[c]) + chunk.origin,
        int(candidates.kind[c]),
        candidates.bases(c).tobytes(),
    )


def window_view(trace: Trace, chunk: _Chunk, w: int) -> WindowView:
    windows, origin = chunk.windows, chunk.origin
    start, stop = int(windows.start[w]), int(windows.stop[w])
    members = windows.candidate[windows.candidate_offset[w] : windows.candidate_offset[w + 1]].tolist()
    over = (chunk.reads.stop > start - _TOUCH) & (chunk.reads.start < stop + _TOUCH)
    view = WindowView(
        number=w,
        start=start + origin,
        stop=stop + origin,
        read_start=int(windows.trim_start[w]) + origin,
        read_stop=int(windows.trim_stop[w]) + origin,
        candidates=tuple(event_of_candidate(chunk, c) for c in members),
        isolated=bool(windows.isolated[w]),
        decided=False,
        over=int(over.sum()),
    )
    for pileup in trace.pileups:
        for k in np.flatnonzero(pileup.which == w).tolist():
            priors = genotype_priors([pileup.context.snp_prior], pileup.context.ploidy)
            likelihood = pileup.snps.log10_likelihood[k]
            copies = genotypes_of(2, pileup.context.ploidy)
            templates = int(pileup.snps.support[k].sum())
            found = _genotypes(copies, likelihood, np.array(priors))
            return replace(view, decided=True, listed=view.over, scored=view.over, templates=templates, genotypes=found)
    for scored in trace.scored:
        for k in np.flatnonzero(scored.which == w).tolist():
            return _scored_view(view, chunk, scored, k, members)
    return view


def _genotypes(
    copies: Sequence[tuple[int, ...]], likelihood: NDArray[np.float64], prior: NDArray[np.float64]
) -> tuple[GenotypeView, ...]:
    """Genotypes, best first."""
    posterior = likelihood + prior
    shares = 10 ** (posterior - posterior.max())
    shares /= shares.sum()
    best = np.argsort(-posterior, kind="stable").tolist()
    top = likelihood.max()
    return tuple(
        GenotypeView(copies[g], float(likelihood[g] - top), float(prior[g]), float(shares[g])) for g in best
    )  # fmt: skip


def _scored_view(view: WindowView, chunk: _Chunk, scored: Scored, k: int, members: list[int]) -> WindowView:
    """A window that went through haplotypes."""
    haplotypes, genotypes, likelihoods = scored.haplotypes, scored.genotypes, scored.likelihoods
    first, last = int(haplotypes.offset[k]), int(haplotypes.offset[k + 1])
    n, rows = int(genotypes.n_haps[k]), int(genotypes.n_fragments[k])
    at = int(genotypes.fragment_offset[k])
    table = genotypes.fragments[at : at + n * rows].reshape(rows, n)
    own = (genotypes.hap[int(genotypes.hap_offset[k]) :][:n] - first).tolist()
    masks = [int(m) for m in haplotypes.mask[first:last]]
    best = [own[int(h)] for h in genotypes.best[k]] if n else []
    favoured, totals = _support(table)
    patterns, together = _patterns(view, chunk, scored, k, members), _together(chunk, members)
    views = []
    for h, mask in enumerate(masks):
        column = own.index(h) if h in own else -1
        views.append(
            HaplotypeView(
                events=tuple(event_of_candidate(chunk, c) for bit, c in enumerate(members) if mask >> bit & 1),
                sources=_haplotype_sources(mask, patterns, together),
                spanning=patterns[mask],
                combined=column >= 0,
                favoured=favoured[column] if column >= 0 else 0,
                log10=totals[column] if column >= 0 else float("nan"),
                copies=best.count(h),
            )
        )
    found: tuple[GenotypeView, ...] = ()
    if n:
        pairs = genotypes_of(n, genotypes.ploidy)
        part = slice(int(genotypes.posterior_offset[k]), int(genotypes.posterior_offset[k]) + len(pairs))
        prior = genotypes.prior[part]
        numbered = [tuple(own[h] for h in pair) for pair in pairs]
        found = _genotypes(numbered, genotypes.posterior[part] - prior, prior)
    return replace(
        view,
        decided=True,
        listed=int(scored.window_reads.offset[k + 1] - scored.window_reads.offset[k]),
        scored=int(likelihoods.read_offset[k + 1] - likelihoods.read_offset[k]),
        templates=rows,
        haplotypes=tuple(views),
        genotypes=found,
    )


def _support(table: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """Templates that clearly prefer each haplotype; log10 of all templates, relative to the best haplotype."""
    if table.size == 0:
        return [0] * table.shape[1], [0.0] * table.shape[1]
    favoured = [0] * table.shape[1]
    if table.shape[1] > 1:
        order = np.sort(table, axis=1)
        for h in table.argmax(axis=1)[order[:, -1] - order[:, -2] > SUPPORT_MARGIN].tolist():
            favoured[h] += 1
    totals = table.sum(axis=0)
    return favoured, (totals - totals.max()).tolist()


def _patterns(view: WindowView, chunk: _Chunk, scored: Scored, k: int, members: list[int]) -> Counter[int]:
    """Sets of candidates that reads over the whole window show: how many reads show each."""
    low, high = scored.window_reads.offset[k], scored.window_reads.offset[k + 1]
    reads = scored.window_reads.read[low:high]
    masks = np.zeros(len(reads), np.uint64)
    for bit, c in enumerate(members):
        of_reads = chunk.candidates.read[chunk.candidates.read_offset[c] : chunk.candidates.read_offset[c + 1]]
        masks |= np.isin(reads, of_reads).astype(np.uint64) << np.uint64(bit)
    start, stop = view.start - chunk.origin, view.stop - chunk.origin
    spans = (chunk.reads.start[reads] <= start) & (chunk.reads.stop[reads] >= stop)
    return Counter(int(mask) for mask in masks[spans])


def _together(chunk: _Chunk, members: list[int]) -> dict[int, str]:
    """What assembled haplotypes and known alleles are inside a window: masks, and where they are from."""
    place = {c: bit for bit, c in enumerate(members)}
    n_assembled = len(chunk.together) - len(chunk.forced)
    found: dict[int, str] = {}
    for i, one in enumerate(chunk.together):
        mask = sum(1 << place[c] for c in one.tolist() if c in place)
        if mask:
            found.setdefault(mask, "assembly" if i < n_assembled else "known")
    return found


def _haplotype_sources(mask: int, patterns: Counter[int], together: dict[int, str]) -> tuple[str, ...]:
    if mask == 0:
        return ("reference",)
    found = ["reads"] if patterns[mask] else []
    if mask in together:
        found.append(together[mask])
    return tuple(found or ["combination"])
