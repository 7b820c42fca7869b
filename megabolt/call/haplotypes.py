# SPDX-License-Identifier: Apache-2.0
"""Candidate haplotypes of each window: which candidates stand together on one copy of the genome.

In: `Windows`, `Candidates`, `Reads`. Out: `WindowReads`, `Haplotypes`. Next: `likelihood.py`.

A haplotype is a set of compatible candidates, kept as the bits of a word. Three sources, in this order, until
the cap is reached: patterns that spanning reads show; a beam over the linkage of neighbouring candidates, for
windows longer than a read; all combinations of up to 4 candidates, or one
candidate more or less than the likeliest haplotypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.reads import Reads
from megabolt.call.windows import Windows
from megabolt.compute.jit import kernel

U = np.uint64
#: Haplotypes scored in one window at most.
MAX_HAPLOTYPES = 32
#: Longest haplotype the pair-HMM takes.
MAX_HAPLOTYPE_LENGTH = 1024
#: A step of the beam needs this share of the reads that link two neighbouring candidates.
MIN_LINK_FRACTION = 0.03
#: Patterns of spanning reads that are looked at, the most frequent ones.
MAX_PATTERNS = 64


@dataclass(frozen=True)
class WindowReads:
    """Reads of each window: window w has read[offset[w]:offset[w + 1]] (int32, ascending)."""

    offset: NDArray[np.int64]
    read: NDArray[np.int32]


@dataclass(frozen=True)
class Haplotypes:
    """Haplotypes of each window; the first one of a window is the reference.

    offset: int64 [n_windows + 1] into mask (uint64: bit k = the window's k-th candidate) and into
    sequence_offset (int64), which points into sequence (uint8 codes).
    """

    offset: NDArray[np.int64]
    mask: NDArray[np.uint64]
    sequence_offset: NDArray[np.int64]
    sequence: NDArray[np.uint8]


@kernel("uint64(uint64[::1], int64)")
def _nth_smallest(values: Any, n: Any) -> Any:
    """The value with exactly n smaller or equal ones before it in order (n from 0), by bisection on its bits."""
    answer = U(0)
    for bit in range(63, -1, -1):
        trial = answer | (U(1) << U(bit))
        below = 0
        for v in values:
            if v < trial:
                below += 1
        if below <= n:
            answer = trial
    return answer


@kernel("void(float64[::1], int64, int64[::1])")
def _order_descending(values: NDArray[np.float64], n: int, order: NDArray[np.int64]) -> None:
    """Stable insertion sort: order[:n] lists values[:n] from the greatest on."""
    for i in range(n):
        j = i
        while j > 0 and values[order[j - 1]] < values[i]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@kernel(
    "int64(int64[::1], int64[::1], uint64[::1], int64, int64[::1], int64[::1], int64[::1], int64, int64[::1],"
    " int32[::1])"
)
def _window_reads(
    starts: Any,
    stops: Any,
    name_hash: Any,
    max_span: Any,
    which: Any,
    window_start: Any,
    window_stop: Any,
    max_reads: Any,
    offset: Any,
    out: Any,
) -> Any:
    """List the reads of each window in `which`; returns how many there are, which may exceed the room in `out`.

    Beyond `max_reads` the templates with the smallest name hashes are kept: the same ones in every chunk.
    """
    n = 0
    for k in range(len(which)):
        ws, we = window_start[which[k]], window_stop[which[k]]
        offset[k] = n
        first = np.searchsorted(starts, ws - 3 - max_span)
        last = np.searchsorted(starts, we + 3)
        count = 0
        for i in range(first, last):
            if stops[i] > ws - 3:
                count += 1
        limit = ~U(0)
        if count > max_reads:
            hashes = np.empty(count, np.uint64)
            count = 0
            for i in range(first, last):
                if stops[i] > ws - 3:
                    hashes[count] = name_hash[i]
                    count += 1
            limit = _nth_smallest(hashes, max_reads)
        for i in range(first, last):
            if stops[i] > ws - 3 and (limit == ~U(0) or name_hash[i] < limit):
                if n < len(out):
                    out[n] = i
                n += 1
    offset[len(which)] = n
    return n


def reads_of_windows(reads: Reads, windows: Windows, which: NDArray[np.int64], *, max_reads: int) -> WindowReads:
    """Reads that touch each window of `which` (window numbers), at most about `max_reads` each."""
    offset = np.zeros(len(which) + 1, np.int64)
    room = 64 * len(which) + 1024
    while True:
        out = np.empty(room, np.int32)
        n = _window_reads(
            reads.start, reads.stop, reads.name_hash, reads.max_span, which, windows.start, windows.stop,
            max_reads, offset, out,
        )  # fmt: skip
        if n <= room:
            return WindowReads(offset, out[:n].copy())
        room = int(n)


@kernel("boolean(uint64, int64[::1], int64[::1], uint8[::1], int64[::1])")
def _compatible(
    mask: Any,
    members: Any,
    starts: Any,
    kinds: Any,
    stops: Any,
) -> bool:
    """No two candidates of the set replace the same base, no two indels touch."""
    last = np.int64(-1)
    last_is_indel = False
    for k in range(len(members)):
        if (U(mask) >> U(k)) & U(1):
            c = members[k]
            indel = kinds[c] != 0
            if starts[c] < last or (last_is_indel and indel and starts[c] <= last):
                return False
            last = stops[c]
            last_is_indel = indel
    return True


@kernel(
    "int64(uint64, int64[::1], int64[::1], uint8[::1], int64[::1], int64[::1], uint8[::1], uint8[::1], int64, int64,"
    " uint64[::1], int64[::1], uint8[::1], int64, int64, int64)"
)
def _add(
    mask: Any,
    members: Any,
    starts: Any,
    kinds: Any,
    stops: Any,
    candidate_offset: Any,
    candidate_sequence: Any,
    ref: Any,
    hap_start: Any,
    hap_stop: Any,
    out_mask: Any,
    out_offset: Any,
    out_sequence: Any,
    first: Any,
    n: Any,
    max_length: Any,
) -> Any:
    """Append the haplotype of `mask` to those of this window (first..n) unless it is impossible or known."""
    for h in range(first, n):
        if out_mask[h] == U(mask):
            return n
    if not _compatible(U(mask), members, starts, kinds, stops):
        return n
    begin = out_offset[n]
    at = begin
    p = np.int64(hap_start)
    for k in range(len(members)):
        if (U(mask) >> U(k)) & U(1):
            c = members[k]
            if starts[c] < p or stops[c] > hap_stop:
                return n
            length = starts[c] - p + candidate_offset[c + 1] - candidate_offset[c]
            if at + length - begin > max_length:
                return n
            for x in range(p, starts[c]):
                out_sequence[at] = ref[x]
                at += 1
            for x in range(candidate_offset[c], candidate_offset[c + 1]):
                out_sequence[at] = candidate_sequence[x]
                at += 1
            p = stops[c]
    if at + hap_stop - p - begin > max_length:
        return n
    for x in range(p, hap_stop):
        out_sequence[at] = ref[x]
        at += 1
    # the same sequence may come from another set of candidates: the first one stays
    for h in range(first, n):
        if out_offset[h + 1] - out_offset[h] == at - begin:
            same = True
            for x in range(at - begin):
                if out_sequence[out_offset[h] + x] != out_sequence[begin + x]:
                    same = False
                    break
            if same:
                return n
    out_mask[n] = U(mask)
    out_offset[n + 1] = at
    return n + 1


@kernel("int64(int8[:, ::1], int64[::1], int64[::1], uint8[::1], int64[::1], int64, float64, uint64[::1])")
def _beam(
    state: Any,
    members: Any,
    starts: Any,
    kinds: Any,
    stops: Any,
    width: Any,
    min_fraction: Any,
    result: Any,
) -> Any:
    """Likely chains of candidates, best first, by the linkage that reads show between neighbours.

    state: int8 [n_reads, n_candidates], 1 = shows it, 0 = spans the place without it, -1 = says nothing.
    """
    n_reads, n = state.shape
    masks = np.zeros(width, np.uint64)
    scores = np.zeros(width, np.float64)
    new_masks = np.zeros(2 * width, np.uint64)
    new_scores = np.zeros(2 * width, np.float64)
    order = np.empty(2 * width, np.int64)
    size = 1
    links = np.zeros((2, 2), np.float64)
    for j in range(n):
        links[0, 0] = links[0, 1] = links[1, 0] = links[1, 1] = 0.0
        if j > 0:
            for r in range(n_reads):
                if state[r, j - 1] >= 0 and state[r, j] >= 0:
                    links[state[r, j - 1], state[r, j]] += 1.0
        total = links[0, 0] + links[0, 1] + links[1, 0] + links[1, 1]
        grown = 0
        for h in range(size):
            before = np.int64((masks[h] >> U(j - 1)) & U(1)) if j > 0 else 0
            for v in range(2):
                seen = links[before, v]
                if j > 0 and total >= 4 and seen < max(1.0, min_fraction * total):
                    continue
                mask = masks[h] | (U(v) << U(j))
                if v == 1 and not _compatible(mask, members, starts, kinds, stops):
                    continue
                new_masks[grown] = mask
                new_scores[grown] = scores[h]
                if j > 0:
                    new_scores[grown] += np.log((seen + 0.5) / (links[before, 0] + links[before, 1] + 1.0))
                grown += 1
        _order_descending(new_scores, grown, order)
        size = min(grown, width)
        for h in range(size):
            masks[h] = new_masks[order[h]]
            scores[h] = new_scores[order[h]]
    for h in range(size):
        result[h] = masks[h]
    return size


@kernel(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], uint8[::1],"
    " int64[::1], uint8[::1], int64[::1], int32[::1], uint8[::1], int64[::1], int64[::1], int64[::1], int32[::1],"
    " int64, int64, int64[::1], int64[::1], uint64[::1], uint64[::1], int64[::1], uint8[::1])"
)
def _enumerate(
    which: Any,
    window_start: Any,
    window_stop: Any,
    hap_start: Any,
    hap_stop: Any,
    member_offset: Any,
    member: Any,
    starts: Any,
    kinds: Any,
    candidate_offset: Any,
    candidate_sequence: Any,
    support_offset: Any,
    support: Any,
    ref: Any,
    stops: Any,
    read_start: Any,
    read_stop: Any,
    window_read: Any,
    cap: Any,
    max_length: Any,
    read_offset: Any,
    extra_offset: Any,
    extra: Any,
    out_mask: Any,
    out_offset: Any,
    out_sequence: Any,
) -> None:
    """Haplotypes of the windows `which`; on return read_offset is unchanged and out_mask[-1] holds the total.

    out_offset[h] delimits sequences; the number of each window's haplotypes is written to which[k] (reused).
    """
    n = 0
    out_offset[0] = 0
    beam = np.empty(cap, np.uint64)
    proposal = np.empty(1 + 2 * MAX_PATTERNS + cap + 64, np.uint64)
    limit = np.empty(len(proposal), np.int64)
    for k in range(len(which)):
        w = which[k]
        members = member[member_offset[w] : member_offset[w + 1]]
        ne = len(members)
        ids = window_read[read_offset[k] : read_offset[k + 1]]
        first = n
        unknown = hap_stop[w] - hap_start[w] > max_length
        for x in range(max(hap_start[w], window_start[w]), min(hap_stop[w], window_stop[w])):
            unknown = unknown or ref[x] > 3
        if unknown or len(ids) == 0:
            which[k] = 0
            continue
        state = np.empty((len(ids), ne), np.int8)
        for j in range(ne):
            c = members[j]
            for r in range(len(ids)):
                i = ids[r]
                state[r, j] = 0 if read_start[i] < starts[c] and read_stop[i] > stops[c] else -1
            s0, s1 = support_offset[c], support_offset[c + 1]
            for r in range(len(ids)):
                # both lists ascend
                while s0 < s1 and support[s0] < ids[r]:
                    s0 += 1
                if s0 < s1 and support[s0] == ids[r]:
                    state[r, j] = 1
        proposal[0], limit[0] = U(0), cap
        n_proposals = 1
        # patterns of the reads that span the whole window
        pattern = np.empty(len(ids), np.uint64)
        count = np.zeros(len(ids), np.float64)
        order = np.empty(len(ids), np.int64)
        n_patterns = 0
        for r in range(len(ids)):
            i = ids[r]
            if read_start[i] <= window_start[w] and read_stop[i] >= window_stop[w]:
                mask = U(0)
                for j in range(ne):
                    if state[r, j] == 1:
                        mask |= U(1) << U(j)
                found = False
                for x in range(n_patterns):
                    if pattern[x] == mask:
                        count[x] += 1
                        found = True
                        break
                if not found:
                    pattern[n_patterns] = mask
                    count[n_patterns] = 1
                    n_patterns += 1
        _order_descending(count, n_patterns, order)
        for x in range(min(n_patterns, MAX_PATTERNS)):
            if count[order[x]] >= 2 or n_patterns < 6:
                proposal[n_proposals], limit[n_proposals] = pattern[order[x]], cap // 2
                n_proposals += 1
        for x in range(extra_offset[k], min(extra_offset[k + 1], extra_offset[k] + MAX_PATTERNS)):
            proposal[n_proposals], limit[n_proposals] = extra[x], cap
            n_proposals += 1
        if ne >= 2:
            size = _beam(state, members, starts, kinds, stops, cap, 0.03, beam)
            for x in range(size):
                proposal[n_proposals], limit[n_proposals] = beam[x], cap
                n_proposals += 1
        n_more = (1 << ne) - 1 if ne <= 4 else ne + 1
        for x in range(n_more):
            if ne <= 4:
                mask = U(x + 1)
            elif x < ne:
                mask = U(1) << U(x)
            else:
                mask = (U(1) << U(ne)) - U(1)
            proposal[n_proposals], limit[n_proposals] = mask, cap
            n_proposals += 1
        for x in range(n_proposals):
            if n - first < limit[x]:
                n = _add(
                    proposal[x], members, starts, kinds, stops, candidate_offset, candidate_sequence, ref,
                    hap_start[w], hap_stop[w], out_mask, out_offset, out_sequence, first, n, max_length,
                )  # fmt: skip
        if ne > 4:
            # one candidate more or less than the likeliest haplotypes: what no read or path spans together
            n_likely = min(n - first, 5)
            for x in range(n_likely * ne):
                if n - first < cap:
                    n = _add(
                        out_mask[first + x // ne] ^ (U(1) << U(x % ne)), members, starts, kinds, stops,
                        candidate_offset, candidate_sequence, ref, hap_start[w], hap_stop[w], out_mask, out_offset,
                        out_sequence, first, n, max_length,
                    )  # fmt: skip
        which[k] = n - first


def _project(
    windows: Windows, which: NDArray[np.int64], together: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """What each assembled haplotype is inside each window: offsets by window, masks."""
    place = {
        int(c): (k, bit)
        for k, w in enumerate(which.tolist())
        for bit, c in enumerate(windows.candidate[windows.candidate_offset[w] : windows.candidate_offset[w + 1]])
    } if together else {}  # fmt: skip
    masks: dict[int, dict[int, None]] = {}
    for one in together:
        inside: dict[int, int] = {}
        for c in one.tolist():
            if c in place:
                k, bit = place[c]
                inside[k] = inside.get(k, 0) | 1 << bit
        for k, mask in inside.items():
            masks.setdefault(k, {})[mask] = None
    counts = [len(masks.get(k, ())) for k in range(len(which))]
    flat = [mask for k in sorted(masks) for mask in masks[k]]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.array(flat, np.uint64)


def enumerate_haplotypes(
    windows: Windows,
    which: NDArray[np.int64],
    candidates: Candidates,
    reads: Reads,
    window_reads: WindowReads,
    ref: NDArray[np.uint8],
    together: Sequence[NDArray[np.int64]] = (),
) -> Haplotypes:
    """Haplotypes of the windows numbered `which`; windows over N, without reads or too long get none.

    Parameters
    ----------
    together
        Candidates (ascending numbers) that assembled haplotypes carry.
    """
    n = len(which)
    extra_offset, extra = _project(windows, which, together)
    inserted = np.diff(candidates.sequence_offset)
    per_window = np.add.reduceat(
        np.append(inserted[windows.candidate], 0), windows.candidate_offset[:-1]
    ) if len(windows) else np.zeros(0, np.int64)  # fmt: skip
    room = int(((windows.hap_stop - windows.hap_start + per_window)[which] * (MAX_HAPLOTYPES + 1)).sum()) + 1
    counts = which.copy()
    mask = np.empty(n * MAX_HAPLOTYPES + 1, np.uint64)
    sequence_offset = np.zeros(n * MAX_HAPLOTYPES + 2, np.int64)
    sequence = np.empty(room, np.uint8)
    _enumerate(
        counts, windows.start, windows.stop, windows.hap_start, windows.hap_stop, windows.candidate_offset,
        windows.candidate, candidates.start, candidates.kind, candidates.sequence_offset, candidates.sequence,
        candidates.read_offset, candidates.read, ref, candidates.stop, reads.start, reads.stop, window_reads.read,
        MAX_HAPLOTYPES, MAX_HAPLOTYPE_LENGTH, window_reads.offset, extra_offset, extra, mask, sequence_offset,
        sequence,
    )  # fmt: skip
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offset[-1])
    return Haplotypes(
        offset=offset,
        mask=mask[:total].copy(),
        sequence_offset=sequence_offset[: total + 1].copy(),
        sequence=sequence[: sequence_offset[total]].copy(),
    )
