"""Jobs that request a container: their command is run by Mesos' own executor, in an image.

Lives here: the parts of TaskInfo that describe it. Not here: all other jobs (`clusters.mesos.executors`).
"""

from collections.abc import Mapping
from typing import Any, Final

from cook_jupyter.clusters import translation
from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.mesos.messages import JsonObject
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS
from cook_jupyter.worker.environment import task_environment

_SANDBOX: Final = "/mnt/mesos/sandbox"  # where Mesos mounts it
_MILLISECOND_NS: Final = 1_000_000


def is_container(launch: Launch) -> bool:
    """Return whether a job requests a container."""
    return bool(launch.spec.extra.get("container"))


def container_task(launch: Launch, user: str) -> JsonObject:
    """Return the part of TaskInfo of a command in a container.

    Args:
        launch: launch of a job that requests one.
        user: user of the host as whom the command runs.
    """
    spec = launch.spec
    task = translation.task_of(launch, launch.instance.ports)
    variables = task_environment(task, _SANDBOX).items()
    info: JsonObject = {
        "command": {
            "shell": True,
            "value": spec.command,
            "user": user,
            "environment": {"variables": [{"name": name, "value": value} for name, value in variables]},
            "uris": [uri_info(uri) for uri in spec.extra.get("uris", ())],
        },
        "container": container_info(spec.extra["container"]),
    }
    if spec.max_runtime_ms < UNLIMITED_RUNTIME_MS:
        info["max_completion_time"] = {"nanoseconds": spec.max_runtime_ms * _MILLISECOND_NS}
    return info


def container_info(container: Mapping[str, Any]) -> JsonObject:
    """Return ContainerInfo for a container as `wire.submission` stores it."""
    volumes = [
        {
            "host_path": volume["host-path"],
            "container_path": volume.get("container-path", volume["host-path"]),
            "mode": volume.get("mode", "RO"),
        }
        for volume in container.get("volumes", ())
    ]
    if container["type"] == "MESOS":
        image = container.get("mesos", {}).get("image")
        mesos = {} if image is None else {"image": {"type": "DOCKER", "docker": {"name": image}}}
        return {"type": "MESOS", "mesos": mesos, "volumes": volumes}
    docker = container.get("docker", {})
    info: JsonObject = {
        "image": docker.get("image", ""),
        "force_pull_image": docker.get("force-pull-image", False),
        "parameters": [{"key": one["key"], "value": one["value"]} for one in docker.get("parameters", ())],
    }
    if "network" in docker:
        info["network"] = docker["network"].upper()
    return {"type": "DOCKER", "docker": info, "volumes": volumes}


def uri_info(uri: Mapping[str, Any]) -> JsonObject:
    """Return the URI that an agent fetches into the sandbox, for one as Cook's API has it."""
    return {
        "value": uri["value"],
        "extract": uri.get("extract", True),
        "executable": uri.get("executable", False),
        "cache": uri.get("cache", False),
    }
