"""The traceback of a failed cell: short, and about the user's own lines."""

import linecache
import re
from typing import Any

from cook_jupyter.notebook.cell_analysis import anchor
from cook_jupyter.notebook.cell_job import run_cell
from cook_jupyter.notebook.traceback_text import short_traceback, show_as
from cook_jupyter.payload import exception_data

CELL = "<%%cook cell 7.1>"


def failed(source: str) -> BaseException:
    """The exception of a cell after its way from the host."""
    linecache.cache[CELL] = (len(source), None, source.splitlines(keepends=True), CELL)
    try:
        run_cell(anchor([], {"__name__": "__main__"}), source, CELL)
    except Exception as error:  # noqa: BLE001 - whatever the cell raises
        return exception_data.load_exception(exception_data.dump_exception(error))
    raise AssertionError("the cell was to fail")


def text_of(error: BaseException) -> str:
    return re.sub(r"\x1b\[\d+m", "", "\n".join(short_traceback(error, CELL, "in job sweep <3f2a> on a17")))


def test_it_begins_with_the_users_own_cell() -> None:
    text = text_of(failed("def f(x):\n    return 1 / x\n\nf(0)"))

    assert text.splitlines()[:2] == ["ZeroDivisionError  in job sweep <3f2a> on a17", "This cell, line 4"]
    assert "---> 2        return 1 / x" in text
    assert "This cell, line 2, in f" in text
    assert text.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "cell_job" not in text


def test_causes_are_told() -> None:
    text = text_of(failed("try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e"))

    assert "ValueError: no a" in text
    assert "KeyError: 'a'" in text


def test_deep_recursion_is_cut_in_the_middle() -> None:
    text = text_of(failed("def f(n):\n    return f(n + 1)\nf(0)"))

    assert len(text.splitlines()) < 80
    assert "more frames" in text


def test_ipython_shows_the_short_text_for_that_exception_alone() -> None:
    error: Any = show_as(ValueError("x"), ["short"])

    assert error._render_traceback_() == ["short"]
    assert not hasattr(ValueError("y"), "_render_traceback_")
