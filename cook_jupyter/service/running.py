"""What runs, as usage and launches need to know it.

Lives here: `RunningRow`, a running job in short. Not here: lives themselves (`model`, `store`).
"""

from dataclasses import dataclass

from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.quick import quick
from cook_jupyter.model.resources import Resources


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRow:
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
    def of(cls, job: Job, instance: Instance) -> "RunningRow":
        """Return the row of a job whose `instance` is open."""
        spec = job.spec
        return cls(
            job_id=spec.job_id,
            instance_id=instance.instance_id,
            attempt=len(job.instances) - 1,
            user=spec.user,
            pool=spec.pool,
            group=spec.group,
            cpus=spec.cpus,
            mem_mb=spec.mem_mb,
            gpus=float(spec.gpus),
            cluster=instance.cluster,
            started_ms=instance.started_ms,
            longest_ms=spec.max_runtime_ms,
        )
