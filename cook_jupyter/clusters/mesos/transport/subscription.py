"""Keeping a subscription, whichever way its messages travel.

Lives here: `SubscribingConnection`, which detects the leader, subscribes, hands events over, and subscribes
again after a pause; and `Session`, one subscription.
Not here: how messages travel (`clusters.mesos.transport.http_connection`,
`clusters.mesos.transport.pymesos_connection`), what events mean (`clusters.mesos.cluster`).

    detect the leader ─> SUBSCRIBE ─> SUBSCRIBED: calls go out, events come in
         ↑                  │             │
         └──── back-off <───┴─────────────┘  end of the stream, silence, a call refused, another leader
"""

import asyncio
import logging
from abc import ABC, abstractmethod

from cook_jupyter.clusters.mesos.messages import Call, FrameworkId, JsonObject
from cook_jupyter.clusters.mesos.transport.answers import (
    Answer,
    SubscriptionRefused,
    check_call,
    read_answer,
)
from cook_jupyter.clusters.mesos.transport.connection import ConnectionListener, NotConnected, Subscription
from cook_jupyter.clusters.mesos.transport.leader import LeaderDetector, MasterAddress
from cook_jupyter.clusters.mesos.transport.pacing import BackOff, EventQueue
from cook_jupyter.errors import ClusterUnusable

log = logging.getLogger(__name__)


class StreamEnded(Exception):
    """There is no subscription, or it has ended; the next attempt may succeed."""


class Unsubscribable(Exception):
    """A master refuses the framework for good.

    Attributes:
        master: the master.
        text: its reason.
        status: status of its answer; 200 if it sent the event ERROR.
    """

    def __init__(self, master: MasterAddress, text: str, status: int = 200) -> None:
        super().__init__(f"{master} has refused the framework: {text}")
        self.master = master
        self.text = text
        self.status = status


class Session(ABC):
    """One subscription, and what ends with it.

    Args:
        master: the master that has accepted it.
        framework_id: id of the framework.

    Attributes:
        events: events that were read and not handled yet.
        cause: why it has ended; empty until then.
        refusal: set if the master has ended it for good.
    """

    def __init__(self, master: MasterAddress, framework_id: FrameworkId) -> None:
        self.master = master
        self.framework_id = framework_id
        self.events = EventQueue()
        self.cause = ""
        self.refusal: Unsubscribable | None = None

    def end(self, cause: str) -> None:
        """End the subscription, unless it has ended: no more events, no more calls."""
        if not self.cause:
            self.cause = cause
            self.events.close()
            self.refuse_calls(cause)

    def finish(self) -> None:
        """End the subscription, unless it has ended; calls that were made go out until `close`."""
        if not self.cause:
            self.cause = "the connection was closed"
            self.events.close()

    async def watch(self, leader: LeaderDetector) -> None:
        """End the subscription when another master leads."""
        await leader.replaced(self.master)
        self.end(f"another Mesos master leads instead of {self.master}")

    async def read_to_end(self) -> None:
        """Read events until the subscription ends."""
        try:
            await self.read()
        except Unsubscribable as refusal:
            self.refusal = refusal
            self.end(str(refusal))
        except StreamEnded as end:
            self.end(str(end))
        except Exception as error:
            log.exception("the events of the Mesos master %s cannot be read", self.master)
            self.end(f"its events cannot be read: {error!r}")

    @abstractmethod
    async def read(self) -> None:
        """Enqueue events until there are no more.

        Raises:
            StreamEnded: the subscription has ended.
            Unsubscribable: the master has ended it for good.
        """

    @abstractmethod
    async def send(self, call: Call) -> Answer:
        """Send a call of the framework; raise `CallFailed` if there is no answer."""

    @abstractmethod
    async def query(self, call: Call) -> Answer:
        """Ask the operator API; raise `CallFailed` if there is no answer."""

    @abstractmethod
    def refuse_calls(self, cause: str) -> None:
        """Fail the calls that were not sent yet, and those to come, with `NotConnected`."""

    @abstractmethod
    async def close(self) -> None:
        """Release all connections, after `end`."""


