"""Considerable jobs: which of the ranked jobs may be matched now.

Lives here: the filters of the ranking in Cook's order: quotas of pool and user, launch rate, maximum job
size.
Not here: the ranking (`scheduling.ranking.ranking`), hosts (`scheduling.matching.matching`).

A quota filter adds up *every* job, including those it refuses. Therefore one job that exceeds the quota holds
back every later job of that user (or pool), even smaller ones: the jobs that pass are the front of the list.

Source: Cook's `scheduler.clj` (`pending-jobs->considerable-jobs`) and `tools.clj`, as described in the
fair-share specification, sections 3 and 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, inf
from typing import Final

import numpy as np

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.user_tasks import UserTasks
from cook_jupyter.scheduling.ranking.merge import segmented_cumsum
from cook_jupyter.scheduling.ranking.ranking import (
    RANK_DEFAULTS,
    ListHeads,
    Mask,
    RankedJob,
    RankSettings,
    heads_within_cut,
    iter_ranked_in_columns,
)

UNLIMITED_QUOTA = Quota()
_ROUNDING_MARGIN: Final = 1 + 1e-9  # more than sums differ if they are added up in another order
_FIRST_READ: Final = 256  # jobs that are read at first, to count those that the launch rate holds back


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilters:
    """Filters of ranked jobs in addition to the quotas of users.

    Attributes:
        pool_quota: quota of all users of the pool together.
        group_quota, group_usage: quota of the pools of a quota group together, and the usage of their tasks.
        tokens: user -> number of jobs that may start now; users that are missing are not limited. None if no
            launch rate is enforced.
        accepts: returns whether a job may start now (Cook's launch filter); None to accept all.
        max_cpus, max_mem_mb: maximum request of a job; larger jobs are excluded (Cook calls them offensive).
    """

    pool_quota: Quota = UNLIMITED_QUOTA
    group_quota: Quota = UNLIMITED_QUOTA
    group_usage: Usage = field(default_factory=Usage)
    tokens: Mapping[str, float] | None = None
    accepts: Callable[[JobId], bool] | None = None
    max_cpus: float | None = None
    max_mem_mb: float | None = None


NO_FILTERS = QueueFilters()


def group_usages(groups: Mapping[PoolName, str], by_pool: Mapping[PoolName, Usage]) -> dict[str, Usage]:
    """Add up the usage of pools by quota group, without pools that have no quota group.

    Args:
        groups: pool -> quota group.
        by_pool: pool -> usage of its tasks.
    """
    sums: dict[str, Usage] = {}
    for pool, usage in by_pool.items():
        group = groups.get(pool)
        if group is not None:
            sums[group] = sums.get(group, Usage()) + usage
    return sums


def ranked_within(
    queue: Iterable[RankedJob], index: QueueIndex, filters: QueueFilters = NO_FILTERS
) -> Iterator[RankedJob]:
    """Return the ranked jobs within the quotas of pool and group, without offensive jobs: Cook's queue."""
    takes_all = (
        filters.max_cpus is None
        and filters.max_mem_mb is None
        and not filters.pool_quota.limits_usage
        and not filters.group_quota.limits_usage
    )
    return iter(queue) if takes_all else _ranked_within(queue, index, filters)


def _ranked_within(
    queue: Iterable[RankedJob], index: QueueIndex, filters: QueueFilters
) -> Iterator[RankedJob]:
    pool = _QuotaMeter(filters.pool_quota, index.pool_usage() if filters.pool_quota.limits_usage else Usage())
    group = _QuotaMeter(filters.group_quota, filters.group_usage)
    largest = (
        inf if filters.max_cpus is None else filters.max_cpus,
        inf if filters.max_mem_mb is None else filters.max_mem_mb,
    )
    all_cpus, all_mem, all_gpus = index.amounts()
    for ranked in queue:
        row = ranked.row
        cpus, mem, gpus = all_cpus[row], all_mem[row], all_gpus[row]
        if not pool.add(cpus, mem, gpus):
            return
        if not group.add(cpus, mem, gpus):
            return
        if cpus <= largest[0] and mem <= largest[1]:
            yield ranked


def considerable(
    queue: Iterable[RankedJob],
    index: QueueIndex,
    limits: UserLimits,
    filters: QueueFilters = NO_FILTERS,
) -> Iterator[RankedJob]:
    """Return the jobs of Cook's queue that may be matched now, in order.

    The filters apply in this order: the user's quota, the launch rate, the pool's quota (so that jobs over
    their user's quota do not count against it), the launch filter.
    """
    takes_all = (
        filters.tokens is None
        and filters.accepts is None
        and not index.limit_columns(limits).anyone_limited
        and not filters.pool_quota.limits_usage
    )
    return iter(queue) if takes_all else _considerable(queue, index, limits, filters)


def _considerable(
    queue: Iterable[RankedJob],
    index: QueueIndex,
    limits: UserLimits,
    filters: QueueFilters,
) -> Iterator[RankedJob]:
    within_user_quota = _UserQuotas(index, limits).add
    pool = _QuotaMeter(filters.pool_quota, index.pool_usage() if filters.pool_quota.limits_usage else Usage())
    tokens = None if filters.tokens is None else dict(filters.tokens)
    all_cpus, all_mem, all_gpus = index.amounts()
    for ranked in queue:
        name = ranked.tasks.name
        row = ranked.row
        cpus, mem, gpus = all_cpus[row], all_mem[row], all_gpus[row]
        if not within_user_quota(name, cpus, mem, gpus):
            continue
        if tokens is not None:
            remaining = tokens.get(name, inf)
            tokens[name] = remaining - 1
            if remaining < 1:
                continue
        if not pool.add(cpus, mem, gpus):
            return
        if filters.accepts is not None and not filters.accepts(index.ids((row,))[0]):
            continue
        yield ranked


def may_start(index: QueueIndex, job_id: JobId, limits: UserLimits, filters: QueueFilters) -> bool:
    """Return whether a waiting job is considerable if the jobs before it are ignored.

    Raises:
        NotFound: the index does not have the job.
    """
    requested = index.requested(job_id)
    user = index.owner(index.row_of(job_id)).name
    return (
        (filters.max_cpus is None or requested.cpus <= filters.max_cpus)
        and (filters.max_mem_mb is None or requested.mem_mb <= filters.max_mem_mb)
        and limits.quota(user).allows(index.usage(user) + requested)
        and (filters.tokens is None or filters.tokens.get(user, inf) >= 1)
        and (not filters.pool_quota.limits_usage or filters.pool_quota.allows(index.pool_usage() + requested))
        and filters.group_quota.allows(filters.group_usage + requested)
        and (filters.accepts is None or filters.accepts(job_id))
    )


def rate_limited(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
    filters: QueueFilters = NO_FILTERS,
) -> dict[str, int]:
    """Count, by user, the queued jobs within the user's quota that the launch rate holds back.

    All of Cook's queue counts, not only the jobs that a match cycle considers. Users without such jobs are
    omitted.
    """
    if filters.tokens is None:
        return {}
    whole_tokens = {
        tasks: max(0, floor(filters.tokens[tasks.name]))
        for tasks in index.by_name()
        if filters.tokens.get(tasks.name, inf) < tasks.waiting_count
    }
    if not whole_tokens:
        return {}
    if _may_exceed_pool_quota(index, filters):
        counts = _count_within_all_quotas(index, limits, settings, filters)
    else:
        counts = _count_within_user_quotas(list(whole_tokens), index, limits, settings, filters)
    return {
        tasks.name: counts[tasks.name] - number
        for tasks, number in whole_tokens.items()
        if counts.get(tasks.name, 0) > number
    }


def _may_exceed_pool_quota(index: QueueIndex, filters: QueueFilters) -> bool:
    """Return whether all tasks of the pool together may exceed the quota of the pool or of its group."""
    for quota, usage in (
        (filters.pool_quota, index.pool_usage()),
        (filters.group_quota, filters.group_usage),
    ):
        if quota.limits_usage:
            total_usage = usage + index.waiting_usage()
            upper_bound = Usage(
                count=total_usage.count,
                cpus=total_usage.cpus * _ROUNDING_MARGIN,
                mem_mb=total_usage.mem_mb * _ROUNDING_MARGIN,
                gpus=total_usage.gpus * _ROUNDING_MARGIN,
            )
            if not quota.allows(upper_bound):
                return True
    return False


def _count_within_all_quotas(
    index: QueueIndex, limits: UserLimits, settings: RankSettings, filters: QueueFilters
) -> dict[str, int]:
    """Count the queued jobs of each user within the user's quota, if pool or group have a quota, too.

    Those quotas end the queue, so it is ranked and read up to that point.
    """
    counts: dict[str, int] = {}
    within_user_quota = _UserQuotas(index, limits).add
    all_cpus, all_mem, all_gpus = index.amounts()
    ranked = iter_ranked_in_columns(index, limits, settings, number=_FIRST_READ)
    for job in ranked_within(ranked, index, filters):
        name, row = job.tasks.name, job.row
        if within_user_quota(name, all_cpus[row], all_mem[row], all_gpus[row]):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _count_within_user_quotas(
    users: Sequence[UserTasks],
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings,
    filters: QueueFilters,
) -> dict[str, int]:
    """Count the queued jobs of some users within the user's quota, if pool and group set no limit.

    Users do not affect each other then, so nothing is ranked: each list is read until the quota is reached.
    """
    if filters.max_cpus is None and filters.max_mem_mb is None:
        within = {
            tasks.name: tasks.waiting_count for tasks in users if not limits.quota(tasks.name).limits_usage
        }
        users = [tasks for tasks in users if tasks.name not in within]
    else:
        within = {}
    if not users:
        return within
    allowance = QuotaColumnFilter(index, limits, replace(filters, tokens=None))
    counts = np.array([tasks.waiting_count for tasks in users], dtype=np.int64)
    depths = np.minimum(counts, _FIRST_READ)
    while True:
        heads = heads_within_cut(index, users, depths, limits, settings)
        is_left, finished = allowance(heads)
        needs_more = (depths < counts) & ~finished & (heads.waiting_counts >= depths)
        if not needs_more.any():
            break
        depths = np.where(needs_more, np.minimum(counts, depths * 4), depths)
    numbers = np.bincount(heads.owners[is_left], minlength=len(users)).tolist()
    return within | {tasks.name: number for tasks, number in zip(users, numbers, strict=True)}


class QuotaColumnFilter:
    """Filters jobs by user quotas and launch rate, in columns: a `ranking.TaskFilter`.

    Use it only if there is no quota of pool or group, because these count every ranked job.
    """

    def __init__(self, index: QueueIndex, limits: UserLimits, filters: QueueFilters) -> None:
        self._index = index
        self._limits = index.limit_columns(limits)
        self._filters = filters

    def __call__(self, heads: ListHeads) -> tuple[Mask, Mask]:
        """See `ranking.TaskFilter`."""
        columns = self._index.columns
        counted = heads.waits.copy()
        if self._filters.max_cpus is not None:
            counted &= columns.cpus[heads.rows] <= self._filters.max_cpus
        if self._filters.max_mem_mb is not None:
            counted &= columns.mem[heads.rows] <= self._filters.max_mem_mb
        accepted = counted.copy()
        if self._limits.limited[heads.users].any():
            accepted &= self._within_quotas(heads, counted)
        if self._filters.tokens is not None:
            accepted = self._within_rate(heads, accepted, self._filters.tokens)
        finished = np.zeros(len(heads.lengths), dtype=bool)
        refused = np.flatnonzero(counted & ~accepted)
        finished[heads.owners[refused]] = True  # a user with a refused job is refused all later jobs
        return accepted, finished

    def _within_quotas(self, heads: ListHeads, counted: Mask) -> Mask:
        columns, index = self._index.columns, self._index
        rows, owners = heads.rows[counted], heads.owners[counted]
        lengths = np.bincount(owners, minlength=len(heads.lengths))
        quota = self._limits.quota[heads.users][owners]
        filled = lengths > 0
        firsts = (np.cumsum(lengths) - lengths)[filled]
        used = np.array([index.usage_sums(resource) for resource in heads.users[filled].tolist()])
        exceeds = np.zeros(len(rows), dtype=bool)
        amounts = (np.ones(len(rows)), columns.cpus[rows], columns.mem[rows], columns.gpus[rows])
        for resource, column in enumerate(amounts):
            column[firsts] += used.reshape(-1, 4)[:, resource]
            exceeds |= segmented_cumsum(column, lengths) > quota[:, resource]
        within = counted.copy()
        within[counted] = ~exceeds
        return within

    def _within_rate(self, heads: ListHeads, accepted: Mask, tokens: Mapping[str, float]) -> Mask:
        owners = heads.owners[accepted]
        lengths = np.bincount(owners)
        position = np.arange(len(owners)) - (np.cumsum(lengths) - lengths)[owners]
        names = [self._index.name_of(number) for number in heads.users.tolist()]
        allowed = np.array([tokens.get(name, inf) for name in names])[owners]
        within = accepted.copy()
        within[accepted] = position + 1 <= allowed
        return within


class _UserQuotas:
    """Adds up each user's jobs against the user's quota, starting with the usage of the user's tasks."""

    __slots__ = ("_index", "_limits", "_meters")

    def __init__(self, index: QueueIndex, limits: UserLimits) -> None:
        self._index = index
        self._limits = limits
        self._meters: dict[str, _QuotaMeter] = {}

    def add(self, user: str, cpus: float, mem: float, gpus: float) -> bool:
        """Add a job of a user, and return whether the user's quota allows the sum."""
        meter = self._meters.get(user)
        if meter is None:
            quota = self._limits.quota(user)
            used = self._index.usage(user) if quota.limits_usage else Usage()
            meter = self._meters[user] = _QuotaMeter(quota, used)
        return meter.add(cpus, mem, gpus)


class _QuotaMeter:
    """Adds up jobs against a quota."""

    __slots__ = ("count", "cpus", "gpus", "limited", "mem", "quota")

    def __init__(self, quota: Quota, used: Usage) -> None:
        self.quota = quota
        self.limited = quota.limits_usage
        self.count, self.cpus, self.mem, self.gpus = used.count, used.cpus, used.mem_mb, used.gpus

    def add(self, cpus: float, mem: float, gpus: float) -> bool:
        """Add a job, and return whether the quota allows the sum."""
        if not self.limited:
            return True
        self.count += 1
        self.cpus += cpus
        self.mem += mem
        self.gpus += gpus
        quota = self.quota
        return (
            self.count <= quota.count
            and self.cpus <= quota.cpus
            and self.mem <= quota.mem_mb
            and self.gpus <= quota.gpus
        )
