"""Dominant resource usage (DRU): how far into their share each task takes its user.

Lives here: the score of one user's tasks, one by one and for many users at once. It needs no other user, so
users can be scored apart and merged.
Not here: the order of a user's tasks (`scheduling.columns`), the use made of a score (`scheduling.ranking`).

Source: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011. As in Cook, we divide by the user's share
where the paper divides by the cluster's total.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from cook_jupyter.model.limits import Share
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.tables import Floats


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


def scores(
    held: tuple[Floats, Floats, Floats], share: tuple[Floats, Floats, Floats], mode: DruMode
) -> Floats:
    """Return the DRU for columns of what is held: cpus, memory, gpus, already added up.

    Sums must have been made one task after the other: two users with equal tasks then have equal scores.
    """
    if mode is DruMode.GPU:
        return held[2] / share[2]
    return np.maximum(held[1] / share[1], held[0] / share[0])
