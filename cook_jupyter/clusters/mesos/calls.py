"""The calls of a cluster on their way to the master, in order.

Lives here: `CallSender`. Not here: the connection (`clusters.mesos.transport.connection`).

Parts of a cluster must not wait for the master, so their calls are queued. A call that was not sent, or may
not have been, is given back to whoever sent it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cook_jupyter.clusters.mesos.messages import Call
from cook_jupyter.clusters.mesos.transport.connection import (
    CallFailed,
    CallRejected,
    CallUncertain,
    NotConnected,
    SchedulerConnection,
)

log = logging.getLogger(__name__)

OnFailure = Callable[[CallFailed], None]


class _QueuedCall(NamedTuple):
    call: Call
    on_failure: OnFailure | None


class CallSender:
    """Sends calls in order, some at a time.

    Args:
        connection: the connection, which keeps the order of calls that are under way together.
        at_a_time: largest number of calls without an answer.
    """

    def __init__(self, connection: SchedulerConnection, *, at_a_time: int) -> None:
        self._connection = connection
        self._at_a_time = at_a_time
        self._queue: deque[_QueuedCall] = deque()
        self._sending: set[asyncio.Task[None]] = set()

    def put(self, call: Call, on_failure: OnFailure | None = None) -> None:
        """Queue a call.

        Args:
            call: the call.
            on_failure: called if the call was not answered with 202; None if its loss does no harm.
        """
        self._queue.append(_QueuedCall(call, on_failure))
        self._send_next()

    async def close(self) -> None:
        """Forget the calls that are not sent."""
        self._queue.clear()
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    def _send_next(self) -> None:
        while self._queue and len(self._sending) < self._at_a_time:
            task = asyncio.create_task(self._send(self._queue.popleft()))
            self._sending.add(task)
            task.add_done_callback(self._on_sent)

    def _on_sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        self._send_next()

    async def _send(self, queued: _QueuedCall) -> None:
        try:
            await self._connection.send(queued.call)
        except CallFailed as error:
            if not isinstance(error, NotConnected):
                level = logging.ERROR if isinstance(error, CallRejected) else logging.WARNING
                log.log(level, "the call %s to the Mesos master failed: %s", queued.call["type"], error)
            if queued.on_failure is not None:
                queued.on_failure(error)
        except Exception:
            log.exception("the call %s to the Mesos master failed", queued.call["type"])
            if queued.on_failure is not None:
                queued.on_failure(CallUncertain("a fault of the scheduler"))
