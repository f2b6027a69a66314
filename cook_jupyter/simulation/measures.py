"""What a run was worth: Cook's measures on the rows of a simulation.

Lives here: rows as columns (`Instances`), what each user held and waited for at a time, the fair division of
what was in use, and the figures of Cook's analysis package (`measure`). Not here: comparing runs, and drawing
them (`simulation.report`, `simulation.charts`); the rows (`simulation.traces`).

All of it is arithmetic on numpy columns, so that a million rows take seconds. Times are ms since the first
submission of the run.

Source: Cook's `simulator_files/analysis`, as told in the fair-share specification, section 12.
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
Truths = npt.NDArray[np.bool_]

HOUR_MS: Final = 3_600_000.0
MB_PER_GB: Final = 1000.0  # of starvation, as the analysis package counts it; its TB are larger
MB_PER_TB: Final = 1024.0 * 1024.0
STARVATION_SHARE_MB: Final = 2.5e6  # of every user, for `starvation`: a constant of the analysis package
_EQUAL: Final = 1e-9  # ratios that differ by no more are equal
_DECIMALS: Final = 6  # of MB and cpus that were added up and taken away: the rest is error


class Times(NamedTuple):
    """When instances were submitted, began and ended, in columns; ms since the first submission.

    `overhead_ms` is Cook's scheduling latency: from the job's submission, also after a preemption.
    """

    submit_ms: Ints
    start_ms: Ints
    mesos_start_ms: Ints
    end_ms: Ints
    run_time_ms: Ints
    overhead_ms: Ints


def times(
    submit_ms: npt.ArrayLike, start_ms: npt.ArrayLike, mesos_start_ms: npt.ArrayLike, end_ms: npt.ArrayLike
) -> Times:
    """Count times from the first submission; one that ends before it starts runs till the last end."""
    submit, start, mesos_start, end = (
        np.asarray(column, dtype=np.int64) for column in (submit_ms, start_ms, mesos_start_ms, end_ms)
    )
    if submit.size == 0:
        return Times(submit, start, mesos_start, end, end - start, start - submit)
    first = submit.min()
    submit, start, mesos_start, end = submit - first, start - first, mesos_start - first, end - first
    end = np.where(end < start, end.max(), end)
    return Times(submit, start, mesos_start, end, end - start, start - submit)


def running_at(of: Times, at_ms: float) -> Ints:
    """The places of the instances that run at a time: started, and not ended yet."""
    return np.flatnonzero((of.start_ms <= at_ms) & (at_ms < of.end_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """The rows of a run in columns.

    Attributes:
        users: all users of the run, sorted.
        user, job: per row, the place of its user in `users`, and a number for its job.
        times: when it was submitted, began and ended.
        queued_ms: since when its job waited for it: since submission, or since its instance before ended.
        cpus, mem_mb: what it held.
        requested_ms: how long it would have run, left alone.
        success, preempted, running: how it ended; `running` is open at the end of the run.
    """

    users: tuple[str, ...]
    user: Ints
    job: Ints
    times: Times
    queued_ms: Ints
    cpus: Floats
    mem_mb: Floats
    requested_ms: Ints
    success: Truths
    preempted: Truths
    running: Truths

    def __len__(self) -> int:
        return len(self.user)


def instances(rows: Sequence[RunRow], users: Sequence[str] = ()) -> Instances:
    """Put rows into columns; `users` names those who are to count though they may have no row."""

    def column(name: str, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        place = RunRow._fields.index(name)
        return np.array([row[place] for row in rows], dtype=dtype)

    known = tuple(sorted({row.user for row in rows} | set(users)))
    place_of = {user: place for place, user in enumerate(known)}
    number_of: dict[str, int] = {}
    of = times(
        *(
            column(name, np.int64)
            for name in ("submit_time_ms", "start_time_ms", "mesos_start_time_ms", "end_time_ms")
        )
    )
    job = np.array([number_of.setdefault(row.job_id, len(number_of)) for row in rows], dtype=np.int64)
    preempted = REASONS[PREEMPTED].sentence
    return Instances(
        users=known,
        user=np.array([place_of[row.user] for row in rows], dtype=np.int64),
        job=job,
        times=of,
        queued_ms=_queued_ms(job, of),
        cpus=column("cpus", np.float64).astype(np.float64),
        mem_mb=column("mem", np.float64).astype(np.float64),
        requested_ms=column("requested_run_time", np.int64).astype(np.int64),
        success=np.array([row.status == "success" for row in rows], dtype=np.bool_),
        preempted=np.array([row.reason == preempted for row in rows], dtype=np.bool_),
        running=np.array([row.status in {"running", "unknown"} for row in rows], dtype=np.bool_),
    )


def shifted(of: Instances, by_ms: int) -> Instances:
    """Return the instances with all times later by some ms."""
    moved = of.times
    return replace(
        of,
        times=moved._replace(
            submit_ms=moved.submit_ms + by_ms,
            start_ms=moved.start_ms + by_ms,
            mesos_start_ms=moved.mesos_start_ms + by_ms,
            end_ms=moved.end_ms + by_ms,
        ),
        queued_ms=of.queued_ms + by_ms,
    )


def _queued_ms(job: Ints, of: Times) -> Ints:
    order = np.lexsort((of.start_ms, job))
    queued = of.submit_ms[order].copy()
    again = np.flatnonzero(job[order][1:] == job[order][:-1]) + 1
    queued[again] = of.end_ms[order][again - 1]
    back = np.empty_like(queued)
    back[order] = queued
    return np.minimum(back, of.start_ms)


class JobTimes(NamedTuple):
    """How each job of a run fared, in columns; jobs that never started have no rows and are not here.

    Attributes:
        user: place in `Instances.users`.
        submit_ms: when it was submitted.
        wait_ms: from submission to the first start.
        turnaround_ms: from submission to the first success; -1 without one.
        overhead_ms: what the turnaround has above the run time it needed; -1 without success.
        preemptions: how often it was stopped for somebody else.
    """

    user: Ints
    submit_ms: Ints
    wait_ms: Ints
    turnaround_ms: Ints
    overhead_ms: Ints
    preemptions: Ints


def job_times(of: Instances) -> JobTimes:
    """How each job fared; the measures of Cook's older system simulator."""
    jobs = int(of.job.max()) + 1 if len(of) else 0
    never = np.iinfo(np.int64).max
    first_start, first_success = np.full(jobs, never), np.full(jobs, never)
    np.minimum.at(first_start, of.job, of.times.start_ms)
    np.minimum.at(first_success, of.job[of.success], of.times.end_ms[of.success])
    user, submit, requested = (np.zeros(jobs, dtype=np.int64) for _ in range(3))
    user[of.job], submit[of.job], requested[of.job] = of.user, of.times.submit_ms, of.requested_ms
    done = first_success != never
    turnaround = np.where(done, first_success - submit, -1)
    return JobTimes(
        user=user,
        submit_ms=submit,
        wait_ms=first_start - submit,
        turnaround_ms=turnaround,
        overhead_ms=np.where(done, turnaround - requested, -1),
        preemptions=np.bincount(of.job[of.preempted], minlength=jobs).astype(np.int64),
    )


