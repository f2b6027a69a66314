"""Waiting in tests: for conditions, and the time after which something counts as hung.

A wait ends as soon as its condition is true, so a long limit does not slow down a passing test. A short limit
would depend on the speed of the machine.
"""

import asyncio
import time
from collections.abc import Callable

HANG_S = 90.0
"""Time limit of one wait, which only a hang reaches."""

_POLL_INTERVAL_S = 0.005


def wait_until(
    condition: Callable[[], object], what: str = "the condition", timeout_s: float = HANG_S
) -> None:
    """Wait until a condition is true.

    Args:
        condition: function that is called repeatedly until its result is true.
        what: description of the condition, for the failure.
        timeout_s: time limit.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(_POLL_INTERVAL_S)


async def wait_until_async(condition: Callable[[], object], timeout_s: float = HANG_S) -> None:
    """Wait until a condition without an event of its own is true, such as the existence of a file.

    Args:
        condition: function that is called repeatedly until its result is true.
        timeout_s: time limit.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(_POLL_INTERVAL_S)
