"""Builders of valid values, to which a test passes only the fields that matter: `a_job(user="ada", cpus=4)`.

Not here: helpers for the tests of one layer (its own conftest.py).
"""

from typing import Any
from uuid import uuid4

from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.job import Group, Job, JobId, JobSpec, JobState


def a_job_spec(**named: Any) -> JobSpec:
    """A small job of user ada in pool default, with an id of its own."""
    return JobSpec(
        **{
            "job_id": str(uuid4()),
            "user": "ada",
            "command": "true",
            "pool": "default",
            "cpus": 1.0,
            "mem_mb": 128.0,
            **named,
        }
    )


def a_job(
    *,
    seq: int = 1,
    state: JobState = JobState.WAITING,
    submitted_ms: int = 1000,
    last_waiting_ms: int | None = None,
    change: int = 0,
    killed: bool = False,
    instances: tuple[Instance, ...] = (),
    **spec: Any,
) -> Job:
    """A waiting job; what is not part of its life goes to `a_job_spec`."""
    asked = a_job_spec(**spec)
    return Job(
        spec=asked,
        seq=seq,
        state=state,
        submitted_ms=submitted_ms,
        last_waiting_ms=submitted_ms if last_waiting_ms is None else last_waiting_ms,
        max_retries=asked.max_retries,
        change=change,
        killed=killed,
        instances=instances,
    )


def an_instance(job_id: JobId | None = None, **named: Any) -> Instance:
    """An instance that was just decided on, of the job with this id."""
    return Instance(
        **{
            "instance_id": str(uuid4()),
            "job_id": job_id or str(uuid4()),
            "status": InstanceStatus.UNKNOWN,
            "host": "host-1",
            "cluster": "local",
            "started_ms": 2000,
            **named,
        }
    )


def a_group(**named: Any) -> Group:
    """A group with an id of its own."""
    return Group(**{"group_id": str(uuid4()), **named})
