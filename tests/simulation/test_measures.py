"""Cook's measures: its own examples, and invariants of every run."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId
from cook_jupyter.simulation.measures import (
    Floats,
    Instances,
    InstanceTimes,
    compute_fair_ratio,
    compute_job_overhead_ms,
    compute_job_times,
    count_times,
    cycle_ticks,
    fair_allocation,
    instances_from_rows,
    latest_values,
    measure,
    running_at,
    sample,
    sample_by_user,
    sample_usage,
    starvation_gb,
    time_series,
    water_fill,
)
from cook_jupyter.simulation.traces import RunRow
from tests.golden.cases import Case, cases
from tests.simulation import reference_measures

PREEMPTED = "Preempted by rebalancer"
HOUR_MS = 3_600_000


def a_row(job: str = "a", user: str = "ada", **changes: Any) -> RunRow:
    row = RunRow(
        job_id=JobId(job),
        instance_id=InstanceId(f"{job}-1"),
        group_id="",
        submit_time_ms=0,
        mesos_start_time_ms=0,
        start_time_ms=0,
        end_time_ms=10,
        hostname="host-1",
        slave_id="S1",
        status="success",
        reason="",
        user=user,
        mem=1000.0,
        cpus=1.0,
        job_name="cookjob",
        requested_run_time=10,
        expected_run_time=None,
        requested_status="finished",
    )
    return row._replace(**changes)


def preempted(job: str = "a", user: str = "ada", **changes: Any) -> RunRow:
    return a_row(job, user, status="failed", reason=PREEMPTED, **changes)


# Cook's names of the fields of `InstanceTimes`.
TIME_COLUMNS = (
    "submit_time_ms",
    "start_time_ms",
    "mesos_start_time_ms",
    "end_time_ms",
    "run_time_ms",
    "overhead",
)


def columns_of(inputs: Case) -> dict[str, list[float]]:
    return {name: [row[index] for row in inputs["rows"]] for index, name in enumerate(inputs["columns"])}


@pytest.mark.parametrize(("inputs", "expect"), cases("analysis", ops=["prepare"]))
def test_times_are_computed_as_in_cook(inputs: Case, expect: Case) -> None:
    columns = columns_of(inputs)

    times = count_times(*(columns[name] for name in TIME_COLUMNS[:4]))._asdict()

    columns_by_name = dict(zip(TIME_COLUMNS, times.values(), strict=True))
    assert np.stack([columns_by_name[name] for name in expect["columns"]], axis=1).tolist() == expect["rows"]


@pytest.mark.parametrize(("inputs", "expect"), cases("analysis", ops=["running_at"]))
def test_the_instances_that_run_at_a_time_are_the_same_as_in_cook(inputs: Case, expect: Case) -> None:
    columns = columns_of(inputs)
    times = InstanceTimes(*(np.array(columns.get(name, [])) for name in TIME_COLUMNS))

    assert running_at(times, inputs["t"]).tolist() == expect["row_indexes"]


@pytest.mark.parametrize(
    ("inputs", "expect"), cases("analysis", ops=["time_series", "time_series_events", "events"])
)
def test_a_time_series_has_a_row_for_each_event(inputs: Case, expect: Case) -> None:
    columns = list(inputs.get("columns", ("time_ms", "count", "mem", "cpus")))
    events = inputs["events"] if "events" in inputs else inputs["rows"]
    if events and isinstance(events[0], dict):
        events = [[event[name] for name in columns] for event in events]
    time_index = columns.index("time_ms" if "time_ms" in columns else "time")
    amounts = [[*event[:time_index], *event[time_index + 1 :]] for event in events]

    at_ms, sums = time_series([event[time_index] for event in events], amounts)

    rows = [
        [*line[:time_index], at, *line[time_index:]]
        for at, line in zip(at_ms.tolist(), sums.tolist(), strict=True)
    ]
    _assert_rows(rows, columns, expect)


@pytest.mark.parametrize(("inputs", "expect"), cases("analysis", ops=["sample_usage", "sample"]))
def test_usage_is_sampled_at_each_cycle_as_in_cook(inputs: Case, expect: Case) -> None:
    cycle_ms = inputs["cycle_ms"] if "cycle_ms" in inputs else inputs["cycle_time_ms"]
    columns = list(inputs.get("columns", ("time_ms", "user", "mem", "cpus", "count")))
    tables = {}
    for name in ("running", "waiting"):
        table = inputs[name]
        if isinstance(table, dict):
            columns, table = list(table["columns"]), table["rows"]
        tables[name] = [dict(zip(columns, row, strict=True)) for row in table]
    amounts = [name for name in columns if name not in ("time_ms", "user")]
    ticks = range(0, max(row["time_ms"] for row in tables["running"]), cycle_ms)
    rows: list[list[Any]] = [
        [
            tick,
            user,
            *(_sampled(tables["waiting"], user, name, tick) for name in amounts),
            *(_sampled(tables["running"], user, name, tick) for name in amounts),
        ]
        for tick in ticks
        for user in sorted({row["user"] for row in tables["running"]})
    ]
    _assert_rows(rows, ["time_ms", "user", *amounts, *(f"{name}_running" for name in amounts)], expect)


def _sampled(table: list[Case], user: str, name: str, tick: int) -> float | None:
    of_user = sorted((row for row in table if row["user"] == user), key=lambda row: float(row["time_ms"]))
    at_ms = np.array([row["time_ms"] for row in of_user], dtype=np.float64)
    value = float(latest_values([tick], at_ms, np.array([row[name] for row in of_user], dtype=np.float64))[0])
    return None if math.isnan(value) else value


def _assert_rows(rows: list[list[Any]], columns: list[str], expect: Case) -> None:
    """Compare rows with the expected ones: lists in an order of columns, objects, or their number."""
    expected_rows = expect["rows"]
    if isinstance(expected_rows, int):
        assert len(rows) == expected_rows
        return
    order = list(expect.get("columns", columns))
    expected = [[row[name] for name in order] if isinstance(row, dict) else row for row in expected_rows]
    assert [[row[columns.index(name)] for name in order] for row in rows] == expected


@pytest.mark.parametrize(("inputs", "expect"), cases("analysis", ops=["fair_allocation"]))
def test_memory_in_use_is_divided_as_in_cook(inputs: Case, expect: Case) -> None:
    columns = columns_of(inputs)

    waiting, running = (np.array(columns[name], dtype=np.float64) for name in ("mem_waiting", "mem_running"))
    fair = fair_allocation(waiting, running)

    allocation = dict(zip(columns["user"], fair.tolist(), strict=True))
    expected = {user: math.nan if amount is None else amount for user, amount in expect["allocation"].items()}
    assert allocation == pytest.approx(expected, nan_ok=True)


amounts = st.floats(0.0, 1e6, allow_subnormal=False)


@given(desired=st.lists(amounts, min_size=1, max_size=8), total=st.floats(0.0, 4e6))
def test_water_filling_divides_evenly_and_gives_no_user_more_than_desired(
    desired: list[float], total: float
) -> None:
    limits = np.array(desired)
    allocated = water_fill(total, limits)

    assert allocated.sum() == pytest.approx(min(total, limits.sum()), rel=1e-9, abs=1e-9)
    assert (allocated >= 0).all()
    assert (allocated <= limits).all()
    short = allocated < limits
    if short.any():
        assert allocated[short].min() >= allocated.max() - 1e-9 * total, (
            "a user with an unmet desire has less"
        )


@given(
    lines=st.lists(st.lists(amounts, min_size=3, max_size=3), min_size=1, max_size=6),
    data=st.data(),
)
def test_dividing_many_totals_at_once_equals_dividing_each(lines: list[list[float]], data: Any) -> None:
    totals = [data.draw(amounts) for _ in lines]

    together = water_fill(totals, lines)

    alone = [water_fill(total, line) for total, line in zip(totals, lines, strict=True)]
    assert together.tolist() == [allocation.tolist() for allocation in alone]


@given(desired=st.permutations([3.0, 5.0, 5.0, 8.0, 40.0]))
def test_water_filling_does_not_depend_on_the_order_of_users(desired: list[float]) -> None:
    allocated = water_fill(20.0, desired)

    assert sorted(allocated.tolist()) == pytest.approx([3.0, 4.25, 4.25, 4.25, 4.25])
    assert allocated[desired.index(3.0)] == 3.0


def test_a_division_among_no_users_is_empty() -> None:
    assert water_fill(5.0, []).tolist() == []


# --- usage over time

# Runs are large, and slow to generate on a busy machine.
on_runs = settings(max_examples=50)


ENDS = [("failed", PREEMPTED), ("failed", "Command exited non-zero"), ("success", ""), ("running", "")]


@st.composite
def runs(draw: st.DrawFn) -> list[RunRow]:
    rows: list[RunRow] = []
    for number in range(draw(st.integers(1, 12))):
        submit = draw(st.integers(0, 20))
        for again in range(draw(st.integers(1, 3))):
            start = submit + draw(st.integers(0, 10)) if again == 0 else rows[-1].end_time_ms + 1
            status, reason = draw(st.sampled_from(ENDS))
            rows.append(
                a_row(
                    f"job-{number}",
                    f"user-{number % 3}",
                    submit_time_ms=submit,
                    start_time_ms=start,
                    end_time_ms=start + draw(st.integers(1, 15)),
                    mem=draw(st.sampled_from([0.1, 10.0, 1000.0, 1.5e6])),
                    cpus=draw(st.sampled_from([0.5, 1.0, 3.0])),
                    status=status,
                    reason=reason,
                )
            )
    return rows


@on_runs
@given(rows=runs(), cycle_ms=st.integers(1, 7))
def test_the_usage_at_a_tick_is_that_of_the_instances_that_run_then(
    rows: list[RunRow], cycle_ms: int
) -> None:
    instances = instances_from_rows(rows)
    ticks = cycle_ticks(instances, cycle_ms)

    matrix = sample_usage(instances, ticks, instances.mem_mb)

    for tick, line in zip(ticks, matrix, strict=True):
        expected = np.zeros(len(instances.users))
        for index in running_at(instances.times, tick):
            expected[instances.user[index]] += instances.mem_mb[index]
        assert line == pytest.approx(expected)


@on_runs
@given(rows=runs())
def test_a_job_never_waits_and_runs_at_the_same_time(rows: list[RunRow]) -> None:
    instances = instances_from_rows(rows)
    ticks = cycle_ticks(instances, 1)
    ones = np.ones(len(instances))

    waiting = sample(
        ticks, len(instances.users), instances.user, instances.queued_ms, instances.times.start_ms, ones
    )
    running = sample_usage(instances, ticks, ones)

    assert (waiting + running).max() <= len(set(instances.job.tolist()))
    for user in range(len(instances.users)):
        jobs = len(set(instances.job[instances.user == user].tolist()))
        assert (waiting + running)[:, user].max() <= jobs


def test_ticks_go_from_the_first_submission_to_the_last_end() -> None:
    instances = instances_from_rows([a_row(submit_time_ms=100, start_time_ms=105, end_time_ms=130)])

    assert cycle_ticks(instances, 10).tolist() == [0, 10, 20, 30]


# --- figures, computed by hand


def two_users() -> Instances:
    """Ada runs alone until Bob's job, submitted at 10 h, takes her place at 20 h; she is done at 50 h."""
    h = HOUR_MS
    return instances_from_rows(
        [
            preempted("a", "ada", start_time_ms=0, end_time_ms=20 * h, cpus=2.0, mem=4000.0),
            a_row("b", "bob", submit_time_ms=10 * h, start_time_ms=20 * h, end_time_ms=30 * h, mem=4000.0),
            a_row("a", "ada", start_time_ms=30 * h, end_time_ms=50 * h, cpus=2.0, mem=4000.0),
        ]
    )


