"""The output of instances: /v1/logs, in ranges, optionally waiting for more.

Lives here: ranges and waiting. Not here: reaching the files (`service.requests.instance_files`), the routes
of Cook's own clients (`api.files`).
"""

import asyncio

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import ALL_METHODS, instance_of
from cook_jupyter.api.query import not_found, parse_uuid
from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import JobId

STREAMS = ("stdout", "stderr")
DEFAULT_LENGTH = 1024 * 1024
MAX_WAIT_S = 20.0
MIN_POLL_INTERVAL_S = 0.02
MAX_POLL_INTERVAL_S = 0.25


class LogsHandler(CookHandler):
    """GET /v1/logs/:uuid."""

    impersonable = ALL_METHODS

    async def get(self, uuid: str) -> None:
        """Send a range of the output of an instance, or of the latest instance of a job."""
        uuid = parse_uuid(uuid, str)
        stream = self.param("stream") or "stdout"
        if stream not in STREAMS:
            raise InvalidRequest(f"the stream must be stdout or stderr, not {stream[:80]!r}")
        offset, length = self.number("offset", 0), self.number("length", DEFAULT_LENGTH)
        if offset < 0 or length < 0:
            raise InvalidRequest("offset and length must not be negative")
        deadline = asyncio.get_running_loop().time() + self._wait_s()
        pause = MIN_POLL_INTERVAL_S
        while True:
            # The status is read before the size, so if the instance has ended, the size is final.
            instance = await self._instance(uuid)
            ended = instance is not None and not instance.status.is_open
            data, size = await self._output(instance, stream, offset, min(length, DEFAULT_LENGTH))
            remaining = deadline - asyncio.get_running_loop().time()
            if size > offset or ended or remaining <= 0:
                break
            await asyncio.sleep(min(pause, remaining))
            pause = min(pause * 1.5, MAX_POLL_INTERVAL_S)
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("X-Cook-Offset", str(offset))
        self.set_header("X-Cook-Size", str(size))
        self.set_header("X-Cook-Ended", "true" if ended else "false")
        self.finish(data)

    async def _instance(self, uuid: str) -> Instance | None:
        """Return the instance with a uuid, or the latest instance of the job with that uuid, if any.

        Raises:
            NotFound: there is no such instance or job.
        """
        instance_id = InstanceId(uuid)
        (parent,) = await self.scheduler.jobs_of_instances([instance_id])
        if parent is not None:
            return instance_of(parent, instance_id)
        (job,) = await self.scheduler.jobs([JobId(uuid)])
        if job is None:
            raise not_found([uuid], "an instance or a job")
        return job.instances[-1] if job.instances else None

    async def _output(
        self, instance: Instance | None, stream: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        """Return a range of a stream, and the size of all of it; both empty if there is nothing to read."""
        if instance is None:
            return b"", 0
        try:
            async with self.scheduler.files.open(instance, stream) as file:
                return await file.read(offset, length) if file.size > offset else b"", file.size
        except (NotFound, InvalidRequest, OSError):  # not begun, removed, or replaced by something else
            return b"", 0

    def _wait_s(self) -> float:
        text = self.param("wait")
        try:
            wait_s = float(text or 0.0)
        except ValueError:
            raise InvalidRequest(f"wait must be a number of seconds, not {(text or '')[:80]!r}") from None
        if not 0 <= wait_s < float("inf"):
            raise InvalidRequest("wait must be finite and not negative")
        return min(wait_s, MAX_WAIT_S)
