"""The stream of what happens to a user's jobs: GET /v1/events.

Lives here: one endless answer per reader, line by line, at the reader's own speed.
Not here: who hears of which change, and how a reader who fell behind catches up (`service.events`), the
fields of an event (`wire.events`).

A line holds all that came up since the last one was taken, so a reader is never woken more often than it
reads. While a line is on its way nothing is encoded for that reader: what it misses stays in its
subscription, whose memory is bounded.
"""

from collections.abc import Sequence

from tornado.iostream import IOStream, StreamClosedError

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import EVERY_VERB
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import Job
from cook_jupyter.service.events import Subscription
from cook_jupyter.wire.events import MEDIA_TYPE, encode_first_line, encode_line

LINE_BYTES = 256 * 1024


class EventsHandler(CookHandler):
    """GET /v1/events."""

    impersonable = EVERY_VERB
    _reader: Subscription | None = None

    async def get(self) -> None:
        """Tell what happened after `cursor` of `store`, and then what happens, until either side goes."""
        said = self.param("cursor")
        after = None if said is None else self.number("cursor", 0)
        labels = [_label(each) for each in self.params("label")]
        reader = self.scheduler.subscribe(
            self.asker.user, after, labels[0] if labels else None, self.param("store")
        )
        self._reader = reader
        self.set_header("Content-Type", MEDIA_TYPE)
        stream = getattr(self.request.connection, "stream", None)
        if isinstance(stream, IOStream):
            stream.set_nodelay(True)  # a line must not wait for the one before to be acknowledged
        try:
            await self.send_piece(encode_first_line(reader.cursor, self.scheduler.store_id))
            while not reader.closed:
                changes = await reader.batch(self.door.heartbeat_s)
                await self._tell(reader, [c for c in changes if _carries(c.job, labels[1:])])
        except StreamClosedError:
            pass
        finally:
            reader.close()

    def on_connection_close(self) -> None:
        """The reader went."""
        if self._reader is not None:
            self._reader.close()

    async def _tell(self, reader: Subscription, changes: Sequence[JobChange]) -> None:
        """Send changes, in lines of a bounded size."""
        events: list[bytes] = []
        size = 0
        for change in changes:
            events.append(self.door.encoder.encode(change))
            size += len(events[-1])
            if size >= LINE_BYTES:
                await self._send(change.job.change, events)
                events, size = [], 0
        if events or not changes:
            await self._send(reader.cursor, events)

    async def _send(self, cursor: int, events: Sequence[bytes]) -> None:
        await self.send_piece(encode_line(cursor, events))


def _label(said: str) -> tuple[str, str]:
    name, equals, value = said.partition("=")
    if not name or not equals:
        raise InvalidRequest(f"a label is NAME=VALUE, not {said[:80]!r}")
    return name, value


def _carries(job: Job, labels: Sequence[tuple[str, str]]) -> bool:
    return all(job.spec.labels.get(name) == value for name, value in labels)
