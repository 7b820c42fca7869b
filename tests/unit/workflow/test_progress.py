# SPDX-License-Identifier: Apache-2.0
"""Snakemake's words, as version 9 says them, turned into lines for the user."""

from __future__ import annotations

from pathlib import Path

from megabolt.workflow.progress import Progress

GOOD = """\
Job stats:
job            count
-----------  -------
germline           1
total              3

[Sun Nov 22 17:12:45 2026]
localrule germline:
    input: declarations/A.txt
    log: logs/A.log
    jobid: 2
    wildcards: sample=A
[Sun Nov 22 17:12:46 2026]
Finished jobid: 2 (Rule: germline)
1 of 3 steps (33%) done
"""

BAD = """\
rule germline:
    log: logs/B.log
    jobid: 5
    wildcards: sample=B
Command 'set -euo pipefail; megabolt ...' returned non-zero exit status 77.
[Sun Nov 22 17:12:48 2026]
Error in rule germline:
    message: None
    jobid: 5
    log: logs/B.log (check log file(s) for error details)
Exiting because a job execution failed. Look above for error messages
WorkflowError:
At least one job did not complete successfully.
"""

BROKEN = """\
Building DAG of jobs...
InputFunctionException in rule compare in file "x.smk", line 3:
Error:
  ValueError: Unknown format code 'q'
Wildcards:
  sample=DEMO
"""


def follow(folder: Path, text: str) -> tuple[Progress, list[str]]:
    said: list[str] = []
    progress = Progress(folder, said.append)
    for line in text.splitlines():
        progress.line(line)
    return progress, said


def test_a_finished_job_is_one_line(tmp_path: Path) -> None:
    progress, said = follow(tmp_path, GOOD)
    assert said == ["[1/3] A germline done in 0.0 s"]
    assert (progress.n_done, progress.n_jobs, progress.failed) == (1, 3, [])


def test_a_failed_job_is_told_with_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/B.log").write_text("17:00 align\nmegabolt germline: error: no consent\n  Ask.\n")
    progress, said = follow(tmp_path, BAD)
    assert said == ["FAILED B germline: megabolt germline: error: no consent Ask."]
    assert progress.exit_codes == [77]
    assert [job.title for job in progress.failed] == ["B germline"]


def test_an_error_outside_of_jobs(tmp_path: Path) -> None:
    progress, said = follow(tmp_path, BROKEN)
    assert said == []
    assert progress.last_words() == "ValueError: Unknown format code 'q'"
