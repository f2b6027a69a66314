"""Coming back: futures of jobs that an earlier kernel submitted.

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
    """The futures of jobs that were submitted earlier, by this process or another one of the same user.

    Args:
        keys: a job's uuid (`future.key`), or several.
        client: the scheduler; None means this user's own.

    Raises:
        NotFound: a job is unknown to the scheduler; `missing` names those that are.
        SchedulerUnreachable: no scheduler is there.

    Example: `attach("2f0c3e5e-...").result()`
    """
    if isinstance(keys, str):
        return attach([keys], client=client)[0]
    wanted = [key.lower() for key in keys]
    session = _session(client)
    found = session.call(lambda client: client.jobs(wanted, partial=True))
    named = {job.uuid: job.name for job in found}
    if missing := tuple(key for key in wanted if key not in named):
        raise NotFound(f"the scheduler knows no job {', '.join(missing)}", missing=missing)
    made = {key: CookFuture(session, key, named[key], None) for key in wanted}
    session.adopt(list(made.values()))
    return [made[key] for key in wanted]


def recent(count: int = 20, *, name: str | None = None, client: JobClient | None = None) -> list[CookFuture]:
    """The futures of the calls submitted last, newest first.

    Args:
        count: at most so many.
        name: only jobs of this name, with `*` for any run of letters.
        client: the scheduler; None means this user's own.

    Example: `recent(5, name="simulate")`
    """
    session = _session(client)
    found = session.call(lambda client: client.recent_jobs(count, name=name))
    jobs = [job for job in found if SESSION_LABEL in job.labels]
    futures = [CookFuture(session, job.uuid, job.name, None) for job in jobs]
    if futures:
        session.adopt(futures)
    return futures


_sessions: dict[tuple[str, str, int], SchedulerSession] = {}
_lock = threading.Lock()


def _session(client: JobClient | None) -> SchedulerSession:
    """One session for all that is attached to a scheduler; it hears of all of the user's jobs."""
    locator = SchedulerLocator(client)
    place = (locator.client.url, locator.client.user, os.getpid())
    with _lock:
        session = _sessions.get(place)
        if session is None:
            session = _sessions[place] = SchedulerSession(locator, everything=True)
        return session
