"""Ranking: merge the tasks of all users into one queue.

Lives here: the merge of the users' lists by DRU, lazily with a heap (`rank_lazily`) and in columns
(`rank_in_columns`), and the cut that limits the jobs of a user that are far over quota. Both give the same
queue; which is faster depends on the numbers of users and of required jobs. There is also the order first
come, first served (`Order.FIFO`), as a reference for fairness.
Not here: which ranked jobs may be matched now (`scheduling.ranking.considerable`).

Users start in ascending order of name. Among equal scores, the list served most recently goes first, then
lists that were never served, in starting order: Cook sorts all lists again after each element, with a stable
sort that leaves the list served last in front.

Source: Cook's `dru.clj` and `scheduler.clj` (`sort-jobs-by-dru-pool`), as described in the fair-share
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

_MIN_DEPTH = 8  # minimum number of waiting jobs read of each user


class Order(Enum):
    """The order of the jobs of all users."""

    FAIR = "fair"  # by DRU, as in Cook
    FIFO = "fifo"  # by priority, then by submission, regardless of users: no shares, no cut, every DRU 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """Settings of the ranking of a pool.

    Attributes:
        order: order of the jobs of all users.
        mode: resources that count in the DRU.
        max_over_quota_jobs: number of tasks beyond the quota that a user keeps in the queue.
    """

    order: Order = Order.FAIR
    mode: DruMode = DruMode.DEFAULT
    max_over_quota_jobs: int = MAX_OVER_QUOTA_JOBS


RANK_DEFAULTS = RankSettings()


class RankedJob(NamedTuple):
    """A ranked waiting job: its row, its DRU and its user's tasks."""

    row: int
    dru: float
    tasks: UserTasks


# --- lazily


def rank_lazily(
    index: QueueIndex, limits: UserLimits, settings: RankSettings = RANK_DEFAULTS
) -> Iterator[RankedJob]:
    """Yield waiting jobs in rank order; each costs O(log users). The index must not change meanwhile."""
    if settings.order is Order.FIFO:
        return _by_submission(index)
    return _by_dru(index, limits, settings)


def _by_submission(index: QueueIndex) -> Iterator[RankedJob]:
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
        next_element = next(cursors[start], None)
        if next_element is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (next_element[0], served, start, next_element[1], tasks))


def _scored(
    index: QueueIndex, tasks: UserTasks, limits: UserLimits, settings: RankSettings
) -> Iterator[tuple[float, int, UserTasks]]:
    """Yield DRU, row (0 for a running task) and user of each of a user's tasks, in order, up to the cut."""
    share = limits.share(tasks.name)
    quota = limits.quota(tasks.name)
    remaining_over_quota = settings.max_over_quota_jobs
    limited = quota.limits_usage
    mode = settings.mode
    all_cpus, all_mem, all_gpus = index.amounts()
    count = 0
    cpus = mem = gpus = 0.0
    for row, waits in iter_tasks(index, tasks):
        cpus += all_cpus[row]
        mem += all_mem[row]
        gpus += all_gpus[row]
        if limited:
            count += 1
            within = (
                count <= quota.count and cpus <= quota.cpus and mem <= quota.mem_mb and gpus <= quota.gpus
            )
            if not within:
                remaining_over_quota -= 1
                if remaining_over_quota < 0:
                    return
        yield dru_of(cpus, mem, gpus, share, mode), row if waits else 0, tasks


def iter_tasks(index: QueueIndex, tasks: UserTasks) -> Iterator[tuple[int, bool]]:
    """Yield all tasks of a user in Cook's order, as pairs of the row and whether the job waits.

    Among equal priorities, running tasks come first; a waiting job of higher priority comes before them.
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
        rows: rows of the jobs.
        drus: their DRUs.
        complete: whether these are all jobs; else there may be more after the last.
    """

    rows: Rows
    drus: Floats
    complete: bool


class TaskFilter(Protocol):
    """Filters the elements of users' lists."""

    def __call__(self, heads: "ListHeads") -> tuple[Mask, Mask]:
        """Return which elements are accepted, and from which lists no later element will be."""


