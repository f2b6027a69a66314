"""`Scheduler`: everything that the API, the cycles and a simulation may ask of a running scheduler.

Lives here: the operations of users and operators, and the views of the state: the queues, the running jobs,
the limits in force. All views are updated by `_on_commit`, so that memory and store always agree.
Not here: the checks of submissions (`service.requests.admission`), cycles and maintenance (`service.cycles`),
reports of clusters (`service.cluster_updates`), HTTP (`api`).
"""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cook_jupyter.clusters.base import ComputeCluster, Launch
from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.model import lifecycle
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, ResultPayload
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, Group, GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitEntry, LimitKind
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.payload.blobs import ServedBlobStore
from cook_jupyter.payload.keys import Key
from cook_jupyter.scheduling.decisions import ranked, why
from cook_jupyter.scheduling.explaining.wait_reasons import sentences
from cook_jupyter.scheduling.hosts.host_health import HostHealth
from cook_jupyter.scheduling.limits.lingering import runtime_limit_ms
from cook_jupyter.scheduling.limits.progress_buffer import ProgressBuffer
from cook_jupyter.service.actions.growth import Growth
from cook_jupyter.service.actions.instance_secrets import InstanceSecrets
from cook_jupyter.service.actions.kills import KillTracker
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.requests.admission import Admission
from cook_jupyter.service.requests.events import EventHub, Subscription
from cook_jupyter.service.requests.instance_files import InstanceFiles
from cook_jupyter.service.requests.monitoring import Monitoring
from cook_jupyter.service.requests.nested_waits import NestedWaitTracker
from cook_jupyter.service.requests.summary import build_summary
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.snapshots import Snapshots
from cook_jupyter.service.state.limits import Limits
from cook_jupyter.service.state.queues import Queues
from cook_jupyter.service.state.rates import Rates
from cook_jupyter.service.state.rebalancer import RebalancerParameters
from cook_jupyter.service.state.running_jobs import RunningJob
from cook_jupyter.store.base import Store

log = logging.getLogger(__name__)

_launch = fast_constructor(Launch)


