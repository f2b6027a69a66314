"""Decisions about the heads of the queues: the jobs, the room kept for them, and who may use it.

Lives here: `HeadsOfCycle`, the heads during a cycle; `HeadsAfter`, the heads after it.
Not here: the rules (`scheduling.matching.head_room`), the heads between cycles (`service.state.queue_heads`),
room that was freed by preemption (`service.state.reservations`).

The first considerable job of a user becomes a head if no host has room for it. Once smaller jobs wait, which
could take the room piece by piece, the head is matched before all other jobs, and room is kept for it as soon
as other jobs could take any. It remains a head until it starts, or until

- it is no longer considerable (quota, launch rate, launch filter), or is killed;
- it gets its room by preemption;
- its user submits a job that comes before it;
- users who hold less of their share take precedence (`scheduling.matching.head_room.gives_way`).
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from itertools import islice
from math import inf
from typing import Final

from cook_jupyter.model.decisions import Match, Matching
from cook_jupyter.model.job import JobId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.checker import ConstraintChecker
from cook_jupyter.scheduling.matching.cycle import decide_matches
from cook_jupyter.scheduling.matching.head_room import (
    NOTHING,
    HeadOfQueue,
    HostAmounts,
    HostState,
    amounts_requested,
    choose_host,
    ends_in_time,
    gives_way,
    held_dru,
    holds_more_than_share,
    is_within_limit,
    room_beside,
    sum_of,
    update_awaited,
    with_task,
    without_kept,
)
from cook_jupyter.scheduling.matching.matching import match
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.considerable import ranked_within
from cook_jupyter.scheduling.ranking.ranking import rank_lazily
from cook_jupyter.scheduling.snapshot import PoolState

MAX_HEADS: Final = 8  # per pool, each of a different user
MAX_HOSTS: Final = 32  # candidates for the room of a head
_TOLERANCE: Final = 1.01  # the index knows amounts of waiting jobs to eight binary digits
_MAX_JOBS_PER_USER: Final = 4  # candidates: the first job may be barred from starting, or fit nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsAfter:
    """The heads of the queues after a decision.

    Attributes:
        by_pool: heads of each pool, those that have been heads for longest first. Those of other pools may
            change, too.
        nowhere: jobs of the pool that no host could ever hold.
        current: heads, each with its host, whose awaited tasks are up to date.
    """

    by_pool: Mapping[PoolName, Mapping[JobId, HeadOfQueue]] = field(default_factory=dict)
    nowhere: frozenset[JobId] = frozenset()
    current: frozenset[tuple[JobId, str]] = frozenset()


class HeadsOfCycle:
    """The heads of all queues during a cycle of one pool.

    Args:
        state: the pool.
    """

    def __init__(self, state: PoolState) -> None:
        facts = state.snapshot.heads
        self._state = state
        self._facts = facts
        self._heads = {pool: dict(heads) for pool, heads in facts.by_pool.items()}
        self._nowhere = set(facts.nowhere)
        self._current = set(facts.current)

    @property
    def after(self) -> HeadsAfter:
        """The heads after the decisions so far."""
        return HeadsAfter(
            by_pool={pool: heads for pool, heads in self._heads.items() if heads},
            nowhere=frozenset(self._nowhere),
            current=frozenset(self._current),
        )

    @property
    def is_on(self) -> bool:
        """Whether room is ever kept."""
        return self._facts.max_kept > 0

    def of_pool(self) -> Mapping[JobId, HeadOfQueue]:
        """Return the heads of the pool, those that have been heads for longest first."""
        return self._heads.get(self._state.name, {})

    def with_room(self) -> Iterable[tuple[PoolName, HeadOfQueue]]:
        """Yield the heads of all pools for which room is kept on a host."""
        for pool, heads in self._heads.items():
            for head in heads.values():
                if head.host is not None:
                    yield pool, head

    # --- the steps of a match cycle

    def match_heads(self, offers: Sequence[Offer]) -> Matching:
        """Match the heads of the pool before all other jobs, and keep room for those that find no host.

        Args:
            offers: offers without the room that is reserved for beneficiaries of preemptions.
        """
        state = self._state
        matches: list[Match] = []
        if not self.needs_room():
            return Matching()
        reviewed = self._review()
        keeping = [head for head in reviewed if head.host is not None]
        for head in reviewed:
            request = state.request(head.job_id)
            if not self._needs_room(head):
                continue
            if head.host is None:
                if not self._may_keep(head, keeping):
                    self._remove(head.job_id)
                    continue
                keeping.append(head)
            if matches and request.job_constraints.group is not None:
                continue  # its placement depends on the tasks that start now: decide in the next cycle
            if not state.with_matches(matches).may_start(head.job_id):
                continue  # the matches before it use up the quota
            placed: Sequence[Match] = ()
            if any(
                offer.room.cpus >= request.cpus and offer.room.mem_mb >= request.mem_mb for offer in offers
            ):
                hosts = state.snapshot.hosts_with(self.offers_for(offers, (head.job_id,)))
                placed, _, _ = match(
                    [request],
                    hosts,
                    settings=state.snapshot.cycle.match,
                    placement_context=state.snapshot.placement_context,
                )
            if placed and placed[0].cluster not in state.snapshot.indebted:
                matches += placed
                offers = _offers_after(offers, placed[0], request)
            elif head.host is None and not matches:
                self._keep(head, offers)
        if matches:
            self._postpone_heads_without_host()
        return Matching(matches=tuple(matches), considered=len(matches))

    def _postpone_heads_without_host(self) -> None:
        """Restart the waiting time of heads without a host: they were behind the heads that start now.

        The tasks of those heads are not committed yet, so room could not be kept beside them.
        """
        for head in list(self.of_pool().values()):
            if head.host is None:
                self._set(replace(head, since_ms=self._state.snapshot.now_ms))

    def offers_for(self, offers: Sequence[Offer], own_jobs: Collection[JobId] = ()) -> Sequence[Offer]:
        """Return the offers without the room that is kept for heads.

        Args:
            offers: offers without the room that is reserved for beneficiaries of preemptions.
            own_jobs: heads whose kept room is included.
        """
        limits: dict[str, tuple[HostAmounts, HostAmounts]] = {}
        for pool, head in self.with_room():
            if head.job_id in own_jobs or head.host is None:
                continue
            state = self._host_state(pool, head.host, head, except_jobs=own_jobs)
            if state is not None:
                beside = room_beside(head, state)
                previous = limits.get(head.host)
                limits[head.host] = (beside if previous is None else beside.minimum(previous[0])), state.whole
        if not limits:
            return offers
        return [
            without_kept(offer, *limits[offer.host]) if offer.host in limits else offer for offer in offers
        ]

    def backfill(self, offers: Sequence[Offer], matching: Matching) -> tuple[Match, ...]:
        """Match jobs that will have ended by the time at which the kept room is expected to be free.

        Args:
            offers: offers without the room that is reserved for beneficiaries of preemptions.
            matching: matches of the cycle so far.
        """
        state = self._state
        if not self._facts.backfill or not state.index.knows_run_times:
            return ()
        now_ms = state.snapshot.now_ms
        min_cpus, min_mem = state.index.min_request
        backfilled: list[Match] = []
        for host in dict.fromkeys(head.host for head in self.of_pool().values()):
            heads = [(pool, head) for pool, head in self.with_room() if head.host == host]
            if not heads or any(head.exclusive or (head.free_at_ms or 0) <= now_ms for _, head in heads):
                continue
            host_offers = [offer for offer in offers if offer.host == host and offer.kind is HostKind.PLAIN]
            starting_matches = (*matching.matches, *backfilled)
            for starting in starting_matches:
                host_offers = list(_offers_after(host_offers, starting, state.request(starting.job_id)))
            if not any(offer.room.cpus >= min_cpus and offer.room.mem_mb >= min_mem for offer in host_offers):
                continue
            decision = decide_matches(
                state.index,
                host_offers,
                state.limits,
                settings=state.snapshot.cycle,
                filters=state.filters,
                placement_context=state.snapshot.placement_context,
                indebted=state.snapshot.indebted,
                accepts=self._ending_in_time(
                    [head for _, head in heads], {match.job_id for match in starting_matches}
                ),
            )
            backfilled += decision.matches
            started = {(match.job_id, now_ms) for match in decision.matches}
            for pool, head in heads:
                self._heads[pool][head.job_id] = replace(
                    head, awaited=head.awaited | started, lent=head.lent | started
                )
        return tuple(backfilled)

    def update_heads(self, matches: Sequence[Match] = ()) -> None:
        """Add the first jobs of the users with the lowest usage to the heads; in FIFO pools, the first jobs.

        The ranking does not serve here, because it counts the size of the job itself: a job of the size of a
        host would rank behind all small jobs of users who hold less than the host, for as long as they have
        any.

        Args:
            matches: matches of the cycle.
        """
        state, index = self._state, self._state.index
        starting = {match.job_id for match in matches}
        if state.is_fair:
            candidates = _first_jobs_by_share(state, starting)
        else:
            ranking = rank_lazily(index, state.limits, state.snapshot.cycle.rank)
            ids = (index.job_id(job.row) for job in ranked_within(ranking, index, state.filters))
            candidates = islice((job_id for job_id in ids if job_id not in starting), MAX_HEADS)
        self._add_heads((job_id for job_id in candidates if state.may_start(job_id)), matches)

    def _add_heads(self, refused: Iterable[JobId], matches: Sequence[Match]) -> None:
        """Add the first refused jobs to the heads.

        Args:
            refused: jobs that found no host, in queue order.
            matches: matches of the cycle.
        """
        state, index = self._state, self._state.index
        heads = {job_id: head for job_id, head in self.of_pool().items() if self._needs_room(head)}
        users = {head.user for head in heads.values()}
        for job_id in refused:
            if len(heads) >= MAX_HEADS:
                break
            tasks = index.tasks_of_job(job_id)
            is_out = job_id in self._nowhere or job_id in state.snapshot.reserved.rooms
            if tasks is None or tasks.name in users or is_out:
                continue
            users.add(tasks.name)
            starting = sum(index.tasks_of_job(match.job_id) is tasks for match in matches)
            head = HeadOfQueue(
                job_id=job_id,
                user=tasks.name,
                asked=amounts_requested(state.request(job_id)),
                since_ms=state.snapshot.now_ms,
                position=max(0, index.waiting_before(index.row_of(job_id)) - starting),
            )
            if not self._may_keep(head, heads.values()):
                break
            heads[job_id] = head
        self._heads[state.name] = heads

    def head_blocking(self, requested: Resources, offers: Sequence[Offer]) -> HeadOfQueue | None:
        """Return the first head for which room is kept on a host that has the requested room."""
        rooms = {offer.host for offer in offers if requested.fits_in(offer.room)}
        return next((head for _, head in self.with_room() if head.host in rooms), None)

    def offers_for_preemption(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return the offers that a rebalance cycle of the pool may count on.

        A head whose user is within the share may get room by preemption, and needs to preempt less where room
        is kept for it. Room that is kept for other heads is excluded.
        """
        state = self._state
        within = [
            head.job_id
            for head in self.of_pool().values()
            if not holds_more_than_share(head.user, state.index, state.limits, state.mode)
        ]
        return self.offers_for(offers, within)

    def needs_room(self) -> bool:
        """Return whether smaller jobs could take the room of any head of the pool."""
        return any(self._needs_room(head) for head in self.of_pool().values())

    # --- inside

    def _needs_room(self, head: HeadOfQueue) -> bool:
        """Return whether waiting jobs could take the room of a head before there is enough of it.

        Otherwise the head needs no precedence. Jobs of all pools count, because pools may share hosts.
        """
        index = self._state.index
        row = index.row_of(head.job_id)
        return (
            head.host is not None
            or head.asked.gpus > 0
            or head.asked.ports > 0
            or index.class_number(row) != 0
            or row in index.job_constraints
            or any(
                head.asked.cpus > _TOLERANCE * cpus or head.asked.mem_mb > _TOLERANCE * mem_mb
                for cpus, mem_mb in self._facts.least
            )
        )

    def _may_keep(self, head: HeadOfQueue, other_heads: Iterable[HeadOfQueue]) -> bool:
        """Return whether room may be kept for a head in addition to other heads, if it needs any."""
        if not self._needs_room(head):
            return True
        needy = [other for other in other_heads if self._needs_room(other)]
        return is_within_limit(head.asked, needy, self._state.snapshot.capacity.whole, self._facts.max_kept)

    def _review(self) -> list[HeadOfQueue]:
        """Return the jobs that still are heads, each without its host if that can no longer become free."""
        state, index = self._state, self._state.index
        for head in list(self.of_pool().values()):
            job_id = head.job_id
            if (
                not index.is_waiting(job_id)
                or job_id in state.snapshot.reserved.rooms
                or (position := index.waiting_before(index.row_of(job_id))) > head.position
                or not state.may_start(job_id)
                or self._gives_way(head)
            ):
                self._remove(job_id)
                continue
            self._set(self._update_host(replace(head, position=position)))
        return list(self.of_pool().values())

    def _gives_way(self, head: HeadOfQueue) -> bool:
        """Return whether jobs of users who hold less of their share take precedence over a head."""
        state = self._state
        if not state.is_fair or not holds_more_than_share(head.user, state.index, state.limits, state.mode):
            return False
        host = None if head.host is None else self._host_state(state.name, head.host, head)
        free = NOTHING if host is None else host.free
        return gives_way(head, state.index, state.limits, state.mode, state.may_start, free)

    def _update_host(self, head: HeadOfQueue) -> HeadOfQueue:
        """Return the head with the tasks that it still awaits; without a host if that cannot take it now."""
        if head.host is None:
            return head
        if (head.job_id, head.host) in self._current:
            return head
        self._current.add((head.job_id, head.host))
        host_states = self._possible_hosts(head, only=head.host)
        current = update_awaited(head, host_states[0], self._state.snapshot.now_ms) if host_states else None
        if current is not None:
            return current
        return replace(head, host=None, awaited=frozenset(), free_at_ms=None, exclusive=False)

    def _keep(self, head: HeadOfQueue, offers: Sequence[Offer]) -> None:
        """Keep room for a head on a host that can hold it beside other heads, if there is one.

        Args:
            head: the head.
            offers: offers without the room that is reserved for beneficiaries of preemptions.
        """
        now_ms = self._state.snapshot.now_ms
        possible = self._possible_hosts(head, offers)
        hosts = [
            host
            for host in possible
            if not any(
                room_beside(other_head, other_state).minus(head.asked).is_negative
                for pool, other_head in self.with_room()
                if other_head.host == host.host
                and (other_state := self._host_state(pool, host.host, other_head)) is not None
            )
        ]
        chosen = choose_host(head, hosts, now_ms)
        if chosen is None and hosts:  # later tasks prevent it on every host: await them, too
            chosen = choose_host(replace(head, since_ms=now_ms), hosts, now_ms)
        if chosen is not None:
            self._set(chosen)
        elif possible:  # it waits behind the heads on these hosts
            self._set(replace(head, since_ms=now_ms))
        else:
            self._remove(head.job_id)
            self._nowhere.add(head.job_id)

    def _possible_hosts(
        self, head: HeadOfQueue, offers: Sequence[Offer] = (), *, only: str | None = None
    ) -> list[HostState]:
        """Return the hosts that meet the constraints of a head, with the tasks that run there.

        Of many hosts, only those that lack least are returned: the cost per host grows with its tasks.

        Args:
            head: the head.
            offers: the current offers.
            only: the only host to consider; None to consider all.
        """
        state, snapshot = self._state, self._state.snapshot
        empty, wholes = snapshot.capacity.hosts, snapshot.capacity.amounts
        checker = ConstraintChecker(empty, snapshot.cycle.match.defaults, snapshot.placement_context)
        failing_at = checker.failing_at(state.request(head.job_id))
        positions = [
            position
            for position in (range(len(empty)) if only is None else (empty.position.get(only),))
            if position is not None
            and (failing_at is None or failing_at(position) is None)
            and head.asked.fit_in(wholes[position])
        ]
        if len(positions) > MAX_HOSTS:
            rooms = {offer.host: offer.room for offer in offers}
            names = [offer.host for offer in empty.offers]
            positions = nsmallest(
                MAX_HOSTS,
                positions,
                key=lambda position: _missing_part(head.asked, wholes[position], rooms.get(names[position])),
            )
        host_states = (
            self._host_state(state.name, empty.offers[position].host, head) for position in positions
        )
        return [host_state for host_state in host_states if host_state is not None]

    def _host_state(
        self, pool: PoolName, host: str, head: HeadOfQueue, *, except_jobs: Collection[JobId] = ()
    ) -> HostState | None:
        """Return the state of a host for a head; ignore the room that is kept for `except_jobs`."""
        facts = self._facts
        capacity = facts.capacities.get(pool)
        position = None if capacity is None else capacity.hosts.position.get(host)
        if capacity is None or position is None:
            return None
        amounts_of_others = [
            other_head.asked
            for _, other_head in self.with_room()
            if other_head.host == host
            and other_head.job_id != head.job_id
            and other_head.job_id not in except_jobs
        ]
        offer = capacity.hosts.offers[position]
        return HostState(
            host=host,
            whole=capacity.amounts[position],
            tasks=facts.tasks_on(host),
            promised=sum_of([facts.promised.get(host, NOTHING), *amounts_of_others]),
            exclusive=offer.kind is HostKind.KUBERNETES and head.asked.gpus > 0,
        )

    def _ending_in_time(
        self, heads: Sequence[HeadOfQueue], starting: Container[JobId]
    ) -> Callable[[JobId], bool]:
        """Return a predicate for the jobs that may use the room of heads until it is expected to be free."""
        index, all_heads, now_ms = self._state.index, self.of_pool(), self._state.snapshot.now_ms
        group_ms = self._facts.group_ms.get

        def may_backfill(job_id: JobId) -> bool:
            row = index.row_of(job_id)
            job_constraints = index.job_constraints.get(row)
            return (
                job_id not in starting
                and job_id not in all_heads
                and (job_constraints is None or job_constraints.group is None)
                and all(ends_in_time(head, index.run_time(row), group_ms, now_ms) for head in heads)
            )

        return may_backfill

    def _set(self, head: HeadOfQueue) -> None:
        self._heads.setdefault(self._state.name, {})[head.job_id] = head

    def _remove(self, job_id: JobId) -> None:
        """Remove a job from the heads."""
        self._heads[self._state.name].pop(job_id)
        self._current = {current for current in self._current if current[0] != job_id}


