"""Considerable jobs: which of the ranked jobs may be matched now.

Lives here: quota filters of pool and user, the launch rate, jobs too large for the pool, in Cook's order.
Not here: the ranking they filter (`scheduling.ranking.ranking`), hosts (`scheduling.matching.matching`).

A quota filter adds up *every* job, also those it refuses. One job that does not fit therefore holds back
every later one of that user (or pool), smaller ones too: what passes is the head of the list.

Source: Cook's `scheduler.clj` (`pending-jobs->considerable-jobs`) and `tools.clj`, as told in the fair-share
specification, sections 3 and 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, inf
from typing import Final

import numpy as np

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
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
_ROUNDED: Final = 1 + 1e-9  # more than sums can differ by when they are added up in another order
_FIRST_READ: Final = 256  # jobs that are read first to count those the launch rate holds back


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilters:
    """What keeps ranked jobs from being matched, besides their user's quota.

    Attributes:
        pool_quota: for all users of the pool together.
        group_quota, group_usage: for the pools of a quota group together, and what their tasks hold now.
        tokens: how many jobs of a user may start now; who is not named is not limited. None: no launch rate
            is enforced.
        accepts: says whether a job may start now (Cook's launch filter); None takes all.
        max_cpus, max_mem_mb: a job that asks for more is left out (Cook calls it offensive).
    """

    pool_quota: Quota = UNLIMITED_QUOTA
    group_quota: Quota = UNLIMITED_QUOTA
    group_usage: Usage = field(default_factory=Usage)
    tokens: Mapping[str, float] | None = None
    accepts: Callable[[JobId], bool] | None = None
    max_cpus: float | None = None
    max_mem_mb: float | None = None


NO_FILTERS = QueueFilters()


def group_usages(groups: Mapping[str, str], by_pool: Mapping[str, Usage]) -> dict[str, Usage]:
    """Add up what pools use by their quota group; pools without one are left out.

    Args:
        groups: pool -> group.
        by_pool: pool -> what its tasks hold.
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
    """Return what the quotas of pool and group leave of a ranking, without offensive jobs: Cook's queue."""
    nobody_is_left_out = (
        filters.max_cpus is None
        and filters.max_mem_mb is None
        and not filters.pool_quota.limits_usage
        and not filters.group_quota.limits_usage
    )
    return iter(queue) if nobody_is_left_out else _ranked_within(queue, index, filters)


def _ranked_within(
    queue: Iterable[RankedJob], index: QueueIndex, filters: QueueFilters
) -> Iterator[RankedJob]:
    pool = _Meter(filters.pool_quota, index.pool_usage() if filters.pool_quota.limits_usage else Usage())
    group = _Meter(filters.group_quota, filters.group_usage)
    largest = (
        inf if filters.max_cpus is None else filters.max_cpus,
        inf if filters.max_mem_mb is None else filters.max_mem_mb,
    )
    all_cpus, all_mem, all_gpus = index.amounts()
    for ranked in queue:
        row = ranked.row
        cpus, mem, gpus = all_cpus[row], all_mem[row], all_gpus[row]
        if not pool.takes(cpus, mem, gpus):
            return
        if not group.takes(cpus, mem, gpus):
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

    First each user's quota, then the launch rate, then the pool's quota (so that a user over quota does
    not eat the pool's room), then the launch filter.
    """
    nobody_is_left_out = (
        filters.tokens is None
        and filters.accepts is None
        and not index.limit_columns(limits).anyone_limited
        and not filters.pool_quota.limits_usage
    )
    return iter(queue) if nobody_is_left_out else _considerable(queue, index, limits, filters)


def _considerable(
    queue: Iterable[RankedJob],
    index: QueueIndex,
    limits: UserLimits,
    filters: QueueFilters,
) -> Iterator[RankedJob]:
    within_user_quota = _UserQuotas(index, limits).take
    pool = _Meter(filters.pool_quota, index.pool_usage() if filters.pool_quota.limits_usage else Usage())
    tokens = None if filters.tokens is None else dict(filters.tokens)
    all_cpus, all_mem, all_gpus = index.amounts()
    for ranked in queue:
        name = ranked.tasks.name
        row = ranked.row
        cpus, mem, gpus = all_cpus[row], all_mem[row], all_gpus[row]
        if not within_user_quota(name, cpus, mem, gpus):
            continue
        if tokens is not None:
            left = tokens.get(name, inf)
            tokens[name] = left - 1
            if left < 1:
                continue
        if not pool.takes(cpus, mem, gpus):
            return
        if filters.accepts is not None and not filters.accepts(index.ids((row,))[0]):
            continue
        yield ranked


def may_start(index: QueueIndex, job_id: JobId, limits: UserLimits, filters: QueueFilters) -> bool:
    """Return whether a waiting job is considerable by itself, whatever waits before it.

    Raises:
        NotFound: the index does not have the job.
    """
    asked = index.asked(job_id)
    user = index.owner(index.row_of(job_id)).name
    return (
        (filters.max_cpus is None or asked.cpus <= filters.max_cpus)
        and (filters.max_mem_mb is None or asked.mem_mb <= filters.max_mem_mb)
        and limits.quota(user).allows(index.usage(user) + asked)
        and (filters.tokens is None or filters.tokens.get(user, inf) >= 1)
        and (not filters.pool_quota.limits_usage or filters.pool_quota.allows(index.pool_usage() + asked))
        and filters.group_quota.allows(filters.group_usage + asked)
        and (filters.accepts is None or filters.accepts(job_id))
    )


def rate_limited(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
    filters: QueueFilters = NO_FILTERS,
) -> dict[str, int]:
    """Count, per user, the queued jobs that their user's quota lets through and the launch rate holds back.

    All of Cook's queue counts, however many of its jobs a match cycle looks at. Users without such jobs are
    left out.
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
    if _pool_may_end_the_queue(index, filters):
        counts = _count_within_all_quotas(index, limits, settings, filters)
    else:
        counts = _count_within_user_quotas(list(whole_tokens), index, limits, settings, filters)
    return {
        tasks.name: counts[tasks.name] - number
        for tasks, number in whole_tokens.items()
        if counts.get(tasks.name, 0) > number
    }


def _pool_may_end_the_queue(index: QueueIndex, filters: QueueFilters) -> bool:
    """Tell whether all tasks of the pool together might be above the quota of the pool or of its group."""
    for quota, used in (
        (filters.pool_quota, index.pool_usage()),
        (filters.group_quota, filters.group_usage),
    ):
        if quota.limits_usage:
            total = used + index.waiting_usage()
            most = Usage(
                count=total.count,
                cpus=total.cpus * _ROUNDED,
                mem_mb=total.mem_mb * _ROUNDED,
                gpus=total.gpus * _ROUNDED,
            )
            if not quota.allows(most):
                return True
    return False


def _count_within_all_quotas(
    index: QueueIndex, limits: UserLimits, settings: RankSettings, filters: QueueFilters
) -> dict[str, int]:
    """Count the queued jobs of each user within the user's quota, where pool or group have a quota too.

    Their quotas end the queue, so it is ranked and read up to there.
    """
    counts: dict[str, int] = {}
    within_user_quota = _UserQuotas(index, limits).take
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
    """Count the queued jobs of some users within the user's quota, where neither pool nor group matters.

    No other user's jobs matter then, so nothing is ranked: each user's list is read until the quota is full.
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
        left, finished = allowance(heads)
        more = (depths < counts) & ~finished & (heads.waiting_counts >= depths)
        if not more.any():
            break
        depths = np.where(more, np.minimum(counts, depths * 4), depths)
    numbers = np.bincount(heads.owners[left], minlength=len(users)).tolist()
    return within | {tasks.name: number for tasks, number in zip(users, numbers, strict=True)}


class QuotaColumnFilter:
    """Which jobs users' quotas and the launch rate leave, in columns: a `ranking.TaskFilter`.

    It may be used only where no quota of pool or group is in force, for those count every ranked job.
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
        left = counted.copy()
        if self._limits.limited[heads.users].any():
            left &= self._within_quotas(heads, counted)
        if self._filters.tokens is not None:
            left = self._within_rate(heads, left, self._filters.tokens)
        finished = np.zeros(len(heads.lengths), dtype=bool)
        refused = np.flatnonzero(counted & ~left)
        finished[heads.owners[refused]] = True  # whoever is refused one job is refused all later ones
        return left, finished

    def _within_quotas(self, heads: ListHeads, counted: Mask) -> Mask:
        columns, index = self._index.columns, self._index
        rows, owners = heads.rows[counted], heads.owners[counted]
        lengths = np.bincount(owners, minlength=len(heads.lengths))
        quota = self._limits.quota[heads.users][owners]
        filled = lengths > 0
        first = (np.cumsum(lengths) - lengths)[filled]
        used = np.array([index.usage_sums(number) for number in heads.users[filled].tolist()])
        over = np.zeros(len(rows), dtype=bool)
        amounts = (np.ones(len(rows)), columns.cpus[rows], columns.mem[rows], columns.gpus[rows])
        for number, asked in enumerate(amounts):
            asked[first] += used.reshape(-1, 4)[:, number]
            over |= segmented_cumsum(asked, lengths) > quota[:, number]
        within = counted.copy()
        within[counted] = ~over
        return within

    def _within_rate(self, heads: ListHeads, left: Mask, tokens: Mapping[str, float]) -> Mask:
        owners = heads.owners[left]
        lengths = np.bincount(owners, minlength=len(heads.lengths))
        place = np.arange(len(owners)) - (np.cumsum(lengths) - lengths)[owners]
        names = [self._index.name_of(number) for number in heads.users.tolist()]
        allowed = np.array([tokens.get(name, inf) for name in names])[owners]
        within = left.copy()
        within[left] = place + 1 <= allowed
        return within


class _UserQuotas:
    """Adds up each user's jobs against the user's quota, beginning with what the user's tasks hold."""

    __slots__ = ("_index", "_limits", "_meters")

    def __init__(self, index: QueueIndex, limits: UserLimits) -> None:
        self._index = index
        self._limits = limits
        self._meters: dict[str, _Meter] = {}

    def take(self, user: str, cpus: float, mem: float, gpus: float) -> bool:
        """Count a job of the user in, and tell whether the user's quota allows the sum."""
        meter = self._meters.get(user)
        if meter is None:
            quota = self._limits.quota(user)
            used = self._index.usage(user) if quota.limits_usage else Usage()
            meter = self._meters[user] = _Meter(quota, used)
        return meter.takes(cpus, mem, gpus)


class _Meter:
    """Adds up jobs against a quota."""

    __slots__ = ("count", "cpus", "gpus", "limited", "mem", "quota")

    def __init__(self, quota: Quota, used: Usage) -> None:
        self.quota = quota
        self.limited = quota.limits_usage
        self.count, self.cpus, self.mem, self.gpus = used.count, used.cpus, used.mem_mb, used.gpus

    def takes(self, cpus: float, mem: float, gpus: float) -> bool:
        """Count a job in, and tell whether the quota allows the sum."""
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
