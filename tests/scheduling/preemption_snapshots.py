"""Snapshots of pools for rebalance cycles: single ones, and random ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hypothesis import strategies as st

from cook_jupyter.model.decisions import Rebalancing
from cook_jupyter.model.job import GroupId
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
)
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.preemption_history import HOUR_MS, PreemptionHistory
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.ranking import RankSettings
from cook_jupyter.scheduling.rebalancing.preemption import (
    PREEMPTION_DEFAULTS,
    PreemptionSettings,
    RebalanceState,
    rebalance,
)
from tests.scheduling.queues import a_queued_job, job_id, rank
from tests.scheduling.reference_preemption import Reference
from tests.scheduling.strategies import USERS

Task = dict[str, Any]
HOSTS = tuple(f"host-{number}" for number in range(4))
NOW_MS = 10
LIMITS = UserLimits(default_share=Share(cpus=10.0, mem_mb=10.0, gpus=1.0))
PLACEMENTS = {
    GroupId("apart"): GroupPlacement(kind=PlacementKind.UNIQUE),
    GroupId("together"): GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
    GroupId("spread"): GroupPlacement(kind=PlacementKind.BALANCED, attribute="zone", minimum=2),
}
ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    host: {"HOSTNAME": host, "zone": "east" if number < 2 else "west"} for number, host in enumerate(HOSTS)
}


@dataclass(kw_only=True)
class Snapshot:
    """All that a rebalance cycle looks at."""

    tasks: list[Task]
    spare: Mapping[str, Resources] = field(default_factory=dict)
    limits: UserLimits = LIMITS
    settings: PreemptionSettings = PREEMPTION_DEFAULTS

    def index(self) -> QueueIndex:
        index = QueueIndex()
        for task in self.tasks:
            index.add(_queued(task))
            if "start_ms" in task:
                index.mark_running(
                    job_id(task["seq"]), task["start_ms"], task["host"], task_seq=task["task_seq"]
                )
            history = PreemptionHistory(tuple(task.get("preempted_ms", ())), task.get("by_others", False))
            index.set_preemptions(job_id(task["seq"]), history)
        return index

    def hosts(self) -> Hosts:
        return Hosts(
            Offer(
                host=host,
                cluster="",
                pool=PoolName("pool"),
                room=room,
                attributes={"HOSTNAME": host, **ATTRIBUTES.get(host, {})},
            )
            for host, room in self.spare.items()
        )

    def placement_context(self) -> PlacementContext:
        return PlacementContext(groups=PLACEMENTS, attributes=ATTRIBUTES, now_ms=NOW_MS)

    def queue(self) -> list[Task]:
        tasks = {job_id(task["seq"]): task for task in self.tasks}
        ranked = rank(self.index(), self.limits, RankSettings(mode=self.settings.mode))
        return [tasks[job] for job in ranked][: self.settings.max_preemption]

    def state(self) -> RebalanceState:
        return RebalanceState(
            self.index(), self.hosts(), self.limits, self.settings, placement_context=self.placement_context()
        )

    def rebalance(self) -> Rebalancing:
        return rebalance(
            self.index(),
            self.hosts(),
            self.limits,
            settings=self.settings,
            placement_context=self.placement_context(),
        )

    def reference(self) -> Reference:
        return Reference(
            running=[task for task in self.tasks if "start_ms" in task],
            spare=dict(self.spare),
            limits=self.limits,
            settings=self.settings,
            placements=PLACEMENTS,
            attributes=ATTRIBUTES,
            now_ms=NOW_MS,
        )


def _queued(task: Task) -> QueuedJob:
    job_constraints = JobConstraints(avoid=frozenset(task.get("avoid", ())), group=task.get("group"))
    queued = a_queued_job(task)
    return queued._replace(
        job_constraints=job_constraints if job_constraints != JobConstraints() else queued.job_constraints,
        constraints=ConstraintClass(attributes=tuple(task.get("wants", ()))),
    )


SWITCHES = (
    "shortest_prefix",
    "drop_unneeded",
    "least_work_lost",
    "gpu_pools",
    "freed_gpus_count",
    "spare_hosts_known",
    "groups_apart",
    "quota_counts",
    "launch_order",
)


def a_settings(rng: Random) -> PreemptionSettings:
    """Cook's settings, ours, or any mixture of them."""
    chosen = rng.choice([PreemptionSettings(), PreemptionSettings.cook(), None])
    if chosen is None:
        switches: dict[str, Any] = {name: rng.random() < 0.5 for name in SWITCHES}
        chosen = PreemptionSettings(
            reserve_from=rng.randint(1, 2),
            max_preemptions_per_hour=rng.choice([None, 1, 2]),
            max_lost_ms_beyond_share=rng.choice([None, 0, 2, 600_000]),
            **switches,
        )
    return replace(
        chosen,
        safe_dru_threshold=rng.choice([0.0, 0.5, 1.0]),
        min_dru_diff=rng.choice([0.0, 0.0, 0.05, 0.5]),
        max_preemption=rng.choice([1, 4, 100, 100]),
        mode=rng.choice([DruMode.DEFAULT, DruMode.DEFAULT, DruMode.GPU]),
    )


