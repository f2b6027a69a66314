"""A minimal framework that launches command tasks and records updates, for tests of what is around it."""

import contextlib
import getpass
import http.client
import json
import socket
import threading
from collections import defaultdict
from typing import Any, Self
from uuid import uuid4

from cook_jupyter.clusters.mesos import messages
from cook_jupyter.clusters.mesos.messages import (
    AgentId,
    Call,
    Event,
    FrameworkId,
    JsonObject,
    Offer,
    OfferId,
    TaskStatus,
)
from tests.waiting import HANG_S

_PATH = "/api/v1/scheduler"


class RawFramework:
    """A framework that accepts what it is offered; a context manager, which tears the framework down.

    Args:
        master: URL of the master.
    """

    def __init__(self, master: str) -> None:
        self._address = master.removeprefix("http://")
        self._changed = threading.Condition()
        self._offers: dict[str, Offer] = {}
        self._statuses: dict[str, list[TaskStatus]] = defaultdict(list)
        self._stream_id = ""
        self._framework_id: FrameworkId | None = None
        self._connection = http.client.HTTPConnection(self._address)
        self._socket: socket.socket | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        self.wait_for(lambda: self._framework_id, "the subscription")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._send(messages.teardown())
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(HANG_S)
        self._connection.close()

    @property
    def framework_id(self) -> FrameworkId:
        """Its id."""
        assert self._framework_id is not None
        return self._framework_id

    def run_command(self, command: str, *, host: str | None = None, cpus: float = 0.1) -> str:
        """Launch a shell command on a host that has been offered, or on any; return the id of the task."""
        task_id = str(uuid4())
        offer = self.wait_for(lambda: self._take_offer(host), f"an offer of {host or 'any host'}")
        amounts = {"cpus": cpus, "mem": 32.0}
        task: JsonObject = {
            "name": "command",
            "task_id": {"value": task_id},
            "agent_id": {"value": offer.agent_id.value},
            "command": {"value": command},
            "resources": [
                {"name": name, "type": "SCALAR", "scalar": {"value": value}}
                for name, value in amounts.items()
            ],
        }
        self._send(messages.accept([OfferId(offer.id.value)], [task], refuse_s=0))
        return task_id

    def kill(self, task_id: str, agent_id: AgentId | None = None) -> None:
        """Kill a task."""
        self._send(messages.kill(task_id, agent_id))

    def states(self, task_id: str) -> list[str]:
        """Return the states of a task so far."""
        with self._changed:
            return [status.state for status in self._statuses[task_id]]

    def wait_for_state(self, task_id: str, *states: str) -> TaskStatus:
        """Wait until the last state of a task is one of some, and return the status."""

        def last() -> TaskStatus | None:
            status = self._statuses[task_id][-1:]
            return status[0] if status and status[0].state in states else None

        return self.wait_for(last, f"{states} of {task_id}")

    def wait_for(self, condition: Any, what: str) -> Any:
        """Wait until a function of this framework's state returns a true value, and return it."""
        with self._changed:
            value = self._changed.wait_for(condition, HANG_S)
        assert value, f"not within {HANG_S:g} s: {what}; seen: {dict(self._statuses)}"
        return value

    def _take_offer(self, host: str | None) -> Offer | None:
        for offer in self._offers.values():
            if host in (None, offer.hostname):
                return self._offers.pop(offer.id.value)
        return None

    def _send(self, call: Call) -> None:
        with self._changed:
            body = messages.encode_call(call, self._framework_id)
            headers = {"Content-Type": "application/json", "Mesos-Stream-Id": self._stream_id}
            self._connection.request("POST", _PATH, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        assert answer.status == 202, content

    def _read(self) -> None:
        stream = http.client.HTTPConnection(self._address)
        framework = {
            "user": getpass.getuser(),
            "name": "raw",
            "checkpoint": True,
            "failover_timeout": 60,
            "roles": ["*"],
            "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
        }
        body = json.dumps(messages.subscribe(framework)).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        stream.request("POST", _PATH, body, headers)
        self._socket = stream.sock
        answer = stream.getresponse()
        assert answer.status == 200, answer.read()
        self._stream_id = answer.headers["Mesos-Stream-Id"]
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while size := answer.readline():
                self._handle(messages.decode_event(answer.read(int(size))))
        stream.close()

    def _handle(self, event: Event) -> None:
        with self._changed:
            if event.subscribed is not None:
                self._framework_id = FrameworkId(event.subscribed.framework_id.value)
            elif event.offers is not None:
                self._offers.update((offer.id.value, offer) for offer in event.offers.offers)
            elif event.rescind is not None:
                self._offers.pop(event.rescind.offer_id.value, None)
            elif event.update is not None:
                self._statuses[event.update.status.task_id.value].append(event.update.status)
            self._changed.notify_all()
        if event.update is not None and event.update.status.uuid:
            self._send(messages.acknowledge(event.update.status))
