# SPDX-License-Identifier: Apache-2.0
"""What is right, what no aligner can know, and the statistics of it.

*Right by place*: right contig and strand, and the start or the end within 30 bases of the truth, with clipped bases
counted or not. *Right by alignment*: a base aligned to the very reference base it comes from.

*Only best place*: all places that any aligner reports for a read are scored (match 1, mismatch -4, gap -6 - 1 a
base, clipped end -5, as bwa mem does; a pair is the sum of its mates, less 17 if they do not face each other at a
distance that occurs). A read is *not only best* if some other place scores as much as its true place (a tie) or more
(beaten: a variant or errors make the read more like another place), each with the best place of its mate: no aligner
can know. The set is the same for every aligner judged together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from mapping_reads import Genome, Placed, Reads
from numpy.typing import NDArray

from megabolt.compute.jit import inline, kernel

Rows = NDArray[np.bool_]

#: Bases by which a start or an end may differ from the truth.
SLACK = 30
#: Half width of the band around a reported place within which it is scored.
BAND = 64
#: Penalty of a pair whose mates do not belong together (bwa mem -U).
UNPAIRED = 17
_NONE = -(10**6)

#: Upper ends of the copy number classes of `multiplicity_classes`.
COPIES = (1, 10, 100)
COPY_NAMES = ("unique", "2-10 copies", "11-100 copies", ">100 copies")
_WORD = 24

#: First quality of each bin of the calibration table.
MAPQ_BINS = (0, 1, 3, 5, 10, 15, 20, 25, 30, 35, 40, 50, 60)
#: Bins with fewer reads are not judged.
ENOUGH = 2000


def near(a: tuple[Any, ...], b: tuple[Any, ...]) -> Rows:
    """Whether two places, each (contig, reverse, start, end, left, right), are the same."""
    same = (a[0] == b[0]) & (a[1] == b[1]) & (a[0] >= 0)
    ends = [(a[2] - a[4]) - (b[2] - b[4]), (a[3] + a[5]) - (b[3] + b[5]), a[2] - b[2], a[3] - b[3]]
    close = np.zeros(same.shape, np.bool_)
    for difference in ends:
        close |= np.abs(difference) <= SLACK
    result: Rows = same & close
    return result


def _place(p: Placed, rows: Any = slice(None)) -> tuple[Any, ...]:
    return tuple(getattr(p, name)[rows] for name in ("contig", "reverse", "start", "end", "left", "right"))


def right_by_place(placed: Placed, reads: Reads) -> Rows:
    """Reads at their true place."""
    return near(_place(placed), _place(reads.truth))


def right_bases(placed: Placed, reads: Reads) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """(bases aligned where they belong, bases that belong anywhere) of each read; None without truth.bam."""
    truth = reads.truth
    if not len(truth.cigar):
        return None
    same = np.zeros(len(reads.length), np.int32)
    total = np.zeros(len(reads.length), np.int32)
    count_bases(
        reads.length,
        truth.contig,
        truth.start,
        truth.reverse,
        truth.cigar,
        truth.cigar_at,
        truth.n_cigar,
        placed.contig,
        placed.start,
        placed.reverse,
        placed.cigar,
        placed.cigar_at,
        placed.n_cigar,
        same,
        total,
    )
    return same, total


#: What `rivals` says of a read: its true place is the only best one, one of several, or not the best.
ONLY_BEST, TIED, BEATEN = 0, 1, 2


def rivals(reads: Reads, genome: Genome, placements: list[Placed]) -> NDArray[np.int8]:
    """ONLY_BEST, TIED or BEATEN for each read, by the places that any of the aligners reports."""
    in_use = reads.length > 0
    wrong = np.zeros(len(in_use), np.bool_)
    for placed in placements:
        wrong |= placed.mapped & in_use & ~right_by_place(placed, reads)
    state = np.zeros(len(in_use), np.int8)
    pairs = np.flatnonzero(wrong[0::2] | wrong[1::2])
    if not len(pairs):
        return state
    rows = np.stack([2 * pairs, 2 * pairs + 1], 1)  # [n_pairs, 2]
    slots = [_place(reads.truth, rows)]
    known = [reads.truth.contig[rows] >= 0]
    for placed in placements:
        place = _place(placed, rows)
        new = (placed.contig[rows] >= 0) & (reads.length[rows] > 0)
        for other, valid in zip(slots, known):
            new &= ~(near(place, other) & valid)
        slots.append(place)
        known.append(new)
    place = tuple(np.stack([slot[k] for slot in slots], 2) for k in range(6))  # [n_pairs, 2, n_slots]
    valid = np.stack(known, 2)
    contig, reverse = place[0], place[1]
    begin = (place[2] - place[4]).astype(np.int64)
    end = (place[3] + place[5]).astype(np.int64)
    # A band must not reach from a wrong place to the true one beside it (in tandem repeats).
    apart = np.minimum(np.abs(begin - begin[:, :, :1]), np.abs(end - end[:, :, :1]))
    beside = (contig == contig[:, :, :1]) & (reverse == reverse[:, :, :1])
    band = np.where(beside, np.minimum(BAND, apart // 2), BAND)
    band[:, :, 0] = BAND
    score = np.full(valid.shape, _NONE, np.int64)
    score_places(
        rows, valid, contig.astype(np.int64), reverse, begin, end, band, reads.codes, reads.length, genome.codes,
        genome.offset, score,
    )  # fmt: skip
    single = ~in_use[1::2].any()
    if single:
        joint = score[:, 0, :, None]
    else:
        longest = _longest_insert(reads)
        face = reverse[:, 0, :, None] != reverse[:, 1, None, :]
        face &= contig[:, 0, :, None] == contig[:, 1, None, :]
        first_left = reverse[:, 0, :, None] == 0
        insert = np.where(
            first_left,
            end[:, 1, None, :] - begin[:, 0, :, None],
            end[:, 0, :, None] - begin[:, 1, None, :],
        )
        proper = face & (insert > 0) & (insert <= longest)
        joint = score[:, 0, :, None] + score[:, 1, None, :] - np.where(proper, 0, UNPAIRED)
    for mate, axis in ((0, 2), (1, 1)):
        if single and mate == 1:
            break
        best = joint.max(axis)  # [n_pairs, n_slots] of this mate
        others = best[:, 1:].max(1)
        state[rows[:, mate]] = np.where(others > best[:, 0], BEATEN, np.where(others == best[:, 0], TIED, ONLY_BEST))
    state[~in_use] = ONLY_BEST
    return state


def _longest_insert(reads: Reads) -> int:
    truth = reads.truth
    both = (truth.contig[0::2] >= 0) & (truth.contig[0::2] == truth.contig[1::2])
    start = np.minimum(truth.start[0::2], truth.start[1::2])[both]
    end = np.maximum(truth.end[0::2], truth.end[1::2])[both]
    return int((end - start).max()) + 50 if len(start) else 0


# ---------------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True)
class Classes:
    """Class of each row (int16, place in `names`)."""

    names: tuple[str, ...]
    of_row: NDArray[np.int16]


def bed_classes(path: Any, genome: Genome, reads: Reads) -> Classes:
    """The class (column 4) of the stretch that holds the middle of each read's true place."""
    names: list[str] = []
    start, end, label = [], [], []
    number = {name: i for i, name in enumerate(genome.names)}
    for line in path.read_text(encoding="utf-8").splitlines():
        contig, begin, stop, kind = line.split("\t")[:4]
        if kind not in names:
            names.append(kind)
        start.append(genome.offset[number[contig]] + int(begin))
        end.append(genome.offset[number[contig]] + int(stop))
        label.append(names.index(kind))
    order = np.argsort(start)
    starts, ends, labels = np.array(start)[order], np.array(end)[order], np.array(label)[order]
    truth = reads.truth
    middle = genome.offset[np.maximum(truth.contig, 0)] + (truth.start.astype(np.int64) + truth.end) // 2
    k = np.maximum(np.searchsorted(starts, middle, side="right") - 1, 0)
    inside = (middle >= starts[k]) & (middle < ends[k])
    return Classes((*names, "elsewhere"), np.where(inside, labels[k], len(names)).astype(np.int16))


