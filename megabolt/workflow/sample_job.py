# SPDX-License-Identifier: Apache-2.0
"""What the jobs of one sample share: permit, index, memory, scratch, clock, and the steps in their order.

Used by `workflow/germline.py`. What only some jobs need is imported by them: all of it takes half a second.
Scratch is opened when memory is full for the first time and goes with the job.
"""

from __future__ import annotations

import logging
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megabolt import __version__
from megabolt.errors import InternalError, ResourceError
from megabolt.formats.bam import BamHeader, BamWriter
from megabolt.formats.bed import read_bed
from megabolt.formats.fasta import Contig, Reference, read_fasta
from megabolt.formats.lane import STANDARD_INPUT
from megabolt.formats.output import output_error
from megabolt.formats.vcf import command_line_header
from megabolt.privacy.consent import Permit
from megabolt.reads.bins import PAIR_SHIFT, BinStore
from megabolt.reads.duplicates.finder import DuplicateFinder, Duplicates
from megabolt.reads.duplicates.metrics import write_duplication_metrics
from megabolt.reads.existing import ExistingReads
from megabolt.reads.scratch import Frame, Scratch, SpillFile, check_disk, disk_needed, leftovers
from megabolt.workflow.clock import Clock
from megabolt.workflow.metrics import versions
from megabolt.workflow.processing import Processing
from megabolt.workflow.read_groups import ReadGroup
from megabolt.workflow.remark_job import take_records
from megabolt.workflow.sweep import Calling, Targets, Touch, sweep

if TYPE_CHECKING:
    from megabolt.align.engine import InsertSize
    from megabolt.align.index import Index
    from megabolt.align.options import AlignOptions
    from megabolt.call.engine import CallOptions
    from megabolt.compute.backend import Backend
    from megabolt.metrics import Collector
    from megabolt.recalibrate import Applier
    from megabolt.workflow.align_job import Aligner
    from megabolt.workflow.call_job import CallSink
    from megabolt.workflow.call_request import CallRequest
    from megabolt.workflow.copies import ReadCounter, ResolvedRequest
    from megabolt.workflow.indel_learning import RecordSource
    from megabolt.workflow.read_input import OpenedReads, ReadInput
    from megabolt.workflow.recalibrate_job import Covariates

log = logging.getLogger(__name__)

#: Memory of the interpreter, the compiled kernels and one thread's working arrays.
BASE_BYTES = 350 << 20
BYTES_PER_THREAD = 96 << 20
#: Part of the memory for reads that goes to the duplicate finder, which takes it twice while it decides.
_FINDER_SHARE = 12
#: Part that goes to reads that wait for their mates, where they come from a sorted file.
_WAITING_SHARE = 6
_PAIRS_BETWEEN_LINES = 5_000_000
_UNSAID = ("--open-data", "--audit-log")


