"""From settings to a living scheduler: store, clusters and loops under one task group.

Lives here: `alive`. Not here: which store and clusters (`service.embedded`), HTTP (`api`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.loops import LOOPS, supervised
from cook_jupyter.service.maintenance import publish_progress
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.updates import Updates
from cook_jupyter.store.base import Store


@asynccontextmanager
async def alive(
    store: Store,
    clusters: Sequence[ComputeCluster],
    settings: Settings,
    home: Home,
    clock: Clock,
    *,
    by_hand: bool = False,
) -> AsyncIterator[Scheduler]:
    """Open the store, recover, start the clusters and the loops; end them all on exit.

    Args:
        store: where jobs live.
        clusters: where they run.
        settings: what the operator said.
        home: where files are.
        clock: the time.
        by_hand: no loop runs: somebody (a simulator, a test) calls each step when it is due. The clusters
            have been started then.
    """
    await store.open()
    try:
        scheduler = Scheduler(
            store=store,
            clusters=clusters,
            settings=settings,
            clock=clock,
            blobs=home.blobs,
        )
        open_instances = await scheduler.recover()
        updates = Updates(scheduler)

        async def start_cluster(cluster: ComputeCluster) -> None:
            open_there = open_instances.pop(cluster.name, [])
            launches = [scheduler.launch_of(spec, instance) for spec, instance in open_there]
            await cluster.start(updates, launches)
            await scheduler.kills.repeat()
            scheduler.wake.set()

        async with asyncio.TaskGroup() as tasks:
            starting = [tasks.create_task(start_cluster(cluster)) for cluster in clusters]
            loops = [] if by_hand else [tasks.create_task(supervised(loop, scheduler)) for loop in LOOPS]
            try:
                if by_hand:
                    await asyncio.gather(*starting)
                yield scheduler
            finally:
                for task in (*starting, *loops):
                    task.cancel()
                scheduler.hub.close()
                for cluster in clusters:
                    await cluster.close()
                await publish_progress(scheduler)
    except ExceptionGroup as group:
        # One failure is told as itself: callers know the errors of ours, not the task group.
        raise (group.exceptions[0] if len(group.exceptions) == 1 else group) from group.exceptions[
            0
        ].__cause__
    finally:
        await store.close()
