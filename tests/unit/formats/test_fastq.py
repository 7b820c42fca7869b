# SPDX-License-Identifier: Apache-2.0
"""FASTQ pairs: every accepted form gives the same reads; every malformed file is named with its line."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import threading
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import ConsentRefused, InputFormatError, UsageError
from megabolt.formats.fastq import PairBatch, read_pairs
from megabolt.privacy.consent import Permit, authorize

Read = tuple[str, str, str]


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")


def simulate(n: int, seed: int = 1, longest: int = 150) -> list[tuple[Read, Read]]:
    """Pairs of (name, sequence, quality) with lengths from 1 on and names of many lengths."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        name = f"sim:{i}:" + "x" * int(rng.integers(0, 90))
        mates = []
        for _ in range(2):
            length = int(rng.integers(1, longest + 1))
            sequence = rng.choice(list(b"ACGTN"), length).astype(np.uint8).tobytes().decode()
            quality = rng.integers(33, 127, length).astype(np.uint8).tobytes().decode()
            mates.append((name, sequence, quality))
        pairs.append((mates[0], mates[1]))
    return pairs


def fastq(reads: list[Read], suffix: str = "") -> bytes:
    return "".join(f"@{name}{suffix}\n{sequence}\n+\n{quality}\n" for name, sequence, quality in reads).encode()


def write(folder: Path, text1: bytes, text2: bytes, suffix: str = "fq") -> tuple[list[Path], list[Path]]:
    paths = [folder / f"r1.{suffix}", folder / f"r2.{suffix}"]
    for path, text in zip(paths, (text1, text2)):
        path.write_bytes(text)
    return [paths[0]], [paths[1]]


def reads_of(batch: PairBatch, mate: int) -> list[Read]:
    text, reads = batch.text[mate], []
    for name, name_length, sequence, quality, length in batch.fields[mate][:, :5].tolist():
        parts = [(name, name_length), (sequence, length), (quality, length)]
        reads.append(tuple(text[start : start + n].tobytes().decode() for start, n in parts))
    return reads


def collect(paths1: list[Path], paths2: list[Path], permit: Permit, **options: int) -> list[tuple[Read, Read]]:
    pairs: list[tuple[Read, Read]] = []
    for batch in read_pairs(paths1, paths2, permit, **options):
        assert batch.first_pair == len(pairs)
        pairs.extend(zip(reads_of(batch, 0), reads_of(batch, 1)))
        batch.release()
    return pairs


PAIRS = simulate(300)
TEXT1, TEXT2 = (fastq([pair[mate] for pair in PAIRS]) for mate in range(2))


def bgzip(text: bytes, folder: Path) -> bytes:
    with pysam.BGZFile(str(folder / "tmp.gz"), "wb") as file:
        file.write(text)
    return (folder / "tmp.gz").read_bytes()


@pytest.mark.parametrize("per_batch", [1, 7, 299, 300, 301, 2048])
def test_batches_hold_exactly_what_was_asked_for(tmp_path: Path, permit: Permit, per_batch: int) -> None:
    files = write(tmp_path, TEXT1, TEXT2)
    batches = list(read_pairs(*files, permit, pairs_per_batch=per_batch))
    sizes = [batch.n_pairs for batch in batches]
    assert sizes == [per_batch] * (300 // per_batch) + ([300 % per_batch] if 300 % per_batch else [])
    pairs = [pair for batch in batches for pair in zip(reads_of(batch, 0), reads_of(batch, 1))]
    assert pairs == PAIRS  # no buffer was used twice while all batches were held


def test_fields_leave_room_for_whole_vectors(tmp_path: Path, permit: Permit) -> None:
    for batch in read_pairs(*write(tmp_path, TEXT1, TEXT2), permit, pairs_per_batch=64):
        for text, fields in zip(batch.text, batch.fields):
            assert text.dtype == np.uint8
            assert text.flags.c_contiguous
            assert text.flags.writeable
            assert fields.dtype == np.int64
            assert fields.flags.c_contiguous
            assert fields[:, 0].min() >= PADDING
            assert (fields[:, 3] + fields[:, 4]).max() + PADDING <= len(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text, _: text.replace(b"\n", b"\r\n"),
        lambda text, _: text[:-1],
        lambda text, _: text.replace(b"\n", b"\r\n")[:-2],
        lambda text, _: text + b"\n\n",
        lambda text, _: text + b"\r\n",
        lambda text, _: text.replace(b"\n+\n", b"\n+sim:again\n"),
        lambda text, _: gzip.compress(text),
        lambda text, _: gzip.compress(text[:999]) + gzip.compress(text[999:]) + gzip.compress(b""),
        lambda text, _: gzip.compress(text) + bytes(512),
        bgzip,
    ],
    ids=[
        "crlf",
        "no-end",
        "crlf-no-end",
        "empty-end",
        "cr-end",
        "plus-name",
        "gz",
        "members",
        "zeros",
        "bgzip",
    ],
)
@pytest.mark.parametrize("per_batch", [7, 300])
def test_accepted_forms(tmp_path: Path, permit: Permit, change, per_batch: int) -> None:
    texts = [change(text, tmp_path) for text in (TEXT1, TEXT2)]
    suffix = "fq.gz" if texts[0][:2] == b"\x1f\x8b" else "fq"
    assert collect(*write(tmp_path, *texts, suffix), permit, pairs_per_batch=per_batch) == PAIRS


