# SPDX-License-Identifier: Apache-2.0
"""The sample sheet: which FASTQ files belong to which sample of which person.

Two forms are read. The first is a table with a header (tab- or comma-separated) in the columns of
nf-core/sarek::

    patient  sample  sex  status  lane  fastq_1  fastq_2  [interleaved]  [open_data]

one row for each lane. `sex` is XX, XY or NA; `status` 0 (normal) or 1 (tumor); both may be left out. Without
`fastq_2` the reads of fastq_1 are unpaired, or, where `interleaved` is 1, mate 1 and mate 2 in turn; lanes of one
sample may differ. The second form is the list without a header that users of MegaBOLT have, lanes joined by
commas::

    sample  lane1_1.fq.gz,lane2_1.fq.gz  lane1_2.fq.gz,lane2_2.fq.gz  [adapter_1  adapter_2]

or, for unpaired reads, without the second files. Relative paths are relative to the sheet. Everything is checked
before any work starts, and every complaint names the sheet's line. `workflows/schemas/samples.schema.json` says
the same for other programs; a test keeps the two in step.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from megabolt.errors import InputFormatError, UsageError

REQUIRED = ("patient", "sample", "fastq_1", "fastq_2")
OPTIONAL = ("sex", "status", "lane", "interleaved", "open_data")
SEXES = ("XX", "XY", "NA")
STATUSES = ("0", "1")
INTERLEAVED = ("0", "1")

#: Names become parts of file names, of shell commands and of the SAM header.
NAME_PATTERN = "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$"

#: Columns of sarek's sheet that start later in the pipeline than megabolt does.
LATER_STARTS = ("bam", "bai", "cram", "crai", "table", "vcf", "spring_1", "spring_2", "variantcaller")

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Lane:
    """The FASTQ of one lane; becomes one read group. Without `fastq_2` it is interleaved or unpaired."""

    lane: str
    fastq_1: Path
    fastq_2: Path | None
    line: int
    interleaved: bool = False

    @property
    def paired(self) -> bool:
        return self.interleaved or self.fastq_2 is not None


@dataclass(frozen=True)
class Sample:
    """All lanes of one sample of one person."""

    patient: str
    sample: str
    sex: str
    status: int
    open_data: str
    lanes: tuple[Lane, ...]

    @property
    def is_tumor(self) -> bool:
        return self.status == 1


@dataclass(frozen=True)
class SampleSheet:
    """A checked sheet; `notes` are things the user should know."""

    path: Path
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    line: int
    patient: str
    sample: str
    sex: str
    status: str
    lane: str
    fastq_1: str
    fastq_2: str
    open_data: str
    interleaved: str = "0"


def check_name(name: str, what: str = "sample name") -> str:
    """Return the name, or raise `UsageError` where it cannot stand in a file name and a SAM header.

    Allowed are letters, digits and ``_ . + -``, not beginning with ``. + -``, at most 100 characters.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} '{name}' has characters that cannot stand in file names and SAM headers",
            "Use letters, digits and _ . + - only (no spaces), beginning with a letter or digit.",
        )
    return name


def read_sheet(path: Path) -> SampleSheet:
    """Read and check a sample sheet of either form.

    Raises
    ------
    UsageError
        The sheet does not exist or cannot be read.
    InputFormatError
        Anything wrong inside, with the line.
    """
    lines = _read_lines(path)
    if not lines:
        raise InputFormatError(path, "", "the sheet is empty", f"Its header is: {' '.join(REQUIRED)} ...")
    first = lines[0][1]
    cells = [cell.strip().lower() for cell in re.split(r"[\t,]", first)]
    notes: tuple[str, ...] = ()
    if "sample" in cells or "fastq_1" in cells or "patient" in cells:
        rows = _table_rows(path, lines)
    else:
        rows, notes = _list_rows(path, lines)
    samples = _group(path, [_check_row(path, row) for row in rows])
    return SampleSheet(path, samples, notes + _note_on_unpaired(path, samples))


