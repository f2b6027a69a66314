"""Attach to jobs that an earlier kernel submitted.

Lives here: `attach` by key, `recent` by time and name.
Not here: how a future gets its result (`executor.session`).

Results are verified with the user's own key, like any other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, overload

from cook_jupyter.errors import NotFound
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.locator import SchedulerLocator
from cook_jupyter.executor.options import SESSION_LABEL
from cook_jupyter.executor.session import SchedulerSession

if TYPE_CHECKING:
    from cook_jupyter.client.sync import JobClient


@overload
def attach(keys: str, *, client: JobClient | None = None) -> CookFuture: ...  # type: ignore[overload-overlap]
@overload
def attach(keys: Iterable[str], *, client: JobClient | None = None) -> list[CookFuture]: ...
def attach(keys: str | Iterable[str], *, client: JobClient | None = None) -> CookFuture | list[CookFuture]:
    """Return the futures of jobs that were submitted earlier, by this or another process of the same user.

    Args:
        keys: uuid of a job (`future.key`), or several.
        client: client of the scheduler; None for this user's own.

    Raises:
        NotFound: the scheduler does not know a job; `missing` names all of these.
        SchedulerUnreachable: there is no scheduler.

    Example: `attach("2f0c3e5e-...").result()`
    """
    if isinstance(keys, str):
        return attach([keys], client=client)[0]
    job_keys = [key.lower() for key in keys]
    session = _session(client)
    jobs = session.call(lambda client: client.jobs(job_keys, partial=True))
    names = {job.uuid: job.name for job in jobs}
    if missing := tuple(key for key in job_keys if key not in names):
        raise NotFound(f"the scheduler does not know job {', '.join(missing)}", missing=missing)
    futures = {key: CookFuture(session, key, names[key], None) for key in job_keys}
    session.adopt(list(futures.values()))
    return [futures[key] for key in job_keys]


def recent(count: int = 20, *, name: str | None = None, client: JobClient | None = None) -> list[CookFuture]:
    """Return the futures of the latest calls, newest first.

    Args:
        count: maximum number of futures.
        name: only jobs with this name, in which `*` matches any characters.
        client: client of the scheduler; None for this user's own.

    Example: `recent(5, name="simulate")`
    """
    session = _session(client)
    latest = session.call(lambda client: client.recent_jobs(count, name=name))
    jobs = [job for job in latest if SESSION_LABEL in job.labels]
    futures = [CookFuture(session, job.uuid, job.name, None) for job in jobs]
    if futures:
        session.adopt(futures)
    return futures


_sessions: dict[tuple[str, str, int], SchedulerSession] = {}
_lock = threading.Lock()


def _session(client: JobClient | None) -> SchedulerSession:
    """Return the session for all attached jobs of a scheduler; it receives events of all jobs of the user."""
    locator = SchedulerLocator(client)
    session_key = (locator.client.url, locator.client.user, os.getpid())
    with _lock:
        session = _sessions.get(session_key)
        if session is None:
            session = _sessions[session_key] = SchedulerSession(locator, all_jobs=True)
        return session
