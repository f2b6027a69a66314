"""Where work runs: the `ComputeCluster` protocol.

Lives here: offers in, launches and kills out, status updates back; nothing else. Every
implementation (local, simulated, mesos) passes one contract suite. `FixedSize` is for those that cannot grow.
Not here: which job gets which host (`scheduling`), what an update means (`model.lifecycle`), the files of
instances (`clusters.sandboxes`).

Order is what keeps this safe: an instance is committed before it is launched, an update is
acknowledged to where it came from only when `report` has returned (it is committed then), and a
kill follows its launch on the same connection.
"""

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
    """An instance that is committed and may start.

    Attributes:
        attempt: number of instances that the job had before it.
        secret: the secret by which the instance may report its progress; empty if it may not.
    """

    spec: JobSpec
    instance: Instance
    attempt: int = 0
    secret: str = ""


class ClusterListener(Protocol):
    """What a cluster calls; the service stands behind it."""

    async def report(self, cluster: str, updates: Sequence[StatusUpdate]) -> None:
        """Commit updates, and return then. The same update may be reported twice.

        Args:
            cluster: name of the cluster that reports; it speaks for its own instances alone.
            updates: updates, oldest first.
        """

    async def progress(self, cluster: str, updates: Sequence[ProgressUpdate]) -> None:
        """Take progress, which may be dropped.

        Args:
            cluster: name of the cluster that reports.
            updates: progress of its instances.
        """

    def room_changed(self) -> None:
        """Learn that offers are worth asking for again."""


class ComputeCluster(Protocol):
    """A set of hosts that runs instances."""

    @property
    def name(self) -> str:
        """The name that instances carry."""

    @property
    def has_fixed_capacity(self) -> bool:
        """Whether no host will join or grow while this object lives: what fits nowhere now never will."""

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of the instances of this cluster."""

    async def start(self, reporter: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Connect, and reconcile: `open_launches` are all that the store holds open here.

        Those that still run go on; the ends of those that finished meanwhile are reported; those
        that were running and are lost are reported LOST with a mea culpa reason. Those of which
        nothing was ever heard (status UNKNOWN) may not have been sent: they may be launched now if they still
        fit their host. Another instance may have been given their room before the last scheduler died.
        """

    async def close(self) -> None:
        """Let go of the cluster; what runs there goes on running."""

    def offers(self) -> Sequence[Offer]:
        """Return the room there is now, of each host once for each of its pools.

        Launched instances count as running at once. Hosts may differ by pool.
        """

    def capacity(self) -> Sequence[Offer]:
        """Return every host that is known now as if it were empty, once for each of its pools.

        What its offers say besides the room (attributes, location, limits) is said here, too.
        There may be none at first: a cluster may learn of its hosts when it is started, or later.
        """

    def can_grow(self, pool: PoolName) -> bool:
        """Return whether `grow_for` may lead to more room in a pool."""

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        """Ask for room for jobs of a pool that no host has room for; returns before there is any.

        New room shows in `offers`. Jobs are asked for again after a while if they still wait.

        Args:
            pool: a pool in which the cluster can grow.
            specs: waiting jobs, in the order of the queue.
        """

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start committed instances. What goes wrong with one of them comes back as an update."""

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Stop instances that name this cluster: TERM to the process group, KILL after the grace period.

        Unknown ids are ignored. The end comes back as a KILLED update.
        """


class FixedSize:
    """What a cluster derives from whose hosts nobody can add to: it cannot grow."""

    def can_grow(self, pool: PoolName) -> bool:
        """Return False."""
        return False

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        """Do nothing."""
