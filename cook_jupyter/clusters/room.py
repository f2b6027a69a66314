"""Room: the free resources of a host at this moment, as arithmetic.

Lives here: sums and differences of resources that come out even.
Not here: what a host has in all (`clusters.local.capacity`, or the offers of a cluster).
"""

import math
from collections.abc import Iterable
from typing import Final

from cook_jupyter.model.resources import Resources

_DECIMALS: Final = 6  # cpus are given out in fractions


def sum_resources(amounts: Iterable[Resources]) -> Resources:
    """Return a sum of resources, rounded so that fractions leave no residue."""
    addends = list(amounts)
    return Resources(
        cpus=round(math.fsum(amount.cpus for amount in addends), _DECIMALS),
        mem_mb=round(math.fsum(amount.mem_mb for amount in addends), _DECIMALS),
        gpus=round(math.fsum(amount.gpus for amount in addends), _DECIMALS),
    )


def remaining(whole: Resources, held: Resources) -> Resources:
    """Return what is free of `whole` while `held` is in use; 0 where more is in use than there is."""
    free = whole - held
    return Resources(
        cpus=max(0.0, round(free.cpus, _DECIMALS)),
        mem_mb=max(0.0, round(free.mem_mb, _DECIMALS)),
        gpus=max(0.0, round(free.gpus, _DECIMALS)),
    )
