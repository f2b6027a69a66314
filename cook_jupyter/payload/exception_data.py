"""Convert exceptions to plain data and back.

Lives here: describing an exception on the host (its chain, tracebacks and attributes) and rebuilding it in
the notebook with the remote frames in its traceback; the substitute for an exception whose class is unknown
here.
Not here: pickling a single exception (`payload.kinds.exceptions`), the errors of cook_jupyter itself
(`errors`).

The notebook gets the exception that was raised on the host, if at all possible. The whole chain is one
pickle, so that its exceptions refer to each other as they did. In case that cannot be read, there is also a
pickle of each exception, and for an exception that cannot be pickled, one of each of its attributes; a note
names the attributes that were lost.

Raising with remote frames follows dask and tblib.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Mapping, Sequence
from types import CodeType, TracebackType
from typing import Any

MAX_CHAIN_LENGTH = 100
MAX_WHOLE_CHAIN_BYTES = 1024 * 1024  # a larger chain is sent in parts only
MAX_FRAMES = 200  # of a traceback; a longer one is sent as its first and last half of them

ExceptionData = dict[str, Any]


class RemoteException(Exception):
    """Represents an exception that cannot be sent, or whose class is unknown here.

    Its class is also a subclass of the nearest built-in class of the original, so that `except ValueError`
    catches the substitute for a subclass of ValueError.

    Attributes:
        remote_type: module and name of the original class.
        remote_traceback: the traceback on the host, as text.
    """

    remote_type: str = ""
    remote_traceback: str = ""

    def __str__(self) -> str:
        """Return the text of the original exception; KeyError would quote it."""
        return str(self.args[0]) if self.args else ""


def dump_exception(error: BaseException, *, own_file: str = "") -> ExceptionData:
    """Describe an exception and its chain with built-in types only.

    Args:
        error: the exception.
        own_file: file of cook_jupyter whose frames at the top of the traceback are omitted.
    """
    chain = _chain(error)
    positions = {id(exception): position for position, exception in enumerate(chain)}
    nodes = []
    for exception in chain:
        frames = _skip_own_frames(exception.__traceback__, own_file)
        nodes.append(
            {
                "module": type(exception).__module__,
                "name": type(exception).__qualname__,
                "bases": [base.__name__ for base in type(exception).__mro__ if base.__module__ == "builtins"],
                "text": _safe_text(exception),
                "notes": [str(note) for note in getattr(exception, "__notes__", ())],
                "frames": _describe(frames),
                **_pickled_content(exception),
                "cause": positions.get(id(exception.__cause__)),
                "context": positions.get(id(exception.__context__)),
                "suppress": exception.__suppress_context__,
                "parts": [positions.get(id(part)) for part in getattr(exception, "exceptions", ())],
            }
        )
    chain_pickle = _pickle_of(chain) if len(chain) > 1 else None
    if chain_pickle is not None and len(chain_pickle) > MAX_WHOLE_CHAIN_BYTES:
        chain_pickle = None
    return {"nodes": nodes, "chain": chain_pickle, "traceback": as_text(error, own_file)}


def load_exception(data: Mapping[str, Any]) -> BaseException:
    """Rebuild the exception that `dump_exception` described, with its chain and the remote frames."""
    from cook_jupyter.payload.kinds import exceptions

    nodes: Sequence[ExceptionData] = data["nodes"]
    errors = _load_chain(data.get("chain"), nodes) or _load_each(nodes, data["traceback"])
    for node, error in zip(nodes, errors, strict=True):
        for part, position in zip(getattr(error, "exceptions", ()), node["parts"], strict=False):
            if position is not None:
                object.__setattr__(part, "__traceback__", _traceback(nodes[position]["frames"]))
        object.__setattr__(error, "__traceback__", _traceback(node["frames"]))
        cause, context = _item_or_none(errors, node["cause"]), _item_or_none(errors, node["context"])
        exceptions.set_links(error, cause, context, suppress=node["suppress"])
    return errors[0]


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, even if its class prevents setting attributes."""
    notes = vars(error).setdefault("__notes__", [])
    if isinstance(notes, list):
        notes.append(note)


def as_text(error: BaseException, own_file: str = "") -> str:
    """Format the traceback like Python, without the frames of cook_jupyter at its top."""
    try:
        formatted = traceback.TracebackException(
            type(error), error, _skip_own_frames(error.__traceback__, own_file), compact=True
        )
        return "".join(formatted.format())
    except Exception as broken:  # noqa: BLE001 - see _safe_text
        return (
            f"{type(error).__qualname__}: {_safe_text(error)} (its traceback cannot be formatted: {broken!r})"
        )


