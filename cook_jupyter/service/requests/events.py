"""The event stream: each committed change is passed on to the subscribers that it concerns.

Lives here: `EventHub` and `Subscription`. Not here: the encoding of events (`api`).

A subscription is a cursor, not a queue that must never lose anything. Changes that a subscriber is too slow
to read are dropped from memory and read from the store again, where each job appears once, in its present
state. So a subscription needs bounded memory, and survives restarts of both sides.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import JobState
from cook_jupyter.store.base import Store

MAX_BUFFERED = 10_000  # changes per subscription; further ones are read from the store
MAX_BUFFERED_BYTES = 8 * 1024 * 1024  # of the results in them
CATCH_UP_BATCH_SIZE = 1000
LINGER_S = 0.02  # delay of a change that completes no job, so that a short job causes one event


class Subscription:
    """The stream of changes of one user's jobs, in commit order, from a cursor on.

    Args:
        hub: the hub that offers the changes.
        user: the user.
        cursor: number of the last change that the subscriber has read.
        label: name and value of a label that the jobs must have; None for all jobs.

    Attributes:
        cursor: number of the last change that was returned.
    """

    def __init__(self, hub: "EventHub", user: str, cursor: int, label: tuple[str, str] | None) -> None:
        self._hub = hub
        self._label = label
        self._user = user
        self._buffer: deque[JobChange] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._lingering: asyncio.TimerHandle | None = None
        self._is_behind = True  # changes before those in the buffer must be read from the store
        self._closed = False
        self.cursor = cursor

    def offer(self, change: JobChange) -> None:
        """Buffer a change if it concerns the subscriber.

        A subscriber with a label has submitted the jobs itself, so it gets no event for their submission.
        """
        if self._label is not None and (
            change.before is None or change.job.spec.labels.get(self._label[0]) != self._label[1]
        ):
            return
        if not self._is_behind:
            self._buffer.append(change)
            if change.result is not None and change.result.inline is not None:
                self._bytes += len(change.result.inline)
            if len(self._buffer) > MAX_BUFFERED or self._bytes > MAX_BUFFERED_BYTES:
                self._clear_buffer()
                self._is_behind = True
        if change.job.state is JobState.COMPLETED or self._is_behind:
            self._wake.set()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._wake.set)

    async def batch(self, timeout_s: float) -> Sequence[JobChange]:
        """Return the next changes; an empty sequence if there are none for `timeout_s` seconds."""
        if self._is_behind:
            changes = await self._catch_up()
            if changes:
                return changes
        if not self._buffer and not self._closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
            if self._is_behind:
                return await self._catch_up()
        changes = [change for change in self._buffer if change.job.change > self.cursor]
        self._clear_buffer()
        if changes:
            self.cursor = changes[-1].job.change
        return changes

    def close(self) -> None:
        """End the subscription. Idempotent."""
        self._closed = True
        self._hub.remove(self._user, self)
        self._wake.set()

    @property
    def closed(self) -> bool:
        """Whether the subscription has ended."""
        return self._closed

    def _clear_buffer(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._buffer.clear()
        self._bytes = 0

    async def _catch_up(self) -> Sequence[JobChange]:
        """Return the next changes from the store."""
        # Buffering starts before the store is read, so that no change is missed in between. The cursor
        # excludes changes that are then both in the store and in the buffer.
        self._is_behind = False
        changes = await self._hub.store.changed(
            self._user, self.cursor, label=self._label, limit=CATCH_UP_BATCH_SIZE
        )
        if len(changes) == CATCH_UP_BATCH_SIZE:
            self._is_behind = True
        if changes:
            self.cursor = changes[-1].job.change
        return changes


class EventHub:
    """Passes each committed change on to the subscriptions of its user.

    Args:
        store: the store from which subscriptions catch up.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._subscriptions: dict[str, set[Subscription]] = defaultdict(set)  # by user

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Offer committed changes to the subscriptions; called in commit order."""
        if not self._subscriptions:
            return
        for change in changes:
            for subscription in self._subscriptions.get(change.job.spec.user, ()):
                subscription.offer(change)

    def subscribe(self, user: str, cursor: int, label: tuple[str, str] | None = None) -> Subscription:
        """Begin a subscription to the changes of a user's jobs after a cursor."""
        subscription = Subscription(self, user, cursor, label)
        self._subscriptions[user].add(subscription)
        return subscription

    def remove(self, user: str, subscription: Subscription) -> None:
        """Remove a subscription."""
        subscriptions = self._subscriptions.get(user)
        if subscriptions is not None:
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[user]

    def close(self) -> None:
        """End all subscriptions."""
        for subscriptions in list(self._subscriptions.values()):
            for subscription in list(subscriptions):
                subscription.close()
