# SPDX-License-Identifier: Apache-2.0
"""BAM and CRAM: what we write, htslib reads; what htslib writes, we read; regions equal a linear scan."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import ConsentRefused, InputFormatError, InternalError, OutputError, UsageError
from megabolt.formats import bgzf
from megabolt.formats.bam import (
    BamHeader,
    BamReader,
    BamWriter,
    RecordBlock,
    check_contigs,
    concatenate,
    open_reads,
    read_records,
)
from megabolt.formats.fasta import Contig, FastaReference, read_fasta
from megabolt.privacy.consent import Permit, authorize

CONTIGS = (("chrA", 300_000), ("chrB:odd", 1_000), ("chrC", 70_000))


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> FastaReference:
    path = tmp_path_factory.mktemp("reference") / "ref.fa"
    rng = np.random.default_rng(11)
    with path.open("w") as file:
        for name, length in CONTIGS:
            file.write(f">{name}\n" + rng.choice(list(b"ACGT"), length).astype(np.uint8).tobytes().decode() + "\n")
    return read_fasta(path)


def header_of(reference: FastaReference) -> BamHeader:
    return BamHeader.build(reference.contigs, ["@RG\tID:lane1\tSM:S1\tLB:lib"], command_line="megabolt test")


def simulate_by_htslib(path: Path, reference: FastaReference, n: int, seed: int = 1) -> None:
    """Sorted records by pysam: clips, indels, long skips, placed and unplaced unmapped reads."""
    rng = np.random.default_rng(seed)
    header = pysam.AlignmentHeader.from_text(header_of(reference).text)
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for contig, (_, length) in enumerate(CONTIGS):
            for start in np.sort(rng.integers(0, length - 900, n if length > 1000 else 5)).tolist():
                read = pysam.AlignedSegment(header)
                read.query_name = f"r{rng.integers(1 << 40)}"
                read.reference_id, read.reference_start, read.mapping_quality = contig, start, 60
                kind = int(rng.integers(6))
                cigar = {0: [(4, 5), (0, 45)], 1: [(0, 20), (2, 7), (0, 30)], 2: [(0, 10), (1, 3), (0, 37)]}
                cigar[3] = [(0, 25), (3, int(rng.integers(1, 850))), (0, 25)]
                read.flag = 16 * int(rng.integers(2))
                length_of_read = 50
                if kind == 4:
                    read.flag, read.mapping_quality = 4, 0
                else:
                    read.cigartuples = cigar.get(kind, [(0, 50)])
                read.query_sequence = "".join(rng.choice(list("ACGTN"), length_of_read))
                read.query_qualities = pysam.qualitystring_to_array("I" * length_of_read)
                read.set_tag("RG", "lane1")
                file.write(read)
        for i in range(17):
            read = pysam.AlignedSegment(header)
            read.query_name, read.flag, read.query_sequence = f"u{i}", 4, "ACGT"
            read.set_tag("RG", "lane1")
            file.write(read)


@pytest.fixture(scope="module")
def theirs(reference: FastaReference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bam") / "theirs.bam"
    simulate_by_htslib(path, reference, 4000)
    pysam.index(str(path))
    return path


def lines(path: Path, *region: str, reference: Path | None = None) -> list[str]:
    options = ["-T", str(reference)] if reference else []
    return pysam.view(*options, str(path), *region).splitlines()


def pieces(block: RecordBlock, n: int) -> list[RecordBlock]:
    cuts = np.linspace(0, block.n, n + 1).astype(int)
    return [RecordBlock(block.data, block.offsets[a : b + 1]) for a, b in pairwise(cuts)]


def write(path: Path, block: RecordBlock, genome: FastaReference, permit: Permit, **options) -> None:
    with BamWriter(path, header_of(genome), permit, **options) as writer:
        for piece in pieces(block, 7):
            writer.write(piece)


def test_reading_what_htslib_wrote(theirs: Path, reference: FastaReference, permit: Permit) -> None:
    block = read_records(theirs, permit)
    assert len(block.data) >= block.offsets[-1] + PADDING
    inflated = gzip.decompress(theirs.read_bytes())
    assert inflated.endswith(block.data[block.offsets[0] : block.offsets[-1]].tobytes())
    assert block.n == len(lines(theirs))
    with BamReader(theirs, permit) as reader:
        assert reader.header.contigs == reference.contigs
        assert reader.header.read_groups == ("@RG\tID:lane1\tSM:S1\tLB:lib",)
        check_contigs(reader.header, reference.contigs, theirs)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", [0, 1])
def test_htslib_reads_what_we_write(
    theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path, threads: int, level: int
) -> None:
    ours = tmp_path / "ours.bam"
    write(ours, read_records(theirs, permit), reference, permit, threads=threads, level=level)
    assert lines(ours) == lines(theirs)
    assert sorted(os.listdir(tmp_path)) == ["audit.jsonl", "audit.jsonl.head", "ours.bam", "ours.bam.bai"]
    pysam.quickcheck("-v", str(ours))
    assert pysam.idxstats(str(ours)) == pysam.idxstats(str(theirs))
    assert (tmp_path / "ours.bam.bai").stat().st_mtime >= ours.stat().st_mtime


def test_threads_do_not_change_a_byte(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    block = read_records(theirs, permit)
    for threads in (1, 3):
        write(tmp_path / f"{threads}.bam", block, reference, permit, threads=threads)
    for suffix in ("bam", "bam.bai"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"3.{suffix}").read_bytes()


def regions(n: int, seed: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    found = [(0, 0, 300_000), (1, 0, 1), (1, 999, 1000), (2, 69_000, 70_000), (0, 299_990, 300_000)]
    found += [(c, k << 14, (k << 14) + 1) for c in (0, 2) for k in range(4)]
    for _ in range(n):
        contig = int(rng.integers(3))
        start = int(rng.integers(CONTIGS[contig][1]))
        found.append((contig, start, min(CONTIGS[contig][1], start + int(rng.integers(1, 40_000)))))
    return found


def test_regions_equal_a_linear_scan(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    """Our index read by htslib, our reader with htslib's index, with ours, with CSI and without an index."""
    ours, bare, csi = (tmp_path / f"{name}.bam" for name in ("ours", "bare", "csi"))
    block = read_records(theirs, permit)
    write(ours, block, reference, permit)
    shutil.copy(ours, bare)
    shutil.copy(ours, csi)
    pysam.index("-c", str(csi))
    with pysam.AlignmentFile(str(ours)) as file:
        scan = [(read.reference_id, read.reference_start, read.reference_end, read.query_name) for read in file]
    readers = [BamReader(path, permit) for path in (ours, theirs, bare, csi)]
    with pysam.AlignmentFile(str(ours)) as file:
        for contig, start, stop in regions(60, seed=4):
            expected = [
                name
                for other, begin, end, name in scan
                if other == contig and begin < stop and (end if end is not None else begin + 1) > start
            ]
            assert [read.query_name for read in file.fetch(CONTIGS[contig][0], start, stop)] == expected
            for reader in readers:
                assert names(reader.fetch(contig, start, stop)) == expected
    for reader in readers:
        reader.close()


