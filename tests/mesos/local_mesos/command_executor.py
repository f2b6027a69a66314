"""Stand in for `mesos-executor`: run the one command task that it is given.

It follows the original (TASK_STARTING, TASK_RUNNING, then TASK_FINISHED, TASK_FAILED or TASK_KILLED; SIGTERM,
and SIGKILL after the grace period; it survives a restart of the agent), over the v1 executor API. Not
implemented: checks and health checks, root file systems, terminals.

Standard library only: it runs without site-packages.
"""

import base64
import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

JsonObject = dict[str, Any]

_UNIT_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "secs": 1.0,
    "mins": 60.0,
    "hrs": 3600.0,
    "days": 86400.0,
    "weeks": 604800.0,
}
_DEFAULT_GRACE_S = 3.0
_RESUBSCRIBE_S = 0.2
_LINGER_S = 60.0  # for the acknowledgement of the last update
_CONNECT_TIMEOUT_S = 5.0


class EventStream:
    """The events of a subscription: records of RecordIO inside the chunks of an HTTP response."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._raw = self._body = b""
        self._has_head = False

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._connection.fileno()

    def read(self) -> Iterator[JsonObject]:
        """Read once; yield the events that are complete.

        Raises:
            ConnectionError: the agent closed the connection, or refused the subscription.
        """
        data = self._connection.recv(1 << 16)
        if not data:
            raise ConnectionError("the agent closed the connection")
        self._raw += data
        if not self._has_head:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise ConnectionError(self._raw.decode(errors="replace"))
            self._has_head, self._raw = True, rest
        self._unpack_chunks()
        while b"\n" in self._body:
            size, _, rest = self._body.partition(b"\n")
            if len(rest) < int(size):
                return
            self._body = rest[int(size) :]
            yield json.loads(rest[: int(size)])

    def _unpack_chunks(self) -> None:
        while b"\r\n" in self._raw:
            line, _, rest = self._raw.partition(b"\r\n")
            size = int(line, 16)
            if len(rest) < size + 2:
                return
            self._body += rest[:size]
            self._raw = rest[size + 2 :]


class CommandExecutor:
    """The executor of one task."""

    def __init__(self, options: dict[str, str]) -> None:
        environment = os.environ
        self._options = options
        host, _, port = environment["MESOS_AGENT_ENDPOINT"].rpartition(":")
        self._address = host, int(port)
        self._path = f"/{environment['MESOS_SLAVE_PID'].partition('@')[0]}/api/v1/executor"
        self._ids: JsonObject = {
            "framework_id": {"value": environment["MESOS_FRAMEWORK_ID"]},
            "executor_id": {"value": environment["MESOS_EXECUTOR_ID"]},
        }
        self._survives_agent = environment.get("MESOS_CHECKPOINT") == "1"
        self._framework: JsonObject = {}
        self._task: JsonObject = {}
        self._unacknowledged_tasks: list[JsonObject] = []
        self._unacknowledged_updates: dict[str, JsonObject] = {}
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._pid = 0
        self._pidfd: int | None = None
        self._stream: EventStream | None = None
        self._killed = self._timed_out = self._finished = False

    def run(self) -> None:
        """Serve events, the process and timers until the task has ended."""
        self._subscribe()
        while True:
            readable = [one for one in (self._stream, self._pidfd) if one is not None]
            next_s = min((when for when, _ in self._timers.values()), default=None)
            wait_s = None if next_s is None else max(0.0, next_s - time.monotonic())
            for ready in select.select(readable, [], [], wait_s)[0]:
                if ready is self._stream:
                    self._receive(self._stream)
                else:
                    self._reap()
            now = time.monotonic()
            for name, (when, action) in list(self._timers.items()):
                if when <= now:
                    del self._timers[name]
                    action()

    # The agent

    def _request(self, call: JsonObject) -> socket.socket:
        body = json.dumps({**self._ids, **call}).encode()
        head = [
            f"POST {self._path} HTTP/1.1",
            f"Host: {self._address[0]}",
            "Content-Type: application/json",
            "Accept: application/json",
            f"Content-Length: {len(body)}",
        ]
        if token := os.environ.get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN"):
            head.append(f"Authorization: Bearer {token}")
        connection = socket.create_connection(self._address, _CONNECT_TIMEOUT_S)
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        return connection

    def _subscribe(self) -> None:
        call = {
            "type": "SUBSCRIBE",
            "subscribe": {
                "unacknowledged_tasks": self._unacknowledged_tasks,
                "unacknowledged_updates": list(self._unacknowledged_updates.values()),
            },
        }
        try:
            self._stream = EventStream(self._request(call))
        except OSError as error:
            self._on_disconnected(error)

    def _receive(self, stream: EventStream) -> None:
        try:
            for event in stream.read():
                kind = event["type"].lower()
                handler = self._handlers.get(kind)
                if handler is not None:
                    handler(self, event.get(kind, {}))
        except OSError as error:
            self._on_disconnected(error)

    def _on_disconnected(self, error: OSError) -> None:
        self._stream = None
        if not self._survives_agent or self._finished:
            _log(f"Disconnected from the agent ({error}); shutting down")
            self._shut_down()
            return
        self._set_timer("subscribe", _RESUBSCRIBE_S, self._subscribe)
        if "recovery" not in self._timers:
            _log(f"Disconnected from the agent ({error}); subscribing again")
            recovery_s = _duration_s(os.environ.get("MESOS_RECOVERY_TIMEOUT", "15mins"))
            self._set_timer("recovery", recovery_s, self._shut_down)

    def _update(self, state: str, **fields: object) -> None:
        uuid = base64.b64encode(uuid4().bytes).decode()
        status = {
            "task_id": self._task["task_id"],
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "uuid": uuid,
            "executor_id": self._ids["executor_id"],
            "timestamp": time.time(),
            **fields,
        }
        update = self._unacknowledged_updates[uuid] = {"status": status}
        try:
            with self._request({"type": "UPDATE", "update": update}) as connection:
                answer = connection.recv(4096)
            if b" 202 " not in answer.split(b"\r\n")[0]:
                _log(f"The agent refused an update: {answer.decode(errors='replace')}")
        except OSError as error:
            _log(f"Could not send an update: {error}")

    # Events

    def _on_subscribed(self, event: JsonObject) -> None:
        self._framework = event["framework_info"]
        self._timers.pop("recovery", None)

    def _on_launch(self, event: JsonObject) -> None:
        self._task = event["task"]
        self._unacknowledged_tasks = [self._task]
        command = self._task["command"]
        _log(f"Starting task {self._task['task_id']['value']}")
        self._update("TASK_STARTING")
        if command.get("shell", True):
            program, arguments = "/bin/sh", ["sh", "-c", command.get("value", "")]
        else:
            program = command["value"]
            arguments = command.get("arguments") or [program]
        try:
            self._pid = os.posix_spawnp(
                program,
                arguments,
                self._environment(command),
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            self._end("TASK_FAILED", message=f"Failed to launch command: {error}")
            return
        self._pidfd = os.pidfd_open(self._pid)
        _log(f"Forked command at {self._pid}")
        self._update("TASK_RUNNING")
        if limit := self._task.get("max_completion_time"):
            self._set_timer("completion", limit["nanoseconds"] / 1e9, self._on_overdue)

    def _environment(self, command: JsonObject) -> dict[str, str]:
        variables = json.loads(self._options.get("task_environment", "{}")).get("variables", [])
        variables += command.get("environment", {}).get("variables", [])
        environment = dict(os.environ) | {one["name"]: one.get("value", "") for one in variables}
        for resource in self._task.get("resources", []):
            if role := resource.get("allocation_info", {}).get("role"):
                environment["MESOS_ALLOCATION_ROLE"] = role
        return environment

    def _on_kill(self, event: JsonObject) -> None:
        self._kill(_grace_s(event.get("kill_policy") or self._task.get("kill_policy", {})))

    def _on_acknowledged(self, event: JsonObject) -> None:
        self._unacknowledged_updates.pop(event["uuid"], None)
        self._unacknowledged_tasks = []
        if self._finished and not self._unacknowledged_updates:
            sys.exit()

    def _on_shutdown(self, event: JsonObject) -> None:
        self._shut_down()

    _handlers = {  # noqa: RUF012 - a table
        "subscribed": _on_subscribed,
        "launch": _on_launch,
        "kill": _on_kill,
        "acknowledged": _on_acknowledged,
        "shutdown": _on_shutdown,
    }

    # The process

    def _kill(self, grace_s: float) -> None:
        if self._finished or not self._pid:
            return
        if not self._killed:
            self._killed = True
            if not self._timed_out and {"type": "TASK_KILLING_STATE"} in self._framework.get(
                "capabilities", []
            ):
                self._update("TASK_KILLING")
            self._send_signal(signal.SIGTERM)
        # A later request can shorten the grace period, not extend it.
        deadline = time.monotonic() + grace_s
        if "escalate" not in self._timers or deadline < self._timers["escalate"][0]:
            self._set_timer("escalate", grace_s, lambda: self._send_signal(signal.SIGKILL))

    def _send_signal(self, number: signal.Signals) -> None:
        for pid in _process_tree(self._pid):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def _on_overdue(self) -> None:
        self._timed_out = True
        self._kill(_grace_s(self._task.get("kill_policy", {})))

    def _reap(self) -> None:
        assert self._pidfd is not None
        _, status = os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._pidfd = None
        if os.WIFEXITED(status):
            message = f"Command exited with status {os.WEXITSTATUS(status)}"
        else:
            message = f"Command terminated with signal {signal.strsignal(os.WTERMSIG(status))}"
        _log(f"{message} (pid: {self._pid})")
        if self._timed_out:
            self._end("TASK_FAILED", message=message, reason="REASON_MAX_COMPLETION_TIME_REACHED")
        elif self._killed:
            self._end("TASK_KILLED", message=message)
        else:
            self._end("TASK_FINISHED" if status == 0 else "TASK_FAILED", message=message)

    def _end(self, state: str, **fields: object) -> None:
        self._finished = True
        self._timers = {
            name: self._timers[name] for name in ("subscribe", "recovery") if name in self._timers
        }
        self._set_timer("exit", _LINGER_S, sys.exit)
        self._update(state, **fields)

    def _shut_down(self) -> None:
        if not self._pid or self._finished:
            sys.exit()
        grace_s = _duration_s(os.environ.get("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs"))
        self._kill(max(0.0, grace_s - 1))
        self._survives_agent = False

    def _set_timer(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._timers[name] = time.monotonic() + seconds, action


def _log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def _duration_s(text: str) -> float:
    unit = text.lstrip("0123456789.")
    return float(text[: -len(unit)]) * _UNIT_S[unit]


def _grace_s(kill_policy: JsonObject) -> float:
    period = kill_policy.get("grace_period")
    return float(period["nanoseconds"]) / 1e9 if period else _DEFAULT_GRACE_S


def _process_tree(root: int) -> set[int]:
    """Return the processes that descend from a process, or are in its session."""
    parents: dict[int, int] = {}
    tree = {root}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        if int(fields[3]) == root:
            tree.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


if __name__ == "__main__":
    CommandExecutor(dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])).run()
