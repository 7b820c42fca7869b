# SPDX-License-Identifier: Apache-2.0
"""What a gVCF's INFO says about mapping quality, as GATK, DeepVariant and megabolt write it."""

from __future__ import annotations

import pytest

from megabolt.formats.gvcf import _mapping_quality


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (b"DP=10;MQ=60", (36000.0, 10)),
        (b"DP=10;RAW_MQandDP=7200,2", (7200.0, 2)),
        (b"DP=10", (0.0, 0)),
        (b"DP=0;MQ=NaN", (0.0, 0)),
        (b"DP=.;MQ=60", (0.0, 0)),
        (b"DP=3;MQ=.", (0.0, 0)),
        (b".", (0.0, 0)),
    ],
)
def test_mapping_quality(info: bytes, expected: tuple[float, int]) -> None:
    assert _mapping_quality(info) == expected


@pytest.mark.parametrize("info", [b"DP=10;MQ=high", b"DP=x;MQ=60", b"RAW_MQandDP=7200", b"RAW_MQandDP=a,2"])
def test_a_word_for_a_number_is_no_silence(info: bytes) -> None:
    with pytest.raises(ValueError, match=r"float|int"):
        _mapping_quality(info)
