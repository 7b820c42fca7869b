# SPDX-License-Identifier: Apache-2.0
"""Sites and genotypes of a VCF or BCF, and nothing else of it.

In: a file of any caller. Out: `VcfRecord`s with GT only. Next: variants.

`formats.vcf.read_vcf` reads INFO too, which costs three times as much and fails where a caller's INFO breaks
the rules; a comparison has no use for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysam

from megabolt.errors import InputFormatError
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.privacy.consent import Permit

#: Alternative alleles of gVCF blocks: anything else, in the words of GATK and of DeepVariant and bcftools.
REFERENCE_ONLY = ((NON_REF,), ("<*>",))

_HELP = "Check the file with bcftools view."


def read_genotypes(path: Path, permit: Permit, sample: str | None = None) -> Iterator[VcfRecord]:
    """Records with the genotype of one sample, the first by default.

    Raises
    ------
    InputFormatError
        Not a VCF, truncated, without samples, or without this sample.
    """
    permit.record("open-read", path)
    verbosity = pysam.set_verbosity(0)  # htslib's remarks about headers of other callers are not for our user
    try:
        stream = pysam.VariantFile(str(path))
    except (OSError, ValueError) as error:
        raise InputFormatError(path, "", f"not a readable VCF: {error}", _HELP) from error
    finally:
        pysam.set_verbosity(verbosity)
    with stream:
        chosen = _sample_index(path, list(stream.header.samples), sample)
        number = 0
        try:
            for row in stream:
                number += 1  # the one read last, should the next fail
                yield _from_pysam(row, chosen)
        except (OSError, ValueError) as error:
            raise InputFormatError(path, f"record {number + 1}", f"cannot be read: {error}", _HELP) from error


def _sample_index(path: Path, names: list[str], sample: str | None) -> int:
    if not names:
        raise InputFormatError(path, "header", "no sample, so no genotypes", "Name a VCF with genotypes.")
    if sample is None:
        return 0
    if sample not in names:
        raise InputFormatError(path, "header", f"no sample {sample}", f"Samples: {', '.join(names)}.")
    return names.index(sample)


def _from_pysam(row: Any, sample: int) -> VcfRecord:
    alts = tuple(row.alts or ())
    if not alts or alts in REFERENCE_ONLY:  # most records of a gVCF: nothing else of them matters
        return VcfRecord(row.chrom, row.start, row.ref, (), None, ".")
    call = row.samples[sample]
    genotype = {}
    if "GT" in call:
        genotype["GT"] = "/".join("." if one is None else str(one) for one in call["GT"])
    return VcfRecord(
        row.chrom,
        row.start,
        row.ref,
        alts,
        row.qual,
        ";".join(row.filter.keys()) or ".",
        {},
        genotype,
    )
