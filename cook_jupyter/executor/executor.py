"""`CookExecutor`: a `concurrent.futures.Executor` whose calls are Cook jobs.

Lives here: the interface for users.
Not here: futures (`executor.future`), communication with the scheduler (`executor.session`), bundling the
calls of `map` (`executor.mapping`).
"""

from __future__ import annotations

import concurrent.futures
import html
import logging
import os
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from cook_jupyter.client.connect import named_environment
from cook_jupyter.errors import CookError, ExecutorClosed, InvalidRequest, JobKilled, WrongType
from cook_jupyter.executor.arguments import Arguments
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.groups import Group
from cook_jupyter.executor.locator import SchedulerLocator
from cook_jupyter.executor.mapping import BundleFuture, BundleSizer, MapRun
from cook_jupyter.executor.option_values import flag, whole
from cook_jupyter.executor.options import Options, name_of, warn_of_unset
from cook_jupyter.executor.sender import PendingJob
from cook_jupyter.executor.session import SchedulerSession
from cook_jupyter.model.counts import counted
from cook_jupyter.model.job import DEFAULT_PRIORITY
from cook_jupyter.payload import encoding

if TYPE_CHECKING:
    from cook_jupyter.client.submission import JobSubmission
    from cook_jupyter.client.sync import JobClient
    from cook_jupyter.payload.transport import SealedPayload


logger = logging.getLogger("cook_jupyter.executor")


