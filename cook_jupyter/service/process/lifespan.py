"""Run a scheduler: store, clusters and loops in one task group.

Lives here: `run_scheduler`. Not here: the choice of store and clusters (`service.process.embedded`), HTTP
(`api`).
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
from cook_jupyter.service.cluster_updates import ClusterUpdates
from cook_jupyter.service.cycles.loops import LOOPS, supervise
from cook_jupyter.service.cycles.maintenance import publish_progress
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.base import Store

log = logging.getLogger(__name__)


@asynccontextmanager
async def run_scheduler(
    store: Store,
    clusters: Sequence[ComputeCluster],
    settings: Settings,
    home: Home,
    clock: Clock,
    *,
    start_loops: bool = True,
    instance_key: Key | None = None,
) -> AsyncIterator[Scheduler]:
    """Open the store, recover its state, and start the clusters and the loops; stop them all on exit.

    Args:
        store: the store, not open yet.
        clusters: the clusters, not started yet.
        settings: settings of the scheduler.
        home: home directory of the scheduler.
        clock: source of the time.
        start_loops: whether to start the loops. Without them the caller (a simulation or a test) calls each
            step, and the clusters are ready when this function yields.
        instance_key: key of the secrets with which instances report progress; None gives them none.

    Yields:
        the running scheduler.

    Raises:
        OutOfStep: a view of the scheduler has missed a commit. Everything was cancelled; to go on, the caller
            runs a new scheduler on the same store.
        ClusterUnusable: a cluster refuses this scheduler for good.
    """
    await store.open()
    try:
        scheduler = Scheduler(
            store=store,
            clusters=clusters,
            settings=settings,
            clock=clock,
            home=home,
            blobs=DirectoryStore(home.blobs, synced=settings.store.synchronous == "FULL"),
            instance_key=instance_key,
        )
        open_instances = await scheduler.recover()
        updates = ClusterUpdates(scheduler)

        async def run_cluster(cluster: ComputeCluster, started: asyncio.Event) -> None:
            launches = [
                scheduler.build_launch(spec, instance)
                for spec, instance in open_instances.pop(cluster.name, [])
            ]
            await cluster.start(updates, launches)
            await scheduler.kills.repeat()
            scheduler.wake.set()
            started.set()
            await cluster.wait_unusable()

        async with asyncio.TaskGroup() as tasks:
            starts = [asyncio.Event() for _ in clusters]
            running = [
                tasks.create_task(run_cluster(cluster, started))
                for cluster, started in zip(clusters, starts, strict=True)
            ]
            loops = [tasks.create_task(supervise(loop, scheduler)) for loop in LOOPS] if start_loops else []
            loops.append(tasks.create_task(_stop_when_out_of_step(store)))
            try:
                if not start_loops:
                    await asyncio.gather(*(started.wait() for started in starts))
                yield scheduler
            finally:
                for task in (*running, *loops):
                    task.cancel()
                scheduler.event_hub.close()
                for cluster in clusters:
                    await cluster.close()
                if store.is_in_step:
                    await _publish_last_progress(scheduler)
    except ExceptionGroup as group:
        # Callers expect an error of cook_jupyter, not the task group's. Out of step, all loops fail alike.
        first = next(
            (error for error in group.exceptions if isinstance(error, OutOfStep)), group.exceptions[0]
        )
        are_cook_errors = all(isinstance(error, CookError) for error in group.exceptions)
        if are_cook_errors:
            for other in group.exceptions:
                if other is not first and not isinstance(other, OutOfStep):
                    log.warning("the scheduler stops for another reason as well: %s", other)
        raise (first if are_cook_errors or len(group.exceptions) == 1 else group) from first.__cause__
    finally:
        await store.close()


async def _publish_last_progress(scheduler: Scheduler) -> None:
    """Commit collected progress if the store allows it. Its loss must not hide why the scheduler stops."""
    try:
        await publish_progress(scheduler)
    except CookError as error:
        log.warning("the progress that was collected last is lost: %s", error)


async def _stop_when_out_of_step(store: Store) -> None:
    """Wait until a view has missed a commit, and stop the scheduler, which must not decide anything more.

    Raises:
        OutOfStep: a view has missed a commit.
    """
    await store.wait_out_of_step()
    store.require_in_step()
