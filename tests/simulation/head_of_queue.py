"""A replay of jobs event by event, with a record of each job that waited at the head of the queue.

Lives here: `replay_events`, which runs a match cycle after each submission and each end. For each job that
reaches the head, it records the time, the end of the last task that ran then, and the start of the job.
Not here: Cook's loop in steps of many seconds (`simulation.replay`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from cook_jupyter.clusters.simulated import ScheduledExit, SimulatedCluster
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.limits import LimitEntry, LimitKind
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.resources import Resources
from cook_jupyter.payload.blobs import DirectoryStore
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cluster_updates import ClusterUpdates
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import HeadRoomSettings, RebalancerSettings
from cook_jupyter.store.memory import MemoryStore


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A job with its time of submission and its run time."""

    at_ms: int
    spec: JobSpec
    run_ms: int


@dataclass(kw_only=True)
class HeadVisit:
    """The time of a job at the head of the queue.

    Attributes:
        since_ms: time at which the job reached the head.
        bound_ms: end of the last task that was running then.
        started_ms: start of the job; None if it left the head without starting.
    """

    since_ms: int
    bound_ms: int
    started_ms: int | None = None


@dataclass(kw_only=True)
class ReplayRecord:
    """The outcome of a replay, in which no host was oversubscribed.

    Attributes:
        heads: visits of jobs to the head of the queue.
        starts: start of each job.
        waiting: number of jobs that never started.
        end_ms: end of the last task.
        busy_cpu_ms: cpus multiplied by the time for which they were in use.
        max_kept_fraction: largest fraction of all cpus that was kept for several heads at a time.
    """

    heads: list[tuple[JobId, HeadVisit]] = field(default_factory=list)
    starts: dict[JobId, int] = field(default_factory=dict)
    waiting: int = 0
    end_ms: int = 0
    busy_cpu_ms: float = 0.0
    max_kept_fraction: float = 0.0


def replay_events(
    arrivals: Sequence[Arrival],
    hosts: Mapping[str, Resources],
    *,
    head_room: HeadRoomSettings,
    shares: Mapping[str, float] | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> ReplayRecord:
    """Replay arrivals in order of time, without preemption, until nothing runs and nothing can start."""
    return asyncio.run(_replay(arrivals, hosts, head_room, shares or {}, attributes or {}))


async def _replay(
    arrivals: Sequence[Arrival],
    hosts: Mapping[str, Resources],
    head_room: HeadRoomSettings,
    shares: Mapping[str, float],
    attributes: Mapping[str, Mapping[str, str]],
) -> ReplayRecord:
    clock = ManualClock(arrivals[0].at_ms)
    run_ms = {arrival.spec.job_id: arrival.run_ms for arrival in arrivals}
    cluster = SimulatedCluster(
        [
            Offer(host=host, cluster="c", pool=DEFAULT_POOL, room=total, attributes=attributes.get(host, {}))
            for host, total in hosts.items()
        ],
        behaviour=lambda spec: ScheduledExit(run_ms[spec.job_id]),
        now_ms=clock.now_ms,
    )
    store = MemoryStore()
    scheduler = Scheduler(
        store=store,
        clusters=[cluster],
        settings=Settings(rebalancer=RebalancerSettings(enabled=False), head_room=head_room),
        clock=clock,
        home=Home(root=Path("unused")),
        blobs=DirectoryStore(Path("unused")),
    )
    numbers = count(1)
    scheduler.new_instance_id = lambda: InstanceId(f"i{next(numbers)}")
    await store.open()
    await store.set_limits(
        [
            LimitEntry(kind=LimitKind.SHARE, user="default", pool=DEFAULT_POOL, name=name, amount=amount)
            for name, amount in shares.items()
        ]
    )
    await scheduler.recover()
    await cluster.start(ClusterUpdates(scheduler), [])
    recorder = _Recorder(scheduler, run_ms, sum(total.cpus for total in hosts.values()))
    next_arrival = 0
    while next_arrival < len(arrivals) or recorder.ends:
        times = ([arrivals[next_arrival].at_ms] if next_arrival < len(arrivals) else []) + recorder.ends[:1]
        clock.advance(max(0, min(times) - clock.now_ms()))
        first = next_arrival
        while next_arrival < len(arrivals) and arrivals[next_arrival].at_ms <= clock.now_ms():
            next_arrival += 1
        if next_arrival > first:
            await scheduler.submit([arrival.spec for arrival in arrivals[first:next_arrival]])
        await cluster.process_due()
        await match_all(scheduler)
        await cluster.deliver()
        recorder.update(clock.now_ms())
        for host in cluster.offers():
            assert min(host.room.cpus, host.room.mem_mb) >= 0, f"{host.host} is oversubscribed"
    recorder.record.waiting = scheduler.waiting_count()
    return recorder.record


class _Recorder:
    """Updates a record after each cycle.

    Attributes:
        record: the record.
        ends: heap of the ends of running tasks.
    """

    def __init__(self, scheduler: Scheduler, run_ms: Mapping[JobId, int], total_cpus: float) -> None:
        self.record = ReplayRecord()
        self.ends: list[int] = []
        self._scheduler = scheduler
        self._run_ms = run_ms
        self._total_cpus = total_cpus
        self._visits: dict[JobId, HeadVisit] = {}

    def update(self, now_ms: int) -> None:
        """Record the jobs that the last cycle started, and those at the head of the queue after it."""
        record = self.record
        while self.ends and self.ends[0] <= now_ms:
            heappop(self.ends)
        for row in self._scheduler.running_jobs():
            if row.job_id not in record.starts:
                busy_ms = self._run_ms[row.job_id] + 1  # a task ends when its time is past
                record.starts[row.job_id] = now_ms
                record.busy_cpu_ms += row.cpus * busy_ms
                record.end_ms = max(record.end_ms, now_ms + busy_ms)
                heappush(self.ends, now_ms + busy_ms)
        heads = self._scheduler.queues.heads.for_pool(DEFAULT_POOL)
        for job_id, visit in list(self._visits.items()):
            if job_id not in heads or heads[job_id].since_ms != visit.since_ms:
                self._visits.pop(job_id).started_ms = record.starts.get(job_id)
        for job_id, head in heads.items():
            if job_id not in self._visits:
                visit = HeadVisit(since_ms=head.since_ms, bound_ms=max(self.ends, default=now_ms))
                self._visits[job_id] = visit
                record.heads.append((job_id, visit))
        kept_cpus = [head.asked.cpus for head in heads.values() if head.host is not None]
        if len(kept_cpus) > 1:
            record.max_kept_fraction = max(record.max_kept_fraction, sum(kept_cpus) / self._total_cpus)
