"""Ends that a master tells without what the executor has added: the executor's own word may follow.

Lives here: `ProvisionalEnds`. Not here: what an end means (`clusters.mesos.statuses`).

A master knows the latest state of a task, but not the data of its status, in which the result is. When it is
asked about a task whose end was not acknowledged, or when an agent comes back, it tells the state alone; the
agent repeats the whole status soon after. So the end is believed only if nothing follows.
"""

from typing import Final

from cook_jupyter.clusters.mesos.messages import TaskStatus
from cook_jupyter.model.instance import InstanceId

WAIT_S: Final = 90.0  # an agent repeats a status after 10 s, and then less and less often
_STATES: Final = frozenset({"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED"})


class ProvisionalEnds:
    """The ends that may be told again."""

    def __init__(self) -> None:
        self._ends: dict[InstanceId, tuple[float, TaskStatus]] = {}  # -> (time when it is believed, status)

    def keep(self, status: TaskStatus, now_s: float) -> bool:
        """Keep an end that a master has told without data; return whether it is one.

        Args:
            status: any status of an open instance.
            now_s: monotonic time.
        """
        instance_id = InstanceId(status.task_id.value)
        if status.uuid or status.data or status.state not in _STATES:
            self._ends.pop(instance_id, None)
            return False
        self._ends.setdefault(instance_id, (now_s + WAIT_S, status))
        return True

    def pop_believed(self, now_s: float) -> list[TaskStatus]:
        """Remove and return the ends after which nothing has followed."""
        believed = [status for until_s, status in self._ends.values() if now_s >= until_s]
        for status in believed:
            del self._ends[InstanceId(status.task_id.value)]
        return believed
