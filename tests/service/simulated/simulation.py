"""One simulation: a scheduler that is killed and started again, its hosts, its users, and what goes wrong.

Lives here: `simulate`, which runs the scenario of a seed and returns its `Outcome`. The scheduler is the
product's own (`service.process.lifespan.run_scheduler` with all its loops); store, hosts, network, clock and
event loop are simulated. For some seconds of virtual time users act and faults happen. Then all faults heal,
limits are lifted, jobs without an end are killed, and everything has to come to its end.
Not here: the parts (`event_loop`, `store`, `cluster`, `users`, `faults`), what must hold (`invariants`).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from cook_jupyter.errors import CookError, SchedulerUnreachable
from cook_jupyter.model.instance import InstanceId, InstanceStatus
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from tests.service.simulated.cluster import ClusterConnection, HostCluster, HostWorld
from tests.service.simulated.event_loop import Process, SimulatedEventLoop
from tests.service.simulated.faults import Faults
from tests.service.simulated.invariants import Invariants
from tests.service.simulated.scenario import CHAOS_S, Scenario, draw_scenario
from tests.service.simulated.store import Disk, SimulatedStore
from tests.service.simulated.trace import Trace
from tests.service.simulated.users import Administrator, User

SETTLE_S = 600.0  # of virtual time, after which every job must have ended
REST_S = 3.0
LONGEST_REST_S = 75.0  # until kills are given up whose ends no cluster knows (20 times 3 s)
CHECK_S = 5.0
START_MS = 1_700_000_000_000
MOST_STEPS = 400_000
HEARTBEAT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one simulation.

    Attributes:
        seed: the seed.
        violation: the first invariant that did not hold; None if all did.
        digest: hash of the trace and of how often chance was asked; of a run that was traced.
        lines: the trace; of a run that was traced.
        faults: number of faults, by kind.
        checks: number of checks, by invariant.
        steps: number of callbacks.
        virtual_s: virtual seconds.
        jobs: number of jobs.
        instances: number of instances.
        overlaps: number of tasks that started while an earlier one of their job was still being killed.
    """

    seed: int
    violation: str | None
    digest: str = ""
    lines: tuple[str, ...] = ()
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    virtual_s: float = 0.0
    jobs: int = 0
    instances: int = 0
    overlaps: int = 0


def simulate(seed: int, *, is_traced: bool = False, without: Collection[str] = ()) -> Outcome:
    """Run the scenario of a seed.

    Args:
        seed: the seed; equal seeds run alike.
        is_traced: whether the trace is kept.
        without: kinds of faults to leave out.
    """
    simulation = Simulation(draw_scenario(seed).without(without), is_traced=is_traced)
    with _errors_are_violations(simulation.invariants):
        return simulation.run()


class SimulatedClock:
    """A wall clock, which may be set.

    That of the hosts is set at any time. A scheduler's is as the hosts' when the scheduler starts, and keeps
    the promise of `service.clock.SystemClock`: nobody sets it later, but it goes on while the machine sleeps.
    """

    def __init__(self, loop: SimulatedEventLoop, offset_ms: int = START_MS) -> None:
        self._loop = loop
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        """Return the time in epoch milliseconds."""
        return int(self._loop.time() * 1000) + self.offset_ms


@dataclass(slots=True)
class _Incarnation:
    """One life of the scheduler.

    Attributes:
        process: its process.
        store: its store.
        clusters: its connections to the clusters.
        clock: its clock.
        scheduler: the scheduler, once it has recovered.
        pending: answers that users wait for.
    """

    process: Process
    store: SimulatedStore
    clusters: list[ClusterConnection]
    clock: SimulatedClock
    scheduler: Scheduler | None = None
    pending: dict[asyncio.Future[Any], None] = field(default_factory=dict)


