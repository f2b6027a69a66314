"""The stream of changes of a user's jobs: GET /v1/events.

Lives here: one endless response per reader, line by line, at the speed of the reader.
Not here: subscriptions, and how a reader that has fallen behind catches up (`service.requests.events`); the
fields of an event (`wire.events`).

A line has all changes since the last line was sent, so a reader is never woken more often than it reads.
While a line is being sent, nothing is encoded for that reader: new changes stay in its subscription, whose
memory is bounded.
"""

from collections.abc import Sequence

from tornado.iostream import IOStream, StreamClosedError

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import ALL_METHODS
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import Job
from cook_jupyter.service.requests.events import Subscription
from cook_jupyter.wire.events import MEDIA_TYPE, encode_first_line, encode_line

LINE_BYTES = 256 * 1024


class EventsHandler(CookHandler):
    """GET /v1/events."""

    impersonable = ALL_METHODS
    _reader: Subscription | None = None

    async def get(self) -> None:
        """Stream the changes after `cursor` of `store`, and all later ones, until either side disconnects."""
        cursor = self.param("cursor")
        after = None if cursor is None else self.number("cursor", 0)
        labels = [_label(text) for text in self.params("label")]
        reader = self.scheduler.subscribe(
            self.identity.user, after, labels[0] if labels else None, self.param("store")
        )
        self._reader = reader
        self.set_header("Content-Type", MEDIA_TYPE)
        stream = getattr(self.request.connection, "stream", None)
        if isinstance(stream, IOStream):
            stream.set_nodelay(True)  # a line must not wait for the acknowledgement of the previous one
        try:
            await self.send_piece(encode_first_line(reader.cursor, self.scheduler.store_id))
            while not reader.closed:
                changes = await reader.batch(self.context.heartbeat_s)
                await self._send_changes(reader, [c for c in changes if _carries(c.job, labels[1:])])
        except StreamClosedError:
            pass
        finally:
            reader.close()

    def on_connection_close(self) -> None:
        """End the subscription of a reader that has disconnected."""
        if self._reader is not None:
            self._reader.close()

    async def _send_changes(self, reader: Subscription, changes: Sequence[JobChange]) -> None:
        """Send changes in lines of bounded size."""
        events: list[bytes] = []
        size = 0
        for change in changes:
            events.append(self.context.encoder.encode(change))
            size += len(events[-1])
            if size >= LINE_BYTES:
                await self._send_line(change.job.change, events)
                events, size = [], 0
        if events or not changes:
            await self._send_line(reader.cursor, events)

    async def _send_line(self, cursor: int, events: Sequence[bytes]) -> None:
        await self.send_piece(encode_line(cursor, events))


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidRequest(f"a label is NAME=VALUE, not {text[:80]!r}")
    return name, value


def _carries(job: Job, labels: Sequence[tuple[str, str]]) -> bool:
    return all(job.spec.labels.get(name) == value for name, value in labels)
