"""Room kept for the heads of the queues, from one match cycle to the next.

Lives here: `HeadRooms`, which jobs are at the head of their pool's queue, what is kept for each, and who may
use it meanwhile. All of it is in memory: after a restart the first match cycles find the heads again.
Not here: every decision about them (`scheduling.head_room`), room that was freed by preemption
(`service.freed_room`).

A job becomes a head when it is the first considerable job of its user that no host has room for. Once smaller
jobs wait, which could take the room piece by piece, it is matched before all others, and room is kept for it
as soon as there is some that others could take. It stays a head until it starts, or

- is not considerable any more (quota, launch rate, launch filter), or is killed;
- gets its room by preemption;
- a job of its own user that comes before it is submitted;
- gives way to users who hold less of their share (`scheduling.head_room.gives_way`).
"""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Final

from cook_jupyter.model.decisions import Match, Matching
from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.limits import Usage, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.asks import Ask
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.considerable import QueueFilters, may_start
from cook_jupyter.scheduling.cycle import CycleSettings, ask_of, match_cycle
from cook_jupyter.scheduling.head_room import (
    Amounts,
    HeadOfQueue,
    HostState,
    RunningTask,
    asked_by,
    choose_host,
    ends_in_time,
    gives_way,
    holds_more_than_share,
    is_within_limit,
    renewed,
    room_beside,
    sum_of,
    whole_of,
    with_task,
    without_kept,
)
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.matching import match
from cook_jupyter.scheduling.ranking import Order
from cook_jupyter.scheduling.rules import HostRules, Surroundings
from cook_jupyter.service.policies import HeadRoomSettings
from cook_jupyter.service.rooms import Rooms

MAX_HEADS: Final = 8  # of a pool, each of another user
MAX_GROUPS: Final = 10_000  # whose run times are remembered
MAX_HOSTS: Final = 32  # among which one is chosen for a head
_ALIKE: Final = 1.01  # amounts of waiting jobs are known to eight binary digits


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A pool at the time of a match cycle.

    Attributes:
        name: name of the pool.
        index: waiting jobs and running tasks of the pool.
        rooms: hosts of the pool.
        limits: shares and quotas of its users.
        filters: what keeps jobs out of the queue.
        surroundings: reservations, groups, the time.
        cycle: how the pool ranks and matches.
        indebted: clusters that may not be sent more tasks now.
        reserved: job -> host that was freed for it by preemption.
    """

    name: PoolName
    index: QueueIndex
    rooms: Rooms
    limits: UserLimits
    filters: QueueFilters
    surroundings: Surroundings
    cycle: CycleSettings
    indebted: frozenset[str] = frozenset()
    reserved: Mapping[JobId, str]

    @property
    def mode(self) -> DruMode:
        """What counts in the pool's DRU."""
        return self.cycle.rank.mode

    def may_start(self, job_id: JobId) -> bool:
        """Return whether quotas, launch rates and filters let a waiting job start."""
        return may_start(self.index, job_id, self.limits, self.filters)

    @property
    def is_fair(self) -> bool:
        """Whether the pool ranks by DRU."""
        return self.cycle.rank.order is Order.FAIR

    def after(self, matches: Sequence[Match]) -> "PoolState":
        """Return the pool with what quotas and launch rates leave once these matches have started."""
        if not matches:
            return self
        by_user: dict[str, Usage] = {}
        for each in matches:
            user = self.index.owner(self.index.row_of(each.job_id)).name
            by_user[user] = by_user.get(user, Usage()) + self.index.asked(each.job_id)
        total = sum(by_user.values(), Usage())
        quotas = {user: self.limits.quota(user).less(usage) for user, usage in by_user.items()}
        filters = self.filters
        return replace(
            self,
            limits=replace(self.limits, quotas={**self.limits.quotas, **quotas}),
            filters=replace(
                filters,
                pool_quota=filters.pool_quota.less(total),
                group_usage=filters.group_usage + total,
                tokens=filters.tokens
                and {
                    user: number - by_user.get(user, Usage()).count for user, number in filters.tokens.items()
                },
            ),
        )

    def ask(self, job_id: JobId) -> Ask:
        """Return what a job asks of a host."""
        return ask_of(self.index, self.index.row_of(job_id))


