"""Heartbeats: which open instances have not been heard of for too long.

Lives here: the time of the last heartbeat of each instance that must send them, as a value.
Not here: receiving heartbeats, and failing the instances that have stopped sending them.

Source: Cook's `mesos/heartbeat.clj`, as described in the fair-share specification, section 7.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.instance import InstanceId

HEARTBEAT_TIMEOUT_MS = 15 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeats:
    """Time of the last heartbeat of each watched instance. A change makes a new value."""

    last_ms: Mapping[InstanceId, int] = field(default_factory=dict)

    def watching(self, open_instances: Iterable[InstanceId], now_ms: int) -> "Heartbeats":
        """Watch these instances and no others; those that are new count as heard of now.

        Args:
            open_instances: open instances whose executor sends heartbeats.
            now_ms: the time.
        """
        return Heartbeats(last_ms={i: self.last_ms.get(i, now_ms) for i in open_instances})

    def with_beat(self, instance_id: InstanceId, now_ms: int) -> "Heartbeats":
        """Record a heartbeat."""
        return Heartbeats(last_ms={**self.last_ms, instance_id: now_ms})

    def expired(self, now_ms: int, timeout_ms: int = HEARTBEAT_TIMEOUT_MS) -> tuple[InstanceId, ...]:
        """Return the instances without a heartbeat for `timeout_ms`, which fail as heartbeat-lost."""
        return tuple(i for i, last in self.last_ms.items() if now_ms - last >= timeout_ms)
