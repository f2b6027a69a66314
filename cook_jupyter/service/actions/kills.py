"""Kills: sent to clusters, and repeated until the end of the instance is reported.

Lives here: `KillTracker`, which also keeps a kill from overtaking the launch of its instance.
Not here: the reasons to kill instances (`service.scheduler`, `service.cycles`, `service.cluster_updates`).
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Final, NamedTuple

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.model.instance import InstanceId

MAX_ATTEMPTS: Final = 20  # of a kill whose end is committed: a cluster that stays silent has no such instance


class _Collection(NamedTuple):
    """The ends that are reported while a kill is being committed.

    Attributes:
        ended: instances whose end was reported.
        is_settled: whether the commit itself ends the instances in the store.
    """

    ended: set[InstanceId]
    is_settled: bool


class KillTracker:
    """The kills of one scheduler.

    Args:
        clusters: clusters by name.
    """

    def __init__(self, clusters: Mapping[str, ComputeCluster]) -> None:
        self._clusters = clusters
        self._launching: set[InstanceId] = set()
        self._pending: dict[InstanceId, int] = {}  # to be killed, end not reported -> number of attempts
        self._settled: set[InstanceId] = set()  # the pending ones whose end is committed
        self._cluster_of: dict[InstanceId, str] = {}  # of instances whose end no cluster has reported
        self._collections: list[_Collection] = []

    def set_cluster(self, instance_id: InstanceId, cluster: str) -> None:
        """Record the cluster of an open instance. Only that cluster is asked to kill it."""
        self._cluster_of[instance_id] = cluster

    def cluster_of(self, instance_id: InstanceId, default: str) -> str:
        """Return the cluster of an instance; `default` if its end was reported, or it was never launched."""
        return self._cluster_of.get(instance_id, default)

    def __contains__(self, instance_id: object) -> bool:
        """Return whether a kill of the instance is pending."""
        return instance_id in self._pending

    def __bool__(self) -> bool:
        """Return whether the end of any instance is of interest."""
        return bool(self._pending or self._collections)

    @contextmanager
    def collecting_ends(self, *, settled: bool = False) -> Iterator[Container[InstanceId]]:
        """Collect the ends that are reported while a kill is being committed.

        The end of an instance may be in the same transaction as its kill. It is then reported before the
        caller resumes, and will not be reported again.

        Args:
            settled: whether the commit itself ends the instances in the store. Only a report of the cluster
                then shows that an instance has ended.

        Yields:
            the instances that have ended and need not be killed.
        """
        collection = _Collection(set(), settled)
        self._collections.append(collection)
        try:
            yield collection.ended
        finally:
            self._collections = [other for other in self._collections if other is not collection]

    async def send(self, instance_ids: Iterable[InstanceId], *, settled: bool = False) -> None:
        """Kill instances. The kill of an instance whose launch is not sent yet follows it (`launch_sent`).

        Args:
            instance_ids: instances to kill.
            settled: whether their ends are committed. A cluster that does not know such an instance stays
                silent.
        """
        open_ids = {instance_id for instance_id in instance_ids if instance_id in self._cluster_of}
        for instance_id in open_ids:
            self._pending.setdefault(instance_id, 0)
        if settled:
            self._settled |= open_ids
        await self._send(open_ids - self._launching)

    async def repeat(self) -> None:
        """Send all pending kills again, as clusters may have lost them."""
        self.confirm(
            [
                instance_id
                for instance_id in self._settled
                if self._pending.get(instance_id, 0) >= MAX_ATTEMPTS
            ]
        )
        await self._send(self._pending.keys() - self._launching)

    def schedule(self, instance_id: InstanceId) -> None:
        """Add a pending kill of an instance whose cluster is known; the next `repeat` sends it."""
        self._pending.setdefault(instance_id, 0)

    def confirm(self, instance_ids: Iterable[InstanceId], *, committed: bool = False) -> None:
        """Remove the kills of instances that have ended.

        Args:
            instance_ids: the instances.
            committed: whether the source is a commit, which may be caused by the kill, and not the cluster.
        """
        for instance_id in instance_ids:
            if not committed:
                self._cluster_of.pop(instance_id, None)
            self._pending.pop(instance_id, None)
            self._settled.discard(instance_id)
            for collection in self._collections:
                if not (committed and collection.is_settled):
                    collection.ended.add(instance_id)

    def expect_launch(self, instance_ids: Iterable[InstanceId]) -> None:
        """Hold kills of instances back whose launch is about to be committed."""
        self._launching.update(instance_ids)

    async def launch_sent(self, instance_ids: Iterable[InstanceId]) -> None:
        """Send the kills that were held back until the launch of their instances was sent."""
        sent_ids = set(instance_ids)
        self._launching -= sent_ids
        await self._send(self._pending.keys() & sent_ids)

    async def _send(self, instance_ids: AbstractSet[InstanceId]) -> None:
        by_cluster: dict[str, list[InstanceId]] = defaultdict(list)
        for instance_id in sorted(instance_ids):
            self._pending[instance_id] += 1
            by_cluster[self._cluster_of[instance_id]].append(instance_id)
        for name, cluster_ids in by_cluster.items():
            cluster = self._clusters.get(name)
            if cluster is not None:  # otherwise it was removed from the settings
                await cluster.kill(cluster_ids)
