"""The call that this process runs, for code of cook_jupyter that the call uses.

Lives here: `RunningCall`, set while the user's function runs.
Not here: running the call (`payload.calls`), how an executor inside a call uses it (`executor.nested`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCall:
    """A call that runs in this process; forked children of the process do not count as running it."""

    job_id: str
    instance_id: str
    pid: int


_current: RunningCall | None = None


def current_call() -> RunningCall | None:
    """Return the call that this process runs; None in a notebook, a script or a forked child of the call."""
    return _current if _current is not None and _current.pid == os.getpid() else None


@contextlib.contextmanager
def running_call(job_id: str, instance_id: str) -> Iterator[None]:
    """Make `current_call` return this call in the context."""
    global _current  # noqa: PLW0603 - a process runs one call at a time
    _current = RunningCall(job_id=job_id, instance_id=instance_id, pid=os.getpid())
    try:
        yield
    finally:
        _current = None
