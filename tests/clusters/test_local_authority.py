"""Each connection of the node agent speaks for what it serves: what a job says over one changes nothing else.

A job runs with the rights of its user: it can open the agent's socket, and inside of a worker also the very
connection over which that worker reports. The attacks below are made from there.
"""

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.reason import KILLED_BY_USER
from cook_jupyter.worker.address import SECRET, SOCKET
from cook_jupyter.worker.frames import frame_of, pack
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports, a_launch
from tests.waiting import HANG_S, wait_until_async


def raw(head: bytes, tail: bytes = b"") -> bytes:
    """A frame with any header."""
    return struct.pack("!II", len(head), len(tail)) + head + tail


MALFORMED = {
    "an empty object": raw(b"{}"),
    "no object": raw(b"[]"),
    "null": raw(b"null"),
    "no JSON": raw(b"\xff\xfe"),
    "deep nesting": raw(b"[" * 2000 + b"]" * 2000),
    "no frame": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a size beyond all bounds": struct.pack("!II", 2**32 - 1, 2**32 - 1),
    "an unknown kind": pack({"t": "shutdown"}),
    "a kind that is no text": pack({"t": {"t": "stop"}}),
    "stop without a greeting": pack({"t": "stop"}),
    "leave without a greeting": pack({"t": "leave"}),
    "a greeting without a secret": pack({"t": "hello"}) + pack({"t": "stop"}),
    "a greeting with a wrong secret": pack({"t": "hello", "secret": "x" * 64}) + pack({"t": "stop"}),
    "a greeting with no text for a secret": pack({"t": "hello", "secret": None}) + pack({"t": "leave"}),
}


