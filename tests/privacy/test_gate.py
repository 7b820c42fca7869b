# SPDX-License-Identifier: Apache-2.0
"""No path around the gate: every function that opens a person's data needs a permit and records it first."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import ConsentRefused
from megabolt.formats.bam import BamHeader, BamReader, BamWriter, CramReader, RecordBlock, open_reads, read_records
from megabolt.formats.fasta import Contig, read_fasta
from megabolt.formats.fastq import read_pairs
from megabolt.privacy.consent import Permit, authorize

OPENERS = {
    "fastq": ["read_pairs"],
    "bam": ["BamReader", "BamWriter", "CramReader", "open_reads", "read_records"],
    "vcf": ["read_vcf", "write_vcf"],
    "gvcf": ["GvcfFile"],
}

#: What other modules may import from the gate: nothing that makes a permit but `authorize`.
ALLOWED_FROM_CONSENT = {
    "ALIGNMENT",
    "GERMLINE_CALLING",
    "JOINT_CALLING",
    "Permit",
    "WHAT_TO_TYPE",
    "authorize",
    "check",
}

_opened: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)  # cannot be removed: it sleeps between tests


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths this process opens during the test, in order."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


@pytest.mark.parametrize("name", [f"{module}.{name}" for module, names in OPENERS.items() for name in names])
def test_openers_need_a_permit(name: str) -> None:
    module, function = name.split(".")
    opener = getattr(importlib.import_module(f"megabolt.formats.{module}"), function)
    parameter = inspect.signature(opener).parameters["permit"]
    assert parameter.default is inspect.Parameter.empty
    assert parameter.annotation in (Permit, "Permit")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def permit(log: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=log)


@pytest.fixture
def openers(tmp_path: Path, permit: Permit) -> list[tuple[Path, Callable[[], object]]]:
    """Each with the file it opens; all of them succeed."""
    fastq = [tmp_path / "r1.fq", tmp_path / "r2.fq"]
    for path in fastq:
        path.write_text("@a\nACGT\n+\nIIII\n")
    (tmp_path / "ref.fa").write_text(">chr1\nACGTACGTACGT\n")
    contigs = read_fasta(tmp_path / "ref.fa").contigs
    nothing = RecordBlock(np.zeros(PADDING, np.uint8), np.zeros(1, np.int64))
    bam, cram = tmp_path / "a.bam", tmp_path / "a.cram"

    def write(path: Path) -> None:
        with BamWriter(path, BamHeader.build(contigs), permit, reference=tmp_path / "ref.fa") as writer:
            writer.write(nothing)

    write(bam)
    write(cram)
    reference = tmp_path / "ref.fa"
    return [
        (fastq[0], lambda: list(read_pairs([fastq[0]], [fastq[1]], permit))),
        (fastq[1], lambda: list(read_pairs([fastq[0]], [fastq[1]], permit))),
        (bam, lambda: BamReader(bam, permit).close()),
        (bam, lambda: open_reads(bam, permit).close()),
        (bam, lambda: read_records(bam, permit)),
        (cram, lambda: CramReader(cram, permit, reference=reference).close()),
        (cram, lambda: open_reads(cram, permit, reference=reference).close()),
        (bam, lambda: write(bam)),
        (cram, lambda: write(cram)),
    ]


def test_the_record_comes_before_the_opening(openers: list, log: Path, opened: list[str]) -> None:
    for path, opener in openers:
        before = len(log.read_text().splitlines())
        opened.clear()
        opener()
        records = [json.loads(line) for line in log.read_text().splitlines()[before:]]
        own = [record for record in records if record["path"] == str(path)]
        assert len(own) == 1
        assert own[0]["action"] in ("open-read", "open-write")
        touched = [i for i, name in enumerate(opened) if path.name in name and name != str(log)]
        recorded = [i for i, name in enumerate(opened) if name == str(log)]
        assert min(recorded) < min(touched)


def test_without_a_record_no_data_are_opened(openers: list, log: Path, opened: list[str]) -> None:
    log.unlink()
    log.mkdir()
    for path, opener in openers:
        opened.clear()
        with pytest.raises(ConsentRefused):
            opener()
        assert not [name for name in opened if path.name in name]


def test_a_forged_permit_opens_nothing(tmp_path: Path, opened: list[str]) -> None:
    forged = object.__new__(Permit)
    header = BamHeader.build([Contig("chr1", 10, "")])
    for opener in (
        lambda: read_pairs([tmp_path / "a"], [tmp_path / "b"], forged),
        lambda: BamReader(tmp_path / "a", forged),
        lambda: open_reads(tmp_path / "a", forged),
        lambda: BamWriter(tmp_path / "a", header, forged),
    ):
        with pytest.raises(ConsentRefused):
            opener()
    assert not [name for name in opened if name.startswith(str(tmp_path))]


def test_only_the_gate_makes_permits() -> None:
    """Nobody else touches its register or builds the object by other means."""
    package = Path(sys.modules["megabolt"].__file__ or "").parent
    for path in package.rglob("*.py"):
        if path == package / "privacy" / "consent.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("Permit", "consent.Permit"), path
                made = [ast.unparse(argument) for argument in node.args]
                assert not (called.endswith("__new__") and any("Permit" in name for name in made)), path
            if isinstance(node, ast.ImportFrom) and node.module == "megabolt.privacy.consent":
                assert {name.name for name in node.names} <= ALLOWED_FROM_CONSENT, path
