"""Cook's measures: its own examples, and what must hold of any run."""

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


# Cook's names of what `InstanceTimes` has.
PREPARED = (
    "submit_time_ms",
    "start_time_ms",
    "mesos_start_time_ms",
    "end_time_ms",
    "run_time_ms",
    "overhead",
)


def columns_of(given: Case) -> dict[str, list[float]]:
    return {name: [row[place] for row in given["rows"]] for place, name in enumerate(given["columns"])}


@pytest.mark.parametrize(("given", "expect"), cases("analysis", ops=["prepare"]))
def test_times_are_prepared_as_cook_prepares_them(given: Case, expect: Case) -> None:
    columns = columns_of(given)

    prepared = count_times(*(columns[name] for name in PREPARED[:4]))._asdict()

    of = dict(zip(PREPARED, prepared.values(), strict=True))
    assert np.stack([of[name] for name in expect["columns"]], axis=1).tolist() == expect["rows"]


@pytest.mark.parametrize(("given", "expect"), cases("analysis", ops=["running_at"]))
def test_the_instances_that_run_at_a_time_are_those_cook_names(given: Case, expect: Case) -> None:
    columns = columns_of(given)
    of = InstanceTimes(*(np.array(columns.get(name, [])) for name in PREPARED))

    assert running_at(of, given["t"]).tolist() == expect["row_indexes"]


@pytest.mark.parametrize(
    ("given", "expect"), cases("analysis", ops=["time_series", "time_series_events", "events"])
)
def test_a_time_series_has_a_row_for_each_event(given: Case, expect: Case) -> None:
    columns = list(given.get("columns", ("time_ms", "count", "mem", "cpus")))
    events = given["events"] if "events" in given else given["rows"]
    if events and isinstance(events[0], dict):
        events = [[event[name] for name in columns] for event in events]
    time_at = columns.index("time_ms" if "time_ms" in columns else "time")
    amounts = [[*event[:time_at], *event[time_at + 1 :]] for event in events]

    at_ms, sums = time_series([event[time_at] for event in events], amounts)

    found = [
        [*line[:time_at], at, *line[time_at:]] for at, line in zip(at_ms.tolist(), sums.tolist(), strict=True)
    ]
    _same_rows(found, columns, expect)


@pytest.mark.parametrize(("given", "expect"), cases("analysis", ops=["sample_usage", "sample"]))
def test_usage_is_sampled_at_each_cycle_as_cook_samples_it(given: Case, expect: Case) -> None:
    cycle_ms = given["cycle_ms"] if "cycle_ms" in given else given["cycle_time_ms"]
    columns = list(given.get("columns", ("time_ms", "user", "mem", "cpus", "count")))
    tables = {}
    for name in ("running", "waiting"):
        table = given[name]
        if isinstance(table, dict):
            columns, table = list(table["columns"]), table["rows"]
        tables[name] = [dict(zip(columns, row, strict=True)) for row in table]
    amounts = [name for name in columns if name not in ("time_ms", "user")]
    ticks = range(0, max(row["time_ms"] for row in tables["running"]), cycle_ms)
    found: list[list[Any]] = [
        [
            tick,
            user,
            *(_sampled(tables["waiting"], user, name, tick) for name in amounts),
            *(_sampled(tables["running"], user, name, tick) for name in amounts),
        ]
        for tick in ticks
        for user in sorted({row["user"] for row in tables["running"]})
    ]
    _same_rows(found, ["time_ms", "user", *amounts, *(f"{name}_running" for name in amounts)], expect)


def _sampled(table: list[Case], user: str, name: str, tick: int) -> float | None:
    own = sorted((row for row in table if row["user"] == user), key=lambda row: float(row["time_ms"]))
    at_ms = np.array([row["time_ms"] for row in own], dtype=np.float64)
    value = float(latest_values([tick], at_ms, np.array([row[name] for row in own], dtype=np.float64))[0])
    return None if math.isnan(value) else value


def _same_rows(found: list[list[Any]], columns: list[str], expect: Case) -> None:
    """The rows are those expected: as lists in an order of columns, as objects, or as their number."""
    told = expect["rows"]
    if isinstance(told, int):
        assert len(found) == told
        return
    order = list(expect.get("columns", columns))
    expected = [[row[name] for name in order] if isinstance(row, dict) else row for row in told]
    assert [[row[columns.index(name)] for name in order] for row in found] == expected


@pytest.mark.parametrize(("given", "expect"), cases("analysis", ops=["fair_allocation"]))
def test_memory_in_use_is_divided_as_cook_divides_it(given: Case, expect: Case) -> None:
    columns = columns_of(given)

    waiting, running = (np.array(columns[name], dtype=np.float64) for name in ("mem_waiting", "mem_running"))
    fair = fair_allocation(waiting, running)

    found = dict(zip(columns["user"], fair.tolist(), strict=True))
    expected = {user: math.nan if told is None else told for user, told in expect["allocation"].items()}
    assert found == pytest.approx(expected, nan_ok=True)


