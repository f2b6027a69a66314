"""Typed settings of a scheduler, and where its files are.

Lives here: `Settings`, its defaults (Cook's, unless said), reading them from TOML, and the
layout of the home directory. Not here: what users of the notebook wing configure (`client.connect`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import Pool
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT, NEVER_COUNTS, PREEMPTED, MeaCulpaLimits
from cook_jupyter.service.settings.tables import (
    Bucket,
    HeadRoomSettings,
    MaintenanceSettings,
    PlacementSettings,
    PoolMove,
    PoolQuota,
    QueueLimit,
    RateSettings,
    RebalancerSettings,
)

# What node agents do, told to Cook's clients by /settings; nobody may set it.
PROGRESS_REGEX = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"
PROGRESS_PUBLISH_MS = 1000
RUNTIME_CHECK_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may set. Defaults are Cook's where Cook has one.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        allowed_hosts: further names by which requests may name the scheduler (`Host`).
        synchronous: SQLite's setting: NORMAL survives kill -9, FULL survives power loss too.
        cpus, mem_mb: what the local cluster offers; None is all the machine has.
        max_cpus, max_mem_mb: the most one job may ask for (task-constraints).
        max_runtime_ms: the longest that any instance may run, whatever its job asks for; None does not limit.
        retry_limit: the most attempts a job may ask for.
        rank_interval_ms: the timer behind the events: a cycle runs at least this often.
        mea_culpa_limit, mea_culpa_limits: how many failures of a reason that is ours cost a job no retry: of
            any such reason, and of those that are named; -1 for any number. Preemption is free however often
            it happens; in Cook (an empty table) it is one of the reasons that are not named.
        default_runtime_ms: the same for jobs that do not say how long they may run.
        order: `fair` ranks by DRU; `fifo` by priority and then as jobs came, whoever's they are, and
            preempts nobody.
        default_shares: the share of the user `default` where the store has none, by limit name. Where
            neither says anything everybody's share is an equal part of the pool: see `equal_shares`.
        equal_shares: that part is among those who have jobs now; False: it is the whole pool for everybody.
        pool_quotas: what all users together may hold in a pool.
        quota_groups: pool -> the group that it shares a quota of `pool_quotas` with.
        group_quota_when_idle: that quota holds also while nothing of the group runs; in Cook it does not.
        pool_moves: jobs that are to run in another pool than they were submitted to.
    """

    host: str = "127.0.0.1"
    port: int = 0
    socket: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    pools: tuple[Pool, ...] = (Pool(name="default", purpose="this machine"),)
    default_pool: str = "default"
    cpus: float | None = None
    mem_mb: float | None = None
    agent_idle_exit_s: float = 3600.0
    kill_grace_s: float = 5.0
    max_cpus: float = 1_000_000.0
    max_mem_mb: float = 1024.0 * 1_000_000
    max_ports: int = 5
    retry_limit: int = 20
    command_length_limit: int = 65_536
    max_runtime_ms: int | None = None
    default_runtime_ms: int | None = None
    mea_culpa_limit: int = DEFAULT_MEA_CULPA_LIMIT
    mea_culpa_limits: Mapping[str, int] = field(default_factory=lambda: {PREEMPTED: NEVER_COUNTS})
    max_considered: int = 1000
    scaleback: float = 0.95
    good_enough: float = 0.8
    max_over_quota_jobs: int = 100
    rank_interval_ms: int = 5000
    queue_limits: tuple[QueueLimit, ...] = ()
    cors_origins: tuple[str, ...] = ()
    impersonators: frozenset[str] = frozenset()
    admins: frozenset[str] = frozenset()
    body_bytes: int = 8 * 1024 * 1024
    jobs_per_submission: int = 10_000
    inline_result_bytes: int = 64 * 1024
    default_shares: Mapping[str, float] = field(default_factory=dict)
    equal_shares: bool = True
    order: Literal["fair", "fifo"] = "fair"
    rebalancer: RebalancerSettings = field(default_factory=RebalancerSettings)
    head_room: HeadRoomSettings = field(default_factory=HeadRoomSettings)
    pool_quotas: tuple[PoolQuota, ...] = ()
    quota_groups: Mapping[str, str] = field(default_factory=dict)
    group_quota_when_idle: bool = True
    rates: RateSettings = field(default_factory=RateSettings)
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    pool_moves: tuple[PoolMove, ...] = ()
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)

    @property
    def free_failures(self) -> MeaCulpaLimits:
        """How many failures of ours cost a job no retry."""
        return MeaCulpaLimits(default=self.mea_culpa_limit, by_reason=self.mea_culpa_limits)


def load_settings(path: Path | None, **overrides: Any) -> Settings:
    """Read settings from a TOML file and lay `overrides` that are not None over them.

    Raises:
        InvalidRequest: the file is not TOML, names a setting that does not exist, or gives one a value that
            it cannot have.
    """
    values: dict[str, Any] = {}
    if path is not None:
        from cook_jupyter.service.settings.toml_file import read_values  # most schedulers have no file

        values = read_values(path, Settings)
    values.update({name: value for name, value in overrides.items() if value is not None})
    settings = Settings(**values)
    require_consistent(settings)
    return settings


def require_consistent(settings: Settings) -> None:
    """Refuse settings that contradict each other or cannot be.

    Raises:
        InvalidRequest: the message names the setting and what it may be.
    """
    _require_pools(settings)
    _require_patterns(settings)
    for name, number, least in _numbers(settings):
        if number is not None and not number >= least:
            raise InvalidRequest(f"{name} is at least {least}, not {number}")
    if not 0 <= settings.head_room.max_kept <= 1:
        raise InvalidRequest(f"head_room.max_kept is 0 to 1, not {settings.head_room.max_kept}")
    if any(not amount > 0 for amount in settings.default_shares.values()):
        raise InvalidRequest(f"default_shares are above 0, not {dict(settings.default_shares)}")


def _require_pools(settings: Settings) -> None:
    pools = {pool.name for pool in settings.pools}
    if settings.default_pool not in pools:
        raise InvalidRequest(
            f"the default pool {settings.default_pool!r} is not one of the pools {sorted(pools)}:"
            " set default_pool to one of them"
        )
    for name in settings.quota_groups:
        if name not in pools:
            raise InvalidRequest(f"quota_groups names the pool {name!r}; the pools are {sorted(pools)}")
    for move in settings.pool_moves:
        if not {move.pool, move.destination} <= pools:
            raise InvalidRequest(
                f"pool_moves names {move.pool!r} and {move.destination!r}; the pools are {sorted(pools)}"
            )
        for user, portion in move.users.items():
            if not 0 <= portion <= 1:
                raise InvalidRequest(f"pool_moves: the portion of user {user} is 0 to 1, not {portion}")


def _require_patterns(settings: Settings) -> None:
    patterns = [("rebalancer.pool_regex", settings.rebalancer.pool_regex)]
    patterns += [("pool_quotas.pool_regex", quota.pool_regex) for quota in settings.pool_quotas]
    patterns += [("queue_limits.pool_regex", limit.pool_regex) for limit in settings.queue_limits]
    placement = settings.placement
    patterns += [
        ("placement.default_constraints.pool_regex", own.pool_regex) for own in placement.default_constraints
    ]
    patterns += [
        (f"placement.rewritings.{name}.patterns", pattern)
        for name, rewriting in placement.rewritings.items()
        for pattern, _ in rewriting.patterns
    ]
    for name, pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InvalidRequest(f"{name} {pattern!r} is no regular expression: {error}") from error


def _numbers(settings: Settings) -> Iterator[tuple[str, float | None, float]]:
    """Yield numbers by name, each with the least it may be."""
    rebalancer, maintenance, rates = settings.rebalancer, settings.maintenance, settings.rates
    yield "rank_interval_ms", settings.rank_interval_ms, 1
    yield "max_considered", settings.max_considered, 1
    yield "rebalancer.interval_ms", rebalancer.interval_ms, 1
    yield "rebalancer.safe_dru_threshold", rebalancer.safe_dru_threshold, 0
    yield "rebalancer.min_dru_diff", rebalancer.min_dru_diff, 0
    yield "rebalancer.max_preemption", rebalancer.max_preemption, 0
    yield "rebalancer.max_preemptions_per_hour", rebalancer.max_preemptions_per_hour, 1
    yield "rebalancer.max_lost_ms_beyond_share", rebalancer.max_lost_ms_beyond_share, 0
    yield "rebalancer.reserve_from", rebalancer.reserve_from, 1
    yield "maintenance.interval_ms", maintenance.interval_ms, 1
    yield "maintenance.kill_interval_ms", maintenance.kill_interval_ms, 1
    yield "maintenance.monitor_interval_ms", maintenance.monitor_interval_ms, 1
    yield "maintenance.progress_interval_ms", maintenance.progress_interval_ms, 0
    for name in ("job_submission", "cluster_launch", "requests"):
        bucket: Bucket | None = getattr(rates, name)
        if bucket is not None:
            yield f"rates.{name}.bucket_size", bucket.bucket_size, 0
            yield f"rates.{name}.tokens_per_minute", bucket.tokens_per_minute, 0
