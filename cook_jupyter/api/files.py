"""Files of sandboxes on this machine, as a Mesos agent serves them: /files/browse, download, read.

Lives here: the three routes, and the check that a path is inside a sandbox.
Not here: /v1/logs, which the clients of cook_jupyter use (`api.logs`).

A path is only served if one of its directories is named after an instance, and the path is inside the sandbox
of that instance after all symbolic links are resolved. Otherwise a job could expose the files of the
scheduler.

Source: the REST specification, section 18.
"""

import asyncio
import codecs
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from cook_jupyter.api.handler import PIECE_BYTES, CookHandler
from cook_jupyter.api.jobs import instance_of
from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.wire.validation import to_json

MAX_READ_BYTES = 16 * 1024 * 1024  # of one /files/read

_UUID = re.compile(r"\A[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class FilesHandler(CookHandler):
    """Base class of the handlers of files."""

    verb: ClassVar[str] = "read"

    async def sandbox_path(self) -> Path:
        """Return the file or directory in the parameter `path`, with all symbolic links resolved.

        Raises:
            InvalidRequest: the parameter is missing.
            NotFound: the path does not exist, or is not inside a sandbox.
        """
        path_text = self.param("path")
        if not path_text:
            raise InvalidRequest("Expecting 'path=value'")
        not_found = NotFound(f"no such file in a sandbox: {path_text[:200]!r}")
        if "\0" in path_text:
            raise not_found
        path = Path(path_text)
        ids = [part for part in path.parts if _UUID.match(part)]
        for instance_id, job in zip(ids, await self.scheduler.jobs_of_instances(ids), strict=True):
            sandbox = None if job is None else instance_of(job, instance_id).sandbox
            if sandbox is not None:
                resolved = await asyncio.to_thread(_resolve_within, path, Path(sandbox))
                if resolved is not None:
                    return resolved
        raise not_found

    def refuse_directory(self, path: Path) -> None:
        """Refuse a directory with the message of a Mesos agent."""
        if path.is_dir():
            raise InvalidRequest(f"Cannot {self.verb} a directory")


class BrowseHandler(FilesHandler):
    """GET /files/browse."""

    async def get(self) -> None:
        """List a directory; a file has nothing in it."""
        path = await self.sandbox_path()
        self.send_json(await asyncio.to_thread(_list_directory, path, self.param("path") or ""))


class DownloadHandler(FilesHandler):
    """GET /files/download."""

    verb = "download"

    async def get(self) -> None:
        """Send the content of a file."""
        path = await self.sandbox_path()
        self.refuse_directory(path)
        with _open_file(path) as file:
            self.set_header("Content-Type", "application/octet-stream")
            remaining = path.stat().st_size
            self.set_header("Content-Length", str(remaining))
            while remaining > 0:
                piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, remaining))
                if not piece:
                    break
                remaining -= len(piece)
                await self.send_piece(piece)


class ReadHandler(FilesHandler):
    """GET /files/read."""

    async def get(self) -> None:
        """Send a part of a file as text in JSON; without an offset, return the size of the file."""
        offset, length = self._bound("offset"), self._bound("length")
        path = await self.sandbox_path()
        self.refuse_directory(path)
        with _open_file(path) as file:
            size = path.stat().st_size
            if offset == -1:
                self.send_json({"data": "", "offset": size})
                return
            max_length = MAX_READ_BYTES if length == -1 else min(length, MAX_READ_BYTES)
            file.seek(offset)
            await self.send_fragments(self._encoded(file, max_length, offset))

    async def _encoded(self, file: BinaryIO, length: int, offset: int) -> AsyncIterator[bytes]:
        """Yield the JSON of the next part of a file in fragments."""
        yield b'{"data":"'
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        remaining = length
        while remaining > 0 and (data := await asyncio.to_thread(file.read, min(PIECE_BYTES, remaining))):
            remaining -= len(data)
            yield to_json(decoder.decode(data))[1:-1]
        yield to_json(decoder.decode(b"", final=True))[1:-1] + b'","offset":%d}' % offset

    def _bound(self, name: str) -> int:
        text = self.param(name)
        if text is None:
            return -1
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise InvalidRequest(f"Failed to parse {name}")
        if int(text) < -1:
            raise InvalidRequest(f"Negative {name} provided")
        return int(text)


def _resolve_within(path: Path, sandbox: Path) -> Path | None:
    """Resolve a path; return None if it does not exist or is outside the sandbox."""
    try:
        resolved, root = path.resolve(strict=True), sandbox.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return resolved if resolved == root or root in resolved.parents else None


def _open_file(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe might never end
            raise NotFound(f"not a file: {path.name!r}")
        return path.open("rb")
    except OSError as error:
        raise NotFound(f"the file {path.name!r} cannot be read: {error.strerror}") from error


def _list_directory(directory: Path, path_text: str) -> list[dict[str, Any]]:
    if not directory.is_dir():
        return []
    entries = []
    for entry in sorted(directory.iterdir()):
        try:
            status = entry.lstat()
        except OSError:  # it was removed in the meantime
            continue
        entries.append(
            {
                "path": f"{path_text.rstrip('/')}/{entry.name}",
                "mode": stat.filemode(status.st_mode),
                "nlink": status.st_nlink if not entry.is_dir() else max(2, status.st_nlink),
                "size": status.st_size,
                "mtime": int(status.st_mtime),
                "uid": str(status.st_uid),
                "gid": str(status.st_gid),
            }
        )
    return entries
