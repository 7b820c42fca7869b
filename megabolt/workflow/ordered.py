# SPDX-License-Identifier: Apache-2.0
"""Work in threads, results in order, a bounded number at a time; the first error ends everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def worker_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what has not begun when the block is left, and waits for what has."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="megabolt")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Room:
    """Bytes for what is begun and not finished. For one thread; more than there are is let in where nothing else is."""

    def __init__(self, n_bytes: int) -> None:
        self._free = n_bytes

    def fits(self, n_bytes: int) -> bool:
        """Whether there is room for so many more."""
        return n_bytes <= self._free

    def take(self, n_bytes: int) -> None:
        """Begin something."""
        self._free -= n_bytes

    def give_back(self, n_bytes: int) -> None:
        """It is finished."""
        self._free += n_bytes


def in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
    may_begin: Callable[[Item], bool] = lambda _: True,
) -> Generator[Result, None, None]:
    """function(item) of each item, in the order of the items; at most `ahead` + 1 are begun and not taken.

    An error comes out at its item's place; what was begun after it is dropped. Items are drawn by the
    caller's thread, as is `may_begin` asked: an item that may not begin waits until what was begun before it is taken.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            while waiting and not may_begin(item):
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
