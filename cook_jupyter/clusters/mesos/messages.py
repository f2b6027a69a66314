"""Messages of Mesos' v1 scheduler API as types.

Lives here: the events that a master sends, with the fields that are used, and the calls that it takes.
Not here: how they travel (`clusters.mesos.transport.connection`), their meaning (`clusters.mesos.cluster`).

Resources, attributes and the like stay JSON objects: they are sent back as they came, with whatever fields a
later Mesos may add. Fields that are not named here are ignored.

Source: include/mesos/v1/scheduler/scheduler.proto and mesos.proto of Apache Mesos 1.11.
"""

import base64
from collections.abc import Sequence
from typing import Any, NewType

import msgspec

JsonObject = dict[str, Any]
Call = JsonObject

FrameworkId = NewType("FrameworkId", str)
AgentId = NewType("AgentId", str)
OfferId = NewType("OfferId", str)
ExecutorId = NewType("ExecutorId", str)


class Value(msgspec.Struct, frozen=True):
    """An id, as Mesos writes it."""

    value: str


class Address(msgspec.Struct, frozen=True):
    """Address of a process."""

    ip: str = ""
    hostname: str = ""
    port: int = 0


class Url(msgspec.Struct, frozen=True):
    """URL of an agent."""

    scheme: str = "http"
    address: Address = Address()
    path: str = ""


class TimeInfo(msgspec.Struct, frozen=True):
    """A time since the epoch, or a duration."""

    nanoseconds: int


class Unavailability(msgspec.Struct, frozen=True):
    """A time in which an agent is in maintenance; without a duration, until further notice."""

    start: TimeInfo
    duration: TimeInfo | None = None


class Offer(msgspec.Struct, frozen=True):
    """Resources of one agent, ours until accepted, declined or rescinded."""

    id: Value
    agent_id: Value
    hostname: str
    url: Url = Url()
    resources: tuple[JsonObject, ...] = ()
    attributes: tuple[JsonObject, ...] = ()
    executor_ids: tuple[Value, ...] = ()
    allocation_info: JsonObject | None = None
    unavailability: Unavailability | None = None


class InverseOffer(msgspec.Struct, frozen=True):
    """A request to free an agent for its maintenance."""

    id: Value
    unavailability: Unavailability
    agent_id: Value | None = None


class MasterInfo(msgspec.Struct, frozen=True):
    """The master that answers."""

    id: str = ""
    hostname: str = ""
    port: int = 0
    version: str = ""


class Subscribed(msgspec.Struct, frozen=True):
    """The first event of a subscription."""

    framework_id: Value
    heartbeat_interval_seconds: float = 15.0
    master_info: MasterInfo = MasterInfo()


class Offers(msgspec.Struct, frozen=True):
    """New offers."""

    offers: tuple[Offer, ...] = ()


class InverseOffers(msgspec.Struct, frozen=True):
    """New inverse offers."""

    inverse_offers: tuple[InverseOffer, ...] = ()


class Rescind(msgspec.Struct, frozen=True):
    """An offer that is no longer valid."""

    offer_id: Value


class RescindInverseOffer(msgspec.Struct, frozen=True):
    """An inverse offer that is no longer valid."""

    inverse_offer_id: Value


class TaskStatus(msgspec.Struct, frozen=True):
    """State of a task.

    Attributes:
        uuid: base64; empty for an update that is not to be acknowledged, because a master made it.
        data: base64 of what an executor adds.
        timestamp: seconds since the epoch.
    """

    task_id: Value
    state: str
    message: str = ""
    source: str = ""
    reason: str = ""
    data: str = ""
    agent_id: Value | None = None
    executor_id: Value | None = None
    timestamp: float = 0.0
    uuid: str = ""


class Update(msgspec.Struct, frozen=True):
    """A status update."""

    status: TaskStatus


class Message(msgspec.Struct, frozen=True):
    """Bytes from an executor, in base64; they may get lost."""

    agent_id: Value
    executor_id: Value
    data: str = ""


class Failure(msgspec.Struct, frozen=True):
    """The end of an executor, or, without an executor, the loss of an agent.

    Attributes:
        status: wait status of the executor.
    """

    agent_id: Value | None = None
    executor_id: Value | None = None
    status: int | None = None


class Error(msgspec.Struct, frozen=True):
    """An error after which the master ends the subscription."""

    message: str = ""


class Event(msgspec.Struct, frozen=True):
    """An event; the field that `type` names, in lower case, is set."""

    type: str
    subscribed: Subscribed | None = None
    offers: Offers | None = None
    inverse_offers: InverseOffers | None = None
    rescind: Rescind | None = None
    rescind_inverse_offer: RescindInverseOffer | None = None
    update: Update | None = None
    message: Message | None = None
    failure: Failure | None = None
    error: Error | None = None


