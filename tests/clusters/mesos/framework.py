"""A framework for tests: subscribes through a connection, and records what it hears."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.messages import AgentId, Event, FrameworkId, Offer, OfferId, TaskStatus
from cook_jupyter.clusters.mesos.transport.connection import SchedulerConnection, Subscription
from tests.waiting import HANG_S

JsonObject = dict[str, Any]


class Framework:
    """A listener that records, with the calls that tests make.

    Args:
        connection: the connection to use.
        framework_id: id of an earlier framework.
        suppressed: whether no offers are wanted.
        info: fields of FrameworkInfo that differ.

    Attributes:
        acknowledges: whether updates are acknowledged as they come.
        on_event_wait: awaited for each event; None for at once.
    """

    def __init__(
        self,
        connection: SchedulerConnection,
        *,
        framework_id: FrameworkId | None = None,
        suppressed: bool = False,
        **info: object,
    ) -> None:
        self.connection = connection
        self.framework_id = framework_id
        self.suppressed = suppressed
        self.info = info
        self.acknowledges = True
        self.on_event_wait: Callable[[], Awaitable[None]] | None = None
        self.events: list[Event] = []
        self.subscriptions: list[tuple[FrameworkId, str]] = []
        self.disconnections: list[str] = []
        self.asked = 0
        self._changed = asyncio.Event()
        self._run: asyncio.Task[None] | None = None

    # ConnectionListener

    def subscription(self) -> Subscription:
        self.asked += 1
        framework: JsonObject = {
            "user": "root",
            "name": "cook_jupyter-test",
            "roles": ["*"],
            "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
            "failover_timeout": 60.0,
            **self.info,
        }
        if self.framework_id is not None:
            framework["id"] = {"value": self.framework_id}
        return Subscription(
            framework=framework, suppressed_roles=tuple(framework["roles"]) if self.suppressed else ()
        )

    async def on_subscribed(self, framework_id: FrameworkId, master: str) -> None:
        self.framework_id = framework_id
        self.subscriptions.append((framework_id, master))
        self._changed.set()

    async def on_event(self, event: Event) -> None:
        if self.on_event_wait is not None:
            await self.on_event_wait()
        self.events.append(event)
        self._changed.set()
        if self.acknowledges and event.update is not None and event.update.status.uuid:
            await self.connection.send(messages.acknowledge(event.update.status))

    def on_disconnected(self, cause: str) -> None:
        self.disconnections.append(cause)
        self._changed.set()

    # Life

    async def start(self) -> "Framework":
        """Run the connection; return once it is subscribed."""
        self.begin()
        await self.until(lambda: self.subscriptions)
        return self

    def begin(self) -> None:
        """Run the connection."""
        self._run = asyncio.create_task(self.connection.run(self))
        self._run.add_done_callback(lambda _: self._changed.set())

    async def stop(self) -> None:
        """Close the connection; the framework stays registered."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait({self._run})
            self._run = None

    async def end(self) -> None:
        """Wait until the connection ends by itself; raise its error."""
        assert self._run is not None
        async with asyncio.timeout(HANG_S):
            await asyncio.shield(self._run)

    @property
    def is_running(self) -> bool:
        return self._run is not None and not self._run.done()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition that an event, a subscription or the end may bring about.

        Raises:
            AssertionError: it has not come about, or the connection has ended.
        """
        try:
            async with asyncio.timeout(HANG_S):
                while not condition():
                    if self._run is not None and self._run.done():
                        await self._run
                        raise AssertionError("the connection has ended")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            seen = [f"{one.task_id.value} {one.state}" for one in self.updates()]
            types = [event.type for event in self.events]
            raise AssertionError(f"not seen in {HANG_S:g} s; updates: {seen}; events: {types}") from None

    # Events

    def updates(self, task_id: str | None = None) -> list[TaskStatus]:
        """Return the statuses that have come, of all tasks or one."""
        statuses = [event.update.status for event in self.events if event.update is not None]
        return [status for status in statuses if task_id in (None, status.task_id.value)]

    def states(self, task_id: str) -> list[str]:
        """Return the states that a task went through."""
        return [status.state for status in self.updates(task_id)]

    async def state(self, task_id: str, state: str) -> TaskStatus:
        """Wait until a task is in a state."""
        await self.until(lambda: state in self.states(task_id))
        return next(status for status in self.updates(task_id) if status.state == state)

    def offers(self) -> list[Offer]:
        """Return all offers that have come."""
        return [offer for event in self.events if event.offers is not None for offer in event.offers.offers]

    async def offer(self, number: int = 0, cpus: float = 0.2) -> Offer:
        """Wait for an offer; return one of those that have so many cpus."""

        def roomy() -> list[Offer]:
            return [offer for offer in self.offers() if cpus_of(offer) >= cpus]

        await self.until(lambda: len(roomy()) > number)
        return roomy()[number]

    # Calls

    async def launch(self, offer: Offer, *commands: str, task_ids: tuple[str, ...] = ()) -> list[str]:
        """Launch command tasks; return their ids."""
        ids = list(task_ids) or [str(uuid4()) for _ in commands]
        tasks = [
            command_task(task_id, offer, command) for task_id, command in zip(ids, commands, strict=True)
        ]
        await self.connection.send(messages.accept([OfferId(offer.id.value)], tasks, refuse_s=0.0))
        return ids

    async def kill(self, task_id: str, agent_id: str | None = None) -> None:
        await self.connection.send(messages.kill(task_id, None if agent_id is None else AgentId(agent_id)))


def cpus_of(offer: Offer) -> float:
    return float(sum(one["scalar"]["value"] for one in offer.resources if one["name"] == "cpus"))


def command_task(task_id: str, offer: Offer, command: str) -> JsonObject:
    """Return a TaskInfo of a shell command."""
    role = (offer.allocation_info or {}).get("role", "*")
    return {
        "name": "test",
        "task_id": {"value": task_id},
        "agent_id": {"value": offer.agent_id.value},
        "command": {"value": command, "shell": True},
        "resources": [
            {"name": name, "type": "SCALAR", "scalar": {"value": amount}, "allocation_info": {"role": role}}
            for name, amount in (("cpus", 0.1), ("mem", 32.0))
        ],
    }
