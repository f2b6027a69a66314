"""The open instances of a cluster, as the scheduler knows them.

Lives here: `TrackedInstance`, `InstanceTable`, and when a kill is repeated.
Not here: instances that wait for resources (`clusters.mesos.launching`), what hosts run
(`clusters.mesos.hosts`).
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from cook_jupyter.clusters.mesos.messages import AgentId
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobSpec

FIRST_KILL_PAUSE_S: Final = 15.0  # then a kill is repeated; the pause doubles
LAST_KILL_PAUSE_S: Final = 300.0


class TrackedInstance:
    """An open instance.

    Args:
        host: name of its host; "" if unknown.
        spec: its job; None for an instance that the store does not have open.
        agent_id: agent to which it was sent.

    Attributes:
        executor_id: its executor, as far as known.
        is_started: whether a status has said that it runs.
        is_killed: whether the scheduler wants it to be killed.
        is_stopped: whether it is stopped because of its host, through no fault of its own.
    """

    __slots__ = (
        "_kill_at_s",
        "_kill_pause_s",
        "agent_id",
        "executor_id",
        "host",
        "is_killed",
        "is_started",
        "is_stopped",
        "spec",
    )

    def __init__(self, host: str, *, spec: JobSpec | None = None, agent_id: AgentId | None = None) -> None:
        self.host = host
        self.spec = spec
        self.agent_id = agent_id
        self.executor_id: str | None = None
        self.is_started = self.is_killed = self.is_stopped = False
        self._kill_at_s: float | None = None
        self._kill_pause_s = FIRST_KILL_PAUSE_S

    def is_kill_due(self, now_s: float) -> bool:
        """Return whether KILL is to be sent again."""
        return self._kill_at_s is not None and now_s >= self._kill_at_s

    def note_kill(self, now_s: float) -> None:
        """Note that KILL is sent now, and when it is sent again."""
        self._kill_at_s = now_s + self._kill_pause_s
        self._kill_pause_s = min(2 * self._kill_pause_s, LAST_KILL_PAUSE_S)


class InstanceTable:
    """The open instances of one cluster by id."""

    def __init__(self) -> None:
        self._instances: dict[InstanceId, TrackedInstance] = {}
        self._users: Counter[str] = Counter()

    def __contains__(self, instance_id: object) -> bool:
        return instance_id in self._instances

    def __iter__(self) -> Iterator[tuple[InstanceId, TrackedInstance]]:
        return iter(list(self._instances.items()))

    def __getitem__(self, instance_id: InstanceId) -> TrackedInstance:
        return self._instances[instance_id]

    def get(self, instance_id: InstanceId) -> TrackedInstance | None:
        """Return an instance; None if it is not open."""
        return self._instances.get(instance_id)

    def add(self, instance_id: InstanceId, instance: TrackedInstance) -> None:
        """Track an instance."""
        self.remove(instance_id)
        self._instances[instance_id] = instance
        if instance.spec is not None:
            self._users[instance.spec.user] += 1

    def remove(self, instance_id: InstanceId) -> None:
        """Stop tracking an instance."""
        instance = self._instances.pop(instance_id, None)
        if instance is not None and instance.spec is not None:
            self._users[instance.spec.user] -= 1
            if not self._users[instance.spec.user]:
                del self._users[instance.spec.user]

    def users(self) -> Collection[str]:
        """Return the users of the instances."""
        return self._users.keys()

    def due_kills(self) -> Iterator[tuple[InstanceId, TrackedInstance]]:
        """Yield the instances that are to be killed again."""
        now_s = time.monotonic()
        return ((i, instance) for i, instance in self if instance.is_kill_due(now_s))
