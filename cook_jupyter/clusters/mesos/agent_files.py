"""Files on an agent, through its v1 operator API.

Lives here: `AgentFiles`, with the calls LIST_FILES and READ_FILE.
Not here: which files belong to an instance (`clusters.mesos.sandboxes`), connections
(`clusters.mesos.transport.http_calls`).

An agent has three ways to read a file. /files/read writes the bytes into JSON as they are, which damages
all but UTF-8; /files/download sends whole files only. READ_FILE gives any range, in base64, 64 KiB at a time.
With calls in a pipeline it is fast enough for everything, so no other is used here.

An agent resolves links, lets no path out of the sandbox of an executor, and lists what a link leads to. It
would wait for a writer when it reads a pipe: list a file before it is read.

Source: docs/operator-http-api.md of Apache Mesos, and what a real 1.11.0 does.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import msgspec

from cook_jupyter.clusters.mesos.messages import JsonObject, TimeInfo
from cook_jupyter.clusters.mesos.transport.connection import CallFailed
from cook_jupyter.clusters.mesos.transport.http_calls import CallLane, Endpoint, Header
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress
from cook_jupyter.model.files import FileEntry

_API: Final = "/api/v1"
_MAX_READ: Final = 64 << 10  # bytes that an agent returns at once
_READS_AT_A_TIME: Final = 16
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 20.0


class FilesFailed(Exception):
    """An agent did not do what was asked. These errors stay inside of `clusters.mesos`."""


class AgentUnreachable(FilesFailed):
    """There was no answer, or one that is not an agent's; the message says why."""


class AgentRefuses(FilesFailed):
    """The agent requires other credentials, or does not allow this principal to read the file."""


class FileInaccessible(FilesFailed):
    """The path does not exist, leads out of the sandbox of its executor, or cannot be read by the agent."""


class NotAFile(FilesFailed):
    """The path is a directory."""


class _FileInfo(msgspec.Struct, frozen=True):
    path: str
    nlink: int = 1
    size: int = 0
    mtime: TimeInfo = TimeInfo(nanoseconds=0)
    mode: int = 0
    uid: str = ""
    gid: str = ""


class AgentFiles:
    """The files of one agent, over one connection: an asynchronous context manager.

    Args:
        url: URL of the agent.
        headers: headers of each request, such as credentials.
        ssl_context: context for an agent that serves https.
    """

    def __init__(
        self, url: str, *, headers: Sequence[Header] = (), ssl_context: ssl.SSLContext | None = None
    ) -> None:
        address = MasterAddress.parse(url)
        endpoint = Endpoint(
            address=address,
            path=_API,
            headers=tuple(headers),
            ssl_context=ssl_context if url.startswith("https:") else None,
            connect_s=_CONNECT_S,
        )
        self._lane = CallLane(endpoint, depth=_READS_AT_A_TIME, deadline_s=_ANSWER_S)

    async def __aenter__(self) -> Self:
        """Return the files; the first call connects."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._lane.refuse("the file was closed")
        await self._lane.close()

    async def list(self, path: str) -> list[FileEntry]:
        """Return the entries of a directory in the order of their names; none of a file.

        Links appear as what they lead to. A root that was removed, and is still attached, has no entries.

        Raises:
            FilesFailed: one of its kinds.
        """
        answer = await self._call("LIST_FILES", {"path": path})
        try:
            infos = msgspec.convert(answer.get("file_infos", []), list[_FileInfo])
        except msgspec.ValidationError as error:
            raise AgentUnreachable(f"its answer is not that of a Mesos agent: {error}") from error
        entries = (
            FileEntry(
                name=info.path.rpartition("/")[2],
                mode=info.mode,
                is_directory=(info.mode & 0o170000) == 0o040000,
                link_count=info.nlink,
                size=info.size,
                modified_s=info.mtime.nanoseconds // 1_000_000_000,
                uid=info.uid,
                gid=info.gid,
            )
            for info in infos
        )
        return sorted(entries, key=lambda entry: entry.name)

    async def is_directory(self, path: str) -> bool:
        """Return whether a path is a directory. A listing does not tell if the directory is empty, or gone.

        Raises:
            FilesFailed: the agent does not answer, or refuses.
        """
        try:
            await self._read(path, 0, 0)
        except NotAFile:
            return True
        except FileInaccessible:
            return False
        return False

    async def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a regular file from `offset` on: fewer than `length` at its end, none beyond it.

        Raises:
            FilesFailed: one of its kinds.
        """
        parts: list[bytes] = []
        while length > 0:
            wanted = [
                min(_MAX_READ, length - start)
                for start in range(0, min(length, _READS_AT_A_TIME * _MAX_READ), _MAX_READ)
            ]
            starts = range(offset, offset + len(wanted) * _MAX_READ, _MAX_READ)
            reads = (self._read(path, start, size) for start, size in zip(starts, wanted, strict=True))
            received = await asyncio.gather(*reads)
            for part, size in zip(received, wanted, strict=True):
                parts.append(part)
                if len(part) < size:
                    return b"".join(parts)
            offset += sum(wanted)
            length -= sum(wanted)
        return b"".join(parts)

    async def _read(self, path: str, offset: int, length: int) -> bytes:
        answer = await self._call("READ_FILE", {"path": path, "offset": offset, "length": length})
        try:
            return base64.b64decode(answer.get("data", ""))[:length]
        except ValueError as error:
            raise AgentUnreachable(f"its answer is not that of a Mesos agent: {error}") from error

    async def _call(self, kind: str, fields: JsonObject) -> JsonObject:
        """Make a call, and return the answer.

        Names of files are bytes; those that are not UTF-8 travel as they are, which Mesos allows.
        """
        call = {"type": kind, kind.lower(): fields}
        try:
            body = json.dumps(call, ensure_ascii=False).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise FileInaccessible("the path cannot be that of a file") from None
        try:
            answer = await self._lane.send(body, repeatable=True)
        except CallFailed as error:
            raise AgentUnreachable(str(error)) from error
        if answer.status in (401, 403):
            raise AgentRefuses(answer.text or f"status {answer.status}")
        if answer.status == 400 and answer.body.startswith(b"Cannot read a directory"):
            raise NotAFile
        if answer.status in (400, 404) or answer.body.startswith(b"Failed to open file"):
            raise FileInaccessible(answer.text)
        try:
            content = (
                json.loads(answer.body.decode("utf-8", "surrogateescape")) if answer.status == 200 else {}
            )
            return content[kind.lower()] or {}
        except (ValueError, KeyError, TypeError):
            raise AgentUnreachable(f"it answered with status {answer.status}: {answer.text}") from None
