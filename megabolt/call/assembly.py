# SPDX-License-Identifier: Apache-2.0
"""Local assembly where alignments look forced: long events that no read's alignment spells out.

In: `Reads`, `Evidence`, `Candidates`. Out: more `Candidates`, and which of them stand together. Next: `windows.py`.

Signs of such events are clips that pile up, several mismatches side by side (dearer gaps are aligned as those), and
any candidate inside a long tandem repeat of the reference, where reads hide a whole unit more or less.

A de Bruijn graph of all reads around the place, clipped parts included, for several word lengths; each path
that leaves the reference and returns to it is aligned to the reference and taken apart into events. Where the
graph is built depends on genome coordinates only, never on the chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.evidence import DELETION, INSERTION, SNP, Evidence
from megabolt.call.reads import Reads
from megabolt.compute.backend import Backend
from megabolt.compute.banded_affine import MAX_BAND, MAX_QUERY, AffineJobs, AffineScores, align
from megabolt.compute.bits import PADDING, load_u64
from megabolt.compute.jit import kernel

U = np.uint64
#: Clips that make a pile-up: so many within CLIP_REACH bases, and one in ten of the depth.
MIN_CLIPS = 4
CLIP_REACH = 31
#: Mismatching alleles in one cell that may be a gap aligned as mismatches.
MIN_SNPS = 3
#: Tandem repeats of the reference that hide events: two stretches of so many bases alike, so far apart.
REPEAT_WORD = 20
REPEAT_SHIFT = (8, 120)
#: Sites are the cells of this grid; FLANK bases on both sides are assembled with them.
CELL = 64
FLANK = 110
#: Word lengths: short ones find their way through low depth, long ones through repeats.
WORD_LENGTHS = (25, 45, 65, 85, 105)
#: Reads of one site at most: enough for any allele, and a bound for amplicons.
MAX_READS = 1000
#: Paths kept of one graph, and steps taken to find them.
MAX_PATHS = 12
MAX_STEPS = 4000
#: Longest path: what the aligner takes.
MAX_PATH = MAX_QUERY
#: Bases below this quality end a word.
MIN_QUALITY = 8
#: Events of one path; more is a misassembly or another locus.
MAX_EVENTS = 12
_SCORES = AffineScores(match=5, mismatch=8, gap_open=13, gap_extend=1, clip=1000)

Event = tuple[int, int, int, bytes]


@kernel("int64(uint64[::1], int64[::1], int64, uint8[::1], uint64, int64, int64)")
def _slot(keys: Any, places: Any, n_slots: Any, bases: Any, h: Any, at: Any, k: Any) -> Any:
    """Slot of the word bases[at:at + k] with hash h in the open-addressing table; empty if places[slot] < 0.

    bases: with PADDING behind.
    """
    mask = U(n_slots - 1)
    slot = (h ^ (h >> U(31))) & mask
    while places[slot] >= 0:
        if keys[slot] == h:
            differs = U(0)
            for x in range(0, k, 8):
                differs = load_u64(bases, places[slot] + x) ^ load_u64(bases, at + x)
                if k - x < 8:
                    differs &= (U(1) << U(8 * (k - x))) - U(1)
                if differs != U(0):
                    break
            if differs == U(0):
                break
        slot = (slot + U(1)) & mask
    return np.int64(slot)


@kernel(
    "int64(uint8[::1], int64[::1], int64, int64, int64, uint64[::1], int64[::1], int32[:, ::1], int32[:, ::1],"
    " int32[:, ::1], uint8[:, ::1], int64[::1], float64[::1])"
)
def _assemble(
    bases: Any,
    offsets: Any,
    k: Any,
    min_weight: Any,
    n_slots: Any,
    keys: Any,
    places: Any,
    weight: Any,
    after: Any,
    before: Any,
    paths: Any,
    lengths: Any,
    cost: Any,
) -> Any:
    """Paths from the first to the last word of the reference, likeliest first.

    bases, offsets: sequences of codes (4 and more: no base), PADDING behind, the reference first. keys, places: hash
    table of n_slots (a power of two); weight, after, before: int32 [n_slots, 4], reads over each edge and its ends.
    paths: uint8 [rows, width]; lengths, cost: one per row. Returns the number of paths in the first rows, -1 if the
    reference repeats a word.
    """
    power = U(1)
    for _ in range(k - 1):
        power *= U(1000003)
    for s in range(n_slots):
        places[s] = -1
    source, sink = np.int64(-1), np.int64(-1)
    for i in range(len(offsets) - 1):
        h = U(0)
        run = 0
        last = np.int64(-1)
        for x in range(offsets[i], offsets[i + 1]):
            b = bases[x]
            if b > 3:
                run = 0
                h = U(0)
                last = np.int64(-1)
                continue
            if run == k:
                h -= U(bases[x - k] + np.uint8(1)) * power
            else:
                run += 1
            h = h * U(1000003) + U(b + np.uint8(1))
            if run < k:
                continue
            at = x - k + 1
            slot = _slot(keys, places, n_slots, bases, h, at, k)
            if places[slot] < 0:
                keys[slot] = h
                places[slot] = at
                for c in range(4):
                    weight[slot, c], after[slot, c], before[slot, c] = 0, -1, -1
            elif i == 0:
                return -1
            if i == 0:
                if source < 0:
                    source = slot
                sink = slot
            if last >= 0:
                # an edge of the reference is always open
                weight[last, b] += min_weight if i == 0 else 1
                after[last, b] = slot
                before[slot, bases[at - 1]] = last
            last = slot
    if source < 0:
        return 0
    # words from which the sink can be reached over open edges; others are dead ends
    alive = np.zeros(n_slots, np.bool_)
    stack = np.empty(n_slots, np.int64)
    stack[0] = sink
    alive[sink] = True
    n_stack = 1
    while n_stack > 0:
        n_stack -= 1
        v = stack[n_stack]
        b = bases[places[v] + k - 1]
        for c in range(4):
            u = before[v, c]
            if u >= 0 and not alive[u] and weight[u, b] >= min_weight:
                alive[u] = True
                stack[n_stack] = u
                n_stack += 1
    if not alive[source]:
        return 0
    # best first: rows [0, done) are finished paths, rows [done, n) wait
    rows, width = paths.shape
    for x in range(k):
        paths[0, x] = bases[places[source] + x]
    lengths[0] = k
    cost[0] = 0.0
    node = np.empty(rows, np.int64)
    node[0] = source
    n, done, steps = 1, 0, 0
    while done < n and done < 12 and steps < 4000:
        best = done
        for r in range(done + 1, n):
            if cost[r] < cost[best]:
                best = r
        u = node[best]
        while steps < 4000:
            steps += 1
            if u == sink:
                break
            total, ways, way = np.int64(0), 0, 0
            for b in range(4):
                if weight[u, b] >= min_weight and alive[after[u, b]]:
                    total += weight[u, b]
                    ways += 1
                    way = b
            if ways != 1:
                break
            if lengths[best] == width:
                ways = 0
                break
            paths[best, lengths[best]] = way
            lengths[best] += 1
            u = np.int64(after[u, way])
        node[best] = u
        if u == sink:
            # swap to the finished rows
            for x in range(max(lengths[best], lengths[done])):
                paths[best, x], paths[done, x] = paths[done, x], paths[best, x]
            lengths[best], lengths[done] = lengths[done], lengths[best]
            cost[best], cost[done] = cost[done], cost[best]
            node[best], node[done] = node[done], node[best]
            done += 1
            continue
        # branch: copies of the row, each with one of the ways; the row itself is given up
        length = lengths[best]
        branched = False
        for b in range(4):
            if length < width and weight[u, b] >= min_weight and alive[after[u, b]] and n < rows:
                for x in range(length):
                    paths[n, x] = paths[best, x]
                paths[n, length] = b
                lengths[n] = length + 1
                cost[n] = cost[best] - np.log10(weight[u, b] / total)
                node[n] = after[u, b]
                n += 1
                branched = True
        n -= 1
        for x in range(lengths[n]):
            paths[best, x] = paths[n, x]
        lengths[best], cost[best], node[best] = lengths[n], cost[n], node[n]
        if not branched and n == done:
            break
    return done


def _cells(places: NDArray[np.int64], origin: int) -> NDArray[np.int64]:
    return (places + origin) // CELL


def clip_cells(evidence: Evidence, origin: int, n_ref: int) -> NDArray[np.int64]:
    """Cells of the genome grid in which clips pile up, ascending."""
    clips, depth = evidence.clips[:n_ref], evidence.depth[:n_ref]
    total = np.concatenate([[0], np.cumsum(clips)])
    place = np.flatnonzero(clips)
    reach = CLIP_REACH // 2
    around = total[np.minimum(n_ref, place + reach + 1)] - total[np.maximum(0, place - reach)]
    return np.unique(_cells(place[(around >= MIN_CLIPS) & (10 * around >= depth[place])], origin))


@kernel("void(uint8[::1], int64[::1], int64, int64, int64, int64, boolean[::1])")
def _hides(ref: Any, starts: Any, width: Any, low: Any, high: Any, word: Any, out: Any) -> None:
    """Whether ref[start:start + width] has two stretches of `word` bases alike, low to high - 1 bases apart."""
    for c in range(len(starts)):
        first = starts[c]
        out[c] = False
        for shift in range(low, high):
            run = 0
            for x in range(first, first + width - shift):
                run = run + 1 if ref[U(x)] == ref[U(x + shift)] else 0
                if run >= word:
                    out[c] = True
                    break
            if out[c]:
                break


def assembly_sites(
    evidence: Evidence, candidates: Candidates, ref: NDArray[np.uint8], n_ref: int, origin: int
) -> list[int]:
    """Local starts of the grid cells that are assembled, ascending."""
    snps = _cells(candidates.start[candidates.kind == SNP], origin)
    crowded = np.unique(snps)[np.unique(snps, return_counts=True)[1] >= MIN_SNPS]
    # a cell with a mismatch or a clip, and a long repeat of the reference around it
    unsure = np.unique(np.concatenate([snps, _cells(np.flatnonzero(evidence.clips[:n_ref] > 0), origin)]))
    starts = unsure * CELL - origin - FLANK // 2
    inside = (starts >= 0) & (starts + CELL + FLANK <= n_ref)
    unsure, starts = unsure[inside], np.ascontiguousarray(starts[inside])
    hidden = np.empty(len(unsure), np.bool_)
    _hides(ref, starts, CELL + FLANK, *REPEAT_SHIFT, REPEAT_WORD, hidden)
    cells = np.unique(np.concatenate([clip_cells(evidence, origin, n_ref), crowded, unsure[hidden]]))
    return [int(cell) * CELL - origin for cell in cells]


def _sequences(reads: Reads, ref: NDArray[np.uint8], start: int, stop: int) -> list[NDArray[np.uint8]]:
    """The reference stretch and the reads over it; poor bases are no code of a base."""
    first = int(np.searchsorted(reads.start, start - reads.max_span))
    last = int(np.searchsorted(reads.start, stop))
    rows = first + np.flatnonzero(reads.stop[first:last] > start)[:MAX_READS]
    if len(rows) == 0:
        return [ref[start:stop]]
    low, high = int(reads.base_offset[rows[0]]), int(reads.base_offset[rows[-1] + 1])
    poor = (reads.qualities[low:high] < MIN_QUALITY).view(np.uint8)
    masked: NDArray[np.uint8] = reads.bases[low:high] | (poor << np.uint8(2))
    begin, end = (reads.base_offset[rows] - low).tolist(), (reads.base_offset[rows + 1] - low).tolist()
    return [ref[start:stop], *(masked[a:b] for a, b in zip(begin, end))]


def _paths(sequences: list[NDArray[np.uint8]]) -> list[bytes]:
    """Sequences other than the reference that the graphs spell from its first to its last word."""
    separator = np.full(1, 4, np.uint8)
    parts = [part for one in sequences for part in (one, separator)]
    bases = np.ascontiguousarray(np.concatenate([*parts, np.full(PADDING, 4, np.uint8)]), dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(one) + 1 for one in sequences])]).astype(np.int64)
    n_slots = 1 << int(offsets[-1]).bit_length()  # reads share most words: far less than half is used
    keys, places = np.empty(n_slots, np.uint64), np.empty(n_slots, np.int64)
    weight, after, before = (np.empty((n_slots, 4), np.int32) for _ in range(3))
    rows = 96
    paths, lengths, cost = np.empty((rows, MAX_PATH), np.uint8), np.zeros(rows, np.int64), np.zeros(rows)
    # about one read in twenty over each base
    min_weight = max(2, len(sequences) // 80)
    found: dict[bytes, None] = {}
    for k in WORD_LENGTHS:
        n = _assemble(bases, offsets, k, min_weight, n_slots, keys, places, weight, after, before, paths, lengths, cost)
        for r in range(n):
            found[paths[r, : lengths[r]].tobytes()] = None
    found.pop(sequences[0].tobytes(), None)
    return list(found)


def _events(path: bytes, cigar: list[int], start: int, target_start: int, ref: NDArray[np.uint8]) -> list[Event] | None:
    """Left-aligned events (start, stop, kind, bases) of an aligned path; None if it has too many."""
    p, q = start + target_start, 0
    events: list[Event] = []
    for word in cigar:
        op, n = word & 15, word >> 4
        if op == 0:
            for x in range(n):
                if path[q + x] != ref[p + x]:
                    events.append((p + x, p + x + 1, SNP, path[q + x : q + x + 1]))
            p, q = p + n, q + n
        elif op == 1:
            at, inserted = p, path[q : q + n]
            while at > 1 and ref[at - 1] == inserted[-1]:
                inserted = inserted[-1:] + inserted[:-1]
                at -= 1
            events.append((at, at, INSERTION, inserted))
            q += n
        else:
            at = p
            while at > 1 and ref[at - 1] == ref[at + n - 1]:
                at -= 1
            events.append((at, at + n, DELETION, b""))
            p += n
    return sorted(events) if len(events) <= MAX_EVENTS else None


def assemble_sites(
    evidence: Evidence,
    candidates: Candidates,
    reads: Reads,
    ref: NDArray[np.uint8],
    n_ref: int,
    origin: int,
    *,
    backend: Backend,
) -> list[list[Event]]:
    """Events of each assembled haplotype of `assembly_sites`, in local coordinates."""
    found: list[tuple[bytes, int, int]] = []
    for site in assembly_sites(evidence, candidates, ref, n_ref, origin):
        start, stop = site - FLANK, site + CELL + FLANK
        if start < 1 or stop > n_ref or (ref[start:stop] > 3).any():
            continue
        sequences = _sequences(reads, ref, start, stop)
        for path in _paths(sequences) if len(sequences) > 4 else []:
            if abs(len(path) - (stop - start)) < 2 * MAX_BAND - 60:
                found.append((path, start, stop))
    if not found:
        return []
    queries = [np.frombuffer(path, np.uint8) for path, _, _ in found]
    targets = [ref[a:b] for _, a, b in found]
    result = align(
        AffineJobs(
            query=np.concatenate(queries),
            query_offsets=np.cumsum([0, *map(len, queries)]).astype(np.int64),
            target=np.concatenate(targets),
            target_offsets=np.cumsum([0, *map(len, targets)]).astype(np.int64),
            diagonal=np.array([(len(t) - len(q)) // 2 for q, t in zip(queries, targets)], np.int32),
            band=MAX_BAND,
        ),
        _SCORES,
        backend=backend,
    )
    haplotypes = []
    for j, (path, start, _) in enumerate(found):
        n = int(result.n_cigar[j])
        if n < 1 or result.query_start[j] != 0 or result.query_stop[j] != len(path):
            continue
        events = _events(path, result.cigar[j, :n].tolist(), start, int(result.target_start[j]), ref)
        if events:
            haplotypes.append(events)
    return haplotypes


def add_assembled(candidates: Candidates, haplotypes: list[list[Event]]) -> tuple[Candidates, list[NDArray[np.int64]]]:
    """Candidates with the events of assembled haplotypes among them, and the candidates of each haplotype.

    A new candidate has no reads of its own: the pair-HMM says whether any read wants it.
    """
    if not haplotypes:
        return candidates, []
    known: dict[Event, int] = {}
    for i in range(len(candidates)):
        key = (int(candidates.start[i]), int(candidates.stop[i]), int(candidates.kind[i]))
        known[(*key, candidates.bases(i).tobytes())] = i
    new = sorted({event for one in haplotypes for event in one} - known.keys())
    everything = sorted([*known, *new])
    number = {event: i for i, event in enumerate(everything)}
    old = np.array([known.get(event, -1) for event in everything], np.int64)
    counts = np.append(np.diff(candidates.read_offset), 0)[old]
    read_offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # supporting reads stay in the order of the candidates, which new ones only interleave
    n_bases = [len(event[3]) for event in everything]
    merged = Candidates(
        start=np.array([event[0] for event in everything], np.int64),
        stop=np.array([event[1] for event in everything], np.int64),
        kind=np.array([event[2] for event in everything], np.uint8),
        length=np.array([max(event[1] - event[0], len(event[3])) for event in everything], np.int64),
        sequence_offset=np.concatenate([[0], np.cumsum(n_bases)]).astype(np.int64),
        sequence=np.frombuffer(b"".join(event[3] for event in everything) + b"\0", np.uint8).copy(),
        read_offset=read_offset,
        read=candidates.read,
    )
    members = [np.array(sorted(number[event] for event in one), np.int64) for one in haplotypes]
    return merged, members
