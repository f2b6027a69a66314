"""Futures that have not ended: who waits for which job, and how far each job is.

Lives here: the futures of one session by key, the steps between stages that several threads take, and waiting
until jobs have reached the scheduler.
Not here: which steps there are (`executor.stages`), what a future is (`executor.future`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.stages import Stage


class PendingFutures:
    """The futures of a session that have not ended. Any thread may ask and change it."""

    def __init__(self) -> None:
        self._futures: dict[str, CookFuture] = {}
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)  # a job reached another stage, or will not be sent

    def __len__(self) -> int:
        return len(self._futures)

    def get(self, key: str) -> CookFuture | None:
        """Return the future of a job; None if nobody waits for it."""
        return self._futures.get(key)

    def all(self) -> list[CookFuture]:
        """Return the futures as they are now."""
        return list(self._futures.values())

    def add(self, future: CookFuture) -> None:
        """Count a future as not ended."""
        self._futures[future.key] = future

    def discard(self, future: CookFuture) -> None:
        """Count a future as ended."""
        self._futures.pop(future.key, None)

    def adopt(self, futures: Iterable[CookFuture]) -> None:
        """Add futures of jobs that the scheduler has already."""
        with self._lock:
            for future in futures:
                future.advance(Stage.ACCEPTED)
                self._futures[future.key] = future

    def begin_sending(self, futures: Iterable[CookFuture]) -> set[CookFuture]:
        """Take those of the futures for sending that were neither withdrawn nor ended."""
        with self._lock:
            taken = {future for future in futures if future.stage is Stage.QUEUED and not future.done()}
            for future in taken:
                future.advance(Stage.SENDING)
        return taken

    def withdraw(self, futures: Iterable[CookFuture]) -> list[CookFuture]:
        """Take those of the futures back that have not been taken for sending; return them."""
        with self._lock:
            queued = [future for future in futures if future.stage is Stage.QUEUED and not future.done()]
            for future in queued:
                self._futures.pop(future.key, None)
                future.advance(Stage.WITHDRAWN)
        return queued

    def accept(self, futures: Iterable[CookFuture]) -> None:
        """Record that the scheduler has the jobs of these futures."""
        with self._moved:
            for future in futures:
                if future.stage is not Stage.ACCEPTED:  # an event may have been faster than the answer
                    future.advance(Stage.ACCEPTED)
            self._moved.notify_all()

    def refuse(self, futures: Iterable[CookFuture], error: BaseException) -> None:
        """Let the futures of jobs raise an error that the scheduler will not have."""
        for future in futures:
            self._futures.pop(future.key, None)
            future.resolve(error=error)
        with self._moved:
            self._moved.notify_all()

    def accepted(self) -> list[CookFuture]:
        """Return the futures whose jobs the scheduler has."""
        with self._lock:
            return [future for future in self._futures.values() if future.stage is Stage.ACCEPTED]

    def wait_until_delivered(self, futures: Sequence[CookFuture], timeout_s: float) -> bool:
        """Wait until jobs have reached the scheduler, or are over; return whether they have."""
        with self._moved:
            return self._moved.wait_for(
                lambda: all(future.stage is Stage.ACCEPTED or future.done() for future in futures), timeout_s
            )

    def wait_until_all_sent(self, timeout_s: float) -> None:
        """Wait until the scheduler has all jobs."""
        with self._moved:
            self._moved.wait_for(
                lambda: all(future.stage is Stage.ACCEPTED for future in self.all()), timeout_s
            )

    def fail_in_fork(self, error: BaseException) -> None:
        """In a forked child, whose locks may be held for ever: end all futures with an error."""
        for future in self.all():
            future.fail_in_fork(error)
        self._futures.clear()
