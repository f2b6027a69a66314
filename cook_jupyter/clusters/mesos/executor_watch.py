"""What executors say, and their ends.

Lives here: `ExecutorWatch`: leases, progress, instances that their executor does not know, and hosts on which
executors do not start.
Not here: which executor runs a task (`clusters.mesos.executors`), the executor itself (`worker.mesos`).

The scheduler pings each executor several times per lease; an executor that hears nothing for that long ends
its tasks, so that nothing runs that nobody accounts for. The answer lists what the executor runs: an end that
got lost together with an agent can be seen in no other way, as Mesos goes on saying that the task runs.

A host on which executors end before they say hello gets no tasks for a while: there may be no Python, or
another one.
"""

import logging
import signal
from collections import Counter
from collections.abc import Callable, Container
from typing import Final

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.calls import CallSender
from cook_jupyter.clusters.mesos.executors import PREFIX, ExecutorTable
from cook_jupyter.clusters.mesos.hosts import HostTable, MesosHost
from cook_jupyter.clusters.mesos.instances import InstanceTable
from cook_jupyter.clusters.mesos.messages import AgentId, ExecutorId
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.partitions import NEVER
from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import InstanceId, ProgressUpdate
from cook_jupyter.worker.frames import BrokenStream
from cook_jupyter.worker.mesos.messages import FROM_EXECUTOR, ping, read_data

log = logging.getLogger(__name__)

PING_S: Final = 30.0
MISSING_ANSWERS: Final = 3  # in a row; the end of an instance may be on its way meanwhile
FAILED_STARTS: Final = 2  # in a row, after which a host gets no tasks for a while
FIRST_COOLDOWN_S: Final = 300.0  # it doubles with each further one
LAST_COOLDOWN_S: Final = 7200.0
_PINGS_PER_LEASE: Final = 4
_LONG_LEASE_S: Final = 604_800.0
_REPEAT_S: Final = 60.0  # for which the same reason on the same host is not logged again


