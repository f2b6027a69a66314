"""A job's own `__main__`: what is in it, and that nothing of it outlives the job."""

import gc
import sys
import types
import weakref
from typing import Any

import pytest
from cloudpickle import cloudpickle as internals

from cook_jupyter.payload import main_module, pickling
from cook_jupyter.payload.main_module import FreshMain
from tests.payload.conftest import CallHarness

SOURCE = """
class FitError(Exception):
    def __init__(self, step, *, loss):
        self.step = step

class Outer:
    class Inner:
        pass

def double(x):
    return 2 * x

RATE = 3

def scaled(x):
    return RATE * double(x)
"""


def a_notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `__main__` that a kernel would have."""
    main = types.ModuleType("__main__")
    exec(SOURCE, main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


def test_a_job_finds_what_was_sent_by_its_name_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    main = a_notebook(monkeypatch)
    sent = pickling.to_frames((main.scaled, main.Outer.Inner))

    with FreshMain("/a/script.py"):
        scaled, inner = pickling.from_frames(sent)
        names = {name for name in main_module.namespace() if not name.startswith("__")}
        assert names == {"scaled", "double", "RATE", "Outer"}
        assert main_module.find("Outer.Inner") is inner
        assert main_module.namespace()["__file__"] == "/a/script.py"
        main_module.namespace()["RATE"] = 5
        assert scaled(1) == 10

    assert sys.modules["__main__"] is main
    assert main.RATE == 3


def test_the_arguments_of_a_call_refer_to_what_its_function_has(monkeypatch: pytest.MonkeyPatch) -> None:
    main = a_notebook(monkeypatch)
    shared: list[Any] = [main.Outer(), object()]
    function = [shared, main.scaled]
    frames, memo = pickling.to_frames_with_memo(function)
    arguments = pickling.to_frames((shared, shared[1], main.double), after=memo)

    with FreshMain(None):
        both: Any = pickling.call_from_frames(frames, arguments, shared=True)
        (again, scaled), (first, second, double) = both
        assert scaled.__globals__["double"] is double
        assert scaled.__globals__ is double.__globals__

    assert first is again
    assert second is again[1]


def test_many_calls_of_one_function_are_independent_of_each_other(harness: CallHarness) -> None:
    box: list[int] = []

    def note(other: list[int], value: int) -> tuple[bool, list[int]]:
        box.append(value)
        return other is box, other

    assert [harness.call(note, box, value).value for value in (1, 2)] == [(True, [1]), (True, [2])]
    assert box == []


def test_a_class_that_one_job_changed_is_as_it_was_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    main = a_notebook(monkeypatch)
    sent = pickling.to_frames(main.Outer)
    kept = []

    for _ in range(2):
        with FreshMain(None):
            outer = pickling.from_frames(sent)
            assert not hasattr(outer, "changed")
            outer.changed = True
            kept.append(outer)

    assert pickling.from_frames(pickling.to_frames(kept[0]), keep_classes=True) is main.Outer


def test_what_a_job_had_among_its_globals_is_freed_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    main = a_notebook(monkeypatch)
    exec("class Big: pass\nbig = Big()\ndef f(): return f, big", main.__dict__)
    sent = pickling.to_frames(main.f)
    gc.collect()
    gc.disable()
    try:
        with FreshMain(None):
            big = weakref.ref(pickling.from_frames(sent)()[1])
            assert big() is not None
        assert big() is None
    finally:
        gc.enable()


def test_what_a_job_received_comes_back_to_a_notebook_that_was_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = a_notebook(monkeypatch)
    sent = pickling.to_frames((main.FitError, main.Outer.Inner, main.double))
    with FreshMain(None):
        error_class, inner, double = pickling.from_frames(sent)
        own = type("Own", (), {"__module__": "__main__"})
        main_module.namespace()["Own"] = own
        back = pickling.to_frames((error_class(3, loss=1), inner, double, own))
    del error_class, inner, double, own, main
    again = a_notebook(monkeypatch)
    again.Own = type("Own", (), {})
    monkeypatch.setattr(
        internals, "_DYNAMIC_CLASS_TRACKER_BY_ID", weakref.WeakValueDictionary()
    )  # a new process

    error, inner, double, own = pickling.from_frames(back, keep_classes=True)

    assert type(error) is again.FitError
    assert error.step == 3
    assert inner is again.Outer.Inner
    assert double is again.double
    assert own is not again.Own, "a class that the job defined is not the notebook's"


def test_context_variables_that_a_job_sets_end_with_it(harness: CallHarness) -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)

    def add() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    assert [harness.call(add).value, harness.call(add).value] == [1, 1]
    assert variable.get() == 0


def test_what_main_holds_is_not_sought_under_the_name_that_multiprocessing_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = (
        "import threading\nlock = threading.Lock()\nmissing = object()\nlocal = threading.local()\n"
        "class Named:\n    def __reduce__(self):\n        return 'named'\nnamed = Named()"
    )
    main = a_notebook(monkeypatch)
    exec(source, main.__dict__)
    monkeypatch.setitem(sys.modules, "__mp_main__", main)

    with pytest.raises(TypeError, match="cannot pickle"):
        pickling.to_frames(main.lock)
    sent = pickling.to_frames((main.missing, main.local, main.named))
    with FreshMain(None):
        missing, local, named = pickling.from_frames(sent)
        assert (type(missing).__name__, type(local).__name__) == ("object", "_local")
        assert named is main_module.find("named")
