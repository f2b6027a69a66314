"""Jobs as the REST API tells them, in the form in which the stream of events would.

Lives here: one translation, for what is asked for and not pushed: futures of an earlier kernel, jobs after a
break.
Not here: either form (`client`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cook_jupyter.client.events import InstanceNews, JobNews
from cook_jupyter.model.reason import REASONS

_NAMES = {reason.code: name for name, reason in REASONS.items()}


def news_of(job: Mapping[str, Any]) -> JobNews:
    """What an event would have said of a job that GET /jobs told."""
    instances = sorted(job.get("instances", ()), key=lambda each: each.get("start_time", 0))
    counting = [each for each in instances if each["status"] == "success"] or instances[-1:]
    return JobNews(
        uuid=job["uuid"],
        status=job["status"],
        state=job["state"],
        attempts=len(instances),
        max_retries=job.get("max_retries", 1),
        instance=_instance(counting[0]) if counting else None,
    )


def preempted_instances(job: Mapping[str, Any]) -> list[str]:
    """Which instances of a job had to make way; an event tells of the latest alone."""
    return [each["task_id"] for each in job.get("instances", ()) if each.get("preempted")]


def _instance(told: Mapping[str, Any]) -> InstanceNews:
    return InstanceNews(
        task_id=told["task_id"],
        status=told["status"],
        hostname=told.get("hostname", ""),
        reason=_NAMES.get(told.get("reason_code", 0)),
        reason_string=told.get("reason_string"),
        mea_culpa=told.get("reason_mea_culpa"),
        exit_code=told.get("exit_code"),
        preempted=told.get("preempted", False),
        start_time=told.get("start_time"),
        end_time=told.get("end_time"),
        progress=told.get("progress", 0),
        progress_message=told.get("progress_message"),
    )
