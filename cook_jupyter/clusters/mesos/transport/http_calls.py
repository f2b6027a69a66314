"""HTTP calls over a kept-alive connection, in order.

Lives here: `CallLane`, which sends calls to one endpoint of one master and returns the answers, and the
connection below it. HTTP is h11's.
Not here: what an answer means (`clusters.mesos.transport.answers`), the events
(`clusters.mesos.transport.http_stream`).

Calls are pipelined: a call is sent before the calls ahead of it are answered, and a server answers in the
order of the calls. One call at a time takes 160 µs of this process and the time of a round trip; with 64 at a
time it is 60 µs.

A server may close a connection at any moment, also just when a call is sent. Calls that were not sent, and
those behind an answer with `Connection: close`, which a server must not read, are sent on the next
connection. One that was sent and not answered is repeated, once, only if that cannot do harm: see
`repeatable`.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h11

from cook_jupyter.clusters.mesos.transport.answers import Answer
from cook_jupyter.clusters.mesos.transport.connection import CallUncertain, NotConnected
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress

Header = tuple[str, str]

IDLE_S = 15.0
"""Seconds after which an idle connection is not used again: proxies close them silently."""

LAST_ANSWERS_S = 0.5
"""Seconds for calls to be answered after the subscription has ended, as after a TEARDOWN."""

CONNECT_ERRORS = (OSError, UnicodeError, TimeoutError)  # the second is for a name that cannot be one

_MAX_HEAD = 64 << 10  # bytes of the head of an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to send calls, and how.

    Attributes:
        address: the master.
        path: path of the API.
        headers: headers of each call.
        ssl_context: context of TLS; None for plain TCP.
        connect_s: seconds for a new connection.
    """

    address: MasterAddress
    path: str
    headers: tuple[Header, ...] = ()
    ssl_context: ssl.SSLContext | None = None
    connect_s: float = 10.0

    def request(self, http: h11.Connection, body: bytes) -> bytes:
        """Return the bytes of a call.

        Args:
            http: state of the exchange, without earlier requests.
            body: JSON.
        """
        headers = [
            ("Host", str(self.address)),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Content-Length", str(len(body))),
            *self.headers,
        ]
        head = http.send(h11.Request(method="POST", target=self.path, headers=headers))
        data = http.send(h11.Data(data=body))
        http.send(h11.EndOfMessage())
        assert head is not None  # noqa: S101 - h11 returns bytes for all events but ConnectionClosed
        assert data is not None  # noqa: S101
        return head + data


@dataclass(slots=True, eq=False)
class _Call:
    """A call that waits for its answer.

    Attributes:
        answer: result; cancelled when nobody waits for it any more.
        attempts: how often it was sent.
    """

    body: bytes
    repeatable: bool
    answer: asyncio.Future[Answer]
    attempts: int = 0
    http: h11.Connection = field(default_factory=lambda: new_exchange())  # noqa: PLW0108 - defined below
    status: int = 0
    received: list[bytes] = field(default_factory=list)


