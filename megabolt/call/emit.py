# SPDX-License-Identifier: Apache-2.0
"""From genotyped windows and pileup SNPs to VCF records.

In: `Genotypes`, `SnpCalls`. Out: `VcfRecord`s, left-aligned and minimal.

One record stands for one site: the events of the called copies that begin at the same base. Two different
alleles at one site make one record 1/2, unless other events lie between their ends; MNPs come out as their
SNPs. What lies under a deletion of the other copy stays a record of its own, with a plain 0/1: the deletion's
record tells about the other copy (VCF's `*` would say it twice, and comparison tools differ in how they read it).
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.confidence import genotype_quality
from megabolt.call.evidence import SNP
from megabolt.call.filters import Thresholds, filter_names, fisher_strand
from megabolt.call.genotype import Genotypes, sum_genotypes, summarise_site
from megabolt.call.haplotypes import Haplotypes
from megabolt.call.isolated import SnpCalls
from megabolt.call.phasing import phase_sets
from megabolt.call.ploidy import DIPLOID, genotype_index, genotypes_of, n_genotypes
from megabolt.call.windows import Windows
from megabolt.formats.bases import decode
from megabolt.formats.vcf import NON_REF, VcfRecord

#: Bases beside a record that are looked at for a tandem repeat.
BESIDE = 3
#: Records never claim more than this.
MAX_QUAL = 10000.0
_MAX_PL = 99999


@dataclass(frozen=True)
class EmitContext:
    """What every record needs: names, coordinates, reference, thresholds.

    origin: contig position of local position 0. ref: uint8 codes of the reference segment; tract: int32, bases of the
    longest tandem repeat over each base of it.
    fragments: int32, template depth. min_qual: QUAL below this is not written. thresholds: of the filters.
    gvcf: add <NON_REF>. forced: numbers of candidates that are written in any case.
    snp_prior: log10. ploidy: copies of the genome.
    """

    contig: str
    origin: int
    ref: NDArray[np.uint8]
    tract: NDArray[np.int32]
    fragments: NDArray[np.int32]
    min_qual: float
    thresholds: Thresholds
    gvcf: bool
    snp_prior: float
    ploidy: int = DIPLOID
    forced: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Phase:
    """Alleles by copy of the genome, and the first site of the phase set: 1-based position and name."""

    copies: tuple[int, ...]
    position: int
    name: str


@dataclass(frozen=True)
class SiteCall:
    """A called site before it is written.

    start: local position of the first base of `ref`. log10_genotype: posterior of each genotype, VCF order, not
    normalised; log10_plain: that of nothing but the reference there, not even alleles of other records.
    log10_prior: prior of each genotype, to get likelihoods back. support: templates by allele (and
    one row for none) and strand. log10_spare: likelihood of a .. a, x with an x nobody has seen, relative to
    a .. a, by allele a.
    """

    start: int
    ref: str
    alts: tuple[str, ...]
    genotype: tuple[int, ...]
    log10_genotype: list[float]
    log10_plain: float
    log10_prior: list[float]
    support: list[list[int]]
    log10_spare: list[float]
    mapq: float
    phase: Phase | None = None


def _log10_sum(values: list[float]) -> float:
    top = max(values)
    if top < -1e299:
        return top
    return top + math.log10(sum(10.0 ** (v - top) for v in values))


def genotype_priors(log10_alts: list[float], ploidy: int = DIPLOID) -> list[float]:
    """log10 prior of each genotype in VCF order: n copies of an allele are 1 / n as likely as one."""
    priors = []
    for genotype in genotypes_of(len(log10_alts) + 1, ploidy):
        counts = Counter(a for a in genotype if a > 0)
        total = sum(log10_alts[a - 1] for a in counts)
        priors.append(total - math.log10(max(counts.values(), default=1)))
    return priors


def strand_odds_ratio(ref: list[int], alt: list[int]) -> float:
    """Symmetric odds ratio of strand by allele, log scale, as GATK's StrandOddsRatio defines it."""
    a, b, c, d = (x + 1.0 for x in (ref[0], ref[1], alt[0], alt[1]))
    ratio = a * d / (b * c)
    return math.log(ratio + 1 / ratio) + math.log(min(a, b) / max(a, b)) - math.log(min(c, d) / max(c, d))


def site_qual(call: SiteCall) -> float:
    """Phred of P(nothing but the reference there)."""
    return min(MAX_QUAL, max(0.0, -10 * (call.log10_plain - _log10_sum(call.log10_genotype))))


