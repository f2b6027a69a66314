"""Considerable jobs: which of the ranked jobs may be matched now.

Lives here: quota filters of pool and user, the launch rate, jobs too large for the pool, in Cook's order.
Not here: the ranking they filter (`scheduling.ranking`), hosts (`scheduling.matching`).

A quota filter adds up *every* job, also those it refuses. One job that does not fit therefore holds back
every later one of that user (or pool), smaller ones too: what passes is the head of the list.

Source: Cook's `scheduler.clj` (`pending-jobs->considerable-jobs`) and `tools.clj`, as told in the fair-share
specification, sections 3 and 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.merging import sums_along
from cook_jupyter.scheduling.ranking import Heads, Mask, Ranked

UNLIMITED_QUOTA = Quota()


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


def quota_of(amounts: Mapping[str, float]) -> Quota:
    """Make a quota of Cook's map of count, cpus, mem and gpus: what is not named is zero, as in Cook."""
    return Quota(
        count=int(amounts.get("count", 0)),
        cpus=amounts.get("cpus", 0.0),
        mem_mb=amounts.get("mem", 0.0),
        gpus=amounts.get("gpus", 0.0),
    )


def usage_of(amounts: Mapping[str, float]) -> Usage:
    """Make a usage of Cook's map of count, cpus, mem and gpus; what is not named is not used."""
    return Usage(
        count=int(amounts.get("count", 0)),
        cpus=amounts.get("cpus", 0.0),
        mem_mb=amounts.get("mem", 0.0),
        gpus=amounts.get("gpus", 0.0),
    )


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


def within_quota(jobs: Iterable[Usage], used: Usage, quota: Quota) -> Iterator[int]:
    """Yield the positions of the jobs that keep usage within the quota; each job counts, kept or not."""
    for position, job in enumerate(jobs):
        used += job
        if quota.allows(used):
            yield position


def ranked_within(
    queue: Iterable[Ranked], index: QueueIndex, filters: QueueFilters = NO_FILTERS
) -> Iterator[Ranked]:
    """Return what the quotas of pool and group leave of a ranking, without offensive jobs: Cook's queue."""
    nobody_is_left_out = (
        filters.max_cpus is None
        and filters.max_mem_mb is None
        and not filters.pool_quota.limits_usage
        and not filters.group_quota.limits_usage
    )
    return iter(queue) if nobody_is_left_out else _ranked_within(queue, index, filters)


def _ranked_within(queue: Iterable[Ranked], index: QueueIndex, filters: QueueFilters) -> Iterator[Ranked]:
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


class Held:
    """How many jobs the launch rate held back, per user; filled while `considerable` is consumed."""

    __slots__ = ("jobs",)

    def __init__(self) -> None:
        self.jobs: dict[str, int] = {}


def considerable(
    queue: Iterable[Ranked],
    index: QueueIndex,
    limits: UserLimits,
    filters: QueueFilters = NO_FILTERS,
    held: Held | None = None,
) -> Iterator[Ranked]:
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
    return iter(queue) if nobody_is_left_out else _considerable(queue, index, limits, filters, held)


def _considerable(
    queue: Iterable[Ranked],
    index: QueueIndex,
    limits: UserLimits,
    filters: QueueFilters,
    held: Held | None,
) -> Iterator[Ranked]:
    meters: dict[str, _Meter] = {}
    pool = _Meter(filters.pool_quota, index.pool_usage() if filters.pool_quota.limits_usage else Usage())
    tokens = None if filters.tokens is None else dict(filters.tokens)
    all_cpus, all_mem, all_gpus = index.amounts()
    for ranked in queue:
        name = ranked.tasks.name
        row = ranked.row
        cpus, mem, gpus = all_cpus[row], all_mem[row], all_gpus[row]
        meter = meters.get(name)
        if meter is None:
            quota = limits.quota(name)
            meter = meters[name] = _Meter(quota, index.usage(name) if quota.limits_usage else Usage())
        if not meter.takes(cpus, mem, gpus):
            continue
        if tokens is not None:
            left = tokens.get(name, inf)
            tokens[name] = left - 1
            if left < 1:
                if held is not None:
                    held.jobs[name] = held.jobs.get(name, 0) + 1
                continue
        if not pool.takes(cpus, mem, gpus):
            return
        if filters.accepts is not None and not filters.accepts(index.ids((row,))[0]):
            continue
        yield ranked


class Allowance:
    """Which jobs users' quotas and the launch rate leave, in columns: a `ranking.Wanted`.

    It may be used only where no quota of pool or group is in force, for those count every ranked job.
    """

    def __init__(self, index: QueueIndex, limits: UserLimits, filters: QueueFilters, held: Held) -> None:
        self._index = index
        self._limits = index.limit_columns(limits)
        self._filters = filters
        self._held = held

    def __call__(self, heads: Heads) -> tuple[Mask, Mask]:
        """See `ranking.Wanted`."""
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

    def _within_quotas(self, heads: Heads, counted: Mask) -> Mask:
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
            over |= sums_along(asked, lengths) > quota[:, number]
        within = counted.copy()
        within[counted] = ~over
        return within

    def _within_rate(self, heads: Heads, left: Mask, tokens: Mapping[str, float]) -> Mask:
        owners = heads.owners[left]
        lengths = np.bincount(owners, minlength=len(heads.lengths))
        place = np.arange(len(owners)) - (np.cumsum(lengths) - lengths)[owners]
        names = [self._index.name_of(number) for number in heads.users.tolist()]
        allowed = np.array([tokens.get(name, inf) for name in names])[owners]
        passes = place + 1 <= allowed
        held = np.bincount(owners[~passes], minlength=len(names)).tolist()
        self._held.jobs = {name: number for name, number in zip(names, held, strict=True) if number}
        within = left.copy()
        within[left] = passes
        return within


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
