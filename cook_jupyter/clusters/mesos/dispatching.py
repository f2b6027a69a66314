"""Launches on their way to the master: ACCEPTs, what becomes of those that fail, and REVIVE.

Lives here: `Dispatcher`. Not here: what fits (`clusters.mesos.launching`), which offers are kept
(`clusters.mesos.holding`).
"""

import asyncio
import logging
import time
from collections.abc import Callable

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.calls import CallSender
from cook_jupyter.clusters.mesos.executors import ExecutorTable
from cook_jupyter.clusters.mesos.holding import OfferHolding
from cook_jupyter.clusters.mesos.hosts import HostTable, MesosHost
from cook_jupyter.clusters.mesos.instances import InstanceTable
from cook_jupyter.clusters.mesos.launching import LaunchQueue, Sending
from cook_jupyter.clusters.mesos.messages import FrameworkId
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.reconciliation import Reconciliation
from cook_jupyter.clusters.mesos.transport.connection import CallFailed, CallRejected, NotConnected
from cook_jupyter.model.instance import InstanceId, StatusUpdate, TaskState
from cook_jupyter.model.reason import SCHEDULING_FAILED_ON_HOST
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.task import Cause

log = logging.getLogger(__name__)

EndInstance = Callable[[InstanceId, StatusUpdate], None]


class Dispatcher:
    """Sends the launches of a cluster.

    Args:
        options: options of the cluster.
        hosts: the hosts.
        executors: the executors.
        instances: the open instances.
        holding: the offer policy.
        reconciliation: the questions to the master.
        calls: where calls to the master are put.
        end_instance: called with an instance that cannot be launched, and its end.
    """

    def __init__(
        self,
        options: MesosOptions,
        hosts: HostTable,
        executors: ExecutorTable,
        instances: InstanceTable,
        *,
        holding: OfferHolding,
        reconciliation: Reconciliation,
        calls: CallSender,
        end_instance: EndInstance,
    ) -> None:
        self._options = options
        self._hosts = hosts
        self._executors = executors
        self._instances = instances
        self._holding = holding
        self._reconciliation = reconciliation
        self._calls = calls
        self._end_instance = end_instance
        self._queue = LaunchQueue(options, executors, time.monotonic)
        self._framework_id: FrameworkId | None = None  # None without a subscription
        self._reviving: asyncio.TimerHandle | None = None

    def on_subscribed(self, framework_id: FrameworkId) -> None:
        """Send launches from now on; those that wait have waited for nothing so far."""
        self._framework_id = framework_id
        self._queue.restart_patience()

    def on_disconnected(self) -> None:
        """Send nothing until the next subscription."""
        self._framework_id = None

    def put(self, host: MesosHost, launch: Launch) -> None:
        """Add a launch, which holds room of its host from now on; `send_next` sends it."""
        self._queue.put(host, launch)

    def withdraw(self, host: MesosHost, instance_id: InstanceId) -> bool:
        """Remove a launch that was not sent yet; return whether there was one."""
        return self._queue.remove(host, instance_id) is not None

    def send_next(self, host: MesosHost) -> None:
        """Launch what the held offers of a host have room for."""
        if self._framework_id is None:
            return
        sending = self._queue.next_sending(host, self._framework_id)
        if sending is not None:
            now_s = time.monotonic()
            for task in sending.tasks:
                instance_id = task.launch.instance.instance_id
                instance = self._instances[instance_id]
                instance.agent_id, instance.executor_id = host.agent_id, task.executor_id
                self._reconciliation.launched(instance_id, now_s)
            self._calls.put(sending.call, lambda error: self._on_accept_failed(host, sending, error))
        if self._queue.is_waiting_for(host) or (sending is not None and self._holding.is_alone):
            self.request_revive()

    def end_late(self) -> None:
        """End the launches whose resources are not offered again; their jobs are placed anew."""
        for host in list(self._hosts):
            for launch in self._queue.pop_late(host):
                instance_id = launch.instance.instance_id
                log.warning(
                    "the instance %s could not start on %s, as Mesos no longer offers the resources for it:"
                    " its job is placed again",
                    instance_id,
                    host.name,
                )
                self._end_instance(instance_id, not_launched(instance_id))

    def request_revive(self) -> None:
        """Send REVIVE as soon as the policy allows it."""
        if self._reviving is None:
            delay_s = self._holding.revive_due_s(time.monotonic())
            self._reviving = asyncio.get_running_loop().call_later(delay_s, self._revive)

    def close(self) -> None:
        """Send nothing any more."""
        self.on_disconnected()
        if self._reviving is not None:
            self._reviving.cancel()
            self._reviving = None

    def _revive(self) -> None:
        self._reviving = None
        if self._framework_id is not None:
            self._holding.revived(time.monotonic())
            self._calls.put(messages.revive([self._options.role]))

    def _on_accept_failed(self, host: MesosHost, sending: Sending, error: CallFailed) -> None:
        """Take launches back that were not sent; ask about those that may have been."""
        instance_ids = [task.launch.instance.instance_id for task in sending.tasks]
        if not isinstance(error, NotConnected | CallRejected):
            self._reconciliation.ask(instance_ids, time.monotonic())
            return
        for task in sending.tasks:
            instance_id = task.launch.instance.instance_id
            if task.executor_id is not None:
                self._executors.task_ended(host.name, task.executor_id)
            host.remove_task(instance_id)
            self._reconciliation.answered(instance_id)
            instance = self._instances.get(instance_id)
            if instance is None:
                continue
            instance.executor_id = None
            if instance.is_killed:
                end = translation.never_started(instance_id, now_ms(), Cause.KILLED)
                self._end_instance(instance_id, end)
            elif isinstance(error, CallRejected):
                end = translation.never_started(instance_id, now_ms(), Cause.UNLAUNCHED)
                self._end_instance(instance_id, end)
            else:
                self._queue.put(host, task.launch)


def not_launched(instance_id: InstanceId) -> StatusUpdate:
    """Return the end of an instance whose host has no room for it any more."""
    return StatusUpdate(
        instance_id=instance_id, state=TaskState.LOST, at_ms=now_ms(), reason=SCHEDULING_FAILED_ON_HOST
    )
