# SPDX-License-Identifier: Apache-2.0
"""What is done with reads on their way to the BAM, through whole jobs: memory, scratch, duplicates, inputs, outputs."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pysam
import pytest

from megabolt.errors import InputFormatError, ResourceError, UsageError
from megabolt.reads.bins import TAG_ALL, Finish
from megabolt.reads.duplicates.finder import DuplicateOptions
from megabolt.recalibrate import ApplyOptions
from megabolt.testing.toy_sample import MEMORY, N_COPIES, OPEN, ToySample, arguments, make_sample
from megabolt.workflow import sample_job
from megabolt.workflow.germline import run_align, run_germline, run_markdup
from megabolt.workflow.processing import Processing
from megabolt.workflow.read_input import AlignmentInput
from megabolt.workflow.report import write_report


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> ToySample:
    return make_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def plain(sample: ToySample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BAM of the defaults."""
    path = tmp_path_factory.mktemp("plain") / "s.bam"
    run_align(**arguments(sample, output=path))
    return path


def records(path: Path, reference: Path | None = None) -> list[str]:
    with pysam.AlignmentFile(str(path), reference_filename=str(reference) if reference else None) as file:
        return [record.to_string() for record in file.fetch(until_eof=True)]


def header(path: Path) -> dict[str, Any]:
    with pysam.AlignmentFile(str(path)) as file:
        return dict(file.header.to_dict())


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may hold two megabytes of reads."""
    monkeypatch.setattr(sample_job.SampleJob, "memory_for_reads", lambda job: 2 << 20)


def test_records_do_not_depend_on_memory(
    sample: ToySample, plain: Path, tmp_path: Path, little_room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for threads in (1, 3):
        out = tmp_path / f"{threads}.bam"
        job = arguments(sample, output=out, threads=threads, processing=Processing(scratch=scratch), say=said.append)
        run_align(**job)
        assert records(out) == records(plain)
    assert sum("in scratch" in line for line in said) == 2
    assert list(scratch.iterdir()) == []
    run_align(**arguments(sample, output=tmp_path / "s.bam"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("megabolt-")]


def test_calls_do_not_depend_on_memory(sample: ToySample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for name in ("large", "small"):
        if name == "small":
            monkeypatch.setattr(sample_job.SampleJob, "memory_for_reads", lambda job: 2 << 20)
        run_germline(**arguments(sample, outdir=tmp_path / name, gvcf=True))
        packed = [(tmp_path / name / f"s.{kind}.gz").read_bytes() for kind in ("vcf", "g.vcf")]
        texts.append([gzip.decompress(data) for data in packed])
        texts[-1] += [path.read_bytes() for path in sorted((tmp_path / name / "metrics").glob("*mosdepth*"))]
    assert len(texts[0]) > 2
    # not the texts themselves: pytest would take hours to show how they differ
    assert [k for k, (large, small) in enumerate(zip(*texts, strict=True)) if large != small] == []


def test_too_little_disk_is_said_before_the_work(
    sample: ToySample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megabolt.reads.scratch.free_bytes", lambda folder: 1000)
    with pytest.raises(ResourceError, match="--scratch"):
        run_align(**arguments(sample, output=tmp_path / "s.bam"))
    assert list(tmp_path.iterdir()) == []


def test_duplicates_are_removed(sample: ToySample, plain: Path, tmp_path: Path) -> None:
    """All records of them: an unmapped mate, which is never marked, would be left alone."""
    out = tmp_path / "s.bam"
    run_align(**arguments(sample, output=out, processing=Processing(finish=Finish(remove=True))))
    fields = [line.split("\t", 2) for line in records(plain)]
    copies = {name for name, flag, _ in fields if int(flag) & 0x400}
    kept = ["\t".join(one) for one in fields if one[0] not in copies]
    assert records(out) == kept
    assert len(records(plain)) - len(kept) >= 2 * N_COPIES


def test_duplicates_are_tagged(sample: ToySample, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.bam"
    run_align(**arguments(sample, output=out, processing=Processing(finish=Finish(tagging=TAG_ALL))))
    marked = [line for line in records(plain) if int(line.split("\t")[1]) & 0x400]
    tagged = [line for line in records(out) if "\tDT:Z:LB" in line]
    assert [line.replace("\tDT:Z:LB", "") for line in tagged] == marked != []


def shuffled(plain: Path, path: Path, order: str) -> Path:
    """The records in another order, duplicates unmarked."""
    with pysam.AlignmentFile(str(plain)) as file:
        found = list(file.fetch(until_eof=True))
        given = file.header.to_dict()
    if order == "name":
        found.sort(key=lambda record: record.query_name)
        given["HD"]["SO"] = "queryname"
    elif order == "none":
        random.Random(3).shuffle(found)
        given["HD"]["SO"] = "unsorted"
    with pysam.AlignmentFile(str(path), "wb", header=given) as out:
        for record in found:
            record.is_duplicate = False
            out.write(record)
    return path


@pytest.mark.parametrize("order", ["coordinate", "name", "none"])
def test_an_existing_file_is_marked_again(plain: Path, tmp_path: Path, order: str) -> None:
    """Reads of one score and place are told apart by their order, so flags are compared by place and strand."""
    source = shuffled(plain, tmp_path / "in.bam", order)
    results = []
    for threads in (1, 2):
        out = tmp_path / f"{threads}.bam"
        run_markdup(source=source, output=out, threads=threads, memory=MEMORY, open_data=OPEN)
        results.append(records(out))
    assert results[0] == results[1]

    def kinds(lines: list[str]) -> Counter[Any]:
        fields = [line.split("\t") for line in lines]
        return Counter((int(f[1]) & 0x410, f[2], f[3], f[5]) for f in fields if not int(f[1]) & 0x900)

    assert kinds(results[0]) == kinds(records(plain))
    places = [line.split("\t")[2:4] for line in results[0]]
    assert places == [line.split("\t")[2:4] for line in records(plain)]
    chain = header(tmp_path / "1.bam")["PG"]
    assert [one.get("PP") for one in chain] == [None, "megabolt"]
    assert header(tmp_path / "1.bam")["RG"] == header(plain)["RG"]


def test_an_existing_file_with_little_memory(plain: Path, tmp_path: Path, little_room: None) -> None:
    source = shuffled(plain, tmp_path / "in.bam", "coordinate")
    run_markdup(source=source, output=tmp_path / "out.bam", threads=2, memory=MEMORY, open_data=OPEN)
    assert records(tmp_path / "out.bam") == records(plain)


@pytest.mark.parametrize("order", ["coordinate", "name"])
def test_an_existing_file_is_aligned_again(sample: ToySample, plain: Path, tmp_path: Path, order: str) -> None:
    """Places are the same; which of two like copies is the duplicate hangs on the order of the input."""
    source = shuffled(plain, tmp_path / "in.bam", order)
    out = tmp_path / "s.bam"
    run_align(**arguments(sample, reads=AlignmentInput(source), output=out))

    def without_flags(path: Path) -> list[str]:
        lines = [line.split("\t") for line in records(path)]
        return sorted("\t".join([f[0], str(int(f[1]) & ~0x400), *f[2:]]) for f in lines)

    assert without_flags(out) == without_flags(plain)
    assert header(out)["RG"] == header(plain)["RG"]
    assert len(header(out)["PG"]) == 2


def test_another_samples_file_is_refused(sample: ToySample, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFormatError, match="--sample"):
        run_align(**(arguments(sample, reads=AlignmentInput(plain), output=tmp_path / "t.bam") | {"sample": "t"}))
    assert list(tmp_path.iterdir()) == []


def test_umis_of_an_existing_file(plain: Path, tmp_path: Path) -> None:
    """Copies with UMIs of their own are no duplicates."""
    with pysam.AlignmentFile(str(plain)) as file, pysam.AlignmentFile(str(tmp_path / "in.bam"), "wb", file) as out:
        for record in file.fetch(until_eof=True):
            record.is_duplicate = False
            record.set_tag("RX", "ACGTACGT" if record.query_name.startswith("copy") else "TTGGCCAA")
            out.write(record)
    counts = []
    for umi in (False, True):
        path = tmp_path / f"{umi}.bam"
        run_markdup(
            source=tmp_path / "in.bam", output=path, threads=2, memory=MEMORY, umi=umi, open_data=OPEN,
            processing=Processing(duplicates=DuplicateOptions(umi_mismatches=1)),
        )  # fmt: skip
        counts.append(sum(bool(int(line.split("\t")[1]) & 0x400) for line in records(path)))
    assert counts[0] >= 2 * N_COPIES
    assert counts[1] < counts[0] - N_COPIES


def known_sites(sample: ToySample, path: Path) -> Path:
    """The planted SNPs as a VCF."""
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    text = {line.split("\n")[0]: line.split("\n")[1] for line in sample.reference.read_text().split(">")[1:]}
    for contig, snps in sample.snps.items():
        lines += [f"{contig}\t{k + 1}\t.\t{text[contig][k]}\t{alt}\t.\t.\t." for k, alt in sorted(snps.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_qualities_are_recalibrated(sample: ToySample, plain: Path, tmp_path: Path) -> None:
    """Reads without errors but at known sites: their qualities rise; all else stays."""
    known = (known_sites(sample, tmp_path / "known.vcf"),)
    processing = Processing(known_sites=known, recalibration=ApplyOptions(keep_original=True))
    run_align(**arguments(sample, output=tmp_path / "s.bam", processing=processing))
    assert (tmp_path / "s.recalibration.table").read_text().startswith("#:GATKReport")
    with pysam.AlignmentFile(str(tmp_path / "s.bam")) as new, pysam.AlignmentFile(str(plain)) as old:
        for ours, before in zip(new.fetch(until_eof=True), old.fetch(until_eof=True), strict=True):
            assert ours.query_name == before.query_name
            assert ours.get_tag("OQ") == before.qual
            if not before.is_unmapped:
                assert min(ours.query_qualities) > 25
    run_markdup(
        source=plain, output=tmp_path / "m.bam", reference=sample.reference, threads=2, memory=MEMORY,
        open_data=OPEN, processing=processing,
    )  # fmt: skip
    assert records(tmp_path / "m.bam") == records(tmp_path / "s.bam")


def test_the_report_draws_qualities_before_and_after(sample: ToySample, tmp_path: Path) -> None:
    """Reads without errors: after recalibration they are reported as good as they are."""
    processing = Processing(known_sites=(known_sites(sample, tmp_path / "known.vcf"),))
    run_germline(**arguments(sample, outdir=tmp_path / "s", processing=processing))
    metrics = json.loads((tmp_path / "s/s.metrics.json").read_text())
    before, after = (metrics["recalibration"][when]["quality"] for when in ("before", "after"))
    assert sum(before["bases"]) == sum(after["bases"]) > 1_000_000
    assert min(before["reported"]) < 30 < 35 < min(after["reported"])
    write_report([tmp_path / "s/s.metrics.json"], [], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("<svg") == 1


def test_recalibration_needs_the_reference(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reference"):
        run_markdup(
            source=plain, output=tmp_path / "m.bam", threads=1, memory=MEMORY, open_data=OPEN,
            processing=Processing(known_sites=(tmp_path / "k.vcf",)),
        )  # fmt: skip


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_cram_md5_and_level(sample: ToySample, plain: Path, tmp_path: Path, version: str) -> None:
    out = tmp_path / "s.cram"
    run_align(**arguments(sample, output=out, processing=Processing(cram_version=version, md5=True, level=6)))
    # htslib makes MD and NM itself and puts them elsewhere
    assert [sorted(line.split("\t")) for line in records(out, sample.reference)] == [
        sorted(line.split("\t")) for line in records(plain)
    ]
    assert out.read_bytes()[:6] == b"CRAM" + bytes(int(part) for part in version.split("."))
    digest, name = (tmp_path / "s.cram.md5").read_text().split()
    assert (digest, name) == (hashlib.md5(out.read_bytes(), usedforsecurity=False).hexdigest(), "s.cram")


def test_metrics_of_an_existing_file(sample: ToySample, plain: Path, tmp_path: Path) -> None:
    run_markdup(
        source=plain, output=tmp_path / "m.bam", reference=sample.reference, threads=2, memory=MEMORY, open_data=OPEN,
        metrics_folder=tmp_path / "qc",
    )  # fmt: skip
    theirs = pysam.flagstat(str(plain))
    assert (tmp_path / "qc" / "s.flagstat.txt").read_text().splitlines() == theirs.splitlines()
    assert "ESTIMATED_LIBRARY_SIZE" in (tmp_path / "qc" / "s.duplication_metrics.txt").read_text()
