"""The queues of all pools: the scheduler's columns, kept in step with its commits.

Lives here: `Queues`, which follows each changed job into its pool's `QueueIndex`; `PoolQueue`, what is
known of one pool between decisions.
Not here: decisions (`scheduling.decisions`), what they read besides the queue (`service.snapshots`), what is
done with them (`service.cycles.match_cycle`).
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace

from cook_jupyter.model.decisions import Matching, Scaleback
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import Quota
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.constraints.constraints import Demand, PoolDefaults, demands_in_pool
from cook_jupyter.scheduling.decisions import CycleDecision, might_start
from cook_jupyter.scheduling.explaining.wait_reasons import unsatisfiable
from cook_jupyter.scheduling.heads import HeadsAfter
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.limits.pool_patterns import first_matching
from cook_jupyter.scheduling.matching.capacity import Capacity
from cook_jupyter.scheduling.matching.cycle import CycleSettings
from cook_jupyter.scheduling.matching.matching import MatchSettings
from cook_jupyter.scheduling.queue.preemption_history import preemption_history_of
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex, launch_number
from cook_jupyter.scheduling.ranking.considerable import UNLIMITED_QUOTA
from cook_jupyter.scheduling.ranking.ranking import Order, RankSettings
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.state.freed_room import FreedRoom
from cook_jupyter.service.state.group_registry import GroupRegistry
from cook_jupyter.service.state.head_rooms import HeadRooms
from cook_jupyter.service.state.launch_plugin import LaunchPlugin


class Queues:
    """One queue index a pool, and what decisions need besides it.

    Args:
        pools: the pools.
        settings: what the operator set.
        ending: instances that were killed and whose end was not heard yet.

    Attributes:
        placing: the groups, and where jobs may be tried again.
        plugin: the launch filter.
        freed: room that is being freed by preemption, and for whom.
        heads: jobs at the head of their pool's queue, and the room that is kept for them.
    """

    def __init__(self, pools: Sequence[Pool], settings: Settings, ending: Container[InstanceId]) -> None:
        self.placing = GroupRegistry(settings.placement)
        self.plugin = LaunchPlugin(settings.placement.launch_filter)
        self.freed = FreedRoom(settings.rebalancer, ending)
        self.heads = HeadRooms(settings.head_room, self._indexes)
        self._settings = settings
        self._pools = {pool.name: PoolQueue(pool, settings) for pool in pools}
        self.offensive: dict[JobId, None] = {}  # wait, and are larger than any job may be; in order

    # --- following commits

    def load(self, jobs: Sequence[Job]) -> None:
        """Take in jobs that are new, or that the store holds at a restart: many at once."""
        waiting: dict[PoolName, list[QueuedJob]] = defaultdict(list)
        for job in jobs:
            spec = job.spec
            if job.state is JobState.WAITING and spec.job_id not in self.pool(spec.pool).index:
                if self.plugin.asks:
                    self.plugin.changed(job)
                waiting[spec.pool].append(self._queued(job))
            else:
                self.changed(job, job.open_instance)
        for name, new in waiting.items():
            pool = self.pool(name)
            pool.index.add_many(new)
            pool.forget_users()
        for job in jobs:
            if job.instances and job.state is JobState.WAITING:
                self.pool(job.spec.pool).index.set_preemptions(job.job_id, preemption_history_of(job))

    def changed(self, job: Job, alive: Instance | None) -> None:
        """Bring the job's queue up to what the job is now; `alive` is its open instance, if it has one.

        A killed job whose task still runs stays in as running: it holds room.
        """
        spec = job.spec
        job_id, waits = spec.job_id, job.state is JobState.WAITING
        self.heads.forget_tasks()
        pool = self.pool(spec.pool)
        pool.forget_users()
        index = pool.index
        if self.plugin.asks:
            self.plugin.changed(job)
        launch = None
        if not waits and (self.freed or pool.tried or self.offensive):
            launch = self.freed.drop(spec.pool, job_id)
            pool.tried.pop(job_id, None)
            self.offensive.pop(job_id, None)
        if alive is not None:
            if index.is_waiting(job_id):
                self._start(pool, job_id, alive, launch)
            elif job_id not in index:  # at a restart: in the order of starts
                self._add(pool, job)
                index.mark_running(job_id, alive.started_ms, alive.host)
        elif waits:
            if job_id not in index:
                self._add(pool, job)
            elif index.is_running(job_id):
                index.requeue(job_id, job_constraints=self._queued(job).job_constraints)
                index.set_preemptions(job_id, preemption_history_of(job))
        elif job_id in index:
            index.remove(job_id)
        if not waits:
            self.heads.drop(spec.pool, job_id)
            if spec.group is not None and job.state is JobState.COMPLETED and job.succeeded:
                self.heads.note_end(job)

    def _start(self, pool: "PoolQueue", job_id: JobId, instance: Instance, launch: int | None) -> None:
        """Let a waiting job run.

        Args:
            pool: the pool of the job.
            job_id: the job.
            instance: the open instance of the job.
            launch: launch number that was reserved for the job, if any.
        """
        number = pool.next_launch(instance.started_ms) if launch is None else launch
        pool.index.mark_running(job_id, instance.started_ms, instance.host, launch=number)
        head = self.heads.of(pool.pool.name).get(job_id)
        if head is not None and head.host == instance.host:
            # Others waited while its room came together. Stopped, it would be the head again.
            pool.index.spare_running(job_id)

    def hosts_changed(self, name: PoolName, offers: Sequence[Offer]) -> None:
        """Learn what hosts a pool has; where they are others than before, jobs may be tried again there.

        Args:
            name: the pool.
            offers: each of its hosts as if it were empty.
        """
        pool = self.pool(name)
        if not pool.take_hosts(offers):
            return
        self.heads.hosts_changed(name)
        for job_id, job in pool.tried.items():
            if pool.index.is_waiting(job_id):
                pool.index.remove(job_id)
                self._add(pool, job)

    def _add(self, pool: "PoolQueue", job: Job) -> None:
        pool.index.add(self._queued(job))
        if job.instances:
            pool.index.set_preemptions(job.job_id, preemption_history_of(job))

    def _queued(self, job: Job) -> QueuedJob:
        """What the queue is to know of a job."""
        spec, settings = job.spec, self._settings
        too_large = spec.cpus > settings.jobs.max_cpus or spec.mem_mb > settings.jobs.max_mem_mb
        if too_large and job.state is JobState.WAITING:
            self.offensive[job.job_id] = None
        if not job.instances and spec.group is None and spec.expected_runtime_ms is None:
            return QueuedJob.of(spec, job.seq)
        pool = self.pool(spec.pool)
        if job.instances and job.state is JobState.WAITING:
            pool.tried[job.job_id] = job
        own = self.placing.job_constraints(job, pool.defaults, pool.capacity.offers, pool.locations)
        return QueuedJob.of(spec, job.seq, own)

    # --- what was decided

    def decided(self, name: PoolName, decision: CycleDecision, *, started_heads: bool = False) -> None:
        """Take over from a match cycle of a pool what its next one is to know.

        Args:
            name: the pool.
            decision: what was decided.
            started_heads: whether only jobs at the head of the queue were matched.
        """
        self.heads.put(name, decision.heads)
        if not started_heads:
            pool = self.pool(name)
            pool.last = pool.latest = matching = decision.matching
            pool.scaleback, pool.rate_limited = matching.scaleback, matching.rate_limited

    def matched_nothing(self, name: PoolName, heads: HeadsAfter | None = None) -> None:
        """Note a match cycle that had nothing to match: the next one considers as many jobs as ever.

        Args:
            name: the pool.
            heads: the heads of the queues, if jobs wait and no host has room for any of them.
        """
        pool = self.pool(name)
        pool.scaleback = pool.latest = None
        if heads is not None:
            pool.latest = Matching(considered=pool.index.waiting_count)
            self.heads.put(name, heads)

    def reserve(self, pool: PoolName, hosts: Mapping[JobId, str], now_ms: int) -> None:
        """Reserve room for jobs of a pool, in place of what was reserved in it before.

        From now on the jobs count as launched, in this order: whatever else their users start comes later.
        """
        self.freed.put(pool, hosts, lambda: self.pool(pool).next_launch(now_ms))

    def last_matching(self, pool: PoolName) -> Matching | None:
        """Return what the last match cycle of a pool decided that had something to look at."""
        return self.pool(pool).last

    def open_to_all(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return the offers without the room that is reserved for beneficiaries of preemptions."""
        return self.freed.open_to_all(offers, self._asked)

    # --- questions

    def pool(self, name: PoolName) -> "PoolQueue":
        """Return what is known of a pool."""
        pool = self._pools.get(name)
        if pool is None:  # it was taken out of the settings; its jobs are still there
            pool = self._pools[name] = PoolQueue(Pool(name=name, active=False), self._settings)
        return pool

    def pools(self) -> Collection["PoolQueue"]:
        """Return what is known of each pool."""
        return self._pools.values()

    def members(self, pool: "PoolQueue") -> Sequence["PoolQueue"]:
        """Return the pools of the quota group of a pool."""
        return [member for member in self._pools.values() if member.group == pool.group]

    @property
    def capacities(self) -> Mapping[PoolName, Capacity]:
        """Hosts of all pools."""
        return {name: pool.capacity for name, pool in self._pools.items()}

    def any_might_start(self, offers: Sequence[Offer]) -> bool:
        """Return whether some waiting job of any pool could be small enough for some host."""
        return any(
            pool.index.waiting_count and might_start(pool.index, offers) for pool in self._pools.values()
        )

    def index(self, pool: PoolName) -> QueueIndex:
        """Return the columns of a pool, to be read."""
        return self.pool(pool).index

    def unsatisfiable(self, spec: JobSpec) -> WaitReason | None:
        """Return why no host of a job's pool could ever take it; None if one could, or if no host is known.

        Args:
            spec: a job of one of the pools, whose capacity has been seen.
        """
        pool = self.pool(spec.pool)
        return unsatisfiable(spec, pool.capacity.offers, pool.defaults)

    def demands_in(self, pool: PoolName, own: tuple[Demand, ...]) -> tuple[Demand, ...]:
        """Return what is demanded of the host of a job with demands of its own in a pool."""
        return demands_in_pool(own, self.pool(pool).defaults)

    def user_of(self, pool: PoolName, job_id: JobId) -> str | None:
        """Return whose job it is, if the job is in the queue of the pool."""
        tasks = self.pool(pool).index.tasks_of_job(job_id)
        return None if tasks is None else tasks.name

    def is_waiting(self, pool: PoolName, job_id: JobId) -> bool:
        """Tell whether the job waits in the pool."""
        return self.pool(pool).index.is_waiting(job_id)

    def waiting_count(self, user: str | None = None, pool: PoolName | None = None) -> int:
        """Return how many jobs wait: of a user, of a pool, or of all."""
        pools = self._pools.values() if pool is None else [self.pool(pool)]
        if user is None:
            return sum(each.index.waiting_count for each in pools)
        return sum(each.index.waiting_of(user) for each in pools)

    def pool_waiting(self, pool: PoolName) -> int:
        """Return how many jobs wait in a pool."""
        return self.pool(pool).index.waiting_count

    def _indexes(self) -> Iterable[QueueIndex]:
        return [pool.index for pool in self._pools.values()]

    def _asked(self, pool: PoolName, job_id: JobId) -> Resources:
        asked = self.pool(pool).index.requested(job_id)
        return Resources(cpus=asked.cpus, mem_mb=asked.mem_mb, gpus=asked.gpus)


