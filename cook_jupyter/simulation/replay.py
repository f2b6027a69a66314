"""The simulation: a trace of jobs through the real scheduler, on simulated hosts, faster than real time.

Lives here: `simulate` and what comes of it (`Outcome`). The loop is that of Cook's simulator (fair-share
specification, section 12), cycle by cycle and millisecond by millisecond; decisions cost no simulated time,
and the same input gives the same output. Nothing waits, and there is neither socket nor file.
Not here: any decision (`service.cycles`, `scheduling`), the hosts (`clusters.simulated`), files
(`simulation.traces`), what a run was worth (`simulation.measures`).

Of the service's loops only matching and rebalancing run here. Overlong tasks, stragglers, cancelled instances
and progress are not looked at, as in Cook's simulator.
"""

import asyncio
import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from cook_jupyter.clusters.simulated import Ending, SimulatedCluster
from cook_jupyter.errors import InvalidRequest, QuotaExceeded
from cook_jupyter.model.instance import InstanceId, InstanceStatus, TaskState
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.quick import maker
from cook_jupyter.model.reason import NON_ZERO_EXIT, REASONS, ReasonName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.offensive import offence
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cycles import match_all, rebalance_all
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.updates import Updates
from cook_jupyter.simulation.checks import check_hosts, check_trace, fitting_no_host
from cook_jupyter.simulation.config import POOL, SimConfig
from cook_jupyter.simulation.policies import Policy, limits_of, policy_named, settings_of
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob
from cook_jupyter.store.memory import MemoryStore

_job_spec = maker(JobSpec)

_CLUSTER: Final = "simulated"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_AT_ONCE: Final = 10_000  # jobs read from the store at a time

# Cook's mock of Mesos gives no reason with an end; who does not know why is told that it is not known.
_REASONS: Final[dict[TaskState, ReasonName]] = {TaskState.FAILED: NON_ZERO_EXIT}


