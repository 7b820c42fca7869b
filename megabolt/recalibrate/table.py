# SPDX-License-Identifier: Apache-2.0
"""From counts to recalibrated qualities.

The quality of a set of bases is the whole number q of 0..60 with the highest posterior probability: a normal prior
(standard deviation 0.5) around the quality expected of the set, times the binomial probability of its errors, one
error and one right base being added. The expectation goes down a hierarchy::

    read group                     expected: mean reported quality     y1
    read group, reported quality   expected: y1                        y2
    the same and context           expected: y2                        y3
    the same and cycle             expected: y2                        y4

and a base gets y2 + (y3 - y2) + (y4 - y2), within 1..93. A set without bases changes nothing. This is GATK 4's
RecalDatum and BQSRReadTransformer, rounding and all: counts are rounded as the report writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.recalibrate.counts import Counts
from megabolt.recalibrate.options import N_CONTEXTS, N_QUALITIES, CountOptions
from megabolt.recalibrate.quantize import quantize

_HIGHEST = 60
_MOST_BASES = (1 << 31) - 2
_LEAST = -1.7976931348623157e308
_QUALITIES = np.arange(_HIGHEST + 1, dtype=np.float64)


def _log_prior() -> NDArray[np.float64]:
    """log10 of the prior for a difference of 0..40; beyond 19 it is as good as zero."""
    values = [0.9 * math.exp(-(d * d) * 2.0) for d in range(41)]
    return np.array([math.log10(value) if value > 0.0 else _LEAST for value in values])


_LOG_PRIOR = _log_prior()
with np.errstate(divide="ignore"):
    _LOG_WRONG = _QUALITIES * -0.1
    _LOG_RIGHT = np.log10(1.0 / np.power(10.0, _LOG_WRONG) - 1.0) + _LOG_WRONG


def empirical_quality(
    bases: NDArray[np.int64], errors: NDArray[np.float64], expected: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The quality of sets of bases.

    Parameters
    ----------
    bases, errors
        int64, float64 [n]: bases and mismatches of each set.
    expected
        float64 [n]: quality expected of each.

    Returns
    -------
    int64 [n], 0..60.
    """
    wrong = np.floor(errors + 0.5) + 1.0
    total = bases.astype(np.float64) + 2.0
    many = total > _MOST_BASES
    wrong = np.where(many, np.floor(wrong * (_MOST_BASES / total) + 0.5), wrong)
    total = np.where(many, float(_MOST_BASES), total)
    found = np.empty(len(bases), np.int64)
    for first in range(0, len(bases), 4096):
        part = slice(first, first + 4096)
        difference = np.abs(np.trunc(_QUALITIES[None, :] - expected[part, None])).astype(np.int64)
        prior = _LOG_PRIOR[np.minimum(difference, 40)]
        likelihood = wrong[part, None] * _LOG_WRONG + (total - wrong)[part, None] * _LOG_RIGHT
        likelihood[~np.isfinite(likelihood)] = _LEAST
        with np.errstate(over="ignore"):
            found[part] = np.argmax(prior + likelihood, axis=1)
    return found


@dataclass(frozen=True)
class Recalibration:
    """What replaces the reported qualities.

    Attributes
    ----------
    names
        The rows: platform units or read groups.
    counts
        What the table was made from, errors rounded to hundredths.
    reported
        float64 [rows]: mean reported quality (by error rate, rounded to 4 decimals); NaN for a row without bases.
    group_errors, quality_errors
        float64 [rows], [rows, 94]: mismatches, each rounded to hundredths by itself.
    base_quality
        int64 [rows, 94], y2.
    cycle_quality, context_quality
        int64 [rows, 94, cycles], [rows, 94, 17]: y4, y3; y2 where nothing was counted.
    histogram
        int64 [94]: bases of each empirical quality.
    quantized
        uint8 [94]: quality to write for each when quantising with the levels of the options.
    options
        As counted with.
    """

    names: tuple[str, ...]
    counts: Counts
    reported: NDArray[np.float64]
    group_errors: NDArray[np.float64]
    quality_errors: NDArray[np.float64]
    base_quality: NDArray[np.int64]
    cycle_quality: NDArray[np.int64]
    context_quality: NDArray[np.int64]
    histogram: NDArray[np.int64]
    quantized: NDArray[np.uint8]
    options: CountOptions


