"""Cook's own command line reads the files of instances from agents of Mesos, by their `output_url`."""

import getpass
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.test_how_to import serving
from tests.system.test_cooks_clients import DEADLINE_S, Cook


@pytest.fixture
def cook(mesos: LocalMesos, cook_home: Path, tmp_path: Path) -> Iterator[Cook]:
    config = tmp_path / "cluster.toml"
    master = mesos.master.removeprefix("http://")
    config.write_text(
        f'[[clusters]]\ntype = "mesos"\nmaster = "{master}"\nexecutor_python = "{sys.executable}"\n'
        "failover_timeout_s = 0\n"  # nothing stays on the shared Mesos
    )
    with serving(config) as client:
        token = json.loads((cook_home / "scheduler.json").read_text())["token"]
        clients = {
            "clusters": [{"name": "mesos", "url": client.url}],
            "http": {"auth": {"type": "basic", "basic": {"user": getpass.getuser(), "pass": token}}},
        }
        (tmp_path / "cs.json").write_text(json.dumps(clients))
        yield Cook(client.url, token, tmp_path)


@pytest.mark.slow
def test_cs_reads_files_from_the_agent(cook: Cook, mesos: LocalMesos) -> None:
    command = "echo hello; mkdir -p sub; seq 100000 > sub/numbers; printf 'a\\377b' > binary"
    job = cook.submitted("--cpus", "0.1", "--mem", "32", command)
    cook.cs("wait", "--timeout", str(DEADLINE_S), job)

    shown = json.loads(cook.cs("show", "--json", job))
    [instance] = shown["clusters"]["mesos"]["jobs"][0]["instances"]
    url = urlsplit(instance["output_url"])
    assert f"http://{url.netloc}" == mesos.agent_url(instance["hostname"])
    assert cook.cs("cat", job, "stdout").startswith("hello\n")
    assert cook.cs("cat", job, "sub/numbers").split() == [str(number) for number in range(1, 100_001)]
    assert cook.cs("tail", "--lines", "2", job, "sub/numbers") == "99999\n100000\n"
    assert {"stdout", "sub", "binary"} <= set(cook.cs("ls", job).split())
    assert "numbers" in cook.cs("ls", job, "sub")
