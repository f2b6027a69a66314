"""The job's own `__main__`: the namespace in which what the notebook defined lives on the host.

Lives here: a fresh `__main__` for each job, the names in it, and what has to be undone when the job ends.
Not here: taking objects of the notebook apart and putting them together (`payload.by_value`).

Functions of the notebook share the globals of this module, and its classes and functions are found in it by
their names. So `pickle` and process pools work inside a job as they do in the notebook, and there is one copy
of each global, whoever refers to it.

Imports the standard library alone: a worker imports this module before anything of the user's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

MAIN = "__main__"
NAMES = frozenset((MAIN, "__mp_main__"))  # `multiprocessing` enters it a second time when it is imported


def namespace() -> dict[str, Any]:
    """Return the globals of `__main__`: the notebook's here, the job's on a host."""
    return sys.modules[MAIN].__dict__


def find(qualified_name: str) -> Any:
    """Return the object of `__main__` that has a qualified name, or None."""
    if "<locals>" in qualified_name:
        return None
    top, *rest = qualified_name.split(".")
    found = namespace().get(top)
    for name in rest:
        found = getattr(found, name, None)
    return found


def name_of(obj: Any) -> str | None:
    """Return the name by which `pickle` finds an object in `__main__`; None if it does not find it."""
    name = getattr(obj, "__qualname__", None)
    return name if isinstance(name, str) and find(name) is obj else None


class FreshMain:
    """A `__main__` of a job's own; the process has its own again when the context ends.

    Args:
        file: path of the script that submitted the job; None for a notebook.
    """

    __slots__ = ("_main", "_outer")

    def __init__(self, file: str | None) -> None:
        self._main = ModuleType(MAIN)
        if file is not None:
            self._main.__file__ = file

    def __enter__(self) -> None:
        """Install it."""
        global _at_end  # a process runs one job at a time
        self._outer = sys.modules[MAIN], _at_end
        sys.modules[MAIN], _at_end = self._main, []

    def __exit__(self, *_: object) -> None:
        """Undo what was left for the end of the job."""
        global _at_end  # see above
        undo = _at_end
        sys.modules[MAIN], _at_end = self._outer
        for callback in reversed(undo):
            callback()
        # Functions and their globals refer to each other: large ones must not wait for the garbage collector.
        names = vars(self._main)
        for name in [name for name in names if not name.startswith("__")]:
            del names[name]


def is_in_job() -> bool:
    """Return whether a job runs in this process; else it is a notebook, whose names are the user's."""
    return not isinstance(_at_end, _NoJob)


def at_end_of_job(callback: Callable[[], object]) -> None:
    """Call `callback` when the job ends; never, where no job runs."""
    _at_end.append(callback)


def keep_until_end(obj: Any) -> None:
    """Keep an object alive until the job ends."""
    _at_end.append(lambda: obj)


class _NoJob(list[Callable[[], object]]):
    """What has to be undone at the end of a job, where there is no job: nothing."""

    def append(self, _: Callable[[], object], /) -> None:
        """Drop the callback."""


_at_end: list[Callable[[], object]] = _NoJob()
