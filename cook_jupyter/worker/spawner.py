"""Where workers come from: a process that has imported what a call needs, and forks.

Lives here: forking on request, reaping, and the net under all of it: what a dead worker leaves behind
becomes the spawner's child (Linux), and is killed.
Not here: what workers do (`worker.runner`), when they are wanted (`worker.pool`).

There is one spawner per interpreter. A fork takes a millisecond where a fresh interpreter takes a hundred,
and workers share the memory of all that was imported before. The spawner itself never runs a user's code
and has one thread.

When the node agent goes away it forks no more, waits until its workers have left, and follows. Workers leave
when their task has ended, and what runs is found by the next agent in the ledger. A worker that no agent can
find there any more, because the home was removed or begun anew, or whose task is long past its maximum run
time, is killed by its spawner: nobody else ever would.
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
from cook_jupyter.worker.protocol import IN_LEDGER, is_valid

_MOST_FDS = 64
_ORPHAN_CHECK_S = 2.0  # between two looks for workers without an agent; one that fails both is killed
_OVERTIME_S = 60.0  # past the maximum run time, which an agent would have enforced
_WARM = (
    "cook_jupyter.worker.runner",
    "cook_jupyter.payload.calls",
    "cook_jupyter.payload.pickling",
    "cook_jupyter.payload.exception_data",
)


def main(descriptor: int, home: str, grace_s: float) -> int:
    """Serve the agent at the other end of this socket."""
    with contextlib.suppress(PermissionError):  # we lead a session already
        os.setsid()
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    Spawner(sock, home=home, grace_s=grace_s).serve()
    return 0


class Spawner:
    """Forks workers for one agent.

    Args:
        sock: to the agent; requests come with the socket that the new worker is to serve.
        home: the agent's folder.
        grace_s: told to the workers.
    """

    def __init__(self, sock: socket.socket, *, home: str, grace_s: float) -> None:
        self._sock = sock
        self._home = home
        self._grace_s = grace_s
        self._workers: dict[int, str] = {}
        self._received: list[int] = []  # sockets of workers that are not born yet
        self._open = True

    def serve(self) -> None:
        """Work until the agent is gone and the last worker too."""
        _warm_up()
        processes.become_subreaper()
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._tell({"t": "ready", "pid": os.getpid()})
        reader = FrameReader()
        suspects: set[str] = set()
        while self._open or self._workers:
            waited_for = [self._alarm, self._sock] if self._open else [self._alarm]
            ready, _, _ = select.select(waited_for, [], [], None if self._open else _ORPHAN_CHECK_S)
            if not ready:
                orphans = set(self._workers.values())
                for journal in (f"{self._home}/{JOURNAL}", JOURNAL):  # the home may have been moved
                    orphans &= orphaned(journal, orphans, time.monotonic())
                self._kill(orphans & suspects)
                suspects = orphans
            if self._alarm in ready:
                with contextlib.suppress(BlockingIOError):
                    self._alarm.recv(4096)
                self._reap()
            if self._sock in ready:
                for frame in reader.feed(self._receive()):
                    self._fork(frame.header["worker"], self._received.pop(0))

    def _kill(self, workers: Collection[str]) -> None:
        for pid, worker in self._workers.items():
            if worker in workers:
                log(f"worker {worker} is killed: its agent is gone, and no other can find it")
                processes.signal_group(pid, signal.SIGKILL)

    def _receive(self) -> bytes:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 16, _MOST_FDS)
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._received += descriptors
        self._open = bool(data)
        return data

    def _fork(self, worker: str, descriptor: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            self._tell({"t": "unborn", "worker": worker, "error": str(error)})
            return
        if pid == 0:
            self._become_worker(worker, descriptor)
        os.close(descriptor)
        self._workers[pid] = worker
        self._tell({"t": "born", "worker": worker, "pid": pid, "mark": processes.process_identity(pid)})

    def _become_worker(self, worker: str, descriptor: int) -> None:
        """In the child: never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for sock in (self._sock, self._alarm, self._bell):
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
            os._exit(code)  # the exit handlers of what users imported may wait for ever

    def _reap(self) -> None:
        """Take note of the dead, and kill what they left."""
        while (dead := self._next_dead()) is not None:
            pid, code = dead
            worker = self._workers.pop(pid, None)
            # What is our child now and no worker was left by one: its command, or what escaped from it. The
            # children of those come to us when they are dead, and that brings us here again.
            processes.kill_below(spare=self._workers)
            if worker is not None:
                self._tell({"t": "died", "worker": worker, "code": code})

    def _next_dead(self) -> tuple[int, int] | None:
        """Reap one dead child, and kill the rest of its group if it was a worker; return its exit code."""
        try:
            if processes.LINUX:
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if seen is None:
                    return None
                if seen.si_pid in self._workers:  # not reaped yet, so its number still means it
                    processes.signal_group(seen.si_pid, signal.SIGKILL)
                pid, status = os.waitpid(seen.si_pid, 0)
            else:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return None
                if pid in self._workers:
                    processes.signal_group(pid, signal.SIGKILL)
        except ChildProcessError:
            return None
        return pid, os.waitstatus_to_exitcode(status)

    def _tell(self, header: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(pack(header))


def orphaned(journal: str, workers: Iterable[str], now_s: float) -> set[str]:
    """Return the workers whose tasks no next agent would find or go on with.

    Args:
        journal: the folder of the agent's journals.
        workers: names of workers that run a task, and whose agent is gone.
        now_s: monotonic time.
    """
    found = set()
    for frames in AgentJournal.read(journal).values():
        for frame in frames:
            if frame.header["t"] == "launch" and is_valid(frame.header, IN_LEDGER):
                until = frame.header["until"]
                if until is None or now_s < until + _OVERTIME_S:
                    found.add(frame.header["worker"])
    return set(workers) - found


def _warm_up() -> None:
    """Import what calls need, so that no worker has to."""
    import importlib

    for name in _WARM:
        with contextlib.suppress(ImportError):  # a host without cloudpickle still runs commands
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that collections in the workers leave the shared pages alone
