"""Render views in a notebook: HTML for light and dark themes, and plain text.

Lives here: marks of states, tables, cards, bars.
Not here: their content (`notebook.views`, `notebook.job_views`).

The HTML has no scripts and no style sheets, because untrusted notebooks strip them; colours are variables of
the theme with the text's own colour as a fallback, so that a dark page remains readable. A state is a shape
and a word, which the colour only repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from cook_jupyter.model.printable import printable

_FAINT = "color:var(--jp-ui-font-color2,inherit)"
_LINE = "var(--jp-border-color2,rgba(128,128,128,.4))"


@dataclass(frozen=True, slots=True)
class Mark:
    """Mark of a state: a shape, a word, and a colour that repeats them."""

    shape: str
    word: str
    colour: str

    @property
    def text(self) -> str:
        """Shape and word, as in `● succeeded`."""
        return f"{self.shape} {self.word}"

    @property
    def html(self) -> str:
        """Shape and word as HTML, with the shape in colour and hidden from screen readers."""
        return (
            f'<span style="white-space:nowrap"><span aria-hidden="true" style="color:{self.colour}">'
            f"{self.shape}</span> {self.word}</span>"
        )


MARKS: Mapping[str, Mark] = {
    "waiting": Mark("○", "waiting", "var(--jp-warn-color1,currentColor)"),
    "again": Mark("↻", "waiting again", "var(--jp-warn-color1,currentColor)"),
    "running": Mark("◐", "running", "var(--jp-brand-color1,currentColor)"),
    "success": Mark("●", "succeeded", "var(--jp-success-color1,currentColor)"),
    "failed": Mark("✕", "failed", "var(--jp-error-color1,currentColor)"),
    "killed": Mark("■", "killed", "var(--jp-ui-font-color2,currentColor)"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text, a tooltip, and HTML that replaces the text."""

    text: str
    title: str = ""
    html: str = ""
    right: bool = False

    @property
    def as_html(self) -> str:
        """Content of the `td` element."""
        return self.html or html_text(self.text)


def html_text(text: str) -> str:
    """Escape text for HTML, so that nothing in it is markup or affects the text around it."""
    return escape(printable(text))


def card(head: str, *blocks: str) -> str:
    """Return a headline with blocks of HTML below it, in the font of the page."""
    return (
        '<div style="font-family:var(--jp-ui-font-family,inherit);font-size:var(--jp-ui-font-size1,inherit);'
        'color:var(--jp-ui-font-color1,inherit);line-height:1.5">'
        f'<div style="font-weight:600">{head}</div>{"".join(blocks)}</div>'
    )


def paragraph(text: str, *, faint: bool = False) -> str:
    """Return a line of text."""
    return f"<div{_style(_FAINT) if faint else ''}>{html_text(text)}</div>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str) -> str:
    """Return a table; `caption` is for screen readers."""
    line = f"border:0;border-bottom:1px solid {_LINE};padding:2px 12px 2px 0;vertical-align:top;"
    right = _right_columns(columns, rows)
    head = "".join(
        f'<th scope="col" style="{line}{_FAINT};font-weight:normal;'
        f'text-align:{"right" if to_right else "left"}">'
        f"{html_text(column)}</th>"
        for column, to_right in zip(columns, right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{line}text-align:{"right" if cell.right else "left"}"'
            + (f' title="{html_text(cell.title)}"' if cell.title else "")
            + f">{cell.as_html}</td>"
            for cell in row
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<table aria-label="{html_text(caption)}" style="border-collapse:collapse;margin:4px 0;'
        "font:inherit;color:var(--jp-ui-font-color1,inherit);"  # a page in quirks mode gives tables their own
        f'font-variant-numeric:tabular-nums;background:transparent"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def bar(part: float, whole: float, mark_at: float | None = None) -> str:
    """Return a bar for part of a whole, with a line at `mark_at` (e.g. a share). Text must say the same."""
    percent = _percent(part, whole)
    line = ""
    if mark_at is not None and 0 < mark_at < whole:
        line = (
            f'<span style="position:absolute;left:{_percent(mark_at, whole):.1f}%;top:-2px;bottom:-2px;'
            'border-left:2px solid var(--jp-ui-font-color1,currentColor)"></span>'
        )
    return (
        '<span aria-hidden="true" style="display:inline-block;position:relative;width:10em;height:.6em;'
        f'border:1px solid {_LINE};vertical-align:middle"><span style="display:block;height:100%;'
        f'width:{percent:.1f}%;background:var(--jp-brand-color1,#888)"></span>{line}</span>'
    )


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table as plain text, with two blanks between columns and numbers aligned to the right."""
    lines = [[*columns], *([printable(cell.text) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    right = _right_columns(columns, rows)
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _right_columns(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    return [bool(rows) and all(row[index].right for row in rows) for index in range(len(columns))]


def _percent(part: float, whole: float) -> float:
    return min(100.0, max(0.0, 100.0 * part / whole)) if whole > 0 else 0.0


def _style(text: str) -> str:
    return f' style="{text}"'
