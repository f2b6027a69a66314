"""Delivery of results to futures: reading, verifying, and fetching results that did not come with the event.

Lives here: the consequences of a job's end for its future.
Not here: which end means which error (`executor.outcomes`), opening a result (`payload.results`), receiving
the event (`executor.listener`, `executor.polled`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from cook_jupyter.client.events import JobEvent
from cook_jupyter.errors import BadExit, CookError, NotFound, ResultLost, SchedulerUnreachable, Unverifiable
from cook_jupyter.executor import outcomes
from cook_jupyter.executor.callbacks import CallbackThreads
from cook_jupyter.executor.connection import SchedulerConnection
from cook_jupyter.executor.functions import StoredFunctions
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.pending import PendingFutures
from cook_jupyter.executor.unread_functions import UnreadFunctions
from cook_jupyter.payload.results import read_result, unread_function

if TYPE_CHECKING:
    from cook_jupyter.client.sync import JobClient
    from cook_jupyter.payload.envelope import Buffer

logger = logging.getLogger("cook_jupyter.executor")

_FETCHERS = 4


class ResultDelivery:
    """Delivers the results of jobs to futures.

    Args:
        scheduler: connection to the scheduler.
        pending: unfinished futures of the session.
        functions: stored functions, of which one may turn out to be damaged.
        unread: object that sends functions again that a host could not read.
    """

    def __init__(
        self,
        scheduler: SchedulerConnection,
        pending: PendingFutures,
        functions: StoredFunctions,
        unread: UnreadFunctions,
    ) -> None:
        self._scheduler = scheduler
        self._pending = pending
        self._functions = functions
        self._unread = unread
        self._fetchers = CallbackThreads("cook-results", _FETCHERS)
        self._fetching: set[str] = set()  # keys

    def close(self) -> None:
        """End the threads that fetch results."""
        self._fetchers.close()

    def complete(self, future: CookFuture, event: JobEvent) -> None:
        """Handle the end of a job: result or error are set in the future, and nothing is raised here.

        Args:
            future: the future.
            event: the last event of its job.
        """
        has_failed = event.state != "success"
        if has_failed and self._unread.is_returning(future):
            self.on_failed_attempt(future, event)
            if self._unread.defer_end(future, event, lambda: self.complete(future, event)):
                return
        has_result = not has_failed or outcomes.result_explains_failure(event)
        try:
            if has_result and event.result is not None:
                self._resolve(future, event, event.result, private=False)
            elif has_result and event.result_blob is not None:
                if not self._scheduler.store.private:
                    self.fetch_soon(future, event)
                    return
                self._resolve(future, event, self._scheduler.store.get(event.result_blob), private=True)
            else:
                future.resolve(error=self._failure(future, event))
        except NotFound as error:
            future.resolve(error=_lost(future, f"its result no longer exists ({error})"))
        except BaseException as error:  # noqa: BLE001 - see above
            future.resolve(error=_as_failure(future, error))
        if future.done():  # otherwise the call runs again
            self._pending.discard(future)

    def on_failed_attempt(self, future: CookFuture, event: JobEvent) -> None:
        """Check whether the last attempt of a waiting job failed because it could not read its function.

        Args:
            future: the future.
            event: event of its job, with the result of the attempt.
        """
        if event.result is None or event.instance is None:
            return
        try:
            key = future.signing_key or self._scheduler.signing_key
            digest = unread_function(event.result, key=key, job_id=future.key)
        except (CookError, OSError) as error:  # only the result of the last attempt matters
            logger.info("the result of a failed attempt of job %s cannot be read: %s", future.key, error)
            return
        if digest is not None:
            self._unread.run_again(future, event.instance.uuid, digest, lambda: None)

    def fetch_soon(self, future: CookFuture, event: JobEvent) -> None:
        """Fetch a result over the network, in another thread, unless that is happening already."""
        if future.key not in self._fetching:
            self._fetching.add(future.key)
            self._fetchers.run(functools.partial(self._fetch, future, event))

    def _fetch(self, future: CookFuture, event: JobEvent) -> None:
        try:
            content, private = self._fetch_content(future, event)
            self._resolve(future, event, content, private=private)
        except NotFound:
            future.resolve(error=self._failure(future, event))
        except BaseException as error:  # noqa: BLE001 - as in complete
            future.resolve(error=_as_failure(future, error))
        finally:
            if future.done():  # otherwise the call runs again
                self._pending.discard(future)
            self._fetching.discard(future.key)

    def _fetch_content(self, future: CookFuture, event: JobEvent) -> tuple[Buffer, bool]:
        """Return a result; while the scheduler is away, keep waiting, as for unfinished jobs."""
        while True:
            try:
                return self._scheduler.call(
                    lambda client: self._content(future, event, client), restart=False
                )
            except SchedulerUnreachable as error:
                if self._scheduler.closed.is_set():
                    raise
                logger.warning(
                    "The result of job %s could not be fetched for %g s; retrying: %s",
                    future.key,
                    self._scheduler.request_timeout_s,
                    error,
                )

    def _content(self, future: CookFuture, event: JobEvent, client: JobClient) -> tuple[Buffer, bool]:
        """Return a result that did not come with the event, and whether only this user could write it."""
        store = self._scheduler.store
        blob = event.result_blob
        if blob is None and store.private and event.instance is not None:
            name = f"results/{event.instance.uuid}"
            blob = name if store.has(name) else None
        if blob is not None:
            return store.get(blob), store.private
        return bytearray(client.result(future.key)), False

    def _resolve(self, future: CookFuture, event: JobEvent, content: Buffer, *, private: bool) -> None:
        instance = None if event.instance is None else event.instance.uuid
        key = future.signing_key or self._scheduler.signing_key
        try:
            result = read_result(content, key=key, job_id=future.key, instance_id=instance, private=private)
        except Unverifiable as error:
            raise self._key_change(future) or error from error
        if (digest := result.unread_function) is not None:
            self._functions.distrust_store()

            def give_up() -> None:
                future.set_call_result(result)
                self._pending.discard(future)

            if self._unread.run_again(future, result.instance_id, digest, give_up):
                return
        future.set_call_result(result)
        if event.state == "success" and future.call_in_store:
            with contextlib.suppress(CookError, OSError):
                self._scheduler.store.delete(f"calls/{future.key}")

    def _failure(self, future: CookFuture, event: JobEvent) -> Exception:
        """Return the error of a job that ended without a result."""
        failed = outcomes.failure(event, future.options, killed_by=future.killed_by)
        exit_code = None if event.instance is None else event.instance.exit_code
        if isinstance(failed, BadExit) and exit_code == 1:  # as for a call that could not be verified
            return self._key_change(future) or failed
        return failed

    def _key_change(self, future: CookFuture) -> Unverifiable | None:
        """Return the error of a call whose signing key is no longer the user's; None if it is."""
        if future.signing_key is None or future.signing_key == self._scheduler.current_key():
            return None
        return Unverifiable(
            f"job {future.key} returned nothing that can be verified, and the signing key "
            f"{self._scheduler.key_file} was removed or replaced after its call was signed. A host that "
            "finds another key, or none, when the job starts does not run the call. Submit it again."
        )


def _lost(future: CookFuture, why: str) -> ResultLost:
    return ResultLost(f"job {future.key} succeeded, but {why}", job_id=future.key, host=future.host)


def _as_failure(future: CookFuture, error: BaseException) -> Exception:
    """Convert an exception raised while reading a result to one that does not end the caller's process."""
    if isinstance(error, Exception):
        return error
    lost = _lost(future, f"reading its result raised {type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost
