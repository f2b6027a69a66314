"""Checks of the values of settings that their types do not rule out.

Lives here: `require_consistent`. Not here: names and types of settings (`service.settings.toml_file`).
"""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import Bucket, MesosClusterSettings

_LEAST_OF_MESOS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "failover_timeout_s": 0,
        "hold_s": 0,
        "decline_s": 0,
        "executor_idle_s": 0,
        "max_tasks_per_executor": 1,
        "kill_grace_s": 0,
        "partition_wait_s": 0,
    }
)
"""Name of a setting of a Mesos cluster -> its smallest valid value."""


def require_consistent(settings: Settings) -> None:
    """Refuse settings that are out of range or contradict each other.

    Raises:
        InvalidRequest: the message names the setting and its valid values.
    """
    _require_clusters(settings)
    _require_pools(settings)
    _require_patterns(settings)
    for name, number, least in _numbers(settings):
        if number is not None and not number >= least:
            raise InvalidRequest(f"{name} must be at least {least}, not {number}")
    if not 0 <= settings.head_room.max_kept <= 1:
        raise InvalidRequest(f"head_room.max_kept must be from 0 to 1, not {settings.head_room.max_kept}")
    if any(not amount > 0 for amount in settings.default_shares.values()):
        raise InvalidRequest(f"default_shares must be above 0, not {dict(settings.default_shares)}")


def _require_clusters(settings: Settings) -> None:
    if not settings.clusters:
        raise InvalidRequest("[[clusters]] must have an entry")
    names = [one.name if isinstance(one, MesosClusterSettings) else "local" for one in settings.clusters]
    for name in names:
        if names.count(name) > 1:
            advice = (
                "give each a `name` of its own" if name != "local" else "there can be one of type 'local'"
            )
            raise InvalidRequest(
                f"[[clusters]] has {names.count(name)} clusters of the name {name!r}: {advice}"
            )
    pools = {pool.name for pool in settings.pools}
    for one in settings.clusters:
        if isinstance(one, MesosClusterSettings):
            _require_mesos_cluster(one, pools)


def _require_mesos_cluster(mesos: MesosClusterSettings, pools: AbstractSet[str]) -> None:
    """Refuse settings of a Mesos cluster that cannot work on any Mesos."""
    cluster = f"the cluster {mesos.name!r}"
    if not mesos.master:
        raise InvalidRequest(
            f'{cluster} needs the address of its master: master = "host:port" or "zk://host:port/path"'
        )
    if mesos.principal and not mesos.secret_file:
        raise InvalidRequest(
            f"{cluster} has a principal without a secret: set secret_file to the file that contains it"
        )
    if mesos.secret_file and not mesos.principal:
        raise InvalidRequest(f"{cluster} has a secret_file without a principal: set the principal, too")
    if mesos.ca_file and mesos.connection == "pymesos":
        raise InvalidRequest(f'{cluster} has a ca_file, but connection = "pymesos" has no TLS')
    if mesos.certificate_file and not mesos.ca_file:
        raise InvalidRequest(f"{cluster} has a certificate_file without a ca_file")
    package = mesos.executor_package
    if package and "://" not in package and not package.startswith("/"):
        raise InvalidRequest(
            f"the executor_package of {cluster}, {package!r}, must be an absolute path or a URL,"
            " because the agents fetch it"
        )
    if not set(mesos.pools) <= pools:
        raise InvalidRequest(
            f"{cluster} names the pools {sorted(mesos.pools)}; the pools are {sorted(pools)}"
        )
    if not 0 <= mesos.max_held <= 1:
        raise InvalidRequest(f"max_held of {cluster} must be from 0 to 1, not {mesos.max_held}")
    for name, least in _LEAST_OF_MESOS.items():
        number = getattr(mesos, name)
        if not number >= least:
            raise InvalidRequest(f"{name} of {cluster} must be at least {least}, not {number}")


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
        for user, fraction in move.users.items():
            if not 0 <= fraction <= 1:
                raise InvalidRequest(
                    f"pool_moves: the fraction of user {user} must be from 0 to 1, not {fraction}"
                )


def _require_patterns(settings: Settings) -> None:
    placement = settings.placement
    patterns = [("rebalancer.pool_regex", settings.rebalancer.pool_regex)]
    patterns += [("pool_quotas.pool_regex", quota.pool_regex) for quota in settings.pool_quotas]
    patterns += [("queue_limits.pool_regex", limit.pool_regex) for limit in settings.queue_limits]
    patterns += [
        ("placement.default_constraints.pool_regex", entry.pool_regex)
        for entry in placement.default_constraints
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
            raise InvalidRequest(f"{name} {pattern!r} is not a regular expression: {error}") from error


def _numbers(settings: Settings) -> Iterator[tuple[str, float | None, float]]:
    """Yield the name, the value and the smallest valid value of each bounded number."""
    matching, rebalancer, maintenance = settings.matching, settings.rebalancer, settings.maintenance
    yield "matching.rank_interval_ms", matching.rank_interval_ms, 1
    yield "matching.max_considered", matching.max_considered, 1
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
        bucket: Bucket | None = getattr(settings.rates, name)
        if bucket is not None:
            yield f"rates.{name}.bucket_size", bucket.bucket_size, 0
            yield f"rates.{name}.tokens_per_minute", bucket.tokens_per_minute, 0
