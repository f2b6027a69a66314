"""The launch filter: somebody outside who may hold back jobs that could be launched.

Lives here: `LaunchFilter`, which remembers what it answered and lets a job go that it has held back for too
long. Not here: the answers themselves (an operator's function), where it stands among the other filters
(`scheduling.ranking.considerable`).

Source: Cook's `plugins/launch.clj`, as told in the fair-share specification, section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from cook_jupyter.model.job import JobId

_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAnswer:
    """What the filter says of a job.

    Attributes:
        accepted: it may be launched.
        message: why not.
        holds_ms: for how long the filter need not be asked again.
    """

    accepted: bool
    message: str = ""
    holds_ms: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeOut:
    """When a job is let through whatever the filter says.

    It was held back more than `deferrals` times, first seen more than `first_seen_ms` ago, and last seen
    within `last_seen_ms`: it has waited in vain for long, and has not just come back from elsewhere.
    """

    deferrals: int = 10
    first_seen_ms: float = 600 * _MINUTE_MS
    last_seen_ms: float = 10 * _MINUTE_MS


_AGED_OUT: Final = LaunchAnswer(accepted=True, message="held back for too long", holds_ms=inf)


@dataclass(frozen=True, slots=True)
class _Seen:
    answer: LaunchAnswer
    first_ms: float
    last_ms: float
    until_ms: float
    deferrals: int


class LaunchFilter:
    """Asks the filter about jobs, no more often than it wants, and remembers the answers.

    Args:
        request: says whether a job may be launched now.
        name: of the filter, for people.
        age_out: when a job is let through all the same.
    """

    def __init__(
        self, request: Callable[[JobId], LaunchAnswer], *, name: str = "", age_out: AgeOut = AgeOut()
    ) -> None:
        self._ask = request
        self._name = name
        self._age_out = age_out
        self._seen: dict[JobId, _Seen] = {}

    def accepts(self, job_id: JobId, now_ms: float) -> bool:
        """Tell whether a job may be launched now."""
        seen = self._seen.get(job_id)
        if seen is not None and now_ms < seen.until_ms:
            return seen.answer.accepted
        aged_out = seen is not None and self._aged_out(seen, now_ms)
        answer = _AGED_OUT if aged_out else self._ask(job_id)
        before = 0 if seen is None else seen.deferrals
        self._seen[job_id] = _Seen(
            answer=answer,
            first_ms=now_ms if seen is None else seen.first_ms,
            last_ms=now_ms,
            until_ms=now_ms + answer.holds_ms,
            deferrals=before if answer.accepted else before + 1,
        )
        return answer.accepted

    def would_accept(self, job_id: JobId, now_ms: float) -> bool:
        """Return what `accepts` would return; nothing is remembered of the question."""
        seen = self._seen.get(job_id)
        if seen is not None and now_ms < seen.until_ms:
            return seen.answer.accepted
        return (seen is not None and self._aged_out(seen, now_ms)) or self._ask(job_id).accepted

    def deferral(self, job_id: JobId) -> tuple[str, str] | None:
        """Return the name of the filter and its message if it held the job back when last asked."""
        seen = self._seen.get(job_id)
        return None if seen is None or seen.answer.accepted else (self._name, seen.answer.message)

    def forget(self, job_id: JobId) -> None:
        """Forget a job that does not wait any more."""
        self._seen.pop(job_id, None)

    def _aged_out(self, seen: _Seen, now_ms: float) -> bool:
        limits = self._age_out
        return (
            seen.deferrals > limits.deferrals
            and now_ms - seen.first_ms > limits.first_seen_ms
            and now_ms - seen.last_ms < limits.last_seen_ms
        )
