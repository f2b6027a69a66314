"""Results: what came back of a job, verified before it is unpickled.

Lives here: reading a result in the notebook.
Not here: packing it on the host (`payload.calls`); fetching it (`client`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cook_jupyter.errors import JobFailed, ResultLost
from cook_jupyter.payload import exception_data
from cook_jupyter.payload.envelope import Buffer, unseal
from cook_jupyter.payload.keys import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What came back of a job, verified.

    Attributes:
        job_id: the job it came from.
        instance_id: the instance it came from.
        host: where that ran.
        seconds: how long the user's code took; all calls of a bundle together.
        size: of the result, in bytes.
        value: what the function returned; of a bundle, a list of what its calls returned, None for one that
            raised.
        error: what the function raised.
        errors: of a bundle: what its calls raised, by their place.
        unread_function: digest of the function, if the call failed before it began because the blob of the
            function is damaged or gone.
    """

    job_id: str
    instance_id: str
    host: str
    seconds: float
    size: int
    value: Any = None
    error: BaseException | None = None
    errors: Mapping[int, BaseException]
    unread_function: str | None = None


def read_result(
    content: Buffer, *, key: Key, job_id: str, instance_id: str | None = None, private: bool = False
) -> CallResult:
    """Verify a result, then unpickle it.

    Args:
        content: the envelope.
        key: the user's.
        job_id: the job whose result it must be.
        instance_id: the instance that counts, if that is known.
        private: it was read where only this user can write.

    Raises:
        Unverifiable: it cannot be verified; it was not opened.
        Tampered: it is not what was signed, or signed for another job; it was not opened.
        ResultLost: it belongs to another instance of the job, or cannot be unpickled here.
    """
    opened = unseal(content, direction="result", key=key, job_id=job_id, private=private)
    facts = opened.header
    if instance_id is not None and facts["instance"] != instance_id:
        raise ResultLost(
            f"the result of job {job_id} is that of instance {facts['instance']}, not of {instance_id}, "
            "which counts: the job was run again in between. The result was not opened. Submit it again.",
            job_id=job_id,
            host=facts["host"],
        )
    from cook_jupyter.payload import pickling

    try:
        content_of = pickling.from_frames(opened.frames, keep_classes=True)
    except BaseException as error:  # whatever a class of the user's does: SystemExit, too
        raise ResultLost(
            f"the result of job {job_id} cannot be unpickled here: {exception_data.plain(error)}",
            job_id=job_id,
            host=facts["host"],
        ) from error
    value: Any = None
    error_of: BaseException | None = None
    errors: dict[int, BaseException] = {}
    if facts["kind"] == "value":
        value = content_of
    elif facts["kind"] == "bundle":
        value, failed = content_of
        errors = {place: _received(data, facts) for place, data in failed.items()}
    else:
        error_of = _received(content_of, facts)
    return CallResult(
        job_id=job_id,
        instance_id=facts["instance"],
        host=facts["host"],
        seconds=facts["seconds"],
        size=len(content),
        value=value,
        error=error_of,
        errors=errors,
        unread_function=facts.get("unread_function"),
    )


def unread_function(content: Buffer, *, key: Key, job_id: str) -> str | None:
    """Return the digest of the function that an instance could not read; None if it could. Unpickles nothing.

    Args:
        content: the envelope of the instance's result.
        key: the user's.
        job_id: the job of the instance.

    Raises:
        Unverifiable: it cannot be verified.
        Tampered: it is not what was signed, or signed for another job.
    """
    digest: str | None = unseal(content, direction="result", key=key, job_id=job_id).header.get(
        "unread_function"
    )
    return digest


def _received(data: exception_data.ExceptionData, facts: Mapping[str, Any]) -> BaseException:
    error = exception_data.load_exception(data)
    if isinstance(error, JobFailed):
        error.job_id, error.host = facts["job"], facts["host"]
    exception_data.add_note(
        error, f"Cook job {facts['job']}, instance {facts['instance']}, on {facts['host']}"
    )
    return error
