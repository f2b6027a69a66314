"""A Mesos agent for an executor under test: the v1 executor API, as a real 1.11.0 behaves.

Lives here: `FakeAgent`. It has no thread: it works while a test calls `run_once`.
"""

import base64
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from cook_jupyter.worker.channel import SelectorLoop, Stream
from cook_jupyter.worker.frames import Frame
from cook_jupyter.worker.mesos import messages

FRAMEWORK, EXECUTOR = "framework-1", "ada.0"
TERMINAL = {messages.TASK_FINISHED, messages.TASK_FAILED, messages.TASK_KILLED}

Json = dict[str, Any]


class Request:
    """A call, with its header fields."""

    def __init__(self, path: str, fields: dict[str, str], call: Json) -> None:
        self.path = path
        self.fields = fields
        self.call = call


class RequestReader:
    """Reads requests."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Request]:
        self._buffer += data
        requests = []
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode().split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            size = int(fields["content-length"])
            body = self._buffer[end + 4 : end + 4 + size]
            if len(body) < size:
                break
            self._buffer = self._buffer[end + 4 + size :]
            assert first.startswith("POST ")
            requests.append(Request(first.split()[1], fields, json.loads(body)))
        return requests


class FakeAgent:
    """An agent with one executor.

    `acknowledges` decides which statuses it acknowledges at once; `refusal` is the answer to subscriptions;
    `update_refusal` decides which updates get 400.
    """

    def __init__(self) -> None:
        self.loop = SelectorLoop()
        self.subscriptions: list[Json] = []
        self.requests: list[Request] = []
        self.statuses: list[Json] = []  # each uuid once
        self.seen: list[str] = []  # every uuid that arrived by UPDATE
        self.messages: list[Frame] = []
        self.acknowledges: Callable[[Json], bool] = lambda _: True
        self.refusal: tuple[int, str] | None = None
        self.update_refusal: Callable[[Json], bool] = lambda _: False
        self.on_status: Callable[[Json], None] = lambda _: None
        self.on_message: Callable[[Frame], None] = lambda _: None
        self._streams: list[Stream[Request]] = []
        self._subscriber: Stream[Request] | None = None
        self._listener: socket.socket | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self.loop.watch(listener, self._on_connect)

    def die(self) -> None:
        """Be gone, as after kill -9."""
        if self._listener is not None:
            self.loop.forget(self._listener)
            self._listener.close()
            self._listener = None
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()
        self._subscriber = None

    def run_once(self, timeout_s: float) -> None:
        self.loop.run_once(timeout_s)
        self.loop.flush()

    @property
    def is_subscribed(self) -> bool:
        return self._subscriber is not None

    # --- events -------------------------------------------------------------------------------------------

    def send(self, kind: str, **body: Any) -> None:
        """Send an event."""
        assert self._subscriber is not None
        record = json.dumps({"type": kind, **({kind.lower(): body} if body else {})}).encode()
        _send_chunk(self._subscriber, b"%d\n%s" % (len(record), record))
        self.loop.flush()

    def launch(self, task_id: str, data: str, **fields: Any) -> None:
        task = {"name": "task", "task_id": {"value": task_id}, "agent_id": {"value": "agent"}, "data": data}
        self.send("LAUNCH", task={**task, **fields})

    def kill(self, task_id: str, *, grace_s: float | None = None) -> None:
        policy = (
            {} if grace_s is None else {"kill_policy": {"grace_period": {"nanoseconds": int(grace_s * 1e9)}}}
        )
        self.send("KILL", task_id={"value": task_id}, **policy)

    def acknowledge(self, status: Json) -> None:
        self.send("ACKNOWLEDGED", task_id=status["task_id"], uuid=status["uuid"])

    def message(self, packed: bytes) -> None:
        self.send("MESSAGE", data=base64.b64encode(packed).decode())

    # --- calls --------------------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        assert self._listener is not None
        sock, _ = self._listener.accept()

        def on_end() -> None:
            with contextlib.suppress(ValueError):
                self._streams.remove(stream)
            if stream is self._subscriber:
                self._subscriber = None

        stream: Stream[Request] = Stream(
            self.loop, sock, RequestReader(), lambda request: self._on_request(stream, request), on_end
        )
        self._streams.append(stream)

    def _on_request(self, stream: Stream[Request], request: Request) -> None:
        self.requests.append(request)
        call = request.call
        assert request.path == "/api/v1/executor"
        if call["type"] == "SUBSCRIBE":
            self._on_subscribe(stream, call)
        elif self._subscriber is None:
            _answer(stream, 403, "Executor is not subscribed")
        elif call["type"] == "UPDATE":
            self._on_update(stream, call["update"]["status"])
        else:
            _answer(stream, 202)
            [frame] = [messages.read_data(call["message"]["data"], messages.FROM_EXECUTOR)]
            self.messages.append(frame)
            self.on_message(frame)

    def _on_subscribe(self, stream: Stream[Request], call: Json) -> None:
        self.subscriptions.append(call["subscribe"])
        if self.refusal is not None:
            _answer(stream, *self.refusal)
            return
        if self._subscriber is not None:  # the last one wins
            self._subscriber.close()
        self._subscriber = stream
        stream.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
        )
        self.send("SUBSCRIBED", executor_info={}, framework_info={}, agent_info={})
        for update in call["subscribe"]["unacknowledged_updates"]:
            self._take(update["status"])

    def _on_update(self, stream: Stream[Request], status: Json) -> None:
        self.seen.append(status["uuid"])
        uuid = base64.b64decode(status["uuid"])
        is_valid = len(uuid) == 16 and uuid[6] >> 4 == 4 and status["source"] == "SOURCE_EXECUTOR"
        if not is_valid or status["executor_id"]["value"] != EXECUTOR or self.update_refusal(status):
            _answer(stream, 400, "Failed to validate executor::Call")
            return
        _answer(stream, 202)
        self._take(status)

    def _take(self, status: Json) -> None:
        if status["uuid"] not in [earlier["uuid"] for earlier in self.statuses]:
            self.statuses.append(status)
            self.on_status(status)
        if self.acknowledges(status):
            self.acknowledge(status)


def _answer(stream: Stream[Request], status: int, text: str = "") -> None:
    stream.send(f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


def _send_chunk(stream: Stream[Request], data: bytes) -> None:
    """Send a chunk, in two halves: what arrives in pieces must be read all the same."""
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        if piece:
            stream.send(b"%x\r\n%s\r\n" % (len(piece), piece))
