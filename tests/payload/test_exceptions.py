"""The exception that arrives is the one that was raised: class, attributes, notes, cause, context, groups."""

import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import OutOfMemory
from cook_jupyter.payload import exception_data
from tests.payload.conftest import CallHarness
from tests.payload.test_calls import frames_of


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CallHarness]:
    """One host for all tests here: it takes seconds to import what this module does."""
    made = CallHarness(tmp_path_factory.mktemp("harness"))
    yield made
    made.close()


class TwoArguments(Exception):
    """As in any library: `args` is not what `__init__` takes."""

    def __init__(self, step: int, *, loss: float) -> None:
        super().__init__(f"no progress at step {step}")
        self.step = step
        self.loss = loss


class NoSuper(Exception):
    """Never calls the `__init__` of its base."""

    def __init__(self, code: int) -> None:
        self.code = code


class Slotted(KeyError):
    __slots__ = ("where",)

    def __init__(self, key: str, where: str) -> None:
        super().__init__(key)
        self.where = where


class OwnNew(ValueError):
    b: int

    def __new__(cls, a: int, b: int) -> Self:
        made = super().__new__(cls, a)
        made.b = b
        return made

    def __init__(self, a: int, b: int) -> None:
        self.both = (a, b)


class FromOsError(OSError):
    def __init__(self, path: str, hint: str) -> None:
        super().__init__(2, "gone", path)
        self.hint = hint


class NoRoom(TwoArguments, MemoryError):
    """The first built-in class in its order has a `__new__` that refuses it."""


class OwnAndOs(TwoArguments, OSError):
    """The built-in class with fields of its own stands behind another."""


class OwnReduce(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a + b)
        self.a, self.b = a, b

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduce, (self.a, self.b)


class BrokenReduce(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)
        self.b = b

    def __reduce__(self) -> tuple[Any, ...]:
        return BrokenReduce, (1,)


class Frozen(Exception):
    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(name)


class Several(ExceptionGroup[Exception]):
    code: int

    def __new__(cls, errors: list[Exception], code: int) -> Self:
        made = super().__new__(cls, "several", errors)
        made.code = code
        return made

    def derive(self, excs: Any) -> Any:
        return Several(list(excs), self.code)


def _with_attributes() -> Exception:
    error = ValueError("x", [1])
    error.data = {"a": 1}  # type: ignore[attr-defined]
    error.add_note("a note")
    return error


def _http() -> Exception:
    import urllib.error
    from email.message import Message

    return urllib.error.HTTPError("http://x/", 404, "Not Found", Message(), None)


MADE: list[Callable[[], BaseException]] = [
    lambda: TwoArguments(3, loss=0.5),
    lambda: NoSuper(7),
    lambda: Slotted("k", "here"),
    lambda: OwnNew(1, 2),
    lambda: FromOsError("/a", "try b"),
    lambda: OwnAndOs(3, loss=0.5),
    lambda: OwnReduce(1, 2),
    lambda: BrokenReduce(1, 2),
    lambda: Frozen("x"),
    lambda: Several([TwoArguments(1, loss=2.0), KeyError("k")], 9),
    lambda: ExceptionGroup("outer", [ValueError(1), ExceptionGroup("inner", [Slotted("k", "w")])]),
    _with_attributes,
    _http,
    lambda: FileNotFoundError(2, "No such file", "/tmp/x", None, "/tmp/y"),
    lambda: BlockingIOError(11, "busy", 5),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    lambda: ImportError("no", name="mod", path="/p"),
    lambda: SyntaxError("bad", ("file.py", 3, 4, "text", 3, 9)),
    lambda: StopIteration(5),
    lambda: NameError("n", name="thing"),
    lambda: AttributeError("a", name="attr"),
    lambda: subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
    lambda: __import__("json").JSONDecodeError("bad", "{x", 1),
]


def _facts(error: BaseException) -> Any:
    """What somebody who catches an exception may look at."""
    names: tuple[str, ...] = (
        "errno",
        "strerror",
        "filename",
        "filename2",
        "characters_written",
        "name",
        "path",
        "msg",
        "lineno",
    )
    names += (
        "offset",
        "text",
        "end_offset",
        "value",
        "code",
        "encoding",
        "object",
        "start",
        "reason",
        "where",
    )
    attributes = {
        name: value
        for name, value in vars(error).items()
        if name not in ("__notes__", "fp", "file", "_closer", "hdrs")
    }
    return (
        type(error),
        str(error),
        _facts_of_args(error),
        {name: repr(value) for name, value in attributes.items()},
        {name: repr(getattr(error, name, "not there")) for name in names},
        [note for note in getattr(error, "__notes__", ()) if "Cook job" not in note],
        [_facts(part) for part in getattr(error, "exceptions", ())],
    )


def _facts_of_args(error: BaseException) -> Any:
    return () if isinstance(error, BaseExceptionGroup) else repr(error.args)


@pytest.mark.parametrize("kind", [NoRoom, OutOfMemory])
def test_an_exception_is_the_same_one_again_where_its_first_built_in_class_cannot_make_it(
    kind: type[Exception],
) -> None:
    error = NoRoom(3, loss=0.5) if kind is NoRoom else OutOfMemory("too much", host="a17")

    again = exception_data.load_exception(exception_data.dump_exception(error))

    assert _facts(again) == _facts(error)


