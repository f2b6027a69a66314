"""Faults put into the service on purpose: the simulation is worth what it finds of them.

Lives here: `MUTANTS`, each a name and what it changes in the product. Not here: the search (`test_mutants`).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model import lifecycle
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.decisions import Matching
from cook_jupyter.model.instance import Instance, InstanceId, InstanceStatus, StatusUpdate
from cook_jupyter.model.job import JobSpec, JobState
from cook_jupyter.model.limits import Quota
from cook_jupyter.scheduling.constraints import constraints, job_constraints
from cook_jupyter.scheduling.snapshot import PoolSnapshot
from cook_jupyter.service.actions.kills import KillTracker
from cook_jupyter.service.cluster_updates import ClusterUpdates
from cook_jupyter.service.cycles import match_cycle
from cook_jupyter.service.requests.events import EventHub
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.snapshots import Snapshots
from cook_jupyter.service.state import group_registry
from cook_jupyter.service.state.limits import Limits
from cook_jupyter.service.state.queues import Queues
from tests.service.simulated.store import SimulatedStore

Mutant = Callable[[pytest.MonkeyPatch], None]


def launch_without_commit(patch: pytest.MonkeyPatch) -> None:
    async def launch(
        self: SimulatedStore, instances: Sequence[Instance]
    ) -> Sequence[tuple[JobSpec, Instance]]:
        return [(self._state.jobs[instance.job_id].spec, instance) for instance in instances]

    patch.setattr(SimulatedStore, "launch", launch)


def launch_twice(patch: pytest.MonkeyPatch) -> None:
    once = match_cycle.launch_matches

    async def twice(scheduler: Scheduler, snapshot: PoolSnapshot, matching: Matching) -> int:
        return await once(
            scheduler, snapshot, replace(matching, matches=(*matching.matches, *matching.matches))
        )

    patch.setattr(match_cycle, "launch_matches", twice)
    patch.setattr(lifecycle, "may_start", lambda job: job.state is not JobState.COMPLETED)


def launch_killed_jobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lifecycle, "may_start", lambda job: job.open_instance is None)


def send_no_kill(patch: pytest.MonkeyPatch) -> None:
    async def send(self: KillTracker, instance_ids: object) -> None:
        pass

    patch.setattr(KillTracker, "_send", send)


def repeat_no_kill(patch: pytest.MonkeyPatch) -> None:
    async def repeat(self: KillTracker) -> None:
        pass

    patch.setattr(KillTracker, "repeat", repeat)


def acknowledge_before_commit(patch: pytest.MonkeyPatch) -> None:
    report = ClusterUpdates.report
    under_way = set()

    async def report_later(self: ClusterUpdates, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        task = asyncio.create_task(report(self, cluster, updates))
        under_way.add(task)
        task.add_done_callback(lambda done: done.exception())

    patch.setattr(ClusterUpdates, "report", report_later)


def leave_orphans_running(patch: pytest.MonkeyPatch) -> None:
    async def report(self: ClusterUpdates, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        await self._scheduler.store.report(updates)
        self._scheduler.kills.confirm(update.instance_id for update in updates if update.state.is_final)

    patch.setattr(ClusterUpdates, "report", report)


def count_every_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lifecycle, "attempts_of_reasons", lambda reasons, **_: len(list(reasons)))


def change_finished_instances(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(lifecycle.STEPS, InstanceStatus.FAILED, frozenset({InstanceStatus.SUCCESS}))


def ignore_quotas(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Limits, "_quota", lambda self, user, pool: Quota())


def ignore_attributes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constraints, "attributes_equal", lambda demands, attributes: True)


def ignore_failed_hosts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(job_constraints, "previous_hosts", lambda instances: frozenset())


def wait_for_hosts_that_are_too_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(group_registry, "could_run", lambda spec, host, defaults: True)


def place_groups_by_pool(patch: pytest.MonkeyPatch) -> None:
    placement_context = Snapshots._placement_context

    def alone(self: Snapshots, pool: Any, now_ms: int) -> Any:
        found = placement_context(self, pool, now_ms)
        return found if found.group_hosts is None else replace(found, group_hosts=pool.index.group_hosts)

    patch.setattr(Snapshots, "_placement_context", alone)


def forget_what_runs_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    load = Queues.load

    def load_waiting(self: Queues, jobs: Sequence[Any]) -> None:
        load(self, [job for job in jobs if job.state is JobState.WAITING])

    patch.setattr(Queues, "load", load_waiting)


def lose_the_last_change_of_each_commit(patch: pytest.MonkeyPatch) -> None:
    publish = EventHub.publish

    def publish_less(self: EventHub, changes: Sequence[JobChange]) -> None:
        publish(self, changes[:-1])

    patch.setattr(EventHub, "publish", publish_less)


def hear_kills_of_its_own(patch: pytest.MonkeyPatch) -> None:
    heard = KillTracker.confirm

    def hear(self: KillTracker, instance_ids: Iterable[InstanceId], *, committed: bool = False) -> None:
        heard(self, instance_ids)

    patch.setattr(KillTracker, "confirm", hear)


MUTANTS: dict[str, tuple[Mutant, int]] = {  # name -> what it changes, a seed that finds it
    mutant.__name__: (mutant, seed)
    for mutant, seed in (
        (launch_without_commit, 0),
        (launch_twice, 0),
        (launch_killed_jobs, 119),
        (send_no_kill, 2),
        (repeat_no_kill, 42),
        (hear_kills_of_its_own, 15),
        (acknowledge_before_commit, 0),
        (leave_orphans_running, 5),
        (count_every_failure, 3),
        (change_finished_instances, 5),
        (ignore_quotas, 3),
        (ignore_attributes, 0),
        (ignore_failed_hosts, 0),
        (wait_for_hosts_that_are_too_small, 14),
        (place_groups_by_pool, 10),
        (forget_what_runs_at_a_restart, 2),
        (lose_the_last_change_of_each_commit, 0),
    )
}
