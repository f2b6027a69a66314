"""Random pools whose demand is stable, run until nothing changes: does preemption come to an end?

Lives here: `World`, its generator, and two ways to run one: `run_decisions` calls the decisions alone, in
milliseconds; `run_service` drives the whole scheduler. `test_settling` holds the two together.

    python -m tests.service.settling 100000          # the decisions
    python -m tests.service.settling 3000 --scheduler
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.model.job import Group, GroupId, JobId, JobSpec
from cook_jupyter.model.limits import LimitKind, Quota, Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, DruMode, Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
)
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import CycleSettings, decide_matches
from cook_jupyter.scheduling.queue.preemption_history import NEVER_PREEMPTED, PreemptionHistory
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex, launch_number
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.ranking.ranking import RankSettings
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings, ReservedRoom, rebalance
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import (
    HeadRoomSettings,
    JobSettings,
    PlacementSettings,
    RebalancerSettings,
)
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec
from tests.scheduling.queues import running_jobs

MAX_CYCLES = 40
SETTLED_AFTER = 5  # cycles of match and rebalance with stable demand
START_MS = 1_000_000
CYCLE_MS = 2 * 3_600_000  # so far apart that the limit per hour never binds: settling must not rest on it


@dataclass(frozen=True, kw_only=True)
class WorldJob:
    """One endless job.

    Attributes:
        zone: attribute that its host must have; None allows any.
        group: group of the job, by number.
        arrives: the cycle before which it is submitted.
    """

    number: int
    pool: PoolName
    user: str
    cpus: float
    mem_mb: float
    gpus: int = 0
    priority: int = 50
    zone: str | None = None
    group: int | None = None
    arrives: int = 0

    @property
    def job_id(self) -> JobId:
        """The job's uuid."""
        return JobId(str(UUID(int=self.number + 1)))


@dataclass(frozen=True, kw_only=True)
class World:
    """A cluster, its users and their jobs.

    Attributes:
        hosts: room of each host, by name.
        zones: attribute `zone` of each host.
        modes: what the DRU counts in each pool; all pools share all hosts.
        limits: shares and quotas of each pool.
        groups: how each group wants its jobs placed, by number.
        jobs: all jobs, in order of submission.
        min_dru_diff: as of the settings.
        safe_dru_threshold: as of the settings.
        leave_out_too_large: as of the settings.
    """

    hosts: Mapping[str, Resources]
    zones: Mapping[str, str]
    modes: Mapping[PoolName, DruMode]
    limits: Mapping[PoolName, UserLimits]
    groups: Sequence[PlacementKind] = ()
    jobs: Sequence[WorldJob] = ()
    min_dru_diff: float = 0.1
    safe_dru_threshold: float = 1.0
    leave_out_too_large: bool = True


@dataclass(kw_only=True)
class Outcome:
    """What happened in a world.

    Attributes:
        preempted: number of preemptions in each cycle.
        by_job: number of preemptions of each job.
        running: host of each task at the end.
        late: how often a reserved job could not start in the next match cycle.
    """

    preempted: list[int] = field(default_factory=list)
    by_job: Counter[str] = field(default_factory=Counter)
    running: dict[str, str] = field(default_factory=dict)
    late: int = 0

    def last(self, since: int = 0) -> int:
        """Return the last cycle with a preemption after the cycle `since`, counted from 1; 0 if none."""
        return max((number for number, count in enumerate(self.preempted[since:], 1) if count), default=0)


# --- generating


