# SPDX-License-Identifier: Apache-2.0
"""What a run of the germline workflow makes: from its configuration and sheet to files and options.

In: the workflow's `config` (checked against workflows/schemas/config.schema.json by Snakemake). Out: a
`Plan`, from which the rules in workflows/germline take their inputs, outputs and options. Nothing is opened
but the sheet.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from megabolt.align.options import AlignOptions
from megabolt.errors import UsageError
from megabolt.formats.lane import UMI_SOURCES
from megabolt.workflow.read_groups import ReadGroup
from megabolt.workflow.resources import allowed_threads, default_memory, parse_memory
from megabolt.workflow.sheet import Lane, Sample, SampleSheet, read_sheet

ASSAYS = ("wgs", "wes", "panel")

#: Assays that look at a part of the genome only.
TARGETED = ("wes", "panel")

#: What the index adds to the FASTA's name.
INDEX_SUFFIX = ".mbx"


@dataclass(frozen=True)
class Truth:
    """Known variants of a sample, and the regions in which they are known (None: everywhere)."""

    vcf: Path
    regions: Path | None = None


@dataclass(frozen=True)
class ReadsPlan:
    """What becomes of aligned reads: options of `megabolt germline` by the same names.

    Attributes
    ----------
    known_sites
        VCFs of known variants; with some, base qualities are recalibrated (--bqsr).
    """

    cram: bool = False
    known_sites: tuple[Path, ...] = ()
    remove_duplicates: bool = False
    optical_distance: int = 100
    scratch: Path | None = None

    def words(self) -> list[str]:
        """As options."""
        words = ["--cram"] * self.cram + ["--remove-duplicates"] * self.remove_duplicates
        words += ["--optical-distance", str(self.optical_distance)] * (self.optical_distance != 100)
        if self.known_sites:
            words += ["--bqsr", *map(str, self.known_sites)]
        return words + (["--scratch", str(self.scratch)] if self.scratch is not None else [])


@dataclass(frozen=True)
class Plan:
    """A run of the germline workflow; paths of results are relative to its folder."""

    sheet: SampleSheet
    reference: Path
    assay: str
    targets: Path | None = None
    gvcf: bool = False
    bam: bool = True
    threads: int = 1
    memory: int = 8 << 30
    open_data: str = ""
    audit_log: Path | None = None
    truth: Mapping[str, Truth] = field(default_factory=dict)
    umi: str | None = None
    align: AlignOptions = field(default_factory=AlignOptions)
    reads: ReadsPlan = field(default_factory=ReadsPlan)

    def __post_init__(self) -> None:
        if self.assay not in ASSAYS:
            raise UsageError(f"assay '{self.assay}' is not known", f"Choose from {', '.join(ASSAYS)}.")
        if self.assay in TARGETED and self.targets is None:
            raise UsageError(f"assay {self.assay} needs the regions it looks at", "Name their BED file with --targets.")
        if self.umi is not None and self.umi not in UMI_SOURCES:
            raise UsageError(f"UMIs cannot be in '{self.umi}'", f"Choose from {', '.join(UMI_SOURCES)}.")
        for sample in self.sheet.samples:
            if sample.is_tumor:
                raise UsageError(
                    f"{self.sheet.path}: sample {sample.sample} is a tumor; this workflow is germline only",
                    "Leave its rows out; somatic calling is not part of this version.",
                )
        self._refuse_braces()
        unknown = sorted(set(self.truth) - set(self.names))
        if unknown:
            raise UsageError(f"no sample {unknown[0]}, whose truth is given, in {self.sheet.path}", "Check the name.")

    def _refuse_braces(self) -> None:
        fastq = [path for name in self.names for path in self.fastq(name)]
        truth = [path for known in self.truth.values() for path in (known.vcf, known.regions)]
        for path in (self.reference, self.targets, *self.reads.known_sites, *fastq, *truth):
            if path is not None and set("{}") & set(str(path)):
                raise UsageError(f"{path}: Snakemake takes braces for wildcards", "Rename it, or use a link.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sample.sample for sample in self.sheet.samples)

    @property
    def index(self) -> Path:
        return self.reference.with_name(self.reference.name + INDEX_SUFFIX)

    @property
    def memory_mb(self) -> int:
        return self.memory >> 20

    def sample(self, name: str) -> Sample:
        return next(sample for sample in self.sheet.samples if sample.sample == name)

    def fastq(self, name: str) -> list[str]:
        """All FASTQ files of a sample."""
        return [str(path) for lane in self.sample(name).lanes for path in (lane.fastq_1, lane.fastq_2) if path]

    def _lanes(self, name: str) -> tuple[list[Lane], list[Lane], list[Lane]]:
        """Lanes of two files, interleaved ones and unpaired ones, each in the sheet's order."""
        lanes = self.sample(name).lanes
        paired = [lane for lane in lanes if lane.fastq_2 is not None]
        interleaved = [lane for lane in lanes if lane.interleaved]
        return paired, interleaved, [lane for lane in lanes if not lane.paired]

    def declaration(self, name: str) -> str:
        """The sample's own declaration, else the run's; may be empty, and is then refused by the job."""
        return self.sample(name).open_data or self.open_data

    def outputs(self, name: str = "{sample}") -> dict[str, str]:
        """Files of one sample by their kind; with the default, patterns for a rule."""
        stem = f"{name}/{name}"
        files = {"metrics": f"{stem}.metrics.json", "vcf": f"{stem}.vcf.gz", "tbi": f"{stem}.vcf.gz.tbi"}
        if self.gvcf:
            files |= {"gvcf": f"{stem}.g.vcf.gz", "gvcf_tbi": f"{stem}.g.vcf.gz.tbi"}
        if self.bam:
            suffix, index = ("cram", "crai") if self.reads.cram else ("bam", "bai")
            files |= {suffix: f"{stem}.{suffix}", index: f"{stem}.{suffix}.{index}"}
        if self.reads.known_sites:
            files["table"] = f"{stem}.recalibration.table"
        return files

    def options(self, name: str) -> str:
        """Options of `megabolt germline` that are no resources, quoted for a shell."""
        paired, interleaved, single = self._lanes(name)
        words = []
        if paired:
            words += ["-1", *(str(lane.fastq_1) for lane in paired), "-2", *(str(lane.fastq_2) for lane in paired)]
        if interleaved:
            words += ["--interleaved", *(str(lane.fastq_1) for lane in interleaved)]
        if single:
            words += ["--single", *(str(lane.fastq_1) for lane in single)]
        for lane in (*paired, *interleaved, *single):
            group = ReadGroup(f"{name}.{lane.lane}", name, name, unit=lane.lane)
            words += ["--read-group", group.header_line().replace("\t", "\\t")]
        words += self._align_words() + self.reads.words()
        if self.gvcf:
            words.append("--gvcf")
        if not self.bam:
            words.append("--no-bam")
        if self.targets is not None:
            words += ["--targets", str(self.targets)]
        sex = {"XX": "female", "XY": "male"}.get(self.sample(name).sex)
        if sex is not None:
            words += ["--sex", sex]
        if self.audit_log is not None:
            words += ["--audit-log", str(self.audit_log)]
        return shlex.join(words)

    def _align_words(self) -> list[str]:
        words = ["--umi", self.umi] if self.umi is not None else []
        words += ["--adapters", self.align.adapters, "--poly-g", self.align.poly_g, "--xa", str(self.align.xa)]
        words += ["--soft-clip"] * self.align.soft_clip
        return words + ["--no-alt"] * (not self.align.alt)

    def compare_options(self, name: str) -> str:
        """Options of `megabolt compare` for a sample with a truth, quoted for a shell."""
        regions = self.truth[name].regions
        words = [] if regions is None else ["--regions", str(regions)]
        if self.audit_log is not None:
            words += ["--audit-log", str(self.audit_log)]
        return shlex.join(words)

    def reports(self) -> dict[str, list[str]]:
        """Inputs of the final report: metrics of all samples, comparisons of those with a truth."""
        return {
            "metrics": [self.outputs(name)["metrics"] for name in self.names],
            "comparisons": [f"{name}/{name}.compare.json" for name in self.truth],
        }


