# SPDX-License-Identifier: Apache-2.0
"""Pairs of FASTQ files as batches of read pairs, checked, without a Python object per read.

In: FASTQ, plain, gzip or bgzip. Out: `PairBatch` (raw text and a table of fields). Next: `megabolt.align`.

Two threads, one per mate file, inflate into the buffers of coming batches and parse them, a few batches ahead
of the consumer. Where a batch ends depends on the number of pairs only, never on timing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, UsageError
from megabolt.formats import fastq_scan as scan
from megabolt.formats.inflate import InputStream
from megabolt.privacy.consent import Permit

#: Batches each mate's thread may be ahead of the consumer.
READ_AHEAD = 4
#: Spare bytes before the text, so that a kernel may load whole vectors that *end* with a read.
FRONT = PADDING
_FIRST_GUESS = 360  # bytes of a record before any was seen: 2 x 150 and a usual name
_LARGEST_RECORD = 1 << 14  # mean over a batch; beyond it the file is no FASTQ of short reads


@dataclass
class PairBatch:
    """Some consecutive read pairs of one read group.

    Attributes
    ----------
    n_pairs
        Number of pairs.
    text
        Raw FASTQ bytes of mate 1 and of mate 2: uint8, PADDING spare bytes before the first and behind the
        last record. In sequences only the letters A C G T N remain.
    fields
        For mate 1 and mate 2: int64 [n_pairs, 5]: name_start, name_length (first word without '@' and
        without a final /1 or /2), sequence_start, quality_start, length (0..500); offsets into the text.
    read_group
        Index of the pair of files.
    first_pair
        Ordinal of the batch's first pair in the whole input.
    """

    n_pairs: int
    text: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    fields: tuple[NDArray[np.int64], NDArray[np.int64]]
    read_group: int
    first_pair: int
    _origin: tuple[tuple[_MateThread, _MateBatch], ...] = field(default=(), repr=False)

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
    """Read pairs of FASTQ files, one pair of files (read group) after another.

    Parameters
    ----------
    paths1, paths2
        Files of mate 1 and of mate 2, in the same order. Plain, gzip (any number of members) or bgzip; LF or
        CRLF; the last newline may be missing. Pipes can be read too.
    permit
        Leave to open these data; each file is recorded before it is opened.
    pairs_per_batch
        Every batch has exactly so many pairs but for the last of each pair of files.

    Returns
    -------
    Batches in the order of the files. Each owns its buffers until `PairBatch.release`.

    Raises
    ------
    UsageError
        The lists differ in length or are empty.
    InputFormatError
        Whatever is wrong with a file: names it, the line and the record. Raised when the faulty batch is
        asked for, so the batches before it have been given out.
    ConsentRefused
        The access cannot be recorded.
    """
    if len(paths1) != len(paths2) or not paths1:
        raise UsageError(
            f"{len(paths1)} FASTQ files of mate 1, {len(paths2)} of mate 2",
            "Name one R2 file for each R1 file.",
        )
    if pairs_per_batch < 1:
        raise UsageError(f"{pairs_per_batch} pairs per batch", "Ask for 1 or more.")
    files = [[Path(path) for path in paths] for paths in (paths1, paths2)]
    _refuse_repeats(files)
    for read_group, pair in enumerate(zip(*files)):
        for mate, path in enumerate(pair, 1):
            permit.record("open-read", path, format="fastq", mate=mate, read_group=read_group)
    return _joined(files, pairs_per_batch)


def _refuse_repeats(files: Sequence[Sequence[Path]]) -> None:
    seen: dict[str, Path] = {}
    for path in (path for paths in files for path in paths):
        real = os.path.realpath(path)
        if real in seen:
            why = f"the same file is given twice (also as {seen[real]})"
            raise InputFormatError(path, "", why, "Name the file of mate 1 (R1) and that of mate 2 (R2).")
        seen[real] = path


def _joined(files: Sequence[Sequence[Path]], pairs_per_batch: int) -> Iterator[PairBatch]:
    threads = [_MateThread(paths, mate, pairs_per_batch) for mate, paths in enumerate(files, 1)]
    first_pair = 0
    try:
        for thread in threads:
            thread.start()
        while True:
            one, two = threads[0].next_batch(), threads[1].next_batch()
            if one is None and two is None:
                return
            _check_mates(files, one, two)
            if one is None or two is None:  # `_check_mates` has raised
                return
            yield PairBatch(
                n_pairs=one.n,
                text=(one.text, two.text),
                fields=(one.fields[: one.n], two.fields[: two.n]),
                read_group=one.file,
                first_pair=first_pair,
                _origin=((threads[0], one), (threads[1], two)),
            )
            first_pair += one.n
    finally:
        for thread in threads:
            thread.stop()


def _check_mates(files: Sequence[Sequence[Path]], one: _MateBatch | None, two: _MateBatch | None) -> None:
    """Raise unless both mates bring the same pairs."""
    ends = [(len(files[0]), 0) if batch is None else (batch.file, batch.n) for batch in (one, two)]
    if one is None or two is None or ends[0] != ends[1]:
        # the mate that is already in a later file, or has fewer reads in this one, ended early
        short = 0 if (-ends[0][0], ends[0][1]) < (-ends[1][0], ends[1][1]) else 1
        longer = (one, two)[1 - short]
        shorter = (one, two)[short]
        if longer is None:
            return
        same_file = shorter is not None and shorter.file == longer.file
        n_reads = longer.first_record + (shorter.n if same_file and shorter is not None else 0)
        why = f"the file ends after {n_reads} reads, but its mate file {files[1 - short][longer.file]} goes on"
        advice = "R1 and R2 must hold the same pairs: one file is truncated or was filtered alone."
        raise InputFormatError(files[short][longer.file], f"record {n_reads}", why, advice)
    row = int(scan.first_unequal_name(one.text, one.fields[: one.n], two.text, two.fields[: two.n]))
    if row >= 0:
        record = two.first_record + row + 1
        why = f"the name {_name(two, row)!r} differs from that of its mate, {_name(one, row)!r} in {files[0][one.file]}"
        advice = "R1 and R2 must list the same pairs in the same order: were they sorted or filtered alone?"
        where = f"line {4 * record - 3} (record {record})"
        raise InputFormatError(files[1][two.file], where, why, advice)


def _name(batch: _MateBatch, row: int) -> str:
    start, length = batch.fields[row, :2].tolist()
    return batch.text[start : start + length].tobytes().decode("ascii", "replace")


@dataclass
class _MateBatch:
    """Buffers of one mate, and the records in them."""

    text: NDArray[np.uint8]
    fields: NDArray[np.int64]
    n: int = 0
    file: int = 0
    first_record: int = 0  # of this file, from 0


class _MateThread:
    """Inflates and parses the files of one mate, a few batches ahead."""

    def __init__(self, paths: Sequence[Path], mate: int, n_per_batch: int) -> None:
        self._paths = paths
        self._mate = mate
        self._n_per_batch = n_per_batch
        self._newlines = np.empty(4 * n_per_batch + 64, np.int64)
        self._fault = np.zeros(3, np.int64)
        self._record_bytes = float(_FIRST_GUESS)
        self._ready: deque[_MateBatch | BaseException | None] = deque()
        self._spare: deque[_MateBatch] = deque()
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

    def next_batch(self) -> _MateBatch | None:
        """The next batch, None after the last; raises what the thread met."""
        with self._change:
            while not self._ready:
                self._change.wait()
            item = self._ready[0]
            if isinstance(item, _MateBatch):  # the end and an error stay
                self._ready.popleft()
                self._change.notify_all()
        if isinstance(item, BaseException):
            raise item
        return item

    def recycle(self, batch: _MateBatch) -> None:
        if len(self._spare) < 4 * READ_AHEAD:
            self._spare.append(batch)

    def _run(self) -> None:
        try:
            for file, path in enumerate(self._paths):
                with InputStream(path) as stream:
                    for batch in self._batches(stream, file):
                        if not self._put(batch):
                            return
            self._put(None)
        except BaseException as error:  # given to the consumer, who raises it
            self._put(error)

    def _put(self, item: _MateBatch | BaseException | None) -> bool:
        """Wait for room; False if nobody wants more."""
        with self._change:
            while len(self._ready) >= READ_AHEAD and not self._stopped:
                self._change.wait()
            self._ready.append(item)
            self._change.notify_all()
            return not self._stopped

    def _fresh(self) -> _MateBatch:
        try:
            return self._spare.popleft()
        except IndexError:
            n_bytes = int(self._n_per_batch * self._record_bytes * 1.1) + (1 << 16)
            return _MateBatch(
                np.zeros(FRONT + n_bytes + PADDING, np.uint8),
                np.empty((self._n_per_batch, scan.N_FIELDS), np.int64),
            )

    def _batches(self, stream: InputStream, file: int) -> Iterator[_MateBatch]:
        """All batches of one file."""
        rest = np.empty(0, np.uint8)
        first_record, ended = 0, False
        while not ended:
            batch = self._fresh()
            filled, n_lines, ended = self._fill(stream, batch, rest, first_record)
            n = min(n_lines // 4, self._n_per_batch)
            self._parse(stream, batch, n, first_record)
            if ended and (n_lines != 4 * n or (n == 0 and first_record == 0)):
                raise self._cut(stream, batch, n_lines, n, first_record)
            if n == 0:
                self.recycle(batch)
                return
            end = int(self._newlines[4 * n - 1]) + 1
            rest = batch.text[end:filled].copy()
            self._record_bytes = (end - FRONT) / n
            batch.n, batch.file, batch.first_record = n, file, first_record
            first_record += n
            yield batch

    def _fill(
        self, stream: InputStream, batch: _MateBatch, rest: NDArray[np.uint8], first_record: int
    ) -> tuple[int, int, bool]:
        """Read until the batch is full or the file ends.

        Returns where the text stops, the number of lines, and whether the file has ended with this batch.
        """
        wanted = 4 * self._n_per_batch
        self._make_room(batch, FRONT + len(rest))
        filled = FRONT + len(rest)
        batch.text[FRONT:filled] = rest
        n_lines = int(scan.find_newlines(batch.text, FRONT, filled, self._newlines, 0, wanted))
        while n_lines < wanted:
            missing = int((wanted - n_lines) / 4 * self._record_bytes * 1.02) + 512
            self._check_size(stream, batch, filled + missing - FRONT, n_lines, first_record)
            self._make_room(batch, filled + missing)
            n = stream.readinto(batch.text[filled : filled + missing])
            if first_record == 0 and filled == FRONT and n:
                self._check_first_byte(stream, batch.text[FRONT : FRONT + n])
            scanned, filled = filled, filled + n
            n_lines = int(scan.find_newlines(batch.text, scanned, filled, self._newlines, n_lines, wanted))
            if n < missing and n_lines < wanted:
                filled, n_lines = self._finish(batch, filled, n_lines)
                return filled, n_lines, True
        return filled, n_lines, False

    def _finish(self, batch: _MateBatch, filled: int, n_lines: int) -> tuple[int, int]:
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

    def _make_room(self, batch: _MateBatch, used: int) -> None:
        if used + PADDING > len(batch.text):
            grown = np.zeros(used + used // 4 + PADDING, np.uint8)
            grown[: len(batch.text)] = batch.text
            batch.text = grown

    def _parse(self, stream: InputStream, batch: _MateBatch, n: int, first_record: int) -> None:
        sound = scan.parse_records(
            batch.text, FRONT, self._newlines, n, self._mate, scan.PLAIN_LETTER, batch.fields, self._fault
        )
        if sound < n:
            raise self._record_error(stream, first_record)

    def _check_size(
        self, stream: InputStream, batch: _MateBatch, n_bytes: int, n_lines: int, first_record: int
    ) -> None:
        """A file without newlines must not fill the memory."""
        if n_bytes > self._n_per_batch * _LARGEST_RECORD + (1 << 20):
            self._parse(stream, batch, n_lines // 4, first_record)  # an earlier fault explains more
            record = first_record + n_lines // 4 + 1
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

    def _cut(self, stream: InputStream, batch: _MateBatch, n_lines: int, n: int, first_record: int) -> InputFormatError:
        if n_lines == 0:
            return stream.error("", "the file is empty", "Check how it was made or copied.")
        record = first_record + n + 1
        begin = int(self._newlines[4 * n - 1]) + 1 if n else FRONT
        where = f"line {4 * record - 3 + n_lines - 4 * n} (record {record})"
        if batch.text[begin] != ord("@"):
            return stream.error(f"line {4 * record - 3} (record {record})", *_EXPLANATION[scan.NOT_AT])
        why = "the file ends inside a record: it is truncated"
        return stream.error(where, why, "Copy or download it again and compare its checksum.")

    def _record_error(self, stream: InputStream, first_record: int) -> InputFormatError:
        what, row, detail = self._fault.tolist()
        record = first_record + row + 1
        line = 4 * record - 3 + _LINE_OF_FAULT.get(what, 0)
        why, advice = _EXPLANATION[what]
        shown = repr(chr(detail)) if 32 <= detail < 127 else f"byte {detail}"
        why = why.format(n=detail, byte=shown, mate=self._mate)
        return stream.error(f"line {line} (record {record})", why, advice)


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
        "Were R1 and R2 swapped, or one of them given twice?",
    ),
}
