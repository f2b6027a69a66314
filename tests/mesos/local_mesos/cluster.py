"""A cluster of Mesos on this machine, for tests.

Lives here: `LocalMesos`, its nodes, their flags and addresses.
Not here: how Mesos is installed (`tests.mesos.local_mesos.install`), the fixtures
(`tests/mesos/conftest.py`).
"""

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.mesos.local_mesos.install import install
from tests.waiting import HANG_S, wait_until

_HERE = Path(__file__).parent
_READY = re.compile(rb"allowing .* for agents to reregister|egistered with master")
_PORTS = range(20_000, 30_000)  # below those that the kernel gives to clients: a node can restart on its own
_STAND_INS = {"mesos-executor": "command_executor.py", "mesos-fetcher": "fetcher.py"}
_ANSWER_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 600.0  # after a benchmark, it removes tens of thousands of files


class NodeFailed(Exception):
    """A node did not start; the message has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A master or an agent.

    Attributes:
        name: "master", "agent0", "agent1", ...
        host: its host name, which is an address of this machine.
        port: its port.
        log: file with its log.
        work_dir: directory with its state; that of an agent has the sandboxes.
    """

    name: str
    host: str
    port: int
    log: Path
    work_dir: Path

    @property
    def url(self) -> str:
        """The address of its HTTP API."""
        return f"http://{self.host}:{self.port}"


