"""Jobs that wait for jobs of their own: who said so, and what follows.

Lives here: `NestedWaits`, what running jobs have reported, and the sentences about it.
Not here: which of them are deadlocked (`scheduling.explaining.nested`), HTTP (`api.nested`).

A report holds for a few seconds and is repeated as long as the job waits, so that a job that has gone on,
or whose process is gone, is soon taken for one that moves. Nothing here is stored: after a restart the jobs
report again.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cook_jupyter.model.counts import counted
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import PARENT_LABEL, Job, JobId, JobState
from cook_jupyter.scheduling.constraints.constraints import constraint_class_of
from cook_jupyter.scheduling.explaining.nested import QueuedChild, WaitingParent, deadlocked
from cook_jupyter.service.clock import Clock

if TYPE_CHECKING:
    from cook_jupyter.service.scheduler import Scheduler

REPORT_MS = 5_000  # how long a report holds
MAX_CHILDREN = 1_000


class _Report(NamedTuple):
    """What a running job said when."""

    job_id: JobId
    children: frozenset[JobId]
    at_ms: int


class NestedWaits:
    """The running jobs that wait for jobs of their own.

    Args:
        clock: the scheduler's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reports: dict[InstanceId, _Report] = {}

    def report(self, instance_id: InstanceId, job_id: JobId, children: Collection[JobId]) -> None:
        """Note that an instance does nothing but wait for jobs without a time limit; no jobs: it goes on."""
        if children:
            self._reports[instance_id] = _Report(job_id, frozenset(children), self._clock.now_ms())
        else:
            self._reports.pop(instance_id, None)

    def children_of(self, job_id: JobId) -> frozenset[JobId]:
        """Return the jobs that a running job waits for."""
        self._forget_old()
        found = [report.children for report in self._reports.values() if report.job_id == job_id]
        return frozenset().union(*found)

    def reported(self) -> Mapping[InstanceId, tuple[JobId, frozenset[JobId]]]:
        """Return what holds at this moment, by instance: its job, and the jobs that it waits for."""
        self._forget_old()
        return {
            instance_id: (report.job_id, report.children) for instance_id, report in self._reports.items()
        }

    def _forget_old(self) -> None:
        since_ms = self._clock.now_ms() - REPORT_MS
        for instance_id in [i for i, report in self._reports.items() if report.at_ms < since_ms]:
            del self._reports[instance_id]


async def find_deadlocked(scheduler: "Scheduler") -> tuple[WaitingParent, ...]:
    """Return the running jobs that wait for what can never start, the last to start first."""
    reported = scheduler.nested.reported()
    ids = {job_id for job_id, _ in reported.values()}.union(*(children for _, children in reported.values()))
    jobs = {job.job_id: job for job in await scheduler.jobs(list(ids)) if job is not None}
    parents: list[WaitingParent] = []
    queued: dict[JobId, QueuedChild] = {}
    for instance_id, (job_id, children) in reported.items():
        parent = jobs.get(job_id)
        awaited = [jobs[child] for child in children if child in jobs]
        if parent is None or len(awaited) < len(children):
            continue
        instance = parent.open_instance
        if instance is None or instance.instance_id != instance_id or parent.state is not JobState.RUNNING:
            continue
        if any(child.state is JobState.COMPLETED for child in awaited):
            continue  # it is about to hear of it
        queued.update((c.job_id, _queued(c, scheduler)) for c in awaited if c.state is JobState.WAITING)
        parents.append(
            WaitingParent(
                instance_id=instance_id,
                job_id=job_id,
                user=parent.spec.user,
                pool=parent.spec.pool,
                host=(instance.cluster, instance.host),
                resources=parent.spec.resources,
                started_ms=instance.started_ms,
                children=children,
            )
        )
    return deadlocked(
        parents,
        queued,
        scheduler.capacity(),
        quota_of=scheduler.limits.quota,
        is_preempted=scheduler.rebalancer.looks_at,
    )


async def nested_sentences(scheduler: "Scheduler", job: Job) -> Sequence[str]:
    """Say what a job has to do with jobs of its own, or with the job that submitted it."""
    if job.state is JobState.COMPLETED:
        return ()
    if job.state is JobState.RUNNING:
        return await _sentences_of_parent(scheduler, job)
    return await _sentences_of_child(scheduler, job)


async def _sentences_of_parent(scheduler: "Scheduler", job: Job) -> Sequence[str]:
    children = scheduler.nested.children_of(job.job_id)
    if not children:
        return ()
    found = await scheduler.jobs(sorted(children))
    states = [child.state for child in found if child is not None]
    waiting, running = states.count(JobState.WAITING), states.count(JobState.RUNNING)
    waits = f"It waits for {counted(len(children), 'job')} of its own: {waiting} waiting, {running} running."
    stuck = await find_deadlocked(scheduler)
    if job.job_id not in {parent.job_id for parent in stuck}:
        return (waits,)
    return (waits, _deadlock(len(stuck)))


async def _sentences_of_child(scheduler: "Scheduler", job: Job) -> Sequence[str]:
    parent_id = job.spec.labels.get(PARENT_LABEL)
    found = await scheduler.jobs([parent_id]) if parent_id else ()
    parent = next(iter(found), None)
    if parent is None or parent.state is not JobState.RUNNING or parent.spec.user != job.spec.user:
        return ()
    waits = job.job_id in scheduler.nested.children_of(parent.job_id)
    does = "runs and waits for it" if waits else "runs"
    cpus = counted(parent.spec.cpus, "cpu")
    told = (
        f"It was submitted by the job {parent.job_id} ({parent.spec.name}), which {does}, "
        f"and holds {cpus} and {parent.spec.mem_mb:g} MB meanwhile."
    )
    stuck = await find_deadlocked(scheduler)
    if not any(job.job_id in each.children for each in stuck):
        return (told,)
    return (told, _deadlock(len(stuck)))


def _queued(job: Job, scheduler: "Scheduler") -> QueuedChild:
    spec = job.spec
    own = constraint_class_of(spec).attributes if spec.constraints else ()
    return QueuedChild(
        job_id=spec.job_id,
        user=spec.user,
        pool=spec.pool,
        resources=spec.resources,
        demands=scheduler.queues.demands_in(spec.pool, own),
    )


def _deadlock(parents: int) -> str:
    if parents == 1:
        held = "a running job, which waits for jobs of its own"
    else:
        held = f"{parents} running jobs, each of which waits for jobs of its own"
    return (
        f"Nothing can move: the room that would be needed is held by {held}. The wait of the job that "
        "started last ends with the error NestedDeadlock. Submit such jobs from the notebook, or run "
        "fewer of the jobs that wait for them than there is room for."
    )
