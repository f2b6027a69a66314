"""Short traceback of a failed cell: the user's own frames, and where it happened.

Lives here: formatting the lines. Not here: rebuilding the remote frames (`payload.exception_data`).
"""

import linecache
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

CONTEXT_LINES = 2
MAX_FRAMES = 12

_RED, _BOLD, _FAINT, _OFF = "\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
_IPYKERNEL_FILE = re.compile(r"ipykernel_\d+[/\\]\d+\.py$|^<ipython-input-(\d+)-")


def short_traceback(error: BaseException, cell_file: str, where: str) -> list[str]:
    """Return the lines that a notebook shows for an exception of a job.

    Args:
        error: exception with the remote frames as its traceback.
        cell_file: file name of the cell; frames before the cell's are omitted.
        where: job, attempt and host, in a few words.
    """
    lines = [f"{_BOLD}{_RED}{type(error).__name__}{_OFF}  {_FAINT}{where}{_OFF}"]
    for number, exception in enumerate(_chain(error)):
        if number:
            lines += ["", f"{_FAINT}caused by{_OFF} {_headline(exception)}"]
        lines += _frames(exception.__traceback__, cell_file)
    lines += ["", _headline(error)]
    # `where` already has the content of the note that `payload.results` adds.
    lines += [note for note in map(str, getattr(error, "__notes__", ())) if not note.startswith("Cook job ")]
    return lines


def show_as(error: BaseException, lines: list[str]) -> BaseException:
    """Make IPython show `lines` for an exception instead of its frames."""
    render: Callable[[], list[str]] = lambda: lines  # noqa: E731 - an attribute of the instance, not a method
    with suppress(AttributeError):  # the class has no room for attributes: it is shown as usual
        error._render_traceback_ = render  # type: ignore[attr-defined]
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    exception: BaseException | None = error
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        exception = exception.__cause__ or (None if exception.__suppress_context__ else exception.__context__)


def _headline(error: BaseException) -> str:
    text = str(error)
    return f"{_RED}{type(error).__name__}{_OFF}{': ' if text else ''}{text}"


def _frames(traceback: TracebackType | None, cell_file: str) -> Iterator[str]:
    frames = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in walk_tb(traceback)]
    files = [file for file, _, _ in frames]
    if cell_file in files:
        frames = frames[files.index(cell_file) :]
    left_out = len(frames) - MAX_FRAMES
    for number, (file, line, name) in enumerate(frames):
        if left_out > 0 and number == MAX_FRAMES // 2:
            yield f"  {_FAINT}... {left_out} more frames ...{_OFF}"
        if left_out > 0 and MAX_FRAMES // 2 <= number < MAX_FRAMES // 2 + left_out:
            continue
        within = "" if name == "<module>" else f", in {_BOLD}{name}{_OFF}"
        yield f"{_place(file, cell_file)}, line {line}{within}"
        yield from _source(file, line)


def _place(file: str, cell_file: str) -> str:
    if file == cell_file:
        return "This cell"
    if _IPYKERNEL_FILE.search(file):
        return "Another cell"
    return f"File {_short(file)}"


def _short(file: str) -> str:
    """Return a path relative to site-packages or the current directory, if it is below one of them."""
    head, separator, tail = file.rpartition("site-packages/")
    if separator:
        return tail
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return head + tail


def _source(file: str, line: int) -> Iterator[str]:
    for number in range(max(1, line - CONTEXT_LINES), line + 1):
        text = linecache.getline(file, number).rstrip()
        if number == line and text:
            yield f"{_BOLD}---> {number:<4}{_OFF} {text}"
        elif text:
            yield f"     {number:<4} {_FAINT}{text}{_OFF}"
