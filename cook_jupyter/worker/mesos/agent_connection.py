"""The connection of an executor to its Mesos agent, without blocking.

Lives here: `AgentConnection`: the subscription, whose response is the stream of events, and a second, kept
alive connection for calls, which are answered in order.
Not here: what events mean (`worker.mesos.executor`), the syntax of HTTP (`worker.mesos.http`).

When either connection ends, so does the subscription, and a new one is tried every 100 to 200 ms: an agent
that restarts answers with 503 at first, and waits for its executors only a few seconds.
"""

import contextlib
import json
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from cook_jupyter.worker.channel import SelectorLoop, Stream
from cook_jupyter.worker.frames import BrokenStream
from cook_jupyter.worker.mesos.http import Head, Part, Piece, RecordReader, ResponseReader, request

JsonObject = dict[str, Any]

_PATH = "/api/v1/executor"
_RETRY_S = (0.1, 0.2)
_SUBSCRIBE_TIMEOUT_S = 5.0
_MAX_TEXT_BYTES = 1 << 16  # of a refusal
_ACCEPTED = 202
_encode = json.JSONEncoder(separators=(",", ":")).encode


class AgentListener(Protocol):
    """Callbacks of a connection."""

    def subscription(self) -> JsonObject:
        """Return the call to subscribe with."""

    def on_event(self, event: JsonObject) -> None:
        """Handle an event; SUBSCRIBED is the first, and calls can be sent from then on."""

    def on_disconnected(self, cause: str) -> None:
        """Note the end of a subscription; calls that were not answered may be lost."""

    def on_refused(self, status: int, text: str) -> None:
        """Note that the agent has refused to subscribe this executor; it will be asked again."""

    def on_call_refused(self, call: JsonObject, status: int, text: str) -> None:
        """Note that the agent has not accepted a call."""


