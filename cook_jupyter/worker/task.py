"""What is to be run on a host, and what came of it.

Lives here: `Task`, `TaskExit` and `EndReport`, and the causes of ends.
Not here: how they travel (`worker.frames`), how a call is told from a shell command (`payload.requirements`),
what an end means for a job (`clusters`).
"""

import json
import re
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from cook_jupyter.worker.frames import Frame, Header, pack

_FOLDER_NAME = re.compile(r"[\w:-][\w.:-]{0,199}", re.ASCII)


class Cause:
    """Why an instance ended, in the words of a host. `clusters` turn them into their own."""

    DONE = "done"  # exit code 0
    FAILED = "failed"  # another exit code, or a signal of its own making
    MEMORY = "memory"  # more than its memory limit
    RUNTIME = "runtime"  # longer than its maximum run time
    KILLED = "killed"  # asked for
    STOPPED = "stopped"  # the node agent was told to stop everything
    EXTERNAL = "external"  # SIGKILL by somebody who is not us
    LOST = "lost"  # its process is gone, and nobody knows how it ended
    UNLAUNCHED = "unlaunched"  # it could not be started


class Task(NamedTuple):
    """An instance, as its host has to know it.

    Attributes:
        python: the interpreter that runs it as a call; None if it is a shell command.
        attempt: how many instances its job had before.
        max_runtime_s: None if it may take forever.
        progress_file: where it writes its progress, relative to its sandbox.
        progress_regex: None for Cook's default.
        closing_lines: whether Cook's executor's last words belong at the end of its stdout.
        import_environment: digest of the variables that packages may read while they are imported; a worker
            that has imported packages serves no task with another one.
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
        """Return a frame whose tail is what only the worker reads: it may be large."""
        body = _encode({"command": self.command, "env": dict(self.env)})
        return pack(_said("launch", self, but=("command", "env")), body.encode("ascii"))


def unpacked(frame: Frame) -> Task:
    """Return the task that `Task.packed` made a frame of."""
    header: dict[str, Any] = {**frame.header, **json.loads(frame.tail.decode("ascii"))}
    del header["t"]
    header["ports"] = tuple(header.get("ports", ()))
    return Task(**header)


class TaskExit(NamedTuple):
    """How an instance ended, as the worker saw it.

    Attributes:
        exit_code: 128 + the number of the signal, if that ended it.
        signal: that number, else 0.
        memory: Python ran out of memory.
        termed: it was told to stop before it ended.
        at_ms: when; epoch milliseconds.
        blob: where its result rests, if it has one and it does not travel along.
        size: of the result.
        inline: whether the frame's tail is the result.
        peak_mb: the most memory it held.
        progress: the last percentage and message that it wrote.
        written: whether its sandbox is still there; that of a call that wrote nothing is not.
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

    def as_header(self) -> Header:
        """Return it as the header of a frame."""
        return _said("end", self)


def end_of(header: Header) -> TaskExit:
    """Return the end that `TaskExit.as_header` made a header of; what else the header says is left out."""
    return TaskExit(**{name: header[name] for name in TaskExit._fields if name in header})


class EndReport(NamedTuple):
    """An end as it is reported, kept until it is acknowledged and written down.

    Attributes:
        end: how the instance ended.
        cause: why, one of `Cause`.
        sandbox: its directory, which may be removed already.
        result: what its call came to, if that does not rest in a blob store.
    """

    end: TaskExit
    cause: str
    sandbox: str
    result: bytes = b""

    def as_header(self) -> Header:
        """Return it, without the result, as the header of a frame."""
        return {**self.end.as_header(), "cause": self.cause, "sandbox": self.sandbox}

    def packed(self) -> bytes:
        """Return it as a frame whose tail is the result."""
        return pack(self.as_header(), self.result)


def is_folder_name(instance_id: str) -> bool:
    """Return whether an instance may have this id: its sandbox is a folder of that name."""
    return _FOLDER_NAME.fullmatch(instance_id) is not None


def _said(kind: str, value: Task | TaskExit, but: Container[str] = ()) -> Header:
    """Return the fields that differ from their defaults, as the header of a frame."""
    header: dict[str, Any] = {"t": kind}
    defaults = _TASK_DEFAULTS if isinstance(value, Task) else _END_DEFAULTS
    for (name, default), part in zip(defaults, value, strict=True):
        if part != default and name not in but:
            header[name] = part
    return header


_NO_DEFAULT = object()  # equals nothing
_TASK_DEFAULTS, _END_DEFAULTS = (
    tuple((name, kind._field_defaults.get(name, _NO_DEFAULT)) for name in kind._fields)
    for kind in (Task, TaskExit)
)
_encode = json.JSONEncoder(separators=(",", ":")).encode
