"""What bears on where each waiting job may go, besides room: its history and its group.

Lives here: `GroupRegistry`, which knows the groups, and where a job may be tried again.
Not here: what follows from a job's life (`scheduling.constraints.job_constraints`), the constraints
themselves (`scheduling.constraints.constraints`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cook_jupyter.model.job import Group, GroupId, Job
from cook_jupyter.model.offer import Offer
from cook_jupyter.scheduling.constraints.constraints import (
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
)
from cook_jupyter.scheduling.constraints.job_constraints import (
    could_run,
    group_placement_of,
    job_constraints_of,
    previous_hosts,
)
from cook_jupyter.service.settings.tables import PlacementSettings

MAX_PLAIN_GROUPS = 10_000  # more are looked up in the store again


class GroupRegistry:
    """The groups that matter, and what single jobs demand of their hosts.

    Attributes:
        placements: how groups want to be placed, of those that care.
        groups: those that want their stragglers handled.
    """

    def __init__(self, settings: PlacementSettings) -> None:
        self._policy = settings.avoid_failed_hosts
        self._plain: dict[GroupId, None] = {}  # known to want nothing; the oldest are forgotten
        self.placements: dict[GroupId, GroupPlacement] = {}
        self.groups: dict[GroupId, Group] = {}

    def unknown(self, group_ids: Iterable[GroupId]) -> list[GroupId]:
        """Return the groups that have to be learnt of."""
        return [group_id for group_id in group_ids if not self._knows(group_id)]

    def learn(self, groups: Iterable[Group]) -> list[GroupId]:
        """Take groups in before jobs of theirs come; returns those that are new."""
        new = []
        for group in groups:
            if self._knows(group.group_id):
                continue
            new.append(group.group_id)
            placement = group_placement_of(group)
            if placement.kind is not PlacementKind.ALL:
                self.placements[group.group_id] = placement
            if group.straggler_handling.get("type", "none") != "none":
                self.groups[group.group_id] = group
            if group.group_id not in self.placements and group.group_id not in self.groups:
                self._plain[group.group_id] = None
        while len(self._plain) > MAX_PLAIN_GROUPS:
            del self._plain[next(iter(self._plain))]
        return new

    def forget(self, group_ids: Iterable[GroupId]) -> None:
        """Drop groups that were not created after all."""
        for group_id in group_ids:
            self._plain.pop(group_id, None)
            self.placements.pop(group_id, None)
            self.groups.pop(group_id, None)

    def _knows(self, group_id: GroupId) -> bool:
        return group_id in self._plain or group_id in self.placements or group_id in self.groups

    def job_constraints(
        self, job: Job, defaults: PoolDefaults, hosts: Iterable[Offer], locations: Mapping[str, str]
    ) -> JobConstraints:
        """Return what this job alone demands of its host.

        Args:
            job: a waiting job.
            defaults: what the pool demands of the hosts of all its jobs.
            hosts: all hosts of the pool as if they were empty. A job that failed on each of those that could
                run it is tried again on any, unless the settings say that none is ever tried twice.
            locations: location of each cluster that has one.
        """
        if job.instances and self._policy == "while_others":
            tried = previous_hosts(job.instances)
            if tried and not any(
                host.host not in tried and could_run(job.spec, host, defaults) for host in hosts
            ):
                defaults = replace(defaults, novel_host=False)
        return job_constraints_of(
            job, defaults, location_of=locations.get, placed_groups=self.placements.keys()
        )
