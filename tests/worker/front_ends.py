"""Front ends of a supervisor, for the suite that runs over each of them.

Lives here: `InProcess`, a supervisor inside of the test; `AgentProcess`, the node agent, spoken to over its
socket; `MesosExecutorProcess`, the Mesos executor, whose agent is the test. None has a thread: what happens,
happens while a test waits for it in `run_until`.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.translation import task_of
from cook_jupyter.payload.results import CallResult, read_result
from cook_jupyter.worker.address import READY, SECRET, SOCKET
from cook_jupyter.worker.channel import SelectorLoop
from cook_jupyter.worker.frames import Frame, FrameReader, pack, whole_frames
from cook_jupyter.worker.mesos import messages
from cook_jupyter.worker.supervisor import Supervisor
from cook_jupyter.worker.task import EndReport, end_of
from tests.clusters.harness import LocalSite
from tests.waiting import HANG_S
from tests.worker.fake_agent import EXECUTOR, FRAMEWORK, TERMINAL, FakeAgent

GRACE_S = 1.0
POLL_S = 0.05  # between two looks at conditions that no event tells of, such as files


class FrontEnd(ABC):
    """A front end, and all that its supervisor reported.

    Args:
        site: home of the supervisor; what an earlier one left there is recovered.
    """

    def __init__(self, site: LocalSite) -> None:
        self.site = site
        self.ends: dict[str, EndReport] = {}
        self.end_count = 0
        self.running: set[str] = set()
        self.progress: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
        self.adopted: set[str] = set()  # what ran when this front end began

    def launch(self, *launches: Launch) -> None:
        """Launch instances."""
        for launch in launches:
            self.send_launch(task_of(launch, ()).packed())

    def end_of(self, launch: Launch) -> EndReport:
        """Wait for the end of an instance."""
        instance_id = launch.instance.instance_id
        self.run_until(lambda: instance_id in self.ends)
        return self.ends[instance_id]

    def wait_until_running(self, *launches: Launch) -> None:
        """Wait until instances are reported to run."""
        ids = {launch.instance.instance_id for launch in launches}
        self.run_until(lambda: ids <= self.running)

    def result_of(self, launch: Launch) -> CallResult:
        """Wait for the end of a call, and open its result."""
        report = self.end_of(launch)
        assert report.end.inline, self.site.stderr(launch)
        return read_result(
            bytearray(report.result),
            key=self.site.key,
            job_id=launch.spec.job_id,
            instance_id=launch.instance.instance_id,
            private=self.site.store.private,
        )

    def run_until(self, condition: Callable[[], Any]) -> None:
        """Let the front end work until a condition holds."""
        deadline = time.monotonic() + HANG_S
        while not condition():
            assert time.monotonic() < deadline, "nothing that was waited for happened"
            self.run_once()

    @abstractmethod
    def send_launch(self, packed: bytes) -> None:
        """Pass on a packed task."""

    @abstractmethod
    def kill(self, instance_id: str) -> None:
        """Kill an instance."""

    @abstractmethod
    def acknowledge(self, *instance_ids: str) -> None:
        """Acknowledge ends."""

    @abstractmethod
    def run_once(self) -> None:
        """Wait for something to happen, for a moment at most."""

    @abstractmethod
    def is_up(self) -> bool:
        """Whether the same supervisor that was started works on."""

    @abstractmethod
    def die(self) -> None:
        """Be gone, as after kill -9."""

    @abstractmethod
    def stop(self) -> None:
        """End all that runs, and be gone."""

    # The listener of a supervisor.

    def on_running(self, instance_id: str, sandbox: str, at_ms: int) -> None:
        assert sandbox.startswith(str(self.site.home))
        assert at_ms > 0
        self.running.add(instance_id)

    def on_progress(self, instance_id: str, sequence: int, percent: int, message: str | None) -> None:
        assert sequence > 0
        self.progress[instance_id].append((percent, message))

    def on_end(self, report: EndReport) -> None:
        self.end_count += 1
        self.ends.setdefault(report.end.instance_id, report)


class InProcess(FrontEnd):
    """A supervisor inside of the test."""

    def __init__(self, site: LocalSite) -> None:
        super().__init__(site)
        for folder in ("journal", "sandboxes"):
            (site.home / folder).mkdir(parents=True, exist_ok=True)
        self.loop = SelectorLoop()
        self.supervisor = Supervisor(self.loop, self, home=str(site.home), grace_s=GRACE_S)
        self.adopted = {header["instance_id"] for header in self.supervisor.open_launches()}
        for report in self.supervisor.unacknowledged_ends():
            self.on_end(report)

    def send_launch(self, packed: bytes) -> None:
        [frame] = whole_frames(packed)
        self.supervisor.launch(frame)

    def kill(self, instance_id: str) -> None:
        self.supervisor.kill(instance_id)

    def acknowledge(self, *instance_ids: str) -> None:
        self.supervisor.acknowledge(instance_ids)
        self.supervisor.process_due(time.monotonic())

    def run_once(self) -> None:
        due_s = self.supervisor.poll_timeout_s()
        self.loop.run_once(POLL_S if due_s is None else min(POLL_S, due_s))
        now = time.monotonic()
        self.supervisor.process_due(now)
        self.supervisor.maintain(now)

    def is_up(self) -> bool:
        return True

    def die(self) -> None:
        self.supervisor.close()  # the kernel closes the sockets of a killed process just so

    def stop(self) -> None:
        self.supervisor.stop()
        self.run_until(lambda: self.supervisor.is_stopped)
        self.supervisor.close()


class AgentProcess(FrontEnd):
    """The node agent, with this test for its scheduler."""

    def __init__(self, site: LocalSite) -> None:
        super().__init__(site)
        site.home.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "cook_jupyter.worker", "agent", "--home", str(site.home)]
        argv += ["--detach", str(site.folder / "agent.log"), "--grace", str(GRACE_S)]
        assert subprocess.run(argv, check=False).returncode == READY
        self.pid = site.agent_pid()
        self.connect()

    def connect(self) -> None:
        """Greet the agent, on a new connection."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(HANG_S)
        sock.connect(str(self.site.home / SOCKET))
        self.greet(sock)

    def greet(self, sock: socket.socket) -> None:
        """Greet the agent on a connection, which is the one that is used from now on."""
        self.sock = sock
        self.reader = FrameReader()
        self.send({"t": "hello", "secret": (self.site.home / SECRET).read_text()})
        self.is_greeted = False
        self.run_until(lambda: self.is_greeted)

    def send(self, header: dict[str, Any]) -> None:
        """Send any message."""
        self.sock.sendall(pack(header))

    def send_launch(self, packed: bytes) -> None:
        self.sock.sendall(packed)

    def kill(self, instance_id: str) -> None:
        self.send({"t": "kill", "id": instance_id})

    def acknowledge(self, *instance_ids: str) -> None:
        self.send({"t": "ack", "ids": instance_ids})
        self.send({"t": "hello", "secret": ""})  # whose answer comes when the acknowledgement is written
        self.is_greeted = False
        self.run_until(lambda: self.is_greeted)

    def run_once(self) -> None:
        if not select.select([self.sock], [], [], POLL_S)[0]:
            return
        data = self.sock.recv(1 << 18)
        assert data, f"the agent has hung up: {(self.site.folder / 'agent.log').read_text()}"
        self._on_frames(self.reader.feed(data))

    def is_up(self) -> bool:
        return self.site.agent_pid() == self.pid

    def hangs_up(self) -> bool:
        """Wait until the agent has hung up on this connection."""
        try:
            while self.sock.recv(1 << 18):
                pass
        except ConnectionResetError:
            pass
        return True

    def die(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.hangs_up()
        self.sock.close()

    def stop(self) -> None:
        self.send({"t": "stop"})
        while data := self.sock.recv(1 << 18):
            self._on_frames(self.reader.feed(data))
        self.sock.close()

    def _on_frames(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            header = frame.header
            match header["t"]:
                case "known":
                    self.is_greeted = True
                    self.adopted = {instance["id"] for instance in header["running"]}
                case "running":
                    self.on_running(header["id"], header["sandbox"], header["at_ms"])
                case "progress":
                    self.on_progress(header["id"], header["sequence"], header["percent"], header["message"])
                case "end":
                    self.on_end(EndReport(end_of(header), header["cause"], header["sandbox"], frame.tail))
                case kind:
                    raise AssertionError(f"the agent sends {kind}")


class MesosExecutorProcess(FrontEnd):
    """The Mesos executor, with this test for its agent and scheduler.

    Args:
        site: its sandbox.
        options: further arguments of the executor.
        program: how cook_jupyter is started.
        variables: environment variables that differ from the usual.
    """

    def __init__(
        self,
        site: LocalSite,
        *options: str,
        program: Sequence[str] = (sys.executable, "-m", "cook_jupyter.worker"),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(site)
        site.home.mkdir(parents=True, exist_ok=True)
        self.agent = FakeAgent()
        self.agent.on_status = self._on_status
        self.agent.on_message = self._on_message
        self.agent.acknowledges = lambda status: status["state"] not in TERMINAL
        argv = [*program, "mesos-executor"]
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "MESOS_AGENT_ENDPOINT": f"127.0.0.1:{self.agent.port}",
            "MESOS_FRAMEWORK_ID": FRAMEWORK,
            "MESOS_EXECUTOR_ID": EXECUTOR,
            "MESOS_SANDBOX": str(site.home),
            "MESOS_CHECKPOINT": "1",
            "MESOS_RECOVERY_TIMEOUT": "15mins",
            "MESOS_SUBSCRIPTION_BACKOFF_MAX": "2secs",
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5secs",
            **variables,
        }
        with (site.home / "stderr").open("a") as stderr:
            self.process = subprocess.Popen(
                [*argv, "--grace", str(GRACE_S), *options],
                env=environment,
                stderr=stderr,
                cwd=site.home,
            )
        self.run_until(lambda: self.agent.is_subscribed or self.process.poll() is not None)

    def send_launch(self, packed: bytes) -> None:
        [frame] = whole_frames(packed)
        self.agent.launch(frame.header["instance_id"], messages.encode_data(packed))

    def kill(self, instance_id: str) -> None:
        self.agent.kill(instance_id)

    def acknowledge(self, *instance_ids: str) -> None:
        for status in self.agent.statuses:
            if status["task_id"]["value"] in instance_ids and status["state"] in TERMINAL:
                self.agent.acknowledge(status)

    def run_once(self) -> None:
        self.agent.run_once(POLL_S)

    def log(self) -> str:
        """What the executor has logged."""
        return (self.site.home / "stderr").read_text()

    def is_up(self) -> bool:
        return self.process.poll() is None and len(self.agent.subscriptions) == 1

    def wait_for_exit(self) -> int:
        """Wait until the process has ended; return its exit code."""
        self.run_until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def die(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None and self.agent.is_subscribed:
            self.agent.acknowledges = lambda _: True
            for status in list(self.agent.statuses):
                self.agent.acknowledge(status)
            self.agent.send("SHUTDOWN")
            self.wait_for_exit()
        elif self.process.poll() is None:
            self.die()
        self.agent.die()

    def _on_status(self, status: dict[str, Any]) -> None:
        frame = messages.read_data(status["data"], messages.STATUS_DATA) if "data" in status else None
        if frame is None:
            return
        header = frame.header
        assert status["task_id"]["value"] == header["id" if header["t"] == "running" else "instance_id"]
        if header["t"] == "running":
            assert status["state"] == messages.TASK_RUNNING
            self.on_running(header["id"], header["sandbox"], header["at_ms"])
        else:
            assert status["state"] == messages.task_state(header["cause"])
            self.on_end(EndReport(end_of(header), header["cause"], header["sandbox"], frame.tail))

    def _on_message(self, frame: Frame) -> None:
        header = frame.header
        if header["t"] == "progress":
            self.on_progress(header["id"], header["sequence"], header["percent"], header["message"])
