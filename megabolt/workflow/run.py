# SPDX-License-Identifier: Apache-2.0
"""Many samples through Snakemake: start it, show progress, survive kills, pass its verdict on.

In: sheet, reference, folder, options. Out: one folder for each sample, logs, report.html and report.json.

How a killed run is survived:
  - Outputs are renamed into place by the jobs, so a file under its final name is complete.
  - One `megabolt run` at a time holds a lock on the folder that the kernel releases when the process ends,
    however it ends; Snakemake's own lock, which outlives a killed process, is therefore not taken.
  - If this process is killed, the kernel kills Snakemake (parent-death signal), and jobs notice within a second
    that the process named in $MEGABOLT_GUARDIAN is gone (`megabolt.workflow.guardian`).
  - The next run finishes what is missing (--rerun-incomplete); finished samples are not touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from megabolt.errors import MegaboltError, OutputError, UsageError
from megabolt.formats.output import atomic_output
from megabolt.privacy.consent import authorize
from megabolt.reads.scratch import leftovers, remove_leftover
from megabolt.workflow import guardian
from megabolt.workflow.plan import Plan, load_plan
from megabolt.workflow.progress import Progress

#: Below the run's folder: the lock, the configuration, Snakemake's own words.
PRIVATE = ".megabolt"

#: What the data of each sample are used for; goes into the audit log.
PURPOSE = "germline variant calling"

#: Names that `formats.output.atomic_output` gives to files that are not complete.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")

log = logging.getLogger(__name__)


class RunFailed(MegaboltError):
    """Jobs of the workflow failed; the exit code is theirs where they agree on one."""

    def __init__(self, why: str, help: str, exit_code: int) -> None:
        super().__init__(why, help)
        self.exit_code = exit_code


@dataclass(frozen=True)
class RunSummary:
    """What a run did: jobs done now (0 if all was there), wall seconds, where to look."""

    outdir: Path
    n_samples: int
    n_jobs: int
    seconds: float
    report: Path


def workflow_folder() -> Path:
    """The Snakefiles: inside the installed package, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    packed, checkout = package / "_workflows", package.parent / "workflows"
    return packed if packed.is_dir() else checkout


def run_workflow(config: Mapping[str, Any], outdir: Path, *, dry_run: bool = False) -> RunSummary:
    """Run the germline workflow until every sample of the sheet has its results.

    Parameters
    ----------
    config
        As workflows/schemas/config.schema.json describes; relative paths are relative to the current folder.
    outdir
        The folder of results; made if missing.
    dry_run
        Only log what would be done; the folder is made, nothing is run.

    Raises
    ------
    UsageError, InputFormatError
        Before anything is started: sheet, options, another run in the same folder.
    ConsentRefused
        A sample whose data nobody declared; nothing is made.
    RunFailed
        A job failed; the others were finished.
    """
    started = time.perf_counter()
    plan = load_plan(config)
    for note in plan.sheet.notes:
        log.warning("%s", note)
    for name in plan.names:
        authorize(name, PURPOSE, open_data=plan.declaration(name) or None, audit_log=plan.audit_log)
    _make(outdir / PRIVATE)
    with _only_run(outdir):
        _refuse_foreign_lock(outdir)
        _remove_leftovers(plan, outdir)
        command = _command(plan, outdir, _write_config(plan, outdir), dry_run)
        log.info(
            "%d sample%s, %d thread%s, %.1f GB of memory for each",
            len(plan.names),
            "s" * (len(plan.names) > 1),
            plan.threads,
            "s" * (plan.threads > 1),
            plan.memory / 1e9,
        )
        progress = Progress(outdir, log.info)
        status = _watch(command, outdir / PRIVATE / "snakemake.log", progress.line)
    if status != 0:
        raise _failure(progress, status, outdir)
    return RunSummary(outdir, len(plan.names), progress.n_done, time.perf_counter() - started, outdir / "report.html")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}", "Choose another --outdir.") from error


@contextmanager
def _only_run(outdir: Path) -> Iterator[None]:
    """Hold the lock of the folder; the kernel drops it when this process ends, also by SIGKILL."""
    path = outdir / PRIVATE / "lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UsageError(
                f"{outdir}: another `megabolt run` (process {lock.read().strip() or '?'}) is working here",
                "Wait for it, stop it, or choose another --outdir.",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _refuse_foreign_lock(outdir: Path) -> None:
    """`megabolt run` never leaves Snakemake's lock: one that is there belongs to somebody's own snakemake."""
    locks = outdir / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        raise UsageError(
            f"{outdir}: locked by a snakemake that megabolt did not start",
            f"If it is not running any more, remove the lock: rm {locks}/*",
        )