amounts = st.floats(0.0, 1e6, allow_subnormal=False)


@given(desired=st.lists(amounts, min_size=1, max_size=8), total=st.floats(0.0, 4e6))
def test_water_filling_divides_evenly_and_gives_nobody_more_than_desired(
    desired: list[float], total: float
) -> None:
    wanted = np.array(desired)
    got = water_fill(total, wanted)

    assert got.sum() == pytest.approx(min(total, wanted.sum()), rel=1e-9, abs=1e-9)
    assert (got >= 0).all()
    assert (got <= wanted).all()
    short = got < wanted
    if short.any():
        assert got[short].min() >= got.max() - 1e-9 * total, "somebody has more than one who wants more"


@given(
    lines=st.lists(st.lists(amounts, min_size=3, max_size=3), min_size=1, max_size=6),
    data=st.data(),
)
def test_dividing_many_totals_at_once_divides_each_by_itself(lines: list[list[float]], data: Any) -> None:
    totals = [data.draw(amounts) for _ in lines]

    together = water_fill(totals, lines)

    alone = [water_fill(total, line) for total, line in zip(totals, lines, strict=True)]
    assert together.tolist() == [one.tolist() for one in alone]


@given(desired=st.permutations([3.0, 5.0, 5.0, 8.0, 40.0]))
def test_water_filling_does_not_depend_on_the_order_of_users(desired: list[float]) -> None:
    got = water_fill(20.0, desired)

    assert sorted(got.tolist()) == pytest.approx([3.0, 4.25, 4.25, 4.25, 4.25])
    assert got[desired.index(3.0)] == 3.0


def test_a_division_among_no_users_is_empty() -> None:
    assert water_fill(5.0, []).tolist() == []


# --- who held what

# Runs are large to make, and a busy machine makes them slowly.
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
def test_what_users_hold_at_a_tick_is_what_runs_then(rows: list[RunRow], cycle_ms: int) -> None:
    of = instances_from_rows(rows)
    ticks = cycle_ticks(of, cycle_ms)

    matrix = sample_usage(of, ticks, of.mem_mb)

    for tick, line in zip(ticks, matrix, strict=True):
        expected = np.zeros(len(of.users))
        for place in running_at(of.times, tick):
            expected[of.user[place]] += of.mem_mb[place]
        assert line == pytest.approx(expected)


@on_runs
@given(rows=runs())
def test_a_job_never_waits_and_runs_at_the_same_time(rows: list[RunRow]) -> None:
    of = instances_from_rows(rows)
    ticks = cycle_ticks(of, 1)
    ones = np.ones(len(of))

    waiting = sample(ticks, len(of.users), of.user, of.queued_ms, of.times.start_ms, ones)
    running = sample_usage(of, ticks, ones)

    assert (waiting + running).max() <= len(set(of.job.tolist()))
    for user in range(len(of.users)):
        jobs = len(set(of.job[of.user == user].tolist()))
        assert (waiting + running)[:, user].max() <= jobs


def test_ticks_go_from_the_first_submission_to_the_last_end() -> None:
    of = instances_from_rows([a_row(submit_time_ms=100, start_time_ms=105, end_time_ms=130)])

    assert cycle_ticks(of, 10).tolist() == [0, 10, 20, 30]


# --- figures, by hand


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


def test_after_a_preemption_a_job_waits_since_its_instance_ended() -> None:
    assert two_users().queued_ms.tolist() == [0, 10 * HOUR_MS, 20 * HOUR_MS]


def test_the_wait_ends_at_the_first_start_and_the_turnaround_at_the_first_success() -> None:
    of = compute_job_times(two_users())

    assert of.wait_ms.tolist() == [0, 10 * HOUR_MS]
    assert of.turnaround_ms.tolist() == [50 * HOUR_MS, 20 * HOUR_MS]
    assert of.overhead_ms.tolist() == [50 * HOUR_MS - 10, 20 * HOUR_MS - 10]
    assert of.preemptions.tolist() == [1, 0]


def test_a_job_without_success_has_no_turnaround() -> None:
    of = compute_job_times(instances_from_rows([preempted()]))

    assert (of.turnaround_ms.tolist(), of.overhead_ms.tolist()) == ([-1], [-1])


def test_the_fair_ratio_is_the_median_of_those_who_run_at_most_what_is_fair() -> None:
    running = np.array([[10.0, 30.0, 0.0, 5.0]])
    fair = np.array([[20.0, 20.0, 5.0, 5.0]])

    assert compute_fair_ratio(running, fair) == 0.75  # of 1/2 and 5/5; 30/20 and 0/5 do not count


