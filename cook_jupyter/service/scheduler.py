"""`Scheduler`: all that one may ask of the living scheduler.

Lives here: the requests of users and operators, and the scheduler's view of its state: per pool a queue
index, who holds what, which limits are in force. Every view is built from commits (`_committed`), so memory
and store cannot part.
Not here: what a submission is checked against (`service.admission`), the cycles (`service.cycles`), upkeep
(`service.maintenance`), what clusters report (`service.updates`), HTTP (`api`).
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
from cook_jupyter.scheduling.limits.progress_buffer import ProgressBuffer
from cook_jupyter.service.admission import Admission
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.events import EventHub, Subscription
from cook_jupyter.service.growth import Growth
from cook_jupyter.service.instance_files import InstanceFiles
from cook_jupyter.service.instance_secrets import InstanceSecrets
from cook_jupyter.service.kills import KillTracker
from cook_jupyter.service.limits import Limits
from cook_jupyter.service.monitoring import Monitoring
from cook_jupyter.service.nested import NestedWaits, nested_sentences
from cook_jupyter.service.queues import Queues
from cook_jupyter.service.rates import Rates
from cook_jupyter.service.rebalancer import RebalancerParameters
from cook_jupyter.service.running import RunningJob
from cook_jupyter.service.snapshots import Snapshots
from cook_jupyter.service.summary import summary_of
from cook_jupyter.store.base import Store

log = logging.getLogger(__name__)

_launch = fast_constructor(Launch)


class Scheduler:
    """The scheduler of one store and its clusters.

    Built by `service.start`; `cycles` acts on the same object. All methods run on one event loop.
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
        self.hub = EventHub(store)
        self.limits = Limits(
            default_pool=settings.default_pool,
            default_shares=settings.default_shares,
        )
        self.kills = KillTracker(self.clusters)
        self.queues = Queues(settings.pools, settings, self.kills)
        self.rates = Rates(settings.rates, self.limits)
        self.admission = Admission(settings, self.limits, self.queues, self.rates)
        self.growth = Growth(self.clusters, store)
        preempts = settings.rebalancer.enabled and settings.order == "fair"
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
        self.monitoring = Monitoring()
        self.nested = NestedWaits(clock)
        self.retrying = asyncio.Lock()  # held from reading a job's total attempts to setting another one
        self.gathering = ProgressBuffer()  # progress on its way to the store
        self.cycle = asyncio.Lock()  # one cycle at a time: each sees what the last one has committed
        self.wake = asyncio.Event()  # set when a match cycle may find something to do
        self.shutdown = asyncio.Event()
        self.stop_agent_at_shutdown = False
        self.failure: str | None = None  # why it ends by itself; None if it was asked to
        self.started_ms = clock.now_ms()
        # A simulation puts its own source here, so that the same input gives the same output.
        self.new_instance_id: Callable[[], InstanceId] = lambda: str(uuid.uuid4())
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
        """Accept jobs, all or none; returns when they are durable.

        Args:
            specs: the jobs.
            groups: the groups that they name.
            override_group_immutability: whether jobs may join groups of earlier submissions.
            refuse_unsatisfiable: whether to refuse jobs that no host could ever take, where that is certain;
                otherwise they wait, as with Cook.

        Returns:
            the groups that were created or extended.

        Raises:
            Unsatisfiable: no host could ever take one of the jobs.
            InvalidRequest: a pool that is not there or takes no jobs, a group that may not grow.
            QuotaExceeded: a job alone is above its user's quota, or too many jobs wait.
            Conflict: a uuid is in use.
        """
        now_ms = self.clock.now_ms()
        specs = self.admission.admit(specs, now_ms)
        if refuse_unsatisfiable and all(cluster.has_fixed_capacity for cluster in self.clusters.values()):
            for pool in {spec.pool for spec in specs}:
                self.snapshots.follow_hosts(pool)
            self.admission.require_satisfiable(specs)
        with self.admission.under_way(specs):
            touched = await self._submit(specs, groups, now_ms, grow_groups=override_group_immutability)
        self.admission.admitted(specs, now_ms)
        return touched

    async def _submit(
        self, specs: Sequence[JobSpec], groups: Sequence[Group], now_ms: int, *, grow_groups: bool
    ) -> Sequence[GroupId]:
        placing = self.queues.placing
        new = placing.learn(groups)
        stored = placing.unknown({spec.group for spec in specs if spec.group is not None})
        if stored:
            new += placing.learn(group for group in await self.store.groups(stored) if group is not None)
        try:
            return await self.store.submit(specs, groups, now_ms=now_ms, grow_groups=grow_groups)
        except BaseException:
            placing.forget(new)
            raise

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return jobs in the order asked; None where there is none."""
        return await self.store.jobs(job_ids)

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, in the order asked."""
        return await self.store.jobs_of_instances(instance_ids)

    def list_jobs(self, query: JobQuery) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs that match, newest first, in pages."""
        return self.store.list_jobs(query)

    async def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return groups in the order asked."""
        return await self.store.groups(group_ids)

    async def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the group's jobs in the order of creation."""
        return await self.store.jobs_of_group(group_id)

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> None:
        """Complete jobs at once; what they run is killed.

        Raises:
            NotFound: some are not known; nothing was changed.
        """
        with self.kills.collecting_ends() as ended:
            instance_ids = await self.store.kill_jobs(job_ids)
        await self.kills.send(each for each in instance_ids if each not in ended)

    async def cancel_waiting(self, job_ids: Sequence[JobId]) -> Sequence[JobId]:
        """Complete those of the jobs that wait, and return them; what runs goes on.

        Raises:
            NotFound: some are not known; nothing was changed.
        """
        return await self.store.cancel_waiting(job_ids)

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill instances; their jobs try again while attempts are left.

        Raises:
            NotFound: some are not known; nothing was changed.
        """
        with self.kills.collecting_ends() as ended:
            open_instances = await self.store.cancel_instances(instance_ids)
        await self.kills.send(each for each in open_instances if each not in ended)

    async def set_retries(self, job_ids: Sequence[JobId], totals: Sequence[int]) -> None:
        """Set the total attempts of jobs; completed ones with attempts left wait again.

        Raises:
            NotFound: some are not known.
            Conflict: one has used more attempts than that.
        """
        known = [job for job in await self.store.jobs(job_ids) if job is not None]
        await self._know_groups(known)
        await self.store.retry(job_ids, totals, now_ms=self.clock.now_ms())

    def attempts(self, job: Job) -> int:
        """Count the attempts that a job has used up."""
        return lifecycle.attempts(job, free=self.settings.free_failures)

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Note progress; False where the instance is not known."""
        return await self.store.progress(updates)

    async def result(self, job_id: JobId) -> ResultPayload | None:
        """Return the result that counts: the successful instance's, else the last one's.

        Raises:
            NotFound: no such job.
        """
        (job,) = await self.store.jobs([job_id])
        if job is None:
            raise NotFound(f"there is no job {job_id}", missing=(job_id,))
        instance = counting_instance(job)
        return None if instance is None else await self.store.result(instance.instance_id)

    async def why(self, job_id: JobId) -> Sequence[WaitReason]:
        """Say why a job has not started: all that holds at this moment, in Cook's order.

        Raises:
            NotFound: no such job.
        """
        (job,) = await self.store.jobs([job_id])
        if job is None:
            raise NotFound(f"there is no job {job_id}", missing=(job_id,))
        pool = job.spec.pool
        return why(self.snapshots.of(pool), self.queues.index(pool), job, attempts=self.attempts(job))

    async def explain(self, job_id: JobId) -> Sequence[str]:
        """Say the same in sentences for people, the one that waiting will not cure first.

        Raises:
            NotFound: no such job.
        """
        found = [*sentences(await self.why(job_id))]
        (job,) = await self.store.jobs([job_id])
        if job is not None:
            found += await nested_sentences(self, job)
        return found

    async def dump(self, pool: PoolName, job_ids: Sequence[JobId] = ()) -> bytes:
        """Return a pool as decisions find it now, as JSON (`service.dumps`).

        The scheduler stands still for about a second per million jobs of the pool.

        Args:
            pool: the pool.
            job_ids: jobs that are asked about: why do they wait?

        Raises:
            InvalidRequest: there is no such pool, or one of the jobs is in another one.
            NotFound: one of the jobs does not exist.
        """
        from importlib.metadata import version  # most schedulers are never asked

        from cook_jupyter.service.dumps import take_dump

        names = [each.name for each in self.settings.pools]
        if pool not in names:
            raise InvalidRequest(f"there is no pool {pool!r}; the pools are {', '.join(names)}")
        jobs = []
        for job_id, job in zip(job_ids, await self.store.jobs(job_ids), strict=True):
            if job is None:
                raise NotFound(f"there is no job {job_id}", missing=(job_id,))
            if job.spec.pool != pool:
                raise InvalidRequest(f"job {job_id} is in the pool {job.spec.pool!r}, not in {pool!r}")
            jobs.append((job, self.attempts(job)))
        dump = take_dump(
            self.snapshots.of(pool),
            self.queues.index(pool),
            self.queues.plugin,
            jobs,
            version=version("cook_jupyter"),
        )
        return await asyncio.to_thread(dump.encode)

    # Limits

    async def limits_of(self, kind: str, user: str, pool: str) -> Mapping[str, float]:
        """Return a user's share or quota in force in a pool, by Cook's names."""
        return self.limits.values(kind, user, pool, self.snapshots.division(pool or self.default_pool))

    async def set_limits(
        self, kind: str, user: str, pool: str, values: Mapping[str, float], reason: str
    ) -> None:
        """Set some amounts of a user's share or quota; the others stay."""
        pool = pool or self.default_pool
        kept = {name: amount for name, amount in values.items() if kind == LimitKind.QUOTA or amount > 0}
        entries = [
            LimitEntry(kind=kind, user=user, pool=pool, name=name, amount=amount, reason=reason)
            for name, amount in kept.items()
        ]
        await self.store.set_limits(entries)
        self.limits.put(entries)
        self.rates.limits_changed(user, pool)
        self.wake.set()

    async def retract_limits(self, kind: str, user: str, pool: str) -> None:
        """Remove a user's share or quota in a pool; the default user's counts again."""
        pool = pool or self.default_pool
        await self.store.retract_limits(kind, user, pool)
        self.limits.retract(kind, user, pool)
        self.rates.limits_changed(user, pool)
        self.wake.set()

    # The state of things

    def pools(self) -> Sequence[Pool]:
        """Return every pool."""
        return self.settings.pools

    @property
    def store_id(self) -> str:
        """The id of the store, in which numbers of changes count."""
        return self.store.store_id

    @property
    def default_pool(self) -> str:
        """The pool of jobs that name none."""
        return self.settings.default_pool

    def running_jobs(self, user: str | None = None) -> Sequence[RunningJob]:
        """Return the running jobs, of one user or of all, oldest launch first."""
        return [row for row in self._running.values() if user is None or row.user == user]

    def queue(self, limit: int) -> Mapping[str, Sequence[JobId]]:
        """Return each pool's waiting jobs in launch order, those that quotas let start."""
        return {pool.name: self.ranked(pool.name, limit) for pool in self.settings.pools}

    def ranked(self, pool: PoolName, limit: int) -> Sequence[JobId]:
        """Return the first waiting jobs of a pool in launch order, those that quotas let start."""
        return ranked(self.snapshots.of(pool), self.queues.index(pool), limit)

    def running(self, limit: int) -> Sequence[InstanceId]:
        """Return running instances, at most `limit`."""
        return [row.instance_id for row in list(self._running.values())[:limit]]

    def waiting_count(self, user: str | None = None) -> int:
        """Return how many jobs wait."""
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
        """Begin a stream of a user's changes.

        Args:
            user: the user.
            after: the number after which to begin. None means from now on, and so does a number that this
                store has not given out: another store has, or this one before it was restored from a copy.
            label: only jobs with this label.
            store_id: the store that gave the number out, if that is known.
        """
        if after is None or store_id not in (None, self.store_id) or after > self._last_change:
            after = self._last_change
        return self.hub.subscribe(user, after, label)

    def summary(self) -> Mapping[str, Any]:
        """Return who waits and runs how much, and what there is: the body of /v1/summary."""
        names = dict.fromkeys([self.default_pool, *(pool.pool.name for pool in self.queues.pools())])
        pools = [(self.snapshots.of(name), self.queues.index(name)) for name in names]
        told = summary_of(self._running.values(), pools)
        return {
            **told,
            "pools": [pool.name for pool in self.settings.pools],
            "monitor": self.monitoring.body(),
        }

    def request_shutdown(self, *, stop_agent: bool = False) -> None:
        """Ask the scheduler to end; with `stop_agent` what runs on this machine ends too."""
        self.stop_agent_at_shutdown = stop_agent
        self.shutdown.set()

    def fail(self, why: str) -> None:
        """End by itself, as it can no longer keep its promises."""
        if self.failure is None:
            log.error("The scheduler ends: %s", why)
            self.failure = why
        self.shutdown.set()

    # For the cycles and the updates

    async def recover(self) -> dict[str, list[tuple[JobSpec, Instance]]]:
        """Build every view from the store; returns the open instances of each cluster."""
        self.store.listen(self._committed)
        self.limits.load(await self.store.limits())
        await self.rebalancer.load(self.store)
        self._last_change = await self.store.last_change()
        for pool in self.settings.pools:
            self.snapshots.follow_hosts(pool.name)
        open_instances: dict[str, list[tuple[JobSpec, Instance]]] = defaultdict(list)
        async for batch in self.store.open_jobs():
            await self._know_groups(batch)
            self.queues.load(batch)
            for job in batch:
                instance = job.open_instance
                if instance is not None:
                    open_instances[instance.cluster].append((job.spec, instance))
                    self.kills.locate(instance.instance_id, instance.cluster)
                    if job.state is JobState.RUNNING:
                        self._running[job.job_id] = RunningJob.of(job, instance)
                    if job.state is JobState.COMPLETED or instance.cancelled:
                        self.kills.wish(instance.instance_id)
        return open_instances

    def running_row(self, job_id: JobId) -> RunningJob | None:
        """Return what runs of a job, if it runs."""
        return self._running.get(job_id)

    def launch_of(self, spec: JobSpec, instance: Instance) -> Launch:
        """Return what a cluster is to be told of a committed instance."""
        longest_ms = self.longest_ms(spec.max_runtime_ms)
        if spec.max_runtime_ms > longest_ms:
            spec = replace(spec, max_runtime_ms=longest_ms)
        row = self._running.get(spec.job_id)
        secrets = self.instance_secrets
        return _launch(
            spec=spec,
            instance=instance,
            attempt=0 if row is None else row.attempt,
            secret="" if secrets is None else secrets.of(instance.instance_id),
        )

    def longest_ms(self, asked_ms: int) -> int:
        """Return how long a job that asks for that much may run here."""
        most, usual = self.settings.max_runtime_ms, self.settings.default_runtime_ms
        if asked_ms >= UNLIMITED_RUNTIME_MS and usual is not None:
            asked_ms = usual
        return asked_ms if most is None else min(asked_ms, most)

    async def _know_groups(self, jobs: Sequence[Job]) -> None:
        """Learn of the groups of jobs that are about to come in."""
        placing = self.queues.placing
        unknown = placing.unknown({job.spec.group for job in jobs if job.spec.group is not None})
        if unknown:
            placing.learn(group for group in await self.store.groups(unknown) if group is not None)

    def _committed(self, changes: Sequence[JobChange]) -> None:
        """Bring the views up to a commit. Called in commit order, on the loop."""
        if changes:
            self._last_change = max(self._last_change, changes[-1].job.change)
        new = [change.job for change in changes if change.before is None]
        if new:  # many at once: a later change of such a job comes after it all the same
            self.queues.load(new)
            self.wake.set()
            if len(new) == len(changes):
                self.hub.publish(changes)
                return
        queues, running = self.queues, self._running
        kills = self.kills or None
        stopped = False
        for change in changes:
            if change.before is None:
                continue
            job, touched = change.job, change.instance
            if touched is not None and not touched.status.is_open:
                self._note_end(job, touched)
                if kills is not None:
                    kills.heard((touched.instance_id,), committed=True)
            alive = job.open_instance
            queues.changed(job, alive)
            job_id = job.spec.job_id
            if job.state is JobState.RUNNING and alive is not None:
                row = running.get(job_id)
                if row is None or row.instance_id != alive.instance_id:
                    running[job_id] = RunningJob.of(job, alive)
                    self.kills.locate(alive.instance_id, alive.cluster)
            else:
                running.pop(job_id, None)
                stopped = True
        if stopped:
            self.wake.set()
        self.hub.publish(changes)

    def _note_end(self, job: Job, instance: Instance) -> None:
        """Let the end of an instance count for the health of its host."""
        now_ms = self.clock.now_ms()
        outage = self.host_health.ended(job, instance, now_ms)
        if outage is not None:
            log.warning(
                "The host %s is out of use for %d s: %s; the log of its agent names the cause.",
                outage.host,
                (outage.until_ms - now_ms) // 1000,
                outage.cause,
            )


def counting_instance(job: Job) -> Instance | None:
    """Return the instance whose result counts: the successful one, else the last that has one."""
    with_result = [i for i in job.instances if i.has_result]
    succeeded = [i for i in with_result if i.status.value == "success"]
    return next(iter(succeeded or with_result[::-1]), None)
