"""The stream of events: what happens to one's jobs, pushed.

Lives here: what an event says, the stream over a connection of its own, and `follow`, which comes back
after a break and goes on at its cursor.
Not here: what is done about an event (`executor`, `notebook`).
"""

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Self

import msgspec
from msgspec import field

from cook_jupyter.client.connections import Connection, ConnectionPool
from cook_jupyter.client.protocol import Reply, Request, error_of, events_target
from cook_jupyter.errors import NotFound, SchedulerError, SchedulerUnreachable, Unauthenticated

SILENCE_S = 45.0  # three heartbeats
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5
_READ_BYTES = 64 * 1024


class InstanceNews(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job's latest instance. Times are epoch milliseconds.

    Attributes:
        reason: the name of the reason why it ended (`model.reason`), and `reason_text` its sentence.
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


class JobNews(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has changed: what it is now.

    Attributes:
        status: waiting, running or completed.
        state: waiting, running, success or failed.
        change: the number of the change, ever growing over all jobs.
        attempts: how many instances there were.
        result: the signed bytes that it gave back, if they are few.
        result_blob: else the name of the blob that holds them.
    """

    uuid: str
    status: str
    state: str
    change: int = 0
    attempts: int = 0
    max_retries: int = 1
    instance: InstanceNews | None = None
    result: bytes | None = None
    result_blob: str | None = None
    result_size: int | None = None


class EventBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the stream. Reading from `cursor` on misses nothing; no jobs means a heartbeat.

    `store` is the id of the store in which the cursor counts: in the first line of a stream, else empty.
    """

    cursor: int
    jobs: list[JobNews] = []
    store: str = ""


_DECODER = msgspec.json.Decoder(EventBatch)


class EventStream:
    """An iterator over batches of events, on a connection of its own. Any thread may close it.

    The first batch comes at once, perhaps empty: from then on nothing is missed.

    Raises (when made, and while iterating):
        SchedulerUnreachable: the stream broke, or was silent for three heartbeats.
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
        self._silence_s = silence_s
        self._closed = False
        self._connection: Connection = pool.fresh()
        self._buffer = bytearray()
        request = Request(method="GET", target=events_target(cursor, labels, store))
        try:
            self._connection.send(request)
            self._response: HTTPResponse = self._connection.begin("GET", timeout_s)
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise SchedulerUnreachable(f"the scheduler at {self._url} gave no stream of events") from error
        if self._response.status != 200:
            headers = {name.lower(): value for name, value in self._response.headers.items()}
            reply = Reply(status=self._response.status, headers=headers, body=self._response.read())
            self.close()
            raise error_of(reply)
        self._connection.set_timeout(silence_s)

    def __iter__(self) -> Iterator[EventBatch]:
        return self

    def __next__(self) -> EventBatch:
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                if line.strip():
                    return self._decoded(line)
                continue
            self._buffer += self._more()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; a thread that waits for its next batch gets StopIteration."""
        self._closed = True
        self._connection.close()

    def _more(self) -> bytes:
        try:
            piece = self._response.read1(_READ_BYTES)
        except (OSError, HTTPException, ValueError, AttributeError) as error:
            if self._closed:  # HTTPResponse meets a closed file in several ways
                raise StopIteration from None
            self.close()
            why = "was silent" if isinstance(error, TimeoutError) else "broke"
            raise SchedulerUnreachable(f"the stream of events of {self._url} {why}") from error
        if piece:
            return piece
        if self._closed:
            raise StopIteration
        self.close()
        raise SchedulerUnreachable(f"the scheduler at {self._url} ended the stream of events")

    def _decoded(self, line: bytes) -> EventBatch:
        try:
            return _DECODER.decode(line)
        except msgspec.DecodeError as error:
            self.close()
            raise SchedulerError(f"a line of the stream of events makes no sense: {line[:80]!r}") from error


def follow(
    subscribe: Callable[[int | None], EventStream],
    stop: threading.Event,
    *,
    cursor: int | None = None,
    on_break: Callable[[SchedulerUnreachable], None] = lambda _: None,
    pause: Callable[[float], object] | None = None,
) -> Iterator[EventBatch]:
    """Yield batches for as long as `stop` is not set; after a break come back and go on at the cursor.

    Pauses between attempts grow from 50 ms to 0.5 s, with jitter, so that a scheduler that restarts is
    not met by all its clients at once.

    Args:
        subscribe: opens the stream after a cursor; it may find the scheduler anew, for instance.
        stop: ends the iteration; close the stream as well, to end it at once.
        cursor: where to begin; None means from now.
        on_break: called after each break, before the pause.
        pause: waits for so many seconds, or less if the scheduler is known to be back; None waits for `stop`.

    Raises:
        Unauthenticated, NotFound: the scheduler refuses; trying again is no help.
    """
    pause_s = FIRST_PAUSE_S
    while not stop.is_set():
        try:
            with subscribe(cursor) as stream:
                for batch in stream:
                    cursor = batch.cursor
                    pause_s = FIRST_PAUSE_S
                    yield batch
                    del batch  # while the next is waited for, the results in this one need not be kept
                    if stop.is_set():
                        return
            return  # closed by us
        except (Unauthenticated, NotFound):
            raise
        except SchedulerUnreachable as error:
            on_break(error)
        except SchedulerError as error:
            on_break(SchedulerUnreachable(str(error)))
        (pause or stop.wait)(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
