# SPDX-License-Identifier: Apache-2.0
"""BAM and CRAM files read once, from start to end, in whatever order their records are.

In: a path. Out: `RecordBlock` after `RecordBlock`, checked. Next: `formats/bam_input.py` (to align the reads again),
`reads/existing.py` (to mark duplicates again).

Blocks of a BAM are inflated by several threads ahead, each of which finds and checks the records in what it has
inflated, once it is told in which byte the run before has ended. A CRAM is decoded by htslib in a process of its own,
which hands the records over through a pipe: the memory does not depend on the size of the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats import bgzf, cram
from megabolt.formats.bam_records import BamHeader, RecordBlock, RecordWalker, decode_header, hop_records
from megabolt.formats.bgzf_stream import BgzfStream, Looked, Run
from megabolt.privacy.consent import Permit

T = TypeVar("T")

#: Room before the content of a run for the record that the run before it ends in.
_FRONT = 1 << 16
_ADVICE = "The file is damaged: make it again, or copy it again and compare its checksum."
_LARGEST_HEADER = 1 << 30
#: What the decoding process runs: samtools, as pysam has it; its arguments follow.
_DECODE = "import sys, pysam; pysam.set_verbosity(0); pysam.view(*sys.argv[1:], catch_stdout=False)"


class AlignmentFile:
    """A BAM or CRAM file, told apart by its first bytes; read once.

    Parameters
    ----------
    path
        The file.
    permit
        Leave to open these data; the file is recorded before it is opened.
    reference
        The FASTA that a CRAM was made with; a CRAM of reads without a place needs none.
    threads
        Threads that inflate ahead; 0: the calling thread does.

    Raises
    ------
    InputFormatError
        Neither BAM nor CRAM, truncated (its end-of-file block is missing) or damaged; says where.

    Attributes
    ----------
    header
        Its header.
    """

    def __init__(self, path: Path | str, permit: Permit, *, reference: Path | None = None, threads: int = 1) -> None:
        self.path = Path(path)
        permit.record("open-read", path, format="bam or cram")
        with ExitStack() as stack:
            self.is_cram = _kind(self.path) == "cram"
            self._decoder: _Decoder | None = None
            if self.is_cram:
                self._decoder = stack.enter_context(_Decoder(self.path, reference, threads))
                raw: BinaryIO = self._decoder.output
            else:
                raw = stack.enter_context(_open(self.path))
            self._stream = BgzfStream(raw, path, threads=threads, front=_FRONT)
            stack.callback(self._stream.close)
            self.header, self._first = self._read_header()
            if self._decoder is not None:
                self.header = self._decoder.header
            self._records = _Records(self.header, self.path, self._first.number)
            stack.callback(self._records.end)  # first of all
            self._stack = stack.pop_all()  # open until close()

    def blocks(self) -> Iterator[RecordBlock]:
        """The records, some megabytes at a time, to be asked for once.

        A block's `data` is the caller's until `give_back`; without that it is simply not used again.
        """
        for block, _ in self.looked(lambda block, first: None):
            yield block

    def looked(self, look: Callable[[RecordBlock, int], T]) -> Iterator[tuple[RecordBlock, T]]:
        """As `blocks`, with what a function says of each block and the number of its first record in the file.

        Several threads ask it, ahead of the caller, each of a block that its core has in its cache.
        """

        def find(run: Run, number: int) -> tuple[RecordBlock, T]:
            block, first = self._records.find(run, number)
            return block, look(block, first)

        self._stream.look = find
        looked: Looked | None = self._first
        try:
            while looked is not None:
                # some were ready before there was a function to tell, as the first was
                block, found = find(looked.run, looked.number) if looked.found is None else looked.found
                if block.n:
                    yield block, found
                looked = self._next_run()
        finally:
            self._records.end()
        self._check_end(self._records.n_rest)

    def give_back(self, block: RecordBlock) -> None:
        """Let the memory of a block be used again; its content must not be used any more."""
        self._stream.give_back(block.data)

    def close(self) -> None:
        """Close the file and end the threads; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> AlignmentFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_end(self, n_rest: int) -> None:
        if self._decoder is not None:
            self._decoder.check()
        if self._stream.rest:
            raise InputFormatError(self.path, "", "something that is no BGZF block follows the records", _ADVICE)
        if n_rest:
            raise InputFormatError(self.path, "", "the file ends inside a record", _ADVICE)
        if not self._stream.whole:
            raise InputFormatError(self.path, "", "the end-of-file block is missing: the file is truncated", _ADVICE)

    def _next_run(self) -> Looked | None:
        try:
            return self._stream.next_looked()
        except InputFormatError:
            if self._decoder is not None:
                self._decoder.check(wait=1)  # if it failed, that explains more
            raise

    def _read_header(self) -> tuple[BamHeader, Looked]:
        text = b""
        while (looked := self._next_run()) is not None:
            run = looked.run
            text += run.data[run.start : run.stop].tobytes()
            if (found := decode_header(text, self.path)) is not None:
                header, size = found
                return header, looked._replace(run=run._replace(start=run.stop - (len(text) - size)))
            if len(text) > _LARGEST_HEADER:
                break
        if self._decoder is not None:
            self._decoder.check()
        raise InputFormatError(self.path, "header", "the file ends inside its header", _ADVICE)


