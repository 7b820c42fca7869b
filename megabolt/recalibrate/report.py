# SPDX-License-Identifier: Apache-2.0
"""The recalibration table as a file: GATKReport 1.1, which GATK's ApplyBQSR and AnalyzeCovariates read.

Out: five tables (arguments, quantised qualities, read groups, qualities, other covariates), columns padded and rows
sorted as GATK writes them. In: such a file, of this program or of GATK 3 or 4; of events only mismatches are taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InputFormatError
from megabolt.formats.output import atomic_output, output_error
from megabolt.recalibrate.counts import Counts
from megabolt.recalibrate.options import CONTEXT_SIZE, N_CONTEXTS, N_QUALITIES, CountOptions
from megabolt.recalibrate.table import Recalibration, complete, empirical_quality

_ADVICE = "Is it a table of GATK's BaseRecalibrator or of megabolt, and whole?"
_CONTEXTS = [a + b for a in "ACGT" for b in "ACGT"]
_GAP = re.compile(" {2,}")
_COVARIATES = "ReadGroupCovariate,QualityScoreCovariate,ContextCovariate,CycleCovariate"


@dataclass(frozen=True)
class _Table:
    """A table of the report: name, description, (column, format) pairs, rows of text in the order to write."""

    name: str
    description: str
    columns: tuple[tuple[str, str], ...]
    rows: Sequence[tuple[str, ...]]

    def text(self) -> Iterator[str]:
        """Its lines."""
        formats = "".join(f":{form}" for _, form in self.columns)
        yield f"#:GATKTable:{len(self.columns)}:{len(self.rows)}{formats}:;"
        yield f"#:GATKTable:{self.name}:{self.description}"
        names = [name for name, _ in self.columns]
        cells = list(zip(*self.rows)) if self.rows else [()] * len(names)
        widths = [max([len(name), *map(len, column)]) for name, column in zip(names, cells)]
        left = [not all(map(_is_number, column)) for column in cells]
        yield "  ".join(name.ljust(width) for name, width in zip(names, widths))
        for row in self.rows:
            yield "  ".join(
                cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(row, widths, left)
            )
        yield ""


def _is_number(text: str) -> bool:
    if text == "null":
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_report(path: Path | str, recalibration: Recalibration) -> None:
    """Write the table as GATK's BaseRecalibrator does.

    Raises
    ------
    OutputError
        The disk refuses.
    """
    tables = [
        _arguments(recalibration.options),
        _quantized(recalibration),
        _by_group(recalibration),
        _by_quality(recalibration),
        _by_covariate(recalibration),
    ]
    try:
        with atomic_output(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f"#:GATKReport.v1.1:{len(tables)}\n")
            for table in tables:
                file.writelines(f"{line}\n" for line in table.text())
    except OSError as error:
        raise output_error(path, error) from error


def _arguments(options: CountOptions) -> _Table:
    values = {
        "binary_tag_name": "null",
        "covariate": _COVARIATES,
        "default_platform": "null",
        "deletions_default_quality": "45",
        "force_platform": "null",
        "indels_context_size": "3",
        "insertions_default_quality": "45",
        "low_quality_tail": str(options.low_quality_tail),
        "maximum_cycle_value": str(options.max_cycle),
        "mismatches_context_size": str(CONTEXT_SIZE),
        "mismatches_default_quality": "-1",
        "no_standard_covs": "false",
        "quantizing_levels": str(options.quantizing_levels),
        "recalibration_report": "null",
        "run_without_dbsnp": "false",
        "solid_nocall_strategy": "THROW_EXCEPTION",
        "solid_recal_mode": "SET_Q_ZERO",
    }
    title = "Recalibration argument collection values used in this run"
    return _Table("Arguments", title, (("Argument", "%s"), ("Value", "%s")), list(values.items()))


def _quantized(recalibration: Recalibration) -> _Table:
    columns = (("QualityScore", "%d"), ("Count", "%d"), ("QuantizedScore", "%d"))
    rows = zip(range(N_QUALITIES), recalibration.histogram, recalibration.quantized)
    return _Table(
        "Quantized", "Quality quantization map", columns, [(str(q), str(int(n)), str(int(to))) for q, n, to in rows]
    )


_GROUP, _SCORE, _EVENT = ("ReadGroup", "%s"), ("QualityScore", "%d"), ("EventType", "%s")
_FOUND = ("EmpiricalQuality", "%.4f")
_NUMBERS = (("Observations", "%d"), ("Errors", "%.2f"))


def _by_group(recalibration: Recalibration) -> _Table:
    bases = recalibration.counts.by_cycle.sum(axis=(1, 2))
    errors = recalibration.group_errors
    present = np.flatnonzero(bases)
    found = empirical_quality(bases[present], errors[present], recalibration.reported[present])
    rows = [
        (recalibration.names[row], "M", f"{quality:.4f}", f"{recalibration.reported[row]:.4f}", str(int(bases[row])),
         f"{errors[row]:.2f}")
        for row, quality in zip(present, found)
    ]  # fmt: skip
    columns = (_GROUP, _EVENT, _FOUND, ("EstimatedQReported", "%.4f"), *_NUMBERS)
    return _Table("RecalTable0", "", columns, sorted(rows))


def _by_quality(recalibration: Recalibration) -> _Table:
    bases, errors = recalibration.counts.by_cycle.sum(axis=2), recalibration.quality_errors
    row, quality = np.nonzero(bases)
    n, wrong = bases[row, quality], errors[row, quality]
    found = empirical_quality(n, wrong, quality.astype(np.float64))
    keyed = sorted(zip((recalibration.names[one] for one in row), quality, found, n, wrong))
    rows = [(name, str(q), "M", f"{e:.4f}", str(int(b)), f"{w:.2f}") for name, q, e, b, w in keyed]
    return _Table("RecalTable1", "", (_GROUP, _SCORE, _EVENT, _FOUND, *_NUMBERS), rows)


def _by_covariate(recalibration: Recalibration) -> _Table:
    counts = recalibration.counts
    cycles = [str(c - counts.max_cycle) for c in range(counts.by_cycle.shape[2])]
    keyed = [
        *_cells(recalibration, counts.by_context[:, :, :N_CONTEXTS], counts.context_errors, _CONTEXTS, "Context"),
        *_cells(recalibration, counts.by_cycle, counts.cycle_errors, cycles, "Cycle"),
    ]
    keyed.sort()
    rows = [
        (name, str(q), value, covariate, "M", f"{e:.4f}", str(b), f"{w:.2f}")
        for name, q, value, covariate, e, b, w in keyed
    ]
    columns = (_GROUP, _SCORE, ("CovariateValue", "%s"), ("CovariateName", "%s"), _EVENT, _FOUND, *_NUMBERS)
    return _Table("RecalTable2", "", columns, rows)


def _cells(
    recalibration: Recalibration,
    bases: NDArray[np.int64],
    errors: NDArray[np.float64],
    values: Sequence[str],
    covariate: str,
) -> Iterator[tuple[str, int, str, str, int, int, float]]:
    row, quality, cell = np.nonzero(bases)
    n, wrong = bases[row, quality, cell], errors[row, quality, cell]
    found = empirical_quality(n, wrong, quality.astype(np.float64))
    for k in range(len(row)):
        name = recalibration.names[row[k]]
        yield name, int(quality[k]), values[cell[k]], covariate, int(found[k]), int(n[k]), float(wrong[k])


# --- reading ---


@dataclass(frozen=True)
class _Rows:
    """Rows of a table that was read, by column, with the line of the first."""

    columns: dict[str, int]
    rows: list[list[str]]
    line: int


def read_report(path: Path | str) -> Recalibration:
    """Read a recalibration table.

    Raises
    ------
    InputFormatError
        Not such a table, cut short, or made with covariates of another kind.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputFormatError(path, "", f"cannot be read ({error})", _ADVICE) from error
    tables = _tables(path, lines)
    try:
        return _recalibration(tables)
    except (KeyError, ValueError, IndexError) as error:
        raise InputFormatError(path, "", f"a value is missing or not as expected: {error}", _ADVICE) from error


