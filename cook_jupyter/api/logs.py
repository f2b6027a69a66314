"""What instances wrote: /v1/logs, in ranges, waiting for more if asked to.

Lives here: ranges and waiting. Not here: who writes the files (`worker`), how Cook's own clients read
them (`api.files`).
"""

import asyncio
import os
import stat
from pathlib import Path

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import EVERY_VERB, instance_of
from cook_jupyter.api.query import unknown, uuid_of
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import Instance

STREAMS = ("stdout", "stderr")
DEFAULT_LENGTH = 1024 * 1024
LONGEST_WAIT_S = 20.0
FIRST_LOOK_S = 0.02
LAST_LOOK_S = 0.25


class LogsHandler(CookHandler):
    """GET /v1/logs/:uuid."""

    impersonable = EVERY_VERB

    async def get(self, uuid: str) -> None:
        """Send a range of what an instance, or a job's latest instance, wrote."""
        uuid = uuid_of(uuid)
        stream = self.param("stream") or "stdout"
        if stream not in STREAMS:
            raise InvalidRequest(f"the stream is stdout or stderr, not {stream[:80]!r}")
        offset, length = self.number("offset", 0), self.number("length", DEFAULT_LENGTH)
        if offset < 0 or length < 0:
            raise InvalidRequest("offset and length are not negative")
        until = asyncio.get_running_loop().time() + self._wait_s()
        pause = FIRST_LOOK_S
        while True:
            # The end is read before the size, so that "ended" means that nothing follows the size told.
            instance = await self._instance(uuid)
            ended = instance is not None and not instance.status.is_open
            path = _path(instance, stream)
            size = _size(path)
            left = until - asyncio.get_running_loop().time()
            if size > offset or ended or left <= 0:
                break
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, LAST_LOOK_S)
        data = await asyncio.to_thread(_read, path, offset, min(length, DEFAULT_LENGTH))
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("X-Cook-Offset", str(offset))
        self.set_header("X-Cook-Size", str(size))
        self.set_header("X-Cook-Ended", "true" if ended else "false")
        self.finish(data)

    async def _instance(self, uuid: str) -> Instance | None:
        """The instance; of a job its latest one, None if it never had one."""
        (parent,) = await self.scheduler.jobs_of_instances([uuid])
        if parent is not None:
            return instance_of(parent, uuid)
        (job,) = await self.scheduler.jobs([uuid])
        if job is None:
            raise unknown([uuid], "an instance or a job")
        return job.instances[-1] if job.instances else None

    def _wait_s(self) -> float:
        said = self.param("wait")
        try:
            wait_s = float(said or 0.0)
        except ValueError:
            raise InvalidRequest(f"wait is a number of seconds, not {(said or '')[:80]!r}") from None
        if not 0 <= wait_s < float("inf"):
            raise InvalidRequest("wait is not negative")
        return min(wait_s, LONGEST_WAIT_S)


def _path(instance: Instance | None, stream: str) -> Path | None:
    return None if instance is None or instance.sandbox is None else Path(instance.sandbox) / stream


def _size(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read(path: Path | None, offset: int, length: int) -> bytes:
    if path is None:
        return b""
    try:
        # A job may put what it likes in its sandbox: a link out of it, or a pipe, is not what it wrote.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, length, offset)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
