"""Files of sandboxes on this machine, as a Mesos agent serves them: /files/browse, download, read.

Lives here: which path is a sandbox's, and the three ways to look at it.
Not here: what our own clients use, /v1/logs (`api.logs`).

A path counts only if one of its directories is named after an instance whose sandbox it is, and if it
still lies in there when every symbolic link is followed: a job must not be able to show the
scheduler's files.

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
from cook_jupyter.wire.shape import to_json

MOST_READ_BYTES = 16 * 1024 * 1024  # of one /files/read

_UUID = re.compile(r"\A[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class FilesHandler(CookHandler):
    """What the three have in common."""

    verb: ClassVar[str] = "read"

    async def sandbox_path(self) -> Path:
        """Return the file or directory that the request means.

        Raises:
            InvalidRequest: it names none.
            NotFound: there is none, or it is not in a sandbox.
        """
        named = self.param("path")
        if not named:
            raise InvalidRequest("Expecting 'path=value'")
        unknown = NotFound(f"no such file in a sandbox: {named[:200]!r}")
        if "\0" in named:
            raise unknown
        asked = Path(named)
        ids = [part for part in asked.parts if _UUID.match(part)]
        for instance_id, job in zip(ids, await self.scheduler.jobs_of_instances(ids), strict=True):
            sandbox = None if job is None else instance_of(job, instance_id).sandbox
            if sandbox is not None:
                real = await asyncio.to_thread(_inside, asked, Path(sandbox))
                if real is not None:
                    return real
        raise unknown

    def refuse_directory(self, path: Path) -> None:
        """Refuse a directory, in the Mesos agent's words."""
        if path.is_dir():
            raise InvalidRequest(f"Cannot {self.verb} a directory")


class BrowseHandler(FilesHandler):
    """GET /files/browse."""

    async def get(self) -> None:
        """List a directory; a file has nothing in it."""
        path = await self.sandbox_path()
        self.answer(await asyncio.to_thread(_listing, path, self.param("path") or ""))


class DownloadHandler(FilesHandler):
    """GET /files/download."""

    verb = "download"

    async def get(self) -> None:
        """Send a file as it is."""
        path = await self.sandbox_path()
        self.refuse_directory(path)
        with _opened(path) as file:
            self.set_header("Content-Type", "application/octet-stream")
            left = path.stat().st_size
            self.set_header("Content-Length", str(left))
            while left > 0:
                piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, left))
                if not piece:
                    break
                left -= len(piece)
                await self.send_piece(piece)


class ReadHandler(FilesHandler):
    """GET /files/read."""

    async def get(self) -> None:
        """Send a part of a file as text in JSON; without an offset, only say how long it is."""
        offset, length = self._bound("offset"), self._bound("length")
        path = await self.sandbox_path()
        self.refuse_directory(path)
        with _opened(path) as file:
            size = path.stat().st_size
            if offset == -1:
                self.answer({"data": "", "offset": size})
                return
            most = MOST_READ_BYTES if length == -1 else min(length, MOST_READ_BYTES)
            file.seek(offset)
            await self.answer_in_pieces(self._encoded(file, most, offset))

    async def _encoded(self, file: BinaryIO, length: int, offset: int) -> AsyncIterator[bytes]:
        """Yield what comes next in a file as text in JSON, in fragments."""
        yield b'{"data":"'
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        left = length
        while left > 0 and (data := await asyncio.to_thread(file.read, min(PIECE_BYTES, left))):
            left -= len(data)
            yield to_json(decoder.decode(data))[1:-1]
        yield to_json(decoder.decode(b"", final=True))[1:-1] + b'","offset":%d}' % offset

    def _bound(self, name: str) -> int:
        said = self.param(name)
        if said is None:
            return -1
        if not re.fullmatch(r"-?[0-9]{1,18}", said):
            raise InvalidRequest(f"Failed to parse {name}")
        if int(said) < -1:
            raise InvalidRequest(f"Negative {name} provided")
        return int(said)


def _inside(asked: Path, sandbox: Path) -> Path | None:
    """The real path of `asked`, if it is there and lies in the sandbox."""
    try:
        real, root = asked.resolve(strict=True), sandbox.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return real if real == root or root in real.parents else None


def _opened(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end, a socket never begin
            raise NotFound(f"not a file: {path.name!r}")
        return path.open("rb")
    except OSError as error:
        raise NotFound(f"the file {path.name!r} cannot be read: {error.strerror}") from error


def _listing(directory: Path, named: str) -> list[dict[str, Any]]:
    if not directory.is_dir():
        return []
    told = []
    for entry in sorted(directory.iterdir()):
        try:
            found = entry.lstat()
        except OSError:  # it went away meanwhile
            continue
        told.append(
            {
                "path": f"{named.rstrip('/')}/{entry.name}",
                "mode": stat.filemode(found.st_mode),
                "nlink": found.st_nlink if not entry.is_dir() else max(2, found.st_nlink),
                "size": found.st_size,
                "mtime": int(found.st_mtime),
                "uid": str(found.st_uid),
                "gid": str(found.st_gid),
            }
        )
    return told
