"""A session: the calls of one process on their way to a scheduler, and their results on the way back.

Lives here: two threads, one that sends whatever was submitted meanwhile in one request, and one that listens
to the stream of events; who waits for which job; finding the scheduler again when it was restarted.
Not here: what a job asks for (`executor.options`), what users see of a call (`executor.future`), bundles
(`executor.mapping`).

A job's uuid is made here, so that sending it again is harmless: whatever breaks, what was accepted runs once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from cook_jupyter.client.events import EventBatch, EventStream, JobEvent, follow_events
from cook_jupyter.client.home import home_folder
from cook_jupyter.client.keys import key_file
from cook_jupyter.errors import (
    BadExit,
    CookError,
    JobKilled,
    NotFound,
    QuotaExceeded,
    ResultLost,
    SchedulerError,
    SchedulerUnreachable,
    StoreFull,
    Unauthenticated,
    Unverifiable,
)
from cook_jupyter.executor import nested, outcomes
from cook_jupyter.executor.blobs import HttpStore, reachable_store
from cook_jupyter.executor.callbacks import CallbackThreads
from cook_jupyter.executor.functions import FunctionCache
from cook_jupyter.executor.future import CookFuture, Stage
from cook_jupyter.executor.groups import Group, SubmittedGroups
from cook_jupyter.executor.locator import SchedulerLocator
from cook_jupyter.executor.options import SESSION_LABEL
from cook_jupyter.executor.polled import event_from_job, preempted_instances
from cook_jupyter.payload.keys import Key, read_key
from cook_jupyter.payload.outgoing import CALL, FunctionBlob, FunctionReference
from cook_jupyter.payload.results import read_result

if TYPE_CHECKING:
    from cook_jupyter.client.answers import SchedulerInfo
    from cook_jupyter.client.submission import JobSubmission
    from cook_jupyter.client.sync import JobClient
    from cook_jupyter.payload.blobs import BlobStore
    from cook_jupyter.payload.envelope import Buffer

logger = logging.getLogger("cook_jupyter.executor")

SILENCE_TOLD_S = 5.0  # after which futures that wait for a scheduler say so
PATIENCE_S = 30.0  # how long a job may wait for a scheduler that does not answer
FILE_CHECK_INTERVAL_S = 0.25  # how old it may be what is known of the key and of a function in the store
MAX_STORED = 1000
LAST_WORDS_S = 5.0  # for what is unsent when the process ends
JOBS_AT_ONCE = 10_000
BYTES_AT_ONCE = 7 * 1024 * 1024  # of a body of 8 MiB

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_TRACE_INTERVAL_S = 0.05
_FETCHERS = 4


@dataclass(slots=True)
class PendingJob:
    """A job to send, and who waits for it."""

    future: CookFuture
    body: JobSubmission  # what it shares with others; see Options.job
    pool: str | None
    env: Mapping[str, str]

    def submission(self) -> JobSubmission:
        """The whole submission."""
        return replace(self.body, uuid=self.future.key, name=self.future.name, env=self.env)

    @property
    def group(self) -> Group | str | None:
        """What it joins."""
        return None if self.future.options is None else self.future.options.group

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return 1024 + len(self.env.get(CALL, ""))


T = TypeVar("T")

SenderTask = Callable[[], Iterable[PendingJob]]  # work for the sender; it may yield more to send


class SchedulerSession:
    """One process's line to a scheduler.

    Args:
        locator: knows the scheduler, and finds it again when it no longer answers.
        everything: hear of all jobs of the user, not only of this session's.
    """

    def __init__(self, locator: SchedulerLocator, *, everything: bool = False) -> None:
        self.session_id = uuid.uuid4().hex
        self.pid = os.getpid()
        self._client = locator.client
        self._locator = locator
        self._finding = threading.Lock()
        self._labels = {} if everything else {SESSION_LABEL: self.session_id}
        self._functions = FunctionCache()
        self._stored: dict[str, float] = {}  # digests of functions, and when each was last seen in the store
        self._key: Key | None = None
        self._key_read_at = 0.0
        self._functions_doubted = False
        self._pickling = threading.Lock()
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)  # a future reached another stage
        self._pending: dict[str, CookFuture] = {}
        self._groups = SubmittedGroups()
        self._outbox: queue.SimpleQueue[PendingJob | SenderTask | None] = queue.SimpleQueue()
        self._begun = False
        self._retired = False
        self._stop = threading.Event()
        self._subscribed = threading.Event()
        self._stream: EventStream | None = None
        self._store_id: str | None = None  # of the scheduler's store, in which cursors count
        self._resync_due = False
        self._resyncs = 0
        self._silent_since: float | None = None
        self._silence_told = False
        self._callbacks = CallbackThreads("cook-callbacks")
        self._fetchers = CallbackThreads("cook-results", _FETCHERS)
        _sessions.add(self)

    def call(self, question: Callable[[JobClient], T], *, restart: bool = True) -> T:
        """Ask the scheduler something that may be asked twice, and find it again if it does not answer.

        Args:
            question: what is asked.
            restart: start this user's own scheduler anew even if it was shut down in good order.

        Raises:
            SchedulerUnreachable: it was not there for PATIENCE_S seconds.
        """
        deadline = time.monotonic() + PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        was_late = False
        while True:
            client = self._client
            try:
                return question(client)
            except (SchedulerUnreachable, Unauthenticated):
                is_late = time.monotonic() + pause_s > deadline or self._stop.is_set()
                self._renew(client, sending=restart)
                if is_late and (was_late or self._client is client):
                    raise
                was_late = is_late  # one that was found at last is asked, however late it is
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # --- what a call needs ---

    @property
    def client(self) -> JobClient:
        """The scheduler, as it was last found."""
        return self._client

    @functools.cached_property
    def info(self) -> SchedulerInfo:
        """What the scheduler says about itself."""
        return self.call(lambda client: client.info_v1())

    @functools.cached_property
    def store(self) -> BlobStore:
        """Where blobs rest."""
        return reachable_store(self.info, lambda: self._client)

    @functools.cached_property
    def key_file(self) -> str:
        """The file with the user's key."""
        return str(key_file(home_folder(), self._client.user))

    @property
    def signing_key(self) -> Key:
        """The user's key, as it was in its file a moment ago."""
        now = time.monotonic()
        if self._key is None or now - self._key_read_at >= FILE_CHECK_INTERVAL_S:
            self._key, self._key_read_at = self._current_key(), now
        return self._key

    def _current_key(self) -> Key:
        """The user's key, as it is in its file; made anew if the file was removed."""
        if not Path(self.key_file).exists():
            logger.warning("The signing key %s was removed: a new one is made.", self.key_file)
            return read_key(key_file(home_folder(), self._client.user))
        return read_key(self.key_file)

    def send_function(self, function: Callable[..., Any]) -> FunctionReference:
        """Store a function unless it is stored, and return what calls name it by."""
        with self._pickling:
            return self._functions.reference_of(
                function, self._put_function, self._is_stored, private=self.store.private
            )

    def _put_function(self, blob: FunctionBlob) -> None:
        # A loss of power may have cut it short. Once a host found one damaged, no store is believed.
        if self._functions_doubted or not self.store.holds(blob.name, blob.size, blob.digest):
            self.store.put(blob.name, blob.pieces)

    def _is_stored(self, digest: str, size: int) -> bool:
        """Return whether a function is still stored; over HTTP, asking costs more than it saves."""
        now = time.monotonic()
        seen_at = self._stored.get(digest)
        if (seen_at is not None and now - seen_at < FILE_CHECK_INTERVAL_S) or isinstance(
            self.store, HttpStore
        ):
            return True
        stored = self.store.size(f"functions/{digest}") == size
        if stored:
            if len(self._stored) >= MAX_STORED:
                self._stored.clear()
            self._stored[digest] = now
        return stored

    # --- sending ---

    def enqueue(self, job: PendingJob) -> None:
        """Send a job, soon. Returns at once."""
        self._pending[job.future.key] = job.future
        if not self._begun:
            self._begin()
        self._outbox.put(job)

    def expect(self, futures: Iterable[CookFuture]) -> None:
        """Count futures as not over whose jobs an errand will yield."""
        for future in futures:
            self._pending[future.key] = future

    def dismiss(self, future: CookFuture) -> None:
        """Count a future as over whose job will not be sent after all."""
        self._pending.pop(future.key, None)

    def run_in_sender(self, errand: SenderTask) -> None:
        """Let the sender do something, and send what it yields. Safe in a destructor."""
        self._outbox.put(errand)

    @property
    def is_closed(self) -> bool:
        """Whether its threads have ended, or are about to."""
        return self._stop.is_set()

    def give_up(self, future: CookFuture, error: BaseException) -> None:
        """Let a future raise an error and cancel its job, which waits."""
        self._pending.pop(future.key, None)
        if future.resolve(error=error):
            keys = [future.key]
            self._callbacks.run(lambda: self.call(lambda client: _cancel_waiting(client, keys)))

    def run_in_background(self, function: Callable[[], object]) -> None:
        """Run in a thread of its own what may wait, for results of this session too."""
        self._callbacks.run(function)

    def adopt(self, futures: Sequence[CookFuture]) -> None:
        """Wait for jobs that were submitted earlier, by whomever."""
        self._begin()
        if not self._subscribed.wait(PATIENCE_S):
            raise SchedulerUnreachable(f"the scheduler at {self._client.url} gives no stream of events")
        with self._lock:
            for future in futures:
                future.stage = Stage.ACCEPTED
                self._pending[future.key] = future
        self._look(futures)

    def futures(self) -> list[CookFuture]:
        """All that are not over."""
        return list(self._pending.values())

    def _begin(self) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
        nested.watch(self)
        for name, loop in (("cook-sender", self._send_all), ("cook-events", self._hear_all)):
            threading.Thread(target=loop, name=name, daemon=True).start()

    def _send_all(self) -> None:
        while True:
            errand = self._outbox.get()
            jobs: list[PendingJob] = []
            job: PendingJob | None
            size = 0
            while True:
                if errand is None:
                    self._send(jobs)
                    return
                for job in [errand] if isinstance(errand, PendingJob) else self._done(errand):
                    jobs.append(job)
                    size += job.size
                if len(jobs) >= JOBS_AT_ONCE or size >= BYTES_AT_ONCE:
                    break
                try:
                    errand = self._outbox.get_nowait()
                except queue.Empty:
                    break
            self._send(jobs)
            del errand, jobs  # while the next is waited for, nothing of these is kept alive
            job = None

    def _done(self, errand: SenderTask) -> list[PendingJob]:
        try:
            jobs = list(errand())
        except BaseException:
            logger.exception("an errand of the sender failed")
            return []
        for job in jobs:
            self._pending[job.future.key] = job.future
        return jobs

    def _send(self, jobs: Sequence[PendingJob]) -> None:
        """Post jobs. The top of the sender's work: whatever goes wrong ends in the futures."""
        taken = []
        with self._lock:
            for job in jobs:
                if job.future.stage is Stage.QUEUED and not job.future.done():
                    job.future.stage = Stage.SENDING
                    taken.append(job)
        pools: dict[str | None, list[PendingJob]] = {}
        for job in taken:
            pools.setdefault(job.pool, []).append(job)
        for pool, group in pools.items():
            try:
                self._post(group, pool)
            except BaseException as error:  # noqa: BLE001 - see above
                self._refuse(group, error)
            with self._moved:
                self._moved.notify_all()

    def _post(self, group: list[PendingJob], pool: str | None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        may_have_arrived = False
        futures = {job.future.key: job.future for job in group}
        while True:
            if not self._subscribed.wait(max(0.0, deadline - time.monotonic())):
                raise self._unreached(None)
            client = self._client
            try:
                new = self._groups.undescribed(client, [each.group for each in group])
                client.submit(
                    [job.submission() for job in group],
                    [each.submission() for each in new],
                    pool=pool,
                    override_group_immutability=any(each.group is not None for each in group),
                    may_have_arrived=may_have_arrived,
                    on_accepted=lambda keys: self._accepted(futures[key] for key in keys),
                )
                self._groups.record(new)
                return
            except (QuotaExceeded, StoreFull):
                raise
            except (SchedulerUnreachable, SchedulerError, Unauthenticated) as error:
                may_have_arrived = True
                if time.monotonic() + pause_s > deadline:
                    raise self._unreached(error) from error
                self._renew(client, sending=True)
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _unreached(self, error: Exception | None) -> SchedulerUnreachable:
        why = f" ({error})" if error is not None else ""
        return SchedulerUnreachable(
            f"the scheduler at {self._client.url} did not answer for {PATIENCE_S:g} s{why}; whether it has "
            "the job is unknown. `cook-jupyter status` tells about the scheduler, attach(future.key) about "
            "the job."
        )

    def _accepted(self, futures: Iterable[CookFuture]) -> None:
        with self._lock:
            for future in futures:
                future.stage = Stage.ACCEPTED

    def _refuse(self, group: Sequence[PendingJob], error: BaseException) -> None:
        """A request that is wrong for one job is refused for all: find out which."""
        group = [job for job in group if job.future.stage is not Stage.ACCEPTED]
        bodies = {id(job.body) for job in group}
        if len(bodies) > 1 and not isinstance(error, SchedulerUnreachable):
            for body in bodies:
                alike = [job for job in group if id(job.body) == body]
                try:
                    self._post(alike, alike[0].pool)
                except BaseException as own:  # noqa: BLE001 - as in _send
                    self._refuse(alike, own)
            return
        for job in group:
            self._pending.pop(job.future.key, None)
            job.future.resolve(error=error)

    # --- stopping ---

    def cancel(self, futures: Sequence[CookFuture]) -> int:
        """Kill jobs and forget about them.

        Returns:
            How many were cancelled by this; the others were over, or nobody took the request.
        """
        unsent = self._withdraw(futures)
        rest = [future for future in futures if not future.done()]
        for future in rest:  # from now on it is ours to settle: "killed" is not what its owner shall hear
            self._pending.pop(future.key, None)
        try:
            self.kill(rest)
        except CookError as error:
            logger.warning("could not cancel %d jobs: %s", len(rest), error)
            for future in rest:
                self._pending[future.key] = future
            self._resync()
            return unsent
        return unsent + sum(future.resolve_cancelled() for future in rest)

    def cancel_waiting(self, futures: Sequence[CookFuture]) -> int:
        """Cancel jobs that have not started; those that run go on.

        Args:
            futures: the futures of the jobs.

        Returns:
            How many were cancelled by this.
        """
        unsent = self._withdraw(futures)
        self.delivered(futures, PATIENCE_S)
        rest = {future.key: future for future in futures if not future.done()}
        if not rest:
            return unsent
        for key in rest:  # "killed" is not what the owner of a cancelled future shall hear
            self._pending.pop(key, None)
        cancelled: set[str] = set()
        try:
            cancelled.update(self.call(lambda client: _cancel_waiting(client, list(rest))))
        except CookError as error:
            logger.warning("could not cancel the jobs that wait among %d: %s", len(rest), error)
        going_on = [future for key, future in rest.items() if key not in cancelled]
        with self._lock:
            self._pending.update((future.key, future) for future in going_on)
        if going_on:  # one may have ended while nobody here heard of it
            look = functools.partial(self._look_until_told, self._resyncs, going_on, False)
            self._callbacks.run(look)
        return unsent + sum(rest[key].resolve_cancelled() for key in cancelled if key in rest)

    def kill_all(self, futures: Sequence[CookFuture]) -> None:
        """Kill jobs, waiting or running; those that are not sent yet stay here.

        Raises:
            SchedulerUnreachable: nobody took the request.
        """
        for future in self._take_back(futures):
            future.resolve(
                error=JobKilled(f"job {future.key}: it was killed before it was sent.", job_id=future.key)
            )
        self.kill([future for future in futures if not future.done()])

    def kill(self, futures: Sequence[CookFuture]) -> None:
        """Ask for jobs to be killed; those on their way are waited for.

        Raises:
            SchedulerUnreachable: nobody took the request.
        """
        self.delivered(futures, PATIENCE_S)
        keys = [each.key for each in futures if not each.done()]
        if not keys:
            return
        self.call(lambda client: client.kill(keys))

    def delivered(self, futures: Sequence[CookFuture], timeout_s: float) -> bool:
        """Wait until jobs have reached the scheduler, or are over; tell whether they have."""
        with self._moved:
            return self._moved.wait_for(
                lambda: all(each.stage is Stage.ACCEPTED or each.done() for each in futures), timeout_s
            )

    def _withdraw(self, futures: Sequence[CookFuture]) -> int:
        """Cancel what the sender has not taken yet; return how many that were."""
        return sum(future.resolve_cancelled() for future in self._take_back(futures))

    def _take_back(self, futures: Sequence[CookFuture]) -> list[CookFuture]:
        """Take back and return what the sender has not taken yet."""
        with self._lock:
            queued = [each for each in futures if each.stage is Stage.QUEUED and not each.done()]
            for future in queued:
                self._pending.pop(future.key, None)
                future.stage = Stage.SENDING  # the sender will pass it over
        return queued

    # --- hearing ---

    def _hear_all(self) -> None:
        while not self._stop.is_set():
            try:
                batches = follow_events(
                    self._subscribe, self._stop, on_break=self._on_break, pause=self._wait_for_return
                )
                for batch in batches:
                    if not self._subscribed.is_set():
                        self._subscribed.set()
                    self._hear_batch(batch)
                    del batch  # while the next is waited for, the results in this one are not kept
            except BaseException:
                logger.exception("the stream of events failed; it is begun anew")
                self._stop.wait(_LONGEST_PAUSE_S)

    def _subscribe(self, cursor: int | None) -> EventStream:
        client = self._client
        try:
            self._stream = client.events(cursor, self._labels, store=self._store_id)
        except (SchedulerUnreachable, Unauthenticated, NotFound) as error:
            self._renew(client)
            raise SchedulerUnreachable(str(error)) from error
        if self._stop.is_set():
            self._stream.close()
        self._silent_since, self._silence_told = None, False
        self._resync_due = cursor is not None
        return self._stream

    def _on_break(self, error: SchedulerUnreachable) -> None:
        logger.info("the stream of events broke: %s", error)
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        waiting = len(self._pending)
        if waiting and not self._silence_told and now - self._silent_since > SILENCE_TOLD_S:
            self._silence_told = True
            logger.warning(
                "The scheduler has not answered for %.0f s (%s). %d futures wait for it, and go on when it"
                " is back; `cook-jupyter status` tells about it, `cook-jupyter up` starts one that was shut"
                " down.",
                now - self._silent_since,
                error,
                waiting,
            )

    def _wait_for_return(self, pause_s: float) -> None:
        """Wait for `pause_s`, or until this user's own scheduler begins to listen."""
        trace = self._locator.trace()
        deadline = time.monotonic() + pause_s
        while not self._stop.wait(max(0.0, min(_TRACE_INTERVAL_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or self._locator.trace() != trace:
                return

    def _forget_store(self) -> None:
        """Forget what was true of the scheduler's last store alone."""
        logger.warning(
            "The store of the scheduler at %s was begun anew: it was removed or replaced.", self._client.url
        )
        for name in ("info", "store", "key_file"):
            self.__dict__.pop(name, None)
        self._functions.forget()
        self._stored.clear()
        self._key = None
        self._groups = SubmittedGroups()

    def _renew(self, failed: JobClient, *, sending: bool = False) -> None:
        """Try to find the scheduler again, unless somebody else just has."""
        with self._finding:
            if self._client is failed and not self._stop.is_set():
                try:
                    self._client = self._locator.reconnect(
                        has_unsent=sending, awaits_results=bool(self._pending)
                    )
                except CookError as error:
                    logger.info("the scheduler was not found again: %s", error)

    def _hear_batch(self, batch: EventBatch) -> None:
        if self._resync_due:  # the first batch after a break: it names the store
            self._resync_due = False
            other_store = bool(batch.store) and self._store_id not in (None, batch.store)
            if other_store:
                self._forget_store()
            self._resync(other_store=other_store)
        self._store_id = batch.store or self._store_id
        for event in batch.jobs:
            self._hear(event)

    def _hear(self, event: JobEvent) -> None:
        future = self._pending.get(event.uuid)
        if future is None:
            return
        future.on_event(event)
        if event.status == "completed":
            self._complete(future, event)

    def _complete(self, future: CookFuture, event: JobEvent) -> None:
        """A job is over: whatever that means ends in its future, and never in this thread."""
        told = event.state == "success" or outcomes.result_explains_failure(event)
        try:
            if told and event.result is not None:
                self._take(future, event, event.result, private=False)
            elif told and event.result_blob is not None:
                if self.store.private:
                    self._take(future, event, self.store.get(event.result_blob), private=True)
                else:
                    self._fetchers.run(functools.partial(self._fetch, future, event))
                    return
            else:
                future.resolve(error=self._failure(future, event))
        except NotFound as error:
            future.resolve(error=_lost(future, f"its result is no longer there ({error})"))
        except BaseException as error:  # noqa: BLE001 - see above
            future.resolve(error=_as_failure(future, error))
        finally:
            self._pending.pop(future.key, None)

    def _take(self, future: CookFuture, event: JobEvent, content: Buffer, *, private: bool) -> None:
        instance = None if event.instance is None else event.instance.uuid
        key = future.signing_key or self.signing_key
        try:
            result = read_result(content, key=key, job_id=future.key, instance_id=instance, private=private)
        except Unverifiable as error:
            raise self._key_change(future) or error from error
        if isinstance(result.error, NotFound | Unverifiable):  # its function is gone or damaged, perhaps
            self._functions_doubted = True
            self._functions.forget()
            self._stored.clear()
        future.set_call_result(result)
        if event.state == "success" and future.call_in_store:
            with contextlib.suppress(CookError, OSError):
                self.store.delete(f"calls/{future.key}")

    def _key_change(self, future: CookFuture) -> Unverifiable | None:
        """The error of a call whose signing key is no longer the user's; None if it still is."""
        if future.signing_key is None or future.signing_key == self._current_key():
            return None
        return Unverifiable(
            f"the signing key {self.key_file} was removed or replaced after job {future.key} was submitted: "
            "the host could not verify the call, or its result cannot be verified here. Submit it again"
        )

    def _fetch(self, future: CookFuture, event: JobEvent) -> None:
        """Fetch a result over the network, in a thread for that."""
        try:
            content, private = self._fetch_content(future, event)
            self._take(future, event, content, private=private)
        except NotFound:
            future.resolve(error=self._failure(future, event))
        except BaseException as error:  # noqa: BLE001 - as in _complete
            future.resolve(error=_as_failure(future, error))
        finally:
            self._pending.pop(future.key, None)

    def _fetch_content(self, future: CookFuture, event: JobEvent) -> tuple[Buffer, bool]:
        """Return a result; while the scheduler is away, wait as those do whose jobs have not ended."""
        while True:
            try:
                return self.call(lambda client: self._content(future, event, client), restart=False)
            except SchedulerUnreachable as error:
                if self._stop.is_set():
                    raise
                logger.warning(
                    "The result of job %s could not be fetched for %g s; it is tried again: %s",
                    future.key,
                    PATIENCE_S,
                    error,
                )

    def _failure(self, future: CookFuture, event: JobEvent) -> Exception:
        """The error of a job that ended without a result."""
        failed = outcomes.failure(event, future.options)
        if isinstance(failed, BadExit) and (changed := self._key_change(future)) is not None:
            return changed
        return failed

    def _content(self, future: CookFuture, event: JobEvent, client: JobClient) -> tuple[Buffer, bool]:
        """A result that did not come with the event, and whether it rests where only we can write."""
        blob = event.result_blob
        if blob is None and self.store.private and event.instance is not None:
            name = f"results/{event.instance.uuid}"
            blob = name if self.store.has(name) else None
        if blob is not None:
            return self.store.get(blob), self.store.private
        return bytearray(client.result(future.key)), False

    # --- looking ---

    def _resync(self, *, other_store: bool = False) -> None:
        """After a break of the stream, look for jobs that are over or that the scheduler has forgotten."""
        with self._lock:
            self._resyncs += 1
            number = self._resyncs
            accepted = [each for each in self._pending.values() if each.stage is Stage.ACCEPTED]
        if accepted:
            self._callbacks.run(functools.partial(self._look_until_told, number, accepted, other_store))

    def _look_until_told(self, number: int, futures: Sequence[CookFuture], other_store: bool) -> None:
        """Ask how jobs stand until that is known, or a later break makes the question pointless."""
        pause_s = _FIRST_PAUSE_S
        while number == self._resyncs or other_store:
            try:
                self._look(futures, other_store=other_store, restart=False)
                return
            except CookError as error:
                logger.info("could not look after a break of the stream of events: %s", error)
            if self._stop.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _look(
        self, futures: Sequence[CookFuture], *, other_store: bool = False, restart: bool = True
    ) -> None:
        """Ask how jobs stand, and settle those that are over or unknown."""
        keys = [each.key for each in futures]
        jobs = self.call(lambda client: client.jobs(keys, partial=True), restart=restart)
        found = {job.uuid: job for job in jobs}
        for future in futures:
            job = found.get(future.key)
            if job is None:
                self._pending.pop(future.key, None)
                future.resolve(error=_unknown(future, other_store=other_store))
                continue
            event = event_from_job(job)
            future.on_event(event, preempted_instances(job))
            if event.status == "completed" and not future.done():
                self._fetchers.run(functools.partial(self._fetch, future, event))

    # --- the end ---

    def flush(self, timeout_s: float) -> None:
        """Wait until nothing is unsent."""
        with self._moved:
            self._moved.wait_for(
                lambda: all(each.stage is Stage.ACCEPTED for each in self.futures()), timeout_s
            )

    def retire(self) -> None:
        """No executor is left: end as soon as nobody waits for a result. Safe in a destructor."""
        if self._begun:
            self.run_in_sender(self._retire)

    def _retire(self) -> Iterable[PendingJob]:
        self._retired = True
        for future in self.futures():
            future.on_resolved(self._end_if_idle)
        self._end_if_idle(None)
        return ()

    def _end_if_idle(self, _: object) -> None:
        if self._retired and not any(not future.done() for future in self.futures()):
            self.close()

    def close(self) -> None:
        """End the threads; what was sent goes on at the scheduler."""
        self._outbox.put(None)
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        self._fetchers.close()
        self._callbacks.close()

    def forked(self) -> None:
        """In a child process: nobody here will ever hear of these jobs."""
        error = SchedulerUnreachable(
            "this future belongs to the process that this one was forked from; attach(its key) gives it back"
        )
        for future in list(self._pending.values()):
            future.fail_in_fork(error)
        self._pending.clear()


_sessions: weakref.WeakSet[SchedulerSession] = weakref.WeakSet()


def _at_exit() -> None:
    """What was submitted is sent; what shall not outlive us is killed; nothing is waited for."""
    for session in list(_sessions):
        if session.pid != os.getpid():
            continue
        session.flush(LAST_WORDS_S)
        attached = [
            each for each in session.futures() if each.options is not None and not each.options.detached
        ]
        if attached:
            session.cancel(attached)
        session.close()


def _after_fork() -> None:
    for session in list(_sessions):
        session.forked()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)


def _cancel_waiting(client: JobClient, keys: Sequence[str]) -> Sequence[str]:
    """Cancel those of the jobs that wait, and return which they are."""
    try:
        return client.cancel_waiting(keys)
    except NotFound:  # an original Cook, or jobs that the scheduler has forgotten
        waiting = [job.uuid for job in client.jobs(keys, partial=True) if job.status == "waiting"]
        if waiting:
            client.kill(waiting)
        return waiting


def _unknown(future: CookFuture, *, other_store: bool) -> NotFound:
    """The error of a job that the scheduler has accepted and does not know any more."""
    cause = (
        "its store was begun anew (removed or replaced) after the job had been accepted"
        if other_store
        else "its store may have been restored from an older copy"
    )
    return NotFound(
        f"the scheduler knows no job {future.key}: {cause}. What became of the job is unknown; submit it"
        " again",
        missing=(future.key,),
    )


def _lost(future: CookFuture, why: str) -> ResultLost:
    return ResultLost(f"job {future.key} ended well, but {why}", job_id=future.key, host=future.host)


def _as_failure(future: CookFuture, error: BaseException) -> Exception:
    """What reading a result raised, as an error that does not end the process of whoever waits."""
    if isinstance(error, Exception):
        return error
    lost = _lost(future, f"reading its result raised {type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost
