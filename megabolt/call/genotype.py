# SPDX-License-Identifier: Apache-2.0
"""Genotypes of windows, of any ploidy: which haplotypes, one a copy, explain the templates best.

In: `Likelihoods`, `Haplotypes`. Out: `Genotypes`. Next: `emit.py`.

Mates are one observation: their likelihoods are multiplied before a template chooses between the copies.
Genotypes of n haplotypes stand in VCF's order (VCF 4.4, 1.6.2): sorted copies h0 <= h1 <= ... of P are number
sum over i of C(h_i + i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.haplotypes import Haplotypes
from megabolt.call.indel_priors import EventPriors
from megabolt.call.likelihood import Likelihoods
from megabolt.call.ploidy import n_genotypes
from megabolt.call.reads import Reads
from megabolt.call.windows import Windows
from megabolt.compute.jit import kernel

U = np.uint64
#: Haplotypes that are combined with each other at most; the best supported ones and the reference.
MAX_PAIRED = 24
#: Genotypes of one window at most: the more copies, the fewer haplotypes are combined.
MAX_GENOTYPES = 4000
#: No read is placed more surely than this, whatever its MAPQ: it may be a chimera, or from where the reference has
#: nothing.
MIN_MISPLACED = 1e-5
#: A template counts for an allele (AD) if it fits it this much better than any other, in log10.
SUPPORT_MARGIN = 0.5


@dataclass(frozen=True)
class Genotypes:
    """Templates and genotypes over haplotypes of each window.

    ploidy: copies of the genome, the same in all of these windows.
    n_haps, n_fragments: int64 [n_windows]; n_haps is 0 where nothing was scored.
    hap_offset: int64 [n_windows], first of n_haps entries of hap (int64, haplotype numbers).
    fragment_offset: int64 [n_windows] into fragments (float64, n_fragments x n_haps, log10 P(template | haplotype)).
    strand: int8, one per fragment row (row_offset int64 [n_windows]): bit 0 forward read, bit 1 reverse read.
    posterior_offset: int64 [n_windows] into posterior (float64, `n_genotypes(n_haps, ploidy)` in VCF order:
    log10 of likelihood x prior, not normalised) and prior (log10 of the prior alone).
    best: int64 [n_windows, ploidy], positions in `hap` of the best genotype, ascending.
    mapq: float64 [n_windows], root mean square MAPQ of the reads.
    """

    ploidy: int
    n_haps: NDArray[np.int64]
    n_fragments: NDArray[np.int64]
    hap_offset: NDArray[np.int64]
    hap: NDArray[np.int64]
    fragment_offset: NDArray[np.int64]
    fragments: NDArray[np.float64]
    row_offset: NDArray[np.int64]
    strand: NDArray[np.int8]
    posterior_offset: NDArray[np.int64]
    posterior: NDArray[np.float64]
    prior: NDArray[np.float64]
    best: NDArray[np.int64]
    mapq: NDArray[np.float64]


@kernel("int64(int64[::1], int64)")
def _genotype_number(copies: Any, ploidy: Any) -> Any:
    """Place of the genotype of the ascending `copies` in VCF's order."""
    number = 0
    for i in range(ploidy):
        term = 1  # C(copies[i] + i, i + 1)
        for j in range(i + 1):
            term = term * (copies[i] + i - j) // (j + 1)
        number += term
    return number


@kernel("boolean(int64[::1], int64, int64)")
def _next_genotype(copies: Any, ploidy: Any, n: Any) -> Any:
    """Step the ascending `copies` of numbers below n to the next genotype in VCF's order; False at the end."""
    for i in range(ploidy):
        limit = copies[i + 1] if i + 1 < ploidy else n - 1
        if copies[i] < limit:
            copies[i] += 1
            for j in range(i):
                copies[j] = 0
            return True
    return False


@kernel("float64(uint64, int64, int64[::1], int64[::1], uint8[::1], float64[::1], int64[::1], float64[::1], float64)")
def _log10_prior(
    union: Any,
    copies: Any,
    members: Any,
    starts: Any,
    kinds: Any,
    log10_event: Any,
    second_offset: Any,
    second: Any,
    further: Any,
) -> Any:
    """log10 prior of a genotype, from the `union` of the events that its haplotypes carry.

    The rarest event pays its own prior, each further one the smaller `further`: variants come together, in old
    haplotypes and in unstable places. A second allele of one indel site pays its `second` (`EventPriors`): repeats
    that vary much have many alleles. `copies` equal haplotypes other than the reference are 1 / copies as likely as
    one: the neutral spectrum of allele frequencies.
    """
    if union == U(0):
        return 0.0
    lowest, total = 0.0, 0.0
    last = np.int64(-1)  # the indel just before
    for k in range(len(members)):
        if (union >> U(k)) & U(1):
            c = members[k]
            lowest = min(lowest, log10_event[c])
            indel = kinds[c] != 0
            repeated = indel and last >= 0 and starts[c] == starts[last]
            total += second[second_offset[last] + c - last - 1] if repeated else further
            last = c if indel else np.int64(-1)
    return lowest + total - further - (np.log10(float(copies)) if copies > 1 else 0.0)


