"""Bodies of requests that act on existing objects: retries, progress, cancellation, shutdown.

Lives here: the bodies of /retry, /progress, /v1/cancel, /v1/waits and /v1/shutdown.
Not here: the actions themselves (`api.retry`, `service`).

Source: the REST specification, sections 10 and 15.
"""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from cook_jupyter.wire.submission import PositiveInt, Uuid
from cook_jupyter.wire.validation import AnyCaseStruct, BodyDecoder, StrictStruct

Uuids = list[Uuid]


class PostRetry(StrictStruct):
    """The body of POST /retry."""

    job: Uuid | UnsetType = UNSET
    jobs: Uuids | UnsetType = UNSET
    retries: PositiveInt | UnsetType = UNSET
    increment: PositiveInt | UnsetType = UNSET


class PutRetry(AnyCaseStruct):
    """The body of PUT /retry."""

    job: Uuid | UnsetType = UNSET
    jobs: Uuids | UnsetType = UNSET
    retries: PositiveInt | UnsetType = UNSET
    increment: PositiveInt | UnsetType = UNSET
    groups: Uuids | UnsetType = UNSET
    failed_only: bool | UnsetType = UNSET


class ProgressBody(AnyCaseStruct):
    """The body of POST /progress/TASK."""

    progress_sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    progress_percent: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | UnsetType = UNSET
    progress_message: str | UnsetType = UNSET


class Cancel(StrictStruct):
    """The body of POST /v1/cancel."""

    jobs: Uuids


class NestedWaitsBody(StrictStruct):
    """The body of POST /v1/waits: the jobs that an instance waits for; none if it continues."""

    instance: Uuid
    jobs: Uuids


class Shutdown(StrictStruct):
    """The body of POST /v1/shutdown."""

    stop_agent: bool = False


read_post_retry = BodyDecoder(PostRetry).read
read_put_retry = BodyDecoder(PutRetry).read
read_progress = BodyDecoder(ProgressBody).read
read_cancel = BodyDecoder(Cancel).read
read_waits = BodyDecoder(NestedWaitsBody).read
read_shutdown = BodyDecoder(Shutdown).read
