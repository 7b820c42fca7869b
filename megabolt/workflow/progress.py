# SPDX-License-Identifier: Apache-2.0
"""Snakemake's output read line by line: one line for each finished job, the reason for each failed one."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_RULE = re.compile(r"(?:local)?rule (\w+):$")
_FIELD = re.compile(r"    (jobid|wildcards|log): (.*)$")
_FINISHED = re.compile(r"Finished jobid: (\d+)")
_STEPS = re.compile(r"(\d+) of (\d+) steps")
_ERROR = re.compile(r"Error in rule (\w+):$")
_STATUS = re.compile(r"returned non-zero exit status (\d+)")
_TOTAL = re.compile(r"total\s+(\d+)$")
_NAMED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): .")
_CHATTER = re.compile(r"^(Exiting because|Complete log|Elapsed time|WorkflowError:|At least one job|\s*$)")

#: Bookkeeping jobs of no interest to the user.
SILENT = {"all", "declaration"}


@dataclass
class Job:
    """One job as Snakemake announced it; `began` in seconds of the monotonic clock."""

    rule: str
    began: float
    sample: str = ""
    log: str = ""

    @property
    def title(self) -> str:
        return f"{self.sample} {self.rule}".strip()


class Progress:
    """Follows a run.

    Parameters
    ----------
    folder
        Snakemake's working folder, to find the logs of failed jobs.
    say
        Receives one line for each finished or failed job.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.n_jobs = 0
        self.n_done = 0
        self.failed: list[Job] = []
        self.exit_codes: list[int] = []
        self._folder = folder
        self._say = say
        self._jobs: dict[str, Job] = {}
        self._open: Job | None = None
        self._error: Job | None = None
        self._tail: deque[str] = deque(maxlen=40)

    def line(self, text: str) -> None:
        """Take in one line of Snakemake's output."""
        self._tail.append(text)
        if match := _RULE.match(text):
            self._open, self._error = Job(match[1], time.monotonic()), None
        elif match := _ERROR.match(text):
            self._open, self._error = None, Job(match[1], 0.0)
        elif match := _FIELD.match(text):
            self._field(match[1], match[2])
        elif match := _FINISHED.match(text):
            self._finished(match[1])
        elif match := _STEPS.match(text):
            self.n_done, self.n_jobs = int(match[1]), int(match[2])
        elif match := _TOTAL.match(text):
            self.n_jobs = int(match[1])
        if match := _STATUS.search(text):
            self.exit_codes.append(int(match[1]))

    def last_words(self) -> str:
        """Why Snakemake failed outside of a job: the last line that names an error, else the last one."""
        said = [line.strip() for line in self._tail if not _CHATTER.match(line)]
        named = [line for line in said if _NAMED.match(line)]
        return (named or said or ["nothing said"])[-1]

    def _field(self, name: str, value: str) -> None:
        if self._error is not None and name == "jobid":
            job = self._jobs.get(value, self._error)
            self._error = None
            if job not in self.failed:
                self.failed.append(job)
                self._say(f"FAILED {job.title}: {self._reason(job)}")
        elif self._open is not None:
            if name == "jobid":
                self._jobs[value] = self._open
            elif name == "wildcards":
                found = re.search(r"sample=([^,]+)", value)
                self._open.sample = found[1] if found else ""
            else:
                self._open.log = value

    def _finished(self, number: str) -> None:
        job = self._jobs.get(number)
        if job is not None and job.rule not in SILENT:
            count = f"{self.n_done + 1}/{self.n_jobs}"
            self._say(f"[{count}] {job.title} done in {time.monotonic() - job.began:.1f} s")

    def _reason(self, job: Job) -> str:
        """The error from the job's own log: from "error:" on, else its last line."""
        path = self._folder / job.log.partition(" (")[0]
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "no log was written"
        starts = [i for i, line in enumerate(lines) if ": error: " in line]
        if starts:
            return lines[starts[-1]] + "".join(f" {line.strip()}" for line in lines[starts[-1] + 1 :][:2])
        return lines[-1] if lines else "it said nothing"
