"""Snapshots: everything that a decision reads, gathered at one moment.

Lives here: `Snapshots`, the only place where a `PoolSnapshot` is built.
Not here: the contents of a snapshot (`scheduling.snapshot`), decisions (`scheduling.decisions`), the state
that follows commits (`service.state`).
"""

from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from operator import is_

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.model.job import GroupId
from cook_jupyter.model.limits import Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.host_health import HostHealth, Outage
from cook_jupyter.scheduling.matching.cycle import request_of
from cook_jupyter.scheduling.matching.head_room import NOTHING, HostAmounts, amounts_requested
from cook_jupyter.scheduling.ranking.considerable import UNLIMITED_QUOTA, QueueFilters, group_usages
from cook_jupyter.scheduling.rebalancing.preemption import NOTHING_RESERVED, ReservedRoom
from cook_jupyter.scheduling.snapshot import PoolSnapshot, Reserved, usage_by_user
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.state.limits import UNDIVIDED, Limits, PoolDivision
from cook_jupyter.service.state.pool_queue import PoolQueue
from cook_jupyter.service.state.queues import Queues
from cook_jupyter.service.state.rates import Rates
from cook_jupyter.service.state.rebalancer import RebalancerParameters


class Snapshots:
    """Builds snapshots of the pools of one scheduler.

    Args:
        settings: settings of the scheduler.
        clock: clock of the scheduler.
        clusters: clusters by name.
        queues: queues of all pools.
        limits: shares and quotas in force.
        rates: launch rates of users and clusters.
        rebalancer: parameters of preemption in force.
        host_health: the hosts that are out of use.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        clusters: Mapping[str, ComputeCluster],
        queues: Queues,
        limits: Limits,
        rates: Rates,
        rebalancer: RebalancerParameters,
        host_health: HostHealth,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._clusters = clusters
        self._queues = queues
        self._limits = limits
        self._rates = rates
        self._rebalancer = rebalancer
        self._host_health = host_health
        self._capacity: Mapping[
            PoolName, Sequence[Sequence[Offer]]
        ] = {}  # pool -> last report of each cluster

    def take(self, name: PoolName) -> PoolSnapshot:
        """Return a pool at this moment. The snapshot is valid until the next commit."""
        self.update_hosts(name)
        now_ms = self._clock.now_ms()
        queues, rates, settings = self._queues, self._rates, self._settings
        pool = queues.pool(name)
        outages = self._host_health.outages(now_ms)
        offers = self._offers(name, outages)
        limits = self.limits(name)
        return PoolSnapshot(
            pool=pool.pool,
            now_ms=now_ms,
            cycle=pool.cycle_settings,
            preemption=self._rebalancer.for_pool(pool.pool, pool.defaults),
            capacity=pool.capacity,
            offers=offers,
            open_offers=queues.unreserved_offers(offers),
            limits=limits,
            filters=self._filters(pool, limits, now_ms),
            leaves_out_too_large=settings.placement.leave_out_too_large,
            placement_context=self._placement_context(pool, now_ms),
            indebted=rates.clusters_in_debt(self._clusters, now_ms),
            rate_limited=pool.rate_limited if rates.enforces_launch_rates else None,
            deferral=queues.launch_plugin.deferral if queues.launch_plugin.is_set else None,
            scaleback=pool.scaleback,
            latest=pool.latest_matching,
            growing=[cluster.name for cluster in self._clusters.values() if cluster.can_grow(name)],
            reserved=self._reserved(pool),
            heads=queues.heads.facts(name, queues.capacities, self._reserved_amounts()),
            outages=_outages_in(pool, outages) if outages else (),
            hosts=pool.hosts,
        )

    def limits(self, name: PoolName) -> UserLimits:
        """Return the shares and quotas in force in a pool."""
        return self._limits.for_pool(name, self.division(name))

    def division(self, name: PoolName) -> PoolDivision:
        """Return the division of a pool at this moment of which unset shares are one part."""
        if not self._limits.depend_on_division:
            return UNDIVIDED
        self.update_hosts(name)
        pool = self._queues.pool(name)
        parts = pool.user_count if self._settings.equal_shares else 1
        return PoolDivision(total=pool.capacity.whole, parts=max(1, parts))

    def update_hosts(self, name: PoolName) -> None:
        """Update the hosts of a pool. Cheap while the clusters return the same values as before."""
        reports = [cluster.capacity() for cluster in self._clusters.values()]
        previous = self._capacity.get(name)
        if previous is None or not all(map(is_, reports, previous)):
            self._capacity = {**self._capacity, name: reports}
            self._queues.update_hosts(
                name, [offer for offers in reports for offer in offers if offer.pool == name]
            )

    # Parts of a snapshot

    def _offers(self, name: PoolName, outages: Sequence[Outage]) -> Sequence[Offer]:
        """Return the free room of the hosts of a pool that are not out of use."""
        out_of_use = {outage.host for outage in outages}
        return [
            offer
            for cluster in self._clusters.values()
            for offer in cluster.offers()
            if offer.pool == name and offer.host not in out_of_use
        ]

    def _filters(self, pool: PoolQueue, limits: UserLimits, now_ms: int) -> QueueFilters:
        """Return the filters that keep jobs of a pool from being matched."""
        settings = self._settings
        group_usage, group_quota = Usage(), UNLIMITED_QUOTA
        if pool.group is not None and pool.group_quota.limits_usage:
            members = self._queues.quota_group_of(pool)
            usages = {member.pool.name: member.index.pool_usage() for member in members}
            group_usage = group_usages(settings.quota_groups, usages).get(pool.group, Usage())
            if settings.group_quota_when_idle or group_usage.count:
                group_quota = pool.group_quota
        return QueueFilters(
            pool_quota=pool.quota,
            group_quota=group_quota,
            group_usage=group_usage,
            tokens=self._rates.launch_tokens_in(pool.pool.name, limits, pool.index.users, now_ms),
            accepts=self._queues.launch_plugin.accepts(now_ms),
            max_cpus=settings.jobs.max_cpus,
            max_mem_mb=settings.jobs.max_mem_mb,
        )

    def _placement_context(self, pool: PoolQueue, now_ms: int) -> PlacementContext:
        groups = self._queues.groups.placements
        return PlacementContext(
            reservations=self._queues.reservations.closed_hosts(),
            groups=groups,
            group_hosts=self._group_hosts if groups else None,
            attributes=self._attributes(pool),
            limited=pool.capacity.limited,
            now_ms=now_ms,
        )

    def _group_hosts(self, group: GroupId) -> Mapping[str, int]:
        """Return the number of running tasks of a group on each host, in all pools."""
        by_pool = [hosts for pool in self._queues.pools() if (hosts := pool.index.group_hosts(group))]
        if len(by_pool) <= 1:
            return by_pool[0] if by_pool else {}
        return sum((Counter(hosts) for hosts in by_pool), Counter())

    def _attributes(self, pool: PoolQueue) -> Mapping[str, Mapping[str, str]]:
        """Return the attributes of all hosts, as groups of a pool may have tasks on hosts of other pools."""
        pools = self._queues.pools()
        if len(pools) == 1:
            return pool.attributes
        return ChainMap(pool.attributes, *(other.attributes for other in pools if other is not pool))

    def _reserved(self, pool: PoolQueue) -> Reserved:
        """Return the reservations of a pool, and what decisions about it read of other pools' ones."""
        reservations, pools = self._queues.reservations, self._queues.pools()
        if not reservations:
            return Reserved(closes_hosts=reservations.closes_hosts, lapsed=reservations.lapsed)
        group_usage = Usage()
        if pool.group is not None and not reservations.closes_hosts:
            for member in self._queues.quota_group_of(pool):
                by_user = usage_by_user(reservations.for_pool(member.pool.name), member.index)
                group_usage = sum(by_user.values(), group_usage)
        rooms = {
            job_id: ReservedRoom(host, reservations.launch_number(job_id))
            for job_id, host in reservations.for_pool(pool.pool.name).items()
        }
        groups = {
            group
            for other in pools
            for job_id in reservations.for_pool(other.pool.name)
            if other.index.is_waiting(job_id) and (group := other.index.group_of(job_id)) is not None
        }
        return Reserved(
            rooms=rooms or NOTHING_RESERVED,
            everywhere=reservations.for_all_pools(),
            closes_hosts=reservations.closes_hosts,
            group_usage=group_usage,
            groups=groups,
            lapsed=reservations.lapsed,
        )

    def _reserved_amounts(self) -> Mapping[str, HostAmounts]:
        """Return the amounts that are reserved on each host for waiting beneficiaries of all pools."""
        reservations = self._queues.reservations
        amounts: dict[str, HostAmounts] = {}
        if not reservations:
            return amounts
        for pool in self._queues.pools():
            index = pool.index
            for job_id, host in reservations.for_pool(pool.pool.name).items():
                if index.is_waiting(job_id):
                    requested = amounts_requested(request_of(index, index.row_of(job_id)))
                    amounts[host] = amounts.get(host, NOTHING).plus(requested)
        return amounts


def _outages_in(pool: PoolQueue, outages: Sequence[Outage]) -> Sequence[Outage]:
    """Return the outages of hosts of a pool."""
    return [outage for outage in outages if outage.host in pool.capacity.clusters]
