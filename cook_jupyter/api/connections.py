"""The connections of a server: their limits, and which ones are closed when there are too many.

Lives here: `Connections`, the table of open connections; `Acceptor`, which accepts connections and pauses
while the process is out of file descriptors; the number of connections that the descriptors permit.
Not here: HTTP and the sizes of requests (`api.server`), authentication (`api.auth`).

Connections without a login are closed first, so a client with a valid login is served however many
connections others hold open. Connections on the Unix socket, which only its owner can open, are counted
separately.
"""

import errno
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

log = logging.getLogger(__name__)

MAX_DESCRIPTORS = 8192  # the limit that a scheduler sets if the system permits it
ACCEPT_PAUSE_S = 0.2  # after the process ran out of descriptors
WARNING_INTERVAL_S = 60.0
_RESERVED_DESCRIPTORS = 64  # store, node agent, log files, files that are being served
_MIN_CONNECTIONS = 8
_ACCEPT_BATCH = 16  # connections to accept before others are served
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True)
class _OpenConnection:
    """An open connection; `user` is None until a request on it has logged in."""

    stream: IOStream
    source: str
    user: str | None = None


class Connections:
    """The open connections of one or several listening sockets.

    Args:
        total: maximum number of connections.
        per_address: maximum number of connections from another machine.
        anonymous: maximum number of connections without a login.
        per_user: maximum number of connections of a user; None for no limit.
    """

    def __init__(self, *, total: int, per_address: int, anonymous: int, per_user: int | None = None) -> None:
        self._total = total
        self._per_address = per_address
        self._max_anonymous = min(anonymous, total)
        self._per_user = per_user
        self._open: dict[object, _OpenConnection] = {}
        self._anonymous: dict[object, _OpenConnection] = {}  # oldest first
        self._sources: Counter[str] = Counter()
        self._users: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, stream: IOStream, source: str) -> bool:
        """Add a new connection; close the oldest one without a login if there are too many.

        Args:
            stream: the connection.
            source: address of the client; empty for a Unix socket.

        Returns:
            Whether the connection was added. False if there are too many and all of them have logged in.
        """
        if not is_local(source) and self._sources[source] >= self._per_address:
            victim = next(
                (connection for connection in self._anonymous.values() if connection.source == source), None
            )
            if victim is None:
                return False
            self._evict(victim)
        if len(self._open) >= self._total or len(self._anonymous) >= self._max_anonymous:
            victim = next(iter(self._anonymous.values()), None)
            if victim is None:
                return False
            self._evict(victim)
        connection = _OpenConnection(stream, source)
        self._open[stream] = self._anonymous[stream] = connection
        self._sources[source] += 1
        return True

    def has_logged_in(self, stream: object) -> bool:
        """Return whether a request on this connection has logged in."""
        connection = self._open.get(stream)
        return connection is not None and connection.user is not None

    def log_in(self, stream: object, user: str) -> bool:
        """Record the login of a request on this connection.

        Returns:
            Whether the login was recorded. False if the user has too many connections.
        """
        connection = self._open.get(stream)
        if connection is None or connection.user is not None:
            return True
        if self._per_user is not None and self._users[user] >= self._per_user:
            return False
        connection.user = user
        self._users[user] += 1
        del self._anonymous[stream]
        return True

    def remove(self, stream: object) -> None:
        """Remove a closed connection. Idempotent."""
        connection = self._open.pop(stream, None)
        if connection is None:
            return
        self._anonymous.pop(stream, None)
        _decrement(self._sources, connection.source)
        if connection.user is not None:
            _decrement(self._users, connection.user)

    def close_oldest_anonymous(self) -> None:
        """Close the oldest connection without a login, if there is one."""
        victim = next(iter(self._anonymous.values()), None)
        if victim is not None:
            self._evict(victim)

    def _evict(self, connection: _OpenConnection) -> None:
        self.remove(connection.stream)
        connection.stream.close()


class Acceptor:
    """Accepts the connections of a listening socket, a few at a time.

    While the process is out of file descriptors, the acceptor pauses: otherwise the socket would wake the
    event loop all the time, although no connection could be accepted.

    Args:
        listening: the listening socket; the acceptor closes it.
        on_connection: callback for each connection, with its socket and the address of the client.
        on_exhausted: callback when the process is out of descriptors; it may close connections.
    """

    def __init__(
        self,
        listening: socket.socket,
        on_connection: Callable[[socket.socket, Any], None],
        on_exhausted: Callable[[], None] = lambda: None,
    ) -> None:
        self._listening = listening
        self._on_connection = on_connection
        self._on_exhausted = on_exhausted
        self._loop = IOLoop.current()
        self._closed = False
        self._warned_at: float | None = None
        self._resume()

    def close(self) -> None:
        """Stop accepting, and close the socket. Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove_handler(self._listening)
            self._listening.close()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_handler(self._listening, self._accept, IOLoop.READ)

    def _accept(self, _listening: object, _events: int) -> None:
        for _ in range(_ACCEPT_BATCH):
            if self._closed:
                return
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._pause(error)
                return
            self._on_connection(connection, address)

    def _pause(self, error: OSError) -> None:
        now = self._loop.time()
        if self._warned_at is None or now - self._warned_at > WARNING_INTERVAL_S:
            self._warned_at = now
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            log.warning(
                "No connection can be accepted (%s): the limit is %d file descriptors. Retrying every %g s;"
                " a higher `ulimit -n` makes room for more",
                error.strerror,
                soft,
                ACCEPT_PAUSE_S,
            )
        self._loop.remove_handler(self._listening)
        self._loop.call_later(ACCEPT_PAUSE_S, self._resume)
        self._on_exhausted()


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors of this process to `MAX_DESCRIPTORS`, if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (ValueError, OSError) as error:  # macOS has a lower limit of its own
        log.warning("The limit of %d file descriptors could not be raised to %d: %s", soft, target, error)


def max_connections(requested: int, *, listeners: int) -> int:
    """Return the number of connections per listener that leaves descriptors for everything else.

    Args:
        requested: requested number of connections.
        listeners: number of listeners that share the descriptors of the process.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return requested
    return min(requested, max(_MIN_CONNECTIONS, (soft - _RESERVED_DESCRIPTORS) // listeners))


def source_address(address: object) -> str:
    """Return the host of a client's address; empty for a Unix socket."""
    return str(address[0]) if isinstance(address, tuple) and address else ""


def is_local(source: str) -> bool:
    """Return whether a connection comes from this machine."""
    return not source or source.startswith("127.") or source == "::1"


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