class ExecutorWatch:
    """The executors of a cluster as they answer.

    Args:
        options: options of the cluster.
        hosts: the hosts.
        executors: the executors.
        calls: where calls to the master are put.
        instances: the open instances.
        on_progress: called with the progress that an executor reports.
        on_missing: called with an instance that its executor does not know any more.
        now_s: returns monotonic time.
    """

    def __init__(
        self,
        options: MesosOptions,
        hosts: HostTable,
        executors: ExecutorTable,
        calls: CallSender,
        instances: InstanceTable,
        *,
        on_progress: Callable[[ProgressUpdate], None],
        on_missing: Callable[[InstanceId], None],
        now_s: Callable[[], float],
    ) -> None:
        self._options = options
        self._hosts = hosts
        self._executors = executors
        self._calls = calls
        self._instances = instances
        self._on_progress = on_progress
        self._on_missing = on_missing
        self._now_s = now_s
        self._next_ping_s = 0.0
        self._ping_number = 0
        self._started: set[tuple[str, str]] = set()  # host and executor that has sent a message
        self._never_started: set[tuple[str, str]] = set()  # and has ended
        self._failed_starts: dict[str, int] = {}  # host -> number in a row
        self._missing: Counter[InstanceId] = Counter()  # -> number of answers in a row without it
        self._lost_agents: set[str] = set()  # hosts
        self._logged_s: dict[tuple[str, str], float] = {}  # host and reason -> monotonic time

    @property
    def lease_s(self) -> float:
        """The time for which the tasks of an executor may go on without a word from a scheduler."""
        is_endless = self._options.partition_policy == NEVER
        return _LONG_LEASE_S if is_endless else self._options.partition_wait_s

    def ping_due(self) -> None:
        """Ping all executors that are used or have tasks, if it is time."""
        now_s = self._now_s()
        if now_s < self._next_ping_s:
            return
        self._next_ping_s = now_s + min(PING_S, self.lease_s / _PINGS_PER_LEASE)
        addresses: dict[ExecutorId, AgentId] = {}
        for name, executor_id in self._executors.all():
            host = self._hosts.get(name)
            if host is not None:
                addresses[executor_id] = host.agent_id
        # Those of an earlier scheduler with other options are not used any more, but run tasks.
        for _, instance in self._instances:
            if instance.agent_id is not None and (instance.executor_id or "").startswith(PREFIX):
                addresses[ExecutorId(instance.executor_id or "")] = instance.agent_id
        for executor_id, agent_id in addresses.items():
            self._ping(agent_id, executor_id)

    def on_message(self, message: messages.Message) -> None:
        """Handle a message of an executor."""
        executor_id = message.executor_id.value
        host = self._hosts.of_agent(message.agent_id.value)
        try:
            frame = read_data(message.data, FROM_EXECUTOR)
        except BrokenStream as error:
            log.warning("ignored a message of the executor %s that cannot be read: %s", executor_id, error)
            return
        if host is not None:
            self.note_started(host.name, executor_id)
        if frame.header["t"] == "progress":
            self._on_progress(translation.update_of_progress(frame.header))
        elif frame.header["t"] == "pong":
            listed = {*frame.header["open"], *frame.header["ended"]}
            self._compare(message.agent_id.value, executor_id, listed)
        elif frame.header["t"] == "hello":
            if host is not None:
                self._failed_starts.pop(host.name, None)
                host.cool_until_s = 0.0
            self._ping(AgentId(message.agent_id.value), ExecutorId(executor_id))

    def note_started(self, host: str, executor_id: str) -> None:
        """Note that an executor has started, as it has sent something: a hello may get lost."""
        self._started.add((host, executor_id))

    def has_started(self, host: str, executor_id: str) -> bool:
        """Return whether an executor has ever started, as those of earlier schedulers are taken to have."""
        if (host, executor_id) in self._never_started:
            return False
        is_new = self._executors.is_made_here(host, executor_id)
        return not is_new or (host, executor_id) in self._started

    def _compare(self, agent_id: str, executor_id: str, listed: Container[str]) -> None:
        """Find instances that an executor does not list although a status has said that it runs them.

        An id may be in use on two agents of a host, of which the earlier one was replaced.
        """
        for instance_id, instance in self._instances:
            is_of_executor = (instance.agent_id, instance.executor_id) == (agent_id, executor_id)
            if not is_of_executor or not instance.is_started:
                continue
            if instance_id in listed:
                self._missing.pop(instance_id, None)
                continue
            self._missing[instance_id] += 1
            if self._missing[instance_id] >= MISSING_ANSWERS:
                del self._missing[instance_id]
                log.error(
                    "the executor %s does not run the instance %s any more, and Mesos has not reported its"
                    " end: the instance is ended, and its job runs again",
                    executor_id,
                    instance_id,
                )
                self._on_missing(instance_id)

    def on_failure(self, failure: messages.Failure) -> None:
        """Handle the end of an executor, or the loss of an agent."""
        host = None if failure.agent_id is None else self._hosts.of_agent(failure.agent_id.value)
        if host is None or failure.agent_id is None:
            return
        if failure.executor_id is not None:
            self._on_executor_ended(host, failure.executor_id.value, failure.status)
        elif failure.agent_id.value == host.agent_id:
            log.warning(
                "Mesos has lost the agent on %s, with %s of this scheduler: no more are started there",
                host.name,
                counted(len(host.tasks), "instance"),
            )
            self._lost_agents.add(host.name)
            host.is_connected = False
            host.forget_offers()

    def log_returned_agents(self) -> None:
        """Log the agents that were lost and are connected again."""
        for name in list(self._lost_agents):
            host = self._hosts.get(name)
            if host is None or host.is_connected:
                self._lost_agents.discard(name)
            if host is not None and host.is_connected:
                log.info("the agent on %s is back", name)

    def on_end_by_mesos(self, host: str, status: messages.TaskStatus) -> None:
        """Log why Mesos itself has ended an instance: nothing else reports its message."""
        now_s = self._now_s()
        if now_s < self._logged_s.get((host, status.reason), -_REPEAT_S) + _REPEAT_S:
            return
        self._logged_s[host, status.reason] = now_s
        log.warning(
            "Mesos has ended the instance %s on %s (%s, %s): %s",
            status.task_id.value,
            host,
            status.state,
            status.reason or "no reason",
            status.message,
        )

    def _on_executor_ended(self, host: MesosHost, executor_id: str, status: int | None) -> None:
        if (host.name, executor_id) in self._never_started:
            return  # Mesos may tell it twice
        has_started = self.has_started(host.name, executor_id)
        self._executors.end(host.name, executor_id)
        # One that could not start does not exit with 0: this one was idle, since before this scheduler.
        if has_started or status == 0:
            self._started.discard((host.name, executor_id))
            log.info("the executor %s on %s has ended %s", executor_id, host.name, _describe(status))
            return
        self._never_started.add((host.name, executor_id))
        count = self._failed_starts[host.name] = self._failed_starts.get(host.name, 0) + 1
        cooldown_s = 0.0
        if count >= FAILED_STARTS:
            cooldown_s = min(FIRST_COOLDOWN_S * 2 ** (count - FAILED_STARTS), LAST_COOLDOWN_S)
            host.cool_until_s = self._now_s() + cooldown_s
        log.error(
            "the executor %s on %s could not start: it has ended %s. %s The file stderr in its sandbox on"
            " that host says why. Is there a Python 3.11 or newer as %r, and can the agent fetch %s?",
            executor_id,
            host.name,
            _describe(status),
            f"The host gets no tasks for {cooldown_s:g} s." if cooldown_s else "The next job tries again.",
            self._options.executor_python,
            self._options.executor_package or "everything it needs",
        )

    def _ping(self, agent_id: AgentId, executor_id: ExecutorId) -> None:
        self._ping_number += 1
        data = ping(self._ping_number, lease_s=self.lease_s)
        self._calls.put(messages.send_message(agent_id, executor_id, data))


def _describe(status: int | None) -> str:
    """Return how a process has ended, by its wait status as Mesos reports it."""
    if status is None:
        return "in an unknown way"
    number = status & 0x7F
    if number == 0:
        return f"with exit status {status >> 8}"
    try:
        return f"by {signal.Signals(number).name}"
    except ValueError:
        return f"by signal {number}"
