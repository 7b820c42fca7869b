# SPDX-License-Identifier: Apache-2.0
"""A genotyped site as a line of a multi-sample VCF, and the file's header.

In: `Site`, `SiteData`, `Called`. Out: bytes. The samples' columns are written by a kernel: 200 samples at 5,000 sites
are a million of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import callee, kernel
from megabolt.formats.fasta import Contig
from megabolt.joint.alleles import Site
from megabolt.joint.genotype import Called
from megabolt.joint.likelihood import SiteData
from megabolt.joint.trio import Refined

_INFO = (
    ("AC", "A", "Integer", "Copies of each alternative allele in the called genotypes"),
    ("AF", "A", "Float", "Share of each alternative allele among the called alleles"),
    ("AN", "1", "Integer", "Alleles in called genotypes"),
    ("DP", "1", "Integer", "Depth, summed over samples"),
    ("MQ", "1", "Float", "Root mean square mapping quality of the reads of samples with a record here"),
    ("QD", "1", "Float", "QUAL by depth of the samples that carry an alternative allele"),
)
_FAMILY_INFO = (
    ("hiConfDeNovo", ".", "String", "Samples with a new mutation, sure: GQ of 20 in child and parents"),
    ("loConfDeNovo", ".", "String", "Samples with a possible new mutation: GQ of 10 in the child"),
)
_FORMAT = (
    ("GT", "1", "String", "Genotype"),
    ("AD", "R", "Integer", "Templates that support each allele"),
    ("DP", "1", "Integer", "Depth"),
    ("GQ", "1", "Integer", "Phred-scaled probability that the genotype is wrong"),
    ("PL", "G", "Integer", "Phred-scaled genotype likelihoods, the best is 0"),
)
_FAMILY_FORMAT = (
    ("OGT", "1", "String", "Genotype before the family was looked at"),
    ("OGQ", "1", "Integer", "GQ before the family was looked at"),
)


def header(
    contigs: Sequence[Contig], samples: Sequence[str], *, reference_name: str, source: str, extra: Sequence[str],
    families: bool,
) -> str:  # fmt: skip
    """The header of the file, up to and with the line #CHROM."""
    lines = ["##fileformat=VCFv4.2", f"##source={source}", f"##reference={reference_name}", *extra]
    lines += [
        '##ALT=<ID=*,Description="A deletion that begins before this site spans it">',
        '##FILTER=<ID=PASS,Description="All filters passed">',
        '##FILTER=<ID=LowQual,Description="QUAL is below the calling threshold">',
    ]
    for section, table in (
        ("INFO", _INFO + (_FAMILY_INFO if families else ())),
        ("FORMAT", _FORMAT + (_FAMILY_FORMAT if families else ())),
    ):
        lines += [f'##{section}=<ID={a},Number={b},Type={c},Description="{d}">' for a, b, c, d in table]
    lines += [f"##contig=<ID={one.name},length={one.length},md5={one.md5}>" for one in contigs]
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]
    return "\n".join([*lines, "\t".join(columns)]) + "\n"


def site_line(
    contig: str,
    site: Site,
    data: SiteData,
    called: Called,
    refined: Refined | None,
    samples: Sequence[str],
    low_qual: float,
) -> bytes:
    """The line of a site, with its end of line."""
    final = refined if refined is not None else called
    counts = np.bincount(final.gt[final.gt >= 0], minlength=1 + len(site.alts)).tolist()
    total = sum(counts)
    carriers = (final.gt > 0).any(axis=1)
    depth = int(np.maximum(data.depth, 0).sum())
    info = [
        "AC=" + ",".join(map(str, counts[1:])),
        "AF=" + ",".join(f"{n / max(1, total):.4g}" for n in counts[1:]),
        f"AN={total}",
        f"DP={depth}",
    ]
    reads = sum(one.variant.mapq_reads for one in site.components)
    if reads:
        info.append(f"MQ={math.sqrt(sum(one.variant.mapq_squares for one in site.components) / reads):.2f}")
    carried = int(np.maximum(data.depth[carriers], 0).sum())
    if carried:
        info.append(f"QD={called.qual / carried:.2f}")
    if refined is not None:
        for name, found in (("hiConfDeNovo", refined.sure), ("loConfDeNovo", refined.likely)):
            if found:
                info.append(f"{name}=" + ",".join(samples[k] for k in found))
    ids = sorted({one.variant.id for one in site.components} - {".", ""})
    head = "\t".join(
        (
            contig,
            str(site.start + 1),
            ";".join(ids) or ".",
            site.ref,
            ",".join(site.alts),
            f"{called.qual:.2f}",
            "PASS" if called.qual >= low_qual else "LowQual",
            ";".join(info),
            "GT:AD:DP:GQ:PL" + (":OGT:OGQ" if refined is not None else ""),
        )
    )
    return head.encode() + _cells(data, final.gt, final.gq, called if refined is not None else None) + b"\n"


