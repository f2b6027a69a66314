"""Connections to a scheduler for an event loop: kept open, shared by its tasks, each request with a deadline.

Lives here: one connection on asyncio's streams, the framing of reply bodies, a small pool of connections.
Not here: addresses and the heads of requests (`client.connections`, which has the same for threads), the
content of requests (`client.exchange`).

Standard library only: Jupyter and the scheduler come with tornado, but its client closes each connection
after one request, does not support Unix sockets, and cannot abandon a stream.

Source: RFC 9112, sections 4, 6 and 7.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException, parse_headers
from typing import TypeVar

from cook_jupyter.client.connections import (
    IDLE_CONNECTIONS,
    Address,
    RequestHeads,
    no_answer,
    unreachable,
)
from cook_jupyter.client.exchange import Reply, Request

T = TypeVar("T")

# Exceptions that a broken connection, or a reply that is not HTTP, raises.
FAILURES = (OSError, EOFError, ValueError, HTTPException, asyncio.LimitOverrunError)

_READ_BYTES = 64 * 1024
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a reply.

    Attributes:
        headers: headers, by their names in lower case.
        has_body: whether a body follows.
        keeps_alive: whether the connection may be used again after the body.
    """

    status: int
    headers: Mapping[str, str]
    has_body: bool
    keeps_alive: bool

    @classmethod
    def parse(cls, text: bytes, method: str) -> Head:
        """Parse the head of the reply to a request with this method.

        Raises:
            ValueError, HTTPException: it is not HTTP.
        """
        line, _, fields = text.partition(b"\r\n")
        version, status_text, *_ = line.decode("ascii").split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not HTTP: {line[:80]!r}")
        status = int(status_text)
        message = parse_headers(io.BytesIO(fields))
        headers = {name.lower(): value for name, value in message.items()}
        has_body = method != "HEAD" and status not in (204, 304)
        is_framed = not has_body or "content-length" in headers or _is_chunked(headers)
        asks_to_close = "close" in headers.get("connection", "").lower()
        return cls(
            status=status,
            headers=headers,
            has_body=has_body,
            keeps_alive=version != "HTTP/1.0" and is_framed and not asks_to_close,
        )


class Body:
    """Reads the body of a reply. Cancelling a read loses nothing."""

    def __init__(self, reader: asyncio.StreamReader, head: Head) -> None:
        self._reader = reader
        self._is_chunked = head.has_body and _is_chunked(head.headers)
        self._is_in_chunk = False
        length = head.headers.get("content-length") if head.has_body else "0"
        # Remaining bytes of the chunk or of the body; None: up to the end of the connection.
        self._remaining = 0 if self._is_chunked else None if length is None else _parse_size(length, 10)
        self._ended = False

    async def read(self, timeout_s: float) -> bytes:
        """Return the next bytes, or none at the end.

        Raises:
            OSError, EOFError, ValueError: the connection broke, or nothing came within `timeout_s`.
        """
        if self._remaining == 0 and self._is_chunked and not self._ended:
            await self._begin_chunk(timeout_s)
        if self._remaining == 0:
            return b""
        size = _READ_BYTES if self._remaining is None else min(self._remaining, _READ_BYTES)
        piece = await _within(self._reader.read(size), timeout_s)
        if self._remaining is not None:
            if not piece:
                raise EOFError("the connection was closed in the middle of a reply")
            self._remaining -= len(piece)
        return piece

    async def read_all(self, timeout_s: float) -> bytes:
        """Return the whole body; each piece must come within `timeout_s`."""
        pieces = []
        while piece := await self.read(timeout_s):
            pieces.append(piece)
        return b"".join(pieces)

    async def _begin_chunk(self, timeout_s: float) -> None:
        """Read up to the data of the next chunk, or to the end of the body."""
        if self._is_in_chunk:
            await _within(self._reader.readuntil(b"\r\n"), timeout_s)
            self._is_in_chunk = False
        line = await _within(self._reader.readuntil(b"\r\n"), timeout_s)
        self._remaining = _parse_size(line.split(b";")[0].decode("ascii").strip(), 16)
        self._is_in_chunk = True
        if self._remaining == 0:
            self._ended = True
            while await _within(self._reader.readuntil(b"\r\n"), timeout_s) != b"\r\n":
                pass  # a trailer


