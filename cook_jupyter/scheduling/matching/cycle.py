"""The match cycle of one pool as one decision: rank, filter, place.

Lives here: `decide_matches`, and the scaleback of a queue whose head fits nowhere.
Not here: committing and launching the matches (`service.cycles`).

Source: Cook's `scheduler.clj` (`handle-resource-offers!`, `match-offer-to-schedule`), as described in the
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
    with_runtime_limit,
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

_FEW: Final = 500  # too large jobs, up to which they are skipped one by one
_TASKS_PER_USER: Final = 3  # cost of one more user in ranking one by one, as a number of running tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleSettings(CycleLimits):
    """Settings of the match cycle of a pool.

    Attributes:
        rank, match: settings of ranking and matching.
        floor_warn, floor_reset: numbers of cycles with only one job considered after which a warning is due,
            and after which the number is reset to the maximum.
        lazy_up_to: number of running tasks up to which jobs are ranked one by one, as far as needed; beyond
            it they are ranked in columns. The decisions are the same.
    """

    rank: RankSettings = field(default_factory=RankSettings)
    match: MatchSettings = field(default_factory=MatchSettings)
    floor_warn: int = 10
    floor_reset: int = 1000
    lazy_up_to: int = 200


def decide_matches(  # noqa: PLR0913 everything that a decision reads, as in the rebalance cycle
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
    accepts: Callable[[JobId], bool] | None = None,
) -> Matching:
    """Decide which waiting jobs start where; neither the index nor the hosts change.

    Args:
        index: the pool's waiting jobs and running tasks.
        offers: offers of all clusters of the pool; a `Hosts` that is kept between cycles saves time.
        limits: shares and quotas of the pool's users.
        settings: settings of the pool.
        scaleback: scaleback returned by the pool's last cycle; None for its first.
        filters: quotas of pool and group, launch tokens, the launch filter, the maximum job size.
        placement_context: reservations, groups, attributes of hosts without an offer.
        indebted: clusters whose launch bucket is in debt; matches there are dropped.
        queue: the only jobs to match, in this order; None to rank and match all waiting jobs.
        accepts: predicate for the considerable jobs to match; None for all. The others count as considered.

    Returns:
        the matches to commit, the refusals with their reasons, and the scaleback for the next cycle. The
        cycle ends after the first refused job at whose turn no host has room for the smallest request: the
        least cpus and the least memory that any waiting job requests (`QueueIndex.min_request`). Later jobs
        could not be placed; they are neither matched nor refused nor considered.
    """
    hosts = offers if isinstance(offers, Hosts) else Hosts(offers)
    previous = scaleback or Scaleback(considerable=settings.max_considered)
    ranking = (
        _ranked(index, limits, settings, filters, previous.considerable)
        if queue is None
        else (RankedJob(row, 0.0, index.owner(row)) for row in map(index.row_of, queue))
    )
    ranked = ranked_within(ranking, index, filters)
    jobs = islice(considerable(ranked, index, limits, filters), previous.considerable)
    rows = (job.row for job in jobs if accepts is None or accepts(index.job_id(job.row)))
    head = list(islice(rows, 1))
    requests = _requests(index, chain(head, rows), settings.match.defaults if hosts.is_limited else None)
    placed, refusals, considered = match(
        requests,
        hosts,
        settings=settings.match,
        placement_context=with_groups(placement_context, index),
        min_request=lambda: index.min_request,
    )
    matches = tuple(match for match in placed if match.cluster not in indebted)
    head_matched = not matches or matches[0].job_id == index.job_id(head[0])
    launched = {match.job_id for match in matches}
    return Matching(
        matches=matches,
        refusals=tuple(refusals),
        considered=considered,
        head_matched=head_matched,
        scaleback=next_scaleback(previous, head_matched, settings),
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
    """Return the ranking, computed in the way that is faster for the pool."""
    has_pool_quota = filters.pool_quota.limits_usage or filters.group_quota.limits_usage
    count_too_large = None if has_pool_quota else _too_large_counter(index, filters)
    if index.running_count + _TASKS_PER_USER * index.user_count <= settings.lazy_up_to:
        users = index.by_name()
        if len(users) == 1 and not has_pool_quota and not limits.quota(users[0].name).limits_usage:
            return _rank_single_user(users[0], 0 if count_too_large is None else count_too_large(users[0]))
        if count_too_large is None or sum(map(count_too_large, users)) <= _FEW:
            return rank_lazily(index, limits, settings.rank)
    task_filter = None if has_pool_quota else QuotaColumnFilter(index, limits, filters)
    return iter_ranked_in_columns(
        index, limits, settings.rank, number=number, task_filter=task_filter, passed_over=count_too_large
    )


def _rank_single_user(tasks: UserTasks, skipped: int) -> Iterator[RankedJob]:
    """Return the ranking of a pool in which only one user has tasks; it needs no DRUs, and has none."""
    return (RankedJob(row, 0.0, tasks) for row in tasks.iter_waiting(skipped))


def _too_large_counter(index: QueueIndex, filters: QueueFilters) -> Callable[[UserTasks], int] | None:
    """Return a function that counts too large jobs at the front of a user's list; None if there are none."""
    if filters.max_cpus is None and filters.max_mem_mb is None:
        return None
    cpus = inf if filters.max_cpus is None else filters.max_cpus
    mem = inf if filters.max_mem_mb is None else filters.max_mem_mb
    max_request = index.max_request
    if max_request[0] <= cpus and max_request[1] <= mem:
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
    """Return the refusal that a match cycle would give a waiting job now; empty if a host takes the job.

    Raises:
        NotFound: the index does not have the job.
    """
    hosts = offers if isinstance(offers, Hosts) else Hosts(offers)
    request = request_of(index, index.row_of(job_id), settings.defaults if hosts.is_limited else None)
    return refusal_of(
        request, hosts, settings=settings, placement_context=with_groups(placement_context, index)
    )


