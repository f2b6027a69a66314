"""Runs of one workload under different policies or settings, in figures that can stand side by side.

Lives here: what is known of a run (`Run`), how its users fared (`UserFigures`), how things stood over time
(`Timeline`), and all of it (`RunFigures`). Not here: Cook's own measures (`simulation.measures`), the page
that shows the figures (`simulation.report`).

A job that never started has no row. It counts here all the same, with the time it waited up to the end of the
run: else a policy would look the better the more jobs it left waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from cook_jupyter.model.limits import DEFAULT_USER, UNLIMITED, LimitName
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT
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
    water_level,
)
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob

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
        mea_culpa_limit: how many preemptions cost a job no attempt.
    """

    rows: Sequence[RunRow]
    hosts: Sequence[SimHost]
    shares: Mapping[str, Mapping[LimitName, float]] = field(default_factory=dict)
    cycle_ms: int = 30_000
    trace: Sequence[TraceJob] = ()
    mea_culpa_limit: int = DEFAULT_MEA_CULPA_LIMIT


class Waits(NamedTuple):
    """How long jobs waited for their first start, in ms; NaN if there were none."""

    median: float
    p95: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFigures:
    """How one user fared.

    Attributes:
        user: the name.
        jobs, never_started: how many were submitted; how many of them never started.
        wait_ms: how long they waited for their first start; to the end, if they never did.
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
        wait_ms: how long all jobs waited; `waits_ms` are all of them, ascending.
        typical_wait_ms: the median of the users' medians: half of the users fare better, half worse.
        worst_wait_ms: the longest of the users' medians.
        turnaround_ms: median over all jobs that succeeded.
        never_started: jobs that never started.
        failed: jobs that started, did not succeed, and are not tried again.
        cpu_hours, lost_cpu_hours, preemptions: as of users, all together.
        starved_hours: user hours in which somebody waited below his share.
        busy_while_waiting: part of the hosts that was held while somebody waited; NaN if nobody ever did.
        end_ms: when the last instance ended, since the first submission.
        timeline: how things stood over time.
        measures: the figures of Cook's analysis package.
    """

    name: str
    users: tuple[UserFigures, ...]
    wait_ms: Waits
    waits_ms: Floats
    typical_wait_ms: float
    worst_wait_ms: float
    turnaround_ms: float
    never_started: int
    failed: int
    cpu_hours: float
    lost_cpu_hours: float
    preemptions: int
    starved_hours: float
    busy_while_waiting: float
    end_ms: int
    timeline: Timeline
    measures: Measures

    @property
    def lost_part(self) -> float:
        """The part of all cpu hours that preemption threw away."""
        return self.lost_cpu_hours / self.cpu_hours if self.cpu_hours else 0.0


def figures_of(name: str, run: Run) -> RunFigures:
    """Work out the figures of a run."""
    of = instances(run.rows, [job.user for job in run.trace])
    queue = _queue(of, run)
    timeline = _timeline(of, queue, run)
    tick_hours = timeline.step_ms / HOUR_MS
    jobs = job_times(of)
    never = queue.never_started
    user_of_wait = np.concatenate((jobs.user, queue.user[never]))
    waits = np.concatenate((jobs.wait_ms, (queue.until_ms - queue.since_ms)[never])).astype(np.float64)
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
                wait_ms=_waits(waits[user_of_wait == place]),
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
        wait_ms=_waits(waits),
        waits_ms=np.sort(waits),
        typical_wait_ms=_percentile(medians, 50),
        worst_wait_ms=_percentile(medians, 100),
        turnaround_ms=_percentile(jobs.turnaround_ms[jobs.turnaround_ms >= 0], 50),
        never_started=int(never.sum()),
        failed=int(((jobs.turnaround_ms < 0) & ~of.running[last_of_jobs(of)]).sum()) - queue.again,
        cpu_hours=float(held_hours.sum()),
        lost_cpu_hours=float(held_hours[of.preempted].sum()),
        preemptions=int(of.preempted.sum()),
        starved_hours=sum(user.starved_hours for user in users),
        busy_while_waiting=_mean(timeline.busy[somebody_waits]),
        end_ms=_end_ms(of),
        timeline=timeline,
        measures=measure(of, run.cycle_ms),
    )


class _Queue(NamedTuple):
    """Who waited for what, and when; in columns."""

    user: Ints
    since_ms: Ints
    until_ms: Ints
    cpus: Floats
    mem_mb: Floats
    never_started: Truths
    again: int  # jobs that were preempted last and are to start again


def _queue(of: Instances, run: Run) -> _Queue:
    """All waiting: before each instance, after a last one that was preempted, of jobs that never started."""
    place_of = {user: place for place, user in enumerate(of.users)}
    started = {row.job_id for row in run.rows}
    never = [job for job in run.trace if job.job_id not in started]
    first_ms = run.trace[0].submit_ms if run.trace else 0
    again = _again(of, run)
    since = np.concatenate(
        (
            of.queued_ms,
            of.times.end_ms[again],
            np.array([job.submit_ms - first_ms for job in never], dtype=np.int64),
        )
    )
    until = np.full(len(since), max(_end_ms(of), int(since.max()) if len(since) else 0))
    until[: len(of)] = of.times.start_ms
    never_started = np.zeros(len(since), dtype=np.bool_)
    never_started[len(since) - len(never) :] = True
    return _Queue(
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


def _again(of: Instances, run: Run) -> Ints:
    """The places of instances that were preempted as their job's last, with attempts left to it."""
    last = last_of_jobs(of)
    preempted = last[of.preempted[last]].tolist()
    ids = {run.rows[place].job_id for place in preempted}
    retries = {job.job_id: job.max_retries for job in run.trace if job.job_id in ids} if ids else {}
    preemptions = np.bincount(of.job[of.preempted], minlength=len(of))
    return np.array(
        [
            place
            for place in preempted
            if preemptions[of.job[place]] < run.mea_culpa_limit + retries.get(run.rows[place].job_id, 1)
        ],
        dtype=np.int64,
    )


def _timeline(of: Instances, queue: _Queue, run: Run) -> Timeline:
    end_ms = _end_ms(of)
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
    usage = np.maximum(cpus / share_cpus, mem / share_mem)
    wanted_cpus, wanted_mem = cpus + waiting(queue.cpus), mem + waiting(queue.mem_mb)
    wanted = np.maximum(wanted_cpus / share_cpus, wanted_mem / share_mem)
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


def _end_ms(of: Instances) -> int:
    return int(of.times.end_ms.max()) if len(of) else 0


def _waits(values: Floats) -> Waits:
    return Waits(*(_percentile(values, percent) for percent in (50, 95, 100)))


def _percentile(values: Floats | Ints, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("nan")
