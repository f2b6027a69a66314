"""What a commit did to a job, and how to ask for jobs.

Lives here: `JobChange`, which stores tell, the service acts on and readers of events are sent;
`JobQuery`, which users ask and stores answer. Not here: who hears of a change (`service.requests.events`).
"""

from dataclasses import dataclass

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.instance import Instance, ResultPayload
from cook_jupyter.model.job import Job, JobState


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """One job after a commit that touched it.

    Attributes:
        before: the state it had; None if the commit created it.
        job: the job now, with `job.change` set.
        instance: the instance that the commit touched, as it is now; None if none was.
        result: the bytes that came with the end of `instance`, if any came.
    """

    before: JobState | None
    job: Job
    instance: Instance | None = None
    result: ResultPayload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs to list: of `user`, submitted in [start_ms, end_ms), in one of `outcomes`.

    Attributes:
        outcomes: any of waiting, running, success, failed (Cook's "state").
        name_glob: whole-name match where `*` is any run; None takes every name.
        pool: matches the job's pool or the pool it was submitted to; None takes all.
        limit: when more match, the *oldest* `limit` are taken; results are newest first.
    """

    user: str
    outcomes: frozenset[str]
    start_ms: int
    end_ms: int
    name_glob: str | None = None
    pool: str | None = None
    limit: int | None = None
