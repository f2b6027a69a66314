"""One user's tasks in a pool, in Cook's order.

Lives here: `UserTasks`, two sorted lists of rows: what runs and what waits. Starting the first waiting job,
adding one at the end and finding one in between are all cheap, also among 100,000.
Not here: what the rows say (`scheduling.arrays`), who changes them (`scheduling.queue.queue_index`).
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from cook_jupyter.scheduling.arrays import Counts, Floats, Integers, Rows


class UserTasks:
    """The tasks of one user in the pool. Read it freely; only its `QueueIndex` changes it.

    Attributes:
        name: the user.
        number: the user's place in per-user columns.
        started: rows of running tasks in order.
    """

    __slots__ = ("_head", "_large", "_waiting", "keys", "name", "number", "started", "sums")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self._waiting = array("i")
        self._head = 0  # what is before it has been taken away
        self._large: tuple[float, float, int] | None = None  # cpus, mem, and before where all ask for more
        self.keys: list[tuple[int, int, int, int]] = []  # of the running tasks: priority, start, seqs
        self.started = array("i")
        self.sums: tuple[float, float, float] | None = (0.0, 0.0, 0.0)  # cpus, mem, gpus held; None: stale

    @property
    def waiting_count(self) -> int:
        """How many jobs wait."""
        return len(self._waiting) - self._head

    def running(self) -> Rows:
        """Return the rows of running tasks, in order."""
        return np.array(self.started, dtype=np.int32)

    def first_waiting(self, count: int) -> "array[int]":
        """Return the rows of the first waiting jobs, in order."""
        return self._waiting[self._head : self._head + count]

    def waiting(self, first: int | None = None) -> Rows:
        """Return the rows of the first waiting jobs, or of all, in order."""
        count = self.waiting_count if first is None else min(first, self.waiting_count)
        if count == 0:
            return np.empty(0, dtype=np.int32)
        # A copy: a view would pin the array.
        return np.frombuffer(self._waiting, dtype=np.int32, count=count, offset=4 * self._head).copy()

    def iter_waiting(self, first: int = 0) -> Iterator[int]:
        """Yield the rows of waiting jobs in order from the `first`. The index must not change meanwhile."""
        waiting = self._waiting
        for position in range(self._head + first, len(waiting)):
            yield waiting[position]

    def too_large(self, cpus: float, mem: float, all_cpus: Floats, all_mem: Floats) -> int:
        """Return how many jobs, before the first other one, ask for more than that; remembered.

        Args:
            cpus: what a job may ask for,
            mem: and of memory.
            all_cpus: what jobs ask for, by row,
            all_mem: and of memory.
        """
        waiting, head = self._waiting, self._head
        known = self._large
        at = max(known[2], head) if known is not None and known[:2] == (cpus, mem) else head
        chunk = 1
        while at < len(waiting):
            rows = np.array(waiting[at : at + chunk])
            within = (all_cpus[rows] <= cpus) & (all_mem[rows] <= mem)
            first = int(within.argmax())
            if within[first]:
                at += first
                break
            at += len(rows)
            chunk = min(chunk * 8, 1 << 16)
        self._large = cpus, mem, at
        return at - head

    def _moved(self, at: int, by: int) -> None:
        """Heed that what stood at `at` or behind it moved."""
        if self._large is not None and at < self._large[2]:
            self._large = None if by > 0 else (*self._large[:2], self._large[2] + by)

    def insert_waiting(self, row: int, order: Counts) -> None:
        """Put a row where its order key belongs."""
        waiting = self._waiting
        key = order[row]
        if len(waiting) == self._head or order[waiting[-1]] < key:
            waiting.append(row)
        elif self._head and key < order[waiting[self._head]]:
            self._head -= 1
            waiting[self._head] = row
            self._large = None
        else:
            at = bisect_left(waiting, key, lo=self._head, key=order.__getitem__)
            waiting.insert(at, row)
            self._moved(at, 1)

    def remove_waiting(self, row: int, order: Counts) -> None:
        """Take a row out."""
        waiting = self._waiting
        if waiting[self._head] == row:
            self._head += 1
            if self._head > 1024 and self._head * 2 > len(waiting):
                del waiting[: self._head]
                self._moved(-1, -self._head)
                self._head = 0
            elif self._head == len(waiting):
                self._waiting = array("i")
                self._head = 0
                self._large = None
            return
        at = bisect_left(waiting, order[row], lo=self._head, key=order.__getitem__)
        del waiting[at]
        self._moved(at, -1)

    def position_of(self, row: int, order: Counts) -> int:
        """Return how many waiting jobs come before one of them."""
        waiting = self._waiting
        return bisect_left(waiting, order[row], lo=self._head, key=order.__getitem__) - self._head

    def merge_waiting(self, rows: Rows, order: Integers) -> None:
        """Put many rows, themselves in order, where their order keys belong."""
        waiting = self._waiting
        if len(waiting) > self._head and order[waiting[-1]] > order[rows[0]]:
            rows = np.concatenate((self.waiting(), rows))
            rows = rows[np.argsort(order[rows], kind="stable")]
            waiting = self._waiting = array("i")
            self._head = 0
            self._large = None
        waiting.frombytes(rows.tobytes())
