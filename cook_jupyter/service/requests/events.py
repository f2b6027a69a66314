"""Who hears of which change: the hub behind the event stream.

Lives here: `EventHub` and `Subscription`. Not here: how events look on the wire (`api`).

A subscription is a cursor, not a queue that must never be lost: what a reader was too slow to
take is dropped from memory and read again from the store, where each job says once where it
stands now. So a stream costs bounded memory and survives both ends' restarts.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import JobState
from cook_jupyter.store.base import Store

MAX_BUFFERED = 10_000  # changes per subscription; more are read again from the store
MAX_BUFFERED_BYTES = 8 * 1024 * 1024  # of results among them
CATCH_UP = 1000
LINGER_S = 0.02  # a change that completes no job waits this long for the next: a brief job is told of once


class Subscription:
    """One reader's stream of a user's changes, in the order of change, from a cursor on."""

    def __init__(self, hub: "EventHub", user: str, after: int, label: tuple[str, str] | None) -> None:
        self._hub = hub
        self._label = label
        self._user = user
        self._buffer: deque[JobChange] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._lingering: asyncio.TimerHandle | None = None
        self._behind = True  # the store must be asked before the buffer may be used
        self._closed = False
        self.cursor = after

    def offer(self, change: JobChange) -> None:
        """Take one change, if it concerns this reader.

        Who listens for a label has put it on jobs: that these were submitted is no news there.
        """
        if self._label is not None and (
            change.before is None or change.job.spec.labels.get(self._label[0]) != self._label[1]
        ):
            return
        if not self._behind:
            self._buffer.append(change)
            if change.result is not None and change.result.inline is not None:
                self._bytes += len(change.result.inline)
            if len(self._buffer) > MAX_BUFFERED or self._bytes > MAX_BUFFERED_BYTES:
                self._empty()
                self._behind = True
        if change.job.state is JobState.COMPLETED or self._behind:
            self._wake.set()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._wake.set)

    async def batch(self, timeout_s: float) -> Sequence[JobChange]:
        """Return the next changes, or an empty list when `timeout_s` seconds bring none."""
        if self._behind:
            found = await self._catch_up()
            if found:
                return found
        if not self._buffer and not self._closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
            if self._behind:
                return await self._catch_up()
        taken = [change for change in self._buffer if change.job.change > self.cursor]
        self._empty()
        if taken:
            self.cursor = taken[-1].job.change
        return taken

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._closed = True
        self._hub.drop(self._user, self)
        self._wake.set()

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self._closed

    def _empty(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._buffer.clear()
        self._bytes = 0

    async def _catch_up(self) -> Sequence[JobChange]:
        # Buffering starts before the store is asked, so that nothing falls in between;
        # what is then seen twice is told apart by the cursor.
        self._behind = False
        found = await self._hub.store.changed(self._user, self.cursor, label=self._label, limit=CATCH_UP)
        if len(found) == CATCH_UP:
            self._behind = True
        if found:
            self.cursor = found[-1].job.change
        return found


class EventHub:
    """Hands each committed change to the readers it concerns."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._readers: dict[str, set[Subscription]] = defaultdict(set)

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Offer committed changes; called in commit order."""
        if not self._readers:
            return
        for change in changes:
            for reader in self._readers.get(change.job.spec.user, ()):
                reader.offer(change)

    def subscribe(self, user: str, after: int, label: tuple[str, str] | None = None) -> Subscription:
        """Begin a stream of `user`'s changes with numbers above `after`."""
        reader = Subscription(self, user, after, label)
        self._readers[user].add(reader)
        return reader

    def drop(self, user: str, reader: Subscription) -> None:
        """Forget a reader."""
        readers = self._readers.get(user)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._readers[user]

    def close(self) -> None:
        """End every stream."""
        for readers in list(self._readers.values()):
            for reader in list(readers):
                reader.close()


async def batches(reader: Subscription, heartbeat_s: float) -> AsyncIterator[Sequence[JobChange]]:
    """Yield a reader's batches until it is closed; an empty one each `heartbeat_s` of silence."""
    while not reader.closed:
        yield await reader.batch(heartbeat_s)
