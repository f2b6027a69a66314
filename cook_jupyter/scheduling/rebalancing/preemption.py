"""Preemption: whose running tasks give way to whose waiting jobs.

Lives here: `rebalance`, the cycle; `RebalanceState`, one decision after the other; `PreemptionSettings`; the
reservations that follow.
Not here: the rules that an operator may change (`scheduling.rebalancing.rules`), the queue
(`scheduling.ranking.ranking`), stopping anything (`service.cycles.rebalance_cycle`).

Source: Cook's `rebalancer.clj`, as told in the fair-share specification, sections 6 and 15.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from math import inf
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from cook_jupyter.model.decisions import Preemption, Rebalancing
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UNLIMITED, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.arrays import Floats
from cook_jupyter.scheduling.constraints.constraints import NO_JOB_CONSTRAINTS, PoolDefaults
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import request_of, with_groups
from cook_jupyter.scheduling.queue.preemption_history import NEVER_PREEMPTED
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.considerable import NO_FILTERS, QueueFilters, ranked_within
from cook_jupyter.scheduling.ranking.ranking import RANK_DEFAULTS, Mask, RankSettings, iter_ranked_in_columns
from cook_jupyter.scheduling.rebalancing.beneficiaries import BeneficiaryQueue
from cook_jupyter.scheduling.rebalancing.candidates import RebalanceHosts
from cook_jupyter.scheduling.rebalancing.rules import COOK_RULES, PreemptionRules
from cook_jupyter.scheduling.rebalancing.task_drus import TaskDrus
from cook_jupyter.scheduling.rebalancing.victims import VictimTable, VictimThreshold


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionSettings(PreemptionRules):
    """How one pool preempts: the rules that apply, and what follows from the pool.

    Attributes:
        mode: the resources that the DRU counts.
        defaults: host constraints that the pool adds to those of its jobs.
    """

    mode: DruMode = DruMode.DEFAULT
    defaults: PoolDefaults = field(default_factory=PoolDefaults)

    @classmethod
    def from_rules(
        cls, rules: PreemptionRules, *, mode: DruMode, defaults: PoolDefaults
    ) -> "PreemptionSettings":
        """Return the settings of a pool to which rules apply."""
        values = {rule.name: getattr(rules, rule.name) for rule in fields(PreemptionRules)}
        return cls(**values, mode=mode, defaults=defaults)

    @classmethod
    def cook(
        cls,
        *,
        safe_dru_threshold: float = 1.0,
        min_dru_diff: float = 0.5,
        max_preemption: int = 100,
        mode: DruMode = DruMode.DEFAULT,
        defaults: PoolDefaults | None = None,
    ) -> "PreemptionSettings":
        """Return the settings with which every decision is Cook's."""
        return cls(
            safe_dru_threshold=safe_dru_threshold,
            min_dru_diff=min_dru_diff,
            max_preemption=max_preemption,
            mode=mode,
            defaults=defaults or PoolDefaults(),
            **COOK_RULES,
        )


PREEMPTION_DEFAULTS: Final = PreemptionSettings()

_DECIMALS: Final = 6  # to which clusters round the room of a host: sums of fractions must come out even
_LAST_DECIMAL: Final = 10.0**-_DECIMALS
_HOSTS_TRIED: Final = 32  # for one job, before none gives way for it


class ReservedRoom(NamedTuple):
    """Room that an earlier cycle freed for a job that has not started yet.

    Attributes:
        host: the host.
        launch: launch number of the job, from the moment of the decision (`columns.launch_number`).
    """

    host: str
    launch: int


NOTHING_RESERVED: Final[Mapping[JobId, ReservedRoom]] = MappingProxyType({})


