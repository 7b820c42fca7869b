# SPDX-License-Identifier: Apache-2.0
"""Slips in tandem repeats: tracts and templates against plain code, rates against the curves, who shares a slip."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.formats.fasta import Contig
from megabolt.privacy.consent import authorize
from megabolt.simulate import reads as reads_module
from megabolt.simulate.haplotypes import diploid_source
from megabolt.simulate.reads import QualityProfile, ReadOptions, Source, parse_name, plain_source, simulate_reads
from megabolt.simulate.slippage import (
    LIBRARIES,
    MAX_PERIOD,
    PCR,
    PCR_FREE,
    fill_template,
    find_tracts,
    slip_rate,
    sort_slips,
    tracts_of,
)
from megabolt.simulate.truth import reads_with_truth

FLANK = 12


@pytest.fixture(autouse=True)
def _perfect_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reads_module.PROFILES, "perfect", QualityProfile((93,), (1.0,), (1.0,)))


def options(library: str, **other: float) -> ReadOptions:
    """Reads whose only errors are slips."""
    lengths = {"length": 100, "insert_mean": 160.0, "insert_sd": 10.0, **other}
    return ReadOptions(insertion_error=0, deletion_error=0, profile="perfect", library=library, **lengths)  # type: ignore[arg-type]


def plain(function: Any) -> Any:
    """The Python function that kernels inline."""
    return function.py_func


def plain_tracts(codes: list[int], period: int) -> list[tuple[int, int]]:
    """Every maximal run, found from each of its possible first bases."""
    found = []
    for begin in range(len(codes) - period):
        if begin > 0 and codes[begin - 1] == codes[begin - 1 + period] and codes[begin - 1] < 4:
            continue
        stop = begin + period
        while stop < len(codes) and codes[stop] == codes[stop - period] and codes[stop] < 4:
            stop += 1
        unit = codes[begin : begin + period]
        primitive = not any(unit == (unit[:k] * period)[:period] for k in range(1, period) if period % k == 0)
        if stop - begin >= 2 * period and primitive:
            found.append((begin, stop - begin))
    return found


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_tracts_are_those_of_a_plain_search(period: int) -> None:
    rng = np.random.default_rng(period)
    n_found = 0
    for n_letters in (2, 3, 5):
        codes = rng.integers(0, n_letters, 3000).astype(np.uint8)
        starts, lengths = np.empty(3000, np.int64), np.empty(3000, np.int64)
        n = find_tracts(codes, period, starts, lengths)
        assert list(zip(starts[:n].tolist(), lengths[:n].tolist())) == plain_tracts(codes.tolist(), period)
        n_found += n
    assert n_found > 20


def test_tracts_do_not_cross_contigs() -> None:
    codes = encode("ACGTTTTTTTTACG")
    tracts = tracts_of(codes, np.array([0, 7, 14]), "pcr")
    assert list(zip(tracts.start.tolist(), tracts.units.tolist())) == [(3, 4), (7, 4)]
    expected = -np.log1p(-slip_rate(PCR, 1, np.array([4, 4])))
    np.testing.assert_allclose(np.diff(tracts.hazard.sum(0)), expected)


def plain_template(start: int, stop: int, slips: list[tuple[int, int, int, int]]) -> list[int]:
    """Slips are (first base, period, units, gained), each cut out of or put into a list of places."""
    places = list(range(start, stop))
    free = start
    for begin, period, units, gained in slips:
        if begin < free or begin + period * units > stop:
            continue
        k = places.index(begin)
        if gained < 0:
            free = begin - gained * period
            del places[k : k - gained * period]
        places[k:k] = [-1 - place for place in range(begin, begin + gained * period)]
    return places


def test_templates_are_those_of_plain_splicing() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 2, 600).astype(np.uint8)
    tracts = tracts_of(codes, np.array([0, 600]), "pcr")
    lengths = set()
    for _ in range(200):
        n = int(rng.integers(0, 12))
        chosen = rng.choice(len(tracts.start), n, replace=False)
        slips = np.zeros((64, 2), np.int64)
        slips[:n, 0] = chosen
        slips[:n, 1] = rng.integers(-1, 2, n)
        assert plain(sort_slips)(slips, n) == n
        listed = [
            (int(tracts.start[k]), int(tracts.period[k]), int(tracts.units[k]), int(gain)) for k, gain in slips[:n]
        ]
        template = np.zeros(2000, np.int64)
        size = plain(fill_template)(100, 500, tracts.start, tracts.period.astype(int), tracts.units, slips, n, template)
        inside = [slip for slip in listed if slip[0] >= 100]
        assert template[:size].tolist() == plain_template(100, 500, inside)
        lengths.add(size)
    assert len(lengths) > 5


def test_two_slips_of_a_tract_are_one() -> None:
    slips = np.array([[7, 1], [2, -1], [7, 1], [3, 2]] + [[0, 0]] * 60)
    n = plain(sort_slips)(slips, 4)
    assert slips[:n].tolist() == [[2, -1], [3, 2], [7, 2]]


def tract_genome(unit: str, n_units: int, n_tracts: int, seed: int) -> tuple[Source, str]:
    """Both haplotypes: tracts of one kind between random bases that no other tract's slips matter to."""
    rng = np.random.default_rng(seed)
    letters = "".join(
        decode(rng.integers(0, 4, 300).astype(np.uint8)) + "C" + unit * n_units + "G" for _ in range(n_tracts)
    )
    codes = encode(letters)
    return plain_source([[("c", codes)], [("c", codes)]]), letters