def a_world(seed: int) -> World:
    """Return a random world. A third are as plain as in the report that began this; the others mix it all."""
    rng = Random(seed)
    plain = seed % 3 == 0
    names = [f"h{number}" for number in range(rng.randint(1, 4))]
    alike = rng.random() < 0.3
    gpus = not plain and rng.random() < 0.35
    one = _a_host(rng, gpus=gpus)
    hosts = {name: one if alike else _a_host(rng, gpus=gpus) for name in names}
    pools = [DEFAULT_POOL] if plain or rng.random() < 0.7 else [DEFAULT_POOL, PoolName("other")]
    modes = {pool: DruMode.GPU if gpus and rng.random() < 0.5 else DruMode.DEFAULT for pool in pools}
    users = [f"u{number}" for number in range(rng.randint(2, 4 if plain else 6))]
    groups = [] if plain or rng.random() < 0.6 else _some_groups(rng)
    shape = _Shape(rng, plain=plain, gpus=gpus, groups=len(groups))
    jobs: list[WorldJob] = []
    late = not plain and rng.random() < 0.3
    for user in users:
        usual = shape.a_job(rng)
        arrives = rng.randint(0, 3) if late else 0
        for _ in range(rng.randint(3, 10)):
            fields = usual if shape.uniform else shape.a_job(rng)
            pool = rng.choice(pools)
            jobs.append(WorldJob(number=len(jobs), pool=pool, user=user, arrives=arrives, **fields))
    rng.shuffle(jobs)
    jobs.sort(key=lambda job: job.arrives)
    jobs = [replace(job, number=number) for number, job in enumerate(jobs)]
    limits = {pool: _some_limits(rng, users, plain=plain) for pool in pools}
    if any(each.quotas for each in limits.values()):  # a scheduler refuses jobs that are above a quota
        jobs = [replace(job, arrives=0) for job in jobs]
    return World(
        hosts=hosts,
        zones={name: rng.choice("ab") for name in names},
        modes=modes,
        limits=limits,
        groups=groups,
        jobs=jobs,
        min_dru_diff=rng.choice([0.1, 0.1, 0.5] if plain else [0.1, 0.1, 0.1, 0.5, 0.01, 0.0]),
        safe_dru_threshold=1.0 if plain else rng.choice([1.0, 1.0, 1.0, 0.5, 0.0, 2.0]),
        leave_out_too_large=rng.random() < 0.5,
    )


class _Shape:
    """What the jobs of one world are like."""

    def __init__(self, rng: Random, *, plain: bool, gpus: bool, groups: int) -> None:
        self._plain = plain
        self._gpus = gpus
        self._groups = groups
        self.uniform = not plain and rng.random() < 0.2
        self._cpus: list[float] = (
            [0.5, 1, 1, 2, 3] if plain else rng.choice([[0.5, 1, 1, 2, 3], [0.1, 0.3, 1, 2.5, 6], [1]])
        )
        self._mem: list[float] = (
            [128, 512, 1024, 2048] if plain else rng.choice([[128, 512, 1024, 2048], [128], [100, 700, 5000]])
        )
        self._priorities = [50] if plain or rng.random() < 0.4 else [50, 50, 50, 20, 80]
        self._zoned = not plain and rng.random() < 0.25
        self._huge = not plain and rng.random() < 0.3

    def a_job(self, rng: Random) -> dict[str, Any]:
        """Return what a job asks for."""
        job: dict[str, Any] = {
            "cpus": float(rng.choice(self._cpus)),
            "mem_mb": float(rng.choice(self._mem)),
        }
        if self._plain:
            return job
        job["priority"] = rng.choice(self._priorities)
        if self._gpus:
            job["gpus"] = rng.choice([0, 0, 1, 1, 2])
        if self._zoned and rng.random() < 0.4:
            job["zone"] = rng.choice("ab")
        if self._huge and rng.random() < 0.1:
            job["cpus"] = 100.0  # fits nowhere
        if self._groups and rng.random() < 0.4:
            job["group"] = rng.randrange(self._groups)
        return job


def _a_host(rng: Random, *, gpus: bool) -> Resources:
    return Resources(
        cpus=float(rng.choice([2, 4, 8])),
        mem_mb=float(rng.choice([2048, 4096, 8192])),
        gpus=float(rng.choice([0, 2, 4])) if gpus else 0.0,
    )


def _some_groups(rng: Random) -> list[PlacementKind]:
    kinds = [PlacementKind.UNIQUE, PlacementKind.ATTRIBUTE_EQUALS, PlacementKind.BALANCED, PlacementKind.ALL]
    return [rng.choice(kinds) for _ in range(rng.randint(1, 3))]


def _some_limits(rng: Random, users: Sequence[str], *, plain: bool) -> UserLimits:
    tiny = not plain and rng.random() < 0.15
    scale = 1e-9 if tiny else 1.0
    shares = {
        user: Share(
            cpus=scale * rng.choice([1, 2, 4]),
            mem_mb=scale * rng.choice([1024, 2048, 4096]),
            gpus=scale * rng.choice([1, 2]),
        )
        for user in users
    }
    quotas = {}
    if not plain and rng.random() < 0.35:
        for user in users:
            if rng.random() < 0.5:
                quotas[user] = rng.choice(
                    [
                        Quota(count=rng.randint(0, 5)),
                        Quota(cpus=float(rng.randint(1, 6))),
                        Quota(mem_mb=float(rng.choice([1024, 3000, 8192])), gpus=float(rng.randint(0, 3))),
                    ]
                )
    return UserLimits(shares=shares, quotas=quotas)


# --- the decisions alone


