"""Calls and results as opaque bytes: /v1/results and /v1/blobs.

Lives here: sending and receiving bytes, which are never decoded here; only clients and workers do that
(`payload`).
Not here: large blobs on a shared file system, which clients and workers access themselves.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import IO

from tornado.web import stream_request_body

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import ALL_METHODS
from cook_jupyter.errors import Conflict, InvalidRequest, NotFound, StoreFull
from cook_jupyter.model.job import JobState
from cook_jupyter.payload.blobs import sync_directory

PIECE_BYTES = 256 * 1024
BYTES = "application/octet-stream"

_NAME = re.compile(
    r"\A(?:functions/[0-9a-f]{64}|(?:calls|results)/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z"
)


class ResultHandler(CookHandler):
    """GET /v1/results/:uuid."""

    impersonable = ALL_METHODS

    async def get(self, job_id: str) -> None:
        """Send the result of a completed job."""
        job = await self.require_job(job_id)
        job_id = job.job_id
        if job.state is not JobState.COMPLETED:
            raise Conflict(f"job {job_id} is {job.state.value}: it has no result until it is completed")
        result = await self.scheduler.result(job_id)
        if result is None:
            raise NotFound(f"job {job_id} is completed and has no result", missing=(job_id,))
        self.set_header("Content-Type", BYTES)
        if result.inline is not None:
            self.finish(result.inline)
        else:
            await send_file(self, blob_path(self.scheduler.blobs, result.blob or ""))


@stream_request_body
class BlobHandler(CookHandler):
    """GET, HEAD and PUT /v1/blobs/:name."""

    impersonable = ALL_METHODS
    _file: IO[bytes] | None = None
    _failure: OSError | None = None
    _size = 0

    async def prepare(self) -> None:
        """Open a temporary file beside the blob before the first bytes arrive."""
        await super().prepare()
        name = self.path_args[0]
        if self._finished or self.request.method != "PUT" or not _NAME.match(name):
            return
        self._digest = hashlib.sha256()
        path = blob_path(self.scheduler.blobs, name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 (it lives as long as the request)
                dir=path.parent, prefix=".incoming-", delete=False
            )
        except OSError as failure:
            self._failure = failure

    def data_received(self, chunk: bytes) -> None:
        """Write some bytes; errors are reported after the last byte, so that the connection survives."""
        if self._file is None or self._failure is not None:
            return
        try:
            self._file.write(chunk)
        except OSError as failure:
            self._failure = failure
        self._digest.update(chunk)
        self._size += len(chunk)

    async def put(self, name: str) -> None:
        """Store the blob; it may be sent again, but not with other bytes."""
        path = blob_path(self.scheduler.blobs, name)
        if self._failure is not None or self._file is None:
            raise _full(name, self._failure)
        digest = self._digest.hexdigest()
        if name.startswith("functions/") and name != f"functions/{digest}":
            raise InvalidRequest(f"the bytes sent as {name} have the digest {digest}")
        synced = self.context.settings.store.synchronous == "FULL"
        try:
            self._file.flush()
            if synced:
                await asyncio.to_thread(os.fsync, self._file.fileno())
            self._file.close()
            stored = await asyncio.to_thread(_digest_of, path) if path.exists() else None
            if stored != digest:
                if stored is not None and not name.startswith("functions/"):
                    raise Conflict(f"the blob {name} already exists with other bytes")
                # A function is named by its digest, so one with another digest is damaged and is replaced.
                os.replace(self._file.name, path)  # noqa: PTH105 (of two names; it does not wait for the disk)
                self._file = None
                if synced:
                    await asyncio.to_thread(sync_directory, path.parent)
        except OSError as failure:
            raise _full(name, failure) from failure
        self.send_json({"name": name, "size": self._size}, 201)

    async def get(self, name: str) -> None:
        """Send the blob."""
        await send_file(self, blob_path(self.scheduler.blobs, name))

    async def head(self, name: str) -> None:
        """Send the size of the blob, or 404 if it does not exist."""
        size = _size_of(blob_path(self.scheduler.blobs, name))
        self.set_header("Content-Type", BYTES)
        self.set_header("Content-Length", str(size))
        self.finish()

    def on_finish(self) -> None:
        """Remove the temporary file if the blob was not stored."""
        self._discard()

    def on_connection_close(self) -> None:
        """Remove the temporary file of an incomplete upload."""
        self._discard()

    def _discard(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # closing flushes the buffer, and the disk may be full
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
        self._file = None


async def send_file(handler: CookHandler, path: Path) -> None:
    """Send a file as the whole response, in pieces, as fast as the client accepts them."""
    size = _size_of(path)
    handler.set_header("Content-Type", BYTES)
    handler.set_header("Content-Length", str(size))
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            await handler.send_piece(piece)


def blob_path(root: Path, name: str) -> Path:
    """Return the path of a blob.

    Raises:
        NotFound: the name is not valid for a blob.
    """
    if not _NAME.match(name):
        raise NotFound(
            f"no blob is called {name[:80]!r}: valid names are functions/SHA256, calls/UUID and results/UUID"
        )
    return root / name


def _full(name: str, failure: OSError | None) -> StoreFull:
    problem = "its directory cannot be made" if failure is None else failure.strerror
    return StoreFull(f"the blob {name} cannot be written: {problem}")


def _size_of(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (on the path of every call)
    except FileNotFoundError:
        raise NotFound(f"there is no blob {path.parent.name}/{path.name}") from None


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
