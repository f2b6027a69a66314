"""What an operator does after Mesos has removed the framework of a cluster.

Lives here: `reset_framework`. Not here: the framework (`clusters.mesos.framework`), the command (`cli`).

The id of a removed framework never works again, and its tasks are dead. Subscribing anew by itself could hide
that somebody has removed it on purpose, or that two schedulers fight for one cluster. So a person decides.
"""

import json
from typing import NamedTuple

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import StatusUpdate, TaskState
from cook_jupyter.service.clock import SystemClock
from cook_jupyter.service.process.clusters import StoredClusterState
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import MesosClusterSettings
from cook_jupyter.store.sqlite import SqliteStore

FRAMEWORK_REMOVED = "mesos-framework-removed"


class FrameworkReset(NamedTuple):
    """What was reset.

    Attributes:
        framework_id: id of the framework that was forgotten; None if there was none.
        instances: number of open instances that were ended; their jobs run again.
    """

    framework_id: str | None
    instances: int


async def reset_framework(settings: Settings, home: Home, cluster: str) -> FrameworkReset:
    """End the open instances of a cluster through no fault of their own, and forget its framework.

    Args:
        settings: settings of the scheduler, which must not run.
        home: its home directory.
        cluster: name of the cluster.

    Raises:
        InvalidRequest: there is no cluster of Mesos with that name.
    """
    names = [one.name for one in settings.clusters if isinstance(one, MesosClusterSettings)]
    if cluster not in names:
        raise InvalidRequest(
            f"the settings have no Mesos cluster {cluster!r}; they have {', '.join(names) or 'none'}"
        )
    store = SqliteStore(home.store, synchronous=settings.store.synchronous, free=settings.jobs.free_failures)
    state = StoredClusterState(store, cluster)
    now_ms = SystemClock().now_ms()
    await store.open()
    try:
        updates = [
            StatusUpdate(
                instance_id=job.open_instance.instance_id,
                state=TaskState.LOST,
                at_ms=now_ms,
                reason=FRAMEWORK_REMOVED,
            )
            async for jobs in store.open_jobs()
            for job in jobs
            if job.open_instance is not None and job.open_instance.cluster == cluster
        ]
        if updates:
            await store.report(updates)
        stored = await state.load()
        await state.forget()
    finally:
        await store.close()
    return FrameworkReset(None if stored is None else json.loads(stored).get("framework_id"), len(updates))
