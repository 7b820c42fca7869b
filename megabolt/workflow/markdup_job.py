# SPDX-License-Identifier: Apache-2.0
"""An existing BAM or CRAM, sorted and with its duplicates marked anew, without aligning it again.

In: a file in any order. Out: a sorted file with its index, and what was found. The steps are those of a job from
FASTQ: records to bins and templates to the finder while the file is read, then bin by bin to the writer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from megabolt.align.record import RecordChunk
from megabolt.formats.bam_writer import BamWriter
from megabolt.privacy.consent import Permit
from megabolt.reads.arena import BufferPool
from megabolt.reads.bin_layout import BinBlock, Part
from megabolt.reads.bins import FLAG_DUPLICATES, BinStore, Finish
from megabolt.reads.duplicates.finder import DuplicateFinder, DuplicateOptions, Duplicates
from megabolt.reads.duplicates.templates import Templates
from megabolt.reads.existing import ExistingReads
from megabolt.reads.scratch import Scratch
from megabolt.workflow.ordered import in_order, worker_pool

#: Parts of the memory: for what duplicates are recognised by, and for sorted blocks while they are written.
_FINDER_SHARE = 8
_SORTED_SHARE = 4


@dataclass(frozen=True)
class MarkOptions:
    """How to mark and to write.

    Attributes
    ----------
    duplicates
        What counts as one.
    finish
        Whether they are flagged, tagged or left out.
    level, cram_version, md5
        As for `BamWriter`.
    """

    duplicates: DuplicateOptions = field(default_factory=DuplicateOptions)
    finish: Finish = FLAG_DUPLICATES
    level: int | None = None
    cram_version: str = "3.0"
    md5: bool = False


def mark_file(
    source: Path,
    output: Path,
    permit: Permit,
    scratch: Scratch,
    *,
    reference: Path | None = None,
    threads: int = 1,
    memory: int = 1 << 32,
    options: MarkOptions | None = None,
    command_line: str = "",
    say: Callable[[int], None] | None = None,
) -> Duplicates:
    """Sort a file by coordinate and mark its duplicates.

    Parameters
    ----------
    source
        BAM or CRAM, in any order. Its records stay as they are but for the duplicate flag.
    output
        BAM or CRAM, by its name; appears whole, or not at all.
    scratch
        Takes what memory does not hold.
    reference
        The FASTA, for CRAM.
    memory
        Bytes for records and for what is known of templates.
    command_line
        For the @PG line.
    say
        Told the number of records read.

    Returns
    -------
    What was found: flags of templates, and the figures of each library.
    """
    options = options or MarkOptions()
    duplicates = options.duplicates
    with ExistingReads(
        source, permit, reference=reference, threads=threads, want_umi=duplicates.umi, duplex=duplicates.duplex,
        spill=scratch.open_file(),
    ) as reads:  # fmt: skip
        header = reads.header.continued(command_line=command_line)
        store = BinStore(
            [contig.length for contig in header.contigs], memory - memory // _FINDER_SHARE, scratch.open_file,
            ordinal_shift=0, contig_names=[contig.name for contig in header.contigs],
        )  # fmt: skip
        finder = DuplicateFinder(
            reads.libraries, duplicates, scratch.open_file(), budget=max(1 << 20, memory // (2 * _FINDER_SHARE))
        )  # fmt: skip
        _fill(reads, store, finder, threads, say)
        found = finder.resolve(threads)
        store.duplicate, store.optical = reads.spread(found.duplicate), reads.spread(found.optical)
    store.seal(store.budget // _SORTED_SHARE, threads)
    with BamWriter(
        output, header, permit, level=options.level, threads=threads, reference=reference,
        cram_version=options.cram_version, md5=options.md5,
    ) as writer:  # fmt: skip
        _write(store, writer, options.finish, threads)
    return found


def _fill(
    reads: ExistingReads, store: BinStore, finder: DuplicateFinder, threads: int, say: Callable[[int], None] | None
) -> None:
    def put(item: tuple[RecordChunk, Templates]) -> int:
        chunk, templates = item
        n = chunk.n_records
        store.add(chunk)
        finder.add(templates)
        reads.give_back(chunk)
        return n

    n_records = 0
    with worker_pool(threads) as pool, closing(reads.chunks()) as chunks:  # type: ignore[type-var]
        for n in in_order(pool, put, chunks, threads):
            n_records += n
            if say is not None:
                say(n_records)


def _write(store: BinStore, writer: BamWriter, finish: Finish, threads: int) -> None:
    buffers = BufferPool()

    def sort(part: Part) -> BinBlock:
        return store.sorted_part(part, buffers, finish=finish)

    parts = store.parts(threads)
    largest = max((part.n_bytes for part in parts), default=1)
    room = store.budget // _SORTED_SHARE // max(1, largest) - 1  # sorting takes twice what the block will
    with worker_pool(max(1, min(threads, room // 2))) as pool:
        for block in in_order(pool, sort, parts, max(0, min(threads, room - 1))):
            writer.write(block.own())
            buffers.give_back(block.records.data)
