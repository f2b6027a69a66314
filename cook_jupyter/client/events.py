"""The event stream: changes of a user's jobs, pushed by the scheduler.

Lives here: the types of events; parsing the stream and resuming it after an interruption, without I/O; both
over a blocking connection.
Not here: the same for asyncio (`client.aio`), handling events (`executor`, `notebook`).
"""

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Self

import msgspec
from msgspec import field

from cook_jupyter.client.connections import Connection, ConnectionPool
from cook_jupyter.client.exchange import Reply, Request, get, reply_error
from cook_jupyter.errors import CookError, SchedulerError, SchedulerUnreachable

SILENCE_S = 45.0  # three heartbeats
INITIAL_BACKOFF_S = 0.05
MAX_BACKOFF_S = 0.5
_READ_BYTES = 64 * 1024


class InstanceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The latest instance of a job. Times are epoch milliseconds.

    Attributes:
        reason: name of the reason for its end (`model.reason`); `reason_text` is a sentence.
    """

    uuid: str = field(name="task_id")
    status: str
    host: str = field(name="hostname", default="")
    reason: str | None = None
    reason_text: str = field(name="reason_string", default="")
    mea_culpa: bool = False
    exit_code: int | None = None
    preempted: bool = False
    started_ms: int | None = field(name="start_time", default=None)
    ended_ms: int | None = field(name="end_time", default=None)
    progress: int = 0
    progress_message: str = ""
    peak_mem_mb: float | None = None


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a job after a change.

    Attributes:
        status: waiting, running or completed.
        state: waiting, running, success or failed.
        change: number of the change, which increases over all jobs.
        attempts: number of instances.
        result: the signed result, if it is small.
        result_blob: name of the blob with the signed result, if it is large.
    """

    uuid: str
    status: str
    state: str
    change: int = 0
    attempts: int = 0
    max_retries: int = 1
    instance: InstanceEvent | None = None
    result: bytes | None = None
    result_blob: str | None = None
    result_size: int | None = None


class EventBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the stream, without jobs if it is a heartbeat. Resuming at `cursor` misses nothing.

    `store` is the id of the store to which the cursor belongs, in the first line of a stream; otherwise
    empty.
    """

    cursor: int
    jobs: list[JobEvent] = []
    store: str = ""


_decode_batch = msgspec.json.Decoder(EventBatch).decode


def events_request(cursor: int | None, labels: Mapping[str, str], store: str | None = None) -> Request:
    """Return the request for the events after `cursor` (None: from now) of jobs with these labels.

    Args:
        cursor: number of a change.
        labels: labels that the jobs must have.
        store: id of the store to which the cursor belongs; None if unknown.
    """
    query = [] if cursor is None else [("cursor", str(cursor))]
    query += [] if store is None else [("store", store)]
    query += [("label", f"{key}={value}") for key, value in labels.items()]
    return get("/v1/events", query)


class EventParser:
    """Parses batches from the bytes of a stream, however they are split. Without I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> None:
        """Add received bytes."""
        self._buffer += piece

    def next_batch(self) -> EventBatch | None:
        """Return the next batch; None if more bytes are needed.

        Raises:
            SchedulerError: a line is not a batch.
        """
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line.strip():
                try:
                    return _decode_batch(line)
                except msgspec.DecodeError as error:
                    raise SchedulerError(f"malformed line in the event stream: {line[:80]!r}") from error
        return None


class Resumption:
    """Cursor and pause for resuming the stream after an interruption. Without I/O.

    Pauses grow from 50 ms to 0.5 s, with jitter, so that not all clients reconnect to a restarted scheduler
    at the same moment.

    Args:
        cursor: initial cursor; None for now.
    """

    def __init__(self, cursor: int | None = None) -> None:
        self.cursor = cursor
        self._backoff_s = INITIAL_BACKOFF_S

    def on_batch(self, batch: EventBatch) -> None:
        """Resume after this batch from now on."""
        self.cursor = batch.cursor
        self._backoff_s = INITIAL_BACKOFF_S

    def next_pause_s(self) -> float:
        """Return how long to pause before the next attempt."""
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        return pause_s


