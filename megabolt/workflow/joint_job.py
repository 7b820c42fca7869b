# SPDX-License-Identifier: Apache-2.0
"""Joint calling of a cohort: gVCFs in, one multi-sample VCF out.

In: plain arguments. Out: VCF and index, each when it is complete, and a summary.

Each sample has a permit of its own. The genome is cut into regions, so many bases at once that all samples' blocks of
the regions at work fit the memory; workers take regions, lines are written in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt import __version__
from megabolt.errors import InputFormatError, UsageError
from megabolt.formats.bed import read_bed
from megabolt.formats.fasta import Reference, read_fasta
from megabolt.formats.gvcf import GvcfFile
from megabolt.formats.ped import nuclear_families, read_ped
from megabolt.formats.vcf import write_vcf_text
from megabolt.joint.region import JointOptions, RegionCalls, call_region
from megabolt.joint.text import header
from megabolt.joint.trio import Family
from megabolt.privacy.consent import JOINT_CALLING, authorize, check
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import in_order, worker_pool
from megabolt.workflow.sample_job import command_line

SUFFIXES = (".g.vcf.gz", ".gvcf.gz")
#: Bases of a region: multiples of the index's window, 2^14.
_WINDOW, _MOST_WINDOWS = 1 << 14, 64
#: Bytes that a sample's base may take while it is at work: a dense gVCF has a block every 16 bases.
_BYTES_PER_BASE = 16
#: Sites of a region may lie so far before a target that they reach into it.
_LONGEST_REF = 1 << 14


@dataclass(frozen=True)
class JointSummary:
    """What a job made; `clock` as in metrics files. n_without_pl: records left out, which have no likelihoods."""

    n_samples: int
    n_sites: int
    n_new_mutations: int
    n_families: int
    n_without_pl: int
    clock: dict[str, Any]


@dataclass(frozen=True)
class _Region:
    contig: int
    start: int
    stop: int


def list_inputs(paths: Sequence[Path]) -> list[tuple[Path, str | None]]:
    """gVCFs with the declaration that a list gives for each, or None.

    A path is a gVCF (.vcf.gz), a folder, of which all *.g.vcf.gz and *.gvcf.gz are taken in the order of their names,
    or a list: text, one path per line, relative to the list, behind a tab who declares its data open and why.

    Raises
    ------
    UsageError
        Missing, empty, or one file twice.
    """
    found: list[tuple[Path, str | None]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.name.endswith(SUFFIXES))
            if not inside:
                raise UsageError(f"{path}: no file in it ends in {' or '.join(SUFFIXES)}", "Name the gVCFs.")
            found += [(one, None) for one in inside]
        elif path.name.endswith((".list", ".txt", ".tsv")):
            found += _read_list(path)
        else:
            found.append((path, None))
    seen: set[str] = set()
    for path, _ in found:
        if not path.is_file():
            why = "is a folder" if path.is_dir() else "does not exist"
            raise UsageError(f"{path}: the gVCF {why}", "Check the path.")
        if str(path.resolve()) in seen:
            raise UsageError(f"{path} is given twice", "Name each gVCF once.")
        seen.add(str(path.resolve()))
    return found


def _read_list(path: Path) -> list[tuple[Path, str | None]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: the list cannot be read ({error.strerror})", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputFormatError(path, f"byte {error.start}", "not text", "A list has one path per line.") from error
    found: list[tuple[Path, str | None]] = []
    for line in text.splitlines():
        name, _, declaration = line.partition("\t")
        if name.strip() and not name.startswith("#"):
            found.append((path.parent / name.strip(), declaration.strip() or None))
    if not found:
        raise InputFormatError(path, "", "the list is empty", "Write one path per line.")
    return found


def subject_of(path: Path) -> str:
    """The label a gVCF's data are kept under: its name without .g.vcf.gz."""
    name = path.name
    for suffix in (*SUFFIXES, ".vcf.gz"):
        if name.endswith(suffix) and name != suffix:
            return name[: -len(suffix)]
    return name


