"""The warm workers of the node agent: which are idle, which user they serve, and which are being started.

Lives here: spawners and workers as the agent sees them, from their start to their death.
Not here: which task gets which worker, and what the death of a worker means for its task
(`worker.supervisor`).

A worker serves one user and one interpreter for its whole life. Unused workers are kept ready for each
interpreter, so that the next user's first call need not wait for a start.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cook_jupyter.worker import processes
from cook_jupyter.worker.channel import Channel, SelectorLoop
from cook_jupyter.worker.environment import process_environment
from cook_jupyter.worker.frames import BrokenStream, Frame, pack
from cook_jupyter.worker.limits import Cgroup, CgroupParent
from cook_jupyter.worker.protocol import FROM_SPAWNER, require
from cook_jupyter.worker.start import worker_command

SPARES = 1
MAX_LEFTOVER_MB = 256.0  # a worker that holds more than this after a task is replaced
_MAX_STARTING = 8
_SPAWNER_FD = 3
_MAX_PASSED_OVER = 8  # idle workers of one user that have imported packages under other variables
_DRAIN_MS = 50


class WorkerProcess:
    """A worker as the agent knows it. If it was recovered after a restart of the agent, it has no channel."""

    __slots__ = (
        "channel",
        "fresh_mb",
        "group",
        "held_mb",
        "identity",
        "idle_since",
        "import_environment",
        "name",
        "pid",
        "python",
        "serves",
        "spawned",
        "user",
    )

    def __init__(self, *, name: str, pid: int, identity: str | None, python: str) -> None:
        self.name = name
        self.pid = pid
        self.identity = identity
        self.python = python
        self.user: str | None = None
        self.serves: str | None = None  # the instance that it runs
        self.channel: Channel | None = None
        self.group: Cgroup | None = None
        self.idle_since = 0.0
        self.import_environment = ""  # the one under which it has imported packages; "" if it has not
        self.fresh_mb = 0.0  # memory that it held when it was new
        self.held_mb = 0.0  # memory that it held when it was last idle
        self.spawned = True  # whether its spawner will report its death

    def signal(self, number: int) -> None:
        """Send a signal to the process group of the worker, if it is still the same process."""
        if self.identity is None or processes.process_identity(self.pid) in (self.identity, None):
            processes.signal_group(self.pid, number)


class PoolCallbacks(NamedTuple):
    """Callbacks of a pool."""

    ready: Callable[[str], None]  # a worker of that interpreter is idle
    frame: Callable[[WorkerProcess, Frame], None]
    died: Callable[[WorkerProcess, int | None], None]  # exit code, negative for signals, None if unknown
    unusable: Callable[[str, str | None], None]  # that interpreter cannot run workers; the reason if known


class _Spawner:
    """A spawner, and the workers that it was requested to start."""

    def __init__(self, python: str, pid: int) -> None:
        self.python = python
        self.pid = pid
        self.channel: Channel | None = None
        self.ready = False
        self.has_started = False  # whether it has ever started a worker
        self.refusal: str | None = None  # why its interpreter cannot be used
        self.starting: dict[str, socket.socket] = {}


class WorkerPool:
    """All spawners and workers of one agent.

    Args:
        loop: event loop of the agent.
        home: home directory of the agent.
        grace_s: time between SIGTERM and SIGKILL after which workers kill their command themselves.
        groups: parent of the control groups of workers; None for none.
        listener: callbacks.
        tasks_survive: whether workers finish their tasks when this process is gone; otherwise all that was
            started in them ends with it.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        *,
        home: str,
        grace_s: float,
        groups: CgroupParent | None,
        listener: PoolCallbacks,
        tasks_survive: bool = True,
    ) -> None:
        self._loop = loop
        self._home = home
        self._grace_s = grace_s
        self._tasks_survive = tasks_survive
        self._groups = groups
        self._listener = listener
        self._spawners: dict[str, _Spawner] = {}
        self._workers: dict[str, WorkerProcess] = {}
        self._spares: dict[str, list[WorkerProcess]] = {}
        self._idle: dict[tuple[str, str], list[WorkerProcess]] = {}
        self._polled: list[WorkerProcess] = []
        self._unreaped: list[int] = []
        self._stem = f"{time.time_ns() // 1_000_000:x}-{os.getpid():x}"
        self._last_number = 0
        self._removed_groups: list[Cgroup] = []
        if not tasks_survive:
            processes.become_subreaper()  # of what a killed spawner leaves

    def acquire(self, python: str, user: str, import_environment: str = "") -> WorkerProcess | None:
        """Return an idle worker of a user, or an unused one; None if there is none now.

        Args:
            python: the interpreter.
            user: owner of the task.
            import_environment: digest of the task's variables, empty for a shell command. Workers that have
                imported packages under other variables are passed over.
        """
        usable = ("", import_environment)
        idle = self._idle.get((python, user), [])
        for worker in idle[::-1]:
            if not import_environment or worker.import_environment in usable:
                idle.remove(worker)
                if worker.channel is not None and worker.channel.is_open:
                    return worker
        spares = self._spares.get(python, [])
        while spares:
            worker = spares.pop()
            if worker.channel is not None and worker.channel.is_open:
                worker.user = user
                if len(idle) >= _MAX_PASSED_OVER:
                    self.retire(idle.pop(0))
                return worker
        return None

    def request_workers(self, python: str, queued: int) -> None:
        """Start a worker for each queued task, plus one spare."""
        spawner = self._spawners.get(python) or self._spawn(python)
        if not spawner.ready:
            return
        missing = queued + SPARES - len(self._spares.get(python, ())) - len(spawner.starting)
        for _ in range(min(missing, _MAX_STARTING - len(spawner.starting))):
            self._request_worker(spawner)

    def release(self, worker: WorkerProcess, *, leftover_mb: float) -> None:
        """Take back a worker whose task has ended."""
        worker.serves = None
        if worker.group is not None:
            worker.group.limit(None)
        if leftover_mb > MAX_LEFTOVER_MB or worker.user is None:
            self.retire(worker)
            return
        worker.idle_since = time.monotonic()
        worker.held_mb = worker.fresh_mb + leftover_mb
        self._idle.setdefault((worker.python, worker.user), []).append(worker)
        self._listener.ready(worker.python)

    def retire(self, worker: WorkerProcess) -> None:
        """End an idle worker, which exits when its connection is closed."""
        if worker.channel is not None:
            worker.channel.close()

    def adopt(self, worker: WorkerProcess) -> None:
        """Watch a worker that another agent, or a dead spawner, has started."""
        self._workers[worker.name] = worker
        worker.spawned = False
        try:
            descriptor = os.pidfd_open(worker.pid)
        except (AttributeError, OSError):  # not Linux, or it is gone
            self._polled.append(worker)
            return
        if worker.identity is not None and not processes.is_alive(worker.pid, worker.identity):
            os.close(descriptor)
            self._polled.append(worker)
            return

        def on_death() -> None:
            self._loop.forget(descriptor)
            os.close(descriptor)
            self._on_worker_dead(worker, None)

        self._loop.watch(descriptor, on_death)

    def maintain(self, *, idle_s: float) -> None:
        """Do what no event triggers: detect unreported deaths, and retire workers idle for long."""
        for worker in list(self._polled):
            if worker.identity is None or not processes.is_alive(worker.pid, worker.identity):
                self._polled.remove(worker)
                self._on_worker_dead(worker, None)
        for pid in list(self._unreaped):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._unreaped.remove(pid)
        self._removed_groups = [group for group in self._removed_groups if not group.remove()]
        self._kill_strays()
        idle_before = time.monotonic() - idle_s
        for idle in self._idle.values():
            for worker in [worker for worker in idle if worker.idle_since < idle_before]:
                idle.remove(worker)
                self.retire(worker)
        for spares in self._spares.values():
            for worker in [worker for worker in spares[SPARES:] if worker.idle_since < idle_before]:
                spares.remove(worker)
                self.retire(worker)

    @property
    def has_idle(self) -> bool:
        """Whether `maintain` may have something to do later."""
        return bool(self._polled or self._unreaped or self._removed_groups) or any(self._idle.values())

    def workers(self) -> Iterator[WorkerProcess]:
        """Iterate over all living workers."""
        return iter(self._workers.values())

    def close(self) -> None:
        """Close all connections: idle workers and spawners exit now, busy workers after their task."""
        for worker in self._workers.values():
            self.retire(worker)
        for spawner in self._spawners.values():
            if spawner.channel is not None:
                spawner.channel.close()

    # --- starts -----------------------------------------------------------------------------------

    def _spawn(self, python: str) -> _Spawner:
        own_end, other_end = socket.socketpair()
        arguments = [*worker_command(python), "spawner"]
        arguments += [str(_SPAWNER_FD), self._home, str(self._grace_s)]
        arguments += ["survive" if self._tasks_survive else "end"]
        try:
            with other_end:
                pid = os.posix_spawn(
                    python,
                    arguments,
                    process_environment(os.environ),
                    file_actions=[(os.POSIX_SPAWN_DUP2, other_end.fileno(), _SPAWNER_FD)],
                )
        except (OSError, ValueError):  # ValueError: the path is invalid
            own_end.close()
            spawner = _Spawner(python, 0)
            self._listener.unusable(python, None)
            return spawner
        spawner = self._spawners[python] = _Spawner(python, pid)
        spawner.channel = Channel(
            self._loop,
            own_end,
            on_frame=lambda frame: self._on_frame(spawner, frame),
            on_end=lambda: self._on_spawner_gone(spawner),
        )
        return spawner

    def _request_worker(self, spawner: _Spawner) -> None:
        assert spawner.channel is not None  # noqa: S101 - it is ready
        self._last_number += 1
        name = f"w{self._stem}-{self._last_number}"
        own_end, other_end = socket.socketpair()
        with other_end:
            try:
                socket.send_fds(spawner.channel.sock, [pack({"worker": name})], [other_end.fileno()])
            except OSError:  # it is gone, which will be noticed soon, or too busy: the next round tries again
                own_end.close()
                return
        spawner.starting[name] = own_end

    def _on_frame(self, spawner: _Spawner, frame: Frame) -> None:
        header = frame.header
        kind = require(header, FROM_SPAWNER)
        if kind == "ready":
            spawner.ready = True
            self._listener.ready(spawner.python)
        elif kind == "born":
            sock = _pop_starting(spawner, header["worker"])
            self._on_worker_started(spawner, header["worker"], header["pid"], header["mark"], sock)
        elif kind == "refused":
            spawner.refusal = header["why"]
        elif kind == "unborn":
            _pop_starting(spawner, header["worker"]).close()
        elif kind == "died" and (worker := self._workers.get(header["worker"])) is not None:
            if worker.python != spawner.python:
                raise BrokenStream(f"the spawner of {spawner.python} reports a worker of another interpreter")
            self._on_worker_dead(worker, header["code"])

    def _on_worker_started(
        self, spawner: _Spawner, name: str, pid: int, identity: str | None, sock: socket.socket
    ) -> None:
        spawner.has_started = True
        worker = WorkerProcess(name=name, pid=pid, identity=identity, python=spawner.python)
        if self._groups is not None:
            worker.group = self._groups.admit(name, pid)
        worker.idle_since = time.monotonic()
        worker.fresh_mb = worker.held_mb = processes.held_mb([pid])
        worker.channel = Channel(
            self._loop,
            sock,
            on_frame=lambda frame: self._listener.frame(worker, frame),
            on_end=lambda: None,  # its spawner reports how it died
        )
        self._workers[name] = worker
        self._spares.setdefault(spawner.python, []).append(worker)
        self._listener.ready(spawner.python)

    # --- deaths -----------------------------------------------------------------------------------

    def _kill_strays(self) -> None:
        """Kill what killed spawners have left, if it must not survive: it is a child of this process now."""
        if not self._tasks_survive:
            spawners = {spawner.pid for spawner in self._spawners.values()}
            processes.kill_below(spare=spawners)
            processes.reap_children(but=spawners)

    def _on_spawner_gone(self, spawner: _Spawner) -> None:
        del self._spawners[spawner.python]
        killed = self._was_killed(spawner)
        for sock in spawner.starting.values():
            sock.close()
        if not spawner.has_started:
            if not killed:  # otherwise waiting launches cause another try
                self._listener.unusable(spawner.python, spawner.refusal)
            return
        for worker in [w for w in self._workers.values() if w.spawned and w.python == spawner.python]:
            self.adopt(worker)
            if worker.serves is None:
                self.retire(worker)

    def _was_killed(self, spawner: _Spawner) -> bool:
        """Return whether a signal ended a spawner, which has closed its connection."""
        for _ in range(_DRAIN_MS):
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(spawner.pid, os.WNOHANG)
                if pid:
                    return os.WIFSIGNALED(status)
                time.sleep(0.001)
        self._unreaped.append(spawner.pid)
        return False

    def _on_worker_dead(self, worker: WorkerProcess, code: int | None) -> None:
        """Handle the death of a worker: read its last messages, kill what it left, and report it."""
        if worker.channel is not None:
            if worker.channel.is_open:
                worker.channel.receive()
            worker.channel.close()
        if not worker.spawned:  # no spawner has cleaned up after it
            worker.signal(signal.SIGKILL)
            self._kill_strays()
        self._workers.pop(worker.name, None)
        for idle in (self._spares.get(worker.python), self._idle.get((worker.python, worker.user or ""))):
            if idle is not None and worker in idle:
                idle.remove(worker)
        self._listener.died(worker, code)
        if worker.group is not None and not worker.group.remove():
            self._removed_groups.append(worker.group)


def _pop_starting(spawner: _Spawner, name: str) -> socket.socket:
    """Remove and return the connection to a worker that a spawner was requested to start."""
    sock = spawner.starting.pop(name, None)
    if sock is None:
        raise BrokenStream(f"the spawner of {spawner.python} reports {name[:40]!r}, which was not requested")
    return sock
