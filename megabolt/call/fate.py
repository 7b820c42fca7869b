# SPDX-License-Identifier: Apache-2.0
"""Which step decided about an allele, and which threshold: in one word and in a sentence.

In: `Explanation`. Out: `Fate`s. The steps stand in the order in which the caller takes them: the first one that an
allele does not pass is where it was lost.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass

import numpy as np

from megabolt.call.candidates import MIN_READS, reads_needed
from megabolt.call.evidence import SNP
from megabolt.call.explained import AlleleView, Explanation, GenotypeView, WindowView, shortened
from megabolt.call.mixture import MIN_SHARE
from megabolt.call.site_reads import SiteRead
from megabolt.formats.vcf import VcfRecord

#: Weights of reads (Phred) below this are worth a word.
_LIGHT = 20
#: An indel that could stand over so many bases is hard to see in reads that end there.
_LONG = 12
#: One record in so many that shows an allele is not worth a line.
_FEW = 200
#: Reasons that are counted as such; of others there are "3 with ..".
_NOUNS = ("duplicate", "secondary alignment", "supplementary alignment")


class Step(enum.Enum):
    """Where an allele's way through the caller ended."""

    CALLED = "called"
    FILTERED = "filtered"
    BELOW_MIN_QUAL = "below the lowest QUAL"
    LESS_LIKELY = "less likely than the called genotype"
    RARE = "too small a share of the mixture"
    NOT_COMBINED = "on no haplotype that was combined"
    NO_HAPLOTYPE = "on no haplotype"
    NOT_SCORED = "window not scored"
    NO_CANDIDATE = "no candidate"
    LEFT_OUT = "all its reads are left out"
    NOT_SHOWN = "no read shows it"
    NO_COPIES = "no copies of the genome"


@dataclass(frozen=True)
class Fate:
    """The step that decided, and why in words."""

    step: Step
    words: str


def name_of(allele: AlleleView, contig: str) -> str:
    """chr20:10001436 A>G; long ones are cut."""
    return f"{contig}:{allele.start + 1} {shortened(allele.ref)}>{shortened(allele.alt)}"


def by_reason(reads: tuple[SiteRead, ...]) -> str:
    """3 duplicates, 2 with MAPQ below 5"""
    return ", ".join(_reason(n, why) for why, n in Counter(read.why for read in reads).most_common())


def _reason(n: int, why: str) -> str:
    if why in _NOUNS:
        return _plural(n, why)
    return f"{n} with {why}" if why.startswith(("MAPQ", "no ")) else f"{n} {why}"


def fate_of(found: Explanation, allele: AlleleView) -> Fate:
    """Where an allele other than the reference ended."""
    if found.copies == 0:
        return Fate(Step.NO_COPIES, "The genome has no copy of this place (Y where there is none): nothing is called.")
    if allele.candidate < 0:
        return _no_candidate(found, allele)
    record = allele.record
    if record is not None and allele.called and allele.written:
        return _called(found, allele, record)
    if record is not None and allele.called:
        limit = found.options.min_qual
        return Fate(
            Step.BELOW_MIN_QUAL,
            f"The best genotype is {record.genotype['GT']}, but QUAL {record.qual or 0:.3g} is below {limit:g}:"
            " such calls are not written (min_qual).",
        )
    if found.mixture:
        return _share(record)
    return _lost_in_window(found, allele)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _no_candidate(found: Explanation, allele: AlleleView) -> Fate:
    left_out = (
        f"{_plural(len(allele.left_out), 'read')} that {_shows(len(allele.left_out))} it"
        f" {'is' if len(allele.left_out) == 1 else 'are'} left out ({by_reason(allele.left_out)})"
    )
    if not allele.used and allele.counted == 0:
        if allele.left_out:
            return Fate(Step.LEFT_OUT, f"No read that the caller may use shows it; {left_out}.")
        n = sum(not read.why for read in found.reads)
        words = f"None of the {_plural(n, 'usable read')} over the site shows it." if n else "No usable read is here."
        return Fate(Step.NOT_SHOWN, words + _spanning(found, allele))
    options, is_snp = found.options, allele.event is not None and allele.event[2] == SNP
    fraction, setting = (
        (options.min_snp_fraction, "min_snp_fraction") if is_snp else (options.min_indel_fraction, "min_indel_fraction")
    )
    share = allele.counted / max(1, allele.depth)
    words = f"{_plural(allele.counted, 'usable read')} {_shows(allele.counted)} it"
    words += f" with base quality {options.min_base_quality} or more" if is_snp else ""
    weak = sum(0 <= r.trusted < options.min_base_quality for r in allele.used) if is_snp else 0
    words += f" ({weak} more with less, or with a mate that disagrees)" if weak else ""
    least = needed(allele)
    words += (
        f", {share:.1%} of a depth of {allele.depth}; a candidate needs {_plural(least, 'read')} and {fraction:.0%}"
    )
    words += f" ({setting})."
    if allele.counted >= least and share >= fraction:
        words += " Those limits are met: its reads were not taken for one allele, as they differ among themselves."
    words += f" {left_out[:1].upper()}{left_out[1:]}." if allele.left_out else ""
    return Fate(Step.NO_CANDIDATE, words + _spanning(found, allele))


