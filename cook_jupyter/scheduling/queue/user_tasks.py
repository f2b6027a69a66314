"""The tasks of one user in a pool, in Cook's order.

Lives here: `UserTasks`, two sorted lists of rows: running tasks and waiting jobs. Starting the first waiting
job, adding one at the end and finding any are cheap, even among 100,000 jobs.
Not here: the columns (`scheduling.arrays`), the index that changes the lists
(`scheduling.queue.queue_index`).
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from cook_jupyter.scheduling.arrays import Counts, Floats, Integers, Rows


class UserTasks:
    """The tasks of one user in the pool. Only its `QueueIndex` may change it.

    Attributes:
        name: the user.
        number: position of the user in per-user columns.
        started: rows of running tasks, in order.
        keys: sort keys of running tasks: priority, start, order of equal starts, creation.
        sums: cpus, memory and gpus of running tasks; None if they have to be added up again.
    """

    __slots__ = ("_head", "_too_large", "_waiting", "keys", "name", "number", "started", "sums")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self._waiting = array("i")
        self._head = 0  # elements before it were removed
        self._too_large: tuple[float, float, int] | None = (
            None  # a cache: cpus, mem, and the end of the jobs that request more
        )
        self.keys: list[tuple[int, int, int, int]] = []
        self.started = array("i")
        self.sums: tuple[float, float, float] | None = (0.0, 0.0, 0.0)

    @property
    def waiting_count(self) -> int:
        """The number of waiting jobs."""
        return len(self._waiting) - self._head

    def first_waiting(self, count: int) -> "array[int]":
        """Return the rows of the first waiting jobs, in order."""
        return self._waiting[self._head : self._head + count]

    def waiting(self, limit: int | None = None) -> Rows:
        """Return the rows of the first `limit` waiting jobs, or of all, in order."""
        count = self.waiting_count if limit is None else min(limit, self.waiting_count)
        if count == 0:
            return np.empty(0, dtype=np.int32)
        # A copy, because a view would prevent the array from growing.
        return np.frombuffer(self._waiting, dtype=np.int32, count=count, offset=4 * self._head).copy()

    def iter_waiting(self, start: int = 0) -> Iterator[int]:
        """Yield the rows of waiting jobs in order from `start`. The index must not change meanwhile."""
        waiting = self._waiting
        for position in range(self._head + start, len(waiting)):
            yield waiting[position]

    def too_large(self, cpus: float, mem: float, all_cpus: Floats, all_mem: Floats) -> int:
        """Return the number of too large jobs before the first other job. The result is cached.

        Args:
            cpus: maximum cpus of a job.
            mem: maximum memory of a job.
            all_cpus: cpus of jobs, by row.
            all_mem: memory of jobs, by row.
        """
        waiting, head = self._waiting, self._head
        cached = self._too_large
        position = max(cached[2], head) if cached is not None and cached[:2] == (cpus, mem) else head
        chunk = 1
        while position < len(waiting):
            rows = np.array(waiting[position : position + chunk])
            within = (all_cpus[rows] <= cpus) & (all_mem[rows] <= mem)
            offset = int(within.argmax())
            if within[offset]:
                position += offset
                break
            position += len(rows)
            chunk = min(chunk * 8, 1 << 16)
        self._too_large = cpus, mem, position
        return position - head

    def _shift_cache(self, position: int, shift: int) -> None:
        """Adjust the cache after elements from `position` on have moved by `shift`."""
        if self._too_large is not None and position < self._too_large[2]:
            self._too_large = None if shift > 0 else (*self._too_large[:2], self._too_large[2] + shift)

    def insert_waiting(self, row: int, order: Counts) -> None:
        """Insert a row at the position of its order key."""
        waiting = self._waiting
        key = order[row]
        if len(waiting) == self._head or order[waiting[-1]] < key:
            waiting.append(row)
        elif self._head and key < order[waiting[self._head]]:
            self._head -= 1
            waiting[self._head] = row
            self._too_large = None
        else:
            position = bisect_left(waiting, key, lo=self._head, key=order.__getitem__)
            waiting.insert(position, row)
            self._shift_cache(position, 1)

    def remove_waiting(self, row: int, order: Counts) -> None:
        """Remove a row."""
        waiting = self._waiting
        if waiting[self._head] == row:
            self._head += 1
            if self._head > 1024 and self._head * 2 > len(waiting):
                del waiting[: self._head]
                self._shift_cache(-1, -self._head)
                self._head = 0
            elif self._head == len(waiting):
                self._waiting = array("i")
                self._head = 0
                self._too_large = None
            return
        position = bisect_left(waiting, order[row], lo=self._head, key=order.__getitem__)
        del waiting[position]
        self._shift_cache(position, -1)

    def position_of(self, row: int, order: Counts) -> int:
        """Return the number of waiting jobs before one of them."""
        waiting = self._waiting
        return bisect_left(waiting, order[row], lo=self._head, key=order.__getitem__) - self._head

    def merge_waiting(self, rows: Rows, order: Integers) -> None:
        """Insert many rows, given in order, at the positions of their order keys."""
        waiting = self._waiting
        if len(waiting) > self._head and order[waiting[-1]] > order[rows[0]]:
            rows = np.concatenate((self.waiting(), rows))
            rows = rows[np.argsort(order[rows], kind="stable")]
            waiting = self._waiting = array("i")
            self._head = 0
            self._too_large = None
        waiting.frombytes(rows.tobytes())
