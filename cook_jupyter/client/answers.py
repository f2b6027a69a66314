"""Return types of the methods of `JobClient`: a scheduler's JSON as values.

Lives here: one struct per kind of answer. Attributes have the names used in the rest of cook_jupyter,
including units; if the JSON has another name, it stands beside the attribute. Fields that an answer may lack
have a default, because an original Cook omits what it does not support; unlisted fields are ignored.
Not here: the JSON that the scheduler writes (`wire.jobs`, `wire.limits`, `api`), against which
tests/client/test_answers.py checks these structs; the event stream (`client.events`); pieces of logs
(`client.protocol`).

Source: the REST specification, sections 5 to 7, 11 to 13 and 15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from cook_jupyter.client.submission import HostPlacement, StragglerHandling
from cook_jupyter.model.reason import REASONS

_REASON_NAMES = {reason.code: name for name, reason in REASONS.items()}


# --- jobs ---


class JobOfInstance(Struct, frozen=True, kw_only=True):
    """The job of an instance, in short form."""

    uuid: str
    name: str = ""
    status: str = ""
    state: str = ""
    user: str = ""


class ClusterOfInstance(Struct, frozen=True, kw_only=True):
    """The cluster on which an instance runs."""

    name: str = ""
    type: str = ""


class InstanceAnswer(Struct, frozen=True, kw_only=True):
    """An instance of a job. Times are epoch milliseconds.

    Attributes:
        status: unknown, running, success or failed.
        started_ms: time of the launch; `backend_started_ms` is the time when its host started it.
        reason_code: Cook's number of the reason for its end; `reason` is the name.
        reason_text: the reason as a sentence.
        mea_culpa: whether the reason is the system's fault.
        progress: progress in percent, as reported by the job.
        job: the job, only from `JobClient.instances`.
    """

    uuid: str = field(name="task_id")
    status: str = "unknown"
    cluster: ClusterOfInstance | None = field(name="compute-cluster", default=None)
    host: str = field(name="hostname", default="")
    started_ms: int = field(name="start_time", default=0)
    backend_started_ms: int | None = field(name="mesos_start_time", default=None)
    ended_ms: int | None = field(name="end_time", default=None)
    queue_ms: int = field(name="queue_time", default=0)
    preempted: bool = False
    cancelled: bool = False
    reason_code: int | None = None
    reason_text: str = field(name="reason_string", default="")
    mea_culpa: bool = field(name="reason_mea_culpa", default=False)
    exit_code: int | None = None
    progress: int = 0
    progress_message: str = ""
    ports: tuple[int, ...] = ()
    executor: str = ""
    output_url: str | None = None
    sandbox: str | None = field(name="sandbox_directory", default=None)
    job: JobOfInstance | None = None

    @property
    def reason(self) -> str | None:
        """Name of the reason for its end (`model.reason`); None if there is none, or it is unknown here."""
        return None if self.reason_code is None else _REASON_NAMES.get(self.reason_code)


class GroupOfJob(Struct, frozen=True, kw_only=True):
    """A group, as listed by its jobs."""

    uuid: str
    name: str = ""


class JobAnswer(Struct, frozen=True, kw_only=True):
    """A job. Times are epoch milliseconds.

    Attributes:
        status: waiting, running or completed.
        state: waiting, running, success or failed.
        pool: effective pool; `submit_pool` is the one in the submission, if any.
        retries_remaining: attempts that are left; None if the scheduler does not report it.
        application, container, disk, checkpoint, uris: as submitted, with Cook's names.
    """

    uuid: str
    status: str
    state: str
    command: str = ""
    name: str = ""
    user: str = ""
    pool: str | None = None
    submit_pool: str | None = None
    priority: int = 0
    cpus: float = 0.0
    mem_mb: float = field(name="mem", default=0.0)
    gpus: int = 0
    ports: int = 0
    max_retries: int = 1
    retries_remaining: int | None = None
    max_runtime_ms: int | None = field(name="max_runtime", default=None)
    expected_runtime_ms: int | None = field(name="expected_runtime", default=None)
    submitted_ms: int = field(name="submit_time", default=0)
    disable_mea_culpa_retries: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[tuple[str, ...], ...] = ()
    executor: str | None = None
    framework_id: str | None = None
    progress_output_file: str | None = None
    progress_regex: str | None = field(name="progress_regex_string", default=None)
    application: Mapping[str, object] | None = None
    container: Mapping[str, object] | None = None
    disk: Mapping[str, object] | None = None
    checkpoint: Mapping[str, object] | None = None
    uris: tuple[Mapping[str, object], ...] = ()
    groups: tuple[GroupOfJob, ...] = ()
    instances: tuple[InstanceAnswer, ...] = ()

    @property
    def is_completed(self) -> bool:
        """Whether the job has ended for good."""
        return self.status == "completed"

    @property
    def instances_by_start(self) -> Sequence[InstanceAnswer]:
        """Instances of the job, oldest first; an original Cook does not guarantee that order."""
        return sorted(self.instances, key=lambda instance: instance.started_ms)


class GroupAnswer(Struct, frozen=True, kw_only=True):
    """A group; the numbers of its jobs are None unless `detailed` was requested."""

    uuid: str
    name: str = ""
    host_placement: HostPlacement | None = None
    straggler_handling: StragglerHandling | None = None
    jobs: tuple[str, ...] = ()
    waiting: int | None = None
    running: int | None = None
    completed: int | None = None


# --- limits ---


class ShareAnswer(Struct, frozen=True, kw_only=True):
    """The amounts that a user is entitled to; `model.limits.UNLIMITED` means no limit.

    Attributes:
        pools: shares by pool; empty if one pool was requested.
    """

    cpus: float | None = None
    mem_mb: float | None = field(name="mem", default=None)
    gpus: float | None = None
    pools: Mapping[str, ShareAnswer] = field(default_factory=dict)

    def of_pool(self, pool: str) -> ShareAnswer:
        """Return the share in a pool."""
        return self.pools.get(pool, self)


class QuotaAnswer(Struct, frozen=True, kw_only=True):
    """The amounts that a user may never exceed; see `ShareAnswer`. `count` is a number of running jobs."""

    cpus: float | None = None
    mem_mb: float | None = field(name="mem", default=None)
    gpus: float | None = None
    count: int | None = None
    launch_rate_saved: float | None = field(name="launch-rate-saved", default=None)
    launch_rate_per_minute: float | None = field(name="launch-rate-per-minute", default=None)
    pools: Mapping[str, QuotaAnswer] = field(default_factory=dict)

    def of_pool(self, pool: str) -> QuotaAnswer:
        """Return the quota in a pool."""
        return self.pools.get(pool, self)


class Amounts(Struct, frozen=True, kw_only=True):
    """Amounts that jobs hold together, and the number of jobs."""

    cpus: float = 0.0
    mem_mb: float = field(name="mem", default=0.0)
    gpus: float = 0.0
    jobs: int = 0


class RunningGroup(Struct, frozen=True, kw_only=True):
    """A group with its running jobs."""

    uuid: str
    name: str = ""
    running_jobs: tuple[str, ...] = ()


class GroupUsage(Struct, frozen=True, kw_only=True):
    """The usage of a group's running jobs."""

    group: RunningGroup
    usage: Amounts