def names(block: RecordBlock) -> list[str]:
    found = []
    for place in block.offsets[:-1].tolist():
        length = int(block.data[place + 12])
        found.append(block.data[place + 36 : place + 35 + length].tobytes().decode())
    return found


def test_region_of_a_contig_without_reads(reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    with BamWriter(tmp_path / "none.bam", header_of(reference), permit):
        pass
    assert read_records(tmp_path / "none.bam", permit).n == 0
    assert read_records(tmp_path / "none.bam", permit, region=(0, 0, 1000)).n == 0
    assert pysam.idxstats(str(tmp_path / "none.bam")).splitlines()[-1] == "*\t0\t0\t0"


def test_stale_index_is_not_used(theirs: Path, permit: Permit, tmp_path: Path) -> None:
    shutil.copy(theirs, tmp_path / "a.bam")
    (tmp_path / "a.bam.bai").write_bytes(b"BAI\x01 of another file")
    os.utime(tmp_path / "a.bam.bai", (1, 1))
    assert read_records(tmp_path / "a.bam", permit, region=(2, 0, 70_000)).n > 0
    os.utime(tmp_path / "a.bam.bai")
    with pytest.raises(InputFormatError, match="index"):
        read_records(tmp_path / "a.bam", permit, region=(2, 0, 70_000))


def test_old_indexes_do_not_outlive_the_file(
    theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path
) -> None:
    for name in ("a.bam.csi", "a.bai"):
        (tmp_path / name).write_text("old")
    write(tmp_path / "a.bam", read_records(theirs, permit), reference, permit)
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.bam", "a.bam.bai"]


def test_long_contigs_get_a_csi(permit: Permit, tmp_path: Path) -> None:
    contigs = (Contig("long", 700_000_000, ""), Contig("short", 1000, ""))
    header = BamHeader.build(contigs)
    starts = [5, 16_384, 536_870_900, 536_870_920, 699_999_000]
    pysam_header = pysam.AlignmentHeader.from_text(header.text)
    with pysam.AlignmentFile(str(tmp_path / "theirs.bam"), "wb", header=pysam_header) as file:
        for start in starts:
            read = pysam.AlignedSegment(pysam_header)
            read.query_name, read.reference_id, read.reference_start = f"at{start}", 0, start
            read.query_sequence, read.cigartuples = "A" * 50, [(0, 50)]
            file.write(read)
    with BamWriter(tmp_path / "ours.bam", header, permit) as writer:
        writer.write(read_records(tmp_path / "theirs.bam", permit))
    assert (tmp_path / "ours.bam.csi").exists()
    with pysam.AlignmentFile(str(tmp_path / "ours.bam")) as file, BamReader(file.filename.decode(), permit) as ours:
        for start in starts:
            assert f"at{start}" in [read.query_name for read in file.fetch("long", start, start + 1)]
            assert f"at{start}" in names(ours.fetch(0, start, start + 1))
        assert file.get_index_statistics()[0].mapped == 5


def test_header_round_trip(reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    write(tmp_path / "a.bam", read_nothing(), reference, permit)
    with pysam.AlignmentFile(str(tmp_path / "a.bam")) as file:
        header = file.header.to_dict()
    assert header["HD"] == {"VN": "1.6", "SO": "coordinate"}
    assert [(sq["SN"], sq["LN"], sq["M5"]) for sq in header["SQ"]] == [
        (contig.name, contig.length, contig.md5) for contig in reference.contigs
    ]
    assert header["RG"] == [{"ID": "lane1", "SM": "S1", "LB": "lib"}]
    assert header["PG"][0]["CL"] == "megabolt test"


def read_nothing() -> RecordBlock:
    return RecordBlock(np.zeros(PADDING, np.uint8), np.zeros(1, np.int64))


def test_cram(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    path = tmp_path / "ours.cram"
    block = read_records(theirs, permit)
    write(path, block, reference, permit, reference=reference.path)
    assert sorted(p.name for p in tmp_path.iterdir() if "audit" not in p.name) == ["ours.cram", "ours.cram.crai"]
    without_md = [line.split("\t")[:11] for line in lines(theirs)]
    assert [line.split("\t")[:11] for line in lines(path, reference=reference.path)] == without_md
    again = read_records(path, permit, reference=reference.path)
    assert names(again) == names(block)
    for region in regions(5, seed=9):
        expected = names(read_records(theirs, permit, region=region))
        assert names(read_records(path, permit, region=region, reference=reference.path)) == expected
    with pytest.raises(InputFormatError, match="needs its reference"):
        open_reads(path, permit)
    cut = tmp_path / "cut.cram"
    cut.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputFormatError, match="truncated"):
        open_reads(cut, permit, reference=reference.path)
    (tmp_path / "ours.cram.crai").unlink()
    with pytest.raises(InputFormatError, match="crai"):
        read_records(path, permit, region=(0, 0, 10), reference=reference.path)


def test_cram_with_packed_reference(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    packed = tmp_path / "ref.fa.gz"
    packed.write_bytes(gzip.compress(reference.path.read_bytes()))
    write(tmp_path / "a.cram", read_records(theirs, permit), reference, permit, reference=packed)
    assert read_records(tmp_path / "a.cram", permit, reference=packed).n == len(lines(theirs))


def test_cram_of_another_reference(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    other = tmp_path / "other.fa"
    other.write_text(">chrX\nACGT\n")
    with pytest.raises(InputFormatError, match="no contig chrA of 300000 bases"):
        write(tmp_path / "a.cram", read_records(theirs, permit), reference, permit, reference=other)
    assert not list(tmp_path.glob("*a.cram*"))
    with pytest.raises(UsageError):
        BamWriter(tmp_path / "a.cram", header_of(reference), permit)


def test_openings_are_recorded_first(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    write(tmp_path / "a.bam", read_records(theirs, permit), reference, permit)
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(r["action"], Path(r["path"]).name) for r in records[1:]] == [
        ("open-read", "theirs.bam"),
        ("open-write", "a.bam"),
    ]
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "audit.jsonl").mkdir()
    for attempt in (
        lambda: read_records(theirs, permit),
        lambda: BamReader(theirs, permit),
        lambda: BamWriter(tmp_path / "b.bam", header_of(reference), permit),
    ):
        with pytest.raises(ConsentRefused):
            attempt()
    assert not list(tmp_path.glob("*b.bam*"))


def test_unsorted_is_refused(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    block = read_records(theirs, permit)
    order = [RecordBlock(block.data, block.offsets[i : i + 2]) for i in (5, 4)]
    swapped = concatenate(order)
    path = tmp_path / "swapped.bam"
    with pytest.raises(InternalError), BamWriter(path, header_of(reference), permit) as writer:
        writer.write(swapped)
    assert not path.exists()
    body = header_of(reference).encode() + swapped.data[: swapped.offsets[-1]].tobytes()
    path.write_bytes(bgzf.compress_blocks(body) + bgzf.EOF_BLOCK)
    with pytest.raises(InputFormatError, match="not sorted") as caught:
        read_records(path, permit)
    assert caught.value.where == "record 2"
    assert read_records(path, permit, need_sorted=False).n == 2


def damage(block: RecordBlock, offset: int, value: bytes) -> bytes:
    one = bytearray(block.data[: block.offsets[1]].tobytes())
    one[offset : offset + len(value)] = value
    return bytes(one)


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (0, b"\x05\0\0\0", "size"),
        (0, b"\xff\xff\xff\xff", "size"),
        (4, b"\x09\0\0\0", "contig that the header lacks"),
        (4, b"\xfe\xff\xff\xff", "contig that the header lacks"),
        (8, b"\xff\xff\xff\x0f", "beyond the end"),
        (12, b"\0", "parts"),
        (16, b"\xff\xff", "parts"),
        (20, b"\xff\xff\0\0", "parts"),
        (20, b"\x31\0\0\0", "CIGAR"),
        (0, b"\xff\xff\0\0", "ends inside a record"),
    ],
)
def test_damaged_records(
    theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path, offset: int, value: bytes, why: str
) -> None:
    block = read_records(theirs, permit)
    rows = [i for i in range(block.n) if int(block.data[block.offsets[i] + 16]) > 0]
    one = concatenate([read_nothing(), RecordBlock(block.data, block.offsets[rows[0] : rows[0] + 2])])
    path = tmp_path / "bad.bam"
    body = header_of(reference).encode() + damage(one, offset, value)
    path.write_bytes(bgzf.compress_blocks(body) + bgzf.EOF_BLOCK)
    with pytest.raises(InputFormatError, match=why) as caught:
        read_records(path, permit)
    assert caught.value.path == str(path)
    assert caught.value.help


def test_every_truncation_is_noticed(theirs: Path, permit: Permit, tmp_path: Path) -> None:
    whole = theirs.read_bytes()
    path = tmp_path / "cut.bam"
    for stop in [0, 1, 20, 100, len(whole) // 2, len(whole) - 29, len(whole) - 28, len(whole) - 1]:
        path.write_bytes(whole[:stop])
        with pytest.raises(InputFormatError, match=r"truncated|empty"):
            read_records(path, permit)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"@HD\tVN:1.6\n", "not a BAM"),
        (bgzf.compress_blocks(b"not BAM") + bgzf.EOF_BLOCK, "not a BAM"),
        (bgzf.EOF_BLOCK, "header"),
        (bgzf.compress_blocks(b"BAM\x01\xff\xff\xff\x7f") + bgzf.EOF_BLOCK, "header"),
        (bgzf.compress_blocks(b"BAM\x01\xff\xff\xff\xff") + bgzf.EOF_BLOCK, "header"),
    ],
)
def test_not_bam(permit: Permit, tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "x.bam").write_bytes(content)
    with pytest.raises(InputFormatError, match=why):
        read_records(tmp_path / "x.bam", permit)