def reads_of(source: Source, n_pairs: int, chosen: ReadOptions, seed: int = 4) -> list[list[tuple[str, str]]]:
    """(name, bases in the direction of the genome) of mate 1 and mate 2."""
    text = [b"", b""]
    for batch in simulate_reads(source, n_pairs, seed, chosen):
        text = [so_far + bytes(more) for so_far, more in zip(text, batch)]
    mates = []
    for m, mate in enumerate(text):
        lines = mate.decode().split("\n")
        turned = []
        for name, bases in zip(lines[0:-1:4], lines[1::4]):
            back = parse_name(name[1:]).reverse[m]
            turned.append((name[1:], decode(reverse_complement(encode(bases))) if back else bases))
        mates.append(turned)
    return mates


def gains(reads: list[tuple[str, str]], letters: str, unit: str, n_units: int) -> dict[str, tuple[int, int]]:
    """Name -> (tract, units gained) of the reads that hold a tract and the bases around it unchanged."""
    step = 302 + len(unit) * n_units
    flanks = {}
    for k in range(len(letters) // step):
        at = k * step + 300
        flanks[letters[at - FLANK : at + 1]] = (k, letters[at + 1 + len(unit) * n_units :][:FLANK])
    found = {}
    for name, bases in reads:
        for place in range(len(bases) - FLANK):
            left = bases[place : place + FLANK + 1]
            if left in flanks:
                tract, right = flanks[left]
                stop = bases.find(right, place + FLANK + 1)
                if stop >= 0 and len(right) == FLANK:
                    inside = bases[place + FLANK + 1 : stop]
                    if inside != unit * (len(inside) // len(unit)):
                        break  # the flank has changed too
                    found[name] = (tract, len(inside) // len(unit) - n_units)
                break
    return found


@pytest.mark.parametrize(("unit", "n_units"), [("A", 12), ("AC", 10), ("AAGT", 6)])
def test_slips_are_as_frequent_as_the_curves_say(unit: str, n_units: int) -> None:
    source, letters = tract_genome(unit, n_units, 40, len(unit))
    rates = {}
    for library, curves in (("pcr-free", PCR_FREE), ("pcr", PCR)):
        seen = gains(reads_of(source, 12_000, options(library))[0], letters, unit, n_units)
        changed = sum(gain != 0 for _, gain in seen.values())
        assert len(seen) > 1000
        expected = float(slip_rate(curves, len(unit), np.array([n_units]))[0])
        spread = (expected / len(seen)) ** 0.5
        assert changed / len(seen) == pytest.approx(expected, abs=4 * spread)
        rates[library] = changed / len(seen)
        single = sum(abs(gain) == 1 for _, gain in seen.values())
        assert 0.65 * changed <= single < changed
    assert rates["pcr"] > 2 * rates["pcr-free"]
    assert set(gains(reads_of(source, 500, options("none"))[0], letters, unit, n_units).values()) <= {
        (k, 0) for k in range(40)
    }


def test_duplicates_share_the_slips_of_pcr_and_no_others() -> None:
    source, letters = tract_genome("A", 13, 40, 9)
    shares = {}
    for library in ("pcr-free", "pcr"):
        mate = reads_of(source, 20_000, options(library, duplicates=0.6))[0]
        seen = gains(mate, letters, "A", 13)
        families: dict[str, list[int]] = {}
        for name, (_, gain) in seen.items():
            families.setdefault("_".join(name.split("_")[1:4]), []).append(gain)
        pairs: Counter[bool] = Counter()
        for members in families.values():
            for gain in members[1:]:
                if members[0] != 0:
                    pairs[gain == members[0]] += 1
        assert pairs.total() > 50
        shares[library] = pairs[True] / pairs.total()
    assert shares["pcr"] > 0.6
    assert shares["pcr-free"] < 0.15


def test_mates_that_overlap_in_a_tract_agree() -> None:
    source, letters = tract_genome("A", 13, 40, 10)
    first, second = (gains(mate, letters, "A", 13) for mate in reads_of(source, 8000, options("pcr", insert_mean=120)))
    both = first.keys() & second.keys()
    assert sum(first[name][1] != 0 for name in both) > 100
    assert all(first[name] == second[name] for name in both)


def test_truth_bam_holds_the_slips(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    codes: NDArray[np.uint8] = np.concatenate(
        [np.concatenate([rng.integers(0, 4, 60), np.full(12, k % 4), np.tile([0, 1], 9)]) for k in range(40)]
    ).astype(np.uint8)
    permit = authorize("test", "simulate", open_data="simulated for a test")
    source = diploid_source([("c", codes)], [])
    path = tmp_path / "truth.bam"
    text = [b"", b""]
    named = [Contig("c", len(codes), "")]
    for batch in reads_with_truth(source, 1500, 3, options("pcr"), named, path, permit, pairs_per_batch=400):
        text = [so_far + bytes(more) for so_far, more in zip(text, batch)]
    bases = [mate.decode().splitlines()[1::4] for mate in text]
    operations: Counter[int] = Counter()
    with pysam.AlignmentFile(str(path), check_sq=False) as file:
        for i, record in enumerate(file):
            read = encode(bases[i % 2][i // 2])
            read = reverse_complement(read) if record.is_reverse else read
            assert record.reference_start == parse_name(str(record.query_name)).start[i % 2]
            for query, place in record.get_aligned_pairs(matches_only=True):
                assert read[query] == codes[place]
            operations.update(operation for operation, _ in record.cigartuples or ())
    assert operations[1] > 300
    assert operations[2] > 300


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown library 'nano'"):
        ReadOptions(library="nano")
    assert LIBRARIES["none"].outside == pytest.approx(ReadOptions().insertion_error + ReadOptions().deletion_error)