def _remove_leftovers(plan: Plan, outdir: Path) -> None:
    """Temporary files and scratch of jobs that were killed: they are large, and they hold a person's data."""
    for folder in {plan.reads.scratch or outdir / name for name in plan.names}:
        if folder.is_dir():
            for leftover in leftovers(folder):
                log.debug("removing what a killed job left: %s", leftover.path)
                remove_leftover(leftover)
    for name in plan.names:
        for path in (outdir / name).glob(".*.tmp"):
            if _TEMPORARY.fullmatch(path.name):
                log.debug("removing what a killed job left: %s", path)
                path.unlink(missing_ok=True)


def _write_config(plan: Plan, outdir: Path) -> Path:
    """The configuration with absolute paths, as JSON, which is YAML."""
    config = {
        "assay": plan.assay,
        "sheet": str(plan.sheet.path.absolute()),
        "reference": str(plan.reference),
        "targets": str(plan.targets) if plan.targets else None,
        "gvcf": plan.gvcf,
        "bam": plan.bam,
        "threads": plan.threads,
        "memory": f"{plan.memory_mb}M",
        "open_data": plan.open_data or None,
        "audit_log": str(plan.audit_log) if plan.audit_log else None,
        "umi": plan.umi,
        **asdict(plan.align),
        "cram": plan.reads.cram,
        "known_sites": [str(path) for path in plan.reads.known_sites],
        "remove_duplicates": plan.reads.remove_duplicates,
        "optical_distance": plan.reads.optical_distance,
        "scratch": str(plan.reads.scratch) if plan.reads.scratch else None,
        "truth": {
            name: {"vcf": str(truth.vcf), "regions": str(truth.regions) if truth.regions else None}
            for name, truth in plan.truth.items()
        },
    }
    path = outdir / PRIVATE / "config.json"
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path


def _command(plan: Plan, outdir: Path, config: Path, dry_run: bool) -> list[str]:
    words = [sys.executable, "-m", "snakemake", "--profile", "none", "--workflow-profile", "none"]
    words += ["--snakefile", str(workflow_folder() / "germline" / "Snakefile")]
    words += ["--configfile", str(config.absolute()), "--directory", str(outdir.absolute())]
    words += ["--cores", str(plan.threads), "--scheduler", "greedy"]
    words += ["--nolock", "--rerun-incomplete", "--keep-going", "--nocolor"]
    return [*words, "--dry-run"] if dry_run else words


def _watch(command: list[str], record: Path, on_line: Callable[[str], None]) -> int:
    """Run a command to its end, its output line by line to `on_line` and to the file `record`."""
    with (
        record.open("w", encoding="utf-8") as words,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
            process_group=0,  # so that an interruption reaches the jobs through us, once
            preexec_fn=_die_with_parent(),
        ) as process,
    ):
        assert process.stdout is not None
        try:
            _copy(process.stdout, words, on_line)
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def _copy(source: IO[str], target: IO[str], on_line: Callable[[str], None]) -> None:
    for line in source:
        target.write(line)
        target.flush()
        on_line(line.rstrip("\n"))


def _stop(process: subprocess.Popen[str]) -> None:
    """End Snakemake and its jobs: first asked, so that they clean up, then killed."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _environment() -> dict[str, str]:
    """The rules call `megabolt`: the one beside this interpreter comes first."""
    environment = dict(os.environ)
    beside = Path(sys.executable).parent
    if (beside / "megabolt").exists():
        environment["PATH"] = f"{beside}{os.pathsep}{environment.get('PATH', '')}"
    environment[guardian.VARIABLE] = str(os.getpid())
    return environment


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before the program: ask the kernel to kill it when its parent dies (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: the child must not load libraries
    set_parent_death_signal = 1
    parent = os.getpid()

    def before_program() -> None:
        prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before it was asked for: nobody will send the signal
            os.kill(os.getpid(), signal.SIGKILL)

    return before_program


def _failure(progress: Progress, status: int, outdir: Path) -> RunFailed:
    record = outdir / PRIVATE / "snakemake.log"
    if not progress.failed:
        return RunFailed(
            f"Snakemake ended with exit code {status}: {progress.last_words()}", f"Its own words: {record}", 1
        )
    names = ", ".join(job.title for job in progress.failed)
    codes = set(progress.exit_codes)
    return RunFailed(
        f"{len(progress.failed)} of {progress.n_jobs} jobs failed: {names}",
        f"What went wrong is said above and in {outdir}/logs. Mend it and run the same command: "
        "finished samples are kept.",
        codes.pop() if len(codes) == 1 else 1,
    )
