"""A report that compares runs: an HTML page, and the same figures as text and JSON.

Lives here: `write_report` and the sections of the page. Not here: the figures (`simulation.comparison`),
their text (`simulation.summary`), the charts (`simulation.charts`), the style sheet (`report.css`).

The page is a single file without scripts, images or links, so it can be mailed and archived.
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
    draw_bands,
    draw_cells,
    draw_legend,
    draw_lines,
    draw_ranges,
)
from cook_jupyter.simulation.comparison import Run, RunFigures, UserFigures, compute_figures
from cook_jupyter.simulation.measures import HOUR_MS
from cook_jupyter.simulation.outputs import write_text
from cook_jupyter.simulation.summary import (
    SUMMARY,
    format_count,
    format_duration,
    format_number,
    format_percent,
    headline,
    is_shown,
    notes,
    price,
    render_text,
    to_json,
)

_STYLE: Final = Path(__file__).with_name("report.css")
_COLUMNS: Final = 200  # of a chart over time: about as many as the eye can distinguish
_USERS_SHOWN: Final = 24
_COLOURS: Final = 6  # number of colours for runs in report.css
_EDGES: Final = (0.25, 0.5, 0.9, 1.1, 2.0, 4.0)  # of the heat map's classes: usage over fair usage
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
    """Write a report that compares runs of one workload.

    Args:
        runs: runs by name, in the order of the report.
        folder: directory for report.html, report.txt and report.json; created if missing.

    Returns:
        The path of report.html.

    Raises:
        ValueError: there are no runs, or a run has no hosts.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    figures = [compute_figures(name, run) for name, run in runs.items()]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_text(page, render_page(figures, describe_workload(runs)))
    write_text(folder / "report.txt", render_text(figures))
    write_text(folder / "report.json", json.dumps(to_json(figures), indent=1, allow_nan=False))
    return page


def describe_workload(runs: Mapping[str, Run]) -> str:
    """Describe the jobs, users and hosts of the workload in one line."""
    run = next(iter(runs.values()))
    jobs = {job.job_id for job in run.trace} | {row.job_id for row in run.rows}
    users = {job.user for job in run.trace} | {row.user for row in run.rows}
    cpus = sum(host.cpus for host in run.hosts)
    return (
        f"{format_count(len(jobs), 'job')} of {format_count(len(users), 'user')}"
        f" on {format_count(len(run.hosts), 'host')} with {format_count(cpus, 'cpu')}"
    )


