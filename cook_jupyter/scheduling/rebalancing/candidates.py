"""The hosts of a rebalance cycle, with spare room or running tasks, and the constraints of jobs on them.

Lives here: `RebalanceHosts`, which applies the constraints that are relevant to preemption, and is updated
with the decisions of the cycle.
Not here: the constraints themselves (`scheduling.constraints.constraints`), room and victims
(`scheduling.rebalancing.preemption`).

Reservations and the maximum number of tasks per host are irrelevant to preemption. A preempted task may or
may not be gone when the beneficiary starts, so the placement of its group must hold in both cases.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from cook_jupyter.model.job import GroupId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    ConstraintClass,
    GroupPlacement,
    PlacementKind,
    PoolDefaults,
    class_in_pool,
    failing_class_constraint,
    failing_group_constraint,
    failing_job_constraint,
)
from cook_jupyter.scheduling.hosts.checker import PlacementContext, with_task
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.ranking import Mask

_NO_POOL: Final = PoolName("")  # of hosts without an offer


class RebalanceHosts:
    """Hosts in ascending order of name.

    Attributes:
        offers: one offer per host; for hosts without an offer, their known attributes and no room.
        position: host -> its position in `offers`.
        all_plain: whether all hosts are of the plain kind.
        is_limited: whether any offer ends or is for some users only.
    """

    def __init__(
        self,
        hosts: Hosts,
        busy: Collection[str],
        *,
        defaults: PoolDefaults,
        placement_context: PlacementContext,
        clusters: Mapping[str, str],
        spare_hosts_known: bool,
        groups_apart: bool,
    ) -> None:
        by_host = {
            offer.host: offer if spare_hosts_known or offer.host in busy else _without_attributes(offer)
            for offer in hosts.offers
        }
        for host in busy:
            if host not in by_host:
                attributes = {"HOSTNAME": host, **placement_context.attributes.get(host, {})}
                whole = placement_context.limited.get(host)
                by_host[host] = Offer(
                    host=host,
                    cluster=clusters.get(host, ""),
                    pool=_NO_POOL,
                    room=Resources(),
                    attributes=attributes,
                    until_ms=None if whole is None else whole.until_ms,
                    users=None if whole is None else whole.users,
                )
        self.offers = [by_host[host] for host in sorted(by_host)]
        self.position = {offer.host: index for index, offer in enumerate(self.offers)}
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)
        self.is_limited = any(offer.is_limited for offer in self.offers)
        self._defaults = defaults
        self._placement_context = placement_context
        self._groups_apart = groups_apart
        self._by_class: dict[tuple[ConstraintClass, float], Mask | None] = {}
        self._cohosts: dict[GroupId, dict[str, int]] = {}
        self._stopping: dict[GroupId, dict[str, int]] = {}  # hosts of a group's preempted tasks
        self._preempted: list[str] = []  # hosts of preempted tasks, once per task

    def open_to_class(self, constraint_class: ConstraintClass, gpus: float) -> Mask | None:
        """Return a mask of the hosts that meet the constraints of a class of jobs; None if all do."""
        key = (constraint_class, gpus)
        if key not in self._by_class:
            in_pool = class_in_pool(constraint_class, self._defaults)
            anywhere = self.all_plain and not in_pool.attributes
            fails = (failing_class_constraint(in_pool, gpus, offer, self._defaults) for offer in self.offers)
            self._by_class[key] = (
                None if anywhere else np.array([failed is None for failed in fails], dtype=bool)
            )
        return self._by_class[key]

    def meets_job_constraints(self, request: TaskRequest, position: int) -> bool:
        """Return whether a host meets the constraints of the job other than those of its class."""
        job_constraints = request.job_constraints
        if job_constraints is NO_JOB_CONSTRAINTS:
            return True
        offer = self.offers[position]
        if offer.host in job_constraints.avoid:
            return False
        if (
            failing_job_constraint(job_constraints, offer, self._defaults, self._placement_context.now_ms)
            is not None
        ):
            return False
        placement = (
            None
            if job_constraints.group is None
            else self._placement_context.groups.get(job_constraints.group)
        )
        if job_constraints.group is None or placement is None or placement.kind is PlacementKind.ALL:
            return True
        return self._meets_placement(job_constraints.group, placement, offer)

    def _meets_placement(self, group: GroupId, placement: GroupPlacement, offer: Offer) -> bool:
        if placement.kind is PlacementKind.UNIQUE and "HOSTNAME" not in offer.attributes:
            return False
        hosts = self._hosts_of(group)
        return self._is_met(placement, offer, hosts) and (
            group not in self._stopping
            or self._is_met(placement, offer, self._hosts_after_preemption(group, hosts))
        )

    def _is_met(self, placement: GroupPlacement, offer: Offer, hosts: Mapping[str, int]) -> bool:
        cohosts = {host: self._attributes(host) for host in hosts}
        return failing_group_constraint(placement, offer.host, offer.attributes, cohosts, hosts) is None

    def _hosts_after_preemption(self, group: GroupId, hosts: Mapping[str, int]) -> dict[str, int]:
        """Return the group's hosts once its preempted tasks have ended."""
        stopping = self._stopping[group]
        return {
            host: remaining
            for host, count in hosts.items()
            if (remaining := count - stopping.get(host, 0)) > 0
        }

    def record_placement(self, request: TaskRequest, host: str) -> None:
        """Record that the job is placed on the host."""
        position = self.position[host]
        if self.offers[position].kind is HostKind.KUBERNETES:
            self.offers[position] = with_task(self.offers[position], request, self._defaults)
            self._by_class.clear()
        if request.job_constraints.group is not None:
            _count(self._hosts_of(request.job_constraints.group), host)

    def record_preemption(self, group: GroupId | None, host: str) -> None:
        """Record that a task of a group, or of none, is preempted on the host."""
        if self._groups_apart:
            if group is not None:
                _count(self._stopping.setdefault(group, {}), host)
            return
        if group is not None:
            self._hosts_of(group)  # makes sure that it is counted
        for counted_group, hosts in self._cohosts.items():
            if counted_group != group:
                _count(hosts, host)
        self._preempted.append(host)

    def _hosts_of(self, group: GroupId) -> dict[str, int]:
        hosts = self._cohosts.get(group)
        if hosts is None:
            hosts = self._cohosts[group] = dict(self._placement_context.hosts_of(group))
            for host in self._preempted:
                _count(hosts, host)
        return hosts

    def _attributes(self, host: str) -> Mapping[str, str]:
        position = self.position.get(host)
        return (
            self._placement_context.attributes.get(host, {})
            if position is None
            else self.offers[position].attributes
        )


def _without_attributes(offer: Offer) -> Offer:
    """Return an offer without attributes and location."""
    return replace(offer, attributes={}, location=None)


def _count(hosts: dict[str, int], host: str) -> None:
    hosts[host] = hosts.get(host, 0) + 1
