"""The time of the service.

Lives here: `Clock` and its two implementations, one of which is set manually. Not here: any use of time in a
decision (there, times are arguments).
"""

import time
from typing import Protocol

_BOOT_CLOCK = getattr(
    time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC
)  # it also advances while the machine sleeps


class Clock(Protocol):
    """A source of the current time."""

    def now_ms(self) -> int:
        """Return the time in epoch milliseconds, UTC."""


class SystemClock:
    """The system clock at the construction of this object, advanced by a clock that cannot be set.

    So nothing times out, or ends before it started, because the system clock is set.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(_BOOT_CLOCK)

    def now_ms(self) -> int:
        """Return the time in epoch milliseconds, UTC."""
        return (time.clock_gettime_ns(_BOOT_CLOCK) + self._offset_ns) // 1_000_000


class ManualClock:
    """A clock that only advances when it is told to.

    Args:
        now_ms: initial time in epoch milliseconds.
    """

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return the time in epoch milliseconds."""
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Advance the clock by `ms` milliseconds."""
        self._now_ms += ms