class AsyncConnection:
    """An open connection, used by one task at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heads: RequestHeads
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._heads = heads

    @classmethod
    async def open(cls, address: Address, authorization: str, timeout_s: float) -> AsyncConnection:
        """Connect within `timeout_s`.

        Raises:
            OSError: there is no server at the address.
        """
        async with asyncio.timeout(timeout_s):
            reader, writer = await _open_streams(address)
        return cls(reader, writer, RequestHeads(address, authorization))

    async def send(self, request: Request, timeout_s: float) -> None:
        """Send a request."""
        self._writer.write(self._heads.of(request))
        if request.body:
            self._writer.write(request.body)
        await _within(self._writer.drain(), timeout_s)

    async def read_head(self, method: str, timeout_s: float) -> Head:
        """Read the head of the reply to a request with this method."""
        while True:
            head = Head.parse(await _within(self._reader.readuntil(_HEAD_END), timeout_s), method)
            if head.status >= 200:  # informational replies precede the final one
                return head

    def body(self, head: Head) -> Body:
        """Return a reader for the body that follows a head."""
        return Body(self._reader, head)

    async def exchange(self, request: Request, timeout_s: float) -> tuple[Reply, bool]:
        """Send a request and read its whole reply.

        Returns:
            The reply, and whether the connection may be used again.
        """
        await self.send(request, timeout_s)
        timeout_s += request.wait_s
        head = await self.read_head(request.method, timeout_s)
        body = await self.body(head).read_all(timeout_s)
        return Reply(status=head.status, headers=head.headers, body=body), head.keeps_alive

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open, as far as the event loop knows."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    def close(self) -> None:
        """Close the connection; a task that reads from it gets the end of the stream."""
        self._writer.close()


class AsyncConnectionPool:
    """Idle connections to one scheduler, used by one event loop at a time."""

    def __init__(self, address: Address, authorization: str, connect_timeout_s: float) -> None:
        self.address = address
        self._authorization = authorization
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[AsyncConnection] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def new_connection(self) -> AsyncConnection:
        """Open a connection.

        Raises:
            SchedulerUnreachable: there is no scheduler at the address.
        """
        try:
            return await AsyncConnection.open(self.address, self._authorization, self._connect_timeout_s)
        except OSError as error:
            raise unreachable(self.address, error) from error

    async def exchange(self, request: Request, timeout_s: float) -> Reply:
        """Send a request over an idle connection or a new one; see `ConnectionPool.exchange`."""
        idle = self._acquire()
        if idle is not None:
            try:
                return await self._exchange_over(idle, request, timeout_s)
            except FAILURES as error:
                if not request.may_repeat_after(error):
                    raise no_answer(self.address, request, error, timeout_s) from error
        connection = await self.new_connection()
        try:
            reply = await self._exchange_over(connection, request, timeout_s)
        except FAILURES as error:
            raise no_answer(self.address, request, error, timeout_s) from error
        return reply if idle is None else replace(reply, sent_twice=True)

    def close(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def _exchange_over(self, connection: AsyncConnection, request: Request, timeout_s: float) -> Reply:
        try:
            reply, keeps_alive = await connection.exchange(request, timeout_s)
        except BaseException:  # including a cancelled task: the next request must not read half a reply
            connection.close()
            raise
        if keeps_alive and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def _acquire(self) -> AsyncConnection | None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections cannot outlive their event loop
            self._loop, self._idle = loop, []
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return None


async def _open_streams(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.socket_path is not None:
        try:
            return await asyncio.open_unix_connection(address.socket_path)
        except OSError:
            if not address.port:
                raise
    context = ssl.create_default_context() if address.tls else None
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return reader, writer


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower().endswith("chunked")


def _parse_size(text: str, base: int) -> int:
    size = int(text, base)
    if size < 0:
        raise ValueError(f"not a size: {text!r}")
    return size


async def _within(awaitable: Awaitable[T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        return await awaitable