class LocalMesos:
    """A master and agents on this machine, as processes; a context manager.

    Nodes and tasks end with `stop`, with the context, or with this process. The agents, as root, run tasks as
    the user of their framework, otherwise as the current one.

    Args:
        agents: number of agents; agent i has the host name 127.0.1.(i + 1).
        cpus: CPUs of each agent.
        mem_mb: memory of each agent.
        disk_mb: disk space of each agent.
        attributes: attributes of the agents such as "rack:a;ssd:true", given to them in turn.
        master_flags: flags of the master, without `--`.
        agent_flags: flags of the agents, such as {"resources": "cpus:4;mem:1024;gpus:2"}.
    """

    def __init__(
        self,
        *,
        agents: int = 2,
        cpus: float = 4,
        mem_mb: int = 4096,
        disk_mb: int = 10_240,
        attributes: Sequence[str] = (),
        master_flags: Mapping[str, str] | None = None,
        agent_flags: Mapping[str, str] | None = None,
    ) -> None:
        self._programs = install()
        self.work_dir = Path(tempfile.mkdtemp(prefix="cook-mesos-"))
        self.work_dir.chmod(0o755)  # tasks may run as other users
        self._resources = f"cpus:{cpus:g};mem:{mem_mb};disk:{disk_mb}"
        self._attributes = attributes
        self._master_flags = dict(master_flags or {})
        self._agent_flags = dict(agent_flags or {})
        port = _free_ports()
        self.master_node = self._node("master", "127.0.0.1", port)
        self.agents = tuple(
            self._node(f"agent{index}", f"127.0.1.{index + 1}", port + 1) for index in range(agents)
        )
        self._nodes = {node.name: node for node in (self.master_node, *self.agents)}
        self._log_ends: dict[str, int] = {}
        self._lock = threading.Lock()
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def master(self) -> str:
        """The URL of the master."""
        return self.master_node.url

    def node(self, name: str) -> Node:
        """Return a node by its name."""
        return self._nodes[name]

    def agent_url(self, host: str) -> str | None:
        """Return the URL of the agent on a host; None if there is none."""
        return next((agent.url for agent in self.agents if agent.host == host), None)

    def start(self) -> None:
        """Start all nodes; return when they are in service.

        Raises:
            NodeFailed: see there.
        """
        launcher = self.work_dir / "launcher"
        launcher.mkdir()
        (launcher / "mesos-containerizer").symlink_to(self._programs / "mesos-containerizer")
        for name, source in _STAND_INS.items():
            # The tree and the virtual environment may be unreadable to the users of tasks.
            program = launcher / name
            program.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{(_HERE / source).read_text()}")
            program.chmod(0o755)
        self._supervisor = subprocess.Popen(
            [sys.executable, "-IS", str(_HERE / "supervisor.py"), str(self.work_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            for node in self._nodes.values():
                self._start_node(node)
            for node in self._nodes.values():
                self._await_service(node)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill all nodes and tasks, and remove their files; also if the supervisor is dead."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            assert supervisor.stdin is not None
            assert supervisor.stdout is not None
            supervisor.stdin.close()
            supervisor.stdout.close()
            supervisor.wait(_STOP_TIMEOUT_S)
        for pid in self.processes():
            _kill(pid)
        wait_until(lambda: not self.processes(), "the end of all processes of Mesos")
        shutil.rmtree(self.work_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Faults

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a node; after SIGKILL it has ended when this returns."""
        self._order("signal", name=name, number=int(number))

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Start a node again, with its state; kill it first if it runs.

        Args:
            name: the node.
            wait: whether to wait until it is in service; for the master, with the agents that run.

        Raises:
            NodeFailed: see there.
        """
        self.kill(name)
        affected = [self._nodes[name]]
        if name == "master":
            affected += [agent for agent in self.agents if self.is_running(agent.name)]
        for node in affected:
            self._log_ends[node.name] = node.log.stat().st_size
        self._start_node(self._nodes[name])
        if wait:
            for node in affected:
                self._await_service(node)

    # Observation

    def is_running(self, name: str) -> bool:
        """Return whether the process of a node runs; a stopped one does."""
        return bool(self._order("status")[name]["running"])

    def pid(self, name: str) -> int:
        """Return the process id of a node."""
        return int(self._order("status")[name]["pid"])

    def processes(self) -> dict[int, str]:
        """Return the names of all processes of this cluster, tasks included, by their ids."""
        mark = f"{self.work_dir}/".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                continue
        return found

    def call(self, kind: str, *, node: str = "master", credentials: str = "", **fields: object) -> Any:
        """Make a call of the operator API of a node, and return its answer.

        Args:
            kind: the call, such as "GET_AGENTS".
            node: the node.
            credentials: "principal:secret"; empty for none.
            fields: fields of the call.
        """
        body: dict[str, object] = {"type": kind}
        if fields:
            body[kind.lower()] = fields
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if credentials:
            headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
        request = urllib.request.Request(
            f"{self._nodes[node].url}/api/v1", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S) as answer:
            content = json.loads(answer.read() or b"{}")
        return content.get(kind.lower(), content)

    def metrics(self, node: str = "master") -> dict[str, float]:
        """Return the metrics of a node, such as `master/tasks_running`."""
        url = f"{self._nodes[node].url}/metrics/snapshot"
        with urllib.request.urlopen(url, timeout=_ANSWER_TIMEOUT_S) as answer:
            metrics: dict[str, float] = json.loads(answer.read())
        return metrics

    def registered_agents(self) -> dict[str, str]:
        """Return the ids of the agents that are active at the master, by host."""
        agents = self.call("GET_AGENTS").get("agents", [])
        return {
            agent["agent_info"]["hostname"]: agent["agent_info"]["id"]["value"]
            for agent in agents
            if agent.get("active")
        }

    # Nodes

    def _node(self, name: str, host: str, port: int) -> Node:
        root = self.work_dir / name
        return Node(
            name=name, host=host, port=port, log=self.work_dir / f"{name}.log", work_dir=root / "work"
        )

    def _start_node(self, node: Node) -> None:
        node.work_dir.mkdir(parents=True, exist_ok=True)
        self._order(
            "start",
            name=node.name,
            program=str(self._programs / ("mesos-master" if node is self.master_node else "mesos-agent")),
            environment=self._environment(node),
            directory=str(self.work_dir),
            log=str(node.log),
        )

    def _environment(self, node: Node) -> dict[str, str]:
        """Return the environment of a node: its flags, and ours without any settings of Mesos."""
        flags = {"work_dir": f"{node.work_dir}/", "hostname": node.host}
        if node is self.master_node:
            flags |= {
                "registry": "replicated_log",
                "allocation_interval": "100ms",
                "agent_ping_timeout": "1secs",
                "max_agent_ping_timeouts": "5",
            } | self._master_flags
        else:
            index = self.agents.index(node)
            first_port = 31_000 + 100 * index
            flags |= {
                "master": f"{self.master_node.host}:{self.master_node.port}",
                "runtime_dir": f"{node.work_dir.parent}/run",
                "fetcher_cache_dir": f"{node.work_dir.parent}/fetch",
                "launcher_dir": f"{self.work_dir}/launcher",
                "launcher": "posix",
                "isolation": "posix/cpu,posix/mem",
                "systemd_enable_support": "false",
                "http_command_executor": "true",
                "registration_backoff_factor": "10ms",
                "switch_user": str(os.getuid() == 0).lower(),
                "resources": f"{self._resources};ports:[{first_port}-{first_port + 99}]",
            }
            if self._attributes:
                flags["attributes"] = self._attributes[index % len(self._attributes)]
            flags |= self._agent_flags
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MESOS_", "LIBPROCESS_"))
        }
        return {
            **inherited,
            **{f"MESOS_{name.upper()}": value for name, value in flags.items()},
            "LIBPROCESS_IP": node.host,
            "LIBPROCESS_PORT": str(node.port),
        }

    def _await_service(self, node: Node) -> None:
        """Wait until the log of a node says that it is in service."""
        deadline = time.monotonic() + HANG_S
        while True:
            with node.log.open("rb") as log:
                log.seek(self._log_ends.get(node.name, 0))
                text = log.read()
            if _READY.search(text):
                return
            if not self.is_running(node.name) or time.monotonic() > deadline:
                raise NodeFailed(f"{node.name} did not start; its log ends with:\n{text[-2000:].decode()}")
            time.sleep(0.01)

    def _order(self, order: str, **fields: object) -> dict[str, Any]:
        supervisor = self._supervisor
        assert supervisor is not None, "this cluster was not started"
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        with self._lock:
            supervisor.stdin.write(json.dumps({"order": order, **fields}).encode() + b"\n")
            supervisor.stdin.flush()
            answer: dict[str, Any] = json.loads(supervisor.stdout.readline())
        if "error" in answer:
            raise NodeFailed(f"{order} failed: {answer['error']}")
        return answer


def _free_ports() -> int:
    """Return a TCP port that is free, as is the next one, which the agents use."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("0.0.0.0", port + 1))
            except OSError:
                continue
            return port
    raise NodeFailed("there are no free ports")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
