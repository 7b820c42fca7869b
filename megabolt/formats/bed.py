# SPDX-License-Identifier: Apache-2.0
"""Target regions: BED in, sorted and merged intervals per contig out.

In: BED with three or more columns, plain or gzip. Out: one int64 [n, 2] array per contig of the reference.
A BED is nobody's data: no permit is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats.fasta import Contig
from megabolt.formats.inflate import InputStream

_NOT_DATA = (b"#", b"track", b"browser")


def read_bed(path: Path | str, contigs: Sequence[Contig]) -> tuple[NDArray[np.int64], ...]:
    """The intervals of a BED file.

    Intervals that overlap or touch are merged; empty ones (start = stop) are dropped. Lines that begin with
    '#', 'track' or 'browser' and empty lines are skipped. Columns beyond the third are counted, not read.

    Parameters
    ----------
    path
        The BED file.
    contigs
        Those of the reference.

    Returns
    -------
    For each contig, int64 [n, 2]: start and stop, 0-based, half-open, sorted, apart from each other.

    Raises
    ------
    InputFormatError
        Fewer than three columns, or not as many as before; a contig the reference lacks, a place that is no
        whole number, start behind stop, stop beyond the contig, or no interval at all; names the line.
    """
    path = Path(path)
    with InputStream(path) as stream:
        data = stream.read_all()
    lines = data[: len(data) - PADDING].tobytes().split(b"\n")
    index = {contig.name.encode(): i for i, contig in enumerate(contigs)}
    found: list[list[tuple[int, int]]] = [[] for _ in contigs]
    n_columns = 0
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith(_NOT_DATA):
            columns = line.rstrip(b"\r").split(b"\t") if b"\t" in line else line.split()
            n_columns = n_columns or len(columns)
            if len(columns) != n_columns:
                why = f"{len(columns)} columns, but {n_columns} before"
                raise InputFormatError(path, f"line {number}", why, "Is the line cut off?")
            contig, start, stop = _parse(path, number, columns, index, contigs)
            if start < stop:
                found[contig].append((start, stop))
    if not any(found):
        raise InputFormatError(path, "", "no interval in the file", "Name the BED of the targets.")
    return tuple(_merge(intervals) for intervals in found)


def _parse(
    path: Path, number: int, columns: list[bytes], index: dict[bytes, int], contigs: Sequence[Contig]
) -> tuple[int, int, int]:
    where = f"line {number}"
    if len(columns) < 3:
        raise InputFormatError(path, where, f"{len(columns)} columns, not 3", "BED has: contig, start, stop.")
    contig = index.get(columns[0])
    if contig is None:
        why = f"the reference has no contig {columns[0].decode('ascii', 'replace')}"
        raise InputFormatError(path, where, why, "Use a BED made for this reference (chr1 is not 1).")
    if not (columns[1].isdigit() and columns[2].isdigit()):
        why = "start or stop is not a whole number of 0 or more"
        raise InputFormatError(path, where, why, "BED has: contig, start, stop.")
    start, stop = int(columns[1]), int(columns[2])
    if start > stop:
        raise InputFormatError(path, where, f"start {start} is behind stop {stop}", "Correct the line.")
    length = contigs[contig].length
    if stop > length:
        why = f"stop {stop} is beyond the end of contig {contigs[contig].name} ({length} bases)"
        raise InputFormatError(path, where, why, "Use a BED made for this reference.")
    return contig, start, stop


def _merge(intervals: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    merged: list[list[int]] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return np.array(merged, np.int64).reshape(-1, 2)
