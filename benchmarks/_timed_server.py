"""`cook-jupyter` that writes the time of each match cycle to a file: `_timed_server.py FILE serve ...`.

A line has the time of the start of the cycle, since the epoch, and its duration, both in seconds.
"""

import sys
import time
from pathlib import Path

from cook_jupyter.cli import main
from cook_jupyter.model.pool import PoolName
from cook_jupyter.service.cycles import match_cycle
from cook_jupyter.service.scheduler import Scheduler

run_match_cycle = match_cycle.run_match_cycle
times = Path(sys.argv.pop(1)).open("a", buffering=1)  # noqa: SIM115 - until the end of the process


async def timed_match_cycle(scheduler: Scheduler, pool: PoolName) -> int:
    """Run a match cycle, and write how long it took."""
    begun, started = time.time(), time.perf_counter()
    launched = await run_match_cycle(scheduler, pool)
    times.write(f"{begun:.6f} {time.perf_counter() - started:.6f}\n")
    return launched


if __name__ == "__main__":
    match_cycle.run_match_cycle = timed_match_cycle
    main()
