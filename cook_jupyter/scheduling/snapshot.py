"""Everything that a decision about a pool reads besides its queue: one value per pool and moment.

Lives here: `PoolSnapshot` and its parts; `PoolState`, a pool from which reserved room has been deducted.
Not here: the queue itself (`scheduling.queue.queue_index`), the construction of snapshots
(`service.snapshots`, nowhere else), the decisions (`scheduling.decisions`).

The cost of a snapshot depends on what has changed: large parts are shared with their owners, and a few that
are computed only on demand are functions. A snapshot is therefore valid until the next commit, like the queue
index. To keep one for longer, write a dump (`service.requests.dumps`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from cook_jupyter.model.decisions import Match, Matching, Scaleback
from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode, Pool, PoolName
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.host_health import Outage
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.cycle import CycleSettings, request_of
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts, RunningTask
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.considerable import QueueFilters, may_start
from cook_jupyter.scheduling.ranking.ranking import Order
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings, ReservedRoom


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Room that was freed by preemption and is reserved until its beneficiaries start.

    Attributes:
        rooms: waiting job of the pool -> the room that is reserved for it.
        everywhere: job -> host of its reserved room, in all pools.
        closes_hosts: whether the whole host is closed to other jobs, as in Cook; else only the room that the
            job requests is reserved.
        group_usage: amounts that jobs with reserved room will hold in all pools of the quota group.
        groups: groups with a placement, in any pool, of which a job has reserved room.
        lapsed: jobs that did not use a reservation; nothing is preempted for them for a while.
    """

    rooms: Mapping[JobId, ReservedRoom] = field(default_factory=dict)
    everywhere: Mapping[JobId, str] = field(default_factory=dict)
    closes_hosts: bool = False
    group_usage: Usage = field(default_factory=Usage)
    groups: AbstractSet[GroupId] = frozenset()
    lapsed: Collection[JobId] = ()


def _no_tasks(host: str) -> Sequence[RunningTask]:
    return ()


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """The heads of the queues, and the facts that decisions about them read. Pools may share hosts.

    Attributes:
        max_kept: part of a pool's resources that may be kept at a time, 0 to 1; with 0 nothing is kept.
        backfill: whether jobs may use kept room if they will have ended in time.
        by_pool: heads of each pool, those that have been heads for longest first.
        nowhere: jobs of the pool that no host could ever hold.
        current: heads, each with its host, that were reviewed since a task last started or ended.
        capacities: pool -> its hosts.
        tasks_on: returns the running tasks of a host, of all pools.
        promised: host -> amounts that are reserved there for beneficiaries of preemptions.
        group_ms: group -> observed run time of its jobs.
        least: for each pool with waiting jobs, the least cpus and the least memory that these request.
    """

    max_kept: float = 0.0
    backfill: bool = False
    by_pool: Mapping[PoolName, Mapping[JobId, HeadOfQueue]] = field(default_factory=dict)
    nowhere: AbstractSet[JobId] = frozenset()
    current: AbstractSet[tuple[JobId, str]] = frozenset()
    capacities: Mapping[PoolName, PoolCapacity] = field(default_factory=dict)
    tasks_on: Callable[[str], Sequence[RunningTask]] = _no_tasks
    promised: Mapping[str, HostAmounts] = field(default_factory=dict)
    group_ms: Mapping[GroupId, int] = field(default_factory=dict)
    least: Sequence[tuple[float, float]] = ()


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """A pool at one moment.

    Attributes:
        pool: the pool.
        now_ms: the time.
        cycle: settings of ranking and matching.
        preemption: settings of preemption; None if tasks of the pool are never preempted.
        capacity: the hosts of the pool as if they were empty.
        offers: current offers of the hosts in use.
        open_offers: the same without the room that is reserved for beneficiaries of preemptions.
        limits: shares and quotas of its users.
        filters: filters of the queue, with the maximum job size that the operator has set.
        leaves_out_too_large: whether jobs larger than the largest host are excluded from the queue, too.
        placement_context: groups, reservations, the time.
        indebted: clusters whose launch rate is exceeded, and to which no tasks may be sent now.
        rate_limited: number of jobs of each user that the launch rate held back in the last match cycle; None
            if it is not enforced.
        deferral: returns the name and the message of the launch filter if its last answer deferred a job;
            None if there is no filter.
        scaleback: scaleback that the last match cycle returned; None if there is none.
        latest: the latest match cycle; None if no job waited then.
        growing: clusters that can grow in the pool.
        reserved: room that is reserved for beneficiaries of preemptions.
        heads: jobs at the heads of the queues, and the room that is kept for them.
        outages: hosts of the pool that are out of use.
        hosts: a cache: decisions update it to their offers, which is faster than building it from scratch
            and does not affect the result.
    """

    pool: Pool
    now_ms: int
    cycle: CycleSettings = field(default_factory=CycleSettings)
    preemption: PreemptionSettings | None = None
    capacity: PoolCapacity
    offers: Sequence[Offer]
    open_offers: Sequence[Offer]
    limits: UserLimits
    filters: QueueFilters
    leaves_out_too_large: bool = True
    placement_context: PlacementContext
    indebted: frozenset[str] = frozenset()
    rate_limited: Mapping[str, int] | None = None
    deferral: Callable[[JobId], tuple[str, str] | None] | None = None
    scaleback: Scaleback | None = None
    latest: Matching | None = None
    growing: Sequence[str] = ()
    reserved: Reserved = field(default_factory=Reserved)
    heads: HeadFacts = field(default_factory=HeadFacts)
    outages: Sequence[Outage] = ()
    hosts: Hosts = field(default_factory=Hosts, compare=False, repr=False)

    @property
    def queue_filters(self) -> QueueFilters:
        """The filters of a cycle, which also exclude jobs larger than the largest host.

        Such jobs can never start, but a host that launches ahead offers more room than it has.
        """
        filters = self.filters
        if not self.leaves_out_too_large or not self.capacity.offers:
            return filters
        largest = self.capacity.largest
        return replace(
            filters,
            max_cpus=largest.cpus if filters.max_cpus is None else min(filters.max_cpus, largest.cpus),
            max_mem_mb=largest.mem_mb
            if filters.max_mem_mb is None
            else min(filters.max_mem_mb, largest.mem_mb),
        )

    def hosts_with(self, offers: Sequence[Offer]) -> Hosts:
        """Return the hosts with these offers; valid until the next call."""
        self.hosts.update_from_offers(offers)
        return self.hosts


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """The state of a pool for jobs without reserved room: jobs with reserved room count as started.

    Attributes:
        snapshot: the snapshot of the pool.
        index: its waiting jobs and running tasks.
        limits: shares, and what remains of quotas.
        filters: filters of the queue.
    """

    snapshot: PoolSnapshot
    index: QueueIndex
    limits: UserLimits
    filters: QueueFilters

    @classmethod
    def of(cls, snapshot: PoolSnapshot, index: QueueIndex) -> "PoolState":
        """Return the state of a pool at the moment of a snapshot."""
        by_user = _reserved_usage(snapshot, index)
        return cls(
            snapshot=snapshot,
            index=index,
            limits=_limits_beside(by_user, snapshot.limits),
            filters=_unreserved_filters(snapshot, index, by_user),
        )

    @property
    def name(self) -> PoolName:
        """The name of the pool."""
        return self.snapshot.pool.name

    @property
    def mode(self) -> DruMode:
        """The resources that count in the pool's DRU."""
        return self.snapshot.pool.dru_mode

    @property
    def is_fair(self) -> bool:
        """Whether the pool ranks by DRU."""
        return self.snapshot.cycle.rank.order is Order.FAIR

    def may_start(self, job_id: JobId) -> bool:
        """Return whether quotas, launch rates and filters allow a waiting job to start."""
        return may_start(self.index, job_id, self.limits, self.filters)

    def with_matches(self, matches: Sequence[Match]) -> "PoolState":
        """Return the state with what remains of quotas and launch rates after these matches."""
        if not matches:
            return self
        by_user = usage_by_user((match.job_id for match in matches), self.index)
        total = sum(by_user.values(), Usage())
        quotas = {user: self.limits.quota(user).less(usage) for user, usage in by_user.items()}
        return replace(
            self,
            limits=replace(self.limits, quotas={**self.limits.quotas, **quotas}),
            filters=replace(
                self.filters,
                pool_quota=self.filters.pool_quota.less(total),
                group_usage=self.filters.group_usage + total,
                tokens=_tokens_after(by_user, self.filters.tokens),
            ),
        )

    def request(self, job_id: JobId) -> TaskRequest:
        """Return the task request of a job."""
        snapshot = self.snapshot
        limited = snapshot.cycle.match.defaults if snapshot.capacity.limited else None
        return request_of(self.index, self.index.row_of(job_id), limited)


