"""The HTTP API of a Mesos master over a `FakeCluster`, with faults.

Lives here: `FakeMaster`, and the faults that it can inject into calls (`Fault`) and streams.
Not here: what calls do (`fake_cluster`).
"""

import asyncio
import base64
import json
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import h11

from cook_jupyter.clusters.mesos.transport.leader import MasterAddress
from tests.clusters.mesos.fake_cluster import FakeCluster, FakeFramework, Refused
from tests.waiting import wait_until_async

JsonObject = dict[str, Any]

SCHEDULER_API = "/api/v1/scheduler"
OPERATOR_API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a call instead of a good answer.

    Attributes:
        status: status of the answer; 202 for that of the call.
        text: body of the answer.
        after_s: seconds before the answer.
        is_done: whether the call is carried out all the same.
        hangs: whether no answer comes, and the connection stays open.
        drops: whether the connection is closed instead of an answer.
        closes: whether the answer says `Connection: close`.
        location: where the answer redirects to.
    """

    status: int = 202
    text: str = ""
    after_s: float = 0.0
    is_done: bool = False
    hangs: bool = False
    drops: bool = False
    closes: bool = False
    location: str = ""


LOST_ANSWER = Fault(is_done=True, drops=True)
LOST_CALL = Fault(drops=True)
HANG = Fault(hangs=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A call that has arrived."""

    type: str
    call: JsonObject
    headers: dict[str, str]
    connection: int
    at_s: float


@dataclass(eq=False)
class Stream:
    """A stream of events to a framework."""

    writer: asyncio.StreamWriter
    http: h11.Connection
    is_bytewise: bool
    beats: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: deque[bytes] = field(default_factory=deque)
    _sender: asyncio.Task[None] | None = None

    def send(self, event: JsonObject) -> None:
        """Send an event; the pseudo event END ends the stream."""
        if event["type"] == "END":
            self.end()
            return
        self.send_record(json.dumps(event).encode())
        if event["type"] == "ERROR":
            self.end()

    def send_record(self, record: bytes) -> None:
        self.send_raw(b"%d\n%s" % (len(record), record))

    def send_raw(self, data: bytes) -> None:
        """Send bytes of the body."""
        if self.http.our_state is h11.SEND_BODY and not self.ended.is_set():
            self._write(self.http.send(h11.Data(data=data)) or b"")

    def end(self) -> None:
        """End the body, and the connection."""
        if self.http.our_state is h11.SEND_BODY:
            self._write(self.http.send(h11.EndOfMessage()) or b"")
        self.ended.set()

    def cut(self) -> None:
        """Close the connection, with the body incomplete."""
        self.writer.close()
        self.ended.set()

    def _write(self, data: bytes) -> None:
        if not self.is_bytewise:
            self.writer.write(data)
            return
        self._waiting.append(data)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_bytes())

    async def _send_bytes(self) -> None:
        while self._waiting:
            for byte in self._waiting.popleft():
                self.writer.write(bytes([byte]))
                await asyncio.sleep(0)

    async def flush(self) -> None:
        if self._sender is not None:
            await self._sender


