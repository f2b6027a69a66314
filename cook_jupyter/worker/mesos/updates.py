"""Status updates until the agent has acknowledged them.

Lives here: `Updates`, which also keeps the tasks of which the agent has acknowledged nothing yet.
Not here: sending them (`worker.mesos.executor`), ends before they are updates (`worker.outbox`).

An agent acknowledges an update when it has stored it; until then an agent that restarts knows neither the
update nor, perhaps, the task. So both are sent again with each subscription, with the same uuid, which lets
the agent recognise what it has.
"""

import base64
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import uuid4

JsonObject = dict[str, Any]


class PendingUpdate(NamedTuple):
    """An update that the agent has not acknowledged.

    Attributes:
        status: TaskStatus.
        is_end: whether its state is terminal.
        made_at: monotonic time in seconds.
    """

    status: JsonObject
    is_end: bool
    made_at: float

    @property
    def task_id(self) -> str:
        """The task."""
        return str(self.status["task_id"]["value"])


class Updates:
    """Updates by uuid, oldest first, and tasks by id.

    Args:
        executor_id: id of the executor.
    """

    def __init__(self, executor_id: str) -> None:
        self._executor_id = executor_id
        self._updates: dict[str, PendingUpdate] = {}
        self._tasks: dict[str, JsonObject] = {}

    def __len__(self) -> int:
        return len(self._updates)

    def add_task(self, task_id: str, task: JsonObject) -> None:
        """Keep a TaskInfo until something about the task is acknowledged."""
        self._tasks[task_id] = task

    def add(
        self, task_id: str, state: str, *, is_end: bool, data: str = "", message: str = ""
    ) -> PendingUpdate:
        """Make an update, and keep it until it is acknowledged.

        Args:
            task_id: the task.
            state: its state.
            is_end: whether the state is terminal.
            data: base64 for the scheduler.
            message: text for people.
        """
        uuid = base64.b64encode(uuid4().bytes).decode("ascii")
        status: JsonObject = {
            "task_id": {"value": task_id},
            "executor_id": {"value": self._executor_id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "timestamp": time.time(),
            "uuid": uuid,
        }
        if data:
            status["data"] = data
        if message:
            status["message"] = message
        update = self._updates[uuid] = PendingUpdate(status, is_end, time.monotonic())
        return update

    def settle(self, task_id: str, uuid: str) -> PendingUpdate | None:
        """Remove and return an update that is acknowledged or refused; None if it is not known."""
        self._tasks.pop(task_id, None)
        return self._updates.pop(uuid, None)

    def pending(self) -> Mapping[str, PendingUpdate]:
        """Return the updates by uuid, oldest first."""
        return self._updates

    def tasks(self) -> list[JsonObject]:
        """Return the tasks of which nothing is acknowledged."""
        return list(self._tasks.values())
