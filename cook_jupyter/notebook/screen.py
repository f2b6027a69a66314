"""Where a running cell writes: streams, displays, and one line of state that is updated in place.

Lives here: telling whether somebody is watching, and writing for them.
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

QUIET_VARIABLE = "COOK_JUPYTER_QUIET"  # for nbconvert, papermill and CI, where they are not recognised


@dataclass(frozen=True, slots=True)
class StateLine:
    """A mark and what is to be said with it."""

    mark: Mark
    said: str

    def __repr__(self) -> str:
        return f"{self.mark.text} {printable(self.said)}"

    def _repr_html_(self) -> str:
        return (
            '<div role="status" style="font-family:var(--jp-ui-font-family,inherit);'
            'font-size:var(--jp-ui-font-size1,inherit);color:var(--jp-ui-font-color1,inherit)">'
            f"{self.mark.html} {html_text(self.said)}</div>"
        )


def is_interactive(shell: InteractiveShell) -> bool:
    """Whether a person sees the output as it comes: not under nbconvert, papermill or in a pipe."""
    if os.environ.get(QUIET_VARIABLE, "") not in ("", "0"):
        return False
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        # Who executes notebooks without a person allows no questions: nbclient and papermill do.
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stdout.isatty()


class Screen:
    """The output of one running cell; to be used by the cell's own thread.

    Args:
        shell: whose output it is.
        live: whether the line of state is shown.
    """

    def __init__(self, shell: InteractiveShell, *, live: bool) -> None:
        self._live = live
        self._rich = getattr(shell, "kernel", None) is not None
        self._handle: Any = None
        self._last: StateLine | None = None

    def write(self, stream: str, text: str) -> None:
        """Write to stdout or stderr, at once."""
        file = sys.stderr if stream == "stderr" else sys.stdout
        if not self._rich:
            self._wipe()
        file.write(text)
        file.flush()

    def say(self, line: StateLine) -> None:
        """Show a line of state in place of the one before."""
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
        """Whether a line of state is shown. What was quick needs none, and so no last one either."""
        return self._last is not None

    def end(self, line: StateLine) -> None:
        """The last line of state, if there was one before."""
        if self.shows_state:
            self.say(line)
            if not self._rich:
                sys.stderr.write("\n")

    def show(self, bundle: dict[str, Any]) -> None:
        """Display what a host displayed."""
        self._wipe()
        display(bundle, raw=True)  # type: ignore[no-untyped-call]

    def _wipe(self) -> None:
        if not self._rich and self._last is not None:
            sys.stderr.write("\r\x1b[2K")
