"""docs/how-to/mesos.md: its examples run, and its files for masters do what the page says."""

import getpass
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cook_jupyter import connect
from cook_jupyter.client.sync import JobClient
from tests.docs.test_examples import LIMIT_S, ON_MESOS
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.waiting import HANG_S, wait_until

PAGE_PROGRAM = Path(__file__).parents[1] / "docs" / "page.py"


@pytest.mark.slow
def test_the_examples_of_the_page_run_on_three_agents(
    private_mesos: Callable[..., LocalMesos],
    cook_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesos = private_mesos(agents=3, cpus=2)
    monkeypatch.setenv("MESOS_MASTER", mesos.master.removeprefix("http://"))

    done = subprocess.run(
        [sys.executable, PAGE_PROGRAM, ON_MESOS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def block(name: str) -> str:
    """Return the block of the page with a word in its first line."""
    match = re.search(rf"^```\w+ {name}\n(.*?)^```", ON_MESOS.read_text(), re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def secured_mesos(private_mesos: Callable[..., LocalMesos], folder: Path) -> LocalMesos:
    """A Mesos with the files of the page, for the user of this process."""
    (folder / "credentials").write_text(block("credentials"))
    user = getpass.getuser()
    users = '"users": {"values": ["cook"]}'
    assert users in block("acls")
    (folder / "acls").write_text(block("acls").replace(users, users.replace("cook", user)))
    authenticate = {"authenticate_http_readonly": "true", "authenticate_http_readwrite": "true"}
    return private_mesos(
        agents=1,
        master_flags={
            **authenticate,
            "authenticate_http_frameworks": "true",
            "http_framework_authenticators": "basic",
            "credentials": str(folder / "credentials"),
            "acls": str(folder / "acls"),
        },
        agent_flags={**authenticate, "http_credentials": str(folder / "credentials")},
    )


def settings_for(mesos: LocalMesos, folder: Path, **changes: str) -> Path:
    """The settings of the page for a Mesos of this machine, with some lines changed."""
    (folder / "secret").write_text("choose-a-long-secret")
    values = {
        "master": mesos.master.removeprefix("http://"),
        "secret_file": str(folder / "secret"),
        "run_as": getpass.getuser(),
        "executor_python": sys.executable,
        **changes,
    }
    lines = [line for line in block("secured").splitlines() if line.partition(" ")[0] not in values]
    path = folder / "cluster.toml"
    path.write_text("\n".join([*lines, *(f'{name} = "{value}"' for name, value in values.items())]))
    return path


def serve(config: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cook_jupyter", "serve", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(config: Path) -> Iterator[JobClient]:
    """A scheduler in a process of its own."""
    with serve(config) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline(), process.stderr.read()
            yield connect()
        finally:
            process.terminate()
            process.communicate(timeout=HANG_S)


def test_a_scheduler_with_a_principal_runs_jobs_and_reads_their_files(
    private_mesos: Callable[..., LocalMesos], cook_home: Path, tmp_path: Path
) -> None:
    mesos = secured_mesos(private_mesos, tmp_path)

    with serving(settings_for(mesos, tmp_path)) as client:
        [uuid] = client.submit([{"command": "echo hello", "cpus": 1, "mem": 100, "max_retries": 1}])
        wait_until(lambda: client.job(uuid).status == "completed", "the end of the job")

        assert client.job(uuid).state == "success"
        assert client.logs(uuid).data.startswith(b"hello")
        capacity = client.info_v1().capacity
        assert (capacity.cpus, capacity.hosts) == (4, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"role": "other"}, "Not authorized"), ({"principal": "nobody"}, "asks for credentials")],
)
def test_a_scheduler_that_mesos_refuses_says_so_and_ends_with_status_4(
    private_mesos: Callable[..., LocalMesos],
    cook_home: Path,
    tmp_path: Path,
    change: dict[str, str],
    message: str,
) -> None:
    mesos = secured_mesos(private_mesos, tmp_path)

    with serve(settings_for(mesos, tmp_path, **change)) as process:
        _, errors = process.communicate(timeout=HANG_S)

    assert process.returncode == 4
    assert message in errors.splitlines()[-1]