@kernel("float64(int64[::1], int64, float64[:, ::1], int64)")
def _log10_of_templates(copies: Any, ploidy: Any, table: Any, n_rows: Any) -> Any:
    """log10 P(templates | genotype): each template comes from any copy with the same probability.

    table: log10 P(template | haplotype), by haplotype and template.
    """
    s = 0.0
    a = copies[0]
    if a == copies[ploidy - 1]:
        for row in range(n_rows):
            s += table[a, row]
        return s
    product = 1.0
    if ploidy == 2:
        b = copies[1]
        for row in range(n_rows):
            x, y = table[a, row], table[b, row]
            s += max(x, y) - 0.3010299956639812
            d = -abs(x - y)
            if d > -16.0:
                product *= 1.0 + 10.0**d  # at most 2: the product of 512 of them still fits
            if row & 511 == 511:
                s += np.log10(product)
                product = 1.0
        return s + np.log10(product)
    for row in range(n_rows):
        top = table[a, row]
        for i in range(1, ploidy):
            top = max(top, table[copies[i], row])
        total = 0.0
        for i in range(ploidy):
            total += 10.0 ** max(-300.0, table[copies[i], row] - top)
        s += top + np.log10(total / ploidy)
    return s


@kernel("int64(int32[::1], int64, int64, int64)")
def _find(values: Any, low: Any, high: Any, wanted: Any) -> Any:
    """Place of `wanted` in the ascending values[low:high], -1 if it is not there."""
    end = high
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < end and values[low] == wanted else -1


@kernel(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], uint8[::1], float64[::1], int64[::1], uint64[::1],"
    " int64[::1], int32[::1], int64[::1], float64[::1], uint8[::1], uint16[::1], int32[::1], int64[::1], float64[::1],"
    " float64, int64,"
    " int64, int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], int64[::1], int8[::1],"
    " int64[::1], float64[::1], float64[::1], int64[:, ::1], float64[::1])"
)
def _genotype(
    which: Any,
    member_offset: Any,
    member: Any,
    starts: Any,
    kinds: Any,
    log10_event: Any,
    hap_offset: Any,
    hap_mask: Any,
    read_offset: Any,
    read: Any,
    offset: Any,
    log10: Any,
    mapq: Any,
    flag: Any,
    mate: Any,
    second_offset: Any,
    second: Any,
    further: Any,
    max_paired: Any,
    ploidy: Any,
    out_n_haps: Any,
    out_n_fragments: Any,
    out_hap_offset: Any,
    out_hap: Any,
    out_fragment_offset: Any,
    out_fragments: Any,
    out_row_offset: Any,
    out_strand: Any,
    out_posterior_offset: Any,
    out_posterior: Any,
    out_prior: Any,
    out_best: Any,
    out_mapq: Any,
) -> None:
    """Fill `Genotypes` for all windows.

    (1) P'(read | h) = (1 - e) P(read | h) + e max_h P,  e = P(read is misplaced), from MAPQ
    (2) P(template | h) = product over its reads of P'
    (3) P(data | h1 .. hP) = product over templates of the mean of P(template | h)
    """
    hap_at = 0
    fragment_at = 0
    row_at = 0
    genotype_at = 0
    copies = np.empty(ploidy, np.int64)
    for k in range(len(which)):
        first, last = read_offset[k], read_offset[k + 1]
        all_haps = hap_offset[k + 1] - hap_offset[k]
        nr = last - first
        out_hap_offset[k], out_fragment_offset[k], out_posterior_offset[k] = hap_at, fragment_at, genotype_at
        out_row_offset[k] = row_at
        out_n_haps[k] = 0
        out_n_fragments[k] = 0
        if nr == 0 or all_haps < 2:
            continue
        members = member[member_offset[which[k]] : member_offset[which[k] + 1]]
        full = np.zeros((nr, all_haps), np.float64)
        row_of = np.empty(nr, np.int64)
        n_rows = 0
        squares = 0.0
        for r in range(nr):
            i = read[first + r]
            squares += float(mapq[i]) * float(mapq[i])
            row = -1
            m = np.int64(mate[i])
            if 0 <= m < i:
                at = _find(read, first, first + r, m)
                if at >= 0:
                    row = row_of[at - first]
            if row < 0:
                row = n_rows
                n_rows += 1
                out_strand[row_at + row] = np.int8(0)
            row_of[r] = row
            out_strand[row_at + row] |= np.int8(2) if np.int64(flag[i]) & 16 else np.int8(1)
            e = max(10.0 ** (-float(mapq[i]) / 10.0), 1e-05)
            base = offset[k] + r * all_haps
            best = log10[base]
            for h in range(1, all_haps):
                best = max(best, log10[base + h])
            for h in range(all_haps):
                d = log10[base + h] - best
                full[row, h] += best + np.log10((1.0 - e) * 10.0 ** max(d, -300.0) + e)  # (1), (2)
        out_mapq[k] = np.sqrt(squares / nr)
        # keep the reference and the best supported haplotypes
        support = np.zeros(all_haps, np.float64)
        if all_haps > max_paired:
            for row in range(n_rows):
                best = full[row, 0]
                for h in range(1, all_haps):
                    best = max(best, full[row, h])
                for h in range(all_haps):
                    support[h] += max(full[row, h], best - 5.0) + (0.5 if full[row, h] >= best - 1e-6 else 0.0)
            support[0] = 1e300
        chosen = np.empty(all_haps, np.int64)
        n = 0
        for h in range(all_haps):
            better = 0
            for g in range(all_haps):
                if support[g] > support[h] or (support[g] == support[h] and g < h):
                    better += 1
            if better < max_paired:
                chosen[n] = h
                n += 1
        out_n_haps[k] = n
        out_n_fragments[k] = n_rows
        for h in range(n):
            out_hap[hap_at + h] = hap_offset[k] + chosen[h]
        table = np.empty((n, n_rows), np.float64)
        for row in range(n_rows):
            for h in range(n):
                table[h, row] = full[row, chosen[h]]
                out_fragments[fragment_at + row * n + h] = full[row, chosen[h]]
        best_score = -1e300
        for i in range(ploidy):
            copies[i] = 0
        number = 0
        more = True
        while more:
            union = U(0)
            run, most = 0, 1
            for i in range(ploidy):
                mask = hap_mask[hap_offset[k] + chosen[copies[i]]]
                union |= mask
                run = run + 1 if i > 0 and copies[i] == copies[i - 1] else 1
                if mask != U(0):
                    most = max(most, run)
            s = _log10_prior(union, most, members, starts, kinds, log10_event, second_offset, second, further)
            out_prior[genotype_at + number] = s
            s += _log10_of_templates(copies, ploidy, table, n_rows)  # (3)
            out_posterior[genotype_at + number] = s
            if s > best_score:
                best_score = s
                for i in range(ploidy):
                    out_best[k, i] = copies[i]
            number += 1
            more = _next_genotype(copies, ploidy, n)
        hap_at += n
        fragment_at += n * n_rows
        row_at += n_rows
        genotype_at += number


