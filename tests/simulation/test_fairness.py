"""Fairness, checked against the rows that a simulation writes.

With stable demand, after two rebalance cycles no user below the share waits for room that a user above the
share uses. The check considers one host at a time, because a job runs on one host: the spare room of the host
and the tasks on it that are beyond the share of their user.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.rebalancing.rules import PreemptionThresholds
from cook_jupyter.simulation.config import SimConfig
from cook_jupyter.simulation.replay import Outcome, simulate
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob

STEP_MS = 1000
REBALANCE_MS = 2 * STEP_MS  # a rebalance follows when more than this has passed: at 3, 6, 9 s
FOREVER_MS = 10**9
CLOCK_MS = 8 * STEP_MS  # submission of the last job, after which the simulation ends
TWICE_REBALANCED_MS = CLOCK_MS - 1  # room that was freed at 6 s was assigned at 7 s
ROUNDING = 1e-9


class Amounts(NamedTuple):
    """Resources of a host, of the tasks of a user, or of a share."""

    cpus: float
    mem_mb: float

    def plus(self, cpus: float, mem_mb: float) -> "Amounts":
        return Amounts(self.cpus + cpus, self.mem_mb + mem_mb)


def demand(jobs: Sequence[tuple[str, int, float, float]]) -> list[TraceJob]:
    """Return a trace of endless jobs (user, second, cpus, MB) and a late one that ends the trace."""
    trace = [
        TraceJob(JobId(f"{user}-{number}"), user, second * STEP_MS, FOREVER_MS, cpus, mem_mb, max_retries=5)
        for number, (user, second, cpus, mem_mb) in enumerate(sorted(jobs, key=lambda job: job[1]))
    ]
    return [*trace, TraceJob(JobId("clock"), "clock", CLOCK_MS, 1, 0.1, 1.0)]


def run(
    trace: Sequence[TraceJob], hosts: Sequence[Amounts], share: Amounts, *, policy: str, min_dru_diff: float
) -> Outcome:
    config = SimConfig(
        shares={"default": {"cpus": share.cpus, "mem": share.mem_mb}},
        cycle_step_ms=STEP_MS,
        rebalance_ms=REBALANCE_MS,
        rebalancer=PreemptionThresholds(min_dru_diff=min_dru_diff),
    )
    return simulate(
        trace,
        [SimHost(f"h{number}", *host) for number, host in enumerate(hosts)],
        config,
        policy=policy,
    )


def dru(usage: Amounts, share: Amounts) -> float:
    return max(usage.cpus / share.cpus, usage.mem_mb / share.mem_mb)


def running_at(outcome: Outcome, at_ms: int) -> list[RunRow]:
    return [
        row
        for row in outcome.rows
        if row.start_time_ms <= at_ms and (row.end_time_ms > at_ms or row.status == "running")
    ]


def violations(
    outcome: Outcome,
    trace: Sequence[TraceJob],
    hosts: Sequence[Amounts],
    share: Amounts,
    *,
    at_ms: int,
    min_dru_diff: float = 0.0,
) -> Iterator[str]:
    """Yield each job of a user within the share that waits for resources of users beyond theirs."""
    running = running_at(outcome, at_ms)
    usage: dict[str, Amounts] = defaultdict(lambda: Amounts(0.0, 0.0))
    drus: list[tuple[RunRow, float]] = []
    for row in sorted(running, key=lambda row: row.start_time_ms):
        usage[row.user] = usage[row.user].plus(row.cpus, row.mem)
        drus.append((row, dru(usage[row.user], share)))
    runs = {row.job_id for row in running}
    for job in trace:
        if job.job_id in runs or job.submit_ms > at_ms:
            continue
        pending = dru(usage[job.user].plus(job.cpus, job.mem_mb), share)
        if pending > 1.0:
            continue
        for number, host in enumerate(hosts):
            room, beyond = host, []
            for row, row_dru in drus:
                if row.hostname != f"h{number}":
                    continue
                is_above = row_dru > 1.0 + ROUNDING and row_dru - pending > min_dru_diff + ROUNDING
                if is_above and row.user != job.user:
                    beyond.append(row.job_id)
                else:
                    room = room.plus(-row.cpus, -row.mem)
            if room.cpus >= job.cpus - ROUNDING and room.mem_mb >= job.mem_mb - ROUNDING:
                yield f"{job.job_id} waits, at {pending:.2f} of the share, for {beyond} on h{number}"


@st.composite
def stable_demands(draw: st.DrawFn) -> tuple[list[TraceJob], list[Amounts], Amounts]:
    """Draw users with jobs of one size each, submitted within two seconds, above or below a share."""
    hosts = draw(
        st.lists(
            st.builds(Amounts, st.sampled_from([4.0, 6.0, 8.0]), st.sampled_from([4000.0, 9000.0])),
            min_size=1,
            max_size=4,
        )
    )
    users = draw(st.integers(2, 6))
    share = Amounts(sum(host.cpus for host in hosts) / users, sum(host.mem_mb for host in hosts) / users)
    jobs = []
    for user in "abcdef"[:users]:
        cpus, mem_mb = (
            draw(st.sampled_from([0.5, 1.0, 2.0, 5.0])),
            draw(st.sampled_from([300.0, 1000.0, 2000.0])),
        )
        second = draw(st.integers(0, 2))
        jobs += [(user, second, cpus, mem_mb)] * draw(st.integers(1, 24))
    return demand(jobs), hosts, share


@pytest.mark.parametrize("policy", ["fair", "fair-better"])
@settings(max_examples=60)
@given(demands=stable_demands(), min_dru_diff=st.sampled_from([0.0, 0.5]))
def test_after_two_rebalances_no_user_below_the_share_waits_for_room_used_above_a_share(
    policy: str, demands: tuple[list[TraceJob], list[Amounts], Amounts], min_dru_diff: float
) -> None:
    trace, hosts, share = demands

    outcome = run(trace, hosts, share, policy=policy, min_dru_diff=min_dru_diff)

    remaining = violations(outcome, trace, hosts, share, at_ms=TWICE_REBALANCED_MS, min_dru_diff=min_dru_diff)
    assert list(remaining) == []


@pytest.mark.parametrize("policy", ["fifo", "fair-patient"])
def test_without_preemption_users_below_the_share_keep_waiting(policy: str) -> None:
    """The check can fail; otherwise the test above would prove nothing."""
    trace = demand([("a", 0, 1.0, 500.0)] * 8 + [("b", 1, 1.0, 500.0)] * 8)
    hosts, share = [Amounts(8.0, 8000.0)], Amounts(4.0, 4000.0)

    outcome = run(trace, hosts, share, policy=policy, min_dru_diff=0.0)

    assert len(list(violations(outcome, trace, hosts, share, at_ms=TWICE_REBALANCED_MS))) == 8


def test_a_job_of_a_user_below_share_is_not_delayed_by_room_kept_for_a_user_above() -> None:
    jobs = [("b", 0, 0.5, 2000.0)] * 10 + [("c", 0, 0.5, 1000.0)] * 3 + [("d", 0, 0.5, 2000.0)]
    trace = demand([*jobs, ("a", 1, 5.0, 300.0)])  # larger than the job with kept room
    hosts = [Amounts(8.0, 4000.0), Amounts(4.0, 4000.0), Amounts(4.0, 9000.0), Amounts(4.0, 9000.0)]
    share = Amounts(5.0, 6500.0)

    outcome = run(trace, hosts, share, policy="fair-better", min_dru_diff=0.0)

    assert list(violations(outcome, trace, hosts, share, at_ms=TWICE_REBALANCED_MS)) == []


def test_users_below_the_share_wait_until_the_first_rebalance() -> None:
    trace = demand([("a", 0, 1.0, 500.0)] * 8 + [("b", 1, 1.0, 500.0)] * 8)
    hosts, share = [Amounts(8.0, 8000.0)], Amounts(4.0, 4000.0)

    outcome = run(trace, hosts, share, policy="fair", min_dru_diff=0.0)

    early, late = (
        list(violations(outcome, trace, hosts, share, at_ms=at_ms)) for at_ms in (2500, TWICE_REBALANCED_MS)
    )
    assert len(early) == 8
    assert late == []
    assert Counter(row.user for row in running_at(outcome, TWICE_REBALANCED_MS)) == {"a": 4, "b": 4}
