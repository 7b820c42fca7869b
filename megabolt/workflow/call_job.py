# SPDX-License-Identifier: Apache-2.0
"""Calls of a sample, chunk by chunk, into VCF and gVCF.

In: `ChunkCalls` in the order of the genome. Out: files, written while the calling goes on.

Chunks are 1 Mb (2^20), cut at multiples of it in each contig whatever the threads, bins or targets.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.engine import PairAligner
from megabolt.call.engine import MARGIN, CallOptions, ChunkCalls
from megabolt.call.ploidy import DIPLOID
from megabolt.call.reads import MAX_SPAN
from megabolt.call.reference_confidence import join_reference_blocks
from megabolt.errors import InternalError
from megabolt.formats.fasta import Contig, Reference
from megabolt.formats.vcf import NON_REF, VcfRecord, write_vcf
from megabolt.joint.single import OneRecordPerPlace
from megabolt.paralogs.settle import Blocks, Moves, find_moves
from megabolt.privacy.consent import Permit
from megabolt.reads.bins import BIN_BASES, HALO
from megabolt.workflow.metrics import CallCounts

if MARGIN + MAX_SPAN > HALO:
    raise InternalError(f"a bin's halo of {HALO} bases is less than the caller's margin and a read's span")

CHUNK_BASES = BIN_BASES
#: A chunk's records may begin this far behind its end, a later chunk's this far before its start.
_DISORDER = 4096
#: Records written at once.
_AT_ONCE = 8192


@dataclass(frozen=True)
class Chunk:
    """A stretch of a contig that is called at once."""

    contig: int
    start: int
    stop: int


def chunks_of(contig: int, start: int, stop: int, *limits: Sequence[NDArray[np.int64]] | None) -> list[Chunk]:
    """Chunks between two multiples of `CHUNK_BASES` (or contig ends).

    Those in which any of the `limits` (targets, regions: int64 [n, 2] by contig) has no place are left out. Others
    stay whole: what is learnt from a chunk's reads is the same whatever is asked for.
    """
    chunks = []
    for first in range(start, stop, CHUNK_BASES):
        last = min(first + CHUNK_BASES, stop)
        places = [one[contig] for one in limits if one is not None]
        # what begins here may reach that far
        if not all(((own[:, 1] > first) & (own[:, 0] < last + _DISORDER)).any() for own in places):
            continue
        chunks.append(Chunk(contig, first, last))
    return chunks


def moves_in(
    blocks: Blocks, chunk: Chunk, reference: Reference, options: CallOptions, aligner: PairAligner | None
) -> Moves:
    """Records of a chunk, a whole one, that come from another copy of their sequence than the one they were put at.

    None without an aligner, and where there are not two copies of the genome: what is known of depth follows from them.
    """
    low = max(0, chunk.start - MARGIN)
    high = min(chunk.stop + MARGIN, reference.contigs[chunk.contig].length)
    diploid = all(copies == DIPLOID for _, _, copies in options.ploidy.within(chunk.contig, low, high))
    if aligner is None or not diploid or chunk.contig in options.mixture:
        return Moves.none()
    return find_moves(blocks, chunk.contig, low, high, reference, aligner)


def without_non_ref(record: VcfRecord) -> VcfRecord:
    """The record of a VCF from that of a gVCF: the allele <NON_REF> and its numbers are gone."""
    if record.alts[-1:] != (NON_REF,):
        return record
    n_alleles = len(record.alts)  # the reference, and all but the last
    info: dict[str, Any] = dict(record.info)
    for name in ("AC", "AF"):
        if name in info:
            info[name] = info[name][:-1]
    genotype: dict[str, Any] = dict(record.genotype)
    if "AD" in genotype:
        genotype["AD"] = genotype["AD"][:-1]
    if "PL" in genotype:  # genotypes are ordered by their larger allele: those of the last allele come last
        kept = genotype["PL"][: n_alleles * (n_alleles + 1) // 2]
        genotype["PL"] = [value - min(kept) for value in kept]
    return replace(record, alts=record.alts[:-1], info=info, genotype=genotype)


def _file_order(record: VcfRecord) -> tuple[int, str, tuple[str, ...]]:
    return record.start, record.ref, record.alts


class OrderedCalls:
    """Brings the records of chunks into file order and joins reference blocks over chunk borders."""

    def __init__(self) -> None:
        self._contig = -1
        self._held: list[VcfRecord] = []
        self._blocks: list[VcfRecord] = []

    def add(self, chunk: Chunk, calls: ChunkCalls, gq_bands: Sequence[int]) -> Iterator[VcfRecord]:
        """Take a chunk's records; returns those that no later chunk can come before. To be used up at once."""
        before = self.finish() if chunk.contig != self._contig else []
        self._contig = chunk.contig
        self._held += calls.variants
        limit = chunk.stop - _DISORDER
        if calls.reference_blocks:  # inside the chunk they are joined already
            seam = join_reference_blocks([*self._blocks, calls.reference_blocks[0]], gq_bands)
            blocks = [*seam, *calls.reference_blocks[1:]]
            self._held += blocks[:-1]
            self._blocks = blocks[-1:]  # the next chunk may continue it
        if self._blocks:
            limit = min(limit, self._blocks[0].start)
        if calls.sites is None:
            return iter(before + self._take(limit))
        limit = max(limit, chunk.start)
        self._held += calls.sites(limit, chunk.stop)
        ready = heapq.merge(self._take(limit), calls.sites(chunk.start, limit), key=_file_order)
        return itertools.chain(before, ready)

    def finish(self) -> list[VcfRecord]:
        """All that is still held."""
        self._held += self._blocks
        self._blocks = []
        return self._take(None)

    def _take(self, limit: int | None) -> list[VcfRecord]:
        self._held.sort(key=_file_order)
        if limit is None:
            ready, self._held = self._held, []
        else:
            n = sum(record.start < limit for record in self._held)
            ready, self._held = self._held[:n], self._held[n:]
        return ready


