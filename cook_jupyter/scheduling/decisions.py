"""The decisions about a pool: each a function of its snapshot and its queue.

Lives here: which jobs start where (`decide_match`, and before it `decide_reserved` and `decide_heads`), which
tasks give way (`decide_rebalance`), which jobs need more hosts (`decide_growth`), why a job waits (`why`) and
in which order jobs wait (`ranked`). None changes anything: the same snapshot and queue are always decided
alike.
Not here: what a decision reads (`scheduling.snapshot`), its parts (`scheduling.matching.cycle`,
`scheduling.heads`, `scheduling.rebalancing.preemption`, `scheduling.growth.autoscaling`,
`scheduling.explaining.wait_reasons`), what is done about it (`service.cycles.match_cycle`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from cook_jupyter.model.decisions import Matching, Rebalancing, Refusal, Scaleback
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.explaining.wait_reasons import WaitContext, reasons
from cook_jupyter.scheduling.growth.autoscaling import jobs_to_grow_for
from cook_jupyter.scheduling.heads import HeadsAfter, HeadsOfCycle
from cook_jupyter.scheduling.matching.cycle import decide_matches, refusal_now
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import ranked_within
from cook_jupyter.scheduling.ranking.ranking import rank_lazily
from cook_jupyter.scheduling.rebalancing.preemption import rebalance
from cook_jupyter.scheduling.snapshot import PoolSnapshot, PoolState

_FEW_TASKS: Final = 2000  # running, up to which the head of a queue is looked for though no host has room
_ALIKE: Final = 1.02  # amounts of waiting jobs are known to eight binary digits


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleDecision:
    """What a match cycle decided.

    Attributes:
        matching: jobs that start, and those that found no host.
        heads: the heads of the queues afterwards.
    """

    matching: Matching = field(default_factory=Matching)
    heads: HeadsAfter


def might_start(index: QueueIndex, offers: Sequence[Offer]) -> bool:
    """Return whether some waiting job could be small enough for some host: if not, why look."""
    cpus, mem_mb = index.least
    return any(offer.room.cpus >= cpus and offer.room.mem_mb >= mem_mb for offer in offers)


def decide_reserved(snapshot: PoolSnapshot, index: QueueIndex) -> Matching:
    """Decide which of the jobs with reserved room start now, in the order in which it was reserved."""
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
    """Decide which jobs at the head of a pool's queue start now, and keep room for the others."""
    heads = HeadsOfCycle(PoolState.of(snapshot, index))
    return CycleDecision(matching=heads.start(snapshot.open_offers), heads=heads.after)


def decide_match(snapshot: PoolSnapshot, index: QueueIndex) -> CycleDecision:
    """Decide which waiting jobs start where now, and which are at the head of the queue then."""
    state = PoolState.of(snapshot, index)
    heads = HeadsOfCycle(state)
    kept = {job_id for job_id, head in heads.own().items() if head.host is not None}
    offers = heads.open_to(snapshot.open_offers)
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
            takes=(lambda job_id: job_id not in kept) if kept else None,
        )
    else:
        matching = Matching(scaleback=Scaleback(considerable=snapshot.cycle.max_considered))
    if heads.is_on:
        matching = _with_heads(heads, snapshot.open_offers, matching)
    return CycleDecision(matching=matching, heads=heads.after)


def _with_heads(heads: HeadsOfCycle, offers: Sequence[Offer], matching: Matching) -> Matching:
    """Backfill the room that is kept, and note which jobs are at the head of the queue now."""
    backfilled = heads.backfill(offers, matching)
    starting = {match.job_id for match in backfilled}
    refused = [refusal for refusal in matching.refusals if refusal.job_id not in starting]
    matches = (*matching.matches, *backfilled)
    if refused:
        heads.note(matches)
    return replace(matching, matches=matches, refusals=tuple(refused), considered=len(matches) + len(refused))


def decide_nothing(snapshot: PoolSnapshot, index: QueueIndex) -> CycleDecision:
    """Note which jobs are at the head of the queue while no host has room for any job."""
    heads = HeadsOfCycle(PoolState.of(snapshot, index))
    if heads.is_on and (
        not heads.own()
        or (
            index.running_count <= _FEW_TASKS
            and _are_unlike(index.least, index.most)
            and not heads.needs_room()
        )
    ):
        heads.note()
    return CycleDecision(heads=heads.after)


