# SPDX-License-Identifier: Apache-2.0
"""Base quality recalibration as GATK 4 does it: BaseRecalibrator and ApplyBQSR on blocks of records.

`known_sites` reads what is no error, `counts` counts covariates, `table` fits, `apply` replaces qualities, `report`
writes and reads the table.
"""

from __future__ import annotations

from megabolt.recalibrate.apply import Applier, keep_original_qualities
from megabolt.recalibrate.counts import Counter, Counts
from megabolt.recalibrate.known_sites import KnownSites, read_known_sites
from megabolt.recalibrate.options import ApplyOptions, CountOptions
from megabolt.recalibrate.read_groups import GroupMap
from megabolt.recalibrate.report import read_report, write_report
from megabolt.recalibrate.table import Recalibration, fit

__all__ = [
    "Applier",
    "ApplyOptions",
    "CountOptions",
    "Counter",
    "Counts",
    "GroupMap",
    "KnownSites",
    "Recalibration",
    "fit",
    "keep_original_qualities",
    "read_known_sites",
    "read_report",
    "write_report",
]
