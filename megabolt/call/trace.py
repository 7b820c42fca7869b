# SPDX-License-Identifier: Apache-2.0
"""What the steps of a chunk's calling leave behind, kept only for somebody who asks.

In: filled by `engine.call_chunk` where a `Trace` is given to it. Next: `explain.py` reads it. The objects are those
that the caller worked with, not copies: what is explained is what was done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from megabolt.call.emit import EmitContext
from megabolt.call.genotype import Genotypes
from megabolt.call.haplotypes import Haplotypes, WindowReads
from megabolt.call.isolated import SnpCalls
from megabolt.call.likelihood import Likelihoods
from megabolt.formats.vcf import VcfRecord

if TYPE_CHECKING:
    from megabolt.call.engine import CallOptions, _Chunk


@dataclass(frozen=True)
class Pileup:
    """Isolated SNPs of one ploidy: row k of `snps` is window which[k]."""

    which: NDArray[np.int64]
    snps: SnpCalls
    context: EmitContext


@dataclass(frozen=True)
class Scored:
    """Windows of one ploidy that went through haplotypes: row k of each table is window which[k]."""

    which: NDArray[np.int64]
    window_reads: WindowReads
    haplotypes: Haplotypes
    likelihoods: Likelihoods
    genotypes: Genotypes
    context: EmitContext


@dataclass
class Trace:
    """A chunk's data, its steps, and the records that it gave, before targets and regions limit them."""

    pileups: list[Pileup] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    records: list[VcfRecord] = field(default_factory=list)
    chunk: _Chunk | None = None
    options: CallOptions | None = None
    context: EmitContext | None = None

    def keep(self, chunk: _Chunk, options: CallOptions, context: EmitContext, records: list[VcfRecord]) -> None:
        """Take what a chunk had and gave; options: as they were used, after changes for mitochondria."""
        self.chunk, self.options, self.context, self.records = chunk, options, context, records
