"""Culprits: which object in a call cannot travel, and which one is large.

Lives here: the path from what the user passed to what cannot be pickled, in words.
Not here: pickling (`payload.pickling`).

The idea is Ray's `inspect_serializability`; ours runs by itself when something fails, and never else.
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

DEEPEST = 12
MOST_CHILDREN = 10_000


def unpicklable(named: Iterable[tuple[str, Any]], cause: Exception) -> Unpicklable:
    """An error that names the path to what cannot travel.

    Args:
        named: the parts of what was to be sent, each under its name.
        cause: what the attempt raised.
    """
    name, value, cause = next(
        ((name, value, why) for name, value in named if (why := _hindrance(value)) is not None),
        ("the call", None, cause),
    )
    if isinstance(cause, RecursionError) or isinstance(cause.__cause__, RecursionError):
        return Unpicklable(
            f"{name} cannot be sent: it is nested too deeply to be pickled. Pass it as flat lists or arrays."
        )
    path, culprit = _follow(name, value)
    shown = " → ".join(path)
    bound = process_bound(culprit)
    if bound is not None:
        return Unpicklable(f"{shown} cannot be sent: it is {bound.what}. To go on, {bound.advice}.")
    kind = _kind(culprit)
    said = "" if str(cause).startswith("cannot pickle") else f" ({cause})"  # that says nothing more
    advice = ADVICE.get(kind, GENERAL_ADVICE)
    return Unpicklable(f"{shown} cannot be sent: {kind} cannot be pickled{said}. To go on, {advice}.")


def largest_part(value: Any) -> tuple[str, int]:
    """The name and the size in bytes, pickled, of the largest thing that a function carries along."""
    sizes = [(_pickled_size(child), step) for step, child in _children(value)]
    size, step = max(sizes, default=(0, ""), key=lambda pair: pair[0])
    return step, size


def _follow(name: str, value: Any) -> tuple[list[str], Any]:
    path = [name]
    seen = {id(value)}
    for _ in range(DEEPEST):
        if process_bound(value) is not None:
            break
        if _kind(value) in ADVICE or (isinstance(value, type) and value.__module__ == "builtins"):
            break  # what it holds is nothing that the user has put there
        for number, (step, child) in enumerate(_children(value)):
            if number >= MOST_CHILDREN:
                break
            if id(child) not in seen and _hindrance(child) is not None:
                path.append(step)
                seen.add(id(child))
                value = child
                break
        else:
            break
    return path, value


def _hindrance(value: Any) -> Exception | None:
    """What pickling raises; None if the value can travel, be it by reference."""
    try:
        pickling.to_frames(value)
    except Exception as error:  # noqa: BLE001 - whatever a __reduce__ raises, it cannot travel
        return error
    return None


def _pickled_size(value: Any) -> int:
    try:
        return sum(map(len, pickling.to_frames(value, local_code=pickling.LocalCode.BY_VALUE)))
    except Exception:  # noqa: BLE001 - see above
        return 0


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of a value, as a user would call them."""
    if isinstance(value, types.FunctionType):
        yield from _captured(value)
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "function", value.__func__
    elif isinstance(value, functools.partial):
        yield "function of the partial", value.func
        yield from ((f"argument {place}", each) for place, each in enumerate(value.args))
        yield from ((f"argument {key!r}", each) for key, each in value.keywords.items())
    elif isinstance(value, dict):
        yield from ((f"key {key!r}", key) for key in value)
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{place}]", each) for place, each in enumerate(value))
    elif isinstance(value, type):
        yield from (
            (f"class attribute {key!r}", each) for key, each in vars(value).items() if key[:2] != "__"
        )
    else:
        yield from _state(value)


def _captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield f"closure {name!r}", cell.cell_contents
        except ValueError:  # not yet filled
            continue
    for name in sorted(global_names(function.__code__)):
        if name in function.__globals__ and not hasattr(builtins, name):
            yield f"global {name!r}", function.__globals__[name]
    for place, each in enumerate(function.__defaults__ or ()):
        yield f"default {place}", each
    yield from ((f"default {key!r}", each) for key, each in (function.__kwdefaults__ or {}).items())
    yield from ((f"attribute {key!r}", each) for key, each in vars(function).items())


def global_names(code: types.CodeType) -> frozenset[str]:
    """The names that code may look up in its globals; some may be attributes only."""
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
    except Exception:  # noqa: BLE001 - not even that: then its dictionary is all there is to see
        state = getattr(value, "__dict__", None)
    if isinstance(state, tuple) and len(state) == 2:
        state = (
            {**(state[0] or {}), **(state[1] or {})}
            if all(isinstance(part, dict | None) for part in state)
            else None
        )
    if isinstance(state, dict):
        yield from ((f"attribute {key!r}", each) for key, each in state.items())
    elif state is not None:
        yield "its state", state


def _kind(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
