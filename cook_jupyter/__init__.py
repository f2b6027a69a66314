"""Fan a notebook out over a fair-share cluster.

    from cook_jupyter import CookExecutor

    with CookExecutor() as executor:
        results = list(executor.map(simulate, seeds))

In a notebook, `%load_ext cook_jupyter` brings the magics `%cook` and `%%cook`.

Lives here: the few public names, each fetched when it is first used, so that the import costs nothing;
the hooks of IPython.
Not here: anything else. Inside the package, import the module that defines a name, never this one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from cook_jupyter.client.connect import connect
    from cook_jupyter.executor import CookExecutor

__all__ = ["CookExecutor", "__version__", "connect"]

_HOMES = {
    "CookExecutor": "cook_jupyter.executor",
    "connect": "cook_jupyter.client.connect",
}


def __getattr__(name: str) -> Any:
    """Fetch a public name from the module that defines it, once."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("cook_jupyter")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Bring `%cook` and `%%cook` into a notebook: what `%load_ext cook_jupyter` calls."""
    importlib.import_module("cook_jupyter.notebook").load_ipython_extension(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Take the magics away again: what `%unload_ext cook_jupyter` calls."""
    importlib.import_module("cook_jupyter.notebook").unload_ipython_extension(ipython)