# After these errors the stream is opened again. Others are refusals (Unauthenticated, NotFound).
BREAKS = (SchedulerUnreachable, SchedulerError)


def as_break(error: CookError) -> SchedulerUnreachable:
    """Convert an error that interrupted the stream to SchedulerUnreachable."""
    return error if isinstance(error, SchedulerUnreachable) else SchedulerUnreachable(str(error))


class EventStream:
    """An iterator over batches of events, with its own connection. Any thread may close it.

    The first batch comes immediately, perhaps without jobs: from then on nothing is missed.

    Raises (at creation and during iteration):
        SchedulerUnreachable: the stream was interrupted, or silent for three heartbeats.
        CookError: the scheduler refused.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        cursor: int | None,
        labels: Mapping[str, str],
        *,
        store: str | None = None,
        timeout_s: float,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._url = pool.address.url
        self._closed = False
        self._connection: Connection = pool.new_connection()
        self._parser = EventParser()
        try:
            self._connection.send(events_request(cursor, labels, store))
            self._response: HTTPResponse = self._connection.read_head("GET", timeout_s)
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise no_stream(self._url) from error
        if self._response.status != 200:
            headers = {name.lower(): value for name, value in self._response.headers.items()}
            reply = Reply(status=self._response.status, headers=headers, body=self._response.read())
            self.close()
            raise reply_error(reply)
        self._connection.set_timeout(silence_s)

    def __iter__(self) -> Iterator[EventBatch]:
        return self

    def __next__(self) -> EventBatch:
        try:
            while (batch := self._parser.next_batch()) is None:
                self._parser.feed(self._read())
        except SchedulerError:
            self.close()
            raise
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream; a thread that waits for its next batch gets StopIteration."""
        self._closed = True
        self._connection.close()

    def _read(self) -> bytes:
        try:
            piece = self._response.read1(_READ_BYTES)
        except (OSError, HTTPException, ValueError, AttributeError) as error:
            if self._closed:  # HTTPResponse raises several exceptions for a closed file
                raise StopIteration from None
            self.close()
            raise stream_broke(self._url, error) from error
        if piece:
            return piece
        if self._closed:
            raise StopIteration
        self.close()
        raise stream_ended(self._url)


def follow_events(
    subscribe: Callable[[int | None], EventStream],
    stop: threading.Event,
    *,
    cursor: int | None = None,
    on_break: Callable[[SchedulerUnreachable], None] = lambda _: None,
    pause: Callable[[float], object] | None = None,
) -> Iterator[EventBatch]:
    """Yield batches until `stop` is set; after an interruption, resume at the cursor.

    Args:
        subscribe: function that opens the stream after a cursor; it may find the scheduler again first.
        stop: event that ends the iteration; also close the stream to end it immediately.
        cursor: initial cursor; None for now.
        on_break: callback after each interruption, before the pause.
        pause: function that waits for so many seconds, or less if the scheduler is back; None to wait for
            `stop`.

    Raises:
        Unauthenticated, NotFound: the scheduler refuses; trying again would not help.
    """
    resumption = Resumption(cursor)
    while not stop.is_set():
        try:
            with subscribe(resumption.cursor) as stream:
                for batch in stream:
                    resumption.on_batch(batch)
                    yield batch
                    del batch  # so that its results are not kept alive while waiting for the next
                    if stop.is_set():
                        return
            return  # closed by this side
        except BREAKS as error:
            on_break(as_break(error))
        (pause or stop.wait)(resumption.next_pause_s())


def no_stream(url: str) -> SchedulerUnreachable:
    """Return the error about a stream that could not be opened."""
    return SchedulerUnreachable(f"the scheduler at {url} provided no event stream")


def stream_broke(url: str, error: Exception) -> SchedulerUnreachable:
    """Return the error about a stream whose connection failed."""
    how = "was silent" if isinstance(error, TimeoutError) else "broke"
    return SchedulerUnreachable(f"the event stream of {url} {how}")


def stream_ended(url: str) -> SchedulerUnreachable:
    """Return the error about a stream that the scheduler closed."""
    return SchedulerUnreachable(f"the scheduler at {url} closed the event stream")
