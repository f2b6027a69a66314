"""`LocalCluster`: this machine as one host, whose node agent outlives the scheduler.

Lives here: what was launched and has not ended, as far as the scheduler's side knows; reconciling it with
what the agent knows whenever the two meet; reporting, and acknowledging what was committed.
Not here: the connection (`clusters.local.connection`), translations (`clusters.translation`), amounts
(`clusters.room`, `clusters.local.capacity`), and whatever runs (`worker`).

The agent may die at any moment and a launch may be on its way then. Each launch that the agent has not
spoken of is kept, and sent again to the next agent if that one's journal does not know it; the agent takes
a launch that it knows for what it is. So nothing is started twice and nothing is forgotten.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import ClusterListener, FixedSize, Launch
from cook_jupyter.clusters.local.agent_command import agent_options
from cook_jupyter.clusters.local.capacity import PortAllocator, usable_cpus, usable_mem_mb
from cook_jupyter.clusters.local.connection import (
    HOW_TO_END_AGENT,
    PATIENCE_S,
    AgentConnection,
    connect,
    greeting,
)
from cook_jupyter.clusters.local.launch_ahead import LOOK_S, LaunchAheadQueue
from cook_jupyter.clusters.local.sandboxes import LocalSandboxes
from cook_jupyter.clusters.room import sum_resources
from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.clusters.translation import resources_of
from cook_jupyter.errors import CookError, SchedulerError, SchedulerUnreachable
from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import (
    InstanceId,
    InstanceStatus,
    ProgressUpdate,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import SCHEDULING_FAILED_ON_HOST
from cook_jupyter.model.resources import Resources
from cook_jupyter.worker.address import VERSION
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import Frame, Header, pack
from cook_jupyter.worker.task import Cause

log = logging.getLogger(__name__)

_BRIEF_S = 0.02  # a task that ends within that is reported once, not twice
_GATHER_S = 0.003  # while tasks end one after the other, their ends are reported together
_TEMPORARY = (OSError, SchedulerError, SchedulerUnreachable)  # failures to report that pass by themselves
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_REFUSED_PAUSE_S = 0.2
_STOP_PATIENCE_S = 10.0  # beyond the grace period


class _TrackedInstance:
    """An instance that has not ended, as far as we know."""

    __slots__ = ("held", "kill", "launch")

    def __init__(self, held: Resources, *, launch: bytes | None = None) -> None:
        self.held = held
        self.launch = launch  # until the agent has spoken of it: to be sent, or sent again
        self.kill = False  # somebody asked for its end


class LocalCluster(FixedSize):
    """This machine.

    Args:
        home: the node agent's folder; its sandboxes are below.
        name: the name that instances carry.
        cpus: to offer; None for all that this process may use.
        mem_mb: to offer; None for all the machine has, less a reserve.
        gpus: to offer.
        pools: the pools that this machine serves. Each is offered all its free room; what one takes is gone
            for all, so whoever matches must ask for offers again after each pool.
        host: its name; None for what the system says.
        kill_grace_s: between TERM and KILL.
        idle_exit_s: an agent without a scheduler and without work leaves after that long.
        log_file: the agent's log; None for `log/agent.log` beside its folder.
        housekeeping_s: how often the agent looks for removed files of its folder; None for what is usual.
    """

    def __init__(  # noqa: PLR0913 - settings of one thing, each by its name
        self,
        *,
        home: Path,
        name: str = "local",
        cpus: float | None = None,
        mem_mb: float | None = None,
        gpus: float = 0.0,
        pools: Sequence[PoolName] = ("default",),
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
        self._live: dict[InstanceId, _TrackedInstance] = {}
        self._link: AgentConnection | None = (
            None  # only while the agent and we have told each other what we know
        )
        self._meeting: asyncio.Future[None] | None = None
        self._reporter: ClusterListener | None = None
        self._updates: list[StatusUpdate] = []
        self._progress: dict[InstanceId, ProgressUpdate] = {}
        self._started: dict[InstanceId, StatusUpdate] = {}  # starts too fresh to be told; see _BRIEF_S
        self._news = asyncio.Event()
        self._told = asyncio.Event()  # there is nothing left to report
        self._told.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False  # no more work is wanted
        self._replaced = False
        self._trouble: str | None = None  # why the agent can launch nothing
        self._empty = [
            self._offer(pool, self._whole, Resources(), PortAllocator().free(), 0) for pool in self._pools
        ]  # one value: who compares it with the last one need not look into it

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._name

    @property
    def agent_log(self) -> Path:
        """Where the node agent writes what goes wrong."""
        return self._log_file

    @property
    def sandboxes(self) -> Sandboxes:
        """The directories in which instances run."""
        return self._sandboxes

    # --- the protocol ------------------------------------------------------------------------------------

    @property
    def has_fixed_capacity(self) -> bool:
        """Always: it is one machine."""
        return True

    async def start(self, reporter: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Find or start the agent, and learn from it what became of `open_launches`.

        Raises:
            SchedulerError: the agent cannot be started; the message holds the end of its log.
        """
        self._reporter = reporter
        for launch in open_launches:
            instance = launch.instance
            self._ports.restore(instance.instance_id, instance.ports)
            # What nothing was heard of may never have been sent; should the agent know it, it says so.
            unheard = instance.status is InstanceStatus.UNKNOWN
            frame = translation.task_of(launch, instance.ports).packed() if unheard else None
            self._live[instance.instance_id] = _TrackedInstance(launch.spec.resources, launch=frame)
        await self._meet()
        self._tasks = [
            asyncio.create_task(self._supervise(name, work), name=f"{self._name}: {name}")
            for name, work in (
                ("connection", self._stay_connected),
                ("reports", self._report),
                ("launches ahead", self._withdraw_stuck),
            )
        ]

    async def close(self) -> None:
        """Let go of the agent; it and what it runs go on."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._link is not None:
            self._link.close()
            self._link = None

    async def stop_agent(self) -> None:
        """End all that runs here, and the agent too; the ends are reported as none of the users' doing."""
        self._ending = True
        link = self._link
        if link is None:
            return
        link.send(pack({"t": "stop"}))
        try:
            async with asyncio.timeout(self._grace_s + _STOP_PATIENCE_S):
                await link.lost.wait()
                await self._told.wait()
        except TimeoutError:
            log.warning("the node agent in %s did not stop in time; it goes on", self._home)

    def offers(self) -> Sequence[Offer]:
        """Return the room there is now; none while the agent is away."""
        if self._link is None or self._ending or self._replaced or self._trouble is not None:
            return []
        held = sum_resources(live.held for live in self._live.values())
        room = self._ahead.room(self._whole, held)
        ports = self._ports.free()
        return [self._offer(pool, room, held, ports) for pool in self._pools]

    def capacity(self) -> Sequence[Offer]:
        """Return this machine as if it were empty."""
        return self._empty

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start instances: at once, or as soon as there is an agent."""
        for launch in launches:
            instance_id = launch.instance.instance_id
            if instance_id in self._live:
                continue
            ports = self._ports_for(launch)
            if ports is None or self._ending:
                self._tell(_unlaunched(instance_id))
                continue
            frame = translation.task_of(launch, ports).packed()
            self._live[instance_id] = _TrackedInstance(launch.spec.resources, launch=frame)
            self._ahead.put(instance_id)
        self._send_next()

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Stop instances; the wish is kept while the agent is away."""
        for instance_id in instance_ids:
            live = self._live.get(instance_id)
            if live is None:
                continue
            live.kill = True
            if self._ahead.take_back(instance_id):
                self._drop(instance_id, translation.never_started(instance_id, now_ms(), Cause.KILLED))
        if self._link is not None:
            self._link.send(*(pack({"t": "kill", "id": instance_id}) for instance_id in instance_ids))

    # --- the agent ---------------------------------------------------------------------------------------

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a background task; one that fails is recorded and started again."""
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

    async def _stay_connected(self) -> None:
        """Keep an agent running: when it dies the next one is started, and finds what the last one left."""
        pause_s = _FIRST_PAUSE_S
        while True:
            if self._link is not None:
                await self._link.lost.wait()
                self._link = None
                self._trouble = None
                if self._ending or self._replaced:
                    return
                log.warning("the node agent in %s is gone; another one is started", self._home)
            try:
                await self._meet()
            except (CookError, OSError) as error:
                log.error("%s; the next try is in %.2g s", error, pause_s)  # noqa: TRY400 - it says enough
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S
                self._room_changed()

    async def _meet(self) -> AgentConnection:
        """Connect, and tell each other what we know.

        Raises:
            SchedulerError: there is no agent, or it does not answer, or it refuses the secret of the home.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while True:
            self._meeting = loop.create_future()
            link = await connect(self._home, self._log_file, self._options, self._on_frames)
            link.send(greeting(self._home))
            gone = asyncio.create_task(link.lost.wait())
            try:
                await asyncio.wait(
                    (gone, self._meeting), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not gone.done() and not self._meeting.done():
                    raise SchedulerError(
                        f"the node agent in {self._home} does not answer; {HOW_TO_END_AGENT}"
                    )
            except BaseException:
                link.close()
                raise
            finally:
                gone.cancel()
            if self._link is link:
                return link
            link.close()  # it died while we shook hands, or it was of another version and has left
            if link.refusal is not None:
                if loop.time() > deadline:
                    raise SchedulerError(
                        f"the node agent in {self._home} refuses this scheduler: {link.refusal}; "
                        f"{HOW_TO_END_AGENT}"
                    )
                await asyncio.sleep(_REFUSED_PAUSE_S)  # an agent that misses its file writes it again

    def _on_frames(self, link: AgentConnection, frames: Sequence[Frame]) -> None:
        for frame in frames:
            kind = frame.header["t"]
            if kind == "end":
                self._on_end(frame)
            elif kind == "running":
                self._on_running(frame.header)
            elif kind == "progress":
                self._progress[frame.header["id"]] = translation.update_of_progress(frame.header)
                self._news.set()
            elif kind == "known":
                self._reconcile(link, frame.header)
            elif kind == "refused":
                link.refusal = frame.header["why"]
                link.close()
            elif kind == "trouble":
                self._on_trouble(frame.header["text"])
            elif kind == "replaced":
                log.error("another scheduler has taken the node agent in %s over", self._home)
                self._replaced = True
        self._send_next()

    def _on_trouble(self, text: str | None) -> None:
        """Offer nothing while the agent can launch nothing."""
        self._trouble = text
        if text is not None:
            log.error("the node agent reports: %s", text)
        else:
            log.warning("the node agent in %s can launch again", self._home)
            self._room_changed()

    def _on_end(self, frame: Frame) -> None:
        instance_id = frame.header["instance_id"]
        self._live.pop(instance_id, None)
        self._ahead.ended(instance_id)
        self._ports.release(instance_id)
        start = self._started.pop(instance_id, None)
        self._tell(translation.update_of_end(frame, began_ms=None if start is None else start.at_ms))

    def _on_running(self, header: Header) -> None:
        live = self._live.get(header["id"])
        if live is not None:
            live.launch = None
            if not self._started:
                asyncio.get_running_loop().call_later(_BRIEF_S, self._tell_starts)
            self._started[header["id"]] = translation.update_of_running(header)

    def _reconcile(self, link: AgentConnection, known: Header) -> None:
        """Compare what the agent knows with what we do; each instance on either side is settled here."""
        if known["version"] != VERSION:
            log.warning(
                "the node agent in %s is of another version; it is replaced, its work goes on", self._home
            )
            link.send(pack({"t": "leave"}))
            return
        running = {task["id"]: task for task in known["running"]}
        self._ahead.forget_sent()
        for instance_id, task in running.items():
            self._ahead.take_back(instance_id)
            live = self._live.setdefault(instance_id, _TrackedInstance(resources_of(task)))
            live.launch = None
            self._ahead.adopt(instance_id, live.held)
            self._ports.restore(instance_id, task["ports"])
            # Also for what nobody asked for: the answer to that is a kill.
            self._tell(StatusUpdate(instance_id=instance_id, state=TaskState.RUNNING, at_ms=now_ms()))
            if live.kill:
                link.send(pack({"t": "kill", "id": instance_id}))
        for instance_id in self._live.keys() - running.keys() - set(known["ended"]):
            self._settle(instance_id)
        self._link = link
        if self._meeting is not None and not self._meeting.done():
            self._meeting.set_result(None)

    def _settle(self, instance_id: InstanceId) -> None:
        """An instance that the agent knows nothing of: it never got there, or it is lost."""
        live = self._live[instance_id]
        if live.launch is None:
            self._drop(instance_id, translation.lost(instance_id, now_ms()))
        elif live.kill:
            self._ahead.take_back(instance_id)
            self._drop(instance_id, translation.never_started(instance_id, now_ms(), Cause.KILLED))
        else:
            self._ahead.put(instance_id)

    def _drop(self, instance_id: InstanceId, end: StatusUpdate) -> None:
        """Forget an instance that does not run, and report its end."""
        del self._live[instance_id]
        self._ports.release(instance_id)
        self._tell(end)

    def _send_next(self) -> None:
        """Send the agent what fits beside what runs there, in the order of launch."""
        if self._link is None:
            return
        due = self._ahead.due(self._whole, self._held_by)
        self._link.send(*(frame for i in due if (frame := self._live[i].launch) is not None))

    def _held_by(self, instance_id: InstanceId) -> Resources:
        return self._live[instance_id].held

    async def _withdraw_stuck(self) -> None:
        """Give back, for ever, what was launched ahead and then had to wait: it was not brief after all."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._link is not None:
                for instance_id in self._ahead.stuck():
                    self._drop(instance_id, _unlaunched(instance_id))

    # --- reports -----------------------------------------------------------------------------------------

    def _tell_starts(self) -> None:
        starts, self._started = self._started, {}
        for start in starts.values():
            self._tell(start)

    def _tell(self, update: StatusUpdate) -> None:
        self._updates.append(update)
        self._told.clear()
        self._news.set()

    async def _report(self) -> None:
        """Report what arrives, acknowledge ends that are committed. What arrives meanwhile goes together."""
        assert self._reporter is not None  # noqa: S101 - start has it
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._news.wait()
            if self._ahead.waits:  # no room lies idle meanwhile, and many ends cost little more than one
                await asyncio.sleep(_GATHER_S)
            self._news.clear()
            batch = tuple(self._updates)
            try:
                if batch:
                    await self._report_batch(self._reporter, batch)
                progress, self._progress = tuple(self._progress.values()), {}
                if progress:
                    await self._report_progress(self._reporter, progress)
            except _TEMPORARY:
                # A full disk, say. The updates are kept; the agent keeps the ends, too.
                log.exception(
                    "%s could not be reported; the next try is in %.2g s",
                    counted(len(batch), "update"),
                    pause_s,
                )
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                self._news.set()
                continue
            pause_s = _FIRST_PAUSE_S
            del self._updates[: len(batch)]
            if not self._updates:
                self._told.set()
            ended = [update.instance_id for update in batch if update.state.is_final]
            if ended:
                if self._link is not None:
                    self._link.send(pack({"t": "ack", "ids": ended}))
                self._room_changed()

    async def _report_batch(self, reporter: ClusterListener, batch: Sequence[StatusUpdate]) -> None:
        """Report updates; one that is refused for what it says holds up no other, and is not sent again."""
        try:
            await reporter.report(self._name, batch)
        except _TEMPORARY:
            raise
        except Exception:
            if len(batch) > 1:
                for update in batch:
                    await self._report_batch(reporter, [update])
                return
            [refused] = batch
            log.exception("an update is refused: %r", refused)
        else:
            return
        substitute = translation.lost(refused.instance_id, now_ms())
        if refused.state.is_final and refused != substitute:
            try:
                await reporter.report(self._name, [substitute])
            except _TEMPORARY:
                raise
            except Exception:
                log.exception("the end of %s cannot be reported at all", refused.instance_id)

    async def _report_progress(self, reporter: ClusterListener, progress: Sequence[ProgressUpdate]) -> None:
        """Report progress; what is refused is not sent again, as newer progress comes."""
        try:
            await reporter.progress(self._name, progress)
        except _TEMPORARY:
            raise
        except Exception:
            log.exception("progress was refused: %s", counted(len(progress), "report"))

    def _room_changed(self) -> None:
        if self._reporter is not None:
            self._reporter.room_changed()

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
            task_count=len(self._live) if task_count is None else task_count,
        )

    def _ports_for(self, launch: Launch) -> tuple[int, ...] | None:
        """The ports of an instance, its own from now on; None if they cannot be had."""
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
