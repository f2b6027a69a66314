"""The connection to the leading master over Mesos' v1 HTTP API.

Lives here: `HttpSchedulerConnection`: it detects the leader, subscribes, reads events, pauses between
attempts, and understands the answers to calls.
Not here: HTTP connections for calls (`clusters.mesos.http_calls`), the stream of a subscription
(`clusters.mesos.http_stream`), the leader (`clusters.mesos.leader`), what events mean
(`clusters.mesos.cluster`).

    detect the leader ─> SUBSCRIBE ─> SUBSCRIBED: a new stream id, calls go out, events come in
         ↑                  │                │
         └──── back-off <───┴────────────────┘  end of the stream, silence, a call refused, another leader

Three things share a subscription: its stream, the calls of this framework, which carry its `Mesos-Stream-Id`
on other connections, and questions to the operator API. They end together, and the id is forgotten.

Source: docs/scheduler-http-api.md of Apache Mesos, and what a real 1.11.0 does.
"""

import asyncio
import base64
import logging
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cook_jupyter.clusters.mesos.connection import (
    CallRejected,
    CallUncertain,
    ConnectionListener,
    NotConnected,
)
from cook_jupyter.clusters.mesos.http_calls import Answer, CallLane, Endpoint, Header
from cook_jupyter.clusters.mesos.http_stream import EventStream, StreamEnded, Unsubscribable, open_stream
from cook_jupyter.clusters.mesos.leader import LeaderDetector, MasterAddress
from cook_jupyter.clusters.mesos.messages import (
    Call,
    FrameworkId,
    JsonObject,
    Subscribed,
    encode_call,
    subscribe,
)
from cook_jupyter.clusters.mesos.pacing import BackOff, EventQueue
from cook_jupyter.errors import ClusterUnusable

SCHEDULER_API = "/api/v1/scheduler"
OPERATOR_API = "/api/v1"

REPEATABLE = frozenset(
    {
        "ACCEPT_INVERSE_OFFERS",
        "ACKNOWLEDGE",
        "DECLINE",
        "DECLINE_INVERSE_OFFERS",
        "KILL",
        "RECONCILE",
        "REVIVE",
        "SHUTDOWN",
        "SUPPRESS",
    }
)
"""Calls that do the same when the master gets them twice.

A second ACCEPT does not: its offers are gone, so that Mesos reports running tasks dropped. A second MESSAGE
would be delivered.
"""

log = logging.getLogger(__name__)

_BROKEN_SUBSCRIPTION = frozenset({307, 401, 403, 503})  # also 400, with one of the texts below
_STALE = ("stream id", "framework cannot be found", "mesos-stream-id")
_CALLS_AT_A_TIME = 16
_ACKNOWLEDGEMENTS_AT_A_TIME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a framework proves its identity with (basic authentication: use TLS).

    Attributes:
        principal: name; FrameworkInfo must have the same.
        secret: password.
    """

    principal: str
    secret: str = field(repr=False)

    @property
    def header(self) -> Header:
        """The header of each request."""
        token = base64.b64encode(f"{self.principal}:{self.secret}".encode()).decode()
        return ("Authorization", f"Basic {token}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Deadlines and pauses.

    Attributes:
        connect_s: seconds for a new connection.
        subscribe_s: seconds until the head of the answer to SUBSCRIBE.
        call_s: seconds until a call is given up.
        silent_intervals: intervals of heartbeats without a byte after which a subscription is given up.
        shortest_pause_s, longest_pause_s: see `BackOff`.
    """

    connect_s: float = 10.0
    subscribe_s: float = 30.0
    call_s: float = 20.0
    silent_intervals: float = 5.0
    shortest_pause_s: float = 1.0
    longest_pause_s: float = 15.0


