# SPDX-License-Identifier: Apache-2.0
"""From counts to qualities: the estimate, the hierarchy, quantising, and how records are changed."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from megabolt.errors import UsageError
from megabolt.formats.bam_records import RecordBlock
from megabolt.recalibrate import (
    Applier,
    ApplyOptions,
    CountOptions,
    Counts,
    GroupMap,
    Recalibration,
    fit,
    keep_original_qualities,
)
from megabolt.recalibrate.quantize import quantize, static_levels
from megabolt.recalibrate.table import empirical_quality, reported_quality
from megabolt.testing.records import HandRead, pack

ONE_GROUP = GroupMap.of_pairs([("a", "unit")])
REVERSE, SECOND = 0x10, 0x81


def block_of(reads: list[HandRead], tag: bytes = b"RGZa\0") -> RecordBlock:
    """Records with the tag RG."""
    records = []
    for k, read in enumerate(reads):
        record = bytearray(pack(read, k) + tag)
        record[0:4] = (len(record) - 4).to_bytes(4, "little")
        records.append(bytes(record))
    offsets = np.cumsum([0, *map(len, records)]).astype(np.int64)
    return RecordBlock(np.frombuffer(b"".join(records) + bytes(1024), np.uint8).copy(), offsets)


def qualities(block: RecordBlock, i: int = 0) -> list[int]:
    at = int(block.offsets[i])
    name, length = int(block.data[at + 12]), int(block.data[at + 20 : at + 24].view(np.int32)[0])
    n = int(block.data[at + 16 : at + 18].view(np.uint16)[0])
    first = at + 36 + name + 4 * n + (length + 1) // 2
    return [int(one) for one in block.data[first : first + length]]


def estimate_slowly(bases: int, errors: float, expected: float) -> int:
    """The quality with the highest posterior, with the binomial probability in full."""
    n, k = bases + 2, math.floor(errors + 0.5) + 1
    best, found = -math.inf, 0
    for q in range(1, 61):
        difference = abs(int(q - expected))
        if difference > 19:
            continue
        p = 10 ** (-q / 10)
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        value = -2 * difference**2 + ways + k * math.log(p) + (n - k) * math.log1p(-p)
        if value > best + 1e-9:
            best, found = value, q
    return found


def test_estimates() -> None:
    draw = random.Random(1)
    cases = [(draw.choice([1, 10, 1000, 10**6, 10**8]), draw.uniform(2, 45)) for _ in range(400)]
    bases = np.array([draw.randint(1, n) for n, _ in cases], np.int64)
    errors = np.array([draw.choice([0.0, 0.0001, 0.01]) * n for n in bases]).round(2)
    expected = np.array([q for _, q in cases])
    found = empirical_quality(bases, errors, expected)
    assert found.tolist() == [estimate_slowly(int(n), e, q) for n, e, q in zip(bases, errors, expected)]
    assert len(set(found.tolist())) > 20


def test_estimates_worked_by_hand() -> None:
    """Without bases the expectation stands; many bases overrule it; nothing moves by more than 19."""
    bases = np.array([0, 10**7, 10**9, 3 * 10**9], np.int64)
    errors = np.array([0.0, 10000.0, 0.0, 3.0e6])
    assert empirical_quality(bases, errors, np.array([25.0, 20.0, 20.0, 28.0])).tolist() == [25, 30, 39, 30]


def test_mean_reported_quality() -> None:
    bases = np.zeros(94, np.int64)
    assert math.isnan(reported_quality(bases))
    bases[[20, 30]] = 1000, 3000
    assert reported_quality(bases) == round(-10 * math.log10((1000 * 0.01 + 3000 * 0.001) / 4000), 4)


def counts_of(cells: dict[tuple[int, int, int], tuple[int, int]], max_cycle: int = 10) -> Counts:
    """Counts of (quality, cycle, context) -> (bases, errors) in one row."""
    counts = Counts.empty(1, max_cycle)
    for (quality, cycle, context), (bases, errors) in cells.items():
        counts.by_cycle[0, quality, max_cycle + cycle] += bases
        counts.cycle_errors[0, quality, max_cycle + cycle] += errors
        counts.by_context[0, quality, context] += bases
        counts.context_errors[0, quality, context] += errors
    return counts


def recalibration() -> Recalibration:
    """Q30 is worth 20 on the whole, 10 in cycle 2, 23 behind an A; the rest follows."""
    cells = {(30, 1, 16): (10**6, 10**4), (30, 2, 0): (10**5, 10**4), (30, 3, 1): (10**6, 5000), (20, -1, 16): (10, 0)}
    return fit(("unit",), counts_of(cells))


def test_hierarchy() -> None:
    table = recalibration()
    assert table.base_quality[0, 30] == 19
    assert table.cycle_quality[0, 30, 12] == 10
    assert table.context_quality[0, 30, 0] == 10
    assert table.context_quality[0, 30, 1] == 23
    assert table.base_quality[0, 25] == table.base_quality[0, 93]  # nothing counted: as the read group
    assert table.histogram.sum() == 2_100_010


def test_records_get_the_sum_of_the_shifts() -> None:
    table = recalibration()
    block = block_of([HandRead(0, "4M", "AACG", quality=(30, 30, 30, 5)), HandRead(0, "4M", "AACG", flag=SECOND)])
    Applier(table, ONE_GROUP).apply(block)
    base, cycle, context = table.base_quality[0, 30], table.cycle_quality[0, 30], table.context_quality[0, 30]
    wanted = [cycle[11], max(1, cycle[12] + context[0] - base), cycle[13] + context[1] - base, 5]
    assert qualities(block) == wanted
    assert qualities(block, 1) == [table.base_quality[0, 35]] * 4  # cycles and quality never seen


def test_reverse_reads_are_changed_as_sequenced() -> None:
    table = recalibration()
    forward, backward = HandRead(0, "4M", "AACN", quality=30), HandRead(0, "4M", "NGTT", quality=30, flag=REVERSE)
    block = block_of([forward, backward])
    Applier(table, ONE_GROUP).apply(block)
    assert qualities(block, 1) == qualities(block)[::-1]
    assert len(set(qualities(block))) == 4


def test_tails_of_low_quality_give_no_context() -> None:
    table = recalibration()
    block = block_of([HandRead(0, "3M", "AAC", quality=(2, 30, 30)), HandRead(0, "3M", "NAC", quality=(2, 30, 30))])
    Applier(table, ONE_GROUP).apply(block)
    assert qualities(block) == qualities(block, 1)


def test_records_that_stay() -> None:
    """Without group, without qualities, of a group without bases."""
    table = recalibration()
    reads = [HandRead(0, "4M", "AACG", quality=30)]
    other = GroupMap.of_pairs([("a", "elsewhere")])
    for groups, block in (
        (ONE_GROUP, block_of(reads, b"NMC\0")),
        (other, block_of(reads)),
        (ONE_GROUP, block_of([HandRead(0, "4M", "AACG", quality=255)])),
    ):
        before = block.data.copy()
        Applier(table, groups).apply(block)
        assert np.array_equal(block.data, before)
    with pytest.raises(UsageError, match="read group that the header lacks"):
        Applier(table, ONE_GROUP).apply(block_of(reads, b"RGZb\0"))


def test_cycles_beyond_the_table() -> None:
    table = recalibration()
    block = block_of([HandRead(0, "14M", "N" * 14, quality=30)])
    Applier(table, ONE_GROUP).apply(block)
    assert qualities(block)[10:] == [int(table.base_quality[0, 30])] * 4


def test_original_qualities_are_kept() -> None:
    block = block_of([HandRead(0, "3M", "ACG", quality=(2, 30, 40)), HandRead(0, "1M", "A", quality=255)])
    kept = keep_original_qualities(block)
    records = [kept.data[kept.offsets[i] : kept.offsets[i + 1]].tobytes() for i in range(2)]
    originals = [block.data[block.offsets[i] : block.offsets[i + 1]].tobytes() for i in range(2)]
    assert records[0][4:] == originals[0][4:] + b"OQZ#?I\0"
    assert int.from_bytes(records[0][:4], "little") == len(records[0]) - 4
    assert records[1] == originals[1]
    again = keep_original_qualities(kept)
    assert np.array_equal(again.data, kept.data)


def test_quantising_merges_what_costs_least() -> None:
    histogram = np.zeros(94, np.int64)
    histogram[[10, 20, 21, 40]] = 1000, 5000, 5000, 10000
    chosen = quantize(histogram, 94)
    assert chosen.tolist() == list(range(94))
    chosen = quantize(histogram, 5)
    assert [int(chosen[q]) for q in (10, 20, 21, 40)] == [10, 20, 21, 40]
    chosen = quantize(histogram, 4)  # 20 and 21 are nearest
    assert [int(chosen[q]) for q in (10, 20, 21, 40, 41)] == [10, 20, 20, 40, 93]
    assert len(set(quantize(histogram, 1).tolist())) == 1


def test_levels_that_are_given() -> None:
    """Rounded in probability: only what is close to the next level goes up."""
    chosen = static_levels((10, 20, 30))
    assert chosen[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert [int(chosen[q]) for q in (6, 7, 8, 10, 12, 13, 20, 22, 23, 30, 60)] == [
        6,
        6,
        10,
        10,
        10,
        20,
        20,
        20,
        30,
        30,
        30,
    ]
    down = static_levels((30, 10), round_down=True)
    assert [int(down[q]) for q in (6, 9, 10, 29, 30, 93)] == [6, 6, 10, 10, 30, 30]
    assert static_levels((15,)).tolist() == [0, 1, 2, 3, 4, 5] + [15] * 88
    assert static_levels(()).tolist() == list(range(94))


def test_quantised_records() -> None:
    table = recalibration()
    read = HandRead(0, "3M", "AAC", quality=30)
    plain, fixed, few = block_of([read]), block_of([read]), block_of([read])
    Applier(table, ONE_GROUP).apply(plain)
    Applier(table, ONE_GROUP, ApplyOptions(static_levels=(10, 20, 30))).apply(fixed)
    assert qualities(fixed) == [int(static_levels((10, 20, 30))[q]) for q in qualities(plain)]
    Applier(table, ONE_GROUP, ApplyOptions(quantize_levels=2)).apply(few)
    assert qualities(few) == [int(quantize(table.histogram, 2)[q]) for q in qualities(plain)]
    Applier(table, ONE_GROUP, ApplyOptions(quantize_levels=16)).apply(few)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CountOptions(max_cycle=0),
        lambda: CountOptions(low_quality_tail=6),
        lambda: CountOptions(quantizing_levels=0),
        lambda: ApplyOptions(quantize_levels=95),
        lambda: ApplyOptions(static_levels=(2, 20)),
    ],
)
def test_impossible_options(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]
