"""Ranking: one queue out of every user's own order.

Lives here: the merge of the users' lists by DRU, lazily with a heap (`lazily`) and in columns (`columnar`),
and the cut that keeps a user from filling the queue with jobs far over quota. Both give the same queue; which
one is faster depends on how many users there are and how many jobs are wanted.
Not here: which ranked jobs may be matched now (`scheduling.considerable`).

Users start in ascending order of name. Among equal scores the list served most recently goes first, then
lists never served, in starting order: Cook sorts all lists again after each element, a stable sort that
leaves the last one served in front.

Source: Cook's `dru.clj` and `scheduler.clj` (`sort-jobs-by-dru-pool`), as told in the fair-share
specification, section 3.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.columns import QueueIndex
from cook_jupyter.scheduling.tables import Floats, Rows
from cook_jupyter.scheduling.user_tasks import UserTasks

MAX_OVER_QUOTA_JOBS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """How a pool ranks.

    Attributes:
        mode: what the DRU counts.
        max_over_quota_jobs: how many tasks beyond the quota a user keeps in the queue.
    """

    mode: DruMode = DruMode.DEFAULT
    max_over_quota_jobs: int = MAX_OVER_QUOTA_JOBS


class Ranked(NamedTuple):
    """A waiting job in its place."""

    row: int
    dru: float
    tasks: UserTasks


def rank(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RankSettings(),
    *,
    limit: int | None = None,
) -> Sequence[JobId]:
    """Return the first `limit` waiting jobs of the pool, or all, in rank order.

    What a pool's or group's quota keeps out, and jobs too large for the pool, are still in it
    (`considerable.ranked_within`).
    """
    if limit is not None and limit < 64:
        return index.ids(ranked.row for ranked in islice(lazily(index, limits, settings), limit))
    return index.ids(columnar(index, limits, settings, limit).rows.tolist())


# --- one by one


def lazily(
    index: QueueIndex, limits: UserLimits, settings: RankSettings = RankSettings()
) -> Iterator[Ranked]:
    """Yield waiting jobs in rank order; each costs O(log users). The index must not change meanwhile."""
    cursors = [_scored(index, tasks, limits, settings) for tasks in index.by_name()]
    if len(cursors) == 1:
        for head in cursors[0]:
            if head[1]:
                yield Ranked(head[1], head[0], head[2])
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
            yield Ranked(row, dru, tasks)
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
    gpu_mode = settings.mode is DruMode.GPU
    all_cpus, all_mem, all_gpus = index.amounts()
    share_cpus, share_mem, share_gpus = share.cpus, share.mem_mb, share.gpus
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
        dru = gpus / share_gpus if gpu_mode else max(mem / share_mem, cpus / share_cpus)
        yield dru, row if waits else 0, tasks


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
        complete: whether these are all; else there are more behind the last.
    """

    rows: Rows
    drus: Floats
    complete: bool


def columnar(
    index: QueueIndex,
    limits: UserLimits,
    settings: RankSettings = RankSettings(),
    limit: int | None = None,
    *,
    most: npt.NDArray[np.int64] | None = None,
) -> Ranking:
    """Rank the first `limit` waiting jobs, or all, at once.

    Only the heads of the users' lists are looked at: as many jobs of each as may be among the first `limit`.

    Args:
        index: the pool's tasks.
        limits: shares and quotas.
        settings: how the pool ranks.
        limit: how many jobs are wanted; there may be a few more in the result, or fewer if no more wait.
        most: by number of user, how many waiting jobs of each are wanted at most.
    """
    found = list(islice(lazily(index, limits, settings), limit))
    return Ranking(
        rows=np.array([ranked.row for ranked in found], dtype=np.int32),
        drus=np.array([ranked.dru for ranked in found]),
        complete=limit is None or len(found) < limit,
    )
