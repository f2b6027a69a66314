"""The call that this process runs, for code of ours that the call itself uses.

Lives here: `RunningCall`, set while the user's function runs.
Not here: running it (`payload.calls`), what an executor inside a call does with it (`executor.nested`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCall:
    """A call in the process that was started for it; its children by fork are not meant."""

    job_id: str
    instance_id: str
    pid: int


_current: RunningCall | None = None


def current_call() -> RunningCall | None:
    """Return the call that this very process runs; None in a notebook, a script or a child of the call."""
    return _current if _current is not None and _current.pid == os.getpid() else None


@contextlib.contextmanager
def running_call(job_id: str, instance_id: str) -> Iterator[None]:
    """Let `current_call` tell of a call."""
    global _current  # noqa: PLW0603 - one process runs one call at a time
    _current = RunningCall(job_id=job_id, instance_id=instance_id, pid=os.getpid())
    try:
        yield
    finally:
        _current = None
