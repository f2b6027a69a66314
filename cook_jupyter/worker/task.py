"""Tasks of a host, and their ends.

Lives here: `Task`, `TaskExit` and `EndReport`, and the causes of ends.
Not here: how they are encoded (`worker.frames`), how a call is distinguished from a shell command
(`payload.requirements`), what an end means for a job (`clusters`).
"""

import json
import re
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from cook_jupyter.worker.frames import Frame, Header, pack

_FOLDER_NAME = re.compile(r"[\w:-][\w.:-]{0,199}", re.ASCII)


class Cause:
    """Why an instance ended, from the point of view of a host. `clusters` translates causes to reasons."""

    DONE = "done"  # exit code 0
    FAILED = "failed"  # another exit code, or a signal that the task caused itself
    MEMORY = "memory"  # more than its memory limit
    RUNTIME = "runtime"  # longer than its maximum run time
    KILLED = "killed"  # killed on request
    STOPPED = "stopped"  # the node agent was told to stop everything
    EXTERNAL = "external"  # SIGKILL from another process
    LOST = "lost"  # its process is gone, and it is unknown how it ended
    UNLAUNCHED = "unlaunched"  # it could not be started


class Task(NamedTuple):
    """An instance as its host needs to know it.

    Attributes:
        python: interpreter that runs a call; None for a shell command.
        attempt: number of earlier instances of the job.
        max_runtime_s: maximum run time; None for no limit.
        progress_file: progress file, relative to the sandbox.
        progress_regex: pattern for progress; None for Cook's default.
        closing_lines: whether to write the closing lines of Cook's executor at the end of stdout.
        import_environment: digest of the variables that packages may read while they are imported; a worker
            that has imported packages serves no task with another digest.
    """

    instance_id: str
    job_id: str
    user: str
    command: str
    env: Mapping[str, str]
    cpus: float
    mem_mb: float
    gpus: float = 0.0
    python: str | None = None
    attempt: int = 0
    group: str | None = None
    ports: tuple[int, ...] = ()
    max_runtime_s: float | None = None
    progress_file: str | None = None
    progress_regex: str | None = None
    closing_lines: bool = False
    import_environment: str = ""

    def packed(self) -> bytes:
        """Return a frame whose tail has the fields that only the worker reads, because they may be large."""
        body = _encode({"command": self.command, "env": dict(self.env)})
        return pack(_non_default_fields("launch", self, without=("command", "env")), body.encode("ascii"))


def unpacked(frame: Frame) -> Task:
    """Return the task in a frame from `Task.packed`."""
    header: dict[str, Any] = {**frame.header, **json.loads(frame.tail.decode("ascii"))}
    del header["t"]
    header["ports"] = tuple(header.get("ports", ()))
    return Task(**header)


class TaskExit(NamedTuple):
    """How an instance ended, as its worker saw it.

    Attributes:
        exit_code: exit code, or 128 + the number of the signal that ended the instance.
        signal: number of that signal, or 0.
        memory: whether Python ran out of memory.
        termed: whether the instance was told to stop before it ended.
        at_ms: time of the end, in epoch milliseconds.
        blob: name of the blob with the result, if it has one and it is not inline.
        size: size of the result, in bytes.
        inline: whether the result is the frame's tail.
        peak_mb: peak memory.
        progress: the latest percentage and message.
        written: whether the sandbox still exists; that of a call that wrote nothing does not.
        message: why it could not be started, for its user; None if there is nothing to say.
    """

    instance_id: str
    exit_code: int | None
    at_ms: int
    signal: int = 0
    memory: bool = False
    termed: bool = False
    blob: str | None = None
    size: int = 0
    inline: bool = False
    peak_mb: float | None = None
    progress: tuple[float, str | None] | None = None
    written: bool = False
    message: str | None = None

    def as_header(self) -> Header:
        """Return the header of a frame for this end."""
        return _non_default_fields("end", self)


def end_of(header: Header) -> TaskExit:
    """Return the end in a header from `TaskExit.as_header`; other fields are ignored."""
    return TaskExit(**{name: header[name] for name in TaskExit._fields if name in header})


class EndReport(NamedTuple):
    """Report of an end, kept until it is acknowledged.

    Attributes:
        end: how the instance ended.
        cause: why it ended, one of `Cause`.
        sandbox: its directory, which may already be removed.
        result: result of its call, if that is not in the blob store.
    """

    end: TaskExit
    cause: str
    sandbox: str
    result: bytes = b""

    def as_header(self) -> Header:
        """Return the header of a frame for this report, without the result."""
        return {**self.end.as_header(), "cause": self.cause, "sandbox": self.sandbox}

    def packed(self) -> bytes:
        """Return a frame for this report, with the result as its tail."""
        return pack(self.as_header(), self.result)


def is_folder_name(instance_id: str) -> bool:
    """Return whether an instance id is valid: its sandbox is a directory of that name."""
    return _FOLDER_NAME.fullmatch(instance_id) is not None


def _non_default_fields(kind: str, value: Task | TaskExit, without: Container[str] = ()) -> Header:
    """Return the fields that differ from their defaults, as the header of a frame."""
    header: dict[str, Any] = {"t": kind}
    defaults = _TASK_DEFAULTS if isinstance(value, Task) else _END_DEFAULTS
    for (name, default), field_value in zip(defaults, value, strict=True):
        if field_value != default and name not in without:
            header[name] = field_value
    return header


_NO_DEFAULT = object()  # not equal to anything else
_TASK_DEFAULTS, _END_DEFAULTS = (
    tuple((name, kind._field_defaults.get(name, _NO_DEFAULT)) for name in kind._fields)
    for kind in (Task, TaskExit)
)
_encode = json.JSONEncoder(separators=(",", ":")).encode
