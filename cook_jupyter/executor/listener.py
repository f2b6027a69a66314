"""The listener: a thread that receives the events of a session's jobs.

Lives here: the event stream from its start on, also across interruptions; detecting that the scheduler came
back with another store.
Not here: the stream itself and resuming it at a cursor (`client.events`), the consequences of a job's end
(`executor.results`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cook_jupyter.client.events import EventBatch, EventStream, JobEvent, follow_events
from cook_jupyter.errors import NotFound, SchedulerUnreachable, Unauthenticated
from cook_jupyter.executor.connection import MAX_BACKOFF_S, SchedulerConnection
from cook_jupyter.executor.pending import PendingFutures
from cook_jupyter.model.counts import counted

if TYPE_CHECKING:
    from cook_jupyter.executor.future import CookFuture

logger = logging.getLogger("cook_jupyter.executor")

SILENCE_WARNING_S = 5.0  # time without an answer after which a warning is logged

_TRACE_INTERVAL_S = 0.05


class Listener:
    """Receives events of jobs in a thread of its own.

    Args:
        scheduler: connection to the scheduler.
        pending: unfinished futures of the session.
        labels: labels of the jobs whose events are received.
        on_completed: callback with a future and the last event of its job.
        on_failed_attempt: callback with a future and an event of its job, which waits for another attempt and
            has a result of the last one.
        on_return: callback when the stream resumes after an interruption, with whether it is that of another
            store.

    Attributes:
        subscribed: event that is set once the stream has started.
    """

    def __init__(
        self,
        scheduler: SchedulerConnection,
        pending: PendingFutures,
        labels: Mapping[str, str],
        *,
        on_completed: Callable[[CookFuture, JobEvent], object],
        on_failed_attempt: Callable[[CookFuture, JobEvent], object],
        on_return: Callable[[bool], object],
    ) -> None:
        self.subscribed = threading.Event()
        self._scheduler = scheduler
        self._pending = pending
        self._labels = labels
        self._on_completed = on_completed
        self._on_failed_attempt = on_failed_attempt
        self._on_return = on_return
        self._stream: EventStream | None = None
        self._store_id: str | None = None  # store to which the cursor belongs
        self._is_back = False  # whether the stream has resumed, but without a batch so far
        self._silent_since: float | None = None
        self._has_warned = False

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="cook-events", daemon=True).start()

    def close(self) -> None:
        """Close the stream; the thread ends once the connection is closed."""
        stream = self._stream
        if stream is not None:
            stream.close()

    def _run(self) -> None:
        closed = self._scheduler.closed
        while not closed.is_set():
            try:
                batches = follow_events(
                    self._subscribe, closed, on_break=self._on_break, pause=self._wait_for_return
                )
                for batch in batches:
                    if not self.subscribed.is_set():
                        self.subscribed.set()
                    self._on_batch(batch)
                    del batch  # so that its results are not kept alive while waiting for the next
            except BaseException:
                logger.exception("the event stream failed; it is started again")
                closed.wait(MAX_BACKOFF_S)

    def _subscribe(self, cursor: int | None) -> EventStream:
        client = self._scheduler.client
        try:
            self._stream = client.events(cursor, self._labels, store=self._store_id)
        except (SchedulerUnreachable, Unauthenticated, NotFound) as error:
            self._scheduler.reconnect(client)
            raise SchedulerUnreachable(str(error)) from error
        if self._scheduler.closed.is_set():
            self._stream.close()
        self._silent_since, self._has_warned = None, False
        self._is_back = cursor is not None
        return self._stream

    def _on_break(self, error: SchedulerUnreachable) -> None:
        logger.info("the event stream was interrupted: %s", error)
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        waiting = len(self._pending)
        if waiting and not self._has_warned and now - self._silent_since > SILENCE_WARNING_S:
            self._has_warned = True
            logger.warning(
                "The scheduler has not answered for %.0f s (%s). Until it is back, this process waits for"
                " the results of %s; see `cook-jupyter status`. `cook-jupyter up` starts a scheduler that was"
                " shut down.",
                now - self._silent_since,
                error,
                counted(waiting, "job"),
            )

    def _wait_for_return(self, pause_s: float) -> None:
        """Wait for `pause_s`, or until this user's own scheduler starts to listen."""
        trace = self._scheduler.trace()
        deadline = time.monotonic() + pause_s
        while not self._scheduler.closed.wait(max(0.0, min(_TRACE_INTERVAL_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or self._scheduler.trace() != trace:
                return

    def _on_batch(self, batch: EventBatch) -> None:
        if self._is_back:  # the first batch after an interruption names the store
            self._is_back = False
            self._on_return(bool(batch.store) and self._store_id not in (None, batch.store))
        self._store_id = batch.store or self._store_id
        for event in batch.jobs:
            future = self._pending.get(event.uuid)
            if future is not None:
                future.on_event(event)
                if event.status == "completed":
                    self._on_completed(future, event)
                elif event.status == "waiting" and event.result is not None:
                    self._on_failed_attempt(future, event)
