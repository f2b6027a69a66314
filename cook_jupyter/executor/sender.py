"""The sender: a thread that submits all enqueued jobs in one request.

Lives here: submitting jobs, and handling the refusal of a request.
Not here: options of jobs (`executor.options`), submission and recovery from a conflict after a resend
(`client.submission`), receiving events (`executor.listener`).

The uuid of a job is created before the job is enqueued, so that sending it again is harmless: whatever fails,
an accepted job runs once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from cook_jupyter.errors import (
    QuotaExceeded,
    SchedulerError,
    SchedulerUnreachable,
    StoreFull,
    Unauthenticated,
)
from cook_jupyter.executor.connection import INITIAL_BACKOFF_S, MAX_BACKOFF_S, SchedulerConnection
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.groups import Group, SubmittedGroups
from cook_jupyter.executor.pending import PendingFutures
from cook_jupyter.executor.stages import Stage
from cook_jupyter.payload.requirements import CALL

if TYPE_CHECKING:
    from cook_jupyter.client.submission import JobSubmission

logger = logging.getLogger("cook_jupyter.executor")

MAX_JOBS = 10_000  # per request
MAX_BYTES = 7 * 1024 * 1024  # of a request body; the server accepts 8 MiB


@dataclass(slots=True)
class PendingJob:
    """A job to send, and its future."""

    future: CookFuture
    body: JobSubmission  # the part in common with other jobs; see Options.job
    pool: str | None
    env: Mapping[str, str]

    def submission(self) -> JobSubmission:
        """Return the complete submission."""
        return replace(self.body, uuid=self.future.key, name=self.future.name, env=self.env)

    @property
    def group(self) -> Group | str | None:
        """The group that the job joins."""
        return None if self.future.options is None else self.future.options.group

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return 1024 + len(self.env.get(CALL, ""))


SenderTask: TypeAlias = Callable[
    [], Iterable[PendingJob]
]  # work for the sender's thread; may yield jobs to send


class Sender:
    """Sends jobs in a thread of its own.

    Args:
        scheduler: connection to the scheduler.
        pending: unfinished futures of the session.
        subscribed: event that is set once the event stream has started; no job is sent before.
    """

    def __init__(
        self, scheduler: SchedulerConnection, pending: PendingFutures, subscribed: threading.Event
    ) -> None:
        self._scheduler = scheduler
        self._pending = pending
        self._subscribed = subscribed
        self._groups = SubmittedGroups()
        self._outbox: queue.SimpleQueue[PendingJob | SenderTask | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="cook-sender", daemon=True).start()

    def put(self, work: PendingJob | SenderTask) -> None:
        """Send a job, or run a task and send the jobs that it yields. Safe in a destructor."""
        self._outbox.put(work)

    def close(self) -> None:
        """End the thread once everything that was put before is done."""
        self._outbox.put(None)

    def forget_store(self) -> None:
        """Forget what was true only for the scheduler's previous store."""
        self._groups = SubmittedGroups()

    def _run(self) -> None:
        while True:
            work = self._outbox.get()
            jobs: list[PendingJob] = []
            job: PendingJob | None
            size = 0
            while True:
                if work is None:
                    self._send(jobs)
                    return
                for job in [work] if isinstance(work, PendingJob) else self._run_task(work):
                    jobs.append(job)
                    size += job.size
                if len(jobs) >= MAX_JOBS or size >= MAX_BYTES:
                    break
                try:
                    work = self._outbox.get_nowait()
                except queue.Empty:
                    break
            self._send(jobs)
            del work, jobs  # so that they are not kept alive while waiting for the next
            job = None

    def _run_task(self, task: SenderTask) -> list[PendingJob]:
        try:
            jobs = list(task())
        except BaseException:
            logger.exception("a task of the sender failed")
            return []
        for job in jobs:
            self._pending.add(job.future)
        return jobs

    def _send(self, jobs: Sequence[PendingJob]) -> None:
        """Submit jobs; whatever goes wrong ends in their futures."""
        sending = self._pending.begin_sending([job.future for job in jobs])
        by_pool: dict[str | None, list[PendingJob]] = {}
        for job in jobs:
            if job.future in sending:
                by_pool.setdefault(job.pool, []).append(job)
        for pool, batch in by_pool.items():
            try:
                self._submit(batch, pool)
            except BaseException as error:  # noqa: BLE001 - see above
                self._refuse(batch, error)

    def _submit(self, jobs: Sequence[PendingJob], pool: str | None) -> None:
        deadline = time.monotonic() + self._scheduler.request_timeout_s
        pause_s = INITIAL_BACKOFF_S
        may_have_arrived = False

        def on_accepted(keys: Sequence[str]) -> None:
            futures = [job.future for job in jobs]
            if len(keys) < len(jobs):
                accepted_keys = set(keys)
                futures = [future for future in futures if future.key in accepted_keys]
            self._pending.accept(futures)

        while True:
            if not self._subscribed.wait(max(0.0, deadline - time.monotonic())):
                raise self._unreachable_error(None)
            client = self._scheduler.client
            try:
                new_groups = self._groups.new_groups(client, [job.group for job in jobs])
                client.submit(
                    [job.submission() for job in jobs],
                    [group.submission() for group in new_groups],
                    pool=pool,
                    override_group_immutability=any(job.group is not None for job in jobs),
                    refuse_unsatisfiable=True,
                    may_have_arrived=may_have_arrived,
                    on_accepted=on_accepted,
                )
                self._groups.record(new_groups)
                return
            except (QuotaExceeded, StoreFull):
                raise
            except (SchedulerUnreachable, SchedulerError, Unauthenticated) as error:
                may_have_arrived = True
                if time.monotonic() + pause_s > deadline:
                    raise self._unreachable_error(error) from error
                self._scheduler.reconnect(client, has_unsent=True)
                self._scheduler.closed.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    def _unreachable_error(self, error: Exception | None) -> SchedulerUnreachable:
        why = f" ({error})" if error is not None else ""
        return SchedulerUnreachable(
            f"the scheduler at {self._scheduler.client.url} did not answer for "
            f"{self._scheduler.request_timeout_s:g} s{why}; it may or may not have the job. "
            "See `cook-jupyter status` for the scheduler, and attach(future.key) for the job."
        )

    def _refuse(self, jobs: Sequence[PendingJob], error: BaseException) -> None:
        """Handle a refusal, which one job of a request may have caused: send each kind of job separately."""
        jobs = [job for job in jobs if job.future.stage is not Stage.ACCEPTED]
        bodies = {id(job.body) for job in jobs}
        if len(bodies) == 1 or isinstance(error, SchedulerUnreachable):
            self._pending.refuse([job.future for job in jobs], error)
            return
        for body in bodies:
            same_body = [job for job in jobs if id(job.body) == body]
            try:
                self._submit(same_body, same_body[0].pool)
            except BaseException as own_error:  # noqa: BLE001 - as in _send
                self._refuse(same_body, own_error)
