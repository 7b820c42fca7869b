# SPDX-License-Identifier: Apache-2.0
"""Alleles from outside: those that are called whatever the reads say, and the names of known ones.

In: VCF files, plain, gzip or bgzip. Out: `Alleles` by contig; IDs for records. Such lists are nobody's data: no permit
is asked for. Alleles are trimmed and moved left, so that one written elsewhere in a repeat is the same.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pysam

from megabolt.call.evidence import DELETION, INSERTION, SNP
from megabolt.errors import InputFormatError
from megabolt.formats.bases import decode
from megabolt.formats.bgzf import check_end_of_file
from megabolt.formats.fasta import Reference
from megabolt.formats.inflate import InputStream
from megabolt.formats.tabix import index_of
from megabolt.formats.vcf import NON_REF, VcfRecord

#: start, stop, kind, bases put in place (codes): as candidates are sorted.
Event = tuple[int, int, int, bytes]
#: Longest allele that a window can hold.
MAX_ALLELE = 200
_ADVICE = "Is it a VCF? Check it with bcftools view."
_INDEX_ADVICE = "Compress it with bgzip, index it with tabix."
_CODE = bytes.maketrans(b"ACGTN", bytes(range(5)))
_PLAIN = re.compile(r"[ACGTacgt]+\Z")
#: What VCF 4.3, section 1.6.1, lets stand in POS, REF and ALT: bases, '*', <ID> or a breakend.
_PLACE = re.compile(r"[0-9]{1,10}\Z")
_BASES = re.compile(r"[A-Za-z]+\Z")
_ALLELE = re.compile(r"([A-Za-z]+|\*|<[^<>\s]+>|[^\s]*[\[\]][^\s]+[\[\]][^\s]*|\.[A-Za-z]+|[A-Za-z]+\.)\Z")
#: How far an indel is moved left, as `evidence.MAX_SHIFT`.
_MAX_SHIFT = 1000


@dataclass
class Alleles:
    """Events of one contig, ascending, contig coordinates."""

    events: list[Event] = field(default_factory=list)

    def within(self, origin: int, n_ref: int) -> list[Event]:
        """Those inside [origin, origin + n_ref), in local coordinates; none at 0: a record needs a base before."""
        first = bisect.bisect_left(self.events, (origin + 1,))
        found = []
        for start, stop, kind, bases in self.events[first:]:
            if start >= origin + n_ref:
                break
            if stop <= origin + n_ref:
                found.append((start - origin, stop - origin, kind, bases))
        return found


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First five columns of each record, with the number of its line."""
    with InputStream(path) as stream:
        text = stream.read_all()
    number = 0
    for raw in bytes(text).rstrip(b"\0").split(b"\n"):
        number += 1
        if not raw.strip() or raw.startswith(b"#"):
            continue
        columns = raw.rstrip(b"\r").decode("utf-8", "replace").split("\t", 5)
        if not _is_record(columns):
            raise InputFormatError(path, f"line {number}", "not a record of a VCF", _ADVICE)
        yield number, columns


def _is_record(columns: Sequence[str]) -> bool:
    """Whether the first columns of a line are those of a VCF's record: POS a number, REF bases, ALT alleles."""
    if len(columns) < 5 or not _PLACE.match(columns[1]) or not _BASES.match(columns[3]):
        return False
    return columns[4] == "." or all(_ALLELE.match(alt) for alt in columns[4].split(","))


def read_alleles(path: Path | str, reference: Reference) -> tuple[dict[int, Alleles], list[str]]:
    """Alleles to be called, by ordinal of the contig; and what could not be taken, in words.

    Raises
    ------
    InputFormatError
        Not a VCF, a contig the reference lacks, a REF that is not the reference's, or no allele in the file.
    """
    path = Path(path)
    ordinal = {contig.name: k for k, contig in enumerate(reference.contigs)}
    found: dict[int, set[Event]] = {}
    notes = []
    for number, (name, position, _, ref, alts, *_) in _lines(path):
        where, k, start = f"line {number}", ordinal.get(name, -1), int(position) - 1
        if k < 0:
            raise InputFormatError(path, where, f"the reference has no contig {name}", "Use alleles of this reference.")
        there = decode(reference.fetch(k, start, start + len(ref)))
        if not 0 <= start <= reference.contigs[k].length - len(ref):
            why = f"{name}:{position} is outside the contig ({reference.contigs[k].length} bases)"
            raise InputFormatError(path, where, why, "Use alleles of this reference.")
        if there != ref.upper() and "N" not in there:
            why = f"REF is {ref[:30]}, the reference has {there[:30]}"
            raise InputFormatError(path, where, why, "Use alleles of this reference.")
        for alt in alts.split(","):
            event = event_of(reference, k, start, ref, alt)
            if event is None:
                notes.append(f"{path.name}, line {number}: {alt[:30]} is no SNP, insertion or deletion: left out")
            else:
                found.setdefault(k, set()).add(event)
    if not found:
        raise InputFormatError(path, "", "no allele that can be called in the file", "Give SNPs and indels with ALT.")
    return {k: Alleles(sorted(events)) for k, events in found.items()}, notes


