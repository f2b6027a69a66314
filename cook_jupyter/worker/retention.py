"""The age of files, whatever happened to the machine's clock since they were changed.

Lives here: `RetentionClock`, and `prune_sandboxes`, which removes sandboxes by their age.
Not here: the time in reports (`worker.clock`).
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from cook_jupyter.worker.clock import uptime_ns

JUMP_S = 3600.0  # a clock that advanced this much more than the time that passed was set forward
MAX_OFF_S = 24 * 3600.0  # maximum time that counts for a period when the machine was off
MAX_JUMPS = 100
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks at one moment, in seconds; `boot` identifies the boot from which `uptime_s` counts."""

    wall_s: float
    uptime_s: float
    boot: str


def read_clocks() -> Reading:
    """Read the machine's clock, and the one that cannot be set."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return Reading(time.time(), uptime_ns() / 1e9, boot)


class RetentionClock:
    """Measures the age of files by their times and by how the machine's clock was set since.

    If the clock was set ten days forward, files do not become ten days older. If it was set back, some files
    are newer than now: their age is 0 until the clock has caught up, so that they are kept for longer.

    Args:
        path: file that stores the last reading and the jumps of the clock.
        read: function that reads the clocks.
    """

    def __init__(self, path: str | os.PathLike[str], read: Callable[[], Reading] = read_clocks) -> None:
        self._path = Path(path)
        self._read = read
        self._last, self._jumps = self._load()

    def advance(self) -> None:
        """Record how the clock was set since the last call, perhaps by an earlier process."""
        now = self._read()
        if self._last is not None:
            passed_s = now.uptime_s - self._last.uptime_s
            if now.boot != self._last.boot or passed_s < 0:
                passed_s = now.uptime_s + MAX_OFF_S
            if now.wall_s - self._last.wall_s > passed_s + JUMP_S:
                self._jumps = [*self._jumps, (self._last.wall_s, now.wall_s - passed_s)][-MAX_JUMPS:]
        self._last = now
        self._save(now)

    def age_s(self, changed_s: float) -> float:
        """Return the age of a file in seconds.

        Args:
            changed_s: its time of change, by the machine's clock.
        """
        skipped_s = sum(
            jump_to - max(jump_from, min(changed_s, jump_to))
            for jump_from, jump_to in self._jumps
            if changed_s < jump_to
        )
        return max(0.0, self._read().wall_s - changed_s - skipped_s)

    def _load(self) -> tuple[Reading | None, Sequence[tuple[float, float]]]:
        try:
            stored = json.loads(self._path.read_bytes())
            return Reading(*stored["last"]), [(jump_from, jump_to) for jump_from, jump_to in stored["jumps"]]
        except FileNotFoundError:
            return None, []
        except (ValueError, TypeError, KeyError):  # an incomplete file: as if there were none
            return None, []

    def _save(self, now: Reading) -> None:
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        temporary.write_text(
            json.dumps({"last": [now.wall_s, now.uptime_s, now.boot], "jumps": list(self._jumps)}), "utf-8"
        )
        temporary.replace(self._path)


def prune_sandboxes(
    folder: str,
    *,
    clock_file: str,
    max_age_s: float,
    running: Container[str],
    workers: Container[str],
) -> None:
    """Remove sandboxes that have not changed for long, and unused ones of dead workers.

    Args:
        folder: directory of the sandboxes; it may be missing.
        clock_file: path of the retention clock.
        max_age_s: maximum age of the sandbox of an instance that has ended.
        running: instances whose sandboxes are kept at any age.
        workers: names of the living workers.
    """
    retention = RetentionClock(clock_file)
    retention.advance()
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            age_s = retention.age_s(entry.stat().st_mtime)
            if entry.name.startswith("."):  # a worker's spare sandbox
                if entry.name[1:] in workers or age_s < _DAY_S:
                    continue
            elif entry.name in running or age_s < max_age_s:
                continue
            shutil.rmtree(entry.path, ignore_errors=True)