def _note_on_unpaired(path: Path, samples: tuple[Sample, ...]) -> tuple[str, ...]:
    """A forgotten file of mate 2 must not pass unseen."""
    lines = sorted({lane.line for sample in samples for lane in sample.lanes if not lane.paired})
    if not lines:
        return ()
    rest = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    return (f"{path}, line {lines[0]}{rest}: without mate 2, so the reads are taken as unpaired",)


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines with text and their numbers, from 1; blank lines and lines beginning with # are left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFormatError(
            path,
            f"byte {error.start}",
            "not a text file in UTF-8",
            "Save the sheet as tab- or comma-separated text.",
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot read the sample sheet: {error.strerror}", "Check the path.") from error
    numbered = enumerate(text.splitlines(), 1)
    return [(i, line) for i, line in numbered if line.strip(" \t,") and not line.lstrip().startswith("#")]


def _table_rows(path: Path, lines: list[tuple[int, str]]) -> list[_Row]:
    delimiter = "\t" if "\t" in lines[0][1] else ","
    header_line = lines[0][0]
    parsed = [(i, [c.strip() for c in next(csv.reader([text], delimiter=delimiter))]) for i, text in lines]
    header = [name.lower() for name in parsed[0][1]]
    _check_header(path, header_line, header)
    if len(parsed) == 1:
        raise InputFormatError(path, f"line {header_line}", "the sheet has a header and no samples")
    rows = []
    for i, cells in parsed[1:]:
        if len(cells) != len(header):
            raise InputFormatError(
                path,
                f"line {i}",
                f"{len(cells)} columns where the header has {len(header)}",
                "Each row has a cell for each column, maybe empty; a comma inside a cell needs quotes.",
            )
        row = dict(zip(header, cells))
        rows.append(
            _Row(
                line=i,
                patient=row["patient"],
                sample=row["sample"],
                sex=row.get("sex") or "NA",
                status=row.get("status") or "0",
                lane=row.get("lane") or "",
                fastq_1=row["fastq_1"],
                fastq_2=row["fastq_2"],
                open_data=row.get("open_data", ""),
                interleaved=row.get("interleaved") or "0",
            )
        )
    return rows


def _check_header(path: Path, line: int, header: list[str]) -> None:
    where = f"line {line}"
    known = f"Columns are {' '.join(REQUIRED)} and, if wanted, {' '.join(OPTIONAL)}."
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise InputFormatError(path, where, f"column '{repeated[0]}' occurs twice", known)
    for name in header:
        if name in LATER_STARTS:
            raise InputFormatError(path, where, f"column '{name}' is not supported: megabolt starts from FASTQ", known)
        if name not in REQUIRED + OPTIONAL:
            raise InputFormatError(path, where, f"unknown column '{name}'", known)
    for name in REQUIRED:
        if name not in header:
            raise InputFormatError(path, where, f"column '{name}' is missing", known)


def _list_rows(path: Path, lines: list[tuple[int, str]]) -> tuple[list[_Row], tuple[str, ...]]:
    """Rows of the list without a header; the sample's name stands for the patient's too."""
    rows = []
    notes = []
    for i, line in lines:
        fields = line.split()
        if len(fields) not in (2, 3, 5):
            raise InputFormatError(
                path,
                f"line {i}",
                f"{len(fields)} fields, neither a header nor a sample list",
                "Write `sample  fq1a,fq1b  fq2a,fq2b`, or a table with the header "
                + " ".join((*REQUIRED[:2], *OPTIONAL[:3], *REQUIRED[2:]))
                + ".",
            )
        name, first = fields[0], fields[1].split(",")
        second = fields[2].split(",") if len(fields) > 2 else [""] * len(first)
        if len(first) != len(second):
            raise InputFormatError(
                path,
                f"line {i}",
                f"{len(first)} files of mate 1 and {len(second)} of mate 2",
                "Give both mates of each lane, in the same order.",
            )
        if len(fields) > 2 and not all(second):
            raise InputFormatError(
                path,
                f"line {i}",
                "a file of mate 2 is empty",
                "Lanes with and without mate 2 need the form of a table.",
            )
        if len(fields) == 5:
            notes.append(
                f"{path}, line {i}: adapter sequences are not used: adapters are found by the overlap of mates, and"
                " other ends that do not match are soft-clipped"
            )
        for k, (fastq_1, fastq_2) in enumerate(zip(first, second), 1):
            rows.append(_Row(i, name, name, "NA", "0", f"L{k}", fastq_1, fastq_2, ""))
    return rows, tuple(notes)


