"""Charts as HTML with inline SVG: no script, no network, colours from the style sheet.

Lives here: axes, line charts, stacked bands, heat maps and range bars. Not here: the page and the data it
shows (`simulation.report`), its colours (`report.css`).

The plot is an SVG that stretches with the page. All text is HTML around it and keeps its size, so a chart is
legible on a phone, too. The classes `run-0`, `run-1`, ... give each run its colour.
"""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_WIDTH: Final = 1000.0  # of a plot, in SVG user units
_HEIGHT: Final = 100.0


class Axis(NamedTuple):
    """The scale of an axis.

    Attributes:
        low, high: values at the two ends.
        ticks: labelled values, each with its label.
        log: whether the scale is logarithmic; `low` must then be positive.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()
    log: bool = False

    def position(self, values: npt.ArrayLike) -> Floats:
        """Return the position of each value along the axis: 0 at the low end, 1 at the high end."""
        within = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.log:
            low, high = np.log(self.low), np.log(self.high)
            return np.asarray((np.log(within) - low) / ((high - low) or 1.0))
        return np.asarray((within - self.low) / ((self.high - self.low) or 1.0))


class Line(NamedTuple):
    """A line of a chart; `x` and `y` are in the units of the axes."""

    name: str
    css: str
    x: Floats
    y: Floats


class Band(NamedTuple):
    """A band of a stacked chart: its height at each x."""

    name: str
    css: str
    heights: Floats


class Range(NamedTuple):
    """A bar from `begin` to `end` with a mark at `begin`, and its tooltip."""

    css: str
    begin: float
    end: float
    tooltip: str


def draw_lines(curves: Sequence[Line], x: Axis, y: Axis) -> str:
    """Draw lines as steps: each value holds until the next."""
    paths = "".join(
        f'<path class="line {line.css}" d="{_steps(x.position(line.x), y.position(line.y))}"/>'
        for line in curves
    )
    return _plot(paths, x, y, "lines")


def draw_bands(stack: Sequence[Band], values: Floats, x: Axis, y: Axis) -> str:
    """Draw bands stacked on top of each other."""
    positions = x.position(values)
    below = np.zeros(len(values))
    paths = []
    for band in stack:
        above = below + band.heights
        upper_edge, lower_edge = (
            _steps(positions, y.position(above)),
            _steps(positions, y.position(below), backwards=True),
        )
        paths.append(
            f'<path class="band {band.css}" d="{upper_edge}{lower_edge}Z">'
            f"<title>{escape(band.name)}</title></path>"
        )
        below = above
    return _plot("".join(paths), x, y, "bands")


def draw_cells(kinds: npt.NDArray[np.int64], row_names: Sequence[str], values: Floats, x: Axis) -> str:
    """Draw a heat map: one row per line of `kinds`, with cells of the classes `kind-0`, `kind-1`, ...

    Args:
        kinds: class of each cell; negative ones are left blank.
        row_names: label of each row. If there are many rows only some are labelled.
        values: position of each column on the x axis.
        x: the x axis.
    """
    rows = len(kinds)
    edges = np.append(x.position(values), 1.0) * _WIDTH
    row_height = _HEIGHT / max(1, rows)
    shapes: dict[int, list[str]] = {}
    for row, line in enumerate(kinds):
        begins = np.flatnonzero(np.diff(line, prepend=-2))
        for begin, end in zip(begins, np.append(begins[1:], len(line)), strict=True):
            if (kind := int(line[begin])) >= 0:
                left, right = edges[begin], edges[end]
                shapes.setdefault(kind, []).append(
                    f"M{left:.1f} {row * row_height:.2f}H{right:.1f}v{row_height:.2f}H{left:.1f}Z"
                )
    paths = "".join(
        f'<path class="cell kind-{kind}" d="{"".join(shape)}"/>' for kind, shape in shapes.items()
    )
    label_step = 1 + rows // 30
    labels = tuple((rows - row - 0.5, row_names[row]) for row in range(0, rows, label_step))
    return _plot(paths, x, Axis(low=0, high=rows, ticks=labels), "cells", height_px=min(16 * rows, 480))


def draw_ranges(rows: Sequence[tuple[str, Sequence[Range]]], x: Axis) -> str:
    """Draw the ranges of each row below each other, beside the name of the row."""
    parts = []
    for name, bars in rows:
        inner = "".join(
            f'<div class="range {bar.css}" title="{escape(bar.tooltip)}"><i style="left:{100 * begin:.2f}%;'
            f'width:{100 * (end - begin):.2f}%"></i><b style="left:{100 * begin:.2f}%"></b></div>'
            for bar in bars
            for begin, end in [x.position([bar.begin, bar.end])]
        )
        parts.append(
            f'<div class="row"><span class="name">{escape(name)}</span><div class="track">{inner}</div></div>'
        )
    parts.append(f'<div class="row axis"><span class="name"></span>{_below(x)}</div>')
    return f'<div class="ranges">{"".join(parts)}</div>'


def draw_legend(entries: Sequence[tuple[str, str]]) -> str:
    """Draw a legend from pairs of a label and the CSS class that has its colour."""
    items = "".join(f'<li class="{css}"><i></i>{escape(name)}</li>' for name, css in entries)
    return f'<ul class="legend">{items}</ul>'


def _steps(x: Floats, y: Floats, *, backwards: bool = False) -> str:
    """Return the path of a step function; `x` and `y` are fractions of the plot's width and height."""
    across, down = x * _WIDTH, (1.0 - y) * _HEIGHT
    points = [f"{x_value:.1f} {y_value:.2f}" for x_value, y_value in zip(across, down, strict=True)]
    if not points:
        return ""
    if backwards:
        return "".join(
            f"L{across[index]:.1f} {down[index]:.2f}" + (f"V{down[index - 1]:.2f}" if index else "")
            for index in range(len(across) - 1, -1, -1)
        )
    return f"M{points[0]}" + "".join(
        f"H{x_value:.1f}V{y_value:.2f}" for x_value, y_value in zip(across[1:], down[1:], strict=True)
    )


def _plot(content: str, x: Axis, y: Axis, kind: str, height_px: int = 200) -> str:
    grid = "".join(
        f'<path class="grid" d="M0 {(1 - position) * _HEIGHT:.2f}H{_WIDTH:.0f}"/>'
        for position in (float(y.position(value)) for value, _ in y.ticks)
        if kind != "cells"
    )
    labels = "".join(
        f'<span style="top:{100 * (1 - float(y.position(value))):.2f}%">{escape(name)}</span>'
        for value, name in y.ticks
    )
    return (
        f'<div class="chart {kind}" style="--height:{height_px}px"><div class="y">{labels}</div>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        f"{grid}{content}</svg>"
        f"{_below(x)}</div>"
    )


def _below(x: Axis) -> str:
    marks = "".join(
        f'<span style="left:{100 * float(x.position(value)):.2f}%">{escape(name)}</span>'
        for value, name in x.ticks
    )
    return f'<div class="x">{marks}</div>'
