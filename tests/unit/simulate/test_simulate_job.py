# SPDX-License-Identifier: Apache-2.0
"""Whole simulations: files, repeatability, the three ways to begin, the gate."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pysam
import pytest

from megabolt.cli import main as cli
from megabolt.errors import ConsentRefused, InputFormatError, UsageError
from megabolt.simulate.genome import GenomeOptions
from megabolt.simulate.job import SimulationRequest, SimulationSummary, run_simulate
from megabolt.simulate.reads import parse_name

OPEN = "simulated for a test"
SMALL = GenomeOptions(size=40_000, n_contigs=2)


def request(outdir: Path, **changes: object) -> SimulationRequest:
    return SimulationRequest(outdir=outdir, genome=SMALL, depth=3.0, seed=5, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    return run_simulate(request(tmp_path_factory.mktemp("made")))


def text(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def test_files(made: SimulationSummary) -> None:
    folder = made.files["mate1"].parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "R1.fastq.gz",
        "R2.fastq.gz",
        "ref.fa",
        "ref.fa.fai",
        "simulation.json",
        "truth.bed",
        "truth.vcf.gz",
        "truth.vcf.gz.tbi",
    ]
    report = json.loads((folder / "simulation.json").read_text())
    assert report["schema_version"] == 1
    assert report["n_pairs"] == made.n_pairs
    assert made.n_pairs == pytest.approx(3 * 40_000 * 0.99 / 300, abs=3)
    first, second = (text(made.files[mate]).splitlines() for mate in ("mate1", "mate2"))
    assert len(first) == len(second) == 4 * made.n_pairs
    assert first[0::4] == second[0::4]


def test_truth_is_indexed_and_phased(made: SimulationSummary) -> None:
    with pysam.VariantFile(str(made.files["truth"])) as file:
        records = list(file)
        assert list(file.fetch("sim2", 0, 5)) == []
    assert len(records) == made.n_variants > 20
    assert all(record.samples[0].phased for record in records)
    assert "##fileformat=VCFv4.3" in text(made.files["truth"])


def test_same_request_same_bytes(made: SimulationSummary, tmp_path: Path) -> None:
    again = run_simulate(request(tmp_path / "again"))
    for role, path in made.files.items():
        assert path.read_bytes() == again.files[role].read_bytes(), role


def test_given_reference_and_phased_variants_give_the_same_reads(made: SimulationSummary, tmp_path: Path) -> None:
    arguments = ["simulate", "--outdir", str(tmp_path / "out"), "--reference", str(made.files["reference"])]
    arguments += ["--variants", str(made.files["truth"]), "--pairs", str(made.n_pairs), "--seed", "5"]
    assert cli.main(arguments) == 77  # a phased VCF may be a person's
    assert cli.main([*arguments, "--open-data", OPEN]) == 0
    for mate in ("mate1", "mate2"):
        path = made.files[mate]
        assert text(tmp_path / "out" / path.name) == text(path)


def test_haplotypes_only(made: SimulationSummary, tmp_path: Path) -> None:
    reference = str(made.files["reference"])
    arguments = ["simulate", "--outdir", str(tmp_path), "--haplotypes", reference, reference, "--pairs", "20"]
    assert cli.main([*arguments, "--open-data", OPEN]) == 0
    assert not (tmp_path / "truth.vcf.gz").exists()
    names = text(tmp_path / "R1.fastq.gz").splitlines()[0::4]
    assert {parse_name(name[1:]).haplotype for name in names} == {1, 2}


def test_the_simulation_opens_its_own_permit(made: SimulationSummary, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    run_simulate(request(tmp_path / "out"), audit_log=log)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["basis"].startswith("open data: simulated by megabolt simulate")
    written = {Path(event["path"]).name for event in events if event["action"] == "open-write"}
    assert written == {"truth.vcf.gz", "R1.fastq.gz", "R2.fastq.gz"}


def test_given_data_need_a_declaration(made: SimulationSummary, tmp_path: Path) -> None:
    asked = request(tmp_path, reference=made.files["reference"], phased=made.files["truth"])
    with pytest.raises(UsageError, match="declaration"):
        run_simulate(asked)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0.0},
        {"pairs": 0},
        {"seed": -1},
        {"sample": "two words"},
        {"phased": Path("x.vcf")},
        {"reference": Path("a.fa"), "haplotypes": (Path("a.fa"), Path("b.fa"))},
    ],
)
def test_impossible_requests(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        SimulationRequest(outdir=tmp_path, **wrong)  # type: ignore[arg-type]


def test_variants_of_another_reference(made: SimulationSummary, tmp_path: Path) -> None:
    other = tmp_path / "other.fa"
    other.write_text(">sim1\n" + "ACGT" * 10_000 + "\n>sim2\n" + "ACGT" * 10_000 + "\n")
    arguments = ["simulate", "--outdir", str(tmp_path / "out"), "--reference", str(other)]
    assert cli.main([*arguments, "--variants", str(made.files["truth"]), "--open-data", OPEN]) == 1


def test_errors_have_their_classes() -> None:
    assert ConsentRefused.exit_code == 77
    assert InputFormatError.exit_code == 1