def run_decisions(world: World, settings: PreemptionSettings, cycles: int = MAX_CYCLES) -> Outcome:
    """Match and rebalance every pool again and again; stop early when a cycle changes nothing.

    Victims end at once. What the service keeps between cycles (launch numbers, reserved room, histories of
    preemptions) is kept here in the plainest way.
    """
    return _Decisions(world, settings).run(cycles)


class _Decisions:
    def __init__(self, world: World, settings: PreemptionSettings) -> None:
        self._world = world
        self._settings = settings
        self._indices = {pool: QueueIndex() for pool in world.modes}
        self._jobs = {job.job_id: job for job in world.jobs}
        self._free = dict(world.hosts)
        self._tasks: dict[str, list[Resources]] = {host: [] for host in world.hosts}
        self._held = {host: Resources() for host in world.hosts}
        self._reserved: dict[PoolName, dict[JobId, ReservedRoom]] = {pool: {} for pool in world.modes}
        self._launch = 0
        known = world.leave_out_too_large
        self._filters = QueueFilters(
            max_cpus=max(host.cpus for host in world.hosts.values()) if known else inf,
            max_mem_mb=max(host.mem_mb for host in world.hosts.values()) if known else inf,
        )
        self._placements = {
            GroupId(str(number)): GroupPlacement(kind=kind, attribute="zone", minimum=2)
            for number, kind in enumerate(world.groups)
        }
        self._attributes = {host: {"HOSTNAME": host, "zone": world.zones[host]} for host in world.hosts}
        self.outcome = Outcome()

    def run(self, cycles: int) -> Outcome:
        last_arrival = max((job.arrives for job in self._world.jobs), default=0)
        for cycle in range(cycles):
            for job in self._world.jobs:
                if job.arrives == cycle:
                    self._indices[job.pool].add(self._queued(job))
            now_ms = START_MS + (cycle + 1) * CYCLE_MS
            started = sum(self._match(pool, now_ms) for pool in self._world.modes)
            stopped = sum(self._rebalance(pool, now_ms) for pool in self._world.modes)
            self.outcome.preempted.append(stopped)
            if not started and not stopped and cycle >= last_arrival:
                break
        for index in self._indices.values():
            for user in index.users():
                jobs = running_jobs(index, user)
                self.outcome.running |= dict(zip(jobs, index.hosts_of(map(index.row_of, jobs)), strict=True))
        return self.outcome

    def _queued(self, job: WorldJob) -> QueuedJob:
        placed = job.group is not None and self._world.groups[job.group] is not PlacementKind.ALL
        return QueuedJob(
            job.job_id,
            job.user,
            job.cpus,
            job.mem_mb,
            job.number,
            gpus=float(job.gpus),
            priority=job.priority,
            constraints=ConstraintClass(attributes=() if job.zone is None else (("zone", job.zone),)),
            job_constraints=JobConstraints(group=GroupId(str(job.group))) if placed else NO_JOB_CONSTRAINTS,
        )

    def _match(self, pool: PoolName, now_ms: int) -> int:
        index, world = self._indices[pool], self._world
        settings = CycleSettings(rank=RankSettings(mode=world.modes[pool]))
        started = 0
        for queue in (list(self._reserved[pool]), None):
            if queue == []:
                continue
            matching = decide_matches(
                index,
                self._offers(pool, keep=queue is None),
                world.limits[pool],
                settings=settings,
                filters=self._filters,
                placement_context=replace(
                    self._placement_context(now_ms), reservations=self._reserved_hosts() if queue else {}
                ),
                queue=queue,
            )
            for match in matching.matches:
                room = self._reserved[pool].pop(match.job_id, None)
                launch = self._next_launch(now_ms) if room is None else room.launch
                index.mark_running(match.job_id, now_ms, match.host, launch=launch)
                self._hold(match.job_id, match.host, 1)
            if queue:
                self.outcome.late += len(self._reserved[pool])
            started += len(matching.matches)
        return started

    def _rebalance(self, pool: PoolName, now_ms: int) -> int:
        index, world = self._indices[pool], self._world
        decided = rebalance(
            index,
            Hosts(self._offers(pool, keep=True)),
            world.limits[pool],
            settings=replace(self._settings, mode=world.modes[pool]),
            rank=RankSettings(mode=world.modes[pool]),
            filters=self._filters,
            placement_context=replace(self._placement_context(now_ms), attributes=self._attributes),
            reserved=self._reserved[pool],
        )
        assert len(set(decided.victims)) == len(decided.victims)
        for made in decided.preemptions:
            user = self._jobs[made.beneficiary].user
            for victim in made.victims:
                [host] = index.hosts_of([index.row_of(victim)])
                history = index.preemptions.get(index.row_of(victim), NEVER_PREEMPTED)
                index.requeue(victim)
                index.set_preemptions(
                    victim,
                    PreemptionHistory(
                        (*history.ends_ms, now_ms), history.by_others or self._jobs[victim].user != user
                    ),
                )
                self._hold(victim, host, -1)
                self.outcome.by_job[victim] += 1
        for job_id, host in decided.reservations.items():
            self._reserved[pool][job_id] = ReservedRoom(host, self._next_launch(now_ms))
        return len(decided.victims)

    def _reserved_hosts(self) -> dict[JobId, str]:
        """Each job's own host; none may go where room is reserved for others alone."""
        return {job: room.host for pool in self._reserved.values() for job, room in pool.items()}

    def _placement_context(self, now_ms: int) -> PlacementContext:
        return PlacementContext(groups=self._placements, now_ms=now_ms)

    def _offers(self, pool: PoolName, *, keep: bool) -> list[Offer]:
        """The room on each host; without what is reserved in all pools, or in the other pools alone."""
        free = dict(self._free)
        for name, reserved in self._reserved.items():
            for job_id, room in reserved.items() if keep or name != pool else ():
                free[room.host] -= _asked(self._jobs[job_id])
        return [
            Offer(
                host=host,
                cluster="memory",
                pool=pool,
                room=Resources(
                    cpus=max(0.0, room.cpus), mem_mb=max(0.0, room.mem_mb), gpus=max(0.0, room.gpus)
                ),
                running=self._held[host],
                attributes=self._attributes[host],
            )
            for host, room in free.items()
        ]

    def _hold(self, job_id: JobId, host: str, sign: int) -> None:
        asked = _asked(self._jobs[job_id])
        self._tasks[host].remove(asked) if sign < 0 else self._tasks[host].append(asked)
        self._held[host] = sum_resources(self._tasks[host])
        self._free[host] = remaining(self._world.hosts[host], self._held[host])

    def _next_launch(self, now_ms: int) -> int:
        self._launch = max(self._launch + 1, launch_number(now_ms))
        return self._launch


