# SPDX-License-Identifier: Apache-2.0
"""Metrics of reads, counted while sorted blocks pass by, in files that MultiQC knows.

`Collector` counts, `Counts` adds up, `write_all` writes.
"""

from __future__ import annotations

from megabolt.metrics.collector import Collector, GroupInfo, MetricsOptions
from megabolt.metrics.counts import Counts
from megabolt.metrics.files import write_all
from megabolt.metrics.sections import read_sections

__all__ = ["Collector", "Counts", "GroupInfo", "MetricsOptions", "read_sections", "write_all"]
