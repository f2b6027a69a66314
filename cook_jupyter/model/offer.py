"""Offers and hosts: where there is room at this moment.

Lives here: `Offer`. Not here: who makes offers (`clusters`), who takes them (`scheduling.matching.matching`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.resources import Resources


class HostKind(Enum):
    """How a host gives out its gpus and disks."""

    PLAIN = "plain"  # gpus are one number, like cpus; disk is not given out
    MESOS = "mesos"  # as Cook has it: no gpus; disk is not given out
    KUBERNETES = "kubernetes"  # as Cook has it: all gpus of a node to one task; disk per type


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Room on one host of one cluster for one pool, at this moment.

    Attributes:
        room: what is free now.
        running: what tasks hold there now; `room + running` is the whole host.
        attributes: Cook's host attributes; HOSTNAME is always among them.
        ports: free ports as closed ranges.
        task_count: how many tasks run there.
        kind: how gpus and disks are given out there.
        gpu_models: free gpus per model, and disk_mb: free disk per type; of Kubernetes nodes.
        location: where the cluster is; jobs with checkpoints return there.
        until_ms: when the host may go away, epoch milliseconds; a job starts there only if its longest run
            time will have passed by then. None if that is not known.
        users: the users whose jobs may start there; None for all.
    """

    host: str
    cluster: str
    pool: str
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
        """Whether the offer is for a time or for some users only."""
        return self.until_ms is not None or self.users is not None
