# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the BAM writer: level, CRAM version, checksum; and what must not outlive an older file."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.errors import InputFormatError, UsageError
from megabolt.formats import bgzf
from megabolt.formats.bam import BamHeader, BamWriter, RecordBlock, read_records
from megabolt.formats.fasta import FastaReference, read_fasta
from megabolt.privacy.consent import Permit, authorize

N_READS = 4000


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> FastaReference:
    path = tmp_path_factory.mktemp("reference") / "ref.fa"
    letters = np.random.default_rng(3).choice(list(b"ACGT"), 60_000).astype(np.uint8).tobytes().decode()
    path.write_text(
        ">c1\n" + "\n".join(letters[k : k + 60] for k in range(0, 50_000, 60)) + "\n>c2\n" + letters[50_000:]
    )
    return read_fasta(path)


@pytest.fixture(scope="module")
def theirs(reference: FastaReference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads of the reference with its own bases, so that they compress as real ones do."""
    rng = np.random.default_rng(4)
    path = tmp_path_factory.mktemp("theirs") / "theirs.bam"
    header = pysam.AlignmentHeader.from_text(header_of(reference).text)
    letters = reference.path.read_text().replace(">c1", "").split(">c2")[0].replace("\n", "")
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for start in np.sort(rng.integers(0, 49_800, N_READS)).tolist():
            read = pysam.AlignedSegment(header)
            read.query_name = f"run:1:{rng.integers(1 << 30)}"
            read.reference_id, read.reference_start, read.mapping_quality = 0, start, 60
            read.cigartuples = [(0, 100)]
            bases = list(letters[start : start + 100])
            bases[50] = "ACGT"["CGTA".index(bases[50])]
            read.query_sequence = "".join(bases)
            read.query_qualities = pysam.qualitystring_to_array("".join(rng.choice(list("F:,"), 100)))
            read.set_tags([("MD", f"50{letters[start + 50]}49"), ("NM", 1), ("AS", 95), ("RG", "lane1")])
            file.write(read)
    return path


def header_of(reference: FastaReference) -> BamHeader:
    return BamHeader.build(reference.contigs, ["@RG\tID:lane1\tSM:S1\tLB:lib"])


def write(path: Path, block: RecordBlock, genome: FastaReference, permit: Permit, **options: Any) -> None:
    with BamWriter(path, header_of(genome), permit, **options) as writer:
        writer.write(block)


def content(path: Path) -> bytes:
    data = bgzf.decompress(path.read_bytes(), path)
    return data.tobytes()


def test_every_level_holds_the_same(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    block = read_records(theirs, permit)
    sizes = []
    for level in range(10):
        path = tmp_path / f"{level}.bam"
        write(path, block, reference, permit, level=level, threads=1 + level % 2)
        assert content(path) == content(tmp_path / "0.bam")
        assert pysam.AlignmentFile(str(path)).count("c1", 0, 60_000) == N_READS
        sizes.append(path.stat().st_size)
    assert sizes[0] > len(content(tmp_path / "0.bam")) - 1024 - 16  # stored; less the reader's padding
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[6] < 0.97 * sizes[1]
    assert all(after <= 1.005 * before for before, after in pairwise(sizes[3:])), sizes
    write(tmp_path / "usual.bam", block, reference, permit)
    assert (tmp_path / "usual.bam").read_bytes() == (tmp_path / "1.bam").read_bytes()


@pytest.mark.parametrize("level", range(10))
def test_bytes_that_cannot_be_compressed_fit_a_block(level: int) -> None:
    data = np.random.default_rng(level).integers(0, 256, bgzf.BLOCK_SIZE).astype(np.uint8).tobytes()
    packed = bgzf.compress_block(data, level)
    assert len(packed) <= 0x10000
    assert zlib.decompress(packed, 31) == data


@pytest.mark.parametrize("options", [{"level": 10}, {"level": -1}, {"cram_version": "2.1"}])
def test_options_out_of_range(
    reference: FastaReference, permit: Permit, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"out of range|cannot be written"):
        BamWriter(tmp_path / "a.bam", header_of(reference), permit, **options)
    assert not list(tmp_path.glob("*a.bam*"))


@pytest.mark.parametrize("name", ["a.bam", "a.cram"])
def test_checksum(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path, name: str) -> None:
    block = read_records(theirs, permit)
    write(tmp_path / name, block, reference, permit, md5=True, reference=reference.path)
    told = (tmp_path / f"{name}.md5").read_text()
    assert told == f"{hashlib.md5((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
    done = subprocess.run(["md5sum", "-c", f"{name}.md5"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    write(tmp_path / name, block, reference, permit, reference=reference.path)
    assert not (tmp_path / f"{name}.md5").exists()  # it would be that of the file before


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_cram_versions(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.cram"
    write(path, read_records(theirs, permit), reference, permit, reference=reference.path, cram_version=version)
    assert path.read_bytes()[:6] == b"CRAM" + bytes(int(part) for part in version.split("."))
    with pysam.AlignmentFile(str(path), reference_filename=str(reference.path)) as ours:
        with pysam.AlignmentFile(str(theirs)) as expected:
            assert [fields_of(read) for read in ours] == [fields_of(read) for read in expected]
        assert ours.count("c1", 100, 2000) > 100
        lines = [re.sub("\tUR:[^\t]*", "", line) for line in str(ours.header).splitlines()]  # which htslib puts there
        assert lines == header_of(reference).text.splitlines()


def fields_of(read: pysam.AlignedSegment) -> tuple[list[str], list[str]]:
    fields = read.to_string().split("\t")
    return fields[:11], sorted(fields[11:])


def test_cram_level(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    block = read_records(theirs, permit)
    for level in (0, 9):
        write(tmp_path / f"{level}.cram", block, reference, permit, reference=reference.path, level=level)
    assert (tmp_path / "9.cram").stat().st_size < 0.8 * (tmp_path / "0.cram").stat().st_size


def test_cram_of_another_sequence(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    other = tmp_path / "other.fa"
    text = reference.path.read_text()
    other.write_text(text[:-1] + "ACGT"["CGTA".index(text[-1])])
    with pytest.raises(InputFormatError, match=r"other\.fa.*contig c2 has another sequence.*M5"):
        write(tmp_path / "a.cram", read_records(theirs, permit), reference, permit, reference=other)
    assert not list(tmp_path.glob("*a.cram*"))
    other.write_text(text.lower())  # the same bases
    write(tmp_path / "a.cram", read_records(theirs, permit), reference, permit, reference=other)


def test_no_index_or_checksum_of_an_older_file(
    theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the renames: the new file may stand alone, never beside what belongs to the old one."""
    block = read_records(theirs, permit)
    path = tmp_path / "a.bam"
    write(path, block, reference, permit, md5=True)
    seen = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        if target.name.startswith("a.bam"):  # the audit log has files too
            seen.append((target.name, sorted(one.name for one in tmp_path.glob("a.bam*"))))
        replace(source, target)

    monkeypatch.setattr("os.replace", watched)
    write(path, block, reference, permit, md5=True, level=0)
    assert seen == [
        ("a.bam", ["a.bam"]),
        ("a.bam.bai", ["a.bam"]),
        ("a.bam.md5", ["a.bam", "a.bam.bai"]),
    ]
