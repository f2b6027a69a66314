"""What the methods of `JobClient` return: a scheduler's JSON as values.

Lives here: one struct per kind of answer. An attribute has the name that the rest of cook_jupyter uses, unit
included; where the JSON has another name, it stands beside the attribute. A field that an answer may lack
has a default, since an original Cook omits what it does not know; a field that is not listed is skipped.
Not here: the bodies that the scheduler writes (`wire.jobs`, `wire.limits`, `api`), to which
tests/client/test_answers.py holds these structs; the stream of events (`client.events`); the pieces of a log
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
    """The job of an instance, in short."""

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
        started_ms: when it was launched; `backend_started_ms` is when its host began with it.
        reason_code: Cook's number of the reason why it ended; `reason` is its name.
        reason_text: the same as a sentence.
        mea_culpa: whether the reason is the system's fault.
        progress: in percent, as the job reported it.
        job: its job, from `JobClient.instances` alone.
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
        """The name of the reason why it ended (`model.reason`); None if it has none, or one unknown here."""
        return None if self.reason_code is None else _REASON_NAMES.get(self.reason_code)


class GroupOfJob(Struct, frozen=True, kw_only=True):
    """A group, as its jobs name it."""

    uuid: str
    name: str = ""


class JobAnswer(Struct, frozen=True, kw_only=True):
    """A job. Times are epoch milliseconds.

    Attributes:
        status: waiting, running or completed.
        state: waiting, running, success or failed.
        pool: the pool in force; `submit_pool` is the one that was named, if one was.
        retries_remaining: attempts that are left; None if the scheduler does not tell.
        application, container, disk, checkpoint, uris: as submitted, under Cook's names.
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
        """Whether nothing more will happen to it."""
        return self.status == "completed"

    @property
    def instances_by_start(self) -> Sequence[InstanceAnswer]:
        """Its instances, oldest first; an original Cook does not promise that order."""
        return sorted(self.instances, key=lambda instance: instance.started_ms)


class GroupAnswer(Struct, frozen=True, kw_only=True):
    """A group; the numbers of its jobs are None unless `detailed` was asked for."""

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
    """What a user is entitled to; `model.limits.UNLIMITED` means no limit.

    Attributes:
        pools: the same for each pool; empty if one was named.
    """

    cpus: float | None = None
    mem_mb: float | None = field(name="mem", default=None)
    gpus: float | None = None
    pools: Mapping[str, ShareAnswer] = field(default_factory=dict)

    def of_pool(self, pool: str) -> ShareAnswer:
        """Return the share in a pool."""
        return self.pools.get(pool, self)


class QuotaAnswer(Struct, frozen=True, kw_only=True):
    """What a user may never exceed; see `ShareAnswer`. `count` is a number of running jobs."""

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
    """What jobs hold together, and how many they are."""

    cpus: float = 0.0
    mem_mb: float = field(name="mem", default=0.0)
    gpus: float = 0.0
    jobs: int = 0


class RunningGroup(Struct, frozen=True, kw_only=True):
    """A group with its jobs that run."""

    uuid: str
    name: str = ""
    running_jobs: tuple[str, ...] = ()


class GroupUsage(Struct, frozen=True, kw_only=True):
    """What the running jobs of a group hold."""

    group: RunningGroup
    usage: Amounts


class UngroupedUsage(Struct, frozen=True, kw_only=True):
    """What running jobs without a group hold."""

    running_jobs: tuple[str, ...] = ()
    usage: Amounts = Amounts()


class UsageAnswer(Struct, frozen=True, kw_only=True):
    """What the running jobs of a user hold.

    Attributes:
        pools: the same for each pool; empty if one was named.
        grouped: the part of each group, if `group_breakdown` was asked for.
        ungrouped: the part of jobs without a group, if `group_breakdown` was asked for.
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
    """An amount that a waiting job asks for."""

    type: str = field(name="resource/type")
    amount: float = field(name="resource/amount", default=0.0)


class QueuedGroup(Struct, frozen=True, kw_only=True):
    """The group of a waiting job."""

    uuid: str = field(name="group/uuid")
    name: str = field(name="group/name", default="")
    host_placement: HostPlacement | None = field(name="group/host-placement", default=None)
    straggler_handling: StragglerHandling | None = field(name="group/straggler-handling", default=None)


class QueueEntry(Struct, frozen=True, kw_only=True):
    """A waiting job, as the queue of its pool lists it."""

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
    """One of Cook's reasons why a job waits; what `data` holds depends on the reason."""

    reason: str
    data: Mapping[str, object] = field(default_factory=dict)


