"""What slows the two sides of a connection down: a bounded queue of events, and pauses between subscriptions.

Lives here: `EventQueue` and `BackOff`.
Not here: the connections that use them (`clusters.mesos.transport.http_connection` and `pymesos_connection`).
"""

import asyncio
import random
from collections import deque

from cook_jupyter.clusters.mesos.messages import Event

MAX_WAITING_EVENTS = 10_000
MAX_WAITING_BYTES = 64 << 20

LAST_LOOK_S = 0.5
"""Seconds for which silence is checked once more: its clock also ran while this process was stopped."""

_EVENTS_AT_A_TIME = 64


class EventQueue:
    """Events that were read and not handled yet, for one reader and one handler.

    Args:
        max_events: most events that wait.
        max_bytes: most bytes of their records, unless a single record has more.
    """

    def __init__(self, max_events: int = MAX_WAITING_EVENTS, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[tuple[Event, int]] = deque()
        self._waiting_bytes = 0
        self._closed = False
        self._taken = 0
        self._changed = asyncio.Event()  # an event was added, or the queue was closed
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def put(self, event: Event, size: int) -> None:
        """Add an event when there is room; drop it if the queue is closed.

        Args:
            event: the event.
            size: bytes of its record.
        """
        while not self._has_room.is_set():
            await self._has_room.wait()
        if self._closed:
            return
        self._events.append((event, size))
        self._waiting_bytes += size
        if len(self._events) >= self._max_events or self._waiting_bytes >= self._max_bytes:
            self._has_room.clear()
        self._changed.set()

    async def get(self) -> Event | None:
        """Return the oldest event; None if the queue is closed, whatever waits in it."""
        self._taken += 1
        if self._taken % _EVENTS_AT_A_TIME == 0:
            await asyncio.sleep(0)  # a handler that never waits must not keep everything else waiting
        while not self._events and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        if self._closed:
            return None
        event, size = self._events.popleft()
        self._waiting_bytes -= size
        self._has_room.set()
        return event

    @property
    def is_full(self) -> bool:
        """Whether `put` waits."""
        return not self._has_room.is_set()

    def close(self) -> None:
        """Drop all events, also those to come."""
        self._closed = True
        self._events.clear()
        self._changed.set()
        self._has_room.set()


class BackOff:
    """Pauses between attempts to subscribe: twice as long after each failure, with jitter.

    There are at most ten in a minute, also when each attempt fails at once.

    Args:
        shortest_s: the first pause.
        longest_s: the longest pause; a subscription that lasted so long is no failure.
        rng: source of jitter, so that frameworks do not return together after a failover.
    """

    def __init__(
        self, shortest_s: float = 1.0, longest_s: float = 15.0, rng: random.Random | None = None
    ) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._rng = rng or random.Random()
        self._pause_s = shortest_s

    def pause_s(self, lasted_s: float) -> float:
        """Return the pause before the next attempt.

        Args:
            lasted_s: seconds for which the last attempt led to a subscription.
        """
        if lasted_s >= self._longest_s:
            self._pause_s = self._shortest_s
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        if pause_s < self._longest_s:
            return min(pause_s * self._rng.uniform(1.0, 1.5), self._longest_s)
        return pause_s * self._rng.uniform(0.7, 1.0)
