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

from cook_jupyter.errors import NotFound
from cook_jupyter.model.decisions import Preemption, Rebalancing
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import UNLIMITED, Usage, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.asks import Ask
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.considerable import NO_FILTERS, QueueFilters, ranked_within
from cook_jupyter.scheduling.constraints import NO_PARTICULARS, PoolDefaults
from cook_jupyter.scheduling.cycle import ask_of
from cook_jupyter.scheduling.dru import cumulative_dru
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.preemption_hosts import RebalanceHosts
from cook_jupyter.scheduling.ranking import RANK_DEFAULTS, RankSettings, ranked_in_columns
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
    state = RebalanceState(
        index,
        hosts,
        limits,
        settings,
        surroundings=surroundings,
        clusters=clusters,
    )
    most = min(settings.max_preemption, index.waiting_count)
    if not most or (settings.mode is DruMode.GPU and not settings.gpu_pools):
        return Rebalancing()
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


@dataclass(slots=True, kw_only=True)
class _Task:
    """A running task, or a copy of a job that an earlier decision made room for."""

    job_id: JobId
    user: str
    host: str
    held: Resources
    key: tuple[float, float, int, int]
    work: float
    group: GroupId | None
    placed: bool = False
    dru: float = 0.0


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
        self._limits = limits
        self._settings = settings
        self._tasks: dict[str, list[_Task]] = {}
        self._spare = {offer.host: offer.room for offer in hosts.offers}
        now_ms = surroundings.now_ms
        all_cpus, all_mem, all_gpus = index.amounts()
        for user in index.by_name():
            own = self._tasks[user.name] = []
            for key, row in zip(user.keys, user.started, strict=True):
                held = Resources(cpus=all_cpus[row], mem_mb=all_mem[row], gpus=all_gpus[row])
                own.append(
                    _Task(
                        job_id=index.ids((row,))[0],
                        user=user.name,
                        host=index.host_of(row),
                        held=held,
                        key=key,
                        work=max(0, now_ms - key[1])
                        * (held.gpus if settings.mode is DruMode.GPU else held.cpus),
                        group=index.particulars.get(row, NO_PARTICULARS).group,
                    )
                )
            self._score(user.name)
        self._hosts = RebalanceHosts(
            hosts,
            {task.host for own in self._tasks.values() for task in own},
            defaults=settings.defaults,
            surroundings=replace(surroundings, group_hosts=index.group_hosts),
            clusters=clusters or {},
            spare_hosts_known=settings.spare_hosts_known,
            groups_apart=settings.groups_apart,
        )

    @property
    def spare(self) -> Mapping[str, Resources]:
        """The spare room of each host that has any entry."""
        return self._spare

    def order(self) -> Sequence[tuple[JobId, float]]:
        """Return all tasks with their DRU, from the highest down; placed copies are among them."""
        return [(task.job_id, task.dru) for task in self._sorted()]

    def pending_dru(self, job_id: JobId) -> float:
        """Return how far along its user's share the job would be, at most, if it ran."""
        row = self._index.row_of(job_id)
        user = self._user_of(job_id)
        key = self._key(row)
        base = 0.0
        for task in self._tasks.get(user, ()):
            if task.key <= key:
                base = task.dru
        share = self._limits.share(user)
        asked = self._index.asked(job_id)
        if self._settings.mode is DruMode.GPU:
            return base + asked.gpus / share.gpus
        return base + max(asked.mem_mb / share.mem_mb, asked.cpus / share.cpus)

    def is_below_quota(self, job_id: JobId) -> bool:
        """Tell whether the job's user stays within quota if the job runs as well."""
        user = self._user_of(job_id)
        asked = self._index.asked(job_id)
        cpus, mem, gpus = 0.0, 0.0, 0.0
        own = self._tasks.get(user, [])
        for task in own:
            cpus += task.held.cpus
            mem += task.held.mem_mb
            gpus += task.held.gpus
        usage = Usage(
            count=len(own) + 1, cpus=cpus + asked.cpus, mem_mb=mem + asked.mem_mb, gpus=gpus + asked.gpus
        )
        return self._limits.quota(user).allows(usage)

    def decide(self, job_id: JobId) -> Preemption | None:
        """Say whose tasks should give way to the job, if any should."""
        settings = self._settings
        if settings.mode is DruMode.GPU and not settings.gpu_pools:
            return None
        row = self._index.row_of(job_id)
        ask = ask_of(self._index, row)
        user = self._user_of(job_id)
        own_only = not self.is_below_quota(job_id)
        pending = self.pending_dru(job_id)
        victims: dict[str, list[_Task]] = {}
        for task in self._sorted():
            if (
                task.dru >= settings.safe_dru_threshold
                and task.dru - pending > settings.min_dru_diff
                and (task.user == user or not own_only)
            ):
                victims.setdefault(task.host, []).append(task)
        is_open = self._hosts.open_to_class(ask.constraints, ask.gpus)
        best: tuple[float, float, int] | None = None
        found: tuple[list[_Task], Resources] = ([], Resources())
        for at, offer in enumerate(self._hosts.offers):
            if (is_open is not None and not is_open[at]) or not self._hosts.takes(ask, at):
                continue
            candidate = self._candidate(ask, self._spare.get(offer.host), victims.get(offer.host, []))
            if candidate is None:
                continue
            dru, tasks, sums = candidate
            work = sum(task.work for task in tasks) if settings.least_work_lost else 0.0
            if best is None or (dru, -work, at) > best:
                best = (dru, -work, at)
                found = (tasks, sums)
        if best is None:
            return None
        offer = self._hosts.offers[best[2]]
        tasks, sums = found
        return Preemption(
            beneficiary=job_id,
            host=offer.host,
            cluster=offer.cluster,
            victims=tuple(task.job_id for task in tasks if not task.placed),
            displaced=tuple(task.job_id for task in tasks if task.placed),
            dru=min((task.dru for task in tasks), default=UNLIMITED),
            freed=sums,
        )

    def _candidate(
        self, ask: Ask, spare: Resources | None, victims: Sequence[_Task]
    ) -> tuple[float, list[_Task], Resources] | None:
        settings = self._settings

        def freed(tasks: Sequence[_Task]) -> Resources:
            sums = spare or Resources()
            for task in tasks:
                held = task.held if settings.freed_gpus_count else replace(task.held, gpus=0.0)
                sums += held
            return sums

        def suffices(sums: Resources) -> bool:
            return sums.cpus >= ask.cpus and sums.mem_mb >= ask.mem_mb and sums.gpus >= ask.gpus

        if spare is not None and suffices(spare):
            return UNLIMITED, [], spare
        for length in range(1, len(victims) + 1):
            if not suffices(freed(victims[:length])):
                continue
            dru = victims[length - 1].dru
            longest = length
            while not settings.shortest_prefix and longest < len(victims) and victims[longest].dru == dru:
                longest += 1
            tasks = list(victims[:longest])
            if settings.drop_unneeded:
                dropping = tasks[::-1]
                if settings.least_work_lost:
                    dropping.sort(key=lambda task: -task.work)
                for task in dropping:
                    rest = [other for other in tasks if other is not task]
                    if suffices(freed(rest)):
                        tasks = rest
            return dru, tasks, freed(tasks)
        return None

    def advance(self, decision: Preemption) -> None:
        """Put a decision in force for those that follow."""
        gone = {*decision.victims, *decision.displaced}
        ask = ask_of(self._index, self._index.row_of(decision.beneficiary))
        user = self._user_of(decision.beneficiary)
        changed = {user}
        for name, own in self._tasks.items():
            for task in own:
                if task.job_id in gone and task.host == decision.host:
                    changed.add(name)
                    self._hosts.preempted(task.group, task.host)
        for name in changed:
            self._tasks[name] = [task for task in self._tasks.get(name, ()) if task.job_id not in gone]
        self._tasks[user].append(
            _Task(
                job_id=decision.beneficiary,
                user=user,
                host=decision.host,
                held=Resources(cpus=ask.cpus, mem_mb=ask.mem_mb, gpus=ask.gpus),
                key=self._key(self._index.row_of(decision.beneficiary)),
                work=0.0,
                group=ask.particulars.group,
                placed=True,
            )
        )
        self._tasks[user].sort(key=lambda task: task.key)
        for name in changed:
            self._score(name)
        self._hosts.placed(ask, decision.host)
        self._spare[decision.host] = decision.freed - Resources(
            cpus=ask.cpus, mem_mb=ask.mem_mb, gpus=ask.gpus
        )

    def _key(self, row: int) -> tuple[float, float, int, int]:
        """The place of a waiting job in its user's order: behind what runs with the same priority."""
        return (self._index.priority_key(row), inf, -1, self._index.seq(row))

    def _user_of(self, job_id: JobId) -> str:
        tasks = self._index.tasks_of_job(job_id)
        if tasks is None:
            raise NotFound(f"job {job_id} is not in the queue", missing=(job_id,))
        return tasks.name

    def _score(self, user: str) -> None:
        own = self._tasks[user]
        drus = cumulative_dru((task.held for task in own), self._limits.share(user), self._settings.mode)
        for task, dru in zip(own, drus, strict=True):
            task.dru = dru

    def _sorted(self) -> list[_Task]:
        everything = [task for own in self._tasks.values() for task in reversed(own)]
        everything.sort(key=lambda t: t.placed, reverse=True)
        least_work = self._settings.least_work_lost
        return sorted(everything, key=lambda t: (-t.dru, t.work if least_work else 0.0, t.user))
