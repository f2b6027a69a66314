"""One pool between two decisions.

Lives here: `PoolQueue`: the queue of a pool, its hosts, the settings by which it decides, and what a match
cycle leaves for the next one.
Not here: how all pools follow commits (`service.state.queues`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cook_jupyter.model.decisions import Matching, Scaleback
from cook_jupyter.model.job import Job, JobId
from cook_jupyter.model.limits import Quota
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.limits.pool_patterns import first_matching
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.cycle import CycleSettings
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.queue.queue_index import QueueIndex, launch_number
from cook_jupyter.scheduling.ranking.considerable import UNLIMITED_QUOTA
from cook_jupyter.scheduling.ranking.ranking import Order, RankSettings
from cook_jupyter.service.settings.schema import Settings


class PoolQueue:
    """The queue and the hosts of a pool.

    Args:
        pool: the pool.
        settings: settings of the scheduler.

    Attributes:
        pool: the pool.
        index: waiting jobs and running tasks of the pool.
        capacity: hosts of the pool as if they were empty.
        hosts: hosts as the last decision left them.
        attributes: host -> attributes, also of hosts that are gone, as tasks may still run there.
        locations: cluster -> location, for clusters that have one.
        scaleback: state of the scaleback after the last match cycle; None if that matched nothing.
        rate_limited: user -> number of jobs that the launch rate held back in the last match cycle.
        last_matching: the last match cycle that considered any job.
        latest_matching: the last match cycle, even if no host had room for any job; None if no job waited.
        retried_jobs: waiting jobs that have instances, by id.
        group: quota group of the pool; None if it has none.
        quota, group_quota: quotas of all users together in the pool and in its quota group.
        defaults: host constraints that the pool adds to those of its jobs.
        cycle_settings: how the pool ranks and matches.
    """

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self.index = QueueIndex()
        self.hosts = Hosts()
        self.attributes: dict[str, Mapping[str, str]] = {}
        self.locations: dict[str, str] = {}
        self.scaleback: Scaleback | None = None
        self.rate_limited: Mapping[str, int] = {}
        self.last_matching: Matching | None = None
        self.latest_matching: Matching | None = None
        self.retried_jobs: dict[JobId, Job] = {}
        self.group = settings.quota_groups.get(pool.name)
        self.quota = _quota_of(settings, pool.name)
        self.group_quota = UNLIMITED_QUOTA if self.group is None else _quota_of(settings, self.group)
        self.defaults = _pool_defaults(settings, pool.name)
        self.cycle_settings = CycleSettings(
            rank=RankSettings(
                order=Order(settings.matching.order),
                mode=pool.dru_mode,
                max_over_quota_jobs=settings.matching.max_over_quota_jobs,
            ),
            match=MatchSettings(good_enough=settings.matching.good_enough, defaults=self.defaults),
            max_considered=settings.matching.max_considered,
            scaleback=settings.matching.scaleback,
        )
        self.capacity = PoolCapacity.of((), settings.placement.max_tasks_per_host)
        self._last_launch_number = 0
        self._user_count: int | None = None  # cache, until tasks have come or gone

    @property
    def user_count(self) -> int:
        """The number of users with tasks in the pool."""
        if self._user_count is None:
            self._user_count = len(self.index.by_name())
        return self._user_count

    def users_changed(self) -> None:
        """Drop the number of users, as tasks have come or gone."""
        self._user_count = None

    def update_hosts(self, offers: Sequence[Offer]) -> bool:
        """Replace the hosts; return whether the hosts or their resources have changed.

        Args:
            offers: each host as if it were empty.
        """
        previous = self.capacity.offers
        if len(previous) == len(offers) and all(map(_are_equal, previous, offers)):
            return False
        self.capacity = PoolCapacity.of(offers, self.capacity.max_tasks)
        for offer in offers:
            self.attributes[offer.host] = offer.attributes
            if offer.location is not None:
                self.locations[offer.cluster] = offer.location
        return True

    def next_launch_number(self, now_ms: int) -> int:
        """Return a launch number above all earlier ones, even if the clock was set back."""
        self._last_launch_number = max(self._last_launch_number + 1, launch_number(now_ms))
        return self._last_launch_number


def _pool_defaults(settings: Settings, name: str) -> PoolDefaults:
    """Return the host constraints that a pool adds to those of its jobs."""
    placement = settings.placement
    entry = first_matching(name, ((entry.pool_regex, entry) for entry in placement.default_constraints))
    defaults = PoolDefaults(
        constraints=() if entry is None else entry.constraints,
        rewritings=placement.rewritings,
        novel_host=placement.avoid_failed_hosts != "never",
        max_tasks_per_host=placement.max_tasks_per_host,
        max_runtime_ms=settings.jobs.max_runtime_ms,
        default_runtime_ms=settings.jobs.default_runtime_ms,
    )
    completion = placement.completion
    if completion is None:
        return defaults
    return replace(
        defaults,
        host_lifetime_ms=completion.host_lifetime_ms,
        host_start_grace_ms=completion.grace_ms,
        expected_runtime_multiplier=completion.expected_runtime_multiplier,
    )


def _quota_of(settings: Settings, name: str) -> Quota:
    """Return the quota of a pool or of a quota group: that of the first entry that matches its name."""
    entry = first_matching(name, ((quota.pool_regex, quota) for quota in settings.pool_quotas))
    if entry is None:
        return UNLIMITED_QUOTA
    return Quota(count=entry.count, cpus=entry.cpus, mem_mb=entry.mem, gpus=entry.gpus)


def _are_equal(left: Offer, right: Offer) -> bool:
    return left is right or left == right