def make_record(call: SiteCall, context: EmitContext) -> VcfRecord:
    """The VCF record of a called site."""
    posterior = call.log10_genotype
    total = _log10_sum(posterior)
    qual = site_qual(call)
    called = genotype_index(call.genotype)
    others = [v for g, v in enumerate(posterior) if g != called]
    beside = context.tract[max(0, call.start - BESIDE) : call.start + len(call.ref) + BESIDE]
    gq = genotype_quality(
        _log10_sum(others) - total,
        int(beside.max(initial=0)),
        call.mapq,
        indel=any(len(alt) != len(call.ref) for alt in call.alts),
        alike=len(set(call.genotype)) == 1,
    )
    likelihood = [-10 * (v - p) for v, p in zip(posterior, call.log10_prior)]
    alts = call.alts
    depths = [sum(row) for row in call.support[: len(alts) + 1]]
    if context.gvcf:
        likelihood = _with_unseen(likelihood, call.log10_spare, len(call.genotype))
        alts = (*alts, NON_REF)
        depths.append(0)
    best = min(likelihood)
    depth = max(int(context.fragments[call.start]), sum(depths))
    # in very deep windows a sample of the templates was scored: the genotype's depth is that of its AD
    scored = max(sum(depths), min(depth, sum(map(sum, call.support))))
    copies = [call.genotype.count(a) for a in range(1, len(alts) + 1)]
    alt_rows = call.support[1 : len(call.alts) + 1]
    alt_strand = [sum(row[s] for row in alt_rows) for s in (0, 1)]
    fisher = fisher_strand(call.support[0], alt_strand)
    info: dict[str, Any] = {
        "AC": copies,
        "AF": [c / len(call.genotype) for c in copies],
        "AN": len(call.genotype),
        "DP": depth,
        "FS": fisher,
        "MQ": call.mapq,
        "QD": qual / max(1, sum(depths)),
        "SOR": strand_odds_ratio(call.support[0], alt_strand),
    }
    genotype: dict[str, Any] = {
        "GT": "/".join(map(str, call.genotype)),
        "AD": depths,
        "DP": scored,
        "GQ": gq,
    }
    if call.phase is not None:
        genotype |= {"GT": "|".join(map(str, call.phase.copies)), "PGT": "|".join(map(str, call.phase.copies))}
        genotype["PID"] = call.phase.name
    genotype["PL"] = [min(_MAX_PL, round(v - best)) for v in likelihood]
    if call.phase is not None:
        genotype["PS"] = call.phase.position
    is_snp = len(call.ref) == 1 and all(len(alt) == 1 for alt in call.alts)
    passes = filter_names(context.thresholds, qual, depth, fisher, is_snp)
    return VcfRecord(
        contig=context.contig,
        start=context.origin + call.start,
        ref=call.ref,
        alts=alts,
        qual=qual,
        filter=passes if any(call.genotype) else ".",
        info=info,
        genotype=genotype,
    )


def _with_unseen(likelihood: list[float], spare: list[float], ploidy: int) -> list[float]:
    """Phred likelihoods with those of the genotypes that hold <NON_REF> behind.

    A genotype fits as well as the best of its known alleles with one copy of what is unseen.
    """
    n = len(spare)
    one = [max(0.0, likelihood[genotype_index((a,) * ploidy)] - 10 * spare[a]) for a in range(n)]
    unseen = [genotype for genotype in genotypes_of(n + 1, ploidy) if genotype[-1] == n]
    return [*likelihood, *(min((one[a] for a in genotype if a < n), default=max(one)) for genotype in unseen)]


def pileup_records(calls: SnpCalls, candidates: Candidates, context: EmitContext) -> list[VcfRecord]:
    """Records of the isolated SNPs whose best genotype carries the SNP."""
    priors = genotype_priors([context.snp_prior], context.ploidy)
    posterior = calls.log10_likelihood + np.array(priors)
    records = []
    wanted = posterior.argmax(axis=1) > 0
    if context.forced:
        wanted |= np.isin(calls.candidate, list(context.forced))
    for k in np.flatnonzero(wanted).tolist():
        c = int(calls.candidate[k])
        if not calls.support[k].any():
            records.append(no_call([c], candidates, context))
            continue
        start = int(candidates.start[c])
        copies = int(posterior[k].argmax())
        site = SiteCall(
            start=start,
            ref=decode(context.ref[start : start + 1]),
            alts=(decode(candidates.bases(c)),),
            genotype=(0,) * (context.ploidy - copies) + (1,) * copies,
            log10_genotype=posterior[k].tolist(),
            log10_plain=float(posterior[k, 0]),
            log10_prior=priors,
            support=calls.support[k].tolist(),
            log10_spare=calls.log10_spare[k].tolist(),
            mapq=float(calls.mapq[k]),
        )
        record = make_record(site, context)
        if c in context.forced or (record.qual or 0.0) >= context.min_qual:
            records.append(record)
    return records


