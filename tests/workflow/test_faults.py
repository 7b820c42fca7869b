# SPDX-License-Identifier: Apache-2.0
"""Faults at random places of whole jobs: nothing wrong or partial gets a final name, and the next run succeeds.

`MEGABOLT_FAULTS` says how many injections (default: 6); 50 are the project's promise. Each is a test of
its own, drawn from its number, so that any of them can be repeated.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pysam
import pytest

from megabolt.cli.main import main

N_FAULTS = int(os.environ.get("MEGABOLT_FAULTS", "6"))
DECLARED = ["--open-data", "the tests: simulated"]
KINDS = (
    "full disk",
    "SIGKILL",
    "kill-rename",
    "SIGTERM",
    "write",
    "corrupt input",
    "flush",
    "limit on files",
    "rename",
    "truncated input",
    "kill-write",
    "read",
    "SIGINT",
)
SIGNALS = {name: getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT")}
#: Bytes for records where they shall not fit: a third of what the reads take.
SPILL_BUDGET = 4 << 20
HARNESS = Path(__file__).with_name("faulty.py")


@dataclass
class World:
    """Inputs, and of each job: its files and their content after a run without faults, and its seconds."""

    folder: Path
    inputs: dict[str, Path] = field(default_factory=dict)
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


def words_of(job: str, inputs: dict[str, Path]) -> list[str]:
    """The command line of a job; outputs are relative, so that they do not depend on the folder."""
    common = ["--threads", "2", "--memory", "1500M", *DECLARED]
    reads = ["--reference", str(inputs["ref.fa"]), "--sample", "S"]
    reads += ["-1", str(inputs["R1.fastq.gz"]), "-2", str(inputs["R2.fastq.gz"])]
    if job == "germline":
        return ["germline", *reads, "--outdir", "out", "--gvcf", *common]
    if job == "markdup":
        return ["markdup", str(inputs["unsorted.bam"]), "-o", "out/S.bam", *common]
    if job == "spill":
        return ["align", *reads, "-o", "out/S.bam", "--scratch", "scratch", *common]
    return ["align", *reads, "-o", f"out/S.{job}", *common]


#: What is disturbed; "spill" is "bam" with memory for a fraction of the reads.
JOBS = ["bam", "germline", "cram", "spill", "markdup"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    found = World(tmp_path_factory.mktemp("world"))
    size = ["--genome-size", "300000", "--contigs", "2", "--depth", "12", "--seed", "7"]
    assert main(["simulate", "--outdir", str(found.folder), *size]) == 0
    assert main(["index", str(found.folder / "ref.fa")]) == 0
    found.inputs = {name: found.folder / name for name in ("ref.fa", "R1.fastq.gz", "R2.fastq.gz")}
    pysam.faidx(str(found.inputs["ref.fa"]))
    for job in JOBS:
        if job == "markdup":
            found.inputs["unsorted.bam"] = found.folder / "unsorted.bam"
            pysam.sort("-n", "-o", str(found.inputs["unsorted.bam"]), str(found.folder / "bam/out/S.bam"))
        work = found.folder / job
        (work / "out").mkdir(parents=True)
        began = time.perf_counter()
        code, said = run(work, words_of(job, found.inputs))
        found.seconds[job] = time.perf_counter() - began
        assert code == 0, said
        found.expected[job] = state(work / "out", found)
        found.bytes[job] = sum(path.stat().st_size for path in (work / "out").rglob("*") if path.is_file())
        assert len(found.expected[job]) >= 2
    assert found.expected["spill"]["S.bam"] == found.expected["bam"]["S.bam"]
    return found


def run(
    work: Path,
    words: list[str],
    *,
    fault: tuple[str, int] = ("none", 0),
    watch: Path | None = None,
    stop: tuple[int, float] | None = None,
    limit: int | None = None,
) -> tuple[int, str]:
    """Run a job in a folder, perhaps with a fault; its exit code and what it said.

    Parameters
    ----------
    fault, watch
        Kind and number for faulty.py, and the folder whose files it looks at.
    stop
        A signal, and the seconds after which it is sent.
    limit
        Bytes a file may have (RLIMIT_FSIZE).
    """
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch), "MEGABOLT_AUDIT_LOG": str(work / "audit.jsonl")}
    if "--scratch" in words:
        environment["FAULTY_BUDGET"] = str(SPILL_BUDGET)
    command = [sys.executable, str(HARNESS), fault[0], str(fault[1]), str(watch or work), "--", *words]

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with (work / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=work, env=environment, stderr=said, preexec_fn=limited)
        if stop is not None:
            number, seconds = stop
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        process.wait(300)
        said.seek(0)
        return process.returncode, said.read()


def state(folder: Path, world: World) -> dict[str, str]:
    """Each file with a final name -> what it holds, without what differs from run to run."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {name: digest(folder / name, world) for name in names if not is_temporary(name)}


def is_temporary(name: str) -> bool:
    """Files that wait for their name are hidden; what memory does not hold is in folders megabolt-PID-..."""
    return any(part.startswith((".", "megabolt-")) for part in Path(name).parts)


