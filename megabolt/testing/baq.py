# SPDX-License-Identifier: Apache-2.0
"""Base alignment quality in plain Python, as GATK's BaseRecalibrator uses it with its hidden option --enable-baq.

Heng Li, "Improving SNP discovery by base alignment quality", Bioinformatics 27 (2011) 1157: a hidden Markov model of
the read against the reference around its place, in a band; a base whose most probable place is not the one that the
alignment gives, or is not sure, has an uncertain alignment. GATK spreads the errors of a run of such bases evenly
over the run and the base on each side.

The product does not use it (nor does GATK by default): GATK's published expected tables were made with it, and this
shows that they and the counts agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megabolt.testing.covariates import Column

_OPEN, _EXTEND, _BAND = 1e-4, 0.1, 7
_INSERTED, _WRONG = 0.25, 0.33333333333
_LOWEST = 4
_M, _I, _D = range(3)


def spread_errors(
    columns: Sequence[Column], sequence: str, quality: Sequence[int], errors: dict[int, float], text: str
) -> dict[int, float]:
    """Errors by index of base, spread where the alignment is uncertain; see `covariates.Spread`."""
    if not any(errors.values()) and all(i is not None and p is not None for i, p in columns):
        return errors
    indices = sorted(errors)
    places = [p for _, p in columns if p is not None]
    start, stop = max(places[0] - _BAND // 2, 0), places[-1] + 1 + _BAND // 2
    bases = "".join(sequence[i] for i in indices)
    values = [quality[i] for i in indices]
    found = _posterior(text[start:stop], bases, values)
    place_of = {i: p for i, p in columns if i is not None}
    certain = []
    for k, i in enumerate(indices):
        place = place_of[i]
        own, place_found, in_gap = found[k]
        if place is None:
            certain.append(True)
        elif in_gap or place_found + start != place:
            certain.append(values[k] == _LOWEST)
        else:
            certain.append(own >= values[k])
    return dict(zip(indices, _spread([errors[i] for i in indices], certain)))


def _spread(errors: Sequence[float], certain: Sequence[bool]) -> list[float]:
    spread = list(errors)
    first = None
    for k in range(len(errors) + 1):
        if k < len(errors) and not certain[k]:
            first = k if first is None else first
        elif first is not None:
            low, high = max(0, first - 1), min(k, len(errors) - 1)
            spread[low : high + 1] = [sum(errors[low : high + 1]) / (high - low + 1)] * (high - low + 1)
            first = None
    return spread


def _emission(reference: str, bases: str, quality: Sequence[int]) -> NDArray[np.float64]:
    """[bases + 2, reference + 2]: probability of base i over place k, both from 1."""
    table = np.zeros((len(bases) + 2, len(reference) + 2))
    for i, base in enumerate(bases, 1):
        wrong = 10.0 ** (-max(quality[i - 1], _LOWEST) / 10.0)
        for k, letter in enumerate(reference, 1):
            known = base in "ACGT" and letter in "ACGT"
            table[i, k] = (1.0 - wrong if base == letter else wrong * _WRONG) if known else 1.0
    return table


def _band(n: int, m: int) -> int:
    """Half the width of the band, for n bases over m places."""
    band = abs(m - n) + 3 if abs(m - n) > _BAND else max(n, m)
    return max(min(band, _BAND), abs(m - n))


def _posterior(reference: str, bases: str, quality: Sequence[int]) -> list[tuple[int, int, bool]]:
    """For each base: Phred that its most probable state is right, the place of that state, and if it is an insertion.

    place: 0-based in `reference`.
    """
    n, m = len(bases), len(reference)
    half = _band(n, m)
    rows = [(max(1, i - half), min(m, i + half)) for i in range(n + 1)]
    out = 1.0 / (2 * n + 2)
    to = np.array(
        [
            [(1 - 2 * _OPEN) * (1 - out), _OPEN * (1 - out), _OPEN * (1 - out)],
            [(1 - _EXTEND) * (1 - out), _EXTEND * (1 - out), 0.0],
            [1 - _EXTEND, 0.0, _EXTEND],
        ]
    )
    emit = _emission(reference, bases, quality)
    forward, scale = np.zeros((n + 1, m + 2, 3)), np.ones(n + 2)
    for i in range(1, n + 1):
        low, high = rows[i]
        for k in range(low, high + 1):
            here = forward[i, k]
            if i == 1:
                here[_M], here[_I] = emit[i, k] * (1 - _OPEN) / m, _INSERTED * _OPEN / m
                continue
            here[_M] = emit[i, k] * (forward[i - 1, k - 1] @ to[:, _M])
            here[_I] = _INSERTED * (forward[i - 1, k, _M] * to[_M, _I] + forward[i - 1, k, _I] * to[_I, _I])
            here[_D] = forward[i, k - 1, _M] * to[_M, _D] + forward[i, k - 1, _D] * to[_D, _D]
        scale[i] = forward[i, low : high + 1].sum()
        forward[i, low : high + 1] /= scale[i]
    edge = max(n - half, 0)
    last = range(max(1, edge), min(m, edge + 2 * half) + 1)
    scale[n + 1] = sum(out * (forward[n, k, _M] + forward[n, k, _I]) for k in last)
    backward = np.zeros((n + 2, m + 2, 3))
    for k in last:
        backward[n, k, :2] = out / scale[n] / scale[n + 1]
    for i in range(n - 1, 0, -1):
        low, high = rows[i]
        for k in range(high, low - 1, -1):
            ahead = emit[i + 1, k + 1] * backward[i + 1, k + 1, _M] if k < m else 0.0
            inserted, deleted = _INSERTED * backward[i + 1, k, _I], backward[i, k + 1, _D]
            backward[i, k, _M] = ahead * to[_M, _M] + inserted * to[_M, _I] + to[_M, _D] * deleted
            backward[i, k, _I] = ahead * to[_I, _M] + inserted * to[_I, _I]
            backward[i, k, _D] = (ahead * to[_D, _M] + to[_D, _D] * deleted) * (i > 1)
        backward[i, low : high + 1] /= scale[i]
    return [_best(forward[i] * backward[i], *rows[i]) for i in range(1, n + 1)]


def _best(product: NDArray[np.float64], low: int, high: int) -> tuple[int, int, bool]:
    cells = product[low : high + 1, :2].reshape(-1)
    best = int(np.argmax(cells))
    left = 1.0 - float(cells[best]) / float(cells.sum())
    phred = 100 if left == 0.0 else int(-4.343 * math.log(left) + 0.499) if left > 0.0 else 0
    return 99 if phred >= 100 else max(phred, _LOWEST), low - 1 + best // 2, best % 2 == 1
