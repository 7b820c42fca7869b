# SPDX-License-Identifier: Apache-2.0
"""Sample sheets: both forms, and every complaint with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabolt.errors import InputFormatError, UsageError
from megabolt.workflow import sheet
from megabolt.workflow.sheet import Lane, SampleSheet, check_name, read_sheet

HEADER = "patient\tsample\tsex\tstatus\tlane\tfastq_1\tfastq_2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}_1.fq.gz").touch()
        (tmp_path / f"{name}_2.fq.gz").touch()
    return tmp_path


def read(folder: Path, *lines: str, name: str = "samples.tsv") -> SampleSheet:
    path = folder / name
    path.write_bytes("\n".join(lines).encode())
    return read_sheet(path)


def row(
    patient: str = "P",
    sample: str = "S",
    sex: str = "XX",
    status: str = "0",
    lane: str = "L1",
    file: str = "a",
) -> str:
    return "\t".join([patient, sample, sex, status, lane, f"{file}_1.fq.gz", f"{file}_2.fq.gz"])


def test_lanes_are_joined_and_paths_are_relative_to_the_sheet(folder: Path) -> None:
    found = read(
        folder,
        HEADER,
        row(lane="L1", file="a"),
        row(sample="T", status="1", file="c"),
        row(lane="L2", file="b"),
    )
    first, second = found.samples
    assert (first.patient, first.sample, first.sex, first.is_tumor) == ("P", "S", "XX", False)
    assert first.lanes == (
        Lane("L1", folder / "a_1.fq.gz", folder / "a_2.fq.gz", 2),
        Lane("L2", folder / "b_1.fq.gz", folder / "b_2.fq.gz", 4),
    )
    assert (second.sample, second.is_tumor) == ("T", True)


def test_optional_columns_may_be_missing(folder: Path) -> None:
    found = read(folder, "sample,patient,fastq_2,fastq_1", "S,P,a_2.fq.gz,a_1.fq.gz", name="samples.csv")
    (sample,) = found.samples
    assert (sample.sex, sample.status, sample.open_data) == ("NA", 0, "")
    assert sample.lanes[0].fastq_1.name == "a_1.fq.gz"


def test_spreadsheet_habits_are_accepted(folder: Path) -> None:
    """Byte-order mark, CRLF, quotes, upper-case header, trailing empty rows, comments."""
    found = read(
        folder,
        "\ufeffPatient,Sample,Fastq_1,Fastq_2,Open_data\r",
        "# Monday's run\r",
        'P,S,a_1.fq.gz,a_2.fq.gz,"J. Smith: open, consented"\r',
        ",,,,\r",
        "\r",
        name="samples.csv",
    )
    assert found.samples[0].open_data == "J. Smith: open, consented"


def test_the_list_of_the_vendor_tool(folder: Path) -> None:
    found = read(
        folder,
        "S a_1.fq.gz,b_1.fq.gz a_2.fq.gz,b_2.fq.gz",
        "T\tc_1.fq.gz\tc_2.fq.gz\tACGT\tTTTT",
        name="sample.list",
    )
    first, second = found.samples
    assert [lane.lane for lane in first.lanes] == ["L1", "L2"]
    assert [lane.fastq_2.name for lane in first.lanes] == ["a_2.fq.gz", "b_2.fq.gz"]
    assert second.patient == "T"
    assert len(found.notes) == 1
    assert "line 2: adapter sequences are not used" in found.notes[0]


def test_lanes_without_a_second_file(folder: Path) -> None:
    """Paired, interleaved and unpaired lanes of one sample."""
    (folder / "d_1.fq").touch()
    found = read(
        folder,
        "patient,sample,lane,fastq_1,fastq_2,interleaved",
        "P,S,L1,a_1.fq.gz,a_2.fq.gz,0",
        "P,S,L2,b_1.fq.gz,,1",
        "P,S,L3,c_1.fq.gz,,",
        "P,S,L4,d_1.fq.gz,d_2.fq.gz,",
        "P,S,L5,d_1.fq,,0",
        name="samples.csv",
    )
    lanes = found.samples[0].lanes
    assert [(lane.paired, lane.interleaved, lane.fastq_2 is not None) for lane in lanes] == [
        (True, False, True),
        (True, True, False),
        (False, False, False),
        (True, False, True),
        (False, False, False),
    ]
    assert lanes[1].fastq_1 == folder / "b_1.fq.gz"
    assert len(found.notes) == 1
    assert "line 4 and 1 more: without mate 2, so the reads are taken as unpaired" in found.notes[0]


def test_a_list_without_second_files(folder: Path) -> None:
    found = read(folder, "S a_1.fq.gz,b_1.fq.gz", "T c_1.fq.gz c_2.fq.gz", name="sample.list")
    assert [[lane.paired for lane in sample.lanes] for sample in found.samples] == [[False, False], [True]]
    assert len(found.notes) == 1
    assert "line 1: without mate 2" in found.notes[0]


def test_no_note_where_all_have_mates(folder: Path) -> None:
    assert read(folder, HEADER, row()).notes == ()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["empty"]),
        ([HEADER], ["line 1", "no samples"]),
        ([HEADER + "\tcolour", row() + "\tred"], ["line 1", "unknown column 'colour'", "open_data"]),
        ([HEADER + "\tbam", row() + "\tx.bam"], ["line 1", "'bam' is not supported", "FASTQ"]),
        ([HEADER + "\tlane", row() + "\tL1"], ["line 1", "'lane' occurs twice"]),
        (["patient\tfastq_1\tfastq_2", "P\ta\tb"], ["line 1", "'sample' is missing"]),
        ([HEADER, row() + "\textra"], ["line 2", "8 columns where the header has 7"]),
        ([HEADER, row(), row(file="b")], ["line 3", "(P, S, L1) is already on line 2"]),
        ([HEADER, row(lane=""), row(lane="", file="b")], ["several rows and no lane"]),
        (
            [HEADER, "", row(), row(patient="Q", lane="L2", file="b")],
            ["line 4", "patient 'Q'", "'P' on line 3"],
        ),
        (
            [HEADER, row(), row(sex="XY", sample="T", file="b")],
            ["line 3", "patient P is XY here and XX on line 2"],
        ),
        ([HEADER, row(), row(status="1", lane="L2", file="b")], ["line 3", "status '1'", "'0' on line 2"]),
        ([HEADER, row(sex="male")], ["line 2", "sex 'male'", "XX, XY, NA"]),
        ([HEADER, row(status="tumor")], ["line 2", "status 'tumor'", "0 (normal) or 1 (tumor)"]),
        ([HEADER, row(sample="S/1")], ["line 2", "sample 'S/1' has illegal characters"]),
        ([HEADER, row(sample="$(rm)")], ["line 2", "illegal characters"]),
        ([HEADER, row(patient="..")], ["line 2", "illegal characters"]),
        ([HEADER, row(sample="")], ["line 2", "sample is empty"]),
        ([HEADER, row(file="nowhere")], ["line 2", "fastq_1 does not exist", "relative to the sheet"]),
        ([HEADER, row(), row(sample="T", file="a")], ["line 3", "a_1.fq.gz is already used on line 2"]),
        ([HEADER, "P\tS\tXX\t0\tL1\ta_1.fq.gz\ta_1.fq.gz"], ["line 2", "already used"]),
        ([HEADER, "P\tS\tXX\t0\tL1\t\ta_2.fq.gz"], ["line 2", "fastq_1 is empty"]),
        ([HEADER, "P\tS\tXX\t0\tL1\t\t"], ["line 2", "fastq_1 is empty"]),
        ([HEADER, "P\tS\tXX\t0\tL1\ta_1.fq.gz\tnowhere"], ["line 2", "fastq_2 does not exist"]),
        ([HEADER + "\tinterleaved", row() + "\t1"], ["line 2", "interleaved and has a fastq_2"]),
        ([HEADER + "\tinterleaved", row() + "\tyes"], ["line 2", "interleaved 'yes'", "Use 1"]),
        (["S"], ["line 1", "1 fields", "fq1a,fq1b"]),
        (["S a_1.fq.gz a_2.fq.gz ACGT"], ["line 1", "4 fields"]),
        (["S a_1.fq.gz,b_1.fq.gz a_2.fq.gz,"], ["line 1", "mate 2 is empty", "table"]),
        (["S a_1.fq.gz,a_1.fq.gz"], ["line 1", "already used"]),
        (["S a_1.fq.gz,b_1.fq.gz a_2.fq.gz"], ["line 1", "2 files of mate 1 and 1 of mate 2"]),
    ],
)
def test_each_mistake_is_named_with_its_line(lines: list[str], words: list[str], folder: Path) -> None:
    with pytest.raises(InputFormatError) as caught:
        read(folder, *lines)
    for word in ["samples.tsv", *words]:
        assert word in str(caught.value)


def test_not_text(folder: Path) -> None:
    path = folder / "samples.xlsx"
    path.write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(InputFormatError, match="not a text file"):
        read_sheet(path)


def test_missing_sheet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.tsv: cannot read the sample sheet"):
        read_sheet(tmp_path / "nowhere.tsv")


@pytest.mark.parametrize("name", ["HG002", "S-1.2_x+y", "9", "x" * 100])
def test_legal_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a\tb", "a/b", "ä", "x" * 101, "a\n"])
def test_illegal_names(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


def test_the_schema_says_the_same(checkout: Path) -> None:
    schema = json.loads((checkout / "workflows/schemas/samples.schema.json").read_text())
    columns = schema["properties"]
    assert set(columns) == {*sheet.REQUIRED, *sheet.OPTIONAL}
    assert schema["required"] == list(sheet.REQUIRED)
    assert columns["sex"]["enum"] == list(sheet.SEXES)
    assert columns["status"]["enum"] == list(sheet.STATUSES)
    assert set(columns["interleaved"]["enum"]) == {*sheet.INTERLEAVED, ""}
    assert columns["sample"]["pattern"] == columns["patient"]["pattern"] == sheet.NAME_PATTERN