def max_combined(ploidy: int) -> int:
    """Haplotypes of a window that are combined into genotypes, at most."""
    n = MAX_PAIRED
    while n > 2 and n_genotypes(n, ploidy) > MAX_GENOTYPES:
        n -= 1
    return n


def genotype_windows(
    windows: Windows,
    which: NDArray[np.int64],
    candidates: Candidates,
    reads: Reads,
    haplotypes: Haplotypes,
    likelihoods: Likelihoods,
    *,
    priors: EventPriors,
    further_prior: float,
    ploidy: int = 2,
) -> Genotypes:
    """Posterior of genotypes over haplotypes for the windows numbered `which`.

    Parameters
    ----------
    priors
        Of the candidates.
    further_prior
        P(a further event in the window), other than a second allele of the same indel site.
    ploidy
        Copies of the genome, at least 1.
    """
    n = len(which)
    n_haps_all = np.diff(haplotypes.offset)
    n_reads = np.diff(likelihoods.read_offset)
    limit = max_combined(ploidy)
    combined = np.minimum(n_haps_all, limit)
    room = [n_genotypes(h, ploidy) for h in range(limit + 1)]
    result = Genotypes(
        ploidy=ploidy,
        n_haps=np.zeros(n, np.int64),
        n_fragments=np.zeros(n, np.int64),
        hap_offset=np.zeros(n, np.int64),
        hap=np.empty(int(combined.sum()), np.int64),
        fragment_offset=np.zeros(n, np.int64),
        fragments=np.empty(int((combined * n_reads).sum())),
        row_offset=np.zeros(n, np.int64),
        strand=np.zeros(int(n_reads.sum()), np.int8),
        posterior_offset=np.zeros(n, np.int64),
        posterior=np.empty(int(np.array(room)[combined].sum())),
        prior=np.empty(int(np.array(room)[combined].sum())),
        best=np.zeros((n, ploidy), np.int64),
        mapq=np.zeros(n),
    )
    _genotype(
        which, windows.candidate_offset, windows.candidate, candidates.start, candidates.kind, priors.event,
        haplotypes.offset, haplotypes.mask, likelihoods.read_offset, likelihoods.read, likelihoods.offset,
        likelihoods.log10, reads.mapq, reads.flag, reads.mate, priors.second_offset, priors.second,
        float(np.log10(further_prior)), limit, ploidy, result.n_haps, result.n_fragments, result.hap_offset,
        result.hap, result.fragment_offset, result.fragments, result.row_offset, result.strand,
        result.posterior_offset, result.posterior, result.prior, result.best, result.mapq,
    )  # fmt: skip
    return result


