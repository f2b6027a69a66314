"""The tables of a settings file, one type each, with their defaults.

Lives here: the tables below the top level. Defaults are Cook's, unless the description of the table says
otherwise. Where this scheduler is meant to behave differently from Cook, the difference is a setting of its
own, and the class method `cook` returns the table that behaves as Cook.
Not here: the top level (`service.settings.schema`), how a file is read (`service.settings.loading`), the
rules of preemption (`scheduling.rebalancing.rules`) and the limits of a match cycle
(`scheduling.limits.cycle_limits`), which are stated with the decisions and only contained here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.model.limits import UNLIMITED, UNLIMITED_COUNT
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT, NEVER_COUNTS, PREEMPTED, MeaCulpaLimits
from cook_jupyter.scheduling.constraints.constraints import ConstraintRewrite
from cook_jupyter.scheduling.limits.cycle_limits import GOOD_ENOUGH, MAX_OVER_QUOTA_JOBS, CycleLimits
from cook_jupyter.scheduling.rebalancing.rules import COOK_RULES, PreemptionRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The HTTP server.

    Attributes:
        host: local address to listen on.
        port: port to listen on; 0 takes a free one.
        socket: path of a Unix socket to listen on instead; None listens on the address.
        allowed_hosts: names, besides the address and `localhost`, that requests may have in `Host`.
        cors_origins: regular expressions of the origins from which browsers may send requests.
        impersonators: users who may act as other users.
        admins: users who may change limits and act on the jobs of all users.
        body_bytes: largest body of a request.
        jobs_per_submission: largest number of jobs in a request.
        inline_result_bytes: largest result that is sent in a status update; larger ones go to the blob store.
    """

    host: str = "127.0.0.1"
    port: int = 0
    socket: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    cors_origins: tuple[str, ...] = ()
    impersonators: frozenset[str] = frozenset()
    admins: frozenset[str] = frozenset()
    body_bytes: int = 8 * 1024 * 1024
    jobs_per_submission: int = 10_000
    inline_result_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """The store.

    Attributes:
        synchronous: the setting of SQLite. With NORMAL an accepted job survives `kill -9`, with FULL also a
            loss of power.
    """

    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClusterSettings:
    """A cluster whose only host is this machine.

    Attributes:
        type: type of the cluster.
        cpus: number of cpus to offer; None offers all of the machine.
        mem_mb: memory to offer in MiB; None offers all of the machine.
        agent_idle_exit_s: time after which the node agent exits if it runs nothing and has no scheduler.
        kill_grace_s: time between SIGTERM and SIGKILL when an instance is stopped.
    """

    type: Literal["local"] = "local"
    cpus: float | None = None
    mem_mb: float | None = None
    agent_idle_exit_s: float = 3600.0
    kill_grace_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MesosClusterSettings(MesosOptions):
    """A cluster of Apache Mesos, on whose masters the scheduler is a framework.

    Attributes:
        type: type of the cluster.
    """

    type: Literal["mesos"] = "mesos"