def _spanning(found: Explanation, allele: AlleleView) -> str:
    """How many reads could tell the length of the stretch over which an indel could stand, where that is long."""
    low, high = allele.reach
    if high - low < _LONG:
        return ""
    used = [read for read in found.reads if not read.why]
    n = sum(read.start <= low and read.stop >= high for read in used)
    return f" {n} of {_plural(len(used), 'usable read')} span the whole of {low + 1}-{high}, over which it could stand."


def _shows(n: int) -> str:
    return "shows" if n == 1 else "show"


def needed(allele: AlleleView) -> int:
    """Reads that make an allele a candidate."""
    if allele.event is None:
        return MIN_READS
    start, stop, kind, inserted = allele.event
    return reads_needed(kind, max(stop - start, len(inserted)))


def _called(found: Explanation, allele: AlleleView, record: VcfRecord) -> Fate:
    text = f"Genotype {record.genotype['GT']}, QUAL {record.qual or 0:.1f}, GQ {record.genotype.get('GQ', '.')}"
    if record.filter in ("PASS", "."):
        return Fate(Step.CALLED, f"{text}: the call passes all filters.")
    limits, info = found.options.thresholds, record.info
    strand = (
        limits.snp_strand if len(record.ref) == 1 and all(len(a) == 1 for a in record.alts) else limits.indel_strand
    )
    reasons = {
        "LowQual": f"QUAL {record.qual or 0:.1f} is below {limits.low_qual:g}",
        "LowDepth": f"{info.get('DP')} templates are fewer than {limits.low_depth}",
        "StrandBias": f"FS {info.get('FS', 0):.1f} is above {strand:g}",
    }
    named = [f"{name} ({reasons[name]})" if name in reasons else name for name in record.filter.split(";")]
    return Fate(Step.FILTERED, f"{text}: the call is written, but not as PASS: {', '.join(named)}.")


def _share(record: VcfRecord | None) -> Fate:
    shares = record.genotype.get("AF", ["0"]) if record is not None else ["0"]
    return Fate(
        Step.RARE,
        f"Its share of the mixture is {', '.join(map(str, shares))}, QUAL {(record.qual if record else 0) or 0:.3g};"
        f" {MIN_SHARE:g} and a QUAL of 3 are needed.",
    )


def _lost_in_window(found: Explanation, allele: AlleleView) -> Fate:
    window = next((one for one in found.windows if one.number == allele.window), None)
    if window is None or not window.decided:
        return Fate(Step.NOT_SCORED, "Its window was not reached.")
    if not window.isolated and allele.event is not None:
        tried = [one for one in window.haplotypes if allele.event in one.events]
        if not window.haplotypes or not window.genotypes:
            return Fate(Step.NOT_SCORED, _why_not_scored(found, window))
        if not tried:
            return Fate(
                Step.NO_HAPLOTYPE, f"None of the {len(window.haplotypes)} haplotypes that were tried carries it."
            )
        if not any(one.combined for one in tried):
            n = sum(one.combined for one in window.haplotypes)
            words = f"It is on {len(tried)} of {len(window.haplotypes)} haplotypes, but not on the {n} that fit best."
            return Fate(Step.NOT_COMBINED, words)
    return Fate(Step.LESS_LIKELY, _less_likely(found, allele, window))