class CallLane:
    """Sends calls to an endpoint in the order of `send`, over one connection at a time.

    Args:
        endpoint: where to send them.
        depth: most calls that are sent and not answered.
        deadline_s: seconds after which a call is given up.
    """

    def __init__(self, endpoint: Endpoint, *, depth: int, deadline_s: float) -> None:
        self._endpoint = endpoint
        self._depth = depth
        self._deadline_s = deadline_s
        self._outbox: deque[_Call] = deque()
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed: str | None = None

    async def send(self, body: bytes, *, repeatable: bool) -> Answer:
        """Send a call and return its answer, whatever its status is.

        Args:
            body: JSON.
            repeatable: whether the call does the same if the master gets it twice.

        Raises:
            NotConnected: it was not sent.
            CallUncertain: it was sent, and there was no answer.
        """
        if self._closed is not None:
            raise NotConnected(self._closed)
        call = _Call(body, repeatable, asyncio.get_running_loop().create_future())
        self._outbox.append(call)
        self._pump()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await call.answer
        except TimeoutError:
            if call.attempts == 0:
                raise NotConnected(
                    f"the call was not sent to {self._endpoint.address} in {self._deadline_s:g} s"
                ) from None
            # Where answers come, however slowly, the others go on; else a busy master would lose them all.
            if self._connection is not None and self._connection.is_silent_for(self._deadline_s / 2):
                self._connection.abort()
            raise CallUncertain(
                f"{self._endpoint.address} did not answer in {self._deadline_s:g} s"
            ) from None

    def refuse(self, cause: str) -> None:
        """Refuse new calls and fail those that wait to be sent; to be followed by `close`.

        Args:
            cause: text for the errors of calls.
        """
        if self._closed is None:
            self._closed = cause
        self._drop_outbox(self._closed)

    async def close(self) -> None:
        """Release the connection; calls that are not answered soon fail."""
        in_flight = self._connection.in_flight if self._connection is not None else ()
        answers = [call.answer for call in (*in_flight, *self._outbox)]
        try:
            if answers:
                await asyncio.wait(answers, timeout=LAST_ANSWERS_S)
        finally:
            self.refuse("the connection was closed")
            if self._connection is not None:
                self._connection.abort()
            if self._connecting is not None:
                self._connecting.cancel()
                await asyncio.wait({self._connecting})

    def _pump(self) -> None:
        """Send what the connection takes; connect if there is no connection."""
        while self._outbox:
            if self._outbox[0].answer.done():  # given up meanwhile
                self._outbox.popleft()
                continue
            connection = self._connection
            if connection is not None and connection.is_stale:
                self._connection = None
                connection.abort()
                connection = None
            if connection is None:
                if self._connecting is None and self._closed is None:
                    self._connecting = asyncio.create_task(self._connect())
                return
            if not connection.is_writable or len(connection.in_flight) >= self._depth:
                return
            connection.send(self._outbox.popleft())

    async def _connect(self) -> None:
        """Open a connection for the calls that wait, which fail if that fails."""
        endpoint = self._endpoint
        address = endpoint.address
        try:
            async with asyncio.timeout(endpoint.connect_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(endpoint, self._pump, self._on_lost),
                    address.host,
                    address.port,
                    ssl=endpoint.ssl_context,
                )
        except CONNECT_ERRORS as error:
            self._connecting = None
            self._drop_outbox(f"cannot connect to {address}: {describe_failure(error)}")
            return
        self._connecting = None
        if self._closed is not None:
            connection.abort()
            return
        self._connection = connection
        self._pump()

    def _on_lost(self, connection: "_Connection", cause: str) -> None:
        """Take back the calls of a lost connection that may be repeated; the others are uncertain."""
        if self._connection is connection:
            self._connection = None
        if connection.is_closed_by_answer:
            self._depth = 1  # it will close the next one, too
        repeated = []
        for call in connection.in_flight:
            if call.answer.done():
                continue
            if connection.is_closed_by_answer:
                call.attempts = 0
            if (call.attempts == 0 or (call.repeatable and call.attempts == 1)) and self._closed is None:
                call.http, call.status, call.received = new_exchange(), 0, []
                repeated.append(call)
            else:
                reason = self._closed or cause
                error = CallUncertain(reason) if call.attempts else NotConnected(reason)
                call.answer.set_exception(error)
        self._outbox.extendleft(reversed(repeated))
        if self._closed is None:
            self._pump()

    def _drop_outbox(self, cause: str) -> None:
        """Fail all calls that wait to be sent."""
        for call in self._outbox:
            if not call.answer.done():
                error = CallUncertain(cause) if call.attempts else NotConnected(cause)
                call.answer.set_exception(error)
        self._outbox.clear()


