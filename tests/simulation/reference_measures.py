"""A slow reference implementation of Cook's measures, written from the specification (section 12).

Plain Python over rows, one user and one tick at a time; it shares no code with `simulation.measures`.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import mean, median

from cook_jupyter.simulation.traces import RunRow

HOUR_MS = 3_600_000
SHARE_MB = 2.5e6
Series = list[tuple[int, float]]  # a time and the value from then on, one point per event


def measures(rows: Sequence[RunRow], cycle_ms: int) -> dict[str, float | list[float]]:
    """Return each figure under its name in `Measures`; NaN if there is nothing to measure."""
    first_ms = min(row.submit_time_ms for row in rows)
    last_end_ms = max(row.end_time_ms for row in rows)
    tasks = []
    for row in rows:
        end_ms = last_end_ms if row.end_time_ms < row.start_time_ms else row.end_time_ms
        tasks.append(
            row._replace(
                submit_time_ms=row.submit_time_ms - first_ms,
                start_time_ms=row.start_time_ms - first_ms,
                end_time_ms=end_ms - first_ms,
            )
        )
    parts = [
        tasks,
        [task for task in tasks if task.status == "success"],
        [task for task in tasks if task.reason == "Preempted by rebalancer"],
        [task for task in tasks if task.status in ("running", "unknown")],
    ]
    ratios, logs, means_of_ticks = _fairness(tasks, cycle_ms)
    overheads = _job_overheads(tasks)
    return {
        "tasks_run": len(parts[0]),
        "tasks_run_success": len(parts[1]),
        "tasks_run_preemption": len(parts[2]),
        "cpu_hours": [sum(t.cpus * _run_ms(t) for t in part) / HOUR_MS for part in parts],
        "mem_tb_hours": [sum(t.mem * _run_ms(t) for t in part) / 1024 / 1024 / HOUR_MS for part in parts],
        "mean_latency_ms": [_mean(t.start_time_ms - t.submit_time_ms for t in part) for part in parts],
        "median_latency_ms": [_median(t.start_time_ms - t.submit_time_ms for t in part) for part in parts],
        "mean_job_overhead_ms": _mean(overheads),
        "median_job_overhead_ms": _median(overheads),
        "fair_ratio": _median(ratios),
        "starvation_median_log10_gb": _median(logs),
        "starvation_mean_log10_gb": _median(means_of_ticks),
        "total_sim_time_ms": max(t.end_time_ms for t in tasks) - min(t.start_time_ms for t in tasks),
    }


def _run_ms(task: RunRow) -> int:
    return task.end_time_ms - task.start_time_ms


def _job_overheads(tasks: Sequence[RunRow]) -> list[float]:
    last: dict[str, RunRow] = {}
    for task in sorted(tasks, key=lambda task: task.start_time_ms):
        last[task.job_id] = task
    return [task.end_time_ms - task.submit_time_ms - _run_ms(task) for task in last.values()]


def _fairness(tasks: Sequence[RunRow], cycle_ms: int) -> tuple[list[float], list[float], list[float]]:
    """Return the fair ratios, the logarithms of missing amounts, and the mean of these for each tick."""
    users = sorted({task.user for task in tasks})
    running = {
        user: _series((t.start_time_ms, t.end_time_ms, t.mem) for t in tasks if t.user == user)
        for user in users
    }
    waiting = {
        user: _series((t.submit_time_ms, t.start_time_ms, t.mem) for t in tasks if t.user == user)
        for user in users
    }
    last_event_ms = max(at_ms for series in running.values() for at_ms, _ in series)
    ratios: list[float] = []
    logs: list[float] = []
    means: list[float] = []
    for tick in range(0, last_event_ms + 1, cycle_ms):
        used = {user: _value(running[user], tick) for user in users}
        requested = {user: _value(waiting[user], tick) for user in users}
        desired = {
            user: used[user] + requested[user]  # type: ignore[operator]
            for user in users
            if used[user] is not None and requested[user] is not None
        }
        fair = water_filling(sum(value or 0.0 for value in used.values()), desired)
        lacking = []
        for user, amount in fair.items():
            usage = used[user] or 0.0
            if amount > 1e-9 and 0 < usage / amount <= 1 + 1e-9:
                ratios.append(min(1.0, usage / amount))
            starved = max(0.0, min(amount, SHARE_MB) - usage) / 1000 if usage < SHARE_MB else 0.0
            if starved > 1e-9:
                lacking.append(math.log10(starved))
        logs += lacking
        if lacking:
            means.append(mean(lacking))
    return ratios, logs, means


def _series(spans: Iterable[tuple[int, int, float]]) -> Series:
    begins_and_ends = list(spans)
    events = [(since, amount) for since, _, amount in begins_and_ends]
    events += [(until, -amount) for _, until, amount in begins_and_ends]
    total = 0.0
    series = []
    for at_ms, change in sorted(events, key=lambda event: event[0]):
        total += change
        series.append((at_ms, round(total, 6)))
    return series


def _value(series: Series, tick: int) -> float | None:
    """Return the latest value at or before a tick; None if there is none yet."""
    values = [value for at_ms, value in series if at_ms <= tick]
    return values[-1] if values else None


def water_filling(total: float, desired: dict[str, float]) -> dict[str, float]:
    """Return equal amounts for all users, but none above its desired amount, that add up to the total."""
    remaining, level, allocated = total, 0.0, dict.fromkeys(desired, 0.0)
    unsatisfied = sorted(desired, key=desired.__getitem__)
    while unsatisfied and remaining > 1e-9:
        rise = min(desired[unsatisfied[0]] - level, remaining / len(unsatisfied))
        level += rise
        remaining -= rise * len(unsatisfied)
        for user in unsatisfied:
            allocated[user] = level
        unsatisfied = [user for user in unsatisfied if desired[user] > level + 1e-9]
    return allocated


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return mean(numbers) if numbers else math.nan


def _median(values: Iterable[float]) -> float:
    numbers = list(values)
    return median(numbers) if numbers else math.nan
