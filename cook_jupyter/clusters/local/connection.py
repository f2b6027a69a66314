"""The connection to the node agent: finding it, starting it if there is none, frames both ways.

Lives here: everything between two sockets, and between a dead agent and a living one.
Not here: what the frames mean (`clusters.local.cluster`).
"""

import asyncio
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cook_jupyter.clusters.local.agent_command import agent_words
from cook_jupyter.errors import SchedulerError
from cook_jupyter.model.printable import printable
from cook_jupyter.worker.address import ALREADY_RUNNING, LOCK, READY, SECRET, SOCKET
from cook_jupyter.worker.frames import BrokenStream, Frame, FrameReader, pack

PATIENCE_S = 15.0  # for another agent that is just coming or going
HOW_TO_END_AGENT = (
    "end it with `kill -9` (its process id is in agent.json there): what it runs goes on, and the next agent "
    "takes over"
)
_RETRY_S = 0.02
_LONGEST_PATH = 100  # bytes; the kernel's limit is 104 (macOS) or 108 (Linux)
_LOG_TAIL = 2000  # characters of the agent's log that go into an error


class AgentConnection(asyncio.Protocol):
    """One connection.

    Args:
        on_frames: called with what arrived, whole frames only.
    """

    def __init__(self, on_frames: Callable[["AgentConnection", Sequence[Frame]], None]) -> None:
        self._on_frames = on_frames
        self._reader = FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self.lost = asyncio.Event()
        self.refusal: str | None = None  # why the agent does not accept this connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream socket's is
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        try:
            frames = self._reader.feed(data)
        except BrokenStream:
            self.close()
            return
        if frames:
            self._on_frames(self, frames)

    def connection_lost(self, _exc: Exception | None) -> None:
        """End."""
        self.lost.set()

    def send(self, *frames: bytes) -> None:
        """Send frames, together; what a lost connection swallows is sent again on the next one."""
        if self._transport is not None and frames:
            self._transport.write(b"".join(frames))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


async def connect(
    home: Path,
    log: Path,
    options: Sequence[str],
    on_frames: Callable[[AgentConnection, Sequence[Frame]], None],
) -> AgentConnection:
    """Return a connection to the agent of this home, which is started if it does not run.

    Args:
        home: the agent's folder.
        log: where a new agent writes its log.
        options: further words for a new agent.
        on_frames: see `AgentConnection`.

    Raises:
        SchedulerError: it cannot be started; the message holds the end of its log.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        sock = _reach(home / SOCKET)
        if sock is not None:
            _, link = await loop.create_unix_connection(lambda: AgentConnection(on_frames), sock=sock)
            return link
        try:
            code, said = await asyncio.to_thread(_start, home, log, options)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SchedulerError(f"the node agent in {home} cannot be started: {error}") from error
        # Another one may hold the lock and not listen yet, or no longer: it is asked again.
        if code not in (READY, ALREADY_RUNNING) or loop.time() > deadline:
            if code == ALREADY_RUNNING:
                raise SchedulerError(
                    f"the node agent in {home} cannot be reached: a process holds {LOCK} there and does not "
                    f"listen on {SOCKET}; {HOW_TO_END_AGENT}"
                )
            raise SchedulerError(f"the node agent in {home} cannot be started: {said or f'exit code {code}'}")
        if code == ALREADY_RUNNING:
            await asyncio.sleep(_RETRY_S)


def greeting(home: Path) -> bytes:
    """Return the first frame to send to the agent of this home: it shows the secret.

    The file may be missing for a moment; an agent of an older version has none and asks for none.
    """
    try:
        secret = (home / SECRET).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        secret = ""
    return pack({"t": "hello", "secret": secret})


def _reach(path: Path) -> socket.socket | None:
    """A socket connected to the agent; None if nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= _LONGEST_PATH:
            sock.connect(str(path))
        else:
            with tempfile.TemporaryDirectory(prefix="cook-") as short:
                link = Path(short) / "home"
                link.symlink_to(path.parent)
                sock.connect(str(link / path.name))
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _start(home: Path, log: Path, options: Sequence[str]) -> tuple[int, str]:
    """Start an agent; return when it listens, with its exit code and what it wrote to its log."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as errors:
        before = errors.tell()
        done = subprocess.run(
            agent_words(home, log, options),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            timeout=PATIENCE_S,
            check=False,
            cwd="/",
        )
    return done.returncode, _tail(log, before)


def _tail(log: Path, start: int) -> str:
    """What was written to the log since it had this size, or the end of that."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            return printable(file.read().decode("utf-8", "replace")[-_LOG_TAIL:].strip(), lines=True)
    except OSError as error:
        return str(error)
