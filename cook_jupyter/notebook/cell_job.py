"""The job of a cell: run the cell on a host, and return its value, displays and requested names.

Lives here: the function that a `%%cook` cell submits. It needs only cloudpickle and the standard library.
Not here: which names are sent (`notebook.cell_analysis`), using the outcome in the notebook
(`notebook.magics`).
"""

import ast
import asyncio
import base64
import builtins
import inspect
import linecache
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pickle import PickleBuffer
from types import CodeType, FunctionType
from typing import Any

VALUE_LIMIT_BYTES = 16 * 1024 * 1024  # a larger value is displayed but not sent back
DISPLAY_LIMIT = 200
_BACKEND = "module://cook_jupyter.notebook.figures"

Mimebundle = dict[str, Any]


@dataclass
class Packed:
    """A pickled object, or the reason why it could not be sent."""

    frames: Sequence[Any] | None = None
    problem: str = ""


@dataclass
class CellOutcome:
    """The outcome of a cell.

    Attributes:
        value: value of the last expression, if it is shown and can be sent.
        shown: representation of the value on the host; used if `value` cannot be sent.
        displays: what the cell displayed, as mime bundles.
        out: the requested names, with their values.
    """

    value: Packed | None = None
    shown: Mimebundle | None = None
    displays: list[Mimebundle] = field(default_factory=list)
    out: dict[str, Packed] = field(default_factory=dict)


def run_cell(
    anchor: FunctionType,
    source: str,
    file_name: str,
    *,
    out: Sequence[str] = (),
    with_value: bool = True,
    left_out: Mapping[str, str] | None = None,
) -> CellOutcome:
    """Run a cell with the notebook's names that were sent with it.

    Args:
        anchor: function whose globals are those names; they become the cell's globals.
        source: source of the cell.
        file_name: file name of the cell in tracebacks.
        out: names whose values are sent back.
        with_value: whether the value of the last expression is sent back.
        left_out: names of the notebook that could not be sent, with the reason; the cell also binds them.

    Raises:
        NameError: the cell did not set a name in `out`.
        BaseException: the cell raised it; its `__cook_displays__` has what was displayed before.
    """
    linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
    namespace = anchor.__globals__
    namespace.setdefault("__builtins__", builtins)
    outcome = CellOutcome()
    with _capturing(source, outcome):
        try:
            value = _execute(source, file_name, namespace, with_value=with_value)
        except NameError as error:
            if left_out and error.name is not None and error.name in left_out:
                error.add_note(f"The notebook's {error.name} was not sent: {left_out[error.name]}")
            raise
    if value is not None:
        outcome.shown = mimebundle(value)
        outcome.value = _pack(value, VALUE_LIMIT_BYTES)
    for name in out:
        if name not in namespace:
            raise NameError(f"--out names {name!r}, but the cell did not set it")
        outcome.out[name] = _pack(namespace[name])
    return outcome


def mimebundle(value: Any) -> Mimebundle:
    """Return the representations of a value in a notebook: those of its own methods, and its repr."""
    bundle = getattr(value, "_repr_mimebundle_", None)
    data: Mimebundle = {}
    if callable(bundle) and not isinstance(value, type):
        try:
            bundle_data = bundle(include=None, exclude=None)
            data.update(bundle_data[0] if isinstance(bundle_data, tuple) else bundle_data or {})
        except Exception:  # noqa: BLE001 - as in IPython: a broken method does not affect the others
            data.clear()
    for mime, method in _METHODS.items():
        if mime not in data and not isinstance(value, type) and callable(getattr(value, method, None)):
            try:
                representation = getattr(value, method)()
            except Exception:  # noqa: BLE001, S112 - see above
                continue
            if isinstance(representation, tuple):
                representation = representation[0]
            if representation is not None:
                data[mime] = _as_text(representation)
    data.setdefault("text/plain", repr(value))
    return data


_METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
}


def _as_text(representation: Any) -> Any:
    return (
        base64.b64encode(representation).decode("ascii")
        if isinstance(representation, bytes)
        else representation
    )


