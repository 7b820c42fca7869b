# SPDX-License-Identifier: Apache-2.0
"""Batches of read pairs from plain strings, for tests and experiments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megabolt.compute.bits import PADDING
from megabolt.formats.fastq import PairBatch


def pair_batch(
    reads1: Sequence[str],
    reads2: Sequence[str] | None,
    *,
    qualities: str | Sequence[tuple[str, str]] = "I",
    names: Sequence[str] | None = None,
    read_group: int = 0,
    first_pair: int = 0,
) -> PairBatch:
    """A `PairBatch` as the FASTQ reader would make it.

    Parameters
    ----------
    reads1, reads2
        Sequences of mate 1 and mate 2; without the latter, of unpaired reads.
    qualities
        One letter for all bases, or the two quality strings of each pair.
    names
        Default: pair0, pair1, …
    """
    texts, tables = [], []
    for mate, reads in enumerate((reads1, reads2) if reads2 is not None else (reads1,)):
        text = bytearray()
        table = np.empty((len(reads), 7), np.int64)
        for i, read in enumerate(reads):
            name = names[i] if names else f"pair{first_pair + i}"
            quality = qualities * len(read) if isinstance(qualities, str) else qualities[i][mate]
            start = len(text)
            text += f"@{name}\n{read}\n+\n{quality}\n".encode()
            sequence = start + len(name) + 2
            table[i] = (start + 1, len(name), sequence, sequence + len(read) + 3, len(read), 0, 0)
        texts.append(np.frombuffer(bytes(text) + bytes(PADDING), np.uint8).copy())
        tables.append(table)
    if reads2 is None:
        texts.append(texts[0])
        tables.append(tables[0].copy())
        tables[1][:, 4] = 0
    return PairBatch(
        n_pairs=len(reads1),
        text=(texts[0], texts[1]),
        fields=(tables[0], tables[1]),
        read_group=read_group,
        first_pair=first_pair,
        paired=reads2 is not None,
    )
