"""Small simulations computed by hand from the specification, cycle by cycle and millisecond by millisecond.

In a cycle, each submission takes a millisecond; then the ends take one, the ranking one, the match one, and
the rebalancer one if it is due.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from cook_jupyter.errors import InvalidRequest, OutOfStep
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.scheduling.rebalancing.rules import PreemptionThresholds
from cook_jupyter.simulation.checks import MAX_TIME_MS
from cook_jupyter.simulation.config import COOK_JOBS, COOK_MATCHING, SimConfig
from cook_jupyter.simulation.policies import find_policy
from cook_jupyter.simulation.replay import Outcome, _Replay, simulate
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob

FOREVER = 10**9
SHARES = {"default": {"cpus": 1.0, "mem": 1000.0}}


def a_job(job_id: str, submit_ms: int, run_time_ms: int = FOREVER, **fields: Any) -> TraceJob:
    """Return a job of one cpu; its user is the letters of its id."""
    values = {"user": job_id.rstrip("0123456789"), "cpus": 1.0, "mem_mb": 1000.0, **fields}
    return TraceJob(job_id=JobId(job_id), submit_ms=submit_ms, run_time_ms=run_time_ms, **values)


def a_host(name: str = "h1", cpus: float = 4.0, mem_mb: float = 4000.0) -> SimHost:
    return SimHost(name, cpus, mem_mb, slave_id=f"slave-{name}")


def run(
    trace: Sequence[TraceJob], *hosts: SimHost, policy: str = "fair", until_done: bool = False, **config: Any
) -> Outcome:
    settings: dict[str, Any] = {"shares": SHARES, "cycle_step_ms": 1000, "rebalance_ms": 2000, **config}
    return simulate(trace, hosts or (a_host(),), SimConfig(**settings), policy=policy, until_done=until_done)


def instances(outcome: Outcome) -> list[tuple[str, int, int, int, str]]:
    """Return job, submission, start, end and status of each row."""
    return [
        (row.job_id, row.submit_time_ms, row.start_time_ms, row.end_time_ms, row.status)
        for row in outcome.rows
    ]


def test_a_single_job_has_a_complete_row() -> None:
    outcome = run([a_job("a1", 0, 100, name="x", expected_runtime_ms=90, group="g")])

    (row,) = outcome.rows
    assert row == RunRow(
        job_id=JobId("a1"),
        instance_id=row.instance_id,
        group_id=GroupId("g"),
        submit_time_ms=1,
        mesos_start_time_ms=4,
        start_time_ms=4,
        end_time_ms=1001,  # in the cycle after the last submission, which is the last
        hostname="h1",
        slave_id="slave-h1",
        status="success",
        reason="",
        user="a",
        mem=1000.0,
        cpus=1.0,
        job_name="x",
        requested_run_time=100,
        expected_run_time=90,
        requested_status="finished",
    )
    assert [cycle.at_ms for cycle in outcome.cycles] == [0, 1000]


def test_a_task_ends_only_when_its_time_is_past() -> None:
    # Both start at 5; the next cycle processes ends at 1001.
    outcome = run([a_job("a1", 0, 995), a_job("a2", 0, 996)])

    assert instances(outcome) == [("a1", 1, 5, 1001, "success"), ("a2", 2, 5, 1003, "running")]
    assert outcome.end_ms == 1003  # open instances end when the rows are written


def test_every_submission_moves_the_clock_and_times_may_be_negative() -> None:
    outcome = run([a_job("a1", -50), a_job("b1", -50), a_job("c1", -20), a_job("d1", 949)])

    assert instances(outcome) == [
        ("a1", -49, -45, 1953, "running"),
        ("b1", -48, -45, 1953, "running"),
        ("c1", 951, 955, 1953, "running"),
        ("d1", 952, 955, 1953, "running"),
    ]
    assert [cycle.submitted for cycle in outcome.cycles] == [2, 2, 0]


def test_a_task_that_ended_makes_room_for_the_match_of_the_same_cycle() -> None:
    outcome = run([a_job("a1", 0, 500), a_job("a2", 0)], a_host(cpus=1.0))

    assert instances(outcome) == [("a1", 1, 5, 1001, "success"), ("a2", 2, 1003, 1003, "running")]


def test_a_failed_job_is_retried_on_other_hosts_until_its_retries_are_used_up() -> None:
    trace = [
        a_job("a1", 0, 100, status=TaskState.FAILED, max_retries=2),
        a_job("late1", 3000, cpus=9.0),
    ]

    outcome = run(trace, a_host("h1"), a_host("h2"), a_host("h3"))

    assert instances(outcome) == [("a1", 1, 4, 1001, "failed"), ("a1", 1, 1003, 2001, "failed")]
    assert [(row.hostname, row.reason) for row in outcome.rows] == [
        ("h1", "Command exited non-zero"),
        ("h2", "Command exited non-zero"),
    ]
    assert outcome.waiting == 1  # the job that is too large for any host


def test_a_job_that_failed_on_every_host_waits_for_another() -> None:
    trace = [
        a_job("a1", 0, 100, status=TaskState.LOST, max_retries=5),
        a_job("late1", 3000, cpus=9.0),
    ]

    outcome = run(trace, a_host("h1"))

    assert instances(outcome) == [("a1", 1, 4, 1001, "failed")]
    assert outcome.waiting == 2


@pytest.mark.parametrize("status", ["failed", "killed", "lost", "error"])
def test_every_outcome_except_success_is_a_failure_that_costs_a_retry(status: str) -> None:
    outcome = run([a_job("a1", 0, 100, status=TaskState(status))], a_host("h1"), a_host("h2"))

    (row,) = outcome.rows
    assert (row.status, row.requested_status) == ("failed", status)
    assert row.reason


def preemption_trace() -> list[TraceJob]:
    """User a fills the host; b submits later; the job of z fits no host, and keeps the simulation running."""
    return [
        *(a_job(f"a{n}", 0) for n in range(1, 5)),
        a_job("b1", 500, 500),
        a_job("z1", 4000, cpus=9.0),
    ]


def test_the_rebalancer_runs_when_more_than_its_interval_has_passed() -> None:
    outcome = run(preemption_trace())

    # b waits from 1001 on. 1000 and 2000 are not more than 2000 after the beginning; 3000 is: then the task
    # of a with the highest DRU, 4, is preempted, as 4 - 1 > 0.5. b starts in the next cycle and ends in the
    # one after it, so that the victim can start again.
    assert instances(outcome) == [
        ("a1", 1, 7, 5003, "running"),
        ("a2", 2, 7, 5003, "running"),
        ("a3", 3, 7, 5003, "running"),
        ("a4", 4, 7, 3004, "failed"),
        ("b1", 1001, 4004, 5001, "success"),
        ("a4", 4, 5003, 5003, "running"),
    ]
    assert [row.reason for row in outcome.rows if row.reason] == ["Preempted by rebalancer"]
    assert [(cycle.at_ms, cycle.preempted) for cycle in outcome.cycles if cycle.preempted] == [(3000, 1)]


def test_a_preempted_task_was_reported_as_running() -> None:
    victim = next(row for row in run(preemption_trace()).rows if row.reason)

    assert victim.mesos_start_time_ms == victim.start_time_ms == 7


@pytest.mark.parametrize("policy", ["fair-patient", "quota:4", "fifo"])
def test_policies_without_preemption_preempt_no_task(policy: str) -> None:
    outcome = run(preemption_trace(), policy=policy)

    assert not [row for row in outcome.rows if row.status == "failed"]
    assert outcome.waiting == 2


def test_a_dru_gap_below_the_minimum_preempts_no_task() -> None:
    # a1 and a2 fill the host, with DRU 1 and 2. b would be at 1: the gap to a2 is 1, not more.
    trace = [a_job("a1", 0), a_job("a2", 0), a_job("b1", 500), a_job("z1", 4000, cpus=9.0)]
    strict = run(trace, a_host(cpus=2.0), rebalancer=PreemptionThresholds(min_dru_diff=1.0))
    lenient = run(trace, a_host(cpus=2.0), rebalancer=PreemptionThresholds(min_dru_diff=0.9))

    assert sum(cycle.preempted for cycle in strict.cycles) == 0
    assert sum(cycle.preempted for cycle in lenient.cycles) == 1


def test_a_host_freed_from_two_victims_is_reserved_for_the_beneficiary() -> None:
    # b needs two victims: DRU 2 against 3 and 4. c submits then, and would precede b: its DRU is 1.
    trace = [
        *(a_job(f"a{n}", 0) for n in range(1, 5)),
        a_job("b1", 500, cpus=2.0, mem_mb=2000.0),
        a_job("c1", 3500),
        a_job("z1", 3600, cpus=9.0),
    ]

    outcome = run(trace)

    assert instances(outcome) == [
        ("a1", 1, 7, 5003, "running"),
        ("a2", 2, 7, 5003, "running"),
        ("a3", 3, 7, 3004, "failed"),
        ("a4", 4, 7, 3004, "failed"),
        ("b1", 1001, 4005, 5003, "running"),
    ]


def test_a_reservation_closes_a_host_and_does_not_change_the_order() -> None:
    # a1, d, e and f fill h1; g and the rest of a fill h2, where a3 and a4 are preempted for b. Then d, e
    # and f end. c is first in the queue and finds h2 closed; it starts on h1. With b, h1 would now be as full
    # as h2, so b starts on the first of them. If b were matched before c, h2 would be the fuller one.
    trace = [
        *(a_job(f"a{n}", 0) for n in range(1, 5)),
        *(a_job(f"{user}1", 0, 3990) for user in "def"),
        a_job("g1", 0),
        a_job("b1", 500, cpus=2.0, mem_mb=2000.0),
        a_job("c1", 3500),
        a_job("z1", 3600, cpus=9.0),
    ]

    outcome = run(trace, a_host("h1"), a_host("h2"))

    assert {row.job_id: row.hostname for row in outcome.rows if row.reason} == {"a3": "h2", "a4": "h2"}
    late = {row.job_id: row.hostname for row in outcome.rows if row.start_time_ms > 4000}
    assert (late[JobId("c1")], late[JobId("b1")]) == ("h1", "h1")


def test_preemptions_beyond_the_free_ones_cost_a_retry() -> None:
    free = run(preemption_trace(), jobs=replace(COOK_JOBS, mea_culpa_limits={"preempted-by-rebalancer": 1}))
    costly = run(preemption_trace(), jobs=replace(COOK_JOBS, mea_culpa_limits={"preempted-by-rebalancer": 0}))

    assert [row.job_id for row in free.rows if row.job_id == "a4"] == ["a4", "a4"]
    assert [row.job_id for row in costly.rows if row.job_id == "a4"] == ["a4"]


def test_a_job_that_cannot_start_delays_the_jobs_behind_it_as_in_cook() -> None:
    # Two jobs are considered. The first fits no host: after a cycle that matches the second, the next one
    # considers a single job and matches nothing, and the one after it considers both again.
    trace = [
        a_job("a1", 0, cpus=5.0),
        *(a_job(f"a{n}", 0, cpus=0.5) for n in range(2, 5)),
        a_job("z1", 5000),
    ]

    outcome = run(trace, matching=replace(COOK_MATCHING, max_considered=2, scaleback=0.5))

    cycles = {row.job_id: row.start_time_ms // 1000 for row in outcome.rows}
    assert cycles == {"a2": 0, "a3": 2, "a4": 4, "z1": 5}


def test_a_job_larger_than_the_constraints_allow_is_removed_without_a_row() -> None:
    outcome = run([a_job("a1", 0, cpus=41.0), a_job("a2", 0, mem_mb=140 * 1024.0 + 1), a_job("a3", 0)])

    assert [row.job_id for row in outcome.rows] == ["a3"]
    assert outcome.waiting == 0


def test_a_job_larger_than_allowed_counts_in_the_ranking_that_detects_it() -> None:
    # With a1 the next job of a is at 42 shares, behind b1. In the next cycle a1 has been removed.
    trace = [a_job("a1", 0, cpus=41.0), a_job("a2", 0), a_job("b1", 0, 500), a_job("b2", 500)]

    outcome = run(trace, a_host(cpus=1.0))

    assert [row.job_id for row in outcome.rows] == ["b1", "a2"]


def test_jobs_that_can_never_run_are_returned_with_the_reason() -> None:
    jobs = [
        a_job("a1", 0, cpus=41.0),
        a_job("a2", 0, mem_mb=140 * 1024.0 + 1),
        a_job("a3", 0, cpus=5.0),
    ]

    outcome = run([*jobs, a_job("a4", 0)])

    assert outcome.removed == {
        "a1": "it requests 41 cpus, and no job may have more than 40",
        "a2": "it requests 143361 MB, and no job may have more than 143360",
    }
    assert outcome.fitting_no_host == {"a3": "it requests 5 cpus, and the largest host has 4"}
    assert (outcome.waiting, len(outcome.rows)) == (1, 1)


def test_a_simulation_whose_scheduler_misses_a_commit_fails() -> None:
    class Faulty(_Replay):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            self._store.listen(self._miss)

        def _miss(self, changes: Sequence[JobChange]) -> None:
            if changes[0].job.job_id == "a2":
                raise OverflowError("too large for the queue")

    trace = [a_job("a1", 0), a_job("a2", 1000), a_job("a3", 2000)]
    replay = Faulty(trace, [a_host()], SimConfig(cycle_step_ms=1000), find_policy("fair"), Random(0))

    with pytest.raises(OutOfStep, match="OverflowError: too large for the queue"):
        asyncio.run(replay.run(until_done=False, progress=None))


def test_until_done_goes_on_to_the_last_end() -> None:
    trace = [a_job(f"a{n}", 0, 2500) for n in range(3)] + [a_job("z1", 0, cpus=5.0)]

    outcome = run(trace, a_host(cpus=1.0), until_done=True)

    assert [row.status for row in outcome.rows] == ["success"] * 3
    assert outcome.waiting == 1
    assert outcome.cycles[-1].running == 0


def test_a_hard_quota_keeps_a_user_within_an_equal_part() -> None:
    trace = [*(a_job(f"a{n}", 0) for n in range(4)), a_job("b1", 500)]

    outcome = run(trace, policy="quota")

    assert [row.job_id for row in outcome.rows] == ["a0", "a1", "b1"]


def test_fifo_orders_by_priority_and_then_by_submission() -> None:
    trace = [
        a_job("a1", 0),
        a_job("a2", 0),
        a_job("b1", 0),
        a_job("c1", 0, priority=99),
        a_job("d1", 0),
    ]

    fifo = run(trace, a_host(cpus=3.0), policy="fifo")
    fair = run(trace, a_host(cpus=3.0), policy="fair")

    assert {row.job_id for row in fifo.rows} == {"c1", "a1", "a2"}
    assert {row.job_id for row in fair.rows} == {"a1", "b1", "c1"}


async def test_a_simulation_can_run_while_an_event_loop_runs() -> None:
    assert len(run([a_job("a1", 0, 100)]).rows) == 1
    await asyncio.sleep(0)


def test_the_seed_only_affects_instance_ids() -> None:
    trace, hosts = preemption_trace(), [a_host()]
    config = SimConfig(shares=SHARES, cycle_step_ms=1000, rebalance_ms=2000)

    first, same_seed, other_seed = (simulate(trace, hosts, config, seed=seed) for seed in (1, 1, 2))

    assert first == same_seed
    assert first.rows != other_seed.rows
    assert instances(first) == instances(other_seed)


def test_a_trace_out_of_order_or_without_jobs_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not sorted"):
        run([a_job("a1", 5), a_job("a2", 4)])
    with pytest.raises(InvalidRequest, match="twice"):
        run([a_job("a1", 5), a_job("a1", 6)])
    with pytest.raises(InvalidRequest, match="at least one job"):
        run([])
    with pytest.raises(InvalidRequest, match="no policy 'unfair'"):
        run([a_job("a1", 0)], policy="unfair")


@pytest.mark.parametrize("submit_ms", [2**43, 10**15, MAX_TIME_MS - 1_000_000, -(10**15), -MAX_TIME_MS])
def test_jobs_start_at_any_valid_time_of_submission(submit_ms: int) -> None:
    outcome = run(
        [a_job("a1", submit_ms, 100, cpus=4.0), a_job("b1", submit_ms, 100, cpus=4.0)],
        until_done=True,
    )

    assert [row.status for row in outcome.rows] == ["success", "success"]
