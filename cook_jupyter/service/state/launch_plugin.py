"""The launch filter: a Python function of the operator that may hold waiting jobs back.

Lives here: `LaunchPlugin`, which imports the function and keeps the jobs that it is asked about. Not here:
how often it is called, and when a job is let through nevertheless (`scheduling.launch_filter`).

The setting `placement.launch_filter` names the function as `module:function`. It takes a `JobSpec` and
returns a `LaunchAnswer`, without delay, as it is called in the middle of a match cycle.
"""

import logging
from collections.abc import Callable, Iterable
from importlib import import_module

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.scheduling.launch_filter import LaunchAnswer, LaunchFilter

log = logging.getLogger(__name__)

RETRY_AFTER_ERROR_MS = 10_000

Plugin = Callable[[JobSpec], LaunchAnswer]


class LaunchPlugin:
    """The launch filter of a scheduler; without one, all jobs may start.

    Args:
        name: the function as `module:function`; None for none.

    Attributes:
        is_set: whether there is a function.

    Raises:
        InvalidRequest: there is no such function.
    """

    def __init__(self, name: str | None) -> None:
        self.is_set = name is not None
        self._filter: LaunchFilter | None = None
        self._specs: dict[JobId, JobSpec] = {}
        if name is not None:
            self._plugin = _import_function(name)
            self._filter = LaunchFilter(self._ask, name=name)

    def update(self, job: Job) -> None:
        """Update a job after a commit; the function is asked about waiting jobs only."""
        if self._filter is None:
            return
        if job.state is JobState.WAITING:
            self._specs[job.job_id] = job.spec
        elif self._specs.pop(job.job_id, None) is not None:
            self._filter.forget(job.job_id)

    def accepts(self, now_ms: int) -> Callable[[JobId], bool] | None:
        """Return a function that returns whether a job may be launched now; None if all jobs may."""
        launch_filter = self._filter
        return None if launch_filter is None else lambda job_id: launch_filter.accepts(job_id, now_ms)

    def refused(self, job_ids: Iterable[JobId], now_ms: int) -> list[JobId]:
        """Return the waiting jobs among some that may not be launched now, without any side effect."""
        launch_filter = self._filter
        if launch_filter is None:
            return []
        return [job_id for job_id in job_ids if not launch_filter.would_accept(job_id, now_ms)]

    def deferral(self, job_id: JobId) -> tuple[str, str] | None:
        """Return the function's name and its last answer on a job if it held the job back, otherwise None."""
        return None if self._filter is None else self._filter.deferral(job_id)

    def _ask(self, job_id: JobId) -> LaunchAnswer:
        try:
            return self._plugin(self._specs[job_id])
        except Exception as error:
            # The function guards something: jobs that it cannot judge do not pass, and `why` shows the error.
            log.exception("the launch filter failed for job %s", job_id)
            return LaunchAnswer(
                accepted=False, message=f"the filter itself failed: {error!r}", holds_ms=RETRY_AFTER_ERROR_MS
            )


def _import_function(name: str) -> Plugin:
    module, _, function = name.partition(":")
    try:
        plugin = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidRequest(
            f"placement.launch_filter {name!r} is not a function `module:function` that can be imported:"
            f" {error}"
        ) from error
    if not callable(plugin):
        raise InvalidRequest(f"placement.launch_filter {name!r} is not callable")
    typed: Plugin = plugin
    return typed
