"""Room for the head of the queue: what is kept for a job that no host has room for yet.

Lives here: on which host room is kept (`choose_host`), for how many jobs (`is_within_limit`), which tasks may
start beside it (`room_beside`, `ends_in_time`), and who goes before the head all the same (`gives_way`).
Not here: which jobs are at the head (`scheduling.heads`), what is kept for them from cycle to cycle
(`service.state.queue_heads`), room that was freed by preemption (`service.state.reservations`).

A head waits for tasks on its host that already ran when it reached the head, as few as make room: the awaited
ones. Every other task there, now or later, must fit beside the head as if it never ended. So the head starts
at the latest when the last task has ended that ran when it reached the head, whatever comes meanwhile, and
nothing in this argument depends on known run times. Where the run times of all awaited tasks are known, tasks
that will have ended by then may use the kept room meanwhile (EASY backfilling).

Source: Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995 (EASY); there the head has its reservation until
the queue is sorted again. Here it stays: a DRU falls whenever a task ends, so the user whose tasks make room
would rank first again each time.
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

_DECIMALS = 6  # of amounts: sums of fractions must come out even

TaskKey = tuple[JobId, int]  # a job and the start of its task: a later task of the job is another one


class Amounts(NamedTuple):
    """Amounts of everything that a host can run out of."""

    cpus: float = 0.0
    mem_mb: float = 0.0
    gpus: float = 0.0
    ports: float = 0.0
    tasks: float = 0.0

    # Field by field: these run thousands of times in a cycle, and a loop takes five times as long.

    def plus(self, other: "Amounts") -> "Amounts":
        """Return the sum."""
        return Amounts(
            self.cpus + other.cpus,
            self.mem_mb + other.mem_mb,
            self.gpus + other.gpus,
            self.ports + other.ports,
            self.tasks + other.tasks,
        )

    def minus(self, other: "Amounts") -> "Amounts":
        """Return the difference; amounts may be negative."""
        return Amounts(
            round(self.cpus - other.cpus, _DECIMALS),
            round(self.mem_mb - other.mem_mb, _DECIMALS),
            round(self.gpus - other.gpus, _DECIMALS),
            self.ports - other.ports,
            self.tasks - other.tasks,
        )

    def lesser(self, other: "Amounts") -> "Amounts":
        """Return the smaller amount of each kind."""
        return Amounts(*map(min, self, other))

    def fit_in(self, room: "Amounts") -> bool:
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


NOTHING = Amounts()


def sum_of(amounts: Iterable[Amounts]) -> Amounts:
    """Return the sum of amounts."""
    cpus = mem_mb = gpus = ports = tasks = 0.0
    for one in amounts:
        cpus += one.cpus
        mem_mb += one.mem_mb
        gpus += one.gpus
        ports += one.ports
        tasks += one.tasks
    return Amounts(cpus, mem_mb, gpus, ports, tasks)


class RunningTask(NamedTuple):
    """A running task, as far as it matters to jobs that wait for its host.

    Attributes:
        job_id: job that the task belongs to.
        started_ms: start of the task.
        held: amounts that the task holds.
        expected_ms: run time that is expected of it; None if unknown.
    """

    job_id: JobId
    started_ms: int
    held: Amounts
    expected_ms: int | None = None

    @property
    def key(self) -> TaskKey:
        """What tells the task from all others."""
        return self.job_id, self.started_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """A host that meets the constraints of a job.

    Attributes:
        host: name of the host.
        whole: amounts of the empty host.
        tasks: tasks that run there, of all pools.
        promised: amounts that are kept there for other jobs.
        exclusive: whether the job starts there only when no other task runs.
    """

    host: str
    whole: Amounts
    tasks: Sequence[RunningTask] = ()
    promised: Amounts = NOTHING
    exclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOfQueue:
    """A job at the head of its pool's queue, and the room that is kept for it.

    Attributes:
        job_id, user: the job and its owner.
        asked: amounts that the job asks for.
        since_ms: time at which the job reached the head.
        position: number of waiting jobs of its user before it at that time.
        host: host on which room is kept; None while the room of no host had to be kept.
        awaited: tasks on that host that have to end first.
        lent: tasks that started in kept room because they will have ended in time.
        free_at_ms: time at which the awaited tasks are expected to have ended; None if unknown.
        exclusive: whether no other task may start on the host meanwhile.
    """

    job_id: JobId
    user: str
    asked: Amounts
    since_ms: int
    position: int = 0
    host: str | None = None
    awaited: frozenset[TaskKey] = frozenset()
    lent: frozenset[TaskKey] = frozenset()
    free_at_ms: int | None = None
    exclusive: bool = False


# --- choosing a host


def choose_host(head: HeadOfQueue, hosts: Iterable[HostState], now_ms: int) -> HeadOfQueue | None:
    """Return the head with room kept on the host where it comes together soonest; None if on no host.

    A task of unknown run time, or past its expected one, is expected to run as long again as it has, and no
    shorter than such tasks have run on average. Among equals the host with fewest awaited tasks is taken,
    then the first by name.

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


