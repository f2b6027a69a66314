"""A framework that runs instances in our executor, for tests of the executor itself."""

import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.messages import (
    AgentId,
    Event,
    ExecutorId,
    JsonObject,
    Offer,
    OfferId,
    TaskStatus,
)
from cook_jupyter.worker.frames import Frame
from cook_jupyter.worker.mesos.messages import (
    FROM_EXECUTOR,
    STATUS_DATA,
    ExecutorOptions,
    executor_command,
    read_data,
    task_data,
)
from cook_jupyter.worker.task import Task
from tests.mesos.raw_framework import RawFramework

TERMINAL = (
    "TASK_FINISHED",
    "TASK_FAILED",
    "TASK_KILLED",
    "TASK_GONE",
    "TASK_LOST",
    "TASK_DROPPED",
    "TASK_ERROR",
)


class ExecutorFramework(RawFramework):
    """A framework with one executor.

    Args:
        master: URL of the master.
        host: host of the executor.
        options: options of the executor.
        shutdown_grace_s: time between SHUTDOWN and SIGKILL.
        package: path of the package file; None to run the installed package.
        python: interpreter of the executor.
    """

    def __init__(
        self,
        master: str,
        *,
        host: str,
        options: ExecutorOptions | None = None,
        shutdown_grace_s: float = 5.0,
        package: str | None = None,
        python: str = sys.executable,
    ) -> None:
        super().__init__(master)
        self._host = host
        self.executor_id = ExecutorId(f"executor-{uuid4().hex[:8]}")
        self.agent_id: AgentId | None = None
        self.messages: list[Frame] = []
        self.failures: list[int | None] = []
        file = None if package is None else f"./{package.rpartition('/')[2]}"
        command = executor_command(options, python=python, package=file)
        uris = [] if package is None else [{"value": package, "extract": False}]
        self._command = {"shell": True, "value": command, "uris": uris}
        self._shutdown_grace_s = shutdown_grace_s

    def launch(self, *tasks: Task, **fields: Any) -> None:
        """Launch tasks with one ACCEPT; further fields go into each TaskInfo."""
        offer: Offer = self.wait_for(lambda: self._take_offer(self._host), f"an offer of {self._host}")
        self.agent_id = AgentId(offer.agent_id.value)
        infos = [{**self._task_info(task), **fields} for task in tasks]
        self._send(messages.accept([OfferId(offer.id.value)], infos, refuse_s=0))

    def kill_with_grace(self, task: Task, grace_s: float) -> None:
        self._send(messages.kill(task.instance_id, self.agent_id, grace_s=grace_s))

    def send_message(self, packed: bytes) -> None:
        assert self.agent_id is not None
        self._send(messages.send_message(self.agent_id, self.executor_id, packed))

    def shut_down(self) -> None:
        assert self.agent_id is not None
        self._send(messages.shut_down(self.agent_id, self.executor_id))

    def end_of(self, task: Task) -> TaskStatus:
        """Wait for the end of a task."""
        return self.wait_for_state(task.instance_id, *TERMINAL)

    def frame_of_end(self, task: Task) -> Frame:
        """Wait for the end of a task that our executor has reported."""
        return read_data(self.end_of(task).data, STATUS_DATA)

    def wait_until_running(self, *tasks: Task) -> None:
        for task in tasks:
            self.wait_for_state(task.instance_id, "TASK_RUNNING", *TERMINAL)
            assert self.states(task.instance_id) == ["TASK_RUNNING"]

    def wait_for_message(self, kind: str) -> Frame:
        def found() -> Frame | None:
            return next((frame for frame in self.messages if frame.header["t"] == kind), None)

        frame: Frame = self.wait_for(found, f"a message {kind}")
        return frame

    def measure(self, tasks: Sequence[Task]) -> float:
        """Launch tasks, and return the seconds until all have ended."""
        began = time.monotonic()
        self.launch(*tasks)
        for task in tasks:
            self.end_of(task)
        return time.monotonic() - began

    def _handle(self, event: Event) -> None:
        if event.message is not None:
            self.messages.append(read_data(event.message.data, FROM_EXECUTOR))
        if event.failure is not None and event.failure.executor_id is not None:
            self.failures.append(event.failure.status)
        super()._handle(event)

    def _task_info(self, task: Task) -> JsonObject:
        amounts = {"cpus": max(0.001, task.cpus), "mem": max(1.0, task.mem_mb)}
        return {
            "name": "instance",
            "task_id": {"value": task.instance_id},
            "agent_id": {"value": self.agent_id},
            "data": task_data(task),
            "resources": [
                {"name": name, "type": "SCALAR", "scalar": {"value": value}}
                for name, value in amounts.items()
            ],
            "executor": {
                "type": "CUSTOM",
                "executor_id": {"value": self.executor_id},
                "framework_id": {"value": self.framework_id},
                "name": "cook_jupyter executor",
                "command": self._command,
                "shutdown_grace_period": {"nanoseconds": int(self._shutdown_grace_s * 1e9)},
            },
        }
