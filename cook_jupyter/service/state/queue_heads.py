"""The heads of the queues between two match cycles.

Lives here: `QueueHeads`: the jobs at the head of the queue of each pool, and what is known of the tasks that
they wait for. All of it is in memory; after a restart the first match cycles find the heads again.
Not here: decisions about heads (`scheduling.heads`), room reserved for beneficiaries of preemptions
(`service.state.reservations`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.heads import HeadsAfter
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts, RunningTask
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.snapshot import HeadFacts
from cook_jupyter.service.settings.tables import HeadRoomSettings

MAX_GROUPS: Final = 10_000  # groups whose run time is remembered
NO_HEADS: Final = HeadFacts()


class QueueHeads:
    """The heads of the queues of all pools. Pools may share hosts, so kept room of one pool binds all others.

    Args:
        settings: the amount of room that may be kept.
        indexes: function that returns the queues of all pools.
    """

    def __init__(self, settings: HeadRoomSettings, indexes: Callable[[], Iterable[QueueIndex]]) -> None:
        self._settings = settings
        self._indexes = indexes
        self._heads: dict[PoolName, dict[JobId, HeadOfQueue]] = {}
        self._nowhere: dict[PoolName, set[JobId]] = {}  # jobs that no host could ever hold
        self._group_ms: dict[GroupId, int] = {}  # longest run time of the group's jobs so far
        self._tasks: dict[str, Sequence[RunningTask]] = {}  # host -> its tasks, since the last commit
        self._current: dict[PoolName, frozenset[tuple[JobId, str]]] = {}  # reviewed since the last commit

    @property
    def keeps_room(self) -> bool:
        """Whether room is ever kept."""
        return self._settings.max_kept > 0

    def for_pool(self, pool: PoolName) -> Mapping[JobId, HeadOfQueue]:
        """Return the heads of a pool, the one that has been a head for longest first."""
        return self._heads.get(pool, {})

    def facts(
        self, pool: PoolName, capacities: Mapping[PoolName, PoolCapacity], promised: Mapping[str, HostAmounts]
    ) -> HeadFacts:
        """Return what decisions about the heads of a pool read.

        Args:
            pool: the pool.
            capacities: hosts of all pools.
            promised: host -> amounts that are reserved there for beneficiaries of preemptions.
        """
        if not self.keeps_room:
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

    def replace(self, pool: PoolName, after: HeadsAfter) -> None:
        """Replace the heads of all pools with those after a decision about one pool."""
        if not self.keeps_room:
            return
        self._heads = {name: dict(heads) for name, heads in after.by_pool.items()}
        self._nowhere[pool] = set(after.nowhere)
        self._current[pool] = after.current

    # Updates after commits

    def tasks_changed(self) -> None:
        """Drop what was derived from the running tasks, as some have started or ended."""
        if self._tasks:
            self._tasks.clear()
        if self._current:
            self._current.clear()

    def remove(self, pool: PoolName, job_id: JobId) -> None:
        """Remove a job that no longer waits."""
        if self._nowhere:
            self._nowhere.get(pool, set()).discard(job_id)
        heads = self._heads.get(pool)
        if heads is not None and heads.pop(job_id, None) is not None and not heads:
            del self._heads[pool]

    def hosts_changed(self, pool: PoolName) -> None:
        """Drop what was derived from the hosts of a pool: others may hold jobs that none could hold."""
        self._nowhere.pop(pool, None)

    def record_run_time(self, job: Job) -> None:
        """Record the run time of a job that has succeeded, as an estimate for other jobs of its group."""
        group, instance = job.spec.group, job.instances[-1]
        if group is not None and self.keeps_room and instance.ended_ms is not None:
            run_time_ms = max(1, instance.ended_ms - instance.started_ms)
            self._group_ms[group] = max(run_time_ms, self._group_ms.pop(group, 0))
            if len(self._group_ms) > MAX_GROUPS:  # drop the group without an end for longest
                del self._group_ms[next(iter(self._group_ms))]

    def _tasks_on(self, host: str) -> Sequence[RunningTask]:
        """Return the tasks of all pools on a host: the same value until any task has started or ended."""
        tasks = self._tasks.get(host)
        if tasks is None:
            tasks = self._tasks[host] = [
                RunningTask(
                    index.job_id(row),
                    started_ms,
                    HostAmounts(*index.amounts_of(row), float(index.ports(row)), 1.0),
                    index.run_time(row).expectation_ms(self._group_ms.get),
                )
                for index in self._indexes()
                for row, started_ms in index.tasks_on(host).items()
            ]
        return tasks