def tls_context(
    ca_file: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a context that verifies masters.

    Args:
        ca_file: certificates of authorities, in PEM; those of the system if there is none.
        certificate: our certificate, for masters that ask for one.
        key: its key, unless the same file has both.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


class HttpSchedulerConnection:
    """A `SchedulerConnection` over HTTP.

    Args:
        leader: tells which master leads.
        credential: proves who this framework is; None where masters do not ask.
        ssl_context: context of TLS for all connections; None for plain TCP.
        timing: deadlines and pauses.
        rng: source of jitter.
    """

    def __init__(
        self,
        leader: LeaderDetector,
        *,
        credential: Credential | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._leader = leader
        self._headers = () if credential is None else (credential.header,)
        self._ssl_context = ssl_context
        self._timing = timing or Timing()
        self._rng = rng
        self._session: _Session | None = None
        self._why_not = "there was no subscription yet"

    async def run(self, listener: ConnectionListener) -> None:
        """Keep a subscription until cancelled; see `SchedulerConnection.run`."""
        timing = self._timing
        back_off = BackOff(timing.shortest_pause_s, timing.longest_pause_s, self._rng)
        loop = asyncio.get_running_loop()
        await self._leader.start()
        try:
            while True:
                candidate = await self._leader.candidate()
                began = None
                try:
                    stream = await self._subscribe(candidate, listener)
                    try:
                        began = loop.time()
                        await self._follow(stream, listener)
                    finally:
                        stream.close()
                except StreamEnded as end:
                    self._why_not = str(end)
                if began is None:
                    self._leader.failed(candidate)
                pause_s = back_off.pause_s(0.0 if began is None else loop.time() - began)
                log.warning("not subscribed: %s; next attempt in %.1f s", self._why_not, pause_s)
                await asyncio.sleep(pause_s)
        finally:
            await self._leader.close()

    async def send(self, call: Call) -> None:
        """Send a call; see `SchedulerConnection.send`."""
        session = self._open_session()
        kind = call["type"]
        lane = session.acknowledgements if kind == "ACKNOWLEDGE" else session.calls
        answer = await lane.send(encode_call(call, session.framework_id), repeatable=kind in REPEATABLE)
        if 200 <= answer.status < 300:
            return
        said = _describe(kind, session.master, answer)
        if _is_subscription_broken(answer):
            session.end(said)
            raise NotConnected(said)
        raise (CallRejected if answer.status < 500 else CallUncertain)(said)

    async def query(self, call: Call) -> JsonObject:
        """Ask the operator API; see `SchedulerConnection.query`."""
        session = self._open_session()
        kind = call["type"]
        answer = await session.queries.send(msgspec.json.encode(call), repeatable=kind.startswith("GET_"))
        said = _describe(kind, session.master, answer)
        if answer.status in (307, 503):
            raise NotConnected(said)
        if answer.status >= 500:
            raise CallUncertain(said)
        if not 200 <= answer.status < 300:
            raise CallRejected(said)
        try:
            return msgspec.json.decode(answer.body or b"{}", type=JsonObject)
        except msgspec.DecodeError as error:
            raise CallUncertain(f"{said}, which is no JSON object: {error}") from error

    def _open_session(self) -> "_Session":
        if self._session is None or self._session.is_ended:
            why = self._why_not if self._session is None else self._session.cause
            raise NotConnected(f"not subscribed to a Mesos master: {why}")
        return self._session

    async def _subscribe(self, candidate: MasterAddress, listener: ConnectionListener) -> EventStream:
        """Subscribe at a master, or where it redirects to."""
        subscription = listener.subscription()
        framework_id = subscription.framework.get("id", {}).get("value")
        body = encode_call(
            subscribe(subscription.framework, subscription.suppressed_roles),
            FrameworkId(framework_id) if framework_id else None,
        )
        try:
            return await open_stream(
                self._endpoint(candidate, SCHEDULER_API),
                body,
                answer_s=self._timing.subscribe_s,
                silent_intervals=self._timing.silent_intervals,
            )
        except Unsubscribable as refusal:
            raise ClusterUnusable(_advice(refusal, framework_id)) from refusal

    async def _follow(self, stream: EventStream, listener: ConnectionListener) -> None:
        """Report a subscription and its events until it ends."""
        master = stream.master
        session = _Session(
            master,
            stream.subscribed,
            calls=CallLane(
                self._endpoint(master, SCHEDULER_API, stream.stream_id),
                depth=_CALLS_AT_A_TIME,
                deadline_s=self._timing.call_s,
            ),
            acknowledgements=CallLane(
                self._endpoint(master, SCHEDULER_API, stream.stream_id),
                depth=_ACKNOWLEDGEMENTS_AT_A_TIME,
                deadline_s=self._timing.call_s,
            ),
            queries=CallLane(self._endpoint(master, OPERATOR_API), depth=1, deadline_s=self._timing.call_s),
        )
        self._session = session
        self._leader.found(master)
        watchers = [
            asyncio.create_task(session.read(stream)),
            asyncio.create_task(session.watch(self._leader)),
        ]
        log.info("subscribed to the Mesos master %s as framework %s", master, session.framework_id)
        try:
            await listener.on_subscribed(session.framework_id, str(master))
            while (event := await session.events.get()) is not None:
                await listener.on_event(event)
        finally:
            session.end("the connection was closed")
            self._why_not = session.cause
            self._session = None
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            listener.on_disconnected(session.cause)
            await session.close()
        if session.refusal is not None:
            raise ClusterUnusable(_advice(session.refusal, session.framework_id)) from session.refusal

    def _endpoint(self, master: MasterAddress, path: str, stream_id: str = "") -> Endpoint:
        stream_header: tuple[Header, ...] = (("Mesos-Stream-Id", stream_id),) if stream_id else ()
        return Endpoint(
            address=master,
            path=path,
            headers=(*self._headers, *stream_header),
            ssl_context=self._ssl_context,
            connect_s=self._timing.connect_s,
        )


class _Session:
    """What belongs to one subscription, and ends with it.

    Attributes:
        cause: why it has ended.
        refusal: set if the master has ended it for good.
    """

    def __init__(
        self,
        master: MasterAddress,
        subscribed: Subscribed,
        *,
        calls: CallLane,
        acknowledgements: CallLane,
        queries: CallLane,
    ) -> None:
        self.master = master
        self.framework_id = FrameworkId(subscribed.framework_id.value)
        self.calls = calls
        self.acknowledgements = acknowledgements
        self.queries = queries
        self.events = EventQueue()
        self.cause = ""
        self.refusal: Unsubscribable | None = None

    @property
    def is_ended(self) -> bool:
        """Whether no more calls are sent."""
        return bool(self.cause)

    def end(self, cause: str) -> None:
        """End the subscription, unless it has ended."""
        if self.cause:
            return
        self.cause = cause
        self.events.close()
        for lane in (self.calls, self.acknowledgements, self.queries):
            lane.refuse(cause)

    async def close(self) -> None:
        """Release the connections, after `end`."""
        lanes = (self.calls, self.acknowledgements, self.queries)
        await asyncio.gather(*(lane.close() for lane in lanes))

    async def read(self, stream: EventStream) -> None:
        """Enqueue the events of the stream until it ends."""
        try:
            while True:
                for event, size in await stream.read():
                    await self.events.put(event, size)
        except Unsubscribable as refusal:
            self.refusal = refusal
            self.end(str(refusal))
        except StreamEnded as end:
            self.end(str(end))
        except Exception as error:
            log.exception("reading events of the Mesos master %s", self.master)
            self.end(f"its events cannot be read: {error!r}")

    async def watch(self, leader: LeaderDetector) -> None:
        """End the subscription when another master leads."""
        await leader.replaced(self.master)
        self.end(f"another Mesos master leads instead of {self.master}")


def _is_subscription_broken(answer: Answer) -> bool:
    """Return whether the master no longer takes this subscription for the one of the framework."""
    if answer.status == 400:
        text = answer.text.lower()
        return any(part in text for part in _STALE)
    return answer.status in _BROKEN_SUBSCRIPTION


def _describe(kind: str, master: MasterAddress, answer: Answer) -> str:
    """Return a sentence about an answer."""
    text = answer.text
    return f"the Mesos master {master} has answered {kind} with {answer.status}" + (
        f": {text}" if text else ""
    )


def _advice(refusal: Unsubscribable, framework_id: str | None) -> str:
    """Return the message of a `ClusterUnusable`: what has happened, and what to do."""
    text = refusal.text
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
            "killed, and its id is never accepted again. Forget the stored framework id with `cook-jupyter "
            f"mesos forget-framework {framework_id}`, so that the scheduler registers anew; instances that "
            "were open are lost."
        )
    return (
        f"{said}. Correct what it names (role, principal, user or another field of the framework, or the "
        "master's ACLs), then start the scheduler again."
    )
