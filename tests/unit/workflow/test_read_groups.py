# SPDX-License-Identifier: Apache-2.0
"""Read groups from the command line."""

from __future__ import annotations

import pytest

from megabolt.errors import UsageError
from megabolt.workflow.read_groups import ReadGroup, read_groups


def test_defaults_share_one_library() -> None:
    assert read_groups("S", [], 1) == (ReadGroup("S", "S", "S"),)
    assert [(g.read_group, g.library) for g in read_groups("S", [], 2)] == [("S.L1", "S"), ("S.L2", "S")]


@pytest.mark.parametrize("text", ["@RG\\tID:a\\tLB:b\\tPU:c.1\\tPL:DNBSEQ", "@RG\tID:a\tLB:b\tPU:c.1\tPL:DNBSEQ\tSM:S"])
def test_both_spellings_of_a_tab(text: str) -> None:
    (group,) = read_groups("S", [text], 1)
    assert group == ReadGroup("a", "S", "b", "DNBSEQ", "c.1")
    assert group.header_line() == "@RG\tID:a\tSM:S\tLB:b\tPL:DNBSEQ\tPU:c.1"


def test_all_fields_of_the_specification_are_kept_in_their_order() -> None:
    more = "PI:350\tCN:Centre 1\tDS:größte: Probe\tDT:2026-01-02\tPM:X\tBC:ACGT-TT\tFO:*\tKS:A\tPG:p\txy:own"
    (group,) = read_groups("S", [f"@RG\tID:a\t{more}\tLB:b"], 1)
    assert group.header_line() == f"@RG\tID:a\tSM:S\tLB:b\tPL:ILLUMINA\t{more}"


@pytest.mark.parametrize(
    ("texts", "n_lanes", "words"),
    [
        (["@RG\\tID:a"], 2, "1 read groups for 2 lanes"),
        (["@RG\\tID:a", "@RG\\tID:a"], 2, "two read groups have the ID a"),
        (["@RG\\tLB:a"], 1, "has no ID"),
        (["@RG\\tID:a\\tID:b"], 1, "has ID twice"),
        (["@RG\\tID:a\\tCN:b\\tCN:c"], 1, "has CN twice"),
        (["@RG\\tID:a\\tCN:"], 1, "'CN:' is not a field"),
        (["@RG\\tID:a\\tDS:b\nc"], 1, "is not a field"),
        (["@RG\\tID:a\\tSM:T"], 1, "SM:T, but --sample is S"),
        (["@RG\\tID:a\\tXX:T"], 1, "'XX:T' is not a field"),
        (["lane1"], 1, "'lane1' is not a field"),
    ],
)
def test_mistakes(texts: list[str], n_lanes: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_groups("S", texts, n_lanes)
