"""Results that executors leave in files, because a status of Mesos should be small.

Lives here: `ResultFetcher`, which completes an end with its result. Not here: reading files of agents
(`clusters.mesos.sandboxes`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from cook_jupyter.clusters import translation
from cook_jupyter.errors import CookError
from cook_jupyter.model.instance import InstanceId, ResultPayload, StatusUpdate
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import Header

log = logging.getLogger(__name__)

_TRIES: Final = 3  # for a file that is not there, or is another one
_FIRST_PAUSE_S: Final = 1.0  # it doubles
_LAST_PAUSE_S: Final = 30.0


class ResultFiles(Protocol):
    """Access to files of hosts."""

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        """Return a file of a host, with size and SHA-256 verified.

        Raises:
            ConnectionError: the host cannot be reached at present.
            CookError: the file cannot be read, or is not what was described.
        """


class ResultFetcher:
    """Fetches results in the background.

    Args:
        files: access to files of hosts.
        patience_s: time for which a host is waited for that cannot be reached.
    """

    def __init__(self, files: ResultFiles, *, patience_s: float) -> None:
        self._files = files
        self._patience_s = patience_s
        self._tasks: dict[InstanceId, asyncio.Task[None]] = {}

    def __contains__(self, instance_id: object) -> bool:
        """Return whether the result of an instance is being fetched."""
        return instance_id in self._tasks

    def fetch(
        self, host: str, end: Header, update: StatusUpdate, report: Callable[[StatusUpdate], None]
    ) -> None:
        """Report an end once its result is there.

        If the file is gone, or is another one, the end is reported without a result. If its host does not
        come back, the instance is reported lost, through no fault of its own: its job runs again.

        Args:
            host: host of the instance.
            end: header of the end, which describes the file.
            update: the end without its result.
            report: called with the end.
        """
        task = asyncio.create_task(self._fetch(host, end, update, report))
        self._tasks[update.instance_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(update.instance_id, None))

    async def close(self) -> None:
        """Stop fetching. The ends were not acknowledged, so Mesos repeats them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(
        self, host: str, end: Header, update: StatusUpdate, report: Callable[[StatusUpdate], None]
    ) -> None:
        described = end["result_file"]
        path = f"{end['sandbox']}/{described['name']}"
        deadline_s = time.monotonic() + self._patience_s
        pause_s, refusals = _FIRST_PAUSE_S, 0
        while True:
            try:
                content = await self._files.fetch_result(
                    host, path, size=described["size"], digest=described["digest"]
                )
            except OSError as error:
                log.warning("the result %s on %s cannot be read now: %s", path, host, error)
                if time.monotonic() >= deadline_s:
                    log.error("the result of the instance %s is lost with its host", update.instance_id)  # noqa: TRY400
                    report(translation.lost(update.instance_id, now_ms()))
                    return
            except CookError as error:
                log.warning("the result %s on %s cannot be read: %s", path, host, error)
                refusals += 1
                if refusals == _TRIES:
                    log.error("the job of the instance %s succeeds without it", update.instance_id)  # noqa: TRY400
                    report(update)
                    return
            else:
                report(translation.with_result(update, ResultPayload(inline=content, size=len(content))))
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
