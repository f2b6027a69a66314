"""The table of variables that a task sees."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.worker.environment import (
    base_environment,
    process_environment,
    progress_path,
    task_environment,
)
from cook_jupyter.worker.task import Task


def a_task(**fields: object) -> Task:
    values = {
        "instance_id": "i-1",
        "job_id": "j-1",
        "user": "ada",
        "command": "true",
        "env": {},
        "cpus": 1.0,
        "mem_mb": 128.0,
        **fields,
    }
    return Task(**values)  # type: ignore[arg-type]


def test_a_plain_command_sees_these_variables_and_no_others() -> None:
    seen = task_environment(a_task(cpus=0.05, mem_mb=32.0), "/box")

    assert seen == {
        "COOK_JOB_UUID": "j-1",
        "COOK_INSTANCE_UUID": "i-1",
        "COOK_INSTANCE_NUM": "0",
        "COOK_JOB_CPUS": "0.05",
        "COOK_JOB_MEM_MB": "32.0",
        "MESOS_SANDBOX": "/box",
        "MESOS_DIRECTORY": "/box",
        "HOME": "/box",
        "EXECUTOR_PROGRESS_OUTPUT_FILE": "/box/i-1.progress",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "BLIS_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
        "VECLIB_MAXIMUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"group": "g-1"}, "COOK_JOB_GROUP_UUID", "g-1"),
        ({"group": None, "env": {"COOK_JOB_GROUP_UUID": "forged"}}, "COOK_JOB_GROUP_UUID", None),
        ({"gpus": 2.0}, "COOK_JOB_GPUS", "2"),
        ({"attempt": 4}, "COOK_INSTANCE_NUM", "4"),
        ({"ports": (31000, 31007)}, "PORT1", "31007"),
        ({"cpus": 3.9}, "OMP_NUM_THREADS", "3"),
        ({"env": {"OMP_NUM_THREADS": "9"}}, "OMP_NUM_THREADS", "9"),
        ({"env": {"COOK_JOB_UUID": "forged"}}, "COOK_JOB_UUID", "j-1"),
        ({"env": {"HOME": "/mine"}}, "HOME", "/box"),
        ({"env": {"HOME": "/mine"}, "python": "/usr/bin/python3"}, "HOME", "/mine"),
        ({"python": "/usr/bin/python3"}, "HOME", None),
        ({"env": {"COOK_CALL": "AAAA"}, "python": "/usr/bin/python3"}, "COOK_CALL", None),
        ({"env": {"COOK_CALL": "AAAA"}}, "COOK_CALL", "AAAA"),
        ({"progress_file": "far"}, "EXECUTOR_PROGRESS_OUTPUT_FILE_ENV", "EXECUTOR_PROGRESS_OUTPUT_FILE_NAME"),
        ({"progress_file": "far"}, "EXECUTOR_PROGRESS_OUTPUT_FILE_NAME", "far"),
    ],
)
def test_the_system_tells_a_task(fields: dict[str, object], name: str, value: str | None) -> None:
    assert task_environment(a_task(**fields), "/box").get(name) == value


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "/box/i-1.progress"),
        ({"progress_file": "how/far"}, "/box/how/far"),
        ({"env": {"EXECUTOR_PROGRESS_OUTPUT_FILE": "mine"}}, "/box/mine"),
        ({"env": {"EXECUTOR_PROGRESS_OUTPUT_FILE": "/abs"}}, "/abs"),
        ({"env": {"EXECUTOR_PROGRESS_OUTPUT_FILE_ENV": "WHERE", "WHERE": "there"}}, "/box/there"),
        ({"env": {"EXECUTOR_PROGRESS_OUTPUT_FILE_ENV": "WHERE"}}, "/box/i-1.progress"),
    ],
)
def test_progress_is_looked_for_where_the_task_was_told_to_write_it(
    fields: dict[str, object], path: str
) -> None:
    assert progress_path(task_environment(a_task(**fields), "/box"), "/box") == path


@given(st.dictionaries(st.text(min_size=1), st.text()), st.dictionaries(st.text(min_size=1), st.text()))
def test_what_every_task_sees_follows_from_the_user_and_the_interpreter_alone(
    one: dict[str, str], other: dict[str, str]
) -> None:
    home = {"COOK_JUPYTER_HOME": "/h"}

    seen = base_environment({**one, **home})

    assert seen == base_environment({**other, **home})
    assert set(seen) <= {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "COOK_JUPYTER_HOME"}
    assert seen["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_a_worker_process_is_started_with_what_its_interpreter_needs_and_nothing_else_of_the_starters() -> (
    None
):
    starter = {"API_KEY": "secret", "PATH": "/mine", "TZ": "Asia/Tokyo", "LD_LIBRARY_PATH": "/opt/python/lib"}

    started = process_environment(starter)

    assert started == {**base_environment({}), "LD_LIBRARY_PATH": "/opt/python/lib"}
