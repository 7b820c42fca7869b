# SPDX-License-Identifier: Apache-2.0
"""Hundreds of damaged inputs to `call` and `joint`: never a traceback, never a silent success.

A case is a kind of damage and a seed. After it the command either refuses (exit code 1, one message that names the
file, nothing left behind), or writes what it writes of the undamaged input; damage that leaves another well-formed
file may give other calls. `MEGABOLT_BAD_INPUTS` says how many cases (default: 120); 500 are the project's promise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.cli.main import main

pytestmark = pytest.mark.timeout(600)

N_CASES = int(os.environ.get("MEGABOLT_BAD_INPUTS", "120"))
DECLARED = ["--open-data", "the tests: simulated", "--threads", "1", "--memory", "2G"]


@dataclass(frozen=True)
class Case:
    """A command on damaged input. bad: the file that a message must name. refused: nothing else will do; else
    `as_before` asks for the calls of the undamaged input, if there are any."""

    arguments: list[str]
    bad: Path
    refused: bool = True
    as_before: bool = True
    what: str = ""


@dataclass
class World:
    """Undamaged inputs, and what the commands make of them."""

    folder: Path
    calls: list[str]
    cohort: list[str]

    def copy(self, folder: Path, *names: str) -> None:
        """Copy files that may be spoilt to `folder`, and link the others there."""
        for path in self.folder.iterdir():
            if path.is_file():
                (shutil.copy if path.name in names else os.symlink)(path, folder / path.name)

    @staticmethod
    def call(folder: Path, *more: str) -> list[str]:
        words = ["call", "--reference", str(folder / "ref.fa"), "--bam", str(folder / "S.bam"), *more]
        return [*words, "-o", str(folder / "out/S.vcf.gz"), *DECLARED]

    @staticmethod
    def joint(folder: Path, *more: str) -> list[str]:
        words = ["joint", str(folder / "S1.g.vcf.gz"), str(folder / "S2.g.vcf.gz"), *more]
        return [*words, "--reference", str(folder / "ref.fa"), "-o", str(folder / "out/J.vcf.gz"), *DECLARED]


def records(path: Path) -> list[str]:
    with pysam.BGZFile(str(path)) as file:
        return [line.decode() for line in file if not line.startswith(b"#")]


def compressed(path: Path, lines: list[str], index: bool = True) -> None:
    with pysam.BGZFile(str(path), "w") as out:
        out.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    if index:
        pysam.tabix_index(str(path), preset="vcf", keep_original=True, force=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """12 kb on two contigs, 10x: reads, alleles, known variants, targets, two gVCFs, a pedigree."""
    folder = tmp_path_factory.mktemp("world")
    size = ["--genome-size", "12000", "--contigs", "2", "--depth", "10", "--seed", "5"]
    simulate = ["simulate", "--outdir", str(folder / "made"), *size]
    assert main(simulate) == 0
    for name in ("ref.fa", "ref.fa.fai"):
        shutil.copy(folder / "made" / name, folder)
    reference = ["--reference", str(folder / "ref.fa")]
    assert main(["index", str(folder / "ref.fa"), "-q"]) == 0
    for sample in ("S1", "S2", "S"):
        reads = ["-1", str(folder / "made/R1.fastq.gz"), "-2", str(folder / "made/R2.fastq.gz"), "--sample", sample]
        assert main(["align", *reference, *reads, "-o", str(folder / "S.bam"), *DECLARED, "-q"]) == 0
        gvcf = ["--gvcf", str(folder / f"{sample}.g.vcf.gz")] if sample != "S" else []
        output = ["-o", str(folder / f"{sample}.vcf.gz"), *gvcf]
        assert main(["call", *reference, "--bam", str(folder / "S.bam"), *output, *DECLARED, "-q"]) == 0
    with pysam.VariantFile(str(folder / "made/truth.vcf.gz")) as truth:
        lines = [*str(truth.header).splitlines(), *(str(record).rstrip("\n") for record in truth)]
    (folder / "alleles.vcf").write_text("\n".join(lines) + "\n")
    compressed(folder / "dbsnp.vcf.gz", lines)
    names = [line.split("\t")[0] for line in (folder / "ref.fa.fai").read_text().splitlines()]
    (folder / "targets.bed").write_text("".join(f"{name}\t{a}\t{a + 500}\n" for name in names for a in (100, 2000)))
    (folder / "family.ped").write_text("F\tS1\tS2\t0\t1\t0\nF\tS2\t0\t0\t1\t0\n")
    (folder / "out").mkdir()
    found = World(folder, [], [])
    assert main([*World.call(folder), "-q"]) == 0
    assert main([*World.joint(folder), "-q"]) == 0
    found.calls, found.cohort = records(folder / "out/S.vcf.gz"), records(folder / "out/J.vcf.gz")
    assert len(found.calls) > 5
    assert len(found.cohort) > 5
    return found


def cut(path: Path, rng: np.random.Generator) -> None:
    """Keep a part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(0, len(content)))])


