# SPDX-License-Identifier: Apache-2.0
"""VCF: records, header, bgzipped files with a tabix index.

In: `VcfRecord`s in any order. Out: one .vcf.gz and its .tbi, by atomic rename. Reading goes through pysam.

Files are VCF 4.3, which htslib, htsjdk and so GATK read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysam

from megabolt.errors import InputFormatError, UsageError
from megabolt.formats.bgzf import BgzfWriter
from megabolt.formats.fasta import Contig
from megabolt.formats.output import atomic_output, output_error
from megabolt.privacy.consent import Permit

#: The allele of a gVCF that stands for all that was not seen.
NON_REF = "<NON_REF>"
#: Tabix cannot index beyond this position; longer contigs get a CSI index.
TABIX_LIMIT = 1 << 29

_FILTERS = {
    "LowQual": "QUAL is below the calling threshold",
    "LowDepth": "Too few templates over the site",
    "StrandBias": "Alleles differ too much in strand (FS)",
}
#: Length of chromosome 1 or X -> name of the assembly.
_ASSEMBLIES = {249_250_621: "GRCh37", 155_270_560: "GRCh37", 248_956_422: "GRCh38", 156_040_895: "GRCh38"}
_NAMES_OF_ASSEMBLY = {"1", "chr1", "X", "chrX"}
_INFO = {
    "AC": ("A", "Integer", "Copies of each alternative allele in the called genotype"),
    "AF": ("A", "Float", "Share of each alternative allele among the called alleles"),
    "AN": ("1", "Integer", "Alleles in called genotypes"),
    "DP": ("1", "Integer", "Templates over the site; overlapping mates count once"),
    "END": ("1", "Integer", "Last position of this block"),
    "FS": ("1", "Float", "Phred of Fisher's exact test of allele by strand"),
    "MQ": ("1", "Float", "Root mean square mapping quality of the reads"),
    "QD": ("1", "Float", "QUAL by templates that show an allele"),
    "SOR": ("1", "Float", "Strand odds ratio, log scale, symmetric: above 3 is suspect"),
}
_FORMAT = {
    "GT": ("1", "String", "Genotype"),
    "AD": ("R", "Integer", "Templates that support each allele"),
    "AF": ("A", "Float", "Share of each alternative allele in a mixture (mitochondria)"),
    "DP": ("1", "Integer", "Templates that the genotype rests on; overlapping mates count once"),
    "GQ": ("1", "Integer", "Phred-scaled probability that the genotype is wrong, for whatever reason"),
    "MIN_DP": ("1", "Integer", "Lowest depth in the block"),
    "PGT": ("1", "String", "Physical phase: the alleles by copy, in the order of the phase set"),
    "PID": ("1", "String", "Physical phase: name of the set, its first site"),
    "PL": ("G", "Integer", "Phred-scaled genotype likelihoods, the best is 0"),
    "PS": ("1", "Integer", "Phase set: position of its first site"),
}


@dataclass(frozen=True, slots=True)
class VcfRecord:
    """One line of a VCF with one sample.

    start: 0-based position of the first base of `ref`. qual: None for missing. filter: PASS, a name, or "."
    info, genotype: values by name, in the order they are written; text, whole numbers or floats.
    """

    contig: str
    start: int
    ref: str
    alts: tuple[str, ...]
    qual: float | None
    filter: str
    info: Mapping[str, Any] = field(default_factory=dict)
    genotype: Mapping[str, Any] = field(default_factory=dict)
    id: str = "."

    @property
    def stop(self) -> int:
        """0-based, exclusive: where the record ends on the reference (END counts)."""
        end = self.info.get("END")
        return int(end) if end is not None else self.start + len(self.ref)

    @property
    def is_reference_block(self) -> bool:
        """Whether this is a gVCF block without a variant."""
        return self.alts == (NON_REF,) and "END" in self.info

    def line(self) -> str:
        """The text of the record, with its end of line."""
        info = ";".join(f"{key}={_text(value)}" for key, value in self.info.items()) or "."
        columns = [
            self.contig,
            str(self.start + 1),
            self.id,
            self.ref,
            ",".join(self.alts) or ".",
            "." if self.qual is None else _text(self.qual),
            self.filter,
            info,
        ]
        if self.genotype:
            columns.append(":".join(self.genotype))
            columns.append(":".join(_text(value) for value in self.genotype.values()))
        return "\t".join(columns) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (tuple, list)):
        return ",".join(_text(one) for one in value)
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def header_text(
    contigs: Sequence[Contig],
    sample: str,
    *,
    reference_name: str = "",
    source: str = "megabolt",
    extra: Sequence[str] = (),
    gvcf: bool = False,
    filters: Mapping[str, str] | None = None,
) -> str:
    """The header of a file with one sample.

    Parameters
    ----------
    reference_name
        File name of the reference, without folders: paths may name people and machines.
    extra
        More `##` lines, as they are (command line, thresholds).
    filters
        Names and descriptions of the filters; default: those of the caller, without their limits.

    Raises
    ------
    UsageError
        The sample name cannot stand in a VCF.
    """
    if not sample or any(c in sample for c in "\t\n\r"):
        raise UsageError(f"sample name {sample!r} cannot stand in a VCF", "Use a name without tabs or line ends.")
    lines = ["##fileformat=VCFv4.3", f"##source={source}"]
    if reference_name:
        lines.append(f"##reference={reference_name}")
    lines += extra
    if gvcf:
        lines.append('##ALT=<ID=NON_REF,Description="Any allele that was not seen">')
    lines.append('##FILTER=<ID=PASS,Description="All filters passed">')
    lines += [f'##FILTER=<ID={name},Description="{text}">' for name, text in (filters or _FILTERS).items()]
    for section, table in (("INFO", _INFO), ("FORMAT", _FORMAT)):
        lines += [
            f'##{section}=<ID={name},Number={number},Type={kind},Description="{text}">'
            for name, (number, kind, text) in table.items()
        ]
    assembly = assembly_of(contigs)
    known = f",assembly={assembly}" if assembly else ""
    lines += [f"##contig=<ID={one.name},length={one.length},md5={one.md5}{known}>" for one in contigs]
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", sample]
    lines.append("\t".join(columns))
    return "\n".join(lines) + "\n"


def assembly_of(contigs: Sequence[Contig]) -> str:
    """GRCh37 or GRCh38, by the length of chromosome 1 or X; empty if it is neither."""
    names = {_ASSEMBLIES.get(one.length, "") for one in contigs if one.name in _NAMES_OF_ASSEMBLY}
    return names.pop() if len(names) == 1 else ""


def command_line_header(command: str, version: str) -> str:
    """The header line that says how a file was made."""
    text = command.replace("\\", "\\\\").replace('"', '\\"')
    return f'##megaboltCommand=<ID=call,Version={version},CommandLine="{text}">'


def sort_records(records: Iterable[VcfRecord], contigs: Sequence[Contig]) -> list[VcfRecord]:
    """Records in file order: contig as in the reference, position, alleles."""
    rank = {one.name: i for i, one in enumerate(contigs)}
    return sorted(records, key=lambda one: (rank[one.contig], one.start, one.ref, one.alts))


def write_vcf(
    path: Path | str,
    records: Iterable[VcfRecord],
    contigs: Sequence[Contig],
    sample: str,
    permit: Permit,
    *,
    reference_name: str = "",
    source: str = "megabolt",
    extra: Sequence[str] = (),
    gvcf: bool = False,
    filters: Mapping[str, str] | None = None,
) -> int:
    """Write a bgzipped VCF and its index; returns the number of records.

    Records must come in file order (`sort_records`). The file and its index appear together, or not at all.

    Raises
    ------
    UsageError
        The path does not end in .vcf.gz: tools take the compression from the name.
    OutputError
        The disk refuses.
    """
    path = Path(path)
    header = header_text(
        contigs, sample, reference_name=reference_name, source=source, extra=extra, gvcf=gvcf, filters=filters
    )
    counter = [0]
    write_vcf_text(path, header, _text_of(records, counter), contigs, [permit])
    return counter[0]


def write_vcf_text(
    path: Path | str, header: str, pieces: Iterable[bytes], contigs: Sequence[Contig], permits: Sequence[Permit]
) -> None:
    """Write a bgzipped VCF and its index from the text of its header and of its records, in file order.

    The file and its index appear together, or not at all: the index first, so that no file is ever beside an older
    index. Raises as `write_vcf` does.
    """
    path = Path(path)
    if not path.name.endswith(".vcf.gz"):
        raise UsageError(f"{path} does not end in .vcf.gz", "Calls are written bgzipped: name the output so.")
    for permit in permits:
        permit.record("open-write", path)
    csi = any(one.length >= TABIX_LIMIT for one in contigs)
    index_path = path.with_name(path.name + (".csi" if csi else ".tbi"))
    with atomic_output(path) as temporary, atomic_output(index_path) as temporary_index:
        with open(temporary, "wb") as raw:
            writer = BgzfWriter(raw)
            writer.write(header.encode())
            for piece in pieces:
                writer.write(piece)
            writer.close()
        try:
            pysam.tabix_index(
                str(temporary), preset="vcf", force=True, keep_original=True, csi=csi, index=str(temporary_index)
            )
        except OSError as error:
            raise output_error(path, error) from error


def _text_of(records: Iterable[VcfRecord], counter: list[int]) -> Iterator[bytes]:
    """The lines of records, some thousand at a time; counts them."""
    lines: list[str] = []
    for record in records:
        counter[0] += 1
        lines.append(record.line())
        if len(lines) == 4096:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join(lines).encode()


def read_vcf(path: Path | str, permit: Permit, *, sample: str | None = None) -> Iterator[VcfRecord]:
    """Records of a VCF or BCF, plain or compressed; with the genotype of one sample (the first by default).

    Only GT, AD, DP, GQ and PL of the genotype are taken, all of INFO that is scalar or a tuple.

    Raises
    ------
    InputFormatError
        Not a VCF, truncated, or the sample is not in it.
    """
    path = Path(path)
    permit.record("open-read", path)
    try:
        stream = pysam.VariantFile(str(path))
    except (OSError, ValueError) as error:
        raise InputFormatError(
            path, "", f"not a readable VCF: {error}", "Check the file with bcftools view."
        ) from error
    with stream:
        names = list(stream.header.samples)
        if sample is not None and sample not in names:
            raise InputFormatError(path, "header", f"no sample {sample}", f"Samples: {', '.join(names) or 'none'}.")
        chosen = sample if sample is not None else (names[0] if names else None)
        number = 1
        try:
            for row in stream:
                yield _from_pysam(row, chosen)
                number += 1
        except (OSError, ValueError) as error:
            raise InputFormatError(
                path, f"record {number}", f"cannot be read: {error}", "Check the file with bcftools view."
            ) from error


def _from_pysam(row: Any, sample: str | None) -> VcfRecord:
    genotype: dict[str, Any] = {}
    if sample is not None:
        call = row.samples[sample]
        if "GT" in call:
            alleles = call["GT"]
            separator = "|" if call.phased and len(alleles) > 1 else "/"
            genotype["GT"] = separator.join("." if one is None else str(one) for one in alleles)
        for key in ("AD", "DP", "GQ", "PL"):
            if key in call and call[key] is not None:
                genotype[key] = call[key]
    info = dict(row.info.items())
    if "END" in row.header.info and row.stop != row.start + len(row.ref):
        info["END"] = row.stop
    return VcfRecord(
        contig=row.chrom,
        start=row.start,
        ref=row.ref,
        alts=tuple(row.alts or ()),
        qual=row.qual,
        filter=";".join(row.filter.keys()) or ".",
        info=info,
        genotype=genotype,
        id=row.id or ".",
    )
