# SPDX-License-Identifier: Apache-2.0
"""Ordered work: results in order, bounded, the first error ends it."""

from __future__ import annotations

import threading
import time

import pytest

from megabolt.workflow.ordered import Room, in_order, worker_pool


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_square(x: int) -> int:
        time.sleep(0.002 * (7 - x % 7))
        return x * x

    with worker_pool(4) as pool:
        assert list(in_order(pool, slow_square, range(40), ahead=6)) == [x * x for x in range(40)]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_no_more_items_are_drawn_than_allowed(ahead: int) -> None:
    drawn = 0

    def items():
        nonlocal drawn
        for k in range(20):
            drawn += 1
            yield k

    with worker_pool(2) as pool:
        for taken, _ in enumerate(in_order(pool, lambda k: k, items(), ahead)):
            assert drawn <= taken + ahead + 1


def test_an_error_comes_at_its_place_and_drops_the_rest() -> None:
    begun, gate = [], threading.Event()

    def work(k: int) -> int:
        begun.append(k)
        if k == 2:
            raise ValueError("two")
        if k > 2:
            gate.wait(5)
        return k

    taken = []

    def job() -> None:
        with worker_pool(1) as pool:
            try:
                for k in in_order(pool, work, range(100), ahead=50):
                    taken.append(k)
            finally:
                gate.set()

    with pytest.raises(ValueError, match="two"):
        job()
    assert taken == [0, 1]
    assert len(begun) < 10


def test_an_error_of_the_source_comes_out() -> None:
    def items():
        yield 1
        raise OSError("gone")

    with worker_pool(2) as pool, pytest.raises(OSError, match="gone"):
        list(in_order(pool, lambda k: k, items(), 3))


def test_items_wait_for_room_but_one_always_begins() -> None:
    room, begun = Room(10), []
    sizes = [4, 4, 4, 20, 1, 1]

    def admitted():
        for size in sizes:
            yield size
            room.take(size)
            begun.append(size)

    at_work = []
    with worker_pool(1) as pool:
        for size in in_order(pool, lambda size: size, admitted(), 9, room.fits):
            at_work.append(sum(begun) - sum(sizes[: len(at_work)]))
            room.give_back(size)
    assert len(at_work) == len(sizes)
    assert max(at_work) == 20  # the large one, alone
    assert max(at_work[:2]) <= 10
