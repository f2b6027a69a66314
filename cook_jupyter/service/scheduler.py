"""`Scheduler`: all that one may ask of the living scheduler.

Lives here: the requests of users and operators, checked against the present state, and the
scheduler's view of it: per pool a queue index, who holds what, which limits are in force. Every
view is built from commits (`_committed`), so memory and store cannot part.
Not here: the cycles (`service.cycles`), what clusters report (`service.updates`), HTTP (`api`).
"""

import asyncio
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cook_jupyter.clusters.base import ComputeCluster, Launch
from cook_jupyter.errors import InvalidRequest, NotFound, QuotaExceeded
from cook_jupyter.model import lifecycle
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import Instance, InstanceId, ProgressUpdate, Result
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitEntry, LimitKind
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.explain import sentences
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.config import Settings
from cook_jupyter.service.events import EventHub, Subscription
from cook_jupyter.service.limits import Limits
from cook_jupyter.service.queues import Queues
from cook_jupyter.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRow:
    """What usage needs to know of a running job."""

    job_id: JobId
    instance_id: InstanceId
    attempt: int  # how many instances the job had before this one
    user: str
    pool: str
    group: GroupId | None
    cpus: float
    mem_mb: float
    gpus: float


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
        blobs: Path,
    ) -> None:
        self.store = store
        self.clusters = {cluster.name: cluster for cluster in clusters}
        self.settings = settings
        self.clock = clock
        self.blobs = blobs
        self.hub = EventHub(store)
        self.limits = Limits(default_pool=settings.default_pool, default_shares=settings.default_shares)
        self.queues = Queues(settings.pools, self.limits, settings)
        self.wake = asyncio.Event()  # set when a match cycle may find something to do
        self.shutdown = asyncio.Event()
        self.stop_agent_at_shutdown = False
        self.started_ms = clock.now_ms()
        # A simulation puts its own source here, so that the same input gives the same output.
        self.new_instance_id: Callable[[], InstanceId] = lambda: str(uuid.uuid4())
        self._running: dict[JobId, RunningRow] = {}
        self._launching: set[InstanceId] = set()
        self._kill_wishes: set[InstanceId] = set()  # asked for, end not yet heard
        self._last_change = 0

    # Jobs

    async def submit(
        self,
        specs: Sequence[JobSpec],
        groups: Sequence[Group] = (),
        *,
        override_group_immutability: bool = False,
    ) -> Sequence[GroupId]:
        """Accept jobs, all or none; returns when they are durable.

        Returns:
            the groups that were created or extended.

        Raises:
            InvalidRequest: a pool that is not there or takes no jobs, a group that may not grow.
            QuotaExceeded: a job alone is above its user's quota, or too many jobs wait.
            Conflict: a uuid is in use.
        """
        for name in {spec.pool for spec in specs}:
            self._require_pool(name)
        self._check_quota(specs)
        self._check_queue_limit(specs)
        return await self.store.submit(
            specs, groups, now_ms=self.clock.now_ms(), grow_groups=override_group_immutability
        )

    async def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return jobs in the order asked; None where there is none."""
        return await self.store.jobs(job_ids)

    async def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, in the order asked."""
        return await self.store.jobs_of_instances(instance_ids)

    async def list_jobs(self, query: JobQuery) -> Sequence[Job]:
        """Return the jobs that match, newest first."""
        return await self.store.list_jobs(query)

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
        open_instances = await self.store.kill_jobs(job_ids)
        await self.kill_instances_now(open_instances)

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill instances; their jobs try again while attempts are left.

        Raises:
            NotFound: some are not known; nothing was changed.
        """
        await self.kill_instances_now(await self.store.cancel_instances(instance_ids))

    async def set_retries(self, job_ids: Sequence[JobId], totals: Sequence[int]) -> None:
        """Set the total attempts of jobs; completed ones with attempts left wait again.

        Raises:
            NotFound: some are not known.
            Conflict: one has used more attempts than that.
        """
        await self.store.retry(job_ids, totals, now_ms=self.clock.now_ms())

    def attempts(self, job: Job) -> int:
        """Count the attempts that a job has used up."""
        return lifecycle.attempts(job, free=self.settings.free_failures)

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        """Note progress; False where the instance is not known."""
        return await self.store.progress(updates)

    async def result(self, job_id: JobId) -> Result | None:
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
        return self.queues.why(
            job, attempts=self.attempts(job), offers=self.offers(), capacity=self.capacity()
        )

    async def explain(self, job_id: JobId) -> Sequence[str]:
        """Say the same in sentences for people, the one that waiting will not cure first.

        Raises:
            NotFound: no such job.
        """
        return sentences(await self.why(job_id))

    # Limits

    async def limits_of(self, kind: str, user: str, pool: str) -> Mapping[str, float]:
        """Return a user's share or quota in force in a pool, by Cook's names."""
        return self.limits.values(kind, user, pool)

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
        self.wake.set()

    async def retract_limits(self, kind: str, user: str, pool: str) -> None:
        """Remove a user's share or quota in a pool; the default user's counts again."""
        pool = pool or self.default_pool
        await self.store.retract_limits(kind, user, pool)
        self.limits.retract(kind, user, pool)
        self.wake.set()

    # The state of things

    def pools(self) -> Sequence[Pool]:
        """Return every pool."""
        return self.settings.pools

    @property
    def default_pool(self) -> str:
        """The pool of jobs that name none."""
        return self.settings.default_pool

    def running_jobs(self, user: str | None = None) -> Sequence[RunningRow]:
        """Return the running jobs, of one user or of all, oldest launch first."""
        return [row for row in self._running.values() if user is None or row.user == user]

    def queue(self, limit: int) -> Mapping[str, Sequence[JobId]]:
        """Return each pool's waiting jobs in launch order, those that quotas let start."""
        return {pool.name: self.queues.ranked(pool.name, limit) for pool in self.settings.pools}

    def running(self, limit: int) -> Sequence[InstanceId]:
        """Return running instances, at most `limit`."""
        return [row.instance_id for row in list(self._running.values())[:limit]]

    def waiting_count(self, user: str | None = None) -> int:
        """Return how many jobs wait."""
        return self.queues.waiting_count(user)

    def last_change(self) -> int:
        """Return the number of the last committed change."""
        return self._last_change

    def offers(self) -> Sequence[Offer]:
        """Return the room there is now, on all clusters."""
        return [offer for cluster in self.clusters.values() for offer in cluster.offers()]

    def capacity(self) -> Sequence[Offer]:
        """Return every host as if it were empty."""
        return [offer for cluster in self.clusters.values() for offer in cluster.capacity()]

    def subscribe(self, user: str, after: int | None, label: tuple[str, str] | None = None) -> Subscription:
        """Begin a stream of a user's changes above number `after` (None: from now on)."""
        return self.hub.subscribe(user, self._last_change if after is None else after, label)

    def summary(self) -> Mapping[str, Any]:
        """Return who waits and runs how much, and what there is: the body of /v1/summary."""
        total, used = Resources(), Resources()
        hosts: dict[str, Resources] = {o.host: o.room + o.running for o in self.capacity()}
        for room in hosts.values():
            total += room
        held: dict[str, Resources] = defaultdict(Resources)
        count: dict[str, int] = defaultdict(int)
        for row in self._running.values():
            amount = Resources(cpus=row.cpus, mem_mb=row.mem_mb, gpus=row.gpus)
            held[row.user] += amount
            count[row.user] += 1
            used += amount
        users = []
        for user in sorted(set(held) | set(self.queues.users())):
            share = self.limits.share(user, self.default_pool)
            users.append(
                {
                    "user": user,
                    "waiting": self.queues.waiting_count(user),
                    "running": count[user],
                    "cpus": held[user].cpus,
                    "mem": held[user].mem_mb,
                    "dru": max(held[user].cpus / share.cpus, held[user].mem_mb / share.mem_mb),
                    "share_cpus": share.cpus,
                }
            )
        return {
            "waiting": self.queues.waiting_count(None),
            "running": len(self._running),
            "users": users,
            "capacity": {
                "cpus": total.cpus,
                "mem": total.mem_mb,
                "gpus": total.gpus,
                "hosts": len(hosts),
            },
            "used": {"cpus": used.cpus, "mem": used.mem_mb, "gpus": used.gpus},
            "pools": [pool.name for pool in self.settings.pools],
        }

    def request_shutdown(self, *, stop_agent: bool = False) -> None:
        """Ask the scheduler to end; with `stop_agent` what runs on this machine ends too."""
        self.stop_agent_at_shutdown = stop_agent
        self.shutdown.set()

    # For the cycles and the updates

    async def recover(self) -> dict[str, list[tuple[JobSpec, Instance]]]:
        """Build every view from the store; returns the open instances of each cluster."""
        self.store.listen(self._committed)
        self.limits.load(await self.store.limits())
        self._last_change = await self.store.last_change()
        open_instances: dict[str, list[tuple[JobSpec, Instance]]] = defaultdict(list)
        async for batch in self.store.open_jobs():
            self.queues.load(batch)
            for job in batch:
                instance = job.open_instance
                if instance is not None:
                    open_instances[instance.cluster].append((job.spec, instance))
                    if job.state is JobState.RUNNING:
                        self._running[job.job_id] = _running_row(job, instance)
                    if job.state is JobState.COMPLETED or instance.cancelled:
                        self._kill_wishes.add(instance.instance_id)
        return open_instances

    async def kill_instances_now(self, instance_ids: Iterable[InstanceId]) -> None:
        """Send kills, and remember them until the ends are heard.

        A kill whose launch is still on its way waits for it: `launched` sends it.
        """
        wished = set(instance_ids)
        self._kill_wishes |= wished
        await self._send_kills(wished - self._launching)

    async def repeat_kills(self) -> None:
        """Send again every kill whose end was not heard: clusters may have lost it."""
        await self._send_kills(self._kill_wishes - self._launching)

    def launch_of(self, spec: JobSpec, instance: Instance) -> Launch:
        """Return what a cluster is to be told of a committed instance."""
        longest = self.settings.max_runtime_ms
        if longest is not None and spec.max_runtime_ms > longest:
            spec = replace(spec, max_runtime_ms=longest)
        row = self._running.get(spec.job_id)
        return Launch(spec=spec, instance=instance, attempt=0 if row is None else row.attempt)

    def launching(self, instance_ids: Iterable[InstanceId]) -> None:
        """Note that launches of these are about to be committed."""
        self._launching.update(instance_ids)

    async def launched(self, instance_ids: Iterable[InstanceId]) -> None:
        """Note that launches were sent, and send the kills that had to wait for them."""
        sent = set(instance_ids)
        self._launching -= sent
        await self._send_kills(self._kill_wishes & sent)

    async def _send_kills(self, instance_ids: set[InstanceId]) -> None:
        if instance_ids:
            for cluster in self.clusters.values():
                await cluster.kill(sorted(instance_ids))

    def _committed(self, changes: Sequence[JobChange]) -> None:
        """Bring the views up to a commit. Called in commit order, on the loop."""
        for change in changes:
            job = change.job
            self._last_change = max(self._last_change, job.change)
            if self._kill_wishes and change.instance is not None and not change.instance.status.is_open:
                self._kill_wishes.discard(change.instance.instance_id)
            self.queues.changed(job)
            instance = job.open_instance
            if job.state is JobState.RUNNING and instance is not None:
                self._running[job.job_id] = _running_row(job, instance)
            else:
                self._running.pop(job.job_id, None)
                self.wake.set()
        self.hub.publish(changes)

    def _require_pool(self, name: str) -> None:
        pool = next((p for p in self.settings.pools if p.name == name), None)
        if pool is None:
            raise InvalidRequest(f"{name} is not a valid pool name.")
        if not pool.active:
            raise InvalidRequest(f"{name} is not accepting job submissions.")

    def _check_quota(self, specs: Sequence[JobSpec]) -> None:
        findings = []
        for user, pool in {(spec.user, spec.pool) for spec in specs}:
            quota = self.limits.quota(user, pool)
            if quota.count <= 0:
                findings.append(f"User {user} has a quota of 0 jobs in pool {pool}")
            for spec in specs:
                if (spec.user, spec.pool) != (user, pool):
                    continue
                asked = (("cpus", spec.cpus, quota.cpus), ("mem", spec.mem_mb, quota.mem_mb))
                findings.extend(
                    f"Job {spec.job_id} exceeds quota for {name}: {amount} > {limit}"
                    for name, amount, limit in (*asked, ("gpus", float(spec.gpus), quota.gpus))
                    if amount > limit
                )
        if findings:
            raise QuotaExceeded("\n".join(findings))

    def _check_queue_limit(self, specs: Sequence[JobSpec]) -> None:
        new: dict[tuple[str, str], int] = defaultdict(int)
        for spec in specs:
            new[(spec.user, spec.pool)] += 1
        for (user, pool), number in new.items():
            for limit in self.settings.queue_limits:
                if not re.search(limit.pool_regex, pool):
                    continue
                crowded = self.queues.pool_waiting(pool) > limit.pool_global_threshold
                most = limit.user_limit_constrained if crowded else limit.user_limit_normal
                waiting = self.queues.waiting_count(user, pool)
                if waiting + number > most:
                    raise QuotaExceeded(
                        f"User has too many jobs queued in pool {pool}: {waiting} wait,"
                        f" {number} more were sent, {most} may wait"
                    )
                break


def counting_instance(job: Job) -> Instance | None:
    """Return the instance whose result counts: the successful one, else the last that has one."""
    with_result = [i for i in job.instances if i.has_result]
    succeeded = [i for i in with_result if i.status.value == "success"]
    return next(iter(succeeded or with_result[::-1]), None)


def _running_row(job: Job, instance: Instance) -> RunningRow:
    spec = job.spec
    return RunningRow(
        job_id=spec.job_id,
        instance_id=instance.instance_id,
        attempt=len(job.instances) - 1,
        user=spec.user,
        pool=spec.pool,
        group=spec.group,
        cpus=spec.cpus,
        mem_mb=spec.mem_mb,
        gpus=float(spec.gpus),
    )
