# SPDX-License-Identifier: Apache-2.0
"""Two copies of a sequence, in one frame: where they differ, and what each template shows there.

In: `Torn`, records, reference. Out: `Outline`, `Tract`. Next: `haplotypes.py`.

A is the copy further left, B the other; all is told in positions and on the strand of A. Which base of B stands for
which of A is read off the templates themselves: each is aligned to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.alignments import MAX_CIGAR
from megabolt.compute.bits import U, load_i32, load_u16
from megabolt.compute.jit import kernel
from megabolt.formats.bases import CODE_OF_NIBBLE
from megabolt.formats.fasta import Reference
from megabolt.paralogs.templates import (
    OF_READ,
    OFFSET,
    START,
    STOP,
    Records,
    Torn,
    covered,
    pair_up,
    put_cigars,
)

#: Templates that make a tract, at least: fewer cannot tell a converted copy from chance.
MIN_TEMPLATES = 8
#: Templates of one tract are no further apart than this, and their places differ by as much (bases).
_GAP, _SHIFT = 300, 100
#: A tract is cut when it is longer (bases of A), and left alone if it has more templates: it is a table of both.
_LONGEST, _MOST = 8192, 8000
#: Share of templates with further places, of those of a tract, that makes it a matter of more than two copies.
_MAX_CROWDED = 0.1
#: A third base at a site: templates that show it with at least this quality, at least so many.
_SEEN_QUALITY, _SEEN = 15, 3
#: No base seen.
NOTHING = 5
#: What `Tract.kind` says of a template: it fits both copies; it surely lies at A, at B.
TORN, AT_A, AT_B = 0, 1, 2


@dataclass(frozen=True)
class Tract:
    """Sites of a tract and its templates; only those that show something at a site.

    alleles: uint8 [n_sites, 3], codes of A's reference, of B's on the strand of A, and of a further base (255: none).
    base: uint8 [n_templates, n_sites], NOTHING where the template shows none; quality: uint8, Phred.
    kind: int8 [n_templates]; torn: int64 [n_templates], number in `Torn`, -1 unless kind is TORN.
    at_a: bool [n_templates], whether the aligner put it at A.
    """

    alleles: NDArray[np.uint8]
    base: NDArray[np.uint8]
    quality: NDArray[np.uint8]
    kind: NDArray[np.int8]
    torn: NDArray[np.int64]
    at_a: NDArray[np.bool_]


@dataclass(frozen=True)
class _Frame:
    """Bases [low, low + len(map)) of the contig are copy A, as far as `map` (int64, -1: none) names those of B.

    inverse: int64, for each base from low_b on the index in `map`, -1: none. turned: B is on the other strand.
    """

    low: int
    map: NDArray[np.int64]
    low_b: int
    inverse: NDArray[np.int64]
    turned: bool


@dataclass(frozen=True)
class Outline:
    """Templates (`rows`, int64, numbers in `Torn`) of a tract, before its bases are looked at.

    own_is_a: bool, whether the aligner put each at A. turned: B is on the other strand of A. a, b: the copies' spans,
    first base and the one behind the last.
    """

    rows: NDArray[np.int64]
    own_is_a: NDArray[np.bool_]
    turned: bool
    a: tuple[int, int]
    b: tuple[int, int]

    @property
    def spans(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of templates that have to do with it, at both copies."""
        return (self.a[0] - _GAP, self.a[1] + _GAP), (self.b[0] - _GAP, self.b[1] + _GAP)


