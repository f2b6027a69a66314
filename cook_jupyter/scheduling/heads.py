"""Decisions about the heads of the queues: which jobs are, what is kept for them, and who may use it.

Lives here: `HeadsOfCycle`, one decision after the other; `HeadsAfter`, the heads for the next cycle.
Not here: each rule (`scheduling.matching.head_room`), where heads are between cycles
(`service.state.queue_heads`), room that was freed by preemption (`service.state.reservations`).

A job becomes a head when it is the first considerable job of its user that no host has room for. Once smaller
jobs wait, which could take the room piece by piece, it is matched before all others, and room is kept for it
as soon as there is some that others could take. It stays a head until it starts, or

- is not considerable any more (quota, launch rate, launch filter), or is killed;
- gets its room by preemption;
- a job of its own user that comes before it is submitted;
- gives way to users who hold less of their share (`scheduling.matching.head_room.gives_way`).
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
    Amounts,
    HeadOfQueue,
    HostState,
    asked_by,
    choose_host,
    ends_in_time,
    gives_way,
    held_dru,
    holds_more_than_share,
    is_within_limit,
    renewed,
    room_beside,
    sum_of,
    with_task,
    without_kept,
)
from cook_jupyter.scheduling.matching.matching import match
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.considerable import ranked_within
from cook_jupyter.scheduling.ranking.ranking import rank_lazily
from cook_jupyter.scheduling.snapshot import PoolState

MAX_HEADS: Final = 8  # of a pool, each of another user
MAX_HOSTS: Final = 32  # among which one is chosen for a head
_ALIKE: Final = 1.01  # amounts of waiting jobs are known to eight binary digits
_JOBS_OF_A_USER: Final = 4  # that may become a head: the first may not be allowed to start, or fit nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsAfter:
    """The heads of the queues after a decision.

    Attributes:
        by_pool: heads of each pool, longest at the head first. Those of other pools may change, too.
        nowhere: jobs of the pool that no host could ever hold.
        current: heads with the host that is kept for each, of those that were reviewed with the tasks that
            run now.
    """

    by_pool: Mapping[PoolName, Mapping[JobId, HeadOfQueue]] = field(default_factory=dict)
    nowhere: frozenset[JobId] = frozenset()
    current: frozenset[tuple[JobId, str]] = frozenset()


class HeadsOfCycle:
    """The heads of all queues while a pool decides about its own.

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
        """The heads as the decisions so far leave them."""
        return HeadsAfter(
            by_pool={pool: heads for pool, heads in self._heads.items() if heads},
            nowhere=frozenset(self._nowhere),
            current=frozenset(self._current),
        )

    @property
    def is_on(self) -> bool:
        """Whether room is ever kept."""
        return self._facts.max_kept > 0

    def own(self) -> Mapping[JobId, HeadOfQueue]:
        """Return the heads of the pool, longest at the head first."""
        return self._heads.get(self._state.name, {})

    def kept(self) -> Iterable[tuple[PoolName, HeadOfQueue]]:
        """Yield the heads of all pools for which a host is kept."""
        for pool, heads in self._heads.items():
            for head in heads.values():
                if head.host is not None:
                    yield pool, head

    # --- the steps of a match cycle

    def start(self, offers: Sequence[Offer]) -> Matching:
        """Match the heads of a pool before all other jobs, and keep room for those that find no host.

        Args:
            offers: room without reservations of preemptions.
        """
        state = self._state
        matches: list[Match] = []
        if not self.needs_room():
            return Matching()
        reviewed = self._reviewed()
        before = [head for head in reviewed if head.host is not None]
        for head in reviewed:
            request = state.request(head.job_id)
            if not self._needs_room(head):
                continue
            if head.host is None:
                if not self._may_keep(head, before):
                    self._drop(head.job_id)
                    continue
                before.append(head)
            if matches and request.job_constraints.group is not None:
                continue  # its place depends on what starts now; it is looked at again in the next cycle
            if not state.after(matches).may_start(head.job_id):
                continue  # the others take what quotas leave
            placed: Sequence[Match] = ()
            if any(
                offer.room.cpus >= request.cpus and offer.room.mem_mb >= request.mem_mb for offer in offers
            ):
                hosts = state.snapshot.hosts_with(self.open_to(offers, (head.job_id,)))
                placed, _, _ = match(
                    [request],
                    hosts,
                    settings=state.snapshot.cycle.match,
                    placement_context=state.snapshot.placement_context,
                )
            if placed and placed[0].cluster not in state.snapshot.indebted:
                matches += placed
                offers = _after(offers, placed[0], request)
            elif head.host is None and not matches:
                self._keep(head, offers)
        if matches:
            self._wait_behind()
        return Matching(matches=tuple(matches), considered=len(matches))

    def _wait_behind(self) -> None:
        """Let heads without a host reach the head only now: they were behind those that start.

        The tasks of those are not committed yet, so that room could not be kept beside them.
        """
        for head in list(self.own().values()):
            if head.host is None:
                self._put(replace(head, since_ms=self._state.snapshot.now_ms))

    def open_to(self, offers: Sequence[Offer], jobs: Collection[JobId] = ()) -> Sequence[Offer]:
        """Return the offers as others may use them, without the room that is kept for heads.

        Args:
            offers: room without reservations of preemptions.
            jobs: heads whose own room is left in.
        """
        lefts: dict[str, tuple[Amounts, Amounts]] = {}
        for pool, head in self.kept():
            if head.job_id in jobs or head.host is None:
                continue
            state = self._host_state(pool, head.host, head, but=jobs)
            if state is not None:
                left = room_beside(head, state)
                known = lefts.get(head.host)
                lefts[head.host] = (left if known is None else left.lesser(known[0])), state.whole
        if not lefts:
            return offers
        return [without_kept(offer, *lefts[offer.host]) if offer.host in lefts else offer for offer in offers]

    def backfill(self, offers: Sequence[Offer], matching: Matching) -> tuple[Match, ...]:
        """Match jobs that will have ended by the time when kept room is expected to be free.

        Args:
            offers: room without reservations of preemptions.
            matching: what the cycle has matched so far.
        """
        state = self._state
        if not self._facts.backfill or not state.index.knows_run_times:
            return ()
        now_ms = state.snapshot.now_ms
        least_cpus, least_mem = state.index.least
        found: list[Match] = []
        for host in dict.fromkeys(head.host for head in self.own().values()):
            heads = [(pool, head) for pool, head in self.kept() if head.host == host]
            if not heads or any(head.exclusive or (head.free_at_ms or 0) <= now_ms for _, head in heads):
                continue
            room = [offer for offer in offers if offer.host == host and offer.kind is HostKind.PLAIN]
            starting = (*matching.matches, *found)
            for each in starting:
                room = list(_after(room, each, state.request(each.job_id)))
            if not any(offer.room.cpus >= least_cpus and offer.room.mem_mb >= least_mem for offer in room):
                continue
            decision = decide_matches(
                state.index,
                room,
                state.limits,
                settings=state.snapshot.cycle,
                filters=state.filters,
                placement_context=state.snapshot.placement_context,
                indebted=state.snapshot.indebted,
                takes=self._ending_in_time([head for _, head in heads], {each.job_id for each in starting}),
            )
            found += decision.matches
            started = {(each.job_id, now_ms) for each in decision.matches}
            for pool, head in heads:
                self._heads[pool][head.job_id] = replace(
                    head, awaited=head.awaited | started, lent=head.lent | started
                )
        return tuple(found)

    def note(self, matches: Sequence[Match] = ()) -> None:
        """Let the first jobs of the users who hold least be heads; in FIFO pools the first jobs.

        The ranking will not do: it counts a job's own size, so that a job of the size of a host stands behind
        all small jobs of users who hold less than the host, for as long as these have any.

        Args:
            matches: jobs that are about to start.
        """
        state, index = self._state, self._state.index
        starting = {match.job_id for match in matches}
        if state.is_fair:
            first = _first_jobs_by_share(state, starting)
        else:
            ranking = rank_lazily(index, state.limits, state.snapshot.cycle.rank)
            ids = (index.job_id(job.row) for job in ranked_within(ranking, index, state.filters))
            first = islice((job_id for job_id in ids if job_id not in starting), MAX_HEADS)
        self._note_refused((job_id for job_id in first if state.may_start(job_id)), matches)

    def _note_refused(self, refused: Iterable[JobId], matches: Sequence[Match]) -> None:
        """Let the first jobs that found no host be heads.

        Args:
            refused: jobs that found no host, in queue order.
            matches: jobs that are about to start.
        """
        state, index = self._state, self._state.index
        heads = {job_id: head for job_id, head in self.own().items() if self._needs_room(head)}
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
                asked=asked_by(state.request(job_id)),
                since_ms=state.snapshot.now_ms,
                position=max(0, index.waiting_before(index.row_of(job_id)) - starting),
            )
            if not self._may_keep(head, heads.values()):
                break
            heads[job_id] = head
        self._heads[state.name] = heads

    def in_the_way_of(self, asked: Resources, offers: Sequence[Offer]) -> HeadOfQueue | None:
        """Return the first head for which room is kept on a host that has as much as asked."""
        rooms = {offer.host for offer in offers if asked.fits_in(offer.room)}
        return next((head for _, head in self.kept() if head.host in rooms), None)

    def open_to_preemption(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return the offers as a rebalance cycle of a pool may count on them.

        A head whose user is within share may get room by preemption, and needs less of it where room is kept
        for it already. No other job counts on kept room of other heads.
        """
        state = self._state
        within = [
            head.job_id
            for head in self.own().values()
            if not holds_more_than_share(head.user, state.index, state.limits, state.mode)
        ]
        return self.open_to(offers, within)

    def needs_room(self) -> bool:
        """Return whether smaller jobs could take the room of any head of the pool."""
        return any(self._needs_room(head) for head in self.own().values())

    # --- inside

    def _needs_room(self, head: HeadOfQueue) -> bool:
        """Return whether waiting jobs could take the room of a head before enough of it has come together.

        Otherwise its place by rank is as good. Jobs of all pools are looked at, as pools may share hosts.
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
                head.asked.cpus > _ALIKE * cpus or head.asked.mem_mb > _ALIKE * mem_mb
                for cpus, mem_mb in self._facts.least
            )
        )

    def _may_keep(self, head: HeadOfQueue, others: Iterable[HeadOfQueue]) -> bool:
        """Return whether room may be kept for a head besides others, if it needs any."""
        if not self._needs_room(head):
            return True
        needy = [other for other in others if self._needs_room(other)]
        return is_within_limit(head.asked, needy, self._state.snapshot.capacity.whole, self._facts.max_kept)

    def _reviewed(self) -> list[HeadOfQueue]:
        """Return the heads that still are, each with its host as far as that still may become free."""
        state, index = self._state, self._state.index
        for head in list(self.own().values()):
            job_id = head.job_id
            if (
                not index.is_waiting(job_id)
                or job_id in state.snapshot.reserved.rooms
                or (position := index.waiting_before(index.row_of(job_id))) > head.position
                or not state.may_start(job_id)
                or (state.is_fair and gives_way(head, index, state.limits, state.mode, state.may_start))
            ):
                self._drop(job_id)
                continue
            self._put(self._renewed(replace(head, position=position)))
        return list(self.own().values())

    def _renewed(self, head: HeadOfQueue) -> HeadOfQueue:
        """Return the head with what it waits for now; without a host if its host cannot take it any more."""
        if head.host is None:
            return head
        if (head.job_id, head.host) in self._current:
            return head
        self._current.add((head.job_id, head.host))
        there = self._possible_hosts(head, only=head.host)
        current = renewed(head, there[0], self._state.snapshot.now_ms) if there else None
        if current is not None:
            return current
        return replace(head, host=None, awaited=frozenset(), free_at_ms=None, exclusive=False)

    def _keep(self, head: HeadOfQueue, offers: Sequence[Offer]) -> None:
        """Keep room for a head, if a host can hold it beside other heads.

        Args:
            head: the head.
            offers: the room there is now, without reservations of preemptions.
        """
        now_ms = self._state.snapshot.now_ms
        possible = self._possible_hosts(head, offers)
        hosts = [
            host
            for host in possible
            if not any(
                room_beside(other, beside).minus(head.asked).is_negative
                for pool, other in self.kept()
                if other.host == host.host
                and (beside := self._host_state(pool, host.host, other)) is not None
            )
        ]
        chosen = choose_host(head, hosts, now_ms)
        if chosen is None and hosts:  # later tasks are everywhere in the way: it waits for them, too
            chosen = choose_host(replace(head, since_ms=now_ms), hosts, now_ms)
        if chosen is not None:
            self._put(chosen)
        elif possible:  # it is behind the heads of these hosts
            self._put(replace(head, since_ms=now_ms))
        else:
            self._drop(head.job_id)
            self._nowhere.add(head.job_id)

    def _possible_hosts(
        self, head: HeadOfQueue, offers: Sequence[Offer] = (), *, only: str | None = None
    ) -> list[HostState]:
        """Return the hosts that meet the constraints of a head, with what runs there.

        Of many hosts those that lack least: the room of each costs as much to work out as it runs tasks.

        Args:
            head: the head.
            offers: the room there is now.
            only: the only host to look at; None looks at all.
        """
        state, snapshot = self._state, self._state.snapshot
        empty, wholes = snapshot.capacity.hosts, snapshot.capacity.amounts
        rules = ConstraintChecker(empty, snapshot.cycle.match.defaults, snapshot.placement_context)
        fails = rules.of(state.request(head.job_id))
        positions = [
            at
            for at in (range(len(empty)) if only is None else (empty.position.get(only),))
            if at is not None and (fails is None or fails(at) is None) and head.asked.fit_in(wholes[at])
        ]
        if len(positions) > MAX_HOSTS:
            rooms = {offer.host: offer.room for offer in offers}
            names = [offer.host for offer in empty.offers]
            positions = nsmallest(
                MAX_HOSTS, positions, key=lambda at: _lacking(head.asked, wholes[at], rooms.get(names[at]))
            )
        found = (self._host_state(state.name, empty.offers[at].host, head) for at in positions)
        return [host_state for host_state in found if host_state is not None]

    def _host_state(
        self, pool: PoolName, host: str, head: HeadOfQueue, *, but: Collection[JobId] = ()
    ) -> HostState | None:
        """Return a host as a head finds it; room that is kept for the heads `but` is not counted."""
        facts = self._facts
        capacity = facts.capacities.get(pool)
        at = None if capacity is None else capacity.hosts.position.get(host)
        if capacity is None or at is None:
            return None
        others = [
            other.asked
            for _, other in self.kept()
            if other.host == host and other.job_id != head.job_id and other.job_id not in but
        ]
        offer = capacity.hosts.offers[at]
        return HostState(
            host=host,
            whole=capacity.amounts[at],
            tasks=facts.tasks_on(host),
            promised=sum_of([facts.promised.get(host, NOTHING), *others]),
            exclusive=offer.kind is HostKind.KUBERNETES and head.asked.gpus > 0,
        )

    def _ending_in_time(
        self, heads: Sequence[HeadOfQueue], starting: Container[JobId]
    ) -> Callable[[JobId], bool]:
        """Return which jobs may use room that is kept for heads until that is expected to be free."""
        index, all_heads, now_ms = self._state.index, self.own(), self._state.snapshot.now_ms
        group_ms = self._facts.group_ms.get

        def takes(job_id: JobId) -> bool:
            row = index.row_of(job_id)
            own = index.job_constraints.get(row)
            return (
                job_id not in starting
                and job_id not in all_heads
                and (own is None or own.group is None)
                and all(ends_in_time(head, index.run_time(row), group_ms, now_ms) for head in heads)
            )

        return takes

    def _put(self, head: HeadOfQueue) -> None:
        self._heads.setdefault(self._state.name, {})[head.job_id] = head

    def _drop(self, job_id: JobId) -> None:
        """Keep nothing more for a job."""
        self._heads[self._state.name].pop(job_id)
        self._current = {current for current in self._current if current[0] != job_id}


