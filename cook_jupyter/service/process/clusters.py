"""The clusters of a scheduler, made from its settings.

Lives here: `build_clusters`. Not here: settings (`service.settings`), the clusters (`clusters`).
"""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import PoolName
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import LocalClusterSettings, MesosClusterSettings
from cook_jupyter.store.base import Store


def build_clusters(settings: Settings, home: Home, store: Store) -> list[ComputeCluster]:
    """Return the clusters of a scheduler, not started yet.

    Args:
        settings: settings of the scheduler.
        home: home directory of the scheduler.
        store: store in which clusters keep what they must remember.

    Raises:
        InvalidRequest: a file or an address in the settings cannot be used.
    """
    pools = tuple(pool.name for pool in settings.pools if pool.active)
    return [
        _local(one, home, pools) if isinstance(one, LocalClusterSettings) else _mesos(one, store, pools)
        for one in settings.clusters
    ]


def _local(local: LocalClusterSettings, home: Home, pools: tuple[PoolName, ...]) -> LocalCluster:
    return LocalCluster(
        home=home.agent,
        cpus=local.cpus,
        mem_mb=local.mem_mb,
        pools=pools,
        kill_grace_s=local.kill_grace_s,
        idle_exit_s=local.agent_idle_exit_s,
    )


def _mesos(mesos: MesosClusterSettings, store: Store, pools: tuple[PoolName, ...]) -> ComputeCluster:
    from cook_jupyter.clusters.mesos.cluster import MesosCluster
    from cook_jupyter.clusters.mesos.sandboxes import MesosSandboxes
    from cook_jupyter.clusters.mesos.transport.connection import SchedulerConnection
    from cook_jupyter.clusters.mesos.transport.http_connection import (
        Credential,
        HttpSchedulerConnection,
        tls_context,
    )
    from cook_jupyter.clusters.mesos.transport.leader import leader_detector
    from cook_jupyter.clusters.mesos.transport.pymesos_connection import PymesosSchedulerConnection

    credential = None
    try:
        if mesos.principal:
            with _naming_file("secret_file", mesos.secret_file):
                secret = Path(mesos.secret_file).read_text(encoding="utf-8").strip()
            credential = Credential(principal=mesos.principal, secret=secret)
        ssl_context = None
        if mesos.ca_file:
            with _naming_file("ca_file", mesos.ca_file):
                ssl_context = tls_context(Path(mesos.ca_file))
        if mesos.ca_file and mesos.certificate_file:
            with _naming_file("certificate_file", mesos.certificate_file):
                ssl_context = tls_context(Path(mesos.ca_file), Path(mesos.certificate_file))
        leader = leader_detector(mesos.master, by_hostname=ssl_context is not None)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"the cluster {mesos.name!r} cannot be used: {error}") from error

    def sandboxes(agent_url: Callable[[str], str | None]) -> MesosSandboxes:
        headers = () if credential is None else (credential.header,)
        return MesosSandboxes(agent_url, headers=headers, ssl_context=ssl_context)

    connection: SchedulerConnection
    if mesos.connection == "pymesos":
        connection = PymesosSchedulerConnection(leader, credential=credential)
    else:
        connection = HttpSchedulerConnection(leader, credential=credential, ssl_context=ssl_context)
    return MesosCluster(
        mesos,
        connection,
        state=StoredClusterState(store, mesos.name),
        sandboxes=sandboxes,
        results=sandboxes,
        pools=tuple(PoolName(name) for name in mesos.pools) or pools,
        version=version("cook_jupyter"),
        user=mesos.run_as or getpass.getuser(),
    )


@contextmanager
def _naming_file(setting: str, path: str) -> Iterator[None]:
    """Name the setting and the file in errors about the file.

    Raises:
        ValueError: the file cannot be used.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"its {setting}, {path}: {reason}") from error


class StoredClusterState:
    """What a cluster must remember, in the store of its scheduler.

    Args:
        store: the store.
        cluster: name of the cluster.
    """

    def __init__(self, store: Store, cluster: str) -> None:
        self._store = store
        self._key = f"cluster:{cluster}"

    async def load(self) -> str | None:
        """Return the text; None if there is none."""
        return await self._store.get_text(self._key) or None

    async def save(self, text: str) -> None:
        """Store the text durably."""
        await self._store.set_text(self._key, text)

    async def forget(self) -> None:
        """Remove the text."""
        await self._store.set_text(self._key, "")
