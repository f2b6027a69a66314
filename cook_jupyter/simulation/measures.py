"""Cook's measures of a run, computed from its rows.

Lives here: rows as columns (`Instances`), the usage and demand of each user over time, the fair division of
the resources in use, and the figures of Cook's analysis package (`measure`). Not here: the comparison of runs
(`simulation.comparison`), its page and charts (`simulation.report`, `simulation.charts`), the rows
themselves (`simulation.traces`).

Everything is arithmetic on numpy columns, so a million rows take seconds. Times are milliseconds since the
first submission of the run.

Source: Cook's `simulator_files/analysis`, as described in the fair-share specification, section 12.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.reason import PREEMPTED, REASONS
from cook_jupyter.simulation.traces import RunRow

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

HOUR_MS: Final = 3_600_000.0
MB_PER_GB: Final = 1000.0  # in starvation, as in the analysis package, whose TB is 1024 * 1024 MB
MB_PER_TB: Final = 1024.0 * 1024.0
STARVATION_SHARE_MB: Final = 2.5e6  # the share of every user; a constant of the analysis package
_RATIO_TOLERANCE: Final = 1e-9
_DECIMALS: Final = 6  # precision of running sums of MB and cpus; later digits are rounding error


class InstanceTimes(NamedTuple):
    """Submission, start and end of each instance, in columns; ms since the first submission.

    `overhead_ms` is Cook's scheduling latency: the time from the submission of the job to the start of the
    instance, even if another instance of the job was preempted in between.
    """

    submit_ms: Ints
    start_ms: Ints
    mesos_start_ms: Ints
    end_ms: Ints
    run_time_ms: Ints
    overhead_ms: Ints


def count_times(
    submit_ms: npt.ArrayLike, start_ms: npt.ArrayLike, mesos_start_ms: npt.ArrayLike, end_ms: npt.ArrayLike
) -> InstanceTimes:
    """Return the times relative to the first submission.

    An instance that ends before it starts is taken to run until the last end of the run.
    """
    submit, start, mesos_start, end = (
        np.asarray(column, dtype=np.int64) for column in (submit_ms, start_ms, mesos_start_ms, end_ms)
    )
    if submit.size == 0:
        return InstanceTimes(submit, start, mesos_start, end, end - start, start - submit)
    first = submit.min()
    submit, start, mesos_start, end = submit - first, start - first, mesos_start - first, end - first
    end = np.where(end < start, end.max(), end)
    return InstanceTimes(submit, start, mesos_start, end, end - start, start - submit)


def running_at(instance_times: InstanceTimes, at_ms: float) -> Ints:
    """Return the indexes of the instances that have started and not ended at a time."""
    return np.flatnonzero((instance_times.start_ms <= at_ms) & (at_ms < instance_times.end_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """The rows of a run in columns.

    Attributes:
        users: all users of the run, sorted.
        user: index into `users` of each instance's user.
        job: number of each instance's job.
        times: submission, start and end of each instance.
        queued_ms: time from which each instance's job waited for it: the submission of the job, or the end of
            the job's previous instance.
        cpus, mem_mb: resources that each instance held.
        requested_ms: run time of each instance if it is not stopped.
        success, preempted, running: outcome of each instance; `running` means open at the end of the run.
    """

    users: tuple[str, ...]
    user: Ints
    job: Ints
    times: InstanceTimes
    queued_ms: Ints
    cpus: Floats
    mem_mb: Floats
    requested_ms: Ints
    success: Bools
    preempted: Bools
    running: Bools

    def __len__(self) -> int:
        return len(self.user)


def instances_from_rows(rows: Sequence[RunRow], users: Sequence[str] = ()) -> Instances:
    """Return the rows of a run as columns.

    Args:
        rows: all instances of the run.
        users: users to include even if they have no row.
    """

    def column(name: str, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        index = RunRow._fields.index(name)
        return np.array([row[index] for row in rows], dtype=dtype)

    all_users = tuple(sorted({row.user for row in rows} | set(users)))
    user_index = {user: index for index, user in enumerate(all_users)}
    job_number: dict[str, int] = {}
    instance_times = count_times(
        *(
            column(name, np.int64)
            for name in ("submit_time_ms", "start_time_ms", "mesos_start_time_ms", "end_time_ms")
        )
    )
    job = np.array([job_number.setdefault(row.job_id, len(job_number)) for row in rows], dtype=np.int64)
    preempted = REASONS[PREEMPTED].sentence
    return Instances(
        users=all_users,
        user=np.array([user_index[row.user] for row in rows], dtype=np.int64),
        job=job,
        times=instance_times,
        queued_ms=_queued_ms(job, instance_times),
        cpus=column("cpus", np.float64).astype(np.float64),
        mem_mb=column("mem", np.float64).astype(np.float64),
        requested_ms=column("requested_run_time", np.int64).astype(np.int64),
        success=np.array([row.status == "success" for row in rows], dtype=np.bool_),
        preempted=np.array([row.reason == preempted for row in rows], dtype=np.bool_),
        running=np.array([row.status in {"running", "unknown"} for row in rows], dtype=np.bool_),
    )


def shift(instances: Instances, by_ms: int) -> Instances:
    """Return a copy of the instances with every time moved later by `by_ms`."""
    times = instances.times
    return replace(
        instances,
        times=times._replace(
            submit_ms=times.submit_ms + by_ms,
            start_ms=times.start_ms + by_ms,
            mesos_start_ms=times.mesos_start_ms + by_ms,
            end_ms=times.end_ms + by_ms,
        ),
        queued_ms=instances.queued_ms + by_ms,
    )


def _queued_ms(job: Ints, instance_times: InstanceTimes) -> Ints:
    order = np.lexsort((instance_times.start_ms, job))
    queued = instance_times.submit_ms[order].copy()
    retries = np.flatnonzero(job[order][1:] == job[order][:-1]) + 1
    queued[retries] = instance_times.end_ms[order][retries - 1]
    unsorted = np.empty_like(queued)
    unsorted[order] = queued
    return np.minimum(unsorted, instance_times.start_ms)


class JobTimes(NamedTuple):
    """Wait, turnaround and preemptions of each job that started in a run, in columns.

    Attributes:
        user: index into `Instances.users`.
        submit_ms: time of submission.
        wait_ms: time from submission to the first start.
        turnaround_ms: time from submission to the first success; -1 without success.
        overhead_ms: turnaround minus the requested run time; -1 without success.
        preemptions: number of preempted instances.
    """

    user: Ints
    submit_ms: Ints
    wait_ms: Ints
    turnaround_ms: Ints
    overhead_ms: Ints
    preemptions: Ints


def compute_job_times(instances: Instances) -> JobTimes:
    """Compute the wait, turnaround and preemptions of each job, as Cook's older system simulator does."""
    jobs = int(instances.job.max()) + 1 if len(instances) else 0
    never = np.iinfo(np.int64).max
    first_start, first_success = np.full(jobs, never), np.full(jobs, never)
    np.minimum.at(first_start, instances.job, instances.times.start_ms)
    np.minimum.at(first_success, instances.job[instances.success], instances.times.end_ms[instances.success])
    user, submit, requested = (np.zeros(jobs, dtype=np.int64) for _ in range(3))
    user[instances.job], submit[instances.job], requested[instances.job] = (
        instances.user,
        instances.times.submit_ms,
        instances.requested_ms,
    )
    has_succeeded = first_success != never
    turnaround = np.where(has_succeeded, first_success - submit, -1)
    return JobTimes(
        user=user,
        submit_ms=submit,
        wait_ms=first_start - submit,
        turnaround_ms=turnaround,
        overhead_ms=np.where(has_succeeded, turnaround - requested, -1),
        preemptions=np.bincount(instances.job[instances.preempted], minlength=jobs).astype(np.int64),
    )