def plain(error: BaseException) -> str:
    """Return an exception as one line of text."""
    text = _safe_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(chain) < MAX_CHAIN_LENGTH:
        exception = waiting.pop(0)
        if exception is None or any(exception is known for known in chain):
            continue
        chain.append(exception)
        waiting += [exception.__cause__, exception.__context__, *getattr(exception, "exceptions", ())]
    return chain


def _item_or_none(items: Sequence[BaseException], index: int | None) -> BaseException | None:
    return None if index is None else items[index]


def _safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a broken __str__ must not hide the failure it describes
        return f"<its __str__ raised {type(broken).__name__}>"


def _skip_own_frames(frames: TracebackType | None, own_file: str) -> TracebackType | None:
    frame = frames
    while frame is not None and frame.tb_frame.f_code.co_filename == own_file:
        frame = frame.tb_next
    return frame if frame is not None else frames


def _describe(frames: TracebackType | None) -> list[tuple[str, str, int, str, int]]:
    described = []
    while frames is not None:
        code = frames.tb_frame.f_code
        module = str(frames.tb_frame.f_globals.get("__name__", ""))
        line = frames.tb_lineno or code.co_firstlineno  # None for an instruction without a line
        described.append((code.co_filename, code.co_name, line, module, code.co_firstlineno))
        frames = frames.tb_next
    if len(described) > MAX_FRAMES:
        half = MAX_FRAMES // 2
        described = described[:half] + described[-half:]
    return described


def _pickled_content(error: BaseException) -> ExceptionData:
    """Return an exception as a pickle, or a pickle of each of its attributes if it cannot be pickled."""
    alone = _without_chain(error)
    whole = _pickle_of(alone) if alone is not None else None
    return {"pickle": whole} if whole is not None else {"pickle": None, "pieces": _pieces_of(error)}


def _without_chain(error: BaseException) -> BaseException | None:
    """Return a copy of an exception without its chain; the exception itself if its class reduces itself."""
    from cook_jupyter.payload.kinds import exceptions

    if exceptions.has_own_reduction(type(error)):
        return error
    make, args, state, *_ = exceptions.reduce_exception(error)
    try:
        copy: BaseException = make(*args)
        exceptions.fill_exception(copy, (*state[:3], (None, None, False)))
    except Exception:  # noqa: BLE001 - a class that creates its exceptions in another way
        return None
    return copy


def _pickle_of(value: BaseException | list[BaseException]) -> bytes | None:
    """Return the pickle of an exception or of a chain; None if it cannot be read again."""
    from cook_jupyter.payload import pickling
    from cook_jupyter.payload.kinds import exceptions

    parts = value if isinstance(value, list) else [value]
    try:
        content = pickling.dumps(value)
        if any(
            exceptions.has_own_reduction(type(part)) for part in parts
        ):  # many of these cannot be read again
            loaded = pickling.from_frames([content], keep_classes=True)
            if not _have_equal_types(loaded if isinstance(value, list) else [loaded], parts):
                return None
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything; there are other ways
        return None
    return content


def _have_equal_types(copies: Sequence[Any], originals: Sequence[BaseException]) -> bool:
    return len(copies) == len(originals) and all(
        type(copy).__qualname__ == type(original).__qualname__
        for copy, original in zip(copies, originals, strict=True)
    )


def _pieces_of(error: BaseException) -> ExceptionData | None:
    """Return pickles of the class and each attribute of an exception; None if the class has none."""
    from cook_jupyter.payload import pickling
    from cook_jupyter.payload.kinds import exceptions

    lost: list[str] = []

    def try_pickle(name: str, value: Any) -> bytes | None:
        try:
            return pickling.dumps(value)
        except Exception as error_:  # noqa: BLE001 - see _pickle_of
            lost.append(f"{name} ({error_})")
            return None

    cls = try_pickle("its class", type(error))
    args = [
        (try_pickle(f"args[{index}]", arg), _repr_of(arg)) for index, arg in enumerate(_plain_args(error))
    ]
    attributes = {name: try_pickle(f"attribute {name!r}", value) for name, value in vars(error).items()}
    native = {
        name: try_pickle(f"attribute {name!r}", value) for name, value in exceptions.native_state(error)
    }
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
    """Return the arguments of an exception; none for a group, which has a message and exceptions instead."""
    return () if isinstance(error, BaseExceptionGroup) else error.args


