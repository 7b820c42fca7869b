# SPDX-License-Identifier: Apache-2.0
"""What is known of a site and of the caller's way through it: plain records, made by `explain.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megabolt.call.known import Event
from megabolt.call.site_reads import SiteRead
from megabolt.formats.vcf import VcfRecord

if TYPE_CHECKING:
    from megabolt.call.engine import CallOptions


@dataclass(frozen=True)
class Activity:
    """What the reads that are used say at the site: counts. clips: soft clips within 30 bases."""

    depth: int
    templates: int
    clips: int
    tract: int
    period: int


@dataclass(frozen=True)
class AlleleView:
    """An allele that somebody shows, wants to know about, or that is a candidate at the site.

    Attributes
    ----------
    event
        None for the reference.
    start, ref, alt
        As a record of its own has them, 0-based.
    used, left_out
        Records that show it.
    counted, depth
        Reads the caller counts for it where it is decided whether it is a candidate, and their depth.
    candidate
        Its number among the candidates, -1 if it is none.
    sources
        Of the candidate: reads, assembly, known.
    window
        Number of its window, -1 for none.
    record
        The record that holds it: as written, or as it would have been; None if there is none.
    written
        Whether that record is among the calls.
    """

    event: Event | None
    start: int
    ref: str
    alt: str
    used: tuple[SiteRead, ...]
    left_out: tuple[SiteRead, ...]
    counted: int = 0
    depth: int = 0
    candidate: int = -1
    sources: tuple[str, ...] = ()
    window: int = -1
    log10_prior: float = 0.0
    record: VcfRecord | None = None
    written: bool = False
    reach: tuple[int, int] = (0, 0)  # contig coordinates over which it could stand
    allele: int = 0  # its number in the record

    @property
    def called(self) -> bool:
        """Whether the genotype of its record holds it."""
        copies = "" if self.record is None else str(self.record.genotype["GT"])
        return str(self.allele) in copies.replace("|", "/").split("/")


@dataclass(frozen=True)
class HaplotypeView:
    """A haplotype that was tried.

    Attributes
    ----------
    events
        Its differences from the reference.
    sources
        Where it comes from: reads (some span the window and show it), assembly, known, combination.
    spanning
        Reads that span the window and show just it.
    combined
        Whether it was combined to genotypes.
    favoured
        Templates that fit it clearly better than each other haplotype.
    log10
        log10 P(all templates | it), relative to the best haplotype.
    copies
        How often the best genotype has it.
    """

    events: tuple[Event, ...]
    sources: tuple[str, ...]
    spanning: int
    combined: bool
    favoured: int
    log10: float
    copies: int


@dataclass(frozen=True)
class GenotypeView:
    """A genotype: numbers of its haplotypes (or alleles, where there are none), likelihood relative to the best one,
    prior, and its share of the posterior."""

    copies: tuple[int, ...]
    log10_likelihood: float
    log10_prior: float
    share: float


@dataclass(frozen=True)
class WindowView:
    """A window over the site, contig coordinates.

    read_start, read_stop: reads are cut to this. candidates: alleles that are explained together.
    decided: whether this chunk's calling reached it. over, listed, scored, templates: reads that touch it, that were
    taken (fewer in very deep places), that have enough bases in it, their templates.
    """

    number: int
    start: int
    stop: int
    read_start: int
    read_stop: int
    candidates: tuple[Event, ...]
    isolated: bool
    decided: bool
    over: int = 0
    listed: int = 0
    scored: int = 0
    templates: int = 0
    haplotypes: tuple[HaplotypeView, ...] = ()
    genotypes: tuple[GenotypeView, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """All that is known of a site. `base`: the reference's; `copies`: of the genome, -1 for a mixture.

    nearest: contig positions of the candidates before and after it. names: of the windows' candidates, as 1436 A>G.
    view_start, view: the reference around the site, text.
    came_from, went_to: starts of records over the site that were moved here from another copy of the sequence, before;
    of those that the file has over the site and that were moved away, after.
    """

    contig: str
    site: int
    base: str
    copies: int
    options: CallOptions
    activity: Activity
    reads: tuple[SiteRead, ...]
    alleles: tuple[AlleleView, ...]
    asked: tuple[Event, ...]
    windows: tuple[WindowView, ...]
    records: tuple[VcfRecord, ...]
    nearest: tuple[int, ...]
    names: Mapping[Event, str]
    view_start: int
    view: str
    came_from: tuple[int, ...] = ()
    went_to: tuple[int, ...] = ()

    @property
    def mixture(self) -> bool:
        """Whether the contig is a mixture of genomes."""
        return self.copies < 0

    def left_out(self) -> Counter[str]:
        """How many records are left out, by reason."""
        return Counter(read.why for read in self.reads if read.why)


def shortened(bases: str) -> str:
    """The bases, or their first ones and how many there are."""
    return bases if len(bases) <= 24 else f"{bases[:12]}..({len(bases)} bases)"
