"""Snapshots: what decisions read, gathered from all that the service knows at one moment.

Lives here: `Snapshots`, the only place where a `PoolSnapshot` is made.
Not here: what it holds (`scheduling.snapshot`), what is decided by it (`scheduling.decisions`), what follows
commits (`service.state.queues`).
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
from cook_jupyter.scheduling.matching.head_room import NOTHING, Amounts, amounts_requested
from cook_jupyter.scheduling.ranking.considerable import UNLIMITED_QUOTA, QueueFilters, group_usages
from cook_jupyter.scheduling.rebalancing.preemption import NOTHING_RESERVED, ReservedRoom
from cook_jupyter.scheduling.snapshot import PoolSnapshot, Reserved, usage_by_user
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.state.limits import UNDIVIDED, Division, Limits
from cook_jupyter.service.state.queues import PoolQueue, Queues
from cook_jupyter.service.state.rates import Rates
from cook_jupyter.service.state.rebalancer import RebalancerParameters


class Snapshots:
    """Makes snapshots of the pools of one scheduler.

    Args:
        settings: what the operator set.
        clock: the scheduler's clock.
        clusters: the clusters by name.
        queues: the queues of all pools.
        limits: shares and quotas.
        rates: launch rates of users and clusters.
        rebalancer: how tasks give way.
        host_health: which hosts are out of use.
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
        self._capacity: Mapping[PoolName, Sequence[Sequence[Offer]]] = {}  # as clusters told it last

    def of(self, name: PoolName) -> PoolSnapshot:
        """Return a pool as it is now; holds until the next commit."""
        self.follow_hosts(name)
        now_ms = self._clock.now_ms()
        queues, rates, settings = self._queues, self._rates, self._settings
        pool = queues.pool(name)
        outages = self._host_health.outages(now_ms)
        offers = self._offers(name, outages)
        limits = self.limits(name)
        return PoolSnapshot(
            pool=pool.pool,
            now_ms=now_ms,
            cycle=pool.cycle,
            preemption=self._rebalancer.for_pool(pool.pool, pool.defaults),
            capacity=pool.capacity,
            offers=offers,
            open_offers=queues.open_to_all(offers),
            limits=limits,
            filters=self._filters(pool, limits, now_ms),
            leaves_out_too_large=settings.placement.leave_out_too_large,
            placement_context=self._placement_context(pool, now_ms),
            indebted=rates.indebted(self._clusters, now_ms),
            rate_limited=pool.rate_limited if rates.enforces_launches else None,
            deferral=queues.plugin.deferral if queues.plugin.asks else None,
            scaleback=pool.scaleback,
            latest=pool.latest,
            growing=[cluster.name for cluster in self._clusters.values() if cluster.can_grow(name)],
            reserved=self._reserved(pool),
            heads=queues.heads.facts(name, queues.capacities, self._promised()),
            outages=self._of_pool(outages, pool) if outages else (),
            hosts=pool.hosts,
        )

    def limits(self, name: PoolName) -> UserLimits:
        """Return the shares and quotas in force in a pool."""
        return self._limits.of_pool(name, self.division(name))

    def division(self, name: PoolName) -> Division:
        """Return what shares in a pool that nobody set are parts of at this moment."""
        if not self._limits.depend_on_division:
            return UNDIVIDED
        self.follow_hosts(name)
        pool = self._queues.pool(name)
        parts = pool.user_count if self._settings.equal_shares else 1
        return Division(whole=pool.capacity.whole, parts=max(1, parts))

    def follow_hosts(self, name: PoolName) -> None:
        """Bring a pool up to the hosts that there are; costs nothing while clusters tell the same value."""
        told = [cluster.capacity() for cluster in self._clusters.values()]
        known = self._capacity.get(name)
        if known is None or not all(map(is_, told, known)):
            self._capacity = {**self._capacity, name: told}
            self._queues.hosts_changed(
                name, [offer for offers in told for offer in offers if offer.pool == name]
            )

    # --- parts

    def _offers(self, name: PoolName, outages: Sequence[Outage]) -> Sequence[Offer]:
        """Return the room there is now in a pool; hosts that are out of use have none."""
        out_of_use = {outage.host for outage in outages}
        return [
            offer
            for cluster in self._clusters.values()
            for offer in cluster.offers()
            if offer.pool == name and offer.host not in out_of_use
        ]

    def _of_pool(self, outages: Sequence[Outage], pool: PoolQueue) -> Sequence[Outage]:
        return [outage for outage in outages if outage.host in pool.capacity.clusters]

    def _filters(self, pool: PoolQueue, limits: UserLimits, now_ms: int) -> QueueFilters:
        """Return what keeps jobs from being matched."""
        settings = self._settings
        group_usage, group_quota = Usage(), UNLIMITED_QUOTA
        if pool.group is not None and pool.group_quota.limits_usage:
            used = {member.pool.name: member.index.pool_usage() for member in self._queues.members(pool)}
            group_usage = group_usages(settings.quota_groups, used).get(pool.group, Usage())
            if settings.group_quota_when_idle or group_usage.count:
                group_quota = pool.group_quota
        return QueueFilters(
            pool_quota=pool.quota,
            group_quota=group_quota,
            group_usage=group_usage,
            tokens=self._rates.tokens(pool.pool.name, limits, pool.index.users, now_ms),
            accepts=self._queues.plugin.accepts(now_ms),
            max_cpus=settings.jobs.max_cpus,
            max_mem_mb=settings.jobs.max_mem_mb,
        )

    def _placement_context(self, pool: PoolQueue, now_ms: int) -> PlacementContext:
        groups = self._queues.placing.placements
        return PlacementContext(
            reservations=self._queues.freed.closed(),
            groups=groups,
            group_hosts=self._group_hosts if groups else None,
            attributes=self._attributes(pool),
            limited=pool.capacity.limited,
            now_ms=now_ms,
        )

    def _group_hosts(self, group: GroupId) -> Mapping[str, int]:
        """Return the hosts of a group's running tasks; the jobs of a group may be in several pools."""
        by_pool = [hosts for pool in self._queues.pools() if (hosts := pool.index.group_hosts(group))]
        if len(by_pool) <= 1:
            return by_pool[0] if by_pool else {}
        return sum((Counter(hosts) for hosts in by_pool), Counter())

    def _attributes(self, pool: PoolQueue) -> Mapping[str, Mapping[str, str]]:
        """Return the attributes of hosts: of a pool, and of the others, whose tasks may be of its groups."""
        pools = self._queues.pools()
        if len(pools) == 1:
            return pool.attributes
        return ChainMap(pool.attributes, *(other.attributes for other in pools if other is not pool))

    def _reserved(self, pool: PoolQueue) -> Reserved:
        """Return the room that is reserved for beneficiaries of preemptions."""
        freed, pools = self._queues.freed, self._queues.pools()
        if not freed:
            return Reserved(closes_hosts=freed.closes_hosts, lapsed=freed.lapsed)
        group_usage = Usage()
        if pool.group is not None and not freed.closes_hosts:
            for member in self._queues.members(pool):
                by_user = usage_by_user(freed.of(member.pool.name), member.index)
                group_usage = sum(by_user.values(), group_usage)
        rooms = {
            job_id: ReservedRoom(host, freed.launch_of(job_id))
            for job_id, host in freed.of(pool.pool.name).items()
        }
        groups = {
            group
            for each in pools
            for job_id in freed.of(each.pool.name)
            if each.index.is_waiting(job_id) and (group := each.index.group_of(job_id)) is not None
        }
        return Reserved(
            rooms=rooms or NOTHING_RESERVED,
            everywhere=freed.everywhere(),
            closes_hosts=freed.closes_hosts,
            group_usage=group_usage,
            groups=groups,
            lapsed=freed.lapsed,
        )

    def _promised(self) -> Mapping[str, Amounts]:
        """Return what is reserved on hosts for beneficiaries of preemptions, in all pools."""
        freed = self._queues.freed
        promised: dict[str, Amounts] = {}
        if not freed:
            return promised
        for pool in self._queues.pools():
            index = pool.index
            for job_id, host in freed.of(pool.pool.name).items():
                if index.is_waiting(job_id):
                    asked = amounts_requested(request_of(index, index.row_of(job_id)))
                    promised[host] = promised.get(host, NOTHING).plus(asked)
        return promised
