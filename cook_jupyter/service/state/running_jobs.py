"""Running jobs, in short.

Lives here: `RunningJob`. Not here: the life cycle of jobs (`model`), their durable state (`store`).
"""

from typing import NamedTuple

from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources


class RunningJob(NamedTuple):
    """The facts about a running job that usage, launches and maintenance need.

    Attributes:
        attempt: number of earlier instances of the job.
        started_ms: time of the decision to launch the instance.
        max_runtime_ms: longest run time that the job requests.
    """

    job_id: JobId
    instance_id: InstanceId
    attempt: int
    user: str
    pool: PoolName
    group: GroupId | None
    cpus: float
    mem_mb: float
    gpus: float
    cluster: str
    started_ms: int
    max_runtime_ms: int

    @property
    def resources(self) -> Resources:
        """The resources that the instance holds on its host."""
        return Resources(cpus=self.cpus, mem_mb=self.mem_mb, gpus=self.gpus)

    @classmethod
    def of(cls, job: Job, instance: Instance) -> "RunningJob":
        """Return the facts about a job whose instance is open."""
        spec = job.spec
        return cls(
            spec.job_id,
            instance.instance_id,
            len(job.instances) - 1,
            spec.user,
            spec.pool,
            spec.group,
            spec.cpus,
            spec.mem_mb,
            float(spec.gpus),
            instance.cluster,
            instance.started_ms,
            spec.max_runtime_ms,
        )
