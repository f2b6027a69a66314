"""The time, as it passes: what somebody does to the machine's clock meanwhile makes no difference.

Lives here: `now_ms`, for everything that is measured and reported on a host.
Not here: deadlines and timers within a process (`time.monotonic`), the age of files (`worker.retention`), the
scheduler's clock (`service.clock`).

The machine's clock is read once, when the first process imports this module; from then on a clock that nobody
sets counts on. Workers are forked and share it, so that an instance never ends before it started, and took as
long as it took.
"""

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # which goes on while the machine sleeps
_read_ns = time.clock_gettime_ns  # bound here: a job may replace the functions of `time`
_OFFSET_NS = time.time_ns() - time.clock_gettime_ns(_BOOT_CLOCK)


def now_ms() -> int:
    """Return the time in epoch milliseconds, UTC, as the clock said when it was first read."""
    return (uptime_ns() + _OFFSET_NS) // 1_000_000


def uptime_ns() -> int:
    """Return the nanoseconds since the machine was started."""
    return _read_ns(_BOOT_CLOCK)