@pytest.mark.parametrize(
    ("end1", "end2"),
    [
        ("/1", "/2"),
        (" 1:N:0:ACGT", " 2:Y:0:ACGT"),
        ("\tBC:Z:A", "\tBC:Z:A"),
        ("/1 x", "/2 x"),
        (" length=3", ""),
    ],
)
def test_ends_of_names(tmp_path: Path, permit: Permit, end1: str, end2: str) -> None:
    texts = fastq([a for a, _ in PAIRS], end1), fastq([b for _, b in PAIRS], end2)
    assert collect(*write(tmp_path, *texts), permit) == PAIRS


def test_gzip_without_the_suffix(tmp_path: Path, permit: Permit) -> None:
    assert collect(*write(tmp_path, gzip.compress(TEXT1), TEXT2), permit) == PAIRS


def test_longest_name_and_read(tmp_path: Path, permit: Permit) -> None:
    read = ("n" * 254, "A" * 500, "I" * 500)
    assert collect(*write(tmp_path, fastq([read], "/1"), fastq([read], "/2")), permit) == [(read, read)]


def test_empty_reads_of_trimmed_files(tmp_path: Path, permit: Permit) -> None:
    reads = [("a", "", ""), ("b", "AC", "II"), ("c", "", "")]
    pairs = list(zip(reads, reads))
    for end in (b"", b"\n"):
        assert collect(*write(tmp_path, fastq(reads) + end, fastq(reads)), permit) == pairs


def test_letters_become_plain(tmp_path: Path, permit: Permit) -> None:
    letters = "ACGTNacgtn.RYSWKMBDHVUXrykm"
    plain = "ACGTNACGTNNNNNNNNNNNNNNNNNN"
    long1, long2 = ("r", letters * 5, "I" * 135), ("r", "A" * 100 + "n", "I" * 101)
    files = write(tmp_path, fastq([long1]), fastq([long2]))
    assert collect(*files, permit) == [(("r", plain * 5, "I" * 135), ("r", "A" * 100 + "N", "I" * 101))]


def test_several_pairs_of_files(tmp_path: Path, permit: Permit) -> None:
    lists: tuple[list[Path], list[Path]] = ([], [])
    expected = []
    for lane in range(3):
        folder = tmp_path / f"lane{lane}"
        folder.mkdir()
        pairs = simulate(10 + lane, seed=lane)
        expected.append(pairs)
        one, two = write(folder, fastq([a for a, _ in pairs]), fastq([b for _, b in pairs]))
        lists[0].extend(one)
        lists[1].extend(two)
    batches = list(read_pairs(*lists, permit, pairs_per_batch=10))
    assert [(b.read_group, b.n_pairs, b.first_pair) for b in batches] == [
        (0, 10, 0),
        (1, 10, 10),
        (1, 1, 20),
        (2, 10, 21),
        (2, 2, 31),
    ]
    assert [pair for b in batches for pair in zip(reads_of(b, 0), reads_of(b, 1))] == list(itertools.chain(*expected))


def test_released_buffers_are_used_again(tmp_path: Path, permit: Permit) -> None:
    buffers = set()
    for batch in read_pairs(*write(tmp_path, TEXT1, TEXT2), permit, pairs_per_batch=3):
        buffers.add(batch.text[0].ctypes.data)
        batch.release()
        batch.release()
        assert len(batch.text[0]) == len(batch.fields[1]) == 0
    assert len(buffers) < 20


