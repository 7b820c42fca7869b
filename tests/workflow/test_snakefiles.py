# SPDX-License-Identifier: Apache-2.0
"""The Snakefiles: format, lint, dry run of each assay, and configurations that the schema refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ASSAYS = ("wgs", "wes", "panel")


def snakemake(checkout: Path, folder: Path, *words: str, preset: str = "wgs", **config: Any) -> str:
    """Run snakemake on the germline workflow; returns what it said, with its exit code on top."""
    extra = folder / "config.json"
    extra.write_text(json.dumps({"sheet": "samples.csv", "reference": "ref.fa", **config}))
    command = [sys.executable, "-m", "snakemake", "--profile", "none", "--workflow-profile", "none"]
    command += ["--snakefile", str(checkout / "workflows/germline/Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(checkout / f"workflows/germline/config/{preset}.yaml"), str(extra)]
    done = subprocess.run(
        [*command, "--cores", "1", "--scheduler", "greedy", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return f"exit {done.returncode}\n{done.stdout}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ref.fa", "targets.bed", "truth.vcf.gz", "S_1.fq", "S_2.fq", "T_1.fq", "T_2.fq"):
        (tmp_path / name).touch()
    (tmp_path / "samples.csv").write_text(
        "patient,sample,fastq_1,fastq_2,open_data\nP,S,S_1.fq,S_2.fq,me: made up\nQ,T,T_1.fq,T_2.fq,me: made up\n"
    )
    return tmp_path


def test_format(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", str(checkout / "workflows")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_lint(checkout: Path, folder: Path) -> None:
    said = snakemake(checkout, folder, "--lint", truth={"S": {"vcf": "truth.vcf.gz"}})
    assert "your workflow is in a good condition" in said


@pytest.mark.parametrize("assay", ASSAYS)
def test_dry_run(assay: str, checkout: Path, folder: Path) -> None:
    targets = {} if assay == "wgs" else {"targets": "targets.bed"}
    said = snakemake(
        checkout,
        folder,
        "--dry-run",
        "--printshellcmds",
        preset=assay,
        truth={"S": {"vcf": "truth.vcf.gz", "regions": "targets.bed"}},
        **targets,
    )
    assert said.startswith("exit 0\n"), said
    counts = dict(re.findall(r"^(\w+)  +(\d+)$", said, re.MULTILINE))
    assert counts == {
        "all": "1",
        "compare": "1",
        "declaration": "2",
        "germline": "2",
        "index": "1",
        "report": "1",
        "total": "8",
    }
    germline = [line for line in said.splitlines() if "megabolt germline" in line]
    assert len(germline) == 2
    for line in germline:
        assert '--open-data "$(cat declarations/' in line
        assert ("--targets" in line) == (assay != "wgs")


@pytest.mark.parametrize("assay", ["wes", "panel"])
def test_targeted_assays_need_targets(assay: str, checkout: Path, folder: Path) -> None:
    said = snakemake(checkout, folder, "--dry-run", preset=assay)
    assert not said.startswith("exit 0\n")
    assert "targets" in said


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"assay": "rna"}, "'rna' is not one of"),
        ({"threads": 0}, "0 is less than the minimum"),
        ({"colour": "red"}, "'colour' was unexpected"),
        ({"truth": {"S": {}}}, "'vcf' is a required property"),
    ],
)
def test_the_schema_refuses(config: dict[str, Any], words: str, checkout: Path, folder: Path) -> None:
    said = snakemake(checkout, folder, "--dry-run", **config)
    assert not said.startswith("exit 0\n")
    assert words in said


def test_the_environment_names_this_version(checkout: Path) -> None:
    from megabolt import __version__

    assert f"megabolt=={__version__}" in (checkout / "workflows/germline/envs/megabolt.yaml").read_text()
