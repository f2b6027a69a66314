"""Simulated hosts, and the connection of a scheduler to a cluster of them.

Lives here: `SimulatedHost`, which runs tasks and keeps each end until it is acknowledged; `HostCluster`,
what outlives a scheduler; `ClusterConnection`, the `ComputeCluster` of one scheduler's life, with messages
that are late, lost, sent twice or out of order.
Not here: when a host is lost or cut off (`simulation`), probabilities (`faults`).

The connection keeps the promises of `clusters.base`: launches and kills to one host stay in order, the end of
every launch is reported until the report returns, what nobody reported is found by reconciliation.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field

from cook_jupyter.clusters.base import AlwaysUsable, ClusterListener, FixedSize, Launch
from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.clusters.sandboxes import MemorySandboxes, Sandboxes
from cook_jupyter.errors import CookError, SchedulerError
from cook_jupyter.model.instance import (
    InstanceId,
    InstanceStatus,
    ProgressUpdate,
    ResultPayload,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import (
    AGENT_REMOVED,
    AGENT_RESTARTED,
    HEARTBEAT_LOST,
    KILLED_BY_USER,
    MAX_RUNTIME_EXCEEDED,
    NON_ZERO_EXIT,
    SCHEDULING_FAILED_ON_HOST,
    ReasonName,
)
from cook_jupyter.model.resources import Resources
from tests.service.simulated.event_loop import Process, ProcessDied
from tests.service.simulated.faults import Faults
from tests.service.simulated.invariants import Invariants
from tests.service.simulated.scenario import HostPlan
from tests.service.simulated.trace import Trace

RESEND_S = 5.0  # until an end that nobody acknowledged is sent again
RECONCILE_S = 6.0
LOST_AFTER_S = 8.0  # a host that cannot be reached for so long counts as lost
GRACE_S = 3.0  # longest time that a task takes to end when it is killed
RETRY_REPORT_S = 0.5
FOREVER_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWorld:
    """What hosts and connections share.

    Attributes:
        faults: what goes wrong.
        invariants: what must hold.
        trace: where events are noted.
        repeats_reports: whether reconciliation tells of all tasks, as Mesos does, or only what is news.
        context: context of the world, in which hosts act whoever has called them.
        now_ms: wall clock of the hosts.
    """

    faults: Faults
    invariants: Invariants
    trace: Trace
    repeats_reports: bool
    context: Context
    now_ms: Callable[[], int]


@dataclass(slots=True)
class _Task:
    """A task that runs on a host."""

    launch: Launch
    began_ms: int
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    is_killed: bool = False


class SimulatedHost:
    """One host: runs tasks, and keeps their ends until they are acknowledged.

    Attributes:
        plan: what the host has.
        is_up: whether it runs at all; a host that is lost forgets everything.
        is_reachable: whether messages reach it and leave it.
        unreachable_since_s: when it was cut off.
        tasks: what runs there now.
        ended: ends that no scheduler has acknowledged.
        known: instances it has been given since it started.
        boots: number of times that it was lost and started again.
    """

    def __init__(self, plan: HostPlan, cluster: "HostCluster", world: HostWorld) -> None:
        self.plan = plan
        self._cluster = cluster
        self._world = world
        self.is_up = True
        self.is_reachable = True
        self.unreachable_since_s = 0.0
        self.tasks: dict[InstanceId, _Task] = {}
        self.ended: dict[InstanceId, StatusUpdate] = {}
        self.known: set[InstanceId] = set()
        self.boots = 0

    @property
    def is_connected(self) -> bool:
        """Whether the host runs and can be reached."""
        return self.is_up and self.is_reachable

    def lose(self) -> None:
        """Lose the host with all that it runs and knows."""
        self.is_up = False
        self.boots += 1
        for instance_id in list(self.tasks):
            self._remove(instance_id)
        self.ended.clear()
        self.known.clear()

    # --- messages from a scheduler

    def take_launch(self, launch: Launch) -> None:
        """Start a task, unless it was given before."""
        instance_id = launch.instance.instance_id
        if not self.is_connected or instance_id in self.known:
            return
        self.known.add(instance_id)
        task = self.tasks[instance_id] = _Task(launch, self._world.now_ms())
        self._world.trace.note("task started", self.plan.name, instance_id)
        running = [each.launch for each in self.tasks.values()]
        self._world.invariants.task_started(self.plan.name, launch, running)
        self._send(StatusUpdate(instance_id=instance_id, state=TaskState.RUNNING, at_ms=task.began_ms))
        env = launch.spec.env
        exits = env["exits"].split(",")
        exit_code = int(exits[min(launch.attempt, len(exits) - 1)])
        run_s = float(env["run_s"])
        self._later(task, run_s, self._end, instance_id, exit_code)
        if env["limited"] == "host" and launch.spec.max_runtime_ms < UNLIMITED_RUNTIME_MS:
            self._later(task, launch.spec.max_runtime_ms / 1000, self._overrun, instance_id)
        for percent in (30, 60):
            if run_s < FOREVER_S:
                self._later(task, run_s * percent / 100, self._progress, instance_id, percent)

    def take_kill(self, instance_id: InstanceId) -> None:
        """End a task after the grace that it takes."""
        task = self.tasks.get(instance_id)
        if self.is_connected and task is not None and not task.is_killed:
            task.is_killed = True
            grace_s = self._world.faults.rng("usual").choice([0.0, 0.2, GRACE_S])
            self._later(task, grace_s, self._stop, instance_id, TaskState.KILLED, KILLED_BY_USER)

    def take_acknowledgement(self, instance_id: InstanceId) -> None:
        """Forget an end that is committed."""
        if self.is_connected:
            self.ended.pop(instance_id, None)

    # --- tasks

    def _later(self, task: _Task, delay_s: float, act: Callable[..., None], *args: object) -> None:
        loop = asyncio.get_running_loop()
        task.timers.append(loop.call_later(delay_s, act, *args, context=self._world.context))

    def _remove(self, instance_id: InstanceId) -> _Task:
        task = self.tasks.pop(instance_id)
        for timer in task.timers:
            timer.cancel()
        self._world.invariants.task_ended(task.launch)
        return task

    def _end(self, instance_id: InstanceId, exit_code: int) -> None:
        if exit_code:
            self._stop(instance_id, TaskState.FAILED, NON_ZERO_EXIT, exit_code)
        else:
            self._stop(instance_id, TaskState.FINISHED, None, 0)

    def _overrun(self, instance_id: InstanceId) -> None:
        self._stop(instance_id, TaskState.FAILED, MAX_RUNTIME_EXCEEDED)

    def _stop(
        self,
        instance_id: InstanceId,
        state: TaskState,
        reason: ReasonName | None,
        exit_code: int | None = None,
    ) -> None:
        task = self._remove(instance_id)
        self._world.trace.note("task ended", self.plan.name, instance_id, state.value, reason)
        self.ended[instance_id] = StatusUpdate(
            instance_id=instance_id,
            state=state,
            at_ms=self._world.now_ms(),
            began_ms=task.began_ms,
            reason=reason,
            exit_code=exit_code,
            result=ResultPayload(inline=instance_id.encode(), size=len(instance_id))
            if exit_code == 0
            else None,
        )
        self._send_end(instance_id)

    def _send_end(self, instance_id: InstanceId) -> None:
        update = self.ended.get(instance_id)
        if update is not None:
            self._send(update)
            loop = asyncio.get_running_loop()
            loop.call_later(RESEND_S, self._send_end, instance_id, context=self._world.context)

    def _progress(self, instance_id: InstanceId, percent: int) -> None:
        connection = self._cluster.connection
        if self.is_connected and connection is not None:
            connection.take_progress(
                ProgressUpdate(instance_id=instance_id, sequence=percent, percent=percent)
            )

    def _send(self, update: StatusUpdate) -> None:
        """Send an update to the scheduler that is connected when it arrives."""
        faults = self._world.faults
        if faults.happens("update_lost"):
            return
        for _ in range(2 if faults.happens("duplicate") else 1):
            asyncio.get_running_loop().call_later(
                faults.delay_s(), self._arrive, update, self.boots, context=self._world.context
            )

    def _arrive(self, update: StatusUpdate, boots: int) -> None:
        """Deliver an update, unless the host was lost since it was sent: its connection died with it."""
        connection = self._cluster.connection
        if self.is_connected and self.boots == boots and connection is not None:
            connection.take_update(self, update)


class HostCluster:
    """A cluster's hosts, whichever scheduler is connected.

    Attributes:
        name: name of the cluster.
        hosts: its hosts by name.
        connection: the connection of the scheduler that was started last, once it has connected.
        last_connection: the last one that there was: messages of earlier ones are dropped for good.
    """

    def __init__(self, name: str, plans: Sequence[HostPlan], world: HostWorld) -> None:
        self.name = name
        self.hosts = {plan.name: SimulatedHost(plan, self, world) for plan in plans}
        self.connection: ClusterConnection | None = None
        self.last_connection: ClusterConnection | None = None

    def cut_off(self, host: SimulatedHost) -> None:
        """Let nothing through to a host or from it."""
        host.is_reachable = False
        host.unreachable_since_s = asyncio.get_running_loop().time()
        if self.connection is not None:
            self.connection.disconnected(host)

    def lose(self, host: SimulatedHost) -> None:
        """Lose a host, and all messages that are on their way to it or from it."""
        host.lose()
        if self.last_connection is not None:
            self.last_connection.drop_messages(host)
        if self.connection is not None:
            self.connection.disconnected(host)

    def reconnect(self, host: SimulatedHost) -> None:
        """Let a host run again, or be reached again."""
        host.is_up = host.is_reachable = True
        if self.connection is not None:
            self.connection.reconcile_soon()


@dataclass(slots=True)
class _Live:
    """An instance that has not ended, as far as a connection knows."""

    launch: Launch
    is_confirmed: bool  # whether its host has spoken of it
    is_killed: bool = False


class ClusterConnection(FixedSize, AlwaysUsable):
    """A cluster as one scheduler sees it (`clusters.base.ComputeCluster`)."""

    def __init__(
        self, cluster: HostCluster, process: Process, pools: Sequence[PoolName], world: HostWorld
    ) -> None:
        self._cluster = cluster
        self._process = process
        self._pools = tuple(pools)
        self._world = world
        self._faults = world.faults
        self._listener: ClusterListener | None = None
        self._live: dict[InstanceId, _Live] = {}
        self._connected: set[str] = set()  # hosts whose tasks we know
        self._messages: dict[str, list[tuple[Callable[[Launch | InstanceId], None], Launch | InstanceId]]] = {
            name: [] for name in cluster.hosts
        }
        self._updates: list[StatusUpdate] = []
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._capacity: tuple[frozenset[str], Sequence[Offer]] = (frozenset(), ())

    @property
    def has_fixed_capacity(self) -> bool:
        """Never: hosts come and go."""
        return False

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._cluster.name

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of the instances: there are none."""
        return MemorySandboxes()

    @property
    def unreported(self) -> int:
        """Number of updates that are not committed yet."""
        return len(self._updates)

    # --- the protocol

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Connect, and reconcile."""
        await asyncio.sleep(self._faults.delay_s())
        if self._faults.happens("start_refused"):
            raise SchedulerError(f"the simulated cluster {self.name} cannot be reached")
        self._listener = listener
        self._cluster.connection = self._cluster.last_connection = self
        for launch in open_launches:
            is_confirmed = launch.instance.status is not InstanceStatus.UNKNOWN
            self._live[launch.instance.instance_id] = _Live(launch, is_confirmed)
        self._reconcile()
        self._tasks = [
            asyncio.create_task(self._report_for_ever()),
            asyncio.create_task(self._reconcile_for_ever()),
        ]
        listener.offers_changed()

    async def close(self) -> None:
        """Let go; tasks stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._cluster.connection is self:
            self._cluster.connection = None

    def offers(self) -> Sequence[Offer]:
        """Return the room there is now, on hosts whose tasks are known."""
        offers = []
        for host in self._cluster.hosts.values():
            name = host.plan.name
            if name in self._connected:
                held = [
                    live.launch.spec.resources
                    for live in self._live.values()
                    if live.launch.instance.host == name
                ]
                taken = sum_resources(held)
                room = remaining(host.plan.whole, taken)
                offers += [self._offer(host, pool, room, taken, len(held)) for pool in self._pools]
        return offers

    def capacity(self) -> Sequence[Offer]:
        """Return each host that runs as if it were empty; the same value while they are the same."""
        names = frozenset(name for name, host in self._cluster.hosts.items() if host.is_up)
        if names != self._capacity[0]:
            hosts = [host for host in self._cluster.hosts.values() if host.is_up]
            offers = [
                self._offer(host, pool, host.plan.whole, Resources(), 0)
                for host in hosts
                for pool in self._pools
            ]
            self._capacity = (names, offers)
        return self._capacity[1]

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start committed instances."""
        self._require_alive()
        sent = []
        for launch in launches:
            self._world.invariants.launched(launch)
            instance_id, name = launch.instance.instance_id, launch.instance.host
            if instance_id in self._live:
                continue
            if name not in self._connected or self._faults.happens("launch_refused"):
                self._tell(instance_id, TaskState.LOST, SCHEDULING_FAILED_ON_HOST)
                continue
            self._live[instance_id] = _Live(launch, is_confirmed=False)  # it holds its room at once
            sent.append(launch)
        for launch in sent:
            await self._pause()
            self._send(launch.instance.host, self._cluster.hosts[launch.instance.host].take_launch, launch)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Stop instances; unknown ones are ignored."""
        self._require_alive()
        await self._pause()
        for instance_id in instance_ids:
            live = self._live.get(instance_id)
            if live is None:
                continue
            live.is_killed = True
            name = live.launch.instance.host
            self._world.trace.note("kill", instance_id, name)
            if not self._faults.happens("kill_lost"):
                self._send(name, self._cluster.hosts[name].take_kill, instance_id)

    # --- messages to hosts

    def _send(self, name: str, take: Callable[..., None], message: Launch | InstanceId) -> None:
        """Send a message to a host: it arrives behind all that were sent there before."""
        self._messages[name].append((take, message))
        asyncio.get_running_loop().call_later(
            self._faults.delay_s(), self._arrive, name, context=self._world.context
        )

    def _arrive(self, name: str) -> None:
        """Hand the host its oldest message; nothing where another scheduler has connected meanwhile."""
        messages = self._messages[name]
        if messages and self._cluster.last_connection in (self, None):
            take, message = messages.pop(0)
            take(message)

    def drop_messages(self, host: SimulatedHost) -> None:
        """Forget what is on its way to a host that was lost."""
        self._messages[host.plan.name].clear()

    # --- messages from hosts

    def take_update(self, host: SimulatedHost, update: StatusUpdate) -> None:
        """Take what a host says of one of its tasks."""
        instance_id = update.instance_id
        if update.state.is_final:
            self._live.pop(instance_id, None)
        elif instance_id in self._live:
            self._live[instance_id].is_confirmed = True
        elif instance_id in host.tasks:
            self._live[instance_id] = _Live(host.tasks[instance_id].launch, is_confirmed=True)
        self._report_soon(update)

    def take_progress(self, update: ProgressUpdate) -> None:
        """Pass progress on, in the scheduler's process."""
        listener = self._listener
        if listener is not None and self._process.is_alive:
            asyncio.get_running_loop().create_task(
                self._pass_progress(listener, update), context=self._process.context.copy()
            )

    async def _pass_progress(self, listener: ClusterListener, update: ProgressUpdate) -> None:
        try:
            await listener.progress(self.name, [update])
        except CookError:
            self._world.trace.note("progress dropped", update.instance_id)

    def disconnected(self, host: SimulatedHost) -> None:
        """Offer a host no more until its tasks are known again."""
        self._connected.discard(host.plan.name)

    def reconcile_soon(self) -> None:
        """Reconcile, in the scheduler's process."""
        if self._process.is_alive:
            asyncio.get_running_loop().call_soon(self._reconcile, context=self._process.context.copy())

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_S)
            self._reconcile()

    def _reconcile(self) -> None:
        """Compare what hosts run with what we know; each instance on either side is settled here."""
        before = len(self._connected)
        for host in self._cluster.hosts.values():
            if host.is_connected:
                self._reconcile_host(host)
        for instance_id, live in list(self._live.items()):
            host = self._cluster.hosts[live.launch.instance.host]
            if not host.is_up:
                self._drop(instance_id, AGENT_REMOVED)
            elif not host.is_reachable:
                since_s = asyncio.get_running_loop().time() - host.unreachable_since_s
                if since_s >= LOST_AFTER_S:
                    self._drop(instance_id, HEARTBEAT_LOST)
            elif instance_id not in host.tasks and not self._is_on_its_way(instance_id, host):
                self._settle_unknown(instance_id, live, host)
        if len(self._connected) > before and self._listener is not None:
            self._listener.offers_changed()

    def _reconcile_host(self, host: SimulatedHost) -> None:
        for instance_id, task in host.tasks.items():
            live = self._live.get(instance_id)
            if live is not None and live.is_confirmed and not self._world.repeats_reports:
                continue
            self._live[instance_id] = live or _Live(task.launch, is_confirmed=True)
            self._live[instance_id].is_confirmed = True
            self._report_soon(
                StatusUpdate(instance_id=instance_id, state=TaskState.RUNNING, at_ms=task.began_ms)
            )
        for instance_id, update in host.ended.items():
            self._live.pop(instance_id, None)
            self._report_soon(update)
        self._connected.add(host.plan.name)

    def _is_on_its_way(self, instance_id: InstanceId, host: SimulatedHost) -> bool:
        return any(
            isinstance(message, Launch) and message.instance.instance_id == instance_id
            for _, message in self._messages[host.plan.name]
        )

    def _settle_unknown(self, instance_id: InstanceId, live: _Live, host: SimulatedHost) -> None:
        """An instance that its host knows nothing of: it never got there, or it is lost."""
        if live.is_confirmed or instance_id in host.known:
            self._drop(instance_id, AGENT_RESTARTED)
        elif live.is_killed:
            del self._live[instance_id]
            self._tell(instance_id, TaskState.KILLED, KILLED_BY_USER)
        elif self._held_on(host.plan.name).fits_in(host.plan.whole):
            self._send(host.plan.name, host.take_launch, live.launch)
        else:  # its room went to another one before the last scheduler died
            self._drop(instance_id, SCHEDULING_FAILED_ON_HOST)

    def _held_on(self, name: str) -> Resources:
        return sum_resources(
            live.launch.spec.resources for live in self._live.values() if live.launch.instance.host == name
        )

    def _drop(self, instance_id: InstanceId, reason: ReasonName) -> None:
        live = self._live.pop(instance_id)
        messages = self._messages[live.launch.instance.host]
        messages[:] = [each for each in messages if each[1] not in (live.launch, instance_id)]
        self._tell(instance_id, TaskState.LOST, reason)

    # --- reports

    def _tell(self, instance_id: InstanceId, state: TaskState, reason: ReasonName) -> None:
        now_ms = self._world.now_ms()
        self._report_soon(StatusUpdate(instance_id=instance_id, state=state, at_ms=now_ms, reason=reason))

    def _report_soon(self, update: StatusUpdate) -> None:
        if self._process.is_alive:
            self._updates.append(update)
            self._news.set()

    async def _report_for_ever(self) -> None:
        """Report what arrives, and acknowledge ends that are committed."""
        assert self._listener is not None
        while True:
            await self._news.wait()
            self._news.clear()
            batch = tuple(self._updates)
            if not batch:
                continue
            self._world.trace.note("report", *((each.instance_id, each.state.value) for each in batch))
            try:
                await self._listener.report(self.name, batch)
            except CookError as error:
                self._world.trace.note("report refused", error)
                await asyncio.sleep(RETRY_REPORT_S)
                self._news.set()
                continue
            self._world.invariants.acknowledged(batch)
            del self._updates[: len(batch)]
            for update in batch:
                if update.state.is_final:
                    self._acknowledge(update.instance_id)
            self._listener.offers_changed()

    def _acknowledge(self, instance_id: InstanceId) -> None:
        for host in self._cluster.hosts.values():
            host.take_acknowledgement(instance_id)

    # --- amounts

    async def _pause(self) -> None:
        """Take some time, as a network does."""
        if self._faults.rng("usual").random() < 0.3:
            await asyncio.sleep(self._faults.rng("usual").uniform(0, 0.01))

    def _require_alive(self) -> None:
        if not self._process.is_alive:
            raise ProcessDied

    def _offer(
        self, host: SimulatedHost, pool: PoolName, room: Resources, held: Resources, tasks: int
    ) -> Offer:
        return Offer(
            host=host.plan.name,
            cluster=self.name,
            pool=pool,
            room=room,
            running=held,
            attributes={"HOSTNAME": host.plan.name, "zone": host.plan.zone},
            task_count=tasks,
        )