def render_page(figures: Sequence[RunFigures], workload: str) -> str:
    """Render the report as an HTML page.

    Args:
        figures: figures of each run, in the order of the report.
        workload: description of the workload in one line.
    """
    names = [(run.name, _css(number)) for number, run in enumerate(figures)]
    time = _time_axis(figures)
    sections = (
        _section("Summary", "The best value of each line is in bold.", _summary(figures)),
        _section(
            "How long jobs wait",
            "The fraction of all jobs that had started within a given time (logarithmic scale). The further "
            "up and left a line runs, the shorter the waits.",
            draw_legend(names) + _waits(figures),
        ),
        _section(
            "Who waits",
            "The mark shows when half of a user's jobs had started; the bar ends when 95 % had."
            + _chosen_note(figures),
            draw_legend(names) + _who_waits(figures),
        ),
        _section(
            "Usage compared with fair usage",
            "Each row is a user. Grey: the user holds what a fair division of all hosts among the users who "
            "run or wait would give. Red: less, although jobs wait. Blue: more. Blank: no jobs.",
            draw_legend([(name, f"kind-{kind}") for kind, name in enumerate(_KIND_NAMES)])
            + _each(figures, lambda run: _usage(run, time)),
        ),
        _section(
            "Users starved, hungry, satisfied",
            "The number of users in each state of Cook's monitor.",
            draw_legend(_STATES) + _each(figures, lambda run: _states(run, figures, time)),
        ),
        _section(
            "Work kept and work lost",
            "Cpu hours of all instances. The work of preempted instances has to be repeated.",
            draw_legend([("kept", "kept"), ("lost to preemption", "lost")]) + _work(figures),
        ),
        f"<section><details><summary>Figures of every user</summary>{_users(figures)}</details></section>",
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


def _css(index: int) -> str:
    """Return the CSS class with the colour of a run; colours repeat after `_COLOURS` runs."""
    return f"run-{index % _COLOURS}"


def _section(title: str, text: str, inside: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="about">{escape(text)}</p>{inside}</section>'


def _each(figures: Sequence[RunFigures], draw_chart: Callable[[RunFigures], str]) -> str:
    """Draw the same chart for each run, one below the other."""
    shown_ms = _time_axis(figures).high

    def tail(run: RunFigures) -> str:
        end_ms = run.timeline.end_ms
        return f"goes on until {format_duration(end_ms)}" if end_ms > shown_ms else ""

    return "".join(
        f'<h3 class="{_css(number)}"><i></i>{escape(run.name)}<small>{tail(run)}</small></h3>'
        f"{draw_chart(run)}"
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
        texts = [line.format(value) for value in values]
        measured = [value for value in values if not math.isnan(value)]
        best = line.format(line.best(measured)) if line.best and measured and len(set(texts)) > 1 else None
        cells_html = "".join(
            f'<td class="{"best" if text == best else ""}">{escape(text)}</td>' for text in texts
        )
        body.append(f"<tr><th>{escape(line.name)}</th>{cells_html}</tr>")
    return f'<div class="wide"><table class="summary"><tr><th></th>{head}</tr>{"".join(body)}</table></div>'


def _wait_axis(figures: Sequence[RunFigures]) -> Axis:
    longest = max((run.wait_ms.longest for run in figures if run.jobs), default=0.0)
    low, high = 30_000.0, max(longest, 600_000.0)
    axis = Axis(low=low, high=high, log=True)
    ticks = tuple(
        (float(ms), name) for ms, name in _SPANS if low < ms <= high and 0.15 < axis.position(ms) < 0.97
    )
    return axis._replace(ticks=((low, "at once"), *ticks))


def _waits(figures: Sequence[RunFigures]) -> str:
    x = _wait_axis(figures)
    waits_ms = np.geomspace(x.low, x.high, 2 * _COLUMNS)
    y = Axis(low=0.0, high=1.02, ticks=((0.0, "0"), (0.5, "half"), (0.95, "95 %")))
    curves = [
        Line(
            run.name,
            _css(number),
            waits_ms,
            np.searchsorted(run.waits_ms, waits_ms, "right") / max(1, len(run.waits_ms)),
        )
        for number, run in enumerate(figures)
    ]
    return draw_lines(curves, x, y)


def _chosen(figures: Sequence[RunFigures]) -> list[str]:
    """Return the users to show: all, or those whose median waits differ most between the runs."""

    def differs(user: str) -> float:
        medians = [
            min(
                user_figures.wait_ms.median, user_figures.wait_ms.longest
            )  # the median is infinite if half never started
            for run in figures
            for user_figures in run.users
            if user_figures.user == user and user_figures.jobs
        ]
        return max(medians, default=0.0) - (min(medians, default=0.0) if len(figures) > 1 else 0.0)

    users = sorted({user_figures.user for run in figures for user_figures in run.users})
    if len(users) <= _USERS_SHOWN:
        return users
    return sorted(sorted(users, key=differs, reverse=True)[:_USERS_SHOWN])


def _chosen_note(figures: Sequence[RunFigures]) -> str:
    users = len({user_figures.user for run in figures for user_figures in run.users})
    if users <= _USERS_SHOWN:
        return ""
    return (
        f" Shown are the {_USERS_SHOWN} of {users} users with the largest differences; all are listed below."
    )


def _who_waits(figures: Sequence[RunFigures]) -> str:
    by_name = [{user_figures.user: user_figures for user_figures in run.users} for run in figures]
    rows = [
        (
            user,
            [
                _range(run.name, _css(number), users[user])
                for number, (run, users) in enumerate(zip(figures, by_name, strict=True))
                if user in users and users[user].jobs
            ],
        )
        for user in _chosen(figures)
    ]
    return draw_ranges(rows, _wait_axis(figures))


def _range(run: str, css: str, user: UserFigures) -> Range:
    tooltip = (
        f"{run}: half of the jobs of {user.user} start {format_duration(user.wait_ms.median)},"
        f" 95 % {format_duration(user.wait_ms.p95)}"
    )
    return Range(css, user.wait_ms.median, user.wait_ms.p95, tooltip)


def _time_axis(figures: Sequence[RunFigures]) -> Axis:
    ends = [run.timeline.end_ms for run in figures]
    high = float(min(max(ends), 2 * min(ends))) or 1.0  # cut a long tail that would compress the rest
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
    """Average values over at most `_COLUMNS` equal bins of ticks.

    Returns:
        The start of each bin, and the mean of each bin.
    """
    ticks = run.timeline.ticks_ms
    bins = max(1, math.ceil(len(ticks) / _COLUMNS))
    begins = np.arange(0, len(ticks), bins)
    counts = np.diff(np.append(begins, len(ticks)))
    sums = np.add.reduceat(values, begins, axis=0, dtype=np.float64)
    return ticks[begins], sums / counts.reshape(-1, *([1] * (values.ndim - 1)))


def _usage(run: RunFigures, time: Axis) -> str:
    bin_begins_ms, usage = _binned(run, run.timeline.usage)
    _, fair = _binned(run, run.timeline.fair)
    ratio = np.divide(usage, fair, out=np.full(usage.shape, np.inf), where=fair > 0)
    kinds = np.where((usage <= 0) & (fair <= 0), -1, np.digitize(ratio, _EDGES)).astype(np.int64)
    edges = np.append(bin_begins_ms, run.timeline.end_ms)  # blank after the end
    return draw_cells(
        np.vstack((kinds, np.full((1, kinds.shape[1]), -1))).T,
        [user_figures.user for user_figures in run.users],
        edges,
        time,
    )


def _states(run: RunFigures, figures: Sequence[RunFigures], time: Axis) -> str:
    max_users = max(len(run_figures.users) for run_figures in figures) or 1
    y = Axis(
        low=0.0,
        high=float(max_users),
        ticks=((0.0, "0"), (float(max_users), format_count(max_users, "user"))),
    )
    bin_begins_ms, starved = _binned(run, run.timeline.starved.sum(axis=1))
    _, hungry = _binned(run, run.timeline.hungry.sum(axis=1))
    _, satisfied = _binned(run, run.timeline.satisfied.sum(axis=1))
    stacked = [
        Band(name, css, np.append(adds, 0.0))
        for (name, css), adds in zip(_STATES, (starved, hungry, satisfied), strict=True)
    ]
    return draw_bands(stacked, np.append(bin_begins_ms, run.timeline.end_ms), time, y)


def _work(figures: Sequence[RunFigures]) -> str:
    max_cpu_hours = max((run.cpu_hours for run in figures), default=0.0) or 1.0
    rows = []
    for run in figures:
        kept_hours = run.cpu_hours - run.lost_cpu_hours
        bars = "".join(
            f'<i class="{css}" style="width:{100 * hours / max_cpu_hours:.2f}%"></i>'
            for css, hours in (("kept", kept_hours), ("lost", run.lost_cpu_hours))
        )
        text = (
            f"{format_number(run.cpu_hours, 0)} h, of them {format_number(run.lost_cpu_hours)} h"
            f" ({format_percent(run.lost_part)}) lost"
        )
        rows.append(
            f'<div class="row"><span class="name">{escape(run.name)}</span><div class="track">{bars}</div>'
            f'<span class="said">{text}</span></div>'
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
    users = sorted({user_figures.user for run in figures for user_figures in run.users})
    by_name = [{user_figures.user: user_figures for user_figures in run.users} for run in figures]
    body = []
    for user in users:
        for number, (run, run_users) in enumerate(zip(figures, by_name, strict=True)):
            user_figures = run_users.get(user)
            if user_figures is None:
                continue
            cell_texts = (
                format_number(user_figures.jobs, 0),
                *(format_duration(span) for span in (*user_figures.wait_ms, user_figures.turnaround_ms)),
                format_number(user_figures.cpu_hours),
                format_number(user_figures.lost_cpu_hours),
                format_number(user_figures.preemptions, 0),
                format_number(user_figures.starved_hours),
            )
            body.append(
                f'<tr><th>{escape(user)}</th><th class="{_css(number)}"><i></i>{escape(run.name)}</th>'
                + "".join(f"<td>{escape(text)}</td>" for text in cell_texts)
                + "</tr>"
            )
    return f'<div class="wide"><table class="users"><tr>{head}</tr>{"".join(body)}</table></div>'
