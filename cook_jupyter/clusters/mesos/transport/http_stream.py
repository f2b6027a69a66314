"""The stream of events of a subscription.

Lives here: `open_stream`, which sends SUBSCRIBE and follows redirects, and `EventStream`, which reads
events and notices silence.
Not here: calls (`clusters.mesos.transport.http_calls`), and when to subscribe
(`clusters.mesos.transport.http_connection`).
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import h11
import msgspec

from cook_jupyter.clusters.mesos.messages import Event, Subscribed, decode_event
from cook_jupyter.clusters.mesos.transport.http_calls import (
    CONNECT_ERRORS,
    Endpoint,
    describe_failure,
    header_value,
    new_exchange,
)
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress
from cook_jupyter.clusters.mesos.transport.pacing import LAST_LOOK_S
from cook_jupyter.clusters.mesos.transport.recordio import BrokenRecords, RecordReader
from cook_jupyter.clusters.mesos.transport.subscription import StreamEnded, Unsubscribable

log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes read at once
_MOST_REDIRECTS = 3
_MOST_TEXT = 64 << 10  # bytes of the body of a refusal
_REFUSED = frozenset({400, 401, 403, 405, 406, 415})  # by a master, for what this framework sends


class EventStream:
    """The events of a subscription.

    Attributes:
        master: the master that sends them.
        stream_id: what calls must carry.
        subscribed: the first event.
    """

    def __init__(self, body: "_Body", master: MasterAddress, stream_id: str, silent_intervals: float) -> None:
        self.master = master
        self.stream_id = stream_id
        self.subscribed: Subscribed
        self._body = body
        self._records = RecordReader()
        self._early: list[tuple[Event, int]] = []  # arrived together with SUBSCRIBED
        self._silent_intervals = silent_intervals
        self._silence_s = silent_intervals * 15.0

    async def begin(self) -> None:
        """Wait for SUBSCRIBED.

        Raises:
            StreamEnded: it does not come.
            Unsubscribable: the master has sent ERROR instead.
        """
        events: list[tuple[Event, int]] = []
        while not events:
            events = await self.read()
        subscribed = events[0][0].subscribed
        if subscribed is None:
            raise StreamEnded(f"{self.master} has begun with the event {events[0][0].type}")
        self.subscribed = subscribed
        self._silence_s = self._silent_intervals * subscribed.heartbeat_interval_seconds
        self._early = events[1:]

    async def read(self) -> list[tuple[Event, int]]:
        """Return further events except heartbeats, with the bytes of their records; perhaps none.

        Raises:
            StreamEnded: the stream has ended, was silent, or cannot be read.
            Unsubscribable: the master has sent ERROR.
        """
        if self._early:
            early, self._early = self._early, []
            return early
        data = await self._body.read(self._silence_s)
        if not data:
            where = " inside a record" if self._records.is_inside_record else ""
            raise StreamEnded(f"{self.master} has ended the stream of events{where}")
        try:
            records = self._records.feed(data)
        except BrokenRecords as error:
            raise StreamEnded(f"{self.master} has sent what is not RecordIO: {error}") from error
        return self._decode(records)

    def close(self) -> None:
        """Close the connection; the master ends the subscription."""
        self._body.close()

    def _decode(self, records: Sequence[bytes]) -> list[tuple[Event, int]]:
        events = []
        for record in records:
            try:
                event = decode_event(record)
            except msgspec.ValidationError as error:
                # One that is not as we know it must not end all others, as it might come again each time.
                log.error("ignored an event of %s: %s: %.500r", self.master, error, record)  # noqa: TRY400
                continue
            except msgspec.DecodeError as error:
                raise StreamEnded(f"{self.master} has sent a record that is not JSON: {error}") from error
            if event.type == "ERROR":
                raise Unsubscribable(self.master, event.error.message if event.error else "an error")
            if event.type != "HEARTBEAT":
                events.append((event, len(record)))
        return events


async def open_stream(
    endpoint: Endpoint, call: bytes, *, answer_s: float, silent_intervals: float
) -> EventStream:
    """Subscribe.

    Args:
        endpoint: where to begin; a master that does not lead redirects to the one that does.
        call: SUBSCRIBE as JSON.
        answer_s: seconds until the head of an answer.
        silent_intervals: intervals of heartbeats without a byte after which the stream counts as ended.

    Raises:
        StreamEnded: no master has taken the call.
        Unsubscribable: a master refuses the framework for good.
    """
    for _ in range(_MOST_REDIRECTS + 1):
        address = endpoint.address
        body = await _post(endpoint, call, answer_s)
        keep = False
        try:
            answer = body.response
            if answer.status_code == 200:
                stream = EventStream(
                    body, address, header_value(answer.headers, b"mesos-stream-id"), silent_intervals
                )
                await stream.begin()
                keep = True
                return stream
            location = header_value(answer.headers, b"location")
            if answer.status_code != 307 or not location:
                text = await body.text(answer_s)
                if answer.status_code in _REFUSED:
                    raise Unsubscribable(address, text or f"status {answer.status_code}", answer.status_code)
                raise StreamEnded(f"{address} has answered SUBSCRIBE with {answer.status_code}: {text}")
        finally:
            if not keep:
                body.close()
        try:
            leader = MasterAddress.parse(location)
        except ValueError as error:
            raise StreamEnded(f"{address} redirects to {location!r}") from error
        endpoint = replace(endpoint, address=leader)
    raise StreamEnded(f"masters redirect to each other; the last one was {endpoint.address}")


async def _post(endpoint: Endpoint, call: bytes, answer_s: float) -> "_Body":
    """Send a call on a connection of its own; return when the head of the answer has arrived."""
    address = endpoint.address
    try:
        async with asyncio.timeout(endpoint.connect_s):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=endpoint.ssl_context, limit=_CHUNK
            )
    except CONNECT_ERRORS as error:
        raise StreamEnded(f"cannot connect to {address}: {describe_failure(error)}") from error
    http = new_exchange()
    body = _Body(reader, writer, http, address)
    try:
        writer.write(endpoint.request(http, call))
        async with asyncio.timeout(answer_s):
            await body.begin()
    except TimeoutError as error:
        body.close()
        raise StreamEnded(f"{address} has not answered SUBSCRIBE in {answer_s:g} s") from error
    except BaseException:
        body.close()
        raise
    return body


class _Body:
    """The body of an answer, as it arrives."""

    response: h11.Response

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        http: h11.Connection,
        address: MasterAddress,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._http = http
        self._address = address
        self._is_complete = False

    async def begin(self) -> None:
        """Wait for the head of the answer."""
        while True:
            event = self._next_event()
            if isinstance(event, h11.Response):
                self.response = event
                return
            if event is h11.NEED_DATA:
                await self._receive()

    async def read(self, silence_s: float) -> bytes:
        """Return further bytes; none at the end.

        Args:
            silence_s: seconds without a byte after which this raises `StreamEnded`.
        """
        while not self._is_complete:
            data = self._buffered()
            if data or self._is_complete:
                return data
            try:
                async with asyncio.timeout(silence_s):
                    await self._receive()
            except TimeoutError:
                # The clock also ran while this process was stopped: look once more.
                try:
                    async with asyncio.timeout(LAST_LOOK_S):
                        await self._receive()
                except TimeoutError:
                    raise StreamEnded(f"{self._address} was silent for {silence_s:g} s") from None
        return b""

    async def text(self, patience_s: float) -> str:
        """Return the whole body as text, for a message."""
        received = b""
        while len(received) < _MOST_TEXT and (data := await self.read(patience_s)):
            received += data
        return received[:500].decode(errors="replace").strip()

    def close(self) -> None:
        """Close the connection."""
        self._writer.transport.abort()

    def _buffered(self) -> bytes:
        """Return the bytes of the body that were received and not returned."""
        parts = []
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Data):
                parts.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._is_complete = True
                break
        return b"".join(parts)

    async def _receive(self) -> None:
        """Give h11 what arrives next."""
        try:
            data = await self._reader.read(_CHUNK)
        except OSError as error:
            raise StreamEnded(f"the connection to {self._address} is lost: {error}") from error
        self._http.receive_data(data)

    def _next_event(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            if "closed connection" in str(error):
                raise StreamEnded(f"{self._address} has closed the connection") from error
            raise StreamEnded(f"{self._address} has broken the protocol: {error}") from error
