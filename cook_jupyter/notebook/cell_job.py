"""A cell on a host: run it, and send back its value, what it displayed and the names asked for.

Lives here: the function that a `%%cook` cell is as a job. It needs cloudpickle and the standard library.
Not here: which names travel (`notebook.cell_analysis`), what becomes of them in the notebook
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

VALUE_LIMIT_BYTES = 16 * 1024 * 1024  # a larger value is shown, but stays where it is
DISPLAY_LIMIT = 200
_BACKEND = "module://cook_jupyter.notebook.figures"

Mimebundle = dict[str, Any]


@dataclass
class Packed:
    """An object as pickle and buffers, or why it could not be."""

    frames: Sequence[Any] | None = None
    problem: str = ""


@dataclass
class CellOutcome:
    """What came of a cell.

    Attributes:
        value: the last expression's value, if there was one to show and it can travel.
        shown: the value as the host shows it; used when `value` cannot travel.
        displays: what was displayed on the way, as mime bundles.
        out: the names asked for.
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
    """Run a cell among the notebook's names that came along.

    Args:
        anchor: a function whose globals are those names; they are the cell's globals, too.
        source: the cell.
        file_name: what tracebacks call it.
        out: names whose values are sent back.
        with_value: whether the last expression's value is.
        left_out: names of the notebook that could not travel, and why; the cell binds them itself.

    Raises:
        NameError: a name of `out` was not set.
        BaseException: what the cell raised; it carries what was displayed before as `__cook_displays__`.
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
                error.add_note(f"The notebook's {error.name} did not come along: {left_out[error.name]}")
            raise
    if value is not None:
        outcome.shown = mimebundle(value)
        outcome.value = _pack(value, VALUE_LIMIT_BYTES)
    for name in out:
        if name not in namespace:
            raise NameError(f"the cell was to give back {name!r} (--out) and did not set it")
        outcome.out[name] = _pack(namespace[name])
    return outcome


def mimebundle(value: Any) -> Mimebundle:
    """A value as a notebook would show it: what its own methods say, and its repr."""
    bundle = getattr(value, "_repr_mimebundle_", None)
    data: Mimebundle = {}
    if callable(bundle) and not isinstance(value, type):
        try:
            found = bundle(include=None, exclude=None)
            data.update(found[0] if isinstance(found, tuple) else found or {})
        except Exception:  # noqa: BLE001 - as in IPython: a broken repr takes nothing from the others
            data.clear()
    for mime, method in _METHODS.items():
        if mime not in data and not isinstance(value, type) and callable(getattr(value, method, None)):
            try:
                shown = getattr(value, method)()
            except Exception:  # noqa: BLE001, S112 - see above
                continue
            if isinstance(shown, tuple):
                shown = shown[0]
            if shown is not None:
                data[mime] = _as_text(shown)
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


def _as_text(shown: Any) -> Any:
    return base64.b64encode(shown).decode("ascii") if isinstance(shown, bytes) else shown


def _execute(source: str, file_name: str, namespace: dict[str, Any], *, with_value: bool) -> Any:
    """Run the statements; return the value of the last one if it is an expression and is asked for."""
    tree = ast.parse(source, file_name)
    last = tree.body.pop() if with_value and tree.body and isinstance(tree.body[-1], ast.Expr) else None
    _run(_compiled(tree, file_name, "exec"), namespace)
    if isinstance(last, ast.Expr):
        return _run(_compiled(ast.Expression(last.value), file_name, "eval"), namespace)
    return None


def _compiled(tree: ast.Module | ast.Expression, file_name: str, mode: str) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(tree, file_name, mode, flags=flags, dont_inherit=True)
    return code


def _run(code: CodeType, namespace: dict[str, Any]) -> Any:
    result = eval(code, namespace)  # noqa: S307 - it is what the user asked for
    if code.co_flags & inspect.CO_COROUTINE:
        return asyncio.run(_awaited(result))
    return result


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


@contextmanager
def _capturing(source: str, outcome: CellOutcome) -> Iterator[None]:
    """Collect what the cell displays, and the figures of matplotlib that it shows or leaves open."""

    def display(*values: Any, raw: bool = False, **_: Any) -> None:
        _collect_figures(outcome)
        room = DISPLAY_LIMIT - len(outcome.displays)
        outcome.displays += [dict(value) if raw else mimebundle(value) for value in values[:room]]

    with _matplotlib_drawing_for_us(), _replaced(builtins, "display", display), ExitStack() as stack:
        if "IPython" in source or "IPython" in sys.modules:
            with suppress(ImportError):  # then nobody can ask it to display
                for module in ("IPython.display", "IPython.core.display_functions"):
                    stack.enter_context(_replaced(import_module(module), "display", display))
        try:
            yield
            _collect_figures(outcome, all_open=True)
        except BaseException as error:
            _collect_figures(outcome, all_open=True)
            with suppress(Exception):  # it may have no room for an attribute
                error.__cook_displays__ = outcome.displays  # type: ignore[attr-defined]
            raise


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """For a while, `place.name` is `value`: a warm worker runs other calls after this one."""
    missing = object()
    before = getattr(place, name, missing)
    setattr(place, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(place, name)
        else:
            setattr(place, name, before)


def _chosen_backend(matplotlib: Any) -> str | None:
    """Return the backend of matplotlib, or None while nothing has chosen one; choose none."""
    # As get_backend(auto_select=False), which came with 3.10; a marker stands there until one is chosen.
    backend = dict.__getitem__(matplotlib.rcParams, "backend")
    return backend if isinstance(backend, str) else None


@contextmanager
def _matplotlib_drawing_for_us() -> Iterator[None]:
    """For a while, matplotlib's backend is `notebook.figures`, whether it is imported yet or not."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = _BACKEND
    loaded = sys.modules.get("matplotlib")
    former = _chosen_backend(loaded) if loaded is not None else None
    if loaded is not None:
        loaded.use(_BACKEND)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = before
        loaded = sys.modules.get("matplotlib")
        if loaded is not None:
            loaded.use(former or "agg")


def _collect_figures(outcome: CellOutcome, *, all_open: bool = False) -> None:
    figures = sys.modules.get("cook_jupyter.notebook.figures")
    if figures is None:  # nothing was ever drawn
        return
    if all_open:
        figures.show()
    for drawn in figures.shown[: DISPLAY_LIMIT - len(outcome.displays)]:
        outcome.displays.append({"image/png": _as_text(drawn), "text/plain": "<a figure of matplotlib>"})
    figures.shown.clear()


def _pack(value: Any, limit_bytes: int | None = None) -> Packed:
    """Pickle by itself what is to travel, so that one that cannot does not keep the others."""
    from cook_jupyter.payload import pickling

    try:
        frames = pickling.to_frames(value)
    except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
        return Packed(problem=f"cannot be sent back: {type(error).__name__}: {error}")
    size = sum(memoryview(frame).nbytes for frame in frames)
    if limit_bytes is not None and size > limit_bytes:
        return Packed(problem=f"is too large to be shown here ({size / 2**20:.0f} MB)")
    return Packed(frames=[PickleBuffer(frame) for frame in frames])