def _cells(data: SiteData, gt: NDArray[np.int32], gq: NDArray[np.int32], original: Called | None) -> bytes:
    n_samples, n_alleles = data.ad.shape
    # a tab; numbers of at most ten digits, each with what parts it from the next
    out = np.empty(n_samples * (64 + 11 * (n_alleles + data.phred.shape[1] + 8)), np.uint8)
    old_gt, old_gq = (original.gt, original.gq) if original is not None else (gt[:0], gq[:0])
    size = write_cells(data.phred, data.ploidy, data.depth, data.ad, gt, gq, old_gt, old_gq, out)
    return out[:size].tobytes()


@callee
def _put(out: Any, at: Any, value: Any) -> Any:
    """Write a whole number, or '.' if it is negative."""
    if value < 0:
        out[at] = 46
        return at + 1
    size, rest = 1, value // 10
    while rest > 0:
        size += 1
        rest //= 10
    for k in range(size):
        out[at + size - 1 - k] = 48 + value % 10
        value //= 10
    return at + size


@callee
def _put_genotype(out: Any, at: Any, first: Any, second: Any, copies: Any) -> Any:
    at = _put(out, at, np.int64(first))
    if copies != 1:
        out[at] = 47
        at = _put(out, at + 1, np.int64(second))
    return at


@kernel(
    "int64(float64[:, ::1], int32[::1], int32[::1], int32[:, ::1], int32[:, ::1], int32[::1], int32[:, ::1],"
    " int32[::1], uint8[::1])"
)
def write_cells(
    phred: Any, ploidy: Any, depth: Any, ad: Any, gt: Any, gq: Any, old_gt: Any, old_gq: Any, out: Any
) -> Any:
    """Write the column of each sample, a tab before it; returns the bytes written. old_gt: empty without families."""
    at, n_alleles = 0, ad.shape[1]
    for s in range(len(ploidy)):
        out[at] = 9
        at = _put_genotype(out, at + 1, gt[s, 0], gt[s, 1], ploidy[s])
        out[at] = 58
        at += 1
        if ad[s, 0] < 0:
            out[at] = 46
            at += 1
        else:
            for a in range(n_alleles):
                if a > 0:
                    out[at] = 44
                    at += 1
                at = _put(out, at, max(0, np.int64(ad[s, a])))
        out[at] = 58
        at = _put(out, at + 1, np.int64(depth[s]))
        out[at] = 58
        at = _put(out, at + 1, np.int64(gq[s]))
        out[at] = 58
        at += 1
        if ploidy[s] == 0:
            out[at] = 46
            at += 1
        else:
            for g in range(n_alleles if ploidy[s] == 1 else n_alleles * (n_alleles + 1) // 2):
                if g > 0:
                    out[at] = 44
                    at += 1
                at = _put(out, at, np.int64(min(99999.0, phred[s, g]) + 0.5))
        if len(old_gt) > 0:
            out[at] = 58
            at = _put_genotype(out, at + 1, old_gt[s, 0], old_gt[s, 1], ploidy[s])
            out[at] = 58
            at = _put(out, at + 1, np.int64(old_gq[s]))
    return at