ClusterSettings = LocalClusterSettings | MesosClusterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Upper limits on single jobs (Cook's task-constraints), and failures that cost no retry.

    Attributes:
        max_cpus: largest number of cpus that a job may request.
        max_mem_mb: largest amount of memory that a job may request.
        max_ports: largest number of ports that a job may request.
        retry_limit: largest number of attempts that a job may request.
        command_length_limit: largest number of characters of a command.
        max_runtime_ms: longest run time of an instance, whatever its job requests; None sets no limit.
        default_runtime_ms: longest run time of an instance whose job requests none; None sets no limit.
        mea_culpa_limit: number of failures for a mea-culpa reason that cost no retry; -1 for any number.
        mea_culpa_limits: exceptions to `mea_culpa_limit`, by reason. A preemption never costs a retry; in
            Cook, whose table is empty, it does from the sixth on.
    """

    max_cpus: float = 1_000_000.0
    max_mem_mb: float = 1024.0 * 1_000_000
    max_ports: int = 5
    retry_limit: int = 20
    command_length_limit: int = 65_536
    max_runtime_ms: int | None = None
    default_runtime_ms: int | None = None
    mea_culpa_limit: int = DEFAULT_MEA_CULPA_LIMIT
    mea_culpa_limits: Mapping[str, int] = field(default_factory=lambda: {PREEMPTED: NEVER_COUNTS})

    @property
    def free_failures(self) -> MeaCulpaLimits:
        """Numbers of mea-culpa failures that cost a job no retry."""
        return MeaCulpaLimits(default=self.mea_culpa_limit, by_reason=self.mea_culpa_limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingSettings(CycleLimits):
    """The order of waiting jobs, and how they are matched to hosts.

    Attributes:
        order: `fair` ranks by DRU; `fifo` ranks by priority and then by submission, regardless of the users,
            and preempts nothing.
        good_enough: fitness of a host from which on no further hosts are compared.
        max_over_quota_jobs: number of tasks beyond the quota that each user keeps in the queue.
        rank_interval_ms: longest time between match cycles; events start them sooner.
    """

    order: Literal["fair", "fifo"] = "fair"
    good_enough: float = GOOD_ENOUGH
    max_over_quota_jobs: int = MAX_OVER_QUOTA_JOBS
    rank_interval_ms: int = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancerSettings(PreemptionRules):
    """Preemption: when running tasks are stopped for waiting jobs, and for which.

    Attributes:
        min_dru_diff: see `PreemptionThresholds`. With Cook's 0.5, a user who holds a whole share makes others
            wait for less.
        enabled: whether anything is ever preempted.
        interval_ms: time between rebalance cycles. Cook's 300,000 is meant for a cluster; on one machine a
            cycle takes less than a millisecond, and the user who waits sits in front of it.
        pool_regex: regular expression that is searched in the names of pools; the others are not rebalanced.
        reserve: what is reserved for a beneficiary until it has started: the `room` that it requests, as it
            becomes free; or the whole `host`, as in Cook.
        reservations: a table of reservations for each pool; or one that each cycle replaces, as in Cook.
    """

    min_dru_diff: float = 0.1
    enabled: bool = True
    interval_ms: int = 10_000
    pool_regex: str = ".*"
    reserve: Literal["room", "host"] = "room"
    reservations: Literal["per_pool", "shared"] = "per_pool"

    @classmethod
    def cook(cls) -> "RebalancerSettings":
        """Return the settings that behave as Cook."""
        return cls(interval_ms=300_000, min_dru_diff=0.5, reserve="host", reservations="shared", **COOK_RULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRoomSettings:
    """Room that is kept for the head of the queue if no host has room for it.

    Attributes:
        max_kept: fraction of the hosts of a pool that may be kept at the same time, 0 to 1; room for one job
            may always be kept. 0 keeps nothing, as in Cook.
        backfill: whether jobs that will have ended by then may use the kept room.
    """

    max_kept: float = 0.25
    backfill: bool = True

    @classmethod
    def cook(cls) -> "HeadRoomSettings":
        """Return the settings that behave as Cook."""
        return cls(max_kept=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolQuota:
    """A quota of all users together, in each pool or quota group whose name contains a match of `pool_regex`.

    The first such entry applies to a pool. A resource that is not set is not limited.
    """

    pool_regex: str
    count: int = UNLIMITED_COUNT
    cpus: float = UNLIMITED
    mem: float = UNLIMITED
    gpus: float = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """Limits on the waiting jobs of a user in pools whose name contains a match of `pool_regex`.

    The first such entry applies to a pool (Cook's queue-limits).

    Attributes:
        pool_regex: regular expression that is searched in the names of pools.
        pool_global_threshold: number of waiting jobs of all users above which the constrained limit applies.
        user_limit_normal: largest number of waiting jobs of a user.
        user_limit_constrained: the same above the threshold.
    """

    pool_regex: str = ".*"
    pool_global_threshold: int = UNLIMITED_COUNT
    user_limit_normal: int = UNLIMITED_COUNT
    user_limit_constrained: int = UNLIMITED_COUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A token bucket, which is full at first.

    Attributes:
        bucket_size: largest number of tokens.
        tokens_per_minute: number of tokens that the bucket gains per minute.
        enforce: whether an empty bucket holds anything back; otherwise it only counts.
    """

    bucket_size: float
    tokens_per_minute: float
    enforce: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """Limits on rates.

    Attributes:
        job_submission: submission of jobs by each user; None sets no limit.
        enforce_launch_rate: whether the launch rates in the quotas of users hold back launches.
        cluster_launch: launches on each cluster; None sets no limit.
        requests: requests of each user to the API, which are answered with status 429 beyond the limit; None
            sets no limit.
    """

    job_submission: Bucket | None = None
    enforce_launch_rate: bool = True
    cluster_launch: Bucket | None = None
    requests: Bucket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """Periodic maintenance.

    Attributes:
        interval_ms: time between searches for lingering instances, stragglers and offensive jobs.
        kill_interval_ms: time after which a kill is repeated if the end of the instance was not reported.
        monitor_interval_ms: time between counts of the starved, hungry and satisfied users.
        progress_interval_ms: time for which reports of progress are collected to be written together (Cook:
            2,500); 0 writes each at once.
        offensive: what happens to waiting jobs that exceed the limits on single jobs, which may have been
            lowered since: `complete` ends them in the background, as Cook does; `keep` lets them wait.
    """

    interval_ms: int = 60_000
    kill_interval_ms: int = 3_000
    monitor_interval_ms: int = 20_000
    progress_interval_ms: int = 500
    offensive: Literal["complete", "keep"] = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionSettings:
    """Keeps jobs off hosts that will be retired before they end (Cook's estimated-completion constraint).

    Attributes:
        host_lifetime_ms: lifetime of a host.
        expected_runtime_multiplier: factor for the expected run time of a job.
        grace_ms: time that must remain between the expected end of a job and the end of its host.
    """

    host_lifetime_ms: int
    expected_runtime_multiplier: float = 1.0
    grace_ms: int = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMove:
    """Jobs that run in another pool than the one that they were submitted to (Cook's pool mover).

    Attributes:
        pool: pool of the submission.
        destination: pool in which they run.
        users: user -> fraction of the user's jobs that are moved, 0 to 1.
    """

    pool: PoolName
    destination: PoolName
    users: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConstraints:
    """Host constraints of the jobs of a pool that do not constrain the same attribute themselves.

    The first entry whose regular expression matches applies to a pool.

    Attributes:
        pool_regex: regular expression that is searched in the names of pools.
        constraints: pairs of a host attribute and its required value.
    """

    pool_regex: str = ".*"
    constraints: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSettings:
    """The choice of the host of a job.

    Attributes:
        avoid_failed_hosts: when a job avoids hosts on which it has failed: `while_others` could run it;
            `always`, as in Cook, even if it then never starts; or `never`.
        max_tasks_per_host: largest number of tasks on a host; None sets no limit.
        completion: limits that follow from the lifetime of hosts; None sets none.
        launch_filter: function, as `module:name`, that decides whether a waiting job may start now.
        leave_out_too_large: whether to leave jobs out of the queue that are larger than every host. They
            cannot start; Cook considers them again in each cycle, and fewer jobs while one of them is first.
        default_constraints: host constraints that pools add to those of their jobs.
        rewritings: host attribute -> how constraints on it are rewritten, for example if it was renamed.
    """

    avoid_failed_hosts: Literal["while_others", "always", "never"] = "while_others"
    max_tasks_per_host: int | None = None
    completion: CompletionSettings | None = None
    launch_filter: str | None = None
    leave_out_too_large: bool = True
    default_constraints: tuple[PoolConstraints, ...] = ()
    rewritings: Mapping[str, ConstraintRewrite] = field(default_factory=dict)
