"""Lingering tasks: those that ran longer than their job, or the operator, lets them.

Lives here: which they are. Not here: the loop that asks and kills (`service`); the reason they end with is
`model.reason.MAX_RUNTIME_EXCEEDED`, and `model.lifecycle.fail` sets it with the decision, not with the echo.

Source: Cook's `scheduler.clj` (`get-lingering-tasks`), as told in the fair-share specification, section 7.
"""

from collections.abc import Iterable
from typing import NamedTuple

from cook_jupyter.model.instance import InstanceId


class TimedTask(NamedTuple):
    """What must be known of an open instance: since when it runs, and how long its job lets it."""

    instance_id: InstanceId
    started_ms: int
    max_runtime_ms: int | None = None


def longest_ms(
    max_runtime_ms: int | None, *, cap_ms: int | None, default_ms: int | None = None
) -> int | None:
    """Return how long a task may run; None if for ever.

    Args:
        max_runtime_ms: what its job says; None if nothing.
        cap_ms: the most that any may run; None does not limit.
        default_ms: for jobs that say nothing; None stands for the cap.
    """
    own = default_ms if max_runtime_ms is None else max_runtime_ms
    if own is None or cap_ms is None:
        return cap_ms if own is None else own
    return min(own, cap_ms)


def lingering(
    tasks: Iterable[TimedTask], now_ms: int, *, cap_ms: int | None, default_ms: int | None = None
) -> list[InstanceId]:
    """Return the tasks that have run longer than they may (`longest_ms`); one at its limit stays."""
    found = []
    for task in tasks:
        longest = longest_ms(task.max_runtime_ms, cap_ms=cap_ms, default_ms=default_ms)
        if longest is not None and now_ms > task.started_ms + longest:
            found.append(task.instance_id)
    return found