def run_joint(
    *,
    inputs: Sequence[Path],
    reference: Path,
    output: Path,
    threads: int,
    memory: int,
    targets: Path | None = None,
    ped: Path | None = None,
    new_mutations: float = 1e-6,
    min_qual: float = 3.0,
    open_data: str | None = None,
    audit_log: Path | None = None,
    region_bases: int | None = None,
) -> JointSummary:
    """gVCFs of any number of samples to one VCF.

    Parameters
    ----------
    inputs
        gVCFs, folders and lists: see `list_inputs`.
    output
        The file to write, .vcf.gz.
    ped
        Pedigree: genotypes of families are refined.
    region_bases
        For tests; the answer does not depend on it.

    Raises
    ------
    ConsentRefused
        A sample's data are not declared open.
    InputFormatError
        An input is not what it should be; names the file and the place.
    """
    clock = Clock()
    listed = list_inputs(inputs)
    for path, declared in listed:  # all or none: nothing is opened if one is refused
        check(subject_of(path), JOINT_CALLING, open_data=declared or open_data, audit_log=audit_log)
    with clock.stage("open"):
        genome = _open_genome(reference)
        target_list = None if targets is None else read_bed(targets, genome.contigs)
        permits, files = [], []
        for path, declared in listed:
            permits.append(
                authorize(subject_of(path), JOINT_CALLING, open_data=declared or open_data, audit_log=audit_log)
            )
            files.append(GvcfFile(path, permits[-1]))
        samples = _check_headers(files, genome)
        families = _families(ped, samples)
        regions = _regions(genome, files, target_list, region_bases or _region_bases(len(files), memory, threads))
    options = JointOptions(
        min_qual=min_qual, new_mutations=new_mutations, families=tuple(families), refine=ped is not None
    )
    counts = [0, 0, 0]
    text = header(
        genome.contigs, samples, reference_name=reference.name, source=f"megabolt {__version__}",
        extra=[f'##megaboltCommand="{command_line()}"'.replace("\n", " ")], families=ped is not None,
    )  # fmt: skip
    with clock.stage("call"), worker_pool(threads) as pool:

        def work(region: _Region) -> RegionCalls:
            chosen = None if target_list is None else target_list[region.contig]
            return call_region(
                files, samples, genome, region.contig, region.start, region.stop, options, chosen
            )  # fmt: skip

        def pieces() -> Iterator[bytes]:
            for found in in_order(pool, work, regions, threads):
                counts[0] += found.n_sites
                counts[1] += found.n_new_mutations
                counts[2] += found.n_without_pl
                yield found.text

        write_vcf_text(output, text, pieces(), genome.contigs, permits)
    return JointSummary(len(files), counts[0], counts[1], len(families), counts[2], clock.report())


def _open_genome(reference: Path) -> Reference:
    """Its index if there is one, which is mapped and not read; else the FASTA in memory."""
    from megabolt.align.index import index_path, open_index

    return open_index(reference) if index_path(reference).exists() else read_fasta(reference)


def _check_headers(files: Sequence[GvcfFile], genome: Reference) -> list[str]:
    """Names of the samples; raises unless they differ and all files fit the reference."""
    contigs = {one.name: one for one in genome.contigs}
    by_name: dict[str, Path] = {}
    for file in files:
        name = file.header.sample
        if name in by_name:
            why = f"the sample {name} is also in {by_name[name]}"
            raise InputFormatError(file.path, "header", why, "Rename one: bcftools reheader -s.")
        by_name[name] = file.path
        shared = 0
        for contig, length, md5 in file.header.contigs:
            known = contigs.get(contig)
            shared += known is not None
            if known is not None and length and length != known.length:
                why = f"contig {contig} has {length} bases here, {known.length} in the reference"
                raise InputFormatError(file.path, "header", why, "It was called on another reference.")
            if known is not None and md5 and known.md5 and md5 != known.md5:
                why = f"contig {contig} has another sequence (MD5) than in the reference"
                raise InputFormatError(file.path, "header", why, "It was called on another reference.")
        unknown = [one for one in file.contigs_with_records() if one not in contigs]
        if not shared or unknown:
            why = f"contig {unknown[0]} is not in the reference" if unknown else "no contig of the reference is in it"
            raise InputFormatError(file.path, "header", why, "It was called on another reference.")
    return list(by_name)


def _families(ped: Path | None, samples: Sequence[str]) -> list[Family]:
    if ped is None:
        return []
    number = {name: k for k, name in enumerate(samples)}
    families = [
        Family(
            -1 if one.father is None else number[one.father],
            -1 if one.mother is None else number[one.mother],
            tuple(number[child] for child in one.children),
        )
        for one in nuclear_families(read_ped(ped), samples)
    ]
    if not families:
        raise UsageError(f"{ped}: no child has a parent among the samples", "Column 2 must hold the samples' names.")
    return families


def _region_bases(n_samples: int, memory: int, threads: int) -> int:
    at_once = 2 * threads + 1
    windows = memory // (4 * at_once * n_samples * _BYTES_PER_BASE * _WINDOW)
    fair = (1 << 24) // (n_samples * _WINDOW)  # smaller regions are as fast, and share the work better
    return max(1, min(windows, fair, _MOST_WINDOWS)) * _WINDOW


def _regions(
    genome: Reference, files: Sequence[GvcfFile], targets: Sequence[NDArray[np.int64]] | None, bases: int
) -> list[_Region]:
    """Regions with records (and targets), in order; tells the files where they begin."""
    with_records = {name for one in files for name in one.contigs_with_records()}
    regions = []
    for k, contig in enumerate(genome.contigs):
        for start in range(0, contig.length if contig.name in with_records else 0, bases):
            stop = min(contig.length, start + bases)
            if targets is not None:
                at = int(np.searchsorted(targets[k][:, 1], start, side="right"))
                if at == len(targets[k]) or targets[k][at, 0] >= stop + _LONGEST_REF:
                    continue
            regions.append(_Region(k, start, stop))
    starts: dict[str, list[int]] = {}
    for region in regions:
        starts.setdefault(genome.contigs[region.contig].name, []).append(region.start)
    for one in files:
        one.prepare(starts)
    return regions