def test_missing_and_folders(permit: Permit, tmp_path: Path) -> None:
    for path in (tmp_path / "none.bam", tmp_path):
        with pytest.raises(InputFormatError, match="cannot be read"):
            read_records(path, permit)


def test_check_contigs(reference: FastaReference) -> None:
    a, b, c = reference.contigs
    header = header_of(reference)
    check_contigs(header, [Contig(x.name, x.length, "") for x in (a, b, c)], "x.bam")
    for contigs, why in [
        ((a, b), "lacks contig chrC"),
        ((a, b, c, Contig("d", 5, "")), "ends before contig d"),
        ((b, a, c), "contig 1 is chrA"),
        ((Contig("chrA", 5, ""), b, c), "300000 bases, in the reference 5"),
        ((Contig("chrA", a.length, "0" * 32), b, c), "M5"),
    ]:
        with pytest.raises(InputFormatError, match=why):
            check_contigs(header, contigs, "x.bam")


def test_errors_leave_nothing(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    block = read_records(theirs, permit)

    def fail_half_way(name: str, **options) -> None:
        with BamWriter(tmp_path / name, header_of(reference), permit, **options) as writer:
            writer.write(pieces(block, 2)[0])
            raise ValueError("elsewhere")

    for name, options in (("a.bam", {"threads": 2}), ("a.bam", {}), ("a.cram", {"reference": reference.path})):
        with pytest.raises(ValueError, match="elsewhere"):
            fail_half_way(name, **options)
        assert [path.name for path in tmp_path.iterdir() if "audit" not in path.name] == []


def test_missing_folder(reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    for name in ("a.bam", "a.cram"):
        with pytest.raises(OutputError, match="Make the folder first"):
            BamWriter(tmp_path / "none" / name, header_of(reference), permit, reference=reference.path)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("at_write", [1, 2])
def test_full_disk_by_a_file_that_refuses(
    theirs: Path,
    reference: FastaReference,
    permit: Permit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    at_write: int,
) -> None:
    block = read_records(theirs, permit)
    calls = []
    real_put = bgzf.BgzfWriter._put

    def put(self, blocks) -> None:
        calls.append(1)
        if len(calls) > at_write:
            raise OSError(28, "No space left on device")
        real_put(self, blocks)

    monkeypatch.setattr(bgzf.BgzfWriter, "_put", put)
    with pytest.raises(OutputError, match=r"a\.bam cannot be written: No space left"):
        write(tmp_path / "a.bam", block, reference, permit, threads=threads)
    assert [path.name for path in tmp_path.iterdir() if "audit" not in path.name] == []


@pytest.mark.parametrize("suffix", ["bam", "cram"])
def test_limit_on_file_size_in_a_real_process(
    theirs: Path, reference: FastaReference, tmp_path: Path, suffix: str
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from megabolt.errors import MegaboltError\n"
        "from megabolt.formats.bam import BamReader, BamWriter\n"
        "from megabolt.privacy.consent import authorize\n"
        "source, target, reference, log = map(Path, sys.argv[1:])\n"
        "try:\n"
        "    permit = authorize('S1', 'test', open_data='test suite: simulated', audit_log=log)\n"
        "    with BamReader(source, permit) as reader, BamWriter(\n"
        "        target, reader.header, permit, threads=2, reference=reference\n"
        "    ) as writer:\n"
        "        for block in reader.blocks():\n"
        "            writer.write(block)\n"
        "except MegaboltError as error:\n"
        "    print(error, file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / f"a.{suffix}"
    command = [sys.executable, "-c", code, str(theirs), str(target), str(reference.path), str(tmp_path / "log")]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert f"a.{suffix} cannot be written" in done.stderr
    assert os.listdir(folder) == []


@pytest.mark.skipif(not shutil.which("PicardCommandLine"), reason="picard-tools is not installed")
def test_picard_finds_no_fault(theirs: Path, reference: FastaReference, permit: Permit, tmp_path: Path) -> None:
    write(tmp_path / "ours.bam", read_records(theirs, permit), reference, permit)
    options = ["MODE=SUMMARY", "VALIDATE_INDEX=true", f"REFERENCE_SEQUENCE={reference.path}"]
    ignored = ["MISSING_TAG_NM", "MISSING_PLATFORM_VALUE"]  # of the simulated records, not of the file
    command = ["PicardCommandLine", "ValidateSamFile", f"INPUT={tmp_path / 'ours.bam'}", *options]
    command += [f"IGNORE={kind}" for kind in ignored]
    pysam.dict("-o", str(reference.path.with_suffix(".dict")), str(reference.path))
    pysam.faidx(str(reference.path))
    done = subprocess.run(command, capture_output=True, text=True)
    assert "No errors found" in done.stdout, done.stdout + done.stderr[-2000:]
