"""Threads for blocking work: done-callbacks of users, and requests that may take long.

Lives here: a pool of daemon threads that grows while all of its threads are busy.
Not here: what is run (`executor.future`, `executor.session`).

A callback may wait for anything, even another future, so it must not run in the thread that delivers results.
The threads are daemons, so that a callback that never returns does not keep a process from exiting.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger("cook_jupyter.executor")

MAX_THREADS = 64


class CallbackThreads:
    """Runs functions in daemon threads, in the order in which they were submitted.

    Args:
        name: prefix of the threads' names.
        max_threads: maximum number of threads; when all are busy, functions are queued, which is logged.
    """

    def __init__(self, name: str, max_threads: int = MAX_THREADS) -> None:
        self._name = name
        self._max_threads = max_threads
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads = 0
        self._free = 0  # number of idle threads, minus number of queued functions
        self._closed = False
        self._warned = False

    def run(self, function: Callable[[], object]) -> None:
        """Run `function` soon, in a thread of the pool; exceptions are logged."""
        with self._lock:
            grow = self._closed or (self._free <= 0 and self._threads < self._max_threads)
            if grow:
                self._threads += 1
            else:
                self._free -= 1
            full = self._free < -self._max_threads and not self._warned
            self._warned = self._warned or full
            number = self._threads
        self._tasks.put(function)
        if grow:
            threading.Thread(target=self.work, name=f"{self._name}-{number}", daemon=True).start()
        if full:
            logger.warning(
                "all %d threads for callbacks are busy and more callbacks wait: a callback of a future takes "
                "long, or waits for something that never happens",
                self._max_threads,
            )

    def close(self) -> None:
        """End the threads when the queue is empty. Functions that are added later get a thread each."""
        with self._lock:
            self._closed = True
            threads = self._threads
        for _ in range(threads):
            self._tasks.put(None)

    def work(self) -> None:
        """Run the queued functions, in one of the threads."""
        while (function := self._tasks.get()) is not None:
            try:
                function()
            except BaseException:
                logger.exception("a callback failed")
            del function  # so that a waiting thread keeps nothing alive
            with self._lock:
                self._free += 1
                if self._closed and self._tasks.empty():
                    return