def load_plan(config: Mapping[str, Any], *, base: Path | None = None) -> Plan:
    """The plan of a workflow configuration; relative paths are relative to `base` (default: the folder we are
    in).

    Raises
    ------
    UsageError, InputFormatError
        What the schema cannot say: contradictions, and everything inside the sheet.
    """
    root = (base or Path.cwd()).absolute()

    def path(value: Any) -> Path | None:
        return root / Path(value).expanduser() if value else None

    def needed(name: str) -> Path:
        found = path(config.get(name))
        if found is None:
            raise UsageError(f"the configuration has no '{name}'", "See workflows/schemas/config.schema.json.")
        return found

    truth = {
        name: Truth(root / Path(known["vcf"]).expanduser(), path(known.get("regions")))
        for name, known in (config.get("truth") or {}).items()
    }
    memory = config.get("memory")
    return Plan(
        sheet=read_sheet(needed("sheet")),
        reference=needed("reference"),
        assay=str(config.get("assay", "wgs")),
        targets=path(config.get("targets")),
        gvcf=bool(config.get("gvcf", False)),
        bam=bool(config.get("bam", True)),
        threads=int(config.get("threads") or allowed_threads()),
        memory=parse_memory(str(memory)) if memory else default_memory(),
        open_data=str(config.get("open_data") or ""),
        audit_log=path(config.get("audit_log")),
        truth=truth,
        umi=config.get("umi") or None,
        align=_align_options(config),
        reads=ReadsPlan(
            cram=bool(config.get("cram", False)),
            known_sites=tuple(root / Path(one).expanduser() for one in config.get("known_sites") or ()),
            remove_duplicates=bool(config.get("remove_duplicates", False)),
            optical_distance=int(config.get("optical_distance", 100)),
            scratch=path(config.get("scratch")),
        ),
    )


def _align_options(config: Mapping[str, Any]) -> AlignOptions:
    """Those the configuration names, else the aligner's defaults."""
    names = {field.name for field in fields(AlignOptions)}
    return AlignOptions(**{name: config[name] for name in names if config.get(name) is not None})
