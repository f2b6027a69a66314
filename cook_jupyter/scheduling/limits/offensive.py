"""Offensive jobs (Cook's term): jobs that request more than any job of the pool may.

Lives here: their excess, which is also reported to the user; Cook gives no reason.
Not here: excluding them from the queue (`scheduling.ranking.considerable`), completing them (`service`).

Source: Cook's `scheduler.clj` (`filter-offensive-jobs`), as described in the fair-share specification,
section 4.
"""

from cook_jupyter.model.resources import Resources

Excess = dict[str, dict[str, float]]  # Cook's name of a resource -> "limit" and "usage" above it


def excess_of(requested: Resources, *, max_cpus: float | None, max_mem_mb: float | None) -> Excess:
    """Return the amounts by which a job exceeds the maximum size; empty if it is not offensive.

    Args:
        requested: resources that the job requests.
        max_cpus: maximum cpus of a job; None if not limited.
        max_mem_mb: maximum memory of a job; None if not limited.
    """
    compared = (("cpus", requested.cpus, max_cpus), ("mem", requested.mem_mb, max_mem_mb))
    return {
        name: {"limit": limit, "usage": amount}
        for name, amount, limit in compared
        if limit is not None and amount > limit
    }
