"""Ranking: one queue out of every user's own order.

Lives here: the merge of the users' lists by DRU, lazily with a heap (`rank_lazily`) and in columns
(`rank_in_columns`), and the cut that keeps a user from filling the queue with jobs far over quota. Both give
the same queue; which one is faster depends on how many users there are and how many jobs are wanted. And the
other order, first come, first served (`Order.FIFO`), which fairness is compared with.
Not here: which ranked jobs may be matched now (`scheduling.ranking.considerable`).

Users start in ascending order of name. Among equal scores the list served most recently goes first, then
lists never served, in starting order: Cook sorts all lists again after each element, a stable sort that
leaves the last one served in front.

Source: Cook's `dru.clj` and `scheduler.clj` (`sort-jobs-by-dru-pool`), as told in the fair-share
specification, section 3.
"""

import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.limits import UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.arrays import SEQ_BITS, Floats, Integers, Rows
from cook_jupyter.scheduling.limits.cycle_limits import MAX_OVER_QUOTA_JOBS
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.user_tasks import UserTasks
from cook_jupyter.scheduling.ranking.dru import dru_of, drus_of
from cook_jupyter.scheduling.ranking.merge import merge_order, segmented_cumsum

Mask = npt.NDArray[np.bool_]

_LEAST_DEPTH = 8  # how many waiting jobs of each user are looked at, at least


class Order(Enum):
    """What order the users' jobs stand in."""

    FAIR = "fair"  # by DRU, as Cook has it
    FIFO = "fifo"  # by priority, then as they came, whoever's they are: no shares, no cut, every DRU 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """How a pool ranks.

    Attributes:
        order: what order the users' jobs stand in.
        mode: what the DRU counts.
        max_over_quota_jobs: how many tasks beyond the quota a user keeps in the queue.
    """

    order: Order = Order.FAIR
    mode: DruMode = DruMode.DEFAULT
    max_over_quota_jobs: int = MAX_OVER_QUOTA_JOBS


RANK_DEFAULTS = RankSettings()


class RankedJob(NamedTuple):
    """A waiting job in its place."""

    row: int
    dru: float
    tasks: UserTasks


# --- one by one


def rank_lazily(
    index: QueueIndex, limits: UserLimits, settings: RankSettings = RANK_DEFAULTS
) -> Iterator[RankedJob]:
    """Yield waiting jobs in rank order; each costs O(log users). The index must not change meanwhile."""
    if settings.order is Order.FIFO:
        return _as_they_came(index)
    return _by_dru(index, limits, settings)


def _as_they_came(index: QueueIndex) -> Iterator[RankedJob]:
    lists = [_keyed(index, tasks) for tasks in index.by_name()]
    return (RankedJob(row, 0.0, tasks) for _, row, tasks in heapq.merge(*lists))


def _keyed(index: QueueIndex, tasks: UserTasks) -> Iterator[tuple[int, int, UserTasks]]:
    """Yield order key, which no two jobs share, and row of each waiting job of a user."""
    return ((index.order_key(row), row, tasks) for row in tasks.iter_waiting())


def _by_dru(index: QueueIndex, limits: UserLimits, settings: RankSettings) -> Iterator[RankedJob]:
    cursors = [_scored(index, tasks, limits, settings) for tasks in index.by_name()]
    if len(cursors) == 1:
        for head in cursors[0]:
            if head[1]:
                yield RankedJob(head[1], head[0], head[2])
        return
    heap: list[tuple[float, int, int, int, UserTasks]] = []
    for start, cursor in enumerate(cursors):
        first = next(cursor, None)
        if first is not None:
            heap.append((first[0], 0, start, first[1], first[2]))
    heapq.heapify(heap)
    served = 0
    while heap:
        dru, _, start, row, tasks = heap[0]
        if row:
            yield RankedJob(row, dru, tasks)
        served -= 1
        following = next(cursors[start], None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[0], served, start, following[1], tasks))


def _scored(
    index: QueueIndex, tasks: UserTasks, limits: UserLimits, settings: RankSettings
) -> Iterator[tuple[float, int, UserTasks]]:
    """Yield score, row (0 for a running task) and user of each task in the user's order, cut by quota."""
    share = limits.share(tasks.name)
    quota = limits.quota(tasks.name)
    over = settings.max_over_quota_jobs
    limited = quota.limits_usage
    mode = settings.mode
    all_cpus, all_mem, all_gpus = index.amounts()
    count = 0
    cpus = mem = gpus = 0.0
    for row, waits in in_order(index, tasks):
        cpus += all_cpus[row]
        mem += all_mem[row]
        gpus += all_gpus[row]
        if limited:
            count += 1
            within = (
                count <= quota.count and cpus <= quota.cpus and mem <= quota.mem_mb and gpus <= quota.gpus
            )
            if not within:
                over -= 1
                if over < 0:
                    return
        yield dru_of(cpus, mem, gpus, share, mode), row if waits else 0, tasks


