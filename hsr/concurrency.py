# SPDX-License-Identifier: Apache-2.0
"""Work on many items by several threads, with the results in order and few of them in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, tasks_per_thread: int
) -> Generator[_Result]:
    """Yields the results of a function for each item, in order.

    Args:
        function: The work; an exception that it raises ends everything.
        items: Its arguments.
        threads: Threads that work; 0: the calling one.
        tasks_per_thread: Items that are taken ahead for each thread, so that none is idle.
    """
    if threads == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == threads * tasks_per_thread:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for task in waiting:
                task.cancel()
