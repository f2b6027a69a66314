"""The waiting jobs for which a cluster should grow.

Lives here: `jobs_to_grow_for`. Not here: the inputs of the decision (`scheduling.decisions`), the
choice of the cluster (`scheduling.growth.cluster_choice`), the request (`service.actions.growth`).

Source: Cook's `scheduler.clj` (`trigger-autoscaling!`), as described in the fair-share specification, section
5.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from cook_jupyter.model.decisions import Matching
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UserLimits
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.ranking.considerable import (
    NO_FILTERS,
    QueueFilters,
    considerable,
    ranked_within,
)
from cook_jupyter.scheduling.ranking.ranking import RANK_DEFAULTS, RankSettings, rank_lazily

MAX_JOBS = 1000


def jobs_to_grow_for(
    index: QueueIndex,
    limits: UserLimits,
    matching: Matching,
    *,
    rank: RankSettings = RANK_DEFAULTS,
    filters: QueueFilters = NO_FILTERS,
    factor: float = 1.0,
    max_jobs: int = MAX_JOBS,
    already_requested: frozenset[JobId] = frozenset(),
) -> Sequence[JobId]:
    """Return the first jobs of the queue without a host that quotas and launch rate would allow to start.

    The smaller the part of the considered jobs that was matched, the more jobs are returned. As in Cook, the
    new matches do not count against quotas yet, and the launch filter is not applied.

    Args:
        index: tasks of the pool, before the matches of the cycle.
        limits: shares and quotas.
        matching: decisions of the match cycle.
        rank: settings of the ranking.
        filters: filters of the match cycle.
        factor: weight of the unmatched part of the considered jobs.
        max_jobs: maximum number of jobs, unless more were unmatched.
        already_requested: jobs for which a cluster was asked to grow recently (Cook: 120 s).
    """
    if not matching.considered:
        return ()
    unmatched_share = min(1.0, factor * matching.unmatched / matching.considered)
    job_limit = max(int(unmatched_share * max_jobs), matching.unmatched)
    matched = {match.job_id for match in matching.matches}
    unfiltered = replace(filters, accepts=None)
    ranked = ranked_within(rank_lazily(index, limits, rank), index, unfiltered)
    remaining = (job for job in ranked if index.ids((job.row,))[0] not in matched)
    jobs = islice(considerable(remaining, index, limits, unfiltered), job_limit)
    return [job_id for job_id in index.ids(job.row for job in jobs) if job_id not in already_requested]
