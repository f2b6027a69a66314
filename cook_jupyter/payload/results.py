"""Read the result of a call, which is verified before it is unpickled.

Lives here: reading a result in the notebook.
Not here: encoding it on the host (`payload.calls`); fetching it (`client`).
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
    """The verified result of a job.

    Attributes:
        job_id: the job.
        instance_id: the instance that produced the result.
        host: host of that instance.
        seconds: run time of the user's code; of a bundle, of all its calls together.
        size: size of the result, in bytes.
        value: return value of the function; of a bundle, a list of return values, with None for a call that
            raised.
        error: exception that the function raised.
        errors: exceptions of the calls of a bundle, by their index.
        unread_function: digest of the function, if the call failed before it started because the blob of the
            function is damaged or missing.
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
        key: signing key of the user.
        job_id: the job whose result it must be.
        instance_id: the instance whose result it must be, if known.
        private: whether the result was read from where only this user can write.

    Raises:
        Unverifiable: the result cannot be verified; it was not unpickled.
        Tampered: the result is not what was signed, or was signed for another job; it was not unpickled.
        ResultLost: the result belongs to another instance of the job, or cannot be unpickled here.
    """
    opened = unseal(content, direction="result", key=key, job_id=job_id, private=private)
    facts = opened.header
    if instance_id is not None and facts["instance"] != instance_id:
        raise ResultLost(
            f"the result of job {job_id} is that of instance {facts['instance']}, not of {instance_id}, "
            "the current one: the job was run again in between. The result was not opened. Submit it again.",
            job_id=job_id,
            host=facts["host"],
        )
    from cook_jupyter.payload import pickling

    try:
        unpickled = pickling.from_frames(opened.frames, keep_classes=True)
    except BaseException as error:  # a class of the user may raise anything, even SystemExit
        raise ResultLost(
            f"the result of job {job_id} cannot be unpickled here: {exception_data.plain(error)}",
            job_id=job_id,
            host=facts["host"],
        ) from error
    value: Any = None
    remote_error: BaseException | None = None
    errors: dict[int, BaseException] = {}
    if facts["kind"] == "value":
        value = unpickled
    elif facts["kind"] == "bundle":
        value, failed = unpickled
        errors = {index: _load_error(data, facts) for index, data in failed.items()}
    else:
        remote_error = _load_error(unpickled, facts)
    return CallResult(
        job_id=job_id,
        instance_id=facts["instance"],
        host=facts["host"],
        seconds=facts["seconds"],
        size=len(content),
        value=value,
        error=remote_error,
        errors=errors,
        unread_function=facts.get("unread_function"),
    )


def unread_function(content: Buffer, *, key: Key, job_id: str) -> str | None:
    """Return the digest of the function that an instance could not read; None if it could. Unpickles nothing.

    Args:
        content: the envelope of the instance's result.
        key: signing key of the user.
        job_id: the job of the instance.

    Raises:
        Unverifiable: the result cannot be verified.
        Tampered: the result is not what was signed, or was signed for another job.
    """
    digest: str | None = unseal(content, direction="result", key=key, job_id=job_id).header.get(
        "unread_function"
    )
    return digest


def _load_error(data: exception_data.ExceptionData, facts: Mapping[str, Any]) -> BaseException:
    error = exception_data.load_exception(data)
    if isinstance(error, JobFailed):
        error.job_id, error.host = facts["job"], facts["host"]
    exception_data.add_note(
        error, f"Cook job {facts['job']}, instance {facts['instance']}, on {facts['host']}"
    )
    return error
