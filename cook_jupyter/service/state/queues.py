"""The queues of all pools, which follow the commits of the store.

Lives here: `Queues`, which applies each change of a job to the `QueueIndex` of its pool.
Not here: a single pool (`service.state.pool_queue`), decisions (`scheduling.decisions`), what they read
besides the queue (`service.snapshots`), what is done with them (`service.cycles`).
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence

from cook_jupyter.model.decisions import Matching
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.constraints.constraints import Demand, demands_in_pool
from cook_jupyter.scheduling.decisions import CycleDecision, might_start
from cook_jupyter.scheduling.explaining.wait_reasons import unsatisfiable
from cook_jupyter.scheduling.heads import HeadsAfter
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.queue.preemption_history import preemption_history_of
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.state.group_registry import GroupRegistry
from cook_jupyter.service.state.launch_plugin import LaunchPlugin
from cook_jupyter.service.state.pool_queue import PoolQueue
from cook_jupyter.service.state.queue_heads import QueueHeads
from cook_jupyter.service.state.reservations import Reservations


class Queues:
    """The queue of each pool, and what decisions need besides.

    Args:
        pools: the pools.
        settings: settings of the scheduler.
        ending: instances that were killed and whose end has not been reported yet.

    Attributes:
        groups: the groups of the jobs.
        launch_plugin: the launch filter.
        reservations: room reserved for beneficiaries of preemptions.
        heads: jobs at the head of the queue of each pool.
        offensive: waiting jobs that request more than any job may, in order; the values have no meaning.
    """

    def __init__(self, pools: Sequence[Pool], settings: Settings, ending: Container[InstanceId]) -> None:
        self.groups = GroupRegistry(settings.placement)
        self.launch_plugin = LaunchPlugin(settings.placement.launch_filter)
        self.reservations = Reservations(settings.rebalancer, ending)
        self.heads = QueueHeads(settings.head_room, self._indexes)
        self.offensive: dict[JobId, None] = {}
        self._settings = settings
        self._pools = {pool.name: PoolQueue(pool, settings) for pool in pools}

    # Updates after commits

    def load(self, jobs: Sequence[Job]) -> None:
        """Add many jobs at once: new ones, or those of the store after a restart."""
        waiting: dict[PoolName, list[QueuedJob]] = defaultdict(list)
        for job in jobs:
            spec = job.spec
            if job.state is JobState.WAITING and spec.job_id not in self.pool(spec.pool).index:
                if self.launch_plugin.is_set:
                    self.launch_plugin.update(job)
                waiting[spec.pool].append(self._queued(job))
            else:
                self.update(job, job.open_instance)
        for name, queued in waiting.items():
            pool = self.pool(name)
            pool.index.add_many(queued)
            pool.users_changed()
        for job in jobs:
            if job.instances and job.state is JobState.WAITING:
                self.pool(job.spec.pool).index.set_preemptions(job.job_id, preemption_history_of(job))

    def update(self, job: Job, open_instance: Instance | None) -> None:
        """Apply the present state of a job to the queue of its pool.

        A job that was killed counts as running while its instance is open, as it holds room.

        Args:
            job: the job.
            open_instance: its open instance; None if it has none.
        """
        spec = job.spec
        job_id, is_waiting = spec.job_id, job.state is JobState.WAITING
        self.heads.tasks_changed()
        pool = self.pool(spec.pool)
        pool.users_changed()
        index = pool.index
        if self.launch_plugin.is_set:
            self.launch_plugin.update(job)
        reserved_number = None
        if not is_waiting and (self.reservations or pool.retried_jobs or self.offensive):
            reserved_number = self.reservations.remove(spec.pool, job_id)
            pool.retried_jobs.pop(job_id, None)
            self.offensive.pop(job_id, None)
        if open_instance is not None:
            if index.is_waiting(job_id):
                self._start(pool, job_id, open_instance, reserved_number)
            elif job_id not in index:  # after a restart, in the order of launches
                self._add(pool, job)
                index.mark_running(job_id, open_instance.started_ms, open_instance.host)
        elif is_waiting:
            if job_id not in index:
                self._add(pool, job)
            elif index.is_running(job_id):
                index.requeue(job_id, job_constraints=self._queued(job).job_constraints)
                index.set_preemptions(job_id, preemption_history_of(job))
        elif job_id in index:
            index.remove(job_id)
        if not is_waiting:
            self.heads.remove(spec.pool, job_id)
            if spec.group is not None and job.state is JobState.COMPLETED and job.succeeded:
                self.heads.record_run_time(job)

    def _start(self, pool: PoolQueue, job_id: JobId, instance: Instance, reserved_number: int | None) -> None:
        """Mark a waiting job as running.

        Args:
            pool: pool of the job.
            job_id: the job.
            instance: open instance of the job.
            reserved_number: launch number of its reservation; None if it had none.
        """
        number = reserved_number
        if number is None:
            number = pool.next_launch_number(instance.started_ms)
        pool.index.mark_running(job_id, instance.started_ms, instance.host, launch=number)
        head = self.heads.for_pool(pool.pool.name).get(job_id)
        if head is not None and head.host == instance.host:
            # Others waited while its room was collected. If it were preempted, it would be the head again.
            pool.index.spare_running(job_id)

    def update_hosts(self, name: PoolName, offers: Sequence[Offer]) -> None:
        """Replace the hosts of a pool. If they have changed, jobs may avoid other hosts than before.

        Args:
            name: the pool.
            offers: each of its hosts as if it were empty.
        """
        pool = self.pool(name)
        if not pool.update_hosts(offers):
            return
        self.heads.hosts_changed(name)
        for job_id, job in pool.retried_jobs.items():
            if pool.index.is_waiting(job_id):
                pool.index.remove(job_id)
                self._add(pool, job)

    def _add(self, pool: PoolQueue, job: Job) -> None:
        pool.index.add(self._queued(job))
        if job.instances:
            pool.index.set_preemptions(job.job_id, preemption_history_of(job))

    def _queued(self, job: Job) -> QueuedJob:
        """Return what the queue needs to know of a job; note whether it is offensive, or is retried."""
        spec, limits = job.spec, self._settings.jobs
        is_too_large = spec.cpus > limits.max_cpus or spec.mem_mb > limits.max_mem_mb
        if is_too_large and job.state is JobState.WAITING:
            self.offensive[job.job_id] = None
        if not job.instances and spec.group is None and spec.expected_runtime_ms is None:
            return QueuedJob.of(spec, job.seq)
        pool = self.pool(spec.pool)
        if job.instances and job.state is JobState.WAITING:
            pool.retried_jobs[job.job_id] = job
        constraints = self.groups.job_constraints(job, pool.defaults, pool.capacity.offers, pool.locations)
        return QueuedJob.of(spec, job.seq, constraints)

    # Results of decisions

    def record_decision(self, name: PoolName, decision: CycleDecision, *, heads_only: bool = False) -> None:
        """Record what the next match cycle of a pool needs to know of a decision.

        Args:
            name: the pool.
            decision: the decision.
            heads_only: whether only jobs at the head of the queue were matched.
        """
        self.heads.replace(name, decision.heads)
        if not heads_only:
            pool = self.pool(name)
            pool.last_matching = pool.latest_matching = matching = decision.matching
            pool.scaleback, pool.rate_limited = matching.scaleback, matching.rate_limited

    def record_idle_cycle(self, name: PoolName, heads: HeadsAfter | None = None) -> None:
        """Record a match cycle that considered no job; the next one considers the maximum again.

        Args:
            name: the pool.
            heads: heads of the queues, if jobs wait and no host has room for any of them.
        """
        pool = self.pool(name)
        pool.scaleback = pool.latest_matching = None
        if heads is not None:
            pool.latest_matching = Matching(considered=pool.index.waiting_count)
            self.heads.replace(name, heads)

    def reserve(self, pool: PoolName, hosts: Mapping[JobId, str], now_ms: int) -> None:
        """Replace the reservations of a pool; see `Reservations.replace`."""
        self.reservations.replace(pool, hosts, lambda: self.pool(pool).next_launch_number(now_ms))

    def last_matching(self, pool: PoolName) -> Matching | None:
        """Return the last match cycle of a pool that considered any job."""
        return self.pool(pool).last_matching

    def unreserved_offers(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return offers without the room that is reserved for beneficiaries of preemptions."""
        return self.reservations.unreserved_offers(offers, self._request_of)

    # Queries

    def pool(self, name: PoolName) -> PoolQueue:
        """Return a pool; a new one without hosts if it was removed from the settings but still has jobs."""
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = PoolQueue(Pool(name=name, active=False), self._settings)
        return pool

    def pools(self) -> Collection[PoolQueue]:
        """Return all pools."""
        return self._pools.values()

    def quota_group_of(self, pool: PoolQueue) -> Sequence[PoolQueue]:
        """Return the pools of the quota group of a pool."""
        return [member for member in self._pools.values() if member.group == pool.group]

    @property
    def capacities(self) -> Mapping[PoolName, PoolCapacity]:
        """Hosts of all pools."""
        return {name: pool.capacity for name, pool in self._pools.items()}

    def any_might_start(self, offers: Sequence[Offer]) -> bool:
        """Return whether the smallest request of any pool fits on any host."""
        return any(
            pool.index.waiting_count and might_start(pool.index, offers) for pool in self._pools.values()
        )

    def index(self, pool: PoolName) -> QueueIndex:
        """Return the waiting jobs and running tasks of a pool. The caller must not change them."""
        return self.pool(pool).index

    def unsatisfiable(self, spec: JobSpec) -> WaitReason | None:
        """Return the reason why no host could ever run a job; None if one could, or if no host is known.

        Args:
            spec: a job of one of the pools, whose hosts are up to date.
        """
        pool = self.pool(spec.pool)
        return unsatisfiable(spec, pool.capacity.offers, pool.defaults)

    def demands_in(self, pool: PoolName, demands: tuple[Demand, ...]) -> tuple[Demand, ...]:
        """Return the demands of a job on its host, including those that its pool adds."""
        return demands_in_pool(demands, self.pool(pool).defaults)

    def user_of(self, pool: PoolName, job_id: JobId) -> str | None:
        """Return the user of a job; None if the job is not in the queue of the pool."""
        tasks = self.pool(pool).index.tasks_of_job(job_id)
        return None if tasks is None else tasks.name

    def is_waiting(self, pool: PoolName, job_id: JobId) -> bool:
        """Return whether a job waits in a pool."""
        return self.pool(pool).index.is_waiting(job_id)

    def waiting_count(self, user: str | None = None, pool: PoolName | None = None) -> int:
        """Return the number of waiting jobs: of a user or of all, in a pool or in all."""
        pools = self._pools.values() if pool is None else [self.pool(pool)]
        if user is None:
            return sum(member.index.waiting_count for member in pools)
        return sum(member.index.waiting_of(user) for member in pools)

    def _indexes(self) -> Iterable[QueueIndex]:
        return [pool.index for pool in self._pools.values()]

    def _request_of(self, pool: PoolName, job_id: JobId) -> Resources:
        request = self.pool(pool).index.requested(job_id)
        return Resources(cpus=request.cpus, mem_mb=request.mem_mb, gpus=request.gpus)
