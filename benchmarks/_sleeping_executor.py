"""Our Mesos executor with sleepers in the place of processes: `_sleeping_executor.py mesos-executor ...`.

For measurements with more tasks than this machine can have processes. The executor, its connection and its
updates are those of the product; its supervisor is replaced by one that runs `sleep SECONDS` with a timer.
"""

import heapq
import json
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cook_jupyter.worker.channel import SelectorLoop
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import Frame, Header
from cook_jupyter.worker.mesos import executor
from cook_jupyter.worker.supervisor import SupervisorListener
from cook_jupyter.worker.task import Cause, EndReport, TaskExit


class SleepingSupervisor:
    """Has the methods of `Supervisor` that the executor calls; its instances only wait."""

    def __init__(
        self, loop: SelectorLoop, listener: SupervisorListener, *, home: str, **options: Any
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._home = home
        self._open: dict[str, Header] = {}
        self._ends: list[tuple[float, str]] = []

    def launch(self, launch: Frame) -> None:
        """Begin to sleep."""
        instance_id: str = launch.header["instance_id"]
        seconds = float(json.loads(launch.tail)["command"].removeprefix("sleep "))
        if instance_id in self._open:
            return
        self._open[instance_id] = launch.header
        if seconds > 0:
            heapq.heappush(self._ends, (time.monotonic() + seconds, instance_id))
            self._listener.on_running(instance_id, f"{self._home}/{instance_id}", now_ms())
        else:
            self._end(instance_id, Cause.DONE)

    def kill(self, instance_id: str, *, grace_s: float | None = None) -> None:
        """End an instance."""
        self._end(instance_id, Cause.KILLED)

    def stop(self, *, grace_s: float | None = None) -> None:
        """End all instances."""
        for instance_id in list(self._open):
            self._end(instance_id, Cause.STOPPED)

    def acknowledge(self, instance_ids: Collection[str]) -> None:
        """Do nothing: nothing is kept."""

    def open_launches(self) -> Iterator[Header]:
        """Yield the headers of all instances that have not ended."""
        yield from self._open.values()

    @property
    def is_idle(self) -> bool:
        """Whether nothing sleeps."""
        return not self._open

    def poll_timeout_s(self) -> float | None:
        """Return the time until the next end."""
        return max(0.0, self._ends[0][0] - time.monotonic()) if self._ends else None

    def process_due(self, now: float) -> None:
        """End what has slept long enough, and send what this round has to report."""
        while self._ends and self._ends[0][0] <= now:
            self._end(heapq.heappop(self._ends)[1], Cause.DONE)
        self._loop.flush()

    def maintain(self, now: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _end(self, instance_id: str, cause: str) -> None:
        if self._open.pop(instance_id, None) is not None:
            exit_code = 0 if cause == Cause.DONE else 143
            end = TaskExit(instance_id=instance_id, exit_code=exit_code, at_ms=now_ms())
            self._listener.on_end(EndReport(end, cause, f"{self._home}/{instance_id}"))


if __name__ == "__main__":
    setattr(executor, "Supervisor", SleepingSupervisor)  # noqa: B010 - a replacement
    sys.exit(executor.run_executor(sys.argv[2:]))
