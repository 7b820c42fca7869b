# SPDX-License-Identifier: Apache-2.0
"""FASTA: every way a reference may be written, and every way it may be wrong."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.errors import InputFormatError
from megabolt.formats import fasta
from megabolt.formats.bases import decode
from megabolt.formats.fasta import FastaReference, read_contigs, read_fasta


def read(tmp_path: Path, text: bytes, name: str = "ref.fa") -> FastaReference:
    path = tmp_path / name
    path.write_bytes(text)
    return read_fasta(path)


def sequences(reference: FastaReference) -> dict[str, str]:
    return {c.name: decode(reference.fetch(i, 0, c.length)) for i, c in enumerate(reference.contigs)}


SIMPLE = b">chr1 first one\nACGT\nNacg\n>chr2\nTTTT\n"


ACCEPTED = pytest.mark.parametrize(
    "text",
    [
        SIMPLE,
        SIMPLE.replace(b"\n", b"\r\n"),
        SIMPLE[:-1],
        SIMPLE.replace(b"\n>chr2", b"\n\n\n>chr2"),
        b"\n" + SIMPLE,
        b">chr1\nA\nC\nG\nT\nN\na\nc\ng\n>chr2\nTTTT",
        gzip.compress(SIMPLE, mtime=0),
        gzip.compress(SIMPLE[:20], mtime=0) + gzip.compress(SIMPLE[20:], mtime=0),
    ],
    ids=[
        "plain",
        "crlf",
        "no-last-newline",
        "empty-lines",
        "leading-newline",
        "short-lines",
        "gzip",
        "members",
    ],
)


@ACCEPTED
def test_accepted_forms(tmp_path: Path, text: bytes) -> None:
    reference = read(tmp_path, text)
    assert sequences(reference) == {"chr1": "ACGTNACG", "chr2": "TTTT"}
    assert reference.contigs[0].md5 == hashlib.md5(b"ACGTNACG").hexdigest()
    assert reference.contig_index("chr2") == 1


@ACCEPTED
@pytest.mark.parametrize("block", [1, 2, 3, 7, 8])
def test_blocks_may_end_anywhere(tmp_path: Path, text: bytes, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(tmp_path, text)
    monkeypatch.setattr(fasta, "_BLOCK", block)
    reference = read(tmp_path, text)
    assert reference.contigs == expected.contigs
    assert sequences(reference) == sequences(expected)
    found = [(contig, decode(codes)) for contig, codes in read_contigs(tmp_path / "ref.fa")]
    assert found == list(zip(expected.contigs, sequences(expected).values(), strict=True))


def test_contigs_longer_than_the_first_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasta, "_BLOCK", 1 << 10)
    letters = decode(np.random.default_rng(1).integers(0, 5, 9_000_000).astype(np.uint8))
    (tmp_path / "ref.fa").write_text(">long\n" + letters[:5_000_000] + "\n>longer\n" + letters)
    found = [decode(codes) for _, codes in read_contigs(tmp_path / "ref.fa")]
    assert found == [letters[:5_000_000], letters]


def test_bgzip(tmp_path: Path) -> None:
    with pysam.BGZFile(str(tmp_path / "ref.fa.gz"), "wb") as file:
        file.write(SIMPLE)
    assert sequences(read_fasta(tmp_path / "ref.fa.gz"))["chr2"] == "TTTT"


def test_iupac_is_n_but_keeps_its_letter_in_the_md5(tmp_path: Path) -> None:
    reference = read(tmp_path, b">x\nARYswkmbdhvNuX\n")
    assert sequences(reference)["x"] == "ANNNNNNNNNNNNN"
    assert reference.contigs[0].md5 == hashlib.md5(b"ARYSWKMBDHVNUX").hexdigest()


def test_fetch_beyond_the_ends_is_n(tmp_path: Path) -> None:
    reference = read(tmp_path, SIMPLE)
    assert decode(reference.fetch(1, -3, 6)) == "NNNTTTTNN"
    assert decode(reference.fetch(0, 6, 10)) == "CGNN"
    assert decode(reference.fetch(0, 100, 103)) == "NNN"
    assert len(reference.fetch(0, 5, 5)) == 0


def test_random_genome_matches_htslib(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "ref.fa"
    with path.open("w") as file:
        for i in range(60):
            letters = "".join(rng.choice(list("ACGTacgtNRY"), int(rng.integers(1, 400))))
            width = int(rng.integers(1, 90))
            lines = [letters[j : j + width] for j in range(0, len(letters), width)]
            file.write(f">c{i} {'d' * int(rng.integers(0, 150))}\n" + "\n".join(lines) + "\n")
    ours = sequences(read_fasta(path))
    with pysam.FastaFile(str(path)) as theirs:
        for name in theirs.references:
            expected = theirs.fetch(name).upper().replace("R", "N").replace("Y", "N")
            assert ours[name] == expected


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (b"", "", "empty"),
        (b"\n\n", "", "empty"),
        (b"ACGT\n>chr1\nACGT\n", "line 1", "before the first header"),
        (b"@read\nACGT\n+\nIIII\n", "line 1", "FASTQ"),
        (b">chr1\nAC\n>chr1 x\nGT\n", "line 3", "chr1 again"),
        (b">\nACGT\n", "line 1", "name"),
        (b"> chr1\nACGT\n", "line 1", "name"),
        (b">a,b\nACGT\n", "line 1", "not allowed"),
        (b">chr1\n>chr2\nACGT\n", "line 1", "no sequence"),
        (b">chr1\nACGT\n>chr2\n", "line 3", "no sequence"),
        (b">chr1\nAC GT\n", "line 2", "' ' is not a base"),
        (b">chr1\nACGT\nAC7T\n", "line 3", "'7' is not a base"),
        (b">p\nMKVLE\n", "line 2", "'L' is not a base"),
        (b">chr1\nAC\xff\n", "line 2", "byte 255"),
        (b">chr1\nAC\rGT\n", "line 2", "byte 13"),
        (b">chr1\nAC>T\n", "line 2", "'>' is not a base"),
    ],
)
def test_refused(tmp_path: Path, text: bytes, where: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputFormatError, match=why) as caught:
        read(tmp_path, text)
    assert caught.value.where == where
    assert caught.value.path.endswith("ref.fa")
    assert caught.value.help
    monkeypatch.setattr(fasta, "_BLOCK", 2)
    with pytest.raises(InputFormatError, match=why) as caught:
        list(read_contigs(tmp_path / "ref.fa"))
    assert caught.value.where == where


def test_missing_file_and_bad_gzip(tmp_path: Path) -> None:
    with pytest.raises(InputFormatError, match="No such file"):
        read_fasta(tmp_path / "none.fa")
    with pytest.raises(InputFormatError, match="folder"):
        read_fasta(tmp_path)
    with pytest.raises(InputFormatError, match="not gzip"):
        read(tmp_path, SIMPLE, "ref.fa.gz")
    with pytest.raises(InputFormatError, match="truncated"):
        read(tmp_path, gzip.compress(SIMPLE)[:-9], "ref.fa.gz")


def test_many_headers(tmp_path: Path) -> None:
    text = b"".join(b">c%d\nAC\n" % i for i in range(5000))
    assert len(read(tmp_path, text).contigs) == 5000
