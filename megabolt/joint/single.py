# SPDX-License-Identifier: Apache-2.0
"""The variant records of one sample's gVCF, one per base.

In: records of the caller, in file order. Out: the same, where records that exclude each other on a copy are joined: two
deletions at one base become one record, and what lies under a deletion of the other copy gets the allele `*`.

GenotypeGVCFs takes one record of a sample per site, whichever comes first: what another record says is lost to it.
Joint calling of megabolt adds records up itself and gives the same genotypes either way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from megabolt.formats.gvcf import GvcfVariant
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.joint.alleles import Component, Site, make_sites
from megabolt.joint.likelihood import component_data

#: Phasing is of the records as they were.
_PHASING = ("PGT", "PID", "PS")


class OneRecordPerPlace:
    """Call it with records in file order, in any parts, then finish it; it holds the records of one base back."""

    def __init__(self) -> None:
        self._contig = ""
        self._reaching: list[VcfRecord] = []
        self._held: list[VcfRecord] = []

    def __call__(self, records: list[VcfRecord]) -> list[VcfRecord]:
        """The records that are ready: all but those at the last base."""
        records = [*self._held, *records]
        last = len(records) - 1
        while last > 0 and _same_place(records[last - 1], records[last]):
            last -= 1
        self._held = records[max(0, last) :]
        return self._joined(records[: max(0, last)])

    def finish(self) -> list[VcfRecord]:
        """The rest."""
        records, self._held = self._held, []
        return self._joined(records)

    def _joined(self, records: list[VcfRecord]) -> list[VcfRecord]:
        joined: list[VcfRecord] = []
        at = 0
        while at < len(records):
            first, stop = records[at], at + 1
            if first.is_reference_block:
                joined.append(first)
            else:
                while stop < len(records) and _same_place(first, records[stop]):
                    stop += 1
                joined += self._place(records[at:stop])
            at = stop
        return joined

    def _place(self, group: list[VcfRecord]) -> list[VcfRecord]:
        here = group[0]
        if here.contig != self._contig:
            self._contig, self._reaching = here.contig, []
        self._reaching = [one for one in self._reaching if one.stop > here.start]
        involved = [*self._reaching, *group]
        self._reaching += [one for one in group if len(one.ref) > 1]
        if len(involved) == 1 or not all(_is_plain(one) for one in involved):
            return group
        variants = [_variant(one) for one in involved]
        record_of = {id(variant): record for variant, record in zip(variants, involved)}
        sites = make_sites([(0, one) for one in variants], here.start, here.start + 1)
        result = [_joined(site, record_of, group) for site in sites]
        if any(one is None for one in result):
            return group
        return [record for records in result if records is not None for record in records]


def _same_place(a: VcfRecord, b: VcfRecord) -> bool:
    return not b.is_reference_block and a.contig == b.contig and a.start == b.start


def _is_plain(record: VcfRecord) -> bool:
    """Diploid, with likelihoods, and <NON_REF> last."""
    genotype = record.genotype
    n = len(record.alts) + 1
    return (
        record.alts[-1:] == (NON_REF,)
        and len(genotype.get("PL", ())) == n * (n + 1) // 2
        and len(genotype.get("AD", ())) == n
        and len(_copies(record)) == 2
    )


def _copies(record: VcfRecord) -> list[int]:
    words = str(record.genotype.get("GT", "")).replace("|", "/").split("/")
    return [int(one) for one in words] if all(one.isdigit() for one in words) else []


def _variant(record: VcfRecord) -> GvcfVariant:
    n = len(record.alts)
    pl, ad = (np.asarray(record.genotype[name], np.int32) for name in ("PL", "AD"))
    depth = int(record.genotype.get("DP", -1))
    return GvcfVariant(
        record.start, record.ref, record.alts[:-1], tuple(range(n)), n, n + 1, 2, depth, pl, ad, 0.0, 0, record.id
    )


def _joined(site: Site, record_of: dict[int, VcfRecord], group: list[VcfRecord]) -> list[VcfRecord] | None:
    """The record of a site; None if the copies of its records are more than two."""
    own = [record_of[id(one.variant)] for one in site.components]
    here = [one for one in own if one in group]
    if len(site.components) == 1:
        return here
    copies = []
    for component, record in zip(site.components, own):
        for allele in _copies(record):
            numbers = [a for a in range(1, len(component.masks)) if component.masks[a] >> allele & 1]
            copies += numbers if allele else []
    if len(copies) > 2 or not here:
        return None
    # the unseen allele is unseen by one record; the others take it for the reference
    components = [
        Component(0, one.variant, (*one.masks, 1 << one.variant.unseen if k == 0 else one.masks[0]))
        for k, one in enumerate(site.components)
    ]
    n_alleles = 2 + len(site.alts)
    phred, ad = component_data(components, n_alleles)
    called = sorted([0] * (2 - len(copies)) + copies)
    main = max(here, key=lambda one: one.qual or 0.0)
    genotype: dict[str, Any] = {k: v for k, v in main.genotype.items() if k not in _PHASING}
    genotype |= {
        "GT": f"{called[0]}/{called[1]}",
        "AD": [max(0, n) for n in ad],
        "GQ": min(int(one.genotype["GQ"]) for one in own),
        "PL": [round(one) for one in phred],
    }
    info: dict[str, Any] = dict(main.info)
    counts = [called.count(a) for a in range(1, n_alleles)]
    info |= {"AC": counts, "AF": [n / 2 for n in counts]}
    return [replace(main, ref=site.ref, alts=(*site.alts, NON_REF), info=info, genotype=genotype)]
