"""Exceptions as plain data, and back.

Lives here: taking an exception apart on the host (its chain, its frames, its pickle if it has one) and
putting it together in the notebook, with the remote frames in its traceback; the stand-in for one that
cannot travel.
Not here: the errors of cook_jupyter itself (`errors`).

Raised again with remote frames after the idea of dask and of tblib.
"""

from __future__ import annotations

import builtins
import pickle
import traceback
from collections.abc import Mapping, Sequence
from types import CodeType, TracebackType
from typing import Any

MOST_IN_CHAIN = 20
MOST_FRAMES = 200  # of one traceback; of a deeper one the first and the last half

Data = dict[str, Any]


class RemoteException(Exception):
    """Stands for an exception that cannot be sent or cannot be rebuilt here.

    It also is the nearest built-in class of the original, so `except ValueError` catches a stand-in for
    a subclass of ValueError.

    Attributes:
        remote_type: module and name of the original class.
        remote_traceback: the traceback as text, as the host saw it.
    """

    remote_type: str = ""
    remote_traceback: str = ""

    def __str__(self) -> str:
        """The original's text, as it was: KeyError would quote it."""
        return str(self.args[0]) if self.args else ""


def take_apart(error: BaseException, *, own_file: str = "") -> Data:
    """Describe an exception and its chain with built-in types alone.

    Args:
        error: what was raised.
        own_file: frames of this file at the top are ours, not the user's, and are left out.
    """
    chain = _chain(error)
    places = {id(one): place for place, one in enumerate(chain)}
    nodes = []
    for one in chain:
        frames = _without_own(one.__traceback__, own_file)
        nodes.append(
            {
                "module": type(one).__module__,
                "name": type(one).__qualname__,
                "bases": [base.__name__ for base in type(one).__mro__ if base.__module__ == "builtins"],
                "text": _text_of(one),
                "notes": [str(note) for note in getattr(one, "__notes__", ())],
                "frames": _describe(frames),
                "pickle": _pickle_of(one),
                "cause": places.get(id(one.__cause__)),
                "context": places.get(id(one.__context__)),
                "suppress": one.__suppress_context__,
                "parts": [places[id(part)] for part in getattr(one, "exceptions", ()) if id(part) in places],
            }
        )
    return {"nodes": nodes, "traceback": as_text(error, own_file)}


def put_together(data: Mapping[str, Any]) -> BaseException:
    """The exception of `take_apart`, with its chain and the remote frames as its traceback."""
    nodes: Sequence[Data] = data["nodes"]
    made: list[BaseException] = [_make(node, data["traceback"]) for node in nodes]
    for node, error in zip(nodes, made, strict=True):
        parts = getattr(error, "exceptions", ())
        for part, place in zip(parts, node["parts"], strict=False):
            part.__traceback__ = _traceback(nodes[place]["frames"])
        error.__traceback__ = _traceback(node["frames"])
        error.__cause__ = _at(made, node["cause"])
        error.__context__ = _at(made, node["context"])
        error.__suppress_context__ = node["suppress"]
    return made[0]


def as_text(error: BaseException, own_file: str = "") -> str:
    """The traceback as Python prints it, without our own frames at its top."""
    try:
        shown = traceback.TracebackException(
            type(error), error, _without_own(error.__traceback__, own_file), compact=True
        )
        return "".join(shown.format())
    except Exception as broken:  # noqa: BLE001 - see _text_of
        return (
            f"{type(error).__qualname__}: {_text_of(error)} (its traceback could not be written: {broken!r})"
        )


def plain(error: BaseException) -> str:
    """An exception in one line."""
    text = _text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < MOST_IN_CHAIN:
        one = waiting.pop(0)
        if one is None or any(one is other for other in found):
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return found


def _at(made: Sequence[BaseException], place: int | None) -> BaseException | None:
    return None if place is None else made[place]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a broken __str__ must not hide the failure it describes
        return f"<its __str__ raised {type(broken).__name__}>"


def _without_own(frames: TracebackType | None, own_file: str) -> TracebackType | None:
    user = frames
    while user is not None and user.tb_frame.f_code.co_filename == own_file:
        user = user.tb_next
    return user if user is not None else frames