def in_order(index: QueueIndex, tasks: UserTasks) -> Iterator[tuple[int, bool]]:
    """Yield row and whether it waits, for all tasks of one user in Cook's order.

    Among equal priorities all running tasks come first; a waiting job of higher priority comes before them.
    """
    waiting = tasks.iter_waiting()
    nextup = next(waiting, None)
    for key, row in zip(tasks.keys, tasks.started, strict=True):
        while nextup is not None and index.priority_key(nextup) < key[0]:
            yield nextup, True
            nextup = next(waiting, None)
        yield row, False
    if nextup is not None:
        yield nextup, True
        for row in waiting:
            yield row, True


# --- in columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Waiting jobs in rank order, as columns.

    Attributes:
        rows: the jobs.
        drus: their scores.
        complete: there are no more; else there may be more behind the last.
    """

    rows: Rows
    drus: Floats
    complete: bool


class TaskFilter(Protocol):
    """Says which elements of users' lists are wanted at all."""

    def __call__(self, heads: "ListHeads") -> tuple[Mask, Mask]:
        """Return which elements are wanted, and of which lists no later element will be."""


def rank_in_columns(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
    limit: int | None = None,
    *,
    wanted: TaskFilter | None = None,
    passed_over: Callable[[UserTasks], int] | None = None,
) -> Ranking:
    """Rank the first `limit` waiting jobs, or all, at once.

    Only a head of each user's list is read: up to the user's `depth`-th waiting job. Why the result is still
    exact, whatever the depths:

    1. A head (`_heads`) is a *prefix of the user's whole list* in Cook's order: all running tasks and waiting
       jobs up to the last waiting job read, and nothing behind it. A DRU depends on what comes before in the
       list, so each DRU in a head is exact; so is the cut, which only looks at prefixes too.
    2. Scores never fall along a list. So no element that was not read scores below the last one read of its
       list, which is a waiting job (`ListHeads.last_scores`). Let `bound` be the least such score over the
       lists that have more: every element that scores below `bound` has been read.
    3. The merge takes elements by ascending score, and among equal scores decides by what was taken before.
       So the part of the order with scores below `bound` depends on elements below `bound` alone, and is
       exact. When that part has `limit` wanted jobs, it holds the first `limit`; else more is read of the
       lists that can matter.
    4. Whether one list goes before another depends on these two lists alone. So leaving out elements at the
       end of a list that are not wanted themselves (users without waiting jobs, running tasks behind the last
       waiting job, jobs that `wanted` rules out for good) changes no order among the others.

    A running task behind jobs that were not read must not be in a head: its score would leave those jobs
    out, and would raise the bound above jobs that come first.

    Args:
        index: the pool's tasks.
        limits: shares and quotas of the pool's users.
        settings: how the pool ranks.
        limit: number of jobs to return; None for all.
        wanted: filter of the jobs that have to be ranked; None takes all.
        passed_over: number of a user's first waiting jobs that `wanted` will not take; only saves time.
    """
    users = [tasks for tasks in index.by_name() if tasks.waiting_count]
    counts = np.array([tasks.waiting_count for tasks in users], dtype=np.int64)
    depths = counts
    if limit is not None and users:
        # What runs is merged whole in each round: as many that wait cost no more, and save rounds in which a
        # few users turn out to have most of the first jobs.
        depth = max(_LEAST_DEPTH, 2 * limit // len(users), index.running_count // len(users))
        if passed_over is None:
            depths = np.minimum(counts, depth)
        else:
            depths = np.minimum(counts, depth + np.array([passed_over(tasks) for tasks in users]))
    fair = settings.order is Order.FAIR
    while True:
        heads = _heads(index, users, depths, running=fair)
        scored = _scores_of(index, heads, limits, settings) if fair else index.columns.order[heads.rows]
        more = depths < counts
        kept = _within_cut(index, heads, limits, settings) if fair else None
        if kept is not None:
            heads, scored = heads.only(kept), scored[kept]
            more &= heads.waiting_counts >= depths  # what the cut left out is not missed
        shown = heads.waits
        if wanted is not None:
            are_wanted, finished = wanted(heads)
            shown = shown & are_wanted
            more &= ~finished
        last = heads.last_scores(scored)
        whole = limit is None or not more.any()
        scores = scored[shown]
        if limit is None or whole or int(np.count_nonzero(scores < last[more].min())) >= limit:
            break
        bound = _nth(scores, limit) if len(scores) >= limit else last.max()  # or all
        depths = np.where(more & (last <= bound), np.minimum(counts, depths * 4), depths)
    if limit is not None and len(scores) > limit:
        needed = scored <= _nth(scores, limit)
        heads, scored, shown = heads.only(needed), scored[needed], shown[needed]
    order = merge_order(scored, heads.lengths)
    order = order[shown[order]][:limit]
    return Ranking(
        rows=heads.rows[order],
        drus=scored[order].astype(np.float64, copy=False) if fair else np.zeros(len(order)),
        complete=whole and (limit is None or len(scores) <= limit),
    )


def _nth(scores: Floats | Integers, number: int) -> Any:
    """Return the n-th smallest score, counted from one."""
    return np.partition(scores, number - 1)[number - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListHeads:
    """The heads of users' lists in Cook's order, one behind the other.

    Attributes:
        users: their numbers.
        lengths: how many elements there are of each.
        rows: the elements.
        waits: which of them wait; the others run.
    """

    users: Integers
    lengths: Integers
    rows: Rows
    waits: Mask

    @property
    def begins(self) -> Integers:
        """Where each list begins."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def owners(self) -> Integers:
        """The place of each element's list."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def waiting_counts(self) -> Integers:
        """How many of each list wait."""
        return np.bincount(self.owners[self.waits], minlength=len(self.lengths))

    def last_scores(self, scored: Floats | Integers) -> Floats | Integers:
        """Return the score of each list's last element; the highest there is for an empty list."""
        highest = np.inf if scored.dtype.kind == "f" else np.iinfo(np.int64).max
        last: npt.NDArray[Any] = np.full_like(scored, highest, shape=len(self.lengths))
        filled = self.lengths > 0
        last[filled] = scored[np.cumsum(self.lengths)[filled] - 1]
        return last

    def only(self, kept: Mask) -> "ListHeads":
        """The same without the elements that are not kept."""
        return ListHeads(
            users=self.users,
            lengths=np.bincount(self.owners[kept], minlength=len(self.lengths)),
            rows=self.rows[kept],
            waits=self.waits[kept],
        )


def iter_ranked_in_columns(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
    *,
    number: int,
    wanted: TaskFilter | None = None,
    passed_over: Callable[[UserTasks], int] | None = None,
) -> Iterator[RankedJob]:
    """Yield what `rank_lazily` yields, ranked in columns: `number` jobs at first, then more on demand."""
    told = 0
    while True:
        ranking = rank_in_columns(index, limits, settings, number, wanted=wanted, passed_over=passed_over)
        owners = index.owners(ranking.rows[told:])
        rows, drus = ranking.rows[told:].tolist(), ranking.drus[told:].tolist()
        yield from map(RankedJob, rows, drus, owners)
        if ranking.complete:
            return
        told = len(ranking.rows)
        number *= 4


def _heads(index: QueueIndex, users: Sequence[UserTasks], depths: Integers, *, running: bool) -> ListHeads:
    """Return each user's list up to the user's `depth`-th waiting job, in Cook's order.

    Args:
        index: the pool's tasks.
        users: users with waiting jobs.
        depths: number of waiting jobs to read of each; at least one, at most all.
        running: whether running tasks are in the lists.
    """
    joined = array("i")
    for tasks, depth in zip(users, depths.tolist(), strict=True):
        if running:
            joined.extend(tasks.started)
        joined.extend(tasks.first_waiting(depth))
    rows: Rows = np.array(joined, dtype=np.int32)
    started = np.array([len(tasks.started) if running else 0 for tasks in users], dtype=np.int64)
    lengths = started + depths
    waits = np.repeat(np.arange(2 * len(users)) % 2 == 1, np.stack((started, depths), axis=1).ravel())
    heads = ListHeads(
        users=np.array([tasks.number for tasks in users], dtype=np.int64),
        lengths=lengths,
        rows=rows,
        waits=waits,
    )
    both = np.flatnonzero((started > 0) & (depths > 0))
    begins = heads.begins[both]
    return _move_higher_priority_first(index, heads, begins, begins + started[both], begins + lengths[both])


def heads_within_cut(
    index: QueueIndex,
    users: Sequence[UserTasks],
    depths: Integers,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
) -> ListHeads:
    """Return each user's list up to the user's `depth`-th waiting job, as far as the cut keeps it.

    When fewer than `depth` jobs of a list are left, the cut has left out the rest of the list.
    """
    fair = settings.order is Order.FAIR
    heads = _heads(index, users, depths, running=fair)
    kept = _within_cut(index, heads, limits, settings) if fair else None
    return heads if kept is None else heads.only(kept)


def _move_higher_priority_first(
    index: QueueIndex, heads: ListHeads, begins: Integers, middles: Integers, ends: Integers
) -> ListHeads:
    """Put waiting jobs before running tasks of lower priority; drop running tasks behind the last job read.

    Args:
        index: the pool's tasks.
        heads: lists in which the running tasks stand first; reordered in place.
        begins: begins of the lists that have both running tasks and waiting jobs.
        middles: positions of the first waiting jobs of these lists.
        ends: ends of these lists.
    """
    order = index.columns.order
    first_waiting, last_running = order[heads.rows[middles]], order[heads.rows[middles - 1]]
    mixed = first_waiting >> SEQ_BITS < last_running >> SEQ_BITS
    if not mixed.any():
        return heads
    read = np.ones(len(heads.rows), dtype=bool)
    for begin, middle, end in np.stack((begins, middles, ends), axis=1)[mixed].tolist():
        rows = heads.rows[begin:end]
        place = np.argsort(order[rows] >> SEQ_BITS, kind="stable")  # running tasks first among equals
        waits = place >= middle - begin
        heads.rows[begin:end] = rows[place]
        heads.waits[begin:end] = waits
        read[end - int(waits[::-1].argmax()) : end] = False
    return heads.only(read)


def _scores_of(index: QueueIndex, heads: ListHeads, limits: UserLimits, settings: RankSettings) -> Floats:
    """Return the DRU of each element."""
    shares, columns = index.limit_columns(limits).shares, index.columns
    return drus_of(
        lambda name: segmented_cumsum(getattr(columns, name)[heads.rows], heads.lengths),
        lambda name: np.repeat(shares[name][heads.users], heads.lengths),
        settings.mode,
    )


def _within_cut(
    index: QueueIndex, heads: ListHeads, limits: UserLimits, settings: RankSettings
) -> Mask | None:
    """Which elements a user keeps: those within the quota and some more; None if nobody has a quota."""
    of_user = index.limit_columns(limits)
    if not of_user.limited[heads.users].any():
        return None
    columns = index.columns
    quota = np.repeat(of_user.quota[heads.users], heads.lengths, axis=0)
    place = np.arange(len(heads.rows)) - np.repeat(heads.begins, heads.lengths)
    over = place + 1 > quota[:, 0]
    for number, column in enumerate((columns.cpus, columns.mem, columns.gpus), 1):
        over |= segmented_cumsum(column[heads.rows], heads.lengths) > quota[:, number]
    within = np.bincount(heads.owners[~over], minlength=len(heads.lengths))
    kept: Mask = place < np.repeat(within + settings.max_over_quota_jobs, heads.lengths)
    return kept