class Cycle(NamedTuple):
    """One cycle, when it was over.

    Attributes:
        at_ms: when it began, in the trace's time.
        submitted, ended, launched, preempted: how many jobs came, and how many tasks did what, in it.
        waiting, running: how many jobs wait and tasks run after it.
    """

    at_ms: int
    submitted: int
    ended: int
    launched: int
    preempted: int
    waiting: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a simulation.

    Attributes:
        policy: the name of the policy.
        rows: one for each instance, in the order of their starts.
        cycles: all cycles, in order.
        end_ms: the clock at the end: when what still ran was written down.
        refused: jobs that were not accepted, and why.
        removed: jobs that were accepted and then ended, as they ask for more than any job may; and why.
        fitting_no_host: jobs that were accepted and wait to the end, as no host could ever run them; and why.
        waiting: how many accepted jobs wait at the end; those without instance have no row.
    """

    policy: str
    rows: Sequence[RunRow]
    cycles: Sequence[Cycle]
    end_ms: int
    refused: Mapping[JobId, str] = field(default_factory=dict)
    removed: Mapping[JobId, str] = field(default_factory=dict)
    fitting_no_host: Mapping[JobId, str] = field(default_factory=dict)
    waiting: int = 0


def simulate(
    trace: Sequence[TraceJob],
    hosts: Sequence[SimHost],
    config: SimConfig | None = None,
    *,
    policy: Policy | str = "fair",
    seed: int = 0,
    until_done: bool = False,
    progress: Callable[[Cycle], None] | None = None,
) -> Outcome:
    """Run a trace and return what became of it. May be called where an event loop runs, as in a notebook.

    Args:
        trace: jobs in order of submission, each id once.
        hosts: where they run.
        config: shares, sizes and intervals; Cook's defaults if not given.
        policy: how is decided; or its name, see `policies.POLICIES`.
        seed: of the instances' ids; they decide nothing.
        until_done: go on after the last submission until nothing runs and nothing can start. As Cook's
            simulator ends, one cycle after the last submission, what runs and waits then is cut off.
        progress: called after each cycle.

    Raises:
        InvalidRequest: the trace is empty, not in order or has an impossible value; so have the hosts.
        OutOfStep: the scheduler's memory could not follow one of its commits; the run is worth nothing.
    """
    if not trace or not hosts:
        raise InvalidRequest("a simulation wants at least one job and one host")
    check_trace(trace)
    check_hosts(hosts)
    replay = _Replay(
        trace,
        hosts,
        config or SimConfig(),
        policy if isinstance(policy, Policy) else policy_named(policy),
        random.Random(seed),
    )

    outcomes: list[Outcome] = []

    async def replayed() -> None:
        # Not returned: asyncio writes the result of its task out in full when it puts signals back.
        outcomes.append(await replay.run(until_done=until_done, progress=progress))

    def run() -> Outcome:
        with _calm_collector():
            asyncio.run(replayed())
        return outcomes[0]

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(run).result()


class _Replay:
    """One simulation."""

    def __init__(
        self,
        trace: Sequence[TraceJob],
        hosts: Sequence[SimHost],
        config: SimConfig,
        policy: Policy,
        dice: random.Random,
    ) -> None:
        self._trace = trace
        self._hosts = hosts
        self._config = config
        self._policy = policy
        self._jobs = {job.job_id: job for job in trace}
        self._submitted_ms: dict[JobId, int] = {}
        self._refused: dict[JobId, str] = {}
        self._removed: dict[JobId, str] = {}
        self._clock = ManualClock(trace[0].submit_ms)
        settings = settings_of(policy, config)
        self._max_cpus, self._max_mem_mb = settings.max_cpus, settings.max_mem_mb
        self._preempts = settings.rebalancer.enabled
        self._rebalance_ms = min(config.rebalance_ms, policy.max_rebalance_ms or config.rebalance_ms)
        self._ranked_for_rebalancer = settings.max_considered + (settings.rebalancer.max_preemption or 0)
        self._cluster = SimulatedCluster(
            [_offer(host) for host in hosts],
            behaviour=self._ending,
            now_ms=self._clock.now_ms,
            name=_CLUSTER,
            pools=(POOL,),
            tells_starts=False,  # each start is told with its end, or at the end of all
            ends_overlong=False,
        )
        self._store = MemoryStore(free=settings.free_failures)
        self._scheduler = Scheduler(
            store=self._store,
            clusters=[self._cluster],
            settings=settings,
            clock=self._clock,
            blobs=Path("unused"),
        )
        self._scheduler.new_instance_id = lambda: _uuid(dice)

    async def run(self, *, until_done: bool, progress: Callable[[Cycle], None] | None) -> Outcome:
        """Turn the clock until the trace is over, and a cycle more."""
        await self._begin()
        trace, config = self._trace, self._config
        cycles: list[Cycle] = []
        now_ms = rebalanced_ms = trace[0].submit_ms
        at = 0
        idle_ms = 0
        while True:
            self._clock.advance(now_ms - self._clock.now_ms())
            is_last = at == len(trace)  # the cycle after the one that submitted the last job
            first = at
            while at < len(trace) and trace[at].submit_ms <= now_ms:
                at += 1
            await self._submit(trace[first:at])
            offensive = list(self._scheduler.queues.offensive)
            self._clock.advance(1)
            ended = await self._cluster.turn()
            self._clock.advance(1)  # the queue is ranked; the optimizer, which does nothing, is called
            self._clock.advance(1)
            rebalances = self._preempts and now_ms - rebalanced_ms > self._rebalance_ms
            # The rebalancer takes what was ranked for the match, which launches some of it.
            ranked = self._scheduler.ranked(POOL, self._ranked_for_rebalancer) if rebalances else ()
            launched = await match_all(self._scheduler)
            if offensive:  # Cook ends them in the background, once a ranking has met them
                self._removed.update((job_id, self._why_removed(job_id)) for job_id in offensive)
                await self._scheduler.kill_jobs(offensive)
            preempted = 0
            if rebalances:
                self._clock.advance(1)
                preempted = await rebalance_all(self._scheduler, {POOL: ranked})
                await self._cluster.deliver()
                rebalanced_ms = now_ms
            cycle = Cycle(
                at_ms=now_ms,
                submitted=at - first,
                ended=ended,
                launched=launched,
                preempted=preempted,
                waiting=self._scheduler.waiting_count(),
                running=len(self._cluster.tasks),
            )
            cycles.append(cycle)
            self._store.require_in_step()
            if progress is not None:
                progress(cycle)
            idle_ms = 0 if cycle.running else idle_ms + config.cycle_step_ms
            if is_last and (
                not until_done or not (cycle.running or cycle.waiting) or idle_ms > self._rebalance_ms
            ):
                break
            now_ms += config.cycle_step_ms
        await self._cluster.tell_running()
        self._store.require_in_step()
        return Outcome(
            policy=self._policy.name,
            rows=await self._rows(),
            cycles=cycles,
            end_ms=self._clock.now_ms(),
            refused=self._refused,
            removed=self._removed,
            fitting_no_host={
                job_id: why
                for job_id, why in fitting_no_host(trace, self._hosts).items()
                if job_id not in self._refused and job_id not in self._removed
            },
            waiting=self._scheduler.waiting_count(),
        )

    async def _begin(self) -> None:
        await self._store.open()
        await self._store.set_limits(limits_of(self._policy, self._config, self._trace, self._hosts))
        await self._scheduler.recover()
        await self._cluster.start(Updates(self._scheduler), [])

    async def _submit(self, jobs: Sequence[TraceJob]) -> None:
        """Submit jobs, each a millisecond after the one before.

        They go in at once, as their times decide nothing: their order does. What is written down as a
        job's time of submission is its own millisecond.
        """
        if not jobs:
            return
        begin_ms = self._clock.now_ms() + 1
        self._submitted_ms.update((job.job_id, begin_ms + number) for number, job in enumerate(jobs))
        self._clock.advance(len(jobs))
        specs = [_spec(job) for job in jobs]
        try:
            await self._scheduler.submit(specs, override_group_immutability=True)
        except QuotaExceeded:
            for spec in specs:
                try:
                    await self._scheduler.submit([spec], override_group_immutability=True)
                except QuotaExceeded as error:
                    self._refused[spec.job_id] = str(error)

    def _why_removed(self, job_id: JobId) -> str:
        job = self._jobs[job_id]
        requested = Resources(cpus=job.cpus, mem_mb=job.mem_mb)
        excess = offence(requested, max_cpus=self._max_cpus, max_mem_mb=self._max_mem_mb)
        units = {"cpus": "cpus", "mem": "MB"}
        return "; ".join(
            f"it asks for {amounts['usage']:g} {units[name]}, and no job may have more than"
            f" {amounts['limit']:g}"
            for name, amounts in excess.items()
        )

    def _ending(self, spec: JobSpec) -> Ending:
        job = self._jobs[spec.job_id]
        return Ending(job.run_time_ms, job.status, _REASONS.get(job.status))

    async def _rows(self) -> list[RunRow]:
        slaves = {host.hostname: host.slave_id for host in self._hosts}
        statuses = {status: status.value for status in InstanceStatus}
        states = {state: state.value for state in TaskState}
        end_ms = self._clock.now_ms()
        rows: list[RunRow] = []
        accepted = iter([job for job in self._trace if job.job_id in self._submitted_ms])
        while some := list(islice(accepted, _AT_ONCE)):
            found = await self._store.jobs([job.job_id for job in some])
            for asked, job in zip(some, found, strict=True):
                if job is None:
                    continue
                for one in job.instances:
                    reason = one.reason if one.status is InstanceStatus.FAILED else None
                    rows.append(
                        RunRow(
                            asked.job_id,
                            one.instance_id,
                            asked.group or "",
                            self._submitted_ms[asked.job_id],
                            # A task runs from its launch on; of one that was preempted nobody told that.
                            one.started_ms if one.backend_started_ms is None else one.backend_started_ms,
                            one.started_ms,
                            end_ms if one.ended_ms is None else one.ended_ms,
                            one.host,
                            slaves[one.host],
                            statuses[one.status],
                            "" if reason is None else REASONS[reason].sentence,
                            asked.user,
                            asked.mem_mb,
                            asked.cpus,
                            asked.name,
                            asked.run_time_ms,
                            asked.expected_runtime_ms,
                            states[asked.status],
                        )
                    )
        rows.sort(key=attrgetter("start_time_ms"))
        return rows


def _spec(job: TraceJob) -> JobSpec:
    return _job_spec(
        job_id=job.job_id,
        user=job.user,
        command="",
        pool=POOL,
        cpus=job.cpus,
        mem_mb=job.mem_mb,
        gpus=job.gpus,
        name=job.name,
        priority=job.priority,
        max_retries=job.max_retries,
        max_runtime_ms=job.max_runtime_ms,
        expected_runtime_ms=job.expected_runtime_ms,
        env=_NOTHING,
        labels=_NOTHING,
        group=job.group,
        disable_mea_culpa_retries=job.disable_mea_culpa_retries,
        extra=_NOTHING,
    )


def _offer(host: SimHost) -> Offer:
    return Offer(
        host=host.hostname,
        cluster=_CLUSTER,
        pool=POOL,
        room=Resources(cpus=host.cpus, mem_mb=host.mem_mb, gpus=host.gpus),
        attributes=host.attributes,
        ports=host.ports,
    )


def _uuid(dice: random.Random) -> InstanceId:
    digits = dice.getrandbits(128).to_bytes(16, "big").hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Keep the garbage collector away: what a simulation makes are trees, and it makes millions of them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # All at once into the oldest generation: else the first collection looks through all of it.
            gc.freeze()
            gc.unfreeze()
            gc.enable()
