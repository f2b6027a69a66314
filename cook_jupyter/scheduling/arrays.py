"""Columns of numbers, by row of a job and by number of a user.

Lives here: the arrays that decisions read, and their types.
Not here: the index that updates them (`scheduling.queue.queue_index`).
"""

from collections.abc import MutableSequence, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.limits import UserLimits

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
Amounts = MutableSequence[float]  # a column, accessed one value at a time
Counts = MutableSequence[int]

SEQ_BITS: Final = 39  # of an order key; the priority is in the bits above
LAUNCH_BITS: Final = 20  # of a launch number; the time of the launch is in the bits above


class Columns:
    """The columns of an index, by row. Row 0 is padding: it requests nothing."""

    __slots__ = (
        "constraints",
        "cpus",
        "gpus",
        "launch",
        "mem",
        "order",
        "ports",
        "run_time",
        "state",
        "user",
    )

    def __init__(self, capacity: int) -> None:
        self.cpus = np.zeros(capacity)
        self.mem = np.zeros(capacity)
        self.gpus = np.zeros(capacity)
        self.order = np.zeros(capacity, dtype=np.int64)
        self.launch = np.zeros(capacity, dtype=np.int64)
        self.user = np.zeros(capacity, dtype=np.int32)
        self.constraints = np.zeros(capacity, dtype=np.int32)
        self.ports = np.zeros(capacity, dtype=np.int32)
        self.run_time = np.zeros(capacity, dtype=np.int32)  # number in `CountedValues`
        self.state = np.zeros(capacity, dtype=np.int8)

    def grown(self, capacity: int) -> "Columns":
        """Return the columns, enlarged to the given capacity."""
        larger = Columns(capacity)
        for name in self.__slots__:
            column = getattr(self, name)
            getattr(larger, name)[: len(column)] = column
        return larger


class LimitColumns:
    """Shares and quotas by number of user.

    Attributes:
        shares: divisors of the DRU, by resource: `cpus`, `mem` and `gpus`.
        quota: one row per user: count, cpus, mem, gpus.
        limited: whether the user's quota limits anything.
        anyone_limited: whether the quota of any user does.
    """

    __slots__ = ("anyone_limited", "limited", "quota", "shares")

    def __init__(self, names: Sequence[str], limits: UserLimits) -> None:
        shares = [limits.share(name) for name in names]
        quotas = [limits.quota(name) for name in names]
        self.shares: dict[str, Floats] = {
            "cpus": np.array([share.cpus for share in shares]),
            "mem": np.array([share.mem_mb for share in shares]),
            "gpus": np.array([share.gpus for share in shares]),
        }
        self.quota: Floats = np.array(
            [(float(quota.count), quota.cpus, quota.mem_mb, quota.gpus) for quota in quotas]
        ).reshape(-1, 4)
        self.limited = np.array([quota.limits_usage for quota in quotas], dtype=bool)
        self.anyone_limited = bool(self.limited.any())


def amounts(column: Floats | npt.NDArray[np.float32]) -> Amounts:
    """Return the column as Python numbers, for access to single values at twice the speed of numpy."""
    return cast("Amounts", memoryview(cast("Any", column)))


def counts(column: npt.NDArray[Any]) -> Counts:
    """Return a column of integers as Python numbers, for access to single values."""
    return cast("Counts", memoryview(cast("Any", column)))
