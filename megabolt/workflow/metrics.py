# SPDX-License-Identifier: Apache-2.0
"""S.metrics.json: counts of calls, versions, and the file itself. What reads tell is counted in `megabolt.metrics`."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np

from megabolt import __version__
from megabolt.formats.output import atomic_output
from megabolt.formats.vcf import NON_REF, VcfRecord

SCHEMA_VERSION = 1

_PURINES = frozenset("AG")


class CallCounts:
    """Counts over called records, block records left out."""

    def __init__(self) -> None:
        self.snps = self.insertions = self.deletions = self.others = self.multiallelic = 0
        self.transitions = self.transversions = 0
        self.heterozygous = self.homozygous = 0
        self.passed = 0

    def add(self, records: Iterable[VcfRecord]) -> None:
        """Count records."""
        for record in records:
            self._add(record)

    def _add(self, record: VcfRecord) -> None:
        alts = [alt for alt in record.alts if alt != NON_REF]
        self.passed += record.filter == "PASS"
        self.multiallelic += len(alts) > 1
        if all(len(alt) == 1 == len(record.ref) for alt in alts):
            self.snps += 1
            for alt in alts:
                transition = (alt in _PURINES) == (record.ref in _PURINES)
                self.transitions += transition
                self.transversions += not transition
        elif all(len(alt) > len(record.ref) for alt in alts):
            self.insertions += 1
        elif all(len(alt) < len(record.ref) for alt in alts):
            self.deletions += 1
        else:
            self.others += 1
        alleles = str(record.genotype.get("GT", "./.")).replace("|", "/").split("/")
        if len(set(alleles)) > 1:
            self.heterozygous += 1
        elif alleles[0] not in ("0", "."):
            self.homozygous += 1

    def section(self) -> dict[str, Any]:
        """The section `calls`."""
        return {
            "total": self.snps + self.insertions + self.deletions + self.others,
            "passed": self.passed,
            "snps": self.snps,
            "indels": self.insertions + self.deletions,
            "insertions": self.insertions,
            "deletions": self.deletions,
            "others": self.others,
            "multiallelic": self.multiallelic,
            "ti_tv": _ratio(self.transitions, self.transversions, 4),
            "het_hom": _ratio(self.heterozygous, self.homozygous, 4),
        }


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    return {
        "megabolt": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "pysam": version("pysam"),
    }


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write a metrics file, whole or not at all."""
    with atomic_output(path) as temporary:
        temporary.write_text(
            json.dumps({"schema_version": SCHEMA_VERSION, **metrics}, indent=2) + "\n", encoding="utf-8"
        )


def _ratio(part: int, whole: int, digits: int = 6) -> float:
    return round(part / whole, digits) if whole else 0.0
