"""Resolve references to jobs: a uuid, the beginning of one, a name, or a variable that holds a future.

Lives here: finding jobs by what a user types.
Not here: what is done with them (`notebook.commands`).
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from cook_jupyter.client.answers import JobAnswer
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import CookError, NotFound
from cook_jupyter.notebook.job_views import JobsView, JobView

PREFIX_SEARCH_JOBS = (50, 2000)  # searched first, and if nothing matches
MAX_NAMESAKES = 20
ALL_JOBS = 1_000_000
MIN_PREFIX = 3
ACCEPT_TIMEOUT_S = 10.0
LAST = "last"
ALL = "all"

_HEX = re.compile(r"[0-9a-f-]+")
_NAME = re.compile(r"[.a-zA-Z0-9_-]+")  # names that Cook accepts, without *


class Ambiguous(CookError):
    """Several jobs match a reference; `candidates` has them, newest first."""

    def __init__(self, word: str, candidates: JobsView) -> None:
        super().__init__(
            f"{word!r} matches {len(candidates)} jobs; give more of the id, or the ids of all:\n"
            f"{candidates!r}"
        )
        self.candidates = candidates


def find_jobs(
    client: JobClient,
    words: Sequence[str],
    namespace: Mapping[str, Any],
    *,
    last: str | None = None,
    states: Sequence[str] = ("waiting", "running", "completed"),
) -> list[JobView]:
    """Return the jobs that words refer to, in the order of the words.

    Args:
        client: client of the scheduler.
        words: uuids, beginnings of uuids, names, variables; `last` and `all`.
        namespace: variables of the notebook.
        last: uuid of the job that this notebook started last.
        states: states of the jobs that beginnings, names and `all` can match.

    Raises:
        NotFound: a word matches no job.
        Ambiguous: a word matches several jobs.
    """
    jobs_by_uuid: dict[str, JobView] = {}
    for word in words:
        key = _key_of(word, namespace, last)
        jobs = (
            JobsView.of([client.job(key)], _now_ms()) if key is not None else _matching(client, word, states)
        )
        jobs_by_uuid.update({job.uuid: job for job in jobs})
    return list(jobs_by_uuid.values())


def find_job(
    client: JobClient, word: str, namespace: Mapping[str, Any], *, last: str | None = None
) -> JobView:
    """Return the job that a word refers to; see `find_jobs`."""
    jobs = find_jobs(client, [word], namespace, last=last)
    if len(jobs) != 1:
        raise Ambiguous(word, JobsView(tuple(jobs), _now_ms()))
    return jobs[0]


def wait_until_accepted(future: Any) -> None:
    """Wait until the scheduler has accepted the job of a new future."""
    deadline = time.monotonic() + ACCEPT_TIMEOUT_S
    while getattr(future, "status", None) == "unsent" and time.monotonic() < deadline:
        time.sleep(0.002)


def _key_of(word: str, namespace: Mapping[str, Any], last: str | None) -> str | None:
    """Return the uuid that a word is, or that the variable of that name holds; otherwise None."""
    if word == LAST:
        if last is None:
            raise NotFound("this notebook has started no job yet")
        return last
    try:
        return str(UUID(word))
    except ValueError:
        pass
    value = namespace.get(word)
    key = getattr(value, "key", None)
    try:
        uuid = str(UUID(key)) if isinstance(key, str) else None
    except ValueError:
        return None
    if uuid is not None:
        wait_until_accepted(value)
    return uuid


def _matching(client: JobClient, word: str, states: Sequence[str]) -> JobsView:
    if word == ALL:
        return JobsView.of(client.recent_jobs(ALL_JOBS, states=states), _now_ms())
    for find in (_by_name, _by_prefix):  # a name such as `fade` could also be the beginning of an id
        jobs = JobsView.of(list(find(client, word, states)), _now_ms())
        if len(jobs) > 1:
            raise Ambiguous(word, jobs)
        if jobs:
            return jobs
    raise NotFound(
        f"no job of yours is named {word!r} or has an id that begins with it; `%cook list` shows the latest"
    )


def _by_prefix(client: JobClient, word: str, states: Sequence[str]) -> Iterator[JobAnswer]:
    """Yield the jobs whose id begins with a word, from the latest jobs, or from many if none matches."""
    if len(word) < MIN_PREFIX or not _HEX.fullmatch(word.lower()):
        return
    for count in PREFIX_SEARCH_JOBS:
        jobs = [job for job in client.recent_jobs(count, states=states) if job.uuid.startswith(word.lower())]
        if jobs:
            yield from jobs
            return


def _by_name(client: JobClient, word: str, states: Sequence[str]) -> Sequence[JobAnswer]:
    return client.recent_jobs(MAX_NAMESAKES, states=states, name=word) if _NAME.fullmatch(word) else []


def _now_ms() -> int:
    return int(time.time() * 1000)
