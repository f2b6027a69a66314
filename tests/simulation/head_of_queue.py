"""A trace through the scheduler, event by event, with a record of who waited at the head of the queue.

Lives here: `play`, which runs a match cycle after each submission and each end, and writes down of each job
that reached the head when that was, when the last task that ran then has ended, and when the job started.
Not here: Cook's loop in steps of many seconds (`simulation.replay`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from cook_jupyter.clusters.simulated import Ending, SimulatedCluster
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.limits import LimitEntry, LimitKind
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.config import Settings
from cook_jupyter.service.cycles import match_all
from cook_jupyter.service.policies import HeadRoomSettings, RebalancerSettings
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.updates import Updates
from cook_jupyter.store.memory import MemoryStore


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A job that is submitted at a time and runs for a time."""

    at_ms: int
    spec: JobSpec
    run_ms: int


@dataclass(kw_only=True)
class AtHead:
    """A job that reached the head of the queue.

    Attributes:
        since_ms: time at which it did.
        bound_ms: time at which the last task that ran then has ended.
        started_ms: its start; None if it left the head otherwise.
    """

    since_ms: int
    bound_ms: int
    started_ms: int | None = None


@dataclass(kw_only=True)
class Played:
    """What became of a trace. The hosts were never oversubscribed.

    Attributes:
        heads: visits of jobs to the head of the queue.
        starts: job -> its start.
        waiting: number of jobs that never started.
        end_ms: end of the last task.
        busy_cpu_ms: cpus times the time that they were held.
        most_kept: largest part of all cpus that was kept at a time, for several heads.
    """

    heads: list[tuple[JobId, AtHead]] = field(default_factory=list)
    starts: dict[JobId, int] = field(default_factory=dict)
    waiting: int = 0
    end_ms: int = 0
    busy_cpu_ms: float = 0.0
    most_kept: float = 0.0


def play(
    arrivals: Sequence[Arrival],
    hosts: Mapping[str, Resources],
    *,
    head_room: HeadRoomSettings,
    shares: Mapping[str, float] | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> Played:
    """Run arrivals, in order of time, until nothing runs and nothing can start; nobody is preempted."""
    return asyncio.run(_play(arrivals, hosts, head_room, shares or {}, attributes or {}))


async def _play(
    arrivals: Sequence[Arrival],
    hosts: Mapping[str, Resources],
    head_room: HeadRoomSettings,
    shares: Mapping[str, float],
    attributes: Mapping[str, Mapping[str, str]],
) -> Played:
    clock = ManualClock(arrivals[0].at_ms)
    run_ms = {arrival.spec.job_id: arrival.run_ms for arrival in arrivals}
    cluster = SimulatedCluster(
        [
            Offer(host=host, cluster="c", pool="default", room=whole, attributes=attributes.get(host, {}))
            for host, whole in hosts.items()
        ],
        behaviour=lambda spec: Ending(run_ms[spec.job_id]),
        now_ms=clock.now_ms,
    )
    store = MemoryStore()
    scheduler = Scheduler(
        store=store,
        clusters=[cluster],
        settings=Settings(rebalancer=RebalancerSettings(enabled=False), head_room=head_room),
        clock=clock,
        blobs=Path("unused"),
    )
    numbers = count(1)
    scheduler.new_instance_id = lambda: f"i{next(numbers)}"
    await store.open()
    await store.set_limits(
        [
            LimitEntry(kind=LimitKind.SHARE, user="default", pool="default", name=name, amount=amount)
            for name, amount in shares.items()
        ]
    )
    await scheduler.recover()
    await cluster.start(Updates(scheduler), [])
    record = _Record(scheduler, run_ms, sum(whole.cpus for whole in hosts.values()))
    at = 0
    while at < len(arrivals) or record.ends:
        times = ([arrivals[at].at_ms] if at < len(arrivals) else []) + record.ends[:1]
        clock.advance(max(0, min(times) - clock.now_ms()))
        first = at
        while at < len(arrivals) and arrivals[at].at_ms <= clock.now_ms():
            at += 1
        if at > first:
            await scheduler.submit([arrival.spec for arrival in arrivals[first:at]])
        await cluster.turn()
        await match_all(scheduler)
        await cluster.deliver()
        record.note(clock.now_ms())
        for host in cluster.offers():
            assert min(host.room.cpus, host.room.mem_mb) >= 0, f"{host.host} is oversubscribed"
    record.played.waiting = scheduler.waiting_count()
    return record.played


class _Record:
    """What is written down after each cycle.

    Attributes:
        played: the record.
        ends: ends of running tasks, a heap.
    """

    def __init__(self, scheduler: Scheduler, run_ms: Mapping[JobId, int], whole_cpus: float) -> None:
        self.played = Played()
        self.ends: list[int] = []
        self._scheduler = scheduler
        self._run_ms = run_ms
        self._whole_cpus = whole_cpus
        self._visits: dict[JobId, AtHead] = {}

    def note(self, now_ms: int) -> None:
        """Write down what the cycle at this time has started, and who is at the head after it."""
        played = self.played
        while self.ends and self.ends[0] <= now_ms:
            heappop(self.ends)
        for row in self._scheduler.running_jobs():
            if row.job_id not in played.starts:
                held_ms = self._run_ms[row.job_id] + 1  # a task ends when its time is past
                played.starts[row.job_id] = now_ms
                played.busy_cpu_ms += row.cpus * held_ms
                played.end_ms = max(played.end_ms, now_ms + held_ms)
                heappush(self.ends, now_ms + held_ms)
        heads = self._scheduler.queues.heads.of("default")
        for job_id, visit in list(self._visits.items()):
            if job_id not in heads or heads[job_id].since_ms != visit.since_ms:
                self._visits.pop(job_id).started_ms = played.starts.get(job_id)
        for job_id, head in heads.items():
            if job_id not in self._visits:
                visit = AtHead(since_ms=head.since_ms, bound_ms=max(self.ends, default=now_ms))
                self._visits[job_id] = visit
                played.heads.append((job_id, visit))
        kept = [head.asked.cpus for head in heads.values() if head.host is not None]
        if len(kept) > 1:
            played.most_kept = max(played.most_kept, sum(kept) / self._whole_cpus)
