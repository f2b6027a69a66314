"""A notebook that reaches its scheduler through an SSH tunnel, so that the scheduler seems to be local."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from cook_jupyter.client.connect import connect
from cook_jupyter.client.keys import key_file
from cook_jupyter.client.runtime import RuntimeFile, read_runtime
from cook_jupyter.client.sync import JobClient
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor.blobs import HttpStore
from cook_jupyter.payload.blobs import DirectoryStore
from tests.conftest import short_folder
from tests.executor.test_executor import SOON_S
from tests.executor.tunnel import Tunnel


@pytest.fixture
def far_home(cook_home: Path) -> Path:
    """The home of a scheduler that runs; on its machine it has the path of `near_home`."""
    with connect() as client:
        key_file(cook_home, client.user)
    return cook_home


@pytest.fixture
def near_home(far_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home on the notebook's machine, with a blob folder of its own and the same key."""
    with short_folder() as home:
        (home / "blobs").mkdir(mode=0o700)
        shutil.copytree(far_home / "keys", home / "keys")  # by the user: a key is never sent
        monkeypatch.setenv("COOK_JUPYTER_HOME", str(home))
        yield home


def tunnel_to(far_home: Path, near_home: Path) -> Tunnel:
    parts = urlsplit(runtime_of(far_home).url)
    assert parts.hostname is not None
    assert parts.port is not None
    return Tunnel((parts.hostname, parts.port), near=str(near_home), far=str(far_home))


def runtime_of(home: Path) -> RuntimeFile:
    runtime = read_runtime(home)
    assert isinstance(runtime, RuntimeFile)
    return runtime


def assert_large_calls_arrive(far_home: Path, near_home: Path) -> None:
    """Run a large call through a tunnel; its arguments and its result are stored on the far side only."""
    with (
        tunnel_to(far_home, near_home) as tunnel,
        JobClient(tunnel.url, token=runtime_of(far_home).token) as client,
        CookExecutor(client, cpus=0.5, mem_mb=256) as executor,
    ):
        before = {path for path in (near_home / "blobs").rglob("*") if path.is_file()}
        array = np.arange(200_000.0)

        doubled = executor.submit(lambda a: a * 2, array).result(SOON_S)

        np.testing.assert_array_equal(doubled, array * 2)
        assert isinstance(executor._holder.current_session().scheduler.store, HttpStore)
        assert {path for path in (near_home / "blobs").rglob("*") if path.is_file()} == before


def test_a_large_call_does_not_go_to_the_folder_of_the_same_path_on_this_machine(
    far_home: Path, near_home: Path
) -> None:
    assert_large_calls_arrive(far_home, near_home)


def test_a_copy_of_the_scheduler_s_blob_folder_is_not_taken_for_it(far_home: Path, near_home: Path) -> None:
    shutil.copytree(far_home / "blobs", near_home / "blobs", dirs_exist_ok=True)

    assert_large_calls_arrive(far_home, near_home)


def test_a_folder_that_both_sides_share_is_used_through_a_tunnel_too(far_home: Path) -> None:
    parts = urlsplit(runtime_of(far_home).url)
    with (
        Tunnel((parts.hostname or "", parts.port or 0)) as tunnel,
        JobClient(tunnel.url, token=runtime_of(far_home).token) as client,
        CookExecutor(client, cpus=0.5, mem_mb=256) as executor,
    ):
        array = np.arange(200_000.0)

        doubled = executor.submit(lambda a: a * 2, array).result(SOON_S)

        np.testing.assert_array_equal(doubled, array * 2)
        assert isinstance(executor._holder.current_session().scheduler.store, DirectoryStore)
