"""What one job asks of a host.

Lives here: `TaskRequest`, what matching sees of a job. Not here: the job's place in the queue
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
    """What one job asks of a host."""

    job_id: JobId
    cpus: float
    mem_mb: float
    gpus: float = 0.0
    ports: int = 0
    constraints: ConstraintClass = UNCONSTRAINED
    job_constraints: JobConstraints = NO_JOB_CONSTRAINTS
