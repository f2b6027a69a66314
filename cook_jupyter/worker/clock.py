"""Time that is unaffected by changes of the machine's clock.

Lives here: `now_ms`, for everything that is measured and reported on a host.
Not here: deadlines and timers within a process (`time.monotonic`), the age of files (`worker.retention`), the
scheduler's clock (`service.clock`).

The machine's clock is read once, when the first process imports this module; from then on time is taken from
a clock that cannot be set. Workers are forked and share this offset, so that an instance never ends before it
started, and its duration is right.
"""

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # also runs while the machine sleeps
_read_ns = time.clock_gettime_ns  # bound here, because a job may replace the functions of `time`
_OFFSET_NS = time.time_ns() - time.clock_gettime_ns(_BOOT_CLOCK)


def now_ms() -> int:
    """Return the time in epoch milliseconds, UTC, based on the first reading of the machine's clock."""
    return (uptime_ns() + _OFFSET_NS) // 1_000_000


def uptime_ns() -> int:
    """Return the nanoseconds since the machine was booted."""
    return _read_ns(_BOOT_CLOCK)
