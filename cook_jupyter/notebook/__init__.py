"""The kernel side: the magics `%cook` and `%%cook`, and the display of jobs in a notebook.

Lives here: arguments, completion, text and HTML.
Not here: futures (`executor`), requests to the scheduler (`client`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; registering them again has no effect."""
    from cook_jupyter.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove the magics; running jobs continue."""
    from cook_jupyter.notebook.extension import unload

    unload(shell)