class SampleJob:
    """One job; use as a context manager, so that its scratch goes in any case.

    Parameters
    ----------
    reference
        FASTA; `open` wants the index beside it.
    sample
        Its name.
    threads, memory
        Processors to use, bytes to stay within.
    permit
        Leave to use the sample's data.
    processing
        What is done with the reads.
    output
        A file or folder that the job writes: scratch lies beside it unless `processing` says otherwise.
    say
        Told what is going on, a line at a time; default: the log.
    """

    def __init__(
        self,
        *,
        reference: Path,
        sample: str,
        threads: int,
        memory: int,
        permit: Permit,
        processing: Processing,
        output: Path,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.reference, self.sample = reference, sample
        self.threads, self.memory = threads, memory
        self.permit, self.processing = permit, processing
        self.say = say or log.info
        self.clock = Clock(self.say)
        self.targets: Targets = None
        self.insert_sizes: list[InsertSize] = []
        self.duplicates: Duplicates | None = None
        self.collector: Collector | None = None
        self.resolved: ResolvedRequest | None = None
        self._applier: Applier | None = None
        self._qualities: dict[str, Any] = {}  # before recalibration
        self._afterwards: Covariates | None = None
        self._waiting_bytes = 0
        self._genome_bytes = 0  # of a reference that is not mapped from an index
        self._index: Index | None = None
        self._folder = output if output.is_dir() else output.parent
        self._stack = ExitStack()
        self._scratch = _LateScratch(self._stack, processing.scratch or self._folder, f"sample {sample}")

    def __enter__(self) -> SampleJob:
        for old in leftovers(self._scratch.folder):
            log.warning("%s was left by a job that was killed (%s); remove it: rm -r %s", old.path, old.label, old.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- before the reads ---

    def open(self, targets: Path | None) -> None:
        """Map the index, read the targets."""
        from megabolt.align.index import open_index

        with self.clock.stage("open the index"):
            self._index = open_index(self.reference, for_lookup=True)
            if targets is not None:
                self.targets = read_bed(targets, self.index.contigs)

    @property
    def index(self) -> Index:
        """The reference's index, once it is open."""
        if self._index is None:
            raise InternalError("the index is wanted before it was opened")
        return self._index

    def open_genome(self) -> Reference:
        """The reference, for those who do not align: its index if there is one, else the FASTA in memory."""
        from megabolt.align.index import index_path, open_index

        with self.clock.stage("open the reference"):
            if index_path(self.reference).exists():
                self._index = open_index(self.reference)
                return self._index
            genome = read_fasta(self.reference)
            self._genome_bytes = genome.codes.nbytes
            return genome

    @property
    def call_targets(self) -> tuple[NDArray[np.int64], ...] | None:
        """Targets as the caller takes them."""
        return None if self.targets is None else tuple(self.targets)

    def check_disk(self, inputs: Sequence[Path], writes_reads: bool) -> None:
        """Ask whether the disks have room for scratch and for the output; pipes say nothing of their size.

        Raises
        ------
        ResourceError
            They have not.
        """
        sizes: dict[str, int] = {}
        for path in inputs:
            if path != STANDARD_INPUT and path.is_file():
                sizes[_kind_of(path)] = sizes.get(_kind_of(path), 0) + path.stat().st_size
        scratch = disk_needed(sizes, self._store_bytes())
        needed = {self._folder: disk_needed(sizes, 0) if writes_reads else 0}
        needed[self._scratch.folder] = needed.get(self._scratch.folder, 0) + scratch
        check_disk(needed)

    # --- pass 1 ---

    def open_reads(self, reads: ReadInput) -> OpenedReads:
        """Begin to read."""
        self._waiting_bytes = self.memory_for_reads() // _WAITING_SHARE * reads.mates_wait
        return reads.open(self.permit, self.sample, self.reference, self.threads, self._waiting_bytes)

    def align(self, reads: OpenedReads, options: AlignOptions, aligner: Aligner | None, has_umis: bool) -> BinStore:
        """Align all reads into bins and decide on duplicates."""
        from megabolt.workflow.align_job import align_reads

        store = self._store(self.index.contigs, PAIR_SHIFT)
        finder = self._finder([group.library for group in reads.read_groups], has_umis)
        with self.clock.stage("align"):
            self.insert_sizes = align_reads(
                self.index,
                reads,
                store,
                finder,
                threads=self.threads,
                clock=self.clock,
                options=options,
                say=self._counter(reads.templates, _PAIRS_BETWEEN_LINES),
                aligner=aligner,
            )
        for note in reads.notes():
            log.warning("%s", note)
        with self.clock.stage("mark duplicates"):
            self.duplicates = finder.resolve(self.threads)
            store.duplicate, store.optical = self.duplicates.duplicate, self.duplicates.optical
        self._say_duplicates(store.n_pairs, reads.templates)
        return store

    def take(self, source: ExistingReads, has_umis: bool) -> BinStore:
        """Put the records of an existing file into bins and decide on duplicates."""
        store = self._store(source.header.contigs, 0)
        finder = self._finder(source.libraries, has_umis)
        with self.clock.stage("read"):
            take_records(
                source,
                store,
                finder,
                threads=self.threads,
                clock=self.clock,
                say=self._counter("records", 2 * _PAIRS_BETWEEN_LINES),
            )
        if source.n_without_mate:
            log.warning("%s reads of pairs lack their mates in the file", f"{source.n_without_mate:,}")
        with self.clock.stage("mark duplicates"):
            self.duplicates = finder.resolve(self.threads)
            store.duplicate = source.spread(self.duplicates.duplicate)
            store.optical = source.spread(self.duplicates.optical)
        self._say_duplicates(source.n_templates, "templates")
        return store

    def scratch_file(self) -> SpillFile:
        """A new file in scratch, which is opened with it."""
        return self._scratch.open_file()

    def late_file(self) -> LateFile:
        """A file in scratch that is opened when it is first written to."""
        return LateFile(self._scratch.open_file)

    def _store(self, contigs: Sequence[Contig], shift: int) -> BinStore:
        return BinStore(
            [contig.length for contig in contigs],
            self._store_bytes(),
            self._scratch.open_file,
            ordinal_shift=shift,
            contig_names=[contig.name for contig in contigs],
        )

    def _finder(self, libraries: Sequence[str], has_umis: bool) -> DuplicateFinder:
        options = replace(self.processing.duplicates, umi=has_umis)
        return DuplicateFinder(libraries, options, self.late_file(), budget=self.memory_for_reads() // _FINDER_SHARE)

    def _store_bytes(self) -> int:
        left = self.memory_for_reads()
        return left - 2 * (left // _FINDER_SHARE) - self._waiting_bytes

    def memory_for_reads(self) -> int:
        """Bytes left for reads when index, interpreter and threads have theirs."""
        index = self._genome_bytes
        if self._index is not None:
            index += self.index.packed_reference.nbytes + self.index.table.nbytes + self.index.lists.nbytes
        left = self.memory - index - BASE_BYTES - self.threads * BYTES_PER_THREAD
        if left < 64 << 20:
            need = self.memory - left + (256 << 20)
            raise ResourceError(
                f"{self.memory / 1e9:.2f} GB of memory are too little: the index takes {index / 1e9:.2f} GB,"
                f" {self.threads} threads {self.threads * BYTES_PER_THREAD / 1e9:.2f} GB",
                f"Give at least --memory {need >> 20}M, or use fewer threads.",
            )
        return left

    def _say_duplicates(self, n_templates: int, word: str) -> None:
        assert self.duplicates is not None
        n = sum(one.read_pair_duplicates + one.unpaired_read_duplicates for one in self.duplicates.metrics)
        close = sum(one.read_pair_optical_duplicates for one in self.duplicates.metrics)
        self.say(f"{n_templates:,} {word}, {n:,} of them duplicates" + f", {close:,} optical" * (close > 0))

    # --- between the passes ---

    def recalibrate(self, store: BinStore, groups: Sequence[str], genome: Reference, table: Path) -> None:
        """Fit the recalibration of base qualities, if it is wanted, and write its table.

        Parameters
        ----------
        groups
            @RG lines.
        genome
            The reference that the records lie on.
        table
            GATK's report to write.
        """
        if not self.processing.known_sites:
            return
        from megabolt.recalibrate import (
            Applier,
            Counter,
            CountOptions,
            GroupMap,
            fit,
            read_known_sites,
            write_report,
        )
        from megabolt.recalibrate.plots import quality_data
        from megabolt.workflow.recalibrate_job import Covariates, count_bins

        with self.clock.stage("recalibrate"):
            known = read_known_sites(self.processing.known_sites, genome.contigs)
            rows = GroupMap.of_lines(groups)
            options = self.processing.recalibration
            counting = CountOptions(
                preserve_below=options.preserve_below,
                low_quality_tail=options.low_quality_tail,
                **({"quantizing_levels": options.quantize_levels} if options.quantize_levels else {}),
            )
            counter = Counter(genome, known, rows, counting)
            counts = count_bins(store, counter, threads=self.threads, clock=self.clock)
            found = fit(rows.names, counts, counting)
            write_report(table, found)
            self._applier = Applier(found, rows, options)
            self._qualities = quality_data(counts)
            self._afterwards = Covariates(counter)

    # --- pass 2 ---

    def collect(self, groups: Sequence[ReadGroup], contigs: Sequence[Contig], genome: Reference | None) -> None:
        """Count metrics in pass 2."""
        from megabolt.metrics import Collector, GroupInfo

        infos = [GroupInfo(one.read_group, one.sample, one.library, one.unit) for one in groups]
        self.collector = Collector(contigs, genome, self.targets, infos)

    def sweep(self, store: BinStore, writer: BamWriter | None, calling: Calling | None) -> None:
        """Sort, write and call."""
        what = " and ".join(["write"] * (writer is not None) + ["call"] * (calling is not None))
        touch = Touch(self.processing.finish, self._applier, self._afterwards, self.collector)
        with self.clock.stage(f"sort, {what}"):
            sweep(
                store,
                writer,
                calling,
                touch,
                threads=self.threads,
                clock=self.clock,
                say=self._counter(f"of {len(store.parts())} bins", 100),
            )
        if store.spilled_bytes:
            self.say(f"{store.spilled_bytes / 1e9:.2f} GB were in scratch")

    def bam_writer(self, path: Path, header: BamHeader) -> BamWriter:
        """The writer of the BAM or CRAM."""
        return BamWriter(
            path,
            header,
            self.permit,
            level=self.processing.level,
            threads=self.threads,
            reference=self.reference,
            cram_version=self.processing.cram_version,
            md5=self.processing.md5,
        )

    def new_header(self, groups: Sequence[ReadGroup], earlier: str) -> BamHeader:
        """The header of a file with reads that were aligned here."""
        lines = [group.header_line() for group in groups]
        return BamHeader.build(self.index.contigs, lines, command_line=command_line(), earlier=earlier)

    def call_options(
        self, request: CallRequest, backend: Backend, count: ReadCounter, records: RecordSource, *, bins: bool
    ) -> ResolvedRequest:
        """What the caller is to do; says what it takes the sex to be.

        Parameters
        ----------
        count
            Counts reads that begin in places.
        records
            The reads from which the library's indel errors are learnt.
        bins
            Whether `count` counts whole bins.
        """
        from megabolt.call.engine import CallOptions
        from megabolt.reads.bins import BIN_BASES
        from megabolt.workflow import copies
        from megabolt.workflow.indel_learning import learn_indel_errors

        targets = self.call_targets
        if targets is not None:
            targets = copies.padded(targets, request.padding, self.index.contigs)
        windows, bases = copies.FILE_WINDOWS, copies.FILE_WINDOW_BASES
        if bins:
            windows, bases = copies.BIN_WINDOWS, BIN_BASES
        options = CallOptions(targets=targets, backend=backend)
        with self.clock.stage("count copies"):
            resolved = copies.resolve(
                request, options, self.index, count, targets=self.call_targets, windows=windows, bases=bases
            )
        for note in resolved.notes:
            self.say(note)
        with self.clock.stage("learn indel errors"):
            options = learn_indel_errors(resolved.options, self.index, records, threads=self.threads)
        self.resolved = replace(resolved, options=options)
        return self.resolved

    def sink(self, stack: ExitStack, vcf: Path, gvcf: Path | None, options: CallOptions) -> CallSink:
        """The files of the calls; they appear when the stack is closed without an error."""
        extra = [command_line_header(command_line(), __version__)]
        extra += [f"##megaboltNote={note}" for note in (self.resolved.notes if self.resolved is not None else ())]
        from megabolt.workflow.call_job import CallSink, VcfStream

        streams = [
            stack.enter_context(
                VcfStream(
                    path,
                    self.index.contigs,
                    self.sample,
                    self.permit,
                    reference_name=self.reference.name,
                    source=f"megabolt {__version__}",
                    extra=extra,
                    filters=options.thresholds.descriptions(),
                    gvcf=path is gvcf,
                )
            )
            for path in (vcf, gvcf)
            if path is not None
        ]
        return CallSink(streams[0], streams[1] if len(streams) > 1 else None, options.gq_bands)

    # --- what was counted ---

    def write_metrics_files(self, folder: Path) -> list[Path]:
        """The files that MultiQC knows."""
        if self.collector is None:
            return []
        from megabolt.metrics import write_all

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error

        def record(path: Path) -> None:
            self.permit.record("open-write", path, format="metrics")

        written = write_all(self.collector.total(), self.collector, folder, self.sample, record=record)
        if self.duplicates is not None:
            path = folder / f"{self.sample}.duplication_metrics.txt"
            record(path)
            found = self.duplicates
            write_duplication_metrics(path, found.metrics, found.set_sizes, command_line=command_line())
            written.append(path)
        return written

    def metrics(self, sink: CallSink | None) -> dict[str, Any]:
        """All that was counted and timed, as it goes into S.metrics.json."""
        found: dict[str, Any] = {"sample": self.sample, "reference": self.reference.name}
        if self.collector is not None:
            from megabolt.metrics import read_sections

            found |= read_sections(self.collector.total(), self._depth_bases())
        if self.insert_sizes:
            found.setdefault("insert_size", {})["learnt"] = [
                {"mean": round(one.mean, 2), "sd": round(one.sd, 2)} for one in self.insert_sizes
            ]
        if self.duplicates is not None:
            found["libraries"] = [_library_section(one) for one in self.duplicates.metrics]
        if self._afterwards is not None:
            from megabolt.recalibrate.plots import quality_data

            after = quality_data(self._afterwards.total())
            found["recalibration"] = {"before": self._qualities, "after": after}
        if sink is not None:
            found["calls"] = sink.counts.section()
        if self.resolved is not None and self.resolved.section:
            found["copies"] = self.resolved.section
        found |= self.clock.report()
        return found | {
            "threads": self.threads,
            "memory_bytes": self.memory,
            "command_line": command_line(),
            "versions": versions(),
        }

    def _depth_bases(self) -> int:
        """Positions the mean depth is over: the targets, or all of the reference that is not N."""
        if self.targets is not None:
            return sum(int((one[:, 1] - one[:, 0]).sum()) for one in self.targets)
        if self._index is None:
            assert self.collector is not None
            return sum(contig.length for contig in self.collector.contigs)
        unknown = int((self.index.n_intervals[:, 1] - self.index.n_intervals[:, 0]).sum())
        return sum(contig.length for contig in self.index.contigs) - unknown

    def finish(self, stack: ExitStack) -> None:
        """Complete the files: what is left of writing, flushing and renaming is a stage of its own."""
        with self.clock.stage("finish the files"):
            stack.close()

    def _counter(self, what: str, step: int) -> Callable[[int], None]:
        reached = 0

        def count(n: int) -> None:
            nonlocal reached
            if n // step > reached:
                reached = n // step
                self.say(f"{n:,} {what}")

        return count


class _LateScratch:
    """Scratch that is made when it is first wanted; safe for threads."""

    def __init__(self, stack: ExitStack, folder: Path, label: str) -> None:
        self.folder = folder
        self._stack, self._label = stack, label
        self._lock = threading.Lock()
        self._scratch: Scratch | None = None

    def open_file(self) -> SpillFile:
        with self._lock:
            if self._scratch is None:
                self._scratch = self._stack.enter_context(Scratch(self.folder, self._label))
            return self._scratch.open_file()


class LateFile:
    """A `SpillFile` that is opened with the first frame; safe for threads."""

    def __init__(self, open_file: Callable[[], SpillFile]) -> None:
        self._open, self._lock = open_file, threading.Lock()
        self._file: SpillFile | None = None

    def append(self, buffer: NDArray[np.uint8]) -> Frame:
        """See `SpillFile.append`."""
        with self._lock:
            if self._file is None:
                self._file = self._open()
        return self._file.append(buffer)

    def read(self, frame: Frame, out: NDArray[np.uint8]) -> None:
        """See `SpillFile.read`."""
        assert self._file is not None
        self._file.read(frame, out)


def _kind_of(path: Path) -> str:
    """As `disk_needed` knows them."""
    kind = {".bam": "BAM", ".cram": "CRAM", ".gz": "FASTQ.gz", ".bgz": "FASTQ.gz"}
    return kind.get(path.suffix.lower(), "FASTQ")


def _library_section(one: Any) -> dict[str, Any]:
    return {
        "library": one.library,
        "pairs": one.read_pairs_examined,
        "pair_duplicates": one.read_pair_duplicates,
        "optical_duplicates": one.read_pair_optical_duplicates,
        "duplicate_fraction": round(one.fraction_duplicated, 6),
        "estimated_size": one.estimated_library_size,
    }


def command_line() -> str:
    """What was typed, without the declaration of consent, which names people and is in the audit log."""
    words, skip = [Path(sys.argv[0]).name], False
    for word in sys.argv[1:]:
        if not skip and word.partition("=")[0] not in _UNSAID:
            words.append(shlex.quote(word))
        skip = not skip and word in _UNSAID
    return " ".join(words)