_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def decode_event(record: bytes) -> Event:
    """Return the event in a record.

    Raises:
        msgspec.DecodeError: the record is not an event of the v1 scheduler API.
    """
    return _decoder.decode(record)


def encode_call(call: Call, framework_id: FrameworkId | None) -> bytes:
    """Return the body of a call.

    Args:
        call: the call without the id of its framework.
        framework_id: the framework; None before its first subscription.
    """
    if framework_id is not None:
        call = {**call, "framework_id": {"value": framework_id}}
    return _encoder.encode(call)


def subscribe(framework: JsonObject, suppressed_roles: Sequence[str] = ()) -> Call:
    """Return the call that opens a subscription.

    Args:
        framework: FrameworkInfo, with its id unless it is new.
        suppressed_roles: roles for which no offers are wanted.
    """
    return {
        "type": "SUBSCRIBE",
        "subscribe": {"framework_info": framework, "suppressed_roles": list(suppressed_roles)},
    }


def accept(offer_ids: Sequence[OfferId], tasks: Sequence[JsonObject], *, refuse_s: float) -> Call:
    """Return the call that launches tasks on one agent.

    Args:
        offer_ids: offers of that agent, all of one role.
        tasks: TaskInfos, whose resources are parts of these offers.
        refuse_s: seconds for which the rest of the offers is not offered again.
    """
    return {
        "type": "ACCEPT",
        "accept": {
            "offer_ids": [{"value": offer_id} for offer_id in offer_ids],
            "operations": [{"type": "LAUNCH", "launch": {"task_infos": list(tasks)}}],
            "filters": {"refuse_seconds": refuse_s},
        },
    }


def decline(offer_ids: Sequence[OfferId], *, refuse_s: float) -> Call:
    """Return the call that gives offers back."""
    return {
        "type": "DECLINE",
        "decline": {
            "offer_ids": [{"value": offer_id} for offer_id in offer_ids],
            "filters": {"refuse_seconds": refuse_s},
        },
    }


def accept_inverse_offers(inverse_offer_ids: Sequence[str]) -> Call:
    """Return the call that promises to free agents in time."""
    return {
        "type": "ACCEPT_INVERSE_OFFERS",
        "accept_inverse_offers": {"inverse_offer_ids": [{"value": one} for one in inverse_offer_ids]},
    }


def revive(roles: Sequence[str]) -> Call:
    """Return the call that lifts all filters and suppressions of roles."""
    return {"type": "REVIVE", "revive": {"roles": list(roles)}}


def suppress(roles: Sequence[str]) -> Call:
    """Return the call that stops offers for roles."""
    return {"type": "SUPPRESS", "suppress": {"roles": list(roles)}}


def kill(task_id: str, agent_id: AgentId | None, *, grace_s: float | None = None) -> Call:
    """Return the call that kills a task.

    Args:
        task_id: the task.
        agent_id: its agent; None if unknown.
        grace_s: seconds between TERM and KILL; None for those of the task.
    """
    body: JsonObject = {"task_id": {"value": task_id}}
    if agent_id is not None:
        body["agent_id"] = {"value": agent_id}
    if grace_s is not None:
        body["kill_policy"] = {"grace_period": {"nanoseconds": round(grace_s * 1e9)}}
    return {"type": "KILL", "kill": body}


def acknowledge(status: TaskStatus) -> Call:
    """Return the acknowledgement of a status that has a uuid and an agent."""
    assert status.agent_id is not None  # noqa: S101 - Mesos sends both or neither
    return {
        "type": "ACKNOWLEDGE",
        "acknowledge": {
            "agent_id": {"value": status.agent_id.value},
            "task_id": {"value": status.task_id.value},
            "uuid": status.uuid,
        },
    }


def reconcile(tasks: Sequence[tuple[str, AgentId | None]]) -> Call:
    """Return the call that asks for the states of tasks; of all that the master knows if there are none."""
    entries = []
    for task_id, agent_id in tasks:
        entry: JsonObject = {"task_id": {"value": task_id}}
        if agent_id is not None:
            entry["agent_id"] = {"value": agent_id}
        entries.append(entry)
    return {"type": "RECONCILE", "reconcile": {"tasks": entries}}


def send_message(agent_id: AgentId, executor_id: ExecutorId, data: bytes) -> Call:
    """Return the call that sends bytes to an executor; they may get lost."""
    return {
        "type": "MESSAGE",
        "message": {
            "agent_id": {"value": agent_id},
            "executor_id": {"value": executor_id},
            "data": base64.b64encode(data).decode(),
        },
    }


def shut_down(agent_id: AgentId, executor_id: ExecutorId) -> Call:
    """Return the call that ends an executor."""
    return {
        "type": "SHUTDOWN",
        "shutdown": {"agent_id": {"value": agent_id}, "executor_id": {"value": executor_id}},
    }


def teardown() -> Call:
    """Return the call that ends the framework and all its tasks, for ever."""
    return {"type": "TEARDOWN"}
