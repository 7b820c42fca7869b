# SPDX-License-Identifier: Apache-2.0
"""From events of single reads to candidate alleles.

In: `Evidence`, `Reads`. Out: `Candidates`, sorted. Next: `windows.py`.

Insertions of one place and length are pooled before they are counted: sequencing errors inside a long insertion
would otherwise split it into alleles of one read each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.evidence import DELETION, INSERTION, SNP, Evidence
from megabolt.call.reads import Reads
from megabolt.compute.jit import kernel

U = np.uint64
#: Reads that make a candidate; one does for an indel of at least so many bases: at low depth the longer allele of a
#: repeat has no more, and chance seldom makes it.
MIN_READS, LONG_INDEL = 2, 2


def reads_needed(kind: int, length: int) -> int:
    """How many reads make a candidate of an event; length: inserted or deleted bases."""
    return 1 if kind != SNP and length >= LONG_INDEL else MIN_READS


@dataclass(frozen=True)
class Candidates:
    """Candidate alleles in local coordinates, sorted by (start, stop, kind, inserted sequence or base).

    start, stop: int64 [n]: the reference bases that the allele replaces; an insertion has start == stop.
    kind: uint8 [n] (SNP, INSERTION, DELETION); length: int64 [n], inserted or deleted bases, 1 for a SNP.
    sequence_offset: int64 [n + 1] into sequence (uint8 codes): the bases put in place, none for a deletion.
    read_offset: int64 [n + 1] into read (int32): the reads that show the allele, ascending.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    kind: NDArray[np.uint8]
    length: NDArray[np.int64]
    sequence_offset: NDArray[np.int64]
    sequence: NDArray[np.uint8]
    read_offset: NDArray[np.int64]
    read: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.start)

    def bases(self, i: int) -> NDArray[np.uint8]:
        """Codes of the bases that candidate `i` puts in place."""
        return self.sequence[self.sequence_offset[i] : self.sequence_offset[i + 1]]


@kernel("int64(int64[:, ::1], uint8[::1], int32[::1], float64, int64[::1], int64[:, ::1], uint8[::1], int64[::1])")
def _group_indels(
    indels: Any,
    bases: Any,
    depth: Any,
    min_fraction: Any,
    member: Any,
    groups: Any,
    consensus: Any,
    used: Any,
) -> Any:
    """Group sorted indel events into alleles.

    indels: sorted by position, kind, length, read. member: int64 [k], group of each event, -1 for none.
    groups: int64 [k, 5] (start, stop, kind, length, place of its bases in `consensus`). used: bases written.
    """
    n_groups = 0
    next_base = 0
    i = 0
    n = len(indels)
    while i < n:
        j = i + 1
        while j < n and indels[j, 0] == indels[i, 0] and indels[j, 1] == indels[i, 1] and indels[j, 2] == indels[i, 2]:
            j += 1
        p, kind, l = indels[i, 0], indels[i, 1], indels[i, 2]
        d = max(1, np.int64(depth[p]))
        for x in range(i, j):
            member[x] = -1
        need = 1 if l >= LONG_INDEL else MIN_READS
        if j - i >= need and j - i >= min_fraction * d:
            if kind == 2:
                for x in range(i, j):
                    member[x] = n_groups
                groups[n_groups, 0], groups[n_groups, 1], groups[n_groups, 2] = p, p + l, kind
                groups[n_groups, 3], groups[n_groups, 4] = l, next_base
                n_groups += 1
            else:
                # (1) rotated copies of the inserted bases, so that all stand at the same left-aligned place
                m = j - i
                copy = np.empty((m, l), np.uint8)
                for x in range(m):
                    q, r = indels[i + x, 4], indels[i + x, 5]
                    for y in range(l):
                        copy[x, y] = bases[q + (y - r) % l]
                left = m
                while left > 0:
                    # (2) the commonest copy that is still free, by mismatches allowed below
                    best, best_count = -1, 0
                    for x in range(min(m, 256)):
                        if member[i + x] != -1:
                            continue
                        count = 0
                        for z in range(min(m, 256)):
                            if member[i + z] == -1:
                                same = True
                                for y in range(l):
                                    if copy[x, y] != copy[z, y]:
                                        same = False
                                        break
                                if same:
                                    count += 1
                        if count > best_count:
                            best, best_count = x, count
                    if best < 0:
                        break
                    # (3) its pool: copies within length / 8 mismatches
                    size = 0
                    for x in range(m):
                        if member[i + x] != -1:
                            continue
                        differ = 0
                        for y in range(l):
                            if copy[x, y] != copy[best, y]:
                                differ += 1
                        if differ <= l // 8:
                            member[i + x] = -3
                            size += 1
                    left -= size
                    keep = size >= need and size >= min_fraction * d
                    if keep:
                        # (4) consensus: the majority of each place
                        for y in range(l):
                            votes = np.zeros(5, np.int64)
                            for x in range(m):
                                if member[i + x] == -3:
                                    votes[copy[x, y]] += 1
                            consensus[next_base + y] = np.uint8(np.argmax(votes))
                            if consensus[next_base + y] > 3:
                                keep = False
                    for x in range(m):
                        if member[i + x] == -3:
                            member[i + x] = n_groups if keep else -2
                    if keep:
                        groups[n_groups, 0], groups[n_groups, 1], groups[n_groups, 2] = p, p, kind
                        groups[n_groups, 3], groups[n_groups, 4] = l, next_base
                        next_base += l
                        n_groups += 1
        i = j
    used[0] = next_base
    return n_groups