class _Records:
    """Finds and checks the records of runs, in several threads: each run's rest is passed on to who has the next.

    Runs must be begun in their order.
    """

    def __init__(self, header: BamHeader, path: Path, next_run: int) -> None:
        self._header, self._path = header, path
        self._changed = threading.Condition()
        self._next = next_run
        self._rest: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._n_records = 0
        self._ended = False
        self._whole = True  # the run before ended with a record, as most that htslib writes do

    @property
    def n_rest(self) -> int:
        """Bytes behind the last whole record so far."""
        return len(self._rest)

    def find(self, run: Run, number: int) -> tuple[RecordBlock, int]:
        """The records that end in a run, and the number of the first; waits for the rest of the run before.

        Raises
        ------
        InputFormatError
            A record is damaged; names its number.
        """
        found, sound = np.zeros(2, np.int64), True
        guessed = self._whole  # then the others need not wait while the records are counted
        if guessed:
            sound = hop_records(run.data, run.start, run.stop, found)
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._next == number)
            if self._ended:  # by an error that came before, or by `end`: nobody waits for this
                return RecordBlock(run.data, np.zeros(1, np.int64)), 0
            first = self._n_records
            data, start, stop = _joined(self._rest, run)
            if not guessed or len(self._rest):
                sound = hop_records(data, start, stop, found)
            self._n_records, end = first + int(found[0]), int(found[1])
            self._rest = data[end:stop].copy()
            self._whole = end == stop
            self._next = number + 1
            self._ended = not sound
            self._changed.notify_all()
        walker = RecordWalker(self._header, self._path, need_sorted=False, n_before=first)
        return RecordBlock(data, walker.walk(data, start, stop, int(found[0]))), first

    def end(self) -> None:
        """Nothing more is wanted: let no thread wait."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _joined(rest: NDArray[np.uint8], run: Run) -> tuple[NDArray[np.uint8], int, int]:
    """A run behind the rest of the one before: data, start, stop."""
    if len(rest) <= run.start:
        run.data[run.start - len(rest) : run.start] = rest
        return run.data, run.start - len(rest), run.stop
    joined = np.empty(len(rest) + run.stop - run.start + PADDING, np.uint8)
    joined[: len(rest)] = rest
    stop = len(joined) - PADDING
    joined[len(rest) : stop] = run.data[run.start : run.stop]
    return joined, 0, stop


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        raise InputFormatError(path, "", why, "Check the path and its permissions.") from error


def _kind(path: Path) -> str:
    """bam or cram; a whole one, as far as its end tells."""
    try:
        if path.is_dir():
            raise InputFormatError(path, "", "is a folder, not a file", "Name the file inside it.")
        with _open(path) as file:
            head = file.read(4)
            if head == b"CRAM":
                cram.check_end(path)
                return "cram"
            if not head:
                raise InputFormatError(path, "", "the file is empty", "Check how it was made or copied.")
            if head[:2] != b"\x1f\x8b":
                raise InputFormatError(path, "byte 0", "not a BAM file", "Name a BAM or CRAM file; convert SAM text.")
            if not file.seekable():
                return "bam"
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(bgzf.EOF_BLOCK)))
            if file.read() != bgzf.EOF_BLOCK:
                why = "the end-of-file block is missing: the file is truncated"
                raise InputFormatError(path, f"byte {size}", why, _ADVICE)
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        raise InputFormatError(path, "", why, "Check the path and its permissions.") from error
    return "bam"


class _Decoder:
    """htslib in a process of its own, which writes the records of a CRAM to a pipe as BAM that is not compressed."""

    def __init__(self, path: Path, reference: Path | None, threads: int) -> None:
        self._path = path
        with ExitStack() as stack:
            fasta = None if reference is None else stack.enter_context(cram.indexed_reference(Path(reference)))
            self.header = self._header_of(path, fasta)
            options = ["-u", "-b", "-@", str(max(0, threads - 1))]
            if fasta is not None and reference is not None:
                cram.check_reference(fasta, self.header.contigs, Path(reference), path)
                options += ["-T", str(fasta)]
            elif self.header.contigs:
                why = "a CRAM file needs its reference"
                raise InputFormatError(path, "", why, "Name the FASTA the reads were aligned to.")
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            # else a missing reference may be asked for over the network
            environment = {**os.environ, "REF_PATH": os.devnull}
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DECODE, *options, str(path)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
            )  # fmt: skip
            stack.callback(self._end)
            self.output: BinaryIO = self._process.stdout  # type: ignore[assignment]
            self._stack = stack.pop_all()

    @staticmethod
    def _header_of(path: Path, fasta: Path | None) -> BamHeader:
        """As the file has it: the decoder, given a reference, would put that one's lengths into it."""
        with cram.decoded(path, fasta or path, header_only=True) as bam, open(bam, "rb") as file:
            stream = BgzfStream(file, path, threads=0)
            text = b""
            while (run := stream.next_run()) is not None:
                text += run.data[run.start : run.stop].tobytes()
        found = decode_header(text, path)
        if found is None:
            raise InputFormatError(path, "header", "the file ends inside its header", _ADVICE)
        return found[0]

    def check(self, wait: float | None = None) -> None:
        """At the end of the output: raise if it is not all. `wait`: seconds the process may take to end."""
        try:
            if self._process.wait(wait) == 0:
                return
        except subprocess.TimeoutExpired:
            return
        self._errors.seek(0)
        why = cram.last_line(Exception(self._errors.read().decode("utf-8", "replace")))
        raise InputFormatError(self._path, "", f"cannot be decoded ({why})", "Is it whole, and is this its reference?")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.output.close()

    def __enter__(self) -> _Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