def rebalance(  # noqa: PLR0913 all that bears on a decision, as in the match cycle
    index: QueueIndex,
    hosts: Hosts,
    limits: UserLimits,
    *,
    settings: PreemptionSettings = PREEMPTION_DEFAULTS,
    rank: RankSettings = RANK_DEFAULTS,
    filters: QueueFilters = NO_FILTERS,
    placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
    clusters: Mapping[str, str] | None = None,
    queue: Iterable[JobId] | None = None,
    reserved: Mapping[JobId, ReservedRoom] = NOTHING_RESERVED,
) -> Rebalancing:
    """Decide which running tasks give way to which waiting jobs. Changes nothing.

    Args:
        index: the pool's waiting jobs and running tasks.
        hosts: the spare room. A host without any may be here too, with no room: that tells what it is like.
        limits: shares and quotas of the pool's users.
        settings: how the pool preempts; its mode counts, not that of `rank`.
        rank: how the pool ranks, as in the match cycle.
        filters: what leaves jobs out of the queue, as in the match cycle.
        placement_context: the time (to tell how much work a task would lose), groups, attributes of hosts
        that are
            not among `hosts`. Reservations do not bear on preemption.
        clusters: host -> cluster, of hosts that are not among `hosts`.
        queue: the jobs as they were ranked before, for instance by the match cycle that went before; those
            that wait no longer are passed over. None: they are ranked now.
        reserved: waiting jobs for which room was freed by earlier cycles. They count as held by their users,
            and nothing more is decided for them; the room is not part of that of `hosts`.
    """
    most = min(settings.max_preemption, index.waiting_count)
    if not most or (settings.mode is DruMode.GPU and not settings.gpu_pools):
        return Rebalancing()
    state = RebalanceState(
        index,
        hosts,
        limits,
        settings,
        placement_context=placement_context,
        clusters=clusters,
        reserved=reserved,
    )
    if queue is None:
        ranked = iter_ranked_in_columns(index, limits, replace(rank, mode=settings.mode), number=most)
        candidates = iter(index.ids(job.row for job in ranked_within(ranked, index, filters)))
    else:
        candidates = filter(index.is_waiting, queue)
    if settings.launch_order:
        candidates = _startable(candidates, index, filters, reserved)
    preemptions = tuple(islice(decisions(state, list(islice(candidates, most))), most))
    return Rebalancing(
        preemptions=preemptions,
        reservations=reservations_after(
            preemptions, reserve_from=settings.reserve_from, leftovers=settings.launch_order
        ),
    )


def decisions(state: "RebalanceState", jobs: Iterable[JobId]) -> Iterator[Preemption]:
    """Yield what is decided for the jobs, each decision with those before it in force.

    Cook takes the jobs in turn; otherwise the next is always of the user who is furthest below share.
    """
    if state.settings.launch_order:
        queue = BeneficiaryQueue(state, jobs)
        while (following := queue.pop()) is not None:
            job_id, dru = following
            decision = state.decide(job_id, dru)
            if decision is None:
                queue.pass_over(job_id)
            else:
                state.advance(decision)
                queue.follow(decision, state.room_on(decision.host))
                yield decision
        return
    for job_id in jobs:
        decision = state.decide(job_id)
        if decision is not None:
            state.advance(decision)
            yield decision


def _startable(
    jobs: Iterable[JobId], index: QueueIndex, filters: QueueFilters, reserved: Mapping[JobId, ReservedRoom]
) -> Iterator[JobId]:
    """Yield the jobs that may start as soon as there is room: by the launch rate and the launch filter."""
    tokens = None if filters.tokens is None else dict(filters.tokens)
    for job_id in (*reserved, *jobs) if tokens is not None else jobs:
        if tokens is not None and index.is_waiting(job_id):
            user = index.owner(index.row_of(job_id)).name
            tokens[user] = tokens.get(user, inf) - 1
            if tokens[user] < 0:
                continue
        if job_id not in reserved and (filters.accepts is None or filters.accepts(job_id)):
            yield job_id


def reservations_after(
    preemptions: Iterable[Preemption],
    launched: Collection[JobId] = (),
    *,
    reserve_from: int = 1,
    leftovers: bool = False,
) -> dict[JobId, str]:
    """Return which host is kept for which job after a cycle; this replaces what was reserved before.

    Args:
        preemptions: what the cycle decided.
        launched: jobs that were launched meanwhile.
        reserve_from: from how many victims on a host is reserved.
        leftovers: whether a host is also reserved for jobs in the room that others' victims leave there.
    """
    reserved: dict[JobId, str] = {}
    freed: set[str] = set()
    for made in preemptions:
        stopped = len(made.victims) + len(made.displaced)
        if stopped:
            freed.add(made.host)
        if leftovers:
            for displaced in made.displaced:
                reserved.pop(displaced, None)
        if made.beneficiary not in launched and (
            stopped >= reserve_from or (leftovers and made.host in freed)
        ):
            reserved[made.beneficiary] = made.host
    return reserved


