"""From settings to a living scheduler: store, clusters and loops under one task group.

Lives here: `alive`. Not here: which store and clusters (`service.embedded`), HTTP (`api`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.errors import CookError, OutOfStep
from cook_jupyter.payload.blobs import DirectoryStore
from cook_jupyter.payload.keys import Key
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.loops import LOOPS, supervised
from cook_jupyter.service.maintenance import publish_progress
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.updates import ClusterUpdates
from cook_jupyter.store.base import Store

log = logging.getLogger(__name__)


@asynccontextmanager
async def alive(
    store: Store,
    clusters: Sequence[ComputeCluster],
    settings: Settings,
    home: Home,
    clock: Clock,
    *,
    by_hand: bool = False,
    instance_key: Key | None = None,
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
        instance_key: key of the secrets by which instances may report their progress; None gives them none.

    Raises:
        OutOfStep: a view of the scheduler could not follow a commit. All that is under way was cancelled;
            enter again to go on from the store.
    """
    await store.open()
    try:
        scheduler = Scheduler(
            store=store,
            clusters=clusters,
            settings=settings,
            clock=clock,
            home=home,
            blobs=DirectoryStore(home.blobs, synced=settings.synchronous == "FULL"),
            instance_key=instance_key,
        )
        open_instances = await scheduler.recover()
        updates = ClusterUpdates(scheduler)

        async def start_cluster(cluster: ComputeCluster) -> None:
            open_there = open_instances.pop(cluster.name, [])
            launches = [scheduler.launch_of(spec, instance) for spec, instance in open_there]
            await cluster.start(updates, launches)
            await scheduler.kills.repeat()
            scheduler.wake.set()

        async with asyncio.TaskGroup() as tasks:
            starting = [tasks.create_task(start_cluster(cluster)) for cluster in clusters]
            loops = [] if by_hand else [tasks.create_task(supervised(loop, scheduler)) for loop in LOOPS]
            loops.append(tasks.create_task(_stop_when_out_of_step(store)))
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
                if store.is_in_step:
                    await _publish_last_progress(scheduler)
    except ExceptionGroup as group:
        # Callers know the errors of cook_jupyter, not the task group. Out of step, all loops fail alike.
        first = next((each for each in group.exceptions if isinstance(each, OutOfStep)), group.exceptions[0])
        are_ours = all(isinstance(each, CookError) for each in group.exceptions)
        if are_ours:
            for other in group.exceptions:
                if other is not first and not isinstance(other, OutOfStep):
                    log.warning("the scheduler ends for another reason besides: %s", other)
        raise (first if are_ours or len(group.exceptions) == 1 else group) from first.__cause__
    finally:
        await store.close()


async def _publish_last_progress(scheduler: Scheduler) -> None:
    """Commit gathered progress if the store lets us: it may be dropped, and must not hide why we end."""
    try:
        await publish_progress(scheduler)
    except CookError as error:
        log.warning("progress that was gathered last is lost: %s", error)


async def _stop_when_out_of_step(store: Store) -> None:
    """Wait until a view has missed a commit, then end the scheduler: it must decide nothing more.

    Raises:
        OutOfStep: always, in the end.
    """
    await store.wait_out_of_step()
    store.require_in_step()
