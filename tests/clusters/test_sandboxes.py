"""Sandboxes that are directories of this machine, and those in memory, keep the same promises."""

import os
import shutil
from pathlib import Path

import pytest

from cook_jupyter.clusters.local import sandboxes as local_sandboxes
from cook_jupyter.clusters.local.sandboxes import LocalSandboxes
from cook_jupyter.clusters.sandboxes import MemorySandboxes
from cook_jupyter.errors import NotFound
from cook_jupyter.model.instance import InstanceId
from tests.clusters.sandbox_contract import SandboxContract, SandboxHarness, content_of


def descriptors() -> set[str]:
    """The descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths


class LocalHarness:
    """Directories below one."""

    def __init__(self, root: Path) -> None:
        self.sandboxes = LocalSandboxes()
        self._root = root

    def directory(self, instance_id: InstanceId) -> str:
        return str(self._root / instance_id)

    def write(self, instance_id: InstanceId, path: str, content: bytes) -> None:
        file = self._root / instance_id / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def link(self, instance_id: InstanceId, path: str, target: str) -> None:
        (self._root / instance_id / path).symlink_to(target)

    def remove(self, instance_id: InstanceId) -> None:
        shutil.rmtree(self._root / instance_id)


class MemoryHarness:
    """Sandboxes in memory."""

    def __init__(self) -> None:
        self.sandboxes = MemorySandboxes("http://host-1:5051")
        self.write, self.link, self.remove = (
            self.sandboxes.write,
            self.sandboxes.link,
            self.sandboxes.remove,
        )

    def directory(self, instance_id: InstanceId) -> str:
        return f"/sandboxes/{instance_id}"


class TestLocalSandboxes(SandboxContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SandboxHarness:
        return LocalHarness(tmp_path)

    @pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
    async def test_what_is_no_file_is_not_waited_for(self, harness: LocalHarness, kind: str) -> None:
        instance = self.instance_with(harness, {"stdout": b""})
        path = Path(harness.directory(instance.instance_id)) / "odd"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            os.mknod(path, 0o600 | 0o140000)
        else:
            path.symlink_to("/dev/zero")

        with pytest.raises(NotFound):
            await content_of(harness.sandboxes, instance, "odd")

    async def test_a_directory_that_becomes_a_link_while_it_is_opened_is_not_followed(
        self, harness: LocalHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instance = self.instance_with(harness, {"sub/data": b"mine"})
        neighbour = self.instance_with(harness, {"data": b"secret"})
        sub = Path(harness.directory(instance.instance_id)) / "sub"
        walk = local_sandboxes._walk

        def swap_and_walk(root: str, parts: list[str]) -> tuple[int, int]:
            shutil.rmtree(sub)
            sub.symlink_to(harness.directory(neighbour.instance_id))
            return walk(root, parts)

        monkeypatch.setattr(local_sandboxes, "_walk", swap_and_walk)

        with pytest.raises(NotFound):
            await content_of(harness.sandboxes, instance, "sub/data")

    async def test_no_descriptor_is_left_open(self, harness: LocalHarness) -> None:
        instance = self.instance_with(harness, {"sub/data": b"mine"})
        before = descriptors()

        assert await content_of(harness.sandboxes, instance, "sub/data") == b"mine"
        await harness.sandboxes.browse(instance, "sub")
        for path in ("sub/missing", "sub"):
            with pytest.raises((NotFound, ValueError)):
                await content_of(harness.sandboxes, instance, path)

        assert descriptors() == before


class TestMemorySandboxes(SandboxContract):
    @pytest.fixture
    def harness(self) -> SandboxHarness:
        return MemoryHarness()
