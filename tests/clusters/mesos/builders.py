"""Values of Mesos for unit tests."""

from typing import Any

from cook_jupyter.clusters.mesos.messages import JsonObject, Offer, TaskStatus, Unavailability, Value
from cook_jupyter.worker.frames import pack
from cook_jupyter.worker.mesos.messages import ResultFile, end_data, running_data
from cook_jupyter.worker.task import EndReport, TaskExit


def scalar(name: str, amount: float, **fields: Any) -> JsonObject:
    """A number of a resource."""
    return {"name": name, "type": "SCALAR", "scalar": {"value": amount}, **fields}


def ports(*spans: tuple[int, int], **fields: Any) -> JsonObject:
    """Ranges of ports."""
    ranges = {"range": [{"begin": low, "end": high} for low, high in spans]}
    return {"name": "ports", "type": "RANGES", "ranges": ranges, **fields}


def an_offer(
    offer_id: str = "o1",
    *resources: JsonObject,
    host: str = "h1",
    agent: str = "a1",
    attributes: tuple[JsonObject, ...] = (),
    executors: tuple[str, ...] = (),
    unavailability: Unavailability | None = None,
) -> Offer:
    """An offer of 4 cpus and 4,096 MiB, unless resources are named."""
    return Offer(
        id=Value(offer_id),
        agent_id=Value(agent),
        hostname=host,
        resources=resources or (scalar("cpus", 4.0), scalar("mem", 4096.0)),
        attributes=attributes,
        executor_ids=tuple(Value(one) for one in executors),
        unavailability=unavailability,
    )


def a_status(state: str, task_id: str = "i1", **fields: Any) -> TaskStatus:
    """A status of a task, made by an agent."""
    return TaskStatus(task_id=Value(task_id), state=state, **fields)


def end_of(
    cause: str, task_id: str = "i1", *, result: bytes = b"", result_file: ResultFile | None = None
) -> str:
    """What our executor adds to a terminal status."""
    end = TaskExit(task_id, 0, 5000, inline=bool(result))
    return end_data(EndReport(end, cause, f"/sandboxes/{task_id}", result), result_file)


def running(task_id: str = "i1") -> str:
    """What our executor adds to TASK_RUNNING."""
    return running_data(task_id, f"/sandboxes/{task_id}", 4000)


def other_frame() -> bytes:
    """A frame that no status has."""
    return pack({"t": "launch"})
