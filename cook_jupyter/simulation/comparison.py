"""Runs of one workload under different policies or settings, in figures that can stand side by side.

Lives here: what is known of a run (`Run`), how its users fared (`UserFigures`), how things stood over time
(`Timeline`), and all of it (`RunFigures`). Not here: Cook's own measures (`simulation.measures`), the page
that shows the figures (`simulation.report`).

A job that never started has no row. It counts here all the same, as one that did not start in time: else a
policy would look the better the more jobs it left waiting. Jobs that were refused or removed did not wait.
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
from cook_jupyter.scheduling.dru import drus_of
from cook_jupyter.simulation.config import SimConfig
from cook_jupyter.simulation.measures import (
    HOUR_MS,
    Floats,
    Instances,
    Ints,
    Measures,
    Truths,
    instances,
    job_times,
    last_of_jobs,
    measure,
    sampled,
    shifted,
    water_level,
)
from cook_jupyter.simulation.replay import Outcome
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob
from cook_jupyter.simulation.waiting import Queue, queue_of

_MOST_TICKS: Final = 2000  # of a timeline; a longer run is looked at every few cycles
_EVEN: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that is to be compared.

    Attributes:
        rows: its instances, as simulated or as read from a file.
        hosts: where it ran.
        shares: by user and resource (Cook's names); what somebody has not is taken from the user `default`.
        cycle_ms: simulated time from one cycle to the next.
        trace: the jobs that were submitted; without it, those that never started cannot be known.
        mea_culpa_limit, mea_culpa_limits: failures that are the system's fault and cost a job no attempt: of
            any reason, of named ones.
        end_ms: the clock when the run ended, on the scale of the rows; None stands for their last end.
        refused, removed, fitting_no_host: jobs that could never start, each with the reason: see
            `replay.Outcome`. The first two kinds do not wait.
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
        """Return a simulated run, with all that is known of it."""
        return cls(
            rows=outcome.rows,
            hosts=hosts,
            shares=config.shares,
            cycle_ms=config.cycle_step_ms,
            trace=trace,
            mea_culpa_limit=config.mea_culpa_limit,
            mea_culpa_limits=config.mea_culpa_limits,
            end_ms=outcome.end_ms,
            refused=outcome.refused,
            removed=outcome.removed,
            fitting_no_host=outcome.fitting_no_host,
        )


class Waits(NamedTuple):
    """How long jobs waited for their first start, in ms; NaN if there were none.

    Attributes:
        median, p95: infinite if so many did not start within the run.
        longest: of a job that never started, up to the end of the run.
    """

    median: float
    p95: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFigures:
    """How one user fared.

    Attributes:
        user: the name.
        jobs, never_started: how many were submitted; how many of them never started.
        wait_ms: how long they waited for their first start.
        turnaround_ms: median, from submission to success; NaN if nothing succeeded.
        cpu_hours, lost_cpu_hours: what the instances held; what of it preemption threw away.
        preemptions: how many instances were stopped for somebody else.
        starved_hours, hungry_hours, satisfied_hours: how long the user was what Cook's monitor calls so.
    """

    user: str
    jobs: int
    never_started: int
    wait_ms: Waits
    turnaround_ms: float
    cpu_hours: float
    lost_cpu_hours: float
    preemptions: int
    starved_hours: float
    hungry_hours: float
    satisfied_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """How things stood in the middle of each cycle (of some cycles, in a long run): lines of users.

    Attributes:
        ticks_ms: when, since the first submission.
        step_ms: from one to the next.
        end_ms: when the run ended.
        usage: what users held, in their shares: the larger of cpus and memory (their DRU).
        fair: what they would hold, in shares, were all hosts divided fairly among those who run or wait: all
            the same, but for those who desire less (dominant resource fairness).
        starved: users who wait, below their share.
        hungry: users who wait, and are not starved.
        satisfied: users who run, and wait for nothing.
        busy: the part of all cpus or of all memory that was held, whichever was larger. One number per tick.
    """

    ticks_ms: Floats
    step_ms: int
    end_ms: int
    usage: Floats
    fair: Floats
    starved: Truths
    hungry: Truths
    satisfied: Truths
    busy: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """All of a run that a report shows.

    Attributes:
        name: of the run.
        users: how each fared, by name.
        jobs: how many were submitted, but for those that were refused or removed.
        wait_ms: how long all jobs waited; `waits_ms` are all of them, ascending, infinite for one that never
            started.
        typical_wait_ms: the median of the users' medians: half of the users fare better, half worse.
        worst_wait_ms: the longest of the users' medians.
        turnaround_ms: median over all jobs that succeeded.
        never_started: jobs that never started.
        failed: jobs that started, did not succeed, and are not tried again.
        refused, removed, fitting_no_host: how many jobs could never start, by reason: see `Run`.
        examples: of each of these kinds that is not empty, the first job and the reason.
        cpu_hours, lost_cpu_hours, preemptions: as of users, all together.
        starved_hours: user hours in which somebody waited below his share.
        busy_while_waiting: part of the hosts that was held while somebody waited; NaN if nobody ever did.
        end_ms: when the last instance ended, since the first submission; NaN if there was none.
        timeline: how things stood over time.
        measures: the figures of Cook's analysis package.
    """

    name: str
    users: tuple[UserFigures, ...]
    jobs: int
    wait_ms: Waits
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
        """The part of all cpu hours that preemption threw away."""
        return self.lost_cpu_hours / self.cpu_hours if self.cpu_hours else 0.0


def figures_of(name: str, run: Run) -> RunFigures:
    """Work out the figures of a run.

    Raises:
        ValueError: it has no hosts.
    """
    if not run.hosts:
        raise ValueError(f"the run {name} has no hosts")
    of = instances(run.rows, [job.user for job in run.trace])
    measures = measure(of, run.cycle_ms)  # these count from the first row
    of, end_ms = _since_first_submission(of, run)
    queue = queue_of(of, run, end_ms)
    timeline = _timeline(of, queue, run, end_ms)
    tick_hours = timeline.step_ms / HOUR_MS
    jobs = job_times(of)
    never = queue.never_started
    user_of_wait = np.concatenate((jobs.user, queue.user[never]))
    waits = np.concatenate((jobs.wait_ms, (queue.until_ms - queue.since_ms)[never])).astype(np.float64)
    started = np.arange(len(waits)) < len(jobs.user)
    held_hours = of.cpus * of.times.run_time_ms / HOUR_MS

    users = []
    for place, user in enumerate(of.users):
        mine = of.user == place
        turnarounds = jobs.turnaround_ms[(jobs.user == place) & (jobs.turnaround_ms >= 0)]
        users.append(
            UserFigures(
                user=user,
                jobs=int((user_of_wait == place).sum()),
                never_started=int((queue.user[never] == place).sum()),
                wait_ms=_waits(waits[user_of_wait == place], started[user_of_wait == place]),
                turnaround_ms=_percentile(turnarounds, 50),
                cpu_hours=float(held_hours[mine].sum()),
                lost_cpu_hours=float(held_hours[mine & of.preempted].sum()),
                preemptions=int((mine & of.preempted).sum()),
                starved_hours=float(timeline.starved[:, place].sum()) * tick_hours,
                hungry_hours=float(timeline.hungry[:, place].sum()) * tick_hours,
                satisfied_hours=float(timeline.satisfied[:, place].sum()) * tick_hours,
            )
        )
    medians = np.array([user.wait_ms.median for user in users if user.jobs])
    somebody_waits = (timeline.starved | timeline.hungry).any(axis=1)
    return RunFigures(
        name=name,
        users=tuple(users),
        jobs=len(waits),
        wait_ms=_waits(waits, started),
        waits_ms=np.sort(np.where(started, waits, np.inf)),
        typical_wait_ms=_percentile(medians, 50),
        worst_wait_ms=_percentile(medians, 100),
        turnaround_ms=_percentile(jobs.turnaround_ms[jobs.turnaround_ms >= 0], 50),
        never_started=int(never.sum()),
        failed=int(((jobs.turnaround_ms < 0) & ~of.running[last_of_jobs(of)]).sum()) - queue.again,
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
        lost_cpu_hours=float(held_hours[of.preempted].sum()),
        preemptions=int(of.preempted.sum()),
        starved_hours=sum(user.starved_hours for user in users),
        busy_while_waiting=_mean(timeline.busy[somebody_waits]),
        end_ms=float(of.times.end_ms.max()) if len(of) else float("nan"),
        timeline=timeline,
        measures=measures,
    )


def _since_first_submission(of: Instances, run: Run) -> tuple[Instances, int]:
    """Count times from the first submission of the trace, whose job may have no row; return the end, too."""
    first_row = min(run.rows, key=attrgetter("submit_time_ms"), default=None)
    later_ms = 0  # by how much the first job that has a row was submitted after the first job of all
    if run.trace and first_row is not None:
        submit_ms = {job.job_id: job.submit_ms for job in run.trace}
        later_ms = submit_ms.get(first_row.job_id, run.trace[0].submit_ms) - run.trace[0].submit_ms
    end_ms = int(of.times.end_ms.max()) + later_ms if len(of) else 0
    if run.end_ms is not None and (first_row is not None or run.trace):
        origin_ms = run.trace[0].submit_ms if first_row is None else first_row.submit_time_ms - later_ms
        end_ms = max(end_ms, run.end_ms - origin_ms)
    return (shifted(of, later_ms) if later_ms else of), end_ms


def _timeline(of: Instances, queue: Queue, run: Run, end_ms: int) -> Timeline:
    step_ms = run.cycle_ms * (1 + end_ms // run.cycle_ms // _MOST_TICKS)
    # Jobs come and start as a cycle begins: in its middle all is as it left it.
    ticks = np.arange(run.cycle_ms / 2, max(end_ms, run.cycle_ms), step_ms)
    users = len(of.users)

    def running(amount: Floats) -> Floats:
        return sampled(ticks, users, of.user, of.times.start_ms, of.times.end_ms, amount)

    def waiting(amount: Floats) -> Floats:
        return sampled(ticks, users, queue.user, queue.since_ms, queue.until_ms, amount)

    room_cpus, room_mem = sum(host.cpus for host in run.hosts), sum(host.mem_mb for host in run.hosts)
    share_cpus = np.array([_share(run, user, "cpus", room_cpus) for user in of.users])
    share_mem = np.array([_share(run, user, "mem", room_mem) for user in of.users])
    cpus, mem = running(of.cpus), running(of.mem_mb)
    wanted_cpus, wanted_mem = cpus + waiting(queue.cpus), mem + waiting(queue.mem_mb)
    shares = {"cpus": share_cpus, "mem": share_mem}.__getitem__
    usage = drus_of({"cpus": cpus, "mem": mem}.__getitem__, shares, DruMode.DEFAULT)
    wanted = drus_of({"cpus": wanted_cpus, "mem": wanted_mem}.__getitem__, shares, DruMode.DEFAULT)
    per_share = np.divide(1.0, wanted, out=np.zeros(wanted.shape), where=wanted > 0)
    level = np.minimum(
        water_level(np.full(len(ticks), room_cpus), wanted, wanted_cpus * per_share),
        water_level(np.full(len(ticks), room_mem), wanted, wanted_mem * per_share),
    )
    waits = waiting(np.ones(len(queue.user))) > 0
    below_share = (cpus < share_cpus - _EVEN) & (mem < share_mem - _EVEN)
    return Timeline(
        ticks_ms=ticks,
        step_ms=step_ms,
        end_ms=end_ms,
        usage=usage,
        fair=np.minimum(wanted, level),
        starved=waits & below_share,
        hungry=waits & ~below_share,
        satisfied=(usage > 0) & ~waits,
        busy=np.maximum(cpus.sum(axis=1) / room_cpus, mem.sum(axis=1) / room_mem),
    )


def _share(run: Run, user: str, name: LimitName, room: float) -> float:
    """A user's share; one without limit counts as all there is."""
    amount = run.shares.get(user, {}).get(name, run.shares.get(DEFAULT_USER, {}).get(name, UNLIMITED))
    return amount if amount < UNLIMITED else room


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _waits(values: Floats, started: Truths) -> Waits:
    """Return the figures of waits; that of a job that never started is the time up to the end of the run."""
    until_start = np.where(started, values, np.inf)
    return Waits(_percentile(until_start, 50), _percentile(until_start, 95), _percentile(values, 100))


def _percentile(values: Floats | Ints, percent: float) -> float:
    """Return a percentile, between two values in proportion; infinite if the upper one is."""
    if not len(values):
        return float("nan")
    upper = np.percentile(values, percent, method="higher")
    return float(upper if np.isinf(upper) else np.percentile(values, percent))