def test_stopping_early_ends_the_threads(tmp_path: Path, permit: Permit) -> None:
    before = threading.active_count()
    batches = read_pairs(*write(tmp_path, TEXT1, TEXT2), permit, pairs_per_batch=2)
    next(batches)
    assert threading.active_count() == before + 2
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_pipes(tmp_path: Path, permit: Permit) -> None:
    files = [tmp_path / "p1", tmp_path / "p2"]
    writers = []
    for path, text in zip(files, (TEXT1, gzip.compress(TEXT2))):
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(text,)))
        writers[-1].start()
    assert collect([files[0]], [files[1]], permit, pairs_per_batch=50) == PAIRS
    for writer in writers:
        writer.join()


def test_files_are_recorded_before_they_are_opened(tmp_path: Path, permit: Permit) -> None:
    missing = [tmp_path / "none1.fq"], [tmp_path / "none2.fq"]
    with pytest.raises(InputFormatError, match="No such file"):
        list(read_pairs(*missing, permit))
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [record.get("path") for record in records[1:]] == [str(missing[0][0]), str(missing[1][0])]


def test_without_a_record_nothing_is_opened(tmp_path: Path, permit: Permit) -> None:
    files = write(tmp_path, TEXT1, TEXT2)
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(ConsentRefused):
        read_pairs(*files, permit)


GOOD = fastq([("a", "ACGT", "IIII"), ("b", "ACGTA", "IIIII"), ("c", "AC", "II")])
LONG = "A" * 501


@pytest.mark.parametrize(
    ("bad", "where", "why"),
    [
        (b"", "", "empty"),
        (gzip.compress(b"", mtime=0), "", "empty"),
        (b"\n" + GOOD, "line 1 (record 1)", "begins with '@'"),
        (b">a\nACGT\n", "line 1 (record 1)", "FASTA"),
        (b"BAM\x01xx", "line 1 (record 1)", "BAM"),
        (GOOD.replace(b"@b", b"b"), "line 5 (record 2)", "begins with '@'"),
        (GOOD.replace(b"@b\n", b""), "line 5 (record 2)", "begins with '@'"),
        (GOOD.replace(b"ACGTA\n+\n", b"ACGTA\n"), "line 7 (record 2)", "begins with '\\+'"),
        (GOOD.replace(b"ACGTA\n+\n", b"ACGTA\n#\n"), "line 7 (record 2)", "begins with '\\+'"),
        (GOOD.replace(b"ACGTA\n", b"AC\nGTA\n"), "line 7 (record 2)", "begins with '\\+'"),
        (GOOD.replace(b"IIIII", b"IIII"), "line 8 (record 2)", "differ in length"),
        (GOOD.replace(b"IIIII", b"IIIIII"), "line 8 (record 2)", "differ in length"),
        (GOOD.replace(b"ACGTA", b"AC-TA"), "line 6 (record 2)", "'-' is not a base"),
        (GOOD.replace(b"ACGTA", b"AC*TA"), "line 6 (record 2)", "'\\*' is not a base"),
        (GOOD.replace(b"ACGTA", b"AC TA"), "line 6 (record 2)", "' ' is not a base"),
        (GOOD.replace(b"ACGTA", b"ACET\0"), "line 6 (record 2)", "not a base"),
        (GOOD.replace(b"IIIII", b"II II"), "line 8 (record 2)", "' ' is not a quality"),
        (GOOD.replace(b"IIIII", b"II\x7fII"), "line 8 (record 2)", "byte 127 is not a quality"),
        (GOOD.replace(b"IIIII", b"II\xffII"), "line 8 (record 2)", "byte 255 is not a quality"),
        (GOOD.replace(b"@b\n", b"@\n"), "line 5 (record 2)", "no name"),
        (GOOD.replace(b"@b\n", b"@ x\n"), "line 5 (record 2)", "no name"),
        (GOOD.replace(b"@b\n", b"@" + b"n" * 255 + b"\n"), "line 5 (record 2)", "255 characters"),
        (GOOD.replace(b"@b\n", b"@b\x01\n"), "line 5 (record 2)", "byte 1 in a read's name"),
        (GOOD.replace(b"@b\n", b"@b\xc3\xa9\n"), "line 5 (record 2)", "byte 195 in a read's name"),
        (GOOD.replace(b"@b\n", b"@b@\n"), "line 5 (record 2)", "'@' in a read's name"),
        (fastq([("a", LONG, LONG)]), "line 2 (record 1)", "501 bases"),
        (GOOD[:-3], "line 12 (record 3)", "inside a record"),
        (GOOD[:-5], "line 11 (record 3)", "inside a record"),
        (GOOD[:-8], "line 10 (record 3)", "inside a record"),
        (GOOD + b"@d\nAC\n", "line 15 (record 4)", "inside a record"),
        (GOOD + b"garbage\n", "line 13 (record 4)", "begins with '@'"),
        (GOOD.replace(b"IIIII\n", b"IIIII\n\n"), "line 9 (record 3)", "begins with '@'"),
    ],
)
@pytest.mark.parametrize("mate", [1, 2])
@pytest.mark.parametrize("per_batch", [2, 2048])
def test_malformed(tmp_path: Path, permit: Permit, bad: bytes, where: str, why: str, mate: int, per_batch: int) -> None:
    texts = (bad, GOOD) if mate == 1 else (GOOD, bad)
    files = write(tmp_path, *texts)
    with pytest.raises(InputFormatError, match=why) as caught:
        collect(*files, permit, pairs_per_batch=per_batch)
    assert caught.value.path == str(files[mate - 1][0])
    assert caught.value.where == where
    assert caught.value.help


