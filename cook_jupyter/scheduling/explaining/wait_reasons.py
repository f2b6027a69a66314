"""Why a job still waits: all answers that hold, in Cook's order.

Lives here: `reasons` and the questions it is made of. Answers come from the same functions that decide.
Not here: how each is put (`scheduling.explaining.wait_texts`), the texts' home on the wire (`model.waiting`
has them, `api` sends them).

Source: Cook's `unscheduled.clj` and `fenzo_utils.clj`, as told in the fair-share specification, section 13.
Ours are the last ones, where Cook lets a job wait without a word: what no host could ever take and no job may
ask for, quotas of the pool, what preemption did to the job or does for it, and what is kept for the head of
the queue.
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
from cook_jupyter.scheduling.ranking.ranking import in_order

WAITING_LOOKED_AT = 100
AHEAD_LISTED = 10

_HOPELESS = (WaitKind.TOO_LARGE, WaitKind.UNSATISFIABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a job stands among its user's own tasks.

    Attributes:
        ahead: how many come before it.
        at_least: it was not found among those looked at, so there are more.
        jobs: the first of those before it.
    """

    ahead: int
    at_least: bool
    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitContext:
    """What bears on one job's wait besides the queue.

    Attributes:
        attempts: how many the job has used up.
        held: jobs of its user that the launch rate held back in the last cycle; None: not enforced.
        deferred: name and message of the launch filter that defers the job, if one does.
        placement: why no host takes it now (`matching.refusal_of`); None: nobody has looked yet.
        capacity: every host of the pool as if it were empty.
        reserved: the host that is kept for the job, if one is.
        head: the job at the head of the queue, if it is.
        held_back_by: a head for which room is kept that the job could use.
        outages: hosts of the pool that are out of use.
        now_ms: the time.
        filters: quotas of the pool and its group, and the largest job allowed.
        defaults: what the pool adds to its jobs' demands.
    """

    attempts: int = 0
    held: int | None = None
    deferred: tuple[str, str] | None = None
    placement: Refusal | None = None
    capacity: Sequence[Offer] = ()
    reserved: str | None = None
    head: HeadOfQueue | None = None
    held_back_by: HeadOfQueue | None = None
    outages: Sequence[Outage] = ()
    now_ms: int = 0
    filters: QueueFilters = NO_FILTERS
    defaults: PoolDefaults = field(default_factory=PoolDefaults)


def reasons(job: Job, index: QueueIndex, limits: UserLimits, facts: WaitContext) -> tuple[WaitReason, ...]:
    """Return all answers that hold for the job, in Cook's order, then ours; one only if it does not wait."""
    most = facts.filters
    too_large = excess_of(job.spec.resources, max_cpus=most.max_cpus, max_mem_mb=most.max_mem_mb)
    if job.state is JobState.RUNNING:
        return (wait_texts.running(),)
    if job.state is JobState.COMPLETED:
        return (wait_texts.completed(too_large if job.killed and not job.instances else {}),)
    user, alone = job.spec.user, _usage(job)
    together = index.usage(user) + alone
    found = [
        wait_texts.retries_exhausted(job.max_retries, facts.attempts),
        wait_texts.exceeds_quota(exceeded(together, limits.quota(user))),
        wait_texts.exceeds_share(
            exceeded(together, limits.share(user)),
            at_head=facts.head is not None and facts.head.host is not None,
        ),
        wait_texts.rate_limited(facts.held),
        wait_texts.deferred(facts.deferred),
        _position(position(index, job.job_id)),
        wait_texts.too_large(too_large),
        unsatisfiable(job.spec, facts.capacity, facts.defaults),
        _placement(facts.placement),
        wait_texts.out_of_use(facts.outages, facts.now_ms),
        wait_texts.exceeds_pool_quota(_over_pool_quota(alone, index, facts.filters)),
        wait_texts.reserved(facts.reserved),
        wait_texts.at_head(facts.head, facts.now_ms),
        wait_texts.held_back(facts.held_back_by, facts.now_ms),
        wait_texts.preempted(job.instances),
    ]
    return tuple(reason for reason in found if reason is not None)


def sentences(found: Sequence[WaitReason]) -> tuple[str, ...]:
    """Return the answers for people, those that waiting will not cure first."""
    hopeless = [reason for reason in found if reason.kind in _HOPELESS]
    rest = [reason for reason in found if reason.kind not in _HOPELESS]
    if hopeless:
        rest = [
            reason
            for reason in rest
            if reason.kind not in (WaitKind.NOT_PLACED, WaitKind.UNDER_INVESTIGATION)
        ]
    return tuple(reason.sentence for reason in (*hopeless, *rest))


