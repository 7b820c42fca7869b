# SPDX-License-Identifier: Apache-2.0
"""FASTQ files as batches of read pairs or of unpaired reads, checked, without a Python object per read.

In: FASTQ, plain, gzip or bgzip: two files of mates, one of both mates in turn, or one of unpaired reads for
each lane. Out: `PairBatch` (raw text and a table of fields). Next: `megabolt.align`.

Two threads, one per mate file, inflate into the buffers of coming batches and parse them, a few batches ahead
of the consumer; files without a mate file are the first thread's. Where a batch ends depends on the number of
reads only, never on timing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, UsageError
from megabolt.formats import fastq_scan as scan
from megabolt.formats.inflate import InputStream
from megabolt.formats.lane import STANDARD_INPUT, UMI_SOURCES, FastqLane, name_of
from megabolt.privacy.consent import Permit

#: Batches each mate's thread may be ahead of the consumer.
READ_AHEAD = 4
#: Spare bytes before the text, so that a kernel may load whole vectors that *end* with a read.
FRONT = PADDING
#: Bytes that are inflated before their lines are looked for: a core's own cache still holds them.
_STEP = 1 << 20
_FIRST_GUESS = 360  # bytes of a record before any was seen: 2 x 150 and a usual name
_LARGEST_RECORD = 1 << 14  # mean over a batch; beyond it the file is no FASTQ of short reads

_UMI_CODE = {None: scan.NO_UMI, "name": scan.UMI_IN_NAME, "comment": scan.UMI_IN_COMMENT}


@dataclass
class PairBatch:
    """Some consecutive read pairs, or unpaired reads, of one read group.

    Attributes
    ----------
    n_pairs
        Number of pairs; of reads, if they are unpaired.
    text
        Raw FASTQ bytes of mate 1 and of mate 2: uint8, PADDING spare bytes before the first and behind the
        last record. In sequences only the letters A C G T N remain. One array twice if the reads are unpaired
        or both mates come from one file.
    fields
        For mate 1 and mate 2: int64 [n_pairs, 7]: name_start, name_length (first word without '@' and
        without a final /1 or /2), sequence_start, quality_start, length (0..500), umi_start, umi_length (0, 0:
        none; for mate 1 only); offsets into the text. Unpaired reads are mate 1; their mate 2 has the same
        name and length 0.
    read_group
        Index of the lane.
    first_pair
        Ordinal of the batch's first pair or unpaired read in the whole input.
    paired
        Whether the reads have mates.
    """

    n_pairs: int
    text: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    fields: tuple[NDArray[np.int64], NDArray[np.int64]]
    read_group: int
    first_pair: int
    paired: bool = True
    _origin: tuple[tuple[_FileThread, _FileBatch], ...] = field(default=(), repr=False)

    def release(self) -> None:
        """Give the buffers back for coming batches; text and fields must not be used any more."""
        origin, self._origin = self._origin, ()
        if origin:
            nothing = np.empty(0, np.uint8)
            no_fields = np.empty((0, scan.N_FIELDS), np.int64)
            self.text, self.fields = (nothing, nothing), (no_fields, no_fields)
        for thread, batch in origin:
            thread.recycle(batch)


def read_pairs(
    paths1: Sequence[Path],
    paths2: Sequence[Path],
    permit: Permit,
    *,
    pairs_per_batch: int = 2048,
) -> Iterator[PairBatch]:
    """`read_lanes` of pairs of files: those of mate 1 and those of mate 2, in the same order."""
    if len(paths1) != len(paths2):
        raise UsageError(
            f"{len(paths1)} FASTQ files of mate 1, {len(paths2)} of mate 2",
            "Name one R2 file for each R1 file.",
        )
    lanes = [FastqLane(Path(one), Path(two)) for one, two in zip(paths1, paths2)]
    return read_lanes(lanes, permit, pairs_per_batch=pairs_per_batch)


def read_lanes(
    lanes: Sequence[FastqLane],
    permit: Permit,
    *,
    pairs_per_batch: int = 2048,
    umi: str | None = None,
    inflaters: int = 0,
) -> Iterator[PairBatch]:
    """Read FASTQ files, one lane (read group) after another.

    Parameters
    ----------
    lanes
        Files, plain, gzip (any number of members) or bgzip; LF or CRLF; the last newline may be missing. Pipes
        can be read too. Mates must have one name, but for a final /1 and /2 or, in all reads of the lane, .1
        and .2 (as `fastq-dump -I` writes them).
    permit
        Leave to open these data; each file is recorded before it is opened.
    pairs_per_batch
        Every batch has exactly so many pairs, or unpaired reads, but for the last of each lane.
    umi
        One of `UMI_SOURCES`: every mate 1 and every unpaired read must have a UMI there, of the letters
        A C G T N, those of two ends joined by + - or _. "name": all behind the last ':' (or, if that is no
        UMI, behind the last '_') of the name without /1, /2 and #index. "comment": the value of the first
        word behind the name that begins with RX:Z: or UMI:, to its end or its next ':'.
    inflaters
        Threads for each of the two files that are read side by side which inflate ahead, if they are bgzip; plain
        gzip has one stream a file whatever is said here. 0: the thread that parses inflates too.

    Returns
    -------
    Batches in the order of the lanes. Each owns its buffers until `PairBatch.release`.

    Raises
    ------
    UsageError
        No lanes, or an impossible option.
    InputFormatError
        Whatever is wrong with a file: names it, the line and the record. Raised when the faulty batch is
        asked for, so the batches before it have been given out.
    ConsentRefused
        The access cannot be recorded.
    """
    if not lanes:
        raise UsageError("no FASTQ files", "Name at least one.")
    if pairs_per_batch < 1:
        raise UsageError(f"{pairs_per_batch} pairs per batch", "Ask for 1 or more.")
    if umi not in _UMI_CODE:
        raise UsageError(f"UMIs cannot be in '{umi}'", f"They are in: {', '.join(UMI_SOURCES)}.")
    _refuse_repeats(lanes)
    for read_group, lane in enumerate(lanes):
        for mate, path in enumerate(lane.files, 1):
            facts = {"mate": mate} if lane.second is not None else {"interleaved": lane.interleaved}
            shown = "/dev/stdin" if path == STANDARD_INPUT else path
            permit.record("open-read", shown, format="fastq", read_group=read_group, **facts)
    return _batches_of(lanes, pairs_per_batch, _UMI_CODE[umi], inflaters)


def _refuse_repeats(lanes: Sequence[FastqLane]) -> None:
    seen: dict[str, Path] = {}
    for path in (path for lane in lanes for path in lane.files):
        real = os.path.realpath(path)
        if real in seen:
            why = f"the same file is given twice (also as {name_of(seen[real])})"
            raise InputFormatError(name_of(path), "", why, "Name the file of mate 1 (R1) and that of mate 2 (R2).")
        seen[real] = path


def _batches_of(lanes: Sequence[FastqLane], pairs_per_batch: int, umi: int, inflaters: int) -> Iterator[PairBatch]:
    first, second = [], []
    for i, lane in enumerate(lanes):
        if lane.second is None:
            first.append(_Source(i, lane.first, scan.IN_TURN if lane.interleaved else scan.UNPAIRED))
        else:
            first.append(_Source(i, lane.first, scan.MATE_1))
            second.append(_Source(i, lane.second, scan.MATE_2))
    threads = [
        _FileThread(sources, pairs_per_batch, umi, inflaters, k)
        for k, sources in enumerate((first, second), 1)
        if sources
    ]
    first_pair = 0
    try:
        for thread in threads:
            thread.start()
        for i, lane in enumerate(lanes):
            batches = _of_one_file(threads[0], i) if lane.second is None else _of_two_files(threads, i, lane)
            for batch in batches:
                batch.first_pair = first_pair
                first_pair += batch.n_pairs
                yield batch
    finally:
        for thread in threads:
            thread.stop()


def _of_one_file(thread: _FileThread, lane: int) -> Iterator[PairBatch]:
    while (batch := thread.next_batch(lane)) is not None:
        n, paired = batch.n, batch.content == scan.IN_TURN
        fields = (batch.fields[:n], batch.others[:n])
        yield PairBatch(n, (batch.text, batch.text), fields, lane, 0, paired, ((thread, batch),))


def _of_two_files(threads: Sequence[_FileThread], lane: int, files: FastqLane) -> Iterator[PairBatch]:
    names = _Names()
    while True:
        one, two = (thread.next_batch(lane) for thread in threads)
        if one is None and two is None:
            return
        if one is None or two is None:
            raise _missing_mates(files, one, two)
        n = min(one.n, two.n)
        fields = (one.fields[:n], two.fields[:n])
        row = names.first_unequal(one.text, fields[0], two.text, fields[1])
        if row >= 0:  # files of different pairs may differ in length too, but this explains more
            raise _unequal_names(files, one, two, row)
        if one.n != two.n:
            raise _missing_mates(files, one, two)
        yield PairBatch(one.n, (one.text, two.text), fields, lane, 0, True, ((threads[0], one), (threads[1], two)))


class _Names:
    """Compares the names of the mates of one lane, and cuts off .1 and .2 if the first pair has them."""

    def __init__(self) -> None:
        self._digits: int | None = None

    def first_unequal(
        self,
        text1: NDArray[np.uint8],
        fields1: NDArray[np.int64],
        text2: NDArray[np.uint8],
        fields2: NDArray[np.int64],
    ) -> int:
        """The first row whose names differ, or -1."""
        if self._digits is None:
            # SRR1.1 may be a read's whole name: an ending is one only if it tells the mates of a pair apart
            self._digits = int(scan.first_unequal_name(text1, fields1[:1], text2, fields2[:1], 0) == 0)
        return int(scan.first_unequal_name(text1, fields1, text2, fields2, self._digits))


def _missing_mates(files: FastqLane, one: _FileBatch | None, two: _FileBatch | None) -> InputFormatError:
    """One of the files of a lane has fewer reads than the other."""
    first_is_short = (one.n if one else 0) < (two.n if two else 0)
    shorter, longer = (one, two) if first_is_short else (two, one)
    short, long = files.files if first_is_short else files.files[::-1]
    assert longer is not None
    n_reads = longer.first_record + (shorter.n if shorter else 0)
    why = f"the file ends after {n_reads} reads, but its mate file {name_of(long)} goes on"
    advice = "R1 and R2 must hold the same pairs: one file is truncated or was filtered alone."
    return InputFormatError(name_of(short), f"record {n_reads}", why, advice)


def _unequal_names(files: FastqLane, one: _FileBatch, two: _FileBatch, row: int) -> InputFormatError:
    record = two.first_record + row + 1
    here, there = _name(two.text, two.fields, row), _name(one.text, one.fields, row)
    why = f"the name {here!r} differs from that of its mate, {there!r} in {name_of(files.files[0])}"
    advice = "R1 and R2 must list the same pairs in the same order: were they sorted or filtered alone?"
    return InputFormatError(name_of(files.files[1]), f"line {4 * record - 3} (record {record})", why, advice)


def _name(text: NDArray[np.uint8], fields: NDArray[np.int64], row: int) -> str:
    start, length = fields[row, :2].tolist()
    return text[start : start + length].tobytes().decode("ascii", "replace")


class _Source(NamedTuple):
    """A file, the lane it belongs to, and what it holds: UNPAIRED, MATE_1, MATE_2 or IN_TURN."""

    lane: int
    path: Path
    content: int


@dataclass
class _FileBatch:
    """Buffers of one file, and what is in them: n pairs if it holds both mates, else n reads."""

    text: NDArray[np.uint8]
    fields: NDArray[np.int64]
    others: NDArray[np.int64]  # mate 2, where it has no file of its own
    n: int = 0
    lane: int = 0
    content: int = 0
    first_record: int = 0  # of this file, from 0


class _Failure(NamedTuple):
    """What a thread met on the way to a batch of this lane."""

    lane: int
    error: BaseException


class _FileThread:
    """Inflates and parses files one after another, a few batches ahead."""

    def __init__(self, sources: Sequence[_Source], n_per_batch: int, umi: int, inflaters: int, mate: int) -> None:
        self._sources = sources
        self._inflaters = inflaters
        self._n_per_batch = n_per_batch
        self._umi = umi
        contents = {source.content for source in sources}
        self._n_others = n_per_batch if contents & {scan.IN_TURN, scan.UNPAIRED} else 0
        self._most_records = n_per_batch * (2 if scan.IN_TURN in contents else 1)
        self._newlines = np.empty(4 * self._most_records + 64, np.int64)
        self._fault = np.zeros(3, np.int64)
        self._seen_mate = np.zeros(1, np.int64)
        self._record_bytes = float(_FIRST_GUESS)
        self._ready: deque[_FileBatch | _Failure | None] = deque()
        self._spare: deque[_FileBatch] = deque()
        self._stopped = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"fastq-mate-{mate}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; whatever it has prepared is dropped."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)  # a pipe that stalls must not hold us

    def next_batch(self, lane: int) -> _FileBatch | None:
        """The next batch of this lane, None after its last; raises what the thread met on the way to it."""
        with self._change:
            while not self._ready:
                self._change.wait()
            item = self._ready[0]
            if item is None or item.lane > lane:  # the end, an error, a later lane: they stay
                return None
            if isinstance(item, _FileBatch):
                self._ready.popleft()
                self._change.notify_all()
                return item
        raise item.error

    def recycle(self, batch: _FileBatch) -> None:
        if len(self._spare) < 4 * READ_AHEAD:
            self._spare.append(batch)

    def _run(self) -> None:
        lane = 0
        try:
            for source in self._sources:
                lane = source.lane
                with InputStream(source.path, threads=self._inflaters) as stream:
                    for batch in self._batches(stream, source):
                        if not self._put(batch):
                            return
            self._put(None)
        except BaseException as error:  # given to the consumer, who raises it
            self._put(_Failure(lane, error))

    def _put(self, item: _FileBatch | _Failure | None) -> bool:
        """Wait for room; False if nobody wants more."""
        with self._change:
            while len(self._ready) >= READ_AHEAD and not self._stopped:
                self._change.wait()
            self._ready.append(item)
            self._change.notify_all()
            return not self._stopped

    def _fresh(self) -> _FileBatch:
        try:
            return self._spare.popleft()
        except IndexError:
            n_bytes = int(self._most_records * self._record_bytes * 1.1) + (1 << 16)
            return _FileBatch(
                np.zeros(FRONT + n_bytes + PADDING, np.uint8),
                np.empty((self._n_per_batch, scan.N_FIELDS), np.int64),
                np.empty((self._n_others, scan.N_FIELDS), np.int64),
            )

    def _batches(self, stream: InputStream, source: _Source) -> Iterator[_FileBatch]:
        """All batches of one file."""
        rest = np.empty(0, np.uint8)
        first_record, ended = 0, False
        records_per_row = 2 if source.content == scan.IN_TURN else 1
        wanted = records_per_row * self._n_per_batch
        names = _Names()
        self._seen_mate[0] = 0
        while not ended:
            batch = self._fresh()
            batch.lane, batch.content, batch.first_record = source.lane, source.content, first_record
            filled, n_lines, ended = self._fill(stream, batch, rest, wanted)
            n = min(n_lines // 4, wanted)
            self._parse(stream, batch, n)
            self._check_names(stream, batch, n, names)
            if ended and (n_lines != 4 * n or (n == 0 and first_record == 0)):
                raise self._cut(stream, batch, n_lines, n)
            if n % records_per_row:
                why = f"the file ends after {first_record + n} reads, an odd number: the last one has no mate"
                raise stream.error(f"record {first_record + n}", why, _INTERLEAVED)
            if n == 0:
                self.recycle(batch)
                return
            end = int(self._newlines[4 * n - 1]) + 1
            rest = batch.text[end:filled].copy()
            batch.n = n // records_per_row
            self._record_bytes = (end - FRONT) / n
            first_record += n
            yield batch

    def _check_names(self, stream: InputStream, batch: _FileBatch, n: int, names: _Names) -> None:
        """Neighbours are mates where both mates come in turn, and are not where reads are unpaired."""
        if batch.content == scan.IN_TURN:
            one, two = batch.fields[: n // 2], batch.others[: n // 2]
            row = names.first_unequal(batch.text, one, batch.text, two)
            if row >= 0:
                record = batch.first_record + 2 * row + 2
                here, there = _name(batch.text, two, row), _name(batch.text, one, row)
                why = f"the name {here!r} differs from that of the read before it, {there!r}: they are no pair"
                raise stream.error(f"line {4 * record - 3} (record {record})", why, _INTERLEAVED)
        elif batch.content == scan.UNPAIRED and batch.first_record == 0 and n > 1:
            one, two = batch.fields[:1], batch.fields[1:2]
            if scan.first_unequal_name(batch.text, one, batch.text, two, 0) < 0:
                why = f"the first two reads have one name, {_name(batch.text, one, 0)!r}: they are no unpaired reads"
                raise stream.error("line 5 (record 2)", why, _UNPAIRED)

    def _fill(
        self, stream: InputStream, batch: _FileBatch, rest: NDArray[np.uint8], n_records: int
    ) -> tuple[int, int, bool]:
        """Read until the batch has `n_records` or the file ends.

        Returns where the text stops, the number of lines, and whether the file has ended with this batch.
        """
        wanted = 4 * n_records
        self._make_room(batch, FRONT + len(rest))
        filled = FRONT + len(rest)
        batch.text[FRONT:filled] = rest
        n_lines = int(scan.find_newlines(batch.text, FRONT, filled, self._newlines, 0, wanted))
        while n_lines < wanted:
            missing = min(int((wanted - n_lines) / 4 * self._record_bytes * 1.02) + 512, _STEP)
            self._check_size(stream, batch, filled + missing - FRONT, n_lines, n_records)
            self._make_room(batch, filled + missing)
            n = stream.readinto(batch.text[filled : filled + missing])
            if batch.first_record == 0 and filled == FRONT and n:
                self._check_first_byte(stream, batch.text[FRONT : FRONT + n])
            scanned, filled = filled, filled + n
            n_lines = int(scan.find_newlines(batch.text, scanned, filled, self._newlines, n_lines, wanted))
            if n < missing and n_lines < wanted:
                filled, n_lines = self._finish(batch, filled, n_lines)
                return filled, n_lines, True
        return filled, n_lines, False

    def _finish(self, batch: _FileBatch, filled: int, n_lines: int) -> tuple[int, int]:
        """At the end of the file: add a missing newline, forget empty lines behind the last record."""
        line_start = int(self._newlines[n_lines - 1]) + 1 if n_lines else FRONT
        if line_start < filled:
            batch.text[filled] = 10
            self._newlines[n_lines] = filled
            filled, n_lines = filled + 1, n_lines + 1
        whole = 4 * (n_lines // 4)
        tail_start = int(self._newlines[whole - 1]) + 1 if whole else FRONT
        if not batch.text[tail_start:filled].tobytes().strip(b"\r\n"):
            n_lines = whole
        return filled, n_lines

    def _make_room(self, batch: _FileBatch, used: int) -> None:
        if used + PADDING > len(batch.text):
            grown = np.zeros(used + used // 4 + PADDING, np.uint8)
            grown[: len(batch.text)] = batch.text
            batch.text = grown

    def _parse(self, stream: InputStream, batch: _FileBatch, n: int) -> None:
        sound = scan.parse_records(
            batch.text, FRONT, self._newlines, n, batch.content, self._umi, scan.PLAIN_LETTER, batch.fields,
            batch.others, self._seen_mate, self._fault,
        )  # fmt: skip
        if sound < n:
            raise self._record_error(stream, batch)

    def _check_size(self, stream: InputStream, batch: _FileBatch, n_bytes: int, n_lines: int, n_records: int) -> None:
        """A file without newlines must not fill the memory."""
        if n_bytes > n_records * _LARGEST_RECORD + (1 << 20):
            self._parse(stream, batch, n_lines // 4)  # an earlier fault explains more
            record = batch.first_record + n_lines // 4 + 1
            why = "the lines are far too long for short reads"
            raise stream.error(f"record {record}", why, "Is this a FASTQ of short reads?")

    def _check_first_byte(self, stream: InputStream, text: NDArray[np.uint8]) -> None:
        head = text[:4].tobytes()
        if head[:1] == b"@":
            return
        if head[:1] == b">":
            why, advice = "this is FASTA, not FASTQ: qualities are missing", "Name the FASTQ file."
        elif head == b"BAM\x01":
            why, advice = "this is BAM, not FASTQ", "Convert it (samtools collate, samtools fastq)."
        else:
            why, advice = "a FASTQ record begins with '@'", "Check that this is an undamaged FASTQ file."
        raise stream.error("line 1 (record 1)", why, advice)

    def _cut(self, stream: InputStream, batch: _FileBatch, n_lines: int, n: int) -> InputFormatError:
        if n_lines == 0:
            return stream.error("", "the file is empty", "Check how it was made or copied.")
        record = batch.first_record + n + 1
        begin = int(self._newlines[4 * n - 1]) + 1 if n else FRONT
        where = f"line {4 * record - 3 + n_lines - 4 * n} (record {record})"
        if batch.text[begin] != ord("@"):
            return stream.error(f"line {4 * record - 3} (record {record})", *_EXPLANATION[scan.NOT_AT])
        why = "the file ends inside a record: it is truncated"
        return stream.error(where, why, "Copy or download it again and compare its checksum.")

    def _record_error(self, stream: InputStream, batch: _FileBatch) -> InputFormatError:
        what, row, detail = self._fault.tolist()
        record = batch.first_record + row + 1
        mate = {scan.UNPAIRED: int(self._seen_mate[0]), scan.IN_TURN: 1 + row % 2}.get(batch.content, batch.content)
        line = 4 * record - 3 + _LINE_OF_FAULT.get(what, 0)
        why, advice = _EXPLANATION[what]
        shown = repr(chr(detail)) if 32 <= detail < 127 else f"byte {detail}"
        why = why.format(n=detail, byte=shown, mate=mate)
        return stream.error(f"line {line} (record {record})", why, advice)


_INTERLEAVED = (
    "An interleaved file holds mate 1 and mate 2 of each pair in turn;"
    " if this one holds one mate only, name it with -1 or -2."
)
_UNPAIRED = "If the file holds both mates of each pair in turn, name it with --interleaved."
_UMI = "UMIs hold A C G T N, those of two ends are joined by + - or _. Leave --umi out if the reads have none."
#: Which of the four lines a fault is in, from 0.
_LINE_OF_FAULT = {
    scan.NOT_PLUS: 2,
    scan.LENGTHS_DIFFER: 3,
    scan.BAD_BASE: 1,
    scan.BAD_QUALITY: 3,
    scan.TOO_LONG: 1,
}
_EXPLANATION = {
    scan.NOT_AT: (
        "a FASTQ record begins with '@'",
        "A line is missing or too much before this one; each record has exactly four lines.",
    ),
    scan.NOT_PLUS: (
        "the third line of a record begins with '+', not with {byte}",
        "Each record has exactly four lines; sequences over several lines are not supported.",
    ),
    scan.LENGTHS_DIFFER: (
        "sequence ({n} bases) and quality differ in length",
        "The file is damaged or was edited: make it again.",
    ),
    scan.BAD_BASE: ("{byte} is not a base", "Sequences hold A C G T N, '.' and IUPAC codes only."),
    scan.BAD_QUALITY: (
        "{byte} is not a quality of the Phred+33 scale ('!' to '~')",
        "The file is damaged, or its qualities are on another scale.",
    ),
    scan.TOO_LONG: (
        f"the read has {{n}} bases; at most {scan.MAX_READ} are supported",
        "megabolt takes short reads; cut or drop longer ones.",
    ),
    scan.NO_NAME: ("the read has no name", "Each read needs a name behind the '@'."),
    scan.LONG_NAME: (
        f"the name has {{n}} characters; SAM allows {scan.MAX_NAME}",
        "Shorten the names; text behind a blank does not count.",
    ),
    scan.BAD_NAME: ("{byte} in a read's name is not allowed in SAM", "Use printable characters, but no '@'."),
    scan.OTHER_MATE: (
        "the read says that it is mate {n}, but this file was given as mate {mate}",
        "Were R1 and R2 swapped, or one of them given twice? Files with both mates in turn are --interleaved.",
    ),
    scan.OUT_OF_TURN: ("the read says that it is mate {n}, but it has the place of a mate {mate}", _INTERLEAVED),
    scan.BOTH_MATES: ("the read says that it is mate {n}, those before it that they are mate {mate}", _UNPAIRED),
    scan.NONE_IN_NAME: ("no UMI behind the last ':' or '_' of the read's name", _UMI),
    scan.NONE_IN_COMMENT: ("no UMI in the read's comment (a word RX:Z:... or UMI:...)", _UMI),
    scan.LONG_UMI: (f"the UMI has {{n}} letters; at most {scan.MAX_UMI} are supported", _UMI),
}