def _tables(path: Path, lines: Sequence[str]) -> dict[str, _Rows]:
    if not lines or not lines[0].startswith("#:GATKReport.v1.1:"):
        raise InputFormatError(path, "line 1", "not a GATKReport of version 1.1", _ADVICE)
    found: dict[str, _Rows] = {}
    k = 1
    while k < len(lines):
        if not lines[k].startswith("#:GATKTable:"):
            k += 1
            continue
        fields = lines[k].split(":")
        n = int(fields[3]) if len(fields) > 3 and fields[3].isdigit() else -1
        if n < 0 or k + 3 + n > len(lines):
            raise InputFormatError(path, f"line {k + 1}", "the table is cut short", _ADVICE)
        columns = {name: i for i, name in enumerate(lines[k + 2].split())}
        rows = [_GAP.split(line.strip()) for line in lines[k + 3 : k + 3 + n]]
        for number, row in enumerate(rows):
            if len(row) != len(columns):
                raise InputFormatError(path, f"line {k + 4 + number}", f"not {len(columns)} columns", _ADVICE)
        found[lines[k + 1].split(":")[2]] = _Rows(columns, rows, k + 4)
        k += 3 + n
    missing = {"Arguments", "Quantized", "RecalTable0", "RecalTable1", "RecalTable2"} - set(found)
    if missing:
        raise InputFormatError(path, "", f"no table {min(missing)}", _ADVICE)
    return found