def next_scaleback(previous: Scaleback, head_matched: bool, settings: CycleSettings) -> Scaleback:
    """Return the number of jobs that the next cycle considers.

    If the head of the queue was matched, that is the maximum; else 5 % fewer than before. After many cycles
    with one job, the number is reset to the maximum.
    """
    number = (
        settings.max_considered if head_matched else max(1, int(settings.scaleback * previous.considerable))
    )
    if number != 1:
        return Scaleback(considerable=number)
    cycles = previous.cycles_at_floor + 1
    if cycles >= settings.floor_reset:
        return Scaleback(considerable=settings.max_considered)
    return Scaleback(considerable=1, cycles_at_floor=cycles)


def request_of(index: QueueIndex, row: int, limited: PoolDefaults | None = None) -> TaskRequest:
    """Return the task request of the job in a row.

    Args:
        index: the index of the job's pool.
        row: the row.
        limited: defaults of the pool if any of its offers is limited (`Hosts.is_limited`); else None.
    """
    return next(_requests(index, (row,), limited))


def _requests(index: QueueIndex, rows: Iterable[int], limited: PoolDefaults | None) -> Iterator[TaskRequest]:
    """Yield the task requests of the jobs in some rows."""
    cpus, mem, gpus = index.amounts()
    job_constraints = index.job_constraints
    for row in rows:
        constraints_of_job = job_constraints.get(row, NO_JOB_CONSTRAINTS)
        if limited is not None:
            user, longest_ms = index.owner(row).name, index.run_time(row).longest_ms
            constraints_of_job = with_runtime_limit(constraints_of_job, user, longest_ms, limited)
        yield TaskRequest(
            index.job_id(row),
            cpus[row],
            mem[row],
            gpus[row],
            index.ports(row),
            index.constraint_class(index.class_number(row)),
            constraints_of_job,
        )


def with_groups(placement_context: PlacementContext, index: QueueIndex) -> PlacementContext:
    """Return the placement context with the hosts of groups' running tasks, by default those of the index."""
    if not placement_context.groups or placement_context.group_hosts is not None:
        return placement_context
    return replace(placement_context, group_hosts=index.group_hosts)
