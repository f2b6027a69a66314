"""Dominant resource usage (DRU): how far into their share each task takes its user.

Lives here: the score of one user's tasks. It needs no other user, so users can be scored apart and merged.
Not here: the order of a user's tasks (`scheduling.columns`), the same score in columns and the use made
of it (`scheduling.ranking`).

Source: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011. As in Cook, we divide by the user's share
where the paper divides by the cluster's total.
"""

from collections.abc import Iterable, Iterator

from cook_jupyter.model.limits import Share
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources


def cumulative_dru(
    tasks: Iterable[Resources], share: Share, mode: DruMode = DruMode.DEFAULT
) -> Iterator[float]:
    """Yield the DRU of each task: all its user holds, up to and including it.

    Args:
        tasks: what each task of one user holds, most important first.
        share: the user's share of the pool; every amount above zero.
        mode: what counts: the greater of cpus and memory, or gpus alone.

    Yields:
        One number per task, never falling. At 1.0 the user's dominant resource has reached its share.
    """
    held = Resources()
    for task in tasks:
        held += task
        if mode is DruMode.GPU:
            yield held.gpus / share.gpus
        else:
            yield max(held.mem_mb / share.mem_mb, held.cpus / share.cpus)
