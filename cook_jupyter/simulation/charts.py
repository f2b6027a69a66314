"""Charts for a page, as HTML with inline SVG: no script, no network, colours from the page.

Lives here: axes, lines, bands, a map of cells, ranges on rows. Not here: what is drawn and the page around it
(`simulation.report`), its colours (`report.css`).

A plot is an SVG that stretches with the page; all words stand around it as HTML and keep their size, so that
a chart can be read on a telephone, too. Classes `run-0`, `run-1`, ... give a run its colour.
"""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_WIDTH: Final = 1000.0  # of a plot, in units of its own
_HEIGHT: Final = 100.0


class Axis(NamedTuple):
    """What lies where along an axis.

    Attributes:
        low, high: what stands at its ends.
        ticks: what is named on it, and how.
        log: whether equal ratios take equal room; `low` must then be above zero.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()
    log: bool = False

    def place(self, values: npt.ArrayLike) -> Floats:
        """Return where values lie: 0 at the low end, 1 at the high one."""
        within = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.log:
            low, high = np.log(self.low), np.log(self.high)
            return np.asarray((np.log(within) - low) / ((high - low) or 1.0))
        return np.asarray((within - self.low) / ((self.high - self.low) or 1.0))


class Line(NamedTuple):
    """A line of a chart; `x` and `y` as the axes count."""

    name: str
    css: str
    x: Floats
    y: Floats


class Band(NamedTuple):
    """A band of a stack: how much it adds at each x."""

    name: str
    css: str
    adds: Floats


class Range(NamedTuple):
    """A bar from `begin` to `end` with a mark at its begin, and what it says when pointed at."""

    css: str
    begin: float
    end: float
    says: str


def lines(drawn: Sequence[Line], x: Axis, y: Axis) -> str:
    """Draw lines, as steps: a value holds until the next."""
    paths = "".join(
        f'<path class="line {line.css}" d="{_steps(x.place(line.x), y.place(line.y))}"/>' for line in drawn
    )
    return _plot(paths, x, y, "lines")


def bands(drawn: Sequence[Band], at: Floats, x: Axis, y: Axis) -> str:
    """Draw bands, one upon the other."""
    places = x.place(at)
    below = np.zeros(len(at))
    paths = []
    for band in drawn:
        above = below + band.adds
        there, back = _steps(places, y.place(above)), _steps(places, y.place(below), backwards=True)
        paths.append(
            f'<path class="band {band.css}" d="{there}{back}Z"><title>{escape(band.name)}</title></path>'
        )
        below = above
    return _plot("".join(paths), x, y, "bands")


def cells(kinds: npt.NDArray[np.int64], row_names: Sequence[str], at: Floats, x: Axis) -> str:
    """Draw a map: one row per line of `kinds`, one cell per `at`, of the class `kind-0`, `kind-1`, ...

    Negative kinds are left blank. Where there are many rows only some are named.
    """
    rows = len(kinds)
    edges = np.append(x.place(at), 1.0) * _WIDTH
    tall = _HEIGHT / max(1, rows)
    shapes: dict[int, list[str]] = {}
    for row, line in enumerate(kinds):
        begins = np.flatnonzero(np.diff(line, prepend=-2))
        for begin, end in zip(begins, np.append(begins[1:], len(line)), strict=True):
            if (kind := int(line[begin])) >= 0:
                left, right = edges[begin], edges[end]
                shapes.setdefault(kind, []).append(
                    f"M{left:.1f} {row * tall:.2f}H{right:.1f}v{tall:.2f}H{left:.1f}Z"
                )
    paths = "".join(
        f'<path class="cell kind-{kind}" d="{"".join(shape)}"/>' for kind, shape in shapes.items()
    )
    every = 1 + rows // 30
    named = tuple((rows - row - 0.5, row_names[row]) for row in range(0, rows, every))
    return _plot(paths, x, Axis(low=0, high=rows, ticks=named), "cells", height_px=min(16 * rows, 480))


def ranges(rows: Sequence[tuple[str, Sequence[Range]]], x: Axis) -> str:
    """Draw, for each named row, its ranges below each other."""
    drawn = []
    for name, bars in rows:
        inner = "".join(
            f'<div class="range {bar.css}" title="{escape(bar.says)}"><i style="left:{100 * begin:.2f}%;'
            f'width:{100 * (end - begin):.2f}%"></i><b style="left:{100 * begin:.2f}%"></b></div>'
            for bar in bars
            for begin, end in [x.place([bar.begin, bar.end])]
        )
        drawn.append(
            f'<div class="row"><span class="name">{escape(name)}</span><div class="track">{inner}</div></div>'
        )
    drawn.append(f'<div class="row axis"><span class="name"></span>{_below(x)}</div>')
    return f'<div class="ranges">{"".join(drawn)}</div>'


def legend(named: Sequence[tuple[str, str]]) -> str:
    """Name colours: pairs of a name and a class."""
    items = "".join(f'<li class="{css}"><i></i>{escape(name)}</li>' for name, css in named)
    return f'<ul class="legend">{items}</ul>'


def _steps(x: Floats, y: Floats, *, backwards: bool = False) -> str:
    """A path of steps through points given as parts of the plot."""
    left, up = x * _WIDTH, (1.0 - y) * _HEIGHT
    points = [f"{across:.1f} {high:.2f}" for across, high in zip(left, up, strict=True)]
    if not points:
        return ""
    if backwards:
        return "".join(
            f"L{left[place]:.1f} {up[place]:.2f}" + (f"V{up[place - 1]:.2f}" if place else "")
            for place in range(len(left) - 1, -1, -1)
        )
    return f"M{points[0]}" + "".join(
        f"H{across:.1f}V{high:.2f}" for across, high in zip(left[1:], up[1:], strict=True)
    )


def _plot(inside: str, x: Axis, y: Axis, kind: str, height_px: int = 200) -> str:
    across = "".join(
        f'<path class="grid" d="M0 {(1 - place) * _HEIGHT:.2f}H{_WIDTH:.0f}"/>'
        for place in (float(y.place(value)) for value, _ in y.ticks)
        if kind != "cells"
    )
    beside = "".join(
        f'<span style="top:{100 * (1 - float(y.place(value))):.2f}%">{escape(name)}</span>'
        for value, name in y.ticks
    )
    return (
        f'<div class="chart {kind}" style="--height:{height_px}px"><div class="y">{beside}</div>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        f"{across}{inside}</svg>"
        f"{_below(x)}</div>"
    )


def _below(x: Axis) -> str:
    marks = "".join(
        f'<span style="left:{100 * float(x.place(value)):.2f}%">{escape(name)}</span>'
        for value, name in x.ticks
    )
    return f'<div class="x">{marks}</div>'
