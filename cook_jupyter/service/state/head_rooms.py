"""The heads of the queues from one match cycle to the next.

Lives here: `HeadRooms`, which jobs are at the head of their pool's queue, and what is known about the tasks
that they wait for. All of it is in memory: after a restart the first match cycles find the heads again.
Not here: every decision about them (`scheduling.heads`), room that was freed by preemption
(`service.state.freed_room`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.heads import HeadsAfter
from cook_jupyter.scheduling.matching.capacity import Capacity
from cook_jupyter.scheduling.matching.head_room import Amounts, HeadOfQueue, RunningTask
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.snapshot import HeadFacts
from cook_jupyter.service.settings.tables import HeadRoomSettings

MAX_GROUPS: Final = 10_000  # whose run times are remembered


class HeadRooms:
    """The heads of all pools. Pools may share hosts: what one keeps is kept from all.

    Args:
        settings: how much is kept.
        indexes: returns the queues of all pools.
    """

    def __init__(self, settings: HeadRoomSettings, indexes: Callable[[], Iterable[QueueIndex]]) -> None:
        self._settings = settings
        self._indexes = indexes
        self._heads: dict[PoolName, dict[JobId, HeadOfQueue]] = {}
        self._nowhere: dict[PoolName, set[JobId]] = {}  # no host could ever hold them
        self._group_ms: dict[GroupId, int] = {}
        self._tasks: dict[str, Sequence[RunningTask]] = {}  # by host, since the last commit
        self._current: dict[PoolName, frozenset[tuple[JobId, str]]] = {}  # reviewed since the last commit

    @property
    def is_on(self) -> bool:
        """Whether room is ever kept."""
        return self._settings.max_kept > 0

    def of(self, pool: PoolName) -> Mapping[JobId, HeadOfQueue]:
        """Return the heads of a pool, longest at the head first."""
        return self._heads.get(pool, {})

    def facts(
        self, pool: PoolName, capacities: Mapping[PoolName, Capacity], promised: Mapping[str, Amounts]
    ) -> HeadFacts:
        """Return what decisions about the heads of a pool read.

        Args:
            pool: the pool.
            capacities: hosts of all pools.
            promised: host -> amounts that are reserved there for beneficiaries of preemptions.
        """
        if not self.is_on:
            return NO_HEADS
        return HeadFacts(
            max_kept=self._settings.max_kept,
            backfill=self._settings.backfill,
            by_pool=self._heads,
            nowhere=self._nowhere.get(pool, frozenset()),
            current=self._current.get(pool, frozenset()),
            capacities=capacities,
            tasks_on=self._tasks_on,
            promised=promised,
            group_ms=self._group_ms,
            least=[index.min_request for index in self._indexes() if index.waiting_count],
        )

    def put(self, pool: PoolName, after: HeadsAfter) -> None:
        """Take the heads over as a decision about a pool has left them."""
        if not self.is_on:
            return
        self._heads = {name: dict(heads) for name, heads in after.by_pool.items()}
        self._nowhere[pool] = set(after.nowhere)
        self._current[pool] = after.current

    # --- following commits

    def forget_tasks(self) -> None:
        """Learn that tasks have started or ended."""
        if self._tasks:
            self._tasks.clear()
        if self._current:
            self._current.clear()

    def drop(self, pool: PoolName, job_id: JobId) -> None:
        """Keep nothing more for a job."""
        if self._nowhere:
            self._nowhere.get(pool, set()).discard(job_id)
        heads = self._heads.get(pool)
        if heads is not None and heads.pop(job_id, None) is not None and not heads:
            del self._heads[pool]

    def hosts_changed(self, pool: PoolName) -> None:
        """Learn that a pool has other hosts: they may hold what no host could hold before."""
        self._nowhere.pop(pool, None)

    def note_end(self, job: Job) -> None:
        """Learn from a job that has succeeded how long jobs of its group run."""
        group, instance = job.spec.group, job.instances[-1]
        if group is not None and self.is_on and instance.ended_ms is not None:
            took_ms = max(1, instance.ended_ms - instance.started_ms)
            self._group_ms[group] = max(took_ms, self._group_ms.pop(group, 0))
            if len(self._group_ms) > MAX_GROUPS:  # the one that has been silent for longest
                del self._group_ms[next(iter(self._group_ms))]

    def _tasks_on(self, host: str) -> Sequence[RunningTask]:
        """Return the tasks on a host, of all pools; the same value until tasks have started or ended."""
        tasks = self._tasks.get(host)
        if tasks is None:
            tasks = self._tasks[host] = [
                RunningTask(
                    index.job_id(row),
                    started_ms,
                    Amounts(*index.amounts_of(row), float(index.ports(row)), 1.0),
                    index.run_time(row).expectation_ms(self._group_ms.get),
                )
                for index in self._indexes()
                for row, started_ms in index.tasks_on(host).items()
            ]
        return tasks


NO_HEADS: Final = HeadFacts()
