"""What a host needs to run a call: written into a job, and read from it."""

import shlex

import pytest

from cook_jupyter.payload.requirements import (
    HostRequirements,
    call_interpreter,
    is_call,
    read_requirements,
)

CALL = {"COOK_CALL": "AAAA"}


@pytest.mark.parametrize("interpreter", ["/usr/bin/python3", "/a b/it's/python", "/opt/ünï/python"])
def test_a_host_reads_the_requirements_that_a_notebook_wrote(interpreter: str) -> None:
    written = HostRequirements(interpreter=interpreter, store_url="s3://bucket/blobs", key_file="/keys/ada")

    found = call_interpreter(written.command, CALL)

    assert found == interpreter
    assert read_requirements(written.variables(), interpreter=found) == written


def test_the_command_alone_starts_the_call_on_any_server() -> None:
    written = HostRequirements(interpreter="/a b/python", store_url="/blobs", key_file="/keys/ada")

    assert shlex.split(written.command) == ["/a b/python", "-m", "cook_jupyter.worker", "call"]


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        ("/usr/bin/python3 -m cook_jupyter.worker call", {}),
        ("python3 -m cook_jupyter.worker call", CALL),  # the shell looks for it
        ("/usr/bin/python3 -m cook_jupyter.worker call; true", CALL),
        ("/usr/bin/python3 -m cook_jupyter.worker", CALL),
        ("'/usr/bin/python3", CALL),
        ("", CALL),
    ],
)
def test_what_is_not_exactly_a_call_is_run_by_the_shell(command: str, environment: dict[str, str]) -> None:
    assert call_interpreter(command, environment) is None


@pytest.mark.parametrize(
    ("environment", "expected"), [(CALL, True), ({"COOK_CALL_BLOB": "calls/x"}, True), ({"A": "b"}, False)]
)
def test_a_call_is_told_by_its_variables(environment: dict[str, str], expected: bool) -> None:
    assert is_call(environment) is expected
