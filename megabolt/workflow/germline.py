# SPDX-License-Identifier: Apache-2.0
"""The jobs of one sample: FASTQ to BAM and calls, FASTQ to BAM, BAM to calls.

In: plain arguments. Out: files, each of which appears when it is complete, and a summary.

`run_germline` reads each FASTQ byte once: pass 1 aligns into bins (`align_job`), duplicates are decided, pass
2 sorts, writes and calls bin by bin (`sweep`). `run_align` and `run_call` are its halves.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt import __version__
from megabolt.align.engine import InsertSize
from megabolt.align.index import Index, open_index
from megabolt.align.options import AlignOptions
from megabolt.call.engine import CallOptions
from megabolt.compute.backend import Backend
from megabolt.errors import InputFormatError, OutputError, ResourceError
from megabolt.formats.bam import BamHeader, BamReader, BamWriter, CramReader, check_contigs, open_reads
from megabolt.formats.bed import read_bed
from megabolt.formats.lane import FastqLane
from megabolt.privacy.consent import ALIGNMENT, GERMLINE_CALLING, Permit, authorize
from megabolt.reads.bins import BinStore
from megabolt.workflow.align_job import Aligner, FastqInput, align_reads
from megabolt.workflow.call_job import CallSink, VcfStream
from megabolt.workflow.clock import Clock
from megabolt.workflow.metrics import read_sections, versions, write_metrics
from megabolt.workflow.read_groups import ReadGroup
from megabolt.workflow.sweep import Calling, Targets, call_file, sweep

log = logging.getLogger(__name__)

DEFAULT_ALIGNMENT = AlignOptions()
#: Memory of the interpreter, the compiled kernels and one thread's working arrays.
BASE_BYTES = 350 << 20
BYTES_PER_THREAD = 96 << 20
_PAIRS_BETWEEN_LINES = 5_000_000


@dataclass(frozen=True)
class JobSummary:
    """What a job made.

    Attributes
    ----------
    files
        The files written, without their indexes.
    metrics
        As written to S.metrics.json.
    """

    files: tuple[Path, ...]
    metrics: dict[str, Any] = field(repr=False)


def run_germline(
    *,
    reference: Path,
    lanes: Sequence[FastqLane],
    sample: str,
    read_groups: Sequence[ReadGroup],
    outdir: Path,
    threads: int,
    memory: int,
    umi: str | None = None,
    align_options: AlignOptions = DEFAULT_ALIGNMENT,
    gvcf: bool = False,
    targets: Path | None = None,
    bam: bool = True,
    open_data: str | None = None,
    audit_log: Path | None = None,
    backend: Backend = Backend.NUMBA,
    say: Callable[[str], None] | None = None,
    aligner: Aligner | None = None,
) -> JobSummary:
    """One sample from FASTQ to BAM, VCF and metrics.

    Parameters
    ----------
    reference
        FASTA with its index beside it.
    lanes, read_groups
        One entry per lane.
    outdir
        Made if missing; gets sample.bam, .bam.bai, .vcf.gz, .vcf.gz.tbi, .g.vcf.gz, .metrics.json.
    memory
        Bytes to stay within.
    umi
        Where the reads' UMIs are: "name" or "comment", see `read_lanes`.
    align_options
        Of the aligner.
    targets
        BED: calls and depth inside only.
    open_data, audit_log
        For `privacy.consent.authorize`.
    say
        Told what is going on, a line at a time; default: the log.
    aligner
        Instead of `PairAligner`, for tests.

    Raises
    ------
    ConsentRefused
        Before anything is opened.
    ResourceError
        The reads do not fit the memory; nothing is left behind.
    """
    job = _Job(
        reference=reference,
        sample=sample,
        threads=threads,
        memory=memory,
        permit=authorize(sample, GERMLINE_CALLING, open_data=open_data, audit_log=audit_log),
        say=say or log.info,
    )
    job.open(targets)
    reads = FastqInput(tuple(lanes), tuple(read_groups), umi)
    _make_folder(outdir)
    paths = _Paths(outdir, sample)
    store = job.align(reads, align_options, aligner)
    options = CallOptions(targets=job.call_targets, backend=backend)
    with ExitStack() as stack:
        writer = stack.enter_context(job.bam_writer(paths.bam, reads.read_groups)) if bam else None
        sink = job.sink(stack, paths.vcf, paths.gvcf if gvcf else None, options)
        counts = job.sweep(store, writer, Calling(job.index, options, sink, sample, gvcf))
        _finish(stack, job.clock)
    metrics = job.metrics(counts, sink)
    write_metrics(paths.metrics, metrics)
    made = [paths.bam] * bam + [paths.vcf] + [paths.gvcf] * gvcf + [paths.metrics]
    return JobSummary(tuple(made), metrics)


def run_align(
    *,
    reference: Path,
    lanes: Sequence[FastqLane],
    sample: str,
    read_groups: Sequence[ReadGroup],
    output: Path,
    threads: int,
    memory: int,
    umi: str | None = None,
    align_options: AlignOptions = DEFAULT_ALIGNMENT,
    open_data: str | None = None,
    audit_log: Path | None = None,
    say: Callable[[str], None] | None = None,
    aligner: Aligner | None = None,
) -> JobSummary:
    """FASTQ to a sorted, duplicate-marked, indexed BAM or CRAM; parameters as in `run_germline`."""
    job = _Job(
        reference=reference,
        sample=sample,
        threads=threads,
        memory=memory,
        permit=authorize(sample, ALIGNMENT, open_data=open_data, audit_log=audit_log),
        say=say or log.info,
    )
    job.open(None)
    reads = FastqInput(tuple(lanes), tuple(read_groups), umi)
    store = job.align(reads, align_options, aligner)
    with ExitStack() as stack:
        writer = stack.enter_context(job.bam_writer(output, reads.read_groups))
        counts = job.sweep(store, writer, None)
        _finish(stack, job.clock)
    return JobSummary((output,), job.metrics(counts, None))


def run_call(
    *,
    reference: Path,
    bam: Path,
    output: Path,
    threads: int,
    memory: int,
    gvcf: Path | None = None,
    targets: Path | None = None,
    open_data: str | None = None,
    audit_log: Path | None = None,
    backend: Backend = Backend.NUMBA,
    say: Callable[[str], None] | None = None,
) -> JobSummary:
    """A sorted, duplicate-marked, indexed BAM or CRAM of one sample to calls.

    Parameters
    ----------
    bam
        Its contigs must be those of the reference; the sample's name is SM of its read groups.
    output, gvcf
        The files to write, .vcf.gz.

    Raises
    ------
    InputFormatError
        Another reference's BAM, or one of several samples.
    """
    job = _Job(
        reference=reference,
        sample=bam.stem,
        threads=threads,
        memory=memory,
        permit=authorize(bam.stem, GERMLINE_CALLING, open_data=open_data, audit_log=audit_log),
        say=say or log.info,
    )
    job.open(targets)
    options = CallOptions(targets=job.call_targets, backend=backend)
    with ExitStack() as stack:
        reader: BamReader | CramReader = open_reads(bam, job.permit, reference=reference)
        stack.callback(reader.close)
        check_contigs(reader.header, job.index.contigs, bam)
        job.sample = sample_of(reader.header, bam)
        sink = job.sink(stack, output, gvcf, options)
        with job.clock.stage("call"):
            calling = Calling(job.index, options, sink, job.sample, gvcf is not None)
            call_file(reader, calling, threads=threads, clock=job.clock)
        _finish(stack, job.clock)
    return JobSummary((output,) if gvcf is None else (output, gvcf), job.metrics(None, sink))


def sample_of(header: BamHeader, path: Path) -> str:
    """The one sample of a BAM."""
    fields = [field for line in header.read_groups for field in line.split("\t")]
    names = sorted({field[3:] for field in fields if field.startswith("SM:")})
    if len(names) != 1:
        found = ", ".join(names) if names else "none"
        raise InputFormatError(
            path,
            "header",
            f"the read groups must name one sample (SM), found: {found}",
            "Set read groups with samtools addreplacerg, or split the file with samtools split.",
        )
    return names[0]


@dataclass(frozen=True)
class _Paths:
    outdir: Path
    sample: str

    @property
    def bam(self) -> Path:
        return self.outdir / f"{self.sample}.bam"

    @property
    def vcf(self) -> Path:
        return self.outdir / f"{self.sample}.vcf.gz"

    @property
    def gvcf(self) -> Path:
        return self.outdir / f"{self.sample}.g.vcf.gz"

    @property
    def metrics(self) -> Path:
        return self.outdir / f"{self.sample}.metrics.json"


class _Job:
    """What the jobs share: the gate's permit, the index, the clock, and the parts in their order."""

    def __init__(
        self,
        *,
        reference: Path,
        sample: str,
        threads: int,
        memory: int,
        permit: Permit,
        say: Callable[[str], None],
    ) -> None:
        self.reference, self.sample = reference, sample
        self.threads, self.memory = threads, memory
        self.permit, self.say = permit, say
        self.clock = Clock(say)
        self.targets: Targets = None
        self.insert_sizes: list[InsertSize] = []
        self.index: Index

    def open(self, targets: Path | None) -> None:
        """Map the index, read the targets."""
        with self.clock.stage("open the index"):
            self.index = open_index(self.reference)
            if targets is not None:
                self.targets = read_bed(targets, self.index.contigs)

    @property
    def call_targets(self) -> tuple[NDArray[np.int64], ...] | None:
        """Targets as the caller takes them."""
        return None if self.targets is None else tuple(self.targets)

    def align(self, reads: FastqInput, options: AlignOptions, aligner: Aligner | None) -> BinStore:
        """Pass 1 and duplicates."""
        store = BinStore([contig.length for contig in self.index.contigs], self.memory_for_reads() * 4 // 5)
        with self.clock.stage("align"):
            self.insert_sizes = align_reads(
                self.index,
                reads,
                self.permit,
                store,
                threads=self.threads,
                clock=self.clock,
                options=options,
                say=self._counter(reads.templates, _PAIRS_BETWEEN_LINES),
                aligner=aligner,
            )
        with self.clock.stage("mark duplicates"):
            n = store.resolve_duplicates(self.threads)
        self.say(f"{store.n_pairs:,} {reads.templates}, {n:,} of them duplicates")
        return store

    def sweep(self, store: BinStore, writer: BamWriter | None, calling: Calling | None) -> NDArray[np.int64]:
        """Pass 2."""
        what = " and ".join(["write"] * (writer is not None) + ["call"] * (calling is not None))
        with self.clock.stage(f"sort, {what}"):
            return sweep(
                store,
                writer,
                calling,
                targets=self.targets,
                threads=self.threads,
                memory=self.memory_for_reads(),
                clock=self.clock,
                say=self._counter(f"of {store.layout.n_bins + 1} bins", 100),
            )

    def memory_for_reads(self) -> int:
        """Bytes left for reads when index, interpreter and threads have theirs."""
        index = self.index.packed_reference.nbytes + self.index.table.nbytes + self.index.lists.nbytes
        left = self.memory - index - BASE_BYTES - self.threads * BYTES_PER_THREAD
        if left < 64 << 20:
            need = self.memory - left + (256 << 20)
            raise ResourceError(
                f"{self.memory / 1e9:.2f} GB of memory are too little: the index takes {index / 1e9:.2f} GB,"
                f" {self.threads} threads {self.threads * BYTES_PER_THREAD / 1e9:.2f} GB",
                f"Give at least --memory {need >> 20}M, or use fewer threads.",
            )
        return left

    def bam_writer(self, path: Path, groups: Sequence[ReadGroup]) -> BamWriter:
        """The writer of the BAM or CRAM."""
        lines = [group.header_line() for group in groups]
        header = BamHeader.build(self.index.contigs, lines)
        return BamWriter(path, header, self.permit, threads=self.threads, reference=self.reference)

    def sink(self, stack: ExitStack, vcf: Path, gvcf: Path | None, options: CallOptions) -> CallSink:
        """The files of the calls; they appear when the stack is closed without an error."""
        streams = [
            stack.enter_context(
                VcfStream(
                    path,
                    self.index.contigs,
                    self.sample,
                    self.permit,
                    reference_name=self.reference.name,
                    source=f"megabolt {__version__}",
                    gvcf=path is gvcf,
                )
            )
            for path in (vcf, gvcf)
            if path is not None
        ]
        return CallSink(streams[0], streams[1] if len(streams) > 1 else None, options.gq_bands)

    def metrics(self, counts: NDArray[np.int64] | None, sink: CallSink | None) -> dict[str, Any]:
        """All that was counted and timed."""
        found: dict[str, Any] = {"sample": self.sample, "reference": self.reference.name}
        if counts is not None:
            found |= read_sections(counts, self._depth_bases())
        if self.insert_sizes:
            found["insert_size"]["learnt"] = [
                {"mean": round(one.mean, 2), "sd": round(one.sd, 2)} for one in self.insert_sizes
            ]
        if sink is not None:
            found["calls"] = sink.counts.section()
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
        unknown = int((self.index.n_intervals[:, 1] - self.index.n_intervals[:, 0]).sum())
        return sum(contig.length for contig in self.index.contigs) - unknown

    def _counter(self, what: str, step: int) -> Callable[[int], None]:
        reached = 0

        def count(n: int) -> None:
            nonlocal reached
            if n // step > reached:
                reached = n // step
                self.say(f"{n:,} {what}")

        return count


def _finish(stack: ExitStack, clock: Clock) -> None:
    """Complete the files: what is left of writing, flushing and renaming is a stage of its own."""
    with clock.stage("finish the files"):
        stack.close()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made: {error.strerror}", "Choose another folder.") from error


def command_line() -> str:
    """What was typed, without the declaration of consent, which names people and is in the audit log."""
    words, skip = [Path(sys.argv[0]).name], False
    for word in sys.argv[1:]:
        if not skip and word not in ("--open-data", "--audit-log") and not word.startswith("--open-data="):
            words.append(shlex.quote(word))
        skip = not skip and word in ("--open-data", "--audit-log")
    return " ".join(words)
