"""The `__main__` of a job: the namespace on the host for everything that the notebook defined.

Lives here: a fresh `__main__` for each job, the names in it, and callbacks for the end of the job.
Not here: reducing objects of the notebook and rebuilding them (`payload.kinds`).

Functions of the notebook use this module as their globals, and its classes and functions are found in it by
name. So `pickle` and process pools work inside a job as in the notebook, and there is a single copy of each
global, whatever refers to it.

Imports only the standard library, because a worker imports it before anything of the user.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

MAIN = "__main__"
NAMES = frozenset((MAIN, "__mp_main__"))  # `multiprocessing` registers it a second time when it is imported


def namespace() -> dict[str, Any]:
    """Return the globals of `__main__`: those of the notebook here, those of the job on a host."""
    return sys.modules[MAIN].__dict__


def find(qualified_name: str) -> Any:
    """Return the object with a qualified name in `__main__`, or None."""
    if "<locals>" in qualified_name:
        return None
    top, *rest = qualified_name.split(".")
    obj = namespace().get(top)
    for name in rest:
        obj = getattr(obj, name, None)
    return obj


def name_of(obj: Any) -> str | None:
    """Return the name by which `pickle` finds an object in `__main__`; None if there is none."""
    name = getattr(obj, "__qualname__", None)
    return name if isinstance(name, str) and find(name) is obj else None


class FreshMain:
    """Context manager that gives a job its own `__main__`, and restores that of the process at the end.

    Args:
        file: path of the script that submitted the job; None for a notebook.
    """

    __slots__ = ("_main", "_outer")

    def __init__(self, file: str | None) -> None:
        self._main = ModuleType(MAIN)
        if file is not None:
            self._main.__file__ = file

    def __enter__(self) -> None:
        """Install the job's `__main__`."""
        global _at_end  # a process runs one job at a time
        self._outer = sys.modules[MAIN], _at_end
        sys.modules[MAIN], _at_end = self._main, []

    def __exit__(self, *_: object) -> None:
        """Restore the `__main__` of the process, and run the callbacks for the end of the job."""
        global _at_end  # see above
        callbacks = _at_end
        sys.modules[MAIN], _at_end = self._outer
        for callback in reversed(callbacks):
            callback()
        # Functions and their globals refer to each other; do not leave large ones to the garbage collector.
        names = vars(self._main)
        for name in [name for name in names if not name.startswith("__")]:
            del names[name]


def is_in_job() -> bool:
    """Return whether a job runs in this process, which otherwise is a notebook or script."""
    return not isinstance(_at_end, _NoJob)


def at_end_of_job(callback: Callable[[], object]) -> None:
    """Call `callback` when the job ends; never, if no job runs."""
    _at_end.append(callback)


def keep_until_end(obj: Any) -> None:
    """Keep an object alive until the job ends."""
    _at_end.append(lambda: obj)


class _NoJob(list[Callable[[], object]]):
    """Discards the callbacks for the end of a job, where no job runs."""

    def append(self, _: Callable[[], object], /) -> None:
        """Discard the callback."""


_at_end: list[Callable[[], object]] = _NoJob()