def decide_rebalance(
    snapshot: PoolSnapshot, index: QueueIndex, ranked: Sequence[JobId] | None = None
) -> Rebalancing:
    """Decide which running tasks of a pool give way to which waiting jobs.

    Args:
        snapshot: the pool.
        index: its queue.
        ranked: the queue as it was ranked before; None ranks it now.
    """
    settings = snapshot.preemption
    if settings is None:
        return Rebalancing()
    state = PoolState.of(snapshot, index)
    filters = snapshot.queue_filters
    if settings.launch_order:
        filters = replace(state.filters, accepts=_not_lapsed(snapshot, state.filters.accepts))
    return rebalance(
        index,
        snapshot.hosts_with(HeadsOfCycle(state).open_to_preemption(snapshot.open_offers)),
        snapshot.limits,
        settings=settings,
        rank=snapshot.cycle.rank,
        filters=filters,
        reserved=snapshot.reserved.rooms if settings.launch_order else {},
        placement_context=snapshot.placement_context,
        clusters=snapshot.capacity.clusters,
        queue=ranked,
    )


def _not_lapsed(
    snapshot: PoolSnapshot, accepts: Callable[[JobId], bool] | None
) -> Callable[[JobId], bool] | None:
    """Return which jobs others may be preempted for; None if all."""
    lapsed = snapshot.reserved.lapsed
    if not lapsed:
        return accepts
    return lambda job_id: job_id not in lapsed and (accepts is None or accepts(job_id))


def decide_growth(snapshot: PoolSnapshot, index: QueueIndex) -> Sequence[JobId]:
    """Decide for which waiting jobs clusters should grow, by the latest match cycle of the pool.

    Jobs larger than every host are among them: a new host may be larger.
    """
    latest, largest = snapshot.latest, snapshot.capacity.largest
    if latest is None or not snapshot.growing:
        return ()
    most_cpus, most_mem_mb = index.most
    if most_cpus > largest.cpus or most_mem_mb > largest.mem_mb:  # `queue_filters` may have left it out
        latest = replace(latest, considered=latest.considered + 1)
    return jobs_to_grow_for(
        index, snapshot.limits, latest, rank=snapshot.cycle.rank, filters=snapshot.filters
    )


def why(snapshot: PoolSnapshot, index: QueueIndex, job: Job, *, attempts: int) -> Sequence[WaitReason]:
    """Return why a job has not started: all that holds now, in Cook's order.

    Args:
        snapshot: the pool of the job.
        index: its queue.
        job: the job.
        attempts: number of attempts that the job has used up.
    """
    job_id = job.job_id
    heads = HeadsOfCycle(PoolState.of(snapshot, index))
    placement, held_back_by = None, None
    room = snapshot.reserved.rooms.get(job_id)
    if index.is_waiting(job_id):
        offers = snapshot.open_offers if room is None else snapshot.offers
        open_offers = heads.open_to(offers, (job_id,))
        placement = _refusal(snapshot, index, job_id, open_offers)
        if open_offers is not offers and (placement.resources or placement.constraints):
            free = _refusal(snapshot, index, job_id, offers)
            if not free.resources and not free.constraints:
                held_back_by = heads.in_the_way_of(job.spec.resources, offers)
    held = snapshot.rate_limited
    facts = WaitContext(
        attempts=attempts,
        held=None if held is None else held.get(job.spec.user, 0),
        deferred=None if snapshot.deferral is None else snapshot.deferral(job_id),
        placement=placement,
        capacity=snapshot.capacity.offers,
        reserved=None if room is None else room.host,
        head=heads.own().get(job_id),
        held_back_by=held_back_by,
        outages=snapshot.outages,
        now_ms=snapshot.now_ms,
        filters=snapshot.filters,
        defaults=snapshot.cycle.match.defaults,
    )
    return reasons(job, index, snapshot.limits, facts)


def _refusal(snapshot: PoolSnapshot, index: QueueIndex, job_id: JobId, offers: Sequence[Offer]) -> Refusal:
    return refusal_now(
        index,
        job_id,
        snapshot.hosts_with(offers),
        settings=snapshot.cycle.match,
        placement_context=snapshot.placement_context,
    )


def ranked(snapshot: PoolSnapshot, index: QueueIndex, limit: int) -> Sequence[JobId]:
    """Return the first waiting jobs in launch order, those that quotas let start."""
    ranking = rank_lazily(index, snapshot.limits, snapshot.cycle.rank)
    return index.ids(job.row for job in islice(ranked_within(ranking, index, snapshot.filters), limit))


def _are_unlike(least: tuple[float, float], most: tuple[float, float]) -> bool:
    """Return whether some jobs ask for more than others."""
    return least[0] * _ALIKE < most[0] or least[1] * _ALIKE < most[1]
