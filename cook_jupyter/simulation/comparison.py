"""Figures to compare runs of one workload under different policies or settings.

Lives here: the data of a run (`Run`), the figures of each user (`UserFigures`), usage and waiting over time
(`Timeline`), and all figures of a run (`RunFigures`). Not here: Cook's own measures (`simulation.measures`),
the page that shows the figures (`simulation.report`).

A job that never started has no row, but counts as a job that did not start in time. Otherwise a policy would
look better the more jobs it left waiting. Jobs that were refused or removed do not count as waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import DEFAULT_USER, UNLIMITED, LimitName
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT, ReasonName
from cook_jupyter.scheduling.ranking.dru import drus_of
from cook_jupyter.simulation.config import SimConfig
from cook_jupyter.simulation.measures import (
    HOUR_MS,
    Bools,
    Floats,
    Instances,
    Ints,
    Measures,
    compute_job_times,
    instances_from_rows,
    last_instances,
    measure,
    sample,
    shift,
    water_level,
)
from cook_jupyter.simulation.replay import Outcome
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob
from cook_jupyter.simulation.waiting import Queue, build_queue

_MAX_TICKS: Final = 2000  # of a timeline; a longer run is sampled every few cycles
_SHARE_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run to compare with others.

    Attributes:
        rows: all instances, as simulated or as read from a file.
        hosts: all hosts.
        shares: shares by user and resource (Cook's names); a missing one is taken from the user `default`.
        cycle_ms: simulated time between cycles.
        trace: the submitted jobs; without them, jobs that never started are unknown.
        mea_culpa_limit: number of mea-culpa failures per reason that cost no retry.
        mea_culpa_limits: exceptions to `mea_culpa_limit`, by reason.
        end_ms: end of the run, on the clock of the rows; None for the last end of an instance.
        refused, removed, fitting_no_host: jobs that could never start, each with the reason: see
            `replay.Outcome`. The first two kinds do not count as waiting.
    """

    rows: Sequence[RunRow]
    hosts: Sequence[SimHost]
    shares: Mapping[str, Mapping[LimitName, float]] = field(default_factory=dict)
    cycle_ms: int = 30_000
    trace: Sequence[TraceJob] = ()
    mea_culpa_limit: int = DEFAULT_MEA_CULPA_LIMIT
    mea_culpa_limits: Mapping[ReasonName, int] = field(default_factory=dict)
    end_ms: int | None = None
    refused: Mapping[JobId, str] = field(default_factory=dict)
    removed: Mapping[JobId, str] = field(default_factory=dict)
    fitting_no_host: Mapping[JobId, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, outcome: Outcome, trace: Sequence[TraceJob], hosts: Sequence[SimHost], config: SimConfig
    ) -> "Run":
        """Build a run from the outcome of a simulation and its input."""
        return cls(
            rows=outcome.rows,
            hosts=hosts,
            shares=config.shares,
            cycle_ms=config.cycle_step_ms,
            trace=trace,
            mea_culpa_limit=config.jobs.mea_culpa_limit,
            mea_culpa_limits=config.jobs.mea_culpa_limits,
            end_ms=outcome.end_ms,
            refused=outcome.refused,
            removed=outcome.removed,
            fitting_no_host=outcome.fitting_no_host,
        )


