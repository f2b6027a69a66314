"""Jobs and groups: what users want to run.

Lives here: `JobSpec` (the request, which never changes), `Job` (its state and instances) and `Group`.
Not here: the legal transitions (`model.lifecycle`), Cook's field names (`wire`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NewType

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.instance import JobId as JobId  # noqa: PLC0414 (passed on: its place is here)
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources

GroupId = NewType("GroupId", str)

_set = object.__setattr__

PARENT_LABEL = "cook-jupyter/parent"  # of a job that was submitted by a job: the uuid of that job
DEFAULT_PRIORITY = 50
HIGHEST_PRIORITY = 16_000_000
UNLIMITED_RUNTIME_MS = 9223372036854775807


class JobState(Enum):
    """State of a job. `Job.succeeded` is whether a completed one succeeded."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job as its user requested it. `max_retries` counts all attempts, as Cook's does.

    `extra` holds the other fields of the submission (container, application, disk, checkpoint, executor ...)
    under Cook's names. The scheduler stores and returns them, and reads only `disk` and `checkpoint`.
    """

    job_id: JobId
    user: str
    command: str
    pool: PoolName
    cpus: float
    mem_mb: float
    gpus: int = 0
    ports: int = 0
    name: str = "cookjob"
    priority: int = DEFAULT_PRIORITY
    max_retries: int = 1
    max_runtime_ms: int = UNLIMITED_RUNTIME_MS
    expected_runtime_ms: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[tuple[str, str, str], ...] = ()  # attribute, "EQUALS", pattern
    group: GroupId | None = None
    submit_pool: PoolName | None = None  # the pool as the user named it, if one was named
    disable_mea_culpa_retries: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resources(self) -> Resources:
        """The resources that the job requests."""
        return Resources(cpus=self.cpus, mem_mb=self.mem_mb, gpus=float(self.gpus))


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job with its state and its instances. A change makes a new value.

    Attributes:
        seq: position in the order of creation; the last tie-break everywhere.
        change: the store's number of the last change to this job or one of its instances. It increases over
            all jobs, so that a reader can request whatever is newer.
        max_retries: total number of attempts allowed; initially the spec's, changed by `retry`.
        killed: whether a user completed the job by killing it.
    """

    spec: JobSpec
    seq: int
    state: JobState
    submitted_ms: int
    last_waiting_ms: int
    max_retries: int
    change: int = 0
    killed: bool = False
    instances: tuple[Instance, ...] = ()  # oldest first

    @property
    def job_id(self) -> JobId:
        """The job's uuid."""
        return self.spec.job_id

    @property
    def succeeded(self) -> bool:
        """Whether any instance succeeded."""
        return any(i.status is InstanceStatus.SUCCESS for i in self.instances)

    @property
    def outcome(self) -> str:
        """Cook's "state": waiting, running, success or failed."""
        if self.state is not JobState.COMPLETED:
            return str(self.state.value)
        return "success" if self.succeeded else "failed"

    @property
    def open_instance(self) -> Instance | None:
        """The open instance; None if there is none. There is never more than one."""
        for instance in reversed(self.instances):
            if instance.status.is_open:
                return instance
        return None


def set_change(job: Job, change: int) -> None:
    """Set the change number of a job that was just created and is not shared yet."""
    _set(job, "change", change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Jobs that belong together. Placement and straggler handling are stored as they were sent."""

    group_id: GroupId
    name: str = "cookgroup"
    host_placement: Mapping[str, Any] = field(default_factory=lambda: {"type": "all"})
    straggler_handling: Mapping[str, Any] = field(default_factory=lambda: {"type": "none"})