@kernel("int64(int32[::1], int32[::1], float64, int32[::1])")
def _snp_sites(
    snp_count: NDArray[np.int32], depth: NDArray[np.int32], min_fraction: float, sites: NDArray[np.int32]
) -> int:
    """Indices 4 * position + base with at least two reads and `min_fraction` of the depth."""
    n = 0
    for p in range(len(depth)):
        for b in range(4):
            count = snp_count[U(4 * p + b)]
            if count >= 2 and count >= min_fraction * depth[U(p)]:
                sites[U(n)] = 4 * p + b
                n += 1
    return n


def _snp_candidates(evidence: Evidence, min_fraction: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sites (4 * position + base) and the rows of (site number, read) that support them, by site then read."""
    sites = np.empty(len(evidence.snp_count), np.int32)
    sites = sites[: _snp_sites(evidence.snp_count, evidence.depth, min_fraction, sites)]
    number = np.full(len(evidence.snp_count), -1, np.int32)
    number[sites] = np.arange(len(sites), dtype=np.int32)
    which = number[evidence.mismatches[:, 1]]
    kept = np.flatnonzero(which >= 0)
    support = np.column_stack([which[kept], evidence.mismatches[kept, 0]])
    return sites, support[np.argsort(support[:, 0], kind="stable")]


def find_candidates(
    evidence: Evidence, reads: Reads, *, min_snp_fraction: float, min_indel_fraction: float
) -> Candidates:
    """Alleles seen by at least two reads (indels of two and more bases: by one) and a minimal fraction of the depth.

    Parameters
    ----------
    min_snp_fraction, min_indel_fraction
        Of the reads with an aligned base at the position.
    """
    sites, snp_support = _snp_candidates(evidence, min_snp_fraction)
    order = np.lexsort((evidence.indels[:, 3], evidence.indels[:, 2], evidence.indels[:, 1], evidence.indels[:, 0]))
    indels = np.ascontiguousarray(evidence.indels[order])
    member = np.empty(len(indels), np.int64)
    groups = np.empty((len(indels) + 1, 5), np.int64)
    consensus = np.empty(int(indels[indels[:, 1] == INSERTION, 2].sum()) + 1, np.uint8)
    used = np.zeros(1, np.int64)
    n_groups = int(
        _group_indels(indels, reads.bases, evidence.depth, min_indel_fraction, member, groups, consensus, used)
    )
    groups = groups[:n_groups]
    n_snps = len(sites)

    # SNP bases stand in front of the consensus bases, so that both kinds are slices of one array
    source = np.concatenate([(sites & 3).astype(np.uint8), consensus[: used[0]]])
    start = np.concatenate([(sites >> 2).astype(np.int64), groups[:, 0]])
    stop = np.concatenate([(sites >> 2).astype(np.int64) + 1, groups[:, 1]])
    kind = np.concatenate([np.full(n_snps, SNP, np.uint8), groups[:, 2].astype(np.uint8)])
    length = np.concatenate([np.ones(n_snps, np.int64), groups[:, 3]])
    n_bases = np.where(kind == DELETION, 0, length)
    at = np.concatenate([np.arange(n_snps, dtype=np.int64), groups[:, 4] + n_snps])
    texts = [source[a : a + n].tobytes() for a, n in zip(at, n_bases)]
    rank = np.array(sorted(range(len(start)), key=lambda i: (start[i], stop[i], kind[i], texts[i])), np.int64)

    kept = np.flatnonzero(member >= 0)
    owner = np.concatenate([snp_support[:, 0].astype(np.int64), member[kept] + n_snps])
    supporter = np.concatenate([snp_support[:, 1].astype(np.int64), indels[kept, 3]])
    new_number = np.empty(len(rank), np.int64)
    new_number[rank] = np.arange(len(rank))
    owner = new_number[owner]
    by_owner = np.lexsort((supporter, owner))
    read_offset = np.searchsorted(owner[by_owner], np.arange(len(rank) + 1))
    return Candidates(
        start=start[rank],
        stop=stop[rank],
        kind=kind[rank],
        length=length[rank],
        sequence_offset=np.concatenate([[0], np.cumsum(n_bases[rank])]).astype(np.int64),
        sequence=np.frombuffer(b"".join(texts[i] for i in rank) + b"\0", np.uint8).copy(),
        read_offset=read_offset.astype(np.int64),
        read=supporter[by_owner].astype(np.int32),
    )