class _Abandoned(Exception):
    """The job failed elsewhere: the writer leaves without a file."""


class VcfStream:
    """Writes one VCF in a thread of its own while records arrive; use as a context manager.

    The file appears when the block is left without an error; else nothing is left of it.
    """

    def __init__(self, path: Path, contigs: Sequence[Contig], sample: str, permit: Permit, **header: Any) -> None:
        self.path = path
        self.n_records = 0
        self._queue: queue.Queue[list[VcfRecord] | None] = queue.Queue(maxsize=16)
        self._abandoned = threading.Event()
        self._error: BaseException | None = None
        self._arguments = (contigs, sample, permit)
        self._header = header
        self._thread = threading.Thread(target=self._run, name=f"write-{path.name}", daemon=True)

    def __enter__(self) -> VcfStream:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._abandoned.set()
        self._put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def write(self, records: list[VcfRecord]) -> None:
        """Append records, in file order; raises what the writing thread met."""
        if records:
            self._put(records)
            self.n_records += len(records)
        if self._error is not None:
            raise self._error

    def _put(self, item: list[VcfRecord] | None) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def _records(self) -> Iterator[VcfRecord]:
        while True:
            try:
                item = self._queue.get(timeout=0.5)
            except queue.Empty:
                if self._abandoned.is_set():
                    raise _Abandoned from None
                continue
            if self._abandoned.is_set():
                raise _Abandoned
            if item is None:
                return
            yield from item

    def _run(self) -> None:
        try:
            write_vcf(self.path, self._records(), *self._arguments, **self._header)
        except _Abandoned:
            pass
        except BaseException as error:  # raised again in the thread that writes to us
            self._error = error


class CallSink:
    """Where a job's calls go: VCF, gVCF and counts; chunks must come in the order of the genome."""

    def __init__(self, vcf: VcfStream, gvcf: VcfStream | None, gq_bands: Sequence[int]) -> None:
        self.counts = CallCounts()
        self._vcf, self._gvcf = vcf, gvcf
        self._gq_bands = gq_bands
        self._ordered = OrderedCalls()
        self._one_per_place = OneRecordPerPlace()
        self._last = (-1, -1)

    def add(self, chunk: Chunk, calls: ChunkCalls) -> None:
        """Write what a chunk gave."""
        if (chunk.contig, chunk.start) <= self._last:
            raise InternalError(f"chunks out of order: {chunk} after {self._last}")
        self._last = (chunk.contig, chunk.start)
        self._write(self._ordered.add(chunk, calls, self._gq_bands))

    def finish(self) -> None:
        """Write the rest."""
        self._write(self._ordered.finish())
        if self._gvcf is not None:
            self._gvcf.write(self._one_per_place.finish())

    def _write(self, records: Iterable[VcfRecord]) -> None:
        stream = iter(records)
        while some := list(itertools.islice(stream, _AT_ONCE)):
            self._write_some(some)

    def _write_some(self, records: list[VcfRecord]) -> None:
        variants = [without_non_ref(record) for record in records if not record.is_reference_block]
        # sites without a variant, and alleles that were asked for but are not there, are no calls
        self.counts.add(record for record in variants if record.alts and any(record.info.get("AC", (1,))))
        self._vcf.write(variants)
        if self._gvcf is not None:
            self._gvcf.write(self._one_per_place([record for record in records if record.alts]))