class UngroupedUsage(Struct, frozen=True, kw_only=True):
    """The usage of running jobs without a group."""

    running_jobs: tuple[str, ...] = ()
    usage: Amounts = Amounts()


class UsageAnswer(Struct, frozen=True, kw_only=True):
    """The usage of a user's running jobs.

    Attributes:
        pools: usage by pool; empty if one pool was requested.
        grouped: usage by group, if `group_breakdown` was requested.
        ungrouped: usage of jobs without a group, if `group_breakdown` was requested.
    """

    total: Amounts = field(name="total_usage", default=Amounts())
    pools: Mapping[str, UsageAnswer] = field(default_factory=dict)
    grouped: tuple[GroupUsage, ...] = ()
    ungrouped: UngroupedUsage | None = None


# --- pools, the scheduler itself ---


class PoolAnswer(Struct, frozen=True, kw_only=True):
    """A pool; `state` is active or inactive."""

    name: str
    purpose: str = ""
    state: str = "active"


class QueuedResource(Struct, frozen=True, kw_only=True):
    """An amount that a waiting job requests."""

    type: str = field(name="resource/type")
    amount: float = field(name="resource/amount", default=0.0)


class QueuedGroup(Struct, frozen=True, kw_only=True):
    """The group of a waiting job."""

    uuid: str = field(name="group/uuid")
    name: str = field(name="group/name", default="")
    host_placement: HostPlacement | None = field(name="group/host-placement", default=None)
    straggler_handling: StragglerHandling | None = field(name="group/straggler-handling", default=None)


