"""What the answers of a master to calls mean.

Lives here: `Answer`, which calls may be repeated, and the errors that answers stand for.
Not here: how calls and answers travel (`clusters.mesos.transport.http_calls`).

Source: src/master/http.cpp of Apache Mesos 1.11.
"""

from dataclasses import dataclass

import msgspec

from cook_jupyter.clusters.mesos.messages import JsonObject
from cook_jupyter.clusters.mesos.transport.connection import CallRejected, CallUncertain, NotConnected
from cook_jupyter.clusters.mesos.transport.leader import MasterAddress

REPEATABLE = frozenset(
    {
        "ACCEPT_INVERSE_OFFERS",
        "ACKNOWLEDGE",
        "DECLINE",
        "DECLINE_INVERSE_OFFERS",
        "KILL",
        "RECONCILE",
        "REVIVE",
        "SHUTDOWN",
        "SUPPRESS",
    }
)
"""Calls that do the same when the master gets them twice.

A second ACCEPT does not: its offers are gone, so that Mesos reports running tasks dropped. A second MESSAGE
would be delivered.
"""

_REFUSES_SUBSCRIPTION = frozenset({307, 401, 403, 503})  # also 400, with one of the texts below
_STALE = ("stream id", "mesos-stream-id", "framework cannot be found")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text for a message."""
        return self.body[:500].decode(errors="replace").strip()


class SubscriptionRefused(NotConnected):
    """The master does not take this subscription for the one of the framework, or does not lead."""


def check_call(kind: str, master: MasterAddress, answer: Answer) -> None:
    """Return if a call was taken.

    Args:
        kind: type of the call.
        master: who has answered.
        answer: its answer.

    Raises:
        SubscriptionRefused: the subscription is to be given up.
        CallFailed: the call was not taken, or it is uncertain.
    """
    if 200 <= answer.status < 300:
        return
    said = _describe(kind, master, answer)
    text = answer.text.lower()
    if answer.status in _REFUSES_SUBSCRIPTION or (
        answer.status == 400 and any(part in text for part in _STALE)
    ):
        raise SubscriptionRefused(said)
    raise (CallRejected if answer.status < 500 else CallUncertain)(said)


def read_answer(kind: str, master: MasterAddress, answer: Answer) -> JsonObject:
    """Return what the operator API has answered.

    Args:
        kind: type of the call.
        master: who has answered.
        answer: its answer.

    Raises:
        CallFailed: there is no such answer.
    """
    said = _describe(kind, master, answer)
    if answer.status in (307, 503):
        raise NotConnected(said)
    if answer.status >= 500:
        raise CallUncertain(said)
    if not 200 <= answer.status < 300:
        raise CallRejected(said)
    try:
        return msgspec.json.decode(answer.body or b"{}", type=JsonObject)
    except msgspec.DecodeError as error:
        raise CallUncertain(f"{said}, which is no JSON object: {error}") from error


def _describe(kind: str, master: MasterAddress, answer: Answer) -> str:
    """Return a sentence about an answer."""
    said = f"the Mesos master {master} has answered {kind} with {answer.status}"
    return f"{said}: {answer.text}" if answer.text else said
