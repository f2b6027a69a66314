"""The decisions about a pool, as functions of its snapshot and its queue.

Lives here: which jobs start where (`decide_match`, preceded by `decide_reserved` and `decide_heads`), which
tasks are preempted (`decide_rebalance`), which jobs clusters should grow for (`decide_growth`), why a job
waits (`why`) and in which order jobs wait (`ranked`). They have no side effects: the same snapshot and queue
always give the same decision.
Not here: what a decision reads (`scheduling.snapshot`), its parts (`scheduling.matching.cycle`,
`scheduling.heads`, `scheduling.rebalancing.preemption`, `scheduling.growth.autoscaling`,
`scheduling.explaining.wait_reasons`), their execution (`service.cycles`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from cook_jupyter.model.decisions import Matching, Rebalancing, Refusal, Scaleback
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.explaining.wait_reasons import WaitContext, wait_reasons
from cook_jupyter.scheduling.growth.autoscaling import jobs_to_grow_for
from cook_jupyter.scheduling.heads import HeadsAfter, HeadsOfCycle
from cook_jupyter.scheduling.matching.cycle import decide_matches, refusal_now
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import ranked_within
from cook_jupyter.scheduling.ranking.ranking import rank_lazily
from cook_jupyter.scheduling.rebalancing.preemption import rebalance
from cook_jupyter.scheduling.snapshot import PoolSnapshot, PoolState

_MAX_RUNNING_TASKS: Final = 2000  # maximum number for which heads are determined although no host has room
_TOLERANCE: Final = 1.02  # the index knows amounts of waiting jobs to eight binary digits


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleDecision:
    """The decision of a match cycle.

    Attributes:
        matching: matches and refusals.
        heads: the heads of the queues after the cycle.
    """

    matching: Matching = field(default_factory=Matching)
    heads: HeadsAfter


def might_start(index: QueueIndex, offers: Sequence[Offer]) -> bool:
    """Return whether any waiting job may be small enough for any host; else no match cycle is needed."""
    min_cpus, min_mem_mb = index.min_request
    return any(offer.room.cpus >= min_cpus and offer.room.mem_mb >= min_mem_mb for offer in offers)


def decide_reserved(snapshot: PoolSnapshot, index: QueueIndex) -> Matching:
    """Decide which jobs with reserved room start now, in the order of their reservations."""
    return decide_matches(
        index,
        snapshot.hosts_with(snapshot.offers),
        snapshot.limits,
        settings=snapshot.cycle,
        filters=snapshot.queue_filters,
        placement_context=replace(snapshot.placement_context, reservations=snapshot.reserved.everywhere),
        indebted=snapshot.indebted,
        queue=list(filter(index.is_waiting, snapshot.reserved.rooms)),
    )


def decide_heads(snapshot: PoolSnapshot, index: QueueIndex) -> CycleDecision:
    """Decide which heads of a pool's queue start now, and keep room for the others."""
    heads = HeadsOfCycle(PoolState.of(snapshot, index))
    return CycleDecision(matching=heads.match_heads(snapshot.open_offers), heads=heads.after)


def decide_match(snapshot: PoolSnapshot, index: QueueIndex) -> CycleDecision:
    """Decide which waiting jobs start where now, and which jobs are heads of the queue afterwards."""
    state = PoolState.of(snapshot, index)
    heads = HeadsOfCycle(state)
    jobs_with_room = {job_id for job_id, head in heads.of_pool().items() if head.host is not None}
    offers = heads.offers_for(snapshot.open_offers)
    if offers is snapshot.open_offers or might_start(index, offers):
        matching = decide_matches(
            index,
            snapshot.hosts_with(offers),
            state.limits,
            settings=snapshot.cycle,
            scaleback=snapshot.scaleback,
            filters=state.filters,
            placement_context=snapshot.placement_context,
            indebted=snapshot.indebted,
            accepts=(lambda job_id: job_id not in jobs_with_room) if jobs_with_room else None,
        )
    else:
        matching = Matching(scaleback=Scaleback(considerable=snapshot.cycle.max_considered))
    if heads.is_on:
        matching = _with_heads(heads, snapshot.open_offers, matching)
    return CycleDecision(matching=matching, heads=heads.after)


def _with_heads(heads: HeadsOfCycle, offers: Sequence[Offer], matching: Matching) -> Matching:
    """Backfill kept room, and determine the heads of the queue."""
    backfilled = heads.backfill(offers, matching)
    starting_ids = {match.job_id for match in backfilled}
    refused = [refusal for refusal in matching.refusals if refusal.job_id not in starting_ids]
    matches = (*matching.matches, *backfilled)
    if refused:
        heads.update_heads(matches)
    return replace(matching, matches=matches, refusals=tuple(refused), considered=len(matches) + len(refused))


def decide_nothing(snapshot: PoolSnapshot, index: QueueIndex) -> CycleDecision:
    """Determine the heads of the queue while no host has room for any job."""
    heads = HeadsOfCycle(PoolState.of(snapshot, index))
    if heads.is_on and (
        not heads.of_pool()
        or (
            index.running_count <= _MAX_RUNNING_TASKS
            and _are_unlike(index.min_request, index.max_request)
            and not heads.needs_room()
        )
    ):
        heads.update_heads()
    return CycleDecision(heads=heads.after)


