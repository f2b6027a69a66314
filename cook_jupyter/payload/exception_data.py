"""Exceptions as plain data, and back.

Lives here: taking an exception apart on the host (its chain, its frames, what each exception holds) and
putting it together in the notebook, with the remote frames in its traceback; the stand-in for one whose class
is not known here.
Not here: how one exception is pickled (`payload.kinds.exceptions`), the errors of cook_jupyter itself
(`errors`).

An exception arrives as the one that was raised. First its whole chain is one pickle, in which exceptions
refer to each other as they did. What cannot be pickled must not cost the rest, so there is also one pickle
for each exception; where that fails too, one for each of its attributes, and a note names those that are
lost.

Raised again with remote frames after the idea of dask and of tblib.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Mapping, Sequence
from types import CodeType, TracebackType
from typing import Any

MOST_IN_CHAIN = 100
WHOLE_CHAIN_BYTES = 1024 * 1024  # a larger one is not sent beside its parts
MOST_FRAMES = 200  # of one traceback; of a deeper one the first and the last half

ExceptionData = dict[str, Any]


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


def dump_exception(error: BaseException, *, own_file: str = "") -> ExceptionData:
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
                **_content_of(one),
                "cause": places.get(id(one.__cause__)),
                "context": places.get(id(one.__context__)),
                "suppress": one.__suppress_context__,
                "parts": [places.get(id(part)) for part in getattr(one, "exceptions", ())],
            }
        )
    chain_pickle = _pickle_of(chain) if len(chain) > 1 else None
    if chain_pickle is not None and len(chain_pickle) > WHOLE_CHAIN_BYTES:
        chain_pickle = None
    return {"nodes": nodes, "chain": chain_pickle, "traceback": as_text(error, own_file)}


def load_exception(data: Mapping[str, Any]) -> BaseException:
    """Return the exception of `dump_exception`, with its chain and the remote frames as its traceback."""
    from cook_jupyter.payload.kinds import exceptions

    nodes: Sequence[ExceptionData] = data["nodes"]
    made = _whole_chain(data.get("chain"), nodes) or _one_by_one(nodes, data["traceback"])
    for node, error in zip(nodes, made, strict=True):
        for part, place in zip(getattr(error, "exceptions", ()), node["parts"], strict=False):
            if place is not None:
                object.__setattr__(part, "__traceback__", _traceback(nodes[place]["frames"]))
        object.__setattr__(error, "__traceback__", _traceback(node["frames"]))
        cause, context = _at(made, node["cause"]), _at(made, node["context"])
        exceptions.set_links(error, cause, context, suppress=node["suppress"])
    return made[0]


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, whatever its class thinks of setting attributes."""
    notes = vars(error).setdefault("__notes__", [])
    if isinstance(notes, list):
        notes.append(note)


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


def _content_of(error: BaseException) -> ExceptionData:
    """Return an exception as a pickle, or if it cannot be one, as a pickle of each of its attributes."""
    alone = _without_chain(error)
    whole = _pickle_of(alone) if alone is not None else None
    return {"pickle": whole} if whole is not None else {"pickle": None, "pieces": _pieces_of(error)}


def _without_chain(error: BaseException) -> BaseException | None:
    """Return a copy of an exception without cause and context; itself, if it is pickled in its own way."""
    from cook_jupyter.payload.kinds import exceptions

    if exceptions.has_own_reduction(type(error)):
        return error
    make, args, state, *_ = exceptions.reduce_exception(error)
    try:
        copy: BaseException = make(*args)
        exceptions.fill_exception(copy, (*state[:3], (None, None, False)))
    except Exception:  # noqa: BLE001 - a class that makes its exceptions in another way
        return None
    return copy


def _pickle_of(value: BaseException | list[BaseException]) -> bytes | None:
    """Return the pickle of an exception or of a chain, if it can be read again."""
    from cook_jupyter.payload import pickling
    from cook_jupyter.payload.kinds import exceptions

    parts = value if isinstance(value, list) else [value]
    try:
        content = pickling.dumps(value)
        if any(exceptions.has_own_reduction(type(part)) for part in parts):  # many such cannot be read again
            again = pickling.from_frames([content], keep_classes=True)
            if not _are_like(again if isinstance(value, list) else [again], parts):
                return None
    except Exception:  # noqa: BLE001 - anything may go wrong in a user's __reduce__; there are other ways
        return None
    return content


