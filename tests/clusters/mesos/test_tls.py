"""Connections over TLS."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from cook_jupyter.clusters.mesos.transport.http_connection import HttpSchedulerConnection, tls_context
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress, MasterList
from tests.clusters.mesos.conftest import MakeMaster
from tests.clusters.mesos.fake_master import FakeMaster
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.implementations import QUICK
from tests.conftest import missing_part
from tests.waiting import wait_until_async


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 of its own authority, and one of a client."""
    if shutil.which("openssl") is None:
        missing_part("no openssl to make certificates with: install the package 'openssl'")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("master", "client", "stranger"):
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
        output = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*command, *output], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
async def master(make_master: MakeMaster, keys: Path) -> FakeMaster:
    """A master with TLS that asks for a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "master.pem", keys / "master.key")
    context.load_verify_locations(keys / "client.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return await make_master(ssl_context=context)


async def test_all_connections_use_tls(master: FakeMaster, keys: Path) -> None:
    context = tls_context(keys / "master.pem", keys / "client.pem", keys / "client.key")
    framework = await Framework(connection(master.address, context)).start()

    [task] = await framework.launch(await framework.offer(), "true")
    await framework.state(task, "TASK_FINISHED")

    assert await framework.connection.query({"type": "GET_AGENTS"})
    await framework.stop()


@pytest.mark.parametrize("authority", ["stranger.pem", None])
async def test_a_master_that_cannot_prove_who_it_is_gets_nothing(
    master: FakeMaster, keys: Path, authority: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    context = tls_context(keys / authority if authority else None)
    framework = Framework(connection(master.address, context))
    framework.begin()

    await wait_until_async(lambda: framework.asked == 3)

    assert master.received == []
    assert "certificate verify failed" in caplog.text
    await framework.stop()


async def test_a_framework_without_a_certificate_goes_on_trying(master: FakeMaster, keys: Path) -> None:
    framework = Framework(connection(master.address, tls_context(keys / "master.pem")))
    framework.begin()

    await wait_until_async(lambda: framework.asked == 3)

    assert master.received == []
    await framework.stop()


def connection(address: MasterAddress, context: ssl.SSLContext) -> HttpSchedulerConnection:
    return HttpSchedulerConnection(MasterList([address]), ssl_context=context, timing=QUICK)
