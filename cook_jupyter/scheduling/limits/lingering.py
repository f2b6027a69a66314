"""Lingering tasks: tasks that have exceeded the maximum run time of their job or of the operator.

Lives here: their selection. Not here: the loop that kills them (`service.cycles.maintenance`). Their reason
is `model.reason.MAX_RUNTIME_EXCEEDED`, which `model.lifecycle.fail` sets with the decision, not with the
report.

Source: Cook's `scheduler.clj` (`get-lingering-tasks`), as described in the fair-share specification, section
7.
"""

from collections.abc import Iterable
from typing import NamedTuple

from cook_jupyter.model.instance import InstanceId


class TimedTask(NamedTuple):
    """An open instance with its start and the maximum run time of its job."""

    instance_id: InstanceId
    started_ms: int
    max_runtime_ms: int | None = None


def runtime_limit_ms(
    max_runtime_ms: int | None, *, cap_ms: int | None, default_ms: int | None = None
) -> int | None:
    """Return the maximum run time of a task; None if there is none.

    Args:
        max_runtime_ms: limit of its job; None if it has none.
        cap_ms: limit of all jobs; None if there is none.
        default_ms: limit of jobs without their own; None for the cap.
    """
    limit_ms = default_ms if max_runtime_ms is None else max_runtime_ms
    if limit_ms is None or cap_ms is None:
        return cap_ms if limit_ms is None else limit_ms
    return min(limit_ms, cap_ms)


def lingering_tasks(
    tasks: Iterable[TimedTask], now_ms: int, *, cap_ms: int | None, default_ms: int | None = None
) -> list[InstanceId]:
    """Return the tasks that have run longer than `runtime_limit_ms`; a task exactly at the limit has not."""
    instance_ids = []
    for task in tasks:
        limit_ms = runtime_limit_ms(task.max_runtime_ms, cap_ms=cap_ms, default_ms=default_ms)
        if limit_ms is not None and now_ms > task.started_ms + limit_ms:
            instance_ids.append(task.instance_id)
    return instance_ids
