"""The text of a comparison: headline, notes and summary table, as text and as JSON.

Lives here: the texts of a report and the formatting of its numbers. Not here: the figures
(`simulation.comparison`), the page (`simulation.report`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from cook_jupyter.simulation.comparison import RunFigures
from cook_jupyter.simulation.measures import HOUR_MS

MISSING: Final = "–"  # nothing to measure
NEVER: Final = "never"  # not before the end of the run


def format_duration(ms: float) -> str:
    """Format a duration in a suitable unit: `at once`, `45 s`, `12 min`, `3.4 h`, `2.1 d`, `never`."""
    if math.isnan(ms):
        return MISSING
    if math.isinf(ms):
        return NEVER
    if ms < 1000:
        return "at once"
    for unit_ms, unit, limit in ((1000, "s", 90), (60_000, "min", 90), (HOUR_MS, "h", 48)):
        if ms < limit * unit_ms:
            number = ms / unit_ms
            return f"{number:.1f} {unit}" if unit != "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{ms / 24 / HOUR_MS:.1f} d"


def format_percent(part: float, decimals: int = 1) -> str:
    """Format a fraction as a percentage; a dash if it is not finite."""
    return f"{100 * part:.{decimals}f} %" if math.isfinite(part) else MISSING


def format_number(value: float, decimals: int = 1) -> str:
    """Format a number with thousands separators; a dash if it is not finite."""
    return f"{value:,.{decimals}f}" if math.isfinite(value) else MISSING


def format_count(number: float, noun: str, plural: str = "") -> str:
    """Format a number with its noun: `1 job`, `2 jobs`, `1,000 jobs`, `0.5 cpus`."""
    digits = format_number(number, 0) if number == int(number) else f"{number:,g}"
    return f"{digits} {noun if number == 1 else plural or noun + 's'}"


def headline(figures: Sequence[RunFigures]) -> str:
    """Return a sentence that compares when half of all jobs start in each run."""
    names: dict[str, list[str]] = {}
    for run in sorted(figures, key=_median_start):
        names.setdefault(_starts(run), []).append(run.name)
    sentences = []
    timed = [when for when in names if when.startswith(_HALF)]
    if timed:
        first, *others = (f"{when.removeprefix(_HALF)} under {_listed(names[when])}" for when in timed)
        sentences.append(f"{_HALF}{'; '.join([first, ', '.join(others)] if others else [first])}.")
    sentences += [f"{when} under {_listed(names[when])}." for when in names if when not in timed]
    return " ".join(sentences)


def price(figures: Sequence[RunFigures]) -> str:
    """Return a sentence on the work lost to preemption; empty if there was no preemption."""
    lost = [f"{format_percent(run.lost_part)} under {run.name}" for run in figures if run.preemptions]
    return f"Of all cpu hours, {', '.join(lost)} were lost to preemption." if lost else ""


def notes(figures: Sequence[RunFigures]) -> list[str]:
    """Return a sentence for each kind of jobs that could never start; runs with the same one are combined."""
    sentences = []
    for kind, phrases in _NEVER_RAN.items():
        names: dict[str, list[str]] = {}
        for run in figures:
            number = getattr(run, kind)
            if number:
                sentence = f"{format_count(number, 'job')} {phrases[0 if number == 1 else 1]}"
                names.setdefault(f"{sentence} (job {run.examples[kind]})", []).append(run.name)
        sentences += [f"Under {_listed(run_names)}: {sentence}." for sentence, run_names in names.items()]
    return sentences


_HALF: Final = "Half of all jobs start "
_NEVER_RAN: Final = {
    "refused": ("was refused", "were refused"),
    "removed": (
        "was removed because it requests more than any job may have",
        "were removed because they request more than any job may have",
    ),
    "fitting_no_host": ("fits no host and can never start", "fit no host and can never start"),
}


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _median_start(run: RunFigures) -> float:
    return math.inf if math.isnan(run.wait_ms.median) else run.wait_ms.median


def _starts(run: RunFigures) -> str:
    """Return a phrase on when half of a run's jobs had started, or on how many ever did."""
    started = run.jobs - run.never_started
    if not run.jobs:
        return "No job was accepted"
    if not started:
        return "No job starts"
    if math.isinf(run.wait_ms.median):
        verb = "starts" if started == 1 else "start"
        return f"Only {format_number(started, 0)} of {format_count(run.jobs, 'job')} {verb}"
    duration = format_duration(run.wait_ms.median)
    return f"{_HALF}{duration if duration == 'at once' else f'within {duration}'}"