class PoolQueue:
    """One pool: its queue, its hosts, what it decides by, and what a cycle leaves for the next one.

    Attributes:
        pool: the pool.
        index: its waiting jobs and running tasks.
        capacity: its hosts as if they were empty.
        hosts: hosts as the last decision left them.
        attributes: attributes by host, also of hosts that are gone: tasks may run there still.
        locations: cluster -> its location, of those that say so.
        scaleback: what the last match cycle gave back; None if that matched nothing.
        rate_limited: jobs of users that the launch rate held back in the last match cycle.
        last: the last match cycle that had something to look at.
        latest: the latest match cycle, also one that found no room for any job; None if no job waited then.
        tried: waiting jobs that have been on some host.
        group: the quota group of the pool.
        quota, group_quota: what all users together may hold in the pool, and in its quota group.
        defaults: what the pool demands of the hosts of all its jobs.
        cycle: how the pool ranks and matches.
    """

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self.index = QueueIndex()
        self.hosts = Hosts()
        self.attributes: dict[str, Mapping[str, str]] = {}
        self.locations: dict[str, str] = {}
        self.scaleback: Scaleback | None = None
        self.rate_limited: Mapping[str, int] = {}
        self.last: Matching | None = None
        self.latest: Matching | None = None
        self.tried: dict[JobId, Job] = {}
        self._last_launch = 0
        self._user_count: int | None = None
        self.group = settings.quota_groups.get(pool.name)
        self.quota = _quota_of(settings, pool.name)
        self.group_quota = UNLIMITED_QUOTA if self.group is None else _quota_of(settings, self.group)
        placement = settings.placement
        completion = placement.completion
        added = first_matching(pool.name, ((own.pool_regex, own) for own in placement.default_constraints))
        self.defaults = PoolDefaults(
            constraints=() if added is None else added.constraints,
            rewritings=placement.rewritings,
            novel_host=placement.avoid_failed_hosts != "never",
            max_tasks_per_host=placement.max_tasks_per_host,
            max_runtime_ms=settings.jobs.max_runtime_ms,
            default_runtime_ms=settings.jobs.default_runtime_ms,
        )
        if completion is not None:
            self.defaults = replace(
                self.defaults,
                host_lifetime_ms=completion.host_lifetime_ms,
                host_start_grace_ms=completion.grace_ms,
                expected_runtime_multiplier=completion.expected_runtime_multiplier,
            )
        self.cycle = CycleSettings(
            rank=RankSettings(
                order=Order(settings.matching.order),
                mode=pool.dru_mode,
                max_over_quota_jobs=settings.matching.max_over_quota_jobs,
            ),
            match=MatchSettings(good_enough=settings.matching.good_enough, defaults=self.defaults),
            max_considered=settings.matching.max_considered,
            scaleback=settings.matching.scaleback,
        )
        self.capacity = Capacity.of((), placement.max_tasks_per_host)

    @property
    def user_count(self) -> int:
        """Number of users with tasks in the pool."""
        if self._user_count is None:
            self._user_count = len(self.index.by_name())
        return self._user_count

    def forget_users(self) -> None:
        """Learn that users may have come or gone."""
        self._user_count = None

    def take_hosts(self, offers: Sequence[Offer]) -> bool:
        """Learn what hosts there are; return whether they, or what they have, differ from before."""
        known = self.capacity.offers
        if len(known) == len(offers) and all(map(_same, known, offers)):
            return False
        self.capacity = Capacity.of(offers, self.capacity.max_tasks)
        for offer in offers:
            self.attributes[offer.host] = offer.attributes
            if offer.location is not None:
                self.locations[offer.cluster] = offer.location
        return True

    def next_launch(self, now_ms: int) -> int:
        """Return a launch number above all that were returned before, also if the clock was set back."""
        self._last_launch = max(self._last_launch + 1, launch_number(now_ms))
        return self._last_launch


def _quota_of(settings: Settings, name: str) -> Quota:
    """The quota of a pool, or of a quota group: of the first entry that finds its name."""
    found = first_matching(name, ((quota.pool_regex, quota) for quota in settings.pool_quotas))
    if found is None:
        return UNLIMITED_QUOTA
    return Quota(count=found.count, cpus=found.cpus, mem_mb=found.mem, gpus=found.gpus)


def _same(one: Offer, other: Offer) -> bool:
    return one is other or one == other