def _repr_of(value: Any) -> str:
    try:
        return repr(value)[:200]
    except Exception as broken:  # noqa: BLE001 - see _safe_text
        return f"<its __repr__ raised {type(broken).__name__}>"


def _load_chain(content: bytes | None, nodes: Sequence[ExceptionData]) -> list[BaseException] | None:
    from cook_jupyter.payload import pickling

    if content is None:
        return None
    try:
        errors = pickling.from_frames([content], keep_classes=True)
    except Exception:  # noqa: BLE001 - a class may be unknown here
        return None
    return (
        errors
        if len(errors) == len(nodes) and all(isinstance(error, BaseException) for error in errors)
        else None
    )


def _load_each(nodes: Sequence[ExceptionData], text: str) -> list[BaseException]:
    errors: dict[int, BaseException] = {}
    for position in reversed(range(len(nodes))):  # the parts of a group come after it
        parts = [errors[part] for part in nodes[position]["parts"] if part in errors]
        errors[position] = _load_node(nodes[position], parts, text)
    return [errors[position] for position in range(len(nodes))]


def _load_node(node: Mapping[str, Any], parts: list[BaseException], text: str) -> BaseException:
    from cook_jupyter.payload import pickling

    try:
        if node["pickle"] is not None:
            error = pickling.from_frames([node["pickle"]], keep_classes=True)
        elif node.get("pieces") is not None:
            error = _from_pieces(node["pieces"], parts)
        else:
            return _substitute(node, text)
    except Exception:  # noqa: BLE001 - its class may be unknown here
        return _substitute(node, text)
    return error if isinstance(error, BaseException) else _substitute(node, text)


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
        else tuple(text if content is None else load(content) for content, text in pieces["args"])
    )
    attributes = {name: load(content) for name, content in pieces["attributes"].items()}
    native = {name: load(content) for name, content in pieces["native"].items()}
    exceptions.fill_exception(error, (args, attributes, native, (None, None, False)))
    if pieces["lost"]:
        add_note(error, f"(not sent with the exception: {'; '.join(pieces['lost'])})")
    return error


def _substitute(node: Mapping[str, Any], text: str) -> BaseException:
    original = f"{node['module']}.{node['name']}".removeprefix("builtins.")
    error: BaseException = RemoteException(node["text"])
    for name in node["bases"]:
        base = getattr(builtins, name, None)
        if not isinstance(base, type) or not issubclass(base, Exception):
            continue
        try:
            substitute_class = type(
                node["name"].rpartition(".")[2], (RemoteException, base), {"__module__": node["module"]}
            )
            error = substitute_class(node["text"])
            break
        except TypeError:
            continue
    error.remote_type = original  # type: ignore[attr-defined]
    error.remote_traceback = text  # type: ignore[attr-defined]
    for note in node["notes"]:
        error.add_note(note)
    error.add_note(f"(a substitute for {original}, which cannot be sent or is not known here)")
    return error


def _traceback(frames: Sequence[Sequence[Any]]) -> TracebackType | None:
    """Return a traceback with frames that were described on the host.

    Args:
        frames: file, function, line and module of each frame, and the first line of its code.
    """
    tracebacks: TracebackType | None = None
    for file, name, line, module, *first_line in reversed(frames):
        code = _frame_code(file, name, line, *first_line)
        try:
            exec(code, {"__name__": module, "__file__": file, "_Frame": _Frame})  # noqa: S102 - see _FRAME_CODE
        except _Frame as frame:
            own_traceback = frame.__traceback__
            assert own_traceback is not None  # noqa: S101 - it was raised
            assert own_traceback.tb_next is not None  # noqa: S101 - in another frame than this one
            remote = own_traceback.tb_next
            tracebacks = TracebackType(tracebacks, remote.tb_frame, remote.tb_lasti, remote.tb_lineno)
    return tracebacks


class _Frame(Exception):
    """Raised in the frames of `_traceback`."""


_FRAME_CODE = compile("raise _Frame", "<frame>", "exec")


def _frame_code(file: str, name: str, line: int, first_line: int | None = None) -> CodeType:
    """Return code that raises on a line of a file.

    Its first line is that of the code on the host, because IPython counts the lines that it shows from there.
    It has no columns, because Python would mark those of the raise statement.
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
