# SPDX-License-Identifier: Apache-2.0
"""Sorted BAM with its index, written in one pass; CRAM by way of htslib.

In: sorted `RecordBlock`s. Out: BAM + BAI (CSI for contigs beyond 2^29 bases), or CRAM + CRAI, and on request the
file's MD5; all of them appear together, or none does.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from megabolt.errors import InternalError, UsageError
from megabolt.formats import cram
from megabolt.formats.bai import BAI_LIMIT, IndexBuilder
from megabolt.formats.bam_records import BamHeader, RecordBlock
from megabolt.formats.bgzf import BEST_LEVEL, BgzfWriter
from megabolt.formats.output import WriteBehind, atomic_output, output_error
from megabolt.privacy.consent import Permit


class BamWriter:
    """Writes coordinate-sorted records; use it in a `with` statement.

    Parameters
    ----------
    path
        The file; a name that ends in .cram gives CRAM. Its index is beside it (.bai, .csi or .crai).
    header
        The header.
    permit
        Leave to write these data; recorded before the file is made.
    level
        Compression, 0 to 9: for BAM as `bgzf.compress_block` has it, 1 if None; for CRAM htslib's, 5 if None.
    threads
        Threads that compress besides the one that calls `write`; 1 compresses in the caller's.
    reference
        The FASTA; needed for CRAM.
    cram_version
        One of `cram.VERSIONS`.
    md5
        Also write PATH.md5, as `md5sum` would, for `md5sum -c`. Not of the index.

    Raises
    ------
    OutputError
        The place cannot be written, or the disk is full: nothing is left there.
    UsageError
        CRAM without a reference, or an option out of range.
    InputFormatError
        CRAM with a reference that lacks a contig of the header, or has another sequence for it.
    """

    def __init__(
        self,
        path: Path | str,
        header: BamHeader,
        permit: Permit,
        *,
        level: int | None = None,
        threads: int = 1,
        reference: Path | None = None,
        cram_version: str = cram.VERSIONS[0],
        md5: bool = False,
    ) -> None:
        self.path = Path(path)
        self._cram = self.path.suffix == ".cram"
        self._threads = threads
        self._done = False
        self._index = IndexBuilder([contig.length for contig in header.contigs])
        longest = max((contig.length for contig in header.contigs), default=0)
        suffix = ".crai" if self._cram else (".csi" if longest > BAI_LIMIT else ".bai")
        self.index_path = Path(f"{self.path}{suffix}")
        self.md5_path = Path(f"{self.path}.md5") if md5 else None
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._cram_options = cram.CramOptions(cram_version, level)
        if level is not None and not 0 <= level <= BEST_LEVEL:
            raise UsageError(f"compression level {level} is out of range", f"Choose one from 0 to {BEST_LEVEL}.")
        if self._cram and reference is None:
            raise UsageError(f"{path}: CRAM needs the reference", "Name the FASTA, or write a .bam file.")
        permit.record("open-write", path, format="cram" if self._cram else "bam")
        self._stack = ExitStack()
        with self._guarded():
            self._open_files()
            if self._cram and reference is not None:
                self._reference = self._stack.enter_context(cram.indexed_reference(Path(reference)))
                cram.check_reference(self._reference, header.contigs, Path(reference), self.path)
            pool = self._stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None
            self._bgzf = BgzfWriter(self._raw, 1 if self._cram or level is None else level, pool)
            self._bgzf.write(header.encode())
            self._bgzf.flush_block()  # records begin with a block of their own, as htslib has it

    def write(self, block: RecordBlock) -> None:
        """Add sorted records; the block may be used again when this returns. For one thread.

        Raises
        ------
        OutputError
            The disk is full or gone; nothing is left.
        InternalError
            The records are not sorted.
        """
        if self._done:
            raise InternalError(f"{self.path} is written to after it was closed")
        with self._guarded():
            self._index.add(block, self._bgzf.tell())
            self._bgzf.write(block.data[block.offsets[0] : block.offsets[-1]])

    @property
    def level(self) -> int:
        """Compression of the blocks."""
        return self._bgzf.level

    def write_blocks(self, begun: RecordBlock, ahead: int, n_bytes: int, blocks: list[bytes]) -> None:
        """Add sorted records whose bytes others have compressed. For one thread; raises as `write`.

        Parameters
        ----------
        begun
            The records that begin in these bytes; the last may go on in those that follow.
        ahead
            Bytes before the first of them: the rest of a record that began in the bytes before.
        n_bytes
            How many bytes there are: `bgzf.BATCH_BYTES` but for the last of the file.
        blocks
            What `bgzf.compress_batch` made of them, with `level`.
        """
        if self._done:
            raise InternalError(f"{self.path} is written to after it was closed")
        with self._guarded():
            self._index.add(begun, self._bgzf.tell() + ahead)
            self._bgzf.write_blocks(n_bytes, blocks)

    def close(self) -> None:
        """Write what is left and the index, and put the files in place; a second call does nothing."""
        if self._done:
            return
        with self._guarded():
            self._bgzf.close()
            self._raw.close()
            if self._cram:
                self._encode_cram()
            else:
                self._index_temporary.write_bytes(self._index.encode(self._bgzf.virtual_offsets))
            if self._md5 is not None and self._md5_temporary is not None:
                self._md5_temporary.write_text(f"{self._md5.hexdigest()}  {self.path.name}\n", encoding="utf-8")
            for path in (self._temporary, self._index_temporary):
                _flush(path)
            self._done = True
            _remove_companions(self.path)
            self._stack.close()

    def _encode_cram(self) -> None:
        cram.encode(
            self._bam,
            self._reference,
            self._temporary,
            self._index_temporary,
            self._threads,
            self.path,
            self._cram_options,
        )
        if self._md5 is not None:
            with open(self._temporary, "rb") as file:
                while piece := file.read(1 << 20):
                    self._md5.update(piece)

    def __enter__(self) -> BamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self.close()
        elif not self._done:
            self._abandon(value)

    def _open_files(self) -> None:
        """Make all temporary files; undone last to first: the file is renamed before what belongs to it."""
        enter = self._stack.enter_context
        self._md5_temporary = None if self.md5_path is None else enter(atomic_output(self.md5_path))
        self._index_temporary = enter(atomic_output(self.index_path))
        self._temporary = enter(atomic_output(self.path))
        self._bam = enter(_scratch_bam(self.path)) if self._cram else self._temporary
        file = enter(open(self._bam, "wb"))  # noqa: SIM115 - on the stack
        self._raw: BinaryIO | WriteBehind = file
        if not self._cram:  # a CRAM's BAM is only passing through
            self._raw = WriteBehind(file, checksum=self._md5)
            self._stack.callback(self._raw.close)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """On any error remove everything; say what the disk's errors mean."""
        try:
            yield
        except OSError as error:
            self._abandon(error)
            raise output_error(self.path, error) from error
        except BaseException as error:
            self._abandon(error)
            raise

    def _abandon(self, error: BaseException) -> None:
        self._done = True
        with suppress(AttributeError):  # not made yet
            self._bgzf.abandon()
        with suppress(BaseException):  # closing writes again, and fails again
            self._stack.__exit__(type(error), error, error.__traceback__)


@contextmanager
def _scratch_bam(final: Path) -> Iterator[Path]:
    """A private file beside the output that is removed in any case."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{final.name[:200]}.", suffix=".bam.tmp", dir=final.parent)
    except OSError as error:
        raise output_error(final, error) from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            os.unlink(name)


def _flush(path: Path) -> None:
    """To disk before either file gets its name: a disk that fills up now must not leave one of two."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove_companions(path: Path) -> None:
    """Indexes and checksum of the file that is being replaced, just before it is.

    htslib would prefer some of the indexes to the new one, and one that outlives its file by a crash between two
    renames would be taken for the new file's.
    """
    for other in (f"{path}.csi", f"{path}.bai", f"{path}.crai", f"{path}.md5", path.with_suffix(".bai")):
        with suppress(OSError):
            os.unlink(other)
