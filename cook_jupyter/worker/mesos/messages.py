"""What the scheduler and our Mesos executor send each other through Mesos.

Lives here: the frames in TaskInfo.data, in TaskStatus.data and in framework messages, with their tables for
`worker.protocol.require`; the options of an executor and the command that starts it.
Not here: Mesos' own messages (`clusters.mesos.messages`, `worker.mesos.executor`), what an end means for a
job (`clusters.translation`).

Mesos passes bytes on as base64. Framework messages may get lost, so each of them must be dispensable.

    TaskInfo.data      launch ...                 as from `Task.packed`
    TaskStatus.data    running {id, sandbox, at_ms}
                       end {..., cause, sandbox, result_file?} + result
    to the executor    ping {sequence, lease_s}   answered with pong; the tasks may go on for lease_s seconds
                                                  without another
                       release                    exit when nothing runs and all is acknowledged
    from the executor  hello {version, python, host, packages}   after each subscription
                       pong {sequence, open: [id], ended: [id]}
                       progress {id, sequence, percent, message}

A result of more than `MAX_INLINE_RESULT` bytes is a file in the sandbox of its instance: `result_file` has
its name, its size and its SHA-256 digest.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from cook_jupyter.worker.frames import BrokenStream, Frame, FrameReader, Header, pack
from cook_jupyter.worker.protocol import (
    END_FIELDS,
    FROM_SCHEDULER,
    Check,
    Table,
    are_texts,
    is_amount,
    is_count,
    is_storable_text_or_none,
    is_text,
    optional,
    require,
)
from cook_jupyter.worker.task import Cause, EndReport, Task

VERSION: Final = 1  # of these messages
MAX_INLINE_RESULT: Final = 4096
RESULT_FILE: Final = ".cook-result"  # in the sandbox of an instance; a task must not use the name

TASK_RUNNING: Final = "TASK_RUNNING"
TASK_FINISHED: Final = "TASK_FINISHED"
TASK_KILLED: Final = "TASK_KILLED"
TASK_FAILED: Final = "TASK_FAILED"

_TASK_STATES: Final[Mapping[str, str]] = {
    Cause.DONE: TASK_FINISHED,
    Cause.KILLED: TASK_KILLED,
    Cause.STOPPED: TASK_KILLED,
}
_DIGEST = re.compile("[0-9a-f]{64}")


def _is_result_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("name") == RESULT_FILE
        and is_count(value.get("size"))
        and isinstance(value.get("digest"), str)
        and _DIGEST.fullmatch(value["digest"]) is not None
    )


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_storable_text_or_none(text) and text is not None for pair in value.items() for text in pair
    )


_LAUNCH: Mapping[str, Check] = FROM_SCHEDULER["launch"]

TASK_DATA: Table = {"launch": _LAUNCH}
"""Frames in TaskInfo.data."""

STATUS_DATA: Table = {
    "running": {"id": is_text, "sandbox": is_text, "at_ms": is_count},
    "end": {**END_FIELDS, "cause": is_text, "sandbox": is_text, "result_file": optional(_is_result_file)},
}
"""Frames in TaskStatus.data."""

TO_EXECUTOR: Table = {"ping": {"sequence": is_count, "lease_s": is_amount}, "release": {}}
"""Framework messages to an executor."""

FROM_EXECUTOR: Table = {
    "hello": {"version": is_count, "python": is_text, "host": is_text, "packages": _are_versions},
    "pong": {"sequence": is_count, "open": are_texts, "ended": are_texts},
    "progress": {
        "id": is_text,
        "sequence": is_count,
        "percent": is_count,
        "message": is_storable_text_or_none,
    },
}
"""Framework messages from an executor."""


# --- both sides -------------------------------------------------------------------------------------------


def encode_data(packed: bytes) -> str:
    """Return a packed frame as Mesos takes it in JSON."""
    return base64.b64encode(packed).decode("ascii")


def read_data(data: str, table: Table) -> Frame:
    """Return the frame in a `data` field of Mesos.

    Args:
        data: the field, in base64.
        table: the frames that are expected, one of the tables above.

    Raises:
        BrokenStream: the field holds anything else.
    """
    try:
        packed = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenStream("a message of Mesos is not in base64") from error
    reader = FrameReader()
    frames = reader.feed(packed)
    if len(frames) != 1 or reader.has_rest:
        raise BrokenStream(f"a message of Mesos has {len(frames)} frames instead of one")
    require(frames[0].header, table)
    return frames[0]


# --- the scheduler's side ---------------------------------------------------------------------------------


def task_data(task: Task) -> str:
    """Return TaskInfo.data of a task."""
    return encode_data(task.packed())


def ping(sequence: int, *, lease_s: float) -> bytes:
    """Return the message that extends the lease of an executor's tasks.

    Args:
        sequence: number that the answer repeats.
        lease_s: time in seconds for which the tasks may go on without a word from the scheduler.
    """
    return pack({"t": "ping", "sequence": sequence, "lease_s": lease_s})


def release() -> bytes:
    """Return the message that lets an executor exit as soon as it is idle."""
    return pack({"t": "release"})


class ExecutorOptions(NamedTuple):
    """Options of an executor; they are part of its command, so that new ones need a new executor.

    Attributes:
        grace_s: time between SIGTERM and SIGKILL for tasks without a kill policy.
        idle_exit_s: time without work after which the executor exits; 0 for never.
        idle_worker_s: time without work after which a worker exits.
        sandbox_days: age in days at which unchanged sandboxes of instances are removed.
    """

    grace_s: float = 5.0
    idle_exit_s: float = 600.0
    idle_worker_s: float = 60.0
    sandbox_days: float = 7.0

    def arguments(self) -> Sequence[str]:
        """Return the options that differ from their defaults, as arguments."""
        words: list[str] = []
        for name, value in self._asdict().items():
            if value != self._field_defaults[name]:
                words += [_option(name), f"{value:g}"]
        return words

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Self:
        """Return the options in arguments.

        Raises:
            ValueError: an argument is not an option with a number that is not negative.
        """
        names = {_option(name): name for name in cls._fields}
        values: dict[str, float] = {}
        for option, text in zip(arguments[::2], arguments[1::2], strict=True):
            if option not in names:
                raise ValueError(f"there is no option {option!r}; there are {', '.join(names)}")
            values[names[option]] = float(text)
            if not 0 <= values[names[option]] < float("inf"):
                raise ValueError(f"{option} needs a number of at least 0")
        return cls(**values)


def executor_command(
    options: ExecutorOptions | None = None, *, python: str = "python3", package: str | None = None
) -> str:
    """Return the shell command of CommandInfo that starts an executor.

    Args:
        options: options of the executor.
        python: interpreter on the hosts, a path or a name.
        package: name in the sandbox of the file that `cook-jupyter mesos package` made; None if cook_jupyter
            is installed in that interpreter.
    """
    program = ["-P", "-m", "cook_jupyter.worker"] if package is None else [package]
    words = [python, *program, "mesos-executor", *(options or ExecutorOptions()).arguments()]
    return f"exec {shlex.join(words)}"  # the shell would stay, and be what Mesos signals


# --- the executor's side ----------------------------------------------------------------------------------


def task_state(cause: str) -> str:
    """Return the terminal state in Mesos for a cause; the cause itself is in the data of the status."""
    return _TASK_STATES.get(cause, TASK_FAILED)


def running_data(instance_id: str, sandbox: str, at_ms: int) -> str:
    """Return TaskStatus.data of an instance that runs."""
    return encode_data(pack({"t": "running", "id": instance_id, "sandbox": sandbox, "at_ms": at_ms}))


class ResultFile(NamedTuple):
    """A result in a file of its instance's sandbox."""

    name: str
    size: int
    digest: str


def end_data(report: EndReport, result_file: ResultFile | None = None) -> str:
    """Return TaskStatus.data of an end.

    Args:
        report: the end.
        result_file: file with the result; None if the data holds it.
    """
    if result_file is None:
        return encode_data(report.packed())
    header: Header = {**report.as_header(), "result_file": result_file._asdict()}
    return encode_data(pack(header))


def _option(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")
