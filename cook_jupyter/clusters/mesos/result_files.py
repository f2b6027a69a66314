"""Results that executors leave in files, because a status of Mesos should be small.

Lives here: `ResultFetcher`, which completes an end with its result. Not here: reading files of agents
(`clusters.mesos.sandboxes`).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from cook_jupyter.clusters import translation
from cook_jupyter.errors import CookError
from cook_jupyter.model.instance import InstanceId, ResultPayload, StatusUpdate
from cook_jupyter.worker.frames import Header

log = logging.getLogger(__name__)

_TRIES: Final = 6
_FIRST_PAUSE_S: Final = 1.0  # it doubles: half a minute in all


class ResultFiles(Protocol):
    """Access to files of hosts."""

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        """Return a file of a host, with size and SHA-256 verified.

        Raises:
            CookError: it cannot be read, or is not what was described.
        """


class ResultFetcher:
    """Fetches results in the background.

    Args:
        files: access to files of hosts.
    """

    def __init__(self, files: ResultFiles) -> None:
        self._files = files
        self._tasks: dict[InstanceId, asyncio.Task[None]] = {}

    def __contains__(self, instance_id: object) -> bool:
        """Return whether the result of an instance is being fetched."""
        return instance_id in self._tasks

    def fetch(
        self, host: str, end: Header, update: StatusUpdate, report: Callable[[StatusUpdate], None]
    ) -> None:
        """Report an end once its result is there; without it if it cannot be read.

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
        for attempt in range(_TRIES):
            try:
                content = await self._files.fetch_result(
                    host, path, size=described["size"], digest=described["digest"]
                )
            except (CookError, OSError) as error:
                log.warning("the result %s on %s cannot be read: %s", path, host, error)
                await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
            else:
                report(translation.with_result(update, ResultPayload(inline=content, size=len(content))))
                return
        log.error("the result of %s is lost: its job succeeds without it", update.instance_id)
        report(update)
