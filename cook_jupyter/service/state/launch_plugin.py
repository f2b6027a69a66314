"""The operator's own word on launches: a Python function that may hold jobs back.

Lives here: finding the function, and what it must know of waiting jobs. Not here: how often it is asked, and
when a job is let go all the same (`scheduling.launch_filter`).

The setting `placement.launch_filter` names it as `module:function`. It takes a `JobSpec` and returns a
`LaunchAnswer`, at once: it is asked in the middle of a match cycle.
"""

import logging
from collections.abc import Callable, Iterable
from importlib import import_module

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.scheduling.launch_filter import LaunchAnswer, LaunchFilter

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR_MS = 10_000

Plugin = Callable[[JobSpec], LaunchAnswer]


class LaunchPlugin:
    """Holds back what an operator's function says, and lets all through if there is none.

    Args:
        name: `module:function`, or None.

    Attributes:
        asks: whether there is a function at all.

    Raises:
        InvalidRequest: there is no such function.
    """

    def __init__(self, name: str | None) -> None:
        self.asks = name is not None
        self._filter: LaunchFilter | None = None
        self._specs: dict[JobId, JobSpec] = {}
        if name is not None:
            self._plugin = _found(name)
            self._filter = LaunchFilter(self._ask, name=name)

    def changed(self, job: Job) -> None:
        """Follow a job: only those that wait are asked about."""
        if self._filter is None:
            return
        if job.state is JobState.WAITING:
            self._specs[job.job_id] = job.spec
        elif self._specs.pop(job.job_id, None) is not None:
            self._filter.forget(job.job_id)

    def accepts(self, now_ms: int) -> Callable[[JobId], bool] | None:
        """Return what tells whether a job may be launched now; None if all may."""
        found = self._filter
        return None if found is None else lambda job_id: found.accepts(job_id, now_ms)

    def refused(self, job_ids: Iterable[JobId], now_ms: int) -> list[JobId]:
        """Return those of some waiting jobs that may not be launched now; the question has no effect."""
        found = self._filter
        return (
            [] if found is None else [job_id for job_id in job_ids if not found.would_accept(job_id, now_ms)]
        )

    def deferral(self, job_id: JobId) -> tuple[str, str] | None:
        """Return the function's name and its message if it held the job back when last asked."""
        return None if self._filter is None else self._filter.deferral(job_id)

    def _ask(self, job_id: JobId) -> LaunchAnswer:
        try:
            return self._plugin(self._specs[job_id])
        except Exception as error:
            # It guards something: what it cannot judge does not pass, and `why` tells it.
            log.exception("the launch filter failed at job %s", job_id)
            return LaunchAnswer(
                accepted=False, message=f"the filter itself failed: {error!r}", holds_ms=PAUSE_AFTER_ERROR_MS
            )


def _found(name: str) -> Plugin:
    module, _, function = name.partition(":")
    try:
        plugin = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidRequest(
            f"placement.launch_filter {name!r} is no function `module:function` that can be imported: {error}"
        ) from error
    if not callable(plugin):
        raise InvalidRequest(f"placement.launch_filter {name!r} cannot be called")
    found: Plugin = plugin
    return found
