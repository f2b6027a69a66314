"""The protocol of clusters: offers, launches, kills and status updates.

Lives here: `ComputeCluster` and the `ClusterListener` that it reports to. Every implementation (local,
simulated, in memory) passes one contract suite. `FixedSize` and
`AlwaysUsable` are base classes for what many of them have in common.
Not here: which job gets which host (`scheduling`), what an update means (`model.lifecycle`), the files of
instances (`clusters.sandboxes`).

Three orderings make this safe: an instance is committed before it is launched, an update is acknowledged to
its sender after `report` has returned and thus committed it, and a kill follows its launch on the same
connection.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, StatusUpdate
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A committed instance to start.

    Attributes:
        attempt: number of instances that the job had before it.
        secret: the secret by which the instance may report its progress; empty if it may not.
    """

    spec: JobSpec
    instance: Instance
    attempt: int = 0
    secret: str = ""


class ClusterListener(Protocol):
    """Receives what a cluster reports; the service implements it."""

    async def report(self, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        """Commit updates before returning. The same update may be reported twice.

        Args:
            cluster: name of the reporting cluster; it may report its own instances only.
            updates: updates, oldest first.
        """

    async def progress(self, cluster: str, updates: Sequence[ProgressUpdate]) -> None:
        """Record progress; it may be dropped.

        Args:
            cluster: name of the reporting cluster.
            updates: progress of its instances.
        """

    def offers_changed(self) -> None:
        """Note that the offers of a cluster have changed."""


class ComputeCluster(Protocol):
    """A set of hosts that runs instances."""

    @property
    def name(self) -> str:
        """The name that instances carry."""

    @property
    def has_fixed_capacity(self) -> bool:
        """Whether hosts never join or grow: a job that fits on no host now never will."""

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of the instances of this cluster."""

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Connect, and reconcile the cluster with the open instances of the store.

        Instances that still run go on, and the ends of those that finished meanwhile are reported. Those that
        were running and are gone are reported LOST with a mea culpa reason. An instance of status UNKNOWN may
        never have been sent: it may be launched now if it still fits on its host, whose room may have been
        given to another instance before the last scheduler died.

        Args:
            listener: receiver of all reports.
            open_launches: all instances of this cluster that are open in the store.
        """

    async def close(self) -> None:
        """Disconnect from the cluster; its instances go on."""

    async def wait_unusable(self) -> None:
        """Wait, after the start, until the cluster refuses this scheduler for good.

        Raises:
            ClusterUnusable: it does; the scheduler must stop.
        """

    def offers(self) -> Sequence[Offer]:
        """Return the current room of each host, once for each of its pools.

        Instances hold room as soon as they are launched. Hosts may differ by pool.
        """

    def capacity(self) -> Sequence[Offer]:
        """Return an offer of each known host as if it were empty, once for each of its pools.

        Attributes, location and limits are those of the offers. There may be no host at first: a cluster may
        learn of its hosts when it is started, or later.
        """

    def can_grow(self, pool: PoolName) -> bool:
        """Return whether `grow_for` may lead to more room in a pool."""

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        """Request room for jobs that no host has room for; return before there is any.

        New room appears in `offers`. The request is repeated after a while for jobs that still wait. It is
        cancelled if it takes too long.

        Args:
            pool: a pool in which the cluster can grow.
            specs: waiting jobs, in the order of the queue.
        """

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start committed instances. The failure of one of them is reported as an update."""

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Stop instances that name this cluster: TERM to the process group, KILL after the grace period.

        Unknown ids are ignored. The end is reported as a KILLED update.
        """


class AlwaysUsable:
    """Base class of a cluster that never refuses its scheduler for good."""

    async def wait_unusable(self) -> None:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()


class FixedSize:
    """Base class of a cluster that cannot grow."""

    def can_grow(self, pool: PoolName) -> bool:
        """Return False."""
        return False

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        """Do nothing."""
