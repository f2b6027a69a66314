"""The spawner: a process that has imported what calls need, and forks workers.

Lives here: forking on request, reaping, and cleaning up: what a dead worker leaves running becomes a child of
the spawner (on Linux), and is killed.
Not here: what workers do (`worker.runner`), when they are needed (`worker.pool`).

There is one spawner per interpreter. A fork takes a millisecond where a fresh interpreter takes a hundred,
and workers share the memory of what was imported before. The spawner itself never runs user code and has one
thread.

When the node agent goes away, the spawner forks no more, waits until its workers have exited, and exits.
Workers exit when their task has ended, and the next agent finds running tasks in the journal. The spawner
kills workers that no agent can find there any more, because the home was removed or replaced, and those whose
task is long past its maximum run time, because no other process would.

Where tasks do not survive their supervisor, because it has no successor, the spawner kills all that it has
started as soon as the supervisor is gone, including processes with a session of their own.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterable
from typing import Any

from cook_jupyter.worker import processes
from cook_jupyter.worker.agent_log import log
from cook_jupyter.worker.frames import FrameReader, pack
from cook_jupyter.worker.home import JOURNAL
from cook_jupyter.worker.journal import AgentJournal
from cook_jupyter.worker.protocol import AGENT_RECORDS, is_valid

_MAX_FDS = 64
_ORPHAN_CHECK_S = 2.0  # interval of checks for workers without an agent; one that fails two is killed
_OVERTIME_S = 60.0  # after the maximum run time, which an agent would have enforced
_END_ALL_S = 10.0
_WARM = (
    "cook_jupyter.worker.runner",
    "cook_jupyter.payload.calls",
    "cook_jupyter.payload.pickling",
    "cook_jupyter.payload.exception_data",
)


def main(descriptor: int, home: str, grace_s: float, *, tasks_survive: bool) -> int:
    """Serve the agent at the other end of a socket."""
    with contextlib.suppress(PermissionError):  # this process leads a session already
        os.setsid()
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    Spawner(sock, home=home, grace_s=grace_s, tasks_survive=tasks_survive).serve()
    return 0


class Spawner:
    """Forks workers for one agent.

    Args:
        sock: socket to the agent; each request comes with the socket for the new worker.
        home: home directory of the agent.
        grace_s: time between SIGTERM and SIGKILL, passed to the workers.
        tasks_survive: whether tasks go on without the agent, for the next one to find.
    """

    def __init__(self, sock: socket.socket, *, home: str, grace_s: float, tasks_survive: bool = True) -> None:
        self._sock = sock
        self._home = home
        self._grace_s = grace_s
        self._tasks_survive = tasks_survive
        self._workers: dict[int, str] = {}
        self._received: list[int] = []  # sockets of workers that are not forked yet
        self._open = True

    def serve(self) -> None:
        """Fork workers until the agent and, where tasks survive it, the last worker are gone."""
        _warm_up()
        processes.become_subreaper()
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        self._wakeup_read.setblocking(False)
        self._wakeup_write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        self._send({"t": "ready", "pid": os.getpid()})
        reader = FrameReader()
        suspects: set[str] = set()
        while self._open or (self._workers and self._tasks_survive):
            watched = [self._wakeup_read, self._sock] if self._open else [self._wakeup_read]
            ready, _, _ = select.select(watched, [], [], None if self._open else _ORPHAN_CHECK_S)
            if not ready:
                orphans = set(self._workers.values())
                for journal in (f"{self._home}/{JOURNAL}", JOURNAL):  # the home may have been moved
                    orphans &= find_orphans(journal, orphans, time.monotonic())
                self._kill(orphans & suspects)
                suspects = orphans
            if self._wakeup_read in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup_read.recv(4096)
                self._reap()
            if self._sock in ready:
                for frame in reader.feed(self._receive()):
                    self._fork(frame.header["worker"], self._received.pop(0))
        if not self._tasks_survive and not processes.end_descendants(within_s=_END_ALL_S):
            log("the supervisor is gone, and processes of its tasks cannot be killed")

    def _kill(self, workers: Collection[str]) -> None:
        for pid, worker in self._workers.items():
            if worker in workers:
                log(f"worker {worker} is killed: its agent is gone, and no other agent can find it")
                processes.signal_group(pid, signal.SIGKILL)

    def _receive(self) -> bytes:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 16, _MAX_FDS)
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._received += descriptors
        self._open = bool(data)
        return data

    def _fork(self, worker: str, descriptor: int) -> None:
        spawner = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            self._send({"t": "unborn", "worker": worker, "error": str(error)})
            return
        if pid == 0:
            self._become_worker(worker, descriptor, spawner)
        os.close(descriptor)
        self._workers[pid] = worker
        self._send({"t": "born", "worker": worker, "pid": pid, "mark": processes.process_identity(pid)})

    def _become_worker(self, worker: str, descriptor: int, spawner: int) -> None:
        """Run the worker in the child process; never returns."""
        code = 1
        try:
            if not self._tasks_survive:
                processes.die_with_parent(spawner)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for sock in (self._sock, self._wakeup_read, self._wakeup_write):
                sock.close()
            for other in self._received:
                os.close(other)
            os.setsid()
            processes.become_subreaper()
            from cook_jupyter.worker.runner import Worker

            Worker(
                socket.socket(fileno=descriptor), name=worker, home=self._home, grace_s=self._grace_s
            ).serve()
            code = 0
        except BaseException:  # noqa: BLE001 - the top of a process
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)  # exit handlers of what users imported may wait forever

    def _reap(self) -> None:
        """Handle the death of child processes, and kill what they left."""
        while (dead := self._next_dead()) is not None:
            pid, code = dead
            worker = self._workers.pop(pid, None)
            # Children that are not workers were left by one: its command, or processes that escaped from it.
            # Their own children are adopted when they are dead, which leads here again.
            processes.kill_below(spare=self._workers)
            if worker is not None:
                self._send({"t": "died", "worker": worker, "code": code})

    def _next_dead(self) -> tuple[int, int] | None:
        """Reap a dead child, and kill the group of a worker; return pid and exit code, or None."""
        try:
            if processes.LINUX:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    return None
                if ended.si_pid in self._workers:  # not reaped yet, so its id is still unique
                    processes.signal_group(ended.si_pid, signal.SIGKILL)
                pid, status = os.waitpid(ended.si_pid, 0)
            else:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return None
                if pid in self._workers:
                    processes.signal_group(pid, signal.SIGKILL)
        except ChildProcessError:
            return None
        return pid, os.waitstatus_to_exitcode(status)

    def _send(self, header: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(pack(header))


def find_orphans(journal: str, workers: Iterable[str], now_s: float) -> set[str]:
    """Return the workers whose tasks no future agent would find or continue.

    Args:
        journal: directory of the agent's journals.
        workers: names of workers that run a task, and whose agent is gone.
        now_s: monotonic time.
    """
    findable = set()
    for frames in AgentJournal.read(journal).values():
        for frame in frames:
            if frame.header["t"] == "launch" and is_valid(frame.header, AGENT_RECORDS):
                deadline = frame.header["until"]
                if deadline is None or now_s < deadline + _OVERTIME_S:
                    findable.add(frame.header["worker"])
    return set(workers) - findable


def _warm_up() -> None:
    """Import what calls need, so that no worker has to."""
    import importlib

    for name in _WARM:
        with contextlib.suppress(ImportError):  # a host without cloudpickle can still run commands
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that collections in the workers do not touch the shared pages
