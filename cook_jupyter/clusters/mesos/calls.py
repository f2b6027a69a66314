"""The calls of a cluster on their way to the master, in order.

Lives here: `CallSender`. Not here: the connection (`clusters.mesos.connection`).

Parts of a cluster must not wait for the master, so their calls are queued. A call that was not sent, or may
not have been, is given back to whoever sent it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cook_jupyter.clusters.mesos.connection import (
    CallFailed,
    CallRejected,
    NotConnected,
    SchedulerConnection,
)
from cook_jupyter.clusters.mesos.messages import Call

log = logging.getLogger(__name__)

OnFailure = Callable[[CallFailed], None]


class _QueuedCall(NamedTuple):
    call: Call
    on_failure: OnFailure | None


class CallSender:
    """Sends calls one after the other.

    Args:
        connection: the connection.
    """

    def __init__(self, connection: SchedulerConnection) -> None:
        self._connection = connection
        self._queue: deque[_QueuedCall] = deque()
        self._has_calls = asyncio.Event()

    def put(self, call: Call, on_failure: OnFailure | None = None) -> None:
        """Queue a call.

        Args:
            call: the call.
            on_failure: called if the call was not answered with 202; None if its loss does no harm.
        """
        self._queue.append(_QueuedCall(call, on_failure))
        self._has_calls.set()

    async def run(self) -> None:
        """Send queued calls; runs until cancelled."""
        while True:
            await self._has_calls.wait()
            while self._queue:
                queued = self._queue.popleft()
                try:
                    await self._connection.send(queued.call)
                except CallFailed as error:
                    if not isinstance(error, NotConnected):
                        level = logging.ERROR if isinstance(error, CallRejected) else logging.WARNING
                        log.log(
                            level, "the call %s to the Mesos master failed: %s", queued.call["type"], error
                        )
                    if queued.on_failure is not None:
                        queued.on_failure(error)
            self._has_calls.clear()