def _lacking(asked: Amounts, whole: Amounts, room: Resources | None) -> float:
    """Return how much of what is asked a host lacks, as a part of the host."""
    free = room or Resources()
    return max(
        (asked.cpus - free.cpus) / (whole.cpus or 1.0), (asked.mem_mb - free.mem_mb) / (whole.mem_mb or 1.0)
    )


def _after(offers: Sequence[Offer], match: Match, request: TaskRequest) -> Sequence[Offer]:
    """Return the offers after a match."""
    return [
        with_task(offer, request, match.ports)
        if offer.host == match.host and offer.cluster == match.cluster
        else offer
        for offer in offers
    ]


def _first_jobs_by_share(state: PoolState, starting: Container[JobId]) -> Iterator[JobId]:
    """Yield each user's first waiting jobs, of the user first who holds least of the share.

    Args:
        state: the pool.
        starting: jobs that are about to start.
    """
    index, filters, columns = state.index, state.filters, state.index.columns
    max_cpus = inf if filters.max_cpus is None else filters.max_cpus
    max_mem_mb = inf if filters.max_mem_mb is None else filters.max_mem_mb
    waiting = [tasks for tasks in index.by_name() if tasks.waiting_count]
    held = {tasks.name: held_dru(tasks.name, index, state.limits, state.mode) for tasks in waiting}
    for tasks in sorted(waiting, key=lambda tasks: held[tasks.name]):  # stable: then by name
        too_large = tasks.too_large(max_cpus, max_mem_mb, columns.cpus, columns.mem)
        ids = (index.job_id(row) for row in tasks.iter_waiting(too_large))
        yield from islice((job_id for job_id in ids if job_id not in starting), _JOBS_OF_A_USER)
