"""The connection to the node agent.

Lives here: finding the agent, starting one if none runs, and sending and receiving frames.
Not here: what the frames mean (`clusters.local.cluster`).
"""

import asyncio
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cook_jupyter.clusters.local.agent_command import agent_command
from cook_jupyter.errors import SchedulerError
from cook_jupyter.model.printable import printable
from cook_jupyter.worker.address import ALREADY_RUNNING, LOCK, READY, SECRET, SOCKET
from cook_jupyter.worker.frames import BrokenStream, Frame, FrameReader, pack

PATIENCE_S = 15.0  # for another agent that is starting or stopping
HOW_TO_END_AGENT = (
    "end it with `kill -9` (its process id is in agent.json there): what it runs goes on, and the next agent "
    "takes over"
)
_RETRY_S = 0.02
_LONGEST_PATH = 100  # bytes; the kernel's limit is 104 (macOS) or 108 (Linux)
_LOG_TAIL = 2000  # characters of the agent's log that go into an error


class AgentConnection(asyncio.Protocol):
    """A connection to the node agent.

    Args:
        on_frames: called with the complete frames that arrived.
    """

    def __init__(self, on_frames: Callable[["AgentConnection", Sequence[Frame]], None]) -> None:
        self._on_frames = on_frames
        self._reader = FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self.lost = asyncio.Event()
        self.refusal: str | None = None  # reason of the agent for not accepting this connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream socket's is
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Pass on complete frames; close the connection if the stream is broken."""
        try:
            frames = self._reader.feed(data)
        except BrokenStream:
            self.close()
            return
        if frames:
            self._on_frames(self, frames)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Set `lost`."""
        self.lost.set()

    def send(self, *frames: bytes) -> None:
        """Send frames together. The caller sends what a lost connection dropped again on the next one."""
        if self._transport is not None and frames:
            self._transport.write(b"".join(frames))

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def connect_to_agent(
    home: Path,
    log: Path,
    options: Sequence[str],
    on_frames: Callable[[AgentConnection, Sequence[Frame]], None],
) -> AgentConnection:
    """Connect to the agent of a home; start one if none runs.

    Args:
        home: directory of the agent.
        log: log file of a new agent.
        options: options of the command of a new agent.
        on_frames: called with the complete frames that arrived.

    Raises:
        SchedulerError: no agent can be started; the message contains the end of its log.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        sock = _reach(home / SOCKET)
        if sock is not None:
            _, connection = await loop.create_unix_connection(lambda: AgentConnection(on_frames), sock=sock)
            return connection
        try:
            code, output = await asyncio.to_thread(_start, home, log, options)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SchedulerError(f"the node agent in {home} cannot be started: {error}") from error
        # Another agent may hold the lock without listening yet or any more: try again.
        if code not in (READY, ALREADY_RUNNING) or loop.time() > deadline:
            if code == ALREADY_RUNNING:
                raise SchedulerError(
                    f"the node agent in {home} cannot be reached: a process holds {LOCK} there and does not "
                    f"listen on {SOCKET}; {HOW_TO_END_AGENT}"
                )
            raise SchedulerError(
                f"the node agent in {home} cannot be started: {output or f'exit code {code}'}"
            )
        if code == ALREADY_RUNNING:
            await asyncio.sleep(_RETRY_S)


def greeting(home: Path) -> bytes:
    """Return the first frame to send to an agent, with the secret of its home.

    The file may be missing for a moment; an agent of an older version has no secret.
    """
    try:
        secret = (home / SECRET).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        secret = ""
    return pack({"t": "hello", "secret": secret})


def _reach(path: Path) -> socket.socket | None:
    """Return a socket that is connected to the agent, or None if no agent listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= _LONGEST_PATH:
            sock.connect(str(path))
        else:
            with tempfile.TemporaryDirectory(prefix="cook-") as short:
                home_link = Path(short) / "home"
                home_link.symlink_to(path.parent)
                sock.connect(str(home_link / path.name))
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _start(home: Path, log: Path, options: Sequence[str]) -> tuple[int, str]:
    """Start an agent and wait until it listens; return the exit code of its command, and its log."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as errors:
        before = errors.tell()
        done = subprocess.run(
            agent_command(home, log, options),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            timeout=PATIENCE_S,
            check=False,
            cwd="/",
        )
    return done.returncode, _tail(log, before)


def _tail(log: Path, start: int) -> str:
    """Return the end of what was written to the log after the first `start` bytes."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            return printable(file.read().decode("utf-8", "replace")[-_LOG_TAIL:].strip(), lines=True)
    except OSError as error:
        return str(error)