def test_the_figures_of_a_run_of_two_users() -> None:
    figures = measure(two_users(), cycle_ms=HOUR_MS)

    assert (figures.tasks_run, figures.tasks_run_success, figures.tasks_run_preemption) == (3, 2, 1)
    assert figures.cpu_hours[:3] == pytest.approx((90.0, 50.0, 40.0))
    # 4000 MB for 20, 10 and 20 hours; a TB has 1024 x 1024 MB.
    hours = [amount * 1024 * 1024 / 4000 for amount in figures.mem_tb_hours[:3]]
    assert hours == pytest.approx([50.0, 30.0, 20.0])
    hours = [latency / HOUR_MS for latency in figures.mean_latency_ms[:3]]
    assert hours == pytest.approx([40 / 3, 20.0, 0.0])
    assert figures.median_latency_ms.all == 10 * HOUR_MS
    assert math.isnan(figures.mean_latency_ms.running)
    assert figures.mean_job_overhead_ms == (30 + 10) / 2 * HOUR_MS
    assert figures.total_sim_time_ms == 50 * HOUR_MS


def test_an_instance_still_open_at_the_end_counts_as_running() -> None:
    figures = measure(
        instances_from_rows([a_row(status="running", end_time_ms=HOUR_MS, cpus=3.0)]), cycle_ms=1000
    )

    assert figures.cpu_hours == (3.0, 0.0, 0.0, 3.0)


