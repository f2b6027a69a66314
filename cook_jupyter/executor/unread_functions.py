"""Calls whose function no host could read: the function is sent again, and the call runs again.

Lives here: `UnreadFunctions`, which puts back the blob of a function that was damaged or removed while calls
waited for a host, and gives each of those calls back the attempt that it lost.
Not here: blobs that are found damaged when a function is submitted, which pickles are kept
(`executor.functions`).

A host signs into the result that it could not read the function, which it finds out before code of the user
runs: so an attempt that ended in this way never began.
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

MAX_SENT_AGAIN = 5  # times for one call: a store that loses a blob so often would lose it for ever


class UnreadFunctions:
    """Sends functions again that a host could not read.

    Args:
        scheduler: the scheduler that has the calls.
        functions: the functions of the session, of which those that were sent last are kept.
        run_in_background: runs a function in a thread of its own.
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
        self._returning: dict[str, _Returning] = {}  # by key

    def gives_back(self, future: CookFuture) -> bool:
        """Return whether a job is about to get an attempt back."""
        return future.key in self._returning

    def run_again(
        self, future: CookFuture, instance_id: str, digest: str, give_up: Callable[[], object]
    ) -> bool:
        """Send the function of a failed call again and let the call run again, if that is possible.

        Args:
            future: the future of the call.
            instance_id: the instance that could not read the function.
            digest: the SHA-256 of the function.
            give_up: called if the scheduler does not take the request.

        Returns:
            Whether the call runs again, or `give_up` will be called; if not, nothing will happen.
        """
        if instance_id in future.unread:  # heard of before, through another event
            return True
        blob = self._functions.blob(digest)
        if blob is None or len(future.unread) >= MAX_SENT_AGAIN:
            return False
        future.unread.add(instance_id)
        with self._lock:
            self._returning.setdefault(future.key, _Returning()).count += 1
        self._run_in_background(lambda: self._send_again(future, blob, give_up))
        return True

    def hold_back(self, future: CookFuture, event: JobEvent, complete: Callable[[], object]) -> bool:
        """Hold the end of a job back that gets an attempt back, and may therefore run again.

        The next attempt may be faster than the request that gives the last one back.

        Args:
            future: the future of the job.
            event: the end of the job.
            complete: called later if the end stands.

        Returns:
            Whether the end is held back; if not, `complete` will not be called.
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
            if not future.done():  # else it was cancelled meanwhile
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
            self._returned(future)

    def _returned(self, future: CookFuture) -> None:
        """Once all attempts are back, complete a job that has ended meanwhile and does not run again."""
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
            logger.warning("How job %s stands is not known, and its last end counts: %s", future.key, error)
        else:
            if not job.is_completed or len(job.instances) > event.attempts:
                return  # another attempt ends it, or has ended it
        complete()


class _Returning:
    """Attempts of one job that are being given back, and the end of the job that came meanwhile."""

    def __init__(self) -> None:
        self.count = 0
        self.end: tuple[JobEvent, Callable[[], object]] | None = None