def _options(arguments: _Rows) -> CountOptions:
    values = {row[0]: row[1].strip() for row in arguments.rows}
    if int(values["mismatches_context_size"]) != CONTEXT_SIZE:
        raise ValueError(f"contexts of {values['mismatches_context_size']} bases, not {CONTEXT_SIZE}")
    if values["covariate"] != _COVARIATES:
        raise ValueError(f"covariates {values['covariate']}")
    return CountOptions(
        max_cycle=int(values["maximum_cycle_value"]),
        low_quality_tail=int(values["low_quality_tail"]),
        quantizing_levels=int(values["quantizing_levels"]),
    )


def _mismatches(table: _Rows) -> Iterable[list[str]]:
    event = table.columns["EventType"]
    return (row for row in table.rows if row[event] == "M")


def _recalibration(tables: dict[str, _Rows]) -> Recalibration:
    options = _options(tables["Arguments"])
    at = tables["RecalTable0"].columns
    groups = list(_mismatches(tables["RecalTable0"]))
    names = tuple(row[at["ReadGroup"]] for row in groups)
    reported = np.array([float(row[at["EstimatedQReported"]]) for row in groups])
    group_errors = np.array([float(row[at["Errors"]]) for row in groups])
    index = {name: row for row, name in enumerate(names)}
    errors = np.zeros((len(names), N_QUALITIES))
    at = tables["RecalTable1"].columns
    for row in _mismatches(tables["RecalTable1"]):
        errors[index[row[at["ReadGroup"]]], int(row[at["QualityScore"]])] = float(row[at["Errors"]])
    counts = _read_cells(tables["RecalTable2"], index, options.max_cycle)
    at = tables["Quantized"].columns
    histogram = np.array([int(row[at["Count"]]) for row in tables["Quantized"].rows], np.int64)
    quantized = np.array([int(row[at["QuantizedScore"]]) for row in tables["Quantized"].rows], np.uint8)
    if len(quantized) != N_QUALITIES:
        raise ValueError(f"{len(quantized)} quantized qualities, not {N_QUALITIES}")
    return complete(names, counts, reported, group_errors, errors, histogram, quantized, options)


def _read_cells(table: _Rows, index: dict[str, int], max_cycle: int) -> Counts:
    counts = Counts.empty(len(index), max_cycle)
    contexts = {text: k for k, text in enumerate(_CONTEXTS)}
    at = table.columns
    group, score, value, name = at["ReadGroup"], at["QualityScore"], at["CovariateValue"], at["CovariateName"]
    n, wrong = at["Observations"], at["Errors"]
    for row in _mismatches(table):
        if row[name] == "Cycle":
            cycle = int(row[value])
            if abs(cycle) > max_cycle:
                raise ValueError(f"cycle {cycle}, more than {max_cycle}")
            cell = index[row[group]], int(row[score]), cycle + max_cycle
            counts.by_cycle[cell], counts.cycle_errors[cell] = int(row[n]), float(row[wrong])
        else:
            cell = index[row[group]], int(row[score]), contexts[row[value]]
            counts.by_context[cell], counts.context_errors[cell] = int(row[n]), float(row[wrong])
    return counts
