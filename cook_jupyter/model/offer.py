"""Offers: the room of hosts at this moment.

Lives here: `Offer`. Not here: their sources (`clusters`), the jobs that use them
(`scheduling.matching.matching`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources


class HostKind(Enum):
    """How a host allocates gpus and disks."""

    PLAIN = "plain"  # gpus are a number, like cpus; disk is not allocated
    MESOS = "mesos"  # as in Cook: no gpus; disk is not allocated
    KUBERNETES = "kubernetes"  # as in Cook: one task gets all gpus of a node; disk per type


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Room on one host of one cluster for one pool, at this moment.

    Attributes:
        room: free resources.
        running: resources of the tasks that run there; `room + running` is the whole host.
        attributes: Cook's host attributes; HOSTNAME is always among them.
        ports: free ports as closed ranges.
        task_count: number of tasks that run there.
        kind: how the host allocates gpus and disks.
        gpu_models, disk_mb: free gpus by model and free disk by type, of Kubernetes nodes.
        location: location of the cluster, to which jobs with checkpoints return.
        until_ms: time at which the host may go away, epoch milliseconds; None if unknown. A job starts there
            only if its longest run time will have passed by then.
        users: users whose jobs may start there; None for all.
    """

    host: str
    cluster: str
    pool: PoolName
    room: Resources
    running: Resources = field(default_factory=Resources)
    attributes: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[int, int], ...] = ()
    task_count: int = 0
    kind: HostKind = HostKind.PLAIN
    gpu_models: Mapping[str, float] = field(default_factory=dict)
    disk_mb: Mapping[str, float] = field(default_factory=dict)
    location: str | None = None
    until_ms: int | None = None
    users: frozenset[str] | None = None

    @property
    def is_limited(self) -> bool:
        """Whether the offer ends at some time or is for some users only."""
        return self.until_ms is not None or self.users is not None
