"""Preemption: which running tasks are stopped for which waiting jobs.

Lives here: `rebalance`, the cycle; `RebalanceState`, which makes one decision after the other;
`PreemptionSettings`, which contain all deviations from Cook; the resulting reservations.
Not here: the queue (`scheduling.ranking.ranking`), stopping tasks (`service.cycles`).

Source: Cook's `rebalancer.clj`, as described in the fair-share specification, sections 6 and 15.
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
    """Settings of preemption in a pool: the rules that apply, and two properties of the pool.

    The defaults improve on Cook; `cook` gives Cook's behaviour exactly.

    Attributes:
        mode: resources that count in the DRU.
        defaults: demands that the pool adds to those of its jobs.
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
        """Return the settings that reproduce every decision of Cook."""
        return cls(
            safe_dru_threshold=safe_dru_threshold,
            min_dru_diff=min_dru_diff,
            max_preemption=max_preemption,
            mode=mode,
            defaults=defaults or PoolDefaults(),
            **COOK_RULES,
        )


PREEMPTION_DEFAULTS: Final = PreemptionSettings()

_DECIMALS: Final = 6  # to which clusters round the room of a host, because sums of fractions are not exact
_LAST_DECIMAL: Final = 10.0**-_DECIMALS
_HOSTS_TRIED: Final = 32  # per job


class ReservedRoom(NamedTuple):
    """Room that an earlier cycle freed for a job that has not started yet.

    Attributes:
        host: the host.
        launch: launch number of the job, as of the decision (`queue_index.launch_number`).
    """

    host: str
    launch: int


NOTHING_RESERVED: Final[Mapping[JobId, ReservedRoom]] = MappingProxyType({})