def outline_tracts(torn: Torn) -> list[Outline]:
    """The tracts of a stretch that have templates enough, from left to right."""
    if len(torn.record) < MIN_TEMPLATES:
        return []
    own_is_a = torn.span[:, 0, 0] <= torn.span[:, 1, 0]
    a = np.where(own_is_a[:, None], torn.span[:, 0], torn.span[:, 1])
    b = np.where(own_is_a[:, None], torn.span[:, 1], torn.span[:, 0])
    turned = torn.reverse[:, 0, 0] != torn.reverse[:, 1, 0]
    # the same for all templates of two copies without gaps between them
    shift = np.where(turned, a[:, 0] + b[:, 1], b[:, 0] - a[:, 0])
    found = []
    for rows in _chains(a, shift, turned):
        own_span, other_span = ((int(one[rows, 0].min()), int(one[rows, 1].max())) for one in (a, b))
        if own_span[1] > other_span[0]:
            continue  # a tandem: the copies overlap
        spans, crowd = np.concatenate([a[rows], b[rows]]), torn.crowded
        n_crowded = int(((crowd[:, :1] < spans[:, 1]) & (crowd[:, 1:] > spans[:, 0])).any(axis=1).sum())
        if n_crowded <= _MAX_CROWDED * len(rows):
            found.append(Outline(rows, own_is_a[rows], bool(turned[rows[0]]), own_span, other_span))
    return found