class CookExecutor(concurrent.futures.Executor):
    """Runs calls as jobs of a fair-share scheduler, which is found or started (see `client.connect`).

    Args:
        client: a `JobClient`, or the URL of a scheduler; None for this user's own.
        cpus: cpus of each job; may be a fraction.
        mem_mb: memory of each job in MiB; a job that uses more is stopped.
        gpus: whole gpus of each job.
        name: name of the jobs; None for the function's.
        pool: pool of the jobs; None for the scheduler's default.
        priority: priority among the user's own jobs; higher runs first.
        retries: further attempts after a failure of the function; those after failures of the system are
            free.
        user: user name to act as, where the scheduler allows it.
        env: environment variables of the jobs, by name.
        environment: names of variables of this process that jobs also see; `*` matches any characters. None
            for those in COOK_JUPYTER_ENVIRONMENT or the configuration file.
        labels: labels to find the jobs by.
        group: `Group` that the jobs join, or its uuid.
        constraints: required values of host attributes, by attribute.
        max_runtime_s: maximum run time; a job that runs longer is stopped.
        expected_runtime_s: expected run time of a job, for backfilling and for hosts of limited lifetime.
        detached: whether jobs continue when this process ends; otherwise they are killed with it.

    Raises:
        SchedulerUnreachable: there is no scheduler and none could be started.
        InvalidRequest: an option is invalid.

    Example:
        with CookExecutor(cpus=1, mem_mb=500) as executor:
            future = executor.submit(simulate, seed=1)
            results = list(executor.map(simulate, range(100_000)))
    """

    def __init__(  # noqa: PLR0913 - the options are one list, to its users
        self,
        client: JobClient | str | None = None,
        *,
        cpus: float = 1.0,
        mem_mb: float = 1024.0,
        gpus: int = 0,
        name: str | None = None,
        pool: str | None = None,
        priority: int = DEFAULT_PRIORITY,
        retries: int = 0,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        environment: Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
        group: Group | str | None = None,
        constraints: Mapping[str, str] | None = None,
        max_runtime_s: float | None = None,
        expected_runtime_s: float | None = None,
        detached: bool = True,
    ) -> None:
        options = Options(
            cpus=cpus,
            mem_mb=mem_mb,
            gpus=gpus,
            name=name,
            pool=pool,
            priority=priority,
            retries=retries,
            env={} if env is None else env,
            environment=named_environment() if environment is None else environment,  # type: ignore[arg-type]
            labels={} if labels is None else labels,
            group=group,
            constraints={} if constraints is None else constraints,
            max_runtime_s=max_runtime_s,
            expected_runtime_s=expected_runtime_s,
            detached=detached,
        )
        if environment is not None:
            warn_of_unset(options.environment)
        holder = SessionHolder(client, user)
        self._initialize(holder, options, root=True)
        weakref.finalize(self, SessionHolder.retire, holder)

    def _initialize(self, holder: SessionHolder, options: Options, *, root: bool) -> None:
        self._holder = holder
        self._options = options
        self._root = root
        self._job: tuple[str, JobSubmission] | None = None  # session id, and what all jobs have in common
        self._closed = False
        self._is_satisfiable = False  # whether a job with these options was accepted
        self._owner_token = object()  # refers futures to this executor without keeping it alive

    @property
    def options(self) -> Options:
        """The options of this executor's jobs."""
        return self._options

    def with_(self, **options: Any) -> CookExecutor:
        """Return a view of this executor with other options; both can be used.

        Example: `executor.with_(cpus=4, mem_mb=8000).submit(fit, data)`
        """
        view = object.__new__(CookExecutor)
        view._initialize(self._holder, self._options.with_(options), root=False)
        if view._options.environment != self._options.environment:
            warn_of_unset(view._options.environment)
        return view

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CookFuture:
        """Run `fn(*args, **kwargs)` as one job, and return immediately.

        Equal calls are never merged. The arguments are pickled now, so later changes have no effect.

        Raises:
            Unpicklable: the function or an argument cannot be sent; the message names the path to the cause.
            Unsatisfiable: no host could ever run the job, and none can join (an embedded scheduler).
            ExecutorClosed: the executor was shut down.
        """
        session = self._open(fn)
        function = session.send_function(fn)
        future = CookFuture(session, str(uuid.uuid4()), self._options.name or name_of(fn), self._options)
        private = session.scheduler.store.private
        future.signing_key = session.scheduler.signing_key
        call = encoding.encode_call(
            function, args, kwargs, key=future.signing_key, job_id=future.key, private=private
        )
        session.enqueue(self._pending_job(session, future, call))
        self._require_satisfiable(session, future)
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Run `fn` for each element (or each tuple of elements), and yield the results in order.

        Many calls go into one job, according to their measured run time, so that each job takes about a
        second and all slots are busy.

        Args:
            fn: function that is called with one element of each iterable.
            iterables: iterables, read in parallel like by `zip` up to the end of the shortest. Up to a
                million calls or 64 MiB of arguments are read immediately, the rest while results are
                consumed. They may be endless.
            timeout: seconds from now for all results; after that, TimeoutError is raised and the rest is
                killed.
            chunksize: fixed number of calls in each job.
            buffersize: maximum number of calls whose arguments are read before their results are consumed.
            return_exceptions: whether to yield exceptions like results; otherwise the first one is raised and
                the rest is killed.

        With the option `retries`, a job in which a call failed is run again as a whole. If the process of a
        job dies or is stopped at a limit, its calls run again in smaller jobs, including those that had ended
        before, until the call that caused it is alone: only that one fails.

        Raises:
            InvalidRequest: `chunksize` or `buffersize` is below 1 (also a ValueError), or not a whole number
                (also a TypeError).
            Unpicklable: the function or an argument of the first calls cannot be sent.
            Unsatisfiable: no host could ever run the jobs, and none can join (an embedded scheduler).
            ExecutorClosed: the executor was shut down.
        """
        is_auto = isinstance(chunksize, str) and chunksize == "auto"
        fixed_size = None if is_auto else whole("chunksize", chunksize, minimum=1, maximum=None)
        buffer_limit = (
            None if buffersize is None else whole("buffersize", buffersize, minimum=1, maximum=None)
        )
        flag("return_exceptions", return_exceptions)
        session = self._open(fn)
        arguments = Arguments(iterables, buffer_limit)
        function = session.send_function(fn)
        name = self._options.name or name_of(fn)

        def make_future(calls: int) -> BundleFuture:
            future = BundleFuture(session, str(uuid.uuid4()), name, self._options)
            future.calls = calls
            return future

        def encode(future: BundleFuture, columns: Sequence[Sequence[Any]]) -> PendingJob:
            private = session.scheduler.store.private
            future.signing_key = session.scheduler.signing_key
            call = encoding.encode_bundle(
                function, columns, key=future.signing_key, job_id=future.key, private=private
            )
            return self._pending_job(session, future, call)

        slots = self._max_workers if fixed_size is None else 1
        sizes = BundleSizer(0, slots, fixed_size, complete=False)
        map_run = MapRun(session, make_future, encode, arguments, sizes, self._holder.maps.discard)
        map_run.owner = self._owner_token
        self._holder.maps.add(map_run)
        results = map_run.results(timeout=timeout, return_exceptions=return_exceptions)
        map_run.begin()
        if (first := map_run.first) is not None:
            try:
                self._require_satisfiable(session, first)
            except InvalidRequest:
                map_run.stop()
                raise
        return results

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        Args:
            wait: whether to wait until all calls have ended; otherwise they continue.
            cancel_futures: whether to cancel jobs that have not started; running ones continue, as in the
                standard library. `kill` also ends those.

        A view made by `with_` is shut down by itself; shutting down the original executor includes its views.
        """
        self._closed = True
        if self._root:
            self._holder.closed = True
        session = self._holder.session
        if session is None or session.pid != os.getpid():
            return
        if cancel_futures:
            for map_run in self._maps():
                map_run.abandon(concurrent.futures.CancelledError)
            session.cancel_waiting(self._futures(session))
        if wait:
            for map_run in self._maps():
                map_run.finish_sending()
            # A bundle that ended may have been replaced by others.
            while unfinished := self._futures(session):
                concurrent.futures.wait(unfinished)
        if self._root:
            session.retire()

    def kill(self) -> None:
        """Kill the jobs of this executor that have not ended; their futures raise JobKilled.

        The executor can still be used. A view made by `with_` kills only its own jobs; the original executor
        also kills those of its views. A running `map` ends.

        Raises:
            SchedulerUnreachable: the scheduler did not get the request.
        """
        session = self._holder.session
        if session is None or session.pid != os.getpid():
            return
        for map_run in self._maps():
            map_run.abandon(lambda: JobKilled("the rest of map() was killed before it was sent."))
        session.kill_all(self._futures(session))

    def _require_satisfiable(self, session: SchedulerSession, future: CookFuture) -> None:
        """Wait until the scheduler has accepted a job, if it is doubtful whether any host could run it.

        Most jobs request less than every host has, and no particular host, so there is no need to wait.

        Raises:
            Unsatisfiable: no host could ever run the job.
            InvalidRequest: the job requests more than any job may.
        """
        if self._is_satisfiable:
            return
        options, capacity = self._options, session.scheduler.info.capacity
        fits = capacity.holds(cpus=options.cpus, mem_mb=options.mem_mb, gpus=options.gpus)
        if options.constraints or not fits:
            session.wait_until_delivered([future], session.scheduler.request_timeout_s)
            if future.done() and not future.cancelled():
                error = future.exception()
                if isinstance(error, InvalidRequest):
                    raise error
        self._is_satisfiable = True

    def _futures(self, session: SchedulerSession) -> list[CookFuture]:
        """Return the unfinished futures of this view, or of the executor with all its views."""
        return [future for future in session.futures() if self._root or future.owner is self._owner_token]

    def _maps(self) -> list[MapRun]:
        """Return the unfinished maps of this view, or of the executor with all its views."""
        return [
            map_run for map_run in list(self._holder.maps) if self._root or map_run.owner is self._owner_token
        ]

    @property
    def _max_workers(self) -> int:
        """Number of jobs with these options that can run at once, as used by dask and `map`."""
        capacity, options = self._holder.current_session().scheduler.info.capacity, self._options
        fit = [
            available / requested
            for available, requested in (
                (capacity.cpus, options.cpus),
                (capacity.mem_mb, options.mem_mb),
                (capacity.gpus, options.gpus),
            )
            if requested
        ]
        return max(1, int(min(fit)))

    def __repr__(self) -> str:
        return f"<CookExecutor {self._holder.url}: {self._summary()}>"

    def _repr_html_(self) -> str:
        return (
            '<span style="font-family: var(--jp-code-font-family, monospace)"><b>CookExecutor</b> '
            f"{html.escape(self._holder.url)} "
            f'<span style="opacity: 0.7">{html.escape(self._summary())}</span></span>'
        )

    def _summary(self) -> str:
        options = self._options
        parts = [counted(options.cpus, "cpu"), f"{options.mem_mb:g} MB"]
        if options.gpus:
            parts.append(counted(options.gpus, "gpu"))
        if options.pool:
            parts.append(f"pool {options.pool}")
        session = self._holder.session
        parts.append(f"{counted(0 if session is None else len(session.futures()), 'job')} under way")
        if self._closed or self._holder.closed:
            parts.append("shut down")
        return ", ".join(parts)

    def _open(self, fn: Callable[..., Any]) -> SchedulerSession:
        if self._closed or self._holder.closed:
            raise ExecutorClosed("cannot schedule new futures after shutdown")
        if not callable(fn):
            raise WrongType(
                f"the first argument must be a function, not {type(fn).__name__}: submit(f, 1), not "
                "submit(f(1))"
            )
        return self._holder.current_session()

    def _pending_job(self, session: SchedulerSession, future: CookFuture, call: SealedPayload) -> PendingJob:
        requirements = session.scheduler.requirements
        if self._job is None or self._job[0] != session.session_id:
            self._job = session.session_id, self._options.job(session.session_id, requirements.command)
        environment = encoding.call_environment(
            call, job_id=future.key, store=session.scheduler.store, requirements=requirements
        )
        future.owner = self._owner_token
        future.call_in_store = not call.inline
        return PendingJob(
            future, self._job[1], self._options.pool, {**self._options.variables(), **environment}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, frames: object) -> Literal[False]:
        """Wait for all calls; after Ctrl-C, kill them instead."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if interrupted:
            try:
                self.kill()
            except CookError as unreachable:
                logger.warning("the jobs under way could not be killed: %s", unreachable)
        self.shutdown(wait=not interrupted)
        return False


class SessionHolder:
    """The session of an executor and its views, created when first needed, and again after a fork."""

    def __init__(self, client: JobClient | str | None, user: str | None) -> None:
        self.closed = False
        self.session: SchedulerSession | None = None
        self.maps: set[MapRun] = set()  # those with bundles to send
        self._locator = SchedulerLocator(client, user)

    @property
    def url(self) -> str:
        """URL of the scheduler, as last known."""
        return self._locator.client.url

    def current_session(self) -> SchedulerSession:
        """Return the session of this process."""
        if self.session is None or self.session.pid != os.getpid():
            self.session = SchedulerSession(self._locator)
            self.maps = set()
        return self.session

    def retire(self) -> None:
        """End the session, because its executor is gone."""
        if self.session is not None and self.session.pid == os.getpid():
            self.session.retire()
