"""Requests of tasks to hosts.

Lives here: `TaskRequest`, a job as matching sees it. Not here: the job's position in the queue
(`scheduling.ranking.ranking`).
"""

from typing import NamedTuple

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    UNCONSTRAINED,
    ConstraintClass,
    JobConstraints,
)


class TaskRequest(NamedTuple):
    """The resources, ports and constraints that one job requests of a host."""

    job_id: JobId
    cpus: float
    mem_mb: float
    gpus: float = 0.0
    ports: int = 0
    constraints: ConstraintClass = UNCONSTRAINED
    job_constraints: JobConstraints = NO_JOB_CONSTRAINTS
