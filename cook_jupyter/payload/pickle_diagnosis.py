"""Explain which object in a call cannot be pickled, and which one is large.

Lives here: the path from the user's values to the object that cannot be pickled, as text.
Not here: pickling (`payload.pickling`).

The idea is that of Ray's `inspect_serializability`; here it runs automatically, and only after a failure.
"""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from cook_jupyter.errors import Unpicklable
from cook_jupyter.payload import pickling
from cook_jupyter.payload.kinds.refused import ADVICE, GENERAL_ADVICE
from cook_jupyter.payload.process_bound import process_bound

MAX_DEPTH = 12
MAX_CHILDREN = 10_000


def unpicklable(named_values: Iterable[tuple[str, Any]], cause: Exception) -> Unpicklable:
    """Return an error that names the path to what cannot be sent.

    Args:
        named_values: the parts of what was to be sent, each with its name.
        cause: the exception of the attempt.
    """
    name, value, cause = next(
        (
            (name, value, problem)
            for name, value in named_values
            if (problem := _pickling_error(value)) is not None
        ),
        ("the call", None, cause),
    )
    if isinstance(cause, RecursionError) or isinstance(cause.__cause__, RecursionError):
        return Unpicklable(
            f"{name} cannot be sent: it is nested too deeply to be pickled. Pass it as flat lists or arrays."
        )
    path, culprit = _follow(name, value)
    path_text = " → ".join(path)
    bound = process_bound(culprit)
    if bound is not None:
        return Unpicklable(f"{path_text} cannot be sent: it is {bound.what}. To go on, {bound.advice}.")
    kind = _kind(culprit)
    detail = "" if str(cause).startswith("cannot pickle") else f" ({cause})"  # which adds nothing to the kind
    advice = ADVICE.get(kind, GENERAL_ADVICE)
    return Unpicklable(f"{path_text} cannot be sent: {kind} cannot be pickled{detail}. To go on, {advice}.")


def largest_part(value: Any) -> tuple[str, int]:
    """Return name and pickled size in bytes of the largest object that a function refers to."""
    sizes = [(_pickled_size(child), step) for step, child in _children(value)]
    size, step = max(sizes, default=(0, ""), key=lambda pair: pair[0])
    return step, size


def _follow(name: str, value: Any) -> tuple[list[str], Any]:
    path = [name]
    seen = {id(value)}
    for _ in range(MAX_DEPTH):
        if process_bound(value) is not None:
            break
        if _kind(value) in ADVICE or (isinstance(value, type) and value.__module__ == "builtins"):
            break  # it contains nothing of the user
        for number, (step, child) in enumerate(_children(value)):
            if number >= MAX_CHILDREN:
                break
            if id(child) not in seen and _pickling_error(child) is not None:
                path.append(step)
                seen.add(id(child))
                value = child
                break
        else:
            break
    return path, value


def _pickling_error(value: Any) -> Exception | None:
    """Return the exception that pickling raises; None if the value can be pickled, perhaps by reference."""
    try:
        pickling.to_frames(value)
    except Exception as error:  # noqa: BLE001 - a __reduce__ may raise anything
        return error
    return None


def _pickled_size(value: Any) -> int:
    try:
        return sum(map(len, pickling.to_frames(value, local_code=pickling.LocalCode.BY_VALUE)))
    except Exception:  # noqa: BLE001 - see above
        return 0


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value, each with the name that a user would give it."""
    if isinstance(value, types.FunctionType):
        yield from _captured(value)
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "function", value.__func__
    elif isinstance(value, functools.partial):
        yield "function of the partial", value.func
        yield from ((f"argument {index}", item) for index, item in enumerate(value.args))
        yield from ((f"argument {key!r}", item) for key, item in value.keywords.items())
    elif isinstance(value, dict):
        yield from ((f"key {key!r}", key) for key in value)
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, type):
        yield from (
            (f"class attribute {key!r}", item) for key, item in vars(value).items() if key[:2] != "__"
        )
    else:
        yield from _state(value)


def _captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield f"closure {name!r}", cell.cell_contents
        except ValueError:  # empty cell
            continue
    for name in sorted(global_names(function.__code__)):
        if name in function.__globals__ and not hasattr(builtins, name):
            yield f"global {name!r}", function.__globals__[name]
    for index, item in enumerate(function.__defaults__ or ()):
        yield f"default {index}", item
    yield from ((f"default {key!r}", item) for key, item in (function.__kwdefaults__ or {}).items())
    yield from ((f"attribute {key!r}", item) for key, item in vars(function).items())


def global_names(code: types.CodeType) -> frozenset[str]:
    """Return the names that code may look up in its globals; some may only be attributes."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= global_names(constant)
    return frozenset(names)


def _state(value: Any) -> Iterator[tuple[str, Any]]:
    state = None
    try:
        reduced = value.__reduce_ex__(4)
        state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    except Exception:  # noqa: BLE001 - not even that works; then only its dictionary is examined
        state = getattr(value, "__dict__", None)
    if isinstance(state, tuple) and len(state) == 2:
        state = (
            {**(state[0] or {}), **(state[1] or {})}
            if all(isinstance(part, dict | None) for part in state)
            else None
        )
    if isinstance(state, dict):
        yield from ((f"attribute {key!r}", item) for key, item in state.items())
    elif state is not None:
        yield "its state", state


def _kind(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
