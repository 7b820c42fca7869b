# SPDX-License-Identifier: Apache-2.0
"""What a user asks of the caller, as plain arguments; `workflow/copies.py` reads the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Contigs that are called as a mixture.
MITO_NAMES = ("chrM", "MT", "chrMT", "M")
SEXES = ("auto", "male", "female")
EMIT = ("variants", "all-sites")


@dataclass(frozen=True)
class CallRequest:
    """Where and what to call.

    Attributes
    ----------
    sex
        auto, male or female.
    par
        BED of the pseudoautosomal regions; None: those of GRCh37 and GRCh38.
    mito_contig
        Contig that is a mixture; None: those of the usual names.
    padding
        Bases around targets that count as targets.
    regions
        chr, chr:start or chr:start-stop: only records that begin there.
    alleles, dbsnp
        VCF of alleles to be written in any case; of names for known variants.
    all_sites
        A record for each position.
    """

    sex: str = "auto"
    par: Path | None = None
    mito_contig: str | None = None
    padding: int = 0
    regions: tuple[str, ...] = ()
    alleles: Path | None = None
    dbsnp: Path | None = None
    all_sites: bool = False


DEFAULT_REQUEST = CallRequest()
