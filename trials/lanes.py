"""Lanes: threads that train the rows of a device side by side, each on a share of its CPUs.

Threads that share one step wait for each other dozens of times in it, so any other busy process on the machine
makes the step several times slower. Threads with a step each wait for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Lanes:
    """So many threads, each of which computes with so many of torch's; a single lane is the thread that calls.

    OpenMP gives up spinning where a process has more of its threads than CPUs, idle ones too; steps then take twice as
    long.
    """

    def __init__(self, count: int, threads: int) -> None:
        self._count = count
        self._threads = threads
        self._pool = ThreadPoolExecutor(count, "lane", torch.set_num_threads, (threads,))

    def work_off(self, items: Iterable[Item], work: Callable[[Item], Item | None]) -> None:
        """Each lane takes the first item that waits; what is left of it after `work` goes to the end of the queue.

        Returns when no item is left; an error is raised when the other lanes have come to an end.
        """
        waiting = deque(items)

        def lane() -> None:
            while waiting:
                try:
                    item = waiting.popleft()
                except IndexError:  # another lane was faster
                    return
                left = work(item)
                if left is not None:
                    waiting.append(left)

        if self._count == 1:
            torch.set_num_threads(self._threads)
            lane()
            return
        futures = [self._pool.submit(lane) for _ in range(min(self._count, len(waiting)))]
        wait(futures)
        for future in futures:
            future.result()