class SummaryLine(NamedTuple):
    """A line of the summary table.

    Attributes:
        name: label of the line.
        value: function that returns the figure of a run.
        format: function that formats the figure.
        best: `min` or `max`, whichever figure is better; None if neither is.
        always: whether to show the line even if the figure is 0 in every run.
    """

    name: str
    value: Callable[[RunFigures], float]
    format: Callable[[float], str]
    best: Callable[..., float] | None = None
    always: bool = True


def _whole(value: float) -> str:
    return format_number(value, 0)


SUMMARY: Final = (
    SummaryLine("half of all jobs start within", lambda run: run.wait_ms.median, format_duration, min),
    SummaryLine("95 % of all jobs start within", lambda run: run.wait_ms.p95, format_duration, min),
    SummaryLine("longest wait of a job", lambda run: run.wait_ms.longest, format_duration, min),
    SummaryLine("typical wait of the typical user", lambda run: run.typical_wait_ms, format_duration, min),
    SummaryLine(
        "typical wait of the user who waits longest", lambda run: run.worst_wait_ms, format_duration, min
    ),
    SummaryLine(
        "half of the jobs that succeed are done within", lambda run: run.turnaround_ms, format_duration, min
    ),
    SummaryLine("jobs that never started", lambda run: run.never_started, _whole, min, always=False),
    SummaryLine("jobs that fit no host", lambda run: run.fitting_no_host, _whole, min, always=False),
    SummaryLine("jobs refused", lambda run: run.refused, _whole, min, always=False),
    SummaryLine("jobs removed as too large", lambda run: run.removed, _whole, min, always=False),
    SummaryLine("jobs that failed", lambda run: run.failed, _whole, min, always=False),
    SummaryLine("starved user-hours", lambda run: run.starved_hours, format_number, min),
    SummaryLine(
        "hosts in use while jobs wait",
        lambda run: run.busy_while_waiting,
        lambda value: format_percent(value, 0),
        max,
    ),
    SummaryLine("makespan", lambda run: run.end_ms, format_duration, min),
    SummaryLine("instances preempted", lambda run: run.preemptions, _whole),
    SummaryLine("cpu hours lost to preemption", lambda run: run.lost_cpu_hours, format_number),
    SummaryLine("... of all cpu hours", lambda run: run.lost_part, format_percent),
    SummaryLine(
        "usage over fair usage (Cook's fair ratio)",
        lambda run: run.measures.fair_ratio,
        partial(format_number, decimals=2),
        max,
    ),
)


def is_shown(line: SummaryLine, figures: Sequence[RunFigures]) -> bool:
    """Return whether a line of the summary applies to these runs."""
    return line.always or any(line.value(run) for run in figures)


def render_text(figures: Sequence[RunFigures]) -> str:
    """Render the headline, the notes and the summary table as text."""
    rows = [["", *(run.name for run in figures)]]
    rows += [
        [line.name, *(line.format(line.value(run)) for run in figures)]
        for line in SUMMARY
        if is_shown(line, figures)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    sentences = [sentence for sentence in (headline(figures), price(figures), *notes(figures)) if sentence]
    return "\n".join(sentences) + "\n\n" + "\n".join(lines) + "\n"


def to_json(figures: Sequence[RunFigures]) -> dict[str, Any]:
    """Return all figures except the timelines as JSON values, for other programs.

    A figure that could not be measured is null, and so is a time that lies beyond the end of the run.
    """
    return {
        "headline": headline(figures),
        "price": price(figures),
        "notes": notes(figures),
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
    """Convert a value for JSON: named tuples become maps, NaN and infinity become None."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
