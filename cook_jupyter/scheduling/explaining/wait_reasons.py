"""Why a job waits: all reasons that apply, in Cook's order.

Lives here: `wait_reasons` and its parts, which use the functions that make the decisions.
Not here: the texts (`scheduling.explaining.wait_texts`; those of the REST API are in `model.waiting`).

Source: Cook's `unscheduled.clj` and `fenzo_utils.clj`, as described in the fair-share specification, section
13. The last reasons are additions for cases that Cook does not explain: jobs that no host could ever take or
that exceed the maximum size, quotas of the pool, preemption of or for the job, and room that is kept for
heads of the queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.waiting import WaitKind, WaitReason
from cook_jupyter.scheduling.constraints.constraints import (
    Demand,
    PoolDefaults,
    attributes_equal,
    constraint_class_of,
    demands_in_pool,
)
from cook_jupyter.scheduling.explaining import wait_texts
from cook_jupyter.scheduling.hosts.host_health import Outage
from cook_jupyter.scheduling.limits.offensive import Excess, excess_of
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import NO_FILTERS, QueueFilters
from cook_jupyter.scheduling.ranking.ranking import iter_tasks

WAITING_LOOKED_AT = 100
AHEAD_LISTED = 10

_NEVER_CURED = (WaitKind.TOO_LARGE, WaitKind.UNSATISFIABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The position of a job among its user's tasks.

    Attributes:
        ahead: number of tasks before it.
        at_least: whether there may be more, because the search was limited.
        jobs: the first of the jobs before it.
    """

    ahead: int
    at_least: bool
    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitContext:
    """Facts besides the queue that explain why a job waits.

    Attributes:
        attempts: number of attempts that the job has used up.
        held: number of its user's jobs that the launch rate held back in the last cycle; None if not
            enforced.
        deferred: name and message of the launch filter that defers the job; None if none does.
        placement: refusal of the job at this moment (`matching.refusal_of`); None if not determined yet.
        capacity: offers of the pool's empty hosts.
        is_without_offers: whether no host of the pool takes jobs at this moment.
        reserved: host that is reserved for the job; None if none is.
        head: the job as head of the queue; None if it is not a head.
        held_back_by: head whose kept room the job could use; None if there is none.
        outages: hosts of the pool that are out of use.
        now_ms: the time.
        filters: quotas of the pool and its quota group, and the maximum job size.
        defaults: demands that the pool adds to those of its jobs.
    """

    attempts: int = 0
    held: int | None = None
    deferred: tuple[str, str] | None = None
    placement: Refusal | None = None
    capacity: Sequence[Offer] = ()
    is_without_offers: bool = False
    reserved: str | None = None
    head: HeadOfQueue | None = None
    held_back_by: HeadOfQueue | None = None
    outages: Sequence[Outage] = ()
    now_ms: int = 0
    filters: QueueFilters = NO_FILTERS
    defaults: PoolDefaults = field(default_factory=PoolDefaults)


def wait_reasons(
    job: Job, index: QueueIndex, limits: UserLimits, context: WaitContext
) -> tuple[WaitReason, ...]:
    """Return all reasons that apply to the job, Cook's first; only one if the job does not wait."""
    filters = context.filters
    too_large = excess_of(job.spec.resources, max_cpus=filters.max_cpus, max_mem_mb=filters.max_mem_mb)
    if job.state is JobState.RUNNING:
        return (wait_texts.running(),)
    if job.state is JobState.COMPLETED:
        return (wait_texts.completed(too_large if job.killed and not job.instances else {}),)
    user, job_usage = job.spec.user, _usage(job)
    total_usage = index.usage(user) + job_usage
    answers = [
        wait_texts.retries_exhausted(job.max_retries, context.attempts),
        wait_texts.exceeds_quota(exceeded(total_usage, limits.quota(user))),
        wait_texts.exceeds_share(
            exceeded(total_usage, limits.share(user)),
            at_head=context.head is not None and context.head.host is not None,
        ),
        wait_texts.rate_limited(context.held),
        wait_texts.deferred(context.deferred),
        _position(position(index, job.job_id)),
        wait_texts.too_large(too_large),
        unsatisfiable(job.spec, context.capacity, context.defaults),
        _placement(context.placement),
        _no_offers(context),
        wait_texts.out_of_use(context.outages, context.now_ms),
        wait_texts.exceeds_pool_quota(_over_pool_quota(job_usage, index, context.filters)),
        wait_texts.reserved(context.reserved),
        wait_texts.at_head(context.head, context.now_ms),
        wait_texts.held_back(context.held_back_by, context.now_ms),
        wait_texts.preempted(job.instances),
    ]
    return tuple(reason for reason in answers if reason is not None)


def sentences(answers: Sequence[WaitReason]) -> tuple[str, ...]:
    """Return the reasons as sentences for users, first those that waiting will not cure."""
    hopeless = [reason for reason in answers if reason.kind in _NEVER_CURED]
    others = [reason for reason in answers if reason.kind not in _NEVER_CURED]
    if hopeless:
        others = [
            reason
            for reason in others
            if reason.kind not in (WaitKind.NOT_PLACED, WaitKind.UNDER_INVESTIGATION)
        ]
    return tuple(reason.sentence for reason in (*hopeless, *others))