def _execute(source: str, file_name: str, namespace: dict[str, Any], *, with_value: bool) -> Any:
    """Run the statements; return the value of the last one if it is an expression and requested."""
    tree = ast.parse(source, file_name)
    last = tree.body.pop() if with_value and tree.body and isinstance(tree.body[-1], ast.Expr) else None
    _run(_compile(tree, file_name, "exec"), namespace)
    if isinstance(last, ast.Expr):
        return _run(_compile(ast.Expression(last.value), file_name, "eval"), namespace)
    return None


def _compile(tree: ast.Module | ast.Expression, file_name: str, mode: str) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(tree, file_name, mode, flags=flags, dont_inherit=True)
    return code


def _run(code: CodeType, namespace: dict[str, Any]) -> Any:
    result = eval(code, namespace)  # noqa: S307 - the user's own code
    if code.co_flags & inspect.CO_COROUTINE:
        return asyncio.run(_await(result))
    return result


async def _await(coroutine: Any) -> Any:
    return await coroutine


@contextmanager
def _capturing(source: str, outcome: CellOutcome) -> Iterator[None]:
    """Collect what the cell displays, and the matplotlib figures that it shows or leaves open."""

    def display(*values: Any, raw: bool = False, **_: Any) -> None:
        _collect_figures(outcome)
        room = DISPLAY_LIMIT - len(outcome.displays)
        outcome.displays += [dict(value) if raw else mimebundle(value) for value in values[:room]]

    with _capturing_backend(), _replaced(builtins, "display", display), ExitStack() as stack:
        if "IPython" in source or "IPython" in sys.modules:
            with suppress(ImportError):  # then the cell cannot use it to display
                for module in ("IPython.display", "IPython.core.display_functions"):
                    stack.enter_context(_replaced(import_module(module), "display", display))
        try:
            yield
            _collect_figures(outcome, all_open=True)
        except BaseException as error:
            _collect_figures(outcome, all_open=True)
            with suppress(Exception):  # its class may have no room for attributes
                error.__cook_displays__ = outcome.displays  # type: ignore[attr-defined]
            raise


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute temporarily, because a warm worker runs other calls after this one."""
    missing = object()
    original = getattr(owner, name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if original is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


def _chosen_backend(matplotlib: Any) -> str | None:
    """Return matplotlib's backend, or None if none has been chosen yet, without choosing one."""
    # Like get_backend(auto_select=False), which is new in 3.10; until one is chosen, there is a sentinel.
    backend = dict.__getitem__(matplotlib.rcParams, "backend")
    return backend if isinstance(backend, str) else None


@contextmanager
def _capturing_backend() -> Iterator[None]:
    """Make `notebook.figures` matplotlib's backend temporarily, whether matplotlib is imported yet or not."""
    old_variable = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = _BACKEND
    loaded = sys.modules.get("matplotlib")
    old_backend = _chosen_backend(loaded) if loaded is not None else None
    if loaded is not None:
        loaded.use(_BACKEND)
    try:
        yield
    finally:
        if old_variable is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = old_variable
        loaded = sys.modules.get("matplotlib")
        if loaded is not None:
            loaded.use(old_backend or "agg")


def _collect_figures(outcome: CellOutcome, *, all_open: bool = False) -> None:
    figures = sys.modules.get("cook_jupyter.notebook.figures")
    if figures is None:  # nothing was drawn
        return
    if all_open:
        figures.show()
    for image in figures.shown[: DISPLAY_LIMIT - len(outcome.displays)]:
        outcome.displays.append({"image/png": _as_text(image), "text/plain": "<a figure of matplotlib>"})
    figures.shown.clear()


def _pack(value: Any, limit_bytes: int | None = None) -> Packed:
    """Pickle a value separately, so that one that cannot be pickled does not affect the others."""
    from cook_jupyter.payload import pickling

    try:
        frames = pickling.to_frames(value)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return Packed(problem=f"cannot be sent back: {type(error).__name__}: {error}")
    size = sum(memoryview(frame).nbytes for frame in frames)
    if limit_bytes is not None and size > limit_bytes:
        return Packed(problem=f"is too large to be sent back ({size / 2**20:.0f} MB)")
    return Packed(frames=[PickleBuffer(frame) for frame in frames])