def multiplicity_classes(genome: Genome, reads: Reads) -> Classes:
    """How often the 24-mers under a read's true place occur in the reference: the class of their median."""
    classes = copy_classes(genome.codes, genome.offset)
    below = np.zeros((len(COPY_NAMES), len(classes) + 1), np.int32)  # 24-mers of a class before each place
    for k in range(len(COPY_NAMES)):
        np.cumsum(classes == k, out=below[k, 1:])
    truth = reads.truth
    at = genome.offset[np.maximum(truth.contig, 0)]
    start = at + truth.start
    end = np.maximum(at + truth.end - _WORD + 1, start + 1)
    end = np.minimum(end, len(classes))
    counts = np.stack([row[end] - row[start] for row in below], 1).astype(np.int64)
    cumulative = np.cumsum(counts, 1)
    median = (2 * cumulative <= cumulative[:, -1:]).sum(1)
    return Classes(COPY_NAMES, np.minimum(median, len(COPY_NAMES) - 1).astype(np.int16))


def copy_classes(codes: NDArray[np.uint8], offset: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Class (see COPY_NAMES) of the 24-mer that begins at each place, both strands counted together.

    Words are told apart by a hash of 64 bits less those that number the places; those with an N are unique.
    """
    place_bits = len(codes).bit_length()
    keys = np.empty(len(codes), np.uint64)
    hash_words(codes, offset, np.uint64(place_bits), keys)
    keys.sort()
    out = np.zeros(len(codes), np.uint8)
    label_runs(keys, np.uint64(place_bits), np.array(COPIES, np.int64), out)
    return out


# ------------------------------------------------------------------------------------------------- statistics


def wilson(k: float, n: float) -> tuple[float, float]:
    """95 % interval of a fraction."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    p = k / n
    middle = p + z * z / (2 * n)
    half = z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def paired_difference(mine: Rows, theirs: Rows) -> tuple[float, float, float]:
    """Difference of two fractions of the same reads and its 95 % interval (Bonett and Price 2012)."""
    n = len(mine)
    if n == 0:
        return 0.0, -1.0, 1.0
    gained, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    a, b = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * float(np.sqrt((a + b - (a - b) ** 2) / (n + 2)))
    return (gained - lost) / n, a - b - half, a - b + half


def calibration(mapq: NDArray[np.int16], right: Rows, beaten: Rows) -> list[dict[str, Any]]:
    """Observed and promised error by bin of MAPQ, of the mapped reads given.

    Reads that another place explains better (`beaten`) are counted apart, as they are in the table of right places;
    ties are not. `observed_all`: the error with the beaten ones. `over`: enough reads and more than twice the
    promised error; `sure`: so is the lower end of its interval.
    """
    table = []
    for low, above in zip(MAPQ_BINS, (*MAPQ_BINS[1:], 256)):
        every = (mapq >= low) & (mapq < above)
        here = every & ~beaten
        n = int(here.sum())
        if n == 0:
            continue
        wrong = int((here & ~right).sum())
        promised = float((10.0 ** (-mapq[here].astype(np.float64) / 10)).mean())
        interval = wilson(wrong, n)
        table.append(
            {
                "low": low,
                "high": min(above - 1, int(mapq[here].max())),
                "n": n,
                "wrong": wrong,
                "beaten": int((every & beaten).sum()),
                "wrong_beaten": int((every & beaten & ~right).sum()),
                "observed": wrong / n,
                "observed_all": float((every & ~right).sum() / every.sum()),
                "interval": interval,
                "promised": promised,
                "over": n >= ENOUGH and wrong / n > 2 * promised,
                "sure": n >= ENOUGH and interval[0] > 2 * promised,
            }
        )
    return table


def roc(mapq: NDArray[np.int16], right: Rows, n: int) -> list[dict[str, float]]:
    """Mapped reads at each MAPQ and above: fraction of all `n` reads placed right there, and placed wrong."""
    points = []
    for quality in np.unique(mapq)[::-1].tolist():
        here = mapq >= quality
        wrong = int((here & ~right).sum())
        points.append(
            {
                "mapq": quality,
                "placed": int(here.sum()) / n,
                "right": (int(here.sum()) - wrong) / n,
                "wrong": wrong / n,
                "n_wrong": wrong,
            }
        )
    return points


def roc_versus(mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    """Whether our curve lies on or above theirs at each of their points of MAPQ >= 1.

    Ours is read, straight lines between its points and down to MAPQ 0, at the fraction that they place right: how
    many wrong reads come with it. Returns the number of `points`; of those `below` (more wrong reads than theirs);
    of those `certain` (one-sided binomial test, 2.5 %); and the `worst` of them, most wrong reads more, where `needed`
    is None if we never place as many right.
    """
    x = np.array([0.0, *(point["right"] for point in mine)])
    x, first = np.unique(x, return_index=True)
    wrong = np.array([0.0, *(point["n_wrong"] for point in mine)])[first]
    largest = -1.0
    told: dict[str, Any] = {"points": 0, "below": 0, "certain": 0, "worst": None}
    for point in theirs:
        if point["mapq"] < 1:
            continue
        told["points"] += 1
        needed = float(np.interp(point["right"], x, wrong)) if point["right"] <= x[-1] else math.inf
        more = needed - point["n_wrong"]
        if more <= 1e-9:
            continue
        told["below"] += 1
        certain = math.isinf(needed) or _chance(math.floor(needed), int(point["n_wrong"])) < 0.025
        told["certain"] += certain
        if more > largest:
            largest = more
            told["worst"] = {
                "mapq": point["mapq"],
                "right": point["right"],
                "theirs": point["n_wrong"],
                "needed": None if math.isinf(needed) else needed,
            }
    return told


def _chance(more: int, fewer: int) -> float:
    """P(at least `more` of all fall on one side) if both sides are equally likely."""
    n = more + fewer
    if n > 1000:
        return 0.5 * math.erfc((more - fewer) / math.sqrt(2 * n))
    return sum(math.comb(n, k) for k in range(more, n + 1)) / 2**n


# ---------------------------------------------------------------------------------------------------- kernels


@kernel(
    "void(int32[::1], int32[::1], int32[::1], uint8[::1], uint32[::1], int64[::1], int32[::1], int32[::1],"
    "int32[::1], uint8[::1], uint32[::1], int64[::1], int32[::1], int32[::1], int32[::1])"
)
def count_bases(
    length: Any,
    true_contig: Any,
    true_start: Any,
    true_reverse: Any,
    true_cigar: Any,
    true_at: Any,
    true_n: Any,
    contig: Any,
    start: Any,
    reverse: Any,
    cigar: Any,
    at: Any,
    n_cigar: Any,
    same: Any,
    total: Any,
) -> Any:
    """For each row: bases that belong to a reference base, and those of them that are aligned to it."""
    longest = 0
    for row in range(len(length)):
        longest = max(longest, np.int64(length[row]))
    home = np.empty(longest + 1, np.int64)
    for row in range(len(length)):
        home[:] = -1
        place, query, belongs = np.int64(true_start[row]), np.int64(0), 0
        for j in range(true_n[row]):
            word = np.int64(true_cigar[true_at[row] + j])
            operation, size = word & 15, word >> 4
            if operation == 0 or operation >= 7:
                for k in range(size):
                    home[query + k] = place + k
                belongs += size
                place += size
                query += size
            elif operation == 1 or operation == 4:
                query += size
            elif operation == 2:
                place += size
        total[row] = belongs
        if contig[row] < 0 or contig[row] != true_contig[row] or reverse[row] != true_reverse[row]:
            continue
        consumed = np.int64(0)
        for j in range(n_cigar[row]):
            word = np.int64(cigar[at[row] + j])
            operation, size = word & 15, word >> 4
            if operation != 2 and operation != 3 and operation != 6:
                consumed += size
        query = np.int64(length[row]) - consumed if reverse[row] else np.int64(0)  # bases trimmed at the 3' end
        place, agree = np.int64(start[row]), 0
        for j in range(n_cigar[row]):
            word = np.int64(cigar[at[row] + j])
            operation, size = word & 15, word >> 4
            if operation == 0 or operation >= 7:
                for k in range(size):
                    if 0 <= query + k < length[row] and home[query + k] == place + k:
                        agree += 1
                place += size
                query += size
            elif operation == 1 or operation == 4 or operation == 5:
                query += size
            elif operation == 2 or operation == 3:
                place += size
        same[row] = agree


@inline
def _match(a: Any, b: Any) -> Any:
    return -1 if a > 3 or b > 3 else (1 if a == b else -4)


@kernel("int64(uint8[::1], int64, uint8[::1], int64, int64, int64, int64, int64, int64[:, ::1])")
def affine_score(
    read: Any, length: Any, codes: Any, low: Any, high: Any, first: Any, second: Any, band: Any, work: Any
) -> Any:
    """Best score of a read near two diagonals.

    first, second: places in `codes` of the read's base 0 if it is aligned without gaps from its start, from its
    end; [low, high): the contig; work: int64 [5, n] with n at least 2 band + |first - second| + 3.
    """
    for diagonal in (first, second):
        if diagonal >= low and diagonal + length <= high:
            score = np.int64(0)
            for i in range(length):
                score += _match(read[i], codes[diagonal + i])
            if score >= length - 6:  # a gap or a clipped end costs at least as much
                return score
    base = min(first, second) - band
    width = max(first, second) + band - base + 1
    h, gap, above, above_gap = work[0], work[1], work[2], work[3]
    for k in range(width + 1):
        above[k] = _NONE
        above_gap[k] = _NONE
    best = np.int64(_NONE)
    for i in range(length):
        fresh = np.int64(0 if i == 0 else -5)
        closing = np.int64(0 if i == length - 1 else -5)
        left, left_gap = np.int64(_NONE), np.int64(_NONE)
        for k in range(width):
            place = base + i + k
            insertion = max(above[k + 1] - 7, above_gap[k + 1] - 1)
            deletion = max(left - 7, left_gap - 1)
            here = np.int64(_NONE)
            if low <= place < high:
                here = max(above[k], fresh) + _match(read[i], codes[place])
            here = max(here, insertion, deletion)
            h[k] = here
            gap[k] = insertion
            left, left_gap = here, deletion
            best = max(best, here + closing)
        for k in range(width):
            above[k] = h[k]
            above_gap[k] = gap[k]
    return best


@kernel(
    "void(int64[:, ::1], boolean[:, :, ::1], int64[:, :, ::1], uint8[:, :, ::1], int64[:, :, ::1],"
    "int64[:, :, ::1], int64[:, :, ::1], uint8[:, ::1], int32[::1], uint8[::1], int64[::1], int64[:, :, ::1])"
)
def score_places(
    rows: Any,
    valid: Any,
    contig: Any,
    reverse: Any,
    begin: Any,
    end: Any,
    band: Any,
    codes: Any,
    length: Any,
    genome: Any,
    offset: Any,
    score: Any,
) -> Any:
    """Score of each valid place [pair, mate, slot]; mates without bases score 0 at their first place."""
    read = np.empty(codes.shape[1] + 1, np.uint8)
    work = np.empty((5, 2 * 64 + 1200), np.int64)
    for p in range(rows.shape[0]):
        for m in range(2):
            row = rows[p, m]
            n = np.int64(length[row])
            if n == 0:
                score[p, m, 0] = 0
                continue
            for s in range(valid.shape[2]):
                if not valid[p, m, s]:
                    continue
                for i in range(n):
                    if reverse[p, m, s]:
                        code = codes[row, n - 1 - i]
                        read[i] = 3 - code if code < 4 else code
                    else:
                        read[i] = codes[row, i]
                low, high = offset[contig[p, m, s]], offset[contig[p, m, s] + 1]
                first = low + begin[p, m, s]
                second = low + end[p, m, s] - n
                if abs(first - second) > 1000:
                    second = first
                score[p, m, s] = affine_score(read, n, genome, low, high, first, second, band[p, m, s], work)


@kernel("void(uint8[::1], int64[::1], uint64, uint64[::1])")
def hash_words(codes: Any, offset: Any, place_bits: Any, keys: Any) -> Any:
    """Hash of the 24-mer at each place, on either strand the same, above the place's number."""
    k = 24
    top = np.uint64(2 * (k - 1))
    mask = (np.uint64(1) << np.uint64(2 * k)) - np.uint64(1)
    for p in range(len(codes)):
        keys[p] = (np.uint64(p) * np.uint64(0x9E3779B97F4A7C15)) >> place_bits << place_bits | np.uint64(p)
    for c in range(len(offset) - 1):
        forward, backward, good = np.uint64(0), np.uint64(0), 0
        for p in range(offset[c], offset[c + 1]):
            code = np.uint64(codes[p])
            good = good + 1 if codes[p] < 4 else 0
            code &= np.uint64(3)
            forward = ((forward << np.uint64(2)) | code) & mask
            backward = (backward >> np.uint64(2)) | ((np.uint64(3) - code) << top)
            if good >= k:
                word = min(forward, backward) + np.uint64(0x632BE59BD9B4E019)
                word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                word ^= word >> np.uint64(31)
                place = np.uint64(p - k + 1)
                keys[p - k + 1] = (word >> place_bits << place_bits) | place


@kernel("void(uint64[::1], uint64, int64[::1], uint8[::1])")
def label_runs(keys: Any, place_bits: Any, limits: Any, out: Any) -> Any:
    """Class of each place from sorted keys: in which of the limits its word's number of places lies."""
    mask = (np.uint64(1) << place_bits) - np.uint64(1)
    i = 0
    while i < len(keys):
        j = i + 1
        while j < len(keys) and keys[j] >> place_bits == keys[i] >> place_bits:
            j += 1
        label = 0
        while label < len(limits) and j - i > limits[label]:
            label += 1
        for k in range(i, j):
            out[np.int64(keys[k] & mask)] = label
        i = j
