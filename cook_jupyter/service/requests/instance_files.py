"""Files of instances, wherever they ran.

Lives here: `InstanceFiles`, which asks the cluster that an instance names.
Not here: how a cluster reaches its sandboxes (`clusters.sandboxes`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.errors import NotFound
from cook_jupyter.model.files import FileEntry, SandboxFile
from cook_jupyter.model.instance import Instance


class InstanceFiles:
    """The sandboxes of all clusters, as one (`clusters.sandboxes.Sandboxes`).

    Args:
        clusters: clusters by name.
    """

    def __init__(self, clusters: Mapping[str, ComputeCluster]) -> None:
        self._clusters = clusters

    def url(self, instance: Instance) -> str | None:
        """Return where the host of an instance serves its files; None if only the scheduler does."""
        cluster = self._clusters.get(instance.cluster)
        return None if cluster is None else cluster.sandboxes.url(instance)

    async def browse(self, instance: Instance, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory; see `Sandboxes.browse`.

        Raises:
            NotFound: also if the cluster of the instance is not one of this scheduler.
        """
        return await self._sandboxes(instance).browse(instance, path)

    def open(self, instance: Instance, path: str) -> AbstractAsyncContextManager[SandboxFile]:
        """Open a file; see `Sandboxes.open`.

        Raises:
            NotFound: also if the cluster of the instance is not one of this scheduler.
        """
        return self._sandboxes(instance).open(instance, path)

    def _sandboxes(self, instance: Instance) -> Sandboxes:
        cluster = self._clusters.get(instance.cluster)
        if cluster is None:
            instance_id = instance.instance_id
            raise NotFound(
                f"the files of instance {instance_id} are in the cluster {instance.cluster!r}, which this"
                " scheduler does not have",
                missing=(instance_id,),
            )
        return cluster.sandboxes
