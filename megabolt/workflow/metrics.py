# SPDX-License-Identifier: Apache-2.0
"""What a job counts: reads, duplicates, depth, insert size, calls.

In: sorted blocks and calls, bin by bin, in any order. Out: the sections of S.metrics.json.

Counts are whole numbers that add up, so they depend neither on threads nor on bins.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from megabolt import __version__
from megabolt.compute.bits import load_i32, load_u16, load_u32
from megabolt.compute.jit import kernel
from megabolt.formats.bam import RecordBlock
from megabolt.formats.output import atomic_output
from megabolt.formats.vcf import NON_REF, VcfRecord

SCHEMA_VERSION = 1

#: What the kernel counts, in the order of its array.
COUNTS = (
    "total",
    "mapped",
    "properly_paired",
    "duplicates",
    "mapq20",
    "aligned_bases",
    "edited_bases",
    "usable_bases",
    "inserts",
    "insert_sum",
    "insert_square_sum",
    "paired",
    "supplementary",
)
#: Proper pairs with a longer template are left out of the insert size's mean and deviation.
LONGEST_INSERT = 10_000
_PURINES = frozenset("AG")


def count_reads(block: RecordBlock, targets: Sequence[NDArray[np.int64]] | None) -> NDArray[np.int64]:
    """Counts (see `COUNTS`) over the records of a block.

    Parameters
    ----------
    block
        Packed records. Each read is counted once, by its primary record; supplementary and secondary ones add
        nothing but to their own count, as in Picard's CollectAlignmentSummaryMetrics and the primary lines of
        `samtools flagstat`.
    targets
        Per contig int64 [n, 2], sorted half-open intervals: bases outside do not count for the depth. None:
        all aligned bases do.

    Returns
    -------
    int64 [len(COUNTS)]. edited_bases: mismatches, from NM without inserted and deleted bases. usable_bases:
    what the depth is made of: aligned bases, on target, of mapped records that are not duplicates.
    """
    counts = np.zeros(len(COUNTS), np.int64)
    bounds = np.zeros(1, np.int64)
    intervals = np.zeros((0, 2), np.int64)
    if targets is not None:
        bounds = np.concatenate([[0], np.cumsum([len(one) for one in targets])]).astype(np.int64)
        intervals = np.ascontiguousarray(np.concatenate(targets), dtype=np.int64)
    _count(block.data, block.offsets, targets is not None, bounds, intervals, counts)
    return counts


def read_sections(counts: NDArray[np.int64], depth_bases: int) -> dict[str, Any]:
    """The sections `reads`, `depth` and `insert_size`; the depth is a mean over `depth_bases` positions."""
    n = dict(zip(COUNTS, counts.tolist()))
    total, mapped, paired, inserts = n["total"], n["mapped"], n["paired"], n["inserts"]
    mean = n["insert_sum"] / inserts if inserts else 0.0
    variance = n["insert_square_sum"] / inserts - mean * mean if inserts else 0.0
    return {
        "reads": {
            "pairs": paired // 2,
            "single": total - paired,
            "total": total,
            "mapped": mapped,
            "mapped_fraction": _ratio(mapped, total),
            "properly_paired": n["properly_paired"],
            "properly_paired_fraction": _ratio(n["properly_paired"], paired),
            "duplicates": n["duplicates"],
            "duplicate_fraction": _ratio(n["duplicates"], mapped),
            "supplementary": n["supplementary"],
            "mapq20_fraction": _ratio(n["mapq20"], total),
            "mismatch_rate": _ratio(n["edited_bases"], n["aligned_bases"], 8),
        },
        "depth": {"mean": _ratio(n["usable_bases"], depth_bases, 3), "over_bases": depth_bases},
        "insert_size": {"mean": round(mean, 2), "sd": round(math.sqrt(max(variance, 0.0)), 2)},
    }


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


# --- kernels ---


@kernel("int64(int64[:, ::1], int64, int64, int64, int64)")
def _covered(intervals: NDArray[np.int64], first: Any, last: Any, start: Any, stop: Any) -> Any:
    """Bases of [start, stop) inside the intervals first..last-1."""
    low, high = first, last
    while low < high:
        middle = (low + high) >> 1
        if intervals[np.uint64(middle), 1] <= start:
            low = middle + 1
        else:
            high = middle
    total = np.int64(0)
    while low < last and intervals[np.uint64(low), 0] < stop:
        total += min(stop, intervals[np.uint64(low), 1]) - max(start, intervals[np.uint64(low), 0])
        low += 1
    return total


@kernel("int64(uint8[::1], int64, int64)")
def _edit_distance(data: NDArray[np.uint8], p: Any, end: Any) -> Any:
    """NM among the tags from p on; 0 if there is none."""
    while p + 3 <= end:
        kind = data[np.uint64(p + 2)]
        is_nm = data[np.uint64(p)] == 78 and data[np.uint64(p + 1)] == 77
        p += 3
        if kind == 90 or kind == 72:  # Z, H: text up to a zero byte
            while p < end and data[np.uint64(p)] != 0:
                p += 1
            p += 1
        elif kind == 66:  # B: element type, count, elements
            element = data[np.uint64(p)]
            size = 1
            if element == 115 or element == 83:
                size = 2
            elif element == 105 or element == 73 or element == 102:
                size = 4
            p += 5 + size * np.int64(load_u32(data, p + 1))
        else:
            size = 1  # A, c, C
            if kind == 115 or kind == 83:
                size = 2
            elif kind == 105 or kind == 73 or kind == 102:
                size = 4
            if is_nm:
                value = np.int64(load_u32(data, p))
                return value & ((np.int64(1) << (8 * size)) - 1)
            p += size
    return np.int64(0)


@kernel("void(uint8[::1], int64[::1], boolean, int64[::1], int64[:, ::1], int64[::1])")
def _count(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    targeted: Any,
    bounds: NDArray[np.int64],
    intervals: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    for i in range(len(offsets) - 1):
        p = offsets[i]
        end = offsets[i + 1]
        flag = np.int64(load_u16(data, p + 18))
        if flag & 0x900 != 0:  # secondary, supplementary: not another read
            counts[12] += flag & 0x900 == 0x800
            continue
        counts[0] += 1
        counts[11] += flag & 1
        if flag & 0x4 != 0:
            continue
        counts[1] += 1
        if flag & 0x3 == 0x3:
            counts[2] += 1
        if flag & 0x400 != 0:
            counts[3] += 1
        if data[np.uint64(p + 13)] >= 20:
            counts[4] += 1
        template = np.int64(load_i32(data, p + 32))
        if flag & 0x402 == 0x2 and 0 < template <= LONGEST_INSERT:
            counts[8] += 1
            counts[9] += template
            counts[10] += template * template
        contig = np.int64(load_i32(data, p + 4))
        position = np.int64(load_i32(data, p + 8))
        n_cigar = np.int64(load_u16(data, p + 16))
        length = np.int64(load_u32(data, p + 20))
        cigar = p + 36 + np.int64(data[np.uint64(p + 12)])
        aligned = np.int64(0)
        gaps = np.int64(0)
        usable = np.int64(0)
        for k in range(n_cigar):
            word = np.int64(load_u32(data, cigar + 4 * k))
            operation = word & 15
            count = word >> 4
            if operation == 0 or operation >= 7:
                aligned += count
                if targeted:
                    usable += _covered(intervals, bounds[contig], bounds[contig + 1], position, position + count)
                else:
                    usable += count
                position += count
            elif operation == 1:
                gaps += count
            elif operation == 2:
                gaps += count
                position += count
            elif operation == 3:
                position += count
        counts[5] += aligned
        tags = cigar + 4 * n_cigar + ((length + 1) >> 1) + length
        counts[6] += max(np.int64(0), _edit_distance(data, tags, end) - gaps)
        if flag & 0x400 == 0:
            counts[7] += usable