def exceeded(usage: Usage, limit: Quota | Share) -> Excess:
    """Return limit and usage of each amount above the limit, under Cook's names."""
    pairs = [
        ("count", usage.count, limit.count if isinstance(limit, Quota) else float("inf")),
        ("cpus", usage.cpus, limit.cpus),
        ("mem", usage.mem_mb, limit.mem_mb),
        ("gpus", usage.gpus, limit.gpus),
    ]
    return {
        name: {"limit": amount_limit, "usage": amount}
        for name, amount, amount_limit in pairs
        if amount > amount_limit
    }


def position(index: QueueIndex, job_id: JobId, max_waiting: int = WAITING_LOOKED_AT) -> Position:
    """Return the position of a job among its user's running tasks and first `max_waiting` waiting jobs."""
    tasks = index.tasks_of_job(job_id)
    if tasks is None:
        return Position(ahead=0, at_least=False, jobs=())
    job_row = index.row_of(job_id)
    rows_ahead: list[int] = []
    waiting = 0
    for row, waits in iter_tasks(index, tasks):
        waiting += waits
        if waiting > max_waiting:
            break
        if row == job_row:
            return Position(ahead=len(rows_ahead), at_least=False, jobs=_first(index, rows_ahead))
        rows_ahead.append(row)
    ahead = len(tasks.keys) + max_waiting  # including running tasks after the jobs that were searched
    return Position(ahead=ahead, at_least=True, jobs=_first(index, rows_ahead))


def _first(index: QueueIndex, rows_ahead: list[int]) -> tuple[JobId, ...]:
    return tuple(index.ids(rows_ahead[:AHEAD_LISTED]))


def host_counts(refusal: Refusal) -> tuple[tuple[str, int], ...]:
    """Return the obstacles with their numbers of hosts, resources first."""
    return (*refusal.resources.items(), *refusal.constraints.items())


def unsatisfiable(spec: JobSpec, capacity: Sequence[Offer], defaults: PoolDefaults) -> WaitReason | None:
    """Return why no host could ever take a job; None if one could, or if no host is known.

    Args:
        spec: specification of the job.
        capacity: offers of its pool's empty hosts.
        defaults: demands that the pool adds to those of its jobs.
    """
    job_demands = constraint_class_of(spec).attributes if spec.constraints else ()
    demands = demands_in_pool(job_demands, defaults)
    excess = _unsatisfiable_excess(spec, capacity, demands)
    if excess is None:
        return None
    constraints_met = any(attributes_equal(demands, offer.attributes) for offer in capacity)
    return wait_texts.unsatisfiable(excess, demands, constraints_met=constraints_met)


def _unsatisfiable_excess(
    spec: JobSpec, capacity: Sequence[Offer], demands: tuple[Demand, ...] = ()
) -> dict[str, dict[str, float]] | None:
    """Return the job's request and the largest amounts of hosts if no host could ever take it; else None.

    Args:
        spec: specification of the job.
        capacity: offers of the empty hosts; without any the result is None.
        demands: required attributes of the host.

    Returns:
        "asked" and "largest" for each resource that no suitable host has enough of; for all requested
        resources if different hosts have enough of each, but no single host of all.
    """
    if not capacity:
        return None
    requested = spec.resources
    suitable = [offer for offer in capacity if attributes_equal(demands, offer.attributes)]
    if any(requested.fits_in(offer.room + offer.running) for offer in suitable):
        return None
    totals = [offer.room + offer.running for offer in suitable]
    compared = {
        "cpus": (requested.cpus, max((total.cpus for total in totals), default=0.0)),
        "mem": (requested.mem_mb, max((total.mem_mb for total in totals), default=0.0)),
        "gpus": (requested.gpus, max((total.gpus for total in totals), default=0.0)),
    }
    too_much = {name: pair for name, pair in compared.items() if pair[0] > pair[1]}
    reported = too_much or {name: pair for name, pair in compared.items() if pair[0] > 0}
    return {
        name: {"asked": amounts_pair[0], "largest": amounts_pair[1]}
        for name, amounts_pair in reported.items()
    }


def _usage(job: Job) -> Usage:
    requested = job.spec.resources
    return Usage(count=1, cpus=requested.cpus, mem_mb=requested.mem_mb, gpus=requested.gpus)


def _position(job_position: Position) -> WaitReason | None:
    return wait_texts.queue_position(job_position.ahead, job_position.jobs, at_least=job_position.at_least)


def _placement(refusal: Refusal | None) -> WaitReason | None:
    if refusal is None:
        return wait_texts.under_investigation()
    return wait_texts.not_placed(refusal, host_counts(refusal))


def _no_offers(context: WaitContext) -> WaitReason | None:
    """Return that no host takes jobs now, unless the hosts that are out of use are the explanation."""
    if not context.is_without_offers or context.outages:
        return None
    return wait_texts.no_offers(len(context.capacity))


def _over_pool_quota(job_usage: Usage, index: QueueIndex, filters: QueueFilters) -> Excess:
    """Return by what the job would exceed the quota of the pool, or else that of its quota group."""
    excess: Excess = {}
    if filters.pool_quota.limits_usage:
        excess = exceeded(index.pool_usage() + job_usage, filters.pool_quota)
    if not excess and filters.group_quota.limits_usage:
        excess = exceeded(filters.group_usage + job_usage, filters.group_quota)
    return excess