def _missing_part(requested: HostAmounts, whole: HostAmounts, room: Resources | None) -> float:
    """Return the part of a host by which its room falls short of the requested amounts."""
    free = room or Resources()
    return max(
        (requested.cpus - free.cpus) / (whole.cpus or 1.0),
        (requested.mem_mb - free.mem_mb) / (whole.mem_mb or 1.0),
    )


def _offers_after(offers: Sequence[Offer], match: Match, request: TaskRequest) -> Sequence[Offer]:
    """Return the offers after a match."""
    return [
        with_task(offer, request, match.ports)
        if offer.host == match.host and offer.cluster == match.cluster
        else offer
        for offer in offers
    ]


def _first_jobs_by_share(state: PoolState, starting: Container[JobId]) -> Iterator[JobId]:
    """Yield the first waiting jobs of each user, starting with the user with the lowest DRU.

    Args:
        state: the pool.
        starting: matches of the cycle.
    """
    index, filters, columns = state.index, state.filters, state.index.columns
    max_cpus = inf if filters.max_cpus is None else filters.max_cpus
    max_mem_mb = inf if filters.max_mem_mb is None else filters.max_mem_mb
    waiting = [tasks for tasks in index.by_name() if tasks.waiting_count]
    drus = {tasks.name: held_dru(tasks.name, index, state.limits, state.mode) for tasks in waiting}
    for tasks in sorted(waiting, key=lambda tasks: drus[tasks.name]):  # stable: then by name
        too_large = tasks.too_large(max_cpus, max_mem_mb, columns.cpus, columns.mem)
        ids = (index.job_id(row) for row in tasks.iter_waiting(too_large))
        yield from islice((job_id for job_id in ids if job_id not in starting), _MAX_JOBS_PER_USER)
