# SPDX-License-Identifier: Apache-2.0
"""Bad input through the command line: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pysam
import pytest

from megabolt.cli.main import main

DECLARED = ["--open-data", "the tests: simulated"]


@dataclass(frozen=True)
class World:
    """A simulated sample with an indexed reference and a finished result."""

    folder: Path

    @property
    def reference(self) -> Path:
        return self.folder / "ref.fa"

    @property
    def fastq(self) -> tuple[Path, Path]:
        return self.folder / "R1.fastq.gz", self.folder / "R2.fastq.gz"

    @property
    def bam(self) -> Path:
        return self.folder / "done/S.bam"

    @property
    def vcf(self) -> Path:
        return self.folder / "done/S.vcf.gz"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    found = World(tmp_path_factory.mktemp("world"))
    size = ["--genome-size", "30000", "--contigs", "1", "--depth", "8", "--seed", "3"]
    assert main(["simulate", "--outdir", str(found.folder), *size]) == 0
    assert main(["index", str(found.reference)]) == 0
    assert main(germline(found, *found.fastq, found.folder / "done")) == 0
    return found


def germline(world: World, fastq_1: Path, fastq_2: Path, outdir: Path, *more: str) -> list[str]:
    words = ["germline", "--reference", str(world.reference), "-1", str(fastq_1), "-2", str(fastq_2)]
    return [*words, "--sample", "S", "--outdir", str(outdir), "--threads", "2", "--memory", "2G", *DECLARED, *more]


def align(world: World, fastq_1: Path, fastq_2: Path, outdir: Path, *more: str) -> list[str]:
    outdir.mkdir(exist_ok=True)
    words = ["align", "--reference", str(world.reference), "-1", str(fastq_1), "-2", str(fastq_2)]
    return [*words, "--sample", "S", "-o", str(outdir / "S.bam"), "--threads", "2", "--memory", "2G", *DECLARED, *more]


def call(world: World, bam: Path, outdir: Path, *more: str) -> list[str]:
    outdir.mkdir(exist_ok=True)
    words = ["call", "--reference", str(world.reference), "--bam", str(bam), "-o", str(outdir / "S.vcf.gz")]
    return [*words, "--threads", "2", "--memory", "2G", *DECLARED, *more]


def files_in(folder: Path) -> list[str]:
    """Everything in the folder, hidden temporary files too."""
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail: checks exit code, words of the message, and that `out` stays empty."""

    def check(arguments: list[str], *words: str, code: int = 1) -> str:
        capsys.readouterr()
        assert main(arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        message = captured.err[captured.err.index(": error: ") :]
        for word in words:
            assert word in message
        assert "\n  " in message, "it must say what to do"
        assert files_in(tmp_path / "out") == []
        return message

    return check


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).split(b"\n")


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"\n".join(lines), mtime=0))
    return path


