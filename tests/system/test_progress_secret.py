"""An instance reports its own progress with the secret in its environment; other instances cannot."""

import json
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from cook_jupyter.client.answers import JobAnswer
from cook_jupyter.client.connect import connect
from cook_jupyter.client.sync import JobClient
from tests.waiting import HANG_S

PROGRAM = """
import json, os, sys, urllib.error, urllib.request
url, victim = sys.argv[1:]
def report(instance):
    body = {"progress_sequence": 1, "progress_percent": 40, "progress_message": "mine"}
    request = urllib.request.Request(f"{url}/progress/{instance}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", "Bearer " + os.environ["COOK_INSTANCE_SECRET"])
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code
print(json.dumps([report(os.environ["COOK_INSTANCE_UUID"]), report(victim)]))
"""


@pytest.mark.usefixtures("cook_home")
def test_an_instance_reports_for_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with connect() as client:
        victim = ended(client, "true").instances[0].uuid
        reporter = ended(client, f"{sys.executable} {tmp_path}/program.py {client.url} {victim}")
        (instance,) = reporter.instances
        assert json.loads(client.logs(reporter.uuid).data) == [202, 401]
        assert (instance.progress, instance.progress_message) == (40, "mine")
        assert client.instances([victim])[0].progress == 0


def ended(client: JobClient, command: str) -> JobAnswer:
    """Submit a command; return its job once that is completed."""
    (uuid,) = client.submit(
        [{"uuid": str(uuid4()), "command": command, "cpus": 0.1, "mem": 64, "max_retries": 1}]
    )
    end = time.monotonic() + HANG_S
    while (job := client.job(uuid)).status != "completed" or job.state != "success":
        assert time.monotonic() < end, job
        time.sleep(0.02)
    return job
