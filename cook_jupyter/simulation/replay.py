"""The simulation loop: run a trace of jobs through the real scheduler, on simulated hosts.

Lives here: `simulate` and its result, `Outcome`. The loop is that of Cook's simulator (fair-share
specification, section 12), cycle by cycle and millisecond by millisecond. Decisions take no simulated time,
and the same input gives the same output. Nothing waits for real time, and no socket or file is used.
Not here: any decision (`service.cycles.match_cycle`, `scheduling`), the hosts (`clusters.simulated`), file
formats (`simulation.traces`), the evaluation of a run (`simulation.measures`).

Of the loops of the service only matching and rebalancing run here. As in Cook's simulator, nothing watches
for overlong tasks, stragglers, cancelled instances or progress.
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

from cook_jupyter.clusters.simulated import ScheduledExit, SimulatedCluster
from cook_jupyter.errors import InvalidRequest, QuotaExceeded
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import InstanceId, InstanceStatus, TaskState
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.reason import NON_ZERO_EXIT, REASONS, ReasonName
from cook_jupyter.model.resources import Resources
from cook_jupyter.payload.blobs import DirectoryStore
from cook_jupyter.scheduling.limits.offensive import excess_of
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cluster_updates import ClusterUpdates
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.simulation.checks import check_hosts, check_trace, fitting_no_host
from cook_jupyter.simulation.config import POOL, SimConfig
from cook_jupyter.simulation.policies import Policy, build_limits, build_settings, find_policy
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob
from cook_jupyter.store.memory import MemoryStore

_job_spec = fast_constructor(JobSpec)

_CLUSTER: Final = "simulated"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_BATCH_SIZE: Final = 10_000  # jobs read from the store at a time

# Cook's mock of Mesos gives no reason for an end, except that a failed task gets this one.
_REASONS: Final[dict[TaskState, ReasonName]] = {TaskState.FAILED: NON_ZERO_EXIT}


class CycleStats(NamedTuple):
    """Counts of one simulated cycle.

    Attributes:
        at_ms: start of the cycle, on the clock of the trace.
        submitted: number of jobs submitted in the cycle.
        ended, launched, preempted: number of tasks that ended, started and were preempted in the cycle.
        waiting, running: number of waiting jobs and running tasks after the cycle.
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
    """The result of a simulation.

    Attributes:
        policy: name of the policy.
        rows: one row per instance, in the order of their starts.
        cycles: counts of each cycle, in order.
        end_ms: time at which the simulation ended; running instances are recorded up to then.
        refused: jobs that were not accepted, each with the reason.
        removed: jobs that were accepted and then ended because they request more than any job may, each with
            the reason.
        fitting_no_host: jobs that were accepted and wait to the end because no host could ever run them, each
            with the reason.
        waiting: number of accepted jobs that wait at the end; those without an instance have no row.
    """

    policy: str
    rows: Sequence[RunRow]
    cycles: Sequence[CycleStats]
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
    progress: Callable[[CycleStats], None] | None = None,
) -> Outcome:
    """Simulate a trace. May be called while an event loop runs, as in a notebook.

    Args:
        trace: jobs in order of submission, each id once.
        hosts: hosts to run the jobs on.
        config: shares, limits and intervals; None for the defaults of Cook's simulator.
        policy: the scheduling policy, or its name in `policies.POLICIES`.
        seed: seed of the instance ids, which affect no decision.
        until_done: whether to go on after the last submission until nothing runs and nothing can start. By
            default the simulation ends one cycle after the last submission, like Cook's simulator.
        progress: function to call after each cycle.

    Raises:
        InvalidRequest: the trace or the list of hosts is empty or invalid.
        OutOfStep: an in-memory view of the scheduler missed a commit, so the run is invalid.
    """
    if not trace or not hosts:
        raise InvalidRequest("a simulation needs at least one job and one host")
    check_trace(trace)
    check_hosts(hosts)
    replay = _Replay(
        trace,
        hosts,
        config or SimConfig(),
        policy if isinstance(policy, Policy) else find_policy(policy),
        random.Random(seed),
    )

    outcomes: list[Outcome] = []

    async def run_replay() -> None:
        # Not returned: asyncio.run formats the repr of its task, result included, when it restores signals.
        outcomes.append(await replay.run(until_done=until_done, progress=progress))

    def run() -> Outcome:
        with _gc_disabled():
            asyncio.run(run_replay())
        return outcomes[0]

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


