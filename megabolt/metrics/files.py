# SPDX-License-Identifier: Apache-2.0
"""Writes the metrics of a sample in files that MultiQC knows.

In: `Counts`. Out: files in a folder, each whole or not at all; names begin with the sample's.

Differences to the tools whose formats these are:

- CollectAlignmentSummaryMetrics: IUPAC codes of the reference are N here. BAD_CYCLES goes by the read's cycle, in
  Picard by the place in its alignment block. PF_NOISE_READS is 0: it needs a tag of Illumina's converter.
- CollectWgsMetrics, CollectHsMetrics: reads of adapter alone are among PCT_EXC_MAPQ, PCT_EXC_ADAPTER is 0. The
  theoretical sensitivity, a random simulation, is left open. CollectWgsMetrics counts no place twice for one read name;
  here that holds for the two ends of a pair, not for supplementary records or a read that is twice in the file.
- CollectHsMetrics: the targets stand for the baits, and have numbers instead of names; targets that overlap
  or touch are one, in ZERO_CVG_TARGETS_PCT too. Bases = and X are clipped where mates overlap as M is.
- mosdepth: where one mate lies inside the other, both without gaps or clips, mosdepth 0.2 takes back the whole rest of
  the outer one; here their overlap counts once.
- Reads of 1,024 bases or more: cycles from there on are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pysam

from megabolt.formats.bgzf import EOF_BLOCK, compress_blocks
from megabolt.formats.output import atomic_output, output_error
from megabolt.metrics.alignment import (
    Level,
    alignment_text,
    all_reads,
    insert_text,
    quality_by_cycle_text,
    quality_distribution_text,
)
from megabolt.metrics.collector import Collector
from megabolt.metrics.counts import Counts
from megabolt.metrics.coverage import gc_texts, wgs_text
from megabolt.metrics.flagstat import flagstat_text, idxstats_text
from megabolt.metrics.mosdepth import distribution_text, regions_text, summary_text
from megabolt.metrics.sections import group_table
from megabolt.metrics.selection import hs_text, per_target_text, target_gc


def write_all(
    counts: Counts, collector: Collector, folder: Path, sample: str, *, record: Callable[[Path], None] | None = None
) -> list[Path]:
    """Write all metrics files of a sample.

    Parameters
    ----------
    counts
        The sum over all blocks (`Collector.total`).
    collector
        What counted: contigs, reference, targets, read groups, options.
    record
        Told each path before it is written (the audit log).

    Returns
    -------
    The files written, without indexes.

    Raises
    ------
    OutputError
        The disk refuses; names the file.
    """
    texts = metrics_texts(counts, collector, sample)
    written = []
    for name, text in texts.items():
        path = folder / f"{sample}.{name}"
        if record is not None:
            record(path)
        with atomic_output(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(path)
    if collector.targets is not None and counts.targets is not None and collector.options.depth:
        path = folder / f"{sample}.regions.bed.gz"
        if record is not None:
            record(path)
        _write_bed(path, regions_text(counts.targets, collector.targets, collector.contigs))
        written.append(path)
    return written


def metrics_texts(counts: Counts, collector: Collector, sample: str) -> dict[str, str]:
    """All plain texts, by what follows the sample in the file's name."""
    levels = _levels(counts)
    contigs, reference = collector.contigs, collector.reference
    texts: dict[str, str | None] = {
        "flagstat.txt": flagstat_text(counts),
        "idxstats.txt": idxstats_text(counts, contigs),
        "alignment_summary_metrics.txt": alignment_text(counts, sample, levels),
        "insert_size_metrics.txt": insert_text(counts, sample, levels),
        "quality_by_cycle_metrics.txt": quality_by_cycle_text(counts, sample),
        "quality_distribution_metrics.txt": quality_distribution_text(counts, sample),
        "read_groups.tsv": group_table(counts, collector.read_groups, sample),
    }
    bias = gc_texts(counts, sample, levels) if collector.options.gc_bias and reference is not None else None
    if bias is not None:
        texts["gc_bias.detail_metrics.txt"], texts["gc_bias.summary_metrics.txt"] = bias
    if collector.wgs:
        texts["wgs_metrics.txt"] = wgs_text(counts, sample)
    if collector.options.depth:
        texts["mosdepth.global.dist.txt"] = distribution_text(counts, contigs)
        texts["mosdepth.summary.txt"] = summary_text(counts, contigs, collector.targets)
    if collector.targets is not None and counts.targets is not None:
        gc = target_gc(reference, collector.targets) if reference is not None else None
        if collector.options.depth:
            texts["mosdepth.region.dist.txt"] = distribution_text(counts, contigs, on_target=True)
        texts["hs_metrics.txt"] = hs_text(counts, sample, "targets", contigs, gc)
        texts["per_target_coverage.txt"] = per_target_text(counts.targets, collector.targets, contigs, gc)
    return {name: text for name, text in texts.items() if text}


def _levels(counts: Counts) -> Sequence[Level]:
    """What Picard calls accumulation levels: all reads. Read groups have a table of their own: MultiQC shows one row
    for each file."""
    return [all_reads(counts)]


def _write_bed(path: Path, text: str) -> None:
    """A bgzipped BED with its CSI index, the index first."""
    index = path.with_name(path.name + ".csi")
    with atomic_output(path) as temporary, atomic_output(index) as temporary_index:
        temporary.write_bytes(compress_blocks(text.encode()) + EOF_BLOCK)
        try:
            pysam.tabix_index(
                str(temporary), preset="bed", force=True, keep_original=True, csi=True, index=str(temporary_index)
            )
        except OSError as error:
            raise output_error(path, error) from error