class Simulation:
    """The world of one seed (`users.Site` for its users)."""

    def __init__(self, scenario: Scenario, *, is_traced: bool) -> None:
        self.scenario = scenario
        schedule = Random(f"{scenario.seed} schedule")
        self._schedule = schedule
        self.loop = SimulatedEventLoop(schedule, haste=scenario.rates.get("haste", 0.0))
        self.trace = Trace(self.loop.time, is_kept=is_traced)
        self._ids = Random(f"{scenario.seed} ids")
        self._world = Process("world")
        self._disk = Disk(scenario.settings.jobs.free_failures, self._new_id())
        self.invariants = Invariants(scenario, self._disk.state)
        self.faults = Faults(scenario, self.trace, self.loop.time)
        self.clock = SimulatedClock(self.loop)
        world = HostWorld(
            faults=self.faults,
            invariants=self.invariants,
            trace=self.trace,
            repeats_reports=scenario.repeats_reports,
            context=self._world.context,
            now_ms=self.clock.now_ms,
        )
        self._host_world = world
        self.clusters = [
            HostCluster(name, [host for host in scenario.hosts if host.cluster == name], world)
            for name in scenario.clusters
        ]
        self._users = [User(name, self) for name in scenario.users]
        self._administrator = Administrator(self)
        self._incarnation: _Incarnation | None = None
        self._processes: list[Process] = [self._world]
        self.is_healed = False

    def run(self) -> Outcome:
        """Run to the end."""
        main = self.loop.create_task(self._live(), context=self._world.context.copy())
        try:
            self.loop.run_until(lambda: main.done() or self._is_over())
        except RuntimeError as error:
            self.invariants.check("I15", False, error)
        if main.done() and main.exception() is not None:
            self.invariants.check("harness", False, repr(main.exception()))
        for unhandled in self.loop.errors:
            self.invariants.check("views", False, "an exception that nobody took:", unhandled)
        if self.invariants.violation:
            self.trace.note("violation", self.invariants.violation)
        self.faults.counts["haste"] += self.loop.hasty_steps
        jobs = self._disk.state.jobs.values()
        outcome = Outcome(
            seed=self.scenario.seed,
            violation=self.invariants.violation,
            digest=f"{self.trace.digest()} {self.loop.steps} {self._schedule.random()}",
            lines=tuple(self.trace.lines()),
            faults=self.faults.counts,
            checks=self.invariants.counts,
            steps=self.loop.steps,
            virtual_s=self.loop.time(),
            jobs=len(jobs),
            instances=sum(len(job.instances) for job in jobs),
            overlaps=self.invariants.overlaps,
        )
        self.loop.close()
        for process in self._processes:
            process.is_alive = False
            process.free()
        return outcome

    def _is_over(self) -> bool:
        if self.loop.steps > MOST_STEPS:
            self.invariants.check("I15", False, "more than", MOST_STEPS, "callbacks")
        return self.invariants.violation is not None or bool(self.loop.errors)

    async def _live(self) -> None:
        """Let users act and faults happen, heal everything, and wait until all has come to its end."""
        self._start_scheduler()
        tasks = [self.loop.create_task(user.act_for_ever()) for user in self._users]
        tasks.append(self.loop.create_task(self._administrator.act_for_ever()))
        self.loop.create_task(self._check_for_ever())
        for kind, strike in (
            ("crash", self._crash),
            ("stop", self._stop),
            ("clock", self._set_clock),
            ("host_lost", self._lose_host),
            ("partition", self._cut_off_host),
            ("store_slow", self.faults.slow_store),
            ("store_refuses", self.faults.refusing_store),
        ):
            self.loop.create_task(self._strike_for_ever(kind, strike))
        await asyncio.sleep(CHAOS_S)
        await self._heal()
        for task in tasks:
            await task
        await self._administrator.lift_limits()
        for user in self._users:
            await user.kill_endless()
        await self._wait_until(self._all_ended, SETTLE_S)
        await asyncio.sleep(REST_S)
        await self._wait_until(lambda: not any(self._left().values()), LONGEST_REST_S)
        # The scheduler may have started, or committed progress, at this very moment.
        await self._wait_until(lambda: self._all_listen() and not any(self._unseen()), LONGEST_REST_S)
        await self._note_why_jobs_wait()
        self._check_end()

    async def _wait_until(self, holds: Callable[[], bool], longest_s: float) -> None:
        """Let virtual time pass until a condition holds, or for so long at most."""
        for _ in range(int(longest_s)):
            if holds():
                return
            await asyncio.sleep(1.0)

    async def _note_why_jobs_wait(self) -> None:
        """Add to the trace what the scheduler says of jobs that still wait in the end."""
        for job in list(self._disk.state.jobs.values()):
            if job.state is JobState.WAITING and self._incarnation is not None:
                reasons = await self.request("why", partial(Scheduler.explain, job_id=job.job_id))
                self.trace.note("still waits", job.job_id, job.spec.user, *reasons)

    # --- schedulers

    def _start_scheduler(self) -> None:
        process = Process(f"scheduler {len(self._processes)}")
        self._processes.append(process)
        store = SimulatedStore(self._disk, process, self.faults, self.invariants, self.trace)
        pools = [pool.name for pool in self.scenario.settings.pools]
        clusters = [ClusterConnection(each, process, pools, self._host_world) for each in self.clusters]
        incarnation = self._incarnation = _Incarnation(
            process, store, clusters, SimulatedClock(self.loop, self.clock.offset_ms)
        )
        process.on_death = lambda: self._died(incarnation)
        self.trace.note("start", process.name)
        main = self.loop.create_task(self._run_scheduler(incarnation), context=process.context.copy())
        main.add_done_callback(
            lambda task: self._ended(incarnation, task), context=self._world.context.copy()
        )

    async def _run_scheduler(self, incarnation: _Incarnation) -> None:
        settings, home = self.scenario.settings, Home(root=Path("simulated"))
        clock = incarnation.clock
        async with run_scheduler(incarnation.store, incarnation.clusters, settings, home, clock) as scheduler:
            scheduler.new_instance_id = self._new_id
            incarnation.scheduler = scheduler
            self.invariants.scheduler = scheduler
            self._note_hosts()
            self.invariants.check_all()
            for user in self._users:
                self.loop.create_task(self._listen(scheduler, user))
            await scheduler.shutdown.wait()

    async def _listen(self, scheduler: Scheduler, user: User) -> None:
        """Hand a user the changes of their jobs, as the event stream does."""
        stream = scheduler.subscribe(user.name, user.cursor, store_id=user.store_id)
        user.store_id = scheduler.store_id
        try:
            while not stream.closed:
                changes = await stream.batch(HEARTBEAT_S)
                user.take_changes(changes)
        except CookError as error:
            self.trace.note("stream ended", user.name, error)
        finally:
            stream.close()

    def _ended(self, incarnation: _Incarnation, task: asyncio.Task[None]) -> None:
        """Take note of a scheduler that has ended by itself."""
        error = task.exception()
        self.invariants.check(
            "views", error is None or isinstance(error, CookError), "it died of", repr(error)
        )
        self.trace.note("end", incarnation.process.name, error)
        incarnation.process.kill()

    def _died(self, incarnation: _Incarnation) -> None:
        """Fail what users wait for, and start the next scheduler after a while."""
        self.trace.note("dead", incarnation.process.name)
        self._incarnation = None
        self.invariants.scheduler = None
        for answer in incarnation.pending:
            if not answer.done():
                answer.set_exception(SchedulerUnreachable("the simulated scheduler died"))
        pause_s = 0.1 if self.is_healed else self.faults.rng("usual").choice([0.0, 0.5, 5.0])
        self.loop.call_later(pause_s, self._start_scheduler, context=self._world.context.copy())

    async def request(self, name: str, act: Callable[[Scheduler], Awaitable[Any]]) -> Any:
        """Let the scheduler that runs now do something, and return its answer (`users.Site`)."""
        incarnation = self._incarnation
        if incarnation is None or incarnation.scheduler is None:
            raise SchedulerUnreachable("no simulated scheduler runs")
        self.trace.note("request", name)
        answer = self.loop.create_future()
        incarnation.pending[answer] = None
        handler = self._handle(act, incarnation.scheduler, answer)
        self.loop.create_task(handler, context=incarnation.process.context.copy())
        try:
            return await answer
        finally:
            incarnation.pending.pop(answer, None)

    async def _handle(
        self,
        act: Callable[[Scheduler], Awaitable[Any]],
        scheduler: Scheduler,
        answer: asyncio.Future[Any],
    ) -> None:
        try:
            result = await act(scheduler)
        except CookError as error:
            if not answer.done():
                answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the user of a server would see "500"
            self.invariants.check("views", False, "a request failed:", repr(error))
        else:
            if not answer.done():
                answer.set_result(result)

    def _new_id(self) -> InstanceId:
        return InstanceId(str(UUID(int=self._ids.getrandbits(128))))

    # --- faults

    async def _strike_for_ever(self, kind: str, strike: Callable[[], None]) -> None:
        while (pause_s := self.faults.interval_s(kind)) is not None:
            await asyncio.sleep(pause_s)
            if self.is_healed:
                return
            strike()

    def _crash(self) -> None:
        """Kill the scheduler some callbacks later: between any two of them."""
        if self._incarnation is not None:
            process = self._incarnation.process
            steps = self.faults.rng("crash").randint(1, 60)
            self.faults.count("crash", process.name, "in", steps)
            process.dies_at = process.steps + steps

    def _stop(self) -> None:
        """Ask the scheduler to end in good order."""
        if self._incarnation is not None and self._incarnation.scheduler is not None:
            self.faults.count("stop")
            self._incarnation.scheduler.request_shutdown()

    def _set_clock(self) -> None:
        jump_ms = self.faults.rng("clock").choice([-3_600_000, -60_000, -2_000, 2_000, 60_000, 3_600_000])
        self.faults.count("clock", jump_ms)
        self.faults.counts["clock forward" if jump_ms > 0 else "clock backward"] += 1
        self.clock.offset_ms += jump_ms
        if jump_ms > 0 and self._incarnation is not None and self.faults.rng("clock").random() < 0.5:
            self.faults.counts["machine slept"] += 1
            self._incarnation.clock.offset_ms += jump_ms

    def _lose_host(self) -> None:
        rng = self.faults.rng("host_lost")
        self._strike_host("host_lost", HostCluster.lose, rng)

    def _cut_off_host(self) -> None:
        rng = self.faults.rng("partition")
        self._strike_host("partition", HostCluster.cut_off, rng)

    def _strike_host(self, kind: str, strike: Callable[[HostCluster, Any], None], rng: Random) -> None:
        cluster = rng.choice(self.clusters)
        host = rng.choice(list(cluster.hosts.values()))
        if not host.is_connected:
            return
        self.faults.count(kind, host.plan.name)
        strike(cluster, host)
        self._note_hosts()

        def back() -> None:
            self.trace.note("host back", host.plan.name)
            cluster.reconnect(host)
            self._note_hosts()

        self.loop.call_later(rng.choice([1.0, 5.0, 25.0]), back)

    def _note_hosts(self) -> None:
        self.invariants.known_hosts = frozenset(
            name for cluster in self.clusters for name, host in cluster.hosts.items() if host.is_up
        )

    async def _heal(self) -> None:
        """Let nothing go wrong from now on; a scheduler that was to die lives."""
        self.trace.note("heal")
        self.is_healed = True
        self.faults.heal()
        if self._incarnation is not None:
            self._incarnation.process.dies_at = None
        for cluster in self.clusters:
            for host in cluster.hosts.values():
                if not host.is_connected:
                    cluster.reconnect(host)
        self._note_hosts()

    # --- checks

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            incarnation = self._incarnation
            if incarnation is not None and not incarnation.store.is_settling:
                self.invariants.check_all()

    def _all_ended(self) -> bool:
        return all(
            job.state is JobState.COMPLETED and job.open_instance is None
            for job in self._disk.state.jobs.values()
        ) and not any(
            host.tasks or host.ended for cluster in self.clusters for host in cluster.hosts.values()
        )

    def _check_end(self) -> None:
        check, book = self.invariants.check, self._disk.state
        incarnation = self._incarnation
        check("I15", incarnation is not None and incarnation.scheduler is not None, "no scheduler runs")
        if incarnation is None or incarnation.scheduler is None:
            return
        for job in book.jobs.values():
            check("I15", job.state is JobState.COMPLETED, "never ended:", job)
            for instance in job.instances:
                check("I13", not instance.status.is_open, "open in the end:", instance)
                if instance.status is InstanceStatus.SUCCESS:
                    result = book.results.get(instance.instance_id)
                    kept = result is not None and result.inline == instance.instance_id.encode()
                    check("I12", kept, "the result is not kept:", instance)
        for cluster in self.clusters:
            for host in cluster.hosts.values():
                check("I13", not host.tasks, "runs in the end:", host.plan.name, list(host.tasks))
                check("I12", not host.ended, "not acknowledged in the end:", host.plan.name, list(host.ended))
        self._check_baseline(incarnation.scheduler)
        for job, seen in self._unseen():
            check("events", False, "the stream missed", job.job_id, seen, job.change)
        self.invariants.check_all()

    def _left(self) -> dict[str, Any]:
        """Return what the scheduler still keeps for work, by what it is."""
        incarnation = self._incarnation
        if incarnation is None or incarnation.scheduler is None:
            return {}
        scheduler = incarnation.scheduler
        queues, kills = scheduler.queues, scheduler.kills
        return {
            "kills": list(kills._pending),
            "settled kills": list(kills._settled),
            "launching": list(kills._launching),
            "running rows": list(scheduler._running),
            "reservations": dict(queues.reservations.for_all_pools()),
            "launch numbers": dict(queues.reservations._launch_numbers),
            "unused reservations": list(queues.reservations._unused),
            "victims": queues.reservations._ending_victims(),
            "offensive": list(queues.offensive),
            "heads": {pool: heads for pool, heads in queues.heads._heads.items() if heads},
            "tried": {
                name: list(pool.retried_jobs) for name, pool in queues._pools.items() if pool.retried_jobs
            },
            "queued": {name: len(pool.index) for name, pool in queues._pools.items() if len(pool.index)},
            "progress": list(scheduler.progress_buffer.pending),
            "commands": incarnation.store.queue_length,
            "updates": sum(each.unreported for each in incarnation.clusters),
            "requests": len(incarnation.pending),
        }

    def _all_listen(self) -> bool:
        """Return whether a scheduler runs and has as many event streams as there are users."""
        scheduler = None if self._incarnation is None else self._incarnation.scheduler
        return scheduler is not None and self._count_streams(scheduler) == len(self._users)

    def _unseen(self) -> Iterator[tuple[Job, int | None]]:
        """Yield jobs whose last change no event stream has brought to their user, and the change it has."""
        for user in self._users:
            for job in self._disk.state.jobs.values():
                if job.spec.user == user.name and (seen := user.seen.get(job.job_id)) != job.change:
                    yield job, seen

    @staticmethod
    def _count_streams(scheduler: Scheduler) -> int:
        return sum(map(len, scheduler.event_hub._subscriptions.values()))

    def _check_baseline(self, scheduler: Scheduler) -> None:
        """Check that what a scheduler keeps for work that has ended is gone."""
        for name, rest in self._left().items():
            self.invariants.check("I14", not rest, name, "in the end:", rest)
        streams = self._count_streams(scheduler)
        self.invariants.check("I14", streams == len(self._users), "event streams:", streams)
        self.invariants.check("I14", self.loop.timer_count <= 40, "timers:", self.loop.timer_count)


class _Recorder(logging.Handler):
    """Counts what the product logs as an error: a loop that died, a listener that failed."""

    def __init__(self, invariants: Invariants) -> None:
        super().__init__(logging.ERROR)
        self._invariants = invariants

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._invariants.check("views", False, "logged:", record.getMessage(), repr(error))


@contextmanager
def _errors_are_violations(invariants: Invariants) -> Iterator[None]:
    logger = logging.getLogger("cook_jupyter")
    recorder, propagates = _Recorder(invariants), logger.propagate
    logger.addHandler(recorder)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(recorder)
