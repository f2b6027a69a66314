"""A running instance, as its supervisor watches it.

Lives here: `RunningInstance`: its limits, its measured memory, the progress that it wrote.
Not here: the consequences (`worker.supervisor`), reading /proc (`worker.processes`).
"""

from cook_jupyter.worker import processes
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import Header
from cook_jupyter.worker.pool import WorkerProcess
from cook_jupyter.worker.progress import Progress, ProgressReader

MIN_CHECK_INTERVAL_S = 0.1
_MAX_CHECK_INTERVAL_S = 1.0
_PROGRESS_INTERVAL_S = 1.0
_GROWTH_MB_PER_S = 2000.0  # roughly what one process can write: memory is checked before it can be used up


class RunningInstance:
    """An instance that was assigned to a worker.

    Args:
        header: header of its launch.
        worker: its worker.
        begun: when it was assigned; monotonic seconds, like all times here.
        deadline: end of its maximum run time; None if it has none.
    """

    __slots__ = (
        "_progress_reader",
        "_progress_sequence",
        "base_mb",
        "begun",
        "deadline",
        "grace_over",
        "header",
        "instance_id",
        "kill_at",
        "next_memory_check",
        "next_progress_check",
        "peak_mb",
        "start_reported",
        "stop_cause",
        "worker",
    )

    def __init__(
        self, header: Header, worker: WorkerProcess, *, begun: float, deadline: float | None
    ) -> None:
        self.instance_id: str = header["instance_id"]
        self.header = header
        self.worker = worker
        self.begun = begun
        self.deadline = deadline
        self.stop_cause: str | None = None  # cause, if it was told to stop
        self.kill_at: float | None = None
        self.grace_over = False  # whether it was told to stop at once
        self.next_memory_check = begun + MIN_CHECK_INTERVAL_S
        self.next_progress_check = begun + _PROGRESS_INTERVAL_S
        self.base_mb = worker.held_mb if self.is_call else 0.0
        self.peak_mb = 0.0
        self.start_reported = False
        self._progress_reader: ProgressReader | None = None
        self._progress_sequence = 0

    @property
    def is_call(self) -> bool:
        """Whether it runs inside its worker, and not as a command."""
        return self.header.get("python") is not None

    def exceeds_memory(self, now: float, family: processes.ProcessTree) -> bool:
        """Measure the memory, set the time of the next check, and return whether the limit is exceeded."""
        limit_mb: float = self.header["mem_mb"]
        used_mb = self._used_mb(limit_mb, family)
        self.peak_mb = max(self.peak_mb, used_mb)
        if limit_mb <= 0:
            self.next_memory_check = now + _MAX_CHECK_INTERVAL_S
            return False
        room_mb = limit_mb - used_mb
        interval_s = min(_MAX_CHECK_INTERVAL_S, max(MIN_CHECK_INTERVAL_S, room_mb / _GROWTH_MB_PER_S))
        self.next_memory_check = now + interval_s
        return room_mb < 0

    def _used_mb(self, limit_mb: float, family: processes.ProcessTree) -> float:
        worker = self.worker
        if worker.group is not None and (held_mb := worker.group.held_mb()) is not None:
            return held_mb
        pids = family.below(worker.pid)
        if self.is_call:
            pids.append(worker.pid)
        used_mb = processes.held_mb(pids)
        if limit_mb > 0 and used_mb - self.base_mb > limit_mb and len(pids) > 1:
            # Forked processes share memory that they have not changed.
            used_mb = processes.proportional_mb(pids) or used_mb
        return max(0.0, used_mb - self.base_mb)

    def new_progress(self, now: float, sandbox: str) -> Progress | None:
        """Return the progress that a call has written since the last check, and set the time of the next.

        None for a call with a pattern of its own: its worker evaluates that at the end of the call, like the
        progress of commands.
        """
        self.next_progress_check = now + _PROGRESS_INTERVAL_S
        if self._progress_reader is None:
            self._progress_reader = ProgressReader((f"{sandbox}/stdout", f"{sandbox}/stderr"))
        return self._progress_reader.read_new() if self.header.get("progress_regex") is None else None

    def next_progress_sequence(self) -> int:
        """Return a number above those of all earlier reports, including those of an earlier supervisor."""
        self._progress_sequence = max(self._progress_sequence + 1, now_ms())
        return self._progress_sequence