def rebalance(  # noqa: PLR0913 everything that a decision reads, as in the match cycle
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
    """Decide which running tasks are preempted for which waiting jobs; no argument is changed.

    Args:
        index: the pool's waiting jobs and running tasks.
        hosts: hosts with their spare room; hosts without any may be included for their attributes.
        limits: shares and quotas of the pool's users.
        settings: settings of preemption; their mode is used, not that of `rank`.
        rank: settings of the ranking, as in the match cycle.
        filters: filters of the queue, as in the match cycle.
        placement_context: the time (for the work that a task would lose), groups, and attributes of hosts
            that are not among `hosts`. Reservations are ignored.
        clusters: host -> cluster, for hosts that are not among `hosts`.
        queue: the ranked jobs, for instance from the last match cycle; those that do not wait any more are
            skipped. None to rank them now.
        reserved: waiting jobs for which earlier cycles freed room. They count as held by their users, and
            nothing more is decided for them; `hosts` do not include that room.
    """
    max_jobs = min(settings.max_preemption, index.waiting_count)
    if not max_jobs or (settings.mode is DruMode.GPU and not settings.gpu_pools):
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
        ranked = iter_ranked_in_columns(index, limits, replace(rank, mode=settings.mode), number=max_jobs)
        candidates = iter(index.ids(job.row for job in ranked_within(ranked, index, filters)))
    else:
        candidates = filter(index.is_waiting, queue)
    if settings.launch_order:
        candidates = _may_start_jobs(candidates, index, filters, reserved)
    preemptions = tuple(islice(iter_decisions(state, list(islice(candidates, max_jobs))), max_jobs))
    return Rebalancing(
        preemptions=preemptions,
        reservations=reservations_after(
            preemptions, reserve_from=settings.reserve_from, leftovers=settings.launch_order
        ),
    )


def iter_decisions(state: "RebalanceState", jobs: Iterable[JobId]) -> Iterator[Preemption]:
    """Yield the decisions for the jobs, each made with the earlier ones applied.

    Cook takes the jobs in the given order; otherwise the job with the lowest DRU is always next.
    """
    if state.settings.launch_order:
        queue = BeneficiaryQueue(state, jobs)
        while (next_job := queue.pop()) is not None:
            job_id, dru = next_job
            decision = state.decide(job_id, dru)
            if decision is None:
                queue.pass_over(job_id)
            else:
                state.apply(decision)
                queue.apply(decision, state.room_on(decision.host))
                yield decision
        return
    for job_id in jobs:
        decision = state.decide(job_id)
        if decision is not None:
            state.apply(decision)
            yield decision


def _may_start_jobs(
    jobs: Iterable[JobId], index: QueueIndex, filters: QueueFilters, reserved: Mapping[JobId, ReservedRoom]
) -> Iterator[JobId]:
    """Yield the jobs that launch rate and launch filter allow to start once there is room."""
    tokens = None if filters.tokens is None else dict(filters.tokens)

    def takes_token(job_id: JobId) -> bool:
        """Take a launch token of the job's user; return whether there was one."""
        if tokens is None:
            return True
        user = index.owner(index.row_of(job_id)).name
        tokens[user] = tokens.get(user, inf) - 1
        return tokens[user] >= 0

    for job_id in filter(index.is_waiting, reserved):
        takes_token(job_id)
    for job_id in jobs:
        if (
            job_id not in reserved
            and takes_token(job_id)
            and (filters.accepts is None or filters.accepts(job_id))
        ):
            yield job_id


def reservations_after(
    preemptions: Iterable[Preemption],
    launched: Collection[JobId] = (),
    *,
    reserve_from: int = 1,
    leftovers: bool = False,
) -> dict[JobId, str]:
    """Return the reservations after a cycle, job -> host; they replace earlier ones.

    Args:
        preemptions: decisions of the cycle.
        launched: jobs that have been launched meanwhile.
        reserve_from: number of victims from which on the host is reserved.
        leftovers: whether to reserve also for jobs that use room left by the victims of other decisions.
    """
    reserved: dict[JobId, str] = {}
    freed: set[str] = set()
    for preemption in preemptions:
        stopped_count = len(preemption.victims) + len(preemption.displaced)
        if stopped_count:
            freed.add(preemption.host)
        if leftovers:
            for displaced in preemption.displaced:
                reserved.pop(displaced, None)
        if preemption.beneficiary not in launched and (
            stopped_count >= reserve_from or (leftovers and preemption.host in freed)
        ):
            reserved[preemption.beneficiary] = preemption.host
    return reserved


class RebalanceState:
    """The state of a pool during a rebalance cycle, with the decisions so far.

    The arguments are those of `rebalance`.
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
        self._last_request: tuple[int, TaskRequest] | None = (
            None  # by row, as a decision is usually applied right away
        )
        self._last_min_room: tuple[TaskRequest, tuple[float, float, float]] | None = None  # of the last job
        limit = settings.max_preemptions_per_hour
        spared = [
            row
            for row, history in index.preemptions.items()
            if limit is not None and history.count_within_hour(placement_context.now_ms) >= limit
        ]
        spared.extend(index.uninterrupted)
        self._task_drus = TaskDrus(
            index,
            limits,
            settings.mode,
            placement_context.now_ms,
            launch_order=settings.launch_order,
            spared_rows=spared,
        )
        task_hosts = index.hosts_of(self._task_drus.rows)
        self._hosts = RebalanceHosts(
            hosts,
            frozenset(task_hosts),
            defaults=settings.defaults,
            placement_context=with_groups(placement_context, index),
            clusters=clusters or {},
            spare_hosts_known=settings.spare_hosts_known,
            groups_apart=settings.groups_apart,
        )
        if settings.launch_order:  # before the table is built, because it changes DRUs of running tasks
            for job_id, room in reserved.items():
                if index.is_waiting(job_id):
                    self._add_reserved(job_id, room)
        position = self._hosts.position
        spare: list[Resources | None] = [None] * len(position)
        for offer in hosts.offers:
            spare[position[offer.host]] = offer.room
        self._table = VictimTable(
            self._task_drus,
            [position[host] for host in task_hosts],
            spare,
            least_work_lost=settings.least_work_lost,
            freed_gpus_count=settings.freed_gpus_count,
        )

    def _add_reserved(self, job_id: JobId, room: ReservedRoom) -> None:
        """Count a job with reserved room as held by its user and placed on the host."""
        row = self._index.row_of(job_id)
        if room.host in self._hosts.position:
            self._hosts.record_placement(request_of(self._index, row), room.host)
        self._task_drus.rescore((), self._task_drus.add(row, room.launch))

    @property
    def spare(self) -> dict[str, Resources]:
        """The spare room by host, where it is known."""
        return {
            offer.host: room
            for offer, room in zip(self._hosts.offers, self._table.spare, strict=True)
            if room is not None
        }

    def order(self) -> list[tuple[JobId, float]]:
        """Return all tasks with their DRU, in descending order; placed jobs are included."""
        tasks = self._task_drus.all_tasks()
        self._table.sort(tasks)  # spared tasks are last
        scores = map(self._task_drus.score_of, tasks)
        return list(zip(self._jobs(tasks), scores, strict=True))

    def pending_dru(self, job_id: JobId) -> float:
        """Return the DRU that the job would have if it ran; in Cook's order an upper bound of it."""
        return self._task_drus.pending_dru(self._index.row_of(job_id))

    def room_on(self, host: str) -> Resources:
        """Return the spare room of a host after the decisions so far."""
        return self._table.spare[self._hosts.position[host]] or Resources()

    def requests_of(self, jobs: Sequence[JobId]) -> tuple[Floats, Floats, Floats]:
        """Return the cpus, memory and gpus that jobs request."""
        rows = list(map(self._index.row_of, jobs))
        columns = self._index.columns
        return columns.cpus[rows], columns.mem[rows], columns.gpus[rows]

    def user_of(self, job_id: JobId) -> str:
        """Return the user of a job."""
        return self._index.owner(self._index.row_of(job_id)).name

    def is_within_quota(self, job_id: JobId) -> bool:
        """Return whether the job's user stays within quota if the job runs, too."""
        return self._task_drus.is_within_quota(self._index.row_of(job_id))

    def decide(self, job_id: JobId, dru: float | None = None) -> Preemption | None:
        """Decide which tasks to preempt for a job; None if there are none, and no spare room either.

        Args:
            job_id: a waiting job.
            dru: result of `pending_dru` for the job; None to compute it.

        Raises:
            NotFound: the index does not have the job.
        """
        settings = self.settings
        if settings.mode is DruMode.GPU and not settings.gpu_pools:
            return None
        row = self._index.row_of(job_id)
        request = self._request_of(row)
        open_to = self._hosts.open_to_class(request.constraints, request.gpus)
        user_over_quota = None if self._task_drus.is_within_quota(row) else self._task_drus.user_of(row)
        if user_over_quota is None or not settings.quota_counts:
            roomy_position = self._with_spare_room(request, open_to)
            if roomy_position is not None:
                return self._decision(request, roomy_position, [], self._task_drus.dru)
        pending = self._task_drus.pending_dru(row) if dru is None else dru
        threshold = VictimThreshold(settings.safe_dru_threshold, pending, settings.min_dru_diff)
        if settings.launch_order:
            decision = self._preempt_lasting(request, threshold, open_to) if user_over_quota is None else None
            others_threshold = (
                threshold if user_over_quota is None and self._lost_ms_limit(pending) is None else None
            )
            return decision or self._preempt_own(request, row, others_threshold, open_to)
        if user_over_quota is not None:
            own_tasks = self._own_tasks(user_over_quota, threshold)
            return self._least_costly(
                request, self._best_hosts_with_own_tasks(request, own_tasks, open_to), own_tasks
            )
        return self._least_costly(
            request, self._best_hosts(request, threshold, open_to), self._table.tasks_at
        )

    def apply(self, decision: Preemption) -> None:
        """Apply a decision to the state."""
        row = self._index.row_of(decision.beneficiary)
        request = self._request_of(row)
        position = self._hosts.position[decision.host]
        stopped_rows = {self._index.row_of(job) for job in (*decision.victims, *decision.displaced)}
        stopped = [
            task for task in self._table.tasks_at[position] if self._task_drus.rows[task] in stopped_rows
        ]
        for task in stopped:
            job_constraints = self._index.job_constraints.get(self._task_drus.rows[task], NO_JOB_CONSTRAINTS)
            self._hosts.record_preemption(job_constraints.group, decision.host)
            self._task_drus.remove(task)
        # A job that stopped tasks of its own user is firm: only jobs that start bound the number of such
        # steps.
        user = self._task_drus.user_of(row)
        steps_for_own = any(self._task_drus.users[task] == user for task in stopped)
        placed = self._task_drus.add(row, firm=self.settings.launch_order and steps_for_own)
        self._hosts.record_placement(request, decision.host)
        spare = decision.freed - Resources(cpus=request.cpus, mem_mb=request.mem_mb, gpus=request.gpus)
        changed = self._task_drus.rescore(stopped, placed)
        self._table.apply(position, stopped, placed, spare, changed)

    # --- hosts

    def _request_of(self, row: int) -> TaskRequest:
        """Return the task request of the job in a row."""
        cached = self._last_request
        if cached is None or cached[0] != row:
            limited = self.settings.defaults if self._hosts.is_limited else None
            cached = self._last_request = (row, request_of(self._index, row, limited))
        return cached[1]

    def _with_spare_room(self, request: TaskRequest, open_to: Mask | None) -> int | None:
        """Return the last host by name with enough spare room for the job; None if there is none."""
        positions = self._table.with_spare_room(*self._min_room(request))
        if open_to is not None:
            positions = positions[open_to[positions]]
        if request.job_constraints is NO_JOB_CONSTRAINTS:
            return int(positions[-1]) if len(positions) else None
        return next(
            (
                position
                for position in positions[::-1].tolist()
                if self._hosts.meets_job_constraints(request, position)
            ),
            None,
        )

    def _best_hosts(
        self, request: TaskRequest, threshold: VictimThreshold, open_to: Mask | None
    ) -> Collection[int]:
        """Return the hosts whose lowest victim DRU is highest."""
        required = self._min_room(request)
        if request.job_constraints is NO_JOB_CONSTRAINTS:
            return self._table.best_hosts(*required, threshold, open_to)
        scores = self._table.scores(*required, threshold)
        if open_to is not None:
            scores[~open_to] = -inf
        while len(scores) and (best := scores.max()) > -inf:
            positions = np.flatnonzero(scores == best)
            suitable = [
                position
                for position in positions.tolist()
                if self._hosts.meets_job_constraints(request, position)
            ]
            if suitable:
                return suitable
            scores[positions] = -inf
        return ()

    def _preempt_lasting(
        self, request: TaskRequest, threshold: VictimThreshold, open_to: Mask | None
    ) -> Preemption | None:
        """Preempt tasks of any user, on a host where the result lasts and is worth the lost work.

        If several victims belong to one user, the DRU with which the first of them would start again may be
        below that of the beneficiary: it would take its room back at once.
        """
        for _ in range(_HOSTS_TRIED):
            positions = self._best_hosts(request, threshold, open_to)
            decision = self._least_costly(request, positions, self._table.tasks_at)
            if decision is None or (
                self._is_lasting(decision, threshold)
                and self._is_worth(decision, request, threshold.beneficiary_dru)
            ):
                return decision
            open_to = np.ones(len(self._table.tasks_at), dtype=bool) if open_to is None else open_to.copy()
            open_to[self._hosts.position[decision.host]] = False
        return None

    def _is_lasting(self, decision: Preemption, threshold: VictimThreshold) -> bool:
        """Return whether no victim could preempt the beneficiary after the decision."""
        stopped = (*decision.victims, *decision.displaced)
        if threshold.beneficiary_dru < threshold.safe_dru or len(stopped) == 1:
            return True
        rows = [self._index.row_of(job_id) for job_id in stopped]
        return not any(
            threshold.beneficiary_dru - self._task_drus.dru_after(row, rows) > threshold.min_dru_gap
            for row in rows
        )

    def _is_worth(self, decision: Preemption, request: TaskRequest, pending: float) -> bool:
        """Return whether the start of a job with that DRU is worth the lost work.

        A job within its user's share is entitled to room at any cost. Beyond the share, room becomes free
        soon enough when tasks end, and the job with the lowest DRU gets it first.
        """
        limit_ms = self._lost_ms_limit(pending)
        if limit_ms is None:
            return True
        stopped = {self._index.row_of(job_id) for job_id in decision.victims}
        task_drus, tasks = self._task_drus, self._table.tasks_at[self._hosts.position[decision.host]]
        lost_work = sum(task_drus.work[task] for task in tasks if task_drus.rows[task] in stopped)
        return lost_work <= limit_ms * (request.gpus if self.settings.mode is DruMode.GPU else request.cpus)

    def _lost_ms_limit(self, pending: float) -> int | None:
        return self.settings.max_lost_ms_beyond_share if pending > self.settings.safe_dru_threshold else None

    def _own_tasks(self, user: int, threshold: VictimThreshold) -> dict[int, list[int]]:
        """Return the preemptible tasks of one user by host, in descending order of DRU."""
        by_host: dict[int, list[int]] = {}
        for task in reversed(self._task_drus.tasks_of(user)):
            if self._task_drus.is_spared(task):
                continue
            if not threshold.allows(self._task_drus.dru[task]):
                break  # earlier tasks have no higher DRU
            by_host.setdefault(self._table.position_of(task), []).append(task)
        for tasks in by_host.values():
            self._table.sort(tasks)
        return by_host

    def _preempt_own(
        self, request: TaskRequest, row: int, others_threshold: VictimThreshold | None, open_to: Mask | None
    ) -> Preemption | None:
        """Preempt the user's own tasks of lower priority, with those of others on their host if necessary.

        This concerns the order within one user, so DRUs follow the order of priority. A job that was
        preempted for another user does not preempt tasks of its own user any more; otherwise preemption need
        not terminate.

        Args:
            request: the job.
            row: row of the job.
            others_threshold: threshold for tasks of other users; None if none may be preempted.
            open_to: mask of the hosts to consider; None for all.
        """
        task_drus, settings = self._task_drus, self.settings
        pending, lower_priority = task_drus.lower_priority_tasks(row)
        if not lower_priority or self._index.preemptions.get(row, NEVER_PREEMPTED).by_others:
            return None
        threshold = VictimThreshold(settings.safe_dru_threshold, pending, settings.min_dru_diff)
        scores = {task: dru for task, dru in lower_priority if threshold.allows(dru)}
        tasks: dict[int, list[int]] = {}
        for task in scores:
            tasks.setdefault(self._table.position_of(task), []).append(task)
        for position, stoppable in tasks.items():
            if others_threshold is not None:
                others_tasks = [
                    task
                    for task in self._table.tasks_at[position]
                    if others_threshold.allows(task_drus.dru[task])
                ]
                scores.update((task, task_drus.dru[task]) for task in others_tasks)
                stoppable.extend(others_tasks)
            stoppable.sort(key=lambda task: (-scores[task], task_drus.work[task], task_drus.ties[task]))
        return self._least_costly(
            request, self._best_hosts_with_own_tasks(request, tasks, open_to, scores), tasks, scores
        )

    def _best_hosts_with_own_tasks(
        self,
        request: TaskRequest,
        own_tasks: Mapping[int, list[int]],
        open_to: Mask | None,
        drus: Mapping[int, float] | Sequence[float] | None = None,
    ) -> Collection[int]:
        """Return the result of `_best_hosts` if only these tasks may be preempted."""
        drus = self._task_drus.dru if drus is None else drus
        scores: dict[int, float] = {}
        for position, tasks in own_tasks.items():
            if (open_to is None or open_to[position]) and self._hosts.meets_job_constraints(
                request, position
            ):
                length = self._min_prefix(request, position, tasks)
                if length is not None:
                    scores[position] = drus[tasks[length - 1]]
        best = max(scores.values(), default=0.0)
        return [position for position, dru in scores.items() if dru == best]

    # --- victims

    def _least_costly(
        self,
        request: TaskRequest,
        positions: Collection[int],
        tasks: Sequence[list[int]] | Mapping[int, list[int]],
        drus: Mapping[int, float] | Sequence[float] | None = None,
    ) -> Preemption | None:
        """Return the decision for the host where least work is lost, or for the last of the hosts by name."""
        if not positions:
            return None
        drus = self._task_drus.dru if drus is None else drus
        if len(positions) == 1 or not self.settings.least_work_lost:
            position = max(positions)
            return self._decision(
                request, position, self._victims(request, position, tasks[position], drus), drus
            )
        work = self._task_drus.work
        victims_by_position = {
            position: self._victims(request, position, tasks[position], drus) for position in positions
        }
        position = min(
            victims_by_position,
            key=lambda position: (sum(work[task] for task in victims_by_position[position]), -position),
        )
        return self._decision(request, position, victims_by_position[position], drus)

    def _victims(
        self,
        request: TaskRequest,
        position: int,
        tasks: Sequence[int],
        dru: Mapping[int, float] | Sequence[float],
    ) -> list[int]:
        """Return the tasks to stop on a host; a prefix of `tasks` makes enough room."""
        settings = self.settings
        length = self._min_prefix(request, position, tasks) or 0
        if not settings.shortest_prefix:
            while length < len(tasks) and dru[tasks[length]] == dru[tasks[length - 1]]:
                length += 1
        victims = list(tasks[:length])
        if not settings.drop_unneeded:
            return victims
        dropping = victims[::-1]
        if settings.least_work_lost:
            dropping.sort(key=lambda task: -self._task_drus.work[task])
        for task in dropping:
            remaining = [kept_task for kept_task in victims if kept_task != task]
            if self._fits(request, self._freed(position, remaining)) and self._quota_suffices(
                request, remaining
            ):
                victims = remaining
        return victims

    def _min_prefix(self, request: TaskRequest, position: int, tasks: Sequence[int]) -> int | None:
        """Return the length of the shortest prefix of tasks that makes enough room; None if there is none."""
        for length, freed in enumerate(self._freeing(position, tasks)):
            if length and self._fits(request, freed) and self._quota_suffices(request, tasks[:length]):
                return length
        return None

    def _quota_suffices(self, request: TaskRequest, stopped: Sequence[int]) -> bool:
        """Return whether the job's user would be within quota without these tasks, if that counts."""
        if not self.settings.quota_counts:
            return True
        row = self._index.row_of(request.job_id)
        below = self._task_drus.is_within_quota
        return below(row) or below(row, without=stopped)

    def _freed(self, position: int, tasks: Sequence[int]) -> tuple[float, float, float]:
        """Return the room of a host without the tasks: cpus, memory, gpus."""
        *_, freed = self._freeing(position, tasks)
        return freed

    def _freeing(self, position: int, tasks: Sequence[int]) -> Iterator[tuple[float, float, float]]:
        """Yield the room of a host, then its room without the first task, and so on."""
        task_drus = self._task_drus
        spare = self._table.spare[position] or Resources()
        cpus, mem, gpus = spare.cpus, spare.mem_mb, spare.gpus
        yield cpus, mem, gpus
        for task in tasks:
            cpus += task_drus.cpus[task]
            mem += task_drus.mem[task]
            if self.settings.freed_gpus_count:
                gpus += task_drus.gpus[task]
            yield cpus, mem, gpus

    def _min_room(self, request: TaskRequest) -> tuple[float, float, float]:
        """Return the least cpus, memory and gpus of room and victims together that suffice."""
        if not self.settings.launch_order:
            return request.cpus, request.mem_mb, request.gpus
        cached = self._last_min_room
        if cached is None or cached[0] is not request:
            gpus = _min_sum(request.gpus) if request.gpus else 0.0
            cached = self._last_min_room = (
                request,
                (_min_sum(request.cpus), _min_sum(request.mem_mb), gpus),
            )
        return cached[1]

    def _fits(self, request: TaskRequest, room: tuple[float, float, float]) -> bool:
        cpus, mem, gpus = self._min_room(request)
        return cpus <= room[0] and mem <= room[1] and gpus <= room[2]

    def _decision(
        self,
        request: TaskRequest,
        position: int,
        tasks: Sequence[int],
        drus: Mapping[int, float] | Sequence[float],
    ) -> Preemption:
        offer = self._hosts.offers[position]
        cpus, mem, gpus = self._freed(position, tasks)
        return Preemption(
            beneficiary=request.job_id,
            host=offer.host,
            cluster=offer.cluster,
            victims=tuple(self._jobs(task for task in tasks if task < self._task_drus.running)),
            displaced=tuple(self._jobs(task for task in tasks if task >= self._task_drus.running)),
            dru=min((drus[task] for task in tasks), default=UNLIMITED),
            freed=Resources(cpus=cpus, mem_mb=mem, gpus=gpus),
        )

    def _jobs(self, tasks: Iterable[int]) -> list[JobId]:
        return self._index.ids(self._task_drus.rows[task] for task in tasks)


def _min_sum(amount: float) -> float:
    """Return the least sum of amounts that clusters, which round sums, offer as this amount."""
    if amount.is_integer():
        return amount - _LAST_DECIMAL / 2
    rounded = round(amount, _DECIMALS)
    return (rounded if rounded >= amount else rounded + _LAST_DECIMAL) - _LAST_DECIMAL / 2
