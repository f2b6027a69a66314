"""Which of the notebook's names a cell takes along, and what it refuses."""

import symtable
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.notebook.cell_analysis import anchor, ends_with_value, names_needed
from cook_jupyter.notebook.cell_job import run_cell
from cook_jupyter.notebook.cell_names import names_bound
from cook_jupyter.payload import pickling


def needed(source: str, *notebook: str) -> list[str]:
    found = names_needed(textwrap.dedent(source), set(notebook))
    return sorted((*found.always, *found.perhaps))


def run(source: str, notebook: dict[str, Any], *, out: tuple[str, ...] = ()) -> Any:
    """Send a cell through the pickler and back, as a job would."""
    source = textwrap.dedent(source)
    notebook.setdefault("__name__", "__main__")
    sent = pickling.to_frames((anchor(needed(source, *notebook), notebook),))
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


BINDINGS = {  # each form that binds `x` before the cell reads it
    "assignment": "x = 1",
    "several targets": "x = y = 1",
    "star target": "*x, y = 1, 2",
    "nested targets": "(y, [x, *_]) = 1, (2, 3)",
    "annotated assignment": "x: int = 1",
    "walrus": "print(x := 1)",
    "walrus in a condition": "if (x := 1):\n    pass",
    "with": "with open('p') as x:\n    pass",
    "with, read inside": "with open('p') as x:\n    print([line for line in x])",
    "several withs, read inside": "with open('p') as y, open(y) as x:\n    print(x)",
    "for, read inside": "for x in [1]:\n    print(x)",
    "for with several targets, read inside": "for y, (x, *_) in []:\n    print(x)",
    "import": "import x",
    "import of a submodule": "import x.y",
    "import as": "import y as x",
    "from import": "from y import z as x",
    "def": "def x(): ...",
    "async def": "async def x(): ...",
    "class": "class x: ...",
    "except, read inside": "try:\n    pass\nexcept E as x:\n    print(x)",
    "except star, read inside": "try:\n    pass\nexcept* E as x:\n    print(x)",
    "try and else": "try:\n    x = 1\nexcept E:\n    raise",
    "try and except": "try:\n    x = f()\nexcept E:\n    x = 2",
    "finally": "try:\n    pass\nfinally:\n    x = 1",
    "both branches": "if y:\n    x = 1\nelse:\n    x = 2",
    "one branch leaves": "if y:\n    raise E\nelse:\n    x = 2",
    "while True": "while True:\n    x = 1\n    break",
    "capture pattern": "match y:\n    case x:\n        pass",
    "capture in a sequence, read inside": "match y:\n    case [x, *_]:\n        print(x)",
    "star capture, read inside": "match y:\n    case [_, *x]:\n        print(x)",
    "capture in a mapping, read inside": "match y:\n    case {'k': _, **x}:\n        print(x)",
    "as pattern, read inside": "match y:\n    case [_] as x if x:\n        print(x)",
    "comprehension": "print([x for x in y])",
    "nested comprehension": "print({x: z for z in y for x in z})",
    "generator": "print(sum(x for x in y))",
    "deletion": "x = 1\ndel x",
    "augmented assignment": "x = 1\nx += 1",
    "asynchronous with": "async with y() as x:\n    print(x)",
    "asynchronous for": "async for x in y():\n    print(x)",
    "class body": "class A:\n    x = 1\n    z = x",
    "parameter": "def f(x, *y):\n    return lambda: x",
    "local variable": "def f():\n    for x in y:\n        print(x)",
    "global": "def f():\n    global x\n    x = 1\n    return x\nx = 2",
}
if sys.version_info >= (3, 12):
    BINDINGS |= {"type alias": "type x = int", "type parameter": "def f[x](v: x) -> x: ..."}
READ_INSIDE = {
    "comprehension",
    "nested comprehension",
    "generator",
    "class body",
    "parameter",
    "local variable",
}