def renewed(head: HeadOfQueue, state: HostState, now_ms: int) -> HeadOfQueue | None:
    """Return the head with what it still waits for on its host; None if it cannot start there any more.

    Whatever ends on the host first makes room for the head. The time at which that is expected only ever
    becomes earlier: else tasks that run longer than they should would let others in again and again.
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
    """Return how long tasks of unknown run time have run on average."""
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
    """Return the tasks that have to end first: as few as make room, the earliest ends first.

    None if room does not come together by the end of tasks that ran when the job reached the head.
    """
    earlier = [task for task in state.tasks if task.started_ms <= head.since_ms or task.key in head.lent]
    earlier.sort(key=lambda task: (_expected_end(task, now_ms, usual_ms), task.job_id))
    if state.exclusive:
        return earlier if len(earlier) == len(state.tasks) else None
    left = _left(head, state, frozenset(task.key for task in state.tasks))
    for number, task in enumerate(earlier):
        if not left.is_negative:
            return earlier[:number]
        left = left.plus(task.held)
        left = left.minus(NOTHING)  # rounded
    return None if left.is_negative else earlier


def _free_at_ms(awaited: Sequence[RunningTask], now_ms: int) -> int | None:
    ends = [_known_end(task, now_ms) for task in awaited]
    known = [end for end in ends if end is not None]
    return max(known, default=now_ms) if len(known) == len(ends) else None


def _left(head: HeadOfQueue, state: HostState, staying: Container[TaskKey]) -> Amounts:
    """Return what the host has beside the head, what is promised, and the tasks that stay."""
    held = [task.held for task in state.tasks if task.key in staying]
    return state.whole.minus(sum_of([head.asked, state.promised, *held]))


def _known_end(task: RunningTask, now_ms: int) -> int | None:
    if task.expected_ms is None or task.started_ms + task.expected_ms <= now_ms:
        return None
    return task.started_ms + task.expected_ms


def _expected_end(task: RunningTask, now_ms: int, usual_ms: float) -> float:
    known = _known_end(task, now_ms)
    return now_ms + max(now_ms - task.started_ms, usual_ms) if known is None else known


# --- what may start beside it


def room_beside(head: HeadOfQueue, state: HostState) -> Amounts:
    """Return the amounts of the head's host that tasks of any run time may hold besides those that run.

    Negative amounts tell that the room cannot come together any more by the end of the awaited tasks.
    """
    if head.exclusive:
        others = any(task.key not in head.awaited for task in state.tasks)
        return Amounts(*[-1.0 if others else 0.0] * len(NOTHING))
    staying = frozenset(task.key for task in state.tasks if task.key not in head.awaited)
    return _left(head, state, staying)


def ends_in_time(
    head: HeadOfQueue, run_time: RunTime, of_group: Callable[[GroupId], int | None], now_ms: int
) -> bool:
    """Return whether a task that starts now will have ended when the head's room is expected to be free.

    Args:
        head: job that room is kept for.
        run_time: what is stated about the job of the task.
        of_group: run time that jobs of a group have shown so far.
        now_ms: the time.
    """
    bound = run_time.bound_ms(of_group)
    return bound is not None and head.free_at_ms is not None and now_ms + bound <= head.free_at_ms


def without_kept(offer: Offer, left: Amounts, whole: Amounts) -> Offer:
    """Return the offer as other jobs may use it.

    Args:
        offer: room on the head's host.
        left: amounts that other jobs may hold there (`room_beside`).
        whole: amounts of the empty host.
    """
    free = amounts_of(offer)
    reduced = free.lesser(Amounts(*(max(0.0, amount) for amount in left)))
    task_count = offer.task_count
    if left.tasks < inf:
        task_count = max(task_count, int(whole.tasks - max(0.0, left.tasks)))
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
    """Return the offer after a task has started there."""
    held = Resources(
        cpus=request.cpus, mem_mb=request.mem_mb, gpus=request.gpus if offer.kind is HostKind.PLAIN else 0.0
    )
    taken = set(ports)
    numbers = [port for first, last in offer.ports for port in range(first, last + 1) if port not in taken]
    return replace(
        offer,
        room=offer.room - held,
        running=offer.running + held,
        ports=tuple((port, port) for port in numbers) if taken else offer.ports,
        task_count=offer.task_count + 1,
    )


def _first_ports(ranges: tuple[tuple[int, int], ...], count: int) -> tuple[tuple[int, int], ...]:
    kept = []
    for first, last in ranges:
        if count <= 0:
            break
        kept.append((first, min(last, first + count - 1)))
        count -= last - first + 1
    return tuple(kept)


# --- amounts


def amounts_of(offer: Offer) -> Amounts:
    """Return what an offer has free; tasks are not limited."""
    room = offer.room
    return Amounts(room.cpus, room.mem_mb, room.gpus, port_count(offer), inf)


def whole_of(empty: Offer, max_tasks: int | None) -> Amounts:
    """Return the amounts of an empty host.

    Args:
        empty: offer of the host when no task runs there.
        max_tasks: number of tasks that a host may run; None if not limited.
    """
    whole = empty.room + empty.running
    gpus = whole.gpus if empty.kind is HostKind.PLAIN else inf  # of others constraints decide
    return Amounts(
        whole.cpus, whole.mem_mb, gpus, port_count(empty), inf if max_tasks is None else float(max_tasks)
    )


def asked_by(request: TaskRequest) -> Amounts:
    """Return the amounts that a job asks for."""
    return Amounts(request.cpus, request.mem_mb, request.gpus, float(request.ports), 1.0)


# --- for whom


def is_within_limit(asked: Amounts, heads: Iterable[HeadOfQueue], whole: Resources, max_kept: float) -> bool:
    """Return whether room may be kept for one more job.

    Args:
        asked: amounts that the job asks for.
        heads: heads of the pool already.
        whole: all hosts of the pool together, empty.
        max_kept: part of the pool that may be kept at a time; room for one job may always be.
    """
    others = [head.asked for head in heads]
    if not others:
        return True
    total = sum_of([asked, *others])
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
) -> bool:
    """Return whether the head's room goes to jobs of users who hold less of their share.

    That is so when the head's user holds more than a share, and another user has a job with which that user
    would be no further along. The job is no larger than the head, demands no particular host and may start,
    so that it can use the room. All others have to wait: a small job ranks before a large one of a user who
    holds as much, so the large one would starve.

    Args:
        head: job that room is kept for.
        index: waiting jobs and running tasks of the pool.
        limits: shares of its users.
        mode: what counts in the DRU.
        may_start: whether quotas, launch rates and filters let a job start.
    """
    held = _dru(index, limits, head.user, mode)
    if held <= 1.0:
        return False
    cpus, mem, gpus = index.amounts()
    for tasks in index.by_name():
        if tasks.name == head.user or not tasks.waiting_count:
            continue
        row = tasks.first_waiting(1)[0]
        job = Amounts(cpus[row], mem[row], gpus[row], float(index.ports(row)), 1.0)
        if index.class_number(row) or row in index.job_constraints or not job.fit_in(head.asked):
            continue
        if _dru(index, limits, tasks.name, mode, job) <= held and may_start(index.job_id(row)):
            return True
    return False


def holds_more_than_share(user: str, index: QueueIndex, limits: UserLimits, mode: DruMode) -> bool:
    """Return whether a user's running tasks hold more than the user's share."""
    return held_dru(user, index, limits, mode) > 1.0


def held_dru(user: str, index: QueueIndex, limits: UserLimits, mode: DruMode) -> float:
    """Return the DRU of all that a user's running tasks hold."""
    return _dru(index, limits, user, mode)


def _dru(index: QueueIndex, limits: UserLimits, user: str, mode: DruMode, more: Amounts = NOTHING) -> float:
    usage = index.usage(user)
    return dru_of(
        usage.cpus + more.cpus, usage.mem_mb + more.mem_mb, usage.gpus + more.gpus, limits.share(user), mode
    )
