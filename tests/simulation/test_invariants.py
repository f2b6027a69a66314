"""Invariants of every simulation, for any trace, hosts and policy."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.rebalancing.rules import PreemptionThresholds
from cook_jupyter.simulation.config import COOK_MATCHING, SimConfig
from cook_jupyter.simulation.policies import POLICIES, build_limits, find_policy
from cook_jupyter.simulation.replay import Outcome, simulate
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob

STEP_MS = 1000


@st.composite
def traces(draw: st.DrawFn) -> list[TraceJob]:
    """Draw up to thirty jobs of three users, several of them at the same time."""
    count = draw(st.integers(1, 30))
    ticks = sorted(draw(st.lists(st.integers(-3, 12), min_size=count, max_size=count)))
    return [
        TraceJob(
            job_id=JobId(f"job-{number:02}"),
            user=draw(st.sampled_from("abc")),
            submit_ms=tick * 700,
            run_time_ms=draw(st.integers(0, 6000)),
            cpus=draw(st.sampled_from([0.1, 0.5, 1.0, 1.5, 3.0, 9.0])),
            mem_mb=draw(st.sampled_from([100.0, 500.0, 900.0])),
            status=draw(st.sampled_from([TaskState.FINISHED, TaskState.FINISHED, TaskState.FAILED])),
            max_retries=draw(st.integers(1, 3)),
            priority=draw(st.sampled_from([50, 50, 60])),
        )
        for number, tick in enumerate(ticks)
    ]


hosts = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 3.5]), st.sampled_from([500.0, 1500.0])), min_size=1, max_size=4
).map(
    lambda sizes: [
        SimHost(f"h{number}", cpus, mem, slave_id=f"s{number}") for number, (cpus, mem) in enumerate(sizes)
    ]
)
policies = st.sampled_from([*POLICIES, "quota:0.5", "quota:2"])
config = SimConfig(
    shares={"default": {"cpus": 1.0, "mem": 500.0}},
    cycle_step_ms=STEP_MS,
    rebalance_ms=2 * STEP_MS,
    rebalancer=PreemptionThresholds(min_dru_diff=0.2),
    matching=replace(COOK_MATCHING, max_considered=20),
)


def running_at(rows: list[RunRow], moment: int) -> list[RunRow]:
    """Return the instances that run after the match cycle of a moment, without those that end then."""
    return [
        row
        for row in rows
        if row.start_time_ms <= moment and (row.end_time_ms > moment or row.status == "running")
    ]


def run(trace: list[TraceJob], sim_hosts: list[SimHost], policy: str, *, until_done: bool) -> Outcome:
    return simulate(trace, sim_hosts, config, policy=policy, until_done=until_done)


@settings(max_examples=60)
@given(traces(), hosts, policies, st.booleans())
def test_no_host_is_oversubscribed_and_every_row_is_consistent(
    trace: list[TraceJob], sim_hosts: list[SimHost], policy: str, until_done: bool
) -> None:
    outcome = run(trace, sim_hosts, policy, until_done=until_done)
    rows = list(outcome.rows)

    capacities = {host.hostname: host for host in sim_hosts}
    limits = build_limits(find_policy(policy), config, trace, sim_hosts)
    quotas = {(entry.user, entry.name): entry.amount for entry in limits if entry.kind == "quota"}
    for moment in {row.start_time_ms for row in rows}:
        on_host: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        of_user: Counter[tuple[str, str]] = Counter()
        for row in running_at(rows, moment):
            on_host[row.hostname][0] += row.cpus
            on_host[row.hostname][1] += row.mem
            of_user[row.user, "cpus"] += row.cpus  # type: ignore[assignment]
            of_user[row.user, "mem"] += row.mem  # type: ignore[assignment]
        for name, (cpus, mem) in on_host.items():
            assert cpus <= capacities[name].cpus + 1e-6
            assert mem <= capacities[name].mem_mb + 1e-6
        for (user, resource), amount in of_user.items():
            assert amount <= quotas.get((user, resource), float("inf")) + 1e-6

    submitted = {job.job_id: job for job in trace}
    by_job: dict[JobId, list[RunRow]] = defaultdict(list)
    for row in rows:
        assert row.submit_time_ms < row.start_time_ms <= row.end_time_ms <= outcome.end_ms
        by_job[row.job_id].append(row)
    for job_id, instances in by_job.items():
        assert all(earlier.end_time_ms <= later.start_time_ms for earlier, later in pairwise(instances))
        assert all(row.status == "failed" for row in instances[:-1])
        own_failures = [
            row for row in instances if row.status == "failed" and row.reason != "Preempted by rebalancer"
        ]
        assert len(own_failures) <= submitted[job_id].max_retries
        if submitted[job_id].status is TaskState.FAILED:
            assert not [row for row in instances if row.status == "success"]
        for row in instances:
            if row.status == "success":
                late_ms = row.end_time_ms - row.start_time_ms - submitted[job_id].run_time_ms
                assert 0 < late_ms <= 2 * STEP_MS


@settings(max_examples=30)
@given(traces(), hosts, policies)
def test_the_same_input_gives_the_same_output(
    trace: list[TraceJob], sim_hosts: list[SimHost], policy: str
) -> None:
    assert run(trace, sim_hosts, policy, until_done=True) == run(trace, sim_hosts, policy, until_done=True)


@settings(max_examples=40)
@given(
    traces(), hosts, st.sampled_from(["fair", "fair-better", "fair-patient"]), st.permutations(list("abc"))
)
def test_the_order_in_which_users_submit_at_one_time_changes_nothing(
    trace: list[TraceJob], sim_hosts: list[SimHost], policy: str, order: list[str]
) -> None:
    # Ties between users are broken by their names; the position of a job only counts among those of its user.
    reordered = sorted(trace, key=lambda job: (job.submit_ms, order.index(job.user)))

    starts = [
        {
            (row.job_id, row.start_time_ms, row.hostname, row.status)
            for row in run(jobs, sim_hosts, policy, until_done=True).rows
        }
        for jobs in (sorted(trace, key=lambda job: (job.submit_ms, job.user)), reordered)
    ]

    assert starts[0] == starts[1]