class _Connection(asyncio.Protocol):
    """One connection of a lane.

    Args:
        endpoint: where it leads.
        on_room: called when more calls can be sent.
        on_lost: called when the connection has ended, with the reason.
    """

    def __init__(
        self, endpoint: Endpoint, on_room: Callable[[], None], on_lost: Callable[["_Connection", str], None]
    ) -> None:
        self._endpoint = endpoint
        self._on_room = on_room
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._used_at = self._answered_at = self._loop.time()
        self._cause = f"{endpoint.address} has closed the connection before it answered"
        self._may_write = True
        self._is_ended = False
        self.is_closed_by_answer = False
        self.in_flight: deque[_Call] = deque()

    @property
    def is_writable(self) -> bool:
        """Whether a call can be sent now."""
        return self._may_write and not self._is_ended

    @property
    def is_stale(self) -> bool:
        """Whether the connection should not be used any more."""
        return self._is_ended or (not self.in_flight and self._loop.time() - self._used_at > IDLE_S)

    def is_silent_for(self, silence_s: float) -> bool:
        """Return whether calls wait for answers and none has come for so long."""
        return bool(self.in_flight) and self._loop.time() - self._answered_at >= silence_s

    def send(self, call: _Call) -> None:
        """Send a call."""
        assert self._transport is not None  # noqa: S101 - made before this object is handed out
        call.attempts += 1
        if not self.in_flight:
            self._answered_at = self._loop.time()
        self.in_flight.append(call)
        self._used_at = self._loop.time()
        self._transport.write(self._endpoint.request(call.http, call.body))

    def abort(self) -> None:
        """End the connection now."""
        self._is_ended = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream socket's is
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Complete the calls that are answered."""
        try:
            self._receive(data)
        except h11.RemoteProtocolError as error:
            self._cause = f"{self._endpoint.address} has sent an answer that is not HTTP: {error}"
            self.abort()
            return
        if self.in_flight and not self._is_ended:
            self._used_at = self._loop.time()
        self._on_room()

    def _receive(self, data: bytes) -> None:
        while data:
            if not self.in_flight:
                raise h11.RemoteProtocolError("an answer without a question")
            call = self.in_flight[0]
            call.http.receive_data(data)
            if not _is_answered(call):
                return
            data = call.http.trailing_data[0]
            self._complete()
            if self._is_ended:
                return

    def _complete(self) -> None:
        """Hand over the answer of the first call."""
        call = self.in_flight.popleft()
        self._answered_at = self._loop.time()
        if not call.answer.done():
            call.answer.set_result(Answer(call.status, b"".join(call.received)))
        if call.http.their_state is h11.MUST_CLOSE:
            self._is_ended = self.is_closed_by_answer = True
            if self._transport is not None:
                self._transport.close()

    def eof_received(self) -> None:
        """Complete an answer that ends with the connection, and close ours."""
        if self.in_flight:
            call = self.in_flight[0]
            with contextlib.suppress(h11.RemoteProtocolError):
                call.http.receive_data(b"")
                if _is_answered(call):
                    self._complete()

    def pause_writing(self) -> None:
        """Stop sending."""
        self._may_write = False

    def resume_writing(self) -> None:
        """Go on sending."""
        self._may_write = True
        self._on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the lane."""
        self._is_ended = True
        cause = f"{self._cause}: {exc}" if exc is not None else self._cause
        self._on_lost(self, cause)


def describe_failure(error: Exception) -> str:
    """Return why a connection could not be opened, such as "Connection refused"."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    return str(error) or "no answer"


def new_exchange() -> h11.Connection:
    """Return the state of a request that was not sent yet, and its response."""
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)


def _is_answered(call: _Call) -> bool:
    """Read what has arrived of an answer; return whether that is all."""
    while True:
        event = call.http.next_event()
        if event is h11.NEED_DATA:
            return False
        if isinstance(event, h11.Response):
            call.status = event.status_code
        elif isinstance(event, h11.Data):
            call.received.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return True


def header_value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str:
    """Return the value of a header; empty if it is missing."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return ""
