"""The files of an instance are those of the cluster that it names."""

from dataclasses import replace
from uuid import uuid4

import pytest

from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.clusters.sandboxes import MemorySandboxes
from cook_jupyter.errors import NotFound
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import JobId
from cook_jupyter.service.requests.instance_files import InstanceFiles
from tests.builders import an_instance
from tests.clusters.sandbox_contract import content_of


def instance_in(cluster: str, instance_id: InstanceId) -> Instance:
    instance = an_instance(JobId(str(uuid4())))
    return replace(instance, instance_id=instance_id, cluster=cluster, sandbox=f"/sandboxes/{instance_id}")


@pytest.fixture
def files() -> InstanceFiles:
    """Two clusters; the same instance id would be in both."""
    sandboxes = {"one": MemorySandboxes(), "two": MemorySandboxes("http://host-2:5051")}
    for name, each in sandboxes.items():
        each.write(InstanceId("i"), f"of-{name}", name.encode())
    return InstanceFiles(
        {name: MemoryCluster({}, name=name, sandboxes=each) for name, each in sandboxes.items()}
    )


@pytest.mark.parametrize(("cluster", "url"), [("one", None), ("two", "http://host-2:5051")])
async def test_the_cluster_of_the_instance_is_asked(
    files: InstanceFiles, cluster: str, url: str | None
) -> None:
    instance = instance_in(cluster, InstanceId("i"))

    assert await content_of(files, instance, f"of-{cluster}") == cluster.encode()
    assert [entry.name for entry in await files.browse(instance, "")] == [f"of-{cluster}"]
    assert files.url(instance) == url


async def test_the_files_of_a_cluster_that_was_removed_are_not_found(files: InstanceFiles) -> None:
    instance = instance_in("three", InstanceId("i"))

    assert files.url(instance) is None
    for act in (content_of(files, instance, "stdout"), files.browse(instance, "")):
        with pytest.raises(NotFound, match="cluster 'three', which this scheduler does not have"):
            await act