def truncated_gzip(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    bad = folder / "cut_R1.fastq.gz"
    whole = world.fastq[0].read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    return bad, world.fastq[1], ["cut_R1.fastq.gz", "truncated"]


def shorter_mate(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    lines = lines_of(world.fastq[1])
    bad = write_lines(folder / "short_R2.fastq.gz", [*lines[: 4 * 100], b""])
    return world.fastq[0], bad, ["short_R2.fastq.gz, record 100", "R1.fastq.gz goes on"]


def swapped_names(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    lines = lines_of(world.fastq[1])
    records = [lines[i : i + 4] for i in range(0, len(lines) - 1, 4)]
    records[10], records[11] = records[11], records[10]
    bad = write_lines(folder / "swapped_R2.fastq.gz", [*(line for record in records for line in record), b""])
    return world.fastq[0], bad, ["swapped_R2.fastq.gz", "record 11", "differs from that of its mate"]


def short_qualities(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    lines = lines_of(world.fastq[0])
    lines[4 * 5 + 3] = lines[4 * 5 + 3][:-3]
    bad = write_lines(folder / "quality_R1.fastq.gz", lines)
    return bad, world.fastq[1], ["quality_R1.fastq.gz", "line 24", "qualit"]


def empty_file(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    bad = folder / "empty_R1.fastq.gz"
    bad.touch()
    return bad, world.fastq[1], ["empty_R1.fastq.gz"]


def fasta(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    shutil.copy(world.reference, folder / "R1.fa")
    return folder / "R1.fa", world.fastq[1], ["R1.fa, line 1", "FASTA, not FASTQ"]


def bam_as_fastq(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    return world.bam, world.fastq[1], ["S.bam, line 1", "BAM, not FASTQ"]


def picture(world: World, folder: Path) -> tuple[Path, Path, list[str]]:
    bad = folder / "R1.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    return bad, world.fastq[1], ["R1.png, line 1", "begins with '@'"]


BAD_FASTQ = [
    truncated_gzip,
    shorter_mate,
    swapped_names,
    short_qualities,
    empty_file,
    fasta,
    bam_as_fastq,
    picture,
]


@pytest.mark.parametrize("command", [germline, align], ids=["germline", "align"])
@pytest.mark.parametrize("case", BAD_FASTQ, ids=lambda case: case.__name__)
def test_bad_fastq(
    case: Callable[[World, Path], tuple[Path, Path, list[str]]],
    command: Callable[..., list[str]],
    world: World,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    fastq_1, fastq_2, words = case(world, tmp_path)
    refused(command(world, fastq_1, fastq_2, tmp_path / "out"), *words)


def second_lane_cut(world: World, folder: Path) -> tuple[list[str], list[str]]:
    lanes = [folder / f"L2_R{mate}.fastq.gz" for mate in (1, 2)]
    for path, source in zip(lanes, world.fastq):
        shutil.copy(source, path)
    lanes[1].write_bytes(lanes[1].read_bytes()[:-200])
    one, two = world.fastq
    return ["-1", str(one), str(lanes[0]), "-2", str(two), str(lanes[1])], ["L2_R2.fastq.gz", "truncated"]


def exchanged_lanes(world: World, folder: Path) -> tuple[list[str], list[str]]:
    lines = [lines_of(path) for path in world.fastq]
    lanes = [write_lines(folder / f"L2_R{mate}.fastq.gz", lines[mate - 1][400:]) for mate in (1, 2)]
    one, two = world.fastq
    words = ["-1", str(one), str(lanes[0]), "-2", str(lanes[1]), str(two)]
    return words, ["L2_R2.fastq.gz, line 1 (record 1)", "differs from that of its mate"]


def mate_1_as_interleaved(world: World, folder: Path) -> tuple[list[str], list[str]]:
    return ["--interleaved", str(world.fastq[0])], ["R1.fastq.gz, line 5 (record 2)", "no pair", "-1"]


def odd_number(world: World, folder: Path) -> tuple[list[str], list[str]]:
    one, two = (lines_of(path) for path in world.fastq)
    bad = write_lines(folder / "odd.fq.gz", [*one[:4], *two[:4], *one[4:8], b""])
    return ["--interleaved", str(bad)], ["odd.fq.gz, record 3", "odd number", "in turn"]


def interleaved_as_single(world: World, folder: Path) -> tuple[list[str], list[str]]:
    one, two = (lines_of(path) for path in world.fastq)
    bad = write_lines(folder / "both.fq.gz", [*one[:4], *two[:4], b""])
    return ["--single", str(bad)], ["both.fq.gz, line 5 (record 2)", "one name", "--interleaved"]


def too_long(world: World, folder: Path) -> tuple[list[str], list[str]]:
    reads = [[b"@r%d" % n, b"A" * n, b"+", b"I" * n] for n in (0, 35, 150, 500, 501)]
    bad = write_lines(folder / "long.fq.gz", [*(line for read in reads for line in read), b""])
    return ["--single", str(bad)], ["long.fq.gz, line 18 (record 5)", "501 bases; at most 500"]


def no_umi(world: World, folder: Path) -> tuple[list[str], list[str]]:
    bad = write_lines(folder / "umi.fq.gz", [b"@r1 RX:Z:ACGT", b"A", b"+", b"I", b"@r2", b"A", b"+", b"I", b""])
    return ["--single", str(bad), "--umi", "comment"], ["umi.fq.gz, line 5 (record 2)", "no UMI", "--umi"]


BAD_LANES = [
    second_lane_cut,
    exchanged_lanes,
    mate_1_as_interleaved,
    odd_number,
    interleaved_as_single,
    too_long,
    no_umi,
]


@pytest.mark.parametrize("case", BAD_LANES, ids=lambda case: case.__name__)
def test_bad_lanes(
    case: Callable[[World, Path], tuple[list[str], list[str]]],
    world: World,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    arguments, words = case(world, tmp_path)
    common = ["--reference", str(world.reference), "--sample", "S", "--threads", "2", "--memory", "2G", *DECLARED]
    refused(["germline", *arguments, *common, "--outdir", str(tmp_path / "out")], *words)


def test_a_lane_without_any_read_with_bases(world: World, tmp_path: Path) -> None:
    """Reads of trimmed files may be empty, all of them: they are written as unmapped."""
    path = write_lines(tmp_path / "none.fq.gz", [b"@r1", b"", b"+", b"", b"@r2", b"", b"+", b"", b""])
    words = ["align", "--reference", str(world.reference), "--single", str(path), "--sample", "S", *DECLARED]
    assert main([*words, "-o", str(tmp_path / "S.bam"), "--memory", "2G"]) == 0
    with pysam.AlignmentFile(str(tmp_path / "S.bam")) as file:
        assert [(read.query_name, read.flag) for read in file.fetch(until_eof=True)] == [("r1", 4), ("r2", 4)]


@pytest.mark.parametrize("name", ["malformed.fastq", "malformed2.fastq"])
def test_malformed_fastq_of_others(
    name: str, shared_data: Path, world: World, tmp_path: Path, refused: Callable[..., str]
) -> None:
    bad = shared_data / "bad_inputs/nucleus" / name
    mate = tmp_path / "mate.fastq"
    shutil.copy(bad, mate)
    refused(germline(world, bad, mate, tmp_path / "out"), "bad_inputs/nucleus", "line ")


@pytest.fixture
def other_world(world: World, tmp_path: Path) -> World:
    """A copy whose reference may be spoilt."""
    copy = tmp_path / "copy"
    shutil.copytree(world.folder, copy)
    return World(copy)


def no_index(world: World) -> list[str]:
    Path(f"{world.reference}.mbx").unlink()
    return ["ref.fa.mbx", "no index"]


def stale_index(world: World) -> list[str]:
    with world.reference.open("a") as reference:
        reference.write(">more\nACGTACGTACGT\n")
    return ["ref.fa.mbx", "stale"]


def foreign_index(world: World) -> list[str]:
    other = world.folder / "other.fa"
    other.write_text(">other\n" + "ACGGATTACATTGCAC" * 100 + "\n")
    assert main(["index", str(other), "--quiet"]) == 0
    os.replace(f"{other}.mbx", f"{world.reference}.mbx")
    return ["ref.fa.mbx"]


def damaged_index(world: World) -> list[str]:
    path = Path(f"{world.reference}.mbx")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return ["ref.fa.mbx", "damaged"]


def cut_index(world: World) -> list[str]:
    path = Path(f"{world.reference}.mbx")
    path.write_bytes(path.read_bytes()[:-100])
    return ["ref.fa.mbx", "cut short"]


BAD_INDEX = [no_index, stale_index, foreign_index, damaged_index, cut_index]


@pytest.mark.parametrize("spoil", BAD_INDEX, ids=lambda case: case.__name__)
def test_bad_index(
    spoil: Callable[[World], list[str]],
    other_world: World,
    tmp_path: Path,
    refused: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*spoil(other_world), "megabolt index"]
    out = tmp_path / "out"
    refused(germline(other_world, *other_world.fastq, out), *words)
    refused(align(other_world, *other_world.fastq, out), *words)
    refused(call(other_world, other_world.bam, out), *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("chrUnknown\t10\t20", ["targets.bed", "line 2", "chrUnknown"]),
        ("sim1\t10\t999999999", ["targets.bed", "line 2"]),
        ("sim1\t30\t20", ["targets.bed", "line 2"]),
        ("sim1\tten\t20", ["targets.bed", "line 2"]),
    ],
)
def test_bad_bed(line: str, words: list[str], world: World, tmp_path: Path, refused: Callable[..., str]) -> None:
    bed = tmp_path / "targets.bed"
    bed.write_text(f"# targets\n{line}\n")
    out = tmp_path / "out"
    refused(germline(world, *world.fastq, out, "--targets", str(bed)), *words)
    refused(call(world, world.bam, out, "--targets", str(bed)), *words)


def test_unwritable_folder(world: World, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A path below a regular file: nobody can write there, not even root, as whom tests may run."""
    (tmp_path / "file").touch()
    below = tmp_path / "file/folder"
    refused(germline(world, *world.fastq, below), "file/folder", "is a file")
    words = ["align", "--reference", str(world.reference), "-1", str(world.fastq[0]), "-2", str(world.fastq[1])]
    refused([*words, "--sample", "S", "-o", str(below / "S.bam"), *DECLARED], "file/folder", "no such folder")
    words = ["call", "--reference", str(world.reference), "--bam", str(world.bam), *DECLARED]
    refused([*words, "-o", str(below / "S.vcf.gz")], "file/folder", "no such folder")
    words = ["run", "samples.tsv", "--reference", str(world.reference), "--assay", "wgs", *DECLARED]
    refused([*words, "--outdir", str(below)], "file/folder", "is a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(world: World, tmp_path: Path, refused: Callable[..., str]) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(germline(world, *world.fastq, locked), "locked", "ermission")


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """Writes beyond this size fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n_bytes", [4_000, 40_000])
@pytest.mark.parametrize("command", ["germline", "align", "call", "index"])
def test_full_disk(
    command: str, n_bytes: int, other_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    log = ["--audit-log", str(tmp_path / "audit.jsonl")]
    arguments = {
        "germline": germline(other_world, *other_world.fastq, out, *log),
        "align": align(other_world, *other_world.fastq, out, *log),
        "call": call(other_world, other_world.bam, out, *log),
        "index": ["index", str(other_world.reference)],
    }[command]
    if command == "call":
        n_bytes //= 20  # the VCF of this sample is small
    before = files_in(other_world.folder)
    capsys.readouterr()
    with files_up_to(n_bytes):
        code = main(arguments)
    message = capsys.readouterr().err
    if code == 77:  # the audit log met the limit first: then nothing may be opened
        assert "audit log" in message
    else:
        assert code == 1, message
        assert "too large" in message or "No space" in message
    left = files_in(out)
    if left:  # what was complete before the disk was full may stay, if it is whole
        assert left == ["S.vcf.gz", "S.vcf.gz.tbi"]
        with pysam.VariantFile(str(out / "S.vcf.gz")) as calls:
            assert len(list(calls.fetch("sim1"))) > 0
    assert files_in(other_world.folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "s.tsv", "--reference", "r", "--outdir", "o", "--assay", "rna"], ["'rna'", "wgs", "wes", "panel"]),
        (["germline", "--backend", "fpga"], ["'fpga'", "numba", "opencl", "cuda"]),
        (["germline", "--no-such-option"], ["required"]),
        (["nonsense"], ["'nonsense'", "germline", "run"]),
    ],
)
def test_unknown_values_name_the_choices(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--threads", "0"], ["--threads 0", "at least 1"]),
        (["--threads", "two"], ["--threads two"]),
        (["--memory", "lots"], ["'lots'", "8G"]),
        (["--sample", "a b"], ["'a b'"]),
        (["-1", "a.fq", "b.fq"], ["2 files after -1 and 1 after -2"]),
        (["-1", "nowhere.fq"], ["nowhere.fq", "does not exist"]),
        (["--reference", "nowhere.fa"], ["nowhere.fa", "does not exist"]),
        (["--read-group", "@RG\\tLB:x"], ["has no ID"]),
        (["--read-group", "ID:a", "--read-group", "ID:b"], ["2 read groups for 1 lanes", "--interleaved"]),
        (["--single", "nowhere.fq"], ["nowhere.fq", "does not exist"]),
        (["--xa=-1"], ["--xa -1"]),
        (["--targets", "nowhere.bed"], ["nowhere.bed", "does not exist"]),
    ],
)
def test_wrong_usage(
    more: list[str], words: list[str], world: World, tmp_path: Path, refused: Callable[..., str]
) -> None:
    refused(germline(world, *world.fastq, tmp_path / "out", *more), *words, code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["germline", "align", "call", "run", "compare", "simulate"])
def test_nothing_is_opened_without_a_declaration(
    command: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    sheet = tmp_path / "samples.csv"
    sheet.write_text(f"patient,sample,fastq_1,fastq_2\nP,S,{world.fastq[0]},{world.fastq[1]}\n")
    reference = ["--reference", str(world.reference)]
    truth = str(world.folder / "truth.vcf.gz")
    arguments = {
        "germline": germline(world, *world.fastq, out),
        "align": align(world, *world.fastq, tmp_path / "align"),
        "call": call(world, world.bam, tmp_path / "call"),
        "run": ["run", str(sheet), *reference, "--outdir", str(out), "--assay", "wgs", *DECLARED],
        "compare": ["compare", truth, str(world.vcf), *reference, *DECLARED],
        "simulate": ["simulate", *reference, "--variants", truth, "--outdir", str(out), *DECLARED],
    }[command]
    at = arguments.index("--open-data")
    log = tmp_path / "audit.jsonl"
    capsys.readouterr()
    assert main([*arguments[:at], *arguments[at + 2 :], "--audit-log", str(log)]) == 77
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--open-data" in captured.err
    assert not out.exists()
    assert files_in(tmp_path / "align") == files_in(tmp_path / "call") == []
    assert [line.count('"refuse"') for line in log.read_text().splitlines()] == [1]