def test_the_overhead_of_a_job_is_that_of_its_last_instance() -> None:
    assert compute_job_overhead_ms(two_users()).tolist() == [30 * HOUR_MS, 10 * HOUR_MS]


def test_after_a_preemption_a_job_waits_from_the_end_of_its_instance() -> None:
    assert two_users().queued_ms.tolist() == [0, 10 * HOUR_MS, 20 * HOUR_MS]


def test_the_wait_ends_at_the_first_start_and_the_turnaround_at_the_first_success() -> None:
    times = compute_job_times(two_users())

    assert times.wait_ms.tolist() == [0, 10 * HOUR_MS]
    assert times.turnaround_ms.tolist() == [50 * HOUR_MS, 20 * HOUR_MS]
    assert times.overhead_ms.tolist() == [50 * HOUR_MS - 10, 20 * HOUR_MS - 10]
    assert times.preemptions.tolist() == [1, 0]


def test_a_job_without_success_has_no_turnaround() -> None:
    times = compute_job_times(instances_from_rows([preempted()]))

    assert (times.turnaround_ms.tolist(), times.overhead_ms.tolist()) == ([-1], [-1])


def test_the_fair_ratio_is_the_median_over_users_who_use_at_most_their_fair_part() -> None:
    running = np.array([[10.0, 30.0, 0.0, 5.0]])
    fair = np.array([[20.0, 20.0, 5.0, 5.0]])

    assert compute_fair_ratio(running, fair) == 0.75  # of 1/2 and 5/5; 30/20 and 0/5 do not count