def _describe(frames: TracebackType | None) -> list[tuple[str, str, int, str, int]]:
    described = []
    while frames is not None:
        code = frames.tb_frame.f_code
        module = str(frames.tb_frame.f_globals.get("__name__", ""))
        line = frames.tb_lineno or code.co_firstlineno  # None for an instruction without a line
        described.append((code.co_filename, code.co_name, line, module, code.co_firstlineno))
        frames = frames.tb_next
    if len(described) > MOST_FRAMES:
        half = MOST_FRAMES // 2
        described = described[:half] + described[-half:]
    return described


def _pickle_of(error: BaseException) -> bytes | None:
    """The exception's own pickle, if it can be read again: many with arguments of their own cannot."""
    from cook_jupyter.payload import pickling

    try:
        content = pickling.dumps(error)
        again = pickle.loads(content)  # noqa: S301 - our own, made in the line before
    except Exception:  # noqa: BLE001 - anything may go wrong in a user's __reduce__; the stand-in serves then
        return None
    return content if type(again).__qualname__ == type(error).__qualname__ else None


def _make(node: Mapping[str, Any], text: str) -> BaseException:
    if node["pickle"] is not None:
        from cook_jupyter.payload import pickling

        try:
            error = pickling.from_frames([node["pickle"]], keep_classes=True)
        except Exception:  # noqa: BLE001 - its class may be unknown here
            return _stand_in(node, text)
        if isinstance(error, BaseException):
            return error
    return _stand_in(node, text)


def _stand_in(node: Mapping[str, Any], text: str) -> BaseException:
    original = f"{node['module']}.{node['name']}".removeprefix("builtins.")
    error: BaseException = RemoteException(node["text"])
    for name in node["bases"]:
        base = getattr(builtins, name, None)
        if not isinstance(base, type) or not issubclass(base, Exception):
            continue
        try:
            kind = type(
                node["name"].rpartition(".")[2], (RemoteException, base), {"__module__": node["module"]}
            )
            error = kind(node["text"])
            break
        except TypeError:
            continue
    error.remote_type = original  # type: ignore[attr-defined]
    error.remote_traceback = text  # type: ignore[attr-defined]
    for note in node["notes"]:
        error.add_note(note)
    error.add_note(f"(a stand-in for {original}, which cannot be sent or is not known here)")
    return error


def _traceback(frames: Sequence[Sequence[Any]]) -> TracebackType | None:
    """Return a traceback with frames that were described on the host.

    Args:
        frames: file, name, line and module of each, and the first line of its code.
    """
    found: TracebackType | None = None
    for file, name, line, module, *first_line in reversed(frames):
        code = _frame_code(file, name, line, *first_line)
        try:
            exec(code, {"__name__": module, "__file__": file, "_Frame": _Frame})  # noqa: S102 - see _FRAME_CODE
        except _Frame as frame:
            here = frame.__traceback__
            assert here is not None  # noqa: S101 - it was raised
            assert here.tb_next is not None  # noqa: S101 - in another frame than this one
            made = here.tb_next
            found = TracebackType(found, made.tb_frame, made.tb_lasti, made.tb_lineno)
    return found


class _Frame(Exception):
    """Raised in the frames of `_traceback`."""


_FRAME_CODE = compile("raise _Frame", "<frame>", "exec")


def _frame_code(file: str, name: str, line: int, first_line: int | None = None) -> CodeType:
    """Return code that raises on a line of a file.

    Its first line is that of the code on the host, as IPython counts the lines that it shows from there. The
    columns are left open: Python would mark those of the raise statement.
    """
    first_line = line if first_line is None else min(line, first_line)
    delta, units, table = line - first_line, len(_FRAME_CODE.co_code) // 2, bytearray()
    while units > 0:  # see "Locations table" in CPython: 13 is an entry with a line and no columns
        table.append(0x80 | 13 << 3 | min(units, 8) - 1)
        number, delta = delta << 1, 0  # the sign is the lowest bit
        while number >= 0x40:
            table.append(0x40 | number & 0x3F)
            number >>= 6
        table.append(number)
        units -= 8
    return _FRAME_CODE.replace(
        co_filename=file, co_name=name, co_qualname=name, co_firstlineno=first_line, co_linetable=bytes(table)
    )
