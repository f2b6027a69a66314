"""In the kernel: the `%cook` and `%%cook` magics, and how jobs look in a notebook.

Lives here: arguments, completion, text and HTML.
Not here: what a future does (`executor`), what a scheduler is asked (`client`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Bring the magics in; doing it twice is doing it once."""
    from cook_jupyter.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away; jobs go on."""
    from cook_jupyter.notebook.extension import unload

    unload(shell)
