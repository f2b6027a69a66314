"""Preemption: whose running tasks give way to whose waiting jobs.

Lives here: `rebalance`, the cycle; `RebalanceState`, one decision after the other; `PreemptionSettings`,
which say in what we differ from Cook; the reservations that follow.
Not here: the queue (`scheduling.ranking`), stopping anything (`service.cycles`).

Source: Cook's `rebalancer.clj`, as told in the fair-share specification, sections 6 and 15.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from typing import Final

import numpy as np

from cook_jupyter.model.decisions import Preemption, Rebalancing
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UNLIMITED, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.asks import Ask
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.considerable import NO_FILTERS, QueueFilters, ranked_within
from cook_jupyter.scheduling.constraints import NO_PARTICULARS, PoolDefaults
from cook_jupyter.scheduling.cycle import ask_of
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.preemption_hosts import RebalanceHosts
from cook_jupyter.scheduling.preemption_standings import Standings
from cook_jupyter.scheduling.preemption_table import Least, VictimTable
from cook_jupyter.scheduling.ranking import RANK_DEFAULTS, Mask, RankSettings, ranked_in_columns
from cook_jupyter.scheduling.rules import NO_SURROUNDINGS, Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionSettings:
    """How a pool preempts. The defaults are the better ones; `cook` gives Cook's behaviour exactly.

    Attributes:
        safe_dru_threshold: no task below this DRU is ever preempted.
        min_dru_diff: by more than this a victim's DRU must exceed the beneficiary's.
        max_preemption: how many waiting jobs a cycle looks at, and how many decisions it makes, at most.
        mode: what the DRU counts.
        shortest_prefix: among victims of one DRU take as few as suffice; Cook takes all of them.
        drop_unneeded: spare those of the victims without whom the room suffices as well; Cook does not.
        least_work_lost: among equals preempt what loses least work; Cook goes by user and host name.
        gpu_pools: preempt in pools of gpu mode too; Cook never does.
        freed_gpus_count: the gpus of victims are room for the beneficiary; for Cook only spare gpus are.
        spare_hosts_known: the attributes of a host are known also if nothing runs on it; Cook's are not.
        groups_apart: a preempted task counts as still there for its own group; for Cook, for every group.
        quota_counts: a job over its user's quota needs room in the quota too, so own tasks are stopped even
            if a host has room; for Cook that room is enough, and the job goes on waiting.
        reserve_from: from how many victims on a host is reserved for the beneficiary; 2 for Cook.
        defaults: what the pool adds to its jobs' demands.
    """

    safe_dru_threshold: float = 1.0
    min_dru_diff: float = 0.5
    max_preemption: int = 100
    mode: DruMode = DruMode.DEFAULT
    shortest_prefix: bool = True
    drop_unneeded: bool = True
    least_work_lost: bool = True
    gpu_pools: bool = True
    freed_gpus_count: bool = True
    spare_hosts_known: bool = True
    groups_apart: bool = True
    quota_counts: bool = True
    reserve_from: int = 1
    defaults: PoolDefaults = field(default_factory=PoolDefaults)

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
        """Return the settings under which every decision is Cook's."""
        return cls(
            safe_dru_threshold=safe_dru_threshold,
            min_dru_diff=min_dru_diff,
            max_preemption=max_preemption,
            mode=mode,
            shortest_prefix=False,
            drop_unneeded=False,
            least_work_lost=False,
            gpu_pools=False,
            freed_gpus_count=False,
            spare_hosts_known=False,
            groups_apart=False,
            quota_counts=False,
            reserve_from=2,
            defaults=defaults or PoolDefaults(),
        )


PREEMPTION_DEFAULTS: Final = PreemptionSettings()


def rebalance(  # noqa: PLR0913 all that bears on a decision, as in the match cycle
    index: QueueIndex,
    hosts: Hosts,
    limits: UserLimits,
    *,
    settings: PreemptionSettings = PREEMPTION_DEFAULTS,
    rank: RankSettings = RANK_DEFAULTS,
    filters: QueueFilters = NO_FILTERS,
    surroundings: Surroundings = NO_SURROUNDINGS,
    clusters: Mapping[str, str] | None = None,
    queue: Iterable[JobId] | None = None,
) -> Rebalancing:
    """Decide which running tasks give way to which waiting jobs. Changes nothing.

    Args:
        index: the pool's waiting jobs and running tasks.
        hosts: the spare room. A host without any may be here too, with no room: that tells what it is like.
        limits: shares and quotas of the pool's users.
        settings: how the pool preempts; its mode counts, not that of `rank`.
        rank: how the pool ranks, as in the match cycle.
        filters: what leaves jobs out of the queue, as in the match cycle.
        surroundings: the time (to tell how much work a task would lose), groups, attributes of hosts that are
            not among `hosts`. Reservations do not bear on preemption.
        clusters: host -> cluster, of hosts that are not among `hosts`.
        queue: the jobs as they were ranked before, for instance by the match cycle that went before; those
            that wait no longer are passed over. None: they are ranked now.
    """
    most = min(settings.max_preemption, index.waiting_count)
    if not most or (settings.mode is DruMode.GPU and not settings.gpu_pools):
        return Rebalancing()
    state = RebalanceState(index, hosts, limits, settings, surroundings=surroundings, clusters=clusters)
    if queue is None:
        ranked = ranked_in_columns(index, limits, replace(rank, mode=settings.mode), number=most)
        first = index.ids(job.row for job in islice(ranked_within(ranked, index, filters), most))
    else:
        first = list(islice(filter(index.is_waiting, queue), most))
    preemptions = tuple(decisions(state, first))
    return Rebalancing(
        preemptions=preemptions,
        reservations=reservations_after(preemptions, reserve_from=settings.reserve_from),
    )


