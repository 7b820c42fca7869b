# SPDX-License-Identifier: Apache-2.0
"""Files of a simulation: FASTA, truth VCF and BED out, FASTQ pairs out, phased VCF in.

Simulated data pass the same gate as a person's: whoever calls shows a permit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pysam
from isal import isal_zlib
from numpy.typing import NDArray

from megabolt import __version__
from megabolt.errors import InputFormatError
from megabolt.formats.bases import ASCII_OF_CODE, N
from megabolt.formats.output import atomic_output
from megabolt.privacy.consent import Permit
from megabolt.simulate.genome import SimulatedGenome
from megabolt.simulate.haplotypes import Contig, PhasedVariant
from megabolt.simulate.hard import CLASS_NAMES

_LINE = 60  # bases a line in FASTA
_GZIP = 31  # window bits that make zlib write a gzip header
_LOWER = 32  # between an upper-case ASCII letter and its lower case


def write_genome(path: Path, genome: SimulatedGenome) -> None:
    """FASTA and FASTA.fai; masked bases in lower case."""
    with atomic_output(path) as temporary, open(temporary, "wb") as file:
        for name, codes, mask in zip(genome.names, genome.sequences, genome.masks):
            letters = ASCII_OF_CODE[codes] + np.uint8(_LOWER) * mask
            text = letters.tobytes()
            file.write(f">{name}\n".encode())
            file.writelines(text[i : i + _LINE] + b"\n" for i in range(0, len(text), _LINE))
    pysam.faidx(str(path))


def write_classes(path: Path, genome: SimulatedGenome) -> None:
    """BED of the class of each stretch (column 4), all bases covered; stretches of N have no line."""
    with atomic_output(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for name, codes, classes in zip(genome.names, genome.sequences, genome.classes):
            label = np.where(codes == N, len(CLASS_NAMES), classes)
            edges = np.flatnonzero(np.diff(label, prepend=-1, append=-1)).tolist()
            for start, stop in pairwise(edges):
                if label[start] < len(CLASS_NAMES):
                    file.write(f"{name}\t{start}\t{stop}\t{CLASS_NAMES[label[start]]}\n")


def write_called_regions(path: Path, contigs: Sequence[Contig]) -> None:
    """BED of everything that is not N: where the truth is complete."""
    with atomic_output(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for name, codes in contigs:
            called = np.concatenate([[False], codes < N, [False]])
            edges = np.flatnonzero(called[1:] != called[:-1]).tolist()
            file.writelines(f"{name}\t{start}\t{stop}\n" for start, stop in zip(edges[::2], edges[1::2]))


def write_truth(
    path: Path, contigs: Sequence[Contig], variants: Iterable[PhasedVariant], sample: str, permit: Permit
) -> None:
    """Phased VCF 4.3, bgzipped, with its tabix index beside it."""
    permit.record("open-write", path)
    header = ["##fileformat=VCFv4.3", f"##source=megabolt simulate {__version__}"]
    header += [f"##contig=<ID={name},length={len(codes)}>" for name, codes in contigs]
    header += ['##FILTER=<ID=PASS,Description="All filters passed">']
    header += ['##FORMAT=<ID=GT,Number=1,Type=String,Description="Phased genotype: haplotype 1|haplotype 2">']
    header += [f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{sample}"]
    with atomic_output(path) as temporary:
        plain = temporary.with_name(f"{temporary.name}.vcf")
        index = temporary.with_name(f"{temporary.name}.tbi")
        try:
            with open(plain, "w", encoding="ascii") as file:
                file.writelines(f"{line}\n" for line in header)
                for v in variants:
                    place = f"{contigs[v.contig][0]}\t{v.start + 1}\t.\t{v.ref}\t{','.join(v.alts)}"
                    file.write(f"{place}\t50\tPASS\t.\tGT\t{v.genotype[0]}|{v.genotype[1]}\n")
            pysam.tabix_compress(str(plain), str(temporary), force=True)
            pysam.tabix_index(str(temporary), preset="vcf", force=True, keep_original=True)
            index.replace(f"{path}.tbi")
        finally:
            plain.unlink(missing_ok=True)
            index.unlink(missing_ok=True)


def write_fastq_pair(
    path1: Path, path2: Path, batches: Iterable[tuple[memoryview, memoryview]], permit: Permit
) -> None:
    """Two gzipped FASTQ files (isal, level 1; one gzip member each), both or neither."""
    for path in (path1, path2):
        permit.record("open-write", path)
    with ExitStack() as stack:
        temporaries = [stack.enter_context(atomic_output(path)) for path in (path1, path2)]
        files = [stack.enter_context(open(temporary, "wb")) for temporary in temporaries]
        packers: list[Any] = [isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP) for _ in files]
        for batch in batches:
            for file, packer, text in zip(files, packers, batch):
                file.write(packer.compress(text))
        for file, packer in zip(files, packers):
            file.write(packer.flush())


def read_phased_variants(path: Path, contigs: Sequence[Contig], permit: Permit) -> list[PhasedVariant]:
    """Sites of a VCF's only sample, as `PhasedVariant`s.

    An unphased heterozygous genotype is taken as written: left of the slash is haplotype 1.

    Raises
    ------
    InputFormatError
        Not a VCF, not exactly one sample, a contig that the reference lacks, a ref that disagrees with it, or
        a genotype that is not two known alleles.
    """
    permit.record("open-read", path)
    number = {name: i for i, (name, _) in enumerate(contigs)}
    found = []
    try:
        with pysam.VariantFile(str(path)) as file:
            if len(file.header.samples) != 1:
                raise InputFormatError(path, "", "a phased VCF of one sample is needed", "Use bcftools view -s.")
            for i, record in enumerate(file, 1):
                found.append(_phased(path, i, record, number, contigs))
    except (OSError, ValueError) as error:
        raise InputFormatError(path, "", f"not a readable VCF ({error})", "Check how it was made.") from error
    return found


def _phased(path: Path, ordinal: int, record: Any, number: dict[str, int], contigs: Sequence[Contig]) -> PhasedVariant:
    where = f"record {ordinal}"
    contig = number.get(record.chrom)
    if contig is None:
        raise InputFormatError(path, where, f"the reference has no contig {record.chrom}", "Use its own reference.")
    genotype = record.samples[0]["GT"]
    alts = record.alts or ()
    if len(genotype) != 2 or any(allele is None or allele > len(alts) for allele in genotype):
        raise InputFormatError(path, where, "the genotype is not two known alleles", "Leave such sites out.")
    codes: NDArray[np.uint8] = contigs[contig][1][record.start : record.start + len(record.ref)]
    if ASCII_OF_CODE[codes].tobytes().decode() != record.ref.upper():
        raise InputFormatError(path, where, "REF is not what the reference has there", "Use its own reference.")
    return PhasedVariant(
        contig,
        record.start,
        record.ref.upper(),
        tuple(alt.upper() for alt in alts),
        (genotype[0], genotype[1]),
    )