class FakeMaster:
    """A master.

    Attributes:
        cluster: what it knows.
        received: calls in the order of arrival.
        leader: another master that leads; None if this one does.
        is_recovering: whether it answers 503.
        credential: principal and secret that it asks for.
        is_bytewise: whether new streams are sent byte by byte.
        closes_after_head: whether a subscription ends at once.
    """

    def __init__(
        self, cluster: FakeCluster | None = None, *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.cluster = cluster or FakeCluster()
        self.received: list[Received] = []
        self.leader: MasterAddress | None = None
        self.is_recovering = False
        self.credential: tuple[str, str] | None = None
        self.is_bytewise = False
        self.closes_after_head = False
        self.streams: list[Stream] = []
        self.connections: dict[int, asyncio.StreamWriter] = {}
        self._faults: dict[str, deque[Fault]] = {}
        self._ssl_context = ssl_context
        self.server: asyncio.Server | None = None
        self._port = 0
        self._count = 0
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self.server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, ssl=self._ssl_context, limit=1 << 20
        )
        self._port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close all connections and stop listening, as if killed."""
        assert self.server is not None
        self.server.close()
        for stream in self.streams:
            stream.ended.set()
        for writer in list(self.connections.values()):
            writer.transport.abort()
        await self.server.wait_closed()
        await wait_until_async(lambda: not self.connections)

    async def close(self) -> None:
        """Stop everything."""
        self.cluster.close()
        await self.stop()

    @property
    def address(self) -> MasterAddress:
        return MasterAddress("127.0.0.1", self._port)

    def fail(self, call_type: str, *faults: Fault) -> None:
        """Let the next calls of a type meet faults, one each."""
        self._faults.setdefault(call_type, deque()).extend(faults)

    def close_call_connections(self) -> None:
        """Close all connections that carry no stream."""
        streaming = {stream.writer for stream in self.streams}
        for writer in list(self.connections.values()):
            if writer not in streaming:
                writer.close()

    def of_type(self, call_type: str) -> list[Received]:
        """Return the calls of a type that have arrived."""
        return [one for one in self.received if one.type == call_type]

    async def arrival(self, call_type: str, count: int = 1) -> list[Received]:
        """Wait for calls of a type."""
        while len(calls := self.of_type(call_type)) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return calls

    @property
    def stream(self) -> Stream:
        """The newest stream."""
        return self.streams[-1]

    # HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        number = self._count
        self.connections[number] = writer
        http = h11.Connection(h11.SERVER)
        try:
            while (request := await _next_request(http, reader)) is not None:
                if not await self._answer(number, http, *request, reader, writer):
                    return
                http.start_next_cycle()
        except (ConnectionError, h11.ProtocolError, asyncio.CancelledError):
            pass
        finally:
            del self.connections[number]
            writer.close()

    async def _answer(
        self,
        number: int,
        http: h11.Connection,
        request: h11.Request,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer a call; return whether the connection goes on."""
        headers = {name.decode(): value.decode() for name, value in request.headers}
        path = request.target.decode()
        call = json.loads(body)
        kind = call.get("type", "")
        at_s = asyncio.get_running_loop().time()
        self.received.append(Received(type=kind, call=call, headers=headers, connection=number, at_s=at_s))
        self._arrived.set()
        faults = self._faults.get(kind)
        fault = faults.popleft() if faults else None
        if fault is not None:
            if fault.is_done:
                self.cluster.call(call, headers.get("mesos-stream-id"))
            if fault.hangs:
                await reader.read()
                return False
            await asyncio.sleep(fault.after_s)
            if fault.drops:
                return False
            if fault.status != 202 or fault.location:
                extra = [("Location", fault.location)] if fault.location else []
                return _respond(http, writer, fault.status, fault.text.encode(), extra, closes=fault.closes)
        closes = fault is not None and fault.closes
        refusal = self._refusal(headers, path)
        if refusal is None and path == SCHEDULER_API and kind == "SUBSCRIBE":
            return await self._subscribe(http, call, reader, writer)
        if refusal is None and path == SCHEDULER_API and (fault is None or not fault.is_done):
            try:
                self.cluster.call(call, headers.get("mesos-stream-id"))
            except Refused as refused:
                refusal = refused.status, refused.text, []
        if refusal is not None:
            status, text, extra = refusal
            return _respond(http, writer, status, text.encode(), extra, closes=closes)
        if path == OPERATOR_API:
            return self._answer_operator(http, writer, kind, closes=closes)
        return _respond(http, writer, 202, b"", [], closes=closes)

    def _refusal(self, headers: dict[str, str], path: str) -> tuple[int, str, list[tuple[str, str]]] | None:
        """Return the answer to a call that this master does not look at; None if it does."""
        if self.credential is not None:
            token = base64.b64encode(":".join(self.credential).encode()).decode()
            if headers.get("authorization") != f"Basic {token}":
                return 401, "", [("WWW-Authenticate", 'Basic realm="mesos-master-scheduler"')]
        if self.leader is not None:
            return 307, "", [("Location", f"//{self.leader}{path}")]
        if self.is_recovering:
            return 503, "Master has not finished recovery", []
        return None

    def _answer_operator(
        self, http: h11.Connection, writer: asyncio.StreamWriter, kind: str, *, closes: bool
    ) -> bool:
        if kind != "GET_AGENTS":
            text = b"Failed to validate master::Call: Expecting 'type' to be present"
            return _respond(http, writer, 400, text, [], closes=closes)
        return _respond(http, writer, 200, json.dumps(self.cluster.get_agents()).encode(), [], closes=closes)

    async def _subscribe(
        self,
        http: h11.Connection,
        call: JsonObject,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        stream_id = f"stream-{len(self.streams)}"
        headers = [("Content-Type", "application/json"), ("Mesos-Stream-Id", stream_id)]
        stream = Stream(writer, http, self.is_bytewise)
        early: list[JsonObject] = []
        is_open = False

        def sink(event: JsonObject) -> None:
            if is_open:
                stream.send(event)
            else:
                early.append(event)

        try:
            framework = self.cluster.subscribe(call, stream_id, sink)
        except Refused as refused:
            return _respond(http, writer, refused.status, refused.text.encode(), [], closes=False)
        writer.write(http.send(h11.Response(status_code=200, headers=headers)) or b"")
        self.streams.append(stream)
        is_open = True
        for event in early:
            stream.send(event)
        if self.closes_after_head:
            stream.end()
        beats = asyncio.create_task(self._beat(stream))
        closing = asyncio.create_task(_eof(reader))
        ended = asyncio.create_task(stream.ended.wait())
        try:
            await asyncio.wait({closing, ended}, return_when=asyncio.FIRST_COMPLETED)
            await stream.flush()
        finally:
            for task in (beats, closing, ended):
                task.cancel()
            stream.ended.set()
            if framework is not None:
                self.cluster.disconnect(framework, sink)
        return False

    async def _beat(self, stream: Stream) -> None:
        while True:
            if stream.beats:
                stream.send({"type": "HEARTBEAT"})
            await asyncio.sleep(self.cluster.heartbeat_s)

    def framework(self) -> FakeFramework:
        """Return the only framework."""
        [framework] = self.cluster.frameworks.values()
        return framework


async def _next_request(
    http: h11.Connection, reader: asyncio.StreamReader
) -> tuple[h11.Request, bytes] | None:
    """Return a request with its body; None at the end of the connection."""
    request: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(1 << 20)
            if not data:
                return None
            http.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            return request, body


async def _eof(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def _respond(
    http: h11.Connection,
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    headers: list[tuple[str, str]],
    *,
    closes: bool,
) -> bool:
    """Send a whole answer; return whether the connection goes on."""
    head = [("Content-Length", str(len(body))), *headers]
    if closes:
        head.append(("Connection", "close"))
    for event in (h11.Response(status_code=status, headers=head), h11.Data(data=body), h11.EndOfMessage()):
        writer.write(http.send(event) or b"")  # perhaps a packet each
    return not closes
