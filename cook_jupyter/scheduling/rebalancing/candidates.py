"""The hosts of a rebalance cycle: those with spare room and those with running tasks, and who may go there.

Lives here: `RebalanceHosts`, which applies the constraints that hold for preemption and follows what the
cycle decides.
Not here: each constraint itself (`scheduling.constraints.constraints`), room and victims
(`scheduling.rebalancing.preemption`).

Reservations and the number of tasks per host do not bear on preemption. A task that the cycle preempts may
still be there when the beneficiary starts, or may not: what its group demands must hold in both cases.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from cook_jupyter.model.job import GroupId
from cook_jupyter.model.offer import HostKind, Offer
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


class RebalanceHosts:
    """Hosts in ascending order of name.

    Attributes:
        offers: one per host; of hosts that offer nothing, what is known of them, with no room.
        position: where a host stands among them.
        all_plain: none gives out its gpus or disks in a way of its own.
        is_limited: whether any is offered for a time or for some users only.
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
        known = {
            offer.host: offer if spare_hosts_known or offer.host in busy else _unknown(offer)
            for offer in hosts.offers
        }
        for host in busy:
            if host not in known:
                attributes = {"HOSTNAME": host, **placement_context.attributes.get(host, {})}
                whole = placement_context.limited.get(host)
                known[host] = Offer(
                    host=host,
                    cluster=clusters.get(host, ""),
                    pool="",
                    room=Resources(),
                    attributes=attributes,
                    until_ms=None if whole is None else whole.until_ms,
                    users=None if whole is None else whole.users,
                )
        self.offers = [known[host] for host in sorted(known)]
        self.position = {offer.host: at for at, offer in enumerate(self.offers)}
        self.all_plain = all(offer.kind is HostKind.PLAIN for offer in self.offers)
        self.is_limited = any(offer.is_limited for offer in self.offers)
        self._defaults = defaults
        self._placement_context = placement_context
        self._groups_apart = groups_apart
        self._by_class: dict[tuple[ConstraintClass, float], Mask | None] = {}
        self._cohosts: dict[GroupId, dict[str, int]] = {}
        self._stopping: dict[GroupId, dict[str, int]] = {}  # hosts of a group's preempted tasks
        self._preempted: list[str] = []  # hosts of preempted tasks, once for each

    def open_to_class(self, wanted: ConstraintClass, gpus: float) -> Mask | None:
        """Return by position whether a class of jobs may go there; None if it may go anywhere."""
        key = (wanted, gpus)
        if key not in self._by_class:
            in_pool = class_in_pool(wanted, self._defaults)
            anywhere = self.all_plain and not in_pool.attributes
            fails = (failing_class_constraint(in_pool, gpus, offer, self._defaults) for offer in self.offers)
            self._by_class[key] = (
                None if anywhere else np.array([failed is None for failed in fails], dtype=bool)
            )
        return self._by_class[key]

    def takes(self, request: TaskRequest, at: int) -> bool:
        """Tell whether the host at a position meets what the job alone demands, its class aside."""
        own = request.job_constraints
        if own is NO_JOB_CONSTRAINTS:
            return True
        offer = self.offers[at]
        if offer.host in own.avoid:
            return False
        if failing_job_constraint(own, offer, self._defaults, self._placement_context.now_ms) is not None:
            return False
        placement = None if own.group is None else self._placement_context.groups.get(own.group)
        if own.group is None or placement is None or placement.kind is PlacementKind.ALL:
            return True
        return self._placed_well(own.group, placement, offer)

    def _placed_well(self, group: GroupId, placement: GroupPlacement, offer: Offer) -> bool:
        if placement.kind is PlacementKind.UNIQUE and "HOSTNAME" not in offer.attributes:
            return False
        hosts = self._hosts_of(group)
        return self._is_met(placement, offer, hosts) and (
            group not in self._stopping or self._is_met(placement, offer, self._left_of(group, hosts))
        )

    def _is_met(self, placement: GroupPlacement, offer: Offer, hosts: Mapping[str, int]) -> bool:
        cohosts = {host: self._attributes(host) for host in hosts}
        return failing_group_constraint(placement, offer.host, offer.attributes, cohosts, hosts) is None

    def _left_of(self, group: GroupId, hosts: Mapping[str, int]) -> dict[str, int]:
        """The group's hosts once its preempted tasks have ended."""
        stopping = self._stopping[group]
        return {host: left for host, count in hosts.items() if (left := count - stopping.get(host, 0)) > 0}

    def placed(self, request: TaskRequest, host: str) -> None:
        """Learn that the job is to go to the host."""
        at = self.position[host]
        if self.offers[at].kind is HostKind.KUBERNETES:
            self.offers[at] = with_task(self.offers[at], request, self._defaults)
            self._by_class.clear()
        if request.job_constraints.group is not None:
            _count(self._hosts_of(request.job_constraints.group), host)

    def preempted(self, group: GroupId | None, host: str) -> None:
        """Learn that a task of that group, or of none, is to be stopped on the host."""
        if self._groups_apart:
            if group is not None:
                _count(self._stopping.setdefault(group, {}), host)
            return
        if group is not None:
            self._hosts_of(group)  # counts it already
        for other, hosts in self._cohosts.items():
            if other != group:
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
        at = self.position.get(host)
        return self._placement_context.attributes.get(host, {}) if at is None else self.offers[at].attributes


def _unknown(offer: Offer) -> Offer:
    """The room of a host of which nothing else is known."""
    return replace(offer, attributes={}, location=None)


def _count(hosts: dict[str, int], host: str) -> None:
    hosts[host] = hosts.get(host, 0) + 1
