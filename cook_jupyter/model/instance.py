"""Instances: one attempt at a job on one host, and what its cluster reports of it.

Lives here: `Instance`, `StatusUpdate` and `ResultPayload`. Not here: which step may follow which
(`model.lifecycle`), why instances end (`model.reason`).
"""

from dataclasses import dataclass
from enum import Enum

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.reason import ReasonName

InstanceId = str  # Cook's task_id: a UUID in lower case


class InstanceStatus(Enum):
    """Where an instance stands.

    Attributes:
        is_open: whether it may still change: it holds resources.
    """

    __hash__ = object.__hash__  # each is there once; Enum's own hash is a call of Python

    UNKNOWN = "unknown"  # launch decided and committed, nothing heard yet
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"

    def __init__(self, word: str) -> None:
        self.is_open = word in ("unknown", "running")


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One attempt at a job. Times are epoch milliseconds."""

    instance_id: InstanceId
    job_id: str
    status: InstanceStatus
    host: str
    cluster: str
    started_ms: int  # when the launch was decided
    queue_ms: int = 0  # how long the job had waited then
    backend_started_ms: int | None = None  # first seen starting or running
    ended_ms: int | None = None
    reason: ReasonName | None = None
    preempted: bool = False
    preempted_for: str | None = None  # the user whose job it made way for
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
    """What a cluster says of an instance, in Mesos's words.

    Attributes:
        is_final: whether nothing more will be heard of the instance.
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

    def __init__(self, word: str) -> None:
        self.is_final = word not in ("staging", "starting", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPayload:
    """The signed bytes that an instance gave back; the scheduler never opens them.

    Small ones are `inline`; larger ones rest in the blob store under `blob`. One of the two is set.
    """

    inline: bytes | None = None
    blob: str | None = None
    size: int = 0


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    """One report of a cluster about one instance. Fields that are None say nothing.

    `began_ms` is for a final report that nothing came before: when the task had started.
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
    """How far an instance says it is. Kept only if `sequence` is above the last one seen."""

    instance_id: InstanceId
    sequence: int
    percent: int | None = None
    message: str | None = None
