"""The time, as the service sees it, and a clock that tests turn by hand.

Lives here: `Clock` and its two twins. Not here: any use of time in a decision (times are
arguments there).
"""

import time
from typing import Protocol

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # which goes on while the machine sleeps


class Clock(Protocol):
    """Says what time it is."""

    def now_ms(self) -> int:
        """Return the time in epoch milliseconds, UTC."""


class SystemClock:
    """The machine's clock as it was when this one was made, moved on by a clock that nobody sets.

    So nothing runs out of time, or ends before it began, because somebody sets the machine's clock.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(_BOOT_CLOCK)

    def now_ms(self) -> int:
        """Return the time in epoch milliseconds, UTC."""
        return (time.clock_gettime_ns(_BOOT_CLOCK) + self._offset_ns) // 1_000_000


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return the time it was last set to."""
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Move on by `ms` milliseconds."""
        self._now_ms += ms
