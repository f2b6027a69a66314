"""Which of the notebook's names a cell takes along, and what it refuses."""

import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.notebook.cell import anchor, ends_with_value, names_needed
from cook_jupyter.notebook.cell_job import run_cell
from cook_jupyter.payload import pickling


def needed(source: str, *notebook: str) -> list[str]:
    return names_needed(textwrap.dedent(source), set(notebook))


def run(source: str, notebook: dict[str, Any], *, out: tuple[str, ...] = ()) -> Any:
    """Send a cell through the pickler and back, as a job would."""
    source = textwrap.dedent(source)
    notebook.setdefault("__name__", "__main__")
    sent = pickling.to_frames((anchor(names_needed(source, notebook), notebook),))
    (arrived,) = pickling.from_frames(sent)
    outcome = run_cell(arrived, source, "<cell>", out=out, with_value=ends_with_value(source))
    return pickling.from_frames(pickling.to_frames(outcome))


def value_of(outcome: Any) -> Any:
    return pickling.from_frames(outcome.value.frames, keep_classes=True)


# --- names ---


def test_names_that_are_read_are_needed() -> None:
    assert needed("y = x + f(2)", "x", "f", "z") == ["f", "x"]


def test_names_that_the_cell_sets_first_are_not_needed() -> None:
    assert needed("x = 1\nprint(x)", "x") == []
    assert needed("import numpy as x\nx.zeros(3)", "x") == []
    assert needed("def x(): ...\nx()", "x") == []
    assert needed("a, (b, *c) = 1, (2, 3)\na + b, c", "a", "b", "c") == []


def test_names_that_are_read_before_they_are_set_are_needed() -> None:
    assert needed("x = x + 1", "x") == ["x"]
    assert needed("x += 1", "x") == ["x"]
    assert needed("del x", "x") == ["x"]


def test_names_that_may_not_have_been_set_are_needed() -> None:
    assert needed("if c:\n    x = 1\nprint(x)", "x", "c") == ["c", "x"]
    assert needed("for x in ():\n    pass\nprint(x)", "x") == ["x"]


def test_names_inside_functions_and_comprehensions_are_seen() -> None:
    assert needed("def f():\n    return [x * k for x in data]\nf()", "x", "k", "data") == ["data", "k"]


def test_the_functions_own_names_are_not_the_notebooks() -> None:
    assert needed("def f(x):\n    y = x\n    return lambda z: y + z\nf(1)", "x", "y", "z") == []


def test_what_belongs_to_the_shell_stays_there() -> None:
    assert needed("display(_)", "display", "_", "In", "Out") == []


@pytest.mark.parametrize(
    "source", ["get_ipython().run_line_magic('time', '1')", "get_ipython().system('ls')"]
)
def test_magics_and_shell_commands_are_refused_with_the_next_step(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line 2 of the cell .* subprocess.run"):
        needed(f"a = 1\n{source}")


@given(names=st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_an_anchor_holds_just_the_names_it_was_given(names: list[str]) -> None:
    notebook = {name: name.upper() for name in "abcdefgh"} | {"__name__": "__main__"}

    (arrived,) = pickling.from_frames(pickling.to_frames((anchor(names, notebook),)))

    assert {name for name in "abcdefgh" if name in arrived.__globals__} == set(names)


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("1 + 1", True),
        ("1 + 1;", False),
        ("1 + 1;  # no", False),
        ("'a;b'", True),
        ("x = 1", False),
        ("", False),
        ("x = 1; x", True),
        ("f(\n 1\n)", True),
    ],
)
def test_the_last_line_is_a_value_unless_a_semicolon_hides_it(source: str, shows: bool) -> None:
    assert ends_with_value(source) is shows


# --- running ---


def test_a_cell_gives_its_last_value() -> None:
    assert value_of(run("y = x * 2\ny + 1", {"x": 20})) == 41


def test_a_cell_sets_what_functions_of_the_notebook_read() -> None:
    notebook: dict[str, Any] = {"__name__": "__main__"}
    exec("rate = 1\ndef grown(x): return x * rate", notebook)

    assert value_of(run("rate = 3\ngrown(2)", notebook)) == 6
    assert notebook["rate"] == 1


def test_names_come_back_and_keep_their_class() -> None:
    notebook: dict[str, Any] = {"__name__": "__main__"}
    exec("class Point:\n    def __init__(self, x): self.x = x", notebook)

    outcome = run("p = Point(3)", notebook, out=("p",))

    point = pickling.from_frames(outcome.out["p"].frames, keep_classes=True)
    assert isinstance(point, notebook["Point"])
    assert outcome.value is None


def test_a_name_that_was_not_set_is_named() -> None:
    with pytest.raises(NameError, match="'missing'"):
        run("x = 1", {}, out=("missing",))


def test_what_cannot_come_back_does_not_keep_the_rest() -> None:
    outcome = run("import threading\nlock = threading.Lock()\nn = 3\nlock", {}, out=("lock", "n"))

    assert "cannot be sent back" in outcome.out["lock"].problem
    assert pickling.from_frames(outcome.out["n"].frames) == 3
    assert "cannot be sent back" in outcome.value.problem
    assert "lock" in outcome.shown["text/plain"]


def test_await_works_at_the_top_of_a_cell() -> None:
    assert value_of(run("import asyncio\nawait asyncio.sleep(0, 'done')", {})) == "done"


def test_displays_come_along_in_their_order() -> None:
    outcome = run(
        """
        class Rich:
            def __repr__(self): return "plain"
            def _repr_html_(self): return "<b>rich</b>"
        display(1, Rich())
        display({"text/plain": "raw"}, raw=True)
        from IPython.display import display as shown
        shown(2)
        """,
        {},
    )

    assert [bundle["text/plain"] for bundle in outcome.displays] == ["1", "plain", "raw", "2"]
    assert outcome.displays[1]["text/html"] == "<b>rich</b>"


def test_figures_that_are_shown_or_left_open_come_along() -> None:
    pytest.importorskip("matplotlib")
    outcome = run(
        """
        import matplotlib.pyplot as plt
        plt.plot([1, 2]); plt.show()
        display("between")
        plt.plot([2, 1]);
        """,
        {},
    )

    assert ["image/png" in bundle for bundle in outcome.displays] == [True, False, True]


def test_a_cell_that_fails_brings_what_it_had_displayed() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        run("display('before')\n1 / 0", {})

    assert raised.value.__cook_displays__[0]["text/plain"] == "'before'"  # type: ignore[attr-defined]


def test_a_cell_leaves_nothing_behind_in_a_warm_worker() -> None:
    import builtins

    before = getattr(builtins, "display", None)
    run("display(1)", {})

    assert getattr(builtins, "display", None) is before
