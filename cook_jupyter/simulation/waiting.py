"""Who waited for what in a run, and when: worked out from its rows by the scheduler's own rules.

Lives here: `Queue`, all waiting of a run in columns, and `waits_again`, which asks `model.lifecycle` what
becomes of a job. Not here: what is made of it (`simulation.comparison`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.job import Job, JobSpec, JobState
from cook_jupyter.model.reason import REASONS, FreeFailures, ReasonName
from cook_jupyter.simulation.config import POOL
from cook_jupyter.simulation.measures import Floats, Instances, Ints, Truths, last_of_jobs
from cook_jupyter.simulation.traces import RunRow, TraceJob

if TYPE_CHECKING:
    from cook_jupyter.simulation.comparison import Run


class Queue(NamedTuple):
    """Who waited for what, and when; in columns."""

    user: Ints
    since_ms: Ints
    until_ms: Ints
    cpus: Floats
    mem_mb: Floats
    never_started: Truths
    again: int  # jobs whose last instance failed and that wait for another


def queue_of(of: Instances, run: "Run", end_ms: int) -> Queue:
    """Return all waiting: before each instance, after a last one that failed, of jobs that never started."""
    place_of = {user: place for place, user in enumerate(of.users)}
    started = {row.job_id for row in run.rows}
    gone = started | run.refused.keys() | run.removed.keys()
    never = [job for job in run.trace if job.job_id not in gone]
    first_ms = run.trace[0].submit_ms if run.trace else 0
    again = _waiting_again(of, run)
    since = np.concatenate(
        (
            of.queued_ms,
            of.times.end_ms[again],
            np.array([job.submit_ms - first_ms for job in never], dtype=np.int64),
        )
    )
    until = np.full(len(since), max(end_ms, int(since.max()) if len(since) else 0))
    until[: len(of)] = of.times.start_ms
    never_started = np.zeros(len(since), dtype=np.bool_)
    never_started[len(since) - len(never) :] = True
    return Queue(
        user=np.concatenate(
            (of.user, of.user[again], np.array([place_of[job.user] for job in never], dtype=np.int64))
        ),
        since_ms=since,
        until_ms=until,
        cpus=np.concatenate((of.cpus, of.cpus[again], [job.cpus for job in never])),
        mem_mb=np.concatenate((of.mem_mb, of.mem_mb[again], [job.mem_mb for job in never])),
        never_started=never_started,
        again=len(again),
    )


def _waiting_again(of: Instances, run: "Run") -> Ints:
    """Return the places of the last instances of jobs that wait for another, by the rule of `lifecycle`."""
    ended = np.flatnonzero(~of.running & ~of.success)
    candidates = np.intersect1d(last_of_jobs(of), ended)
    if not len(candidates):
        return np.zeros(0, dtype=np.int64)
    by_job: dict[int, list[RunRow]] = {}
    wanted = np.isin(of.job, of.job[candidates])
    for place in np.flatnonzero(wanted).tolist():
        by_job.setdefault(int(of.job[place]), []).append(run.rows[place])
    job_ids = {rows[0].job_id for rows in by_job.values()}
    submitted = {job.job_id: job for job in run.trace if job.job_id in job_ids}
    free = FreeFailures(default=run.mea_culpa_limit, by_reason=run.mea_culpa_limits)
    return np.array(
        [
            place
            for place in candidates.tolist()
            if waits_again(by_job[int(of.job[place])], submitted.get(run.rows[place].job_id), free)
        ],
        dtype=np.int64,
    )


_REASON_NAMES: Final[Mapping[str, ReasonName]] = {reason.sentence: name for name, reason in REASONS.items()}


def waits_again(rows: Sequence[RunRow], submitted: TraceJob | None, free: FreeFailures) -> bool:
    """Return whether a job with these instances waits for another one.

    Args:
        rows: all instances of the job.
        submitted: the job as it was submitted; None if that is not known: then it has a single attempt.
        free: the failures that cost no attempt.
    """
    first = rows[0]
    max_retries = 1 if submitted is None else submitted.max_retries
    job = Job(
        spec=JobSpec(
            job_id=first.job_id,
            user=first.user,
            command="",
            pool=POOL,
            cpus=first.cpus,
            mem_mb=first.mem,
            max_retries=max_retries,
            disable_mea_culpa_retries=submitted is not None and submitted.disable_mea_culpa_retries,
        ),
        seq=1,
        state=JobState.RUNNING,
        submitted_ms=first.submit_time_ms,
        last_waiting_ms=first.submit_time_ms,
        max_retries=max_retries,
        instances=tuple(
            Instance(
                instance_id=row.instance_id,
                job_id=row.job_id,
                status=InstanceStatus(row.status),
                host=row.hostname,
                cluster="",
                started_ms=row.start_time_ms,
                reason=_REASON_NAMES.get(row.reason),
            )
            for row in rows
        ),
    )
    return lifecycle.state_of(job, free=free) is JobState.WAITING
