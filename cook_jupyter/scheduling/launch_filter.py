"""The launch filter: an operator's function that may defer jobs that could be launched.

Lives here: `LaunchFilter`, which caches answers and overrules the function after too many deferrals. Not
here: the function itself, the order of filters (`scheduling.ranking.considerable`).

Source: Cook's `plugins/launch.clj`, as described in the fair-share specification, section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from cook_jupyter.model.job import JobId

_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAnswer:
    """The answer of the filter about a job.

    Attributes:
        accepted: whether the job may be launched.
        message: reason if it may not.
        holds_ms: time for which the answer is valid.
    """

    accepted: bool
    message: str = ""
    holds_ms: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeOut:
    """The condition under which a job is accepted regardless of the filter.

    The job was deferred more than `deferrals` times, first seen more than `first_seen_ms` ago, and last seen
    less than `last_seen_ms` ago: it has been deferred for long and without interruption.
    """

    deferrals: int = 10
    first_seen_ms: float = 600 * _MINUTE_MS
    last_seen_ms: float = 10 * _MINUTE_MS


_AGED_OUT: Final = LaunchAnswer(accepted=True, message="held back for too long", holds_ms=inf)


@dataclass(frozen=True, slots=True)
class _Record:
    answer: LaunchAnswer
    first_ms: float
    last_ms: float
    until_ms: float
    deferrals: int


class LaunchFilter:
    """Calls the filter function, and caches its answers for as long as they are valid.

    Args:
        request: the filter function.
        name: name of the filter, for messages.
        age_out: condition under which a job is accepted regardless of the filter.
    """

    def __init__(
        self, request: Callable[[JobId], LaunchAnswer], *, name: str = "", age_out: AgeOut = AgeOut()
    ) -> None:
        self._filter = request
        self._name = name
        self._age_out = age_out
        self._records: dict[JobId, _Record] = {}

    def accepts(self, job_id: JobId, now_ms: float) -> bool:
        """Return whether a job may be launched now, and record the answer."""
        seen = self._records.get(job_id)
        if seen is not None and now_ms < seen.until_ms:
            return seen.answer.accepted
        aged_out = seen is not None and self._aged_out(seen, now_ms)
        answer = _AGED_OUT if aged_out else self._filter(job_id)
        earlier_deferrals = 0 if seen is None else seen.deferrals
        self._records[job_id] = _Record(
            answer=answer,
            first_ms=now_ms if seen is None else seen.first_ms,
            last_ms=now_ms,
            until_ms=now_ms + answer.holds_ms,
            deferrals=earlier_deferrals if answer.accepted else earlier_deferrals + 1,
        )
        return answer.accepted

    def would_accept(self, job_id: JobId, now_ms: float) -> bool:
        """Return what `accepts` would return, without recording the answer."""
        seen = self._records.get(job_id)
        if seen is not None and now_ms < seen.until_ms:
            return seen.answer.accepted
        return (seen is not None and self._aged_out(seen, now_ms)) or self._filter(job_id).accepted

    def deferral(self, job_id: JobId) -> tuple[str, str] | None:
        """Return the name and the message of the filter if its last answer deferred the job."""
        seen = self._records.get(job_id)
        return None if seen is None or seen.answer.accepted else (self._name, seen.answer.message)

    def forget(self, job_id: JobId) -> None:
        """Remove the records of a job that does not wait any more."""
        self._records.pop(job_id, None)

    def _aged_out(self, seen: _Record, now_ms: float) -> bool:
        limits = self._age_out
        return (
            seen.deferrals > limits.deferrals
            and now_ms - seen.first_ms > limits.first_seen_ms
            and now_ms - seen.last_ms < limits.last_seen_ms
        )
