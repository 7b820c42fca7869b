# SPDX-License-Identifier: Apache-2.0
"""The four haplotypes of two copies of a sequence, and the copy each template comes from.

In: `Tract`. Out: `Settlement`. Next: `settle.py`.

A person has two haplotypes a1, a2 of copy A and b1, b2 of copy B. Each may carry bases of the other copy (gene
conversion: aligners then put its reads there) or others. Of a template that fits both copies nothing is known before:

(1) P(templates | a1, a2, b1, b2) = product over templates of sum over h of w(h) P(template | h),

with w = 1/4 for a torn template; a template that surely lies at A has w = 1/2 for a1 and a2, and next to nothing for
b1 and b2. So depth counts by itself: where b1 looks like A, three of four templates do.

The search climbs from the reference by steps that put a stretch of one haplotype to the other copy's bases or back,
set one base, or swap a stretch between two haplotypes of different copies. That the aligner's places are right is
weighed against the result by a search of its own, in which no template may leave its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import callee, kernel
from megabolt.paralogs.tracts import AT_A, AT_B, TORN, Tract

#: -ln P(one haplotype of a copy differs from its reference somewhere in a tract), of each further stretch that does,
#: and of both haplotypes doing so alike.
FIRST_STRETCH, FURTHER_STRETCH, BOTH_ALIKE = math.log(1000.0), math.log(30.0), math.log(2.0)
#: P(a template that surely lies at one copy comes from the other one): MAPQ is no better than that.
MISPLACED = 1e-4
#: Base qualities are believed from the first to the second (Phred).
_LOWEST, _HIGHEST = 6, 40
#: Differing sites in one step, and the gain (nats) that a step is worth.
_WIDEST, _LEAST_GAIN = 40, 0.5
#: Steps of a search.
_MOST_STEPS = 200
_LOWEST_LOG = -300.0
_ABSENT = 255
# `tracts.NOTHING` is no code of a base: below 4 something was seen.


@dataclass(frozen=True)
class Settlement:
    """What a search found.

    haplotypes: uint8 [4, n_sites], codes of a1, a2, b1, b2. from_a: float64 [n_templates], P(it comes from A).
    gain: nats by which the haplotypes explain the templates better than any do that leave each at its place.
    """

    haplotypes: NDArray[np.uint8]
    from_a: NDArray[np.float64]
    gain: float


def settle_tract(tract: Tract) -> Settlement:
    """The likeliest haplotypes, and where the templates come from under them."""
    phred = np.clip(tract.quality, _LOWEST, _HIGHEST).astype(np.float64)
    error = 10.0 ** (-0.1 * phred)
    match, mismatch = np.log1p(-error), np.log(error / 3.0)
    free = _weights(tract.kind)
    placed = _weights(np.where(tract.kind == TORN, np.where(tract.at_a, AT_A, AT_B), tract.kind).astype(np.int8))
    # each copy is as likely as the other to be where a torn template comes from
    choice = math.log(0.5) * int((tract.kind == TORN).sum())
    found, score = _climb(tract, match, mismatch, free)
    _, fixed = _climb(tract, match, mismatch, placed)
    logs = np.empty((4, len(tract.kind)))
    for h in range(4):
        logs[h] = _log_of(tract.base, match, mismatch, found[h])
    share = np.exp(logs - logs.max(axis=0))
    return Settlement(found, share[:2].sum(axis=0) / share.sum(axis=0), score - fixed - choice)


def _weights(kind: NDArray[np.int8]) -> NDArray[np.float64]:
    """log w of (1): float64 [4, n_templates]."""
    weights = np.full((4, len(kind)), math.log(0.25))
    for copy, own in ((AT_A, slice(0, 2)), (AT_B, slice(2, 4))):
        rows = np.flatnonzero(kind == copy)
        weights[:, rows] = math.log(0.5 * MISPLACED)
        weights[own, rows] = math.log(0.5 * (1.0 - MISPLACED))
    return weights


def _climb(
    tract: Tract, match: NDArray[np.float64], mismatch: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], float]:
    own = np.stack([tract.alleles[:, 0], tract.alleles[:, 0], tract.alleles[:, 1], tract.alleles[:, 1]])
    haplotypes = own.copy()
    score = _search(tract.base, match, mismatch, weights, tract.alleles, own, haplotypes)
    return haplotypes, float(score)


@kernel("float64[::1](uint8[:, ::1], float64[:, ::1], float64[:, ::1], uint8[::1])")
def _log_of(base: Any, match: Any, mismatch: Any, haplotype: Any) -> Any:
    """ln P(template | haplotype) of all templates."""
    out = np.zeros(len(base))
    for t in range(len(base)):
        for i in range(base.shape[1]):
            if base[t, i] < 4:
                out[t] += match[t, i] if base[t, i] == haplotype[i] else mismatch[t, i]
    return out


@callee
def _begins(own: Any, haplotypes: Any, h: Any, i: Any) -> Any:
    """Whether haplotype h leaves its reference at site i and not before."""
    if haplotypes[h, i] == own[h, i]:
        return False
    return i == 0 or haplotypes[h, i - 1] == own[h, i - 1]


@kernel("float64(uint8[:, ::1], uint8[:, ::1])")
def _log_prior(own: Any, haplotypes: Any) -> Any:
    """ln P(haplotypes): by copy, the stretches in which either haplotype leaves the reference."""
    total = 0.0
    n = own.shape[1]
    for copy in range(0, 4, 2):
        stretches, alike, unlike = 0, 0, 0
        for i in range(n):
            begins_1, begins_2 = _begins(own, haplotypes, copy, i), _begins(own, haplotypes, copy + 1, i)
            if not (begins_1 or begins_2):
                continue
            same = begins_1 and begins_2
            j = i
            while same and j < n:
                same = haplotypes[copy, j] == haplotypes[copy + 1, j]
                if same and haplotypes[copy, j] == own[copy, j]:
                    break
                j += 1
            if same:
                stretches += 1
                alike += 1
            else:
                stretches += (1 if begins_1 else 0) + (1 if begins_2 else 0)
                unlike += 1
        if stretches > 0:
            total -= FIRST_STRETCH + FURTHER_STRETCH * (stretches - 1)
            if alike > 0 and unlike == 0:
                total -= BOTH_ALIKE
    return total


@kernel(
    "float64(uint8[:, ::1], float64[:, ::1], float64[:, ::1], float64[:, ::1], uint8[:, ::1], uint8[:, ::1],"
    " uint8[:, ::1])"
)
def _search(base: Any, match: Any, mismatch: Any, weights: Any, alleles: Any, own: Any, haplotypes: Any) -> Any:
    """Climb to better `haplotypes` as long as a step pays; returns ln P(templates, haplotypes)."""
    n_templates, n = base.shape
    # the templates that show something at each site: a step changes nothing for others
    offset = np.zeros(n + 1, np.int64)
    shows = np.empty(n_templates * n, np.int64)
    for i in range(n):
        offset[i + 1] = offset[i]
        for t in range(n_templates):
            if base[t, i] < 4:
                shows[offset[i + 1]] = t
                offset[i + 1] += 1
    logs = np.zeros(4)
    share = np.zeros((4, n_templates))  # of each haplotype in P(template), up to a factor of the template
    whole = np.zeros(n_templates)
    gained = np.zeros((2, n_templates))  # ln of the factors by which a step changes the share of h, of g
    worth = np.zeros(n_templates)  # what it gains for a template
    wanted = np.zeros((2, n), np.uint8)
    trial = haplotypes.copy()
    score = 0.0
    for _ in range(_MOST_STEPS):
        total = 0.0
        for t in range(n_templates):
            for h in range(4):
                logs[h] = weights[h, t]
                for i in range(n):
                    if base[t, i] < 4:
                        logs[h] += match[t, i] if base[t, i] == haplotypes[h, i] else mismatch[t, i]
            top = logs.max()
            whole[t] = 0.0
            for h in range(4):
                share[h, t] = math.exp(max(_LOWEST_LOG, logs[h] - top))
                whole[t] += share[h, t]
            total += top + math.log(whole[t])
        prior = _log_prior(own, haplotypes)
        score = total + prior
        best_gain = _LEAST_GAIN
        best_kind, best_h, best_g, best_first, best_last = -1, 0, 0, 0, 0
        # kinds 0 to 2: a stretch of h takes the bases of A, of B, or one further base; 3: h and g swap a stretch
        for kind in range(4):
            for pair in range(4):
                h = pair if kind < 3 else pair >> 1
                g = 2 + (pair & 1)
                for i in range(n):
                    wanted[0, i] = alleles[i, kind] if kind < 3 else haplotypes[g, i]
                    wanted[1, i] = haplotypes[h, i]
                for first in range(n):
                    if wanted[0, first] == haplotypes[h, first] or wanted[0, first] == _ABSENT:
                        continue
                    gained[:, :] = 0.0
                    worth[:] = 0.0
                    trial[:, :] = haplotypes
                    n_sites = 0
                    gain = 0.0
                    for last in range(first, n if kind != 2 else first + 1):
                        if wanted[0, last] == haplotypes[h, last]:
                            continue
                        n_sites += 1
                        if n_sites > _WIDEST:
                            break
                        trial[h, last] = wanted[0, last]
                        if kind == 3:
                            trial[g, last] = wanted[1, last]
                        for x in range(offset[last], offset[last + 1]):
                            t = shows[x]
                            d = match[t, last] - mismatch[t, last]
                            if base[t, last] == wanted[0, last]:
                                gained[0, t] += d
                                gained[1, t] -= d
                            elif base[t, last] == haplotypes[h, last]:
                                gained[0, t] -= d
                                gained[1, t] += d
                            else:
                                continue
                            new = whole[t] + share[h, t] * (math.exp(gained[0, t]) - 1.0)
                            if kind == 3:
                                new += share[g, t] * (math.exp(gained[1, t]) - 1.0)
                            now = math.log(max(new, 1e-300) / whole[t])
                            gain += now - worth[t]
                            worth[t] = now
                        step = gain + _log_prior(own, trial) - prior
                        if step > best_gain:
                            best_gain, best_kind = step, kind
                            best_h, best_g, best_first, best_last = h, g, first, last
        if best_kind < 0:
            break
        for i in range(best_first, best_last + 1):
            if best_kind < 3:
                haplotypes[best_h, i] = alleles[i, best_kind]
            else:
                haplotypes[best_h, i], haplotypes[best_g, i] = haplotypes[best_g, i], haplotypes[best_h, i]
    return score
