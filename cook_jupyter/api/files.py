"""Files of sandboxes, as a Mesos agent serves them: /files/browse, download, read.

Lives here: the three routes, and finding the instance that a path belongs to.
Not here: reaching the files, and keeping readers inside the sandbox (`service.requests.instance_files`);
/v1/logs, which the clients of cook_jupyter use (`api.logs`).

A path belongs to an instance if one of its directories is named after the instance.

Source: the REST specification, section 18.
"""

import codecs
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, TypeVar

from cook_jupyter.api.handler import PIECE_BYTES, CookHandler
from cook_jupyter.api.jobs import instance_of
from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.model.files import FileEntry, SandboxFile
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.wire.validation import to_json

MAX_READ_BYTES = 16 * 1024 * 1024  # of one /files/read

T = TypeVar("T")

_UUID = re.compile(r"\A[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class FilesHandler(CookHandler):
    """Base class of the handlers of files."""

    verb: ClassVar[str] = "read"

    async def ask(self, path: str, question: Callable[[Instance], Awaitable[T]]) -> T:
        """Ask about a path of each instance that one of its directories is named after: normally of one.

        Args:
            path: absolute path.
            question: the request for the files of one instance.

        Raises:
            NotFound: the path is not in a sandbox of any of them.
            InvalidRequest: the path is a directory, and the question is for a file.
        """
        parts = path.split("/") if path.startswith("/") else ()
        ids = [InstanceId(part) for part in parts if _UUID.match(part)]
        failure = NotFound(f"no such file in a sandbox: {path[:200]!r}")
        for instance_id, job in zip(ids, await self.scheduler.jobs_of_instances(ids), strict=True):
            if job is not None:
                try:
                    return await question(instance_of(job, instance_id))
                except NotFound as error:
                    failure = error
        raise failure

    @asynccontextmanager
    async def open_file(self) -> AsyncIterator[SandboxFile]:
        """Open the file in the parameter `path`, with the messages of a Mesos agent."""
        path = self.path_text()
        async with AsyncExitStack() as stack:

            async def enter(instance: Instance) -> SandboxFile:
                return await stack.enter_async_context(self.scheduler.files.open(instance, path))

            try:
                file = await self.ask(path, enter)
            except InvalidRequest:
                raise InvalidRequest(f"Cannot {self.verb} a directory") from None
            yield file

    def path_text(self) -> str:
        """Return the parameter `path`.

        Raises:
            InvalidRequest: the parameter is missing.
        """
        path = self.param("path")
        if not path:
            raise InvalidRequest("Expecting 'path=value'")
        return path


class BrowseHandler(FilesHandler):
    """GET /files/browse."""

    async def get(self) -> None:
        """List a directory; a file has nothing in it."""
        path = self.path_text()
        entries = await self.ask(path, lambda instance: self.scheduler.files.browse(instance, path))
        self.send_json([_entry_body(entry, path) for entry in entries])


class DownloadHandler(FilesHandler):
    """GET /files/download."""

    verb = "download"

    async def get(self) -> None:
        """Send the content of a file."""
        async with self.open_file() as file:
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Content-Length", str(file.size))
            offset = 0
            while piece := await file.read(offset, min(PIECE_BYTES, file.size - offset)):
                offset += len(piece)
                await self.send_piece(piece)


class ReadHandler(FilesHandler):
    """GET /files/read."""

    async def get(self) -> None:
        """Send a part of a file as text in JSON; without an offset, return the size of the file."""
        offset, length = self._bound("offset"), self._bound("length")
        async with self.open_file() as file:
            if offset == -1:
                self.send_json({"data": "", "offset": file.size})
                return
            max_length = MAX_READ_BYTES if length == -1 else min(length, MAX_READ_BYTES)
            await self.send_fragments(_encoded(file, offset, max_length))

    def _bound(self, name: str) -> int:
        text = self.param(name)
        if text is None:
            return -1
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise InvalidRequest(f"Failed to parse {name}")
        if int(text) < -1:
            raise InvalidRequest(f"Negative {name} provided")
        return int(text)


async def _encoded(file: SandboxFile, offset: int, length: int) -> AsyncIterator[bytes]:
    """Yield the JSON of a part of a file in fragments."""
    yield b'{"data":"'
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    position, end = offset, offset + length
    while position < end and (data := await file.read(position, min(PIECE_BYTES, end - position))):
        position += len(data)
        yield to_json(decoder.decode(data))[1:-1]
    yield to_json(decoder.decode(b"", final=True))[1:-1] + b'","offset":%d}' % offset


def _entry_body(entry: FileEntry, directory: str) -> dict[str, Any]:
    return {
        "path": f"{directory.rstrip('/')}/{entry.name}",
        "mode": stat.filemode(entry.mode),
        # Cook's clients take what has several links for a directory.
        "nlink": max(2, entry.link_count) if entry.is_directory else entry.link_count,
        "size": entry.size,
        "mtime": entry.modified_s,
        "uid": entry.uid,
        "gid": entry.gid,
    }
