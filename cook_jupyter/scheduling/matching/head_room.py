"""Kept room: room on a host for a head of the queue that no host has enough room for yet.

Lives here: the choice of the host (`choose_host`), the limit of kept room (`is_within_limit`), the tasks that
may start beside the head (`room_beside`, `ends_in_time`), and the users who take precedence over it
(`gives_way`).
Not here: which jobs are heads (`scheduling.heads`), the heads between cycles (`service.state.queue_heads`),
room that was freed by preemption (`service.state.reservations`).

A head waits for tasks on its host that ran already when it became a head, as few as make enough room: the
*awaited* tasks. Every other task there, present or future, must fit beside the head as if it never ended. So
the head starts at the latest when the last task has ended that ran when it became a head, whatever is
submitted meanwhile; this does not depend on known run times. Where the run times of all awaited tasks are
known, tasks that will have ended by then may use the kept room meanwhile (EASY backfilling).

Source: Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995 (EASY). There the head keeps its reservation
until the queue is sorted again. Here it keeps it for good: a DRU falls whenever a task ends, so the user
whose tasks make room would rank first again each time.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.columns import port_count
from cook_jupyter.scheduling.limits.run_times import RunTime
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from cook_jupyter.scheduling.ranking.dru import dru_of

_DECIMALS = 6  # to which amounts are rounded, because sums of fractions are not exact

TaskKey = tuple[JobId, int]  # a job and the start of its task


class HostAmounts(NamedTuple):
    """Amounts of everything that a host may lack."""

    cpus: float = 0.0
    mem_mb: float = 0.0
    gpus: float = 0.0
    ports: float = 0.0
    tasks: float = 0.0

    # Written out by field: they are called thousands of times per cycle, and loops take five times as long.

    def plus(self, other: "HostAmounts") -> "HostAmounts":
        """Return the sum."""
        return HostAmounts(
            self.cpus + other.cpus,
            self.mem_mb + other.mem_mb,
            self.gpus + other.gpus,
            self.ports + other.ports,
            self.tasks + other.tasks,
        )

    def minus(self, other: "HostAmounts") -> "HostAmounts":
        """Return the difference; amounts may be negative."""
        return HostAmounts(
            round(self.cpus - other.cpus, _DECIMALS),
            round(self.mem_mb - other.mem_mb, _DECIMALS),
            round(self.gpus - other.gpus, _DECIMALS),
            self.ports - other.ports,
            self.tasks - other.tasks,
        )

    def minimum(self, other: "HostAmounts") -> "HostAmounts":
        """Return the smaller amount of each kind."""
        return HostAmounts(*map(min, self, other))

    def fit_in(self, room: "HostAmounts") -> bool:
        """Return whether no amount exceeds that of `room`."""
        return (
            self.cpus <= room.cpus
            and self.mem_mb <= room.mem_mb
            and self.gpus <= room.gpus
            and self.ports <= room.ports
            and self.tasks <= room.tasks
        )

    @property
    def is_negative(self) -> bool:
        """Whether any amount is below zero."""
        return min(self) < 0


NOTHING = HostAmounts()


def sum_of(amounts: Iterable[HostAmounts]) -> HostAmounts:
    """Return the sum of amounts."""
    cpus = mem_mb = gpus = ports = tasks = 0.0
    for amount in amounts:
        cpus += amount.cpus
        mem_mb += amount.mem_mb
        gpus += amount.gpus
        ports += amount.ports
        tasks += amount.tasks
    return HostAmounts(cpus, mem_mb, gpus, ports, tasks)


class RunningTask(NamedTuple):
    """A running task, as jobs that wait for its host need to know it.

    Attributes:
        job_id: job of the task.
        started_ms: start of the task.
        held: amounts that the task holds.
        expected_ms: expected run time of the task; None if unknown.
    """

    job_id: JobId
    started_ms: int
    held: HostAmounts
    expected_ms: int | None = None

    @property
    def key(self) -> TaskKey:
        """The key that identifies the task."""
        return self.job_id, self.started_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """A host that meets the constraints of a job.

    Attributes:
        host: name of the host.
        whole: amounts of the empty host.
        tasks: tasks that run there, of all pools.
        promised: amounts that are kept there for other jobs.
        exclusive: whether the job can start there only while no other task runs.
    """

    host: str
    whole: HostAmounts
    tasks: Sequence[RunningTask] = ()
    promised: HostAmounts = NOTHING
    exclusive: bool = False

    @property
    def free(self) -> HostAmounts:
        """The amounts that no task holds and that are not kept for other jobs."""
        return self.whole.minus(sum_of([self.promised, *(task.held for task in self.tasks)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOfQueue:
    """A job at the head of its pool's queue, and the room that is kept for it.

    Attributes:
        job_id, user: the job and its owner.
        asked: amounts that the job requests.
        since_ms: time at which the job became a head.
        position: number of waiting jobs of its user before it at that time.
        host: host on which room is kept; None as long as no room had to be kept.
        awaited: tasks on that host that must end first.
        lent: tasks that were backfilled into the kept room.
        free_at_ms: time at which the awaited tasks are expected to have ended; None if unknown.
        exclusive: whether no other task may start on the host meanwhile.
    """

    job_id: JobId
    user: str
    asked: HostAmounts
    since_ms: int
    position: int = 0
    host: str | None = None
    awaited: frozenset[TaskKey] = frozenset()
    lent: frozenset[TaskKey] = frozenset()
    free_at_ms: int | None = None
    exclusive: bool = False


# --- choosing a host


def choose_host(head: HeadOfQueue, hosts: Iterable[HostState], now_ms: int) -> HeadOfQueue | None:
    """Return the head with room kept on the host that will have it soonest; None if no host will.

    A task with an unknown or exceeded run time is expected to run for as long again as it has run, but at
    least for the average age of such tasks. Among equal hosts, the one with the fewest awaited tasks is
    chosen, then the first by name.

    Args:
        head: job to keep room for.
        hosts: hosts that meet the constraints of the job.
        now_ms: the time.
    """
    candidates = list(hosts)
    usual_ms = _usual_age_ms(candidates, now_ms)
    best: tuple[float, int, str] | None = None
    chosen: tuple[HostState, Sequence[RunningTask]] | None = None
    for state in candidates:
        awaited = _awaited(head, state, now_ms, usual_ms)
        if awaited is None:
            continue
        free_at = max((_expected_end(task, now_ms, usual_ms) for task in awaited), default=float(now_ms))
        score = (free_at, len(awaited), state.host)
        if best is None or score < best:
            best, chosen = score, (state, awaited)
    if chosen is None:
        return None
    state, awaited = chosen
    return replace(
        head,
        host=state.host,
        awaited=frozenset(task.key for task in awaited),
        free_at_ms=_free_at_ms(awaited, now_ms),
        exclusive=state.exclusive,
    )


def update_awaited(head: HeadOfQueue, state: HostState, now_ms: int) -> HeadOfQueue | None:
    """Return the head with the tasks that it still awaits on its host; None if it can no longer start there.

    Whichever tasks end first make room for the head. The time at which its room is expected never becomes
    later: otherwise tasks that run longer than expected would allow backfilling again and again.
    """
    awaited = _awaited(head, state, now_ms, _usual_age_ms([state], now_ms))
    if awaited is None:
        return None
    free_at_ms = head.free_at_ms
    sooner = _free_at_ms(awaited, now_ms)
    if free_at_ms is not None and sooner is not None:
        free_at_ms = min(free_at_ms, sooner)
    return replace(head, awaited=frozenset(task.key for task in awaited), free_at_ms=free_at_ms)


def _usual_age_ms(states: Iterable[HostState], now_ms: int) -> float:
    """Return the average age of tasks with an unknown run time."""
    ages = [
        now_ms - task.started_ms
        for state in states
        for task in state.tasks
        if _known_end(task, now_ms) is None
    ]
    return sum(ages) / len(ages) if ages else 0.0


def _awaited(
    head: HeadOfQueue, state: HostState, now_ms: int, usual_ms: float
) -> Sequence[RunningTask] | None:
    """Return the tasks that must end first: as few as make room, those with the earliest ends first.

    None if the tasks that ran when the job became a head do not make enough room when they end.
    """
    earlier = [task for task in state.tasks if task.started_ms <= head.since_ms or task.key in head.lent]
    earlier.sort(key=lambda task: (_expected_end(task, now_ms, usual_ms), task.job_id))
    if state.exclusive:
        return earlier if len(earlier) == len(state.tasks) else None
    remaining = _room_left(head, state, frozenset(task.key for task in state.tasks))
    for number, task in enumerate(earlier):
        if not remaining.is_negative:
            return earlier[:number]
        remaining = remaining.plus(task.held)
        remaining = remaining.minus(NOTHING)  # rounded
    return None if remaining.is_negative else earlier


def _free_at_ms(awaited: Sequence[RunningTask], now_ms: int) -> int | None:
    ends = [_known_end(task, now_ms) for task in awaited]
    known_ends = [end for end in ends if end is not None]
    return max(known_ends, default=now_ms) if len(known_ends) == len(ends) else None


def _room_left(head: HeadOfQueue, state: HostState, staying: Container[TaskKey]) -> HostAmounts:
    """Return the room of the host beside the head, promised amounts and the tasks that stay."""
    staying_amounts = [task.held for task in state.tasks if task.key in staying]
    return state.whole.minus(sum_of([head.asked, state.promised, *staying_amounts]))


def _known_end(task: RunningTask, now_ms: int) -> int | None:
    if task.expected_ms is None or task.started_ms + task.expected_ms <= now_ms:
        return None
    return task.started_ms + task.expected_ms


def _expected_end(task: RunningTask, now_ms: int, usual_ms: float) -> float:
    known_end_ms = _known_end(task, now_ms)
    return now_ms + max(now_ms - task.started_ms, usual_ms) if known_end_ms is None else known_end_ms


# --- tasks beside the head


def room_beside(head: HeadOfQueue, state: HostState) -> HostAmounts:
    """Return the room on the head's host for further tasks of any run time.

    Amounts are negative if the end of the awaited tasks no longer makes enough room.
    """
    if head.exclusive:
        others = any(task.key not in head.awaited for task in state.tasks)
        return HostAmounts(*[-1.0 if others else 0.0] * len(NOTHING))
    staying = frozenset(task.key for task in state.tasks if task.key not in head.awaited)
    return _room_left(head, state, staying)


def ends_in_time(
    head: HeadOfQueue, run_time: RunTime, of_group: Callable[[GroupId], int | None], now_ms: int
) -> bool:
    """Return whether a task that starts now will have ended before the head's room is expected to be free.

    Args:
        head: the job for which room is kept.
        run_time: run time of the job of the task.
        of_group: returns the observed run time of a group's jobs.
        now_ms: the time.
    """
    bound = run_time.bound_ms(of_group)
    return bound is not None and head.free_at_ms is not None and now_ms + bound <= head.free_at_ms


def without_kept(offer: Offer, beside: HostAmounts, whole: HostAmounts) -> Offer:
    """Return the offer without the room that is kept for a head.

    Args:
        offer: room on the head's host.
        beside: amounts that other jobs may hold there (`room_beside`).
        whole: amounts of the empty host.
    """
    free = amounts_of(offer)
    reduced = free.minimum(HostAmounts(*(max(0.0, amount) for amount in beside)))
    task_count = offer.task_count
    if whole.tasks < inf and beside.tasks < inf:
        task_count = max(task_count, int(whole.tasks - max(0.0, beside.tasks)))
    if reduced == free and task_count == offer.task_count:
        return offer
    room = Resources(cpus=reduced.cpus, mem_mb=reduced.mem_mb, gpus=reduced.gpus)
    return replace(
        offer,
        room=room,
        running=offer.running + (offer.room - room),
        ports=_first_ports(offer.ports, int(reduced.ports)),
        task_count=task_count,
    )


def with_task(offer: Offer, request: TaskRequest, ports: Sequence[int]) -> Offer:
    """Return the offer after a task has started on its host."""
    used = Resources(
        cpus=request.cpus, mem_mb=request.mem_mb, gpus=request.gpus if offer.kind is HostKind.PLAIN else 0.0
    )
    used_ports = set(ports)
    numbers = [port for low, high in offer.ports for port in range(low, high + 1) if port not in used_ports]
    return replace(
        offer,
        room=offer.room - used,
        running=offer.running + used,
        ports=tuple((port, port) for port in numbers) if used_ports else offer.ports,
        task_count=offer.task_count + 1,
    )


def _first_ports(ranges: tuple[tuple[int, int], ...], count: int) -> tuple[tuple[int, int], ...]:
    reduced = []
    for low, high in ranges:
        if count <= 0:
            break
        reduced.append((low, min(high, low + count - 1)))
        count -= high - low + 1
    return tuple(reduced)


# --- amounts


def amounts_of(offer: Offer) -> HostAmounts:
    """Return the free amounts of an offer; the number of tasks is not limited."""
    room = offer.room
    return HostAmounts(room.cpus, room.mem_mb, room.gpus, port_count(offer), inf)


def whole_of(empty: Offer, max_tasks: int | None) -> HostAmounts:
    """Return the amounts of an empty host.

    Args:
        empty: offer of the host when no task runs there.
        max_tasks: maximum number of tasks per host; None if not limited.
    """
    whole = empty.room + empty.running
    gpus = whole.gpus if empty.kind is HostKind.PLAIN else inf  # for other kinds, constraints decide
    return HostAmounts(
        whole.cpus, whole.mem_mb, gpus, port_count(empty), inf if max_tasks is None else float(max_tasks)
    )


def amounts_requested(request: TaskRequest) -> HostAmounts:
    """Return the amounts that a job requests."""
    return HostAmounts(request.cpus, request.mem_mb, request.gpus, float(request.ports), 1.0)


# --- precedence


def is_within_limit(
    requested: HostAmounts, heads: Iterable[HeadOfQueue], whole: Resources, max_kept: float
) -> bool:
    """Return whether room may be kept for one more job.

    Args:
        requested: amounts that the job requests.
        heads: heads of the pool already.
        whole: all hosts of the pool together, empty.
        max_kept: part of the pool that may be kept at a time; room for one job may always be.
    """
    others = [head.asked for head in heads]
    if not others:
        return True
    total = sum_of([requested, *others])
    return (
        total.cpus <= max_kept * whole.cpus
        and total.mem_mb <= max_kept * whole.mem_mb
        and total.gpus <= max_kept * whole.gpus
    )


def gives_way(
    head: HeadOfQueue,
    index: QueueIndex,
    limits: UserLimits,
    mode: DruMode,
    may_start: Callable[[JobId], bool],
    free: HostAmounts = NOTHING,
) -> bool:
    """Return whether jobs of users who hold less of their share take precedence over the head.

    They do if the head's user holds more than the share, and another user has a job with which the DRU of
    that user would not be higher. The job must have no constraints, be allowed to start, and be able to use
    the room: it is no larger than the head, or fits on the head's host now. Otherwise the head keeps its
    room: small jobs rank before a large job of a user with equal usage, so the large job would starve.

    Args:
        head: the job for which room is kept.
        index: waiting jobs and running tasks of the pool.
        limits: shares of its users.
        mode: resources that count in the DRU.
        may_start: returns whether quotas, launch rates and filters allow a job to start.
        free: amounts that would be free now on the head's host without the head.
    """
    head_dru = _dru(index, limits, head.user, mode)
    if head_dru <= 1.0:
        return False
    cpus, mem, gpus = index.amounts()
    for tasks in index.by_name():
        if tasks.name == head.user or not tasks.waiting_count:
            continue
        row = tasks.first_waiting(1)[0]
        job = HostAmounts(cpus[row], mem[row], gpus[row], float(index.ports(row)), 1.0)
        if index.class_number(row) or row in index.job_constraints:
            continue
        if not job.fit_in(head.asked) and not job.fit_in(free):
            continue
        if _dru(index, limits, tasks.name, mode, job) <= head_dru and may_start(index.job_id(row)):
            return True
    return False


def holds_more_than_share(user: str, index: QueueIndex, limits: UserLimits, mode: DruMode) -> bool:
    """Return whether a user's running tasks hold more than the user's share."""
    return held_dru(user, index, limits, mode) > 1.0


def held_dru(user: str, index: QueueIndex, limits: UserLimits, mode: DruMode) -> float:
    """Return the DRU of a user's running tasks."""
    return _dru(index, limits, user, mode)


def _dru(
    index: QueueIndex, limits: UserLimits, user: str, mode: DruMode, extra: HostAmounts = NOTHING
) -> float:
    usage = index.usage(user)
    return dru_of(
        usage.cpus + extra.cpus,
        usage.mem_mb + extra.mem_mb,
        usage.gpus + extra.gpus,
        limits.share(user),
        mode,
    )
