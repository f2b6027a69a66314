"""What arrives on one connection of a supervisor or its agent ends that connection at most."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.clusters.translation import task_of
from cook_jupyter.worker import protocol
from cook_jupyter.worker.address import SOCKET
from cook_jupyter.worker.channel import Channel, SelectorLoop
from cook_jupyter.worker.frames import Frame, pack
from cook_jupyter.worker.task import Cause
from tests.clusters.harness import LocalSite
from tests.clusters.reports import a_launch
from tests.clusters.test_local_authority import an_end, say_as_the_worker
from tests.worker.front_ends import AgentProcess, InProcess

ODD: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 10**400, float("nan"), float("inf"),
    "", "/", "nul\0", "\ud800", "x" * 5000, [], ["\0"], [None], {}, {"t": "stop"},
]  # fmt: skip
VALID: dict[str, Any] = {"id": "nobody", "pid": 2**22 + 1, "mark": None, "worker": "w0", "code": 0, "ids": []}


def whole_headers(table: protocol.Table, usual: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Headers of every kind in a table, as the table has them."""
    return [
        {"t": kind, **{name: VALID[name] for name in fields if name in VALID}, **usual.get(kind, {})}
        for kind, fields in table.items()
    ]


def odd_headers(table: protocol.Table, usual: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Headers of every kind in a table, each with one field missing or holding something odd."""
    for whole in whole_headers(table, usual):
        for name in table[whole["t"]]:
            yield {key: value for key, value in whole.items() if key != name}
            yield from ({**whole, name: value} for value in ODD)


# --- one connection ---------------------------------------------------------------------------------------


class Recorder:
    """Both ends of a channel, and what came of it."""

    def __init__(self, loop: SelectorLoop) -> None:
        self.other_side, ours = socket.socketpair()
        self.frames: list[Frame] = []
        self.act: Callable[[], object] = lambda: None
        self.ends = 0
        self.channel = Channel(loop, ours, self._on_frame, self._on_end)

    def _on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.act()

    def _on_end(self) -> None:
        self.ends += 1


def fail() -> None:
    raise LookupError("a fault of our own")


def test_a_fault_in_handling_a_message_ends_its_connection_alone_and_is_logged_with_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop = SelectorLoop()
    faulty, healthy = Recorder(loop), Recorder(loop)
    faulty.act = fail
    for recorder in (faulty, healthy):
        recorder.other_side.sendall(pack({"number": 1}) + pack({"number": 2}))

    loop.run_once(0)

    assert (len(faulty.frames), faulty.ends, faulty.channel.is_open) == (1, 1, False)
    assert faulty.other_side.recv(1) == b""
    assert (len(healthy.frames), healthy.ends, healthy.channel.is_open) == (2, 0, True)
    log = capfd.readouterr().err
    assert "a connection was ended" in log
    assert "Traceback" in log
    assert "LookupError: a fault of our own" in log


def test_a_handler_that_closes_its_channel_and_fails_then_is_not_told_of_the_end() -> None:
    loop = SelectorLoop()
    recorder = Recorder(loop)

    def close_and_fail() -> None:
        recorder.channel.close()
        fail()

    recorder.act = close_and_fail
    recorder.other_side.sendall(pack({}))

    loop.run_once(0)

    assert recorder.ends == 0


# --- the scheduler's --------------------------------------------------------------------------------------


def test_the_agent_survives_every_kind_of_message_with_odd_contents(site: LocalSite) -> None:
    agent = AgentProcess(site)
    running = a_launch("sleep 600")
    agent.launch(running)
    agent.wait_until_running(running)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(site.home / SOCKET))
    usual = {"launch": {"job_id": "job", "user": "ada", "cpus": 0.1, "mem_mb": 64.0, "instance_id": "i"}}
    tail = b'{"command":"true","env":{}}'
    table = {kind: protocol.FROM_SCHEDULER[kind] for kind in ("hello", "launch", "kill", "ack")}

    refused = 0
    for number, header in enumerate([*whole_headers(table, usual), *odd_headers(table, usual)]):
        if header.get("instance_id") == "i":
            header["instance_id"] = f"i{number}"
        ends_connection = pack({"t": "unknown"})  # unless the message before it has done so
        agent.sock.sendall(pack(header, tail) + ends_connection)
        assert agent.hangs_up()
        agent.sock.close()
        agent.connect()
        refused += 1

    assert refused > 200
    assert agent.is_up()
    assert running.instance.instance_id in agent.adopted - agent.ends.keys()
    agent.greet(silent)
    later = site.call(abs, -1)
    agent.launch(later)
    assert agent.result_of(later).value == 1
    agent.stop()


# --- a worker's and a spawner's ---------------------------------------------------------------------------


@pytest.fixture
def front_end(site: LocalSite) -> Iterator[InProcess]:
    front_end = InProcess(site)
    yield front_end
    front_end.stop()


def test_a_supervisor_survives_every_kind_of_message_of_a_worker_with_odd_contents(
    front_end: InProcess, site: LocalSite
) -> None:
    running = a_launch("sleep 600", cpus=0.1)
    front_end.launch(running)
    front_end.wait_until_running(running)
    usual = {"end": an_end("nobody"), "progress": {"id": "nobody", "progress": [1, None]}}
    odd = list(odd_headers(protocol.FROM_WORKER, usual))
    headers = [*whole_headers(protocol.FROM_WORKER, usual), *odd[:: len(odd) // 20]]

    def attack(headers: list[dict[str, Any]]) -> None:
        own_id = os.environ["COOK_INSTANCE_UUID"]
        for header in headers:
            own = {field: own_id for field, value in header.items() if value == "nobody"}
            say_as_the_worker(pack({**header, **own}))

    for header in headers:  # a worker each, as most end its connection
        launch = site.call(attack, [header])
        front_end.launch(launch)
        front_end.end_of(launch)

    later = site.call(abs, -1)
    front_end.launch(later)
    assert front_end.result_of(later).value == 1
    assert running.instance.instance_id not in front_end.ends


def test_an_interpreter_whose_spawner_sends_odd_messages_is_used_for_commands_alone(
    front_end: InProcess, site: LocalSite
) -> None:
    running = a_launch("sleep 600", cpus=0.1)
    front_end.launch(running)
    front_end.wait_until_running(running)
    odd = list(odd_headers(protocol.FROM_SPAWNER, {}))
    headers = [*whole_headers(protocol.FROM_SPAWNER, {}), *odd[:: len(odd) // 40]]

    for number, header in enumerate(headers):
        for begin in (b"", pack({"t": "ready", "pid": os.getpid()})):
            python = an_interpreter(site.folder, f"python-{number}-{len(begin)}", begin + pack(header))
            launch = a_launch("true")
            front_end.send_launch(task_of(launch, ())._replace(python=python).packed())
            is_refusal = header["t"] == "refused" and isinstance(header.get("why"), str)
            is_refusal = is_refusal and protocol.is_valid(header, protocol.FROM_SPAWNER)
            expected = Cause.FAILED if is_refusal else Cause.DONE
            assert front_end.end_of(launch).cause == expected

    later = site.call(abs, -1)
    front_end.launch(later)
    assert front_end.result_of(later).value == 1
    assert running.instance.instance_id not in front_end.ends


def an_interpreter(folder: Path, name: str, messages: bytes) -> str:
    """A program that says something as a spawner, and leaves."""
    (folder / f"{name}.messages").write_bytes(messages)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat {folder}/{name}.messages >&3\n")
    path.chmod(0o755)
    return str(path)