def rank_in_columns(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
    limit: int | None = None,
    *,
    task_filter: TaskFilter | None = None,
    passed_over: Callable[[UserTasks], int] | None = None,
) -> Ranking:
    """Rank the first `limit` waiting jobs, or all.

    Only the front of each user's list is read, up to the user's `depth`-th waiting job (a *list head*). The
    result is exact for any depths, for these reasons:

    1. A list head (`_heads`) is a *prefix of the user's whole list* in Cook's order: all running tasks and
    waiting
       jobs up to the last waiting job read, and nothing after it. A DRU depends only on earlier elements of
       the list, so each DRU in a list head is exact; so is the cut, which depends only on prefixes, too.
    2. Scores never fall along a list. So no unread element scores below the last element read of its list,
    which
       is a waiting job (`ListHeads.last_scores`). Let `bound` be the lowest such score over the lists with
       unread elements: every element that scores below `bound` has been read.
    3. The merge takes elements by ascending score, and among equal scores decides by earlier elements. So the
    part
       of the order with scores below `bound` depends only on elements below `bound`, and is exact. If it has
       `limit` accepted jobs, these are the first `limit`; else more is read of the lists that can matter.
    4. Whether one list goes before another depends only on these two lists. So omitting elements at the end
    of a
       list that are not accepted (users without waiting jobs, running tasks after the last waiting job, jobs
       that `task_filter` excludes for good) does not change the order of the others.

    A running task after unread jobs must not be in a list head: its score would not count those jobs, and
    would raise the bound above jobs that come first.

    Args:
        index: the pool's tasks.
        limits: shares and quotas of the pool's users.
        settings: settings of the ranking.
        limit: number of jobs to return; None for all.
        task_filter: filter of the jobs to return; None to accept all.
        passed_over: returns the number of a user's first waiting jobs that `task_filter` excludes; only saves
            time.
    """
    users = [tasks for tasks in index.by_name() if tasks.waiting_count]
    counts = np.array([tasks.waiting_count for tasks in users], dtype=np.int64)
    depths = counts
    if limit is not None and users:
        # Each round merges all running tasks. Reading as many waiting jobs costs no more, and saves rounds if
        # a few users have most of the first jobs.
        depth = max(_MIN_DEPTH, 2 * limit // len(users), index.running_count // len(users))
        if passed_over is None:
            depths = np.minimum(counts, depth)
        else:
            depths = np.minimum(counts, depth + np.array([passed_over(tasks) for tasks in users]))
    fair = settings.order is Order.FAIR
    while True:
        heads = _heads(index, users, depths, running=fair)
        scored = _scores_of(index, heads, limits, settings) if fair else index.columns.order[heads.rows]
        has_more = depths < counts
        is_kept = _within_cut(index, heads, limits, settings) if fair else None
        if is_kept is not None:
            heads, scored = heads.only(is_kept), scored[is_kept]
            has_more &= heads.waiting_counts >= depths  # jobs beyond the cut need not be read
        is_shown = heads.waits
        if task_filter is not None:
            accepted, finished = task_filter(heads)
            is_shown = is_shown & accepted
            has_more &= ~finished
        last = heads.last_scores(scored)
        is_complete = limit is None or not has_more.any()
        scores = scored[is_shown]
        if limit is None or is_complete or int(np.count_nonzero(scores < last[has_more].min())) >= limit:
            break
        bound = _nth(scores, limit) if len(scores) >= limit else last.max()  # or all
        depths = np.where(has_more & (last <= bound), np.minimum(counts, depths * 4), depths)
    if limit is not None and len(scores) > limit:
        needed = scored <= _nth(scores, limit)
        heads, scored, is_shown = heads.only(needed), scored[needed], is_shown[needed]
    order = merge_order(scored, heads.lengths)
    order = order[is_shown[order]][:limit]
    return Ranking(
        rows=heads.rows[order],
        drus=scored[order].astype(np.float64, copy=False) if fair else np.zeros(len(order)),
        complete=is_complete and (limit is None or len(scores) <= limit),
    )


def _nth(scores: Floats | Integers, number: int) -> Any:
    """Return the n-th smallest score, counted from one."""
    return np.partition(scores, number - 1)[number - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListHeads:
    """The concatenated heads of users' lists in Cook's order.

    Attributes:
        users: number of the user of each list.
        lengths: number of elements of each list.
        rows: row of each element.
        waits: whether the element is a waiting job; else it is a running task.
    """

    users: Integers
    lengths: Integers
    rows: Rows
    waits: Mask

    @property
    def begins(self) -> Integers:
        """The begin of each list."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def owners(self) -> Integers:
        """The position of each element's list."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def waiting_counts(self) -> Integers:
        """The number of waiting jobs in each list."""
        return np.bincount(self.owners[self.waits], minlength=len(self.lengths))

    def last_scores(self, scored: Floats | Integers) -> Floats | Integers:
        """Return the score of each list's last element; the highest possible score for an empty list."""
        highest = np.inf if scored.dtype.kind == "f" else np.iinfo(np.int64).max
        last: npt.NDArray[Any] = np.full_like(scored, highest, shape=len(self.lengths))
        filled = self.lengths > 0
        last[filled] = scored[np.cumsum(self.lengths)[filled] - 1]
        return last

    def only(self, is_kept: Mask) -> "ListHeads":
        """Return the list heads without the elements that are not kept."""
        return ListHeads(
            users=self.users,
            lengths=np.bincount(self.owners[is_kept], minlength=len(self.lengths)),
            rows=self.rows[is_kept],
            waits=self.waits[is_kept],
        )


def iter_ranked_in_columns(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RANK_DEFAULTS,
    *,
    number: int,
    task_filter: TaskFilter | None = None,
    passed_over: Callable[[UserTasks], int] | None = None,
) -> Iterator[RankedJob]:
    """Yield the jobs of `rank_lazily`, ranked in columns: `number` jobs at first, then more on demand."""
    yielded = 0
    while True:
        ranking = rank_in_columns(
            index, limits, settings, number, task_filter=task_filter, passed_over=passed_over
        )
        owners = index.owners(ranking.rows[yielded:])
        rows, drus = ranking.rows[yielded:].tolist(), ranking.drus[yielded:].tolist()
        yield from map(RankedJob, rows, drus, owners)
        if ranking.complete:
            return
        yielded = len(ranking.rows)
        number *= 4


def _heads(index: QueueIndex, users: Sequence[UserTasks], depths: Integers, *, running: bool) -> ListHeads:
    """Return each user's list up to the user's `depth`-th waiting job, in Cook's order.

    Args:
        index: the pool's tasks.
        users: users with waiting jobs.
        depths: number of waiting jobs to read of each user; at least one, at most all.
        running: whether to include running tasks.
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
    """Return each user's list up to the user's `depth`-th waiting job or the cut.

    A list with fewer than `depth` jobs ends at the cut.
    """
    fair = settings.order is Order.FAIR
    heads = _heads(index, users, depths, running=fair)
    is_kept = _within_cut(index, heads, limits, settings) if fair else None
    return heads if is_kept is None else heads.only(is_kept)


def _move_higher_priority_first(
    index: QueueIndex, heads: ListHeads, begins: Integers, middles: Integers, ends: Integers
) -> ListHeads:
    """Move waiting jobs before running tasks of lower priority; drop running tasks after the last job read.

    Args:
        index: the pool's tasks.
        heads: lists in which the running tasks are first; reordered in place.
        begins: begins of the lists that have both running tasks and waiting jobs.
        middles: positions of the first waiting jobs of these lists.
        ends: ends of these lists.
    """
    order = index.columns.order
    first_waiting, last_running = order[heads.rows[middles]], order[heads.rows[middles - 1]]
    mixed = first_waiting >> SEQ_BITS < last_running >> SEQ_BITS
    if not mixed.any():
        return heads
    is_read = np.ones(len(heads.rows), dtype=bool)
    for begin, middle, end in np.stack((begins, middles, ends), axis=1)[mixed].tolist():
        rows = heads.rows[begin:end]
        permutation = np.argsort(order[rows] >> SEQ_BITS, kind="stable")  # running tasks first among equals
        waits = permutation >= middle - begin
        heads.rows[begin:end] = rows[permutation]
        heads.waits[begin:end] = waits
        is_read[end - int(waits[::-1].argmax()) : end] = False
    return heads.only(is_read)


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
    """Return which elements the cut keeps: those within quota, and some more; None if no user has a quota."""
    limit_columns = index.limit_columns(limits)
    if not limit_columns.limited[heads.users].any():
        return None
    columns = index.columns
    quota = np.repeat(limit_columns.quota[heads.users], heads.lengths, axis=0)
    position = np.arange(len(heads.rows)) - np.repeat(heads.begins, heads.lengths)
    exceeds = position + 1 > quota[:, 0]
    for resource, column in enumerate((columns.cpus, columns.mem, columns.gpus), 1):
        exceeds |= segmented_cumsum(column[heads.rows], heads.lengths) > quota[:, resource]
    within = np.bincount(heads.owners[~exceeds], minlength=len(heads.lengths))
    is_kept: Mask = position < np.repeat(within + settings.max_over_quota_jobs, heads.lengths)
    return is_kept
