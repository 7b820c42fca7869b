# SPDX-License-Identifier: Apache-2.0
"""The FASTQ kernels against plain Python, at every place of the 64-byte blocks."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.compute.bits import PADDING
from megabolt.formats import fastq_scan as scan


def padded(text: bytes) -> np.ndarray:
    """The bytes, and newlines behind them that must not be seen."""
    return np.frombuffer(text + b"\n" * PADDING, np.uint8).copy()


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 127, 128, 1000])
def test_newlines(n: int) -> None:
    rng = np.random.default_rng(n)
    text = rng.choice(list(b"A\n"), n, p=[0.9, 0.1]).astype(np.uint8).tobytes()
    expected = [i for i, c in enumerate(text) if c == 10]
    for cut in {0, n // 3, n}:
        newlines = np.empty(n + 128, np.int64)
        found = scan.find_newlines(padded(text), 0, cut, newlines, 0, n + 1)
        found = scan.find_newlines(padded(text), cut, n, newlines, found, n + 1)
        assert newlines[:found].tolist() == expected


def test_newlines_stop_early() -> None:
    newlines = np.empty(5 + 64, np.int64)
    n = scan.find_newlines(padded(b"\n" * 900), 0, 900, newlines, 0, 5)
    assert 5 <= n <= 5 + 64


def parse(text: bytes, content: int = scan.MATE_1, umi: int = scan.NO_UMI) -> tuple[int, np.ndarray, list[int]]:
    """Records that are sound, the table of `fields` (of mates in turn: both tables), the fault."""
    newlines = np.empty(text.count(b"\n") + 64, np.int64)
    n = scan.find_newlines(padded(text), 0, len(text), newlines, 0, len(newlines) - 64)
    fields, others = (np.zeros((n // 4, scan.N_FIELDS), np.int64) for _ in range(2))
    fault, seen = np.zeros(3, np.int64), np.zeros(1, np.int64)
    sound = scan.parse_records(
        padded(text), 0, newlines, n // 4, content, umi, scan.PLAIN_LETTER, fields, others, seen, fault
    )
    return (
        sound,
        np.concatenate([fields, others]) if content in (scan.IN_TURN, scan.UNPAIRED) else fields,
        fault.tolist(),
    )


@pytest.mark.parametrize("length", [1, 2, 31, 63, 64, 65, 127, 128, 129, 150, 255, 256, 500])
def test_one_bad_byte_is_found_wherever_it_is(length: int) -> None:
    for at in {0, 1, length // 2, length - 1}:
        if at >= length:
            continue
        sequence, quality = bytearray(b"A" * length), bytearray(b"I" * length)
        good = b"@r\n%s\n+\n%s\n" % (sequence, quality)
        assert parse(good)[0] == 1
        sequence[at] = ord("!")
        assert parse(b"@r\n%s\n+\n%s\n" % (sequence, quality))[2] == [scan.BAD_BASE, 0, ord("!")]
        quality[at] = ord(" ")
        assert parse(b"@r\n%s\n+\n%s\n" % (b"A" * length, quality))[2] == [scan.BAD_QUALITY, 0, 32]


def test_every_byte_as_base_and_quality() -> None:
    for byte in set(range(256)) - {10, 13}:
        sound, _, fault = parse(b"@r\nA%cA\n+\nIII\n" % byte)
        assert (sound == 1) == (chr(byte).upper() in "ACGTNURYSWKMBDHVX.")
        if not sound:
            assert fault[0] == scan.BAD_BASE
        assert (parse(b"@r\nAAA\n+\nI%cI\n" % byte)[0] == 1) == (33 <= byte <= 126)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("r", 1),
        ("r/1", 1),
        ("r/2", None),
        ("/1", 2),
        ("r/3", 3),
        ("r1", 2),
        ("r/1 x", 1),
        ("r 1:N:0", 1),
        ("r 1:N:0:A", 1),
        ("r 2:N:0", None),
        ("r 2:Y:0", None),
        ("r 2:X:0", 1),
        ("r 2", 1),
        ("r\t2:N:0", None),
        ("n" * 70 + " 1:N:0", 70),
        ("n" * 63 + "/1", 63),
        ("n" * 64 + "/1", 64),
    ],
)
def test_names(name: str, length: int | None) -> None:
    sound, fields, fault = parse(f"@{name}\nA\n+\nI\n".encode())
    if length is None:
        assert fault[0] == scan.OTHER_MATE
    else:
        assert sound == 1
        assert fields[0, scan.NAME_LENGTH] == length


def test_first_fault_wins() -> None:
    good = b"@r\nAC\n+\nII\n"
    sound, _, fault = parse(good * 3 + b"@r\nA-\n+\nII\n" + good + b"@r\nA\n+\nII\n")
    assert (sound, fault[:2]) == (3, [scan.BAD_BASE, 3])
