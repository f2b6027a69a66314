"""What runs, as usage and launches need to know it.

Lives here: `RunningJob`, a running job in short. Not here: lives themselves (`model`, `store`).
"""

from typing import NamedTuple

from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.resources import Resources


class RunningJob(NamedTuple):
    """What is to be known of a running job.

    Attributes:
        attempt: how many instances the job had before this one.
        started_ms: when its launch was decided.
        longest_ms: how long its job lets it run.
    """

    job_id: JobId
    instance_id: InstanceId
    attempt: int
    user: str
    pool: str
    group: GroupId | None
    cpus: float
    mem_mb: float
    gpus: float
    cluster: str
    started_ms: int
    longest_ms: int

    @property
    def held(self) -> Resources:
        """What it holds on its host."""
        return Resources(cpus=self.cpus, mem_mb=self.mem_mb, gpus=self.gpus)

    @classmethod
    def of(cls, job: Job, instance: Instance) -> "RunningJob":
        """Return the row of a job whose `instance` is open."""
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
