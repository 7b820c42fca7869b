# SPDX-License-Identifier: Apache-2.0
"""Mitochondria: shares of alleles, heteroplasmy of five in a hundred, errors of sequencing that are none."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.mixture import fit_shares
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.testing.records import REVERSE, HandRead, TextReference, make_block, random_reference

LENGTH = 2000
TEXT = random_reference(LENGTH, 21)
REFERENCE = TextReference({"chrM": TEXT})
QUALITY = 30


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 2) % 4]


def mixture(shares: list[tuple[float, str]], depth: int, seed: int = 1, one_strand: str = "") -> RecordBlock:
    """Reads of sequences of the reference's length, each with its share, with errors at their base quality.

    one_strand: a sequence of which only forward reads are taken.
    """
    generator = np.random.default_rng(seed)
    reads = []
    texts = [text for _, text in shares]
    chances = [share for share, _ in shares]
    for _ in range(depth * LENGTH // 100):
        start = int(generator.integers(0, LENGTH - 100))
        text = texts[int(generator.choice(len(texts), p=chances))]
        reverse = bool(generator.integers(0, 2)) and text != one_strand
        bases = list(text[start : start + 100])
        for i in np.flatnonzero(generator.random(100) < 10 ** (-QUALITY / 10)).tolist():
            bases[i] = "ACGT"[("ACGT".index(bases[i]) + int(generator.integers(1, 4))) % 4]
        flag = REVERSE if reverse else 0
        reads.append(HandRead(start, "100M", "".join(bases), quality=QUALITY, flag=flag))
    return make_block(sorted(reads, key=lambda read: read.start))


def changed(*positions: int) -> str:
    text = list(TEXT)
    for p in positions:
        text[p] = other(text[p])
    return "".join(text)


def call(block: RecordBlock, gvcf: bool = False) -> list[VcfRecord]:
    options = CallOptions(mixture=frozenset({0}))
    return call_chunk(block, REFERENCE, 0, 0, LENGTH, options, gvcf=gvcf).variants


def test_shares_are_those_of_clear_templates() -> None:
    fits = np.log10(np.where(np.arange(100)[:, None] < 7, [[0.001, 0.999]], [[0.999, 0.001]]))
    shares, likelihood = fit_shares(fits)
    assert shares[1] == pytest.approx(0.07, abs=0.002)
    _, alone = fit_shares(fits[:, :1])
    assert likelihood - alone > 10


@pytest.mark.parametrize("depth", [500, 2000])
def test_heteroplasmy_of_five_in_a_hundred_is_found(depth: int) -> None:
    records = call(mixture([(0.95, changed(300)), (0.05, changed(300, 900))], depth))
    assert [(r.start, r.genotype["GT"], r.filter) for r in records] == [(300, "1", "PASS"), (900, "0/1", "PASS")]
    assert float(records[0].genotype["AF"][0]) == pytest.approx(1, abs=0.01)
    assert float(records[1].genotype["AF"][0]) == pytest.approx(0.05, abs=0.02)
    assert records[1].alts == (other(TEXT[900]),)


def test_errors_of_sequencing_are_no_heteroplasmy() -> None:
    assert call(mixture([(1.0, TEXT)], 3000)) == []


def test_an_allele_of_one_strand_is_marked() -> None:
    odd = changed(900)
    (record,) = call(mixture([(0.9, TEXT), (0.1, odd)], 1500, one_strand=odd))
    assert record.start == 900
    assert record.filter == "StrandBias"


def test_an_indel_has_a_share() -> None:
    reads = []
    for k in range(600):
        start = 900 + k % 90
        if k % 10:
            reads.append(HandRead(start, "100M", TEXT[start : start + 100], f"r{k}", flag=REVERSE * (k % 2)))
        else:
            n = 1000 - start
            text = TEXT[start:1000] + TEXT[1006 : 1006 + 100 - n]
            reads.append(HandRead(start, f"{n}M6D{100 - n}M", text, f"r{k}", flag=REVERSE * (k // 10 % 2)))
    (record,) = call(make_block(sorted(reads, key=lambda read: read.start)))
    assert len(record.ref) - len(record.alts[0]) == 6
    assert record.genotype["GT"] == "0/1"
    assert float(record.genotype["AF"][0]) == pytest.approx(0.1, abs=0.03)


def test_a_gvcf_of_a_mixture_names_what_was_not_seen() -> None:
    records = call(mixture([(0.8, TEXT), (0.2, changed(900))], 300), gvcf=True)
    assert [r.alts[-1] for r in records] == [NON_REF]
    assert len(records[0].genotype["AF"]) == len(records[0].alts)