# --- who held what, and when


def cycle_ticks(of: Instances, cycle_ms: float) -> Floats:
    """The time of each cycle, from 0 up to the last start or end of an instance."""
    last = int(of.times.end_ms.max()) if len(of) else 0
    return np.arange(0.0, last + 1.0, cycle_ms)


def held(of: Instances, ticks: Floats, amount: Floats) -> Floats:
    """What the users' instances held at each tick, from their start to their end: see `sampled`."""
    return sampled(ticks, len(of.users), of.user, of.times.start_ms, of.times.end_ms, amount)


def sampled(ticks: Floats, users: int, user: Ints, since_ms: Ints, until_ms: Ints, amount: Floats) -> Floats:
    """Add up what spans of time amount to at each tick: one line per tick, one column per user.

    Args:
        ticks: ascending times.
        users: how many users there are.
        user: of each span, the number of its user.
        since_ms: of each span, its begin, which is part of it.
        until_ms: of each span, its end, which is not.
        amount: of each span, what it counts for.
    """
    cells = (len(ticks) + 1) * users  # those of the last line come after all ticks
    begins = np.searchsorted(ticks, since_ms) * users + user
    ends = np.searchsorted(ticks, until_ms) * users + user
    change = np.bincount(begins, amount, cells) - np.bincount(ends, amount, cells)
    totals = np.cumsum(change.reshape(len(ticks) + 1, users)[:-1], axis=0, dtype=np.float64)
    return np.round(totals, _DECIMALS)


