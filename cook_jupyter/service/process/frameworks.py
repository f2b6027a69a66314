"""Forgetting the id of a framework that Mesos has removed.

Lives here: `forget_framework`. Not here: what a cluster stores (`service.process.clusters`,
`clusters.mesos.framework`).

A scheduler never registers anew by itself: whoever uses another id gives up all tasks of the old one. So it
is a command, for which the scheduler must be stopped, and the id typed in.
"""

import getpass

from cook_jupyter.errors import Conflict, InvalidRequest, NotFound
from cook_jupyter.service.process.clusters import StoredClusterState
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import MesosClusterSettings
from cook_jupyter.store.sqlite import SqliteStore


async def forget_framework(settings: Settings, home: Home, cluster: str, framework_id: str) -> None:
    """Forget the id of a framework, so that the next scheduler registers anew.

    Args:
        settings: settings of the scheduler, which is not running.
        home: home directory of the scheduler.
        cluster: name of the cluster.
        framework_id: the id to forget.

    Raises:
        InvalidRequest: the settings have no cluster of Mesos of this name.
        NotFound: the cluster has no framework.
        Conflict: its framework has another id.
    """
    from cook_jupyter.clusters.mesos.framework import Framework

    clusters = {one.name: one for one in settings.clusters if isinstance(one, MesosClusterSettings)}
    if cluster not in clusters:
        names = ", ".join(clusters) or "none"
        raise InvalidRequest(f"the settings have no cluster of Mesos named {cluster!r}; there are: {names}")
    store = SqliteStore(home.store, synchronous="FULL", free=settings.jobs.free_failures)
    await store.open()
    try:
        framework = Framework(clusters[cluster], StoredClusterState(store, cluster), getpass.getuser())
        await framework.load()
        if framework.framework_id is None:
            raise NotFound(f"the cluster {cluster!r} has no framework: the next scheduler registers one")
        if framework.framework_id != framework_id:
            raise Conflict(
                f"the framework of the cluster {cluster!r} is {framework.framework_id}, not {framework_id}"
            )
        await framework.forget_id()
    finally:
        await store.close()
