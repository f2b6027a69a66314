"""Unfinished futures of a session, and the stages of their jobs.

Lives here: the futures of one session by key, changes of stages by several threads, and waiting until jobs
have reached the scheduler.
Not here: the stages themselves (`executor.stages`), futures (`executor.future`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.stages import Stage


class PendingFutures:
    """The unfinished futures of a session. Safe for use by any thread."""

    def __init__(self) -> None:
        self._futures: dict[str, CookFuture] = {}
        self._lock = threading.Lock()
        self._moved = threading.Condition(
            self._lock
        )  # notified when a job reaches another stage, or is dropped

    def __len__(self) -> int:
        return len(self._futures)

    def get(self, key: str) -> CookFuture | None:
        """Return the unfinished future of a job, or None."""
        return self._futures.get(key)

    def all(self) -> list[CookFuture]:
        """Return all unfinished futures."""
        return list(self._futures.values())

    def add(self, future: CookFuture) -> None:
        """Add an unfinished future."""
        self._futures[future.key] = future

    def discard(self, future: CookFuture) -> None:
        """Remove a future that has ended."""
        self._futures.pop(future.key, None)

    def adopt(self, futures: Iterable[CookFuture]) -> None:
        """Add futures of jobs that the scheduler already has."""
        with self._lock:
            for future in futures:
                future.advance(Stage.ACCEPTED)
                self._futures[future.key] = future

    def begin_sending(self, futures: Iterable[CookFuture]) -> set[CookFuture]:
        """Mark futures as being sent, except withdrawn or ended ones; return the marked ones."""
        with self._lock:
            sending = {future for future in futures if future.stage is Stage.QUEUED and not future.done()}
            for future in sending:
                future.advance(Stage.SENDING)
        return sending

    def withdraw(self, futures: Iterable[CookFuture]) -> list[CookFuture]:
        """Withdraw futures whose jobs are not being sent yet; return them."""
        with self._lock:
            queued = [future for future in futures if future.stage is Stage.QUEUED and not future.done()]
            for future in queued:
                self._futures.pop(future.key, None)
                future.advance(Stage.WITHDRAWN)
        return queued

    def accept(self, futures: Iterable[CookFuture]) -> None:
        """Record that the scheduler has the jobs of futures."""
        with self._moved:
            for future in futures:
                if future.stage is not Stage.ACCEPTED:  # an event may have arrived before the response
                    future.advance(Stage.ACCEPTED)
            self._moved.notify_all()

    def refuse(self, futures: Iterable[CookFuture], error: BaseException) -> None:
        """Raise an error from the futures of jobs that the scheduler will not have."""
        for future in futures:
            self._futures.pop(future.key, None)
            future.resolve(error=error)
        with self._moved:
            self._moved.notify_all()

    def accepted(self) -> list[CookFuture]:
        """Return the unfinished futures whose jobs the scheduler has."""
        with self._lock:
            return [future for future in self._futures.values() if future.stage is Stage.ACCEPTED]

    def wait_until_delivered(self, futures: Sequence[CookFuture], timeout_s: float) -> bool:
        """Wait until jobs have reached the scheduler or ended; return whether they have."""
        with self._moved:
            return self._moved.wait_for(
                lambda: all(future.stage is Stage.ACCEPTED or future.done() for future in futures), timeout_s
            )

    def wait_until_all_sent(self, timeout_s: float) -> None:
        """Wait until the scheduler has all jobs, or the time is up."""
        with self._moved:
            self._moved.wait_for(
                lambda: all(future.stage is Stage.ACCEPTED for future in self.all()), timeout_s
            )

    def fail_in_fork(self, error: BaseException) -> None:
        """Fail all futures in a forked child, whose locks may be held forever."""
        for future in self.all():
            future.fail_in_fork(error)
        self._futures.clear()
