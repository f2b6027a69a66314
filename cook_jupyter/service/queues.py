"""The queues of all pools: the scheduler's columns, kept in step with its commits.

Lives here: `Queues`, which follows each changed job into its pool's `QueueIndex` and asks `scheduling` for
decisions about it; what each pool decides by (`_Pool`). Not here: the decisions themselves, what is done with
them (`service.cycles`).
"""

from collections import ChainMap, Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Final

from cook_jupyter.model.decisions import Match, Matching, Rebalancing, Refusal, Scaleback
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import GroupId, Job, JobId, JobState
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.columns import QueuedJob, QueueIndex, launch_number
from cook_jupyter.scheduling.considerable import (
    UNLIMITED_QUOTA,
    QueueFilters,
    group_usages,
    may_start,
    ranked_within,
)
from cook_jupyter.scheduling.constraints import Demand, PoolDefaults, demands_in_pool
from cook_jupyter.scheduling.cycle import CycleSettings, ask_of, match_cycle, placement_of
from cook_jupyter.scheduling.explain import Facts, reasons
from cook_jupyter.scheduling.head_room import NOTHING, Amounts, asked_by, held_dru, sum_of
from cook_jupyter.scheduling.host_health import Outage
from cook_jupyter.scheduling.matching import MatchSettings
from cook_jupyter.scheduling.pool_rules import first_found
from cook_jupyter.scheduling.preemption import (
    NOTHING_RESERVED,
    PreemptionSettings,
    ReservedRoom,
    rebalance,
)
from cook_jupyter.scheduling.preemption_history import preemption_history_of
from cook_jupyter.scheduling.ranking import Order, RankSettings, lazily
from cook_jupyter.scheduling.rules import Surroundings
from cook_jupyter.service.config import Settings
from cook_jupyter.service.freed_room import FreedRoom
from cook_jupyter.service.head_room import MAX_HEADS, HeadRooms, PoolState
from cook_jupyter.service.launch_plugin import LaunchPlugin
from cook_jupyter.service.limits import UNDIVIDED, Division, Limits
from cook_jupyter.service.placing import Placing
from cook_jupyter.service.rooms import Rooms


