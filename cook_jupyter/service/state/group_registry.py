"""The groups of the jobs in the queues, and the host constraints of single jobs.

Lives here: `GroupRegistry`.
Not here: constraints that follow from the instances of a job (`scheduling.constraints.job_constraints`), the
constraints themselves (`scheduling.constraints.constraints`).
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

MAX_PLAIN_GROUPS = 10_000  # further ones are read from the store again


class GroupRegistry:
    """The groups that decisions need to know, and the host constraints of single jobs.

    Args:
        settings: the settings of placement.

    Attributes:
        placements: group -> its placement, for groups that have one.
        straggler_groups: the groups whose stragglers are stopped, by id.
    """

    def __init__(self, settings: PlacementSettings) -> None:
        self._avoid_failed_hosts = settings.avoid_failed_hosts
        self._plain: dict[GroupId, None] = {}  # groups without any special handling; the oldest are dropped
        self.placements: dict[GroupId, GroupPlacement] = {}
        self.straggler_groups: dict[GroupId, Group] = {}

    def unknown(self, group_ids: Iterable[GroupId]) -> list[GroupId]:
        """Return the groups that were not added yet."""
        return [group_id for group_id in group_ids if group_id not in self]

    def add(self, groups: Iterable[Group]) -> list[GroupId]:
        """Add groups before their jobs; return those that are new."""
        new_ids = []
        for group in groups:
            if group.group_id in self:
                continue
            new_ids.append(group.group_id)
            placement = group_placement_of(group)
            if placement.kind is not PlacementKind.ALL:
                self.placements[group.group_id] = placement
            if group.straggler_handling.get("type", "none") != "none":
                self.straggler_groups[group.group_id] = group
            if group.group_id not in self.placements and group.group_id not in self.straggler_groups:
                self._plain[group.group_id] = None
        while len(self._plain) > MAX_PLAIN_GROUPS:
            del self._plain[next(iter(self._plain))]
        return new_ids

    def remove(self, group_ids: Iterable[GroupId]) -> None:
        """Remove groups whose creation has failed."""
        for group_id in group_ids:
            self._plain.pop(group_id, None)
            self.placements.pop(group_id, None)
            self.straggler_groups.pop(group_id, None)

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._plain or group_id in self.placements or group_id in self.straggler_groups

    def job_constraints(
        self, job: Job, defaults: PoolDefaults, hosts: Iterable[Offer], locations: Mapping[str, str]
    ) -> JobConstraints:
        """Return the host constraints of a single job.

        Args:
            job: a waiting job.
            defaults: host constraints that the pool adds to those of its jobs.
            hosts: all hosts of the pool as if they were empty. A job that has failed on every host that could
                run it may run on any of them again, unless the settings always avoid failed hosts.
            locations: cluster -> location, for clusters that have one.
        """
        if job.instances and self._avoid_failed_hosts == "while_others":
            tried_hosts = previous_hosts(job.instances)
            if tried_hosts and not any(
                host.host not in tried_hosts and could_run(job.spec, host, defaults) for host in hosts
            ):
                defaults = replace(defaults, novel_host=False)
        return job_constraints_of(
            job, defaults, location_of=locations.get, placed_groups=self.placements.keys()
        )
