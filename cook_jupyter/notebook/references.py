"""Which job is meant: by uuid, the beginning of one, a name, or a variable that holds a future.

Lives here: finding jobs by what a person types.
Not here: what is done with them (`notebook.commands`).
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import CookError, NotFound
from cook_jupyter.notebook.views import JobsView, JobView

LOOK_BACK_JOBS = 1000
SHORTEST_PREFIX = 3
ACCEPTED_S = 10.0
LAST = "last"
ALL = "all"

_HEX = re.compile(r"[0-9a-f-]+")


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
    recent: JobsView | None = None
    found: dict[str, JobView] = {}
    for word in words:
        key = _key_of(word, namespace, last)
        if key is not None:
            jobs = JobsView.of([client.job(key)], _now_ms())
        else:
            if recent is None:
                recent = JobsView.of(client.recent_jobs(LOOK_BACK_JOBS, states=states), _now_ms())
            jobs = _meant(word, recent)
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


def _meant(word: str, recent: JobsView) -> JobsView:
    if word == ALL:
        return recent
    by_id = [
        job
        for job in recent
        if len(word) >= SHORTEST_PREFIX and _HEX.fullmatch(word.lower()) and job.uuid.startswith(word.lower())
    ]
    candidates = by_id or [job for job in recent if job.name == word]
    if not candidates:
        raise NotFound(
            f"no job of yours is named {word!r} or has an id that begins so; `%cook list` shows the latest"
        )
    if len(candidates) > 1:
        raise Ambiguous(word, JobsView(tuple(candidates), recent.now_ms))
    return JobsView(tuple(candidates), recent.now_ms)


def _now_ms() -> int:
    return int(time.time() * 1000)
