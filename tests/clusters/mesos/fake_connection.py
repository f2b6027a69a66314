"""A connection to a master that a test plays: events in, recorded calls out."""

import asyncio
from collections.abc import Callable
from typing import Any

from cook_jupyter.clusters.mesos.messages import (
    Call,
    Event,
    Failure,
    FrameworkId,
    InverseOffer,
    InverseOffers,
    JsonObject,
    Message,
    Offer,
    OfferId,
    Offers,
    Rescind,
    TaskStatus,
    TimeInfo,
    Unavailability,
    Update,
    Value,
)
from cook_jupyter.clusters.mesos.transport.connection import CallFailed, ConnectionListener, NotConnected
from cook_jupyter.errors import ClusterUnusable
from cook_jupyter.worker.frames import Header, pack
from cook_jupyter.worker.mesos.messages import encode_data
from tests.waiting import wait_until_async


class FakeConnection:
    """The `SchedulerConnection` of a test."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failure: Callable[[Call], CallFailed | None] = lambda _: None  # of a call
        self.answers: dict[str, JsonObject] = {
            "GET_AGENTS": {"get_agents": {"agents": []}},
            "GET_FRAMEWORKS": {"get_frameworks": {"frameworks": []}},
            "GET_TASKS": {"get_tasks": {"tasks": []}},
        }
        self._listener: ConnectionListener | None = None
        self._end: asyncio.Future[None] | None = None
        self.is_connected = True

    async def run(self, listener: ConnectionListener) -> None:
        """Subscribe at once, and stay subscribed."""
        self._listener = listener
        self._end = asyncio.get_running_loop().create_future()
        await self.subscribe()
        await self._end

    async def send(self, call: Call) -> None:
        """Record a call."""
        await asyncio.sleep(0)
        if not self.is_connected:
            raise NotConnected("not connected")
        failure = self.failure(call)
        if failure is not None:
            raise failure
        self.calls.append(call)

    async def query(self, call: Call) -> JsonObject:
        """Answer a question."""
        await asyncio.sleep(0)
        return self.answers[call["type"]]

    # --- what a master does ---

    @property
    def listener(self) -> ConnectionListener:
        assert self._listener is not None
        return self._listener

    async def subscribe(self, framework_id: str = "f1") -> None:
        self.is_connected = True
        await self.listener.on_subscribed(FrameworkId(framework_id), "master:5050")

    def disconnect(self) -> None:
        self.is_connected = False
        self.listener.on_disconnected("a test")

    def refuse(self, message: str) -> None:
        assert self._end is not None
        self._end.set_exception(ClusterUnusable(message))

    async def offer(self, *offers: Offer) -> None:
        await self.listener.on_event(Event(type="OFFERS", offers=Offers(offers=offers)))

    async def rescind(self, offer_id: str) -> None:
        event = Event(type="RESCIND", rescind=Rescind(offer_id=Value(OfferId(offer_id))))
        await self.listener.on_event(event)

    async def update(self, status: TaskStatus) -> None:
        await self.listener.on_event(Event(type="UPDATE", update=Update(status=status)))

    async def message(
        self, header: Header, *, executor_id: str = "cook-nobody-1", agent_id: str = "a1"
    ) -> None:
        message = Message(
            agent_id=Value(agent_id), executor_id=Value(executor_id), data=encode_data(pack(header))
        )
        await self.listener.on_event(Event(type="MESSAGE", message=message))

    async def executor_ended(self, executor_id: str, *, agent_id: str = "a1", status: int = 256) -> None:
        failure = Failure(agent_id=Value(agent_id), executor_id=Value(executor_id), status=status)
        await self.listener.on_event(Event(type="FAILURE", failure=failure))

    async def maintenance(self, agent_id: str, begin_s: float) -> None:
        begin = Unavailability(start=TimeInfo(nanoseconds=round(begin_s * 1e9)))
        inverse = InverseOffer(id=Value("i1"), unavailability=begin, agent_id=Value(agent_id))
        await self.listener.on_event(
            Event(type="INVERSE_OFFERS", inverse_offers=InverseOffers(inverse_offers=(inverse,)))
        )

    # --- what was called ---

    def of(self, kind: str) -> list[Any]:
        """The bodies of the calls of a kind."""
        return [call.get(kind.lower()) for call in self.calls if call["type"] == kind]

    def launched(self) -> list[str]:
        """The tasks of all ACCEPTs."""
        return [
            task["task_id"]["value"]
            for accept in self.of("ACCEPT")
            for operation in accept["operations"]
            for task in operation["launch"]["task_infos"]
        ]

    async def until(self, kind: str, count: int = 1) -> list[Any]:
        """Wait for a number of calls of a kind, and return their bodies."""
        await wait_until_async(lambda: len(self.of(kind)) >= count)
        return self.of(kind)
