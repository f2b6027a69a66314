"""Which waiting jobs a cluster that can grow should make room for.

Lives here: `jobs_to_grow_for`. Not here: by what it is decided (`scheduling.decisions`), which
cluster (`scheduling.growth.cluster_choice`), the asking (`service.actions.growth`).

Source: Cook's `scheduler.clj` (`trigger-autoscaling!`), as told in the fair-share specification, section 5.
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
    asked_for: frozenset[JobId] = frozenset(),
) -> Sequence[JobId]:
    """Return the first jobs of the queue that got no host and that quotas and launch rate would let start.

    The fewer of the considered jobs were matched, the more jobs it looks ahead at. As in Cook, what was just
    matched is not counted yet, and the launch filter is not asked.

    Args:
        index: the pool's tasks, as they were in the match cycle.
        limits: shares and quotas.
        matching: what the match cycle decided.
        rank: how the pool ranks.
        filters: as in the match cycle.
        factor: how strongly the share of unmatched jobs counts.
        max_jobs: how many jobs it returns at most, unless more were unmatched.
        asked_for: jobs that room was asked for a short while ago (Cook: 120 s).
    """
    if not matching.considered:
        return ()
    share = min(1.0, factor * matching.unmatched / matching.considered)
    number = max(int(share * max_jobs), matching.unmatched)
    matched = {match.job_id for match in matching.matches}
    unfiltered = replace(filters, accepts=None)
    ranked = ranked_within(rank_lazily(index, limits, rank), index, unfiltered)
    remaining = (job for job in ranked if index.ids((job.row,))[0] not in matched)
    first = islice(considerable(remaining, index, limits, unfiltered), number)
    return [job_id for job_id in index.ids(job.row for job in first) if job_id not in asked_for]
