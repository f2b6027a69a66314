"""Snapshots of pools for rebalance cycles: single ones, and random ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hypothesis import strategies as st

from cook_jupyter.model.decisions import Rebalancing
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ConstraintClass,
    GroupPlacement,
    Particulars,
    PlacementKind,
)
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.hosts.rules import Surroundings
from cook_jupyter.scheduling.queue.columns import QueuedJob, QueueIndex
from cook_jupyter.scheduling.queue.preemption_history import HOUR_MS, PreemptionHistory
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
    "apart": GroupPlacement(kind=PlacementKind.UNIQUE),
    "together": GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
    "spread": GroupPlacement(kind=PlacementKind.BALANCED, attribute="zone", minimum=2),
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
                index.start(job_id(task["seq"]), task["start_ms"], task["host"], task_seq=task["task_seq"])
            history = PreemptionHistory(tuple(task.get("preempted_ms", ())), task.get("by_others", False))
            index.set_preemptions(job_id(task["seq"]), history)
        return index

    def hosts(self) -> Hosts:
        return Hosts(
            Offer(
                host=host,
                cluster="",
                pool="pool",
                room=room,
                attributes={"HOSTNAME": host, **ATTRIBUTES.get(host, {})},
            )
            for host, room in self.spare.items()
        )

    def surroundings(self) -> Surroundings:
        return Surroundings(groups=PLACEMENTS, attributes=ATTRIBUTES, now_ms=NOW_MS)

    def queue(self) -> list[Task]:
        tasks = {job_id(task["seq"]): task for task in self.tasks}
        ranked = rank(self.index(), self.limits, RankSettings(mode=self.settings.mode))
        return [tasks[job] for job in ranked][: self.settings.max_preemption]

    def state(self) -> RebalanceState:
        return RebalanceState(
            self.index(), self.hosts(), self.limits, self.settings, surroundings=self.surroundings()
        )

    def rebalance(self) -> Rebalancing:
        return rebalance(
            self.index(), self.hosts(), self.limits, settings=self.settings, surroundings=self.surroundings()
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
    own = Particulars(avoid=frozenset(task.get("avoid", ())), group=task.get("group"))
    queued = a_queued_job(task)
    return queued._replace(
        particulars=own if own != Particulars() else queued.particulars,
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


def a_settings(dice: Random) -> PreemptionSettings:
    """Cook's settings, ours, or any mixture of them."""
    chosen = dice.choice([PreemptionSettings(), PreemptionSettings.cook(), None])
    if chosen is None:
        switches: dict[str, Any] = {name: dice.random() < 0.5 for name in SWITCHES}
        chosen = PreemptionSettings(
            reserve_from=dice.randint(1, 2),
            max_preemptions_per_hour=dice.choice([None, 1, 2]),
            max_lost_ms_beyond_share=dice.choice([None, 0, 2, 600_000]),
            **switches,
        )
    return replace(
        chosen,
        safe_dru_threshold=dice.choice([0.0, 0.5, 1.0]),
        min_dru_diff=dice.choice([0.0, 0.0, 0.05, 0.5]),
        max_preemption=dice.choice([1, 4, 100, 100]),
        mode=dice.choice([DruMode.DEFAULT, DruMode.DEFAULT, DruMode.GPU]),
    )


def a_task(dice: Random, seq: int, *, runs: bool, alike: bool) -> Task:
    """A task; amounts are few and small, so that scores tie now and then, and if all are `alike` often."""
    task: Task = {
        "seq": seq,
        "user": dice.choice(USERS),
        "cpus": dice.choice([0.0, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0]),
        "mem": dice.choice([0.0, 0.5, 1.0, 1.0, 2.0, 4.0]),
        "gpus": dice.choice([0.0, 0.0, 0.0, 1.0, 2.0]),
        "priority": dice.choice([50, 50, 50, 20, 70]),
    }
    if alike:
        task |= {"cpus": 1.0 if runs else dice.choice([1.0, 2.0, 3.0]), "mem": 1.0, "gpus": 0.0}
    if runs:
        task |= {"start_ms": dice.randint(1, 4), "task_seq": seq % 3, "host": dice.choice(HOSTS)}
    elif dice.random() < 0.2:
        task |= {"cpus": 6.0, "mem": 6.0}
    if dice.random() < 0.2:
        times = [NOW_MS - HOUR_MS - 1, NOW_MS - HOUR_MS, NOW_MS - 1]
        task |= {"preempted_ms": sorted(dice.sample(times, 2)), "by_others": dice.random() < 0.5}
    if alike:
        return task
    if dice.random() < 0.15:
        task["group"] = dice.choice(sorted(PLACEMENTS))
    if dice.random() < 0.15:
        task["avoid"] = dice.sample(HOSTS, 2)
    if dice.random() < 0.15:
        task["wants"] = (("zone", dice.choice(["east", "west"])),)
    return task


def a_snapshot(seed: int, running: int, waiting: int) -> Snapshot:
    """Running tasks on a few hosts, waiting jobs, spare room here and there."""
    dice = Random(seed)
    alike = dice.random() < 0.3
    seqs = dice.sample(range(1, running + waiting + 1), running + waiting)
    return Snapshot(
        tasks=[a_task(dice, seq, runs=number < running, alike=alike) for number, seq in enumerate(seqs)],
        spare={
            host: Resources(
                cpus=dice.choice([0.0, 1.0, 2.0]),
                mem_mb=dice.choice([0.0, 1.0, 2.0]),
                gpus=dice.choice([0.0, 0.0, 1.0]),
            )
            for host in dice.sample((*HOSTS, "empty"), dice.randint(0, 4))
        },
        limits=UserLimits(
            shares={} if alike else {user: a_share(dice) for user in dice.sample(USERS, 1)},
            default_share=a_share(dice),
            quotas={user: Quota(count=dice.randint(0, 6)) for user in dice.sample(USERS, dice.randint(0, 2))},
            default_quota=dice.choice([Quota(), Quota(), Quota(cpus=6.0)]),
        ),
        settings=a_settings(dice),
    )


def a_share(dice: Random) -> Share:
    return Share(cpus=dice.choice([1.0, 2.0, 4.0]), mem_mb=dice.choice([1.0, 2.0, 4.0]), gpus=1.0)


snapshots = st.builds(
    a_snapshot, seed=st.integers(0, 2**48), running=st.integers(0, 30), waiting=st.integers(1, 12)
)
