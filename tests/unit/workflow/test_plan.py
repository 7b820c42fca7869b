# SPDX-License-Identifier: Apache-2.0
"""From configuration and sheet to files and options."""

from __future__ import annotations

import dataclasses
import json
import shlex
import typing
from pathlib import Path
from typing import Any

import pytest

from megabolt.align.options import AlignOptions
from megabolt.errors import UsageError
from megabolt.formats.lane import UMI_SOURCES
from megabolt.workflow.plan import ASSAYS, Plan, ReadsPlan, load_plan

#: What the aligner is asked for by default.
ALIGNMENT = ["--adapters", "clip", "--poly-g", "auto", "--xa", "0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a1", "a2", "b1", "b2", "c1", "c2"):
        (tmp_path / f"{name}.fq").touch()
    (tmp_path / "s.csv").write_text(
        "patient,sample,status,lane,fastq_1,fastq_2,open_data\n"
        "P,S,0,L1,a1.fq,a2.fq,sheet: open\n"
        "P,S,0,L2,b1.fq,b2.fq,sheet: open\n"
        "Q,T,0,L1,c1.fq,c2.fq,\n"
    )
    return tmp_path


def plan(folder: Path, **config: Any) -> Plan:
    return load_plan({"assay": "wgs", "sheet": "s.csv", "reference": "ref.fa", **config}, base=folder)


def test_files(folder: Path) -> None:
    found = plan(folder)
    assert found.names == ("S", "T")
    assert found.index == folder / "ref.fa.mbx"
    assert found.fastq("S") == [str(folder / f"{name}.fq") for name in ("a1", "a2", "b1", "b2")]
    assert set(found.outputs("S")) == {"metrics", "vcf", "tbi", "bam", "bai"}
    assert found.outputs()["vcf"] == "{sample}/{sample}.vcf.gz"
    assert set(plan(folder, bam=False, gvcf=True).outputs("S")) == {"metrics", "vcf", "tbi", "gvcf", "gvcf_tbi"}
    assert found.reports() == {"metrics": ["S/S.metrics.json", "T/T.metrics.json"], "comparisons": []}


def test_options_survive_a_shell(folder: Path) -> None:
    found = plan(folder, gvcf=True, bam=False, targets="my targets.bed", audit_log="log's.jsonl")
    assert shlex.split(found.options("S")) == [
        "-1",
        *(str(folder / f"{name}.fq") for name in ("a1", "b1")),
        "-2",
        *(str(folder / f"{name}.fq") for name in ("a2", "b2")),
        "--read-group",
        "@RG\\tID:S.L1\\tSM:S\\tLB:S\\tPL:ILLUMINA\\tPU:L1",
        "--read-group",
        "@RG\\tID:S.L2\\tSM:S\\tLB:S\\tPL:ILLUMINA\\tPU:L2",
        *ALIGNMENT,
        "--gvcf",
        "--no-bam",
        "--targets",
        str(folder / "my targets.bed"),
        "--audit-log",
        str(folder / "log's.jsonl"),
    ]


def test_lanes_of_all_kinds(folder: Path) -> None:
    """Read groups come in the order of the options that name the lanes."""
    (folder / "s.csv").write_text(
        "patient,sample,lane,fastq_1,fastq_2,interleaved\nP,S,L1,a1.fq,,\nP,S,L2,b1.fq,,1\nP,S,L3,c1.fq,c2.fq,0\n"
    )
    found = plan(folder)
    assert found.fastq("S") == [str(folder / f"{name}.fq") for name in ("a1", "b1", "c1", "c2")]
    words = shlex.split(found.options("S"))
    files = [str(folder / f"{name}.fq") for name in ("c1", "c2", "b1", "a1")]
    assert words[:8] == ["-1", files[0], "-2", files[1], "--interleaved", files[2], "--single", files[3]]
    groups = [words[i + 1] for i, word in enumerate(words) if word == "--read-group"]
    assert [group.split("ID:")[1].split("\\t")[0] for group in groups] == ["S.L3", "S.L2", "S.L1"]


def test_options_of_the_aligner(folder: Path) -> None:
    found = plan(folder, umi="name", adapters="trim", poly_g="off", soft_clip=True, xa=5, alt=False)
    words = shlex.split(found.options("S"))
    assert words[words.index("--umi") :] == [
        *("--umi", "name", "--adapters", "trim", "--poly-g", "off", "--xa", "5", "--soft-clip", "--no-alt"),
    ]
    assert found.align == AlignOptions("trim", "off", True, 5, False)
    assert plan(folder, xa=None, umi=None).align == AlignOptions()


def test_the_schema_knows_the_options_of_the_aligner(checkout: Path) -> None:
    schema = json.loads((checkout / "workflows/schemas/config.schema.json").read_text())["properties"]
    for one in dataclasses.fields(AlignOptions):
        assert schema[one.name]["default"] == one.default
    hints = typing.get_type_hints(AlignOptions)
    assert schema["adapters"]["enum"] == list(typing.get_args(hints["adapters"]))
    assert schema["poly_g"]["enum"] == list(typing.get_args(hints["poly_g"]))
    assert schema["umi"]["enum"] == [*UMI_SOURCES, None]


def test_options_of_reads(folder: Path, checkout: Path) -> None:
    found = plan(folder, cram=True, known_sites=["k.vcf"], remove_duplicates=True, optical_distance=2500, scratch="/s")
    words = shlex.split(found.options("S"))
    assert words[words.index("--cram") :] == [
        *("--cram", "--remove-duplicates", "--optical-distance", "2500"),
        *("--bqsr", str(folder / "k.vcf"), "--scratch", "/s"),
    ]
    outputs = found.outputs("S")
    assert (outputs["cram"], outputs["crai"]) == ("S/S.cram", "S/S.cram.crai")
    assert outputs["table"] == "S/S.recalibration.table"
    assert plan(folder).reads.words() == []
    schema = json.loads((checkout / "workflows/schemas/config.schema.json").read_text())["properties"]
    assert {one.name for one in dataclasses.fields(ReadsPlan)} <= set(schema)


def test_the_sheet_s_declaration_comes_first(folder: Path) -> None:
    found = plan(folder, open_data="run: open")
    assert (found.declaration("S"), found.declaration("T")) == ("sheet: open", "run: open")
    assert plan(folder).declaration("T") == ""


def test_truth(folder: Path) -> None:
    found = plan(folder, truth={"S": {"vcf": "t.vcf.gz", "regions": "t.bed"}, "T": {"vcf": "u.vcf.gz"}})
    assert found.reports()["comparisons"] == ["S/S.compare.json", "T/T.compare.json"]
    assert shlex.split(found.compare_options("S")) == ["--regions", str(folder / "t.bed")]
    assert found.compare_options("T") == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"assay": "rna"}, ", ".join(ASSAYS)),
        ({"assay": "wes"}, "--targets"),
        ({"assay": "panel"}, "--targets"),
        ({"truth": {"X": {"vcf": "t.vcf.gz"}}}, "no sample X"),
        ({"reference": "{ref}.fa"}, "braces"),
        ({"memory": "lots"}, "'lots'"),
        ({"sheet": None}, "no 'sheet'"),
        ({"umi": "index"}, "'index'"),
    ],
)
def test_contradictions(config: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        plan(folder, **config)
    assert words in str(caught.value)


def test_tumors_are_refused(folder: Path) -> None:
    sheet = folder / "s.csv"
    sheet.write_text(sheet.read_text().replace("Q,T,0", "Q,T,1"))
    with pytest.raises(UsageError, match="sample T is a tumor"):
        plan(folder)
