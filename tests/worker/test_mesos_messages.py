"""What scheduler and executor send each other through Mesos."""

import base64
import shlex
from typing import Any

import pytest

from cook_jupyter.worker.frames import BrokenStream, pack
from cook_jupyter.worker.mesos import messages
from cook_jupyter.worker.mesos.messages import ExecutorOptions, ResultFile, read_data
from cook_jupyter.worker.task import Cause, EndReport, Task, TaskExit, unpacked

TASK = Task(instance_id="i", job_id="j", user="u", command="true", env={"A": "b"}, cpus=1, mem_mb=8.5)
REPORT = EndReport(TaskExit("i", 0, 5, inline=True), Cause.DONE, "/sandboxes/i", b"\x00result")


def test_a_task_arrives_as_it_was_sent() -> None:
    assert unpacked(read_data(messages.task_data(TASK), messages.TASK_DATA)) == TASK


def test_an_end_arrives_with_its_result() -> None:
    frame = read_data(messages.end_data(REPORT), messages.STATUS_DATA)

    assert frame.header == REPORT.as_header()
    assert frame.tail == REPORT.result


def test_a_large_result_is_named_by_file_size_and_digest() -> None:
    file = ResultFile(messages.RESULT_FILE, 100_000, "ab" * 32)

    frame = read_data(messages.end_data(REPORT, file), messages.STATUS_DATA)

    assert frame.header["result_file"] == {"name": messages.RESULT_FILE, "size": 100_000, "digest": "ab" * 32}
    assert frame.tail == b""


@pytest.mark.parametrize(
    "file",
    [
        {"name": "../../etc/shadow", "size": 1, "digest": "ab" * 32},
        {"name": messages.RESULT_FILE, "size": -1, "digest": "ab" * 32},
        {"name": messages.RESULT_FILE, "size": 1, "digest": "ab"},
        {"name": messages.RESULT_FILE, "size": 1},
        "file",
    ],
)
def test_a_result_file_that_names_anything_else_is_refused(file: Any) -> None:
    data = messages.encode_data(pack({**REPORT.as_header(), "result_file": file}))

    with pytest.raises(BrokenStream):
        read_data(data, messages.STATUS_DATA)


@pytest.mark.parametrize(
    "data",
    ["", "?", base64.b64encode(b"12345").decode(), messages.encode_data(pack({}) + pack({})),
     messages.encode_data(messages.release() + b"\0"), messages.encode_data(pack({"t": "pong"}))],
)  # fmt: skip
def test_anything_but_one_expected_frame_is_refused(data: str) -> None:
    with pytest.raises(BrokenStream):
        read_data(data, messages.TO_EXECUTOR)


def test_a_ping_says_how_long_tasks_may_go_on() -> None:
    frame = read_data(messages.encode_data(messages.ping(7, lease_s=90.5)), messages.TO_EXECUTOR)

    assert frame.header == {"t": "ping", "sequence": 7, "lease_s": 90.5}


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        (Cause.DONE, "TASK_FINISHED"),
        (Cause.KILLED, "TASK_KILLED"),
        (Cause.STOPPED, "TASK_KILLED"),
        (Cause.FAILED, "TASK_FAILED"),
        (Cause.LOST, "TASK_FAILED"),
        (Cause.UNLAUNCHED, "TASK_FAILED"),
    ],
)
def test_causes_are_states_of_mesos(cause: str, state: str) -> None:
    assert messages.task_state(cause) == state


def test_options_survive_the_command_line() -> None:
    options = ExecutorOptions(grace_s=2.5, idle_exit_s=0, sandbox_days=1)

    command = messages.executor_command(options, python="/opt/my python", package="cook_jupyter.pyz")

    words = shlex.split(command)
    assert words[:4] == ["exec", "/opt/my python", "cook_jupyter.pyz", "mesos-executor"]
    assert ExecutorOptions.read(words[4:]) == options


def test_an_installed_executor_needs_no_file() -> None:
    assert messages.executor_command() == "exec python3 -P -m cook_jupyter.worker mesos-executor"


@pytest.mark.parametrize("arguments", [["--grace"], ["--what", "1"], ["--grace", "-1"], ["--grace", "nan"]])
def test_arguments_that_are_no_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is for the log of a host
        ExecutorOptions.read(arguments)