class QueueEntry(Struct, frozen=True, kw_only=True):
    """A waiting job in the queue of its pool."""

    uuid: str = field(name="job/uuid")
    user: str = field(name="job/user", default="")
    name: str = field(name="job/name", default="")
    priority: int = field(name="job/priority", default=0)
    command: str = field(name="job/command", default="")
    state: str = field(name="job/state", default="")
    max_retries: int = field(name="job/max-retries", default=1)
    max_runtime_ms: int | None = field(name="job/max-runtime", default=None)
    pool: str | None = field(name="job/pool", default=None)
    ports: int = field(name="job/ports", default=0)
    submitted_ms: int = field(name="job/submit-time", default=0)
    resources: tuple[QueuedResource, ...] = field(name="job/resource", default=())
    groups: tuple[QueuedGroup, ...] = field(name="group/_job", default=())


class WaitReason(Struct, frozen=True, kw_only=True):
    """One of Cook's reasons why a job waits; the content of `data` depends on the reason."""

    reason: str
    data: Mapping[str, object] = field(default_factory=dict)


class UnscheduledAnswer(Struct, frozen=True, kw_only=True):
    """Cook's reasons why a job waits."""

    uuid: str
    reasons: tuple[WaitReason, ...] = ()


class CookInfo(Struct, frozen=True, kw_only=True, rename="kebab"):
    """Cook's facts about a scheduler."""

    authentication_scheme: str = ""
    commit: str = ""
    start_time: str = ""
    version: str = ""
    leader_url: str = ""


class FailureReason(Struct, frozen=True, kw_only=True):
    """A reason for the end of instances.

    Attributes:
        failure_limit: number of failures of a mea culpa reason that cost a job no retry.
    """

    code: int
    name: str
    description: str = ""
    mea_culpa: bool = False
    failure_limit: int | None = None


# --- cook_jupyter's own, under /v1 ---


class Capacity(Struct, frozen=True, kw_only=True):
    """Total resources of the hosts."""

    cpus: float = 0.0
    mem_mb: float = field(name="mem", default=0.0)
    gpus: float = 0.0
    hosts: int = 1

    def holds(self, *, cpus: float, mem_mb: float, gpus: float) -> bool:
        """Return whether all hosts together have these amounts; true if the capacity is unknown."""
        return not self.cpus or (cpus <= self.cpus and mem_mb <= self.mem_mb and gpus <= self.gpus)


class RequestLimits(Struct, frozen=True, kw_only=True):
    """Limits for the sizes of requests and results."""

    body_bytes: int | None = None
    inline_result_bytes: int | None = None
    jobs_per_submission: int | None = None


class BlobStoreInfo(Struct, frozen=True, kw_only=True):
    """The blob store of a scheduler.

    Attributes:
        url: URL by which hosts open it: a directory of the machine of the scheduler, or a URL of fsspec.
        identity: identity that the scheduler reads in that directory; empty if it is none or has none.
    """

    url: str = ""
    identity: str = ""


