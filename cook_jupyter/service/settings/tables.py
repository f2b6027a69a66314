"""What an operator may set about fairness: the tables of a settings file below its top level.

Lives here: one typed table each for the rebalancer, quotas of pools, rates, maintenance and what else bears
on who starts where, with Cook's defaults unless said. Not here: the top level (`service.settings.schema`),
how a file is read (`service.settings.toml_file`), what the numbers do (`scheduling`).

Where we differ from Cook the difference is a setting of its own; `cook` makes the table that behaves as Cook.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cook_jupyter.model.limits import UNLIMITED, UNLIMITED_COUNT
from cook_jupyter.scheduling.constraints.constraints import ConstraintRewrite


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancerSettings:
    """How running tasks give way to jobs that wait (preemption).

    Attributes:
        enabled: whether anything is ever preempted.
        interval_ms: how often it looks. Cook's 300,000 is meant for a cluster; on one machine a look costs
            less than a millisecond and whoever waits sits in front of it.
        safe_dru_threshold: a task whose DRU is below is never preempted. None: nothing is.
        min_dru_diff: by how much more than that a victim must be further along its share than the job it
            gives way to; Cook's 0.5 lets who holds a whole share wait for less. None: nothing is preempted.
        max_preemption: how many waiting jobs one look tries to find room for. None: nothing is preempted.
        pool_regex: the pools it looks at: those whose name this finds.
        shortest_prefix, drop_unneeded, least_work_lost, gpu_pools, freed_gpus_count, spare_hosts_known,
            groups_apart, quota_counts, launch_order, max_preemptions_per_hour,
            max_lost_ms_beyond_share, reserve_from: in what we
            differ from Cook; `PreemptionSettings` of `scheduling.rebalancing.preemption` tells each.
        reserve: what is kept for the job until it has started: the `room` that it needs, as it comes free;
            or, as in Cook, the whole `host`.
        reservations: one table for each pool, or, as in Cook, one that each pool's look replaces.
    """

    enabled: bool = True
    interval_ms: int = 10_000
    safe_dru_threshold: float | None = 1.0
    min_dru_diff: float | None = 0.1
    max_preemption: int | None = 100
    pool_regex: str = ".*"
    shortest_prefix: bool = True
    drop_unneeded: bool = True
    least_work_lost: bool = True
    gpu_pools: bool = True
    freed_gpus_count: bool = True
    spare_hosts_known: bool = True
    groups_apart: bool = True
    quota_counts: bool = True
    launch_order: bool = True
    max_preemptions_per_hour: int | None = 2
    max_lost_ms_beyond_share: int | None = 600_000
    reserve_from: int = 1
    reserve: Literal["room", "host"] = "room"
    reservations: Literal["per_pool", "shared"] = "per_pool"

    @classmethod
    def cook(cls) -> "RebalancerSettings":
        """Return the settings that behave as Cook."""
        return cls(
            interval_ms=300_000,
            min_dru_diff=0.5,
            shortest_prefix=False,
            drop_unneeded=False,
            least_work_lost=False,
            gpu_pools=False,
            freed_gpus_count=False,
            spare_hosts_known=False,
            groups_apart=False,
            quota_counts=False,
            launch_order=False,
            max_preemptions_per_hour=None,
            max_lost_ms_beyond_share=None,
            reserve_from=2,
            reserve="host",
            reservations="shared",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRoomSettings:
    """What is kept for a job at the head of the queue that no host has room for.

    Attributes:
        max_kept: part of a pool's hosts that may be kept at a time, 0 to 1; room for one job may always be.
            0 keeps nothing, as in Cook.
        backfill: whether jobs that will have ended by then may use kept room meanwhile.
    """

    max_kept: float = 0.25
    backfill: bool = True

    @classmethod
    def cook(cls) -> "HeadRoomSettings":
        """Return the settings that behave as Cook."""
        return cls(max_kept=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolQuota:
    """What all users together may hold in the pools (or quota groups) that `pool_regex` finds.

    The first that finds a name counts. What is not set is not limited.
    """

    pool_regex: str
    count: int = UNLIMITED_COUNT
    cpus: float = UNLIMITED
    mem: float = UNLIMITED
    gpus: float = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """How many jobs may wait in the pools that `pool_regex` finds (Cook's queue-limits)."""

    pool_regex: str = ".*"
    pool_global_threshold: int = UNLIMITED_COUNT
    user_limit_normal: int = UNLIMITED_COUNT
    user_limit_constrained: int = UNLIMITED_COUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A token bucket, full at first. Not enforced it only counts."""

    bucket_size: float
    tokens_per_minute: float
    enforce: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """How fast things may happen.

    Attributes:
        job_submission: jobs that a user may submit; None does not limit.
        enforce_launch_rate: whether the launch rates in users' quotas hold back launches.
        cluster_launch: launches on each cluster; None does not limit.
        requests: requests to the API by each user, answered 429 when they are too many; None does not limit.
    """

    job_submission: Bucket | None = None
    enforce_launch_rate: bool = True
    cluster_launch: Bucket | None = None
    requests: Bucket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """What is looked after now and then.

    Attributes:
        interval_ms: how often overlong runs, stragglers and jobs larger than allowed are looked for.
        kill_interval_ms: how often kills are repeated whose ends were not heard.
        monitor_interval_ms: how often users are counted as starved, hungry and satisfied.
        progress_interval_ms: progress is gathered for that long and then written at once (Cook: 2,500);
            0 writes it as it comes.
        offensive: jobs that wait though they are larger than the settings allow (these were changed, say):
            `complete` ends them in the background, as Cook does; `keep` lets them wait.
    """

    interval_ms: int = 60_000
    kill_interval_ms: int = 3_000
    monitor_interval_ms: int = 20_000
    progress_interval_ms: int = 500
    offensive: Literal["complete", "keep"] = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionSettings:
    """Keep jobs off hosts that will not live until they end (Cook's estimated-completion constraint).

    Attributes:
        host_lifetime_ms: how long hosts live.
        expected_runtime_multiplier: what the expected run time of a job is multiplied by.
        grace_ms: how much earlier than its host a job should be done.
    """

    host_lifetime_ms: int
    expected_runtime_multiplier: float = 1.0
    grace_ms: int = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMove:
    """Jobs of users that are to run in another pool than they were submitted to (Cook's pool mover).

    Attributes:
        pool: the pool asked for.
        destination: the pool they run in.
        users: user -> which part of that user's jobs, 0 to 1.
    """

    pool: str
    destination: str
    users: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConstraints:
    """What the pools that `pool_regex` finds demand of hosts where a job has no such demand of its own.

    The first that finds a name counts.

    Attributes:
        pool_regex: which pools.
        constraints: pairs of a host attribute and the value it must have.
    """

    pool_regex: str = ".*"
    constraints: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSettings:
    """What bears on which host a job goes to.

    Attributes:
        avoid_failed_hosts: a job is not tried again where it failed, `while_others` that could run it are
            there; `always`, as in Cook, even if it then waits for ever; or `never`.
        max_tasks_per_host: how many tasks a host may run; None does not limit.
        completion: see there; None looks at no end.
        launch_filter: a function `module:name` that says of a waiting job whether it may start now.
        leave_out_too_large: jobs larger than the largest host are left out of the queue; they cannot start:
            Cook considers them again in each cycle, and fewer jobs while such a one is first.
        default_constraints: what pools add to the constraints of their jobs.
        rewritings: host attribute -> what is made of constraints on it: names that hosts bear no more, say.
    """

    avoid_failed_hosts: Literal["while_others", "always", "never"] = "while_others"
    max_tasks_per_host: int | None = None
    completion: CompletionSettings | None = None
    launch_filter: str | None = None
    leave_out_too_large: bool = True
    default_constraints: tuple[PoolConstraints, ...] = ()
    rewritings: Mapping[str, ConstraintRewrite] = field(default_factory=dict)