def decisions(state: "RebalanceState", jobs: Iterable[JobId]) -> Iterator[Preemption]:
    """Yield what is decided for each job in turn, each with those before it in force."""
    for job_id in jobs:
        decision = state.decide(job_id)
        if decision is not None:
            state.advance(decision)
            yield decision


def reservations_after(
    preemptions: Iterable[Preemption], launched: Collection[JobId] = (), *, reserve_from: int = 1
) -> dict[JobId, str]:
    """Return which host is kept for which job after a cycle; this replaces what was reserved before.

    Args:
        preemptions: what the cycle decided.
        launched: jobs that were launched meanwhile.
        reserve_from: from how many victims on a host is reserved.
    """
    return {
        made.beneficiary: made.host
        for made in preemptions
        if len(made.victims) + len(made.displaced) >= reserve_from and made.beneficiary not in launched
    }


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
        surroundings: Surroundings = NO_SURROUNDINGS,
        clusters: Mapping[str, str] | None = None,
    ) -> None:
        self._index = index
        self._settings = settings
        self._standings = Standings(index, limits, settings.mode, surroundings.now_ms)
        on = index.hosts_of(self._standings.rows)
        self._hosts = RebalanceHosts(
            hosts,
            frozenset(on),
            defaults=settings.defaults,
            surroundings=replace(surroundings, group_hosts=index.group_hosts),
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
        self._table.sort(tasks)
        return [(job, self._standings.dru[task]) for job, task in zip(self._jobs(tasks), tasks, strict=True)]

    def pending_dru(self, job_id: JobId) -> float:
        """Return how far along its user's share the job would be, at most, if it ran."""
        return self._standings.pending_dru(self._index.row_of(job_id))

    def is_below_quota(self, job_id: JobId) -> bool:
        """Tell whether the job's user stays within quota if the job runs as well."""
        return self._standings.is_below_quota(self._index.row_of(job_id))

    def decide(self, job_id: JobId) -> Preemption | None:
        """Say whose tasks should give way to the job; None if nobody's should.

        Raises:
            NotFound: the index does not have the job.
        """
        settings = self._settings
        if settings.mode is DruMode.GPU and not settings.gpu_pools:
            return None
        row = self._index.row_of(job_id)
        ask = ask_of(self._index, row)
        open_to = self._hosts.open_to_class(ask.constraints, ask.gpus)
        user = None if self._standings.is_below_quota(row) else self._standings.user_of(row)
        if user is None or not settings.quota_counts:
            roomy = self._with_spare_room(ask, open_to)
            if roomy is not None:
                return self._decision(ask, roomy, [])
        least = Least(settings.safe_dru_threshold, self._standings.pending_dru(row), settings.min_dru_diff)
        if user is not None:
            own = self._own_tasks(user, least)
            return self._cheapest(ask, self._best_of_own(ask, own, open_to), own)
        return self._cheapest(ask, self._best(ask, least, open_to), self._table.at)

    def advance(self, decision: Preemption) -> None:
        """Put a decision in force for those that follow."""
        row = self._index.row_of(decision.beneficiary)
        ask = ask_of(self._index, row)
        at = self._hosts.position[decision.host]
        going = {self._index.row_of(job) for job in (*decision.victims, *decision.displaced)}
        stopped = [task for task in self._table.at[at] if self._standings.rows[task] in going]
        for task in stopped:
            particulars = self._index.particulars.get(self._standings.rows[task], NO_PARTICULARS)
            self._hosts.preempted(particulars.group, decision.host)
            self._standings.stop(task)
        placed = self._standings.place(row)
        self._hosts.placed(ask, decision.host)
        spare = decision.freed - Resources(cpus=ask.cpus, mem_mb=ask.mem_mb, gpus=ask.gpus)
        self._table.advance(at, stopped, placed, spare, self._standings.rescore(stopped, placed))

    # --- hosts

    def _with_spare_room(self, ask: Ask, open_to: Mask | None) -> int | None:
        """The last host by name that has room for the job as it is."""
        positions = self._table.with_spare_room(ask.cpus, ask.mem_mb, ask.gpus)
        if open_to is not None:
            positions = positions[open_to[positions]]
        if ask.particulars is NO_PARTICULARS:
            return int(positions[-1]) if len(positions) else None
        return next((at for at in positions[::-1].tolist() if self._hosts.takes(ask, at)), None)

    def _best(self, ask: Ask, least: Least, open_to: Mask | None) -> Collection[int]:
        """The hosts where the nearest of the victims to its share is as far along as anywhere."""
        wanted = (ask.cpus, ask.mem_mb, ask.gpus)
        if ask.particulars is NO_PARTICULARS:
            return self._table.best(*wanted, least, open_to)
        scores = self._table.scores(*wanted, least)
        if open_to is not None:
            scores[~open_to] = -inf
        while len(scores) and (best := scores.max()) > -inf:
            positions = np.flatnonzero(scores == best)
            taking = [at for at in positions.tolist() if self._hosts.takes(ask, at)]
            if taking:
                return taking
            scores[positions] = -inf
        return ()

    def _own_tasks(self, user: int, least: Least) -> dict[int, list[int]]:
        """The tasks of one user that may be preempted, by host, from the highest DRU down."""
        own: dict[int, list[int]] = {}
        for task in reversed(self._standings.own(user)):
            if not least.allows(self._standings.dru[task]):
                break  # those before it are no further along
            own.setdefault(self._table.position_of(task), []).append(task)
        for tasks in own.values():
            self._table.sort(tasks)
        return own

    def _best_of_own(self, ask: Ask, own: Mapping[int, list[int]], open_to: Mask | None) -> Collection[int]:
        """What `_best` says, if no other user's tasks may be preempted."""
        scores: dict[int, float] = {}
        for at, tasks in own.items():
            if (open_to is None or open_to[at]) and self._hosts.takes(ask, at):
                length = self._shortest(ask, at, tasks)
                if length is not None:
                    scores[at] = self._standings.dru[tasks[length - 1]]
        best = max(scores.values(), default=0.0)
        return [at for at, dru in scores.items() if dru == best]

    # --- victims

    def _cheapest(
        self, ask: Ask, positions: Collection[int], tasks: Sequence[list[int]] | Mapping[int, list[int]]
    ) -> Preemption | None:
        """The decision for that host of equals where it costs least, or for the last of them by name."""
        if not positions:
            return None
        if len(positions) == 1 or not self._settings.least_work_lost:
            at = max(positions)
            return self._decision(ask, at, self._victims(ask, at, tasks[at]))
        work = self._standings.work
        found = {at: self._victims(ask, at, tasks[at]) for at in positions}
        at = min(found, key=lambda at: (sum(work[task] for task in found[at]), -at))
        return self._decision(ask, at, found[at])

    def _victims(self, ask: Ask, at: int, tasks: Sequence[int]) -> list[int]:
        """Which of the tasks on a host give way. The first of them make room enough."""
        settings, dru = self._settings, self._standings.dru
        length = self._shortest(ask, at, tasks) or 0
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
            if _fits(ask, self._freed(at, others)) and self._is_within_quota(ask, others):
                victims = others
        return victims

    def _shortest(self, ask: Ask, at: int, tasks: Sequence[int]) -> int | None:
        """How many of the tasks, from the first on, must go to make room; None if all are not enough."""
        for length, freed in enumerate(self._freeing(at, tasks)):
            if length and _fits(ask, freed) and self._is_within_quota(ask, tasks[:length]):
                return length
        return None

    def _is_within_quota(self, ask: Ask, stopped: Sequence[int]) -> bool:
        """Tell whether the job's user would be within quota without these tasks, if that counts."""
        if not self._settings.quota_counts:
            return True
        row = self._index.row_of(ask.job_id)
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
            if self._settings.freed_gpus_count:
                gpus += standings.gpus[task]
            yield cpus, mem, gpus

    def _decision(self, ask: Ask, at: int, tasks: Sequence[int]) -> Preemption:
        offer = self._hosts.offers[at]
        cpus, mem, gpus = self._freed(at, tasks)
        return Preemption(
            beneficiary=ask.job_id,
            host=offer.host,
            cluster=offer.cluster,
            victims=tuple(self._jobs(task for task in tasks if task < self._standings.running)),
            displaced=tuple(self._jobs(task for task in tasks if task >= self._standings.running)),
            dru=min((self._standings.dru[task] for task in tasks), default=UNLIMITED),
            freed=Resources(cpus=cpus, mem_mb=mem, gpus=gpus),
        )

    def _jobs(self, tasks: Iterable[int]) -> list[JobId]:
        return self._index.ids(self._standings.rows[task] for task in tasks)


def _fits(ask: Ask, room: tuple[float, float, float]) -> bool:
    return ask.cpus <= room[0] and ask.mem_mb <= room[1] and ask.gpus <= room[2]
