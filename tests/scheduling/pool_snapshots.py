"""Snapshots of pools whose hosts, tasks, waiting jobs and heads a test chooses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts, RunningTask
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.considerable import NO_FILTERS
from cook_jupyter.scheduling.snapshot import HeadFacts, PoolSnapshot

NOW_MS = 1000
POOL = PoolName("default")


class PoolWorld:
    """A pool. Each host has as many cpus as the test says, and 100 MB of memory for each.

    Args:
        cpus: cpus of each host.
    """

    def __init__(self, **cpus: float) -> None:
        self.index = QueueIndex()
        self.hosts = {host: an_offer(host, number) for host, number in cpus.items()}
        self._tasks: dict[str, list[RunningTask]] = {}
        self._created = 0

    def waits(self, name: str, user: str, cpus: float = 1.0, mem_mb: float = 1.0, **fields: Any) -> JobId:
        """Add a waiting job."""
        self._created += 1
        self.index.add(QueuedJob(JobId(name), user, cpus, mem_mb, self._created, **fields))
        return JobId(name)

    def runs(
        self,
        name: str,
        host: str,
        cpus: float = 1.0,
        *,
        user: str = "ada",
        started_ms: int = 0,
        expected_ms: int | None = None,
        **fields: Any,
    ) -> JobId:
        """Add a running task."""
        job_id = self.waits(name, user, cpus, **fields)
        self.index.mark_running(job_id, started_ms, host)
        usage = self.index.requested(job_id)
        held = HostAmounts(usage.cpus, usage.mem_mb, usage.gpus, 0.0, 1.0)
        self._tasks.setdefault(host, []).append(RunningTask(job_id, started_ms, held, expected_ms))
        return job_id

    def head(self, name: str, *, awaited: Sequence[str] = (), **fields: Any) -> HeadOfQueue:
        """A head of the queue that was added as a waiting job; its awaited tasks have started at 0."""
        job_id = JobId(name)
        usage = self.index.requested(job_id)
        row = self.index.row_of(job_id)
        given: dict[str, Any] = {
            "job_id": job_id,
            "user": self.index.owner(row).name,
            "asked": HostAmounts(usage.cpus, usage.mem_mb, usage.gpus, float(self.index.ports(row)), 1.0),
            "since_ms": 500,
            "awaited": frozenset((JobId(task), 0) for task in awaited),
            **fields,
        }
        return HeadOfQueue(**given)

    def offers(self) -> list[Offer]:
        """The room that the tasks leave."""
        return [
            replace(
                empty,
                room=empty.room - held,
                running=held,
                task_count=len(self._tasks.get(host, ())),
            )
            for host, empty in self.hosts.items()
            for held in [self._held(host)]
        ]

    def _held(self, host: str) -> Resources:
        tasks = self._tasks.get(host, ())
        return sum(
            (Resources(cpus=task.held.cpus, mem_mb=task.held.mem_mb, gpus=task.held.gpus) for task in tasks),
            Resources(),
        )

    def facts(self, *heads: HeadOfQueue, **fields: Any) -> HeadFacts:
        """Heads of the pool; all of the pool may be kept for them."""
        capacity = PoolCapacity.of(tuple(self.hosts.values()))
        given: dict[str, Any] = {
            "max_kept": 1.0,
            "backfill": True,
            "by_pool": {POOL: {head.job_id: head for head in heads}},
            "capacities": {POOL: capacity},
            "tasks_on": lambda host: tuple(self._tasks.get(host, ())),
            "least": (self.index.min_request,),
            **fields,
        }
        return HeadFacts(**given)

    def snapshot(self, *heads: HeadOfQueue, **fields: Any) -> PoolSnapshot:
        """The pool at this moment, with these heads."""
        offers = self.offers()
        given: dict[str, Any] = {
            "pool": Pool(name=POOL),
            "now_ms": NOW_MS,
            "capacity": PoolCapacity.of(tuple(self.hosts.values())),
            "offers": offers,
            "open_offers": offers,
            "limits": UserLimits(),
            "filters": NO_FILTERS,
            "placement_context": replace(NO_PLACEMENT_CONTEXT, now_ms=NOW_MS),
            "heads": self.facts(*heads),
            **fields,
        }
        return PoolSnapshot(**given)


def an_offer(host: str, cpus: float, **fields: Any) -> Offer:
    """The offer of an empty host."""
    given: dict[str, Any] = {
        "cluster": "local",
        "pool": POOL,
        "room": Resources(cpus=cpus, mem_mb=100 * cpus),
        "attributes": {"HOSTNAME": host},
        **fields,
    }
    return Offer(host=host, **given)