def _asked(job: WorldJob) -> Resources:
    return Resources(cpus=job.cpus, mem_mb=job.mem_mb, gpus=float(job.gpus))


# --- the whole scheduler


class _ZonedCluster(MemoryCluster):
    """Hosts on paper that have the attribute `zone`."""

    zones: Mapping[str, str]

    def _offer(self, host: str, pool: PoolName, room: Resources, held: Resources, tasks: int) -> Offer:
        offer = super()._offer(host, pool, room, held, tasks)
        return replace(offer, attributes={**offer.attributes, "zone": self.zones[host]})


async def run_service(
    world: World,
    settings: RebalancerSettings,
    head_room: HeadRoomSettings,
    cycles: int = MAX_CYCLES,
) -> Outcome:
    """Do the same with a scheduler, its store and a cluster; `run_decisions` keeps no room for heads."""
    clock = ManualClock(START_MS)
    cluster = _ZonedCluster(world.hosts, pools=tuple(world.modes), now_ms=clock.now_ms)
    cluster.zones = world.zones
    pools = tuple(Pool(name=name, dru_mode=mode) for name, mode in world.modes.items())
    configured = Settings(
        pools=pools,
        rebalancer=settings,
        head_room=head_room,
        jobs=JobSettings(max_cpus=inf, max_mem_mb=inf),
        placement=PlacementSettings(leave_out_too_large=world.leave_out_too_large),
    )
    outcome = Outcome()
    last_arrival = max((job.arrives for job in world.jobs), default=0)
    with tempfile.TemporaryDirectory() as root:
        home = Home(root=Path(root))
        async with run_scheduler(
            MemoryStore(), [cluster], configured, home, clock, start_loops=False
        ) as scheduler:
            await _set_limits(scheduler, world, LimitKind.SHARE)
            for cycle in range(cycles):
                arriving = [job for job in world.jobs if job.arrives == cycle]
                if arriving:
                    await _submit(scheduler, world, arriving)
                    await _set_limits(scheduler, world, LimitKind.QUOTA)  # jobs above it are refused
                clock.advance(CYCLE_MS)
                started = await match_all(scheduler)
                await _settle(cluster)
                stopped = await rebalance_all(scheduler)
                await _settle(cluster)
                outcome.preempted.append(stopped)
                if not started and not stopped and cycle >= last_arrival:
                    break
            jobs = await scheduler.jobs([job.job_id for job in world.jobs])
    for job in jobs:
        if job is not None:
            outcome.by_job[job.job_id] = sum(instance.preempted for instance in job.instances)
            if job.open_instance is not None:
                outcome.running[job.job_id] = job.open_instance.host
    return outcome


