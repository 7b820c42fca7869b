# SPDX-License-Identifier: Apache-2.0
"""Starts of reads that are nothing but adapter, as CollectAlignmentSummaryMetrics looks for them.

In: the adapter sequences that Illumina publishes. Out: all their 16-mers and reverse complements with at most one N,
packed for a comparison by one XOR. Next: `metrics.reads`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Bases that are compared.
ADAPTER_BASES = 16
#: Single end, paired end, indexed: 5' and 3' (Illumina, "Adapter Sequences").
_ADAPTERS = (
    "AATGATACGGCGACCACCGAGATCTACACTCTTTCCCTACACGACGCTCTTCCGATCT",
    "AGATCGGAAGAGCTCGTATGCCGTCTTCTGCTTG",
    "AGATCGGAAGAGCGGTTCAGCAGGAATGCCGAGACCGATCTCGTATGCCGTCTTCTGCTTG",
    "AGATCGGAAGAGCACACGTCTGAACTCCAGTCACNNNNNNNNATCTCGTATGCCGTCTTCTGCTTG",
)
_NIBBLES = {"A": 1, "C": 2, "G": 4, "T": 8, "N": 15}
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def _words() -> NDArray[np.uint64]:
    found: set[str] = set()
    for adapter in _ADAPTERS:
        for i in range(len(adapter) - ADAPTER_BASES + 1):
            kmer = adapter[i : i + ADAPTER_BASES]
            if kmer.count("N") <= 1:
                found.update((kmer, kmer.translate(_COMPLEMENT)[::-1]))
    packed = [sum(_NIBBLES[base] << (4 * i) for i, base in enumerate(kmer)) for kmer in sorted(found)]
    return np.array(packed, np.uint64)


#: uint64 [n]: base i of a word is in bits 4 i .. 4 i + 3, as BAM's nibble.
ADAPTER_WORDS = _words()
