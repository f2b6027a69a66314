"""Queues for tests: a valid index out of golden tasks or of random ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UNLIMITED, Quota, Share, Usage, UserLimits
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    ConstraintClass,
    Demand,
    JobConstraints,
)
from cook_jupyter.scheduling.limits.run_times import UNKNOWN_RUN_TIME, RunTime
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.ranking import RANK_DEFAULTS, RankSettings, rank_in_columns

Task = Mapping[str, Any]


def job_id(seq: int) -> JobId:
    """The id of the job with that seq."""
    return JobId(str(UUID(int=seq)))


def seq_of(job: str) -> int:
    """The seq of a job with such an id."""
    return UUID(job).int


def a_queued_job(task: Task) -> QueuedJob:
    """A job for the queue out of a golden task."""
    job_constraints = JobConstraints(
        avoid=frozenset(task.get("avoid", ())),
        group=task.get("group"),
        location=task.get("location"),
        runtime_ms=task.get("runtime_ms"),
    )
    return QueuedJob(
        job_id(task["seq"]),
        task["user"],
        task["cpus"],
        task["mem"],
        task["seq"],
        gpus=task.get("gpus") or 0.0,
        ports=task.get("ports", 0),
        priority=task.get("priority", 50),
        constraints=ConstraintClass(
            attributes=tuple(map(_demand, task.get("constraints") or ())),
            gpu_model=task.get("gpu_model"),
            disk_type=task.get("disk_type"),
            disk_mb=task.get("disk_request"),
        ),
        job_constraints=NO_JOB_CONSTRAINTS if job_constraints == NO_JOB_CONSTRAINTS else job_constraints,
        run_time=RunTime(longest_ms=task["longest_ms"]) if "longest_ms" in task else UNKNOWN_RUN_TIME,
    )


def _demand(result: Any) -> Demand:
    """A host attribute and its value: by name, or as first and last of a list."""
    if not isinstance(result, Mapping):
        return result[0], result[-1]
    assert result.get("operator", "EQUALS") == "EQUALS"
    return result["attribute"], result["pattern"]


def an_index(tasks: Iterable[Task]) -> QueueIndex:
    """An index of golden tasks: with `start_ms` they run, without they wait."""
    index = QueueIndex()
    for task in tasks:
        index.add(a_queued_job(task))
        if task.get("start_ms") is not None:
            index.mark_running(
                job_id(task["seq"]), task["start_ms"], task.get("host", ""), task_seq=task.get("task_seq", 0)
            )
    return index


def a_share(amounts: Mapping[str, float]) -> Share:
    """A share of Cook's map; what is not named is unlimited."""
    return Share(
        cpus=amounts.get("cpus", UNLIMITED),
        mem_mb=amounts.get("mem", UNLIMITED),
        gpus=amounts.get("gpus", UNLIMITED),
    )


def limits(
    shares: Mapping[str, Mapping[str, float]], quotas: Mapping[str, Mapping[str, float]] | None = None
) -> UserLimits:
    """Limits of golden maps; `default` applies to all other users, and to what the map of a user lacks."""
    default = shares.get("default", {})
    quotas = quotas or {}
    return UserLimits(
        shares={user: a_share({**default, **job_constraints}) for user, job_constraints in shares.items()},
        default_share=a_share(default),
        quotas={user: quota_of(amounts) for user, amounts in quotas.items()},
        default_quota=quota_of(quotas["default"]) if "default" in quotas else Quota(),
    )


def quota_with(amounts: Mapping[str, float]) -> Quota:
    """A quota of Cook's map; what is not named is unlimited."""
    return quota_of({"cpus": UNLIMITED, "mem": UNLIMITED, "gpus": UNLIMITED, "count": 2147483647, **amounts})


def quota_of(amounts: Mapping[str, float]) -> Quota:
    """Make a quota of Cook's map of count, cpus, mem and gpus: what is not named is zero, as in Cook."""
    return Quota(
        count=int(amounts.get("count", 0)),
        cpus=amounts.get("cpus", 0.0),
        mem_mb=amounts.get("mem", 0.0),
        gpus=amounts.get("gpus", 0.0),
    )


def usage_of(amounts: Mapping[str, float]) -> Usage:
    """Make a usage of Cook's map of count, cpus, mem and gpus; what is not named is not used."""
    return Usage(
        count=int(amounts.get("count", 0)),
        cpus=amounts.get("cpus", 0.0),
        mem_mb=amounts.get("mem", 0.0),
        gpus=amounts.get("gpus", 0.0),
    )


def rank(index: QueueIndex, limits: UserLimits, settings: RankSettings = RANK_DEFAULTS) -> Sequence[JobId]:
    """All waiting jobs in rank order."""
    return index.ids(rank_in_columns(index, limits, settings).rows.tolist())


def waiting_jobs(index: QueueIndex, user: str, first: int | None = None) -> Sequence[JobId]:
    """The first waiting jobs of a user, or all, in order."""
    tasks = next((tasks for tasks in index.by_name() if tasks.name == user), None)
    return () if tasks is None else index.ids(tasks.waiting(first).tolist())


def running_jobs(index: QueueIndex, user: str) -> Sequence[JobId]:
    """The jobs that a user's running tasks belong to, in order."""
    tasks = next((tasks for tasks in index.by_name() if tasks.name == user), None)
    return () if tasks is None else index.ids(tasks.started)