@pytest.mark.parametrize("form", BINDINGS)
def test_a_name_that_the_cell_binds_before_it_reads_it_is_not_needed(form: str) -> None:
    assert needed(BINDINGS[form], "x") == []
    lasts = "read inside" not in form and "asynchronous" not in form and form not in READ_INSIDE
    if lasts and form not in ("deletion", "type parameter"):
        assert needed(f"{BINDINGS[form]}\nprint(x)", "x") == []


@pytest.mark.parametrize(
    "source",
    [
        "x.append(1)",
        "x: int",
        "print(x)\nx = 1",
        "for y in x:\n    x = 1",
        "for x in y:\n    pass\nprint(x)",
        "while y:\n    x = 1\nprint(x)",
        "with suppress(E):\n    x = f()\nprint(x)",
        "try:\n    x = f()\nexcept E:\n    pass\nprint(x)",
        "try:\n    f()\nexcept E as x:\n    pass\nprint(x)",
        "with suppress(E), f() as x:\n    pass\nprint(x)",
        "match y:\n    case [x]:\n        pass\nprint(x)",
        "y and (x := 1)\nprint(x)",
        "[(x := z) for z in y]\nprint(x)",
        "[x for x in x]",
        "class A:\n    x = x",
        "class A:\n    x = 1\n    def f(self):\n        return x",
        "class A:\n    x = 1\n    y = [x for _ in z]",
        "class A:\n    x = 1\n    y = [[x for _ in z] for _ in z]",
        "class A:\n    x = 1\n    y = {k: x for k in z}",
        "class A:\n    x = 1\n    class B:\n        y = x",
        "class A:\n    x = 1\n    del x\n    y = x",
        "def f():\n    global x\n    x += 1",
        "def f():\n    return x",
        "lambda: x",
        "f'{1:>{x}}'",
        "@x\ndef f(): ...",
        "def f(y=x): ...",
        "x = 1\ndel x\nprint(x)",
        "if y:\n    del x\nx = 1",
        "x[0] = 1",
        "x.y = 1",
    ],
)
def test_a_name_that_may_be_read_before_the_cell_binds_it_is_needed(source: str) -> None:
    assert needed(source, "x") == ([] if source == "x: int" else ["x"])


def test_a_cell_knows_which_of_the_names_it_needs_it_binds_itself() -> None:
    found = names_needed(
        "if y:\n    x = z\nprint(x)\ndef f():\n    global w\n    w += 1", {"w", "x", "y", "z"}
    )

    assert (found.always, found.perhaps) == (("y", "z"), ("w", "x"))


NAMES = "abcd"
name = st.sampled_from(NAMES)
SIMPLE = [
    "see({0})",
    "{0} = 1",
    "{0} += 1",
    "{0}: int = 2",
    "{0}, *{1} = 1, 2, 3",
    "see({0} := 3)",
    "flag() and ({0} := 4)",
    "import math as {0}",
    "from math import pi as {0}",
    "del {0}",
    "see([{0} for {0} in (1, 2)])",
    "see([{1} for {0} in (1, 2)])",
    "see([({0} := {1}) for _ in range(flag())])",
    "(lambda: see({0}))()",
    "(lambda {0}=1: see({0}, {1}))()",
    "see(len(f'{{{0}:>{{{1}}}}}'))",
    "raise ValueError",
    "maybe_raise()",
]
BLOCKS = [
    "if flag():\n{body}\nelse:\n{other}",
    "if flag():\n{body}",
    "while flag():\n{body}\nelse:\n{other}",
    "while flag():\n{body}\n    break",
    "for {0} in range(flag()):\n{body}\n    continue\nelse:\n{other}",
    "for {0}, *{1} in [(1, 2)] * flag():\n{body}",
    "with swallow() as {0}:\n{body}",
    "with swallow() as {0}, swallow() as ({1}):\n{body}",
    "try:\n{body}\nexcept ValueError as {0}:\n{other}",
    "try:\n{body}\nexcept (ValueError, TypeError):\n{other}\nelse:\n    {0} = 1",
    "try:\n{body}\nfinally:\n{other}",
    "try:\n{body}\nexcept* ValueError as {0}:\n{other}",
    "def {0}():\n{body}\nif flag():\n    {0}()",
    "def {0}():\n    global {1}\n{body}\n{0}()",
    "class {0}:\n{body}",
    "match [1] * flag() or 7:\n    case [{0}]:\n        see({0})\n    case {1}:\n        pass\n{body_here}",
    "match {{'k': 1}}:\n    case {{'k': 0, **{0}}}:\n        1\n    case {{'k': {1}}} if flag():\n        1",
]


