"""The settings of a scheduler.

Lives here: `Settings`, the top level of a settings file. Not here: its tables (`service.settings.tables`),
the checks of their values (`service.settings.checks`), reading a file (`service.settings.loading`), the
configuration of clients (`client.connect`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.service.settings.tables import (
    ClusterSettings,
    HeadRoomSettings,
    JobSettings,
    LocalClusterSettings,
    MaintenanceSettings,
    MatchingSettings,
    MesosClusterSettings,
    PlacementSettings,
    PoolMove,
    PoolQuota,
    QueueLimit,
    RateSettings,
    RebalancerSettings,
    ServerSettings,
    StoreSettings,
)

# Constants of the node agent that Cook's clients find in /settings; nobody can set them.
PROGRESS_REGEX = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"
PROGRESS_PUBLISH_MS = 1000
RUNTIME_CHECK_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an operator may set.

    Attributes:
        server: the HTTP server.
        store: the store.
        clusters: the clusters, of type `local` (at most one) or `mesos`.
        pools: the pools.
        default_pool: pool of jobs that name none.
        jobs: upper limits on single jobs.
        default_shares: share of the user `default`, by resource, where the store has none. Where neither sets
            a share, it is an equal part of the pool: see `equal_shares`.
        equal_shares: whether that part is the pool divided by the number of users with jobs; otherwise it is
            the whole pool.
        pool_quotas: quotas of all users together.
        quota_groups: pool -> the quota group that shares a quota of `pool_quotas`.
        group_quota_when_idle: whether the quota of a group also applies while nothing of the group runs; in
            Cook it does not.
        queue_limits: limits on the number of waiting jobs.
        pool_moves: jobs that run in another pool than the one that they were submitted to.
        matching: the order of waiting jobs, and how they are matched to hosts.
        rebalancer: preemption.
        head_room: room that is kept for the head of the queue.
        placement: the choice of the host of a job.
        rates: limits on rates.
        maintenance: periodic maintenance.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    clusters: tuple[ClusterSettings, ...] = (LocalClusterSettings(),)
    pools: tuple[Pool, ...] = (Pool(name=DEFAULT_POOL, purpose="this machine"),)
    default_pool: PoolName = DEFAULT_POOL
    jobs: JobSettings = field(default_factory=JobSettings)
    default_shares: Mapping[str, float] = field(default_factory=dict)
    equal_shares: bool = True
    pool_quotas: tuple[PoolQuota, ...] = ()
    quota_groups: Mapping[PoolName, str] = field(default_factory=dict)
    group_quota_when_idle: bool = True
    queue_limits: tuple[QueueLimit, ...] = ()
    pool_moves: tuple[PoolMove, ...] = ()
    matching: MatchingSettings = field(default_factory=MatchingSettings)
    rebalancer: RebalancerSettings = field(default_factory=RebalancerSettings)
    head_room: HeadRoomSettings = field(default_factory=HeadRoomSettings)
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    rates: RateSettings = field(default_factory=RateSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)

    @property
    def has_gpus(self) -> bool:
        """Whether any cluster offers gpus."""
        return any(isinstance(one, MesosClusterSettings) and one.gpus for one in self.clusters)

    @property
    def local_cluster(self) -> LocalClusterSettings | None:
        """The cluster of type `local`, if there is one."""
        return next((one for one in self.clusters if isinstance(one, LocalClusterSettings)), None)
