"""What every implementation of `Sandboxes` promises: one suite, run over each of them.

Its tests derive a class from `SandboxContract`, with a fixture `harness` that plays the instances.
"""

import stat
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

import pytest

from cook_jupyter.clusters.sandboxes import Sandboxes
from cook_jupyter.errors import InvalidRequest, NotFound
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import JobId
from tests.builders import an_instance


class SandboxHarness(Protocol):
    """Sandboxes, and what instances do in them."""

    @property
    def sandboxes(self) -> Sandboxes:
        """The sandboxes."""

    def directory(self, instance_id: InstanceId) -> str:
        """Return the path of a sandbox on its host."""

    def write(self, instance_id: InstanceId, path: str, content: bytes) -> None:
        """Write a file with its directories; the path is relative to the sandbox."""

    def link(self, instance_id: InstanceId, path: str, target: str) -> None:
        """Make a symbolic link."""

    def remove(self, instance_id: InstanceId) -> None:
        """Remove a sandbox."""


class SandboxContract:
    """The promises of `cook_jupyter.clusters.sandboxes.Sandboxes`."""

    @pytest.fixture
    def instance(self, harness: SandboxHarness) -> Instance:
        """An instance with two files."""
        return self.instance_with(harness, {"stdout": b"one\ntwo\n\xff", "sub/data": b"data"})

    @pytest.fixture
    def sandboxes(self, harness: SandboxHarness) -> Sandboxes:
        return harness.sandboxes

    def instance_with(self, harness: SandboxHarness, files: dict[str, bytes]) -> Instance:
        instance_id = InstanceId(str(uuid4()))
        for path, content in files.items():
            harness.write(instance_id, path, content)
        return replace(
            an_instance(JobId(str(uuid4()))), instance_id=instance_id, sandbox=harness.directory(instance_id)
        )

    # Reading

    @pytest.mark.parametrize("path", ["stdout", "./stdout", "sub/../stdout", "sub//../stdout"])
    async def test_a_file_is_named_relative_to_the_sandbox(
        self, sandboxes: Sandboxes, instance: Instance, path: str
    ) -> None:
        assert await content_of(sandboxes, instance, path) == b"one\ntwo\n\xff"

    async def test_a_file_is_named_by_the_path_that_it_has_on_its_host(
        self, sandboxes: Sandboxes, instance: Instance
    ) -> None:
        assert await content_of(sandboxes, instance, f"{instance.sandbox}/sub/data") == b"data"

    @pytest.mark.parametrize(
        ("offset", "length", "part"),
        [
            (0, 3, b"one"),
            (4, 3, b"two"),
            (8, 100, b"\xff"),
            (9, 1, b""),
            (100, 10, b""),
            (0, 0, b""),
            (0, 10**12, b"one\ntwo\n\xff"),
        ],
    )
    async def test_a_range_ends_with_the_file_and_beyond_it_there_is_nothing(
        self, sandboxes: Sandboxes, instance: Instance, offset: int, length: int, part: bytes
    ) -> None:
        async with sandboxes.open(instance, "stdout") as file:
            assert file.size == 9
            assert await file.read(offset, length) == part

    async def test_an_empty_file_is_a_file(self, harness: SandboxHarness) -> None:
        instance = self.instance_with(harness, {"stdout": b""})

        assert await content_of(harness.sandboxes, instance, "stdout") == b""

    @pytest.mark.parametrize("path", ["sub", "", ".", "sub/"])
    async def test_a_directory_is_not_read(self, sandboxes: Sandboxes, instance: Instance, path: str) -> None:
        with pytest.raises(InvalidRequest, match="is a directory"):
            await content_of(sandboxes, instance, path)

    # Browsing

    async def test_a_directory_is_listed_in_the_order_of_names(
        self, sandboxes: Sandboxes, instance: Instance
    ) -> None:
        entries = await sandboxes.browse(instance, "")

        assert [(entry.name, entry.is_directory) for entry in entries] == [("stdout", False), ("sub", True)]
        assert stat.S_ISREG(entries[0].mode)
        assert stat.S_ISDIR(entries[1].mode)
        assert (entries[0].size, entries[0].link_count) == (9, 1)
        assert [entry.name for entry in await sandboxes.browse(instance, f"{instance.sandbox}/sub")] == [
            "data"
        ]

    async def test_in_a_file_there_is_nothing_to_list(self, sandboxes: Sandboxes, instance: Instance) -> None:
        assert await sandboxes.browse(instance, "stdout") == []

    # Links

    async def test_a_link_inside_the_sandbox_is_followed(
        self, harness: SandboxHarness, instance: Instance
    ) -> None:
        harness.link(instance.instance_id, "link", "sub")
        harness.link(instance.instance_id, "sub/again", f"{instance.sandbox}/stdout")

        assert await content_of(harness.sandboxes, instance, "link/data") == b"data"
        assert await content_of(harness.sandboxes, instance, "link/again") == b"one\ntwo\n\xff"
        assert [entry.name for entry in await harness.sandboxes.browse(instance, "link")] == ["again", "data"]

    async def test_nothing_outside_the_sandbox_is_reached(
        self, harness: SandboxHarness, instance: Instance
    ) -> None:
        neighbour = self.instance_with(harness, {"secret": b"secret"})
        instance_id = instance.instance_id
        harness.link(instance_id, "file-out", f"{neighbour.sandbox}/secret")
        harness.link(instance_id, "directory-out", f"../{neighbour.instance_id}")
        harness.link(instance_id, "sub/up", "../../..")
        harness.link(instance_id, "circle", "circle")
        harness.link(instance_id, "dangling", "nothing")

        for path in (
            f"{neighbour.sandbox}/secret",
            f"../{neighbour.instance_id}/secret",
            f"{instance.sandbox}/../{neighbour.instance_id}/secret",
            "..",
            "/",
            "/etc/passwd",
            "file-out",
            "directory-out/secret",
            "directory-out",
            "sub/up",
            "circle",
            "dangling",
            "missing",
            "stdout/below",
            "nul\0",
        ):
            with pytest.raises(NotFound):
                await content_of(harness.sandboxes, instance, path)
            with pytest.raises(NotFound):
                await harness.sandboxes.browse(instance, path)

    async def test_a_sandbox_whose_name_begins_with_that_of_another_is_another(
        self, harness: SandboxHarness
    ) -> None:
        instance = self.instance_with(harness, {"stdout": b"mine"})
        longer = InstanceId(f"{instance.instance_id}-2")
        harness.write(longer, "stdout", b"another's")

        with pytest.raises(NotFound):
            await content_of(harness.sandboxes, instance, f"{harness.directory(longer)}/stdout")

    # Sandboxes

    async def test_an_instance_that_was_not_started_has_no_sandbox(
        self, sandboxes: Sandboxes, instance: Instance
    ) -> None:
        with pytest.raises(NotFound, match="was not started"):
            await content_of(sandboxes, replace(instance, sandbox=None), "stdout")

    async def test_a_sandbox_that_was_removed_is_not_found(
        self, harness: SandboxHarness, instance: Instance
    ) -> None:
        harness.remove(instance.instance_id)

        with pytest.raises(NotFound, match="was removed"):
            await content_of(harness.sandboxes, instance, "stdout")
        with pytest.raises(NotFound, match="was removed"):
            await harness.sandboxes.browse(instance, "")

    async def test_a_host_that_serves_files_says_where(
        self, sandboxes: Sandboxes, instance: Instance
    ) -> None:
        url = sandboxes.url(instance)

        assert url is None or url.startswith("http")


async def content_of(sandboxes: Sandboxes, instance: Instance, path: str) -> bytes:
    """Return the content of a file."""
    async with sandboxes.open(instance, path) as file:
        return await file.read(0, file.size)
