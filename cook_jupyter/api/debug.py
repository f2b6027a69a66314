"""What decisions are made by, by HTTP: GET /v1/debug/dump.

Lives here: sending a dump. Not here: what it holds (`service.requests.dumps`); /debug, which only says that
the scheduler is up (`api.info`).
"""

from collections.abc import AsyncIterator
from typing import Final

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.model.job import JobId

FRAGMENT_BYTES: Final = 64 * 1024


class DumpHandler(CookHandler):
    """GET /v1/debug/dump."""

    async def get(self) -> None:
        """Return all that the decisions about a pool read at this moment."""
        self.require_admin("write down what decisions about a pool are made by")
        pool = self.requested_pool() or self.scheduler.default_pool
        text = await self.scheduler.dump(pool, self.uuids("job", JobId))
        self.set_header("Content-Type", "application/json")
        await self.send_fragments(_fragments(text))


async def _fragments(text: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(text), FRAGMENT_BYTES):
        yield text[begin : begin + FRAGMENT_BYTES]