def decide_rebalance(
    snapshot: PoolSnapshot, index: QueueIndex, ranked: Sequence[JobId] | None = None
) -> Rebalancing:
    """Decide which running tasks of a pool are preempted for which waiting jobs.

    Args:
        snapshot: the pool.
        index: its queue.
        ranked: the queue as ranked by an earlier cycle; None to rank it now.
    """
    settings = snapshot.preemption
    if settings is None:
        return Rebalancing()
    state = PoolState.of(snapshot, index)
    filters = snapshot.queue_filters
    if settings.launch_order:
        filters = replace(state.filters, accepts=_accept_unlapsed(snapshot, state.filters.accepts))
    return rebalance(
        index,
        snapshot.hosts_with(HeadsOfCycle(state).offers_for_preemption(snapshot.open_offers)),
        snapshot.limits,
        settings=settings,
        rank=snapshot.cycle.rank,
        filters=filters,
        reserved=snapshot.reserved.rooms if settings.launch_order else {},
        placement_context=snapshot.placement_context,
        clusters=snapshot.capacity.clusters,
        queue=ranked,
    )


def _accept_unlapsed(
    snapshot: PoolSnapshot, accepts: Callable[[JobId], bool] | None
) -> Callable[[JobId], bool] | None:
    """Return a predicate for the jobs that tasks may be preempted for; None if all may."""
    lapsed = snapshot.reserved.lapsed
    if not lapsed:
        return accepts
    return lambda job_id: job_id not in lapsed and (accepts is None or accepts(job_id))


def decide_growth(snapshot: PoolSnapshot, index: QueueIndex) -> Sequence[JobId]:
    """Decide for which waiting jobs clusters should grow, from the latest match cycle of the pool.

    Jobs larger than every host are among them: a new host may be larger.
    """
    latest, largest = snapshot.latest, snapshot.capacity.largest
    if latest is None or not snapshot.growing:
        return ()
    max_cpus, max_mem_mb = index.max_request
    if max_cpus > largest.cpus or max_mem_mb > largest.mem_mb:  # `queue_filters` may have excluded it
        latest = replace(latest, considered=latest.considered + 1)
    return jobs_to_grow_for(
        index, snapshot.limits, latest, rank=snapshot.cycle.rank, filters=snapshot.filters
    )


def why(snapshot: PoolSnapshot, index: QueueIndex, job: Job, *, attempts: int) -> Sequence[WaitReason]:
    """Return all reasons why a job has not started, in Cook's order.

    Args:
        snapshot: the pool of the job.
        index: its queue.
        job: the job.
        attempts: number of attempts that the job has used up.
    """
    job_id = job.job_id
    heads = HeadsOfCycle(PoolState.of(snapshot, index))
    refusal, held_back_by = None, None
    reserved_room = snapshot.reserved.rooms.get(job_id)
    if index.is_waiting(job_id):
        offers = snapshot.open_offers if reserved_room is None else snapshot.offers
        open_offers = heads.offers_for(offers, (job_id,))
        refusal = _refusal(snapshot, index, job_id, open_offers)
        if open_offers is not offers and (refusal.resources or refusal.constraints):
            unreserved_refusal = _refusal(snapshot, index, job_id, offers)
            if not unreserved_refusal.resources and not unreserved_refusal.constraints:
                held_back_by = heads.head_blocking(job.spec.resources, offers)
    rate_limited = snapshot.rate_limited
    context = WaitContext(
        attempts=attempts,
        held=None if rate_limited is None else rate_limited.get(job.spec.user, 0),
        deferred=None if snapshot.deferral is None else snapshot.deferral(job_id),
        placement=refusal,
        capacity=snapshot.capacity.offers,
        is_without_offers=index.is_waiting(job_id) and not snapshot.offers,
        reserved=None if reserved_room is None else reserved_room.host,
        head=heads.of_pool().get(job_id),
        held_back_by=held_back_by,
        outages=snapshot.outages,
        now_ms=snapshot.now_ms,
        filters=snapshot.filters,
        defaults=snapshot.cycle.match.defaults,
    )
    return wait_reasons(job, index, snapshot.limits, context)


def _refusal(snapshot: PoolSnapshot, index: QueueIndex, job_id: JobId, offers: Sequence[Offer]) -> Refusal:
    return refusal_now(
        index,
        job_id,
        snapshot.hosts_with(offers),
        settings=snapshot.cycle.match,
        placement_context=snapshot.placement_context,
    )


def ranked(snapshot: PoolSnapshot, index: QueueIndex, limit: int) -> Sequence[JobId]:
    """Return the first waiting jobs within the quotas of pool and quota group, in rank order."""
    ranking = rank_lazily(index, snapshot.limits, snapshot.cycle.rank)
    return index.ids(job.row for job in islice(ranked_within(ranking, index, snapshot.filters), limit))


def _are_unlike(min_request: tuple[float, float], max_request: tuple[float, float]) -> bool:
    """Return whether the waiting jobs differ in what they request."""
    return min_request[0] * _TOLERANCE < max_request[0] or min_request[1] * _TOLERANCE < max_request[1]