def test_starvation_is_the_amount_missing_from_the_fair_part_of_a_share() -> None:
    running = np.array([1000.0, 5000.0, 1000.0, 9000.0])
    fair = np.array([4000.0, 4000.0, 20_000.0, 20_000.0])

    starved = starvation_gb(running, fair, share_mb=8000.0)

    assert starved[:3].tolist() == [3.0, 0.0, 7.0]
    assert math.isnan(starved[3])


def test_no_user_starves_when_all_have_their_fair_part() -> None:
    rows = [a_row(user, user, end_time_ms=100, mem=500.0) for user in ("ada", "bob")]

    figures = measure(instances_from_rows(rows), cycle_ms=10)

    assert figures.fair_ratio == 1.0
    assert math.isnan(figures.starvation_mean_log10_gb)
    assert math.isnan(figures.starvation_median_log10_gb)


def test_total_time_counts_from_the_first_start_to_the_last_end() -> None:
    rows = [a_row(start_time_ms=500, end_time_ms=900), a_row("b", start_time_ms=700, end_time_ms=2000)]

    assert measure(instances_from_rows(rows), cycle_ms=100).total_sim_time_ms == 1500


def test_a_user_who_has_not_run_yet_is_left_out_of_the_division() -> None:
    fair = fair_allocation([6000.0, 4000.0, np.nan], [1000.0, 3000.0, np.nan])

    assert fair[:2].tolist() == [2000.0, 2000.0]
    assert math.isnan(fair[2])


def test_a_user_who_has_not_run_yet_does_not_lower_the_fair_part_of_others() -> None:
    """Bob waits from 0 on and starts at 20: until then only Ada counts, and she has her fair part."""
    rows = [
        a_row("a", "ada", start_time_ms=0, end_time_ms=40, mem=1000.0),
        a_row("b", "bob", start_time_ms=20, end_time_ms=40, mem=3000.0),
    ]

    figures = measure(instances_from_rows(rows), cycle_ms=10)

    assert figures.fair_ratio == 1.0
    assert math.isnan(figures.starvation_mean_log10_gb)


