# SPDX-License-Identifier: Apache-2.0
"""Single-sample gVCFs, region by region: bgzipped and indexed files of megabolt, GATK, DeepVariant or bcftools.

In: a path and a permit. Out: for a region, reference blocks as arrays and variant records as `GvcfVariant`s.

A file is opened for each region anew and nothing of it stays in memory but one offset per region: thousands of
files cost neither descriptors nor memory.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InputFormatError
from megabolt.formats import gvcf_scan as scan
from megabolt.formats.bgzf import check_end_of_file, inflate_block, read_block_at
from megabolt.formats.inflate import InputStream
from megabolt.formats.tabix import TabixIndex, index_of
from megabolt.formats.vcf import NON_REF
from megabolt.privacy.consent import Permit

#: How a gVCF writes "any other allele".
UNSEEN = (NON_REF, "<*>")
#: Compressed bytes read at a time: about what 30 kb of a dense gVCF take.
_READ_BYTES = 1 << 17
_LONGEST_HEADER = 64 << 20
_SHORTEST_LINE = 16
_FIELD = re.compile(r"(\w+)=([^,>]*)")
_HELP = "Make the gVCF again, or check it with bcftools view."


@dataclass(frozen=True, slots=True)
class GvcfVariant:
    """A record with a variant.

    start: 0-based. alts: without the allele for the unseen, whose number among the record's alleles is `unseen`.
    own: numbers of the reference allele and of `alts` in the record. pl, ad: int32, as they are in the file (empty if
    missing). depth: -1 if missing. mapq_squares: sum of squared mapping qualities over `mapq_reads` reads.
    """

    start: int
    ref: str
    alts: tuple[str, ...]
    own: tuple[int, ...]
    unseen: int
    n_alleles: int
    ploidy: int
    depth: int
    pl: NDArray[np.int32]
    ad: NDArray[np.int32]
    mapq_squares: float
    mapq_reads: int
    id: str

    @property
    def stop(self) -> int:
        return self.start + len(self.ref)


@dataclass(frozen=True)
class GvcfRegion:
    """What a file says about a region.

    block_start, block_stop: int64 [n], 0-based half-open, sorted. block_ref: uint8 [n], the letter of REF. block_depth,
    block_ploidy: int32 [n]. block_pl: int32 [n, 3], 0/0, 0/other, other/other; of haploid blocks the first two.
    variants: in file order. without_pl: places of records with variants that say nothing of genotypes, as those of a
    mixture (mitochondria); they are not among `variants`.
    """

    block_start: NDArray[np.int64]
    block_stop: NDArray[np.int64]
    block_ref: NDArray[np.uint8]
    block_depth: NDArray[np.int32]
    block_ploidy: NDArray[np.int32]
    block_pl: NDArray[np.int32]
    variants: list[GvcfVariant]
    without_pl: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class GvcfHeader:
    """Contigs: (name, length or 0, md5 or "")."""

    sample: str
    contigs: tuple[tuple[str, int, str], ...]


class GvcfFile:
    """A gVCF of one sample.

    Raises
    ------
    InputFormatError
        Not a bgzipped gVCF of one sample, truncated, or without an index.
    """

    def __init__(self, path: Path, permit: Permit) -> None:
        self.path = path
        permit.record("open-read", path)
        self.header = _read_header(path)
        check_end_of_file(path)
        self._index: TabixIndex | None = TabixIndex(index_of(path))
        self._names = self._index.names
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self._places: dict[str, NDArray[np.int64]] = {}

    def contigs_with_records(self) -> list[str]:
        """Names, in file order."""
        return self._names

    def prepare(self, starts: dict[str, list[int]]) -> None:
        """Look up where regions begin: 0-based starts by contig, ascending. After it the index is forgotten."""
        assert self._index is not None
        for contig, places in starts.items():
            self._places[contig] = np.asarray(places, np.int64)
            self._offsets[contig] = self._index.offsets(contig, places)
        self._index = None

    def read(self, contig: str, start: int, stop: int, ahead: int = 0) -> GvcfRegion:
        """All that overlaps [start, stop), and variants that begin up to `ahead` bases behind it.

        Raises
        ------
        InputFormatError
            Damaged, unsorted, or not a gVCF; names the record.
        """
        offset = self._offset(contig, start)
        tables, variants, without_pl = [], [], []
        if offset >= 0:
            for text, lines in self._pieces(contig, offset, stop + ahead):
                table = lines.table
                table = table[(table[:, scan.STOP] > start) & (table[:, scan.START] < stop + ahead)]
                is_block = table[:, scan.N_ALTS] == 0
                knows = ~is_block & (table[:, scan.N_PL] > 0)
                without_pl += table[~is_block & ~knows, scan.START].tolist()
                variants += [self._variant(contig, text, row, lines.pool) for row in table[knows].tolist()]
                tables.append(self._blocks(contig, text, table[is_block & (table[:, scan.START] < stop)], lines.pool))
        columns = [np.concatenate(column) for column in zip(_no_blocks(), *tables)]
        first, behind, ref, depth, ploidy, pl = columns
        return GvcfRegion(first, behind, ref, depth, ploidy, pl, variants, without_pl)

    def _offset(self, contig: str, start: int) -> int:
        places = self._places.get(contig)
        if places is None:
            return -1
        k = int(np.searchsorted(places, start, side="right")) - 1
        return int(self._offsets[contig][max(0, k)]) if len(places) else -1

    def _pieces(self, contig: str, offset: int, limit: int) -> Iterator[tuple[bytearray, scan.ScannedLines]]:
        """(text, its lines) from a virtual offset up to the first line at or behind `limit`."""
        state = np.zeros(6, np.int64)
        name = np.frombuffer(contig.encode(), np.uint8).copy()
        rest, skip, at = b"", offset & 0xFFFF, offset >> 16
        try:
            with open(self.path, "rb") as raw:
                descriptor = raw.fileno()
                while not state[scan.DONE]:
                    inflated, at = _inflate_from(descriptor, at, self.path)
                    if not inflated:
                        if rest:
                            raise self._error(contig, "the last line is cut off")
                        return
                    text = bytearray(rest + inflated[skip:])  # a kernel takes no read-only array
                    skip = 0
                    n = text.count(b"\n")
                    table = np.empty((n + 1, scan.N_COLUMNS), np.int64)
                    pool = np.empty(len(text) // 2 + _SHORTEST_LINE, np.int32)
                    state[scan.AT] = state[scan.N_LINES] = state[scan.N_POOL] = 0
                    scan.scan_lines(np.frombuffer(text, np.uint8), len(text), name, limit, table, pool, state)
                    if state[scan.FAULT]:
                        raise self._fault(contig, text, int(state[scan.AT]), int(state[scan.FAULT]))
                    if state[scan.DONE]:
                        self._check_stop(contig, text, int(state[scan.AT]), int(state[scan.LAST]))
                    yield text, scan.ScannedLines(table[: state[scan.N_LINES]], pool)
                    rest = bytes(text[int(state[scan.AT]) :])
        except OSError as error:
            raise InputFormatError(self.path, "", f"cannot be read ({error.strerror})", "Check the disk.") from error

    def _check_stop(self, contig: str, text: bytearray, at: int, position: int) -> None:
        """The line behind a region lies on the contig, or is the first of a later one: else records would be lost."""
        name = text[at : text.find(b"\n", at)].split(b"\t", 1)[0].decode("utf-8", "replace")
        if name != contig and name not in self._names[self._names.index(contig) + 1 :]:
            raise self._error(f"{contig}:{position + 1}", f"the next line begins with {name[:40]!r}, no later contig")
        length = next((n for one, n, _ in self.header.contigs if one == contig), 0)
        if name == contig and 0 < length <= position:
            raise self._error(f"{contig}:{position + 1}", f"behind the end of {contig} ({length} bases)")

    def _blocks(
        self, contig: str, text: bytearray, rows: NDArray[np.int64], pool: NDArray[np.int32]
    ) -> tuple[NDArray[Any], ...]:
        ploidy, n_pl = rows[:, scan.PLOIDY], rows[:, scan.N_PL]
        wrong = np.flatnonzero((n_pl >= 0) & (n_pl != ploidy + 1))
        if len(wrong):
            row = rows[int(wrong[0])]
            raise self._error(f"{contig}:{row[scan.START] + 1}", f"{row[scan.N_PL]} values in PL do not fit GT")
        pl = np.zeros((len(rows), 3), np.int32)
        for k in range(3):
            has = (n_pl > k) & (k < 3)
            pl[has, k] = np.maximum(pool[rows[has, scan.PL_AT] + k], 0)
        narrow = [rows[:, column].astype(np.int32) for column in (scan.DEPTH, scan.PLOIDY)]
        letters = np.frombuffer(text, np.uint8)[rows[:, scan.REF_AT]]
        return rows[:, scan.START].copy(), rows[:, scan.STOP].copy(), letters, narrow[0], narrow[1], pl

    def _variant(self, contig: str, text: bytearray, row: list[int], pool: NDArray[np.int32]) -> GvcfVariant:
        where = f"{contig}:{row[scan.START] + 1}"
        ref = text[row[scan.REF_AT] : row[scan.ALT_AT] - 1].decode("ascii", "replace").upper()
        alleles = text[row[scan.ALT_AT] : row[scan.ALT_STOP]].decode("ascii", "replace").split(",")
        unseen = 1 + next(k for k, one in enumerate(alleles) if one in UNSEEN)
        own = (0, *(k for k in range(1, len(alleles) + 1) if k != unseen))
        n, ploidy = len(alleles) + 1, max(1, row[scan.PLOIDY])
        pl = pool[row[scan.PL_AT] : row[scan.PL_AT] + max(0, row[scan.N_PL])].copy()
        ad = pool[row[scan.AD_AT] : row[scan.AD_AT] + max(0, row[scan.N_AD])].copy()
        if ploidy > 2:
            raise self._error(where, f"the genotype has {ploidy} copies", "joint knows one and two copies.")
        if len(pl) and len(pl) != (n if ploidy == 1 else n * (n + 1) // 2):
            raise self._error(where, f"{len(pl)} values in PL do not fit {n} alleles")
        if len(ad) and len(ad) != n:
            raise self._error(where, f"{len(ad)} values in AD do not fit {n} alleles")
        if not ref.isalpha() or not all(_is_allele(one) for one in alleles):
            raise self._error(where, "REF or ALT is no allele")
        stop = text.find(b"\n", row[scan.LINE_AT])
        columns = bytes(text[row[scan.LINE_AT] : stop]).split(b"\t", 8)
        try:
            squares, reads = _mapping_quality(columns[7])
        except ValueError:
            raise self._error(where, "MQ, RAW_MQandDP or DP in INFO is no number") from None
        alts = tuple(one if one[0] in "<*" else one.upper() for k, one in enumerate(alleles, 1) if k != unseen)
        return GvcfVariant(
            row[scan.START], ref, alts, own, unseen, n, ploidy, row[scan.DEPTH], np.maximum(pl, 0), np.maximum(ad, 0),
            squares, reads, columns[2].decode("ascii", "replace"),
        )  # fmt: skip

    def _fault(self, contig: str, text: bytearray, at: int, fault: int) -> InputFormatError:
        line = text[at : text.find(b"\n", at)].decode("utf-8", "replace")
        position = [*line.split("\t"), "?", "?"][1][:20]
        return self._error(f"{contig}:{position}", scan.FAULTS[fault])

    def _error(self, where: str, why: str, help: str = _HELP) -> InputFormatError:
        return InputFormatError(self.path, where, why, help)


def _is_allele(text: str) -> bool:
    return text.isalpha() or text == "*" or (text[:1] == "<" and text[-1:] == ">")


def _no_blocks() -> tuple[NDArray[Any], ...]:
    empty = np.empty(0, np.int64)
    narrow = np.empty(0, np.int32)
    return empty, empty, np.empty(0, np.uint8), narrow, narrow, np.empty((0, 3), np.int32)


def _mapping_quality(info: bytes) -> tuple[float, int]:
    """Sum of squared mapping qualities and number of reads: RAW_MQandDP of GATK, or MQ and DP.

    Missing values (".", and the NaN that GATK writes of no reads) count as no reads. Raises ValueError if one is no
    number.
    """
    fields = dict(one.split(b"=", 1) for one in info.split(b";") if b"=" in one)
    if b"RAW_MQandDP" in fields:
        squares, _, count = fields[b"RAW_MQandDP"].partition(b",")
        return (float(squares), int(count)) if squares != b"." else (0.0, 0)
    if b"." in (fields.get(b"MQ", b"."), fields.get(b"DP", b".")):
        return 0.0, 0
    quality, reads = float(fields[b"MQ"]), int(fields[b"DP"])
    return (quality**2 * reads, reads) if math.isfinite(quality) else (0.0, 0)


def _inflate_from(descriptor: int, at: int, path: Path) -> tuple[bytes, int]:
    """The next blocks, inflated, and the byte behind them; nothing at the end of the file."""
    data = os.pread(descriptor, _READ_BYTES, at)
    parts, place = [], 0
    while place < len(data):
        try:
            block = read_block_at(data, place, path)
        except InputFormatError:
            # a block that the piece cuts off begins the next one, unless it is damaged
            if place > 0 and len(data) == _READ_BYTES and len(data) - place < 1 << 16:
                break
            raise InputFormatError(path, f"byte {at + place}", "no whole BGZF block is here", _HELP) from None
        parts.append(inflate_block(data, block, path))
        place = block.stop
        if not parts[-1] and at + place >= os.fstat(descriptor).st_size:
            break
    return b"".join(parts), at + place


def _read_header(path: Path) -> GvcfHeader:
    with InputStream(path) as stream:
        if not stream.is_bgzip:
            why = "plain gzip, not bgzip" if stream.is_gzip else "not compressed"
            raise InputFormatError(path, "", f"{why}: joint reads by index", "Run bgzip and tabix -p vcf on it.")
        text = bytearray()
        while b"\n#CHROM" not in text and not text.startswith(b"#CHROM"):
            piece = bytearray(1 << 16)
            n = stream.readinto(piece)
            text += piece[:n]
            if n == 0 or len(text) > _LONGEST_HEADER or text[:1] != b"#":
                break
        at = text.find(b"\n#CHROM") + 1
        while text.find(b"\n", at) < 0:
            piece = bytearray(1 << 16)
            n = stream.readinto(piece)
            text += piece[:n]
            if n == 0:
                break
    if text[:13] != b"##fileformat=" or text[at : at + 6] != b"#CHROM":
        raise InputFormatError(path, "header", "not a VCF: no ##fileformat or no #CHROM line", _HELP)
    lines = bytes(text[: text.find(b"\n", at)]).decode("utf-8", "replace").split("\n")
    return _parse_header(path, [line.rstrip("\r") for line in lines])


def _parse_header(path: Path, lines: Sequence[str]) -> GvcfHeader:
    samples = lines[-1].split("\t")[9:]
    if len(samples) != 1:
        found = f"{len(samples)} samples" if samples else "no sample"
        why = f"{found}: joint takes gVCFs of one sample each"
        raise InputFormatError(path, "header", why, "Split it, or name the gVCFs it was made from.")
    if not any(line.startswith(("##ALT=<ID=NON_REF", "##ALT=<ID=*")) for line in lines):
        why = "not a gVCF: the header declares no allele <NON_REF>"
        raise InputFormatError(path, "header", why, "Call it with --gvcf (GATK: -ERC GVCF).")
    contigs = []
    for line in lines:
        if line.startswith("##contig=<"):
            fields: dict[str, str] = dict(_FIELD.findall(line[10:]))
            length = fields.get("length", "")
            md5 = fields.get("md5") or fields.get("M5") or ""
            contigs.append((fields.get("ID", ""), int(length) if length.isdigit() else 0, md5.lower()))
    if not contigs:
        raise InputFormatError(path, "header", "no contigs in the header", "Add them: bcftools reheader --fai.")
    return GvcfHeader(samples[0], tuple(contigs))