class SchedulerInfo(Struct, frozen=True, kw_only=True):
    """Facts that a scheduler reports about itself.

    Attributes:
        user: user name of the client, as the scheduler knows it.
        time_ms: time of its clock.
        store: id of its store.
        blobs: path of the directory with blobs, for clients that do not know `blob_store`.
        blob_store: blob store of the scheduler; empty for an older scheduler.
    """

    user: str
    name: str = ""
    version: str = ""
    pid: int = 0
    time_ms: int = 0
    store: str = ""
    synchronous: str = ""
    blobs: str = ""
    blob_store: BlobStoreInfo = BlobStoreInfo()
    home: str = ""
    capacity: Capacity = Capacity()
    limits: RequestLimits = RequestLimits()


class UserSummary(Struct, frozen=True, kw_only=True):
    """The waiting and running jobs of a user.

    Attributes:
        dru: dominant resource usage in the default pool; above 1 is over the share.
        standing: starved, hungry or satisfied; empty if the scheduler does not report it.
    """

    user: str
    waiting: int = 0
    running: int = 0
    cpus: float = 0.0
    mem_mb: float = field(name="mem", default=0.0)
    dru: float | None = None
    share_cpus: float | None = None
    share_mem_mb: float | None = field(name="share_mem", default=None)
    standing: str = ""


class SummaryAnswer(Struct, frozen=True, kw_only=True):
    """The waiting and running jobs of all users, with total capacity and usage.

    Attributes:
        user: user who made the request.
        monitor: number of users in each state, by pool or quota group.
    """

    user: str
    waiting: int = 0
    running: int = 0
    pools: tuple[str, ...] = ()
    users: tuple[UserSummary, ...] = ()
    capacity: Capacity = Capacity()
    used: Amounts = Amounts()
    monitor: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class PoolMonitor(Struct, frozen=True, kw_only=True):
    """The users of a pool or quota group, by state.

    Attributes:
        users: number of users in each state.
        running: usage of each user's running jobs, with the sum under `all`; the other states likewise.
    """

    users: Mapping[str, int] = field(default_factory=dict)
    running: Mapping[str, Amounts] = field(default_factory=dict)
    waiting: Mapping[str, Amounts] = field(default_factory=dict)
    waiting_under_quota: Mapping[str, Amounts] = field(default_factory=dict)
    starved: Mapping[str, Amounts] = field(default_factory=dict)
    hungry: Mapping[str, Amounts] = field(default_factory=dict)
    satisfied: Mapping[str, Amounts] = field(default_factory=dict)


class MatchCycle(Struct, frozen=True, kw_only=True):
    """Outcome of the last match cycle of a pool."""

    considered: int = 0
    matched: int = 0
    unmatched: int = 0
    head_matched: bool = False
    considers_next: int = 0


class MonitorAnswer(Struct, frozen=True, kw_only=True):
    """User satisfaction at the last sample, which was taken at `time_ms` (None: not yet)."""

    time_ms: int | None = field(name="time", default=None)
    pools: Mapping[str, PoolMonitor] = field(default_factory=dict)
    cycles: Mapping[str, MatchCycle] = field(default_factory=dict)


class RebalancerAnswer(Struct, frozen=True, kw_only=True):
    """Parameters of preemption in force; see `JobClient.set_rebalancer`."""

    enabled: bool = False
    interval_ms: int = 0
    pool_regex: str = ""
    safe_dru_threshold: float | None = None
    min_dru_diff: float | None = None
    max_preemption: float | None = None


class WhyAnswer(Struct, frozen=True, kw_only=True):
    """Why a job waits: in plain sentences, and as Cook's reasons."""

    uuid: str
    state: str = ""
    sentences: tuple[str, ...] = ()
    reasons: tuple[WaitReason, ...] = ()


class WaitsAnswer(Struct, frozen=True, kw_only=True):
    """Answer to a report of waits.

    Attributes:
        deadlocked: whether the instance waits for jobs that can never start, and should give up.
        parents: number of running jobs that wait in the same way.
    """

    deadlocked: bool
    parents: int = 0


class CancelAnswer(Struct, frozen=True, kw_only=True):
    """The jobs that were waiting and have been cancelled."""

    cancelled: tuple[str, ...]