def _check_row(path: Path, row: _Row) -> _Row:
    where = f"line {row.line}"
    for what in ("patient", "sample", "lane"):
        value = getattr(row, what)
        if not value and what == "lane":
            continue
        if not value:
            raise InputFormatError(path, where, f"the {what} is empty", f"Give each row a {what}.")
        if not _NAME.fullmatch(value):
            raise InputFormatError(
                path,
                where,
                f"{what} '{value}' has illegal characters",
                "Use letters, digits and _ . + - only.",
            )
    if row.sex.upper() not in SEXES:
        raise InputFormatError(path, where, f"sex '{row.sex}' is not known", f"Use {', '.join(SEXES)}.")
    if row.status not in STATUSES:
        raise InputFormatError(path, where, f"status '{row.status}' is not known", "Use 0 (normal) or 1 (tumor).")
    if row.interleaved not in INTERLEAVED:
        raise InputFormatError(
            path,
            where,
            f"interleaved '{row.interleaved}' is not known",
            "Use 1 where fastq_1 holds mate 1 and mate 2 in turn, else 0 or nothing.",
        )
    if row.interleaved == "1" and row.fastq_2:
        raise InputFormatError(
            path,
            where,
            "the row is interleaved and has a fastq_2",
            "An interleaved file holds both mates: leave fastq_2 empty.",
        )
    return replace(row, sex=row.sex.upper())


def _group(path: Path, rows: list[_Row]) -> tuple[Sample, ...]:
    """Rows joined into samples, in the order of their first rows."""
    by_sample: dict[str, list[_Row]] = {}
    sex_of_patient: dict[str, _Row] = {}
    for row in rows:
        by_sample.setdefault(row.sample, []).append(row)
        known = sex_of_patient.setdefault(row.patient, row)
        if known.sex != row.sex:
            raise InputFormatError(
                path,
                f"line {row.line}",
                f"patient {row.patient} is {row.sex} here and {known.sex} on line {known.line}",
                "One person has one sex in all rows.",
            )
    _check_files(path, rows)
    return tuple(_sample(path, group) for group in by_sample.values())


def _sample(path: Path, rows: list[_Row]) -> Sample:
    first = rows[0]
    for row in rows[1:]:
        for what in ("patient", "status", "open_data"):
            ours, theirs = getattr(row, what), getattr(first, what)
            if ours != theirs:
                raise InputFormatError(
                    path,
                    f"line {row.line}",
                    f"sample {row.sample} has {what} '{ours}' here and '{theirs}' on line {first.line}",
                    "All lanes of a sample belong to one patient and share status and declaration.",
                )
    lanes: dict[str, Lane] = {}
    for k, row in enumerate(rows, 1):
        name = row.lane or (f"L{k}" if len(rows) == 1 else "")
        if not name:
            raise InputFormatError(
                path,
                f"line {row.line}",
                f"sample {row.sample} has several rows and no lane",
                "Number its lanes.",
            )
        if name in lanes:
            raise InputFormatError(
                path,
                f"line {row.line}",
                f"({row.patient}, {row.sample}, {name}) is already on line {lanes[name].line}",
                "Each (patient, sample, lane) stands once.",
            )
        second = _file(path, row.fastq_2) if row.fastq_2 else None
        lanes[name] = Lane(name, _file(path, row.fastq_1), second, row.line, row.interleaved == "1")
    return Sample(first.patient, first.sample, first.sex, int(first.status), first.open_data, tuple(lanes.values()))


def _check_files(path: Path, rows: Iterable[_Row]) -> None:
    """Each FASTQ exists and is used once: the same file in two rows is a mistake that mixes samples."""
    used: dict[Path, int] = {}
    for row in rows:
        where = f"line {row.line}"
        for column in ("fastq_1", "fastq_2"):
            text = getattr(row, column)
            if not text and column == "fastq_2":
                continue
            if not text:
                raise InputFormatError(path, where, f"{column} is empty", "Name the file of mate 1.")
            file = _file(path, text)
            if not file.is_file():
                raise InputFormatError(
                    path,
                    where,
                    f"{column} does not exist: {file}",
                    "Relative paths are relative to the sheet.",
                )
            real = file.resolve()
            if real in used:
                raise InputFormatError(
                    path,
                    where,
                    f"{file} is already used on line {used[real]}",
                    "Each FASTQ file stands once.",
                )
            used[real] = row.line


def _file(sheet: Path, text: str) -> Path:
    return sheet.absolute().parent / Path(text).expanduser()
