"""Events of jobs in the stream of `/v1/events`.

Lives here: the fields of an event and the lines of the stream. Cook has no such stream.
Not here: which client receives which event (`service.requests.events`), slow clients (`api.events`).
"""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import Instance
from cook_jupyter.model.reason import REASONS

MEDIA_TYPE = "application/x-ndjson"
CACHE_BYTES = 4 * 1024 * 1024


class EventInstance(msgspec.Struct):
    """The instance of an event."""

    task_id: str
    status: str
    hostname: str
    preempted: bool
    start_time: int
    progress: int
    reason: str | UnsetType = UNSET
    reason_string: str | UnsetType = UNSET
    mea_culpa: bool | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    end_time: int | UnsetType = UNSET
    progress_message: str | UnsetType = UNSET
    peak_mem_mb: float | UnsetType = UNSET


class Event(msgspec.Struct):
    """The state of a job after a change.

    `result` is the inline result in base64; a larger result is stored as the blob `result_blob`.
    """

    uuid: str
    status: str
    state: str
    change: int
    attempts: int
    max_retries: int
    instance: EventInstance | UnsetType = UNSET
    result: str | UnsetType = UNSET
    result_blob: str | UnsetType = UNSET
    result_size: int | UnsetType = UNSET


class EventLine(msgspec.Struct):
    """One line of the stream: events, and the cursor from which to continue after them.

    `store` is the id of the store to which the cursor belongs; only the first line of a stream has it.
    """

    cursor: int
    jobs: list[Event]
    store: str | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


class EventEncoder:
    """Encodes each change once for all clients.

    The most recent few megabytes are cached; a client that is further behind causes its own encoding.
    """

    def __init__(self) -> None:
        self._cache: dict[int, tuple[JobChange, bytes]] = {}
        self._size = 0

    def encode(self, change: JobChange) -> bytes:
        """Return the event for a change."""
        number = change.job.change
        cached = self._cache.pop(number, None)
        if cached is not None and cached[0] is change:
            self._cache[number] = cached
            return cached[1]
        event = encode_event(change)
        self._size += len(event) - (0 if cached is None else len(cached[1]))
        self._cache[number] = (change, event)
        while self._size > CACHE_BYTES and len(self._cache) > 1:
            self._size -= len(self._cache.pop(next(iter(self._cache)))[1])
        return event


def encode_event(change: JobChange) -> bytes:
    """Encode the state of a job after a change, as a JSON object."""
    job, result = change.job, change.result
    event = Event(
        uuid=job.job_id,
        status=job.state.value,
        state=job.outcome,
        change=job.change,
        attempts=len(job.instances),
        max_retries=job.max_retries,
        instance=UNSET if change.instance is None else _instance(change.instance),
    )
    if result is not None:
        event.result_size = result.size
        if result.inline is not None:
            event.result = base64.b64encode(result.inline).decode("ascii")
        if result.blob is not None:
            event.result_blob = result.blob
    return _encode(event)


def encode_line(cursor: int, events: Sequence[bytes]) -> bytes:
    """Encode a line of the stream with encoded events."""
    return b'{"cursor":%d,"jobs":[%s]}\n' % (cursor, b",".join(events))


def encode_first_line(cursor: int, store_id: str) -> bytes:
    """Encode the first line of the stream, which has no events."""
    return _encode(EventLine(cursor=cursor, jobs=[], store=store_id)) + b"\n"


def _instance(instance: Instance) -> EventInstance:
    reason = REASONS.get(instance.reason) if instance.reason is not None else None
    return EventInstance(
        task_id=instance.instance_id,
        status=instance.status.value,
        hostname=instance.host,
        preempted=instance.preempted,
        start_time=instance.started_ms,
        progress=instance.progress,
        reason=_or_unset(instance.reason),
        reason_string=UNSET if reason is None else reason.sentence,
        mea_culpa=UNSET if reason is None else reason.mea_culpa,
        exit_code=_or_unset(instance.exit_code),
        end_time=_or_unset(instance.ended_ms),
        progress_message=_or_unset(instance.progress_message),
        peak_mem_mb=_or_unset(instance.peak_mem_mb),
    )


def _or_unset(value: Any) -> Any:
    return UNSET if value is None else value