@pytest.mark.parametrize("make", MADE, ids=lambda make: type(make()).__name__)
def test_an_exception_arrives_as_the_one_that_was_raised(
    harness: CallHarness, make: Callable[[], Exception]
) -> None:
    def fail() -> NoReturn:
        raise make()

    error = harness.call_elsewhere(fail).error

    assert error is not None
    assert _facts(error) == _facts(make())
    assert frames_of(error)[-1] == "fail"


# As a value BrokenReduce is pickled as it wants to be, and that cannot be read anywhere.
@pytest.mark.parametrize(
    "make",
    [make for make in MADE if type(make()) is not BrokenReduce],
    ids=lambda make: type(make()).__name__,
)
def test_an_exception_that_is_returned_arrives_as_itself(
    harness: CallHarness, make: Callable[[], Exception]
) -> None:
    value = harness.call_elsewhere(lambda: [make()]).value

    assert _facts(value[0]) == _facts(make())


def test_what_the_chain_of_an_exception_shares_is_shared_when_it_arrives(harness: CallHarness) -> None:
    def fail() -> NoReturn:
        try:
            raise TwoArguments(1, loss=2.0)
        except TwoArguments as first:
            try:
                raise FromOsError("/a", "h")
            except FromOsError:
                second = RuntimeError("at last")
                second.first = first  # type: ignore[attr-defined]
                raise second from first

    error = harness.call_elsewhere(fail).error

    assert isinstance(error, RuntimeError)
    assert type(error.__cause__) is TwoArguments
    assert error.first is error.__cause__  # type: ignore[attr-defined]
    assert type(error.__context__) is FromOsError
    assert type(error.__context__.__context__) is TwoArguments
    assert error.__suppress_context__
    assert frames_of(error.__cause__)[-1] == "fail"


def test_an_attribute_that_cannot_travel_costs_the_exception_nothing_else(harness: CallHarness) -> None:
    def fail() -> NoReturn:
        error = TwoArguments(3, loss=0.5)
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        error.args = ("text", threading.Lock())
        error.add_note("mine")
        raise error from FromOsError("/a", "h")

    error = harness.call_elsewhere(fail).error

    assert type(error) is TwoArguments
    assert (error.step, error.loss, error.args[0]) == (3, 0.5, "text")
    assert "lock object" in error.args[1]
    assert not hasattr(error, "lock")
    assert error.__notes__[0] == "mine"
    assert any("attribute 'lock'" in note and "args[1]" in note for note in error.__notes__)
    assert isinstance(error.__cause__, FromOsError)
    assert error.__cause__.hint == "h"


def test_a_group_with_a_part_that_cannot_travel_whole_keeps_all_parts(harness: CallHarness) -> None:
    def fail() -> NoReturn:
        bad = ValueError("bad")
        bad.lock = threading.Lock()  # type: ignore[attr-defined]
        raise Several([TwoArguments(1, loss=2.0), bad], 9)

    error = harness.call_elsewhere(fail).error

    assert isinstance(error, Several)
    assert error.code == 9
    assert [type(part) for part in error.exceptions] == [TwoArguments, ValueError]
    with pytest.raises(ExceptionGroup):
        raise error


def test_an_exception_with_a_broken_str_arrives_too(harness: CallHarness) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

        def __reduce__(self) -> NoReturn:
            raise RuntimeError

    def fail() -> NoReturn:
        raise Mute("a")

    error = harness.call(fail).error

    assert type(error) is Mute
    assert error.args == ("a",)


def test_an_exception_whose_class_is_not_known_here_has_a_stand_in(
    harness: CallHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("elsewhere")
    exec("class Lost(KeyError):\n    pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    try:
        raise module.Lost("sand") from TwoArguments(1, loss=2.0)
    except KeyError as raised:
        data = exception_data.dump_exception(raised)
    monkeypatch.delitem(sys.modules, "elsewhere")

    error = exception_data.load_exception(data)

    assert isinstance(error, exception_data.RemoteException)
    assert isinstance(error, KeyError)
    assert str(error) == "'sand'"
    assert error.remote_type == "elsewhere.Lost"
    assert "Lost" in error.remote_traceback
    assert type(error.__cause__) is TwoArguments, "the rest of the chain is known"


def test_bundles_give_each_exception_as_it_was_raised(harness: CallHarness) -> None:
    def fail(step: int) -> NoReturn:
        raise TwoArguments(step, loss=step / 2)

    errors = harness.bundle(fail, [1, 2]).errors

    assert [(type(error), error.step) for error in errors.values()] == [(TwoArguments, 1), (TwoArguments, 2)]  # type: ignore[attr-defined]


@given(
    st.recursive(
        st.builds(TwoArguments, st.integers(), loss=st.floats(allow_nan=False))
        | st.builds(Slotted, st.text(), st.text())
        | st.builds(FromOsError, st.text(), st.text())
        | st.builds(ValueError, st.text(), st.integers()),
        lambda parts: st.builds(Several, st.lists(parts, min_size=1, max_size=3), st.integers()),
        max_leaves=8,
    )
)
def test_any_tree_of_groups_arrives_as_it_was_raised(error: Exception) -> None:
    again = exception_data.load_exception(exception_data.dump_exception(error))

    assert _facts(again) == _facts(error)


def test_an_error_of_the_user_that_is_a_memory_error_arrives_as_it_is(harness: CallHarness) -> None:
    def fail() -> NoReturn:
        raise NoRoom(3, loss=0.5)

    error = harness.call_elsewhere(fail).error

    assert type(error) is NoRoom
    assert (error.step, error.loss) == (3, 0.5)