def event_of(reference: Reference, contig: int, start: int, ref: str, alt: str) -> Event | None:
    """The allele as the caller knows it, trimmed and leftmost; None for what is neither SNP nor plain indel."""
    if not (_PLAIN.match(ref) and _PLAIN.match(alt)) or ref.upper() == alt.upper():
        return None
    ref, alt = ref.upper(), alt.upper()
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    while ref and alt and ref[0] == alt[0]:
        ref, alt, start = ref[1:], alt[1:], start + 1
    if len(ref) == len(alt) == 1:
        return (start, start + 1, SNP, alt.encode().translate(_CODE))
    if (ref and alt) or len(ref) > MAX_ALLELE or len(alt) > MAX_ALLELE:
        return None
    bases = ref or alt
    low = max(0, start - _MAX_SHIFT)
    before = decode(reference.fetch(contig, low, start))
    while start > max(1, low) and before[start - low - 1] == bases[-1]:
        bases = bases[-1] + bases[:-1]
        start -= 1
    if ref:
        return (start, start + len(bases), DELETION, b"")
    return (start, start, INSERTION, bases.encode().translate(_CODE))


class KnownIds:
    """IDs of known variants, from an indexed VCF; safe for threads, each of which opens the file once.

    Raises
    ------
    InputFormatError
        No VCF, or one without an index.
    """

    def __init__(self, path: Path, reference: Reference) -> None:
        self._path, self._reference = path, reference
        self._ordinal = {contig.name: k for k, contig in enumerate(reference.contigs)}
        with self._open() as file:
            self._names = frozenset(file.contigs)
        for each in (path, index_of(path)):
            check_end_of_file(each)
        if not self._names & self._ordinal.keys():
            raise InputFormatError(
                path, "", "no contig of the reference in the file", "Use variants of this reference."
            )

    def _open(self) -> Any:
        try:
            return pysam.TabixFile(str(self._path))
        except (OSError, ValueError, NotImplementedError) as error:  # the last: pysam takes it for plain gzip
            raise InputFormatError(self._path, "", f"cannot be read with its index: {error}", _INDEX_ADVICE) from error

    def name(self, records: Sequence[VcfRecord]) -> list[VcfRecord]:
        """The records of one contig, ascending, with the IDs of those whose alleles are known; ';' between several."""
        plain = [r for r in records if r.alts and r.alts != (NON_REF,)]
        if not plain or plain[0].contig not in self._names:
            return list(records)
        contig = self._ordinal[plain[0].contig]
        first, last = plain[0].start, max(r.start + len(r.ref) for r in plain)
        wanted = {event for r in plain for event in self._events(contig, r)}
        starts = {event[0] for event in wanted}
        ids: dict[Event, list[str]] = {}
        with self._open() as file:
            for columns in self._fetch(file, plain[0].contig, max(0, first - 1), last + _MAX_SHIFT):
                start, ref = int(columns[1]) - 1, columns[3]
                near = start in starts or start + 1 in starts or len(ref) > 1 or len(columns[4]) > 1
                if columns[2] == "." or not near:
                    continue
                for alt in columns[4].split(","):
                    event = event_of(self._reference, contig, start, ref, alt)
                    if event is not None and event in wanted:
                        ids.setdefault(event, []).append(columns[2])
        return [self._named(r, ids, contig) for r in records]

    def _fetch(self, file: Any, contig: str, start: int, stop: int) -> Iterator[list[str]]:
        """The first five columns of the records over a region, and the rest."""
        try:
            for line in file.fetch(contig, start, stop):
                columns = line.split("\t", 5)
                if not _is_record(columns):
                    raise InputFormatError(self._path, f"{contig}:{start + 1}-{stop}", "not a record of a VCF", _ADVICE)
                yield columns
        except (OSError, ValueError) as error:
            place = f"{contig}:{start + 1}-{stop}"
            why = f"cannot be read there ({error}): the file or its index is damaged"
            raise InputFormatError(self._path, place, why, _INDEX_ADVICE) from error

    def _named(self, record: VcfRecord, ids: dict[Event, list[str]], contig: int) -> VcfRecord:
        names = [name for event in self._events(contig, record) for name in ids.get(event, ())]
        return replace(record, id=";".join(dict.fromkeys(names))) if names else record

    def _events(self, contig: int, record: VcfRecord) -> Iterable[Event]:
        found = (event_of(self._reference, contig, record.start, record.ref, alt) for alt in record.alts)
        return [event for event in found if event is not None]
