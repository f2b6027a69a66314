"""A comparison of runs in words: spans of time, the lines of a summary, its headline; as text and as JSON.

Lives here: what a report says. Not here: the figures (`simulation.comparison`), the page (`report`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from cook_jupyter.simulation.comparison import RunFigures
from cook_jupyter.simulation.measures import HOUR_MS

MISSING: Final = "–"  # where there was nothing to measure
NEVER: Final = "never"  # not before the end of the run


def in_words(ms: float) -> str:
    """Return a span of time as one says it: `at once`, `45 s`, `12 min`, `3.4 h`, `2.1 d`, `never`."""
    if math.isnan(ms):
        return MISSING
    if math.isinf(ms):
        return NEVER
    if ms < 1000:
        return "at once"
    for unit_ms, unit, until in ((1000, "s", 90), (60_000, "min", 90), (HOUR_MS, "h", 48)):
        if ms < until * unit_ms:
            number = ms / unit_ms
            return f"{number:.1f} {unit}" if unit != "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{ms / 24 / HOUR_MS:.1f} d"


def percent(part: float, decimals: int = 1) -> str:
    """Return a part of one, in percent."""
    return f"{100 * part:.{decimals}f} %" if math.isfinite(part) else MISSING


def amount(value: float, decimals: int = 1) -> str:
    """Return a number with its thousands set apart; a dash if there is none."""
    return f"{value:,.{decimals}f}" if math.isfinite(value) else MISSING


def count(number: float, noun: str, plural: str = "") -> str:
    """Return a number of things: `1 job`, `2 jobs`, `1,000 jobs`, `0.5 cpus`."""
    digits = amount(number, 0) if number == int(number) else f"{number:,g}"
    return f"{digits} {noun if number == 1 else plural or noun + 's'}"


def headline(figures: Sequence[RunFigures]) -> str:
    """Return what the runs differ in, in a sentence."""
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
    """Return what preemption cost, in a sentence; empty if there was none."""
    lost = [f"{percent(run.lost_part)} under {run.name}" for run in figures if run.preemptions]
    return f"Of all cpu hours, preemption threw away {', '.join(lost)}." if lost else ""


def notes(figures: Sequence[RunFigures]) -> list[str]:
    """Return a sentence for each kind of jobs that could never start; runs where it is the same share one."""
    sentences = []
    for kind, what in _NEVER_RAN.items():
        names: dict[str, list[str]] = {}
        for run in figures:
            number = getattr(run, kind)
            if number:
                sentence = f"{count(number, 'job')} {what[0 if number == 1 else 1]}"
                names.setdefault(f"{sentence} (job {run.examples[kind]})", []).append(run.name)
        sentences += [f"Under {_listed(same)}: {sentence}." for sentence, same in names.items()]
    return sentences


_HALF: Final = "Half of all jobs start "
_NEVER_RAN: Final = {
    "refused": ("was refused", "were refused"),
    "removed": (
        "was removed, as it asks for more than any job may have",
        "were removed, as they ask for more than any job may have",
    ),
    "fitting_no_host": ("fits no host and can never start", "fit no host and can never start"),
}


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _median_start(run: RunFigures) -> float:
    return math.inf if math.isnan(run.wait_ms.median) else run.wait_ms.median


def _starts(run: RunFigures) -> str:
    """Return when half of a run's jobs had started, or how many ever did."""
    started = run.jobs - run.never_started
    if not run.jobs:
        return "No job was accepted"
    if not started:
        return "No job starts"
    if math.isinf(run.wait_ms.median):
        return (
            f"Only {amount(started, 0)} of {count(run.jobs, 'job')} {'starts' if started == 1 else 'start'}"
        )
    words = in_words(run.wait_ms.median)
    return f"{_HALF}{words if words == 'at once' else f'within {words}'}"


class SummaryLine(NamedTuple):
    """A line of the summary.

    Attributes:
        name: what the line says.
        value: its number, of a run.
        words: the number as text.
        best: whether low or high is good; None: neither.
        always: whether the line is shown even if its number is 0 in every run.
    """

    name: str
    value: Callable[[RunFigures], float]
    words: Callable[[float], str]
    best: Callable[..., float] | None = None
    always: bool = True


def _whole(value: float) -> str:
    return amount(value, 0)


SUMMARY: Final = (
    SummaryLine("half of all jobs start within", lambda run: run.wait_ms.median, in_words, min),
    SummaryLine("95 % of all jobs start within", lambda run: run.wait_ms.p95, in_words, min),
    SummaryLine("longest wait of a job", lambda run: run.wait_ms.longest, in_words, min),
    SummaryLine("typical wait of the typical user", lambda run: run.typical_wait_ms, in_words, min),
    SummaryLine("typical wait of the user who waits longest", lambda run: run.worst_wait_ms, in_words, min),
    SummaryLine(
        "half of the jobs that succeed are done within", lambda run: run.turnaround_ms, in_words, min
    ),
    SummaryLine("jobs that never started", lambda run: run.never_started, _whole, min, always=False),
    SummaryLine("jobs that fit no host", lambda run: run.fitting_no_host, _whole, min, always=False),
    SummaryLine("jobs refused", lambda run: run.refused, _whole, min, always=False),
    SummaryLine("jobs removed as too large", lambda run: run.removed, _whole, min, always=False),
    SummaryLine("jobs that failed", lambda run: run.failed, _whole, min, always=False),
    SummaryLine("starved user-hours", lambda run: run.starved_hours, amount, min),
    SummaryLine(
        "hosts in use while somebody waits",
        lambda run: run.busy_while_waiting,
        lambda value: percent(value, 0),
        max,
    ),
    SummaryLine("makespan", lambda run: run.end_ms, in_words, min),
    SummaryLine("instances preempted", lambda run: run.preemptions, _whole),
    SummaryLine("cpu hours lost to preemption", lambda run: run.lost_cpu_hours, amount),
    SummaryLine("... of all cpu hours", lambda run: run.lost_part, percent),
    SummaryLine(
        "what users ran, of what was fair (Cook's score)",
        lambda run: run.measures.fair_ratio,
        partial(amount, decimals=2),
        max,
    ),
)


def is_shown(line: SummaryLine, figures: Sequence[RunFigures]) -> bool:
    """Return whether a line of the summary says anything about these runs."""
    return line.always or any(line.value(run) for run in figures)


def as_text(figures: Sequence[RunFigures]) -> str:
    """Return the summary as text."""
    rows = [["", *(run.name for run in figures)]]
    rows += [
        [line.name, *(line.words(line.value(run)) for run in figures)]
        for line in SUMMARY
        if is_shown(line, figures)
    ]
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
    sentences = [sentence for sentence in (headline(figures), price(figures), *notes(figures)) if sentence]
    return "\n".join(sentences) + "\n\n" + "\n".join(told) + "\n"


def as_json(figures: Sequence[RunFigures]) -> dict[str, Any]:
    """Return all figures but the timelines, for other programs.

    What could not be measured is null, and so is a time that did not come before the end of the run.
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
    """Return values as JSON has them: named tuples as maps; NaN and infinity as null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
