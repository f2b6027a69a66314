"""A function is pickled again unless nothing in its pickle can have changed."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cook_jupyter.executor.functions import FunctionCache
from cook_jupyter.payload.encoding import encode_function

LIMIT = 10


class Sender:
    """Counts what was pickled."""

    def __init__(self) -> None:
        self.functions = FunctionCache()
        self.pickled = 0

    def digest(self, function: Callable[..., Any]) -> str:
        def send(_: object) -> None:
            self.pickled += 1

        found = self.functions.reference_of(function, send).digest
        assert found == encode_function(function).digest, "an old pickle was used for a changed function"
        return found


def a_function(code: str, **namespace: Any) -> Any:
    """A function as a notebook cell would define it."""
    names: dict[str, Any] = {"__name__": "__main__", **namespace}
    exec(code, names)
    return names["f"]


@pytest.mark.parametrize(
    "function",
    [
        a_function("f = lambda x: x + 1"),
        a_function("def f(x, *, y=2, z=(1, 'a')):\n    return x + y"),
        a_function("def f(x):\n    return x + rate", rate=3),
        a_function("def f(x):\n    return np.sqrt(len(x))", np=np),
        a_function("def g(x):\n    return x + rate\ndef f(x):\n    return g(x)", rate=1),
        a_function("def f(n):\n    return 1 if n < 2 else n * f(n - 1)"),
        a_function(
            "def f(x):\n    return partial(wraps, x)", partial=functools.partial, wraps=functools.wraps
        ),
    ],
)
def test_a_function_that_cannot_have_changed_is_pickled_once(function: Any) -> None:
    sender = Sender()

    assert sender.digest(function) == sender.digest(function)

    assert sender.pickled == 1


def test_a_global_that_was_given_another_value_is_seen() -> None:
    sender = Sender()
    function = a_function("def f():\n    return rate", rate=1)
    before = sender.digest(function)

    function.__globals__["rate"] = 2

    assert sender.digest(function) != before


def test_a_helper_that_was_defined_anew_is_seen() -> None:
    sender = Sender()
    function = a_function("def g():\n    return 1\ndef f():\n    return g()")
    before = sender.digest(function)

    exec("def g():\n    return 2", function.__globals__)

    assert sender.digest(function) != before


def test_two_names_that_change_places_are_seen() -> None:
    sender = Sender()
    function = a_function("def f():\n    return a, b, c", a=1, b=2, c=1)
    before = sender.digest(function)

    function.__globals__["c"] = 2

    assert sender.digest(function) != before


def test_a_closure_that_was_rebound_is_seen() -> None:
    sender = Sender()

    def make() -> tuple[Callable[[], int], Callable[[int], None]]:
        value = 1

        def read() -> int:
            return value

        def write(new: int) -> None:
            nonlocal value
            value = new

        return read, write

    read, write = make()
    before = sender.digest(read)
    write(2)

    assert sender.digest(read) != before


@pytest.mark.parametrize(
    "change", ["list", "array", "instance", "default", "attribute", "keyword", "code", "class"]
)
def test_what_is_changed_in_place_is_seen(change: str) -> None:
    sender = Sender()
    box: Any = types.SimpleNamespace(value=1)
    data: list[int] = [1]
    array = np.zeros(3)

    class Settings:
        rate = 1

    def function(extra: Any = data, *, more: int = 1) -> Any:
        return box.value, data, array, Settings.rate, extra, more

    before = sender.digest(function)
    if change == "list":
        data.append(2)
    elif change == "array":
        array[0] = 1
    elif change == "instance":
        box.value = 2
    elif change == "default":
        function.__defaults__ = (2,)
    elif change == "attribute":
        function.note = 1  # type: ignore[attr-defined]
    elif change == "keyword":
        function.__kwdefaults__ = {"more": 2}
    elif change == "code":
        function.__code__ = (lambda extra=1, *, more=1: (box, data, array, Settings)).__code__
    else:
        Settings.rate = 2

    assert sender.digest(function) != before


def test_a_method_of_a_list_is_not_taken_for_a_plain_function() -> None:
    sender = Sender()
    words = ["a"]
    function = a_function("def f():\n    return append", append=words.append)
    before = sender.digest(function)

    words.append("b")

    assert sender.digest(function) != before


def test_a_module_imported_meanwhile_is_seen() -> None:
    sender = Sender()
    package = types.ModuleType("a_package_of_this_test")
    package.__path__ = []
    package.__package__ = package.__name__
    part = types.ModuleType("a_package_of_this_test.part")
    sys.modules["a_package_of_this_test"] = package
    try:
        function = a_function("def f():\n    return package.part", package=package)
        before = sender.digest(function)
        sys.modules["a_package_of_this_test.part"] = part

        assert sender.digest(function) != before
    finally:
        sys.modules.pop("a_package_of_this_test", None)
        sys.modules.pop("a_package_of_this_test.part", None)


def test_an_id_that_was_given_to_another_function_is_no_match() -> None:
    sender = Sender()
    seen = {sender.digest(a_function(f"def f():\n    return {number}")) for number in range(50)}

    assert len(seen) == 50
