"""What a node agent concludes from the journals of one that was killed.

Lives here: `recover`, which reads and decides, and `cause_of`, the one rule that says why an instance ended.
Not here: writing journals (`worker.journal`), acting upon it (`worker.supervisor`).

Of each instance that the ledger knows and the scheduler has not acknowledged, exactly one is true: its end is
written down, by its worker or by the agent; or its worker is alive, and will write it down; or it is lost.
A worker is only ever given a task after its process was noted, so no worker can turn up later with one.
"""

import os
import signal
from typing import NamedTuple

from cook_jupyter.worker import processes
from cook_jupyter.worker.frames import BrokenStream, Frame, Header, header_of
from cook_jupyter.worker.journal import AgentJournal, end_logs, read_frames, segment_of
from cook_jupyter.worker.limits import Cgroup
from cook_jupyter.worker.protocol import IN_LEDGER, IN_WORKER_LOG, LAUNCH_IN_LEDGER, is_valid, require
from cook_jupyter.worker.task import Cause, TaskExit

NEAR_LIMIT = 0.95  # of its memory limit: who is killed with SIGKILL so close to it was killed for that


class RecordedExit(NamedTuple):
    """An end that the scheduler may not know of.

    Attributes:
        header, result: as a worker wrote them, or as the agent did (then the header has a cause).
        segment: the file it is in; None for the agent's own.
    """

    header: Header
    result: bytes
    segment: str | None

    def as_written(self) -> Header:
        """Return the header; a worker's names the segment that it was found in."""
        return self.header if self.segment is None else {**self.header, "segment": segment_of(self.segment)}


class RecoveredInstance(NamedTuple):
    """One instance, from the journals."""

    launch: Header
    stop_cause: str | None
    end: RecordedExit | None
    worker_alive: bool


class Recovered(NamedTuple):
    """All that is to be known.

    Attributes:
        noted: what the next ledger begins with.
        instances: by instance id, in the order of their launch.
        useless: segments in which nothing of interest is.
    """

    noted: dict[str, list[Frame]]
    instances: dict[str, RecoveredInstance]
    useless: list[str]


def recover(folder: str) -> Recovered:
    """Read the journals in `folder`; changes nothing, except that it ends the orphans of lost commands."""
    noted = AgentJournal.read(folder)
    ends: dict[
        tuple[str, str], RecordedExit
    ] = {}  # by worker and instance: a worker writes for its own alone
    shells: dict[tuple[str, str], Header] = {}
    logs = end_logs(folder)
    for worker, paths in logs.items():
        for path in paths:
            for frame in _log_frames(path):
                if frame.header["t"] == "end":
                    ends[worker, frame.header["instance_id"]] = RecordedExit(frame.header, frame.tail, path)
                else:
                    shells[worker, frame.header["id"]] = frame.header
    instances: dict[str, RecoveredInstance] = {}
    for instance_id, frames in noted.items():
        of = {frame.header["t"]: frame for frame in frames if is_valid(frame.header, IN_LEDGER)}
        launch = _launch_of(of["launch"]) if "launch" in of else None
        if launch is None:
            continue
        end = ends.get((launch["worker"], instance_id))
        if end is None and "end" in of:
            end = RecordedExit(of["end"].header, of["end"].tail, None)
        alive = processes.is_alive(launch["pid"], launch["mark"])
        if end is None and not alive:
            end = end_in_log(folder, launch["worker"], instance_id)  # it may have ended since we read
            if end is None:
                end_shell(shells.get((launch["worker"], instance_id)))
        stop_cause = of["doom"].header["cause"] if "doom" in of else None
        instances[instance_id] = RecoveredInstance(launch, stop_cause, end, alive)
    wanted = {known.end.segment for known in instances.values() if known.end is not None}
    alive_workers = {known.launch["worker"] for known in instances.values() if known.worker_alive}
    useless = [
        path
        for worker, paths in logs.items()
        if worker not in alive_workers
        for path in paths
        if path not in wanted
    ]
    return Recovered({key: noted[key] for key in instances}, instances, useless)


def end_in_log(folder: str, worker: str, instance_id: str) -> RecordedExit | None:
    """Return the end of an instance that its worker wrote down, if it did."""
    for path in end_logs(folder).get(worker, []):
        for frame in _log_frames(path):
            if frame.header["t"] == "end" and frame.header["instance_id"] == instance_id:
                return RecordedExit(frame.header, frame.tail, path)
    return None


def shell_in_log(folder: str, worker: str, instance_id: str) -> Header | None:
    """Return what a worker wrote down of the shell that it started for an instance."""
    for path in end_logs(folder).get(worker, []):
        for frame in _log_frames(path):
            if frame.header["t"] == "shell" and frame.header["id"] == instance_id:
                return frame.header
    return None


def end_shell(shell: Header | None) -> None:
    """Kill the group of a command whose worker was killed while no spawner was there to see it."""
    if shell is not None and processes.process_identity(shell["pid"]) in (shell["mark"], None):
        processes.signal_group(shell["pid"], signal.SIGKILL)


def cause_of(
    end: TaskExit, stop_cause: str | None, *, mem_mb: float, group: Cgroup | None = None, seen_mb: float = 0.0
) -> str:
    """Return why an instance ended, in the words of `Cause`.

    A task that had ended well before it was told to stop has ended well. SIGKILL that nobody here sent comes
    from outside, unless it came at the memory limit. What else a task does to itself is its own failure.

    Args:
        end: as its worker saw it.
        stop_cause: why the agent had decided to stop it, if it had.
        mem_mb: its limit.
        group: the control group it ran in.
        seen_mb: the most memory that was seen from outside.
    """
    if stop_cause is not None and (end.termed or end.exit_code != 0):
        return stop_cause
    if end.exit_code is None:
        return Cause.UNLAUNCHED
    if end.exit_code == 0 and not end.termed:
        return Cause.DONE
    at_limit = mem_mb > 0 and max(seen_mb, end.peak_mb or 0.0) >= NEAR_LIMIT * mem_mb
    if end.memory or (group is not None and group.killed()) or (end.signal == signal.SIGKILL and at_limit):
        return Cause.MEMORY
    if end.termed or end.signal == signal.SIGKILL:
        return Cause.EXTERNAL
    return Cause.FAILED


def _log_frames(path: str) -> list[Frame]:
    """The frames of a worker's log, without those that no worker wrote: its task can reach the file, too."""
    return [frame for frame in read_frames(path) if is_valid(frame.header, IN_WORKER_LOG)]


def _launch_of(frame: Frame) -> Header | None:
    """What the ledger holds of a launch; None if an agent did not write it."""
    try:
        launch = header_of(frame.tail)
        require(launch, LAUNCH_IN_LEDGER)
    except BrokenStream:
        return None
    return {**launch, **frame.header}


def remove_files(paths: list[str]) -> None:
    """Remove files that may be gone already."""
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            continue