def test_starvation_per_cycle_is_the_mean_logarithm_over_users_below_their_fair_part() -> None:
    """30,000 MB run, so 10,000 are fair for each: Ada lacks 9 GB, Bob 9.9 GB, and Cyd has too much."""
    running = np.array([[1000.0, 100.0, 28_900.0]])
    waiting = np.array([[20_000.0, 20_000.0, 0.0]])

    rows = [
        a_row("a1", "ada", start_time_ms=0, end_time_ms=10, mem=1000.0),
        a_row("a2", "ada", start_time_ms=10, end_time_ms=20, mem=20_000.0),
        a_row("b1", "bob", start_time_ms=0, end_time_ms=10, mem=100.0),
        a_row("b2", "bob", start_time_ms=10, end_time_ms=20, mem=20_000.0),
        a_row("c1", "cyd", start_time_ms=0, end_time_ms=10, mem=28_900.0),
    ]
    figures = measure(
        instances_from_rows(rows), cycle_ms=15
    )  # sampled at 0, and at 15, where both have their fair part

    assert fair_allocation(waiting, running).tolist() == [[10_000.0, 10_000.0, 10_000.0]]
    expected = (math.log10(9.0) + math.log10(9.9)) / 2
    assert figures.starvation_mean_log10_gb == pytest.approx(expected)
    assert figures.starvation_median_log10_gb == pytest.approx(expected)


@on_runs
@given(rows=runs(), cycle_ms=st.integers(1, 9))
def test_the_measures_agree_with_a_slow_reference_implementation(rows: list[RunRow], cycle_ms: int) -> None:
    figures = measure(instances_from_rows(rows), cycle_ms)

    reference = reference_measures.measures(rows, cycle_ms)

    assert reference.keys() == type(figures).__dataclass_fields__.keys()
    for name, expected in reference.items():
        figure = getattr(figures, name)
        figure = list(figure) if isinstance(figure, tuple) else figure
        assert figure == pytest.approx(expected, rel=1e-9, nan_ok=True), name


def test_a_user_has_no_value_before_the_first_event() -> None:
    """Cook's example of its sampling: at 0 user c has no value, at 5 the value that begins there."""
    users = np.array([0, 0, 1, 2])
    since, until = np.array([0, 1, 0, 5]), np.array([2, 9, 3, 6])

    sampled_values = sample_by_user(
        np.array([0.0, 5.0]), 3, users, since, until, np.array([10.0, 40, 12, 30])
    )

    assert sampled_values[0][:2].tolist() == [10.0, 12.0]
    assert math.isnan(sampled_values[0][2])
    assert sampled_values[1].tolist() == [40.0, 0.0, 30.0]


@on_runs
@given(rows=runs(), seed=st.integers(0, 5))
def test_the_order_of_the_rows_changes_no_figure(rows: list[RunRow], seed: int) -> None:
    shuffled = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]

    first, second = (measure(instances_from_rows(ordered), cycle_ms=5) for ordered in (rows, shuffled))

    assert flatten(first) == pytest.approx(flatten(second), nan_ok=True)


def flatten(figures: Any) -> list[float]:
    values = (getattr(figures, name) for name in type(figures).__dataclass_fields__)
    return [number for value in values for number in (value if isinstance(value, tuple) else (value,))]


def test_a_run_without_rows_has_no_measures() -> None:
    figures = measure(instances_from_rows([]), cycle_ms=1000)

    assert (figures.tasks_run, figures.total_sim_time_ms) == (0, 0)
    assert math.isnan(figures.mean_job_overhead_ms)


def test_users_without_rows_count_if_they_are_named() -> None:
    instances = instances_from_rows([a_row()], users=["cyd", "ada"])

    nothing: Floats = sample_usage(instances, np.array([0.0]), instances.cpus)
    assert instances.users == ("ada", "cyd")
    assert nothing.tolist() == [[1.0, 0.0]]