def _chains(a: NDArray[np.int64], shift: NDArray[np.int64], turned: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Rows of templates that lie side by side at both places."""
    open_: list[tuple[list[int], int, int]] = []  # rows, shift, stop
    done: list[list[int]] = []
    for i in np.argsort(a[:, 0], kind="stable").tolist():
        start, stop = a[i].tolist()
        still = []
        joined = False
        for rows, its_shift, its_stop in open_:
            if start > its_stop + _GAP:
                done.append(rows)
                continue
            fits = not joined and bool(turned[i]) == bool(turned[rows[0]]) and abs(int(shift[i]) - its_shift) <= _SHIFT
            if fits and stop - int(a[rows[0], 0]) <= _LONGEST:
                rows.append(i)
                its_shift, its_stop, joined = int(shift[i]), max(its_stop, stop), True
            still.append((rows, its_shift, its_stop))
        if not joined:
            still.append(([i], int(shift[i]), stop))
        open_ = still
    done += [rows for rows, _, _ in open_]
    chains = [np.array(rows, np.int64) for rows in done if len(rows) >= MIN_TEMPLATES]
    return sorted(chains, key=lambda rows: int(a[rows[0], 0]))


def read_tract(
    outline: Outline, torn: Torn, unsure: Records, sure: Records, reference: Reference, contig: int
) -> Tract | None:
    """What the templates of a tract show; None if the copies do not differ, or lie too deep.

    Parameters
    ----------
    unsure
        The records of `torn`.
    sure
        Records near the tract that have no rival place.
    """
    rows, turned = outline.rows, outline.turned
    (low, high), (low_b, high_b) = outline.a, outline.b
    place = np.where(outline.own_is_a, 0, 1)  # which of a template's places is A
    frame = _frame_of(outline, place, torn)
    sure_a = _sure_templates(sure, low, high)
    sure_b = _sure_templates(sure, low_b, high_b)
    if len(rows) + len(sure_a) + len(sure_b) > _MOST:
        return None
    n_torn, n = len(rows), len(rows) + len(sure_a) + len(sure_b)
    base = np.full((n, high - low), NOTHING, np.uint8)
    quality = np.zeros((n, high - low), np.uint8)
    # the record's own strand is that of its own place; at the other one it may have to be turned over
    at_a = np.arange(n_torn), place
    turn = np.repeat(np.where(place == 0, False, turned), 2)
    _observe(
        unsure.data, torn.record[rows].ravel(), np.repeat(np.arange(n_torn), 2), torn.start[rows][at_a].ravel(),
        torn.cigar[rows][at_a].reshape(-1, MAX_CIGAR), torn.n_cigar[rows][at_a].ravel(), turn, False,
        np.arange(high - low), low, CODE_OF_NIBBLE, base, quality,
    )  # fmt: skip
    first = n_torn
    for pairs, begin, mapping, complement in (
        (sure_a, low, np.arange(high - low), False),
        (sure_b, low_b, frame.inverse, turned),
    ):
        facts = sure.facts[pairs.ravel()]
        cigar, n_cigar = np.zeros((len(facts), MAX_CIGAR), np.uint32), np.zeros(len(facts), np.int32)
        put_cigars(sure.data, facts[:, OFFSET].copy(), cigar, n_cigar)
        _observe(
            sure.data, facts[:, OFFSET].copy(), first + np.repeat(np.arange(len(pairs)), 2), facts[:, START].copy(),
            cigar, n_cigar, np.zeros(len(facts), np.bool_), complement, mapping, begin, CODE_OF_NIBBLE, base, quality,
        )  # fmt: skip
        first += len(pairs)
    sites, alleles = _sites(frame, base, quality, reference, contig)
    if len(sites) == 0:
        return None
    base, quality = base[:, sites], quality[:, sites]
    kind = np.repeat(np.array([TORN, AT_A, AT_B], np.int8), [n_torn, len(sure_a), len(sure_b)])
    number = np.concatenate([rows, np.full(n - n_torn, -1, np.int64)])
    put_at_a = np.concatenate([place == 0, kind[n_torn:] == AT_A])
    told = (base != NOTHING).any(axis=1)
    return Tract(
        alleles, np.ascontiguousarray(base[told]), np.ascontiguousarray(quality[told]), kind[told], number[told],
        put_at_a[told],
    )  # fmt: skip


def _frame_of(outline: Outline, place: NDArray[np.int64], torn: Torn) -> _Frame:
    rows, span_a, span_b = outline.rows, outline.a, outline.b
    mapping = np.full(span_a[1] - span_a[0], -1, np.int64)
    n = np.arange(len(rows))
    start, cigar, n_cigar = torn.start[rows], torn.cigar[rows], torn.n_cigar[rows]
    length = covered(cigar, n_cigar, OF_READ)[:, 0].ravel()
    _map_bases(
        start[n, place].ravel(), cigar[n, place].reshape(-1, MAX_CIGAR), n_cigar[n, place].ravel(),
        start[n, 1 - place].ravel(), cigar[n, 1 - place].reshape(-1, MAX_CIGAR), n_cigar[n, 1 - place].ravel(),
        length, outline.turned, span_a[0], mapping,
    )  # fmt: skip
    inverse = np.full(span_b[1] - span_b[0], -1, np.int64)
    known = np.flatnonzero(mapping >= 0)
    inverse[mapping[known] - span_b[0]] = known
    return _Frame(span_a[0], mapping, span_b[0], inverse, outline.turned)


@kernel(
    "void(int64[::1], uint32[:, ::1], int32[::1], int64[::1], uint32[:, ::1], int32[::1], int64[::1], boolean, int64,"
    " int64[::1])"
)
def _map_bases(
    start_a: Any,
    cigar_a: Any,
    n_cigar_a: Any,
    start_b: Any,
    cigar_b: Any,
    n_cigar_b: Any,
    length: Any,
    turned: Any,
    low: Any,
    mapping: Any,
) -> None:
    """For each base of A the one of B that most reads align to the same base of theirs (majority vote)."""
    votes = np.zeros(len(mapping), np.int64)
    place = np.empty(512, np.int64)
    for i in range(len(start_a)):
        place[: length[i]] = -1
        p: Any = start_a[i]
        q: Any = np.int64(0)
        for c in range(n_cigar_a[i]):
            op, l = np.int64(cigar_a[i, c] & np.uint32(15)), np.int64(cigar_a[i, c] >> np.uint32(4))
            if op == 0 or op == 7 or op == 8:
                for x in range(l):
                    place[q + x] = p + x - low
            if (0x18D >> op) & 1:
                p += l
            if (0x193 >> op) & 1:
                q += l
        p, q = start_b[i], np.int64(0)
        for c in range(n_cigar_b[i]):
            op, l = np.int64(cigar_b[i, c] & np.uint32(15)), np.int64(cigar_b[i, c] >> np.uint32(4))
            if op == 0 or op == 7 or op == 8:
                for x in range(l):
                    own = place[length[i] - 1 - q - x] if turned else place[q + x]
                    if own < 0:
                        continue
                    if votes[own] == 0:
                        mapping[own] = p + x
                    votes[own] += 1 if mapping[own] == p + x else -1
            if (0x18D >> op) & 1:
                p += l
            if (0x193 >> op) & 1:
                q += l


def _sure_templates(sure: Records, low: int, high: int) -> NDArray[np.int64]:
    """Rows of both records of templates that lie near [low, high)."""
    near = (sure.facts[:, STOP] > low - _GAP) & (sure.facts[:, START] < high + _GAP)
    return pair_up(sure, np.flatnonzero(near))


@kernel(
    "void(uint8[::1], int64[::1], int64[::1], int64[::1], uint32[:, ::1], int32[::1], boolean[::1], boolean,"
    " int64[::1], int64, uint8[::1], uint8[:, ::1], uint8[:, ::1])"
)
def _observe(
    data: Any,
    record: Any,
    template: Any,
    start: Any,
    cigar: Any,
    n_cigar: Any,
    turn: Any,
    complement: Any,
    mapping: Any,
    low: Any,
    code_of_nibble: Any,
    base: Any,
    quality: Any,
) -> None:
    """Enter what reads show: the base aligned to low + k stands in column mapping[k].

    turn: the record's read is to be turned over for this alignment. complement: so are the bases for the table.
    Where mates disagree there is nothing.
    """
    for i in range(len(record)):
        o, row = record[i], template[i]
        length = np.int64(load_i32(data, o + 20))
        bases = o + 36 + np.int64(data[U(o + 12)]) + 4 * np.int64(load_u16(data, o + 16))
        qualities = bases + ((length + 1) >> 1)
        p: Any = start[i]
        q: Any = np.int64(0)
        for c in range(n_cigar[i]):
            op, l = np.int64(cigar[i, c] & np.uint32(15)), np.int64(cigar[i, c] >> np.uint32(4))
            if op == 0 or op == 7 or op == 8:
                for x in range(max(0, low - p), min(l, low + len(mapping) - p)):
                    column = mapping[p + x - low]
                    if column < 0:
                        continue
                    at = length - 1 - q - x if turn[i] else q + x
                    byte = data[U(bases + (at >> 1))]
                    code = code_of_nibble[byte & np.uint8(15) if at & 1 else byte >> np.uint8(4)]
                    if code > 3:
                        continue
                    if turn[i] != complement:
                        code = np.uint8(3) - code
                    seen = base[row, column]
                    if seen == NOTHING:
                        base[row, column], quality[row, column] = code, data[U(qualities + at)]
                    elif seen == code:
                        quality[row, column] = max(quality[row, column], data[U(qualities + at)])
                    else:
                        quality[row, column] = 0
            if (0x18D >> op) & 1:
                p += l
            if (0x193 >> op) & 1:
                q += l


def _sites(
    frame: _Frame, base: NDArray[np.uint8], quality: NDArray[np.uint8], reference: Reference, contig: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Columns where the copies differ or templates show a third base, and their alleles (see `Tract`)."""
    width = len(frame.map)
    of_a = reference.fetch(contig, frame.low, frame.low + width)
    all_b = reference.fetch(contig, frame.low_b, frame.low_b + len(frame.inverse))
    of_b = all_b[np.maximum(frame.map - frame.low_b, 0)]
    if frame.turned:
        of_b = np.where(of_b < 4, 3 - of_b, of_b)
    known = (frame.map >= 0) & (of_a < 4) & (of_b < 4)
    seen = np.zeros((4, width), np.int64)
    for code in range(4):
        seen[code] = ((base == code) & (quality >= _SEEN_QUALITY)).sum(axis=0)
    columns = np.arange(width)
    seen[np.minimum(of_a, 3), columns] = seen[np.minimum(of_b, 3), columns] = 0
    further, n_further = seen.argmax(axis=0), seen.max(axis=0)
    sites = np.flatnonzero(known & ((of_a != of_b) | (n_further >= _SEEN)))
    third = np.where(n_further >= _SEEN, further, 255)
    return sites, np.stack([of_a, of_b, third], axis=1)[sites].astype(np.uint8)
