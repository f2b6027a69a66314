"""Changes of jobs, and queries for jobs.

Lives here: `JobChange`, which a store reports for each job that a commit changed; `JobQuery`, which selects
jobs of a user. Not here: the readers of changes (`service.requests.events`).
"""

from dataclasses import dataclass

from cook_jupyter.model.fast_dataclass import fast_init
from cook_jupyter.model.instance import Instance, ResultPayload
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.model.pool import PoolName


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """One job after a commit that touched it.

    Attributes:
        before: state of the job before the commit; None if the commit created the job.
        job: the job after the commit, with `job.change` set.
        instance: the instance that the commit changed, after the change; None if it changed none.
        result: result that was reported with the end of `instance`; None if there was none.
    """

    before: JobState | None
    job: Job
    instance: Instance | None = None
    result: ResultPayload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """A query for the jobs of `user` that were submitted in [start_ms, end_ms) and are in one of `outcomes`.

    Attributes:
        outcomes: any of waiting, running, success, failed (Cook's "state").
        name_glob: pattern of the whole name, in which `*` matches any characters; None matches every name.
        pool: the job's pool or the pool to which it was submitted; None matches every pool.
        limit: maximum number of jobs; the *oldest* ones are returned, newest first.
    """

    user: str
    outcomes: frozenset[str]
    start_ms: int
    end_ms: int
    name_glob: str | None = None
    pool: PoolName | None = None
    limit: int | None = None