class UnscheduledAnswer(Struct, frozen=True, kw_only=True):
    """Why a job waits, in Cook's words."""

    uuid: str
    reasons: tuple[WaitReason, ...] = ()


class CookInfo(Struct, frozen=True, kw_only=True, rename="kebab"):
    """Which scheduler this is, in Cook's words."""

    authentication_scheme: str = ""
    commit: str = ""
    start_time: str = ""
    version: str = ""
    leader_url: str = ""


class FailureReason(Struct, frozen=True, kw_only=True):
    """A reason why instances end.

    Attributes:
        failure_limit: how many failures of a mea culpa reason cost a job no retry.
    """

    code: int
    name: str
    description: str = ""
    mea_culpa: bool = False
    failure_limit: int | None = None


# --- cook_jupyter's own, under /v1 ---


class Capacity(Struct, frozen=True, kw_only=True):
    """What the hosts have together."""

    cpus: float = 0.0
    mem_mb: float = field(name="mem", default=0.0)
    gpus: float = 0.0
    hosts: int = 1

    def holds(self, *, cpus: float, mem_mb: float, gpus: float) -> bool:
        """Return whether all hosts together have so much; without any, nothing is known against it."""
        return not self.cpus or (cpus <= self.cpus and mem_mb <= self.mem_mb and gpus <= self.gpus)


class RequestLimits(Struct, frozen=True, kw_only=True):
    """How large what a scheduler takes may be."""

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
    """What a scheduler says about itself to this client.

    Attributes:
        user: whom it knows the client as.
        time_ms: its clock.
        store: the id of its store.
        blobs: path of the directory with blobs, for clients that do not know `blob_store`.
        blob_store: the store of blobs; empty for an older scheduler.
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
    """What a user has waiting and running.

    Attributes:
        dru: dominant resource usage in the default pool; above 1 is over the share.
        standing: starved, hungry or satisfied; empty if the scheduler does not tell.
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
    """Who waits and runs how much, beside what there is.

    Attributes:
        user: who asked.
        monitor: how many users are in which state, by pool or quota group.
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
        users: how many are in each state.
        running: what each user's running jobs hold, `all` for the sum; the other states likewise.
    """

    users: Mapping[str, int] = field(default_factory=dict)
    running: Mapping[str, Amounts] = field(default_factory=dict)
    waiting: Mapping[str, Amounts] = field(default_factory=dict)
    waiting_under_quota: Mapping[str, Amounts] = field(default_factory=dict)
    starved: Mapping[str, Amounts] = field(default_factory=dict)
    hungry: Mapping[str, Amounts] = field(default_factory=dict)
    satisfied: Mapping[str, Amounts] = field(default_factory=dict)


class MatchCycle(Struct, frozen=True, kw_only=True):
    """What the last match cycle of a pool did."""

    considered: int = 0
    matched: int = 0
    unmatched: int = 0
    head_matched: bool = False
    considers_next: int = 0


class MonitorAnswer(Struct, frozen=True, kw_only=True):
    """Who was starved, hungry and satisfied when the scheduler last looked, at `time_ms` (None: not yet)."""

    time_ms: int | None = field(name="time", default=None)
    pools: Mapping[str, PoolMonitor] = field(default_factory=dict)
    cycles: Mapping[str, MatchCycle] = field(default_factory=dict)


class RebalancerAnswer(Struct, frozen=True, kw_only=True):
    """How running tasks give way: the parameters in force; see `JobClient.set_rebalancer`."""

    enabled: bool = False
    interval_ms: int = 0
    pool_regex: str = ""
    safe_dru_threshold: float | None = None
    min_dru_diff: float | None = None
    max_preemption: float | None = None


class WhyAnswer(Struct, frozen=True, kw_only=True):
    """Why a job waits: in plain sentences, and by Cook's reasons."""

    uuid: str
    state: str = ""
    sentences: tuple[str, ...] = ()
    reasons: tuple[WaitReason, ...] = ()


class WaitsAnswer(Struct, frozen=True, kw_only=True):
    """What comes of a report of waits.

    Attributes:
        deadlocked: whether the instance waits for what can never start, and is the one to give up.
        parents: how many running jobs wait like that.
    """

    deadlocked: bool
    parents: int = 0


class CancelAnswer(Struct, frozen=True, kw_only=True):
    """Which of the jobs were waiting, and are cancelled."""

    cancelled: tuple[str, ...]