def usage_by_user(jobs: Iterable[JobId], index: QueueIndex) -> dict[str, Usage]:
    """Return the usage that the waiting ones of these jobs will add once they run, by user."""
    usage: dict[str, Usage] = {}
    for job_id in jobs:
        if index.is_waiting(job_id):
            user = index.owner(index.row_of(job_id)).name
            usage[user] = usage.get(user, Usage()) + index.requested(job_id)
    return usage


def _reserved_usage(snapshot: PoolSnapshot, index: QueueIndex) -> dict[str, Usage]:
    """Return the usage of jobs with reserved room once they run, by user; empty if hosts are closed."""
    reserved = snapshot.reserved
    return {} if reserved.closes_hosts else usage_by_user(reserved.rooms, index)


def _unreserved_filters(
    snapshot: PoolSnapshot, index: QueueIndex, by_user: Mapping[str, Usage]
) -> QueueFilters:
    """Return the filters for jobs without reserved room.

    Other jobs of a group with a placement wait until the group's job with reserved room has started.

    Args:
        snapshot: the pool.
        index: its queue.
        by_user: usage of jobs with reserved room once they run.
    """
    filters, reserved = snapshot.queue_filters, snapshot.reserved
    if not by_user and not filters.group_quota.limits_usage:
        return filters
    return replace(
        filters,
        pool_quota=filters.pool_quota.less(sum(by_user.values(), Usage())),
        group_usage=filters.group_usage + reserved.group_usage,
        tokens=_tokens_after(by_user, filters.tokens),
        accepts=_accept_outside_groups(index, reserved.groups, filters.accepts),
    )


def _limits_beside(by_user: Mapping[str, Usage], limits: UserLimits) -> UserLimits:
    """Return the limits with what remains of quotas beside this usage."""
    quotas = {
        user: limits.quota(user).less(usage)
        for user, usage in by_user.items()
        if limits.quota(user).limits_usage
    }
    return replace(limits, quotas={**limits.quotas, **quotas}) if quotas else limits


def _tokens_after(
    by_user: Mapping[str, Usage], tokens: Mapping[str, float] | None
) -> Mapping[str, float] | None:
    return tokens and {user: number - by_user.get(user, Usage()).count for user, number in tokens.items()}


def _accept_outside_groups(
    index: QueueIndex, groups: AbstractSet[GroupId], accepts: Callable[[JobId], bool] | None
) -> Callable[[JobId], bool] | None:
    if not groups:
        return accepts
    return lambda job_id: index.group_of(job_id) not in groups and (accepts is None or accepts(job_id))
