"""Output of a running cell: streams, displays, and a state line that is updated in place.

Lives here: detecting whether a user is watching, and writing output.
Not here: what is written (`notebook.views`, `notebook.job_views`, `notebook.cell_run`).
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from cook_jupyter.model.printable import printable
from cook_jupyter.notebook.rendering import Mark, html_text

QUIET_VARIABLE = "COOK_JUPYTER_QUIET"  # for nbconvert, papermill and CI, if they are not recognised


@dataclass(frozen=True, slots=True)
class StateLine:
    """A mark with a text."""

    mark: Mark
    text: str

    def __repr__(self) -> str:
        return f"{self.mark.text} {printable(self.text)}"

    def _repr_html_(self) -> str:
        return (
            '<div role="status" style="font-family:var(--jp-ui-font-family,inherit);'
            'font-size:var(--jp-ui-font-size1,inherit);color:var(--jp-ui-font-color1,inherit)">'
            f"{self.mark.html} {html_text(self.text)}</div>"
        )


def is_interactive(shell: InteractiveShell) -> bool:
    """Return whether a user sees the output as it appears: not under nbconvert, papermill or in a pipe."""
    if os.environ.get(QUIET_VARIABLE, "") not in ("", "0"):
        return False
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        # Programs that execute notebooks without a user, such as nbclient and papermill, allow no input.
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stdout.isatty()


class Screen:
    """Output of one running cell, for use by the thread of the cell.

    Args:
        shell: shell whose output is used.
        live: whether the state line is shown.
    """

    def __init__(self, shell: InteractiveShell, *, live: bool) -> None:
        self._live = live
        self._rich = getattr(shell, "kernel", None) is not None
        self._handle: Any = None
        self._last: StateLine | None = None

    def write(self, stream: str, text: str) -> None:
        """Write to stdout or stderr immediately."""
        file = sys.stderr if stream == "stderr" else sys.stdout
        if not self._rich:
            self._clear_line()
        file.write(text)
        file.flush()

    def show_state(self, line: StateLine) -> None:
        """Show a state line in place of the previous one."""
        if not self._live or line == self._last:
            return
        self._last = line
        if not self._rich:
            sys.stderr.write(f"\r\x1b[2K{line!r}")
            sys.stderr.flush()
        elif self._handle is None:
            self._handle = display(line, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(line)

    @property
    def shows_state(self) -> bool:
        """Whether a state line is shown. A quick cell has none, and so needs no final one."""
        return self._last is not None

    def end(self, line: StateLine) -> None:
        """Show the final state line, if there was one before."""
        if self.shows_state:
            self.show_state(line)
            if not self._rich:
                sys.stderr.write("\n")

    def show(self, bundle: dict[str, Any]) -> None:
        """Display what the job displayed."""
        self._clear_line()
        display(bundle, raw=True)  # type: ignore[no-untyped-call]

    def _clear_line(self) -> None:
        if not self._rich and self._last is not None:
            sys.stderr.write("\r\x1b[2K")