def a_task(rng: Random, seq: int, *, runs: bool, alike: bool) -> Task:
    """A task; amounts are few and small, so that scores tie now and then, and if all are `alike` often."""
    task: Task = {
        "seq": seq,
        "user": rng.choice(USERS),
        "cpus": rng.choice([0.0, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0]),
        "mem": rng.choice([0.0, 0.5, 1.0, 1.0, 2.0, 4.0]),
        "gpus": rng.choice([0.0, 0.0, 0.0, 1.0, 2.0]),
        "priority": rng.choice([50, 50, 50, 20, 70]),
    }
    if alike:
        task |= {"cpus": 1.0 if runs else rng.choice([1.0, 2.0, 3.0]), "mem": 1.0, "gpus": 0.0}
    if runs:
        task |= {"start_ms": rng.randint(1, 4), "task_seq": seq % 3, "host": rng.choice(HOSTS)}
    elif rng.random() < 0.2:
        task |= {"cpus": 6.0, "mem": 6.0}
    if rng.random() < 0.2:
        times = [NOW_MS - HOUR_MS - 1, NOW_MS - HOUR_MS, NOW_MS - 1]
        task |= {"preempted_ms": sorted(rng.sample(times, 2)), "by_others": rng.random() < 0.5}
    if alike:
        return task
    if rng.random() < 0.15:
        task["group"] = rng.choice(sorted(PLACEMENTS))
    if rng.random() < 0.15:
        task["avoid"] = rng.sample(HOSTS, 2)
    if rng.random() < 0.15:
        task["wants"] = (("zone", rng.choice(["east", "west"])),)
    return task


def a_snapshot(seed: int, running: int, waiting: int) -> Snapshot:
    """Running tasks on a few hosts, waiting jobs, spare room here and there."""
    rng = Random(seed)
    alike = rng.random() < 0.3
    seqs = rng.sample(range(1, running + waiting + 1), running + waiting)
    return Snapshot(
        tasks=[a_task(rng, seq, runs=number < running, alike=alike) for number, seq in enumerate(seqs)],
        spare={
            host: Resources(
                cpus=rng.choice([0.0, 1.0, 2.0]),
                mem_mb=rng.choice([0.0, 1.0, 2.0]),
                gpus=rng.choice([0.0, 0.0, 1.0]),
            )
            for host in rng.sample((*HOSTS, "empty"), rng.randint(0, 4))
        },
        limits=UserLimits(
            shares={} if alike else {user: a_share(rng) for user in rng.sample(USERS, 1)},
            default_share=a_share(rng),
            quotas={user: Quota(count=rng.randint(0, 6)) for user in rng.sample(USERS, rng.randint(0, 2))},
            default_quota=rng.choice([Quota(), Quota(), Quota(cpus=6.0)]),
        ),
        settings=a_settings(rng),
    )


def a_share(rng: Random) -> Share:
    return Share(cpus=rng.choice([1.0, 2.0, 4.0]), mem_mb=rng.choice([1.0, 2.0, 4.0]), gpus=1.0)


snapshots = st.builds(
    a_snapshot, seed=st.integers(0, 2**48), running=st.integers(0, 30), waiting=st.integers(1, 12)
)
