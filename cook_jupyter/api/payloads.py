"""Calls and results as opaque bytes: /v1/results and /v1/blobs.

Lives here: sending and receiving bytes, which are never decoded here; only clients and workers do that
(`payload`).
Not here: the blob store (`payload.blobs`); clients and workers that reach it do not come this way.
"""

import asyncio
import contextlib
import hashlib

from tornado.web import stream_request_body

from cook_jupyter.api.handler import PIECE_BYTES, CookHandler
from cook_jupyter.api.jobs import ALL_METHODS
from cook_jupyter.errors import Conflict, InvalidRequest, NotFound, StoreFull
from cook_jupyter.model.job import JobState
from cook_jupyter.payload.blobs import ServedBlobStore, checked_name
from cook_jupyter.payload.drafts import BlobDraft

BYTES = "application/octet-stream"


class ResultHandler(CookHandler):
    """GET /v1/results/:uuid."""

    impersonable = ALL_METHODS

    async def get(self, uuid: str) -> None:
        """Send the result of a completed job."""
        job = await self.require_job(uuid)
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
            await send_blob(self, result.blob or "")


@stream_request_body
class BlobHandler(CookHandler):
    """GET, HEAD and PUT /v1/blobs/:name."""

    impersonable = ALL_METHODS
    _draft: BlobDraft | None = None
    _failure: OSError | StoreFull | None = None
    _size = 0

    @property
    def _blobs(self) -> ServedBlobStore:
        return self.scheduler.blobs

    async def prepare(self) -> None:
        """Begin a draft of the blob before the first bytes arrive."""
        await super().prepare()
        if self._finished or self.request.method != "PUT":
            return
        self._digest = hashlib.sha256()
        try:
            self._draft = self._blobs.draft(self.path_args[0])
        except InvalidRequest:
            return  # reported after the last byte
        except (OSError, StoreFull) as failure:
            self._failure = failure

    def data_received(self, chunk: bytes) -> None:
        """Write some bytes; errors are reported after the last byte, so that the connection survives."""
        if self._draft is None or self._failure is not None:
            return
        try:
            self._draft.write(chunk)
        except (OSError, StoreFull) as failure:
            self._failure = failure
        self._digest.update(chunk)
        self._size += len(chunk)

    async def put(self, name: str) -> None:
        """Store the blob; it may be sent again, but not with other bytes."""
        _require_name(name)
        if self._failure is not None or self._draft is None:
            raise _not_stored(name, self._failure)
        digest = self._digest.hexdigest()
        is_function = name.startswith("functions/")
        if is_function and name != f"functions/{digest}":
            raise InvalidRequest(f"the bytes sent as {name} have the digest {digest}")
        try:
            is_stored = await asyncio.to_thread(self._blobs.holds, name, self._size, digest)
            if not is_stored:
                if not is_function and self._blobs.has(name):
                    raise Conflict(f"the blob {name} already exists with other bytes")
                # A function is named by its digest, so one with another digest is damaged and is replaced.
                await asyncio.to_thread(self._draft.commit)
        except (OSError, StoreFull) as failure:
            raise _not_stored(name, failure) from failure
        self.send_json({"name": name, "size": self._size}, 201)

    async def get(self, name: str) -> None:
        """Send the blob."""
        await send_blob(self, name)

    async def head(self, name: str) -> None:
        """Send the size of the blob, or 404 if it does not exist."""
        size = _size_of(self._blobs, name)
        self.set_header("Content-Type", BYTES)
        self.set_header("Content-Length", str(size))
        self.finish()

    def on_finish(self) -> None:
        """Remove the draft if the blob was not stored."""
        self._discard()

    def on_connection_close(self) -> None:
        """Remove the draft of an incomplete upload."""
        self._discard()

    def _discard(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()


async def send_blob(handler: CookHandler, name: str) -> None:
    """Send a blob as the whole response, in pieces, as fast as the client accepts them.

    Raises:
        NotFound: there is no such blob, or the name is not valid for one.
    """
    blobs = handler.scheduler.blobs
    size = _size_of(blobs, name)
    with contextlib.closing(await asyncio.to_thread(blobs.open, name)) as blob:
        handler.set_header("Content-Type", BYTES)
        handler.set_header("Content-Length", str(size))
        while piece := await asyncio.to_thread(blob.read, PIECE_BYTES):
            await handler.send_piece(piece)


def _size_of(blobs: ServedBlobStore, name: str) -> int:
    _require_name(name)
    size = blobs.size(name)
    if size is None:
        raise NotFound(f"there is no blob {name}")
    return size


def _require_name(name: str) -> None:
    """Refuse what is not the name of a blob.

    Raises:
        NotFound: the name is not valid for a blob.
    """
    try:
        checked_name(name)
    except InvalidRequest:
        raise NotFound(
            f"no blob is called {name[:80]!r}: valid names are functions/SHA256, calls/UUID and results/UUID"
        ) from None


def _not_stored(name: str, failure: OSError | StoreFull | None) -> StoreFull:
    if isinstance(failure, StoreFull):
        return failure
    problem = "its directory cannot be made" if failure is None else failure.strerror
    return StoreFull(f"the blob {name} cannot be written: {problem}")
