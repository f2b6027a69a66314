"""Offensive jobs, as Cook calls them: those that ask for more than any job of the pool may.

Lives here: what they ask for too much of, which is also the reason they are told. Cook tells none.
Not here: leaving them out of the queue (`scheduling.ranking.considerable`), completing them (`service`).

Source: Cook's `scheduler.clj` (`filter-offensive-jobs`), as told in the fair-share specification, section 4.
"""

from cook_jupyter.model.resources import Resources

Excess = dict[str, dict[str, float]]  # resource, by Cook's name -> its "limit" and the "usage" above that


def excess_of(asked: Resources, *, max_cpus: float | None, max_mem_mb: float | None) -> Excess:
    """Return what a job asks for beyond what any job may; empty if it is not offensive.

    Args:
        asked: what it asks for.
        max_cpus: the most cpus that a job may ask for; None does not limit.
        max_mem_mb: the most memory.
    """
    compared = (("cpus", asked.cpus, max_cpus), ("mem", asked.mem_mb, max_mem_mb))
    return {
        name: {"limit": most, "usage": amount}
        for name, amount, most in compared
        if most is not None and amount > most
    }