class Queues:
    """One queue index a pool, and what decisions need besides it.

    Args:
        pools: the pools.
        limits: shares and quotas.
        settings: what the operator set.
        ending: instances that were killed and whose end was not heard yet.

    Attributes:
        placing: the groups, and where jobs may be tried again.
        plugin: the launch filter.
        freed: room that is being freed by preemption, and for whom.
        heads: jobs at the head of their pool's queue, and the room that is kept for them.
    """

    def __init__(
        self, pools: Sequence[Pool], limits: Limits, settings: Settings, ending: Container[InstanceId]
    ) -> None:
        self.placing = Placing(settings.placement)
        self.plugin = LaunchPlugin(settings.placement.launch_filter)
        self.freed = FreedRoom(settings.rebalancer, ending)
        self.heads = HeadRooms(settings.head_room, self._indexes, self._promised)
        self._limits = limits
        self._settings = settings
        self._pools = {pool.name: _Pool(pool, settings) for pool in pools}
        self.offensive: dict[JobId, None] = {}  # wait, and are larger than any job may be; in order

    # --- following commits

    def load(self, jobs: Sequence[Job]) -> None:
        """Take in jobs that are new, or that the store holds at a restart: many at once."""
        waiting: dict[PoolName, list[QueuedJob]] = defaultdict(list)
        for job in jobs:
            spec = job.spec
            if job.state is JobState.WAITING and spec.job_id not in self._of(spec.pool).index:
                if self.plugin.asks:
                    self.plugin.changed(job)
                waiting[spec.pool].append(self._queued(job))
            else:
                self.changed(job, job.open_instance)
        for name, some in waiting.items():
            self._of(name).index.add_many(some)
        for job in jobs:
            if job.instances and job.state is JobState.WAITING:
                self._of(job.spec.pool).index.set_preemptions(job.job_id, preemption_history_of(job))

    def changed(self, job: Job, alive: Instance | None) -> None:
        """Bring the job's queue up to what the job is now; `alive` is its open instance, if it has one.

        A killed job whose task still runs stays in as running: it holds room.
        """
        spec = job.spec
        job_id, waits = spec.job_id, job.state is JobState.WAITING
        self.heads.forget_tasks()
        pool = self._of(spec.pool)
        index = pool.index
        if self.plugin.asks:
            self.plugin.changed(job)
        launch = None
        if not waits and (self.freed or pool.tried or self.offensive):
            launch = self.freed.drop(spec.pool, job_id)
            pool.tried.pop(job_id, None)
            self.offensive.pop(job_id, None)
        if alive is not None:
            if index.is_waiting(job_id):
                self._start(pool, job_id, alive, launch)
            elif job_id not in index:  # at a restart: in the order of starts
                self._add(pool, job)
                index.start(job_id, alive.started_ms, alive.host)
        elif waits:
            if job_id not in index:
                self._add(pool, job)
            elif index.is_running(job_id):
                index.wait_again(job_id, particulars=self._queued(job).particulars)
                index.set_preemptions(job_id, preemption_history_of(job))
        elif job_id in index:
            index.end(job_id)
        if not waits:
            self.heads.drop(spec.pool, job_id)
            if spec.group is not None and job.state is JobState.COMPLETED and job.succeeded:
                self.heads.note_end(job)

    def _start(self, pool: "_Pool", job_id: JobId, instance: Instance, launch: int | None) -> None:
        """Let a waiting job run.

        Args:
            pool: the pool of the job.
            job_id: the job.
            instance: the open instance of the job.
            launch: launch number that was reserved for the job, if any.
        """
        number = pool.next_launch(instance.started_ms) if launch is None else launch
        pool.index.start(job_id, instance.started_ms, instance.host, launch=number)
        head = self.heads.of(pool.pool.name).get(job_id)
        if head is not None and head.host == instance.host:
            # Others waited while its room came together. Stopped, it would be the head again.
            pool.index.let_finish(job_id)

    def see_capacity(self, pool: PoolName, capacity: Sequence[Offer]) -> None:
        """Learn what hosts a pool has; where they are others than before, jobs may be tried again there."""
        state = self._of(pool)
        are_others = state.rooms.see_capacity(capacity)
        if state.rooms.capacity is capacity:
            self.heads.see_capacity(pool, capacity, state.defaults.max_tasks_per_host)
        if not are_others:
            return
        for job_id, job in state.tried.items():
            if state.index.is_waiting(job_id):
                state.index.end(job_id)
                self._add(state, job)

    def _add(self, pool: "_Pool", job: Job) -> None:
        pool.index.add(self._queued(job))
        if job.instances:
            pool.index.set_preemptions(job.job_id, preemption_history_of(job))

    def _queued(self, job: Job) -> QueuedJob:
        """What the queue is to know of a job."""
        spec, settings = job.spec, self._settings
        too_large = spec.cpus > settings.max_cpus or spec.mem_mb > settings.max_mem_mb
        if too_large and job.state is JobState.WAITING:
            self.offensive[job.job_id] = None
        if not job.instances and spec.group is None and spec.expected_runtime_ms is None:
            return QueuedJob.of(spec, job.seq)
        pool = self._of(spec.pool)
        if job.instances and job.state is JobState.WAITING:
            pool.tried[job.job_id] = job
        own = self.placing.particulars(job, pool.defaults, pool.rooms.capacity, pool.rooms.locations)
        return QueuedJob.of(spec, job.seq, own)

    # --- decisions

    def might_start(self, pool: PoolName, offers: Sequence[Offer]) -> bool:
        """Tell whether some waiting job could be small enough for some host: if not, why look."""
        cpus, mem_mb = self._of(pool).index.least
        return any(offer.room.cpus >= cpus and offer.room.mem_mb >= mem_mb for offer in offers)

    def any_might_start(self, offers: Sequence[Offer]) -> bool:
        """Return whether some waiting job of any pool could be small enough for some host."""
        return any(
            pool.index.waiting_count and self.might_start(name, offers) for name, pool in self._pools.items()
        )

    def match(
        self,
        pool: PoolName,
        offers: Sequence[Offer],
        *,
        now_ms: int,
        tokens: Mapping[str, float] | None = None,
        indebted: frozenset[str] = frozenset(),
        reserved_only: bool = False,
    ) -> Matching:
        """Decide which waiting jobs of a pool start where now.

        Args:
            pool: which; its capacity has been seen.
            offers: the room there is now.
            now_ms: the time.
            tokens: how many jobs users may start now; who is not named is not limited.
            indebted: clusters that may not be sent more now.
            reserved_only: only the jobs for which room is reserved, in the order in which it was.
        """
        state = self._of(pool)
        if reserved_only:
            return match_cycle(
                state.index,
                state.rooms.hosts(offers),
                self.limits_of(pool),
                settings=state.cycle,
                filters=replace(self._filters(state), tokens=tokens, accepts=self.plugin.accepts(now_ms)),
                surroundings=replace(self._surroundings(state, now_ms), reservations=self.freed.everywhere()),
                indebted=indebted,
                queue=list(filter(state.index.is_waiting, self.freed.of(pool))),
            )
        cycle = self._state(state, now_ms, tokens, indebted)
        heads = self.heads.of(pool)
        kept = {job_id for job_id, head in heads.items() if head.host is not None}
        open_offers = self.heads.open_to(offers)
        if open_offers is offers or self.might_start(pool, open_offers):
            matching = match_cycle(
                state.index,
                state.rooms.hosts(open_offers),
                cycle.limits,
                settings=state.cycle,
                scaleback=state.scaleback,
                filters=cycle.filters,
                surroundings=cycle.surroundings,
                indebted=indebted,
                takes=(lambda job_id: job_id not in kept) if kept else None,
            )
            state.scaleback = matching.scaleback
        else:
            matching = Matching(scaleback=Scaleback(considerable=state.cycle.max_considered))
            state.scaleback = None
        state.held = matching.rate_limited
        if self.heads.is_on:
            matching = self._with_heads(cycle, offers, matching)
        state.last = matching
        return matching

    def _with_heads(self, cycle: PoolState, offers: Sequence[Offer], matching: Matching) -> Matching:
        """Backfill the room that is kept, and note which jobs are at the head of the queue now."""
        backfilled = self.heads.backfill(cycle, offers, matching)
        starting = {each.job_id for each in backfilled}
        refused = [each for each in matching.refusals if each.job_id not in starting]
        matches = (*matching.matches, *backfilled)
        if refused:
            self.note_heads(cycle, matches)
        return replace(
            matching, matches=matches, refusals=tuple(refused), considered=len(matches) + len(refused)
        )

    def start_heads(
        self,
        pool: PoolName,
        offers: Sequence[Offer],
        *,
        now_ms: int,
        tokens: Mapping[str, float] | None = None,
        indebted: frozenset[str] = frozenset(),
    ) -> Matching:
        """Decide which jobs at the head of a pool's queue start now, and keep room for the others.

        Args:
            pool: the pool, whose capacity has been seen.
            offers: room there is now, without reservations of preemptions.
            now_ms: the time.
            tokens: number of jobs that users may start now; a user not named is not limited.
            indebted: clusters that may not be sent more tasks now.
        """
        return self.heads.start(self._state(self._of(pool), now_ms, tokens, indebted), offers)

    def note_heads(self, cycle: PoolState, matches: Sequence[Match] = ()) -> None:
        """Let the first jobs of the users who hold least be heads; in FIFO pools the first jobs.

        The ranking will not do: it counts a job's own size, so that a job of the size of a host stands behind
        all small jobs of users who hold less than the host, for as long as these have any.

        Args:
            cycle: the pool.
            matches: jobs that are about to start.
        """
        index = cycle.index
        starting = {each.job_id for each in matches}
        if cycle.is_fair:
            first = _first_jobs_by_share(cycle, starting)
        else:
            ranked = ranked_within(lazily(index, cycle.limits, cycle.cycle.rank), index, cycle.filters)
            ids = (index.job_id(job.row) for job in ranked)
            first = islice((job_id for job_id in ids if job_id not in starting), MAX_HEADS)
        self.heads.note_refused(
            cycle, (job for job in first if may_start(index, job, cycle.limits, cycle.filters)), matches
        )

    def matched_nothing(self, pool: PoolName, *, now_ms: int | None = None) -> None:
        """Note a match cycle that had nothing to match: the next one considers as many jobs as ever.

        Args:
            pool: the pool.
            now_ms: the time, if jobs wait and no host has room for any of them.
        """
        state = self._of(pool)
        state.scaleback = None
        if now_ms is None or not self.heads.is_on:
            return
        index = state.index
        if not self.heads.of(pool) or (
            index.running_count <= _FEW_TASKS
            and _are_unlike(index.least, index.most)
            and not self.heads.needs_room(pool, index)
        ):
            self.note_heads(self._state(state, now_ms))

    def rebalance(
        self,
        pool: PoolName,
        offers: Sequence[Offer],
        settings: PreemptionSettings,
        *,
        now_ms: int,
        ranked: Sequence[JobId] | None = None,
        tokens: Mapping[str, float] | None = None,
    ) -> Rebalancing:
        """Decide which running tasks of a pool give way to which waiting jobs. Changes nothing.

        Args:
            pool: the pool; its capacity has been seen.
            offers: the room there is now, less what is reserved.
            settings: how the pool preempts.
            now_ms: the time.
            ranked: the queue as it was ranked before; None ranks it now.
            tokens: how many jobs users may start now; who is not named is not limited.
        """
        state = self._of(pool)
        if self.heads.is_on:
            offers = self.heads.open_to_preemption(self._state(state, now_ms), offers)
        filters = self._filters(state)
        reserved: Mapping[JobId, ReservedRoom] = NOTHING_RESERVED
        if settings.launch_order:
            filters = replace(filters, tokens=tokens, accepts=self._may_get_room(now_ms))
            reserved = {
                job_id: ReservedRoom(host, self.freed.launch_of(job_id))
                for job_id, host in self.freed.of(pool).items()
            }
            filters = self._unreserved_filters(state, filters)
        return rebalance(
            state.index,
            state.rooms.hosts(offers),
            self.limits_of(pool),
            settings=replace(settings, mode=state.pool.dru_mode, defaults=state.defaults),
            rank=state.cycle.rank,
            filters=filters,
            reserved=reserved,
            surroundings=replace(self._surroundings(state, now_ms), attributes=self._attributes(state)),
            clusters={offer.host: offer.cluster for offer in state.rooms.capacity},
            queue=ranked,
        )

    def reserve(self, pool: PoolName, hosts: Mapping[JobId, str], now_ms: int) -> None:
        """Reserve room for jobs of a pool, in place of what was reserved in it before.

        From now on the jobs count as launched, in this order: whatever else their users start comes later.
        """
        self.freed.put(pool, hosts, lambda: self._of(pool).next_launch(now_ms))

    def _may_get_room(self, now_ms: int) -> Callable[[JobId], bool] | None:
        """What tells for which jobs others may be preempted; None if for all."""
        lapsed, accepts = self.freed.lapsed, self.plugin.accepts(now_ms)
        if not lapsed:
            return accepts
        return lambda job_id: job_id not in lapsed and (accepts is None or accepts(job_id))

    def last_matching(self, pool: PoolName) -> Matching | None:
        """Return what the last match cycle of a pool decided that had something to look at."""
        return self._of(pool).last

    def open_to_all(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return the offers without the room that is reserved for beneficiaries of preemptions."""
        return self.freed.open_to_all(offers, self._asked)

    # --- questions

    def ranked(self, pool: PoolName, limit: int) -> Sequence[JobId]:
        """Return the first waiting jobs of a pool in launch order, those that quotas let start."""
        state = self._of(pool)
        ranked = lazily(state.index, self.limits_of(pool), state.cycle.rank)
        allowed = ranked_within(ranked, state.index, self._filters(state, fitting=False))
        return state.index.ids(job.row for job in islice(allowed, limit))

    def why(
        self,
        job: Job,
        *,
        attempts: int,
        offers: Sequence[Offer],
        now_ms: int,
        rate_enforced: bool = False,
        outages: Sequence[Outage] = (),
    ) -> Sequence[WaitReason]:
        """Say why a job has not started: all that holds now, in Cook's order.

        Args:
            job: of one of the pools, whose capacity has been seen.
            attempts: how many it has used up.
            offers: the room there is now in the pool.
            now_ms: the time.
            rate_enforced: whether launch rates hold jobs back.
            outages: hosts that are out of use.
        """
        state = self._of(job.spec.pool)
        hosts = {offer.host for offer in state.rooms.capacity}
        placement, held_back_by = None, None
        if state.index.is_waiting(job.job_id):
            surroundings = self._surroundings(state, now_ms)
            open_offers = self.heads.open_to(offers, (job.job_id,))
            placement = self._refusal(state, job.job_id, open_offers, surroundings)
            if open_offers is not offers and (placement.resources or placement.constraints):
                free = self._refusal(state, job.job_id, offers, surroundings)
                if not free.resources and not free.constraints:
                    held_back_by = self.heads.in_the_way_of(job.spec.resources, offers)
        facts = Facts(
            attempts=attempts,
            held=state.held.get(job.spec.user, 0) if rate_enforced else None,
            deferred=self.plugin.deferral(job.job_id),
            placement=placement,
            capacity=state.rooms.capacity,
            reserved=self.freed.of(job.spec.pool).get(job.job_id),
            head=self.heads.of(job.spec.pool).get(job.job_id),
            held_back_by=held_back_by,
            outages=[outage for outage in outages if outage.host in hosts],
            now_ms=now_ms,
            filters=self._filters(state, fitting=False),
            defaults=state.defaults,
        )
        return reasons(job, state.index, self.limits_of(job.spec.pool), facts)

    def _refusal(
        self, state: "_Pool", job_id: JobId, offers: Sequence[Offer], surroundings: Surroundings
    ) -> Refusal:
        return placement_of(
            state.index,
            job_id,
            state.rooms.hosts(offers),
            settings=state.cycle.match,
            surroundings=surroundings,
        )

    def index(self, pool: PoolName) -> QueueIndex:
        """Return the columns of a pool, to be read."""
        return self._of(pool).index

    def limits_of(self, pool: PoolName) -> UserLimits:
        """Return the shares and quotas in force in a pool at this moment."""
        return self._limits.of_pool(pool, self.division(pool))

    def division(self, pool: PoolName) -> Division:
        """Return what shares in a pool that nobody set are parts of at this moment."""
        if not self._limits.depend_on_division:
            return UNDIVIDED
        state = self._of(pool)
        alone = state.index.user_count <= 1 or not self._settings.equal_shares
        return Division(whole=state.rooms.whole, parts=1 if alone else max(1, len(state.index.users())))

    def demands_in(self, pool: PoolName, own: tuple[Demand, ...]) -> tuple[Demand, ...]:
        """Return what is demanded of the host of a job with demands of its own in a pool."""
        return demands_in_pool(own, self._of(pool).defaults)

    def user_of(self, pool: PoolName, job_id: JobId) -> str | None:
        """Return whose job it is, if the job is in the queue of the pool."""
        tasks = self._of(pool).index.tasks_of_job(job_id)
        return None if tasks is None else tasks.name

    def is_waiting(self, pool: PoolName, job_id: JobId) -> bool:
        """Tell whether the job waits in the pool."""
        return self._of(pool).index.is_waiting(job_id)

    def users(self) -> set[str]:
        """Return everybody who has a task in some pool."""
        return {user for pool in self._pools.values() for user in pool.index.users()}

    def waiting_count(self, user: str | None = None, pool: PoolName | None = None) -> int:
        """Return how many jobs wait: of a user, of a pool, or of all."""
        pools = self._pools.values() if pool is None else [self._of(pool)]
        if user is None:
            return sum(each.index.waiting_count for each in pools)
        return sum(each.index.waiting_of(user) for each in pools)

    def pool_waiting(self, pool: PoolName) -> int:
        """Return how many jobs wait in a pool."""
        return self._of(pool).index.waiting_count

    # --- what decisions are made by

    def _of(self, name: PoolName) -> "_Pool":
        pool = self._pools.get(name)
        if pool is None:  # it was taken out of the settings; its jobs are still there
            pool = self._pools[name] = _Pool(Pool(name=name, active=False), self._settings)
        return pool

    def _surroundings(self, pool: "_Pool", now_ms: int) -> Surroundings:
        groups = self.placing.placements
        return Surroundings(
            reservations=self.freed.closed() if self.freed else {},
            groups=groups,
            group_hosts=self._group_hosts if groups else None,
            attributes=self._attributes(pool) if groups else {},
            now_ms=now_ms,
        )

    def _group_hosts(self, group: GroupId) -> Mapping[str, int]:
        """Return the hosts of a group's running tasks; the jobs of a group may be in several pools."""
        by_pool = [hosts for index in self._indexes() if (hosts := index.group_hosts(group))]
        if len(by_pool) <= 1:
            return by_pool[0] if by_pool else {}
        return sum((Counter(hosts) for hosts in by_pool), Counter())

    def _attributes(self, pool: "_Pool") -> Mapping[str, Mapping[str, str]]:
        """Return the attributes of hosts: of a pool, and of the others, whose tasks may be of its groups."""
        if len(self._pools) == 1:
            return pool.rooms.attributes
        others = (each.rooms.attributes for each in self._pools.values() if each is not pool)
        return ChainMap(pool.rooms.attributes, *others)

    def _unreserved_limits(self, pool: "_Pool", limits: UserLimits) -> UserLimits:
        """Return the limits of users without what jobs with reserved room will use."""
        quotas = {
            user: limits.quota(user).less(usage)
            for user, usage in self._reserved_usage(pool).items()
            if limits.quota(user).limits_usage
        }
        return replace(limits, quotas={**limits.quotas, **quotas}) if quotas else limits

    def _unreserved_filters(self, pool: "_Pool", filters: QueueFilters) -> QueueFilters:
        """Return the filters for all jobs but those with reserved room: these count as started.

        Other jobs of a placed group wait until the group's job with reserved room has started.
        """
        by_user = self._reserved_usage(pool)
        if not by_user and not filters.group_quota.limits_usage:
            return filters
        group_usage = filters.group_usage
        for member in self._pools.values():
            if pool.group is not None and member.group == pool.group:
                group_usage = sum(self._reserved_usage(member).values(), group_usage)
        tokens = filters.tokens and {
            user: number - by_user.get(user, Usage()).count for user, number in filters.tokens.items()
        }
        return replace(
            filters,
            pool_quota=filters.pool_quota.less(sum(by_user.values(), Usage())),
            group_usage=group_usage,
            tokens=tokens,
            accepts=self._apart_from_groups(pool, filters.accepts),
        )

    def _apart_from_groups(
        self, pool: "_Pool", accepts: Callable[[JobId], bool] | None
    ) -> Callable[[JobId], bool] | None:
        groups = {
            each.index.group_of(job_id)
            for each in self._pools.values()
            for job_id in self.freed.of(each.pool.name)
            if each.index.is_waiting(job_id)
        } - {None}
        if not groups:
            return accepts
        return lambda job_id: (
            pool.index.group_of(job_id) not in groups and (accepts is None or accepts(job_id))
        )

    def _reserved_usage(self, pool: "_Pool") -> dict[str, Usage]:
        """Return what jobs with reserved room will use, by user; nothing where whole hosts are closed."""
        usage: dict[str, Usage] = {}
        if self.freed and not self.freed.closes_hosts:
            for job_id in self.freed.of(pool.pool.name):
                user = self.user_of(pool.pool.name, job_id)
                if user is not None and pool.index.is_waiting(job_id):
                    usage[user] = usage.get(user, Usage()) + pool.index.asked(job_id)
        return usage

    def _state(
        self,
        pool: "_Pool",
        now_ms: int,
        tokens: Mapping[str, float] | None = None,
        indebted: frozenset[str] = frozenset(),
    ) -> PoolState:
        """Return a pool as its match cycle finds it."""
        name = pool.pool.name
        filters = replace(self._filters(pool), tokens=tokens, accepts=self.plugin.accepts(now_ms))
        return PoolState(
            name=name,
            index=pool.index,
            rooms=pool.rooms,
            limits=self._unreserved_limits(pool, self.limits_of(name)),
            filters=self._unreserved_filters(pool, filters),
            surroundings=self._surroundings(pool, now_ms),
            cycle=pool.cycle,
            indebted=indebted,
            reserved=self.freed.of(name),
        )

    def _indexes(self) -> Iterable[QueueIndex]:
        return [pool.index for pool in self._pools.values()]

    def _promised(self, host: str) -> Amounts:
        """Return what is reserved on a host for beneficiaries of preemptions."""
        if not self.freed:
            return NOTHING
        return sum_of(
            asked_by(ask_of(pool.index, pool.index.row_of(job_id)))
            for name, pool in self._pools.items()
            for job_id, reserved in self.freed.of(name).items()
            if reserved == host and pool.index.is_waiting(job_id)
        )

    def _asked(self, pool: PoolName, job_id: JobId) -> Resources:
        asked = self._of(pool).index.asked(job_id)
        return Resources(cpus=asked.cpus, mem_mb=asked.mem_mb, gpus=asked.gpus)

    def _filters(self, pool: "_Pool", *, fitting: bool = True) -> QueueFilters:
        """What keeps jobs out of the queue.

        With `fitting`, also what is larger than the largest host. It can never start; and a host that
        launches ahead offers more room than it has.
        """
        settings, largest = self._settings, pool.rooms.largest
        known = fitting and settings.placement.leave_out_too_large and bool(pool.rooms.capacity)
        group_usage = Usage()
        group_quota = UNLIMITED_QUOTA
        if pool.group is not None and pool.group_quota.limits_usage:
            members = [each for each in self._pools.values() if each.group == pool.group]
            used = {each.pool.name: each.index.pool_usage() for each in members}
            group_usage = group_usages(settings.quota_groups, used).get(pool.group, Usage())
            if settings.group_quota_when_idle or group_usage.count:
                group_quota = pool.group_quota
        return QueueFilters(
            pool_quota=pool.quota,
            group_quota=group_quota,
            group_usage=group_usage,
            max_cpus=min(settings.max_cpus, largest.cpus) if known else settings.max_cpus,
            max_mem_mb=min(settings.max_mem_mb, largest.mem_mb) if known else settings.max_mem_mb,
        )


def _first_jobs_by_share(cycle: PoolState, starting: Container[JobId]) -> Iterator[JobId]:
    """Yield each user's first waiting jobs, of the user first who holds least of the share.

    Args:
        cycle: the pool.
        starting: jobs that are about to start.
    """
    index, filters, columns = cycle.index, cycle.filters, cycle.index.columns
    max_cpus = inf if filters.max_cpus is None else filters.max_cpus
    max_mem_mb = inf if filters.max_mem_mb is None else filters.max_mem_mb
    waiting = [tasks for tasks in index.by_name() if tasks.waiting_count]
    held = {tasks.name: held_dru(tasks.name, index, cycle.limits, cycle.mode) for tasks in waiting}
    for tasks in sorted(waiting, key=lambda tasks: held[tasks.name]):  # stable: then by name
        too_large = tasks.too_large(max_cpus, max_mem_mb, columns.cpus, columns.mem)
        ids = (index.job_id(row) for row in tasks.iter_waiting(too_large))
        yield from islice((job_id for job_id in ids if job_id not in starting), _JOBS_OF_A_USER)


class _Pool:
    """One pool: its queue, its hosts, and what it decides by."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self.index = QueueIndex()
        self.rooms = Rooms()
        self.scaleback: Scaleback | None = None
        self.held: Mapping[str, int] = {}  # jobs of users that the launch rate held back in the last cycle
        self.last: Matching | None = None  # the last match cycle that had something to look at
        self.tried: dict[JobId, Job] = {}  # they wait, and have been on some host
        self._last_launch = 0
        self.group = settings.quota_groups.get(pool.name)
        self.quota = _quota_of(settings, pool.name)
        self.group_quota = UNLIMITED_QUOTA if self.group is None else _quota_of(settings, self.group)
        placement = settings.placement
        completion = placement.completion
        added = first_found(pool.name, ((own.pool_regex, own) for own in placement.default_constraints))
        self.defaults = PoolDefaults(
            constraints=() if added is None else added.constraints,
            rewritings=placement.rewritings,
            novel_host=placement.avoid_failed_hosts != "never",
            max_tasks_per_host=placement.max_tasks_per_host,
        )
        if completion is not None:
            self.defaults = replace(
                self.defaults,
                host_lifetime_ms=completion.host_lifetime_ms,
                host_start_grace_ms=completion.grace_ms,
                expected_runtime_multiplier=completion.expected_runtime_multiplier,
            )
        self.cycle = CycleSettings(
            rank=RankSettings(
                order=Order(settings.order),
                mode=pool.dru_mode,
                max_over_quota_jobs=settings.max_over_quota_jobs,
            ),
            match=MatchSettings(good_enough=settings.good_enough, defaults=self.defaults),
            max_considered=settings.max_considered,
            scaleback=settings.scaleback,
        )

    def next_launch(self, now_ms: int) -> int:
        """Return a launch number above all that were returned before, also if the clock was set back."""
        self._last_launch = max(self._last_launch + 1, launch_number(now_ms))
        return self._last_launch


_JOBS_OF_A_USER: Final = 4  # that may become a head: the first may not be allowed to start, or fit nowhere
_FEW_TASKS: Final = 2000  # running, up to which the head of a queue is looked for though no host has room


_ALIKE: Final = 1.02  # amounts of waiting jobs are known to eight binary digits


def _are_unlike(least: tuple[float, float], most: tuple[float, float]) -> bool:
    """Return whether some jobs ask for more than others."""
    return least[0] * _ALIKE < most[0] or least[1] * _ALIKE < most[1]


def _quota_of(settings: Settings, name: str) -> Quota:
    """The quota of a pool, or of a quota group: of the first entry that finds its name."""
    found = first_found(name, ((quota.pool_regex, quota) for quota in settings.pool_quotas))
    if found is None:
        return UNLIMITED_QUOTA
    return Quota(count=found.count, cpus=found.cpus, mem_mb=found.mem, gpus=found.gpus)
