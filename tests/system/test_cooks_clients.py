"""Cook's own clients from PyPI, unmodified, against a scheduler of ours: `cs` and the Python `JobClient`."""

import getpass
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import requests
from cookclient import JobClient

from cook_jupyter.client.connect import connect
from tests.waiting import HANG_S

DEADLINE_S = int(HANG_S)
CS = "import sys; from cook.__main__ import main; sys.argv[0] = 'cs'; main()"


@dataclass(frozen=True, slots=True)
class Cook:
    """A scheduler that Cook's clients know by its address and by name and password."""

    url: str
    token: str
    folder: Path

    def cs(self, *words: str, code: int = 0) -> str:
        """What the command line says."""
        done = subprocess.run(
            [sys.executable, "-c", CS, "--config", str(self.folder / "cs.json"), *words],
            env={**os.environ, "USER": getpass.getuser(), "HOME": str(self.folder)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def submitted(self, *words: str) -> str:
        """The uuid of a job that `cs submit` sent."""
        (uuid,) = re.findall(r"[0-9a-f-]{36}", self.cs("submit", *words))
        return str(UUID(uuid))


@pytest.fixture
def cook(cook_home: Path, tmp_path: Path) -> Iterator[Cook]:
    with connect() as client:
        told = json.loads((cook_home / "scheduler.json").read_text())
        config = {
            "clusters": [{"name": "laptop", "url": client.url}],
            "http": {"auth": {"type": "basic", "basic": {"user": getpass.getuser(), "pass": told["token"]}}},
        }
        (tmp_path / "cs.json").write_text(json.dumps(config))
        yield Cook(client.url, told["token"], tmp_path)


def test_cs_submits_waits_and_shows(cook: Cook) -> None:
    job = cook.submitted("--name", "greeting", "--cpus", "0.1", "--mem", "32", "echo hello $COOK_JOB_UUID")
    cook.cs("wait", "--timeout", str(DEADLINE_S), job)

    shown = cook.cs("show", job)
    assert "greeting" in shown
    assert "Success" in shown
    assert cook.cs("cat", job, "stdout") == f"hello {job}\n"
    assert cook.cs("tail", job, "stdout") == f"hello {job}\n"
    assert "stdout" in cook.cs("ls", job)
    assert job in cook.cs("jobs", "--success", "--json")


def test_cs_kills_what_runs_and_shows_what_is_used(cook: Cook) -> None:
    job = cook.submitted("--cpus", "0.1", "--mem", "32", "sleep 600")
    usage = cook.cs("usage")
    assert "laptop" in usage
    cook.cs("kill", job)
    told = json.loads(cook.cs("show", "--json", job))
    (shown,) = told["clusters"]["laptop"]["jobs"]
    assert (shown["status"], shown["state"]) == ("completed", "failed")


def test_cs_says_what_is_wrong_in_our_words(cook: Cook) -> None:
    said = cook.cs("submit", "--pool", "nowhere", "true", code=1)
    assert "nowhere is not a valid pool name." in said


def test_the_python_client_submits_queries_and_kills(cook: Cook) -> None:
    session = requests.Session()
    session.auth = (getpass.getuser(), cook.token)
    client = JobClient(cook.url, session=session)
    try:
        brief = client.submit(command="echo done", cpus=0.1, mem=32, name="brief")
        endless = client.submit(command="sleep 600", cpus=0.1, mem=32, env={"WHO": "me"})
        both = client.query_all([brief, endless])
        assert [job.uuid for job in both] == [brief, endless]
        assert both[1].env["WHO"] == "me"

        client.kill(endless)
        assert client.query(endless).status.name == "COMPLETED"
        cook.cs("wait", "--timeout", str(DEADLINE_S), str(brief))
        ended = client.query(brief)
        assert (ended.status.name, ended.state.name) == ("COMPLETED", "SUCCESS")
        (instance,) = ended.instances
        assert (instance.exit_code, instance.preempted) == (0, False)
    finally:
        client.close()
