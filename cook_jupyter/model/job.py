"""Jobs and groups: what users want run.

Lives here: `JobSpec` (what was asked, never changed afterwards), `Job` (its life so far)
and `Group`. Not here: how a life may go on (`model.lifecycle`), Cook's field names (`wire`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.resources import Resources

JobId = str  # a UUID in lower case, any version
GroupId = str

_set = object.__setattr__

PARENT_LABEL = "cook-jupyter/parent"  # of a job that was submitted by a job: the uuid of that job
DEFAULT_PRIORITY = 50
HIGHEST_PRIORITY = 16_000_000
UNLIMITED_RUNTIME_MS = 9223372036854775807


class JobState(Enum):
    """Where a job stands. Whether a completed one succeeded is `Job.succeeded`."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a user asked for. `max_retries` counts all attempts, as Cook's does.

    `extra` holds the fields of a submission that the scheduler stores and hands back but does
    not act on yet (container, application, disk, checkpoint, executor ...), under Cook's names.
    """

    job_id: JobId
    user: str
    command: str
    pool: str
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
    submit_pool: str | None = None  # the pool as the user named it, if one was named
    disable_mea_culpa_retries: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resources(self) -> Resources:
        """What the job asks for on its host."""
        return Resources(cpus=self.cpus, mem_mb=self.mem_mb, gpus=float(self.gpus))


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job's life so far. Values: a change makes a new one.

    Attributes:
        seq: place in the order of creation; the last tie-break everywhere.
        change: the store's number of the last change to this job or one of its instances;
            ever growing over all jobs, so that a reader can ask "what is newer than this".
        max_retries: total attempts allowed now; begins as the spec's, `retry` changes it.
        killed: a user completed it by killing it.
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
        """The instance that is alive, if one is; there is never more than one."""
        for instance in reversed(self.instances):
            if instance.status.is_open:
                return instance
        return None


def number(job: Job, change: int) -> None:
    """Give a job that was just made, and that nobody holds yet, the number of its change."""
    _set(job, "change", change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Jobs that belong together. Placement and stragglers are kept as sent until they act."""

    group_id: GroupId
    name: str = "cookgroup"
    host_placement: Mapping[str, Any] = field(default_factory=lambda: {"type": "all"})
    straggler_handling: Mapping[str, Any] = field(default_factory=lambda: {"type": "none"})