def fit(names: tuple[str, ...], counts: Counts, options: CountOptions | None = None) -> Recalibration:
    """The recalibration that counts ask for.

    Parameters
    ----------
    names
        The rows of the counts (`GroupMap.names`).
    counts
        Of all records; left as they are.
    """
    options = options or CountOptions(max_cycle=counts.max_cycle)
    bases = counts.by_cycle.sum(axis=2)
    errors = _to_hundredths(counts.cycle_errors.sum(axis=2))
    row, quality = np.nonzero(bases)
    found = empirical_quality(bases[row, quality], errors[row, quality], quality.astype(np.float64))
    histogram = np.zeros(N_QUALITIES, np.int64)
    np.add.at(histogram, found, bases[row, quality])
    return complete(
        names,
        _rounded(counts),
        np.array([reported_quality(one) for one in bases]),
        _to_hundredths(counts.cycle_errors.sum(axis=(1, 2))),
        errors,
        histogram,
        quantize(histogram, options.quantizing_levels),
        options,
    )


def complete(
    names: tuple[str, ...],
    counts: Counts,
    reported: NDArray[np.float64],
    group_errors: NDArray[np.float64],
    quality_errors: NDArray[np.float64],
    histogram: NDArray[np.int64],
    quantized: NDArray[np.uint8],
    options: CountOptions,
) -> Recalibration:
    """The recalibration of a table, be it fitted or read: see `Recalibration`."""
    bases = counts.by_cycle.sum(axis=2)
    present = bases.sum(axis=1) > 0
    first = np.where(present, reported, 0.0)
    group = empirical_quality(bases.sum(axis=1), group_errors, first)
    # sums in the order of GATK: the expectation is a whole number only up to its rounding errors
    shift = np.where(present, group - first, 0.0)
    y1 = shift + first
    step = np.zeros(bases.shape)
    row, quality = np.nonzero(bases)
    step[row, quality] = empirical_quality(bases[row, quality], quality_errors[row, quality], y1[row]) - y1[row]
    prior = (step + shift[:, None]) + first[:, None]
    base_quality = np.rint(prior).astype(np.int64)
    return Recalibration(
        names,
        counts,
        reported,
        group_errors,
        quality_errors,
        base_quality,
        _refine(counts.by_cycle, counts.cycle_errors, prior, base_quality),
        _refine(counts.by_context, counts.context_errors, prior, base_quality, N_CONTEXTS),
        histogram,
        quantized,
        options,
    )


def _refine(
    bases: NDArray[np.int64],
    errors: NDArray[np.float64],
    prior: NDArray[np.float64],
    base_quality: NDArray[np.int64],
    n: int | None = None,
) -> NDArray[np.int64]:
    """Qualities of the cells of a covariate, of which the first n count; `base_quality` where a cell is empty."""
    refined = np.repeat(base_quality[:, :, None], bases.shape[2], axis=2)
    row, quality, cell = np.nonzero(bases[:, :, :n])
    refined[row, quality, cell] = empirical_quality(
        bases[row, quality, cell], errors[row, quality, cell], prior[row, quality]
    )
    return refined


def reported_quality(bases: NDArray[np.int64]) -> float:
    """The mean reported quality of bases (int64 [94]), by error rate, to 4 decimals; NaN for none.

    Summed quality by quality, each step through the logarithm, as GATK combines its data.
    """
    total, mean = 0, math.nan
    for quality in np.flatnonzero(bases):
        more = int(bases[quality])
        wrong = more * math.pow(10.0, int(quality) / -10.0)
        if total == 0:
            mean = float(quality)
        else:
            mean = -10.0 * math.log10((total * math.pow(10.0, mean / -10.0) + wrong) / (total + more))
        total += more
    return round_half_up(mean, 4) if total else mean


def round_half_up(value: float, digits: int) -> float:
    """Rounded to some decimals, halves up, as GATK rounds its report."""
    factor = math.pow(10.0, digits)
    return math.floor((value + math.ulp(value)) * factor + 0.5) / factor


def _rounded(counts: Counts) -> Counts:
    return Counts(
        counts.by_cycle,
        _to_hundredths(counts.cycle_errors),
        counts.by_context,
        _to_hundredths(counts.context_errors),
        counts.totals,
    )


def _to_hundredths(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.floor((errors + np.spacing(errors)) * 100.0 + 0.5) / 100.0
    return rounded