def digest(path: Path, world: World) -> str:
    """Of records, of the lines of a text below its header, of the shape of an index, else of the whole file."""
    if path.read_bytes().startswith(b"old "):
        return "old"
    if path.suffix == ".json":
        return f"metrics of {json.loads(path.read_text())['sample']}"
    if path.suffix in (".bam", ".cram"):
        with pysam.AlignmentFile(str(path), reference_filename=str(world.inputs["ref.fa"])) as file:
            return hashlib.md5("\n".join(read.to_string() for read in file).encode()).hexdigest()
    if path.name.endswith(".vcf.gz") or path.suffix == ".txt":
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n")
        return hashlib.md5(b"\n".join(line for line in lines if not line.startswith(b"#"))).hexdigest()
    if path.suffix in (".bai", ".tbi"):  # the places of blocks in it vary with the length of the command line
        data = path.read_bytes()
        return f"index of {len(gzip.decompress(data) if path.suffix == '.tbi' else data)} bytes"
    if path.suffix == ".crai":
        return str([line.split(b"\t")[:3] for line in gzip.decompress(path.read_bytes()).split(b"\n")])
    return hashlib.md5(path.read_bytes()).hexdigest()


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[None]:
    """A file system in memory, of so many bytes, at the folder."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={max(4096, n_bytes)},mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def damaged(source: Path, target: Path, kind: str, rng: random.Random) -> Path:
    """A copy with one byte changed, or without its end."""
    data = bytearray(source.read_bytes())
    place = rng.randrange(len(data) // 20, len(data) - 30)
    if kind == "truncated input":
        del data[place:]
    else:
        data[place] ^= 1 << rng.randrange(8)
    target.write_bytes(data)
    return target


def inject(kind: str, job: str, world: World, work: Path, rng: random.Random) -> tuple[int, str]:
    """One run with one fault; its exit code and what it said."""
    words = words_of(job, world.inputs)
    if kind in SIGNALS:  # most of them behind the start of the interpreter
        moment = rng.uniform(0.3, 1.05) if rng.random() < 0.8 else rng.random()
        return run(work, words, stop=(SIGNALS[kind], moment * world.seconds[job]))
    if kind == "limit on files":
        return run(work, words, limit=rng.randrange(4096, world.bytes[job] // 2))
    if kind in ("corrupt input", "truncated input"):
        name = "unsorted.bam" if job == "markdup" else rng.choice(["R1.fastq.gz", "R2.fastq.gz"])
        bad = damaged(world.inputs[name], work / name, kind, rng)
        return run(work, words_of(job, {**world.inputs, name: bad}))
    if kind == "read":  # of inputs: the harness looks at the folder they are in
        return run(work, words, fault=("read", rng.randrange(1, 6)), watch=world.folder)
    last = {"rename": len(world.expected[job]), "flush": 3 * len(world.expected[job]), "write": 40}
    return run(work, words, fault=(kind, 1 + rng.randrange(last[kind.removeprefix("kill-")])), watch=work)


def check_names(out: Path, job: str, world: World, *, killed: bool) -> dict[str, str]:
    """What has a final name is the old file or the whole new one; an index goes with its file."""
    found = state(out, world)
    for name, content in found.items():
        assert content in ("old", world.expected[job].get(name)), f"{name} holds something else"
    for name, content in found.items():
        for suffix in (".bai", ".crai", ".tbi"):
            companion = found.get(name + suffix, content)
            assert (companion == "old") == (content == "old"), f"{name} and its index are of different runs"
    if not killed:
        assert [str(path) for path in out.rglob("*") if is_temporary(str(path.relative_to(out)))] == []
    return found


@pytest.mark.parametrize("number", range(N_FAULTS))
def test_fault(world: World, tmp_path: Path, number: int) -> None:
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    job = JOBS[(number + number // len(KINDS)) % len(JOBS)]
    out = tmp_path / "out"
    out.mkdir()
    killed = kind == "SIGKILL" or kind.startswith("kill-")
    if kind == "full disk":
        place, room = (out, world.bytes[job]) if job != "spill" else (tmp_path / "scratch", world.bytes[job] // 4)
        place.mkdir(exist_ok=True)
        with small_disk(place, rng.randrange(room)):
            code, said = run(tmp_path, words_of(job, world.inputs))
            check_names(out, job, world, killed=False)
            assert job != "spill" or os.listdir(place) == []
    else:
        if number % 2:
            for name in world.expected[job]:
                (out / name).parent.mkdir(exist_ok=True)
                (out / name).write_text(f"old {name}")
        code, said = inject(kind, job, world, tmp_path, rng)
        check_names(out, job, world, killed=killed)
    story = f"{kind} in {job}: exit code {code}\n{said}"
    assert "Traceback" not in said, story
    assert code != 70, story  # an error of ours
    if not killed:
        assert os.listdir(tmp_path / "scratch") == [], story
    if kind not in SIGNALS and not killed:  # a byte of a gzip header may be changed without harm
        assert code == 1 or (code == 0 and kind in ("corrupt input", "flush", "write", "rename")), story
    if code == 0:
        assert state(out, world) == world.expected[job] or kind == "full disk", story
    shutil.rmtree(tmp_path / "scratch")
    code, said = run(tmp_path, words_of(job, world.inputs))
    assert code == 0, said
    assert state(out, world) == world.expected[job]
