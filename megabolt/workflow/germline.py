# SPDX-License-Identifier: Apache-2.0
"""The jobs of one sample: reads to BAM and calls, reads to BAM, BAM to BAM, BAM to calls.

In: plain arguments. Out: files, each of which appears when it is complete, and a summary.

`run_germline` reads each byte once: pass 1 aligns into bins (`align_job`), duplicates are decided, qualities are
recalibrated if that is asked for, pass 2 sorts, writes and calls bin by bin (`sweep`). `run_align` and `run_call` are
its halves; `run_markdup` is `run_align` for records that have their places already.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megabolt.align.options import AlignOptions
from megabolt.compute.backend import Backend
from megabolt.errors import InputFormatError, OutputError, UsageError
from megabolt.formats.bam import BamHeader, BamReader, CramReader, check_contigs, open_reads
from megabolt.privacy.consent import ALIGNMENT, GERMLINE_CALLING, authorize
from megabolt.reads.existing import ExistingReads
from megabolt.workflow.call_request import DEFAULT_REQUEST, CallRequest
from megabolt.workflow.metrics import write_metrics
from megabolt.workflow.processing import DEFAULT_PROCESSING, Processing
from megabolt.workflow.read_groups import header_groups
from megabolt.workflow.sample_job import SampleJob, command_line
from megabolt.workflow.sweep import Calling, call_file

if TYPE_CHECKING:
    from megabolt.workflow.align_job import Aligner
    from megabolt.workflow.read_input import ReadInput

__all__ = ["JobSummary", "command_line", "run_align", "run_call", "run_germline", "run_markdup", "sample_of"]

DEFAULT_ALIGNMENT = AlignOptions()
#: Part of the memory that keeps records of a file from learning to calling.
_KEPT_SHARE = 8


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
    reads: ReadInput,
    sample: str,
    outdir: Path,
    threads: int,
    memory: int,
    align_options: AlignOptions = DEFAULT_ALIGNMENT,
    processing: Processing = DEFAULT_PROCESSING,
    gvcf: bool = False,
    targets: Path | None = None,
    request: CallRequest = DEFAULT_REQUEST,
    bam: bool = True,
    cram: bool = False,
    open_data: str | None = None,
    audit_log: Path | None = None,
    backend: Backend = Backend.NUMBA,
    say: Callable[[str], None] | None = None,
    aligner: Aligner | None = None,
) -> JobSummary:
    """One sample from its reads to BAM, VCF and metrics.

    Parameters
    ----------
    reference
        FASTA with its index beside it.
    reads
        Where they come from.
    outdir
        Made if missing; gets sample.bam, .bam.bai, .vcf.gz, .vcf.gz.tbi, .g.vcf.gz, .metrics.json,
        .recalibration.table, and the folder metrics with files for MultiQC.
    memory
        Bytes to stay within.
    align_options, processing
        Of the aligner; of what follows it.
    targets
        BED: calls and depth inside only.
    request
        What is called where, and how many copies there are.
    bam, cram
        Write the reads; as CRAM.
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
        Too little memory or disk; nothing is left behind.
    """
    from megabolt.align.engine import PairAligner
    from megabolt.workflow.copies import counts_of_bins
    from megabolt.workflow.indel_learning import records_of_bins

    permit = authorize(sample, GERMLINE_CALLING, open_data=open_data, audit_log=audit_log)
    _make_folder(outdir)
    with SampleJob(
        reference=reference, sample=sample, threads=threads, memory=memory, permit=permit, processing=processing,
        output=outdir, say=say,
    ) as job:  # fmt: skip
        job.open(targets)
        paths = _Paths(outdir, sample, "cram" if cram else "bam")
        opened = job.open_reads(reads)
        job.check_disk(reads.paths, bam)
        store = job.align(opened, align_options, aligner, reads.has_umis)
        header = job.new_header(opened.read_groups, opened.header)
        job.recalibrate(store, header.read_groups, job.index, paths.table)
        job.collect(opened.read_groups, job.index.contigs, job.index)
        resolved = job.call_options(request, backend, counts_of_bins(store), records_of_bins(store), bins=True)
        options = resolved.options
        with ExitStack() as stack:
            writer = stack.enter_context(job.bam_writer(paths.reads, header)) if bam else None
            sink = job.sink(stack, paths.vcf, paths.gvcf if gvcf else None, options)
            calling = Calling(
                job.index, options, sink, sample, gvcf, request.all_sites, resolved.ids, PairAligner(job.index)
            )
            job.sweep(store, writer, calling)
            job.finish(stack)
        more = job.write_metrics_files(outdir / "metrics")
        metrics = job.metrics(sink)
        write_metrics(paths.metrics, metrics)
    made = [paths.reads] * bam + [paths.vcf] + [paths.gvcf] * gvcf + [paths.metrics, *more]
    return JobSummary(tuple(made), metrics)


def run_align(
    *,
    reference: Path,
    reads: ReadInput,
    sample: str,
    output: Path,
    threads: int,
    memory: int,
    align_options: AlignOptions = DEFAULT_ALIGNMENT,
    processing: Processing = DEFAULT_PROCESSING,
    metrics_folder: Path | None = None,
    open_data: str | None = None,
    audit_log: Path | None = None,
    say: Callable[[str], None] | None = None,
    aligner: Aligner | None = None,
) -> JobSummary:
    """Reads to a sorted, duplicate-marked, indexed BAM or CRAM; parameters as in `run_germline`.

    metrics_folder: where to write the files that MultiQC knows; None: they are not counted.
    """
    permit = authorize(sample, ALIGNMENT, open_data=open_data, audit_log=audit_log)
    with SampleJob(
        reference=reference, sample=sample, threads=threads, memory=memory, permit=permit, processing=processing,
        output=output, say=say,
    ) as job:  # fmt: skip
        job.open(None)
        opened = job.open_reads(reads)
        job.check_disk(reads.paths, True)
        store = job.align(opened, align_options, aligner, reads.has_umis)
        header = job.new_header(opened.read_groups, opened.header)
        job.recalibrate(store, header.read_groups, job.index, _table_beside(output))
        if metrics_folder is not None:
            job.collect(opened.read_groups, job.index.contigs, job.index)
        with ExitStack() as stack:
            writer = stack.enter_context(job.bam_writer(output, header))
            job.sweep(store, writer, None)
            job.finish(stack)
        more = job.write_metrics_files(metrics_folder) if metrics_folder is not None else []
        return JobSummary((output, *more), job.metrics(None))


def run_markdup(
    *,
    source: Path,
    output: Path,
    threads: int,
    memory: int,
    reference: Path | None = None,
    umi: bool = False,
    processing: Processing = DEFAULT_PROCESSING,
    metrics_folder: Path | None = None,
    open_data: str | None = None,
    audit_log: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> JobSummary:
    """The records of a BAM or CRAM in any order to a sorted, duplicate-marked, indexed BAM or CRAM.

    Parameters
    ----------
    source
        Its records stay as they are but for the duplicate flag and, recalibrated, the qualities.
    reference
        FASTA; needed for CRAM and for recalibration.
    umi
        Its RX tags are UMIs.

    The others are as in `run_align`.
    """
    if reference is None and processing.known_sites:
        raise UsageError("recalibration needs the reference", "Name the FASTA that the reads were aligned to.")
    permit = authorize(source.stem, ALIGNMENT, open_data=open_data, audit_log=audit_log)
    with SampleJob(
        reference=reference or Path(), sample=source.stem, threads=threads, memory=memory, permit=permit,
        processing=processing, output=output, say=say,
    ) as job:  # fmt: skip
        job.check_disk([source], True)
        genome = None
        if reference is not None and (processing.known_sites or metrics_folder is not None):
            genome = job.open_genome()
        with ExitStack() as reading:
            records = ExistingReads(
                source, permit, reference=reference, threads=threads, want_umi=umi,
                duplex=processing.duplicates.duplex, spill=job.late_file(),
            )  # fmt: skip
            reading.callback(records.close)
            samples = {group.sample for group in records.read_groups}
            job.sample = samples.pop() if len(samples) == 1 else source.stem
            if genome is not None:
                check_contigs(records.header, genome.contigs, source)
            store = job.take(records, umi)
        header = records.header.continued(command_line=command_line())
        if genome is not None:
            job.recalibrate(store, header.read_groups, genome, _table_beside(output))
        if metrics_folder is not None:
            job.collect(header_groups(header.read_groups), header.contigs, genome)
        with ExitStack() as stack:
            writer = stack.enter_context(job.bam_writer(output, header))
            job.sweep(store, writer, None)
            job.finish(stack)
        more = job.write_metrics_files(metrics_folder) if metrics_folder is not None else []
        return JobSummary((output, *more), job.metrics(None))


def run_call(
    *,
    reference: Path,
    bam: Path,
    output: Path,
    threads: int,
    memory: int,
    gvcf: Path | None = None,
    targets: Path | None = None,
    request: CallRequest = DEFAULT_REQUEST,
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
    from megabolt.align.engine import PairAligner
    from megabolt.workflow.copies import counts_of_file
    from megabolt.workflow.file_chunks import FileChunks

    permit = authorize(bam.stem, GERMLINE_CALLING, open_data=open_data, audit_log=audit_log)
    with SampleJob(
        reference=reference, sample=bam.stem, threads=threads, memory=memory, permit=permit,
        processing=DEFAULT_PROCESSING, output=output, say=say,
    ) as job:  # fmt: skip
        job.open(targets)
        with ExitStack() as stack:
            reader: BamReader | CramReader = open_reads(bam, job.permit, reference=reference)
            stack.callback(reader.close)
            check_contigs(reader.header, job.index.contigs, bam)
            job.sample = sample_of(reader.header, bam)
            chunks = FileChunks(reader.fetch, memory // _KEPT_SHARE)
            resolved = job.call_options(request, backend, counts_of_file(reader.fetch), chunks.look, bins=False)
            options = resolved.options
            sink = job.sink(stack, output, gvcf, options)
            with job.clock.stage("call"):
                calling = Calling(
                    job.index,
                    options,
                    sink,
                    job.sample,
                    gvcf is not None,
                    request.all_sites,
                    resolved.ids,
                    PairAligner(job.index),
                )
                call_file(chunks, calling, threads=threads, clock=job.clock)
            job.finish(stack)
        return JobSummary((output,) if gvcf is None else (output, gvcf), job.metrics(sink))


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
    suffix: str

    @property
    def reads(self) -> Path:
        return self.outdir / f"{self.sample}.{self.suffix}"

    @property
    def vcf(self) -> Path:
        return self.outdir / f"{self.sample}.vcf.gz"

    @property
    def gvcf(self) -> Path:
        return self.outdir / f"{self.sample}.g.vcf.gz"

    @property
    def metrics(self) -> Path:
        return self.outdir / f"{self.sample}.metrics.json"

    @property
    def table(self) -> Path:
        return self.outdir / f"{self.sample}.recalibration.table"


def _table_beside(output: Path) -> Path:
    return output.with_suffix(".recalibration.table")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made: {error.strerror}", "Choose another folder.") from error