def _why_not_scored(found: Explanation, window: WindowView) -> str:
    if "N" in found.view:
        return "Its window holds an N of the reference: no haplotypes were made."
    if not window.listed:
        return "No usable read touches its window."
    if len(window.haplotypes) < 2:
        return f"Its window ({window.stop - window.start} bases) made no haplotype other than the reference."
    return f"No read has enough bases in its window of {window.stop - window.start} bases."


def _less_likely(found: Explanation, allele: AlleleView, window: WindowView) -> str:
    """The best genotype with the allele beside the best one without: what the reads say, what the prior says."""
    called = f"{allele.record.genotype['GT']} is called instead" if allele.record is not None else "it is not called"
    holding = next((one for one in window.genotypes if _holds(window, one, allele)), None)
    others = next((one for one in window.genotypes if not _holds(window, one, allele)), None)
    if holding is None or others is None:
        return f"Genotypes without it explain the reads better; {called}."
    reads = 10 * (holding.log10_likelihood - others.log10_likelihood)
    prior = 10 * (others.log10_prior - holding.log10_prior)
    if reads < 0:
        words = f"The reads fit the best genotype without it better, by {-reads:.1f} Phred"
        words += f", and the prior is against it by {prior:.0f} Phred" if prior > 0 else ""
    elif reads < prior:
        words = f"The reads favour it by {reads:.1f} Phred, but the prior is against it by {prior:.0f} Phred"
    else:
        words = f"The best genotype holds it, but all those without it together are likelier (QUAL {_qual(allele):.1f})"
    return f"{words}; {called}.{_instead(found, allele, window)}{_weight_of(allele)}{_spanning(found, allele)}"


def _instead(found: Explanation, allele: AlleleView, window: WindowView) -> str:
    """What the called haplotypes of its window have: the same reads may be explained by it."""
    called = {event for one in window.haplotypes if one.copies for event in one.events} - {allele.event}
    names = [found.names[event] for event in sorted(called)]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f" The haplotypes called in its window have {', '.join(names[:6])}{more}." if names else ""


def _qual(allele: AlleleView) -> float:
    return (allele.record.qual if allele.record is not None else None) or 0.0


def _holds(window: WindowView, genotype: GenotypeView, allele: AlleleView) -> bool:
    if window.isolated:
        return any(genotype.copies)
    return any(allele.event in window.haplotypes[copy].events for copy in genotype.copies)


def _weight_of(allele: AlleleView) -> str:
    """Why reads that show it weigh little, if they do."""
    qualities = [
        r.trusted for r in allele.used if r.trusted >= 0 and allele.event is not None and allele.event[2] == SNP
    ]
    light = []
    if qualities and np.median(qualities) < _LIGHT:
        light.append(f"median base quality {np.median(qualities):.0f}")
    if allele.used and np.median([r.mapq for r in allele.used]) < _LIGHT:
        light.append(f"median MAPQ {np.median([r.mapq for r in allele.used]):.0f}, which caps the base quality")
    return f" Its reads weigh little: {' and '.join(light)}." if light else ""


def verdict(found: Explanation) -> list[str]:
    """The answer in sentences: alleles that were asked for, else those that matter most."""
    chosen = shown_alleles(found)
    if found.asked:
        chosen = [one for one in chosen if one.event in found.asked]
    lines = []
    for allele in chosen:
        fate = fate_of(found, allele)
        lines.append(f"{name_of(allele, found.contig)}: {fate.step.value}. {fate.words}")
    return lines or [_nothing(found)]


def shown_alleles(found: Explanation) -> list[AlleleView]:
    """Alternative alleles worth a line: candidates, those asked for, those of more than stray reads; else a few."""
    others = [one for one in found.alleles if one.event is not None]
    enough = max(2, len(found.reads) // _FEW)
    chosen = [
        one
        for one in others
        if one.candidate >= 0 or one.event in found.asked or len(one.used) + len(one.left_out) >= enough
    ]
    return chosen[:12] or others[:3]


def _nothing(found: Explanation) -> str:
    if not found.reads:
        return "No record overlaps the site: there is nothing to call."
    n_used = sum(not read.why for read in found.reads)
    if n_used == 0:
        left_out = by_reason(tuple(found.reads))
        return f"Not called: each of the {len(found.reads)} records over the site is left out ({left_out})."
    return f"Not called: each of the {n_used} usable reads over the site that has a base there shows the reference."
