# SPDX-License-Identifier: Apache-2.0
"""Mitochondria: a mixture of genomes, in which an allele may have any share.

In: `Reads`, `Evidence`, `Candidates` of a chunk. Out: `VcfRecord`s with the share of each allele (FORMAT/AF).

    P(templates | f) = product over templates of sum over alleles of f_a P(template | a)

The shares f are fitted by expectation maximisation; QUAL compares the best fit with the best one without the allele.
The genotype of a site with one allele is 1, of one with several 0/1, 0/1/2 ..: which are there, not how many copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.confidence import MAX_GQ
from megabolt.call.emit import MAX_QUAL, EmitContext, no_call, site_alleles, strand_odds_ratio
from megabolt.call.evidence import SNP
from megabolt.call.filters import filter_names, fisher_strand
from megabolt.call.reads import Reads
from megabolt.compute.jit import kernel
from megabolt.formats.vcf import NON_REF, VcfRecord

#: Shares that make a candidate; smaller ones are not looked for.
MIN_SNP_FRACTION, MIN_INDEL_FRACTION = 0.01, 0.02
#: Mismatches below make no candidate (Phred): errors of bad bases reach one in a hundred.
MIN_BASE_QUALITY = 20
#: Alleles with a smaller share are not written: what is rarer is hard to tell from errors that come together.
MIN_SHARE = 0.02
#: Other alleles below this share are as good as gone: homoplasmy.
_ALONE = 0.03
#: log10 P(a place differs from the reference).
_LOG10_PRIOR = -3.0
_STEPS = 500
#: Reads must reach this far beyond an indel to say whether they show it.
_REACH = 5
#: Tandem tract (bases) -> log10 P(a read shows an indel that is not there), interpolated: between the rates of
#: libraries with and without PCR.
_SLIPS = ((4, 6, 8, 10, 14), (-4.0, -3.2, -2.5, -2.0, -1.0))


@dataclass(frozen=True)
class _Site:
    """Templates of one site: log10 P by allele (float64 [templates, alleles]), strand (bool, reverse), MAPQ (RMS)."""

    chosen: list[int]
    fits: NDArray[np.float64]
    reverse: NDArray[np.bool_]
    mapq: float


@kernel("void(int64, int64[::1], int64[::1], int64[::1], int64[::1], uint32[::1], int64[::1])")
def _bases_at(
    position: Any, which: Any, starts: Any, base_offset: Any, cigar_offset: Any, cigar: Any, found: Any
) -> None:
    """Index of the base that each read of `which` has at a position, -1 for none."""
    for k in range(len(which)):
        r = which[k]
        p, q = starts[r], base_offset[r]
        found[k] = -1
        for c in range(cigar_offset[r], cigar_offset[r + 1]):
            op, l = np.int64(cigar[c] & np.uint32(15)), np.int64(cigar[c] >> np.uint32(4))
            aligned = op == 0 or op == 7 or op == 8
            if aligned and position < p + l:
                found[k] = q + position - p
                break
            if aligned or op == 2 or op == 3:
                p += l
            if aligned or op == 1 or op == 4:
                q += l
            if position < p:
                break


def fit_shares(fits: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Shares of the alleles (float64 [n]) that explain the templates best, and log10 of their likelihood.

    fits: float64 [templates, n], log10 P(template | allele).
    """
    top = fits.max(axis=1, keepdims=True)
    scaled = 10 ** (fits - top)
    shares = np.full(fits.shape[1], 1.0 / fits.shape[1])
    for _ in range(_STEPS):
        weighted = scaled * shares
        new = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(new - shares).max())
        shares = new
        if moved < 1e-7:
            break
    return shares, float(np.log10((scaled * shares).sum(axis=1)).sum() + top.sum())


def mixture_records(
    candidates: Candidates,
    reads: Reads,
    tract: NDArray[np.int32],
    context: EmitContext,
) -> list[VcfRecord]:
    """Records of all candidates that are part of the mixture.

    Parameters
    ----------
    tract
        int32, length of the tandem tract over each base.
    """
    snps: dict[int, list[int]] = {}
    sites = []
    for c in range(len(candidates)):
        if int(candidates.kind[c]) == SNP:
            snps.setdefault(int(candidates.start[c]), []).append(c)
        else:
            sites.append(_indel_site(c, candidates, reads, tract))
    sites += [_snp_site(chosen, candidates, reads, context.ref) for chosen in snps.values()]
    records = [_record(site, candidates, context) for site in sites]
    return sorted((r for r in records if r is not None), key=lambda r: (r.start, r.ref, r.alts))


def _covering(reads: Reads, start: int, stop: int) -> NDArray[np.int64]:
    """Reads over all of [start, stop)."""
    first = int(np.searchsorted(reads.start, stop - reads.max_span - 1))
    last = int(np.searchsorted(reads.start, start, side="right"))
    return first + np.flatnonzero(reads.stop[first:last] >= stop)


