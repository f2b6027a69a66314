"""Conclusions of a node agent from the journals of one that was killed.

Lives here: `recover`, which reads and decides, and `cause_of`, the only rule for why an instance ended.
Not here: writing journals (`worker.journal`), acting upon them (`worker.supervisor`).

Each instance that is in the agent's journal and that the scheduler has not acknowledged is in exactly one
state: its end is recorded, by its worker or by the agent; or its worker is alive, and will record it; or it
is lost. A worker only gets a task after its process was recorded, so no unknown worker can turn up later with
a task.
"""

import os
import signal
from typing import NamedTuple

from cook_jupyter.worker import processes
from cook_jupyter.worker.frames import BrokenStream, Frame, Header, header_of
from cook_jupyter.worker.journal import AgentJournal, read_frames, segment_of, worker_segments
from cook_jupyter.worker.limits import Cgroup
from cook_jupyter.worker.protocol import AGENT_RECORDS, LAUNCH_RECORD, WORKER_RECORDS, is_valid, require
from cook_jupyter.worker.task import Cause, TaskExit

NEAR_LIMIT = 0.95  # of the memory limit: a SIGKILL at this usage counts as caused by the limit


class RecordedExit(NamedTuple):
    """An end that the scheduler may not know.

    Attributes:
        header, result: record of a worker, or of the agent (then the header has a cause).
        segment: path of the worker's segment; None for a record of the agent.
    """

    header: Header
    result: bytes
    segment: str | None

    def as_written(self) -> Header:
        """Return the header; that of a worker has the number of its segment."""
        return self.header if self.segment is None else {**self.header, "segment": segment_of(self.segment)}


class RecoveredInstance(NamedTuple):
    """An instance as found in the journals."""

    launch: Header
    stop_cause: str | None
    end: RecordedExit | None
    worker_alive: bool


class Recovered(NamedTuple):
    """Everything found in the journals.

    Attributes:
        records: initial content of the next agent's journal.
        instances: by instance id, in the order of their launch.
        useless: segments without anything relevant.
    """

    records: dict[str, list[Frame]]
    instances: dict[str, RecoveredInstance]
    useless: list[str]


def recover(folder: str) -> Recovered:
    """Read the journals in `folder`; changes nothing, except that it kills orphans of lost commands."""
    records = AgentJournal.read(folder)
    ends: dict[tuple[str, str], RecordedExit] = {}  # by worker and instance, as a worker only ends its own
    shells: dict[tuple[str, str], Header] = {}
    logs = worker_segments(folder)
    for worker, paths in logs.items():
        for path in paths:
            for frame in _worker_records(path):
                if frame.header["t"] == "end":
                    ends[worker, frame.header["instance_id"]] = RecordedExit(frame.header, frame.tail, path)
                else:
                    shells[worker, frame.header["id"]] = frame.header
    instances: dict[str, RecoveredInstance] = {}
    for instance_id, frames in records.items():
        frame_of_kind = {
            frame.header["t"]: frame for frame in frames if is_valid(frame.header, AGENT_RECORDS)
        }
        launch = _parse_launch(frame_of_kind["launch"]) if "launch" in frame_of_kind else None
        if launch is None:
            continue
        end = ends.get((launch["worker"], instance_id))
        if end is None and "end" in frame_of_kind:
            end = RecordedExit(frame_of_kind["end"].header, frame_of_kind["end"].tail, None)
        alive = processes.is_alive(launch["pid"], launch["mark"])
        if end is None and not alive:
            end = find_end(folder, launch["worker"], instance_id)  # it may have ended in the meantime
            if end is None:
                kill_shell(shells.get((launch["worker"], instance_id)))
        stop_cause = frame_of_kind["doom"].header["cause"] if "doom" in frame_of_kind else None
        instances[instance_id] = RecoveredInstance(launch, stop_cause, end, alive)
    needed = {instance.end.segment for instance in instances.values() if instance.end is not None}
    alive_workers = {instance.launch["worker"] for instance in instances.values() if instance.worker_alive}
    useless = [
        path
        for worker, paths in logs.items()
        if worker not in alive_workers
        for path in paths
        if path not in needed
    ]
    return Recovered({key: records[key] for key in instances}, instances, useless)


def find_end(folder: str, worker: str, instance_id: str) -> RecordedExit | None:
    """Return the end of an instance that its worker recorded; None if it did not."""
    for path in worker_segments(folder).get(worker, []):
        for frame in _worker_records(path):
            if frame.header["t"] == "end" and frame.header["instance_id"] == instance_id:
                return RecordedExit(frame.header, frame.tail, path)
    return None


def find_shell(folder: str, worker: str, instance_id: str) -> Header | None:
    """Return a worker's record of the shell that it started for an instance; None if there is none."""
    for path in worker_segments(folder).get(worker, []):
        for frame in _worker_records(path):
            if frame.header["t"] == "shell" and frame.header["id"] == instance_id:
                return frame.header
    return None


def kill_shell(shell: Header | None) -> None:
    """Kill the process group of a command whose worker was killed when no spawner could notice it."""
    if shell is not None and processes.process_identity(shell["pid"]) in (shell["mark"], None):
        processes.signal_group(shell["pid"], signal.SIGKILL)


def cause_of(
    end: TaskExit, stop_cause: str | None, *, mem_mb: float, group: Cgroup | None = None, seen_mb: float = 0.0
) -> str:
    """Return why an instance ended, one of `Cause`.

    A task that had succeeded before it was told to stop has succeeded. A SIGKILL that this host did not send
    comes from outside, unless memory usage was at the limit. Anything else is the task's own failure.

    Args:
        end: the end as its worker saw it.
        stop_cause: why the agent had decided to stop the instance; None if it had not.
        mem_mb: memory limit of the instance.
        group: its control group.
        seen_mb: peak memory as measured by the agent.
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


def _worker_records(path: str) -> list[Frame]:
    """Return the valid records in a worker's segment, to which its task could write, too."""
    return [frame for frame in read_frames(path) if is_valid(frame.header, WORKER_RECORDS)]


def _parse_launch(frame: Frame) -> Header | None:
    """Return the record of a launch; None if it is invalid."""
    try:
        launch = header_of(frame.tail)
        require(launch, LAUNCH_RECORD)
    except BrokenStream:
        return None
    return {**launch, **frame.header}


def remove_files(paths: list[str]) -> None:
    """Remove files that may already be gone."""
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            continue
