"""Errors for jobs that ended without a usable result.

Lives here: translating Cook's reasons to exceptions, with advice for the user.
Not here: what the user's function raised (`payload.results`); the table of reasons (`model.reason`).

Preemption and the loss of a host are not ends: while attempts are left, the job waits again.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from cook_jupyter.errors import BadExit, HostLost, JobFailed, JobKilled, OutOfMemory, ResultLost, TimedOut
from cook_jupyter.model import reason as reasons
from cook_jupyter.model.reason import REASONS

if TYPE_CHECKING:
    from cook_jupyter.client.events import JobEvent
    from cook_jupyter.executor.options import Options

_KILLED = frozenset({reasons.KILLED_BY_USER, reasons.KILLED_DURING_LAUNCH})
_MEMORY = frozenset({reasons.MEMORY_LIMIT_EXCEEDED})
_RUNTIME = frozenset({reasons.MAX_RUNTIME_EXCEEDED})
_EXIT = frozenset({reasons.NON_ZERO_EXIT})
_OF_A_CALL = (
    _MEMORY | _RUNTIME | _EXIT | {reasons.KILLED_EXTERNALLY}
)  # including a SIGKILL by the call itself


_MORE_TIME = "with_(max_runtime_s=...) raises the limit."
_MORE_MEMORY = "with_(mem_mb=...) requests more."
_MORE_RETRIES = "with_(retries=...) allows more."
_STDOUT = "Its output is in future.logs()."
_STDERR = "future.logs('stderr') may have details."


def without_advice(error: JobFailed) -> str:
    """Return the text of an error without advice for Python code: cells have options and commands instead."""
    text = str(error)
    for advice in (_MORE_TIME, _MORE_MEMORY, _MORE_RETRIES, _STDOUT, _STDERR):
        text = text.removesuffix(f" {advice}")
    return text


def result_explains_failure(event: JobEvent) -> bool:
    """Return whether a failed job's result says more than its reason: it raised, or ran out of memory."""
    reason = None if event.instance is None else event.instance.reason
    return reason is None or reason in _EXIT or reason in _MEMORY or reason == reasons.NORMAL_EXIT


def may_be_of_one_call(error: BaseException | None) -> bool:
    """Return whether a single call may have caused the failure of a job of many calls.

    Args:
        error: failure of the job as a whole: its process died or was stopped at a limit.
    """
    return isinstance(error, OutOfMemory) or (isinstance(error, JobFailed) and error.reason in _OF_A_CALL)


def failure(event: JobEvent, options: Options | None, *, killed_by: str | None = None) -> JobFailed:
    """Return the error of a job that ended without a result.

    Args:
        event: last event of the job, which is completed.
        options: options of the job, if known.
        killed_by: function of this process that was called to kill the job; None if none was.
    """
    kind, text = _error_of(event, options, killed_by)
    instance = event.instance
    host = instance.host if instance is not None and instance.host else None
    where = f" on {host}" if host else ""
    attempts = f" after {event.attempts} attempts" if event.attempts > 1 else ""
    return kind(
        f"job {event.uuid}{where}{attempts}: {text}",
        job_id=event.uuid,
        reason=None if instance is None else instance.reason,
        host=host,
        attempts=event.attempts,
    )


def _error_of(event: JobEvent, options: Options | None, killed_by: str | None) -> tuple[type[JobFailed], str]:
    instance = event.instance
    if event.state == "success":
        return ResultLost, f"it succeeded, but left no result. {_STDOUT}"
    if instance is None:
        return JobKilled, _killed(killed_by, "before it started")
    reason = instance.reason
    if reason in _KILLED or (reason is None and instance.exit_code is None):
        return JobKilled, _killed(killed_by, "while it ran")
    if reason in _MEMORY:
        return OutOfMemory, _memory(instance.peak_mem_mb, options)
    if reason in _RUNTIME:
        limit = "" if options is None or options.max_runtime_s is None else f" of {options.max_runtime_s:g} s"
        return TimedOut, f"it ran longer than its maximum{limit}. {_MORE_TIME}"
    if reason in _EXIT:
        return BadExit, _exit(instance.exit_code)
    sentence = instance.reason_text or (REASONS[reason].sentence if reason in REASONS else str(reason))
    table_row = REASONS.get(reason or "")
    if instance.mea_culpa or (table_row is not None and table_row.mea_culpa) or reason == reasons.UNKNOWN:
        return _system_failure(reason, sentence)
    return JobFailed, f"{sentence}."


def _system_failure(reason: str | None, sentence: str) -> tuple[type[JobFailed], str]:
    """Return the error of a job that ended through no fault of its own, too often."""
    if reason == reasons.PREEMPTED:
        return JobFailed, (
            "it was preempted for other users' jobs more often than is free, and had no retries left. "
            f"{_MORE_RETRIES}"
        )
    if reason == reasons.KILLED_EXTERNALLY:
        return HostLost, (
            "its process was ended by SIGKILL or SIGTERM, and not by the scheduler: by the call itself "
            "(os.kill), by another program on the host, or by the kernel for lack of memory on the whole "
            "host. The last two are not the call's fault, so several such attempts cost no retry. A call "
            f"should return or raise in order to end early. {_STDERR}"
        )
    return HostLost, (
        f"its last attempt ended by no fault of its own ({sentence}), more often than is free, and it had no "
        "retries left. Submit it again."
    )


def _killed(killed_by: str | None, when: str) -> str:
    """Return who killed a job; only the job's user and administrators can do so through the scheduler."""
    if killed_by is not None:
        return f"this process killed it {when}, by {killed_by}."
    return (
        f"its user or an administrator killed it {when}: with `%cook kill`, from another program, or by a"
        " rule for jobs that request too much."
    )


def _memory(peak_mb: float | None, options: Options | None) -> str:
    requested = "" if options is None else f" {options.mem_mb:g} MB"
    peak = "" if peak_mb is None else f" (its peak was {peak_mb:,.0f} MB)"
    return f"it used more memory than the{requested} it had requested{peak}. {_MORE_MEMORY}"


def _exit(code: int | None) -> str:
    number = -code if code is not None and code < 0 else (code or 0) - 128
    if number > 0:
        try:
            how = f"was ended by {signal.Signals(number).name}"
        except ValueError:
            how = f"ended with exit code {code}"
    else:
        how = f"ended with exit code {code}"
    return f"its process {how}. {_STDERR}"