def _snp_site(chosen: list[int], candidates: Candidates, reads: Reads, ref: NDArray[np.uint8]) -> _Site:
    position = int(candidates.start[chosen[0]])
    which = _covering(reads, position, position + 1)
    found = np.empty(len(which), np.int64)
    _bases_at(position, which, reads.start, reads.base_offset, reads.cigar_offset, reads.cigar, found)
    seen = found >= 0
    which, found = which[seen], found[seen]
    known = reads.bases[found] < 4
    which, found = which[known], found[known]
    quality = np.clip(np.minimum(reads.qualities[found], np.clip(reads.mapq[which], 3, 60)), 6, None)
    error = 10 ** (-0.1 * quality.astype(np.float64))[:, None]
    alleles = np.array([int(ref[position]), *(int(candidates.bases(c)[0]) for c in chosen)])
    agrees = reads.bases[found][:, None] == alleles[None, :]
    return _site(chosen, np.where(agrees, 1 - error, error / 3), which, reads)


def _indel_site(c: int, candidates: Candidates, reads: Reads, tract: NDArray[np.int32]) -> _Site:
    start, stop = int(candidates.start[c]), int(candidates.stop[c])
    length = int(tract[start]) if start < len(tract) else 0
    which = _covering(reads, max(0, start - _REACH), stop + length + _REACH)
    own = candidates.read[candidates.read_offset[c] : candidates.read_offset[c + 1]].astype(np.int64)
    which = np.union1d(which, own)
    slip = 10 ** float(np.interp(length, *_SLIPS))
    shows = np.isin(which, own)[:, None] == np.array([False, True])[None, :]
    return _site([c], np.where(shows, 1 - slip, slip), which, reads)


def _site(chosen: list[int], chance: NDArray[np.float64], which: NDArray[np.int64], reads: Reads) -> _Site:
    """Join mates: their likelihoods are multiplied; which: reads, ascending."""
    misplaced = np.maximum(10 ** (-0.1 * reads.mapq[which].astype(np.float64)), 10**-4.5)[:, None]
    fits = np.log10((1 - misplaced) * chance + misplaced * chance.max(axis=1, keepdims=True))
    mates = reads.mate[which].astype(np.int64)
    at = np.searchsorted(which, mates)
    at[at == len(which)] = 0
    second = (mates >= 0) & (mates < which) & (which[at] == mates) if len(which) else np.zeros(0, np.bool_)
    np.add.at(fits, at[second], fits[second])
    squares = float((reads.mapq[which].astype(np.float64) ** 2).mean()) if len(which) else 0.0
    reverse = (reads.flag[which] & 16) != 0
    return _Site(chosen, fits[~second], reverse[~second], squares**0.5)


def _record(site: _Site, candidates: Candidates, context: EmitContext) -> VcfRecord | None:
    forced = context.forced
    if len(site.fits) == 0:
        return no_call(site.chosen, candidates, context) if forced.intersection(site.chosen) else None
    shares, log10_best = fit_shares(site.fits)
    quals = []
    for a in range(1, len(shares)):
        _, without = fit_shares(np.delete(site.fits, a, axis=1))
        quals.append(min(MAX_QUAL, max(0.0, 10 * (log10_best - without + _LOG10_PRIOR))))
    present = [a for a in range(1, len(shares)) if shares[a] >= MIN_SHARE and quals[a - 1] >= context.min_qual]
    kept = [a for a in range(1, len(shares)) if a in present or site.chosen[a - 1] in forced]
    if not kept:
        return None
    columns = [0, *kept]
    fits = site.fits[:, columns]
    shares, _ = fit_shares(fits)
    rows = _support(fits, site.reverse)
    start, ref, alts = site_alleles([site.chosen[a - 1] for a in kept], candidates, context.ref)
    names = [k for k, a in enumerate(kept, 1) if a in present]
    with_ref = not names or float(shares[0]) >= _ALONE
    genotype = [0] * with_ref + names
    depths = [sum(row) for row in rows[:-1]]
    qual = max(quals[a - 1] for a in kept)
    alt_strand = [sum(row[s] for row in rows[1:-1]) for s in (0, 1)]
    fisher = fisher_strand(rows[0], alt_strand)
    info: dict[str, Any] = {
        "AC": [genotype.count(k) for k in range(1, len(columns))] + [0] * context.gvcf,
        "AN": len(genotype),
        "DP": len(fits),
        "FS": fisher,
        "MQ": site.mapq,
        "QD": qual / max(1, sum(depths)),
        "SOR": strand_odds_ratio(rows[0], alt_strand),
    }
    fields: dict[str, Any] = {
        "GT": "/".join(map(str, genotype)),
        "AD": depths + [0] * context.gvcf,
        "AF": [f"{shares[k]:.4g}" for k in range(1, len(columns))] + ["0"] * context.gvcf,
        "DP": len(fits),
        "GQ": min(MAX_GQ, round(qual)),
    }
    passes = filter_names(context.thresholds, qual, len(fits), fisher, all(len(a) == len(ref) for a in alts))
    return VcfRecord(
        contig=context.contig, start=context.origin + start, ref=ref, alts=alts + (NON_REF,) * context.gvcf, qual=qual,
        filter=passes if names else ".", info=info, genotype=fields,
    )  # fmt: skip


def _support(fits: NDArray[np.float64], reverse: NDArray[np.bool_]) -> list[list[int]]:
    """Templates that fit each allele best, by forward and reverse; the last row: those that fit no one best."""
    order = np.sort(fits, axis=1)
    clear = order[:, -1] - order[:, -2] > 0.5
    best = np.where(clear, fits.argmax(axis=1), fits.shape[1])
    return [[int(((best == a) & (reverse == side)).sum()) for side in (False, True)] for a in range(fits.shape[1] + 1)]