def talk(home: Path, data: bytes) -> bytes:
    """Send bytes to the agent's socket; return what it answers before it hangs up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(HANG_S)
        sock.connect(str(home / SOCKET))
        sock.sendall(data)
        answer = b""
        try:
            while piece := sock.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass  # it hung up with bytes of ours unread
        return answer


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_the_schedulers_ends_its_own_connection_alone(
    cluster: LocalCluster, reports: Reports, site: LocalSite, data: bytes
) -> None:
    agent, running = site.agent_pid(), a_launch("sleep 600")
    await cluster.launch([running])
    await reports.running(running)

    answer = talk(site.home, data)

    assert b"known" not in answer
    later = a_launch("true")
    await cluster.launch([later])
    assert (await reports.end_of(later)).state is TaskState.FINISHED
    assert site.agent_pid() == agent
    assert running.instance.instance_id not in reports.ends


async def test_connections_that_say_nothing_keep_no_scheduler_out(site: LocalSite) -> None:
    cluster = site.cluster()
    await cluster.start(Reports(), [])
    await cluster.close()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for sock in silent:
        sock.connect(str(site.home / SOCKET))

    cluster, reports = site.cluster(), Reports()
    await cluster.start(reports, [])

    launch = a_launch("true")
    await cluster.launch([launch])
    assert (await reports.end_of(launch)).state is TaskState.FINISHED
    assert descriptors_of(site.agent_pid()) < 60
    for sock in silent:
        sock.close()
    await cluster.stop_agent()
    await cluster.close()


async def test_the_secret_is_for_the_user_alone_and_outlives_an_agent(site: LocalSite) -> None:
    cluster = site.cluster()
    await cluster.start(Reports(), [])
    path = site.home / SECRET
    secret = path.read_text()
    await cluster.stop_agent()
    await cluster.close()

    again = site.cluster()
    await again.start(Reports(), [])

    assert path.read_text() == secret
    assert len(secret) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    await again.stop_agent()
    await again.close()


async def test_a_secret_that_others_could_read_is_replaced(site: LocalSite) -> None:
    site.home.mkdir()
    (site.home / SECRET).write_text("x" * 64)
    (site.home / SECRET).chmod(0o644)

    cluster = site.cluster()
    await cluster.start(Reports(), [])

    assert (site.home / SECRET).read_text() != "x" * 64
    await cluster.stop_agent()
    await cluster.close()


# --- from inside of a worker ------------------------------------------------------------------------------


def say_as_the_worker(data: bytes) -> int:
    """In a job: send bytes over every connection of this very process; return over how many."""
    import stat

    sent = 0
    for name in (path.name for path in Path("/proc/self/fd").iterdir()):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.write(int(name), data)
                sent += 1
        except OSError:
            continue
    return sent


def say_and_write_as_the_worker(data: bytes) -> None:
    """In a job: also write them to the log in which this worker notes how its tasks ended, then die."""
    for path in Path("/proc/self/fd").iterdir():
        if "/journal/" in str(path.resolve()):
            os.write(int(path.name), data)
    os._exit(3)


def an_end(instance_id: str, **fields: Any) -> dict[str, Any]:
    """An end as a worker tells it."""
    usual = {"t": "end", "instance_id": instance_id, "exit_code": 0, "at_ms": 1, "inline": True}
    return {**usual, "segment": 0, "leftover_mb": 0.0, "retires": False, **fields}


FORGED: dict[str, Callable[[str], bytes]] = {
    "the end of another": lambda other: pack(an_end(other), b"forged"),
    "progress of another": lambda other: pack({"t": "progress", "id": other, "progress": [99, "forged"]}),
    "the end of nobody": lambda _: pack(an_end("nobody")),
    "an empty object": lambda _: raw(b"{}"),
    "no object": lambda _: raw(b"7"),
    "no frame": lambda _: b"\xff" * 64,
    "a greeting": lambda _: pack({"t": "hello", "secret": "x"}),
    "a death": lambda _: pack({"t": "died", "worker": "w", "code": 0}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_a_worker_speaks_for_the_instance_that_it_runs_and_for_no_other(
    cluster: LocalCluster, reports: Reports, site: LocalSite, forge: Callable[[str], bytes]
) -> None:
    agent, victim = site.agent_pid(), a_launch("sleep 600")
    await cluster.launch([victim])
    await reports.running(victim)
    attack = site.call(say_as_the_worker, forge(victim.instance.instance_id))

    await cluster.launch([attack])
    end = await reports.end_of(attack)

    assert end.state is TaskState.FINISHED  # its own end is found in the log of its worker
    assert site.read(end, attack).value > 0
    later = site.call(abs, -1)
    await cluster.launch([later])
    assert (await reports.end_of(later)).state is TaskState.FINISHED
    assert site.agent_pid() == agent
    assert not reports.told_progress
    await cluster.kill([victim.instance.instance_id])
    assert (await reports.end_of(victim)).reason == KILLED_BY_USER


OWN = {
    "a time beyond all bounds": {"at_ms": 2**63},
    "a time that is no number": {"at_ms": "now"},
    "a code that is no number": {"exit_code": "0"},
    "no progress": {"progress": [float("nan"), None]},
    "a size below 0": {"size": -1},
    "a segment far away": {"segment": 10**12},
    "no flag": {"retires": 1},
    "no amount": {"leftover_mb": float("inf")},
}


@pytest.mark.parametrize("fields", OWN.values(), ids=OWN.keys())
async def test_an_end_that_is_not_valid_is_nobodys(
    cluster: LocalCluster, reports: Reports, site: LocalSite, fields: dict[str, Any]
) -> None:
    agent = site.agent_pid()

    def attack() -> int:
        return say_as_the_worker(pack(an_end(os.environ["COOK_INSTANCE_UUID"], **fields)))

    launch = site.call(attack)

    await cluster.launch([launch])
    end = await reports.end_of(launch)

    assert end.state is TaskState.FINISHED
    assert end.at_ms > 1
    assert site.read(end, launch).value > 0
    assert site.agent_pid() == agent


@pytest.mark.parametrize("agent_dies", [False, True], ids=["the agent lives", "the next agent reads it"])
async def test_what_a_job_writes_to_its_workers_log_ends_no_other(
    cluster: LocalCluster, reports: Reports, site: LocalSite, agent_dies: bool
) -> None:
    victim = a_launch("sleep 600")
    await cluster.launch([victim])
    await reports.running(victim)
    other = victim.instance.instance_id
    data = pack(an_end(other), b"forged") + pack({"t": "shell", "id": other, "pid": "1", "mark": None})
    data += pack({"t": "end"}) + pack({"t": 7})
    attack = site.call(say_and_write_as_the_worker, data)
    await cluster.launch([attack])
    assert (await reports.end_of(attack)).exit_code == 3

    if agent_dies:
        os.kill(site.agent_pid(), 9)
        await reports.until(lambda: reports.states[other].count(TaskState.RUNNING) > 1)

    later = a_launch("true")
    await cluster.launch([later])
    await reports.end_of(later)
    assert other not in reports.ends
    await cluster.kill([other])
    assert (await reports.end_of(victim)).state is TaskState.KILLED


async def test_a_ledger_that_somebody_wrote_to_does_not_keep_the_next_agent_from_starting(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    running = a_launch("sleep 600")
    await cluster.launch([running])
    await reports.running(running)
    forged: list[dict[str, Any]] = [
        {"t": "launch", "id": "x"},
        {"t": "end", "id": "x"},
        {"t": "settled"},
        {"t": "doom", "id": 7},
        {},
    ]
    with (site.home / "journal" / "ledger").open("ab") as file:
        file.write(b"".join(frame_of(header).packed() for header in forged))

    os.kill(site.agent_pid(), 9)

    instance_id = running.instance.instance_id
    await reports.until(lambda: reports.states[instance_id].count(TaskState.RUNNING) > 1)
    await cluster.kill([instance_id])
    assert (await reports.end_of(running)).state is TaskState.KILLED


async def test_a_job_that_tells_its_end_early_does_not_pass_for_the_next_one(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    gate = site.folder / "gate"

    def end_early(gate: str) -> None:
        say_as_the_worker(pack({**an_end(os.environ["COOK_INSTANCE_UUID"]), "inline": False}))
        while not Path(gate).exists():
            time.sleep(0.02)

    early = site.call(end_early, str(gate))
    await cluster.launch([early])
    assert (await reports.end_of(early)).state is TaskState.FINISHED
    following = [site.call(abs, -number) for number in range(8)]
    await cluster.launch(following)
    gate.touch()

    for number, launch in enumerate(following):
        end = await reports.end_of(launch)
        assert site.read(end, launch).value == number
    await wait_until_async(lambda: "sleep" not in json.dumps(site.processes()))