@kernel("void(float64[::1], int64, int64, int64[::1], int64, float64[::1])")
def sum_genotypes(
    values: NDArray[np.float64],
    ploidy: int,
    n_haps: int,
    allele_of_hap: NDArray[np.int64],
    n_alleles: int,
    log10_genotype: NDArray[np.float64],
) -> None:
    """Collapse log10 values of a window's genotypes over haplotypes to genotypes over the alleles of one site.

    allele_of_hap, n_alleles and the order of log10_genotype: as in `summarise_site`; -1e300 where nothing was summed.
    """
    for g in range(len(log10_genotype)):
        log10_genotype[g] = -1e300
    copies = np.zeros(ploidy, np.int64)
    alleles = np.empty(ploidy, np.int64)
    number = 0
    more = True
    while more:
        for i in range(ploidy):
            x = allele_of_hap[copies[i]]
            x = 0 if x == n_alleles else x
            j = i
            while j > 0 and alleles[j - 1] > x:
                alleles[j] = alleles[j - 1]
                j -= 1
            alleles[j] = x
        g = _genotype_number(alleles, ploidy)
        v = values[number]
        top = max(log10_genotype[g], v)
        if top > -1e299:
            log10_genotype[g] = top + np.log10(10.0 ** (log10_genotype[g] - top) + 10.0 ** (v - top))
        number += 1
        more = _next_genotype(copies, ploidy, n_haps)


@kernel(
    "void(float64[::1], float64[::1], int8[::1], int64, int64, int64, int64[::1], int64, float64[::1],"
    " int64[:, ::1], float64[::1])"
)
def summarise_site(
    posterior: NDArray[np.float64],
    fragments: NDArray[np.float64],
    strand: NDArray[np.int8],
    ploidy: int,
    n_haps: int,
    n_fragments: int,
    allele_of_hap: NDArray[np.int64],
    n_alleles: int,
    log10_genotype: NDArray[np.float64],
    support: NDArray[np.int64],
    spare: NDArray[np.float64],
) -> None:
    """Collapse a window's genotypes and templates to the alleles of one site.

    Parameters
    ----------
    allele_of_hap
        int64 [n_haps], 0 = reference, 1.. = alternative; n_alleles = something else at this place (counts as
        the reference in genotypes, supports no allele).
    log10_genotype
        Out: float64 [n_genotypes(n_alleles, ploidy)], log10 of the summed posterior, VCF genotype order.
    support
        Out: int64 [n_alleles + 1, 2], templates that prefer each allele, by forward and reverse reads; the last
        row counts those that prefer none.
    spare
        Out: float64 [n_alleles], log10 of P(templates | a .. a, x), with one copy of an allele x nobody has seen,
        relative to P(templates | a .. a): the genotypes with <NON_REF> of a gVCF.
    """
    sum_genotypes(posterior, ploidy, n_haps, allele_of_hap, n_alleles, log10_genotype)
    for a in range(n_alleles + 1):
        support[a, 0] = support[a, 1] = 0
    for a in range(n_alleles):
        spare[a] = 0.0
    best = np.empty(n_alleles + 1, np.float64)
    for row in range(n_fragments):
        for a in range(n_alleles + 1):
            best[a] = -1e300
        for h in range(n_haps):
            a = allele_of_hap[h]
            best[a] = max(best[a], fragments[row * n_haps + h])
        top = 0
        for a in range(1, n_alleles + 1):
            if best[a] > best[top]:
                top = a
        second = -1e300
        for a in range(n_alleles + 1):
            if a != top:
                second = max(second, best[a])
        winner = n_alleles
        if top < n_alleles and best[top] - second > 0.5:
            winner = top
        column = 1 if strand[row] == 2 else 0
        support[winner, column] += 1
        # an unseen allele fits a template as badly as the worst known one, and no better than one base error
        worst = 1e300
        for a in range(n_alleles):
            if best[a] > -1e299:
                worst = min(worst, best[a])
        for a in range(n_alleles):
            if best[a] > -1e299:
                unseen = min(worst, best[top] - 2.5)
                share = 1.0 / ploidy
                spare[a] += np.log10((1.0 - share) + share * 10.0 ** min(30.0, unseen - best[a]))