@st.composite
def blocks(draw: st.DrawFn, depth: int = 2) -> str:
    """Draw some statements, each a form that binds or reads names."""
    lines = []
    for _ in range(draw(st.integers(1, 3))):
        first, second = draw(name), draw(name)
        form = draw(st.sampled_from(SIMPLE if depth == 0 else SIMPLE + BLOCKS * 2))
        parts = {
            part: textwrap.indent(draw(blocks(depth=depth - 1)), "    ") if f"{{{part}}}" in form else ""
            for part in ("body", "other", "body_here")
        }
        parts["body_here"] = textwrap.dedent(parts["body_here"])
        lines.append(form.format(first, second, **parts))
    return "\n".join(lines)


def described(value: object) -> str:
    """Return what a value is, without addresses."""
    if isinstance(value, list | dict):
        return str([described(item) for item in value])
    return repr(value) if isinstance(value, int | str) else type(value).__name__


def outcome_of(source: str, notebook: dict[str, int], choices: list[bool]) -> tuple[list[str], str]:
    """Run a cell; return what it saw, and how it ended."""
    seen: list[str] = []
    left = list(choices)

    def flag() -> bool:
        return left.pop() if left else False

    def maybe_raise() -> None:
        if flag():
            raise ValueError

    class swallow:  # noqa: N801 - it reads like a function in cells
        def __enter__(self) -> int:
            return 9

        def __exit__(self, kind: object, *_: object) -> bool:
            return kind is ValueError and flag()

    def see(*values: object) -> int:
        seen.extend(map(described, values))
        return 1

    tools = {"see": see, "flag": flag, "maybe_raise": maybe_raise, "swallow": swallow}
    try:
        exec(compile(source, "<cell>", "exec", dont_inherit=True), {**tools, **notebook})
    except BaseException as error:  # noqa: BLE001 - how it ended is what is compared
        return seen, type(error).__name__
    return seen, "good"


@settings(max_examples=200)
@given(source=blocks(), choices=st.lists(st.booleans(), max_size=20))
def test_a_cell_runs_alike_with_the_names_it_needs_and_with_all_of_the_notebook(
    source: str, choices: list[bool]
) -> None:
    try:
        compile(source, "<cell>", "exec", dont_inherit=True)
    except SyntaxError:
        reject()
    notebook = {letter: 10 + number for number, letter in enumerate(NAMES)}
    sent = {letter: notebook[letter] for letter in needed(source, *NAMES)}

    assert outcome_of(source, sent, choices) == outcome_of(source, notebook, choices)


@given(source=blocks())
def test_a_cell_binds_no_names_but_those_of_the_compilers_symbol_table(source: str) -> None:
    try:
        code = compile(source, "<cell>", "exec", dont_inherit=True)
    except SyntaxError:
        reject()
    tables = [symtable.symtable(source, "<cell>", "exec")]
    assigned = {
        symbol.get_name()
        for symbol in tables[0].get_symbols()
        # From Python 3.12 on `[(a := 1) for _ in x]` has no table of its own, and `a` is a declared global.
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_declared_global()
    }
    while tables:
        table = tables.pop()
        tables += table.get_children()
        assigned |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_declared_global() and (symbol.is_assigned() or symbol.is_imported())
        }

    assert names_bound(code) & set(NAMES) <= assigned  # the compiler drops what can never be reached


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
