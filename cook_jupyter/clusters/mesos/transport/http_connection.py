"""The connection to the leading master over Mesos' v1 HTTP API.

Lives here: `HttpSchedulerConnection`, and what one subscription consists of.
Not here: when to subscribe (`clusters.mesos.transport.subscription`), the stream of events
(`clusters.mesos.transport.http_stream`), HTTP connections for calls
(`clusters.mesos.transport.http_calls`), the leader (`clusters.mesos.transport.leader`).

Three things share a subscription: its stream, the calls of this framework, which carry its `Mesos-Stream-Id`
on other connections, and questions to the operator API. They end together, and the id is forgotten.

Source: docs/scheduler-http-api.md of Apache Mesos, and what a real 1.11.0 does.
"""

import asyncio
import base64
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cook_jupyter.clusters.mesos.messages import Call, FrameworkId, encode_call, subscribe
from cook_jupyter.clusters.mesos.transport.answers import REPEATABLE, Answer
from cook_jupyter.clusters.mesos.transport.connection import Subscription
from cook_jupyter.clusters.mesos.transport.http_calls import CallLane, Endpoint, Header
from cook_jupyter.clusters.mesos.transport.http_stream import EventStream, open_stream
from cook_jupyter.clusters.mesos.transport.leader import LeaderDetector, MasterAddress
from cook_jupyter.clusters.mesos.transport.pacing import BackOff
from cook_jupyter.clusters.mesos.transport.subscription import Session, SubscribingConnection

SCHEDULER_API = "/api/v1/scheduler"
OPERATOR_API = "/api/v1"

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


class HttpSchedulerConnection(SubscribingConnection):
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
        self._timing = timing or Timing()
        super().__init__(leader, BackOff(self._timing.shortest_pause_s, self._timing.longest_pause_s, rng))
        self._headers = () if credential is None else (credential.header,)
        self._ssl_context = ssl_context

    async def _subscribe(self, candidate: MasterAddress, subscription: Subscription) -> Session:
        """Subscribe at a master, or where it redirects to."""
        framework_id = subscription.framework.get("id", {}).get("value")
        body = encode_call(
            subscribe(subscription.framework, subscription.suppressed_roles),
            FrameworkId(framework_id) if framework_id else None,
        )
        stream = await open_stream(
            self._endpoint(candidate, SCHEDULER_API),
            body,
            answer_s=self._timing.subscribe_s,
            silent_intervals=self._timing.silent_intervals,
        )
        return _HttpSession(
            stream,
            self._endpoint(stream.master, SCHEDULER_API, ("Mesos-Stream-Id", stream.stream_id)),
            self._endpoint(stream.master, OPERATOR_API),
            call_s=self._timing.call_s,
        )

    def _endpoint(self, master: MasterAddress, path: str, *headers: Header) -> Endpoint:
        return Endpoint(
            address=master,
            path=path,
            headers=(*self._headers, *headers),
            ssl_context=self._ssl_context,
            connect_s=self._timing.connect_s,
        )


class _HttpSession(Session):
    """The stream of a subscription, and a lane for each kind of calls.

    Args:
        stream: the stream.
        scheduler_api: where calls of the framework go.
        operator_api: where questions go.
        call_s: seconds until a call is given up.
    """

    def __init__(
        self, stream: EventStream, scheduler_api: Endpoint, operator_api: Endpoint, *, call_s: float
    ) -> None:
        super().__init__(stream.master, FrameworkId(stream.subscribed.framework_id.value))
        self._stream = stream
        self._calls = CallLane(scheduler_api, depth=_CALLS_AT_A_TIME, deadline_s=call_s)
        self._acknowledgements = CallLane(scheduler_api, depth=_ACKNOWLEDGEMENTS_AT_A_TIME, deadline_s=call_s)
        self._queries = CallLane(operator_api, depth=1, deadline_s=call_s)
        self._lanes = (self._calls, self._acknowledgements, self._queries)

    async def read(self) -> None:
        """Enqueue the events of the stream."""
        while True:
            for event, size in await self._stream.read():
                await self.events.put(event, size)

    async def send(self, call: Call) -> Answer:
        """Send a call of the framework."""
        kind = call["type"]
        lane = self._acknowledgements if kind == "ACKNOWLEDGE" else self._calls
        return await lane.send(encode_call(call, self.framework_id), repeatable=kind in REPEATABLE)

    async def query(self, call: Call) -> Answer:
        """Ask the operator API."""
        return await self._queries.send(msgspec.json.encode(call), repeatable=call["type"].startswith("GET_"))

    def refuse_calls(self, cause: str) -> None:
        """Fail the calls that were not sent yet, and those to come."""
        for lane in self._lanes:
            lane.refuse(cause)

    async def close(self) -> None:
        """Release all connections, that of the stream last: calls need it."""
        try:
            await asyncio.gather(*(lane.close() for lane in self._lanes))
        finally:
            self._stream.close()