def flip(path: Path, rng: np.random.Generator) -> None:
    """Turn one bit."""
    content = bytearray(path.read_bytes())
    content[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(content)


def damaged_reads(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """BAM, its index or the reference's, cut or with a bit turned."""
    name = str(rng.choice(["S.bam", "S.bam", "S.bam.bai", "ref.fa.mbx"]))
    world.copy(folder, name)
    damage = cut if rng.random() < 0.5 else flip
    damage(folder / name, rng)
    # A turned bit may stand where nobody reads (the time in a gzip header).
    return Case(World.call(folder), folder / name, refused=damage is cut, what=name)


def damaged_gvcf(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """A gVCF or its index, cut or with a bit turned."""
    name = str(rng.choice(["S2.g.vcf.gz", "S2.g.vcf.gz", "S2.g.vcf.gz.tbi"]))
    world.copy(folder, name)
    damage = cut if rng.random() < 0.5 else flip
    damage(folder / name, rng)
    return Case(World.joint(folder), folder / name, refused=damage is cut, what=name)


def damaged_known(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """The known variants or their index, cut or with a bit turned."""
    name = str(rng.choice(["dbsnp.vcf.gz", "dbsnp.vcf.gz.tbi"]))
    world.copy(folder, name)
    damage = cut if rng.random() < 0.5 else flip
    damage(folder / name, rng)
    return Case(World.call(folder, "--dbsnp", str(folder / "dbsnp.vcf.gz")), folder / name, damage is cut, False)


#: Ways to spoil the columns of a VCF's line (CHROM POS ID REF ALT ...) such that no reader may accept it.
SPOILT: dict[str, Callable[[list[str]], list[str]]] = {
    "position is a word": lambda c: [c[0], "ten", *c[2:]],
    "position is negative": lambda c: [c[0], "-5", *c[2:]],
    "position behind the contig": lambda c: [c[0], "999999999", *c[2:]],
    "position too large for any integer": lambda c: [c[0], "9" * 25, *c[2:]],
    "unknown contig": lambda c: ["chrNone", *c[1:]],
    "REF is another base": lambda c: [*c[:3], "ACGT"[("ACGT".index(c[3][0]) + 1) % 4] + c[3][1:], *c[4:]],
    "REF is missing": lambda c: [*c[:3], "", *c[4:]],
    "REF is a number": lambda c: [*c[:3], "17", *c[4:]],
    "ALT is missing": lambda c: [*c[:4], "", *c[5:]],
    "ALT is no allele": lambda c: [*c[:4], "A?C", *c[5:]],
    "three columns": lambda c: c[:3],
    "spaces for tabs": lambda c: [" ".join(c)],
    "bytes of another file": lambda c: ["\x00\x01\x02\udcff" * 5, *c[1:]],
}


def spoilt_alleles(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """One line of --alleles is wrong."""
    world.copy(folder, "alleles.vcf")
    path = folder / "alleles.vcf"
    lines = path.read_text().splitlines()
    at = int(rng.choice([k for k, line in enumerate(lines) if not line.startswith("#")]))
    way = str(rng.choice(list(SPOILT)))
    lines[at] = "\t".join(SPOILT[way](lines[at].split("\t")))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return Case(World.call(folder, "--alleles", str(path)), path, what=way)


def spoilt_gvcf(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """One line of a gVCF is wrong, and the index belongs to the right one."""
    world.copy(folder, "S2.g.vcf.gz")
    path = folder / "S2.g.vcf.gz"
    with pysam.BGZFile(str(path)) as file:
        lines = [line.decode() for line in file]
    ways = dict(SPOILT)
    ways |= {
        "no unseen allele": lambda c: [*c[:4], "A" if c[4].endswith("<NON_REF>") else c[4], *c[5:]],
        "genotype is a word": lambda c: [*c[:9], "x" + c[9][1:]],
        "a likelihood too many": lambda c: [*c[:9], c[9] + ",7"],
        "a likelihood is a word": lambda c: [*c[:9], c[9] + "x"],
        "no sample": lambda c: c[:9],
        "ten samples": lambda c: [*c, *c[9:] * 9],
    }
    at = int(rng.choice([k for k, line in enumerate(lines) if not line.startswith("#")]))
    way = str(rng.choice(list(ways)))
    lines[at] = "\t".join(ways[way](lines[at].split("\t")))
    compressed(path, lines, index=False)
    return Case(World.joint(folder), path, what=way)


def spoilt_targets(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """One line of --targets is wrong."""
    world.copy(folder, "targets.bed")
    path = folder / "targets.bed"
    lines = path.read_text().splitlines()
    ways: list[Callable[[list[str]], list[str]]] = [
        lambda c: c[:2],
        lambda c: [c[0], c[2], c[1]],
        lambda c: [c[0], "-1", c[2]],
        lambda c: [c[0], c[1], "9" * 30],
        lambda c: ["chrNone", *c[1:]],
        lambda c: [c[0], "1e3", c[2]],
        lambda c: [c[0], "\udcff\x00", c[2]],
        lambda c: [c[0], c[1], "1000000"],
    ]
    at = int(rng.integers(0, len(lines)))
    lines[at] = "\t".join(ways[int(rng.integers(0, len(ways)))](lines[at].split("\t")))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return Case(World.call(folder, "--targets", str(path)), path)


def spoilt_pedigree(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """One line of the pedigree is wrong."""
    path = folder / "family.ped"
    world.copy(folder, path.name)
    rest = ["", "S1\t0\t1\t0", "S2\tS2\t1\t0", "S2\t0\tboy\t0", "S2\t0\t1\t0\nF\tS2\tS1\t0\t1\t0"]
    path.write_text(f"F\tS1\t{rng.choice(rest)}" + "\nF\tS1\t0\t0\t2\t0\n")
    return Case(World.joint(folder, "--ped", str(path)), path)


def other_header(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """The BAM's header does not fit the reference, the reads or the command."""
    world.copy(folder, "S.bam", "S.bam.bai")
    path = folder / "S.bam"
    with pysam.AlignmentFile(str(world.folder / "S.bam")) as file:
        header, reads = file.header.to_dict(), list(file.fetch(until_eof=True))
    way = int(rng.integers(0, 5))
    if way == 0:
        header["SQ"][0]["LN"] += 1
    elif way == 1:
        header["SQ"][1]["SN"] = "chrNone"
    elif way == 2:
        header["HD"]["SO"] = "queryname"
    elif way == 3:
        header["RG"].append({"ID": "other", "SM": "another"})
    else:
        for group in header["RG"]:
            group.pop("SM")
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for read in reads:
            file.write(read)
    pysam.index(str(path))
    # (Reads that are sorted are, whatever the header says.)
    return Case(World.call(folder), path, refused=way != 2)


def wrong_record(world: World, folder: Path, rng: np.random.Generator) -> Case:
    """One byte of a record is another, in blocks whose sums are right: refused, or called without a word of our own."""
    world.copy(folder, "S.bam")
    path = folder / "S.bam"
    with pysam.BGZFile(str(world.folder / "S.bam")) as file:
        content = bytearray(file.read())
    length = int.from_bytes(content[4:8], "little")
    content[int(rng.integers(8 + length, len(content)))] = int(rng.integers(0, 256))
    with pysam.BGZFile(str(path), "wb") as out:
        out.write(bytes(content))
    return Case(World.call(folder), path, refused=False, as_before=False)


KINDS = (
    damaged_reads,
    damaged_gvcf,
    damaged_known,
    spoilt_alleles,
    spoilt_gvcf,
    spoilt_targets,
    spoilt_pedigree,
    other_header,
    wrong_record,
    wrong_record,
)


@pytest.mark.parametrize("k", range(N_CASES), ids=lambda k: f"{KINDS[k % len(KINDS)].__name__}-{k}")
def test_damage_is_found_and_said(k: int, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(k)
    case = KINDS[k % len(KINDS)](world, tmp_path, rng)
    out = tmp_path / "out"
    out.mkdir()
    capsys.readouterr()
    code = main(case.arguments)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    if code == 0:
        assert not case.refused, f"accepted in silence: {case.what}"
        before = world.calls if case.arguments[0] == "call" else world.cohort
        found = records(next(out.glob("*.vcf.gz")))
        assert not case.as_before or found == before
    else:
        assert code == 1, message
        assert ": error: " in message
        assert case.bad.name.removesuffix(".tbi").removesuffix(".bai") in message, message
        assert list(out.iterdir()) == []


def test_files_of_others_are_refused(
    shared_data: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Malformed files of other projects' test suites, each wherever its kind is read."""
    (tmp_path / "out").mkdir()
    world.copy(tmp_path)
    suffixes = (".vcf", ".bed", ".bam", ".cram", ".sam")
    files = [path for path in sorted((shared_data / "bad_inputs").rglob("*")) if path.suffix in suffixes]
    assert len(files) > 500
    for path in files[:: max(1, 5 * len(files) // N_CASES)]:
        if path.suffix == ".vcf":
            packed = tmp_path / f"{path.stem}.vcf.gz"
            with pysam.BGZFile(str(packed), "w") as out:
                out.write(path.read_bytes())
            commands = [
                world.call(tmp_path, "--alleles", str(path)),
                world.call(tmp_path, "--dbsnp", str(packed)),
                world.joint(tmp_path, str(packed)),
            ]
        elif path.suffix == ".bed":
            commands = [world.call(tmp_path, "--targets", str(path))]
        else:
            commands = [[str(path) if word.endswith("S.bam") else word for word in world.call(tmp_path)]]
        for command in commands:
            capsys.readouterr()
            code = main(command)
            message = capsys.readouterr().err
            assert code == 1, (path, command, message)
            assert path.stem in message, message
            assert "Traceback" not in message
            assert list((tmp_path / "out").iterdir()) == []
