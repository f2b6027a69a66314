"""A report that compares runs: one page to look at, the same figures as text and as JSON.

Lives here: `write_report`, and the sections of its page. Not here: the figures (`simulation.comparison`),
what is said of them (`simulation.summary`), how a chart is drawn (`simulation.charts`), its look
(`report.css`).

The page is one file without script, picture or link: it can be mailed, and opened in ten years.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from cook_jupyter.simulation.charts import (
    Axis,
    Band,
    Floats,
    Line,
    Range,
    bands,
    cells,
    legend,
    lines,
    ranges,
)
from cook_jupyter.simulation.comparison import Run, RunFigures, UserFigures, figures_of
from cook_jupyter.simulation.measures import HOUR_MS
from cook_jupyter.simulation.outputs import write_text
from cook_jupyter.simulation.summary import (
    SUMMARY,
    amount,
    as_json,
    as_text,
    count,
    headline,
    in_words,
    is_shown,
    notes,
    percent,
    price,
)

_STYLE: Final = Path(__file__).with_name("report.css")
_COLUMNS: Final = 200  # of a map or a stack over time: as much as an eye can tell apart
_USERS_SHOWN: Final = 24
_COLOURS: Final = 6  # of runs, in report.css
_EDGES: Final = (0.25, 0.5, 0.9, 1.1, 2.0, 4.0)  # of the kinds of a map: usage over what was fair
_KIND_NAMES: Final = ("below ¼", "¼ to ½", "½ to 0.9", "what is fair", "1.1 to 2", "2 to 4 times", "above 4")
_STATES: Final = (
    ("starved: wait, below their share", "starved"),
    ("hungry: wait, at their share or above", "hungry"),
    ("satisfied: run, and wait for nothing", "satisfied"),
)
_SPANS: Final = (
    (60_000, "1 min"),
    (600_000, "10 min"),
    (3_600_000, "1 h"),
    (21_600_000, "6 h"),
    (86_400_000, "1 d"),
    (604_800_000, "1 w"),
)


def write_report(runs: Mapping[str, Run], folder: Path) -> Path:
    """Compare runs of one workload.

    Args:
        runs: by name, in the order in which they are to stand.
        folder: where report.html, report.txt and report.json are written; made if it is not there.

    Returns:
        The page, report.html.

    Raises:
        ValueError: there is no run, or one without hosts.
    """
    if not runs:
        raise ValueError("a report wants at least one run")
    figures = [figures_of(name, run) for name, run in runs.items()]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_text(page, as_page(figures, workload_in_words(runs)))
    write_text(folder / "report.txt", as_text(figures))
    write_text(folder / "report.json", json.dumps(as_json(figures), indent=1, allow_nan=False))
    return page


def workload_in_words(runs: Mapping[str, Run]) -> str:
    """Return what was run, in a line."""
    run = next(iter(runs.values()))
    jobs = {job.job_id for job in run.trace} | {row.job_id for row in run.rows}
    users = {job.user for job in run.trace} | {row.user for row in run.rows}
    cpus = sum(host.cpus for host in run.hosts)
    return (
        f"{count(len(jobs), 'job')} of {count(len(users), 'user')}"
        f" on {count(len(run.hosts), 'host')} with {count(cpus, 'cpu')}"
    )


def as_page(figures: Sequence[RunFigures], workload: str) -> str:
    """The report as a page of HTML."""
    names = [(run.name, _css(number)) for number, run in enumerate(figures)]
    time = _time_axis(figures)
    sections = (
        _section("In figures", "The best of each line is set in bold.", _summary(figures)),
        _section(
            "How long jobs wait",
            "The part of all jobs (up) that had started after a time (across, each step the same ratio). The "
            "further up and left a line runs, the shorter people wait.",
            legend(names) + _waits(figures),
        ),
        _section(
            "Who waits",
            "A mark stands where half of a user's jobs had started, its bar ends where 95 % had."
            + _chosen_note(figures),
            legend(names) + _who_waits(figures),
        ),
        _section(
            "Usage against what is fair",
            "A row is a user. Grey: the user holds what a fair division of all hosts among those who want "
            "them would give. Red: less, though jobs wait. Blue: more. Blank: nothing runs or waits.",
            legend([(name, f"kind-{kind}") for kind, name in enumerate(_KIND_NAMES)])
            + _each(figures, lambda run: _usage(run, time)),
        ),
        _section(
            "Users starved, hungry, satisfied",
            "How many users are in each state, as Cook's monitor counts them.",
            legend(_STATES) + _each(figures, lambda run: _states(run, figures, time)),
        ),
        _section(
            "Work kept and work lost",
            "Cpu hours that instances held. What preemption stopped has to be done again.",
            legend([("kept", "kept"), ("lost to preemption", "lost")]) + _work(figures),
        ),
        f"<section><details><summary>Every user, in figures</summary>{_users(figures)}</details></section>",
    )
    title = f"{' · '.join(run.name for run in figures)}: {workload}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f'<body><main><header><p class="workload">{escape(workload)}</p><h1>{escape(headline(figures))}</h1>'
        f'<p class="price">{escape(price(figures).replace(" %", chr(160) + "%"))}</p>'
        + "".join(f'<p class="price">{escape(note)}</p>' for note in notes(figures))
        + "</header>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _css(number: int) -> str:
    """The class of a run: its colour. After some runs colours come again."""
    return f"run-{number % _COLOURS}"


def _section(title: str, about: str, inside: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="about">{escape(about)}</p>{inside}</section>'


def _each(figures: Sequence[RunFigures], draw: Callable[[RunFigures], str]) -> str:
    """Draw the same chart for each run, one below the other."""
    shown_ms = _time_axis(figures).high

    def tail(run: RunFigures) -> str:
        end_ms = run.timeline.end_ms
        return f"goes on until {in_words(end_ms)}" if end_ms > shown_ms else ""

    return "".join(
        f'<h3 class="{_css(number)}"><i></i>{escape(run.name)}<small>{tail(run)}</small></h3>{draw(run)}'
        for number, run in enumerate(figures)
    )


def _summary(figures: Sequence[RunFigures]) -> str:
    head = "".join(
        f'<th class="{_css(number)}"><i></i>{escape(run.name)}</th>' for number, run in enumerate(figures)
    )
    body = []
    for line in SUMMARY:
        values = [float(line.value(run)) for run in figures]
        if not is_shown(line, figures):
            continue
        words = [line.words(value) for value in values]
        known = [value for value in values if not math.isnan(value)]
        best = line.words(line.best(known)) if line.best and known and len(set(words)) > 1 else None
        told = "".join(f'<td class="{"best" if word == best else ""}">{escape(word)}</td>' for word in words)
        body.append(f"<tr><th>{escape(line.name)}</th>{told}</tr>")
    return f'<div class="wide"><table class="summary"><tr><th></th>{head}</tr>{"".join(body)}</table></div>'


def _wait_axis(figures: Sequence[RunFigures]) -> Axis:
    longest = max((run.wait_ms.longest for run in figures if run.jobs), default=0.0)
    low, high = 30_000.0, max(longest, 600_000.0)
    axis = Axis(low=low, high=high, log=True)
    ticks = tuple(
        (float(ms), name) for ms, name in _SPANS if low < ms <= high and 0.15 < axis.place(ms) < 0.97
    )
    return axis._replace(ticks=((low, "at once"), *ticks))


def _waits(figures: Sequence[RunFigures]) -> str:
    x = _wait_axis(figures)
    at = np.geomspace(x.low, x.high, 2 * _COLUMNS)
    y = Axis(low=0.0, high=1.02, ticks=((0.0, "0"), (0.5, "half"), (0.95, "95 %")))
    drawn = [
        Line(
            run.name,
            _css(number),
            at,
            np.searchsorted(run.waits_ms, at, "right") / max(1, len(run.waits_ms)),
        )
        for number, run in enumerate(figures)
    ]
    return lines(drawn, x, y)


def _chosen(figures: Sequence[RunFigures]) -> list[str]:
    """The users to show: all, or those for whom the runs differ most."""

    def differs(user: str) -> float:
        medians = [
            min(one.wait_ms.median, one.wait_ms.longest)  # the median is infinite if half never started
            for run in figures
            for one in run.users
            if one.user == user and one.jobs
        ]
        return max(medians, default=0.0) - (min(medians, default=0.0) if len(figures) > 1 else 0.0)

    users = sorted({one.user for run in figures for one in run.users})
    if len(users) <= _USERS_SHOWN:
        return users
    return sorted(sorted(users, key=differs, reverse=True)[:_USERS_SHOWN])


def _chosen_note(figures: Sequence[RunFigures]) -> str:
    users = len({one.user for run in figures for one in run.users})
    if users <= _USERS_SHOWN:
        return ""
    return f" Shown are the {_USERS_SHOWN} of {users} users for whom it matters most; all stand at the end."


def _who_waits(figures: Sequence[RunFigures]) -> str:
    by_name = [{one.user: one for one in run.users} for run in figures]
    rows = [
        (
            user,
            [
                _range(run.name, _css(number), known[user])
                for number, (run, known) in enumerate(zip(figures, by_name, strict=True))
                if user in known and known[user].jobs
            ],
        )
        for user in _chosen(figures)
    ]
    return ranges(rows, _wait_axis(figures))


def _range(run: str, css: str, user: UserFigures) -> Range:
    says = (
        f"{run}: half of the jobs of {user.user} start {in_words(user.wait_ms.median)},"
        f" 95 % {in_words(user.wait_ms.p95)}"
    )
    return Range(css, user.wait_ms.median, user.wait_ms.p95, says)


def _time_axis(figures: Sequence[RunFigures]) -> Axis:
    ends = [run.timeline.end_ms for run in figures]
    high = float(min(max(ends), 2 * min(ends))) or 1.0  # a long tail must not squeeze all the rest
    spans = (
        *(hours * HOUR_MS for hours in (0.25, 0.5, 1, 2, 4, 8, 24)),
        *(days * 24 * HOUR_MS for days in (2, 7, 28)),
    )
    step = next((span for span in spans if high / span <= 7), high)
    days = step >= 24 * HOUR_MS
    unit, name = (24 * HOUR_MS, "d") if days else (HOUR_MS, "h")
    ticks = tuple((at, f"{at / unit:g} {name}") for at in np.arange(0.0, high, step).tolist())
    return Axis(low=0.0, high=high, ticks=ticks)


def _binned(run: RunFigures, values: Floats) -> tuple[Floats, Floats]:
    """Means over equal spans of ticks, few enough to be drawn; and where each span begins."""
    ticks = run.timeline.ticks_ms
    bins = max(1, math.ceil(len(ticks) / _COLUMNS))
    begins = np.arange(0, len(ticks), bins)
    counts = np.diff(np.append(begins, len(ticks)))
    sums = np.add.reduceat(values, begins, axis=0, dtype=np.float64)
    return ticks[begins], sums / counts.reshape(-1, *([1] * (values.ndim - 1)))


def _usage(run: RunFigures, time: Axis) -> str:
    at, usage = _binned(run, run.timeline.usage)
    _, fair = _binned(run, run.timeline.fair)
    ratio = np.divide(usage, fair, out=np.full(usage.shape, np.inf), where=fair > 0)
    kinds = np.where((usage <= 0) & (fair <= 0), -1, np.digitize(ratio, _EDGES)).astype(np.int64)
    ended = np.append(at, run.timeline.end_ms)  # blank after the end
    return cells(
        np.vstack((kinds, np.full((1, kinds.shape[1]), -1))).T, [one.user for one in run.users], ended, time
    )


def _states(run: RunFigures, figures: Sequence[RunFigures], time: Axis) -> str:
    most = max(len(one.users) for one in figures) or 1
    y = Axis(low=0.0, high=float(most), ticks=((0.0, "0"), (float(most), count(most, "user"))))
    at, starved = _binned(run, run.timeline.starved.sum(axis=1))
    _, hungry = _binned(run, run.timeline.hungry.sum(axis=1))
    _, satisfied = _binned(run, run.timeline.satisfied.sum(axis=1))
    stacked = [
        Band(name, css, np.append(adds, 0.0))
        for (name, css), adds in zip(_STATES, (starved, hungry, satisfied), strict=True)
    ]
    return bands(stacked, np.append(at, run.timeline.end_ms), time, y)


def _work(figures: Sequence[RunFigures]) -> str:
    most = max((run.cpu_hours for run in figures), default=0.0) or 1.0
    rows = []
    for run in figures:
        kept = run.cpu_hours - run.lost_cpu_hours
        parts = "".join(
            f'<i class="{css}" style="width:{100 * hours / most:.2f}%"></i>'
            for css, hours in (("kept", kept), ("lost", run.lost_cpu_hours))
        )
        said = (
            f"{amount(run.cpu_hours, 0)} h, of them {amount(run.lost_cpu_hours)} h"
            f" ({percent(run.lost_part)}) lost"
        )
        rows.append(
            f'<div class="row"><span class="name">{escape(run.name)}</span><div class="track">{parts}</div>'
            f'<span class="said">{said}</span></div>'
        )
    return f'<div class="work">{"".join(rows)}</div>'


def _users(figures: Sequence[RunFigures]) -> str:
    names = (
        "jobs",
        "median wait",
        "95 %",
        "longest",
        "turnaround",
        "cpu hours",
        "lost",
        "preempted",
        "starved h",
    )
    head = "".join(f"<th>{name}</th>" for name in ("user", "run", *names))
    users = sorted({one.user for run in figures for one in run.users})
    by_name = [{one.user: one for one in run.users} for run in figures]
    body = []
    for user in users:
        for number, (run, known) in enumerate(zip(figures, by_name, strict=True)):
            one = known.get(user)
            if one is None:
                continue
            told = (
                amount(one.jobs, 0),
                *(in_words(span) for span in (*one.wait_ms, one.turnaround_ms)),
                amount(one.cpu_hours),
                amount(one.lost_cpu_hours),
                amount(one.preemptions, 0),
                amount(one.starved_hours),
            )
            body.append(
                f'<tr><th>{escape(user)}</th><th class="{_css(number)}"><i></i>{escape(run.name)}</th>'
                + "".join(f"<td>{escape(word)}</td>" for word in told)
                + "</tr>"
            )
    return f'<div class="wide"><table class="users"><tr>{head}</tr>{"".join(body)}</table></div>'
