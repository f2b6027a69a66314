"""`MesosCluster`: the agents of a Mesos master as a cluster.

Lives here: the open instances as the scheduler knows them; the passing of events to the parts of this
package, and of their calls to the master; the acknowledgement of statuses after their commit.
Not here: the connection (`clusters.mesos.transport.connection`), hosts, launches, statuses, reconciliation,
partitions (the modules of these names), running instances (`worker.mesos`).

The order that makes it safe: the service has committed an instance before `launch`; a status is acknowledged
after it was committed, so that Mesos repeats it otherwise; a kill is repeated until a status says that the
instance has ended. Whatever gets lost on the way is settled by reconciliation.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import ClusterListener, Launch
from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.agent_queries import AgentQueries
from cook_jupyter.clusters.mesos.calls import CallSender
from cook_jupyter.clusters.mesos.dispatching import Dispatcher, not_launched
from cook_jupyter.clusters.mesos.executor_watch import ExecutorWatch
from cook_jupyter.clusters.mesos.executors import ExecutorTable
from cook_jupyter.clusters.mesos.framework import Framework, StoredText
from cook_jupyter.clusters.mesos.holding import OfferHolding
from cook_jupyter.clusters.mesos.hosts import HostTable, MesosHost, start_ms
from cook_jupyter.clusters.mesos.instances import InstanceTable, TrackedInstance
from cook_jupyter.clusters.mesos.messages import (
    AgentId,
    Event,
    FrameworkId,
    OfferId,
    TaskStatus,
)
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.partitions import Partitions
from cook_jupyter.clusters.mesos.provisional import ProvisionalEnds
from cook_jupyter.clusters.mesos.reconciliation import Reconciliation
from cook_jupyter.clusters.mesos.result_files import ResultFetcher, ResultFiles
from cook_jupyter.clusters.mesos.statuses import Standing, is_unknown_task, read_status
from cook_jupyter.clusters.mesos.transport.connection import (
    SchedulerConnection,
    Subscription,
)
from cook_jupyter.clusters.reporting import Report, UpdateReporter
from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.errors import ClusterUnusable
from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import InstanceId, InstanceStatus, StatusUpdate, TaskState
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import EXECUTOR_TERMINATED, HEARTBEAT_LOST, LAUNCH_FAILED
from cook_jupyter.model.resources import Resources
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import Frame
from cook_jupyter.worker.task import Cause

log = logging.getLogger(__name__)

_TICK_S: Final = 0.5
_CALLS_AT_A_TIME: Final = 16
_ACKNOWLEDGEMENTS_AT_A_TIME: Final = 64
_AGENTS_S: Final = 60.0  # interval of questions about agents and other frameworks
_MAINTENANCE_LEAD_MS: Final = 5000  # in addition to the grace period
_START_PATIENCE_S: Final = 5.0  # for the answers of the first reconciliation


class MesosCluster:
    """The agents of a Mesos master.

    Args:
        options: options of the cluster.
        connection: connection to the master.
        state: text in which the id of the framework is stored.
        sandboxes: returns the files of instances, given a function that returns the URL of a host's agent.
        results: returns the access to results in files, given the same.
        pools: pools that hosts serve which have no attribute for it.
        version: version of the code that executors run.
        user: user of the hosts as whom executors run that name none.
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
        self._framework = Framework(options, state, user)
        self._tick_s = tick_s
        self._hosts = HostTable(options.name, pools=pools, pool_attribute=options.pool_attribute)
        self._executors = ExecutorTable(options, version)
        self._holding = OfferHolding(options)
        self._reconciliation = Reconciliation()
        self._partitions = Partitions(options)
        self._provisional = ProvisionalEnds()
        self._sandboxes = sandboxes(self._agent_url)
        self._results = ResultFetcher(results(self._agent_url), patience_s=options.partition_wait_s)
        self._calls = CallSender(connection, at_a_time=_CALLS_AT_A_TIME)
        self._acknowledgements = CallSender(connection, at_a_time=_ACKNOWLEDGEMENTS_AT_A_TIME)
        self._reporter = UpdateReporter[TaskStatus | None](options.name, on_committed=self._on_committed)
        self._instances = InstanceTable()
        self._unsent: dict[InstanceId, Launch] = {}  # that the last scheduler may not have sent
        self._dispatcher = Dispatcher(
            options,
            self._hosts,
            self._executors,
            self._instances,
            holding=self._holding,
            reconciliation=self._reconciliation,
            calls=self._calls,
            end_instance=self._end,
        )
        self._queries = AgentQueries(connection, self._hosts, self._holding, self._instances)
        self._listener: ClusterListener | None = None
        self._is_subscribed = False
        self._is_closing = False
        self._first_subscription = asyncio.Event()
        self._watch = ExecutorWatch(
            options,
            self._hosts,
            self._executors,
            self._calls,
            self._instances,
            on_missing=self._on_missing,
            on_progress=self._reporter.put_progress,
            now_s=time.monotonic,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: asyncio.Future[None] | None = None
        self._next_agents_s = 0.0

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
        self._is_closing = False
        self._failure = asyncio.get_running_loop().create_future()
        await self._framework.load()
        for launch in open_launches:
            self._track_open(launch)
        self._tasks = [
            asyncio.create_task(self._supervise(work), name=f"{self.name}: {name}")
            for name, work in (
                ("connection", lambda: self._connection.run(self)),
                ("reports", lambda: self._reporter.run(listener)),
                ("timer", self._run_timer),
            )
        ]
        await self._unless_failed(self._first_subscription.wait())
        deadline_s = time.monotonic() + _START_PATIENCE_S
        while not self._reconciliation.is_answered and time.monotonic() < deadline_s:
            await self._unless_failed(asyncio.sleep(self._tick_s / 10))

    async def close(self) -> None:
        """Disconnect from the master; instances go on."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._dispatcher.close()
        for part in (self._calls, self._acknowledgements, self._results):
            await part.close()
        await self._queries.close()
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
        self._dispatcher.request_revive()

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start instances on their hosts, at once or as soon as their resources are offered again."""
        hosts: dict[str, MesosHost] = {}
        for launch in launches:
            instance = launch.instance
            if instance.instance_id in self._instances:
                continue
            host = self._hosts.get(instance.host)
            if host is None or not host.is_connected:
                self._report(not_launched(instance.instance_id))
                continue
            self._instances.add(instance.instance_id, TrackedInstance(host.name, spec=launch.spec))
            self._dispatcher.put(host, launch)
            hosts[host.name] = host
        for host in hosts.values():
            self._dispatcher.send_next(host)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill instances, again and again until they have ended."""
        for instance_id in instance_ids:
            tracked = self._instances.get(instance_id)
            if tracked is None:
                continue
            self._unsent.pop(instance_id, None)
            host = self._hosts.get(tracked.host)
            if host is not None and self._dispatcher.withdraw(host, instance_id):
                self._instances.remove(instance_id)
                self._report(translation.never_started(instance_id, now_ms(), Cause.KILLED))
            elif not tracked.is_killed:
                tracked.is_killed = True
                self._send_kill(instance_id, tracked)

    # --- the connection's listener ------------------------------------------------------------------------

    def subscription(self) -> Subscription:
        """Return what to subscribe with."""
        return self._framework.subscription()

    async def on_subscribed(self, framework_id: FrameworkId, master: str) -> None:
        """Store the id of the framework, and ask about all instances."""
        log.info(
            "the cluster %r has subscribed to the Mesos master %s as framework %s",
            self.name,
            master,
            framework_id,
        )
        await self._framework.save_id(framework_id)
        self._hosts.forget_offers()
        self._dispatcher.on_subscribed(framework_id)
        self._provisional = ProvisionalEnds()  # the master is asked again
        self._is_subscribed = True
        await self._refresh_agents()
        log.info("the cluster %r has %s", self.name, counted(len(self._hosts), "agent"))
        now_s = time.monotonic()
        self._reconciliation.begin(self._sent_instances(), now_s)
        self._send_due(now_s)
        self._first_subscription.set()

    def on_disconnected(self, cause: str) -> None:
        """Void all offers."""
        if not self._is_closing:
            log.warning("the cluster %r has lost its Mesos master: %s", self.name, cause)
        self._is_subscribed = False
        self._dispatcher.on_disconnected()
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
            self._watch.on_message(event.message)
        elif event.failure is not None:
            self._watch.on_failure(event.failure)
            self._notify_offers_changed()
        elif event.inverse_offers is not None:
            self._on_inverse_offers(event.inverse_offers.inverse_offers)

    # --- offers and launches ------------------------------------------------------------------------------

    def _on_offers(self, offers: Sequence[messages.Offer]) -> None:
        users = self._instances.users()
        for offer in offers:
            host = self._hosts.add_offer(offer)
            self._executors.note_existing(host.name, host.executor_ids, users)
        for name in {offer.hostname for offer in offers}:
            known = self._hosts.get(name)
            if known is not None:
                self._dispatcher.send_next(known)
        self._notify_offers_changed()

    def _on_inverse_offers(self, inverse_offers: Sequence[messages.InverseOffer]) -> None:
        """Agree to the maintenance of agents: until then their tasks end, or are stopped."""
        for inverse_offer in inverse_offers:
            agent_id = inverse_offer.agent_id
            host = None if agent_id is None else self._hosts.of_agent(agent_id.value)
            if host is not None:
                host.until_ms = start_ms(inverse_offer.unavailability)
        self._calls.put(messages.accept_inverse_offers([one.id.value for one in inverse_offers]))
        self._notify_offers_changed()

    def _stop_before_maintenance(self) -> None:
        """Stop the tasks of hosts whose maintenance begins in a moment; their jobs run again elsewhere."""
        soon_ms = now_ms() + round(1000 * self._options.kill_grace_s) + _MAINTENANCE_LEAD_MS
        for host in self._hosts:
            if host.until_ms is not None and host.until_ms <= soon_ms:
                for instance_id in list(host.tasks):
                    tracked = self._instances.get(instance_id)
                    if tracked is not None and not tracked.is_stopped:
                        tracked.is_stopped = True
                        self._send_kill(instance_id, tracked)

    # --- statuses -----------------------------------------------------------------------------------------

    def _on_status(self, status: TaskStatus) -> None:
        instance_id = InstanceId(status.task_id.value)
        tracked = self._instances.get(instance_id)
        self._reconciliation.answered(instance_id)
        if instance_id in self._results:
            return  # its end is known; a master that tells it again does so without the result
        if status.state == "TASK_ERROR" and tracked is not None and tracked.is_started and not status.uuid:
            log.error(
                "the cluster %r: ignored an error about the running instance %s: %s",
                self.name,
                instance_id,
                status,
            )
            return
        unsent = self._unsent.pop(instance_id, None)
        if unsent is not None and is_unknown_task(status):
            self._launch_again(unsent)
        elif tracked is None or not self._provisional.keep(status, time.monotonic()):
            self._apply(status)

    def _launch_again(self, launch: Launch) -> None:
        """Launch an instance that the last scheduler has committed, and could not send any more."""
        instance_id = launch.instance.instance_id
        host = self._hosts.get(launch.instance.host)
        if host is None or not host.is_connected:
            self._end(instance_id, not_launched(instance_id))
            return
        host.remove_task(instance_id)
        self._dispatcher.put(host, launch)
        self._dispatcher.send_next(host)

    def _apply(self, status: TaskStatus) -> None:
        """Report what a status says."""
        instance_id = InstanceId(status.task_id.value)
        tracked = self._instances.get(instance_id)
        is_killed = tracked is not None and tracked.is_killed
        read = read_status(status, now_ms=now_ms(), is_killed=is_killed)
        if read.standing is Standing.UNSURE and tracked is not None:
            self._partitions.add(instance_id, tracked.host, tracked.spec, time.monotonic())
        if read.update is None:
            self._acknowledge(status)
        elif read.update.state.is_final:
            update = self._with_start_failed(tracked, read.update)
            self._on_end(instance_id, tracked, status, update, read.end)
        else:
            self._on_open(instance_id, tracked, status, read.update)

    def _with_start_failed(self, tracked: TrackedInstance | None, update: StatusUpdate) -> StatusUpdate:
        """Return the end of an instance; an executor that has never started is a failed launch."""
        if update.reason != EXECUTOR_TERMINATED or tracked is None or tracked.executor_id is None:
            return update
        if tracked.is_started or self._watch.has_started(tracked.host, tracked.executor_id):
            return update
        return replace(update, reason=LAUNCH_FAILED)

    def _on_open(
        self,
        instance_id: InstanceId,
        tracked: TrackedInstance | None,
        status: TaskStatus,
        update: StatusUpdate,
    ) -> None:
        agent_id = None if status.agent_id is None else AgentId(status.agent_id.value)
        if tracked is None:  # the store does not have it open; the service kills it
            host = None if agent_id is None else self._hosts.of_agent(agent_id)
            tracked = TrackedInstance("" if host is None else host.name, agent_id=agent_id)
            self._instances.add(instance_id, tracked)
            if host is not None:
                host.add_task(instance_id, Resources())
            self._queries.learn_tasks_soon()
        tracked.agent_id = agent_id or tracked.agent_id
        tracked.is_started = tracked.is_started or update.state is TaskState.RUNNING
        if status.executor_id is not None:
            tracked.executor_id = status.executor_id.value
            if update.state is TaskState.RUNNING and tracked.host:
                self._watch.note_started(tracked.host, tracked.executor_id)
        self._partitions.remove(instance_id)
        self._reporter.put(update, status)
        if tracked.is_killed or tracked.is_stopped:
            self._send_kill(instance_id, tracked)

    def _on_end(
        self,
        instance_id: InstanceId,
        tracked: TrackedInstance | None,
        status: TaskStatus,
        update: StatusUpdate,
        end: Frame | None,
    ) -> None:
        if tracked is not None:
            self._forget(instance_id, tracked)
        is_by_mesos = end is None and update.state is not TaskState.FINISHED and bool(status.message)
        if is_by_mesos and tracked is not None and not (tracked.is_killed or tracked.is_stopped):
            self._watch.on_end_by_mesos(tracked.host, status)
        result_file = None if end is None else end.header.get("result_file")
        if result_file is None or end is None:
            self._reporter.put(update, status)
            return
        host = tracked.host if tracked is not None else self._host_of(status)
        self._results.fetch(host, end.header, update, lambda whole: self._reporter.put(whole, status))

    def _forget(self, instance_id: InstanceId, tracked: TrackedInstance) -> None:
        """Stop tracking an instance that has ended; its resources are offered again in a moment."""
        self._instances.remove(instance_id)
        self._partitions.remove(instance_id)
        self._reconciliation.answered(instance_id)
        host = self._hosts.get(tracked.host)
        if host is None:
            return
        if tracked.executor_id is not None:
            self._executors.task_ended(host.name, tracked.executor_id)
        self._dispatcher.withdraw(host, instance_id)
        resources = host.remove_task(instance_id)
        if resources is not None and host.is_connected and self._is_subscribed and self._holding.is_alone:
            host.expect_return(resources)

    def _end(self, instance_id: InstanceId, update: StatusUpdate) -> None:
        """Stop tracking an instance, and report an end that no status tells."""
        tracked = self._instances.get(instance_id)
        if tracked is not None:
            self._forget(instance_id, tracked)
        self._report(update)

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

    def _on_missing(self, instance_id: InstanceId) -> None:
        """End an instance that its executor does not know any more."""
        self._end(instance_id, translation.lost(instance_id, now_ms()))

    def _agent_url(self, host: str) -> str | None:
        """Return the address of a host's agent; None if it is unknown."""
        known = self._hosts.get(host)
        return None if known is None else known.url or None

    # --- what no event triggers ---------------------------------------------------------------------------

    async def _run_timer(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            now_s = time.monotonic()
            for instance_id in self._partitions.pop_expired(now_s, len(self._hosts)):
                log.warning(
                    "the cluster %r gives up the instance %s, as its agent cannot be reached;"
                    " its job runs again",
                    self.name,
                    instance_id,
                )
                self._end(instance_id, _unreachable(instance_id))
            if self._is_subscribed:
                self._dispatcher.end_late()
                for status in self._provisional.pop_believed(now_s):
                    self._apply(status)
                self._stop_before_maintenance()
                self._send_due(now_s)
                if now_s >= self._next_agents_s:
                    await self._refresh_agents()

    async def _refresh_agents(self) -> None:
        """Ask the master about its agents, and find those of instances that an earlier scheduler launched."""
        self._next_agents_s = time.monotonic() + _AGENTS_S
        await self._queries.refresh(self._framework.framework_id)
        await self._framework.save_agents(self._hosts.agent_ids())
        for instance_id, tracked in self._instances:
            host = self._hosts.get(tracked.host)
            if tracked.agent_id is None and host is not None and instance_id not in host.waiting:
                tracked.agent_id = host.agent_id
                if tracked.spec is not None:
                    host.add_task(instance_id, tracked.spec.resources)
        self._notify_offers_changed()

    def _send_due(self, now_s: float) -> None:
        """Send the calls that are due."""
        for call in self._reconciliation.calls(self._sent_instances(), now_s):
            self._calls.put(call)
        for instance_id, tracked in self._instances.due_kills():
            self._send_kill(instance_id, tracked)
        connected = [host for host in self._hosts if host.is_connected]
        declined = self._holding.choose_declined(connected, now_s)
        if declined:
            self._calls.put(messages.decline(declined, refuse_s=self._options.decline_s))
        self._watch.ping_due()
        self._watch.log_returned_agents()

    def _send_kill(self, instance_id: InstanceId, tracked: TrackedInstance) -> None:
        """Send KILL, which is repeated later: Mesos does not remember one for an unreachable agent."""
        tracked.note_kill(time.monotonic())
        if self._is_subscribed:
            self._calls.put(messages.kill(instance_id, tracked.agent_id, grace_s=self._options.kill_grace_s))

    def _track_open(self, launch: Launch) -> None:
        """Track an instance that is open in the store; the master is asked about it."""
        instance = launch.instance
        tracked = TrackedInstance(
            instance.host, spec=launch.spec, agent_id=self._framework.agents.get(instance.host)
        )
        tracked.is_started = instance.status is InstanceStatus.RUNNING
        if instance.status is InstanceStatus.UNKNOWN:
            self._unsent[instance.instance_id] = launch
        self._instances.add(instance.instance_id, tracked)
        if tracked.agent_id is not None:
            host = self._hosts.see(instance.host, tracked.agent_id)
            host.add_task(instance.instance_id, launch.spec.resources)

    def _sent_instances(self) -> dict[InstanceId, AgentId | None]:
        """Return the instances that the master should know, with their agents."""
        waiting = {instance_id for host in self._hosts for instance_id in host.waiting}
        return {i: tracked.agent_id for i, tracked in self._instances if i not in waiting}

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
                log.exception("a background task of the cluster %r failed and starts again", self.name)
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


def _unreachable(instance_id: InstanceId) -> StatusUpdate:
    return StatusUpdate(instance_id=instance_id, state=TaskState.LOST, at_ms=now_ms(), reason=HEARTBEAT_LOST)
