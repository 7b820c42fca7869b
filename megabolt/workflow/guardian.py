# SPDX-License-Identifier: Apache-2.0
"""A job of `megabolt run` ends when the run is gone.

Between `megabolt run` and a job stand Snakemake and a shell; if the run is killed, the job would work on
alone, and the next run would start the same sample beside it. The run names itself in an environment
variable, and each job watches that process.
"""

from __future__ import annotations

import os
import signal
import threading
import time

#: Environment variable with the process number of the `megabolt run` that the job belongs to.
VARIABLE = "MEGABOLT_GUARDIAN"

#: Seconds between two looks.
INTERVAL = 0.5


def start_watching() -> None:
    """If this process is a job of a run, end it (SIGTERM, so that it cleans up) once the run is gone."""
    text = os.environ.get(VARIABLE, "")
    if text.isdigit():
        threading.Thread(target=_watch, args=(int(text),), name="guardian", daemon=True).start()


def _watch(process: int) -> None:
    while _is_alive(process):
        time.sleep(INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's process has the number now: better to work on than to die by mistake
    return True