class RebalanceState:
    """What one rebalance cycle has decided so far, and what follows from it.

    Args: see `rebalance`.
    """

    def __init__(
        self,
        index: QueueIndex,
        hosts: Hosts,
        limits: UserLimits,
        settings: PreemptionSettings = PREEMPTION_DEFAULTS,
        *,
        placement_context: PlacementContext = NO_PLACEMENT_CONTEXT,
        clusters: Mapping[str, str] | None = None,
        reserved: Mapping[JobId, ReservedRoom] = NOTHING_RESERVED,
    ) -> None:
        self._index = index
        self.settings = settings
        self._last_ask: tuple[int, TaskRequest] | None = (
            None  # by row: it is put in force right after its decision
        )
        self._least_known: tuple[TaskRequest, tuple[float, float, float]] | None = None  # of the last job
        limit = settings.max_preemptions_per_hour
        spared = [
            row
            for row, history in index.preemptions.items()
            if limit is not None and history.count_within_hour(placement_context.now_ms) >= limit
        ]
        spared.extend(index.uninterrupted)
        self._standings = TaskDrus(
            index,
            limits,
            settings.mode,
            placement_context.now_ms,
            launch_order=settings.launch_order,
            spared_rows=spared,
        )
        on = index.hosts_of(self._standings.rows)
        self._hosts = RebalanceHosts(
            hosts,
            frozenset(on),
            defaults=settings.defaults,
            placement_context=with_groups(placement_context, index),
            clusters=clusters or {},
            spare_hosts_known=settings.spare_hosts_known,
            groups_apart=settings.groups_apart,
        )
        position = self._hosts.position
        spare: list[Resources | None] = [None] * len(position)
        for offer in hosts.offers:
            spare[position[offer.host]] = offer.room
        self._table = VictimTable(
            self._standings,
            [position[host] for host in on],
            spare,
            least_work_lost=settings.least_work_lost,
            freed_gpus_count=settings.freed_gpus_count,
        )
        if settings.launch_order:
            for job_id, room in reserved.items():
                if index.is_waiting(job_id):
                    self._hold(job_id, room)

    def _hold(self, job_id: JobId, room: ReservedRoom) -> None:
        """Count a job for which room is reserved as held by its user, and as placed on the host."""
        row = self._index.row_of(job_id)
        if room.host in self._hosts.position:
            self._hosts.placed(request_of(self._index, row), room.host)
        self._standings.rescore((), self._standings.place(row, room.launch))

    @property
    def spare(self) -> dict[str, Resources]:
        """The spare room of each host that has an entry for it."""
        return {
            offer.host: room
            for offer, room in zip(self._hosts.offers, self._table.spare, strict=True)
            if room is not None
        }

    def order(self) -> list[tuple[JobId, float]]:
        """Return all tasks with their DRU, from the highest down; placed jobs are among them."""
        tasks = self._standings.all_tasks()
        self._table.sort(tasks)  # tasks that may not be preempted are last
        scores = map(self._standings.score_of, tasks)
        return list(zip(self._jobs(tasks), scores, strict=True))

    def pending_dru(self, job_id: JobId) -> float:
        """Return how far along its user's share the job would be if it ran; in Cook's order at most."""
        return self._standings.pending_dru(self._index.row_of(job_id))

    def room_on(self, host: str) -> Resources:
        """Return the spare room on a host as the decisions leave it."""
        return self._table.spare[self._hosts.position[host]] or Resources()

    def requests_of(self, jobs: Sequence[JobId]) -> tuple[Floats, Floats, Floats]:
        """Return the cpus, memory and gpus that jobs ask for."""
        rows = list(map(self._index.row_of, jobs))
        columns = self._index.columns
        return columns.cpus[rows], columns.mem[rows], columns.gpus[rows]

    def user_of(self, job_id: JobId) -> str:
        """Return the user of a job."""
        return self._index.owner(self._index.row_of(job_id)).name

    def is_below_quota(self, job_id: JobId) -> bool:
        """Tell whether the job's user stays within quota if the job runs as well."""
        return self._standings.is_below_quota(self._index.row_of(job_id))

    def decide(self, job_id: JobId, dru: float | None = None) -> Preemption | None:
        """Say whose tasks should give way to the job; None if nobody's should.

        Args:
            job_id: a waiting job.
            dru: what `pending_dru` says of it, if that is known.

        Raises:
            NotFound: the index does not have the job.
        """
        settings = self.settings
        if settings.mode is DruMode.GPU and not settings.gpu_pools:
            return None
        row = self._index.row_of(job_id)
        request = self._ask_of(row)
        open_to = self._hosts.open_to_class(request.constraints, request.gpus)
        user = None if self._standings.is_below_quota(row) else self._standings.user_of(row)
        if user is None or not settings.quota_counts:
            roomy = self._with_spare_room(request, open_to)
            if roomy is not None:
                return self._decision(request, roomy, [], self._standings.dru)
        pending = self._standings.pending_dru(row) if dru is None else dru
        least = VictimThreshold(settings.safe_dru_threshold, pending, settings.min_dru_diff)
        if settings.launch_order:
            decision = self._lasting(request, least, open_to) if user is None else None
            others = least if user is None and self._lost_ms_limit(pending) is None else None
            return decision or self._with_own_tasks(request, row, others, open_to)
        if user is not None:
            own = self._own_tasks(user, least)
            return self._cheapest(request, self._best_of_own(request, own, open_to), own)
        return self._cheapest(request, self._best(request, least, open_to), self._table.at)

    def advance(self, decision: Preemption) -> None:
        """Put a decision in force for those that follow."""
        row = self._index.row_of(decision.beneficiary)
        request = self._ask_of(row)
        at = self._hosts.position[decision.host]
        going = {self._index.row_of(job) for job in (*decision.victims, *decision.displaced)}
        stopped = [task for task in self._table.at[at] if self._standings.rows[task] in going]
        for task in stopped:
            job_constraints = self._index.job_constraints.get(self._standings.rows[task], NO_JOB_CONSTRAINTS)
            self._hosts.preempted(job_constraints.group, decision.host)
            self._standings.stop(task)
        # What stopped tasks of its own user keeps its place: such steps are bounded only by jobs that start.
        user = self._standings.user_of(row)
        steps_for_own = any(self._standings.users[task] == user for task in stopped)
        placed = self._standings.place(row, firm=self.settings.launch_order and steps_for_own)
        self._hosts.placed(request, decision.host)
        spare = decision.freed - Resources(cpus=request.cpus, mem_mb=request.mem_mb, gpus=request.gpus)
        changed = self._standings.rescore(stopped, placed)
        self._table.advance(at, stopped, placed, spare, changed)

    # --- hosts

    def _ask_of(self, row: int) -> TaskRequest:
        """Return what the job of a row asks of a host."""
        known = self._last_ask
        if known is None or known[0] != row:
            limited = self.settings.defaults if self._hosts.is_limited else None
            known = self._last_ask = (row, request_of(self._index, row, limited))
        return known[1]

    def _with_spare_room(self, request: TaskRequest, open_to: Mask | None) -> int | None:
        """The last host by name that has room for the job as it is."""
        positions = self._table.with_spare_room(*self._least_room(request))
        if open_to is not None:
            positions = positions[open_to[positions]]
        if request.job_constraints is NO_JOB_CONSTRAINTS:
            return int(positions[-1]) if len(positions) else None
        return next((at for at in positions[::-1].tolist() if self._hosts.takes(request, at)), None)

    def _best(self, request: TaskRequest, least: VictimThreshold, open_to: Mask | None) -> Collection[int]:
        """The hosts where the nearest of the victims to its share is as far along as anywhere."""
        wanted = self._least_room(request)
        if request.job_constraints is NO_JOB_CONSTRAINTS:
            return self._table.best(*wanted, least, open_to)
        scores = self._table.scores(*wanted, least)
        if open_to is not None:
            scores[~open_to] = -inf
        while len(scores) and (best := scores.max()) > -inf:
            positions = np.flatnonzero(scores == best)
            taking = [at for at in positions.tolist() if self._hosts.takes(request, at)]
            if taking:
                return taking
            scores[positions] = -inf
        return ()

    def _lasting(
        self, request: TaskRequest, least: VictimThreshold, open_to: Mask | None
    ) -> Preemption | None:
        """Let tasks of other users give way, on a host where that lasts and is worth what it destroys.

        With several victims of one user gone, the first of them may be further below the share than before,
        and further than the beneficiary: it would take its room back at once.
        """
        for _ in range(_HOSTS_TRIED):
            positions = self._best(request, least, open_to)
            decision = self._cheapest(request, positions, self._table.at)
            if decision is None or (
                self._lasts(decision, least) and self._is_worth(decision, request, least.pending)
            ):
                return decision
            open_to = np.ones(len(self._table.at), dtype=bool) if open_to is None else open_to.copy()
            open_to[self._hosts.position[decision.host]] = False
        return None

    def _lasts(self, decision: Preemption, least: VictimThreshold) -> bool:
        """Return whether no victim could preempt the beneficiary after the decision."""
        stopped = (*decision.victims, *decision.displaced)
        if least.pending < least.safe or len(stopped) == 1:
            return True
        rows = [self._index.row_of(job_id) for job_id in stopped]
        return not any(least.pending - self._standings.dru_after(row, rows) > least.by for row in rows)

    def _is_worth(self, decision: Preemption, request: TaskRequest, pending: float) -> bool:
        """Return whether the work that is lost is worth the start of a job with that DRU.

        Within its user's share a job is entitled to room, whatever that costs. Beyond it, what ends by itself
        makes room soon enough, and whoever is furthest below share gets it first.
        """
        limit_ms = self._lost_ms_limit(pending)
        if limit_ms is None:
            return True
        stopped = {self._index.row_of(job_id) for job_id in decision.victims}
        standings, tasks = self._standings, self._table.at[self._hosts.position[decision.host]]
        lost = sum(standings.work[task] for task in tasks if standings.rows[task] in stopped)
        return lost <= limit_ms * (request.gpus if self.settings.mode is DruMode.GPU else request.cpus)

    def _lost_ms_limit(self, pending: float) -> int | None:
        return self.settings.max_lost_ms_beyond_share if pending > self.settings.safe_dru_threshold else None

    def _own_tasks(self, user: int, least: VictimThreshold) -> dict[int, list[int]]:
        """The tasks of one user that may be preempted, by host, from the highest DRU down."""
        own: dict[int, list[int]] = {}
        for task in reversed(self._standings.own(user)):
            if self._standings.is_spared(task):
                continue
            if not least.allows(self._standings.dru[task]):
                break  # those before it are no further along
            own.setdefault(self._table.position_of(task), []).append(task)
        for tasks in own.values():
            self._table.sort(tasks)
        return own

    def _with_own_tasks(
        self, request: TaskRequest, row: int, others: VictimThreshold | None, open_to: Mask | None
    ) -> Preemption | None:
        """Let tasks of lower priority of the job's own user give way, with those of others there if need be.

        Only the user's own order is at stake here, so tasks are scored in order of priority. A job that gave
        way to another user's stops no tasks of its own user any more: else such steps need never end.

        Args:
            request: the job.
            row: its row in the index.
            others: which tasks of others may be preempted as well; None if none may.
            open_to: which hosts come into question, by position; None if all do.
        """
        standings, settings = self._standings, self.settings
        pending, behind = standings.own_of_lower_priority(row)
        if not behind or self._index.preemptions.get(row, NEVER_PREEMPTED).by_others:
            return None
        least = VictimThreshold(settings.safe_dru_threshold, pending, settings.min_dru_diff)
        scores = {task: dru for task, dru in behind if least.allows(dru)}
        tasks: dict[int, list[int]] = {}
        for task in scores:
            tasks.setdefault(self._table.position_of(task), []).append(task)
        for at, stoppable in tasks.items():
            if others is not None:
                theirs = [task for task in self._table.at[at] if others.allows(standings.dru[task])]
                scores.update((task, standings.dru[task]) for task in theirs)
                stoppable.extend(theirs)
            stoppable.sort(key=lambda task: (-scores[task], standings.work[task], standings.ties[task]))
        return self._cheapest(request, self._best_of_own(request, tasks, open_to, scores), tasks, scores)

    def _best_of_own(
        self,
        request: TaskRequest,
        own: Mapping[int, list[int]],
        open_to: Mask | None,
        drus: Mapping[int, float] | Sequence[float] | None = None,
    ) -> Collection[int]:
        """What `_best` says, if only these tasks may be preempted."""
        drus = self._standings.dru if drus is None else drus
        scores: dict[int, float] = {}
        for at, tasks in own.items():
            if (open_to is None or open_to[at]) and self._hosts.takes(request, at):
                length = self._shortest(request, at, tasks)
                if length is not None:
                    scores[at] = drus[tasks[length - 1]]
        best = max(scores.values(), default=0.0)
        return [at for at, dru in scores.items() if dru == best]

    # --- victims

    def _cheapest(
        self,
        request: TaskRequest,
        positions: Collection[int],
        tasks: Sequence[list[int]] | Mapping[int, list[int]],
        drus: Mapping[int, float] | Sequence[float] | None = None,
    ) -> Preemption | None:
        """The decision for that host of equals where it costs least, or for the last of them by name."""
        if not positions:
            return None
        drus = self._standings.dru if drus is None else drus
        if len(positions) == 1 or not self.settings.least_work_lost:
            at = max(positions)
            return self._decision(request, at, self._victims(request, at, tasks[at], drus), drus)
        work = self._standings.work
        found = {at: self._victims(request, at, tasks[at], drus) for at in positions}
        at = min(found, key=lambda at: (sum(work[task] for task in found[at]), -at))
        return self._decision(request, at, found[at], drus)

    def _victims(
        self, request: TaskRequest, at: int, tasks: Sequence[int], dru: Mapping[int, float] | Sequence[float]
    ) -> list[int]:
        """Which of the tasks on a host give way. The first of them make room enough."""
        settings = self.settings
        length = self._shortest(request, at, tasks) or 0
        if not settings.shortest_prefix:
            while length < len(tasks) and dru[tasks[length]] == dru[tasks[length - 1]]:
                length += 1
        victims = list(tasks[:length])
        if not settings.drop_unneeded:
            return victims
        dropping = victims[::-1]
        if settings.least_work_lost:
            dropping.sort(key=lambda task: -self._standings.work[task])
        for task in dropping:
            others = [other for other in victims if other != task]
            if self._fits(request, self._freed(at, others)) and self._is_within_quota(request, others):
                victims = others
        return victims

    def _shortest(self, request: TaskRequest, at: int, tasks: Sequence[int]) -> int | None:
        """How many of the tasks, from the first on, must go to make room; None if all are not enough."""
        for length, freed in enumerate(self._freeing(at, tasks)):
            if length and self._fits(request, freed) and self._is_within_quota(request, tasks[:length]):
                return length
        return None

    def _is_within_quota(self, request: TaskRequest, stopped: Sequence[int]) -> bool:
        """Tell whether the job's user would be within quota without these tasks, if that counts."""
        if not self.settings.quota_counts:
            return True
        row = self._index.row_of(request.job_id)
        below = self._standings.is_below_quota
        return below(row) or below(row, without=stopped)

    def _freed(self, at: int, tasks: Sequence[int]) -> tuple[float, float, float]:
        """What there is on a host without the tasks: cpus, memory, gpus."""
        *_, freed = self._freeing(at, tasks)
        return freed

    def _freeing(self, at: int, tasks: Sequence[int]) -> Iterator[tuple[float, float, float]]:
        """What there is on a host, then what there is without the first task, and so on."""
        standings = self._standings
        spare = self._table.spare[at] or Resources()
        cpus, mem, gpus = spare.cpus, spare.mem_mb, spare.gpus
        yield cpus, mem, gpus
        for task in tasks:
            cpus += standings.cpus[task]
            mem += standings.mem[task]
            if self.settings.freed_gpus_count:
                gpus += standings.gpus[task]
            yield cpus, mem, gpus

    def _least_room(self, request: TaskRequest) -> tuple[float, float, float]:
        """Return the cpus, memory and gpus that a sum of room and victims must come to."""
        if not self.settings.launch_order:
            return request.cpus, request.mem_mb, request.gpus
        known = self._least_known
        if known is None or known[0] is not request:
            gpus = _least_sum(request.gpus) if request.gpus else 0.0
            known = self._least_known = (
                request,
                (_least_sum(request.cpus), _least_sum(request.mem_mb), gpus),
            )
        return known[1]

    def _fits(self, request: TaskRequest, room: tuple[float, float, float]) -> bool:
        cpus, mem, gpus = self._least_room(request)
        return cpus <= room[0] and mem <= room[1] and gpus <= room[2]

    def _decision(
        self, request: TaskRequest, at: int, tasks: Sequence[int], drus: Mapping[int, float] | Sequence[float]
    ) -> Preemption:
        offer = self._hosts.offers[at]
        cpus, mem, gpus = self._freed(at, tasks)
        return Preemption(
            beneficiary=request.job_id,
            host=offer.host,
            cluster=offer.cluster,
            victims=tuple(self._jobs(task for task in tasks if task < self._standings.running)),
            displaced=tuple(self._jobs(task for task in tasks if task >= self._standings.running)),
            dru=min((drus[task] for task in tasks), default=UNLIMITED),
            freed=Resources(cpus=cpus, mem_mb=mem, gpus=gpus),
        )

    def _jobs(self, tasks: Iterable[int]) -> list[JobId]:
        return self._index.ids(self._standings.rows[task] for task in tasks)


def _least_sum(amount: float) -> float:
    """Return the least sum of amounts that clusters offer as room for this amount: they round sums."""
    if amount.is_integer():
        return amount - _LAST_DECIMAL / 2
    rounded = round(amount, _DECIMALS)
    return (rounded if rounded >= amount else rounded + _LAST_DECIMAL) - _LAST_DECIMAL / 2
