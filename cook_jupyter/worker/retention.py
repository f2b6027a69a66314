"""How old files are, whatever was done to the machine's clock since they were changed.

Lives here: `RetentionClock`, and `prune_sandboxes`, which removes the sandboxes that are too old by it.
Not here: the time of reports (`worker.clock`).
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

JUMP_S = 3600.0  # a clock that gained more on the time that passed was set forward
MAX_OFF_S = 24 * 3600.0  # of the time that a machine was off, so much counts
MAX_JUMPS = 100
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clocks said at one moment. Seconds; `boot` names the boot that `uptime_s` counts from."""

    wall_s: float
    uptime_s: float
    boot: str


def read_clocks() -> Reading:
    """Read the machine's clock, and the one that nobody sets."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return Reading(time.time(), uptime_ns() / 1e9, boot)


class RetentionClock:
    """Tells how long ago files were changed, by their times and by how the machine's clock was set since.

    Args:
        path: where the last reading and the jumps of the clock are kept.
        read: reads the clocks.

    A clock that was set ten days forward makes no file ten days older. One that was set back makes files that
    are newer than now: their age is 0 until the clock has caught up, so that they are kept longer.
    """

    def __init__(self, path: str | os.PathLike[str], read: Callable[[], Reading] = read_clocks) -> None:
        self._path = Path(path)
        self._read = read
        self._last, self._jumps = self._load()

    def advance(self) -> None:
        """Note how the clock was set since the last call, which an earlier process may have made."""
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
        """Return how many seconds have passed since a file was changed.

        Args:
            changed_s: its time of change, by the machine's clock.
        """
        skipped_s = sum(
            after - max(before, min(changed_s, after)) for before, after in self._jumps if changed_s < after
        )
        return max(0.0, self._read().wall_s - changed_s - skipped_s)

    def _load(self) -> tuple[Reading | None, Sequence[tuple[float, float]]]:
        try:
            stored = json.loads(self._path.read_bytes())
            return Reading(*stored["last"]), [(before, after) for before, after in stored["jumps"]]
        except FileNotFoundError:
            return None, []
        except (ValueError, TypeError, KeyError):  # half a file: nothing is known, as on the first day
            return None, []

    def _save(self, now: Reading) -> None:
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        draft.write_text(
            json.dumps({"last": [now.wall_s, now.uptime_s, now.boot], "jumps": list(self._jumps)}), "utf-8"
        )
        draft.replace(self._path)


def prune_sandboxes(
    folder: str,
    *,
    clock_file: str,
    max_age_s: float,
    running: Container[str],
    workers: Container[str],
) -> None:
    """Remove the sandboxes that nobody has changed for long, and those that dead workers had in stock.

    Args:
        folder: folder of the sandboxes; it may be missing.
        clock_file: path of the retention clock.
        max_age_s: greatest age of the sandbox of an instance that has ended.
        running: instances whose sandboxes are kept whatever their age.
        workers: names of the workers that live.
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
            if entry.name.startswith("."):  # a worker's stock
                if entry.name[1:] in workers or age_s < _DAY_S:
                    continue
            elif entry.name in running or age_s < max_age_s:
                continue
            shutil.rmtree(entry.path, ignore_errors=True)
