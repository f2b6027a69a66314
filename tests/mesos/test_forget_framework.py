"""`cook-jupyter mesos forget-framework`: a scheduler whose framework was removed registers a new one."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.test_how_to import serve, serving
from tests.waiting import HANG_S, wait_until


def forget(config: Path, framework_id: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cook_jupyter", "mesos", "forget-framework", framework_id]
    return subprocess.run(
        [*command, "--config", config], capture_output=True, text=True, check=False, timeout=HANG_S
    )


def test_a_removed_framework_is_forgotten_by_its_id_and_its_jobs_run_again(
    private_mesos: Callable[..., LocalMesos], cook_home: Path, tmp_path: Path
) -> None:
    mesos = private_mesos(agents=1)
    config = tmp_path / "cluster.toml"
    master = mesos.master.removeprefix("http://")
    config.write_text(
        f'[[clusters]]\ntype = "mesos"\nmaster = "{master}"\nexecutor_python = "{sys.executable}"\n'
    )
    with serving(config) as client:
        [uuid] = client.submit([{"command": "sleep 1000", "cpus": 1, "mem": 100, "max_retries": 1}])
        wait_until(lambda: client.job(uuid).status == "running", "the job to run")
        refused = forget(config, "any")
        assert refused.returncode == 1
        assert "already running" in refused.stderr

    [framework_id] = [
        one["framework_info"]["id"]["value"]
        for one in mesos.call("GET_FRAMEWORKS")["frameworks"]
        if one["framework_info"]["name"] == "cook_jupyter"
    ]
    urlopen(Request(f"{mesos.master}/master/teardown", f"frameworkId={framework_id}".encode())).close()
    with serve(config) as process:
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 4
    assert re.search(rf"forget-framework {framework_id}", errors.splitlines()[-1])

    assert framework_id in forget(config, "another").stderr
    assert forget(config, framework_id).returncode == 0
    with serving(config) as client:
        wait_until(lambda: len(client.job(uuid).instances) == 2, "another instance")
        first, second = sorted(client.job(uuid).instances, key=lambda one: one.started_ms or 0)
        assert (first.status, first.mea_culpa) == ("failed", True)
        client.kill([uuid])
        wait_until(lambda: client.job(uuid).status == "completed", "the end of the job")
        assert second.uuid != first.uuid