class WaitStats(NamedTuple):
    """Waits of jobs for their first start, in ms; NaN if there were no jobs.

    Attributes:
        median, p95: percentiles; infinite if too many jobs never started.
        longest: longest wait; a job that never started waits until the end of the run.
    """

    median: float
    p95: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFigures:
    """The figures of one user in one run.

    Attributes:
        user: name of the user.
        jobs, never_started: number of submitted jobs; of those that never started.
        wait_ms: waits of the jobs for their first start.
        turnaround_ms: median time from submission to success; NaN without success.
        cpu_hours, lost_cpu_hours: cpu hours of all instances; of preempted instances.
        preemptions: number of preempted instances.
        starved_hours, hungry_hours, satisfied_hours: time of the user in each state of Cook's monitor.
    """

    user: str
    jobs: int
    never_started: int
    wait_ms: WaitStats
    turnaround_ms: float
    cpu_hours: float
    lost_cpu_hours: float
    preemptions: int
    starved_hours: float
    hungry_hours: float
    satisfied_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Usage and waiting over time, sampled in the middle of each cycle (of every few cycles in a long run).

    Arrays have one line per tick and, unless stated otherwise, one column per user.

    Attributes:
        ticks_ms: times of the samples, since the first submission.
        step_ms: time between samples.
        end_ms: end of the run.
        usage: usage of each user as a multiple of the user's share: the larger of cpus and memory (DRU).
        fair: fair usage of each user, also as a multiple of the share, if all hosts were divided among the
            users who run or wait: equal for all, except for users who desire less (dominant resource
            fairness).
        starved: whether each user waits below the share.
        hungry: whether each user waits without being starved.
        satisfied: whether each user runs jobs and has none waiting.
        busy: fraction of all cpus or of all memory in use, whichever is larger; one number per tick.
    """

    ticks_ms: Floats
    step_ms: int
    end_ms: int
    usage: Floats
    fair: Floats
    starved: Bools
    hungry: Bools
    satisfied: Bools
    busy: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """All figures of a run that a report shows.

    Attributes:
        name: name of the run.
        users: figures of each user, sorted by name.
        jobs: number of submitted jobs, without those that were refused or removed.
        wait_ms: statistics of the waits of all jobs.
        waits_ms: wait of every job, ascending; infinite for a job that never started.
        typical_wait_ms: median of the users' median waits: half of the users wait less, half wait longer.
        worst_wait_ms: longest of the users' median waits.
        turnaround_ms: median turnaround of all jobs that succeeded.
        never_started: number of jobs that never started.
        failed: number of jobs that started, did not succeed, and are not tried again.
        refused, removed, fitting_no_host: number of jobs that could never start, by kind: see `Run`.
        examples: first job of each of these kinds and its reason; kinds without jobs are left out.
        cpu_hours, lost_cpu_hours, preemptions: totals over all users.
        starved_hours: sum of the time that each user spent starved.
        busy_while_waiting: mean fraction of the hosts in use while any user waits; NaN if nobody ever waits.
        end_ms: end of the last instance, since the first submission; NaN without instances.
        timeline: usage and waiting over time.
        measures: the figures of Cook's analysis package.
    """

    name: str
    users: tuple[UserFigures, ...]
    jobs: int
    wait_ms: WaitStats
    waits_ms: Floats
    typical_wait_ms: float
    worst_wait_ms: float
    turnaround_ms: float
    never_started: int
    failed: int
    refused: int
    removed: int
    fitting_no_host: int
    examples: Mapping[str, str]
    cpu_hours: float
    lost_cpu_hours: float
    preemptions: int
    starved_hours: float
    busy_while_waiting: float
    end_ms: float
    timeline: Timeline
    measures: Measures

    @property
    def lost_part(self) -> float:
        """Fraction of all cpu hours that was lost to preemption."""
        return self.lost_cpu_hours / self.cpu_hours if self.cpu_hours else 0.0


def compute_figures(name: str, run: Run) -> RunFigures:
    """Compute the figures of a run.

    Args:
        name: name of the run in the report.
        run: the run.

    Raises:
        ValueError: the run has no hosts.
    """
    if not run.hosts:
        raise ValueError(f"the run {name} has no hosts")
    instances = instances_from_rows(run.rows, [job.user for job in run.trace])
    measures = measure(instances, run.cycle_ms)  # their times count from the first row
    instances, end_ms = _since_first_submission(instances, run)
    queue = build_queue(instances, run, end_ms)
    timeline = _timeline(instances, queue, run, end_ms)
    tick_hours = timeline.step_ms / HOUR_MS
    jobs = compute_job_times(instances)
    never = queue.never_started
    user_of_wait = np.concatenate((jobs.user, queue.user[never]))
    waits = np.concatenate((jobs.wait_ms, (queue.until_ms - queue.since_ms)[never])).astype(np.float64)
    has_started = np.arange(len(waits)) < len(jobs.user)
    held_hours = instances.cpus * instances.times.run_time_ms / HOUR_MS

    users = []
    for index, user in enumerate(instances.users):
        is_users = instances.user == index
        turnarounds = jobs.turnaround_ms[(jobs.user == index) & (jobs.turnaround_ms >= 0)]
        users.append(
            UserFigures(
                user=user,
                jobs=int((user_of_wait == index).sum()),
                never_started=int((queue.user[never] == index).sum()),
                wait_ms=_waits(waits[user_of_wait == index], has_started[user_of_wait == index]),
                turnaround_ms=_percentile(turnarounds, 50),
                cpu_hours=float(held_hours[is_users].sum()),
                lost_cpu_hours=float(held_hours[is_users & instances.preempted].sum()),
                preemptions=int((is_users & instances.preempted).sum()),
                starved_hours=float(timeline.starved[:, index].sum()) * tick_hours,
                hungry_hours=float(timeline.hungry[:, index].sum()) * tick_hours,
                satisfied_hours=float(timeline.satisfied[:, index].sum()) * tick_hours,
            )
        )
    medians = np.array([user.wait_ms.median for user in users if user.jobs])
    any_user_waits = (timeline.starved | timeline.hungry).any(axis=1)
    return RunFigures(
        name=name,
        users=tuple(users),
        jobs=len(waits),
        wait_ms=_waits(waits, has_started),
        waits_ms=np.sort(np.where(has_started, waits, np.inf)),
        typical_wait_ms=_percentile(medians, 50),
        worst_wait_ms=_percentile(medians, 100),
        turnaround_ms=_percentile(jobs.turnaround_ms[jobs.turnaround_ms >= 0], 50),
        never_started=int(never.sum()),
        failed=int(((jobs.turnaround_ms < 0) & ~instances.running[last_instances(instances)]).sum())
        - queue.again,
        refused=len(run.refused),
        removed=len(run.removed),
        fitting_no_host=len(run.fitting_no_host),
        examples={
            kind: "{}: {}".format(*next(iter(jobs_and_reasons.items())))
            for kind, jobs_and_reasons in (
                ("refused", run.refused),
                ("removed", run.removed),
                ("fitting_no_host", run.fitting_no_host),
            )
            if jobs_and_reasons
        },
        cpu_hours=float(held_hours.sum()),
        lost_cpu_hours=float(held_hours[instances.preempted].sum()),
        preemptions=int(instances.preempted.sum()),
        starved_hours=sum(user.starved_hours for user in users),
        busy_while_waiting=_mean(timeline.busy[any_user_waits]),
        end_ms=float(instances.times.end_ms.max()) if len(instances) else float("nan"),
        timeline=timeline,
        measures=measures,
    )


def _since_first_submission(instances: Instances, run: Run) -> tuple[Instances, int]:
    """Make times relative to the first submission of the trace, whose job may have no row.

    Returns:
        The instances, and the end of the run.
    """
    first_row = min(run.rows, key=attrgetter("submit_time_ms"), default=None)
    offset_ms = 0  # from the first submission of all to the first submission of a job with a row
    if run.trace and first_row is not None:
        submit_ms = {job.job_id: job.submit_ms for job in run.trace}
        offset_ms = submit_ms.get(first_row.job_id, run.trace[0].submit_ms) - run.trace[0].submit_ms
    end_ms = int(instances.times.end_ms.max()) + offset_ms if len(instances) else 0
    if run.end_ms is not None and (first_row is not None or run.trace):
        origin_ms = run.trace[0].submit_ms if first_row is None else first_row.submit_time_ms - offset_ms
        end_ms = max(end_ms, run.end_ms - origin_ms)
    return (shift(instances, offset_ms) if offset_ms else instances), end_ms


def _timeline(instances: Instances, queue: Queue, run: Run, end_ms: int) -> Timeline:
    step_ms = run.cycle_ms * (1 + end_ms // run.cycle_ms // _MAX_TICKS)
    # Jobs are submitted and started when a cycle begins, so nothing changes in its middle.
    ticks = np.arange(run.cycle_ms / 2, max(end_ms, run.cycle_ms), step_ms)
    users = len(instances.users)

    def running(amount: Floats) -> Floats:
        return sample(ticks, users, instances.user, instances.times.start_ms, instances.times.end_ms, amount)

    def waiting(amount: Floats) -> Floats:
        return sample(ticks, users, queue.user, queue.since_ms, queue.until_ms, amount)

    total_cpus, total_mem = sum(host.cpus for host in run.hosts), sum(host.mem_mb for host in run.hosts)
    share_cpus = np.array([_share(run, user, "cpus", total_cpus) for user in instances.users])
    share_mem = np.array([_share(run, user, "mem", total_mem) for user in instances.users])
    cpus, mem = running(instances.cpus), running(instances.mem_mb)
    shares = {"cpus": share_cpus, "mem": share_mem}.__getitem__
    usage = drus_of({"cpus": cpus, "mem": mem}.__getitem__, shares, DruMode.DEFAULT)
    desired_cpus, desired_mem = cpus + waiting(queue.cpus), mem + waiting(queue.mem_mb)
    desired = {"cpus": desired_cpus, "mem": desired_mem}.__getitem__
    desired_shares = drus_of(desired, shares, DruMode.DEFAULT)
    per_share = np.divide(1.0, desired_shares, out=np.zeros(desired_shares.shape), where=desired_shares > 0)
    level = np.minimum(
        water_level(np.full(len(ticks), total_cpus), desired_shares, desired_cpus * per_share),
        water_level(np.full(len(ticks), total_mem), desired_shares, desired_mem * per_share),
    )
    is_waiting = waiting(np.ones(len(queue.user))) > 0
    below_share = (cpus < share_cpus - _SHARE_TOLERANCE) & (mem < share_mem - _SHARE_TOLERANCE)
    return Timeline(
        ticks_ms=ticks,
        step_ms=step_ms,
        end_ms=end_ms,
        usage=usage,
        fair=np.minimum(desired_shares, level),
        starved=is_waiting & below_share,
        hungry=is_waiting & ~below_share,
        satisfied=(usage > 0) & ~is_waiting,
        busy=np.maximum(cpus.sum(axis=1) / total_cpus, mem.sum(axis=1) / total_mem),
    )


def _share(run: Run, user: str, name: LimitName, total: float) -> float:
    """Return a user's share; an unlimited share counts as the total of all hosts."""
    amount = run.shares.get(user, {}).get(name, run.shares.get(DEFAULT_USER, {}).get(name, UNLIMITED))
    return amount if amount < UNLIMITED else total


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _waits(values: Floats, has_started: Bools) -> WaitStats:
    """Return the statistics of waits; the wait of a job that never started lasts until the end of the run."""
    until_start = np.where(has_started, values, np.inf)
    return WaitStats(_percentile(until_start, 50), _percentile(until_start, 95), _percentile(values, 100))


def _percentile(values: Floats | Ints, percent: float) -> float:
    """Return an interpolated percentile; infinite if the upper of its two neighbours is."""
    if not len(values):
        return float("nan")
    upper = np.percentile(values, percent, method="higher")
    return float(upper if np.isinf(upper) else np.percentile(values, percent))
