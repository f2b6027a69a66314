"""The queue of a run over time, derived from its rows by the scheduler's own rules.

Lives here: `Queue`, every period in which a job waited, and `waits_for_retry`, which applies the rules of
`model.lifecycle` to the rows of a job. Not here: the figures computed from them (`simulation.comparison`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import Instance, InstanceStatus
from cook_jupyter.model.job import Job, JobSpec, JobState
from cook_jupyter.model.reason import REASONS, MeaCulpaLimits, ReasonName
from cook_jupyter.simulation.config import POOL
from cook_jupyter.simulation.measures import Bools, Floats, Instances, Ints, last_instances
from cook_jupyter.simulation.traces import RunRow, TraceJob

if TYPE_CHECKING:
    from cook_jupyter.simulation.comparison import Run


class Queue(NamedTuple):
    """Every period in which a job waited, in columns.

    Attributes:
        user: index into `Instances.users`.
        since_ms, until_ms: start and end of the period, in ms since the first submission.
        cpus, mem_mb: resources that the job requests.
        never_started: whether the job never started.
        again: number of jobs whose last instance failed and that wait for another one.
    """

    user: Ints
    since_ms: Ints
    until_ms: Ints
    cpus: Floats
    mem_mb: Floats
    never_started: Bools
    again: int


def build_queue(instances: Instances, run: "Run", end_ms: int) -> Queue:
    """Return every period in which a job of a run waited.

    A job waits before each of its instances, after the last one if that failed and may be retried, and to the
    end of the run if it never starts.

    Args:
        instances: all instances of the run, as columns.
        run: the run.
        end_ms: end of the run, in ms since the first submission.
    """
    user_index = {user: index for index, user in enumerate(instances.users)}
    started = {row.job_id for row in run.rows}
    not_waiting = started | run.refused.keys() | run.removed.keys()
    never_started_jobs = [job for job in run.trace if job.job_id not in not_waiting]
    first_ms = run.trace[0].submit_ms if run.trace else 0
    waiting_again = _waiting_again(instances, run)
    since = np.concatenate(
        (
            instances.queued_ms,
            instances.times.end_ms[waiting_again],
            np.array([job.submit_ms - first_ms for job in never_started_jobs], dtype=np.int64),
        )
    )
    until = np.full(len(since), max(end_ms, int(since.max()) if len(since) else 0))
    until[: len(instances)] = instances.times.start_ms
    never_started = np.zeros(len(since), dtype=np.bool_)
    never_started[len(since) - len(never_started_jobs) :] = True
    return Queue(
        user=np.concatenate(
            (
                instances.user,
                instances.user[waiting_again],
                np.array([user_index[job.user] for job in never_started_jobs], dtype=np.int64),
            )
        ),
        since_ms=since,
        until_ms=until,
        cpus=np.concatenate(
            (instances.cpus, instances.cpus[waiting_again], [job.cpus for job in never_started_jobs])
        ),
        mem_mb=np.concatenate(
            (instances.mem_mb, instances.mem_mb[waiting_again], [job.mem_mb for job in never_started_jobs])
        ),
        never_started=never_started,
        again=len(waiting_again),
    )


def _waiting_again(instances: Instances, run: "Run") -> Ints:
    """Return the indexes of the instances whose job waits for another one at the end of the run."""
    ended = np.flatnonzero(~instances.running & ~instances.success)
    candidates = np.intersect1d(last_instances(instances), ended)
    if not len(candidates):
        return np.zeros(0, dtype=np.int64)
    by_job: dict[int, list[RunRow]] = {}
    is_candidates_job = np.isin(instances.job, instances.job[candidates])
    for index in np.flatnonzero(is_candidates_job).tolist():
        by_job.setdefault(int(instances.job[index]), []).append(run.rows[index])
    job_ids = {rows[0].job_id for rows in by_job.values()}
    submitted = {job.job_id: job for job in run.trace if job.job_id in job_ids}
    free = MeaCulpaLimits(default=run.mea_culpa_limit, by_reason=run.mea_culpa_limits)
    return np.array(
        [
            index
            for index in candidates.tolist()
            if waits_for_retry(by_job[int(instances.job[index])], submitted.get(run.rows[index].job_id), free)
        ],
        dtype=np.int64,
    )


_REASON_NAMES: Final[Mapping[str, ReasonName]] = {reason.sentence: name for name, reason in REASONS.items()}


def waits_for_retry(
    rows: Sequence[RunRow], submitted: TraceJob | None, free_failures: MeaCulpaLimits
) -> bool:
    """Return whether a job with these instances waits for another one, by the rules of `model.lifecycle`.

    Args:
        rows: all instances of the job.
        submitted: the job as submitted; None if unknown, in which case it has a single attempt.
        free_failures: failures that cost no retry.
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
    return lifecycle.state_of(job, mea_culpa_limits=free_failures) is JobState.WAITING
