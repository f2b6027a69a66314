"""A traceback from a host names the file, the line and the source of the user's own code."""

import functools
import linecache
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cook_jupyter.payload import exception_data, pickling
from tests.payload.conftest import CallHarness

# A cell of a notebook: IPython compiles it under a name that is no file, and gives its lines to linecache.
CELL_FILE = "/no/such/folder/ipykernel_4711/123456.py"
CELL = """\
import functools
def plain(x):
    return x / 0  # in plain
def outer(x):
    def inner(y):
        return y / 0  # in inner
    return inner(x)
short = lambda x: x / 0  # in a lambda
class Model:
    def __init__(self, x=0):
        self.x = x
    def method(self, x):
        return x / 0  # in a method
    @classmethod
    def build(cls, x):
        return cls(x / 0)  # in a class method
    @staticmethod
    def static(x):
        return x / 0  # in a static method
    @property
    def value(self):
        return 1 / 0  # in a property
    class Inner:
        def method(self, x):
            return x / 0  # in an inner class
def numbers(x):
    yield x
    yield x / 0  # in a generator
def generator(x):
    return list(numbers(x))
def comprehension(x):
    return [y / 0 for y in range(x)]  # in a comprehension
def generator_expression(x):
    return sum(y / 0 for y in range(x))  # in a generator expression
def logged(f):
    @functools.wraps(f)
    def wrapper(*args):
        return f(*args)
    return wrapper
@logged
def decorated(x):
    return x / 0  # in a decorated function
def reads_property(x):
    return Model(x).value
def raises_from(x):
    try:
        return x / 0  # in what came before
    except ZeroDivisionError as error:
        raise ValueError("no") from error  # in a chain
class CellError(Exception):
    def __str__(self):
        return "own text"
def raises_own(x):
    raise CellError(x)  # of an own class
"""


@pytest.fixture
def cell() -> Iterator[dict[str, Any]]:
    """The names of a cell that was run in a notebook."""
    linecache.cache[CELL_FILE] = (len(CELL), None, CELL.splitlines(keepends=True), CELL_FILE)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(CELL, CELL_FILE, "exec"), names)
    yield names
    del linecache.cache[CELL_FILE]


CALLS: dict[str, Callable[[dict[str, Any]], Callable[..., Any]]] = {
    "in plain": lambda cell: cell["plain"],
    "in inner": lambda cell: cell["outer"],
    "in a lambda": lambda cell: cell["short"],
    "in a method": lambda cell: cell["Model"]().method,
    "in a class method": lambda cell: cell["Model"].build,
    "in a static method": lambda cell: cell["Model"].static,
    "in a property": lambda cell: cell["reads_property"],
    "in an inner class": lambda cell: cell["Model"].Inner().method,
    "in a generator": lambda cell: cell["generator"],
    "in a comprehension": lambda cell: cell["comprehension"],
    "in a generator expression": lambda cell: cell["generator_expression"],
    "in a decorated function": lambda cell: cell["decorated"],
    "in a chain": lambda cell: cell["raises_from"],
    "of an own class": lambda cell: cell["raises_own"],
    "in plain ": lambda cell: functools.partial(cell["plain"]),
}


@pytest.mark.parametrize("place", CALLS)
def test_a_traceback_names_the_cell_the_line_and_its_source(
    harness: CallHarness, cell: dict[str, Any], place: str
) -> None:
    error = harness.call_elsewhere(CALLS[place](cell), 1).error

    assert error is not None
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert last.filename == CELL_FILE
    assert last.line == linecache.getline(CELL_FILE, last.lineno or 0).strip()
    assert last.line.endswith(f"# {place.strip()}")


def test_the_cause_of_an_exception_has_its_source_lines_too(
    harness: CallHarness, cell: dict[str, Any]
) -> None:
    error = harness.call_elsewhere(cell["raises_from"], 1).error

    assert error is not None
    assert error.__cause__ is not None
    assert "# in what came before" in "".join(traceback.format_exception(error))


def test_each_call_of_a_bundle_has_its_own_traceback(harness: CallHarness, cell: dict[str, Any]) -> None:
    errors = harness.bundle(cell["comprehension"], [1, 0, 2]).errors

    lines = {place: traceback.extract_tb(error.__traceback__)[-1].line for place, error in errors.items()}
    assert set(lines) == {0, 2}
    assert all(line is not None and line.endswith("# in a comprehension") for line in lines.values())


def test_a_function_that_a_job_returns_keeps_the_name_of_its_file(
    harness: CallHarness, cell: dict[str, Any]
) -> None:
    logged, plain = cell["logged"], cell["plain"]  # the dictionary itself holds all builtins of this process
    function = harness.call_elsewhere(lambda: logged(plain)).value

    with pytest.raises(ZeroDivisionError) as caught:
        function(1)
    assert "# in plain" in "".join(traceback.format_exception(caught.value))


def test_an_exception_class_of_a_cell_travels_with_the_file_of_its_methods(cell: dict[str, Any]) -> None:
    again = pickling.from_frames([pickling.dumps(cell["CellError"](1))])

    method = type(again).__str__
    assert isinstance(method, types.FunctionType)
    assert method.__code__.co_filename == CELL_FILE


def test_frames_keep_the_first_line_of_their_function_and_mark_no_columns(
    harness: CallHarness, cell: dict[str, Any]
) -> None:
    error = harness.call_elsewhere(cell["outer"], 1).error

    assert error is not None
    assert error.__traceback__ is not None
    last = list(traceback.walk_tb(error.__traceback__))[-1][0]
    assert last.f_lineno - last.f_code.co_firstlineno == 1
    assert linecache.getline(CELL_FILE, last.f_code.co_firstlineno).strip() == "def inner(y):"
    assert "^" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("line", [1, 2, 31, 32, 33, 2047, 2048, 70_000])
def test_a_frame_far_below_the_first_line_of_its_function_keeps_its_line(line: int) -> None:
    frames = [("cell.py", "f", line, "__main__", 1)]

    (frame,) = traceback.extract_tb(exception_data._traceback(frames))

    assert (frame.filename, frame.name, frame.lineno) == ("cell.py", "f", line)
