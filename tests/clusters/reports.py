"""A scheduler's ear: takes what a cluster reports, and lets a test wait for it.

Lives here: `Reports`, an honest `ClusterListener` in memory, and launches to give to a cluster.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from cook_jupyter.clusters.base import Launch
from cook_jupyter.model.instance import InstanceId, ProgressUpdate, StatusUpdate, TaskState
from tests.builders import a_job_spec, an_instance
from tests.waiting import HANG_S


class Reports:
    """All that was reported, in order. `full` makes it refuse, as a full disk does."""

    def __init__(self) -> None:
        self.clusters: set[str] = set()  # that reported
        self.updates: list[StatusUpdate] = []
        self.told_progress: list[ProgressUpdate] = []
        self.ends: dict[InstanceId, StatusUpdate] = {}  # the first end of each: later ones change nothing
        self.successes: Counter[InstanceId] = Counter()
        self.states: dict[InstanceId, list[TaskState]] = defaultdict(list)
        self.room_changes = 0
        self.full = False
        self.refused: Callable[[StatusUpdate], bool] = lambda _: False  # as a store that cannot hold it
        self.room_failures = 0  # how often `offers_changed` fails from now on
        self.refusals = 0
        self._news = asyncio.Event()

    async def report(self, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        self.clusters.add(cluster)
        if self.full:
            self.refusals += 1
            self._news.set()
            raise OSError(28, "No space left on device")
        if any(map(self.refused, updates)):
            self.refusals += 1
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        for update in updates:
            self.updates.append(update)
            self.states[update.instance_id].append(update.state)
            if update.state.is_final:
                self.ends.setdefault(update.instance_id, update)
        self._news.set()

    async def progress(self, cluster: str, updates: Sequence[ProgressUpdate]) -> None:
        self.clusters.add(cluster)
        self.told_progress.extend(updates)
        self._news.set()

    def offers_changed(self) -> None:
        if self.room_failures:
            self.room_failures -= 1
            raise RuntimeError("a fault of our own")
        self.room_changes += 1
        self._news.set()

    async def until(self, holds: Callable[[], Any], patience_s: float = HANG_S) -> None:
        """Wait until something reported makes a condition true."""
        async with asyncio.timeout(patience_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def end_of(self, launch: Launch) -> StatusUpdate:
        """Wait for the end of an instance."""
        instance_id = launch.instance.instance_id
        await self.until(lambda: instance_id in self.ends)
        return self.ends[instance_id]

    async def running(self, launch: Launch) -> StatusUpdate:
        """Wait until an instance is said to run."""
        instance_id = launch.instance.instance_id
        await self.until(lambda: TaskState.RUNNING in self.states[instance_id])
        return next(u for u in self.updates if u.instance_id == instance_id and u.state is TaskState.RUNNING)


def a_launch(command: str = "true", *, given: tuple[int, ...] = (), attempt: int = 0, **spec: Any) -> Launch:
    """A launch of a small command; `given` are the ports that the match gave it."""
    job = a_job_spec(job_id=str(uuid4()), command=command, **spec)
    return Launch(spec=job, instance=an_instance(job.job_id, ports=given), attempt=attempt)