class AgentConnection:
    """Connection to an agent.

    Args:
        loop: event loop.
        listener: callbacks.
        host, port: address of the agent.
        token: token for the header `Authorization`, if the agent requires one.
        max_pause_s: maximum time between two attempts to subscribe.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        listener: AgentListener,
        *,
        host: str,
        port: int,
        token: str | None = None,
        max_pause_s: float = 1.0,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._address = (host, port)
        self._max_pause_s = max_pause_s
        self._fields = {
            "Host": f"{host}:{port}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        if token is not None:
            self._fields["Authorization"] = f"Bearer {token}"
        self._events: Stream[Part] | None = None
        self._calls: Stream[Part] | None = None
        self._unanswered: deque[JsonObject] = deque()
        self._status = 0  # of the response to the subscription
        self._refusal = bytearray()
        self._call_status = 0
        self._call_text = bytearray()
        self._records = RecordReader()
        self._is_closed = False
        self.is_subscribed = False
        self._next_attempt = time.monotonic()
        self._deadline: float | None = None

    def send(self, call: JsonObject) -> None:
        """Send a call in this round; it is dropped if there is no subscription."""
        if not self.is_subscribed:
            return
        if self._calls is None:
            self._calls = self._connect(self._on_call_part, self._on_calls_end)
            if self._calls is None:
                return
            self._unanswered.clear()
        self._unanswered.append(call)
        self._calls.send(self._request(call))

    def process_due(self, now: float) -> None:
        """Subscribe, or give up an attempt to, when it is time."""
        if self._is_closed:
            return
        if self._deadline is not None and now >= self._deadline:
            self.reconnect("the agent does not answer")
        if self._events is None and now >= self._next_attempt:
            self._subscribe(now)

    def poll_timeout_s(self) -> float | None:
        """Return the time until `process_due` must be called; None for any time."""
        due = self._next_attempt if self._events is None else self._deadline
        return None if due is None or self._is_closed else max(0.0, due - time.monotonic())

    def reconnect(self, cause: str) -> None:
        """End the subscription, if there is one, and subscribe again."""
        was_subscribed, self.is_subscribed = self.is_subscribed, False
        self._close_sockets()
        self._wait()
        if was_subscribed:
            self._listener.on_disconnected(cause)

    def close(self) -> None:
        """Close the connection for good."""
        self._is_closed = True
        self.is_subscribed = False
        self._close_sockets()

    # --- the subscription ---------------------------------------------------------------------------------

    def _subscribe(self, now: float) -> None:
        self._status = 0
        self._refusal.clear()
        self._records = RecordReader()
        self._events = self._connect(self._on_event_part, self._on_events_end)
        if self._events is None:
            self._wait()
            return
        self._deadline = now + _SUBSCRIBE_TIMEOUT_S
        self._events.send(self._request(self._listener.subscription()))
        self._events.flush()

    def _on_event_part(self, part: Part) -> None:
        if isinstance(part, Head):
            self._status = part.status
        elif isinstance(part, Piece) and self._status == 200:
            for record in self._records.feed(part.data):
                self._on_record(record)
        elif isinstance(part, Piece):
            self._refusal += part.data[: _MAX_TEXT_BYTES - len(self._refusal)]
        elif self._status == 200:
            self._on_events_end()
        else:
            self._on_refused()

    def _on_record(self, record: bytes) -> None:
        if self._events is None:  # an earlier event has ended the connection
            return
        try:
            event = json.loads(record)
        except ValueError as error:
            raise BrokenStream("an event of the agent is not JSON") from error
        if not isinstance(event, dict):
            raise BrokenStream("an event of the agent is not a JSON object")
        if event.get("type") == "SUBSCRIBED":
            self.is_subscribed = True
            self._deadline = None
        self._listener.on_event(event)

    def _on_events_end(self) -> None:
        if self._status not in (0, 200):
            self._on_refused()
        else:
            self.reconnect("the agent has closed the connection")

    def _on_refused(self) -> None:
        status, text = self._status, self._refusal.decode("utf-8", "replace")
        self._close_sockets()
        self._wait()
        self._listener.on_refused(status, text)

    # --- calls --------------------------------------------------------------------------------------------

    def _on_call_part(self, part: Part) -> None:
        if isinstance(part, Head):
            self._call_status = part.status
            self._call_text.clear()
        elif isinstance(part, Piece):
            self._call_text += part.data[: _MAX_TEXT_BYTES - len(self._call_text)]
        elif not self._unanswered:
            raise BrokenStream("the agent has answered a call that was not made")
        else:
            call = self._unanswered.popleft()
            if self._call_status != _ACCEPTED:
                text = self._call_text.decode("utf-8", "replace")
                self._listener.on_call_refused(call, self._call_status, text)

    def _on_calls_end(self) -> None:
        self._calls = None
        if self._unanswered:
            self.reconnect("the agent has closed the connection for calls")

    # --- sockets ------------------------------------------------------------------------------------------

    def _connect(self, on_part: Callable[[Part], None], on_end: Callable[[], None]) -> Stream[Part] | None:
        """Begin to connect; return None if that is impossible at the moment."""
        try:
            [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
                *self._address, type=socket.SOCK_STREAM
            )
            sock = socket.socket(family, kind, protocol)
        except OSError:
            return None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
        except OSError:
            sock.close()
            return None
        return Stream(self._loop, sock, ResponseReader(), on_part, on_end)

    def _close_sockets(self) -> None:
        for stream in (self._events, self._calls):
            if stream is not None:
                stream.close()
        self._events = self._calls = None
        self._deadline = None
        self._unanswered.clear()

    def _wait(self) -> None:
        """Set the time of the next attempt to subscribe."""
        self._next_attempt = time.monotonic() + min(random.uniform(*_RETRY_S), self._max_pause_s)

    def _request(self, call: JsonObject) -> bytes:
        return request(_PATH, _encode(call).encode("ascii"), self._fields)