def no_call(chosen: list[int], candidates: Candidates, context: EmitContext) -> VcfRecord:
    """The record of candidates of one site about which the reads say nothing."""
    start, ref, alts = site_alleles(chosen, candidates, context.ref)
    alts += (NON_REF,) * context.gvcf
    missing = "/".join("." * context.ploidy)
    depth = int(context.fragments[start])
    info = {"AC": [0] * len(alts), "AN": 0, "DP": depth}
    return VcfRecord(context.contig, context.origin + start, ref, alts, None, ".", info, {"GT": missing, "DP": depth})


def window_records(
    k: int,
    window: int,
    windows: Windows,
    candidates: Candidates,
    haplotypes: Haplotypes,
    genotypes: Genotypes,
    context: EmitContext,
) -> list[VcfRecord]:
    """Records of one window (row k of `genotypes`): one per site of the called haplotypes or with a forced allele."""
    members = windows.candidate[windows.candidate_offset[window] : windows.candidate_offset[window + 1]].tolist()
    n = int(genotypes.n_haps[k])
    if n == 0:
        return [no_call([c], candidates, context) for c in members if c in context.forced]
    first = int(genotypes.hap_offset[k])
    masks = [int(m) for m in haplotypes.mask[genotypes.hap[first : first + n]]]
    copies = [masks[int(h)] for h in genotypes.best[k]]
    wanted = functools.reduce(operator.or_, copies)
    forced = functools.reduce(operator.or_, (1 << bit for bit, c in enumerate(members) if c in context.forced), 0)
    sites: dict[tuple[bool, int], list[int]] = {}
    for bit, c in enumerate(members):
        if (wanted | forced) >> bit & 1:
            # an indel's record begins one base further left than its first changed base
            is_snp = int(candidates.kind[c]) == SNP
            sites.setdefault((is_snp, int(candidates.start[c])), []).append(bit)
    calls, alleles = [], []
    for bits in _separable(list(sites.values()), members, candidates):
        alleles.append(_allele_of_masks(masks, bits, members, candidates))
        call = _site_call(k, bits, alleles[-1], copies, members, candidates, genotypes, context)
        keep = any(forced >> bit & 1 for bit in bits) or site_qual(call) >= context.min_qual
        calls.append((call, keep))
    phased = _with_phase(k, [call for call, _ in calls], alleles, genotypes, context)
    return [make_record(call, context) for call, (_, keep) in zip(phased, calls) if keep]


def _with_phase(
    k: int, calls: list[SiteCall], alleles: list[NDArray[np.int64]], genotypes: Genotypes, context: EmitContext
) -> list[SiteCall]:
    """The calls of a window, with the phase that its haplotypes tell."""
    if genotypes.ploidy != DIPLOID or len(calls) < 2:
        return calls
    n, at = int(genotypes.n_haps[k]), int(genotypes.posterior_offset[k])
    best = (int(genotypes.best[k, 0]), int(genotypes.best[k, 1]))
    # an event of another record at the same place counts as the reference here
    plain = [np.where(of == len(call.alts) + 1, 0, of) for of, call in zip(alleles, calls)]
    order = sorted(range(len(calls)), key=lambda i: calls[i].start)
    posterior = genotypes.posterior[at : at + n_genotypes(n, DIPLOID)]
    result = list(calls)
    for one in phase_sets(posterior, n, best, [plain[i] for i in order]):
        head = calls[order[one[0]]]
        position = context.origin + head.start + 1
        name = f"{position}_{head.ref}_{','.join(head.alts)}"
        # which copy is the first is nobody's knowledge: the set begins with 0|1
        sides = sorted(best, key=lambda h: int(plain[order[one[0]]][h]))
        for i in (order[x] for x in one):
            copies = (int(plain[i][sides[0]]), int(plain[i][sides[1]]))
            result[i] = replace(calls[i], phase=Phase(copies, position, name))
    return result


