"""Dominant resource usage (DRU): the position of given amounts along a user's share.

Lives here: the formula, for one sum of amounts (`dru_of`) and for columns of sums (`drus_of`).
Not here: the order in which a user's tasks are added up, and the use of DRUs (`scheduling.ranking.ranking`,
`scheduling.rebalancing.task_drus`, `scheduling.matching.head_room`).

Source: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011. Like Cook, divide by the user's share where
the paper divides by the cluster's total.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from cook_jupyter.model.limits import Share
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.arrays import Floats

_COUNTED: Final[Mapping[DruMode, tuple[str, ...]]] = {
    DruMode.DEFAULT: ("mem", "cpus"),
    DruMode.GPU: ("gpus",),
}


def dru_of(cpus: float, mem_mb: float, gpus: float, share: Share, mode: DruMode) -> float:
    """Return the DRU of amounts. At 1.0 the dominant resource has reached the share.

    Args:
        cpus: cpus that the user holds.
        mem_mb: memory that the user holds.
        gpus: gpus that the user holds.
        share: the user's share of the pool; every amount is above zero.
        mode: resources that count: the greater of cpus and memory, or gpus alone.
    """
    if mode is DruMode.GPU:
        return gpus / share.gpus
    return max(mem_mb / share.mem_mb, cpus / share.cpus)


@np.errstate(over="ignore")  # a tiny share may give an infinite DRU: such tasks are last, and tie
def drus_of(
    sums_of: Callable[[str], Floats], shares_of: Callable[[str], Floats | float], mode: DruMode
) -> Floats:
    """Return the DRU of sums of amounts, in columns.

    Args:
        sums_of: returns the sums of a resource: of `cpus`, `mem` or `gpus`. Only those that count are asked
            for.
        shares_of: returns the shares of the same resource.
        mode: resources that count.
    """
    dru, *others = [sums_of(name) / shares_of(name) for name in _COUNTED[mode]]
    for part in others:
        np.maximum(dru, part, out=dru)
    return dru
