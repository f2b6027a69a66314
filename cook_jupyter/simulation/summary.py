"""A comparison of runs in words: spans of time, the lines of a summary, its headline; as text and as JSON.

Lives here: what a report says. Not here: the figures (`simulation.comparison`), the page (`report`).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from cook_jupyter.simulation.comparison import RunFigures
from cook_jupyter.simulation.measures import HOUR_MS


def in_words(ms: float) -> str:
    """A span of time as one says it: `at once`, `45 s`, `12 min`, `3.4 h`, `2.1 d`."""
    if math.isnan(ms):
        return "–"
    if ms < 1000:
        return "at once"
    for unit_ms, unit, until in ((1000, "s", 90), (60_000, "min", 90), (HOUR_MS, "h", 48)):
        if ms < until * unit_ms:
            amount = ms / unit_ms
            return f"{amount:.1f} {unit}" if unit != "s" and amount < 10 else f"{amount:.0f} {unit}"
    return f"{ms / 24 / HOUR_MS:.1f} d"


def percent(part: float, decimals: int = 1) -> str:
    """A part of one, in percent."""
    return "–" if math.isnan(part) else f"{100 * part:.{decimals}f} %"


def headline(figures: Sequence[RunFigures]) -> str:
    """What the runs differ in, in a sentence."""
    names: dict[str, list[str]] = {}
    for one in sorted(figures, key=lambda one: one.wait_ms.median):
        names.setdefault(_within(one), []).append(one.name)
    first, *others = (f"{when} under {' and '.join(same)}" for when, same in names.items())
    return f"Half of all jobs start {'; '.join([first, ', '.join(others)] if others else [first])}."


def price(figures: Sequence[RunFigures]) -> str:
    """What preemption cost, in a sentence; empty if there was none."""
    lost = [f"{percent(one.lost_part)} under {one.name}" for one in figures if one.preemptions]
    return f"Of all cpu hours, preemption threw away {', '.join(lost)}." if lost else ""


def _within(one: RunFigures) -> str:
    words = in_words(one.wait_ms.median)
    return words if words == "at once" else f"within {words}"


class SummaryLine(NamedTuple):
    """A line of the summary: what it says, of a run, and whether low or high is good (None: neither)."""

    name: str
    value: Callable[[RunFigures], float]
    words: Callable[[float], str]
    best: Callable[..., float] | None = None


SUMMARY: Final = (
    SummaryLine("half of all jobs start within", lambda run: run.wait_ms.median, in_words, min),
    SummaryLine("95 % of all jobs start within", lambda run: run.wait_ms.p95, in_words, min),
    SummaryLine("longest wait of a job", lambda run: run.wait_ms.longest, in_words, min),
    SummaryLine("typical wait of the typical user", lambda run: run.typical_wait_ms, in_words, min),
    SummaryLine("typical wait of the user who waits longest", lambda run: run.worst_wait_ms, in_words, min),
    SummaryLine("half of all jobs are done within", lambda run: run.turnaround_ms, in_words, min),
    SummaryLine("jobs that never started", lambda run: run.never_started, lambda value: f"{value:,.0f}", min),
    SummaryLine("jobs that failed", lambda run: run.failed, lambda value: f"{value:,.0f}", min),
    SummaryLine(
        "user hours of waiting below the share",
        lambda run: run.starved_hours,
        lambda value: f"{value:,.1f}",
        min,
    ),
    SummaryLine(
        "hosts in use while somebody waits",
        lambda run: run.busy_while_waiting,
        lambda value: percent(value, 0),
        max,
    ),
    SummaryLine("all is over after", lambda run: float(run.end_ms), in_words, min),
    SummaryLine("instances preempted", lambda run: run.preemptions, lambda value: f"{value:,.0f}"),
    SummaryLine(
        "cpu hours lost to preemption", lambda run: run.lost_cpu_hours, lambda value: f"{value:,.1f}"
    ),
    SummaryLine("... of all cpu hours", lambda run: run.lost_part, percent),
    SummaryLine(
        "what users ran, of what was fair (Cook's score)",
        lambda run: run.measures.fair_ratio,
        "{:.2f}".format,
        max,
    ),
)

SELDOM: Final = {"jobs that never started", "jobs that failed"}  # left out where there are none


def as_text(figures: Sequence[RunFigures]) -> str:
    """The summary as text."""
    rows = [["", *(run.name for run in figures)]]
    rows += [[line.name, *(line.words(line.value(run)) for run in figures)] for line in SUMMARY]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    told = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return "\n".join((headline(figures), price(figures))).rstrip() + "\n\n" + "\n".join(told) + "\n"


def as_json(figures: Sequence[RunFigures]) -> dict[str, Any]:
    """All figures but the timelines, for other programs; what could not be measured is null."""
    return {
        "headline": headline(figures),
        "price": price(figures),
        "runs": [
            _plain(
                {
                    **{
                        field.name: getattr(run, field.name)
                        for field in dataclasses.fields(run)
                        if field.name not in {"timeline", "waits_ms", "users", "measures"}
                    },
                    "lost_part": run.lost_part,
                    "measures": dataclasses.asdict(run.measures),
                    "users": [dataclasses.asdict(user) for user in run.users],
                }
            )
            for run in figures
        ],
    }


def _plain(value: Any) -> Any:
    """Values as JSON has them: named tuples as maps, NaN as null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
