"""An embedded scheduler's own Unix socket comes before its address, which others may keep busy."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cook_jupyter import CookExecutor
from cook_jupyter.client.connect import connect
from cook_jupyter.client.connections import Address
from cook_jupyter.client.home import home_folder
from cook_jupyter.client.runtime import RuntimeFile, read_runtime
from cook_jupyter.client.sync import JobClient
from tests.client.stub_server import as_json, stub_server
from tests.waiting import HANG_S


def test_the_socket_comes_first_and_the_url_stays_the_address(tmp_path: Path) -> None:
    with listening_socket(tmp_path / "s") as listening, stub_server(lambda _: as_json([])) as server:
        address = Address.of(server.url, str(tmp_path / "s"))
        with address.open(HANG_S) as connection:
            assert connection.family == socket.AF_UNIX
            listening.accept()[0].close()
        client = JobClient(server.url, socket_path=str(tmp_path / "s"))
        assert client.url == server.url
        assert client.acting_as("ada").url == client.with_timeout(1).url == server.url


@pytest.mark.parametrize("left_behind", [False, True], ids=["removed", "nobody listens"])
def test_without_the_socket_the_address_has_to_do(tmp_path: Path, left_behind: bool) -> None:
    path = tmp_path / "s"
    if left_behind:
        with listening_socket(path):
            pass
    with stub_server(lambda _: as_json([])) as server, JobClient(server.url, socket_path=str(path)) as client:
        assert client.pools() == []


@pytest.mark.usefixtures("cook_home")
def test_who_holds_all_connections_of_the_address_locks_the_owner_out_of_nothing() -> None:
    client = connect()
    runtime = read_runtime(home_folder())
    assert isinstance(runtime, RuntimeFile)
    assert Path(runtime.socket).stat().st_mode & 0o777 == 0o600
    host, port = runtime.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=HANG_S))
        assert client.info_v1().pid == runtime.pid
        with CookExecutor(cpus=0.1, mem_mb=64) as executor:
            assert executor.submit(abs, -3).result(HANG_S) == 3
    assert connect(runtime.url).info_v1().pid == runtime.pid


@pytest.mark.usefixtures("cook_home")
def test_a_home_with_a_long_path_has_a_socket_elsewhere(
    cook_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(cook_home / "tmp"))
    (cook_home / "tmp").mkdir()
    home = cook_home / ("x" * 120)
    monkeypatch.setenv("COOK_JUPYTER_HOME", str(home))
    client = connect()
    try:
        runtime = read_runtime(home)
        assert isinstance(runtime, RuntimeFile)
        assert runtime.socket.startswith(str(cook_home / "tmp"))
        assert Path(runtime.socket).parent.stat().st_mode & 0o777 == 0o700
        assert client.info_v1().pid == runtime.pid
    finally:
        client.shutdown(stop_agent=True)


@contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket; its file stays behind."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield listening
