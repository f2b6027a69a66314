"""Polling the state of jobs: for futures of an earlier kernel, and after an interruption of the event stream.

Lives here: requesting the state of jobs; converting answers of the REST API to events.
Not here: both types (`client`), the stream (`executor.listener`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

from cook_jupyter.client.answers import InstanceAnswer, JobAnswer
from cook_jupyter.client.events import InstanceEvent, JobEvent
from cook_jupyter.errors import CookError, NotFound
from cook_jupyter.executor.connection import INITIAL_BACKOFF_S, MAX_BACKOFF_S, SchedulerConnection
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.pending import PendingFutures
from cook_jupyter.executor.results import ResultDelivery

logger = logging.getLogger("cook_jupyter.executor")


class JobPoller:
    """Requests the state of jobs.

    Args:
        scheduler: connection to the scheduler.
        pending: unfinished futures of the session.
        results: delivery of the results of jobs that have ended.
        run_in_background: function that runs another in a thread of its own.
    """

    def __init__(
        self,
        scheduler: SchedulerConnection,
        pending: PendingFutures,
        results: ResultDelivery,
        run_in_background: Callable[[Callable[[], object]], None],
    ) -> None:
        self._scheduler = scheduler
        self._pending = pending
        self._results = results
        self._run_in_background = run_in_background
        self._interruptions = 0

    def resync(self, *, is_other_store: bool = False) -> None:
        """Check for jobs that ended during an interruption of the stream, or that are no longer known.

        Args:
            is_other_store: whether the scheduler has another store than before.
        """
        self._interruptions += 1
        if accepted := self._pending.accepted():
            self.poll_soon(accepted, is_other_store=is_other_store)

    def poll_soon(self, futures: Sequence[CookFuture], *, is_other_store: bool = False) -> None:
        """Poll in the background until there is an answer, or a later interruption makes it obsolete."""
        self._run_in_background(
            functools.partial(self._poll_until_answered, self._interruptions, futures, is_other_store)
        )

    def poll(
        self, futures: Sequence[CookFuture], *, is_other_store: bool = False, restart: bool = True
    ) -> None:
        """Request the state of jobs, and end the futures of those that have ended or are unknown.

        Args:
            futures: futures of the jobs.
            is_other_store: whether the scheduler has another store than when it accepted the jobs.
            restart: whether to start this user's own scheduler even if it was shut down deliberately.

        Raises:
            SchedulerUnreachable: it did not answer.
        """
        keys = [future.key for future in futures]
        jobs = self._scheduler.call(lambda client: client.jobs(keys, partial=True), restart=restart)
        jobs_by_key = {job.uuid: job for job in jobs}
        for future in futures:
            job = jobs_by_key.get(future.key)
            if job is None:
                self._pending.discard(future)
                future.resolve(error=_unknown(future, is_other_store=is_other_store))
                continue
            event = event_from_job(job)
            future.on_event(event, preempted_instances(job))
            if job.is_completed and not future.done():
                self._results.fetch_soon(future, event)

    def _poll_until_answered(self, number: int, futures: Sequence[CookFuture], is_other_store: bool) -> None:
        pause_s = INITIAL_BACKOFF_S
        while number == self._interruptions or is_other_store:
            try:
                self.poll(futures, is_other_store=is_other_store, restart=False)
                return
            except CookError as error:
                logger.info(
                    "the state of jobs after an interruption of the event stream is unknown: %s", error
                )
            if self._scheduler.closed.wait(pause_s):
                return
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)


def event_from_job(job: JobAnswer) -> JobEvent:
    """Convert the answer of GET /jobs to the equivalent event."""
    instances = job.instances_by_start
    relevant = [instance for instance in instances if instance.status == "success"] or instances[-1:]
    return JobEvent(
        uuid=job.uuid,
        status=job.status,
        state=job.state,
        attempts=len(instances),
        max_retries=job.max_retries,
        instance=_instance(relevant[0]) if relevant else None,
    )


def preempted_instances(job: JobAnswer) -> list[str]:
    """Return all preempted instances of a job; an event only has the latest instance."""
    return [instance.uuid for instance in job.instances if instance.preempted]


def _instance(instance: InstanceAnswer) -> InstanceEvent:
    return InstanceEvent(
        uuid=instance.uuid,
        status=instance.status,
        host=instance.host,
        reason=instance.reason,
        reason_text=instance.reason_text,
        mea_culpa=instance.mea_culpa,
        exit_code=instance.exit_code,
        preempted=instance.preempted,
        started_ms=instance.started_ms,
        ended_ms=instance.ended_ms,
        progress=instance.progress,
        progress_message=instance.progress_message,
    )


def _unknown(future: CookFuture, *, is_other_store: bool) -> NotFound:
    """Return the error of an accepted job that the scheduler no longer knows."""
    cause = (
        "its store is a new one (the old one was removed or replaced) since the job was accepted"
        if is_other_store
        else "its store may have been restored from an older copy"
    )
    return NotFound(
        f"the scheduler does not know job {future.key}: {cause}. What happened to the job is unknown; submit"
        " it again",
        missing=(future.key,),
    )