class _Replay:
    """One run of a simulation."""

    def __init__(
        self,
        trace: Sequence[TraceJob],
        hosts: Sequence[SimHost],
        config: SimConfig,
        policy: Policy,
        rng: random.Random,
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
        settings = build_settings(policy, config)
        self._max_cpus, self._max_mem_mb = settings.jobs.max_cpus, settings.jobs.max_mem_mb
        self._preempts = settings.rebalancer.enabled
        self._rebalance_ms = min(config.rebalance_ms, policy.max_rebalance_ms or config.rebalance_ms)
        self._ranked_for_rebalancer = settings.matching.max_considered + settings.rebalancer.max_preemption
        self._cluster = SimulatedCluster(
            [_offer(host) for host in hosts],
            behaviour=self._ending,
            now_ms=self._clock.now_ms,
            name=_CLUSTER,
            pools=(POOL,),
            reports_starts=False,  # a start is reported together with the end, or when the simulation ends
            enforce_max_runtime=False,
        )
        self._store = MemoryStore(free=settings.jobs.free_failures)
        self._scheduler = Scheduler(
            store=self._store,
            clusters=[self._cluster],
            settings=settings,
            clock=self._clock,
            home=Home(root=Path("unused")),
            blobs=DirectoryStore(Path("unused")),
        )
        self._scheduler.new_instance_id = lambda: _uuid(rng)

    async def run(self, *, until_done: bool, progress: Callable[[CycleStats], None] | None) -> Outcome:
        """Advance the clock cycle by cycle until one cycle after the last submission, or until done."""
        await self._begin()
        trace, config = self._trace, self._config
        cycles: list[CycleStats] = []
        now_ms = rebalanced_ms = trace[0].submit_ms
        next_job = 0
        idle_ms = 0
        while True:
            self._clock.advance(now_ms - self._clock.now_ms())
            is_last = next_job == len(trace)  # an earlier cycle submitted the last job
            first_job = next_job
            while next_job < len(trace) and trace[next_job].submit_ms <= now_ms:
                next_job += 1
            await self._submit(trace[first_job:next_job])
            offensive = list(self._scheduler.queues.offensive)
            self._clock.advance(1)
            ended = await self._cluster.process_due()
            self._clock.advance(1)  # Cook ranks the queue, and calls its optimizer, which does nothing
            self._clock.advance(1)
            rebalances = self._preempts and now_ms - rebalanced_ms > self._rebalance_ms
            # As in Cook, the rebalancer uses the ranking from before the match.
            ranked = self._scheduler.ranked(POOL, self._ranked_for_rebalancer) if rebalances else ()
            launched = await match_all(self._scheduler)
            if offensive:  # Cook kills them in the background after a ranking has found them
                self._removed.update((job_id, self._why_removed(job_id)) for job_id in offensive)
                await self._scheduler.kill_jobs(offensive)
            preempted = 0
            if rebalances:
                self._clock.advance(1)
                preempted = await rebalance_all(self._scheduler, {POOL: ranked})
                await self._cluster.deliver()
                rebalanced_ms = now_ms
            cycle = CycleStats(
                at_ms=now_ms,
                submitted=next_job - first_job,
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
        await self._cluster.report_running()
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
        await self._store.set_limits(build_limits(self._policy, self._config, self._trace, self._hosts))
        await self._scheduler.recover()
        await self._cluster.start(ClusterUpdates(self._scheduler), [])

    async def _submit(self, jobs: Sequence[TraceJob]) -> None:
        """Submit jobs, each one millisecond after the one before it.

        The jobs go to the scheduler in one request, because only their order affects decisions; the rows get
        each job's own millisecond as its time of submission.
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
        excess = excess_of(requested, max_cpus=self._max_cpus, max_mem_mb=self._max_mem_mb)
        units = {"cpus": "cpus", "mem": "MB"}
        return "; ".join(
            f"it requests {amounts['usage']:g} {units[name]}, and no job may have more than"
            f" {amounts['limit']:g}"
            for name, amounts in excess.items()
        )

    def _ending(self, spec: JobSpec) -> ScheduledExit:
        job = self._jobs[spec.job_id]
        return ScheduledExit(job.run_time_ms, job.status, _REASONS.get(job.status))

    async def _rows(self) -> list[RunRow]:
        slave_ids = {host.hostname: host.slave_id for host in self._hosts}
        statuses = {status: status.value for status in InstanceStatus}
        states = {state: state.value for state in TaskState}
        end_ms = self._clock.now_ms()
        rows: list[RunRow] = []
        accepted = iter([job for job in self._trace if job.job_id in self._submitted_ms])
        while batch := list(islice(accepted, _BATCH_SIZE)):
            jobs = await self._store.jobs([job.job_id for job in batch])
            for trace_job, job in zip(batch, jobs, strict=True):
                if job is None:
                    continue
                for instance in job.instances:
                    reason = instance.reason if instance.status is InstanceStatus.FAILED else None
                    rows.append(
                        RunRow(
                            trace_job.job_id,
                            instance.instance_id,
                            trace_job.group or "",
                            self._submitted_ms[trace_job.job_id],
                            # A task runs from its launch on; nothing reported that for a preempted one.
                            instance.started_ms
                            if instance.backend_started_ms is None
                            else instance.backend_started_ms,
                            instance.started_ms,
                            end_ms if instance.ended_ms is None else instance.ended_ms,
                            instance.host,
                            slave_ids[instance.host],
                            statuses[instance.status],
                            "" if reason is None else REASONS[reason].sentence,
                            trace_job.user,
                            trace_job.mem_mb,
                            trace_job.cpus,
                            trace_job.name,
                            trace_job.run_time_ms,
                            trace_job.expected_runtime_ms,
                            states[trace_job.status],
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


def _uuid(rng: random.Random) -> InstanceId:
    digits = rng.getrandbits(128).to_bytes(16, "big").hex()
    return InstanceId(f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}")


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable the garbage collector: a simulation creates millions of objects, but no reference cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # Move all objects to the oldest generation; otherwise the first collection traverses all of them.
            gc.freeze()
            gc.unfreeze()
            gc.enable()