# --- usage over time


def cycle_ticks(instances: Instances, cycle_ms: float) -> Floats:
    """Return the time of each cycle, from 0 to the end of the last instance."""
    last = int(instances.times.end_ms.max()) if len(instances) else 0
    return np.arange(0.0, last + 1.0, cycle_ms)


def sample_usage(instances: Instances, ticks: Floats, amount: Floats) -> Floats:
    """Sample what each user's running instances hold: one line per tick, one column per user.

    Args:
        instances: the instances of a run.
        ticks: ascending times.
        amount: amount of the resource that each instance holds.
    """
    return sample(
        ticks, len(instances.users), instances.user, instances.times.start_ms, instances.times.end_ms, amount
    )


def sample(ticks: Floats, users: int, user: Ints, since_ms: Ints, until_ms: Ints, amount: Floats) -> Floats:
    """Sum the amounts of the spans that contain each tick: one line per tick, one column per user.

    Args:
        ticks: ascending times.
        users: number of users.
        user: index of each span's user.
        since_ms: start of each span, inclusive.
        until_ms: end of each span, exclusive.
        amount: amount that each span adds.
    """
    cells = (len(ticks) + 1) * users  # the last line is for changes after the last tick
    begins = np.searchsorted(ticks, since_ms) * users + user
    ends = np.searchsorted(ticks, until_ms) * users + user
    change = np.bincount(begins, amount, cells) - np.bincount(ends, amount, cells)
    totals = np.cumsum(change.reshape(len(ticks) + 1, users)[:-1], axis=0, dtype=np.float64)
    return np.round(totals, _DECIMALS)


