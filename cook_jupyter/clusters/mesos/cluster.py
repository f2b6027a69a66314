"""`MesosCluster`: the agents of a Mesos master as a cluster.

Lives here: the open instances as the scheduler knows them; the passing of events to the parts of this
package, and of their calls to the master; the acknowledgement of statuses after their commit.
Not here: the connection (`clusters.mesos.connection`), hosts, launches, statuses, reconciliation, partitions
(the modules of these names), running instances (`worker.mesos`).

The order that makes it safe: the service has committed an instance before `launch`; a status is acknowledged
after it was committed, so that Mesos repeats it otherwise; a kill is repeated until a status says that the
instance has ended. Whatever gets lost on the way is settled by reconciliation.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import ClusterListener, Launch
from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.calls import CallSender
from cook_jupyter.clusters.mesos.connection import (
    CallFailed,
    CallRejected,
    NotConnected,
    SchedulerConnection,
    Subscription,
)
from cook_jupyter.clusters.mesos.executors import ExecutorTable
from cook_jupyter.clusters.mesos.holding import OfferHolding
from cook_jupyter.clusters.mesos.hosts import HostTable, MesosHost
from cook_jupyter.clusters.mesos.launching import LaunchQueue, Sending
from cook_jupyter.clusters.mesos.messages import (
    AgentId,
    Event,
    ExecutorId,
    FrameworkId,
    JsonObject,
    OfferId,
    TaskStatus,
)
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.partitions import Partitions
from cook_jupyter.clusters.mesos.reconciliation import Reconciliation
from cook_jupyter.clusters.mesos.resources import amounts_of
from cook_jupyter.clusters.mesos.statuses import Standing, read_status
from cook_jupyter.clusters.reporting import Report, UpdateReporter
from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.errors import ClusterUnusable, CookError
from cook_jupyter.model.instance import InstanceId, InstanceStatus, ResultPayload, StatusUpdate, TaskState
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import HEARTBEAT_LOST, SCHEDULING_FAILED_ON_HOST
from cook_jupyter.model.resources import Resources
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import BrokenStream, Frame
from cook_jupyter.worker.mesos.messages import FROM_EXECUTOR, ping, read_data
from cook_jupyter.worker.task import Cause

log = logging.getLogger(__name__)

_TICK_S: Final = 0.5
_AGENTS_S: Final = 60.0  # interval of questions about agents and other frameworks
_PING_S: Final = 30.0
_LONG_LEASE_S: Final = 604_800.0
_KILL_FIRST_S: Final = 15.0  # interval at which a kill is repeated; it doubles
_KILL_LAST_S: Final = 300.0
_START_PATIENCE_S: Final = 5.0  # for the answers of the first reconciliation
_FETCH_TRIES: Final = 6
_FETCH_PAUSE_S: Final = 1.0  # it doubles


class StoredText(Protocol):
    """A text that outlives the scheduler."""

    async def load(self) -> str | None:
        """Return the text; None if there is none."""

    async def save(self, text: str) -> None:
        """Store the text durably."""


class ResultFiles(Protocol):
    """Access to results that executors have left in sandboxes."""

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        """Return a file of a host, with size and SHA-256 verified.

        Raises:
            CookError: it cannot be read, or is not what was described.
        """


class _TrackedInstance:
    """An open instance."""

    __slots__ = ("agent_id", "executor_id", "host", "is_started", "kill_at_s", "kill_pause_s", "spec")

    def __init__(self, host: str, *, spec: JobSpec | None = None, agent_id: AgentId | None = None) -> None:
        self.host = host
        self.spec = spec  # None for an instance that the store does not have open
        self.agent_id = agent_id
        self.executor_id: str | None = None
        self.is_started = False  # whether a status has said so
        self.kill_at_s: float | None = None  # time of the next KILL; None if it is not to be killed
        self.kill_pause_s = _KILL_FIRST_S

    @property
    def is_killed(self) -> bool:
        """Whether the instance is to be killed."""
        return self.kill_at_s is not None


class MesosCluster:
    """The agents of a Mesos master.

    Args:
        options: options of the cluster.
        connection: connection to the master.
        state: text in which the id of the framework is stored.
        sandboxes: files of instances; None for those of `make_sandboxes`.
        results: access to results that are files.
        pools: pools that hosts serve which have no attribute for it.
        version: version of the code that executors run.
        user: user name with which the framework registers.
        tick_s: interval of what no event triggers.
    """

    def __init__(  # noqa: PLR0913 - settings of one thing, each by its name
        self,
        options: MesosOptions,
        connection: SchedulerConnection,
        *,
        state: StoredText,
        sandboxes: Callable[[Callable[[str], str | None]], Sandboxes],
        results: Callable[[Callable[[str], str | None]], ResultFiles],
        pools: Sequence[PoolName],
        version: str,
        user: str,
        tick_s: float = _TICK_S,
    ) -> None:
        self._options = options
        self._connection = connection
        self._state = state
        self._user = user
        self._tick_s = tick_s
        self._hosts = HostTable(options.name, pools=pools, pool_attribute=options.pool_attribute)
        self._executors = ExecutorTable(options, version)
        self._queue = LaunchQueue(options, self._executors, time.monotonic)
        self._holding = OfferHolding(options)
        self._reconciliation = Reconciliation()
        self._partitions = Partitions(options)
        self._sandboxes = sandboxes(self._agent_url)
        self._results = results(self._agent_url)
        self._calls = CallSender(connection)
        self._acknowledgements = CallSender(connection)
        self._reporter = UpdateReporter[TaskStatus | None](options.name, on_committed=self._on_committed)
        self._tracked: dict[InstanceId, _TrackedInstance] = {}
        self._framework_id: FrameworkId | None = None
        self._stored_state = ""
        self._stored_agents: dict[str, AgentId] = {}
        self._listener: ClusterListener | None = None
        self._is_subscribed = False
        self._first_subscription = asyncio.Event()
        self._reviving: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._fetching: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._next_agents_s = self._next_ping_s = 0.0
        self._ping_number = 0

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._options.name

    @property
    def has_fixed_capacity(self) -> bool:
        """Return False: agents come and go."""
        return False

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of instances, which their agents serve."""
        return self._sandboxes

    # --- the protocol -------------------------------------------------------------------------------------

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Subscribe, and ask the master about the open instances. Waits for a master as long as it takes.

        Raises:
            ClusterUnusable: the master refuses the framework.
        """
        self._listener = listener
        self._failure = asyncio.get_running_loop().create_future()
        await self._load_state()
        for launch in open_launches:
            self._track_open(launch)
        self._tasks = [
            asyncio.create_task(self._supervise(work), name=f"{self.name}: {name}")
            for name, work in (
                ("connection", lambda: self._connection.run(self)),
                ("reports", lambda: self._reporter.run(listener)),
                ("calls", self._calls.run),
                ("acknowledgements", self._acknowledgements.run),
                ("timer", self._run_timer),
            )
        ]
        await self._unless_failed(self._first_subscription.wait())
        deadline_s = time.monotonic() + _START_PATIENCE_S
        while not self._reconciliation.is_answered and time.monotonic() < deadline_s:
            await self._unless_failed(asyncio.sleep(self._tick_s / 10))

    async def close(self) -> None:
        """Disconnect from the master; instances go on."""
        tasks = [*self._tasks, *self._fetching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []
        self._is_subscribed = False
        if self._failure is not None and self._failure.done():
            self._failure.exception()  # whoever waited for it has it

    async def wait_unusable(self) -> None:
        """Wait until the master refuses the framework for good.

        Raises:
            ClusterUnusable: it has.
        """
        assert self._failure is not None  # noqa: S101 - set by start
        await asyncio.shield(self._failure)

    def offers(self) -> Sequence[Offer]:
        """Return the current room; no offers without a subscription."""
        return self._hosts.offers() if self._is_subscribed else []

    def capacity(self) -> Sequence[Offer]:
        """Return the known hosts as if they were empty."""
        return self._hosts.capacity()

    def can_grow(self, pool: PoolName) -> bool:
        """Return whether offers were given back, which can be requested again."""
        return self._holding.has_declined

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        """Request the offers again that were given back."""
        self._request_revive()

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start instances on their hosts, at once or as soon as their resources are offered again."""
        hosts: dict[str, MesosHost] = {}
        for launch in launches:
            instance = launch.instance
            if instance.instance_id in self._tracked:
                continue
            host = self._hosts.get(instance.host)
            if host is None or not host.is_connected:
                self._report(_not_launched(instance.instance_id))
                continue
            self._tracked[instance.instance_id] = _TrackedInstance(host.name, spec=launch.spec)
            self._queue.put(host, launch)
            hosts[host.name] = host
        for host in hosts.values():
            self._send_next(host)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill instances, again and again until they have ended."""
        for instance_id in instance_ids:
            tracked = self._tracked.get(instance_id)
            if tracked is None:
                continue
            host = self._hosts.get(tracked.host)
            if host is not None and self._queue.remove(host, instance_id) is not None:
                del self._tracked[instance_id]
                self._report(translation.never_started(instance_id, now_ms(), Cause.KILLED))
            elif not tracked.is_killed:
                self._send_kill(instance_id, tracked)

    # --- the connection's listener ------------------------------------------------------------------------

    def subscription(self) -> Subscription:
        """Return what to subscribe with."""
        options = self._options
        capabilities = ["PARTITION_AWARE", "MULTI_ROLE", "RESERVATION_REFINEMENT"]
        if options.gpus:
            capabilities.append("GPU_RESOURCES")
        framework: JsonObject = {
            "user": self._user,
            "name": options.framework_name,
            "roles": [options.role],
            "failover_timeout": options.failover_timeout_s,
            "checkpoint": True,
            "capabilities": [{"type": name} for name in capabilities],
        }
        if options.principal:
            framework["principal"] = options.principal
        if self._framework_id is not None:
            framework["id"] = {"value": self._framework_id}
        return Subscription(framework=framework)

    async def on_subscribed(self, framework_id: FrameworkId, master: str) -> None:
        """Store the id of the framework, and ask about all instances."""
        log.info("%s is subscribed to the Mesos master %s as %s", self.name, master, framework_id)
        if framework_id != self._framework_id:
            self._framework_id = framework_id
            await self._save_state()
        self._hosts.forget_offers()
        self._is_subscribed = True
        now_s = time.monotonic()
        self._next_agents_s = now_s
        self._reconciliation.begin(self._sent_instances(), now_s)
        self._send_due(now_s)
        self._first_subscription.set()

    def on_disconnected(self, cause: str) -> None:
        """Void all offers."""
        log.warning("%s has lost its Mesos master: %s", self.name, cause)
        self._is_subscribed = False
        self._hosts.forget_offers()

    async def on_event(self, event: Event) -> None:
        """Handle an event of the master."""
        if event.update is not None:
            self._on_status(event.update.status)
        elif event.offers is not None:
            self._on_offers(event.offers.offers)
        elif event.rescind is not None:
            host = self._hosts.of_offer(OfferId(event.rescind.offer_id.value))
            if host is not None:
                host.remove_offer(OfferId(event.rescind.offer_id.value))
        elif event.message is not None:
            self._on_message(event.message)
        elif event.failure is not None:
            self._on_failure(event.failure)
        elif event.inverse_offers is not None:
            ids = [one.id.value for one in event.inverse_offers.inverse_offers]
            self._calls.put(messages.accept_inverse_offers(ids))

    # --- offers and launches ------------------------------------------------------------------------------

    def _on_offers(self, offers: Sequence[messages.Offer]) -> None:
        users = {tracked.spec.user for tracked in self._tracked.values() if tracked.spec is not None}
        for offer in offers:
            host = self._hosts.add_offer(offer)
            self._executors.note_existing(host.name, host.executor_ids, users)
        for name in {offer.hostname for offer in offers}:
            known = self._hosts.get(name)
            if known is not None:
                self._send_next(known)
        self._notify_offers_changed()

    def _send_next(self, host: MesosHost) -> None:
        """Launch what the held offers of a host have room for."""
        if not self._is_subscribed or self._framework_id is None:
            return
        sending = self._queue.next_sending(host, self._framework_id)
        if sending is not None:
            now_s = time.monotonic()
            for task in sending.tasks:
                instance_id = task.launch.instance.instance_id
                tracked = self._tracked[instance_id]
                tracked.agent_id, tracked.executor_id = host.agent_id, task.executor_id
                self._reconciliation.launched(instance_id, now_s)
            self._calls.put(sending.call, lambda error: self._on_accept_failed(host, sending, error))
        if self._queue.is_waiting_for(host) or (sending is not None and self._holding.is_alone):
            self._request_revive()

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
            host.tasks.pop(instance_id, None)
            self._reconciliation.answered(instance_id)
            tracked = self._tracked.get(instance_id)
            if tracked is None:
                continue
            tracked.executor_id = None
            if tracked.is_killed:
                self._end(instance_id, translation.never_started(instance_id, now_ms(), Cause.KILLED))
            elif isinstance(error, CallRejected):
                self._end(instance_id, translation.never_started(instance_id, now_ms(), Cause.UNLAUNCHED))
            else:
                self._queue.put(host, task.launch)

    def _request_revive(self) -> None:
        """Send REVIVE as soon as the policy allows it."""
        if self._reviving is None:
            delay_s = self._holding.revive_due_s(time.monotonic())
            self._reviving = asyncio.get_running_loop().call_later(delay_s, self._revive)

    def _revive(self) -> None:
        self._reviving = None
        if self._is_subscribed:
            self._holding.revived(time.monotonic())
            self._calls.put(messages.revive([self._options.role]))

    # --- statuses -----------------------------------------------------------------------------------------

    def _on_status(self, status: TaskStatus) -> None:
        instance_id = InstanceId(status.task_id.value)
        tracked = self._tracked.get(instance_id)
        self._reconciliation.answered(instance_id)
        if status.state == "TASK_ERROR" and tracked is not None and tracked.is_started and not status.uuid:
            log.error(
                "%s: ignored an error about the running instance %s: %s", self.name, instance_id, status
            )
            return
        is_killed = tracked is not None and tracked.is_killed
        read = read_status(status, now_ms=now_ms(), is_killed=is_killed)
        if read.standing is Standing.UNSURE and tracked is not None:
            self._partitions.add(instance_id, tracked.host, tracked.spec, time.monotonic())
        if read.update is None:
            self._acknowledge(status)
        elif read.update.state.is_final:
            self._on_end(instance_id, tracked, status, read.update, read.end)
        else:
            self._on_open(instance_id, tracked, status, read.update)

    def _on_open(
        self,
        instance_id: InstanceId,
        tracked: _TrackedInstance | None,
        status: TaskStatus,
        update: StatusUpdate,
    ) -> None:
        agent_id = None if status.agent_id is None else AgentId(status.agent_id.value)
        if tracked is None:  # the store does not have it open; the service kills it
            host = None if agent_id is None else self._hosts.of_agent(agent_id)
            tracked = _TrackedInstance("" if host is None else host.name, agent_id=agent_id)
            self._tracked[instance_id] = tracked
            if host is not None:
                host.tasks[instance_id] = Resources()
            self._learn_soon()
        tracked.agent_id = agent_id or tracked.agent_id
        tracked.is_started = tracked.is_started or update.state is TaskState.RUNNING
        if status.executor_id is not None:
            tracked.executor_id = status.executor_id.value
        self._partitions.remove(instance_id)
        self._reporter.put(update, status)
        if tracked.is_killed:
            self._send_kill(instance_id, tracked)

    def _on_end(
        self,
        instance_id: InstanceId,
        tracked: _TrackedInstance | None,
        status: TaskStatus,
        update: StatusUpdate,
        end: Frame | None,
    ) -> None:
        if tracked is not None:
            self._forget(instance_id, tracked)
        result_file = None if end is None else end.header.get("result_file")
        if result_file is None or end is None:
            self._reporter.put(update, status)
            return
        host = tracked.host if tracked is not None else self._host_of(status)
        fetching = asyncio.create_task(self._fetch_and_report(host, end, update, status))
        self._fetching.add(fetching)
        fetching.add_done_callback(self._fetching.discard)

    def _forget(self, instance_id: InstanceId, tracked: _TrackedInstance) -> None:
        """Stop tracking an instance that has ended; its resources are offered again in a moment."""
        self._tracked.pop(instance_id, None)
        self._partitions.remove(instance_id)
        self._reconciliation.answered(instance_id)
        host = self._hosts.get(tracked.host)
        if host is None:
            return
        if tracked.executor_id is not None:
            self._executors.task_ended(host.name, tracked.executor_id)
        self._queue.remove(host, instance_id)
        resources = host.tasks.pop(instance_id, None)
        if resources is not None and host.is_connected and self._is_subscribed and self._holding.is_alone:
            host.expect_return(resources)

    def _end(self, instance_id: InstanceId, update: StatusUpdate) -> None:
        """Stop tracking an instance, and report an end that no status tells."""
        tracked = self._tracked.get(instance_id)
        if tracked is not None:
            self._forget(instance_id, tracked)
        self._report(update)

    async def _fetch_and_report(
        self, host: str, end: Frame, update: StatusUpdate, status: TaskStatus
    ) -> None:
        """Report an end with the result that its executor has left in a file."""
        described = end.header["result_file"]
        path = f"{end.header['sandbox']}/{described['name']}"
        result = None
        for attempt in range(_FETCH_TRIES):
            try:
                content = await self._results.fetch_result(
                    host, path, size=described["size"], digest=described["digest"]
                )
            except (CookError, OSError) as error:
                log.warning("%s: the result %s on %s cannot be read: %s", self.name, path, host, error)
                await asyncio.sleep(_FETCH_PAUSE_S * 2**attempt)
            else:
                result = ResultPayload(inline=content, size=len(content))
                break
        self._reporter.put(translation.with_result(update, result), status)

    def _host_of(self, status: TaskStatus) -> str:
        host = None if status.agent_id is None else self._hosts.of_agent(status.agent_id.value)
        return "" if host is None else host.name

    def _report(self, update: StatusUpdate) -> None:
        self._reporter.put(update, None)

    def _on_committed(self, reports: Sequence[Report[TaskStatus | None]]) -> None:
        for report in reports:
            if report.receipt is not None:
                self._acknowledge(report.receipt)
        if any(report.update.state.is_final for report in reports):
            self._notify_offers_changed()

    def _acknowledge(self, status: TaskStatus) -> None:
        """Acknowledge a status, unless a master made it. Mesos repeats one that is not acknowledged."""
        if status.uuid and status.agent_id is not None:
            self._acknowledgements.put(messages.acknowledge(status))

    # --- executors and agents -----------------------------------------------------------------------------

    def _on_message(self, message: messages.Message) -> None:
        try:
            frame = read_data(message.data, FROM_EXECUTOR)
        except BrokenStream as error:
            log.warning("%s: a message of %s: %s", self.name, message.executor_id.value, error)
            return
        if frame.header["t"] == "progress":
            self._reporter.put_progress(translation.update_of_progress(frame.header))
        elif frame.header["t"] == "hello":
            self._send_ping(AgentId(message.agent_id.value), ExecutorId(message.executor_id.value))

    def _on_failure(self, failure: messages.Failure) -> None:
        host = None if failure.agent_id is None else self._hosts.of_agent(failure.agent_id.value)
        if host is None:
            return
        if failure.executor_id is not None:
            log.info(
                "%s: the executor %s on %s has ended with wait status %s",
                self.name,
                failure.executor_id.value,
                host.name,
                failure.status,
            )
            self._executors.end(host.name, failure.executor_id.value)
        elif failure.agent_id is not None and failure.agent_id.value == host.agent_id:
            log.warning("%s: the agent on %s is gone", self.name, host.name)
            host.is_connected = False
            host.forget_offers()

    def _send_ping(self, agent_id: AgentId, executor_id: ExecutorId) -> None:
        self._ping_number += 1
        options = self._options
        lease_s = _LONG_LEASE_S if options.partition_policy == "never" else options.partition_wait_s
        self._calls.put(
            messages.send_message(agent_id, executor_id, ping(self._ping_number, lease_s=lease_s))
        )

    async def _ask_about_agents(self) -> None:
        """Ask for the agents, and whether other frameworks use them; without permission, do without."""
        try:
            agents = await self._connection.query({"type": "GET_AGENTS"})
            self._hosts.update_agents(agents["get_agents"].get("agents", ()))
        except CallFailed as error:
            log.info("%s: the master does not tell about its agents: %s", self.name, error)
        try:
            frameworks = await self._connection.query({"type": "GET_FRAMEWORKS"})
            others = [
                one
                for one in frameworks["get_frameworks"].get("frameworks", ())
                if one["framework_info"]["id"]["value"] != self._framework_id and one.get("active")
            ]
            self._holding.is_alone = not others
        except CallFailed as error:
            log.info("%s: the master does not tell about its frameworks: %s", self.name, error)
        if self._hosts.agent_ids() != self._stored_agents:
            await self._save_state()
        self._notify_offers_changed()

    def _learn_soon(self) -> None:
        """Ask for the resources of instances that run and were not launched by this scheduler."""
        if not any(task.get_name() == "learn" for task in self._fetching):
            learning = asyncio.create_task(self._learn_tasks(), name="learn")
            self._fetching.add(learning)
            learning.add_done_callback(self._fetching.discard)

    async def _learn_tasks(self) -> None:
        await asyncio.sleep(self._tick_s / 5)  # further ones may follow
        try:
            answer = await self._connection.query({"type": "GET_TASKS"})
        except CallFailed as error:
            log.info("%s: the master does not tell about its tasks: %s", self.name, error)
            return
        for task in answer["get_tasks"].get("tasks", ()):
            instance_id = InstanceId(task["task_id"]["value"])
            tracked = self._tracked.get(instance_id)
            host = None if tracked is None else self._hosts.of_agent(task["agent_id"]["value"])
            if tracked is not None and host is not None:
                tracked.host = host.name
                host.tasks[instance_id] = amounts_of(task.get("resources", ()))

    def _agent_url(self, host: str) -> str | None:
        """Return the address of a host's agent; None if it is unknown."""
        known = self._hosts.get(host)
        return None if known is None else known.url or None

    # --- what no event triggers ---------------------------------------------------------------------------

    async def _run_timer(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            now_s = time.monotonic()
            for host in list(self._hosts):
                for launch in self._queue.pop_late(host):
                    instance_id = launch.instance.instance_id
                    log.warning(
                        "%s: %s does not offer again what it had for %s", self.name, host.name, instance_id
                    )
                    self._end(instance_id, _not_launched(instance_id))
            for instance_id in self._partitions.pop_expired(now_s, len(self._hosts)):
                log.warning("%s: %s is given up, as its agent cannot be reached", self.name, instance_id)
                self._end(instance_id, _unreachable(instance_id))
            if self._is_subscribed:
                self._send_due(now_s)
                if now_s >= self._next_agents_s:
                    self._next_agents_s = now_s + _AGENTS_S
                    await self._ask_about_agents()

    def _send_due(self, now_s: float) -> None:
        """Send the calls that are due."""
        for call in self._reconciliation.calls(self._sent_instances(), now_s):
            self._calls.put(call)
        for instance_id, tracked in self._tracked.items():
            if tracked.kill_at_s is not None and now_s >= tracked.kill_at_s:
                self._send_kill(instance_id, tracked)
        connected = [host for host in self._hosts if host.is_connected]
        declined = self._holding.choose_declined(connected, now_s)
        if declined:
            self._calls.put(messages.decline(declined, refuse_s=self._options.decline_s))
        if now_s >= self._next_ping_s:
            self._next_ping_s = now_s + _PING_S
            for host_name, executor_id in self._executors.all():
                host = self._hosts.get(host_name)
                if host is not None:
                    self._send_ping(host.agent_id, executor_id)

    def _send_kill(self, instance_id: InstanceId, tracked: _TrackedInstance) -> None:
        """Send KILL, which is repeated later: Mesos does not remember one for an unreachable agent."""
        tracked.kill_at_s = time.monotonic() + tracked.kill_pause_s
        tracked.kill_pause_s = min(2 * tracked.kill_pause_s, _KILL_LAST_S)
        if self._is_subscribed:
            self._calls.put(messages.kill(instance_id, tracked.agent_id, grace_s=self._options.kill_grace_s))

    # --- state --------------------------------------------------------------------------------------------

    def _track_open(self, launch: Launch) -> None:
        """Track an instance that is open in the store; the master is asked about it."""
        instance = launch.instance
        tracked = _TrackedInstance(
            instance.host, spec=launch.spec, agent_id=self._stored_agents.get(instance.host)
        )
        tracked.is_started = instance.status is InstanceStatus.RUNNING
        self._tracked[instance.instance_id] = tracked
        if tracked.agent_id is not None:
            self._hosts.see(instance.host, tracked.agent_id).tasks[instance.instance_id] = (
                launch.spec.resources
            )

    def _sent_instances(self) -> dict[InstanceId, AgentId | None]:
        """Return the instances that the master should know, with their agents."""
        waiting = {instance_id for host in self._hosts for instance_id in host.waiting}
        return {i: tracked.agent_id for i, tracked in self._tracked.items() if i not in waiting}

    async def _load_state(self) -> None:
        text = await self._state.load()
        if text is not None:
            state = json.loads(text)
            self._framework_id = FrameworkId(state["framework_id"])
            self._stored_agents = {host: AgentId(one) for host, one in state["agents"].items()}

    async def _save_state(self) -> None:
        self._stored_agents = self._hosts.agent_ids()
        state = {"framework_id": self._framework_id, "agents": self._stored_agents}
        await self._state.save(json.dumps(state))

    # --- tasks of the event loop --------------------------------------------------------------------------

    async def _supervise(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a background task; start it again after a failure, except when the master refuses us."""
        while True:
            try:
                await work()
            except ClusterUnusable as error:
                self._is_subscribed = False
                if self._failure is not None and not self._failure.done():
                    self._failure.set_exception(error)
                return
            except Exception:
                log.exception("a background task of %s failed and starts again", self.name)
                await asyncio.sleep(self._tick_s)
            else:
                return

    async def _unless_failed(self, waiting: Awaitable[object]) -> None:
        """Wait, but no longer than until the master refuses the framework."""
        assert self._failure is not None  # noqa: S101 - set by start
        task = asyncio.ensure_future(waiting)
        await asyncio.wait((task, self._failure), return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            task.cancel()
            self._failure.result()

    def _notify_offers_changed(self) -> None:
        if self._listener is not None:
            self._listener.offers_changed()


def _not_launched(instance_id: InstanceId) -> StatusUpdate:
    return StatusUpdate(
        instance_id=instance_id, state=TaskState.LOST, at_ms=now_ms(), reason=SCHEDULING_FAILED_ON_HOST
    )


def _unreachable(instance_id: InstanceId) -> StatusUpdate:
    return StatusUpdate(instance_id=instance_id, state=TaskState.LOST, at_ms=now_ms(), reason=HEARTBEAT_LOST)
