"""Kills: sent, and remembered until the end of what was killed is heard.

Lives here: `KillTracker`, which keeps a kill from overtaking its launch and repeats those that a cluster may
have lost. Not here: why anything is killed (`service.scheduler`, `service.cycles.match_cycle`,
`service.cycles.maintenance`).
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.model.instance import InstanceId

_MOST_TIMES = 20  # a cluster that has not told of a settled end by then does not know the instance


class KillTracker:
    """The kills of one scheduler's clusters."""

    def __init__(self, clusters: Mapping[str, ComputeCluster]) -> None:
        self._clusters = clusters
        self._launching: set[InstanceId] = set()
        self._wishes: dict[InstanceId, int] = {}  # asked for, end not yet heard -> how often it was sent
        self._settled: set[InstanceId] = set()  # of those, whose end is committed already
        self._cluster_of: dict[InstanceId, str] = {}  # of all whose end no cluster has reported
        self._collecting: dict[
            object, tuple[set[InstanceId], bool]
        ] = {}  # kills being committed -> ends, settled

    def locate(self, instance_id: InstanceId, cluster: str) -> None:
        """Note the cluster that an open instance names; that one alone is asked to kill it."""
        self._cluster_of[instance_id] = cluster

    def cluster_of(self, instance_id: InstanceId, default: str) -> str:
        """Return the cluster of an instance; `default` if its end was reported, or it was never launched."""
        return self._cluster_of.get(instance_id, default)

    def __contains__(self, instance_id: object) -> bool:
        """Tell whether an end is waited for."""
        return instance_id in self._wishes

    def __bool__(self) -> bool:
        """Tell whether the end of any instance matters."""
        return bool(self._wishes or self._collecting)

    @contextmanager
    def collecting_ends(self, *, settled: bool = False) -> Iterator[Container[InstanceId]]:
        """Collect the ends that are heard while a kill is committed.

        The end of an instance may share the transaction of its kill: it is heard before the kill's caller
        resumes, and would never be heard again.

        Args:
            settled: whether what is committed ends the instances in the store. Then only a report of their
                cluster says that they have ended.

        Yields:
            the instances that have ended; to be left out of what is sent.
        """
        ended: set[InstanceId] = set()
        key = object()
        self._collecting[key] = (ended, settled)
        try:
            yield ended
        finally:
            del self._collecting[key]

    async def send(self, instance_ids: Iterable[InstanceId], *, settled: bool = False) -> None:
        """Kill instances. Where the launch is still on its way the kill waits for it: see `launched`.

        Args:
            instance_ids: instances to kill.
            settled: their ends are committed already, so a cluster that knows them no more keeps silent.
        """
        wished = {
            each for each in instance_ids if each in self._cluster_of
        }  # the ends of others were reported
        for instance_id in wished:
            self._wishes.setdefault(instance_id, 0)
        if settled:
            self._settled |= wished
        await self._send(wished - self._launching)

    async def repeat(self) -> None:
        """Send again every kill whose end was not heard: clusters may have lost it."""
        self.heard([one for one in self._settled if self._wishes.get(one, 0) >= _MOST_TIMES])
        await self._send(self._wishes.keys() - self._launching)

    def wish(self, instance_id: InstanceId) -> None:
        """Note a kill of an instance that was located; it is sent with the next `repeat`."""
        self._wishes.setdefault(instance_id, 0)

    def heard(self, instance_ids: Iterable[InstanceId], *, committed: bool = False) -> None:
        """Learn that instances have ended.

        Args:
            instance_ids: the instances.
            committed: whether that is known from a commit, which may be our own, not from their cluster.
        """
        for instance_id in instance_ids:
            if not committed:
                self._cluster_of.pop(instance_id, None)
            self._wishes.pop(instance_id, None)
            self._settled.discard(instance_id)
            for ended, settled in self._collecting.values():
                if not (committed and settled):
                    ended.add(instance_id)

    def launching(self, instance_ids: Iterable[InstanceId]) -> None:
        """Note that launches of these are about to be committed."""
        self._launching.update(instance_ids)

    async def launched(self, instance_ids: Iterable[InstanceId]) -> None:
        """Note that launches were sent, and send the kills that had to wait for them."""
        sent = set(instance_ids)
        self._launching -= sent
        await self._send(self._wishes.keys() & sent)

    async def _send(self, instance_ids: AbstractSet[InstanceId]) -> None:
        by_cluster: dict[str, list[InstanceId]] = defaultdict(list)
        for instance_id in sorted(instance_ids):
            self._wishes[instance_id] += 1
            by_cluster[self._cluster_of[instance_id]].append(instance_id)
        for name, there in by_cluster.items():
            cluster = self._clusters.get(name)
            if cluster is not None:  # else it was taken out of the settings
                await cluster.kill(there)