def time_series(at_ms: npt.ArrayLike, amount: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the sum of all amounts so far: one point per event, in order of time.

    Args:
        at_ms: time of each event, in any order; events of one time keep theirs.
        amount: what each event adds, one column or several.

    Returns:
        The times, and the sum after each event.
    """
    times_ms, amounts = np.asarray(at_ms, dtype=np.float64), np.asarray(amount, dtype=np.float64)
    order = np.argsort(times_ms, kind="stable")
    sums: Floats = np.cumsum(amounts[order], axis=0, dtype=np.float64)
    return times_ms[order], sums.round(_DECIMALS)


def latest_values(ticks: npt.ArrayLike, at_ms: Floats, values: Floats) -> Floats:
    """Return the value in force at each tick: that of the last point at or before it, NaN before the first.

    Args:
        ticks: ascending times.
        at_ms: times of the points, ascending.
        values: values of the points, one column or several.
    """
    last = np.searchsorted(at_ms, np.asarray(ticks, dtype=np.float64), "right") - 1
    before = np.full((1, *values.shape[1:]), np.nan)
    return np.concatenate((before, values))[last + 1]


def sampled_by_user(
    ticks: Floats, users: int, user: Ints, since_ms: Ints, until_ms: Ints, amount: Floats
) -> Floats:
    """Sample the time series of each user at each tick: one line per tick, one column per user.

    As Cook's analysis package samples them, a user has no value (NaN) before the first event. The arguments
    are those of `sampled`.
    """
    matrix = np.full((len(ticks), users), np.nan)
    order = np.argsort(user, kind="stable")
    bounds = np.searchsorted(user[order], np.arange(users + 1))
    for number in range(users):
        own = order[bounds[number] : bounds[number + 1]]
        # Begins stand before ends: what begins and ends at one time is there in between.
        at_ms, values = time_series(
            np.concatenate((since_ms[own], until_ms[own])), np.concatenate((amount[own], -amount[own]))
        )
        matrix[:, number] = latest_values(ticks, at_ms, values)
    return matrix


# --- what would have been fair


def water_fill(total: npt.ArrayLike, desired: npt.ArrayLike) -> Floats:
    """Divide a total evenly among users, giving nobody more than desired.

    All who get less than they desire get the same, and nobody gets more than they; like water in vessels that
    stand on one floor and are joined.

    Args:
        total: what there is to divide; many at once, if an array. What nobody desires is not given out.
        desired: what each user wants, along the last axis; not negative.
    """
    wanted = np.asarray(desired, dtype=np.float64)
    return np.minimum(wanted, water_level(total, wanted, np.ones(wanted.shape)))


def water_level(total: npt.ArrayLike, desired: Floats, weight: Floats) -> Floats:
    """How far users may be filled if all are filled evenly: infinity if all can have what they desire.

    Args:
        total: what there is; many at once, if an array.
        desired: up to where each user wants to be filled, along the last axis.
        weight: what it takes to fill a user by one. Where nothing is taken the level may rise.

    Returns:
        One level per total, in an axis of length one.
    """
    there_is = np.asarray(total, dtype=np.float64)[..., None]
    if desired.shape[-1] == 0:
        return np.full(there_is.shape, np.inf)
    order = np.argsort(desired, axis=-1)
    brim, taken = np.take_along_axis(desired, order, -1), np.take_along_axis(weight, order, -1)
    # Summed without the user's own, not taken off again: small amounts would drown in a large one.
    filled = np.cumsum(brim * taken, axis=-1)
    below = np.concatenate((np.zeros_like(filled[..., :1]), filled[..., :-1]), axis=-1)
    others = np.cumsum(taken[..., ::-1], axis=-1)[..., ::-1]
    # What it takes to raise the level to each user's brim; it stands below the first that takes too much.
    full = np.asarray(below + brim * others > there_is)
    first = np.argmax(full, axis=-1, keepdims=True)
    per_level = np.take_along_axis(others, first, -1)
    level = (there_is - np.take_along_axis(below, first, -1)) / np.where(per_level > 0, per_level, 1.0)
    return np.where(full.any(axis=-1, keepdims=True), level, np.inf)


def fair_allocation(waiting: npt.ArrayLike, running: npt.ArrayLike) -> Floats:
    """Return what users would hold if all that runs were divided fairly among those who run or wait.

    Args:
        waiting: what the waiting jobs of each user ask for, users along the last axis; NaN for a user who has
            no value yet.
        running: what the users' instances hold; NaN likewise.

    Returns:
        One amount per user. A user without a value takes no part in the division and stays NaN.
    """
    desired = np.asarray(waiting, dtype=np.float64) + np.asarray(running, dtype=np.float64)
    is_known = ~np.isnan(desired)
    amounts = np.where(is_known, desired, 0.0)
    level = water_level(np.nansum(running, axis=-1), amounts, is_known.astype(np.float64))
    return np.where(is_known, np.minimum(amounts, level), np.nan)


def fair_ratio_score(running: Floats, fair: Floats) -> float:
    """Return the median of running/fair where it is in (0, 1]; 1 is best, NaN if it is nowhere."""
    ratio: Floats = np.divide(running, fair, out=np.zeros(fair.shape), where=fair > 0)
    return _median(np.minimum(ratio[(ratio > 0) & (ratio <= 1 + _EQUAL)], 1.0))


def starvation_gb(running_mb: Floats, fair_mb: Floats, share_mb: float = STARVATION_SHARE_MB) -> Floats:
    """Return what users lack of the fair part of their share, in GB.

    NaN stands where a user has the share, or has no value yet.
    """
    lacking = np.minimum(fair_mb, share_mb) - running_mb
    lacking = np.where(lacking < 10.0**-_DECIMALS, 0.0, lacking)  # sums are right to so many decimals
    return np.where(running_mb < share_mb, lacking / MB_PER_GB, np.nan)


# --- all of it


class Spread(NamedTuple):
    """A figure for all instances, and for those that succeeded, were preempted, or still run."""

    all: float
    success: float
    preempted: float
    running: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The figures of Cook's analysis package. NaN stands where there was nothing to measure.

    Attributes:
        tasks_run, tasks_run_success, tasks_run_preemption: how many instances there were; how many of them
            succeeded, were preempted.
        cpu_hours, mem_tb_hours: what they held, over time.
        mean_latency_ms, median_latency_ms: from submission to start (Cook's overhead).
        mean_job_overhead_ms, median_job_overhead_ms: per job, by its last instance: from submission to its
            end, without its run time.
        fair_ratio: what users ran, of the fair part of what ran (memory): 1 is best.
        starvation_median_log10_gb: median over users and cycles of the logarithm of what a user lacks, where
            that is above zero; low is good.
        starvation_mean_log10_gb: median over cycles of the mean over users of that logarithm; low is good.
        total_sim_time_ms: from the first start to the last end.
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


def measure(of: Instances, cycle_ms: float) -> Measures:
    """Measure a run.

    Args:
        of: its instances.
        cycle_ms: simulated time from one cycle to the next; fairness is sampled at each.
    """
    run_hours = of.times.run_time_ms / HOUR_MS
    ticks = cycle_ticks(of, cycle_ms)
    users = len(of.users)
    running = sampled_by_user(ticks, users, of.user, of.times.start_ms, of.times.end_ms, of.mem_mb)
    # As in Cook, each instance counts as waiting since the job's submission, also after a preemption.
    waiting = sampled_by_user(ticks, users, of.user, of.times.submit_ms, of.times.start_ms, of.mem_mb)
    fair = fair_allocation(waiting, running)
    starved = starvation_gb(running, fair)
    log10_starved = np.log10(starved, out=np.full(starved.shape, np.nan), where=starved > 0)
    overhead = job_overhead_ms(of)
    return Measures(
        tasks_run=len(of),
        tasks_run_success=int(of.success.sum()),
        tasks_run_preemption=int(of.preempted.sum()),
        cpu_hours=_spread(of, of.cpus * run_hours, np.sum),
        mem_tb_hours=_spread(of, of.mem_mb * run_hours / MB_PER_TB, np.sum),
        mean_latency_ms=_spread(of, of.times.overhead_ms, _mean),
        median_latency_ms=_spread(of, of.times.overhead_ms, _median),
        mean_job_overhead_ms=_mean(overhead),
        median_job_overhead_ms=_median(overhead),
        fair_ratio=fair_ratio_score(running, fair),
        starvation_median_log10_gb=_median(log10_starved[~np.isnan(log10_starved)]),
        starvation_mean_log10_gb=_median(_mean_over_users(log10_starved)),
        total_sim_time_ms=int(of.times.end_ms.max() - of.times.start_ms.min()) if len(of) else 0,
    )


def job_overhead_ms(of: Instances) -> Ints:
    """Per job, by its last instance: from submission to its end, without its run time."""
    return (of.times.end_ms - of.times.submit_ms - of.times.run_time_ms)[last_of_jobs(of)]


def last_of_jobs(of: Instances) -> Ints:
    """The place of each job's last instance; jobs in the order of their numbers."""
    order = np.lexsort((of.times.start_ms, of.job))
    return order[np.flatnonzero(np.diff(of.job[order], append=-1))]


def _spread(of: Instances, values: Floats | Ints, figure: Callable[[Floats | Ints], float]) -> Spread:
    parts = (slice(None), of.success, of.preempted, of.running)
    return Spread(*(float(figure(values[part])) for part in parts))


def _mean(values: Floats | Ints) -> float:
    return float(values.mean()) if values.size else float("nan")


def _median(values: Floats | Ints) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _mean_over_users(values: Floats) -> Floats:
    """Return the mean of each line over what is not NaN; lines without any are left out."""
    known = ~np.isnan(values)
    some = known.any(axis=1)
    means: Floats = np.where(known, values, 0.0)[some].sum(axis=1) / known[some].sum(axis=1)
    return means
