"""The match cycle of one pool as one decision: rank, filter, place.

Lives here: `decide_matches`, the way in for the service, and how a queue whose head fits nowhere is scaled
back.
Not here: committing and launching what it decides (`service.cycles.match_cycle`).

Source: Cook's `scheduler.clj` (`handle-resource-offers!`, `match-offer-to-schedule`), as told in the
fair-share specification, section 5.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import inf
from typing import Final

from cook_jupyter.model.decisions import Matching, Refusal, Scaleback
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    PoolDefaults,
    particulars_for_limited,
)
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.limits.cycle_limits import CycleLimits
from cook_jupyter.scheduling.matching.matching import MATCH_DEFAULTS, MatchSettings, match, refusal_of
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.queue.user_tasks import UserTasks
from cook_jupyter.scheduling.ranking.considerable import (
    NO_FILTERS,
    QueueFilters,
    QuotaColumnFilter,
    considerable,
    ranked_within,
    rate_limited,
)
from cook_jupyter.scheduling.ranking.ranking import (
    RankedJob,
    RankSettings,
    iter_ranked_in_columns,
    rank_lazily,
)

_FEW: Final = 500  # jobs that ask for too much, up to which they are passed over one by one
_A_USER: Final = 3  # what one more user costs when jobs are ranked one by one, in running tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleSettings(CycleLimits):
    """How a pool decides.

    Attributes:
        rank, match: how it ranks and matches.
        floor_warn, floor_reset: after how many cycles with only one job considered a warning is due, and the
            number goes back to the maximum.
        lazy_up_to: up to how many running tasks jobs are ranked one by one, as far as there is room for them;
            past that in columns. The decisions are the same.
    """

    rank: RankSettings = field(default_factory=RankSettings)
    match: MatchSettings = field(default_factory=MatchSettings)
    floor_warn: int = 10
    floor_reset: int = 1000
    lazy_up_to: int = 200


def decide_matches(  # noqa: PLR0913 all that bears on a decision, as in the rebalance cycle
    index: QueueIndex,
    offers: Hosts | Sequence[Offer],
    limits: UserLimits,
    *,
    settings: CycleSettings = CycleSettings(),
    scaleback: Scaleback | None = None,
    filters: QueueFilters = NO_FILTERS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
    indebted: frozenset[str] = frozenset(),
    queue: Iterable[JobId] | None = None,
    takes: Callable[[JobId], bool] | None = None,
) -> Matching:
    """Decide which waiting jobs start where. Changes nothing: not the index, not the hosts.

    Args:
        index: the pool's waiting jobs and running tasks.
        offers: the hosts with room, of all clusters of the pool; a `Hosts` that is kept saves time.
        limits: shares and quotas of the pool's users.
        settings: how the pool decides.
        scaleback: what the pool's last cycle gave back; None for its first.
        filters: quotas of pool and group, launch tokens, the launch filter, the largest job allowed.
        placement_context: reservations, groups, attributes of hosts without offer.
        indebted: clusters whose launch bucket is in debt; their matches are dropped.
        queue: jobs to match in this order, ahead of all others; None ranks all that wait.
        takes: which of the considerable jobs to match; None for all. The others count as considered.

    Returns:
        the matches to commit, the refusals with their reasons, and what the next cycle needs. The cycle ends
        behind the first refused job at whose turn no host has room for the smallest request: the least cpus
        and the least memory that any waiting job asks for (`QueueIndex.least`). Jobs behind it could not be
        placed; they are neither matched nor refused nor considered.
    """
    hosts = offers if isinstance(offers, Hosts) else Hosts(offers)
    before = scaleback or Scaleback(considerable=settings.max_considered)
    ranking = (
        _ranked(index, limits, settings, filters, before.considerable)
        if queue is None
        else (RankedJob(row, 0.0, index.owner(row)) for row in map(index.row_of, queue))
    )
    ranked = ranked_within(ranking, index, filters)
    jobs = islice(considerable(ranked, index, limits, filters), before.considerable)
    rows = (job.row for job in jobs if takes is None or takes(index.job_id(job.row)))
    head = list(islice(rows, 1))
    requests = _asks(index, chain(head, rows), settings.match.defaults if hosts.is_limited else None)
    placed, refusals, considered = match(
        requests,
        hosts,
        settings=settings.match,
        placement_context=with_groups(placement_context, index),
        least=lambda: index.least,
    )
    matches = tuple(match for match in placed if match.cluster not in indebted)
    head_matched = not matches or matches[0].job_id == index.job_id(head[0])
    launched = {match.job_id for match in matches}
    return Matching(
        matches=matches,
        refusals=tuple(refusals),
        considered=considered,
        head_matched=head_matched,
        scaleback=scaled_back(before, head_matched, settings),
        rate_limited=rate_limited(index, limits, settings.rank, filters),
        reservations={
            job: host for job, host in placement_context.reservations.items() if job not in launched
        },
    )


def _ranked(
    index: QueueIndex,
    limits: UserLimits,
    settings: CycleSettings,
    filters: QueueFilters,
    number: int,
) -> Iterator[RankedJob]:
    """The ranking, in the way that is faster for such a pool."""
    pooled = filters.pool_quota.limits_usage or filters.group_quota.limits_usage
    large = None if pooled else _too_large(index, filters)
    if index.running_count + _A_USER * index.user_count <= settings.lazy_up_to:
        users = index.by_name()
        if len(users) == 1 and not pooled and not limits.quota(users[0].name).limits_usage:
            return _alone(users[0], 0 if large is None else large(users[0]))
        if large is None or sum(map(large, users)) <= _FEW:
            return rank_lazily(index, limits, settings.rank)
    wanted = None if pooled else QuotaColumnFilter(index, limits, filters)
    return iter_ranked_in_columns(
        index, limits, settings.rank, number=number, wanted=wanted, passed_over=large
    )


def _alone(tasks: UserTasks, first: int) -> Iterator[RankedJob]:
    """The ranking of a pool where only one user has tasks: no score is needed for it, and none is told."""
    return (RankedJob(row, 0.0, tasks) for row in tasks.iter_waiting(first))


def _too_large(index: QueueIndex, filters: QueueFilters) -> Callable[[UserTasks], int] | None:
    """Tell how many of the user's first waiting jobs ask for more than any may; None if nobody's do."""
    if filters.max_cpus is None and filters.max_mem_mb is None:
        return None
    cpus = inf if filters.max_cpus is None else filters.max_cpus
    mem = inf if filters.max_mem_mb is None else filters.max_mem_mb
    most = index.most
    if most[0] <= cpus and most[1] <= mem:
        return None
    columns = index.columns
    return lambda tasks: tasks.too_large(cpus, mem, columns.cpus, columns.mem)


def refusal_now(
    index: QueueIndex,
    job_id: JobId,
    offers: Hosts | Sequence[Offer],
    *,
    settings: MatchSettings = MATCH_DEFAULTS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
) -> Refusal:
    """Say why no host takes a waiting job at this moment, as a match cycle would; empty if one does.

    Raises:
        NotFound: the index does not have the job.
    """
    hosts = offers if isinstance(offers, Hosts) else Hosts(offers)
    request = request_of(index, index.row_of(job_id), settings.defaults if hosts.is_limited else None)
    return refusal_of(
        request, hosts, settings=settings, placement_context=with_groups(placement_context, index)
    )


def scaled_back(before: Scaleback, head_matched: bool, settings: CycleSettings) -> Scaleback:
    """Return how many jobs the next cycle considers.

    A matched head brings the maximum back; a missed one takes 5 % off. Held down at one job for long, the
    number goes back to the maximum all the same.
    """
    number = (
        settings.max_considered if head_matched else max(1, int(settings.scaleback * before.considerable))
    )
    if number != 1:
        return Scaleback(considerable=number)
    cycles = before.cycles_at_floor + 1
    if cycles >= settings.floor_reset:
        return Scaleback(considerable=settings.max_considered)
    return Scaleback(considerable=1, cycles_at_floor=cycles)


def request_of(index: QueueIndex, row: int, limited: PoolDefaults | None = None) -> TaskRequest:
    """Return what the job of a row asks of a host.

    Args:
        index: the index of the job's pool.
        row: the row.
        limited: defaults of the pool if some of its offers are limited (`Hosts.is_limited`); else None.
    """
    return next(_asks(index, (row,), limited))


def _asks(index: QueueIndex, rows: Iterable[int], limited: PoolDefaults | None) -> Iterator[TaskRequest]:
    """What the jobs of some rows ask of hosts."""
    cpus, mem, gpus = index.amounts()
    job_constraints = index.job_constraints
    for row in rows:
        own = job_constraints.get(row, NO_JOB_CONSTRAINTS)
        if limited is not None:
            user, longest_ms = index.owner(row).name, index.run_time(row).longest_ms
            own = particulars_for_limited(own, user, longest_ms, limited)
        yield TaskRequest(
            index.job_id(row),
            cpus[row],
            mem[row],
            gpus[row],
            index.ports(row),
            index.constraint_class(index.class_number(row)),
            own,
        )


def with_groups(placement_context: PlacementContext, index: QueueIndex) -> PlacementContext:
    """Return the surroundings with the hosts of groups' running tasks; as the index knows them, if unset."""
    if not placement_context.groups or placement_context.group_hosts is not None:
        return placement_context
    return replace(placement_context, group_hosts=index.group_hosts)