def time_series(at_ms: npt.ArrayLike, amount: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the cumulative sum of amounts over time: one point per event.

    Args:
        at_ms: time of each event, in any order; simultaneous events keep their order.
        amount: amount that each event adds, one column or several.

    Returns:
        The sorted times, and the sum after each event.
    """
    times_ms, amounts = np.asarray(at_ms, dtype=np.float64), np.asarray(amount, dtype=np.float64)
    order = np.argsort(times_ms, kind="stable")
    sums: Floats = np.cumsum(amounts[order], axis=0, dtype=np.float64)
    return times_ms[order], sums.round(_DECIMALS)


def latest_values(ticks: npt.ArrayLike, at_ms: Floats, values: Floats) -> Floats:
    """Return the value at each tick of a step function, NaN before its first point.

    Args:
        ticks: ascending times.
        at_ms: times of the points of the step function, ascending.
        values: values from each point on, one column or several.
    """
    last = np.searchsorted(at_ms, np.asarray(ticks, dtype=np.float64), "right") - 1
    before = np.full((1, *values.shape[1:]), np.nan)
    return np.concatenate((before, values))[last + 1]


def sample_by_user(
    ticks: Floats, users: int, user: Ints, since_ms: Ints, until_ms: Ints, amount: Floats
) -> Floats:
    """Sample the time series of each user as Cook's analysis package does: NaN before the user's first event.

    Args:
        ticks: ascending times.
        users: number of users.
        user: index of each span's user.
        since_ms: start of each span, inclusive.
        until_ms: end of each span, exclusive.
        amount: amount that each span adds.

    Returns:
        One line per tick, one column per user.
    """
    matrix = np.full((len(ticks), users), np.nan)
    order = np.argsort(user, kind="stable")
    bounds = np.searchsorted(user[order], np.arange(users + 1))
    for column in range(users):
        rows = order[bounds[column] : bounds[column + 1]]
        # Starts go before ends, so a span of length zero still adds its amount before it takes it away.
        at_ms, values = time_series(
            np.concatenate((since_ms[rows], until_ms[rows])), np.concatenate((amount[rows], -amount[rows]))
        )
        matrix[:, column] = latest_values(ticks, at_ms, values)
    return matrix


# --- fair division


def water_fill(total: npt.ArrayLike, desired: npt.ArrayLike) -> Floats:
    """Divide a total evenly among users by water-filling: nobody gets more than desired.

    All users who get less than they desire get the same amount, and nobody gets more than that amount.

    Args:
        total: amount to divide, or an array of amounts to divide independently. What nobody desires stays
            undivided.
        desired: amount that each user desires, users along the last axis; not negative.
    """
    desired_amounts = np.asarray(desired, dtype=np.float64)
    return np.minimum(desired_amounts, water_level(total, desired_amounts, np.ones(desired_amounts.shape)))


def water_level(total: npt.ArrayLike, desired: Floats, weight: Floats) -> Floats:
    """Return the level to which all users can be filled evenly; infinity if every desire can be met.

    Args:
        total: amount to divide, or an array of amounts to divide independently.
        desired: level that each user desires, users along the last axis.
        weight: amount it takes to raise each user by one level; may be 0.

    Returns:
        One level per total, along an axis of length one.
    """
    totals = np.asarray(total, dtype=np.float64)[..., None]
    if desired.shape[-1] == 0:
        return np.full(totals.shape, np.inf)
    order = np.argsort(desired, axis=-1)
    sorted_desired, sorted_weight = (
        np.take_along_axis(desired, order, -1),
        np.take_along_axis(weight, order, -1),
    )
    # Shifted instead of subtracting each user's own amount: small amounts would be lost next to a large one.
    filled = np.cumsum(sorted_desired * sorted_weight, axis=-1)
    below = np.concatenate((np.zeros_like(filled[..., :1]), filled[..., :-1]), axis=-1)
    unfilled_weight = np.cumsum(sorted_weight[..., ::-1], axis=-1)[..., ::-1]
    # The level lies below the first desired level that takes more than the total to reach.
    exceeds_total = np.asarray(below + sorted_desired * unfilled_weight > totals)
    first = np.argmax(exceeds_total, axis=-1, keepdims=True)
    per_level = np.take_along_axis(unfilled_weight, first, -1)
    level = (totals - np.take_along_axis(below, first, -1)) / np.where(per_level > 0, per_level, 1.0)
    return np.where(exceeds_total.any(axis=-1, keepdims=True), level, np.inf)


def fair_allocation(waiting: npt.ArrayLike, running: npt.ArrayLike) -> Floats:
    """Divide everything in use fairly among the users who run or wait.

    Args:
        waiting: amount that each user's waiting jobs request, users along the last axis; NaN for a user
            without a value yet.
        running: amount that each user's instances hold; NaN for a user without a value yet.

    Returns:
        The fair amount of each user. A user without a value takes no part in the division and stays NaN.
    """
    desired = np.asarray(waiting, dtype=np.float64) + np.asarray(running, dtype=np.float64)
    has_value = ~np.isnan(desired)
    amounts = np.where(has_value, desired, 0.0)
    level = water_level(np.nansum(running, axis=-1), amounts, has_value.astype(np.float64))
    return np.where(has_value, np.minimum(amounts, level), np.nan)


def compute_fair_ratio(running: Floats, fair: Floats) -> float:
    """Return the median of running/fair over the values in (0, 1]; 1 is best, NaN if there are none."""
    ratio: Floats = np.divide(running, fair, out=np.zeros(fair.shape), where=fair > 0)
    return _median(np.minimum(ratio[(ratio > 0) & (ratio <= 1 + _RATIO_TOLERANCE)], 1.0))


def starvation_gb(running_mb: Floats, fair_mb: Floats, share_mb: float = STARVATION_SHARE_MB) -> Floats:
    """Return how much memory each user lacks to reach min(fair amount, share), in GB.

    NaN for a user who holds the share, or has no value yet.
    """
    lacking = np.minimum(fair_mb, share_mb) - running_mb
    lacking = np.where(lacking < 10.0**-_DECIMALS, 0.0, lacking)  # anything smaller is rounding error
    return np.where(running_mb < share_mb, lacking / MB_PER_GB, np.nan)


# --- the figures of the analysis package


class Spread(NamedTuple):
    """One figure over all instances, and over those that succeeded, were preempted, or still run."""

    all: float
    success: float
    preempted: float
    running: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The figures of Cook's analysis package; NaN where there was nothing to measure.

    Attributes:
        tasks_run, tasks_run_success, tasks_run_preemption: number of instances; of successful and of
            preempted ones.
        cpu_hours, mem_tb_hours: resources held, times run time.
        mean_latency_ms, median_latency_ms: time from submission to start (Cook's overhead).
        mean_job_overhead_ms, median_job_overhead_ms: time from the submission of a job to the end of its last
            instance, minus the run time of that instance.
        fair_ratio: median ratio of the memory a user runs to the user's fair part of all memory in use; 1 is
            best.
        starvation_median_log10_gb: median over users and cycles of log10 of the memory a user lacks, where it
            is above zero; lower is better.
        starvation_mean_log10_gb: median over cycles of the mean over users of that logarithm; lower is
            better.
        total_sim_time_ms: time from the first start to the last end.
    """

    tasks_run: int
    tasks_run_success: int
    tasks_run_preemption: int
    cpu_hours: Spread
    mem_tb_hours: Spread
    mean_latency_ms: Spread
    median_latency_ms: Spread
    mean_job_overhead_ms: float
    median_job_overhead_ms: float
    fair_ratio: float
    starvation_median_log10_gb: float
    starvation_mean_log10_gb: float
    total_sim_time_ms: int


def measure(instances: Instances, cycle_ms: float) -> Measures:
    """Compute the figures of Cook's analysis package for a run.

    Args:
        instances: all instances of the run.
        cycle_ms: simulated time between cycles; fairness is sampled once per cycle.
    """
    run_hours = instances.times.run_time_ms / HOUR_MS
    ticks = cycle_ticks(instances, cycle_ms)
    users = len(instances.users)
    running = sample_by_user(
        ticks, users, instances.user, instances.times.start_ms, instances.times.end_ms, instances.mem_mb
    )
    # As in Cook, an instance counts as waiting from the submission of its job, even after a preemption.
    waiting = sample_by_user(
        ticks, users, instances.user, instances.times.submit_ms, instances.times.start_ms, instances.mem_mb
    )
    fair = fair_allocation(waiting, running)
    starvation = starvation_gb(running, fair)
    log10_starvation = np.log10(starvation, out=np.full(starvation.shape, np.nan), where=starvation > 0)
    overhead = compute_job_overhead_ms(instances)
    return Measures(
        tasks_run=len(instances),
        tasks_run_success=int(instances.success.sum()),
        tasks_run_preemption=int(instances.preempted.sum()),
        cpu_hours=_spread(instances, instances.cpus * run_hours, np.sum),
        mem_tb_hours=_spread(instances, instances.mem_mb * run_hours / MB_PER_TB, np.sum),
        mean_latency_ms=_spread(instances, instances.times.overhead_ms, _mean),
        median_latency_ms=_spread(instances, instances.times.overhead_ms, _median),
        mean_job_overhead_ms=_mean(overhead),
        median_job_overhead_ms=_median(overhead),
        fair_ratio=compute_fair_ratio(running, fair),
        starvation_median_log10_gb=_median(log10_starvation[~np.isnan(log10_starvation)]),
        starvation_mean_log10_gb=_median(_mean_over_users(log10_starvation)),
        total_sim_time_ms=int(instances.times.end_ms.max() - instances.times.start_ms.min())
        if len(instances)
        else 0,
    )


def compute_job_overhead_ms(instances: Instances) -> Ints:
    """Return the overhead of each job: submission to end of its last instance, minus its run time."""
    return (instances.times.end_ms - instances.times.submit_ms - instances.times.run_time_ms)[
        last_instances(instances)
    ]


def last_instances(instances: Instances) -> Ints:
    """Return the index of each job's last instance, in the order of the job numbers."""
    order = np.lexsort((instances.times.start_ms, instances.job))
    return order[np.flatnonzero(np.diff(instances.job[order], append=-1))]


def _spread(
    instances: Instances, values: Floats | Ints, aggregate: Callable[[Floats | Ints], float]
) -> Spread:
    parts = (slice(None), instances.success, instances.preempted, instances.running)
    return Spread(*(float(aggregate(values[part])) for part in parts))


def _mean(values: Floats | Ints) -> float:
    return float(values.mean()) if values.size else float("nan")


def _median(values: Floats | Ints) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _mean_over_users(values: Floats) -> Floats:
    """Return the mean of each line, ignoring NaN; lines of nothing but NaN are left out."""
    has_value = ~np.isnan(values)
    lines = has_value.any(axis=1)
    means: Floats = np.where(has_value, values, 0.0)[lines].sum(axis=1) / has_value[lines].sum(axis=1)
    return means
