"""Sockets of the node agent, and the one place where it waits.

Lives here: `SelectorLoop`, a selector with callbacks, and `Channel`, a socket that carries frames both ways
without ever blocking. What is sent in one round of the loop leaves together at its end.
Not here: the worker's side, which simply blocks (`worker.runner`).

Why not asyncio: importing it takes longer than the whole agent needs to start, and a round of this loop
costs a tenth as much.
"""

import contextlib
import selectors
import socket
from collections.abc import Callable

from cook_jupyter.worker.agent_log import log, log_exception
from cook_jupyter.worker.frames import LARGEST_FRAME, BrokenStream, Frame, FrameReader

_CHUNK = 1 << 16  # a larger buffer would be mapped and unmapped for each message


class SelectorLoop:
    """Waits for any of many files, and calls whom it concerns."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._unflushed: list[Channel] = []

    def watch(self, file: int | socket.socket, when_ready: Callable[[], None]) -> None:
        """Call `when_ready` whenever the file can be read."""
        self._selector.register(file, selectors.EVENT_READ, when_ready)

    def watch_writable(self, file: socket.socket, when_ready: Callable[[], None], *, also: bool) -> None:
        """Call `when_ready` also when the file can be written, or no longer so."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if also else 0)
        self._selector.modify(file, events, when_ready)

    def forget(self, file: int | socket.socket) -> None:
        """Watch the file no more."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)

    def run_once(self, timeout_s: float | None) -> None:
        """Wait for something to happen, at most so long, and have it handled."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def flush_later(self, channel: "Channel") -> None:
        """Remember that this channel has something to send."""
        self._unflushed.append(channel)

    def flush(self) -> None:
        """Send what was collected."""
        channels, self._unflushed = self._unflushed, []
        for channel in channels:
            channel.flush()


class Channel:
    """A connected socket that carries frames.

    Args:
        loop: waits for it.
        sock: taken over, and closed with the channel.
        on_frame: called with each frame that arrives; what it raises ends the channel, and nothing else.
        on_end: called once, when the other side is gone or what it sends cannot be handled; not by `close`.
        largest: the most bytes of a frame, until `trust` is called.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        sock: socket.socket,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[], None],
        *,
        largest: int = LARGEST_FRAME,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._reader = FrameReader(largest)
        self._out: list[bytes] = []
        self._stuck = b""
        self._open = True
        loop.watch(sock, self.receive)

    def send(self, frame: bytes) -> None:
        """Have a frame sent at the end of this round."""
        if not self._open:
            return
        if not self._out:
            self._loop.flush_later(self)
        self._out.append(frame)

    def receive(self) -> None:
        """Handle all that has arrived."""
        if self._stuck:
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
                for frame in self._reader.feed(data):
                    if self._open:  # an earlier frame may have led to its end
                        self._on_frame(frame)
            except BrokenStream as error:
                log(f"a connection was ended: {error}")
                self._end()
                return
            except Exception:  # noqa: BLE001 - a fault in handling one connection is not to end all others
                log_exception("a connection was ended: a message on it met a fault of this process")
                self._end()
                return
            if len(data) < _CHUNK:
                return

    def trust(self) -> None:
        """Accept frames of any size from now on."""
        self._reader.largest = LARGEST_FRAME

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it."""
        if not self._open:
            return
        data = self._stuck + b"".join(self._out)
        self._out.clear()
        was_stuck = bool(self._stuck)
        try:
            sent = self.sock.send(data) if data else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._stuck = b""  # the end is noticed by reading, when all that was sent to us is read
            return
        self._stuck = data[sent:]
        if bool(self._stuck) is not was_stuck:
            self._loop.watch_writable(self.sock, self.receive, also=bool(self._stuck))

    def close(self) -> None:
        """Hang up."""
        if self._open:
            self._open = False
            self._loop.forget(self.sock)
            self.sock.close()

    @property
    def is_open(self) -> bool:
        """Whether the other side has not hung up yet, as far as we know."""
        return self._open

    def _end(self) -> None:
        if self._open:
            self.close()
            self._on_end()
