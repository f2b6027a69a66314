"""Sockets of a supervisor's process, and its event loop.

Lives here: `SelectorLoop`, a selector with callbacks; `Stream`, a socket that is read and written without
blocking; `Channel`, a stream of frames. Everything that is sent in one round of the loop is written together
at its end.
Not here: the worker's side, which simply blocks (`worker.runner`); the protocols of other streams.

Why not asyncio: importing it takes longer than starting the whole agent, and a round of this loop takes a
tenth of the time.
"""

import contextlib
import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from cook_jupyter.worker.agent_log import log, log_exception
from cook_jupyter.worker.frames import MAX_FRAME_BYTES, BrokenStream, Frame, FrameReader

_CHUNK = 1 << 16  # a larger buffer would be mapped and unmapped for each message

Message = TypeVar("Message")
Received_co = TypeVar("Received_co", covariant=True)


class StreamReader(Protocol[Received_co]):
    """Reads messages from bytes that arrive in arbitrary pieces."""

    def feed(self, data: bytes) -> Sequence[Received_co]:
        """Add bytes; return the messages that are complete now.

        Raises:
            BrokenStream: the bytes are not messages of this protocol.
        """


class SelectorLoop:
    """Calls back when a watched file is readable."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._unflushed: list[Stream[Any]] = []

    def watch(self, file: int | socket.socket, when_ready: Callable[[], None]) -> None:
        """Call `when_ready` whenever the file can be read."""
        self._selector.register(file, selectors.EVENT_READ, when_ready)

    def watch_writable(self, file: socket.socket, when_ready: Callable[[], None], *, also: bool) -> None:
        """Set whether `when_ready` is called when the file is writable, in addition to readable."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if also else 0)
        self._selector.modify(file, events, when_ready)

    def forget(self, file: int | socket.socket) -> None:
        """Stop watching a file."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)

    def run_once(self, timeout_s: float | None) -> None:
        """Wait up to `timeout_s` for events, and run their callbacks."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def flush_later(self, stream: "Stream[Any]") -> None:
        """Register a stream that has something to send."""
        self._unflushed.append(stream)

    def flush(self) -> None:
        """Send what the registered streams have to send."""
        streams, self._unflushed = self._unflushed, []
        for stream in streams:
            stream.flush()


class Stream(Generic[Message]):
    """A socket that carries messages.

    Args:
        loop: event loop of the socket.
        sock: the socket, which the stream owns and closes; it may still be connecting.
        reader: reader of the messages that arrive.
        on_message: callback for each of them; an exception ends the stream, and nothing else.
        on_end: callback when the other side is gone or has sent something invalid; not called by `close`.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        sock: socket.socket,
        reader: StreamReader[Message],
        on_message: Callable[[Message], None],
        on_end: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self._reader = reader
        self._out: list[bytes] = []
        self._unsent = b""
        self._open = True
        loop.watch(sock, self.receive)

    def send(self, packed: bytes) -> None:
        """Send bytes at the end of this round."""
        if not self._open:
            return
        if not self._out:
            self._loop.flush_later(self)
        self._out.append(packed)

    def receive(self) -> None:
        """Handle everything that was received."""
        if self._unsent:
            self.flush()
        while self._open:
            try:
                data = self.sock.recv(_CHUNK)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            try:
                for message in self._reader.feed(data):
                    if self._open:  # an earlier message may have closed it
                        self._on_message(message)
            except BrokenStream as error:
                log(f"a connection was ended: {error}")
                self._end()
                return
            except Exception:  # noqa: BLE001 - an error on one connection must not end the others
                log_exception("a connection was ended: handling a message on it failed")
                self._end()
                return
            if len(data) < _CHUNK:
                return

    def flush(self) -> None:
        """Send as much as the socket accepts without blocking."""
        if not self._open:
            return
        data = self._unsent + b"".join(self._out)
        self._out.clear()
        had_unsent = bool(self._unsent)
        try:
            sent = self.sock.send(data) if data else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._unsent = b""  # the end is noticed when reading, after everything received was handled
            return
        self._unsent = data[sent:]
        if bool(self._unsent) is not had_unsent:
            self._loop.watch_writable(self.sock, self.receive, also=bool(self._unsent))

    def close(self) -> None:
        """Close the connection."""
        if self._open:
            self._open = False
            self._loop.forget(self.sock)
            self.sock.close()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self._open

    def _end(self) -> None:
        if self._open:
            self.close()
            self._on_end()


class Channel(Stream[Frame]):
    """A connected socket that carries frames; see `Stream`.

    Args:
        loop: event loop of the socket.
        sock: the socket.
        on_frame: callback for each received frame.
        on_end: callback when the other side is gone or has sent something invalid.
        max_bytes: maximum size of a frame, until `trust` is called.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        sock: socket.socket,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[], None],
        *,
        max_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self._frames = FrameReader(max_bytes)
        super().__init__(loop, sock, self._frames, on_frame, on_end)

    def trust(self) -> None:
        """Accept frames of any size from now on."""
        self._frames.max_bytes = MAX_FRAME_BYTES
