"""Launches of a host: what becomes a task now, and what waits for resources.

Lives here: `LaunchQueue` and the TaskInfo of an instance.
Not here: resources of a host (`clusters.mesos.hosts`), the executor of a task (`clusters.mesos.executors`),
commands in containers (`clusters.mesos.containers`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.mesos.containers import container_task, is_container
from cook_jupyter.clusters.mesos.executors import ExecutorTable
from cook_jupyter.clusters.mesos.hosts import Claim, MesosHost
from cook_jupyter.clusters.mesos.messages import AgentId, Call, ExecutorId, JsonObject, accept
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.resources import NotHeld
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.resources import Resources
from cook_jupyter.worker.mesos.messages import task_data

PATIENCE_S: Final = 15.0  # of launches that wait for resources; agents need time after a failover of masters
_LEAST_CPUS: Final = 0.001  # a task without any resources is refused
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SentTask:
    """A task of an ACCEPT."""

    launch: Launch
    executor_id: ExecutorId | None


class Sending(NamedTuple):
    """An ACCEPT to send, and the tasks in it."""

    call: Call
    tasks: tuple[SentTask, ...]


class LaunchQueue:
    """The launches of all hosts that are not sent yet.

    Args:
        options: options of the cluster.
        executors: the executors.
        now_s: returns monotonic time.
    """

    def __init__(self, options: MesosOptions, executors: ExecutorTable, now_s: Callable[[], float]) -> None:
        self._options = options
        self._executors = executors
        self._now_s = now_s
        self._waiting: dict[str, dict[InstanceId, tuple[Launch, float]]] = {}  # host -> launch, put at

    def put(self, host: MesosHost, launch: Launch) -> None:
        """Add a launch, which holds room of its host from now on."""
        instance_id = launch.instance.instance_id
        host.waiting[instance_id] = Claim(needed_by(launch), launch.instance.ports)
        self._waiting.setdefault(host.name, {})[instance_id] = (launch, self._now_s())

    def remove(self, host: MesosHost, instance_id: InstanceId) -> Launch | None:
        """Withdraw a launch that was not sent yet; return it, or None if there is none."""
        entry = self._waiting.get(host.name, {}).pop(instance_id, None)
        if entry is None:
            return None
        del host.waiting[instance_id]
        return entry[0]

    def is_waiting_for(self, host: MesosHost) -> bool:
        """Return whether any launch waits for resources of a host."""
        return bool(self._waiting.get(host.name))

    def next_sending(self, host: MesosHost, framework_id: str) -> Sending | None:
        """Return an ACCEPT of all waiting launches of a host that its held offers have room for, in order.

        The host holds no offers afterwards, and counts on the rest of them.

        Args:
            host: the host.
            framework_id: the framework.

        Returns:
            None if nothing can be launched now.
        """
        waiting = self._waiting.get(host.name)
        if not waiting or not host.offers:
            return None
        resources = host.peek()
        tasks, infos = [], []
        for instance_id, (launch, _) in list(waiting.items()):
            try:
                cut = resources.take(needed_by(launch), launch.instance.ports)
            except NotHeld:
                break  # in order: a small launch does not overtake a large one for ever
            del waiting[instance_id], host.waiting[instance_id]
            task, info = self._task(launch, host, cut, framework_id)
            host.add_task(instance_id, launch.spec.resources)
            tasks.append(task)
            infos.append(info)
        if not tasks:
            return None
        offer_ids = host.take_offers()
        host.expect_return(resources.amounts())
        return Sending(accept(offer_ids, infos, refuse_s=0.0), tuple(tasks))

    def restart_patience(self) -> None:
        """Let all launches wait anew, as their resources could not be offered so far."""
        now_s = self._now_s()
        for waiting in self._waiting.values():
            for instance_id, (launch, _) in waiting.items():
                waiting[instance_id] = (launch, now_s)

    def pop_late(self, host: MesosHost) -> list[Launch]:
        """Withdraw and return the launches of a host that have waited too long."""
        oldest_s = self._now_s() - PATIENCE_S
        late = [i for i, (_, since_s) in self._waiting.get(host.name, {}).items() if since_s < oldest_s]
        return [launch for i in late if (launch := self.remove(host, i)) is not None]

    def _task(
        self, launch: Launch, host: MesosHost, resources: list[JsonObject], framework_id: str
    ) -> tuple[SentTask, JsonObject]:
        user = self._options.run_as or launch.spec.user
        info = task_info(launch, host.agent_id, resources, grace_s=self._options.kill_grace_s)
        if is_container(launch):
            return SentTask(launch, None), {**info, **container_task(launch, user)}
        executor_id = self._executors.choose(host.name, user)
        return SentTask(launch, executor_id), {
            **info,
            "executor": self._executors.info(executor_id, user, framework_id),
            "data": task_data(translation.task_of(launch, launch.instance.ports)),
        }


def needed_by(launch: Launch) -> Resources:
    """Return the resources of the task of a launch."""
    wanted = launch.spec.resources
    return Resources(cpus=max(_LEAST_CPUS, wanted.cpus), mem_mb=wanted.mem_mb, gpus=wanted.gpus)


def task_info(
    launch: Launch, agent_id: AgentId, resources: list[JsonObject], *, grace_s: float
) -> JsonObject:
    """Return the part of TaskInfo that all tasks have."""
    instance_id = launch.instance.instance_id
    return {
        "name": launch.spec.name,
        "task_id": {"value": instance_id},
        "agent_id": {"value": agent_id},
        "resources": resources,
        "kill_policy": {"grace_period": {"nanoseconds": round(grace_s * _SECOND_NS)}},
        "labels": {
            "labels": [
                {"key": "cook-job", "value": launch.spec.job_id},
                {"key": "cook-user", "value": launch.spec.user},
            ]
        },
    }
