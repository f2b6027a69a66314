"""Jobs as the REST API tells them, in the form in which the stream of events would.

Lives here: one translation, for what is asked for and not pushed: futures of an earlier kernel, jobs after a
break.
Not here: either form (`client`).
"""

from __future__ import annotations

from cook_jupyter.client.answers import InstanceAnswer, JobAnswer
from cook_jupyter.client.events import InstanceEvent, JobEvent


def event_from_job(job: JobAnswer) -> JobEvent:
    """What an event would have said of a job that GET /jobs told."""
    instances = job.instances_by_start
    counting = [instance for instance in instances if instance.status == "success"] or instances[-1:]
    return JobEvent(
        uuid=job.uuid,
        status=job.status,
        state=job.state,
        attempts=len(instances),
        max_retries=job.max_retries,
        instance=_instance(counting[0]) if counting else None,
    )


def preempted_instances(job: JobAnswer) -> list[str]:
    """Which instances of a job had to make way; an event tells of the latest alone."""
    return [instance.uuid for instance in job.instances if instance.preempted]


def _instance(instance: InstanceAnswer) -> InstanceEvent:
    return InstanceEvent(
        uuid=instance.uuid,
        status=instance.status,
        host=instance.host,
        reason=instance.reason,
        reason_text=instance.reason_text,
        mea_culpa=instance.mea_culpa,
        exit_code=instance.exit_code,
        preempted=instance.preempted,
        started_ms=instance.started_ms,
        ended_ms=instance.ended_ms,
        progress=instance.progress,
        progress_message=instance.progress_message,
    )