class HeadRooms:
    """The heads of all pools. Pools may share hosts: what one keeps is kept from all.

    Args:
        settings: how much is kept.
        indexes: the queues of all pools.
        promised: what is reserved on a host for beneficiaries of preemptions.
    """

    def __init__(
        self,
        settings: HeadRoomSettings,
        indexes: Callable[[], Iterable[QueueIndex]],
        promised: Callable[[str], Amounts],
    ) -> None:
        self._settings = settings
        self._indexes = indexes
        self._promised = promised
        self._heads: dict[PoolName, dict[JobId, HeadOfQueue]] = {}
        self._nowhere: dict[PoolName, set[JobId]] = {}  # no host could ever hold them
        self._empty: dict[PoolName, Hosts] = {}
        self._wholes: dict[PoolName, Sequence[Amounts]] = {}  # of the hosts of `_empty`
        self._group_ms: dict[GroupId, int] = {}
        self._tasks: dict[str, Sequence[RunningTask]] = {}  # by host, since the last commit
        self._renewed_for: dict[JobId, Sequence[RunningTask]] = {}

    @property
    def is_on(self) -> bool:
        """Whether room is ever kept."""
        return self._settings.max_kept > 0

    def of(self, pool: PoolName) -> Mapping[JobId, HeadOfQueue]:
        """Return the heads of a pool, longest at the head first."""
        return self._heads.get(pool, {})

    def kept(self) -> Iterable[tuple[PoolName, HeadOfQueue]]:
        """Yield the heads of all pools for which a host is kept."""
        for pool, heads in self._heads.items():
            for head in heads.values():
                if head.host is not None:
                    yield pool, head

    # --- following commits

    def forget_tasks(self) -> None:
        """Learn that tasks have started or ended."""
        if self._tasks:
            self._tasks.clear()

    def drop(self, pool: PoolName, job_id: JobId) -> None:
        """Keep nothing more for a job."""
        self._renewed_for.pop(job_id, None)
        if self._nowhere:
            self._nowhere.get(pool, set()).discard(job_id)
        heads = self._heads.get(pool)
        if heads is not None and heads.pop(job_id, None) is not None and not heads:
            del self._heads[pool]

    def see_capacity(self, pool: PoolName, capacity: Sequence[Offer], max_tasks: int | None) -> None:
        """Learn what hosts a pool has, and how many tasks a host may run."""
        if self.is_on:
            empty = self._empty[pool] = Hosts(capacity)
            self._wholes[pool] = [whole_of(offer, max_tasks) for offer in empty.offers]
            self._nowhere.pop(pool, None)

    def note_end(self, job: Job) -> None:
        """Learn from a job that has succeeded how long jobs of its group run."""
        group, instance = job.spec.group, job.instances[-1]
        if group is not None and self.is_on and instance.ended_ms is not None:
            took_ms = max(1, instance.ended_ms - instance.started_ms)
            self._group_ms[group] = max(took_ms, self._group_ms.pop(group, 0))
            if len(self._group_ms) > MAX_GROUPS:  # the one that has been silent for longest
                del self._group_ms[next(iter(self._group_ms))]

    # --- the steps of a match cycle

    def start(self, state: PoolState, offers: Sequence[Offer]) -> Matching:
        """Match the heads of a pool before all other jobs, and keep room for those that find no host.

        Args:
            state: the pool.
            offers: room without reservations of preemptions.
        """
        matches: list[Match] = []
        if not self.needs_room(state.name, state.index):
            return Matching()
        reviewed = self._reviewed(state)
        before = [head for head in reviewed if head.host is not None]
        for head in reviewed:
            ask = state.ask(head.job_id)
            if not self._needs_room(state.index, head):
                continue
            if head.host is None:
                if not self._may_keep(state, head, before):
                    self.drop(state.name, head.job_id)
                    continue
                before.append(head)
            if matches and ask.particulars.group is not None:
                continue  # its place depends on what starts now; it is looked at again in the next cycle
            if not state.after(matches).may_start(head.job_id):
                continue  # the others take what quotas leave
            placed: Sequence[Match] = ()
            if any(offer.room.cpus >= ask.cpus and offer.room.mem_mb >= ask.mem_mb for offer in offers):
                hosts = state.rooms.hosts(self.open_to(offers, (head.job_id,)))
                placed, _, _ = match(
                    [ask], hosts, settings=state.cycle.match, surroundings=state.surroundings
                )
            if placed and placed[0].cluster not in state.indebted:
                matches += placed
                offers = _after(offers, placed[0], ask)
            elif head.host is None and not matches:
                self._keep(state, head, state.surroundings.now_ms)
        if matches:
            self._wait_behind(state)
        return Matching(matches=tuple(matches), considered=len(matches))

    def _wait_behind(self, state: PoolState) -> None:
        """Let heads without a host reach the head only now: they were behind those that start.

        The tasks of those are not committed yet, so that room could not be kept beside them.
        """
        for head in list(self.of(state.name).values()):
            if head.host is None:
                self._heads[state.name][head.job_id] = replace(head, since_ms=state.surroundings.now_ms)

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

    def backfill(self, state: PoolState, offers: Sequence[Offer], matching: Matching) -> tuple[Match, ...]:
        """Match jobs that will have ended by the time when kept room is expected to be free.

        Args:
            state: the pool.
            offers: room without reservations of preemptions.
            matching: what the cycle has matched so far.
        """
        if not self._settings.backfill or not state.index.knows_run_times:
            return ()
        now_ms = state.surroundings.now_ms
        least_cpus, least_mem = state.index.least
        found: list[Match] = []
        for host in dict.fromkeys(head.host for head in self.of(state.name).values()):
            heads = [(pool, head) for pool, head in self.kept() if head.host == host]
            if not heads or any(head.exclusive or (head.free_at_ms or 0) <= now_ms for _, head in heads):
                continue
            room = [offer for offer in offers if offer.host == host and offer.kind is HostKind.PLAIN]
            starting = (*matching.matches, *found)
            for each in starting:
                room = list(_after(room, each, state.ask(each.job_id)))
            if not any(offer.room.cpus >= least_cpus and offer.room.mem_mb >= least_mem for offer in room):
                continue
            decision = match_cycle(
                state.index,
                room,
                state.limits,
                settings=state.cycle,
                filters=state.filters,
                surroundings=state.surroundings,
                indebted=state.indebted,
                takes=self._ending_in_time(
                    state, [head for _, head in heads], {each.job_id for each in starting}
                ),
            )
            found += decision.matches
            started = {(each.job_id, now_ms) for each in decision.matches}
            for pool, head in heads:
                self._heads[pool][head.job_id] = replace(
                    head, awaited=head.awaited | started, lent=head.lent | started
                )
        return tuple(found)

    def note_refused(self, state: PoolState, refused: Iterable[JobId], matches: Sequence[Match] = ()) -> bool:
        """Let the first jobs that found no host be heads; returns whether the pool has any head then.

        Args:
            state: the pool.
            refused: jobs that found no host, in queue order.
            matches: jobs that are about to start.
        """
        index = state.index
        heads = {
            job_id: head for job_id, head in self.of(state.name).items() if self._needs_room(index, head)
        }
        users = {head.user for head in heads.values()}
        nowhere = self._nowhere.get(state.name, set())
        for job_id in refused:
            if len(heads) >= MAX_HEADS:
                break
            tasks = index.tasks_of_job(job_id)
            if tasks is None or tasks.name in users or job_id in nowhere or job_id in state.reserved:
                continue
            users.add(tasks.name)
            starting = sum(index.tasks_of_job(each.job_id) is tasks for each in matches)
            head = HeadOfQueue(
                job_id=job_id,
                user=tasks.name,
                asked=asked_by(state.ask(job_id)),
                since_ms=state.surroundings.now_ms,
                position=max(0, index.waiting_before(index.row_of(job_id)) - starting),
            )
            if not self._may_keep(state, head, heads.values()):
                break
            heads[job_id] = head
        if heads:
            self._heads[state.name] = heads
        else:
            self._heads.pop(state.name, None)
        return bool(heads)

    def in_the_way_of(self, asked: Resources, offers: Sequence[Offer]) -> HeadOfQueue | None:
        """Return the first head for which room is kept on a host that has as much as asked."""
        rooms = {offer.host for offer in offers if asked.fits_in(offer.room)}
        return next((head for _, head in self.kept() if head.host in rooms), None)

    def open_to_preemption(self, state: PoolState, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return the offers as a rebalance cycle of a pool may count on them.

        A head whose user is within share may get room by preemption, and needs less of it where room is kept
        for it already. No other job counts on kept room of other heads.
        """
        within = [
            head.job_id
            for head in self.of(state.name).values()
            if not holds_more_than_share(head.user, state.index, state.limits, state.mode)
        ]
        return self.open_to(offers, within)

    def needs_room(self, pool: PoolName, index: QueueIndex) -> bool:
        """Return whether smaller jobs could take the room of any head of a pool."""
        return any(self._needs_room(index, head) for head in self.of(pool).values())

    # --- inside

    def _needs_room(self, index: QueueIndex, head: HeadOfQueue) -> bool:
        """Return whether waiting jobs could take the room of a head before enough of it has come together.

        Otherwise its place by rank is as good. Jobs of all pools are looked at, as pools may share hosts.
        """
        row = index.row_of(head.job_id)
        return (
            head.host is not None
            or head.asked.gpus > 0
            or head.asked.ports > 0
            or index.class_number(row) != 0
            or row in index.particulars
            or any(
                head.asked.cpus > _ALIKE * other.least[0] or head.asked.mem_mb > _ALIKE * other.least[1]
                for other in self._indexes()
                if other.waiting_count
            )
        )

    def _may_keep(self, state: PoolState, head: HeadOfQueue, others: Iterable[HeadOfQueue]) -> bool:
        """Return whether room may be kept for a head besides others, if it needs any."""
        if not self._needs_room(state.index, head):
            return True
        needy = [other for other in others if self._needs_room(state.index, other)]
        return is_within_limit(head.asked, needy, state.rooms.whole, self._settings.max_kept)

    def _reviewed(self, state: PoolState) -> list[HeadOfQueue]:
        """Return the heads that still are, each with its host as far as that still may become free."""
        index = state.index
        for head in list(self.of(state.name).values()):
            job_id = head.job_id
            if (
                not index.is_waiting(job_id)
                or job_id in state.reserved
                or (position := index.waiting_before(index.row_of(job_id))) > head.position
                or not state.may_start(job_id)
                or (state.is_fair and gives_way(head, index, state.limits, state.mode, state.may_start))
            ):
                self.drop(state.name, job_id)
                continue
            current = replace(head, position=position)
            self._heads[state.name][job_id] = self._renewed(state, current)
        return list(self.of(state.name).values())

    def _renewed(self, state: PoolState, head: HeadOfQueue) -> HeadOfQueue:
        """Return the head with what it waits for now; without a host if its host cannot take it any more."""
        if head.host is None:
            return head
        tasks = self._tasks_on(head.host)
        if self._renewed_for.get(head.job_id) is tasks:
            return head
        self._renewed_for[head.job_id] = tasks
        there = self._possible_hosts(state, head, head.host)
        current = renewed(head, there[0], state.surroundings.now_ms) if there else None
        if current is not None:
            return current
        return replace(head, host=None, awaited=frozenset(), free_at_ms=None, exclusive=False)

    def _keep(self, state: PoolState, head: HeadOfQueue, now_ms: int) -> None:
        """Keep room for a head, if a host can hold it beside other heads."""
        possible = self._possible_hosts(state, head)
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
            self._heads[state.name][head.job_id] = chosen
        elif possible:  # it is behind the heads of these hosts
            self._heads[state.name][head.job_id] = replace(head, since_ms=now_ms)
        else:
            self.drop(state.name, head.job_id)
            self._nowhere.setdefault(state.name, set()).add(head.job_id)

    def _possible_hosts(
        self, state: PoolState, head: HeadOfQueue, only: str | None = None
    ) -> list[HostState]:
        """Return the hosts, or the only host, that meet the constraints of a head, with what runs there.

        Of many hosts those that lack least: the room of each costs as much to work out as it runs tasks.
        """
        empty = self._empty.get(state.name)
        if empty is None:
            return []
        rules = HostRules(empty, state.cycle.match.defaults, state.surroundings)
        fails = rules.of(state.ask(head.job_id))
        wholes = self._wholes[state.name]
        positions = [
            at
            for at in (range(len(empty)) if only is None else (empty.position.get(only),))
            if at is not None and (fails is None or fails(at) is None) and head.asked.fit_in(wholes[at])
        ]
        if len(positions) > MAX_HOSTS:
            rooms = {offer.host: offer.room for offer in state.rooms.offers}
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
        empty = self._empty.get(pool)
        at = None if empty is None else empty.position.get(host)
        if empty is None or at is None:
            return None
        offer = empty.offers[at]
        others = [
            other.asked
            for _, other in self.kept()
            if other.host == host and other.job_id != head.job_id and other.job_id not in but
        ]
        return HostState(
            host=host,
            whole=self._wholes[pool][at],
            tasks=self._tasks_on(host),
            promised=sum_of([self._promised(host), *others]),
            exclusive=offer.kind is HostKind.KUBERNETES and head.asked.gpus > 0,
        )

    def _tasks_on(self, host: str) -> Sequence[RunningTask]:
        """Return the tasks on a host, of all pools; the same value until tasks have started or ended."""
        tasks = self._tasks.get(host)
        if tasks is None:
            tasks = self._tasks[host] = [
                RunningTask(
                    index.job_id(row),
                    started_ms,
                    Amounts(*index.amounts_of(row), float(index.ports(row)), 1.0),
                    index.run_time(row).expectation_ms(self._group_ms.get),
                )
                for index in self._indexes()
                for row, started_ms in index.tasks_on(host).items()
            ]
        return tasks

    def _ending_in_time(
        self, state: PoolState, heads: Sequence[HeadOfQueue], starting: Container[JobId]
    ) -> Callable[[JobId], bool]:
        """Return which jobs may use room that is kept for heads until that is expected to be free."""
        index, all_heads, now_ms = state.index, self.of(state.name), state.surroundings.now_ms

        def takes(job_id: JobId) -> bool:
            row = index.row_of(job_id)
            own = index.particulars.get(row)
            return (
                job_id not in starting
                and job_id not in all_heads
                and (own is None or own.group is None)
                and all(ends_in_time(head, index.run_time(row), self._group_ms.get, now_ms) for head in heads)
            )

        return takes


def _lacking(asked: Amounts, whole: Amounts, room: Resources | None) -> float:
    """Return how much of what is asked a host lacks, as a part of the host."""
    free = room or Resources()
    return max(
        (asked.cpus - free.cpus) / (whole.cpus or 1.0), (asked.mem_mb - free.mem_mb) / (whole.mem_mb or 1.0)
    )


def _after(offers: Sequence[Offer], match: Match, ask: Ask) -> Sequence[Offer]:
    """Return the offers after a match."""
    return [
        with_task(offer, ask, match.ports)
        if offer.host == match.host and offer.cluster == match.cluster
        else offer
        for offer in offers
    ]