def _are_like(again: Sequence[Any], parts: Sequence[BaseException]) -> bool:
    return len(again) == len(parts) and all(
        type(one).__qualname__ == type(part).__qualname__ for one, part in zip(again, parts, strict=True)
    )


def _pieces_of(error: BaseException) -> ExceptionData | None:
    """Return the class of an exception and each attribute as pickles; None if the class cannot be one."""
    from cook_jupyter.payload import pickling
    from cook_jupyter.payload.kinds import exceptions

    lost: list[str] = []

    def pickled(name: str, value: Any) -> bytes | None:
        try:
            return pickling.dumps(value)
        except Exception as broken:  # noqa: BLE001 - see _pickle_of
            lost.append(f"{name} ({broken})")
            return None

    cls = pickled("its class", type(error))
    args = [(pickled(f"args[{place}]", arg), _repr_of(arg)) for place, arg in enumerate(_plain_args(error))]
    attributes = {name: pickled(f"attribute {name!r}", value) for name, value in vars(error).items()}
    native = {name: pickled(f"attribute {name!r}", value) for name, value in exceptions.native_state(error)}
    if cls is None:
        return None
    return {
        "class": cls,
        "message": error.message if isinstance(error, BaseExceptionGroup) else None,
        "args": args,
        "attributes": {name: content for name, content in attributes.items() if content is not None},
        "native": {name: content for name, content in native.items() if content is not None},
        "lost": lost,
    }


def _plain_args(error: BaseException) -> tuple[Any, ...]:
    """Return the arguments of an exception; a group has its message and its parts instead."""
    return () if isinstance(error, BaseExceptionGroup) else error.args


def _repr_of(value: Any) -> str:
    try:
        return repr(value)[:200]
    except Exception as broken:  # noqa: BLE001 - see _text_of
        return f"<its __repr__ raised {type(broken).__name__}>"


def _whole_chain(content: bytes | None, nodes: Sequence[ExceptionData]) -> list[BaseException] | None:
    from cook_jupyter.payload import pickling

    if content is None:
        return None
    try:
        made = pickling.from_frames([content], keep_classes=True)
    except Exception:  # noqa: BLE001 - a class may be unknown here: then one by one
        return None
    return made if len(made) == len(nodes) and all(isinstance(one, BaseException) for one in made) else None


def _one_by_one(nodes: Sequence[ExceptionData], text: str) -> list[BaseException]:
    made: dict[int, BaseException] = {}
    for place in reversed(range(len(nodes))):  # the parts of a group come after it
        parts = [made[part] for part in nodes[place]["parts"] if part in made]
        made[place] = _make(nodes[place], parts, text)
    return [made[place] for place in range(len(nodes))]


def _make(node: Mapping[str, Any], parts: list[BaseException], text: str) -> BaseException:
    from cook_jupyter.payload import pickling

    try:
        if node["pickle"] is not None:
            error = pickling.from_frames([node["pickle"]], keep_classes=True)
        elif node.get("pieces") is not None:
            error = _from_pieces(node["pieces"], parts)
        else:
            return _stand_in(node, text)
    except Exception:  # noqa: BLE001 - its class may be unknown here
        return _stand_in(node, text)
    return error if isinstance(error, BaseException) else _stand_in(node, text)


def _from_pieces(pieces: Mapping[str, Any], parts: list[BaseException]) -> BaseException:
    from cook_jupyter.payload import pickling
    from cook_jupyter.payload.kinds import exceptions

    def load(content: bytes) -> Any:
        return pickling.from_frames([content], keep_classes=True)

    cls = load(pieces["class"])
    is_group = pieces["message"] is not None
    error = exceptions.make_exception(cls, *((pieces["message"], parts) if is_group else ()))
    args = (
        error.args
        if is_group
        else tuple(shown if content is None else load(content) for content, shown in pieces["args"])
    )
    attributes = {name: load(content) for name, content in pieces["attributes"].items()}
    native = {name: load(content) for name, content in pieces["native"].items()}
    exceptions.fill_exception(error, (args, attributes, native, (None, None, False)))
    if pieces["lost"]:
        add_note(error, f"(not sent with the exception: {'; '.join(pieces['lost'])})")
    return error


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