async def _settle(cluster: MemoryCluster) -> None:
    async with asyncio.timeout(60):
        while not cluster.heard:  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0)


async def _submit(scheduler: Scheduler, world: World, jobs: Sequence[WorldJob]) -> None:
    known = {job.group for job in world.jobs if job.arrives < jobs[0].arrives}
    groups = [
        Group(
            group_id=GroupId(str(UUID(int=number + 1))),
            host_placement={
                "type": world.groups[number].value,
                "parameters": {"attribute": "zone", "minimum": 2},
            },
        )
        for number in sorted({job.group for job in jobs if job.group is not None} - known)
    ]
    await scheduler.submit([_spec(job) for job in jobs], groups, override_group_immutability=True)


def _spec(job: WorldJob) -> JobSpec:
    return a_job_spec(
        job_id=job.job_id,
        user=job.user,
        pool=job.pool,
        cpus=job.cpus,
        mem_mb=job.mem_mb,
        gpus=job.gpus,
        priority=job.priority,
        constraints=() if job.zone is None else (("zone", "EQUALS", job.zone),),
        group=None if job.group is None else str(UUID(int=job.group + 1)),
    )


async def _set_limits(scheduler: Scheduler, world: World, kind: str) -> None:
    for pool, limits in world.limits.items():
        for user, limit in (limits.shares if kind == LimitKind.SHARE else limits.quotas).items():
            values = {"cpus": limit.cpus, "mem": limit.mem_mb, "gpus": limit.gpus}
            if isinstance(limit, Quota):
                values["count"] = limit.count
            await scheduler.set_limits(kind, user, pool, values, "a world")


def rebalancer_of(world: World) -> RebalancerSettings:
    """Return the default settings of a scheduler with the numbers of the world and no limit per hour."""
    return RebalancerSettings(
        min_dru_diff=world.min_dru_diff,
        safe_dru_threshold=world.safe_dru_threshold,
        max_preemptions_per_hour=None,
        max_lost_ms_beyond_share=None,  # ages in these worlds are long: the limit would end it
    )


def settings_of(world: World, **changed: Any) -> PreemptionSettings:
    """Return the default settings of a decision with the numbers of the world and no limit per hour."""
    settings = PreemptionSettings(
        min_dru_diff=world.min_dru_diff,
        safe_dru_threshold=world.safe_dru_threshold,
        max_preemptions_per_hour=None,
        max_lost_ms_beyond_share=None,  # ages in these worlds are long: the limit would end it
    )
    return replace(settings, **changed)


@dataclass(kw_only=True)
class Tally:
    """Counts over many worlds.

    Attributes:
        last: number of worlds by their last cycle with a preemption.
        preemptions: of all worlds.
        most: preemptions of the job that was preempted most often.
        late: how often a reserved job could not start in the next match cycle.
        unsettled: seeds of worlds with a preemption after `SETTLED_AFTER` cycles of stable demand.
    """

    last: Counter[int] = field(default_factory=Counter)
    preemptions: int = 0
    most: int = 0
    late: int = 0
    unsettled: list[int] = field(default_factory=list)

    def add(self, seed: int, world: World, outcome: Outcome) -> None:
        """Count one world."""
        settled = outcome.last(max((job.arrives for job in world.jobs), default=0))
        self.last[settled] += 1
        self.preemptions += sum(outcome.preempted)
        self.most = max(self.most, *outcome.by_job.values(), 0)
        self.late += outcome.late
        if settled > SETTLED_AFTER:
            self.unsettled.append(seed)

    def __str__(self) -> str:
        return (
            f"{self.last.total():,} worlds, {self.preemptions:,} preemptions, most of one job {self.most}; "
            f"worlds by their last cycle with a preemption: {dict(sorted(self.last.items()))}; "
            f"reserved jobs late by a cycle: {self.late}; after {SETTLED_AFTER} cycles: {self.unsettled}"
        )


def main() -> int:
    """Run worlds and print what was counted; fail if one did not settle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worlds", type=int)
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    parser.add_argument("--scheduler", action="store_true", help="run the whole scheduler in each")
    asked = parser.parse_args()
    tally = Tally()
    for seed in range(asked.first, asked.first + asked.worlds):
        world = a_world(seed)
        if asked.scheduler:
            outcome = asyncio.run(run_service(world, rebalancer_of(world), HeadRoomSettings()))
        else:
            outcome = run_decisions(world, settings_of(world))
        tally.add(seed, world, outcome)
        if tally.last.total() % 1000 == 0:
            print(tally, flush=True)
    print(tally)
    return bool(tally.unsettled)


if __name__ == "__main__":
    sys.exit(main())
