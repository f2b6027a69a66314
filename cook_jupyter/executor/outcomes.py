"""Outcomes: what the end of a job means to whoever waits for its result.

Lives here: from Cook's reason to one of our errors, in words a researcher can act on.
Not here: what the user's function raised (`payload.results`); the table of reasons (`model.reason`).

Being preempted and losing a host are no outcomes: while attempts are left the job waits again.
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
_OF_A_CALL = _MEMORY | _RUNTIME | _EXIT | {reasons.KILLED_EXTERNALLY}  # SIGKILL, also one of its own making


_MORE_TIME = "with_(max_runtime_s=...) gives it more."
_MORE_MEMORY = "with_(mem_mb=...) gives it more."
_MORE_RETRIES = "with_(retries=...) gives it more."
_STDOUT = "What it wrote is in future.logs()."
_STDERR = "future.logs('stderr') may tell more."


def without_advice(error: JobFailed) -> str:
    """Return the text of an error without what to do in Python: cells have options and commands for it."""
    text = str(error)
    for advice in (_MORE_TIME, _MORE_MEMORY, _MORE_RETRIES, _STDOUT, _STDERR):
        text = text.removesuffix(f" {advice}")
    return text


def result_explains_failure(event: JobEvent) -> bool:
    """Whether a failed job's result says more than its reason: the function raised, or ran out of memory."""
    found = None if event.instance is None else event.instance.reason
    return found is None or found in _EXIT or found in _MEMORY or found == reasons.NORMAL_EXIT


def may_be_of_one_call(error: BaseException | None) -> bool:
    """Return whether the failure of a job of many calls may be the fault of a single one of them.

    Args:
        error: the failure of the job as a whole: its process died or was stopped at a limit.
    """
    return isinstance(error, OutOfMemory) or (isinstance(error, JobFailed) and error.reason in _OF_A_CALL)


def failure(event: JobEvent, options: Options | None, *, killed_by: str | None = None) -> JobFailed:
    """Return the error of a job that ended without a result.

    Args:
        event: the last event of the job; completed.
        options: what the job asked for, if that is known here.
        killed_by: what this process called to kill the job, if it did.
    """
    kind, text = _judge(event, options, killed_by)
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


def _judge(event: JobEvent, options: Options | None, killed_by: str | None) -> tuple[type[JobFailed], str]:
    instance = event.instance
    if event.state == "success":
        return ResultLost, f"it ended well, but left no result. {_STDOUT}"
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
    known = REASONS.get(reason or "")
    if instance.mea_culpa or (known is not None and known.mea_culpa) or reason == reasons.UNKNOWN:
        return _of_the_system(reason, sentence)
    return JobFailed, f"{sentence}."


def _of_the_system(reason: str | None, sentence: str) -> tuple[type[JobFailed], str]:
    """The end of a job that was not its own fault, once too often."""
    if reason == reasons.PREEMPTED:
        return JobFailed, (
            "it made way for other users' jobs more often than is free, and had no retry left. "
            f"{_MORE_RETRIES}"
        )
    if reason == reasons.KILLED_EXTERNALLY:
        return HostLost, (
            "its process was ended by SIGKILL or SIGTERM, and not by the scheduler: by the call itself "
            "(os.kill), by another program on the host, or by the kernel for lack of memory on the whole "
            "host. The last two are no fault of the call, so several such attempts cost no retry. A call "
            f"that is to end early should return or raise. {_STDERR}"
        )
    return HostLost, (
        f"its last attempt ended by no fault of its own ({sentence}), more often than is free, and it had no "
        "retry left. Submit it again."
    )


def _killed(killed_by: str | None, when: str) -> str:
    """Say who killed a job; the scheduler allows it to the job's user and to administrators."""
    if killed_by is not None:
        return f"this process killed it {when}, by {killed_by}."
    return (
        f"its user or an administrator killed it {when}, through the scheduler: with `%cook kill`, from "
        "another program, or by a rule for jobs that ask for too much."
    )


def _memory(peak_mb: float | None, options: Options | None) -> str:
    asked = "" if options is None else f" {options.mem_mb:g} MB"
    peak = "" if peak_mb is None else f" (its peak was {peak_mb:,.0f} MB)"
    return f"it used more memory than the{asked} it had asked for{peak}. {_MORE_MEMORY}"


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
