from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.decisions import Preemption, Rebalancing
from cook_jupyter.model.limits import UNLIMITED, Quota, Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.columns import QueuedJob, QueueIndex
from cook_jupyter.scheduling.considerable import QueueFilters
from cook_jupyter.scheduling.constraints import ConstraintClass, GroupPlacement, Particulars, PlacementKind
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.preemption import (
    PreemptionSettings,
    RebalanceState,
    decisions,
    rebalance,
    reservations_after,
)
from cook_jupyter.scheduling.ranking import RankSettings, rank
from cook_jupyter.scheduling.rules import Surroundings
from tests.scheduling.queues import a_queued_job, job_id, seq_of
from tests.scheduling.reference_preemption import Reference
from tests.scheduling.strategies import on_snapshots, task_lists, user_limits

Task = dict[str, Any]
HOSTS = tuple(f"host-{number}" for number in range(6))
NOW_MS = 10
PLACEMENTS = {
    "apart": GroupPlacement(kind=PlacementKind.UNIQUE),
    "together": GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
    "spread": GroupPlacement(kind=PlacementKind.BALANCED, attribute="zone", minimum=2),
}
ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    host: {"HOSTNAME": host, "zone": "east" if number < 3 else "west"} for number, host in enumerate(HOSTS)
}


@dataclass(kw_only=True)
class Snapshot:
    """All that a rebalance cycle looks at."""

    tasks: list[Task]
    spare: Mapping[str, Resources] = field(default_factory=dict)
    limits: UserLimits = UserLimits(default_share=Share(cpus=10.0, mem_mb=10.0, gpus=1.0))
    settings: PreemptionSettings = PreemptionSettings()

    def index(self) -> QueueIndex:
        index = QueueIndex()
        for task in self.tasks:
            index.add(_queued(task))
            if "start_ms" in task:
                index.start(job_id(task["seq"]), task["start_ms"], task["host"], task_seq=task["task_seq"])
        return index

    def hosts(self) -> Hosts:
        return Hosts(
            Offer(host=host, cluster="", pool="pool", room=room, attributes=ATTRIBUTES.get(host, {}))
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


amounts = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0])


@st.composite
def a_settings(draw: st.DrawFn) -> PreemptionSettings:
    """Cook's settings, ours, or any mixture of them."""
    chosen = draw(st.sampled_from([PreemptionSettings(), PreemptionSettings.cook(), None]))
    if chosen is None:
        truths = {
            name: draw(st.booleans())
            for name in (
                "shortest_prefix",
                "drop_unneeded",
                "least_work_lost",
                "gpu_pools",
                "freed_gpus_count",
                "spare_hosts_known",
                "groups_apart",
            )
        }
        chosen = PreemptionSettings(reserve_from=draw(st.integers(1, 2)), **truths)
    return replace(
        chosen,
        safe_dru_threshold=draw(st.sampled_from([0.0, 0.5, 1.0])),
        min_dru_diff=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
        max_preemption=draw(st.sampled_from([1, 4, 100])),
        mode=draw(st.sampled_from([DruMode.DEFAULT, DruMode.DEFAULT, DruMode.GPU])),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Running tasks on a few hosts, waiting jobs, spare room here and there."""
    tasks = draw(task_lists(max_size=24))
    for task in tasks:
        task["cpus"], task["mem"] = draw(amounts), draw(amounts)
        task["host"] = draw(st.sampled_from(HOSTS))
        if draw(st.integers(0, 4)) == 0:
            task["group"] = draw(st.sampled_from(sorted(PLACEMENTS)))
        if draw(st.integers(0, 4)) == 0:
            task["avoid"] = draw(st.lists(st.sampled_from(HOSTS), max_size=3))
        if draw(st.integers(0, 4)) == 0:
            task["wants"] = (("zone", draw(st.sampled_from(["east", "west"]))),)
    rooms = st.builds(Resources, cpus=amounts, mem_mb=amounts, gpus=st.sampled_from([0.0, 0.0, 1.0]))
    limits = draw(user_limits())
    return Snapshot(
        tasks=tasks,
        spare=draw(st.dictionaries(st.sampled_from(HOSTS), rooms, max_size=4)),
        limits=replace(limits, default_share=Share(cpus=4.0, mem_mb=4.0, gpus=1.0)),
        settings=draw(a_settings()),
    )


@on_snapshots
@given(snapshots())
def test_decisions_are_those_of_the_plain_reading_of_the_rules(snapshot: Snapshot) -> None:
    wanted = tuple(snapshot.reference().decisions(snapshot.queue()))
    if snapshot.settings.mode is DruMode.GPU and not snapshot.settings.gpu_pools:
        wanted = ()

    assert snapshot.rebalance().preemptions == wanted
