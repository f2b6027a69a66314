"""What happened to a job, as the stream of `/v1/events` tells it.

Lives here: the fields of an event and the lines of the stream. Ours; Cook has no such stream.
Not here: who hears which event (`service.requests.events`), how fast a reader may be (`api.events`).
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
REMEMBERED_BYTES = 4 * 1024 * 1024


class EventInstance(msgspec.Struct):
    """The instance that an event is about."""

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
    """Where one job stands after a change to it.

    `result` is the inline result in base64; a larger one rests under `result_blob`.
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
    """One line of the stream: events, and the cursor from which to go on after them.

    `store` is the id of the store in which the cursor counts; the first line of a stream names it.
    """

    cursor: int
    jobs: list[Event]
    store: str | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


class EventEncoder:
    """Encodes each change once, however many readers hear of it.

    The last few megabytes are remembered; a reader who is further behind pays for its own encoding.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[JobChange, bytes]] = {}
        self._size = 0

    def encode(self, change: JobChange) -> bytes:
        """Return the event that tells a change."""
        number = change.job.change
        known = self._known.pop(number, None)
        if known is not None and known[0] is change:
            self._known[number] = known
            return known[1]
        event = encode_event(change)
        self._size += len(event) - (0 if known is None else len(known[1]))
        self._known[number] = (change, event)
        while self._size > REMEMBERED_BYTES and len(self._known) > 1:
            self._size -= len(self._known.pop(next(iter(self._known)))[1])
        return event


def encode_event(change: JobChange) -> bytes:
    """Tell a job after a change, as one JSON object."""
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
    """Make a line of the stream out of encoded events."""
    return b'{"cursor":%d,"jobs":[%s]}\n' % (cursor, b",".join(events))


def encode_first_line(cursor: int, store_id: str) -> bytes:
    """Make the first line of the stream, which has no events."""
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
