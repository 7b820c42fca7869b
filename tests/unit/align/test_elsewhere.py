# SPDX-License-Identifier: Apache-2.0
"""Other places of reads: XA, ALT contigs, the circular contig."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megabolt.align.alignments import ALTERNATIVE, SUPPLEMENTARY
from megabolt.align.engine import InsertSize, PairAligner
from megabolt.align.index import build_index, open_index
from megabolt.align.options import AlignOptions
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.testing.batches import pair_batch

INSERT = InsertSize(mean=400.0, sd=50.0, low=35, high=700)


def rc(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def random_text(seed: int, n: int) -> str:
    return decode(np.random.default_rng(seed).integers(0, 4, n).astype(np.uint8))


def mutated(text: str, every: int) -> str:
    """The text with one base in `every` replaced."""
    codes = encode(text).copy()
    codes[every // 2 :: every] ^= 1
    return decode(codes)


def index_of(folder: Path, alt: str = "", circular: str | None = None, **contigs: str):
    path = folder / "ref.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    if alt:
        (folder / "ref.fa.alt").write_text(f"{alt}\t0\tchr1\t1\t60\t*\t*\t0\t0\t*\t*\n")
    build_index(path, circular=circular) if circular else build_index(path)
    return open_index(path)


def test_xa_lists_the_copies_of_a_read(tmp_path: Path) -> None:
    unit = random_text(3, 600)
    text = random_text(4, 4000) + unit + random_text(5, 4000) + mutated(unit, 40) + random_text(6, 4000)
    index = index_of(tmp_path, chr1=text + rc(unit) + random_text(7, 900))
    batch = pair_batch([text[4100:4250], text[500:650]], [rc(text[4350:4500]), rc(text[750:900])])
    plain = PairAligner(index).align(batch, INSERT)
    assert len(plain.extra) == 0
    got = PairAligner(index, AlignOptions(xa=5)).align(batch, INSERT)
    assert (got.extra.kind == ALTERNATIVE).all()
    here = got.extra.select(got.extra.read == 0)
    exact, other = (4100, len(text) + 350), 8700
    found = {int(got.start[0]), *here.start.tolist()}
    assert found == {exact[0], exact[1], other}
    assert got.mapq[0] == 0
    assert not np.isin(got.extra.read, (2, 3)).any()
    few = PairAligner(index, AlignOptions(xa=1)).align(batch, INSERT)
    assert len(few.extra.select(few.extra.read == 0)) == 0


@pytest.fixture(scope="module")
def with_alt(tmp_path_factory: pytest.TempPathFactory):
    primary = random_text(11, 30_000)
    alt = primary[10_000:10_600] + mutated(primary[10_600:11_400], 30) + primary[11_400:12_000]
    return index_of(tmp_path_factory.mktemp("alt"), alt="chr1_alt", chr1=primary, chr1_alt=alt), primary, alt


def test_primary_contig_is_preferred_and_alt_is_no_rival(with_alt) -> None:
    index, primary, _ = with_alt
    batch = pair_batch([primary[10_050:10_200]], [rc(primary[10_300:10_450])])
    got = PairAligner(index).align(batch, INSERT)
    assert got.contig.tolist() == [0, 0]
    assert (got.mapq >= 50).all()
    off = PairAligner(index, AlignOptions(alt=False)).align(batch, INSERT)
    assert (off.mapq == 0).all()


def test_read_of_an_alt_contig_is_supplementary_there(with_alt) -> None:
    index, _, alt = with_alt
    got = PairAligner(index).align(pair_batch([alt[700:850]], [rc(alt[1000:1150])]), INSERT)
    assert got.contig.tolist() == [0, 0]
    assert got.start.tolist() == [10_700, 11_000]
    assert got.extra.read.tolist() == [0, 1]
    assert (got.extra.kind == SUPPLEMENTARY).all()
    assert got.extra.contig.tolist() == [1, 1]
    assert got.extra.start.tolist() == [700, 1000]
    assert (got.extra.mapq > 20).all()
    assert got.alt_ratio == pytest.approx(got.score / got.extra.score)


def test_read_of_an_alt_contig_alone(with_alt, tmp_path: Path) -> None:
    insertion = random_text(12, 1500)
    primary = random_text(13, 20_000)
    index = index_of(tmp_path, alt="a", chr1=primary, a=primary[5000:5500] + insertion + primary[5500:6000])
    got = PairAligner(index).align(pair_batch([insertion[300:450]], [rc(insertion[600:750])]), INSERT)
    assert got.contig.tolist() == [1, 1]
    assert (got.mapq >= 30).all()


def test_reads_across_the_origin_of_a_circular_contig(tmp_path: Path) -> None:
    circle = random_text(21, 5000)
    twice = circle + circle
    index = index_of(tmp_path, circular="chrM", chr1=random_text(22, 8000), chrM=circle)
    aligner, insert = PairAligner(index), INSERT._replace(mean=600.0, sd=150.0, high=1500)
    starts = [4300, 4500, 4700, 4860, 4910, 4950, 100, 900]
    pairs = [(twice[s : s + 150], rc(twice[s + 250 : s + 400])) for s in starts]
    pairs[0] = (pairs[0][0], rc(twice[4300 + 800 : 4300 + 950]))
    got = aligner.align(pair_batch([a for a, _ in pairs], [b for _, b in pairs]), insert)
    assert (got.contig == 1).all()
    assert (got.mapq >= 30).all()
    for p, s in enumerate(starts):
        for mate, first in enumerate((s, s + (800 if p == 0 else 250))):
            r = 2 * p + mate
            spans = [(int(got.start[r]), int(got.score[r]))]
            spans += [(int(got.extra.start[x]), int(got.extra.score[x])) for x in np.flatnonzero(got.extra.read == r)]
            if first < 5000 < first + 150 and min(5000 - first, first - 4850) >= 30:
                assert sorted(spans) == sorted([(first, 5000 - first), (0, first - 4850)])
            elif first >= 5000 or first + 150 <= 5000:
                assert spans == [(first % 5000, 150)]
