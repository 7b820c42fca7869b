# SPDX-License-Identifier: Apache-2.0
"""The wheel: device sources and workflows are inside, and an installed package works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def unpacked(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, as an installation would put it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("megabolt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_everything_is_inside(checkout: Path, unpacked: Path) -> None:
    for source, target in (("kernels", "_kernels"), ("workflows", "_workflows"), ("megabolt", ".")):
        for path in (checkout / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                assert (unpacked / "megabolt" / target / path.relative_to(checkout / source)).is_file(), path
    assert not (unpacked / "kernels").exists()
    assert not (unpacked / "tests").exists()


def test_a_run_from_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    """Plans a run with the Snakefiles of the wheel; nothing of the checkout is on the path."""
    for name in ("ref.fa", "S_1.fq", "S_2.fq"):
        (tmp_path / name).touch()
    (tmp_path / "samples.csv").write_text("patient,sample,fastq_1,fastq_2\nP,S,S_1.fq,S_2.fq\n")
    words = ["run", "samples.csv", "--reference", "ref.fa", "--outdir", "out", "--assay", "wgs", "--dry-run"]
    program = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r});"
        "from megabolt.workflow.run import workflow_folder; print(workflow_folder());"
        "from megabolt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--open-data", "the tests: made up"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{unpacked}/megabolt/_workflows\n"
    assert "_workflows/germline/Snakefile" in (tmp_path / "out/.megabolt/snakemake.log").read_text()
