"""Instances: attempts to run a job on one host, and the reports of clusters about them.

Lives here: `Instance`, `StatusUpdate` and `ResultPayload`, and the types of the ids in them.
Not here: the legal transitions (`model.lifecycle`), why instances end (`model.reason`).
"""

from dataclasses import dataclass
from enum import Enum
from typing import NewType

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.reason import ReasonName

JobId = NewType("JobId", str)  # a UUID in lower case, any version; imported from `model.job`
InstanceId = NewType("InstanceId", str)  # Cook's task_id: a UUID in lower case


class InstanceStatus(Enum):
    """Status of an instance.

    Attributes:
        is_open: whether the instance has not ended and holds resources.
    """

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python function

    UNKNOWN = "unknown"  # launch committed, no report yet
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"

    def __init__(self, value: str) -> None:
        self.is_open = value in ("unknown", "running")


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One attempt at a job. Times are epoch milliseconds."""

    instance_id: InstanceId
    job_id: JobId
    status: InstanceStatus
    host: str
    cluster: str
    started_ms: int  # when the launch was decided
    queue_ms: int = 0  # how long the job had waited by then
    backend_started_ms: int | None = None  # first seen starting or running
    ended_ms: int | None = None
    reason: ReasonName | None = None
    preempted: bool = False
    preempted_for: str | None = None  # the user of the beneficiary
    cancelled: bool = False  # a user asked to kill this instance
    exit_code: int | None = None
    progress: int = 0  # percent
    progress_message: str | None = None
    progress_sequence: int = -1
    ports: tuple[int, ...] = ()
    sandbox: str | None = None  # directory on the host
    peak_mem_mb: float | None = None
    has_result: bool = False


class TaskState(Enum):
    """State of an instance as a cluster reports it, in the terms of Mesos.

    Attributes:
        is_final: whether this is the last report about the instance.
    """

    __hash__ = object.__hash__  # as above

    STAGING = "staging"
    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"
    LOST = "lost"
    ERROR = "error"

    def __init__(self, value: str) -> None:
        self.is_final = value not in ("staging", "starting", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPayload:
    """The signed result of an instance; the scheduler never opens it.

    A small result is `inline`; a larger one is in the blob store under `blob`. One of the two is set.
    """

    inline: bytes | None = None
    blob: str | None = None
    size: int = 0


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    """A report of a cluster about an instance. A field is None if the cluster did not report it.

    `began_ms` is the start of the task, for a final report that no other report preceded.
    """

    instance_id: InstanceId
    state: TaskState
    at_ms: int
    began_ms: int | None = None
    reason: ReasonName | None = None
    exit_code: int | None = None
    sandbox: str | None = None
    result: ResultPayload | None = None
    peak_mem_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressUpdate:
    """Progress that an instance reports. Applied only if `sequence` is above the last one seen."""

    instance_id: InstanceId
    sequence: int
    percent: int | None = None
    message: str | None = None
