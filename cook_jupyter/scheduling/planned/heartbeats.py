"""Heartbeats: which open instances have gone silent.

Lives here: the last sign of life of each instance that must give one, as a value.
Not here: who listens and who fails the silent ones.

Source: Cook's `mesos/heartbeat.clj`, as told in the fair-share specification, section 7.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.instance import InstanceId

HEARTBEAT_TIMEOUT_MS = 15 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeats:
    """When each watched instance was last heard of. A change makes a new value."""

    last_ms: Mapping[InstanceId, int] = field(default_factory=dict)

    def topped_up(self, open_instances: Iterable[InstanceId], now_ms: int) -> "Heartbeats":
        """Watch all of these that are not watched yet, from now on; and no instance that has ended.

        Args:
            open_instances: those whose executor sends heartbeats.
            now_ms: what a newly watched one counts as last heard of.
        """
        return Heartbeats(last_ms={i: self.last_ms.get(i, now_ms) for i in open_instances})

    def beat(self, instance_id: InstanceId, now_ms: int) -> "Heartbeats":
        """Note a sign of life."""
        return Heartbeats(last_ms={**self.last_ms, instance_id: now_ms})

    def silent(self, now_ms: int, timeout_ms: int = HEARTBEAT_TIMEOUT_MS) -> tuple[InstanceId, ...]:
        """Return the instances that were not heard of for that long: to be failed as heartbeat-lost."""
        return tuple(i for i, last in self.last_ms.items() if now_ms - last >= timeout_ms)