class Scheduler:
    """The scheduler of one store and its clusters. All methods run on one event loop.

    Args:
        store: the store.
        clusters: the clusters.
        settings: settings of the scheduler.
        clock: source of the time.
        blobs: directory of large payloads.
        instance_key: key of the secrets with which instances report progress; None gives them none.

    Attributes:
        instance_secrets: the secrets with which instances report progress; None without a key.
        event_hub: subscriptions to changes.
        limits: shares and quotas in force.
        kills: kills whose effect has not been reported.
        queues: queues of all pools.
        rates: token buckets of users and clusters.
        admission: checks of submissions.
        growth: requests for more hosts.
        rebalancer: parameters of preemption in force.
        host_health: the hosts that are out of use.
        snapshots: source of snapshots for decisions.
        monitoring: last count of starved, hungry and satisfied users.
        nested: running jobs that wait for their children.
        retry_lock: held from reading the total attempts of a job to setting another number.
        progress_buffer: progress on its way to the store.
        cycle_lock: held during a cycle, so that each cycle sees what the previous one has committed.
        wake: set when a match cycle may find something to do.
        shutdown: set when the scheduler is to stop.
        stop_agent_at_shutdown: whether to stop the node agent and its instances, too.
        failure: reason why the scheduler stops of its own accord; None if it was asked to, or runs.
        started_ms: time of the start.
        new_instance_id: source of instance ids; a simulation replaces it, to be reproducible.
    """

    def __init__(
        self,
        *,
        store: Store,
        clusters: Sequence[ComputeCluster],
        settings: Settings,
        clock: Clock,
        home: Home,
        blobs: ServedBlobStore,
        instance_key: Key | None = None,
    ) -> None:
        self.store = store
        self.clusters = {cluster.name: cluster for cluster in clusters}
        self.settings = settings
        self.clock = clock
        self.home = home
        self.blobs = blobs
        self.instance_secrets = None if instance_key is None else InstanceSecrets(instance_key)
        self.files = InstanceFiles(self.clusters)
        self.event_hub = EventHub(store)
        self.limits = Limits(
            default_pool=settings.default_pool,
            default_shares=settings.default_shares,
        )
        self.kills = KillTracker(self.clusters)
        self.queues = Queues(settings.pools, settings, self.kills)
        self.rates = Rates(settings.rates, self.limits)
        self.admission = Admission(settings, self.limits, self.queues, self.rates)
        self.growth = Growth(self.clusters, store)
        preempts = settings.rebalancer.enabled and settings.matching.order == "fair"
        self.rebalancer = RebalancerParameters(replace(settings.rebalancer, enabled=preempts))
        self.host_health = HostHealth()
        self.snapshots = Snapshots(
            settings=settings,
            clock=clock,
            clusters=self.clusters,
            queues=self.queues,
            limits=self.limits,
            rates=self.rates,
            rebalancer=self.rebalancer,
            host_health=self.host_health,
        )
        self.monitoring = Monitoring(
            settings=settings, queues=self.queues, snapshots=self.snapshots, clock=clock
        )
        self.nested = NestedWaitTracker(
            store=store,
            queues=self.queues,
            limits=self.limits,
            rebalancer=self.rebalancer,
            capacity=self.capacity,
            clock=clock,
        )
        self.retry_lock = asyncio.Lock()
        self.progress_buffer = ProgressBuffer()
        self.cycle_lock = asyncio.Lock()
        self.wake = asyncio.Event()
        self.shutdown = asyncio.Event()
        self.stop_agent_at_shutdown = False
        self.failure: str | None = None
        self.started_ms = clock.now_ms()
        self.new_instance_id: Callable[[], InstanceId] = lambda: InstanceId(str(uuid.uuid4()))
        self._running: dict[JobId, RunningJob] = {}
        self._last_change = 0

    # Jobs

    async def submit(
        self,
        specs: Sequence[JobSpec],
        groups: Sequence[Group] = (),
        *,
        override_group_immutability: bool = False,
        refuse_unsatisfiable: bool = False,
    ) -> Sequence[GroupId]:
        """Accept all jobs, or none; return when they are durable.

        Args:
            specs: the jobs.
            groups: the groups that they name.
            override_group_immutability: whether jobs may join groups of earlier submissions.
            refuse_unsatisfiable: whether to refuse jobs that certainly no host could ever run; otherwise they
                wait, as in Cook.

        Returns:
            the groups that were created or extended.

        Raises:
            Unsatisfiable: no host could ever run one of the jobs.
            InvalidRequest: a pool does not exist or accepts no jobs, or a group must not be extended.
            QuotaExceeded: a single job exceeds its user's quota, or too many jobs wait.
            Conflict: a uuid is in use.
        """
        now_ms = self.clock.now_ms()
        specs = self.admission.admit(specs, now_ms)
        if refuse_unsatisfiable and all(cluster.has_fixed_capacity for cluster in self.clusters.values()):
            for pool in {spec.pool for spec in specs}:
                self.snapshots.update_hosts(pool)
            self.admission.require_satisfiable(specs)
        with self.admission.counted_as_waiting(specs):
            group_ids = await self._submit(specs, groups, now_ms, grow_groups=override_group_immutability)
        self.admission.record_submission(specs, now_ms)
        return group_ids

    async def _submit(
        self, specs: Sequence[JobSpec], groups: Sequence[Group], now_ms: int, *, grow_groups: bool
    ) -> Sequence[GroupId]:
        registry = self.queues.groups
        added = registry.add(groups)
        stored = registry.unknown({spec.group for spec in specs if spec.group is not None})
        if stored:
            added += registry.add(group for group in await self.store.groups(stored) if group is not None)
        try:
            return await self.store.submit(specs, groups, now_ms=now_ms, grow_groups=grow_groups)
        except BaseException:
            registry.remove(added)
            raise

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return jobs in the order of their ids; None for an unknown id."""
        return await self.store.jobs(job_ids)

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, in the order of their ids; None for an unknown id."""
        return await self.store.jobs_of_instances(instance_ids)

    def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match a query, newest first, in pages."""
        return self.store.list_jobs(query)

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return groups in the order of their ids; None for an unknown id."""
        return await self.store.groups(group_ids)

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the jobs of a group in the order of their creation."""
        return await self.store.jobs_of_group(group_id)

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> None:
        """Complete jobs, and kill their open instances.

        Raises:
            NotFound: some do not exist; nothing was changed.
        """
        with self.kills.collecting_ends() as ended:
            instance_ids = await self.store.kill_jobs(job_ids)
        await self.kills.send(instance_id for instance_id in instance_ids if instance_id not in ended)

    async def cancel_waiting(self, job_ids: Sequence[JobId]) -> Sequence[JobId]:
        """Complete those of some jobs that wait, and return them; running jobs are not affected.

        Raises:
            NotFound: some do not exist; nothing was changed.
        """
        return await self.store.cancel_waiting(job_ids)

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill instances; their jobs are tried again as long as attempts are left.

        Raises:
            NotFound: some do not exist; nothing was changed.
        """
        with self.kills.collecting_ends() as ended:
            open_ids = await self.store.cancel_instances(instance_ids)
        await self.kills.send(instance_id for instance_id in open_ids if instance_id not in ended)

    async def set_retries(self, job_ids: Sequence[JobId], totals: Sequence[int]) -> None:
        """Set the total attempts of jobs. Completed jobs with attempts left wait again.

        Raises:
            NotFound: some do not exist.
            Conflict: a job has used more attempts than its new total.
        """
        await self._load_groups([job for job in await self.store.jobs(job_ids) if job is not None])
        await self.store.retry(job_ids, totals, now_ms=self.clock.now_ms())

    def attempts(self, job: Job) -> int:
        """Return the number of attempts that a job has used up."""
        return lifecycle.attempts_used(job, mea_culpa_limits=self.settings.jobs.free_failures)

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Store progress; return for each update whether its instance exists."""
        return await self.store.progress(updates)

    async def result(self, job_id: JobId) -> ResultPayload | None:
        """Return the result of a job: of the successful instance, or else of the last one that has a result.

        Raises:
            NotFound: there is no such job.
        """
        instance = instance_with_result(await self._require_job(job_id))
        return None if instance is None else await self.store.result(instance.instance_id)

    async def why(self, job_id: JobId) -> Sequence[WaitReason]:
        """Return all reasons why a job has not started at this moment, in Cook's order.

        Raises:
            NotFound: there is no such job.
        """
        return self._why(await self._require_job(job_id))

    async def explain(self, job_id: JobId) -> Sequence[str]:
        """Return the same reasons as sentences. A reason that waiting does not remove comes first.

        Raises:
            NotFound: there is no such job.
        """
        texts = [*sentences(await self.why(job_id))]
        (job,) = await self.store.jobs([job_id])
        if job is not None:
            texts += await self.nested.explain(job)
        return texts

    def _why(self, job: Job) -> Sequence[WaitReason]:
        pool = job.spec.pool
        return why(self.snapshots.take(pool), self.queues.index(pool), job, attempts=self.attempts(job))

    async def _require_job(self, job_id: JobId) -> Job:
        (job,) = await self.store.jobs([job_id])
        if job is None:
            raise NotFound(f"there is no job {job_id}", missing=(job_id,))
        return job

    async def dump(self, pool: PoolName, job_ids: Sequence[JobId] = ()) -> bytes:
        """Return a dump of a pool (`service.requests.dumps`) as JSON.

        It blocks the event loop for about a second per million jobs of the pool.

        Args:
            pool: the pool.
            job_ids: jobs whose waiting a replay explains.

        Raises:
            InvalidRequest: there is no such pool, or one of the jobs is in another one.
            NotFound: one of the jobs does not exist.
        """
        from importlib.metadata import version  # most schedulers are never asked for a dump

        from cook_jupyter.service.requests.dumps import take_dump

        names = [configured.name for configured in self.settings.pools]
        if pool not in names:
            raise InvalidRequest(f"there is no pool {pool!r}; the pools are {', '.join(names)}")
        jobs = []
        for job_id in job_ids:
            job = await self._require_job(job_id)
            if job.spec.pool != pool:
                raise InvalidRequest(f"job {job_id} is in the pool {job.spec.pool!r}, not in {pool!r}")
            jobs.append((job, self.attempts(job)))
        dump = take_dump(
            self.snapshots.take(pool),
            self.queues.index(pool),
            self.queues.launch_plugin,
            jobs,
            version=version("cook_jupyter"),
        )
        return await asyncio.to_thread(dump.encode)

    # Limits

    async def limits_of(self, kind: str, user: str, pool: PoolName) -> Mapping[str, float]:
        """Return the share or quota of a user that is in force in a pool, by Cook's names."""
        return self.limits.values(kind, user, pool, self.snapshots.division(pool or self.default_pool))

    async def set_limits(
        self, kind: str, user: str, pool: PoolName, values: Mapping[str, float], reason: str
    ) -> None:
        """Set some amounts of the share or quota of a user; the others do not change."""
        pool = pool or self.default_pool
        amounts = {name: amount for name, amount in values.items() if kind == LimitKind.QUOTA or amount > 0}
        entries = [
            LimitEntry(kind=kind, user=user, pool=pool, name=name, amount=amount, reason=reason)
            for name, amount in amounts.items()
        ]
        await self.store.set_limits(entries)
        self.limits.update(entries)
        self.rates.reset_launch_rate(user, pool)
        self.wake.set()

    async def retract_limits(self, kind: str, user: str, pool: PoolName) -> None:
        """Remove the share or quota of a user in a pool, so that the one of the user `default` applies."""
        pool = pool or self.default_pool
        await self.store.retract_limits(kind, user, pool)
        self.limits.remove(kind, user, pool)
        self.rates.reset_launch_rate(user, pool)
        self.wake.set()

    # Present state

    def pools(self) -> Sequence[Pool]:
        """Return all pools."""
        return self.settings.pools

    @property
    def store_id(self) -> str:
        """The id of the store, to which change numbers refer."""
        return self.store.store_id

    @property
    def default_pool(self) -> PoolName:
        """The pool of jobs that name none."""
        return self.settings.default_pool

    def running_jobs(self, user: str | None = None) -> Sequence[RunningJob]:
        """Return the running jobs of a user, or of all, in the order of their launches."""
        return [job for job in self._running.values() if user is None or job.user == user]

    def running_job(self, job_id: JobId) -> RunningJob | None:
        """Return a running job; None if the job does not run."""
        return self._running.get(job_id)

    def queue(self, limit: int) -> Mapping[PoolName, Sequence[JobId]]:
        """Return the first waiting jobs of each pool that quotas allow to start, in ranked order."""
        return {pool.name: self.ranked(pool.name, limit) for pool in self.settings.pools}

    def ranked(self, pool: PoolName, limit: int) -> Sequence[JobId]:
        """Return the first waiting jobs of a pool that quotas allow to start, in ranked order."""
        return ranked(self.snapshots.take(pool), self.queues.index(pool), limit)

    def running(self, limit: int) -> Sequence[InstanceId]:
        """Return at most `limit` running instances."""
        return [job.instance_id for job in list(self._running.values())[:limit]]

    def waiting_count(self, user: str | None = None) -> int:
        """Return the number of waiting jobs of a user, or of all."""
        return self.queues.waiting_count(user)

    def last_change(self) -> int:
        """Return the number of the last committed change."""
        return self._last_change

    def capacity(self) -> Sequence[Offer]:
        """Return every host as if it were empty."""
        return [offer for cluster in self.clusters.values() for offer in cluster.capacity()]

    def subscribe(
        self,
        user: str,
        after: int | None,
        label: tuple[str, str] | None = None,
        store_id: str | None = None,
    ) -> Subscription:
        """Begin a subscription to the changes of a user's jobs.

        Args:
            user: the user.
            after: number of the change after which to begin. None begins now, and so does a number that this
                store has not assigned: it is from another store, or from before this one was restored.
            label: name and value of a label that the jobs must have; None for all jobs.
            store_id: store that assigned the number; None if that is unknown.
        """
        if after is None or store_id not in (None, self.store_id) or after > self._last_change:
            after = self._last_change
        return self.event_hub.subscribe(user, after, label)

    def summary(self) -> Mapping[str, Any]:
        """Return usage, waiting jobs and capacity: the body of /v1/summary."""
        names = dict.fromkeys([self.default_pool, *(pool.pool.name for pool in self.queues.pools())])
        pools = [(self.snapshots.take(name), self.queues.index(name)) for name in names]
        return {
            **build_summary(self._running.values(), pools),
            "pools": [pool.name for pool in self.settings.pools],
            "monitor": self.monitoring.body(),
        }

    def request_shutdown(self, *, stop_agent: bool = False) -> None:
        """Ask the scheduler to stop.

        Args:
            stop_agent: whether to stop the node agent and its instances, too.
        """
        self.stop_agent_at_shutdown = stop_agent
        self.shutdown.set()

    def fail(self, why: str) -> None:
        """Stop of its own accord, as the scheduler can no longer keep its guarantees."""
        if self.failure is None:
            log.error("The scheduler stops: %s", why)
            self.failure = why
        self.shutdown.set()

    # Start, launches and commits

    async def recover(self) -> dict[str, list[tuple[JobSpec, Instance]]]:
        """Build every view from the store; return the open instances of each cluster."""
        self.store.listen(self._on_commit)
        self.limits.load(await self.store.limits())
        await self.rebalancer.load(self.store)
        self._last_change = await self.store.last_change()
        for pool in self.settings.pools:
            self.snapshots.update_hosts(pool.name)
        open_instances: dict[str, list[tuple[JobSpec, Instance]]] = defaultdict(list)
        async for batch in self.store.open_jobs():
            await self._load_groups(batch)
            self.queues.load(batch)
            for job in batch:
                instance = job.open_instance
                if instance is not None:
                    open_instances[instance.cluster].append((job.spec, instance))
                    self.kills.set_cluster(instance.instance_id, instance.cluster)
                    if job.state is JobState.RUNNING:
                        self._running[job.job_id] = RunningJob.of(job, instance)
                    if job.state is JobState.COMPLETED or instance.cancelled:
                        self.kills.schedule(instance.instance_id)
        return open_instances

    def build_launch(self, spec: JobSpec, instance: Instance) -> Launch:
        """Return what a cluster needs to launch a committed instance."""
        limits = self.settings.jobs
        requested_ms = None if spec.max_runtime_ms >= UNLIMITED_RUNTIME_MS else spec.max_runtime_ms
        allowed_ms = runtime_limit_ms(
            requested_ms, cap_ms=limits.max_runtime_ms, default_ms=limits.default_runtime_ms
        )
        if allowed_ms is not None and spec.max_runtime_ms > allowed_ms:
            spec = replace(spec, max_runtime_ms=allowed_ms)
        running_job = self._running.get(spec.job_id)
        secrets = self.instance_secrets
        return _launch(
            spec=spec,
            instance=instance,
            attempt=0 if running_job is None else running_job.attempt,
            secret="" if secrets is None else secrets.of(instance.instance_id),
        )

    async def _load_groups(self, jobs: Sequence[Job]) -> None:
        """Add the groups of jobs that are about to be added to the queues."""
        registry = self.queues.groups
        unknown = registry.unknown({job.spec.group for job in jobs if job.spec.group is not None})
        if unknown:
            registry.add(group for group in await self.store.groups(unknown) if group is not None)

    def _on_commit(self, changes: Sequence[JobChange]) -> None:
        """Update all views after a commit. Called in commit order, on the event loop."""
        if changes:
            self._last_change = max(self._last_change, changes[-1].job.change)
        new_jobs = [change.job for change in changes if change.before is None]
        if new_jobs:  # all at once: any other change of such a job follows its creation
            self.queues.load(new_jobs)
            self.wake.set()
            if len(new_jobs) == len(changes):
                self.event_hub.publish(changes)
                return
        queues, running = self.queues, self._running
        kills = self.kills or None
        has_freed_room = False
        for change in changes:
            if change.before is None:
                continue
            job, instance = change.job, change.instance
            if instance is not None and not instance.status.is_open:
                self._record_end(job, instance)
                if kills is not None:
                    kills.confirm((instance.instance_id,), committed=True)
            open_instance = job.open_instance
            queues.update(job, open_instance)
            job_id = job.spec.job_id
            if job.state is JobState.RUNNING and open_instance is not None:
                running_job = running.get(job_id)
                if running_job is None or running_job.instance_id != open_instance.instance_id:
                    running[job_id] = RunningJob.of(job, open_instance)
                    self.kills.set_cluster(open_instance.instance_id, open_instance.cluster)
            else:
                running.pop(job_id, None)
                has_freed_room = True
        if has_freed_room:
            self.wake.set()
        self.event_hub.publish(changes)

    def _record_end(self, job: Job, instance: Instance) -> None:
        """Record the end of an instance for the health of its host."""
        now_ms = self.clock.now_ms()
        outage = self.host_health.ended(job, instance, now_ms)
        if outage is not None:
            log.warning(
                "The host %s is out of use for %d s: %s; the log of its agent names the cause.",
                outage.host,
                (outage.until_ms - now_ms) // 1000,
                outage.cause,
            )


def instance_with_result(job: Job) -> Instance | None:
    """Return the instance whose result is the job's: the successful one, or else the last with a result."""
    with_result = [instance for instance in job.instances if instance.has_result]
    succeeded = [instance for instance in with_result if instance.status.value == "success"]
    return next(iter(succeeded or with_result[::-1]), None)
