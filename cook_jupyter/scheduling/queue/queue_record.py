"""Queue indexes as plain values, for dumps.

Lives here: `QueueRecord`, in columns like the index, and the conversion in both directions.
Not here: files (`service.requests.dumps`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cook_jupyter.model.job import HIGHEST_PRIORITY, JobId
from cook_jupyter.scheduling.arrays import SEQ_BITS
from cook_jupyter.scheduling.constraints.constraints import (
    NO_JOB_CONSTRAINTS,
    ConstraintClass,
    JobConstraints,
)
from cook_jupyter.scheduling.limits.run_times import RunTime
from cook_jupyter.scheduling.queue.preemption_history import PreemptionHistory
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRecord:
    """The running task of a job.

    Attributes:
        job: position of the job in the record.
        host: host of the task.
        start_ms: start of the task.
        task_seq: order among equal starts.
        launch: launch number.
        spared: whether the task is never preempted.
    """

    job: int
    host: str
    start_ms: int
    task_seq: int
    launch: int
    spared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRecord:
    """All jobs of a queue index, waiting and running.

    Attributes:
        users: all users that the index ever had, by number.
        constraints, run_times: distinct values that jobs share.
        ids, user, cpus, mem_mb, gpus, ports, seq, priority, constraint, run_time: one value per job; users,
            constraints and run times as positions in the lists above.
        job_constraints: position of a job -> constraints of that job alone.
        preemptions: position of a job -> its preemptions.
        running: running tasks in the order in which they started.
    """

    users: Sequence[str]
    constraints: Sequence[ConstraintClass]
    run_times: Sequence[RunTime]
    ids: Sequence[JobId]
    user: Sequence[int]
    cpus: Sequence[float]
    mem_mb: Sequence[float]
    gpus: Sequence[float]
    ports: Sequence[int]
    seq: Sequence[int]
    priority: Sequence[int]
    constraint: Sequence[int]
    run_time: Sequence[int]
    job_constraints: Mapping[int, JobConstraints] = field(default_factory=dict)
    preemptions: Mapping[int, PreemptionHistory] = field(default_factory=dict)
    running: Sequence[RunningRecord] = ()


def record_of(index: QueueIndex) -> QueueRecord:
    """Return the record of an index; takes about a second per million jobs."""
    rows = index.rows()
    columns = index.columns
    position = {row: number for number, row in enumerate(rows.tolist())}
    class_numbers, classes = np.unique(columns.constraints[rows], return_inverse=True)
    run_time_numbers, run_times = np.unique(columns.run_time[rows], return_inverse=True)
    order = columns.order[rows]
    starts = {
        row: key for tasks in index.by_name() for key, row in zip(tasks.keys, tasks.started, strict=True)
    }
    running = index.running_rows()
    return QueueRecord(
        users=[index.name_of(number) for number in range(index.user_count)],
        constraints=[index.constraint_class(number) for number in class_numbers.tolist()],
        run_times=[index.run_time_of(number) for number in run_time_numbers.tolist()],
        ids=index.ids(rows.tolist()),
        user=columns.user[rows].tolist(),
        cpus=columns.cpus[rows].tolist(),
        mem_mb=columns.mem[rows].tolist(),
        gpus=columns.gpus[rows].tolist(),
        ports=columns.ports[rows].tolist(),
        seq=(order & ((1 << SEQ_BITS) - 1)).tolist(),
        priority=(HIGHEST_PRIORITY - (order >> SEQ_BITS)).tolist(),
        constraint=classes.tolist(),
        run_time=run_times.tolist(),
        job_constraints={
            position[row]: constraints_of_job for row, constraints_of_job in index.job_constraints.items()
        },
        preemptions={position[row]: history for row, history in index.preemptions.items()},
        running=[
            RunningRecord(
                job=position[row],
                host=host,
                start_ms=starts[row][1],
                task_seq=starts[row][2],
                launch=index.launch(row),
                spared=row in index.uninterrupted,
            )
            for row, host in zip(running, index.hosts_of(running), strict=True)
        ],
    )


def index_of(record: QueueRecord) -> QueueIndex:
    """Return the index of a record; decisions about it are the same as about the original.

    Raises:
        Conflict: a job is recorded twice.
        InvalidRequest: a number is out of range.
    """
    index = QueueIndex()
    index.add_users(record.users)
    index.add_many(
        [
            QueuedJob(
                job_id,
                record.users[record.user[position]],
                record.cpus[position],
                record.mem_mb[position],
                record.seq[position],
                gpus=record.gpus[position],
                ports=record.ports[position],
                priority=record.priority[position],
                constraints=record.constraints[record.constraint[position]],
                job_constraints=record.job_constraints.get(position, NO_JOB_CONSTRAINTS),
                run_time=record.run_times[record.run_time[position]],
            )
            for position, job_id in enumerate(record.ids)
        ]
    )
    for position, history in record.preemptions.items():
        index.set_preemptions(record.ids[position], history)
    for task in record.running:
        job_id = record.ids[task.job]
        index.mark_running(job_id, task.start_ms, task.host, task_seq=task.task_seq, launch=task.launch)
        if task.spared:
            index.spare_running(job_id)
    return index
