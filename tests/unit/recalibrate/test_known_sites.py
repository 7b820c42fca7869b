# SPDX-License-Identifier: Apache-2.0
"""Known sites: which bases of the reference a VCF covers."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from megabolt.errors import InputFormatError
from megabolt.formats.fasta import Contig
from megabolt.recalibrate import known_sites as module
from megabolt.recalibrate.known_sites import KnownSites, read_known_sites

CONTIGS = (Contig("c1", 100, ""), Contig("c10", 70, ""), Contig("c", 64, ""))
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def covered(sites: KnownSites) -> dict[str, set[int]]:
    """1-based places of each contig."""
    found = {}
    for contig, first in zip(CONTIGS, sites.bits):
        bits = [int(first) + p for p in range(contig.length)]
        found[contig.name] = {p + 1 for p, b in enumerate(bits) if int(sites.words[b // 64]) >> (b % 64) & 1}
    return found


def test_ref_alleles_and_ends_cover(tmp_path: Path) -> None:
    lines = [
        "c1\t5\t.\tA\tC\t.\tLOW\tAC=1",
        "c1\t10\t.\tACG\tA\t.\t.\t.",
        "c1\t20\t.\tA\t<DEL>\t.\t.\tSVTYPE=DEL;END=24;X=1",
        "c1\t30\t.\tAC\tA\t.\t.\tCIEND=4,50;BEND=40",
        "c1\t40\t.\tAC\tA\t.\t.\tEND=3",
        "c10\t1\t.\tA\tC\t.\t.\tEND=2\tGT\tEND=60",
        "c\t64\t.\tA\tC\t9\tPASS",
        "elsewhere\t64000\t.\tA\tC\t.\t.\t.",
        "c\t63\t.\tATT\tC\t.\t.\t.",
    ]
    with pytest.raises(InputFormatError, match="line 9: has fewer than 8 columns"):
        read_known_sites([write(tmp_path / "a.vcf", HEADER + "\n".join(lines))], CONTIGS)
    lines[6] += "\t."
    for name, ending in (("b.vcf", "\r\n"), ("b.vcf.gz", "\n")):
        sites = read_known_sites([write(tmp_path / name, HEADER + ending.join(lines))], CONTIGS)
        assert covered(sites) == {
            "c1": {5, 10, 11, 12, *range(20, 25), 30, 31, 40, 41},
            "c10": {1, 2},
            "c": {63, 64},
        }
        assert sites.n_records == 8


def test_several_files_in_any_order(tmp_path: Path) -> None:
    draw = random.Random(2)
    wanted: set[int] = set()
    joined: set[int] = set()
    paths = []
    for k in range(3):
        text = HEADER
        for _ in range(12):
            start, length = draw.randint(1, 90), draw.choice([1, 1, 2, 4])
            text += f"c1\t{start}\t.\t{'A' * length}\tC\t.\t.\t.\n"
            wanted.update(range(start, start + length))
            joined.update(range(start, start + length - 1))
        paths.append(write(tmp_path / f"{k}.vcf", text))
    sites = read_known_sites(paths, CONTIGS)
    assert covered(sites)["c1"] == wanted
    found = [p for start, stop in sites.joined.tolist() for p in range(start + 1, stop + 1)]
    assert found == sorted(joined)
    assert (np.diff(sites.joined.reshape(-1)) > 0).all()


def test_files_larger_than_the_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f"c1\t{1 + 7 * k % 97}\trs{k}\t{'AC' if k % 2 else 'A'}\tC\t.\t.\tNOTE={'x' * (k % 50)}" for k in range(300)
    ]
    path = write(tmp_path / "a.vcf.gz", HEADER + "\n".join(lines) + "\n")
    whole = read_known_sites([path], CONTIGS)
    monkeypatch.setattr(module, "_BLOCK", 200)
    monkeypatch.setattr(module, "_MOST_JOINED", 1)
    pieces = read_known_sites([path], CONTIGS)
    assert np.array_equal(pieces.words, whole.words)
    assert np.array_equal(pieces.joined, whole.joined)
    assert pieces.n_records == whole.n_records == 300
    monkeypatch.setattr(module, "_BLOCK", 60)
    with pytest.raises(InputFormatError, match="the line is too long"):
        read_known_sites([path], CONTIGS)


def test_no_sites(tmp_path: Path) -> None:
    sites = read_known_sites([write(tmp_path / "a.vcf", HEADER)], CONTIGS)
    assert not sites.words.any()
    assert sites.n_records == len(sites.joined) == 0
    assert sites.nbytes < 100


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("c1\t5\t.\tA\tC\n", "line 1: not a VCF"),
        ("", "line 1: not a VCF"),
        ("BCF\2\2", "line 1: BCF data"),
        (HEADER + "c1\tx\t.\tA\tC\t.\t.\t.\n", "line 3: the position is not a whole number"),
        (HEADER + "c1\t101\t.\tA\tC\t.\t.\t.\n", "line 3: the variant lies beyond the end"),
        (HEADER + "chr1\t1\t.\tA\tC\t.\t.\t.\n", "none of its 1 variants lies on a contig"),
    ],
)
def test_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputFormatError, match=why):
        read_known_sites([write(tmp_path / "a.vcf", text)], CONTIGS)