def _separable(sites: list[list[int]], members: list[int], candidates: Candidates) -> list[list[int]]:
    """Sites whose alleles can share one record; others are taken apart into one record per allele.

    The common REF of two deletions is as long as the longer one. Where a further event lies inside it, the record
    and that event would both rewrite the same bases of the copy with the shorter deletion.
    """
    result = []
    for bits in sites:
        stop = max(int(candidates.stop[members[b]]) for b in bits)
        first = int(candidates.start[members[bits[0]]])
        inside = any(
            b not in bits and first <= int(candidates.start[members[b]]) < stop for other in sites for b in other
        )
        result += [[b] for b in bits] if len(bits) > 1 and inside else [bits]
    return result


def _allele_of_masks(
    masks: list[int], bits: list[int], members: list[int], candidates: Candidates
) -> NDArray[np.int64]:
    """Allele of each haplotype at a site; len(bits) + 1 = some other event at the same place."""
    start = int(candidates.start[members[bits[0]]])
    stop = max(int(candidates.stop[members[b]]) for b in bits)
    is_snp = int(candidates.kind[members[bits[0]]]) == SNP
    others = 0
    for bit, c in enumerate(members):
        if bit in bits:
            continue
        s, e, kind = int(candidates.start[c]), int(candidates.stop[c]), int(candidates.kind[c])
        covers = s < stop and e > start if is_snp else kind != SNP and s <= stop and e >= start
        if covers:
            others |= 1 << bit
    alleles = np.zeros(len(masks), np.int64)
    for h, mask in enumerate(masks):
        for a, bit in enumerate(bits, 1):
            if mask >> bit & 1:
                alleles[h] = a
        if alleles[h] == 0 and mask & others:
            alleles[h] = len(bits) + 1
    return alleles


def _site_call(
    k: int,
    bits: list[int],
    alleles: NDArray[np.int64],
    copies: list[int],
    members: list[int],
    candidates: Candidates,
    genotypes: Genotypes,
    context: EmitContext,
) -> SiteCall:
    n_alleles = len(bits) + 1
    n, rows = int(genotypes.n_haps[k]), int(genotypes.n_fragments[k])
    at, fragment_at = int(genotypes.posterior_offset[k]), int(genotypes.fragment_offset[k])
    row_at = int(genotypes.row_offset[k])
    ploidy = genotypes.ploidy
    log10_genotype = np.empty(n_genotypes(n_alleles, ploidy))
    support = np.empty((n_alleles + 1, 2), np.int64)
    spare = np.empty(n_alleles)
    summarise_site(
        genotypes.posterior[at : at + n_genotypes(n, ploidy)],
        genotypes.fragments[fragment_at : fragment_at + n * rows],
        genotypes.strand[row_at : row_at + rows], ploidy, n, rows, alleles, n_alleles, log10_genotype, support, spare,
    )  # fmt: skip
    with_others = np.empty(n_genotypes(n_alleles + 1, ploidy))
    sum_genotypes(genotypes.posterior[at : at + n_genotypes(n, ploidy)], ploidy, n, alleles, n_alleles + 1, with_others)
    called = sorted(next((a for a, bit in enumerate(bits, 1) if mask >> bit & 1), 0) for mask in copies)
    log10_prior = np.empty(len(log10_genotype))
    sum_genotypes(genotypes.prior[at : at + n_genotypes(n, ploidy)], ploidy, n, alleles, n_alleles, log10_prior)
    # no pair of haplotypes gives such a genotype: it stays impossible
    log10_prior[log10_genotype < -1e299] = 0
    start, ref, alts = site_alleles([members[b] for b in bits], candidates, context.ref)
    return SiteCall(
        start=start,
        ref=ref,
        alts=alts,
        genotype=tuple(called),
        log10_genotype=log10_genotype.tolist(),
        log10_plain=float(with_others[0]),
        log10_prior=log10_prior.tolist(),
        support=support.tolist(),
        log10_spare=spare.tolist(),
        mapq=float(genotypes.mapq[k]),
    )


def site_alleles(chosen: list[int], candidates: Candidates, ref: NDArray[np.uint8]) -> tuple[int, str, tuple[str, ...]]:
    """Local start, REF and ALTs of candidates that begin at the same base."""
    start = int(candidates.start[chosen[0]])
    stop = max(int(candidates.stop[c]) for c in chosen)
    if int(candidates.kind[chosen[0]]) != SNP:
        start -= 1  # the base before an indel anchors it
    ref_text = decode(ref[start:stop])
    alts = []
    for c in chosen:
        before = decode(ref[start : int(candidates.start[c])])
        after = decode(ref[int(candidates.stop[c]) : stop])
        alts.append(before + decode(candidates.bases(c)) + after)
    return start, ref_text, tuple(alts)