def exceeded(usage: Usage, limit: Quota | Share) -> Excess:
    """Return, for each amount of `usage` above the limit, the limit and the usage, under Cook's names."""
    pairs = [
        ("count", usage.count, limit.count if isinstance(limit, Quota) else float("inf")),
        ("cpus", usage.cpus, limit.cpus),
        ("mem", usage.mem_mb, limit.mem_mb),
        ("gpus", usage.gpus, limit.gpus),
    ]
    return {name: {"limit": most, "usage": used} for name, used, most in pairs if used > most}


def position(index: QueueIndex, job_id: JobId, looked_at: int = WAITING_LOOKED_AT) -> Position:
    """Return where the job stands among its user's running tasks and first `looked_at` waiting jobs."""
    tasks = index.tasks_of_job(job_id)
    if tasks is None:
        return Position(ahead=0, at_least=False, jobs=())
    wanted = index.row_of(job_id)
    before: list[int] = []
    waiting = 0
    for row, waits in in_order(index, tasks):
        waiting += waits
        if waiting > looked_at:
            break
        if row == wanted:
            return Position(ahead=len(before), at_least=False, jobs=_first(index, before))
        before.append(row)
    ahead = len(tasks.keys) + looked_at  # also running tasks that come after all that were looked at
    return Position(ahead=ahead, at_least=True, jobs=_first(index, before))


def _first(index: QueueIndex, before: list[int]) -> tuple[JobId, ...]:
    return tuple(index.ids(before[:AHEAD_LISTED]))


def host_counts(refusal: Refusal) -> tuple[tuple[str, int], ...]:
    """Return what stood in the way on how many hosts, resources first."""
    return (*refusal.resources.items(), *refusal.constraints.items())


def unsatisfiable(spec: JobSpec, capacity: Sequence[Offer], defaults: PoolDefaults) -> WaitReason | None:
    """Return why no host could ever take a job; None if one could, or if no host is known.

    Args:
        spec: the job.
        capacity: every host of its pool as if it were empty.
        defaults: what the pool adds to its jobs' demands.
    """
    own = constraint_class_of(spec).attributes if spec.constraints else ()
    demands = demands_in_pool(own, defaults)
    never = _never_fits(spec, capacity, demands)
    if never is None:
        return None
    met = any(attributes_equal(demands, offer.attributes) for offer in capacity)
    return wait_texts.unsatisfiable(never, demands, met=met)


def _never_fits(
    spec: JobSpec, capacity: Sequence[Offer], demands: tuple[Demand, ...] = ()
) -> dict[str, dict[str, float]] | None:
    """Return what the job asks for and the most a host has, if no host could ever take it; else None.

    Args:
        spec: the job.
        capacity: every host as if it were empty. Without any, nothing can be said: None.
        demands: what is demanded of its host besides room.

    Returns:
        asked and largest, under each resource that no suitable host has enough of; if each is had by some
        host, but by no single one, then under all resources.
    """
    if not capacity:
        return None
    asked = spec.resources
    suitable = [offer for offer in capacity if attributes_equal(demands, offer.attributes)]
    if any(asked.fits_in(offer.room + offer.running) for offer in suitable):
        return None
    totals = [offer.room + offer.running for offer in suitable]
    compared = {
        "cpus": (asked.cpus, max((total.cpus for total in totals), default=0.0)),
        "mem": (asked.mem_mb, max((total.mem_mb for total in totals), default=0.0)),
        "gpus": (asked.gpus, max((total.gpus for total in totals), default=0.0)),
    }
    too_much = {name: pair for name, pair in compared.items() if pair[0] > pair[1]}
    told = too_much or {name: pair for name, pair in compared.items() if pair[0] > 0}
    return {name: {"asked": most[0], "largest": most[1]} for name, most in told.items()}


def _usage(job: Job) -> Usage:
    asked = job.spec.resources
    return Usage(count=1, cpus=asked.cpus, mem_mb=asked.mem_mb, gpus=asked.gpus)


def _position(stands: Position) -> WaitReason | None:
    return wait_texts.queue_position(stands.ahead, stands.jobs, at_least=stands.at_least)


def _placement(refusal: Refusal | None) -> WaitReason | None:
    if refusal is None:
        return wait_texts.under_investigation()
    return wait_texts.not_placed(refusal, host_counts(refusal))


def _over_pool_quota(alone: Usage, index: QueueIndex, filters: QueueFilters) -> Excess:
    """What the job would take the pool, or else its quota group, above its quota."""
    over: Excess = {}
    if filters.pool_quota.limits_usage:
        over = exceeded(index.pool_usage() + alone, filters.pool_quota)
    if not over and filters.group_quota.limits_usage:
        over = exceeded(filters.group_usage + alone, filters.group_quota)
    return over
