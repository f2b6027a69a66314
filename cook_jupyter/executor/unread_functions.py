"""Calls whose function a host could not read: the function is sent again, and the call runs again.

Lives here: `UnreadFunctions`, which restores the blob of a function that was damaged or removed while calls
waited for a host, and returns the lost attempt to each of those calls.
Not here: detecting damaged blobs when a function is submitted, the cache of pickles (`executor.functions`).

A host that cannot read the function signs that into the result. It notices before user code runs, so such an
attempt has not started.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cook_jupyter.errors import CookError

if TYPE_CHECKING:
    from cook_jupyter.client.events import JobEvent
    from cook_jupyter.executor.connection import SchedulerConnection
    from cook_jupyter.executor.functions import StoredFunctions
    from cook_jupyter.executor.future import CookFuture
    from cook_jupyter.payload.encoding import FunctionBlob

logger = logging.getLogger("cook_jupyter.executor")

MAX_SENT_AGAIN = 5  # per call: a store that loses a blob more often would lose it again


class UnreadFunctions:
    """Sends functions again that a host could not read.

    Args:
        scheduler: connection to the scheduler that has the calls.
        functions: functions of the session, of which the most recently sent are cached.
        run_in_background: function that runs another in a thread of its own.
    """

    def __init__(
        self,
        scheduler: SchedulerConnection,
        functions: StoredFunctions,
        run_in_background: Callable[[Callable[[], object]], None],
    ) -> None:
        self._scheduler = scheduler
        self._functions = functions
        self._run_in_background = run_in_background
        self._lock = threading.Lock()
        self._returning: dict[str, _ReturningAttempts] = {}  # by key

    def is_returning(self, future: CookFuture) -> bool:
        """Return whether a job is about to get an attempt back."""
        return future.key in self._returning

    def run_again(
        self, future: CookFuture, instance_id: str, digest: str, give_up: Callable[[], object]
    ) -> bool:
        """Send the function of a failed call again and let the call run again, if possible.

        Args:
            future: future of the call.
            instance_id: instance that could not read the function.
            digest: SHA-256 of the function.
            give_up: callback if the request to the scheduler fails.

        Returns:
            Whether the call runs again, or `give_up` will be called; if False, nothing will happen.
        """
        if instance_id in future.unread:  # known from another event
            return True
        blob = self._functions.blob(digest)
        if blob is None or len(future.unread) >= MAX_SENT_AGAIN:
            return False
        future.unread.add(instance_id)
        with self._lock:
            self._returning.setdefault(future.key, _ReturningAttempts()).count += 1
        self._run_in_background(lambda: self._send_again(future, blob, give_up))
        return True

    def defer_end(self, future: CookFuture, event: JobEvent, complete: Callable[[], object]) -> bool:
        """Defer the end of a job that is about to get an attempt back, and may therefore run again.

        The next attempt may be faster than the request that returns the last one.

        Args:
            future: future of the job.
            event: end of the job.
            complete: callback for later, if the end is final.

        Returns:
            Whether the end was deferred; if not, `complete` will not be called.
        """
        with self._lock:
            returning = self._returning.get(future.key)
            if returning is None:
                return False
            returning.end = event, complete
            return True

    def _send_again(self, future: CookFuture, blob: FunctionBlob, give_up: Callable[[], object]) -> None:
        scheduler = self._scheduler
        try:
            scheduler.store.put(blob.name, blob.pieces)
            if not future.done():  # otherwise it was cancelled meanwhile
                scheduler.call(lambda client: client.retry(future.key, increment=1))
                if future.done():
                    scheduler.call(lambda client: client.kill([future.key]))
            logger.info(
                "the function of job %s was damaged or removed in %s while the job waited; it was sent again",
                future.key,
                scheduler.store.url,
            )
        except (CookError, OSError) as error:
            logger.warning("The function of job %s could not be sent again: %s", future.key, error)
            give_up()
        finally:
            self._on_returned(future)

    def _on_returned(self, future: CookFuture) -> None:
        """When all attempts are returned, complete a job that has ended meanwhile and does not run again."""
        with self._lock:
            returning = self._returning[future.key]
            returning.count -= 1
            if returning.count:
                return
            del self._returning[future.key]
        if returning.end is None or future.done():
            return
        event, complete = returning.end
        try:
            job = self._scheduler.call(lambda client: client.job(future.key))
        except CookError as error:
            logger.warning("The state of job %s is unknown, and its last end counts: %s", future.key, error)
        else:
            if not job.is_completed or len(job.instances) > event.attempts:
                return  # another attempt has ended it, or will
        complete()


class _ReturningAttempts:
    """Attempts that are being returned to a job, and the end of the job that was received meanwhile."""

    def __init__(self) -> None:
        self.count = 0
        self.end: tuple[JobEvent, Callable[[], object]] | None = None
