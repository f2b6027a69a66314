"""A framework that runs instances in our executor, for tests of the executor itself."""

import sys
import time
from collections.abc import Mapping, Sequence
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
        needed = {name: sum(_amounts(task)[name] for task in tasks) for name in ("cpus", "mem")}
        what = f"offers of {needed} on {self._host}"
        offers: list[Offer] = self.wait_for(lambda: self._take_offers(needed), what)
        self.agent_id = AgentId(offers[0].agent_id.value)
        infos = [{**self._task_info(task), **fields} for task in tasks]
        self._send(messages.accept([OfferId(offer.id.value) for offer in offers], infos, refuse_s=0))

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
        assert {self.end_of(task).state for task in tasks} == {"TASK_FINISHED"}
        return time.monotonic() - began

    def _handle(self, event: Event) -> None:
        if event.message is not None:
            self.messages.append(read_data(event.message.data, FROM_EXECUTOR))
        if event.failure is not None and event.failure.executor_id is not None:
            self.failures.append(event.failure.status)
        super()._handle(event)

    def _take_offers(self, needed: Mapping[str, float]) -> list[Offer]:
        """Take all offers of the host, which may be pieces; none as long as they are not enough."""
        offers = [offer for offer in self._offers.values() if offer.hostname == self._host]
        if any(sum(_offered(offer, name) for offer in offers) < amount for name, amount in needed.items()):
            return []
        for offer in offers:
            del self._offers[offer.id.value]
        return offers

    def _task_info(self, task: Task) -> JsonObject:
        return {
            "name": "instance",
            "task_id": {"value": task.instance_id},
            "agent_id": {"value": self.agent_id},
            "data": task_data(task),
            "resources": [
                {"name": name, "type": "SCALAR", "scalar": {"value": value}}
                for name, value in _amounts(task).items()
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


def _amounts(task: Task) -> dict[str, float]:
    return {"cpus": max(0.001, task.cpus), "mem": max(1.0, task.mem_mb)}


def _offered(offer: Offer, name: str) -> float:
    return sum(float(one["scalar"]["value"]) for one in offer.resources if one["name"] == name)