def test_cut_inside_a_quality_line(tmp_path: Path, permit: Permit) -> None:
    files = write(tmp_path, GOOD[:-2], GOOD)
    with pytest.raises(InputFormatError, match="differ in length"):
        collect(*files, permit)


@pytest.mark.parametrize("per_batch", [2, 16])
@pytest.mark.parametrize(
    ("n1", "n2", "short"), [(10, 8, 1), (10, 7, 1), (8, 10, 0), (1, 10, 0), (16, 15, 1), (16, 4, 1)]
)
def test_unequal_numbers_of_reads(tmp_path: Path, permit: Permit, n1: int, n2: int, short: int, per_batch: int) -> None:
    pairs = simulate(20)
    files = write(tmp_path, fastq([a for a, _ in pairs[:n1]]), fastq([b for _, b in pairs[:n2]]))
    with pytest.raises(InputFormatError, match=f"ends after {min(n1, n2)} reads") as caught:
        collect(*files, permit, pairs_per_batch=per_batch)
    assert caught.value.path == str(files[short][0])


def test_unequal_numbers_in_the_first_of_two_lanes(tmp_path: Path, permit: Permit) -> None:
    pairs = simulate(10)
    lists: tuple[list[Path], list[Path]] = ([], [])
    for lane, (n1, n2) in enumerate([(8, 6), (2, 4)]):
        folder = tmp_path / str(lane)
        folder.mkdir()
        one, two = write(folder, fastq([a for a, _ in pairs[:n1]]), fastq([b for _, b in pairs[:n2]]))
        lists[0].extend(one)
        lists[1].extend(two)
    with pytest.raises(InputFormatError, match="ends after 6 reads") as caught:
        collect(*lists, permit, pairs_per_batch=2)
    assert caught.value.path == str(lists[1][0])


@pytest.mark.parametrize(("end1", "end2"), [("/2", "/1"), (" 2:N:0", " 1:N:0"), ("/1", "/1"), (" 1:N:0", " 1:Y:0")])
def test_swapped_or_doubled_mates(tmp_path: Path, permit: Permit, end1: str, end2: str) -> None:
    texts = fastq([a for a, _ in PAIRS], end1), fastq([b for _, b in PAIRS], end2)
    with pytest.raises(InputFormatError, match="says that it is mate"):
        collect(*write(tmp_path, *texts), permit)


def test_shuffled_mates(tmp_path: Path, permit: Permit) -> None:
    second = [b for _, b in PAIRS]
    second[200], second[201] = second[201], second[200]
    files = write(tmp_path, TEXT1, fastq(second))
    with pytest.raises(InputFormatError, match="differs from that of its mate") as caught:
        collect(*files, permit, pairs_per_batch=64)
    assert caught.value.where == "line 801 (record 201)"
    assert caught.value.path == str(files[1][0])