def test_starvation_is_the_amount_lacking_to_the_fair_part_of_a_share() -> None:
    running = np.array([1000.0, 5000.0, 1000.0, 9000.0])
    fair = np.array([4000.0, 4000.0, 20_000.0, 20_000.0])

    starved = starvation_gb(running, fair, share_mb=8000.0)

    assert starved[:3].tolist() == [3.0, 0.0, 7.0]
    assert math.isnan(starved[3])


def test_nobody_starves_when_all_users_hold_their_fair_part() -> None:
    rows = [a_row(user, user, end_time_ms=100, mem=500.0) for user in ("ada", "bob")]

    figures = measure(instances_from_rows(rows), cycle_ms=10)

    assert figures.fair_ratio == 1.0
    assert math.isnan(figures.starvation_mean_log10_gb)
    assert math.isnan(figures.starvation_median_log10_gb)


def test_total_time_counts_from_the_first_start_to_the_last_end() -> None:
    rows = [a_row(start_time_ms=500, end_time_ms=900), a_row("b", start_time_ms=700, end_time_ms=2000)]

    assert measure(instances_from_rows(rows), cycle_ms=100).total_sim_time_ms == 1500


def test_a_user_who_has_not_run_yet_takes_no_part_in_the_division() -> None:
    fair = fair_allocation([6000.0, 4000.0, np.nan], [1000.0, 3000.0, np.nan])

    assert fair[:2].tolist() == [2000.0, 2000.0]
    assert math.isnan(fair[2])


def test_a_user_who_has_not_started_yet_does_not_lower_the_fair_part_of_others() -> None:
    """Bob waits from 0 on and starts at 20: until then Ada alone is divided among, and has what is fair."""
    rows = [
        a_row("a", "ada", start_time_ms=0, end_time_ms=40, mem=1000.0),
        a_row("b", "bob", start_time_ms=20, end_time_ms=40, mem=3000.0),
    ]

    figures = measure(instances_from_rows(rows), cycle_ms=10)

    assert figures.fair_ratio == 1.0
    assert math.isnan(figures.starvation_mean_log10_gb)


def test_starvation_per_cycle_is_the_mean_of_the_logarithms_of_those_who_lack_something() -> None:
    """By hand: 30,000 MB run, so 10,000 are fair for each; Ada lacks 9 GB, Bob 9.9 GB, Cyd holds too much."""
    held = np.array([[1000.0, 100.0, 28_900.0]])
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
    )  # looked at 0 and at 15, where both have what is fair

    assert fair_allocation(waiting, held).tolist() == [[10_000.0, 10_000.0, 10_000.0]]
    expected = (math.log10(9.0) + math.log10(9.9)) / 2
    assert figures.starvation_mean_log10_gb == pytest.approx(expected)
    assert figures.starvation_median_log10_gb == pytest.approx(expected)


@on_runs
@given(rows=runs(), cycle_ms=st.integers(1, 9))
def test_the_measures_agree_with_a_slow_reference_implementation(rows: list[RunRow], cycle_ms: int) -> None:
    figures = measure(instances_from_rows(rows), cycle_ms)

    slowly = reference_measures.measures(rows, cycle_ms)

    assert slowly.keys() == type(figures).__dataclass_fields__.keys()
    for name, expected in slowly.items():
        found = getattr(figures, name)
        found = list(found) if isinstance(found, tuple) else found
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True), name


def test_a_user_has_no_value_before_the_first_event() -> None:
    """Cook's example of its sampling: c has no value at 0, and at 5 the one of that moment."""
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
    shuffled = [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]

    first, second = (measure(instances_from_rows(some), cycle_ms=5) for some in (rows, shuffled))

    assert flat(first) == pytest.approx(flat(second), nan_ok=True)


def flat(figures: Any) -> list[float]:
    values = (getattr(figures, name) for name in type(figures).__dataclass_fields__)
    return [number for value in values for number in (value if isinstance(value, tuple) else (value,))]


def test_a_run_without_rows_measures_nothing() -> None:
    figures = measure(instances_from_rows([]), cycle_ms=1000)

    assert (figures.tasks_run, figures.total_sim_time_ms) == (0, 0)
    assert math.isnan(figures.mean_job_overhead_ms)


def test_users_without_rows_count_if_they_are_named() -> None:
    of = instances_from_rows([a_row()], users=["cyd", "ada"])

    nothing: Floats = sample_usage(of, np.array([0.0]), of.cpus)
    assert of.users == ("ada", "cyd")
    assert nothing.tolist() == [[1.0, 0.0]]
