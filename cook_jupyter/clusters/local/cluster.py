"""`LocalCluster`: this machine as one host, whose node agent outlives the scheduler.

Lives here: the open instances as the scheduler knows them; reconciliation with the agent after each
connection; the acknowledgement of ends after their commit.
Not here: the connection (`clusters.local.connection`), translations (`clusters.translation`), amounts
(`clusters.room`, `clusters.local.capacity`), reporting (`clusters.reporting`), running instances (`worker`).

The agent may die at any moment, even before it has received a launch. Each launch that the agent has not
confirmed is kept, and sent to the next agent if its journal does not contain it; an agent ignores a launch
that it already has. So no instance is started twice, and none is forgotten.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import AlwaysUsable, ClusterListener, FixedSize, Launch
from cook_jupyter.clusters.local.agent_command import agent_options
from cook_jupyter.clusters.local.capacity import PortAllocator, usable_cpus, usable_mem_mb
from cook_jupyter.clusters.local.connection import (
    HOW_TO_END_AGENT,
    PATIENCE_S,
    AgentConnection,
    connect_to_agent,
    greeting,
)
from cook_jupyter.clusters.local.launch_ahead import LOOK_S, LaunchAheadQueue
from cook_jupyter.clusters.local.sandboxes import LocalSandboxes
from cook_jupyter.clusters.reporting import Report, UpdateReporter
from cook_jupyter.clusters.room import sum_resources
from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.clusters.translation import resources_of
from cook_jupyter.errors import CookError, SchedulerError
from cook_jupyter.model.instance import (
    InstanceId,
    InstanceStatus,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.reason import SCHEDULING_FAILED_ON_HOST
from cook_jupyter.model.resources import Resources
from cook_jupyter.worker.address import VERSION
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import Frame, Header, pack
from cook_jupyter.worker.task import Cause

log = logging.getLogger(__name__)

_BRIEF_S = 0.02  # the start of a task that ends within that time is reported together with the end
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_REFUSED_PAUSE_S = 0.2
_STOP_PATIENCE_S = 10.0  # beyond the grace period


class _TrackedInstance:
    """An open instance."""

    __slots__ = ("held", "kill", "launch")

    def __init__(self, held: Resources, *, launch: bytes | None = None) -> None:
        self.held = held
        self.launch = launch  # to send, or to send again; None once the agent has confirmed it
        self.kill = False  # whether it is to be killed


class LocalCluster(FixedSize, AlwaysUsable):
    """This machine as a cluster of one host.

    Args:
        home: directory of the node agent, with the sandboxes.
        name: name of the cluster in instances.
        cpus: cpus to offer; None for all that this process may use.
        mem_mb: memory to offer; None for that of the machine without a reserve.
        gpus: gpus to offer.
        pools: pools of this machine. All its room is offered to each of them, and a launch for one reduces it
            for all: get the offers again after matching a pool.
        host: name of the host; None for that of the system.
        kill_grace_s: time between TERM and KILL.
        idle_exit_s: time after which an agent without a scheduler and without instances exits.
        log_file: log file of the agent; None for `log/agent.log` beside `home`.
        housekeeping_s: interval of the agent's search for removed files of its home; None for the default.
    """

    def __init__(  # noqa: PLR0913 - settings of one thing, each by its name
        self,
        *,
        home: Path,
        name: str = "local",
        cpus: float | None = None,
        mem_mb: float | None = None,
        gpus: float = 0.0,
        pools: Sequence[PoolName] = (DEFAULT_POOL,),
        host: str | None = None,
        kill_grace_s: float = 5.0,
        idle_exit_s: float = 3600.0,
        log_file: Path | None = None,
        housekeeping_s: float | None = None,
    ) -> None:
        self._home = home.absolute()
        self._name = name
        self._sandboxes = LocalSandboxes()
        self._whole = Resources(
            cpus=usable_cpus() if cpus is None else cpus,
            mem_mb=usable_mem_mb() if mem_mb is None else mem_mb,
            gpus=gpus,
        )
        self._pools = tuple(pools)
        self._host = host or socket.gethostname()
        self._grace_s = kill_grace_s
        self._options = agent_options(
            kill_grace_s=kill_grace_s, idle_exit_s=idle_exit_s, housekeeping_s=housekeeping_s
        )
        self._log_file = log_file or self._home.parent / "log" / "agent.log"
        self._ports = PortAllocator()
        self._ahead = LaunchAheadQueue()
        self._tracked: dict[InstanceId, _TrackedInstance] = {}
        self._connection: AgentConnection | None = None  # set after reconciliation
        self._handshake_done: asyncio.Future[None] | None = None
        self._listener: ClusterListener | None = None
        self._started: dict[InstanceId, StatusUpdate] = {}  # starts that are not reported yet; see _BRIEF_S
        self._reporter = UpdateReporter[None](
            name, on_committed=self._on_committed, gathers=lambda: self._ahead.has_waiting
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False  # no more launches are accepted
        self._replaced = False
        self._launch_problem: str | None = None  # reason for which the agent can launch nothing
        self._empty = [
            self._offer(pool, self._whole, Resources(), PortAllocator().free(), 0) for pool in self._pools
        ]  # one object: comparing it with an earlier result is fast

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._name

    @property
    def agent_log(self) -> Path:
        """The log file of the node agent."""
        return self._log_file

    @property
    def sandboxes(self) -> Sandboxes:
        """The directories in which instances run."""
        return self._sandboxes

    # --- the protocol ------------------------------------------------------------------------------------

    @property
    def has_fixed_capacity(self) -> bool:
        """Return True: it is one machine."""
        return True

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Find or start the agent, and reconcile the open instances with it.

        Raises:
            SchedulerError: the agent cannot be started; the message contains the end of its log.
        """
        self._listener = listener
        for launch in open_launches:
            instance = launch.instance
            self._ports.restore(instance.instance_id, instance.ports)
            # An instance of status UNKNOWN may never have been sent; if it was, the agent reports it.
            unheard = instance.status is InstanceStatus.UNKNOWN
            frame = translation.task_of(launch, instance.ports).packed() if unheard else None
            self._tracked[instance.instance_id] = _TrackedInstance(launch.spec.resources, launch=frame)
        await self._handshake()
        self._tasks = [
            asyncio.create_task(self._supervise(name, work), name=f"{self._name}: {name}")
            for name, work in (
                ("connection", self._keep_connected),
                ("reports", self._report),
                ("launches ahead", self._withdraw_stuck),
            )
        ]

    async def close(self) -> None:
        """Disconnect from the agent; it and its instances go on."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def stop_agent(self) -> None:
        """Stop all instances and the agent; the ends are reported as the system's fault."""
        self._ending = True
        connection = self._connection
        if connection is None:
            return
        connection.send(pack({"t": "stop"}))
        try:
            async with asyncio.timeout(self._grace_s + _STOP_PATIENCE_S):
                await connection.lost.wait()
                await self._reporter.wait_all_reported()
        except TimeoutError:
            log.warning("the node agent in %s did not stop in time; it goes on", self._home)

    def offers(self) -> Sequence[Offer]:
        """Return the current room; no offers while the agent is away."""
        if self._connection is None or self._ending or self._replaced or self._launch_problem is not None:
            return []
        held = sum_resources(tracked.held for tracked in self._tracked.values())
        room = self._ahead.offerable(self._whole, held)
        ports = self._ports.free()
        return [self._offer(pool, room, held, ports) for pool in self._pools]

    def capacity(self) -> Sequence[Offer]:
        """Return this machine as if it were empty."""
        return self._empty

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start instances now, or when an agent is connected."""
        for launch in launches:
            instance_id = launch.instance.instance_id
            if instance_id in self._tracked:
                continue
            ports = self._ports_for(launch)
            if ports is None or self._ending:
                self._enqueue(_unlaunched(instance_id))
                continue
            frame = translation.task_of(launch, ports).packed()
            self._tracked[instance_id] = _TrackedInstance(launch.spec.resources, launch=frame)
            self._ahead.put(instance_id)
        self._send_next()

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill instances; while the agent is away, they are killed when it is back."""
        for instance_id in instance_ids:
            tracked = self._tracked.get(instance_id)
            if tracked is None:
                continue
            tracked.kill = True
            if self._ahead.withdraw(instance_id):
                self._drop(instance_id, translation.never_started(instance_id, now_ms(), Cause.KILLED))
        if self._connection is not None:
            self._connection.send(*(pack({"t": "kill", "id": instance_id}) for instance_id in instance_ids))

    # --- the agent ---------------------------------------------------------------------------------------

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a background task; log its failures and start it again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await work()
            except Exception:
                log.exception("%s of %s failed and start again in %.2g s", name, self._name, pause_s)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _keep_connected(self) -> None:
        """Keep an agent running and connected; a new one recovers the instances of the last."""
        pause_s = _FIRST_PAUSE_S
        while True:
            if self._connection is not None:
                await self._connection.lost.wait()
                self._connection = None
                self._launch_problem = None
                if self._ending or self._replaced:
                    return
                log.warning("the node agent in %s is gone; another one is started", self._home)
            try:
                await self._handshake()
            except (CookError, OSError) as error:
                log.error("%s; the next try is in %.2g s", error, pause_s)  # noqa: TRY400 - the message is enough
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S
                self._notify_offers_changed()

    async def _handshake(self) -> AgentConnection:
        """Connect to the agent and wait for the reconciliation.

        Raises:
            SchedulerError: no agent can be started, or it does not answer, or it refuses the secret.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while True:
            self._handshake_done = loop.create_future()
            connection = await connect_to_agent(self._home, self._log_file, self._options, self._on_frames)
            connection.send(greeting(self._home))
            gone = asyncio.create_task(connection.lost.wait())
            try:
                await asyncio.wait(
                    (gone, self._handshake_done), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not gone.done() and not self._handshake_done.done():
                    raise SchedulerError(
                        f"the node agent in {self._home} does not answer; {HOW_TO_END_AGENT}"
                    )
            except BaseException:
                connection.close()
                raise
            finally:
                gone.cancel()
            if self._connection is connection:
                return connection
            connection.close()  # it died during the handshake, or exited because it has another version
            if connection.refusal is not None:
                if loop.time() > deadline:
                    raise SchedulerError(
                        f"the node agent in {self._home} refuses this scheduler: {connection.refusal}; "
                        f"{HOW_TO_END_AGENT}"
                    )
                await asyncio.sleep(
                    _REFUSED_PAUSE_S
                )  # an agent whose secret file was removed writes it again

    def _on_frames(self, connection: AgentConnection, frames: Sequence[Frame]) -> None:
        for frame in frames:
            kind = frame.header["t"]
            if kind == "end":
                self._on_end(frame)
            elif kind == "running":
                self._on_running(frame.header)
            elif kind == "progress":
                self._reporter.put_progress(translation.update_of_progress(frame.header))
            elif kind == "known":
                self._reconcile(connection, frame.header)
            elif kind == "refused":
                connection.refusal = frame.header["why"]
                connection.close()
            elif kind == "trouble":
                self._on_launch_problem(frame.header["text"])
            elif kind == "replaced":
                log.error("another scheduler has taken the node agent in %s over", self._home)
                self._replaced = True
        self._send_next()

    def _on_launch_problem(self, text: str | None) -> None:
        """Make no offers while the agent cannot launch instances."""
        self._launch_problem = text
        if text is not None:
            log.error("the node agent reports: %s", text)
        else:
            log.warning("the node agent in %s can launch again", self._home)
            self._notify_offers_changed()

    def _on_end(self, frame: Frame) -> None:
        instance_id = frame.header["instance_id"]
        self._tracked.pop(instance_id, None)
        self._ahead.ended(instance_id)
        self._ports.release(instance_id)
        start = self._started.pop(instance_id, None)
        self._enqueue(translation.update_of_end(frame, began_ms=None if start is None else start.at_ms))

    def _on_running(self, header: Header) -> None:
        tracked = self._tracked.get(header["id"])
        if tracked is not None:
            tracked.launch = None
            if not self._started:
                asyncio.get_running_loop().call_later(_BRIEF_S, self._enqueue_starts)
            self._started[header["id"]] = translation.update_of_running(header)

    def _reconcile(self, connection: AgentConnection, known: Header) -> None:
        """Reconcile our open instances with those of the agent."""
        if known["version"] != VERSION:
            log.warning(
                "the node agent in %s is of another version; it is replaced, its work goes on", self._home
            )
            connection.send(pack({"t": "leave"}))
            return
        running = {task["id"]: task for task in known["running"]}
        self._ahead.forget_sent()
        for instance_id, task in running.items():
            self._ahead.withdraw(instance_id)
            tracked = self._tracked.setdefault(instance_id, _TrackedInstance(resources_of(task)))
            tracked.launch = None
            self._ahead.adopt(instance_id, tracked.held)
            self._ports.restore(instance_id, task["ports"])
            # Also for an instance that the store does not have open: the service kills it then.
            self._enqueue(StatusUpdate(instance_id=instance_id, state=TaskState.RUNNING, at_ms=now_ms()))
            if tracked.kill:
                connection.send(pack({"t": "kill", "id": instance_id}))
        for instance_id in self._tracked.keys() - running.keys() - set(known["ended"]):
            self._settle(instance_id)
        self._connection = connection
        if self._handshake_done is not None and not self._handshake_done.done():
            self._handshake_done.set_result(None)

    def _settle(self, instance_id: InstanceId) -> None:
        """Handle an open instance that the agent does not know: it was not sent, or it is lost."""
        tracked = self._tracked[instance_id]
        if tracked.launch is None:
            self._drop(instance_id, translation.lost(instance_id, now_ms()))
        elif tracked.kill:
            self._ahead.withdraw(instance_id)
            self._drop(instance_id, translation.never_started(instance_id, now_ms(), Cause.KILLED))
        else:
            self._ahead.put(instance_id)

    def _drop(self, instance_id: InstanceId, end: StatusUpdate) -> None:
        """Forget an instance that does not run, and report its end."""
        del self._tracked[instance_id]
        self._ports.release(instance_id)
        self._enqueue(end)

    def _send_next(self) -> None:
        """Send the launches that fit on the host now, in order."""
        if self._connection is None:
            return
        due = self._ahead.pop_ready(self._whole, self._held_by)
        self._connection.send(*(frame for i in due if (frame := self._tracked[i].launch) is not None))

    def _held_by(self, instance_id: InstanceId) -> Resources:
        return self._tracked[instance_id].held

    async def _withdraw_stuck(self) -> None:
        """Report instances as failed that were launched ahead and wait too long; runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._connection is not None:
                for instance_id in self._ahead.pop_stuck():
                    self._drop(instance_id, _unlaunched(instance_id))

    # --- reports -----------------------------------------------------------------------------------------

    def _enqueue_starts(self) -> None:
        starts, self._started = self._started, {}
        for start in starts.values():
            self._enqueue(start)

    def _enqueue(self, update: StatusUpdate) -> None:
        self._reporter.put(update, None)

    async def _report(self) -> None:
        assert self._listener is not None  # noqa: S101 - set by start
        await self._reporter.run(self._listener)

    def _on_committed(self, reports: Sequence[Report[None]]) -> None:
        """Acknowledge committed ends to the agent."""
        ended = [report.update.instance_id for report in reports if report.update.state.is_final]
        if ended:
            if self._connection is not None:
                self._connection.send(pack({"t": "ack", "ids": ended}))
            self._notify_offers_changed()

    def _notify_offers_changed(self) -> None:
        if self._listener is not None:
            self._listener.offers_changed()

    # --- amounts -----------------------------------------------------------------------------------------

    def _offer(
        self,
        pool: PoolName,
        room: Resources,
        held: Resources,
        ports: tuple[tuple[int, int], ...],
        task_count: int | None = None,
    ) -> Offer:
        return Offer(
            host=self._host,
            cluster=self._name,
            pool=pool,
            room=room,
            running=held,
            attributes={"HOSTNAME": self._host},
            ports=ports,
            task_count=len(self._tracked) if task_count is None else task_count,
        )

    def _ports_for(self, launch: Launch) -> tuple[int, ...] | None:
        """Assign the ports of an instance and return them; None if they are not available."""
        instance = launch.instance
        if instance.ports:
            return instance.ports if self._ports.acquire(instance.instance_id, instance.ports) else None
        if launch.spec.ports:
            return self._ports.choose(instance.instance_id, launch.spec.ports)
        return ()


def _unlaunched(instance_id: InstanceId) -> StatusUpdate:
    return StatusUpdate(
        instance_id=instance_id, state=TaskState.LOST, at_ms=now_ms(), reason=SCHEDULING_FAILED_ON_HOST
    )