def test_names_that_differ_late(tmp_path: Path, permit: Permit) -> None:
    for length in (1, 7, 8, 9, 16, 63, 64, 254):
        one, two = "n" * (length - 1) + "a", "n" * (length - 1) + "b"
        files = write(tmp_path, fastq([(one, "A", "I")]), fastq([(two, "A", "I")]))
        with pytest.raises(InputFormatError, match="differs"):
            collect(*files, permit)


def test_every_truncation_of_gzip_is_noticed(tmp_path: Path, permit: Permit) -> None:
    packed = gzip.compress(TEXT1)
    for stop in [*range(1, 30), len(packed) // 2, len(packed) - 9, len(packed) - 8, len(packed) - 1]:
        files = write(tmp_path, packed[:stop], gzip.compress(TEXT2), "fq.gz")
        with pytest.raises(InputFormatError) as caught:
            collect(*files, permit)
        assert caught.value.path == str(files[0][0])


def test_damaged_gzip(tmp_path: Path, permit: Permit) -> None:
    packed = bytearray(gzip.compress(TEXT1))
    packed[len(packed) // 2] ^= 0x55
    with pytest.raises(InputFormatError):
        collect(*write(tmp_path, bytes(packed), gzip.compress(TEXT2), "fq.gz"), permit)


def test_garbage_behind_gzip(tmp_path: Path, permit: Permit) -> None:
    with pytest.raises(InputFormatError, match="something follows"):
        collect(*write(tmp_path, gzip.compress(TEXT1) + b"garbage", TEXT2, "fq"), permit)


def test_text_named_gz(tmp_path: Path, permit: Permit) -> None:
    with pytest.raises(InputFormatError, match="not gzip"):
        collect(*write(tmp_path, TEXT1, TEXT2, "fq.gz"), permit)


@pytest.mark.parametrize("head", [b"BZh91AY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd\0", b"PK\x03\x04", b"crypt4gh\1"])
def test_other_compressions(tmp_path: Path, permit: Permit, head: bytes) -> None:
    with pytest.raises(InputFormatError, match="data"):
        collect(*write(tmp_path, head + TEXT1, TEXT2), permit)


def test_endless_line_does_not_fill_the_memory(tmp_path: Path, permit: Permit) -> None:
    files = write(tmp_path, b"@a\n" + b"A" * 9_000_000, GOOD)
    with pytest.raises(InputFormatError, match="far too long"):
        collect(*files, permit, pairs_per_batch=4)


def test_wrong_arguments(tmp_path: Path, permit: Permit) -> None:
    (one,), (two,) = write(tmp_path, TEXT1, TEXT2)
    for lists in [([], []), ([one], []), ([one], [two, one])]:
        with pytest.raises(UsageError):
            read_pairs(*lists, permit)
    with pytest.raises(UsageError):
        read_pairs([one], [two], permit, pairs_per_batch=0)
    (tmp_path / "link.fq").symlink_to(one)
    for lists in [([one], [one]), ([one], [tmp_path / "link.fq"]), ([one, two], [two, one])]:
        with pytest.raises(InputFormatError, match="given twice"):
            read_pairs(*lists, permit)
    for lists in [([tmp_path], [two]), ([one], [tmp_path / "none"])]:
        with pytest.raises(InputFormatError, match=r"folder|No such file"):
            list(read_pairs(*lists, permit))


def test_unreadable(tmp_path: Path, permit: Permit) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (one,), (two,) = write(tmp_path, TEXT1, TEXT2)
    one.chmod(0)
    with pytest.raises(InputFormatError, match="Permission denied"):
        list(read_pairs([one], [two], permit))


def test_any_byte_changed_is_read_or_refused_never_a_crash(tmp_path: Path, permit: Permit) -> None:
    """Each outcome is a clean error or as many reads as before."""
    rng = np.random.default_rng(5)
    text = fastq([a for a, _ in PAIRS[:6]])
    mate = fastq([b for _, b in PAIRS[:6]])
    for i, byte in itertools.product(rng.integers(0, len(text), 60).tolist(), (10, 13, 64, 0, 255)):
        bad = bytearray(text)
        bad[i] = byte
        files = write(tmp_path, bytes(bad), mate)
        try:
            pairs = collect(*files, permit, pairs_per_batch=4)
        except InputFormatError:
            continue
        assert len(pairs) == 6