class SubscribingConnection(ABC):
    """A `SchedulerConnection` that keeps a subscription.

    Args:
        leader: tells which master leads.
        back_off: pauses between attempts.
    """

    def __init__(self, leader: LeaderDetector, back_off: BackOff) -> None:
        self._leader = leader
        self._back_off = back_off
        self._session: Session | None = None
        self._framework_id: FrameworkId | None = None
        self._why_not = "there was no subscription yet"

    @abstractmethod
    async def _subscribe(self, candidate: MasterAddress, subscription: Subscription) -> Session:
        """Subscribe at a master, or where it redirects to.

        Raises:
            StreamEnded: there is no subscription now.
            Unsubscribable: a master refuses the framework for good.
        """

    async def run(self, listener: ConnectionListener) -> None:
        """Keep a subscription until cancelled; see `SchedulerConnection.run`."""
        loop = asyncio.get_running_loop()
        await self._leader.start()
        try:
            while True:
                candidate = await self._leader.candidate()
                subscription = listener.subscription()
                began = None
                try:
                    session = await self._subscribe(candidate, subscription)
                    began = loop.time()
                    await self._follow(session, listener)
                except StreamEnded as end:
                    self._why_not = str(end)
                except Unsubscribable as refusal:
                    framework_id = subscription.framework.get("id", {}).get("value") or self._framework_id
                    raise ClusterUnusable(_advice(refusal, framework_id)) from refusal
                if began is None:
                    self._leader.failed(candidate)
                pause_s = self._back_off.pause_s(0.0 if began is None else loop.time() - began)
                if began is None:
                    log.warning(
                        "not subscribed to a Mesos master: %s; next attempt in %.1f s", self._why_not, pause_s
                    )
                else:  # the listener knows why the subscription has ended
                    log.info("subscribing to a Mesos master again in %.1f s", pause_s)
                await asyncio.sleep(pause_s)
        finally:
            await self._leader.close()

    async def send(self, call: Call) -> None:
        """Send a call; see `SchedulerConnection.send`."""
        session = self._open_session()
        answer = await session.send(call)
        try:
            check_call(call["type"], session.master, answer)
        except SubscriptionRefused as refused:
            session.end(str(refused))
            raise

    async def query(self, call: Call) -> JsonObject:
        """Ask the operator API; see `SchedulerConnection.query`."""
        session = self._open_session()
        return read_answer(call["type"], session.master, await session.query(call))

    def _open_session(self) -> Session:
        session = self._session
        if session is None or session.cause:
            why = self._why_not if session is None else session.cause
            raise NotConnected(f"not subscribed to a Mesos master: {why}")
        return session

    async def _follow(self, session: Session, listener: ConnectionListener) -> None:
        """Report a subscription and its events until it ends.

        Raises:
            StreamEnded: it has ended.
            Unsubscribable: the master has ended it for good.
        """
        self._session = session
        self._framework_id = session.framework_id
        self._leader.found(session.master)
        watchers = [
            asyncio.create_task(session.read_to_end()),
            asyncio.create_task(session.watch(self._leader)),
        ]
        try:
            await listener.on_subscribed(session.framework_id, str(session.master))
            while (event := await session.events.get()) is not None:
                await listener.on_event(event)
        finally:
            session.finish()
            self._why_not = session.cause
            self._session = None
            listener.on_disconnected(session.cause)
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            await session.close()
        raise session.refusal or StreamEnded(session.cause)


def _advice(refusal: Unsubscribable, framework_id: str | None) -> str:
    """Return the message of a `ClusterUnusable`: what has happened, and what to do."""
    text = refusal.text.rstrip(".")
    framework = f"framework {framework_id}" if framework_id else "this framework"
    said = f"the Mesos master {refusal.master} has refused {framework}: {text}"
    if refusal.status == 401:
        return f"{said}. It asks for credentials: set the principal and secret of a framework that it knows."
    if "failed over" in text:
        return (
            f"{said}. Another scheduler has subscribed with the same framework id and goes on with its "
            "tasks, so this one stops. Run one scheduler per framework: stop the other one before you start "
            "this one again."
        )
    if "has been removed" in text:
        return (
            f"{said}. It was torn down, or was away for longer than its failover_timeout; its tasks were "
            "killed, and its id is never accepted again. Once you know why, `cook-jupyter mesos "
            "reset-framework` lets the scheduler register a new one; jobs that ran are run again."
        )
    if "principal is not allowed" in text:
        return (
            f"{said}. A framework keeps the principal with which it was registered: set that one. To use "
            "another one, tear the framework down, then run `cook-jupyter mesos reset-framework`."
        )
    return (
        f"{said}. Correct what it names (role, principal, user or another field of the framework, or the "
        "master's ACLs), then start the scheduler again."
    )
