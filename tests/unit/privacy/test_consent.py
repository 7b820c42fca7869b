# SPDX-License-Identifier: Apache-2.0
"""The gate: who gets a permit, and that nobody can make one by other means."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from megabolt.errors import ConsentRefused
from megabolt.privacy import audit
from megabolt.privacy.consent import Permit, authorize

DECLARATION = "test suite: simulated reads, nobody's data"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def permit(log: Path) -> Permit:
    return authorize("S1", "germline", open_data=DECLARATION, audit_log=log)


def records(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_declared_data_are_permitted_and_recorded(permit: Permit, log: Path) -> None:
    assert (permit.subject, permit.purpose) == ("S1", "germline")
    assert permit.basis == f"open data: {DECLARATION}"
    permit.record("open-read", Path("a.fastq.gz"), mate=1)
    first, second = records(log)
    assert (first["action"], first["permit"], first["basis"]) == ("permit", permit.permit_id, permit.basis)
    assert (second["action"], second["permit"], second["facts"]) == (
        "open-read",
        permit.permit_id,
        {"mate": 1},
    )
    assert second["path"] == str(Path("a.fastq.gz").absolute())
    assert audit.verify_log(log).n_records == 2


@pytest.mark.parametrize("declaration", [None, "", "  \t", "yes", "TRUE", "1", "n/a", "--", "12.3"])
def test_undeclared_data_are_refused(declaration: str | None, log: Path) -> None:
    with pytest.raises(ConsentRefused) as caught:
        authorize("S1", "germline", open_data=declaration, audit_log=log)
    assert caught.value.exit_code == 77
    assert '--open-data "who says so and why"' in str(caught.value)
    assert "column open_data" in str(caught.value)
    assert [record["action"] for record in records(log)] == ["refuse"]


@pytest.mark.parametrize(("subject", "purpose"), [("", "germline"), ("S1", " ")])
def test_subject_and_purpose_are_needed(subject: str, purpose: str, log: Path) -> None:
    with pytest.raises(ConsentRefused, match="named"):
        authorize(subject, purpose, open_data=DECLARATION, audit_log=log)


def test_unwritable_log_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConsentRefused, match="cannot be written"):
        authorize("S1", "germline", open_data=DECLARATION, audit_log=tmp_path / "file" / "audit.jsonl")


def test_log_lost_after_the_permit_refuses(permit: Permit, log: Path) -> None:
    log.unlink()
    log.mkdir()
    with pytest.raises(ConsentRefused, match="cannot be written"):
        permit.record("open-read", "a.fastq")


def test_default_log_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGABOLT_AUDIT_LOG", str(tmp_path / "named.jsonl"))
    authorize("S1", "germline", open_data=DECLARATION)
    assert audit.verify_log(tmp_path / "named.jsonl").n_records == 1


def test_no_other_way_to_make_a_permit(permit: Permit) -> None:
    values = {field.name: "x" for field in dataclasses.fields(Permit)}
    attempts = [
        lambda: Permit(**values),
        lambda: Permit.__new__(Permit),
        lambda: dataclasses.replace(permit, purpose="anything"),
        lambda: copy.copy(permit),
        lambda: copy.deepcopy(permit),
        lambda: pickle.dumps(permit),
        lambda: pickle.loads(b"cmegabolt.privacy.consent\nPermit\n)\x81}b."),
        lambda: type("Mine", (Permit,), {}),
        lambda: permit.__setstate__(values),
    ]
    for attempt in attempts:
        with pytest.raises(ConsentRefused):
            attempt()


def test_permit_cannot_be_altered(permit: Permit) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        permit.subject = "S2"  # type: ignore[misc]


def test_forged_or_altered_permits_open_nothing(permit: Permit) -> None:
    forged = object.__new__(Permit)
    with pytest.raises(ConsentRefused):
        forged.record("open-read", "a.fastq")
    object.__setattr__(permit, "subject", "S2")
    with pytest.raises(ConsentRefused):
        permit.record("open-read", "a.fastq")
