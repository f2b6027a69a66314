"""Which job is meant: by uuid, the beginning of one, a name, or a variable that holds a future.

Lives here: finding jobs by what a person types.
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

LOOK_BACK_JOBS = (50, 2000)  # first so many, then more
MOST_NAMESAKES = 20
ALL_JOBS = 1_000_000
SHORTEST_PREFIX = 3
ACCEPTED_S = 10.0
LAST = "last"
ALL = "all"

_HEX = re.compile(r"[0-9a-f-]+")
_NAME = re.compile(r"[.a-zA-Z0-9_-]+")  # what Cook takes, and no *


class Ambiguous(CookError):
    """Several jobs may be meant; `candidates` are they, newest first."""

    def __init__(self, word: str, candidates: JobsView) -> None:
        super().__init__(
            f"{word!r} may be any of {len(candidates)} jobs; say more of the id, or all their ids:\n"
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
    """The jobs that words stand for, in their order.

    Args:
        client: the scheduler.
        words: uuids, beginnings of uuids, names, variables; `last` and `all`.
        namespace: the notebook's variables.
        last: the uuid of the job that this notebook started last.
        states: only jobs in these are meant by beginnings, names and `all`.

    Raises:
        NotFound: a word means no job.
        Ambiguous: a word may mean several.
    """
    found: dict[str, JobView] = {}
    for word in words:
        key = _key_of(word, namespace, last)
        jobs = JobsView.of([client.job(key)], _now_ms()) if key is not None else _meant(client, word, states)
        found.update({job.uuid: job for job in jobs})
    return list(found.values())


def find_job(
    client: JobClient, word: str, namespace: Mapping[str, Any], *, last: str | None = None
) -> JobView:
    """The one job that a word stands for; see `find_jobs`."""
    found = find_jobs(client, [word], namespace, last=last)
    if len(found) != 1:
        raise Ambiguous(word, JobsView(tuple(found), _now_ms()))
    return found[0]


def wait_until_accepted(future: Any) -> None:
    """Return once the scheduler has the job of a future that was made a moment ago."""
    deadline = time.monotonic() + ACCEPTED_S
    while getattr(future, "status", None) == "unsent" and time.monotonic() < deadline:
        time.sleep(0.002)


def _key_of(word: str, namespace: Mapping[str, Any], last: str | None) -> str | None:
    """The uuid, where the word itself or a variable of that name holds one."""
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
        found = str(UUID(key)) if isinstance(key, str) else None
    except ValueError:
        return None
    if found is not None:
        wait_until_accepted(value)
    return found


def _meant(client: JobClient, word: str, states: Sequence[str]) -> JobsView:
    if word == ALL:
        return JobsView.of(client.recent_jobs(ALL_JOBS, states=states), _now_ms())
    for find in (_by_name, _by_prefix):  # a name such as `fade` may begin an id, too
        found = JobsView.of(list(find(client, word, states)), _now_ms())
        if len(found) > 1:
            raise Ambiguous(word, found)
        if found:
            return found
    raise NotFound(
        f"no job of yours is named {word!r} or has an id that begins so; `%cook list` shows the latest"
    )


def _by_prefix(client: JobClient, word: str, states: Sequence[str]) -> Iterator[JobAnswer]:
    """Jobs whose id begins with the word: among the latest, and if there is none, among many."""
    if len(word) < SHORTEST_PREFIX or not _HEX.fullmatch(word.lower()):
        return
    for count in LOOK_BACK_JOBS:
        found = [job for job in client.recent_jobs(count, states=states) if job.uuid.startswith(word.lower())]
        if found:
            yield from found
            return


def _by_name(client: JobClient, word: str, states: Sequence[str]) -> Sequence[JobAnswer]:
    return client.recent_jobs(MOST_NAMESAKES, states=states, name=word) if _NAME.fullmatch(word) else []


def _now_ms() -> int:
    return int(time.time() * 1000)
