"""Nested jobs: running jobs that wait for jobs which they have submitted themselves.

Lives here: `NestedWaitTracker`, which keeps the reports of such jobs, finds deadlocks among them and explains
them in sentences.
Not here: which reports make a deadlock (`scheduling.explaining.nested`), HTTP (`api.nested`).

A report is valid for a few seconds, and the job repeats it for as long as it waits. So a job that has gone
on, or whose process has died, soon counts as not waiting. Nothing is stored: after a restart of the scheduler
the jobs report again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import PARENT_LABEL, Job, JobId, JobState
from cook_jupyter.model.offer import Offer
from cook_jupyter.scheduling.constraints.constraints import constraint_class_of
from cook_jupyter.scheduling.explaining.nested import QueuedChild, WaitingParent, deadlocked
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.state.limits import Limits
from cook_jupyter.service.state.queues import Queues
from cook_jupyter.service.state.rebalancer import RebalancerParameters
from cook_jupyter.store.base import Store

REPORT_MS = 5_000  # validity of a report
MAX_CHILDREN = 1_000


class _Report(NamedTuple):
    """The last report of a running job."""

    job_id: JobId
    children: frozenset[JobId]
    at_ms: int


class NestedWaitTracker:
    """The running jobs that wait for their child jobs.

    Args:
        store: the store, which has the jobs.
        queues: queues of all pools.
        limits: shares and quotas in force.
        rebalancer: parameters of preemption in force.
        capacity: function that returns every host as if it were empty.
        clock: clock of the scheduler.
    """

    def __init__(
        self,
        *,
        store: Store,
        queues: Queues,
        limits: Limits,
        rebalancer: RebalancerParameters,
        capacity: Callable[[], Sequence[Offer]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._queues = queues
        self._limits = limits
        self._rebalancer = rebalancer
        self._capacity = capacity
        self._clock = clock
        self._reports: dict[InstanceId, _Report] = {}

    def report(self, instance_id: InstanceId, job_id: JobId, children: Collection[JobId]) -> None:
        """Record that a running job does nothing but wait, without a time limit, for child jobs.

        Args:
            instance_id: running instance of the job.
            job_id: the job.
            children: the jobs that it waits for; empty if it has stopped waiting.
        """
        if children:
            self._reports[instance_id] = _Report(job_id, frozenset(children), self._clock.now_ms())
        else:
            self._reports.pop(instance_id, None)

    def children_of(self, job_id: JobId) -> frozenset[JobId]:
        """Return the jobs that a running job waits for."""
        reports = self._valid_reports().values()
        return frozenset().union(*(report.children for report in reports if report.job_id == job_id))

    async def find_deadlocked(self) -> tuple[WaitingParent, ...]:
        """Return the running jobs whose children can never start, the last to start first."""
        reports = dict(self._valid_reports())
        job_ids = {report.job_id for report in reports.values()}
        job_ids.update(*(report.children for report in reports.values()))
        jobs = {job.job_id: job for job in await self._store.jobs(list(job_ids)) if job is not None}
        parents: list[WaitingParent] = []
        queued: dict[JobId, QueuedChild] = {}
        for instance_id, report in reports.items():
            parent = jobs.get(report.job_id)
            children = [jobs[child] for child in report.children if child in jobs]
            if parent is None or len(children) < len(report.children):
                continue
            instance = parent.open_instance
            is_current = instance is not None and instance.instance_id == instance_id
            if instance is None or not is_current or parent.state is not JobState.RUNNING:
                continue
            if any(child.state is JobState.COMPLETED for child in children):
                continue  # the parent is about to be notified
            queued.update(
                (child.job_id, self._queued(child)) for child in children if child.state is JobState.WAITING
            )
            parents.append(
                WaitingParent(
                    instance_id=instance_id,
                    job_id=report.job_id,
                    user=parent.spec.user,
                    pool=parent.spec.pool,
                    host=(instance.cluster, instance.host),
                    resources=parent.spec.resources,
                    started_ms=instance.started_ms,
                    children=report.children,
                )
            )
        return deadlocked(
            parents,
            queued,
            self._capacity(),
            quota_of=self._limits.quota,
            is_preempted=self._rebalancer.preempts_in,
        )

    async def explain(self, job: Job) -> Sequence[str]:
        """Return sentences about the children that a job waits for, or about the parent that waits for it."""
        if job.state is JobState.COMPLETED:
            return ()
        if job.state is JobState.RUNNING:
            return await self._explain_parent(job)
        return await self._explain_child(job)

    async def _explain_parent(self, job: Job) -> Sequence[str]:
        child_ids = self.children_of(job.job_id)
        if not child_ids:
            return ()
        children = await self._store.jobs(sorted(child_ids))
        states = [child.state for child in children if child is not None]
        waiting, running = states.count(JobState.WAITING), states.count(JobState.RUNNING)
        sentence = (
            f"It waits for {counted(len(child_ids), 'job')} of its own: {waiting} waiting, {running} running."
        )
        parents = await self.find_deadlocked()
        if job.job_id not in {parent.job_id for parent in parents}:
            return (sentence,)
        return (sentence, _deadlock_sentence(len(parents)))

    async def _explain_child(self, job: Job) -> Sequence[str]:
        parent_id = job.spec.labels.get(PARENT_LABEL)
        jobs = await self._store.jobs([JobId(parent_id)]) if parent_id else ()
        parent = next(iter(jobs), None)
        if parent is None or parent.state is not JobState.RUNNING or parent.spec.user != job.spec.user:
            return ()
        verb = "runs and waits for it" if job.job_id in self.children_of(parent.job_id) else "runs"
        cpus = counted(parent.spec.cpus, "cpu")
        sentence = (
            f"It was submitted by the job {parent.job_id} ({parent.spec.name}), which {verb}, "
            f"and holds {cpus} and {parent.spec.mem_mb:g} MB meanwhile."
        )
        parents = await self.find_deadlocked()
        if not any(job.job_id in parent.children for parent in parents):
            return (sentence,)
        return (sentence, _deadlock_sentence(len(parents)))

    def _queued(self, job: Job) -> QueuedChild:
        spec = job.spec
        demands = constraint_class_of(spec).attributes if spec.constraints else ()
        return QueuedChild(
            job_id=spec.job_id,
            user=spec.user,
            pool=spec.pool,
            resources=spec.resources,
            demands=self._queues.demands_in(spec.pool, demands),
        )

    def _valid_reports(self) -> Mapping[InstanceId, _Report]:
        """Return the reports by instance, after dropping those that have expired."""
        since_ms = self._clock.now_ms() - REPORT_MS
        for instance_id in [i for i, report in self._reports.items() if report.at_ms < since_ms]:
            del self._reports[instance_id]
        return self._reports


def _deadlock_sentence(parents: int) -> str:
    """Return the sentence that explains a deadlock of a number of parents."""
    if parents == 1:
        holders = "a running job, which waits for jobs of its own"
    else:
        holders = f"{parents} running jobs, each of which waits for jobs of its own"
    return (
        f"Nothing can move: the room that would be needed is held by {holders}. The wait of the job that "
        "started last ends with the error NestedDeadlock. Submit such jobs from the notebook, or run "
        "fewer of the jobs that wait for them than there is room for."
    )
