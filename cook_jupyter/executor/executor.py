"""`CookExecutor`: a `concurrent.futures.Executor` whose calls are Cook jobs.

Lives here: what users call.
Not here: futures (`executor.future`), the way to the scheduler (`executor.session`), the bundling of `map`
(`executor.mapping`).
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
        client: a `JobClient`, or the URL of a scheduler; None means this user's own. cpus: what each job
        gets; may be a fraction. mem_mb: memory in MiB; a job that uses more is stopped. gpus: whole ones.
        name: of the jobs; None means the function's. pool: None means the scheduler's default. priority:
        among one's own jobs; the higher first. retries: further attempts after a failure of the function's
        own; those for the system's are free. user: act as this user, where the scheduler allows it. env:
        environment variables of the jobs: name -> value. environment: names of variables of this process
        that the jobs see, too; `*` stands for any letters. None
            means those that COOK_JUPYTER_ENVIRONMENT or the configuration file names.
        labels: words to find the jobs by.
        group: a `Group` that the jobs join, or its uuid.
        constraints: attribute of hosts -> the value that a host must have.
        max_runtime_s: a job that runs longer is stopped.
        expected_runtime_s: expected run time of a job, for backfilling and for hosts of limited lifetime.
        detached: jobs go on when this process ends (the default); else they are killed with it.

    Raises:
        SchedulerUnreachable: no scheduler is there and none could be started.
        InvalidRequest: an option is wrong.

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
        line = SessionHolder(client, user)
        self._set(line, options, root=True)
        weakref.finalize(self, SessionHolder.retire, line)

    def _set(self, line: SessionHolder, options: Options, *, root: bool) -> None:
        self._line = line
        self._options = options
        self._root = root
        self._job: tuple[str, JobSubmission] | None = None  # by session; what all calls share
        self._closed = False
        self._is_satisfiable = False  # whether a job like ours was accepted
        self._mark = object()  # of our futures; they shall not keep us alive

    @property
    def options(self) -> Options:
        """What the jobs of this executor ask for."""
        return self._options

    def with_(self, **options: Any) -> CookExecutor:
        """A view of this executor with other options; both can be used.

        Example: `executor.with_(cpus=4, mem_mb=8000).submit(fit, data)`
        """
        view = object.__new__(CookExecutor)
        view._set(self._line, self._options.with_(options), root=False)
        if view._options.environment != self._options.environment:
            warn_of_unset(view._options.environment)
        return view

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CookFuture:
        """Run `fn(*args, **kwargs)` as one job. Returns at once.

        Equal calls are never merged. The arguments are pickled here and now: what happens to them later makes
        no difference.

        Raises:
            Unpicklable: the function or an argument cannot travel; the message names the path to what cannot.
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
        """Run `fn` for each element (or each tuple of elements) and yield the results in order, as they come.

        Many calls go into one job, sized by their measured run time so that each job takes about a second
        and all slots are busy.

        Args:
            fn: called with one element of each iterable.
            iterables: read side by side, as by `zip`, up to the end of the shortest: at once up to a million
                calls or 64 MiB of arguments, the rest while the results are taken. They may be endless.
            timeout: seconds from now for all results; then TimeoutError, and the rest is killed.
            chunksize: so many calls in each job, instead.
            buffersize: the most calls whose arguments are read before their results are taken.
            return_exceptions: give exceptions out like results; else the first one is raised and the rest is
                killed.

        With the option `retries`, a job in which a call failed is run again whole. When the process of a job
        dies or is stopped at a limit, its calls run again in smaller jobs, those that had ended before
        included, until the call that is at fault is alone: only that one fails.

        Raises:
            InvalidRequest: `chunksize` or `buffersize` is below 1 (a ValueError), or no whole number (also a
                TypeError).
            Unpicklable: the function or an argument of the first calls cannot travel.
            Unsatisfiable: no host could ever run the jobs, and none can join (an embedded scheduler).
            ExecutorClosed: the executor was shut down.
        """
        is_auto = isinstance(chunksize, str) and chunksize == "auto"
        fixed = None if is_auto else whole("chunksize", chunksize, least=1, most=None)
        buffered = None if buffersize is None else whole("buffersize", buffersize, least=1, most=None)
        flag("return_exceptions", return_exceptions)
        session = self._open(fn)
        arguments = Arguments(iterables, buffered)
        function = session.send_function(fn)
        name = self._options.name or name_of(fn)

        def make_future(calls: int) -> BundleFuture:
            future = BundleFuture(session, str(uuid.uuid4()), name, self._options)
            future.calls = calls
            return future

        def encode(future: BundleFuture, part: Sequence[Sequence[Any]]) -> PendingJob:
            private = session.scheduler.store.private
            future.signing_key = session.scheduler.signing_key
            call = encoding.encode_bundle(
                function, part, key=future.signing_key, job_id=future.key, private=private
            )
            return self._pending_job(session, future, call)

        slots = self._max_workers if fixed is None else 1
        sizes = BundleSizer(0, slots, fixed, complete=False)
        mapping = MapRun(session, make_future, encode, arguments, sizes, self._line.maps.discard)
        mapping.owner = self._mark
        self._line.maps.add(mapping)
        results = mapping.results(timeout=timeout, return_exceptions=return_exceptions)
        mapping.begin()
        if (first := mapping.first) is not None:
            try:
                self._require_satisfiable(session, first)
            except InvalidRequest:
                mapping.stop()
                raise
        return results

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: return when all calls are done; else at once, and they go on.
            cancel_futures: cancel the jobs that have not started; those that run go on, as in the standard
                library. `kill` ends those, too.

        A view made by `with_` shuts down for itself; the executor it was made from, for all of them.
        """
        self._closed = True
        if self._root:
            self._line.closed = True
        session = self._line.session
        if session is None or session.pid != os.getpid():
            return
        if cancel_futures:
            for mapping in self._maps():
                mapping.abandon(concurrent.futures.CancelledError)
            session.cancel_waiting(self._futures(session))
        if wait:
            for mapping in self._maps():
                mapping.finish_sending()
            while unfinished := self._futures(
                session
            ):  # a bundle that ended may have been followed by another
                concurrent.futures.wait(unfinished)
        if self._root:
            session.retire()

    def kill(self) -> None:
        """Kill the jobs of this executor that have not ended: their futures raise JobKilled.

        The executor can be used further. A view made by `with_` kills its own jobs; the executor it was made
        from, those of all of them. A map that is under way ends.

        Raises:
            SchedulerUnreachable: nobody took the request.
        """
        session = self._line.session
        if session is None or session.pid != os.getpid():
            return
        for mapping in self._maps():
            mapping.abandon(lambda: JobKilled("the rest of map() was killed before it was sent."))
        session.kill_all(self._futures(session))

    def _require_satisfiable(self, session: SchedulerSession, future: CookFuture) -> None:
        """Wait for the scheduler to accept a job if there is reason to doubt that any host could take it.

        Most jobs ask for less than all hosts have, and for no host in particular: these are not waited for.

        Raises:
            Unsatisfiable: no host could ever take the job.
            InvalidRequest: no job may ask for so much.
        """
        if self._is_satisfiable:
            return
        options, capacity = self._options, session.scheduler.info.capacity
        fits = capacity.holds(cpus=options.cpus, mem_mb=options.mem_mb, gpus=options.gpus)
        if options.constraints or not fits:
            session.delivered([future], session.scheduler.patience_s)
            if future.done() and not future.cancelled():
                error = future.exception()
                if isinstance(error, InvalidRequest):
                    raise error
        self._is_satisfiable = True

    def _futures(self, session: SchedulerSession) -> list[CookFuture]:
        """Return the futures that have not ended: of this view, or of the executor with all its views."""
        return [future for future in session.futures() if self._root or future.owner is self._mark]

    def _maps(self) -> list[MapRun]:
        """Return the maps that have bundles to send: of this view, or of the executor with all its views."""
        return [mapping for mapping in list(self._line.maps) if self._root or mapping.owner is self._mark]

    @property
    def _max_workers(self) -> int:
        """How many jobs like ours fit at once: what dask and `map` keep busy."""
        capacity, options = self._line.live().scheduler.info.capacity, self._options
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
        return f"<CookExecutor {self._line.place}: {self._in_words()}>"

    def _repr_html_(self) -> str:
        return (
            '<span style="font-family: var(--jp-code-font-family, monospace)"><b>CookExecutor</b> '
            f"{html.escape(self._line.place)} "
            f'<span style="opacity: 0.7">{html.escape(self._in_words())}</span></span>'
        )

    def _in_words(self) -> str:
        asked = self._options
        words = [counted(asked.cpus, "cpu"), f"{asked.mem_mb:g} MB"]
        if asked.gpus:
            words.append(counted(asked.gpus, "gpu"))
        if asked.pool:
            words.append(f"pool {asked.pool}")
        session = self._line.session
        words.append(f"{counted(0 if session is None else len(session.futures()), 'job')} under way")
        if self._closed or self._line.closed:
            words.append("shut down")
        return ", ".join(words)

    def _open(self, fn: Callable[..., Any]) -> SchedulerSession:
        if self._closed or self._line.closed:
            raise ExecutorClosed("cannot schedule new futures after shutdown")
        if not callable(fn):
            raise WrongType(
                f"submit and map want a function first, not {type(fn).__name__}: submit(f, 1), not "
                "submit(f(1))"
            )
        return self._line.live()

    def _pending_job(self, session: SchedulerSession, future: CookFuture, call: SealedPayload) -> PendingJob:
        requirements = session.scheduler.requirements
        if self._job is None or self._job[0] != session.session_id:
            self._job = session.session_id, self._options.job(session.session_id, requirements.command)
        environment = encoding.call_environment(
            call, job_id=future.key, store=session.scheduler.store, requirements=requirements
        )
        future.owner = self._mark
        future.call_in_store = not call.inline
        return PendingJob(
            future, self._job[1], self._options.pool, {**self._options.variables(), **environment}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, frames: object) -> Literal[False]:
        """Wait for all calls; after Ctrl-C kill them instead: who pressed it does not want to wait."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if interrupted:
            try:
                self.kill()
            except CookError as unreachable:
                logger.warning("the jobs under way could not be killed: %s", unreachable)
        self.shutdown(wait=not interrupted)
        return False


class SessionHolder:
    """The session of an executor and its views, made when it is first needed and anew after a fork."""

    def __init__(self, client: JobClient | str | None, user: str | None) -> None:
        self.closed = False
        self.session: SchedulerSession | None = None
        self.maps: set[MapRun] = set()  # that have bundles to send
        self._locator = SchedulerLocator(client, user)

    @property
    def place(self) -> str:
        """The scheduler's URL, as last known."""
        return self._locator.client.url

    def live(self) -> SchedulerSession:
        """The session of this process."""
        if self.session is None or self.session.pid != os.getpid():
            self.session = SchedulerSession(self._locator)
            self.maps = set()
        return self.session

    def retire(self) -> None:
        """The executor is gone."""
        if self.session is not None and self.session.pid == os.getpid():
            self.session.retire()
