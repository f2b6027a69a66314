"""A worker: a warm process that runs one task at a time, and writes down how it ended before it says so.

Lives here: the loop of a worker, calls (in this very process) and shell commands (in a session of their own).
Not here: how workers come to be (`worker.spawner`), which task they get (`worker.agent`), the verification,
unpickling and running of a call (`payload.calls`).

A worker belongs to one user. It is deaf while it runs a task; signals are how it is reached:

- a call: whoever sends SIGTERM ends the worker, and a fresh one takes its place;
- a command: SIGTERM is passed on to the command's process group, and after the grace period SIGKILL.

When the node agent goes away the worker finishes its task, writes down the end and leaves.
"""

import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from types import FrameType
from typing import NamedTuple, Self, TextIO

from cook_jupyter.worker import processes
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.environment import base_environment, progress_path, task_environment
from cook_jupyter.worker.frames import Frame, FrameReader, pack, whole_frames
from cook_jupyter.worker.journal import EndLog
from cook_jupyter.worker.progress import ProgressReader
from cook_jupyter.worker.sandbox import FOLDER, Sandbox, SandboxStock
from cook_jupyter.worker.task import CALL_VARIABLES, End, Task, unpacked

RESULT_FILE = "cook-result.json"  # where a call that ran as a plain command says what came of it
NOT_RUN = 126  # the shell's own code for a command that could not be executed
_LOOK_S = 1.0  # between two looks for progress
_CHUNK = 1 << 18
_RESET = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Ended(NamedTuple):
    """An end, and the result that goes with it."""

    end: End
    result: bytes = b""


class Worker:
    """One warm process.

    Args:
        sock: to the node agent; blocking.
        name: unique among all workers there ever were in this home.
        home: the agent's folder.
        grace_s: between TERM and KILL.
        segment: segment of the journal to go on with.
    """

    def __init__(
        self, sock: socket.socket, *, name: str, home: str, grace_s: float, segment: int = 0
    ) -> None:
        self._sock = sock
        self._name = name
        self._home = home
        self._grace_s = grace_s
        self._log = EndLog(f"{home}/journal", name, segment=segment)
        self._stock = SandboxStock(f"{home}/{FOLDER}", name)
        self._fresh = _Surroundings(home)
        self._fresh_mb = processes.own_held_mb()
        self._fresh_resident_mb = processes.own_resident_mb()
        self._libc = ctypes.CDLL(None)

    def serve(self, first: Frame | None = None) -> None:
        """Run tasks until the agent goes away or a task has left something behind.

        Args:
            first: a task that this process received before it began anew.
        """
        reader = FrameReader()
        with contextlib.suppress(OSError):
            self._stock.refill()
        serves = first is None or self._serve(first)
        while serves and (data := self._receive()):
            for frame in reader.feed(data):
                if unpacked(frame).python is not None and _has_stale_modules():
                    self._begin_anew(frame)
                serves = self._serve(frame)
        self._stock.close()

    def _begin_anew(self, frame: Frame) -> None:
        """Replace this process's program by a fresh interpreter, which runs the task and goes on serving.

        The process stays the one that the agent knows: its id, its group and its socket are the same. Returns
        only if that is impossible; the task then imports all local modules anew in this interpreter.
        """
        self._stock.close()
        try:
            with tempfile.TemporaryFile(dir=self._home) as handover:
                handover.write(frame.packed())
                handover.seek(0)
                handover.flush()
                os.set_inheritable(handover.fileno(), True)
                self._sock.set_inheritable(True)
                words = [str(self._sock.fileno()), self._name, self._home, str(self._grace_s)]
                words += [str(self._log.segment), str(handover.fileno())]
                arguments = [sys.executable, "-P", "-m", "cook_jupyter.worker", "worker", *words]
                os.execve(sys.executable, arguments, self._fresh.environment)  # noqa: S606 - no shell wanted
        except OSError as error:
            self._sock.set_inheritable(False)
            _say(f"no fresh interpreter for {self._name}: {error}")

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(_CHUNK)
        except OSError:  # the agent was killed, or the task closed all files it could find
            return b""

    def _serve(self, frame: Frame) -> bool:
        """Run one task; return whether this process is as good as new."""
        task = unpacked(frame)
        ended = self._run(task)
        clean = _no_threads_left() and not processes.has_children()
        if not clean:
            processes.end_descendants()
        leftover_mb = processes.own_held_mb() - self._fresh_mb
        header = {**ended.end.as_header(), "leftover_mb": leftover_mb, "retires": not clean}
        with contextlib.suppress(OSError):  # a full disk: the agent still learns of it below
            header["segment"] = self._log.roll()
        message = pack({"segment": self._log.segment, **header}, ended.result)
        try:
            self._log.append(message)
        except OSError as error:
            _say(f"the end of {task.instance_id} could not be written down: {error}")
        with contextlib.suppress(OSError):  # the agent is gone: what is written down is enough
            self._sock.sendall(message)
        if clean:
            with contextlib.suppress(OSError):
                self._stock.refill()
        return clean

    def _run(self, task: Task) -> Ended:
        try:
            sandbox = self._stock.take(task.instance_id)
        except OSError as error:
            _say(f"{task.instance_id} got no sandbox: {error}")
            return Ended(End(task.instance_id, None, now_ms()))
        if task.python is None:  # Cook's clients look into the sandboxes of commands, empty or not
            ended, written = self._run_command(task, sandbox), True
            sandbox.close()
        else:
            ended = self._run_call(task, sandbox)
            written = self._stock.give_back(sandbox)
        return ended._replace(end=ended.end._replace(written=written))

    # --- calls ------------------------------------------------------------------------------------

    def _run_call(self, task: Task, sandbox: Sandbox) -> Ended:
        processes.forget_peak()
        try:
            self._fresh.leave(sandbox, task_environment(task, sandbox.path))
            from cook_jupyter.payload.calls import run_call

            outcome = run_call(task.env, job_id=task.job_id, instance_id=task.instance_id)
        except BaseException:  # noqa: BLE001 - run_call never raises; if it does, the task failed and we live on
            traceback.print_exc()
            outcome = None
        finally:
            peak_mb = processes.peak_mb() - self._fresh_resident_mb
            self._libc.fflush(None)
            self._fresh.restore()
        look = None
        if os.fstat(sandbox.stdout).st_size or os.fstat(sandbox.stderr).st_size:
            look = ProgressReader(_streams(sandbox), task.progress_regex).look(at_end=True)
        end = End(task.instance_id, 1, now_ms(), peak_mb=max(0.0, peak_mb), progress=look)
        if outcome is None:
            return Ended(end)
        end = end._replace(
            exit_code=outcome.exit_code,
            memory=outcome.out_of_memory,
            blob=outcome.blob,
            size=outcome.size,
            inline=outcome.inline is not None,
        )
        return Ended(end, outcome.inline or b"")

    # --- commands ---------------------------------------------------------------------------------

    def _run_command(self, task: Task, sandbox: Sandbox) -> Ended:
        seen = {**self._fresh.environment, **task_environment(task, sandbox.path)}
        progress = ProgressReader(
            (*_streams(sandbox), progress_path(seen, sandbox.path)), task.progress_regex
        )
        with _Signals() as signals:
            try:
                shell = subprocess.Popen(
                    ["/bin/sh", "-c", task.command],
                    cwd=sandbox.path,
                    env=seen,
                    stdin=subprocess.DEVNULL,
                    stdout=sandbox.stdout,
                    stderr=sandbox.stderr,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                return _not_started(task, sandbox, error)
            self._note_shell(task, shell.pid)
            status, peak_mb = self._wait(task, shell.pid, signals, progress)
            shell.returncode = os.waitstatus_to_exitcode(status)
            processes.signal_group(shell.pid, signal.SIGKILL)
            processes.end_descendants()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        exit_code = 128 + number if number else os.WEXITSTATUS(status)
        if task.closing_lines:
            last_words = f"Command exited with status {exit_code}\nExecutor completed execution\n"
            with contextlib.suppress(OSError):
                os.write(sandbox.stdout, last_words.encode())
        end = End(
            task.instance_id,
            exit_code,
            now_ms(),
            signal=number,
            termed=signals.termed,
            peak_mb=peak_mb,
            progress=progress.look(at_end=True),
        )
        return Ended(_with_result(end, task, sandbox))

    def _note_shell(self, task: Task, pid: int) -> None:
        """Write down which group to kill, should this process and the agent both be killed."""
        header = {"t": "shell", "id": task.instance_id, "pid": pid, "mark": processes.start_mark(pid)}
        with contextlib.suppress(OSError):
            self._log.append(pack(header))

    def _wait(
        self, task: Task, pid: int, signals: "_Signals", progress: ProgressReader
    ) -> tuple[int, float | None]:
        """Wait for the shell; return its status, and the most memory that one process held, if known."""
        kill_at: float | None = None
        own_peak_mb = processes.peak_mb()
        while True:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                peak_mb = used.ru_maxrss * (1 / 1024 if processes.LINUX else 1 / 2**20)
                # A forked child counts as having been as large as its parent until it called exec.
                return status, peak_mb if peak_mb > own_peak_mb else None
            if signals.termed and kill_at is None:
                processes.signal_group(pid, signal.SIGTERM)
                processes.signal_group(pid, signal.SIGCONT)  # a stopped process would never hear it
                kill_at = time.monotonic() + self._grace_s
            if kill_at is not None and time.monotonic() >= kill_at:
                processes.signal_group(pid, signal.SIGKILL)
            self._tell_progress(task, progress)
            signals.wait(_LOOK_S if kill_at is None else max(0.01, min(_LOOK_S, kill_at - time.monotonic())))

    def _tell_progress(self, task: Task, progress: ProgressReader) -> None:
        if (found := progress.look()) is not None:
            with contextlib.suppress(OSError):
                self._sock.sendall(pack({"t": "progress", "id": task.instance_id, "progress": found}))


def begin_again(words: list[str]) -> None:
    """Go on as the worker that replaced its program by this one.

    Args:
        words: from `Worker._begin_anew`.
    """
    descriptor, name, home, grace_s, segment, handover = words
    with open(int(handover), "rb") as file:
        (frame,) = whole_frames(file.read())
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    processes.become_subreaper()
    Worker(sock, name=name, home=home, grace_s=float(grace_s), segment=int(segment)).serve(frame)


def _has_stale_modules() -> bool:
    from cook_jupyter.payload.surroundings import has_stale_modules

    return has_stale_modules()


class _Surroundings:
    """What a call may change of its process, as it was when the process was fresh."""

    def __init__(self, home: str) -> None:
        self._home = home
        self.environment = base_environment(os.environ)
        self._own_out, self._own_err = os.dup(1), os.dup(2)
        self._path = list(sys.path)
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._handlers = {number: signal.getsignal(number) for number in _RESET}
        self._streams = (_stream(1), _stream(2))
        faulthandler.enable(self._streams[1])  # a segmentation fault shows where it came from
        self._seen = _Variables()
        self.restore()

    def leave(self, sandbox: Sandbox, environment: Mapping[str, str]) -> None:
        """Enter a sandbox."""
        os.dup2(sandbox.stdout, 1)
        os.dup2(sandbox.stderr, 2)
        os.chdir(sandbox.path)
        self._seen.become({**self.environment, **environment})

    def restore(self) -> None:
        """Undo all of it, whatever the call did. Its variables stay until the next one's replace them."""
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__, *self._streams):
            with contextlib.suppress(Exception):
                stream.flush()  # type: ignore[union-attr]
        if self._streams[0].closed or self._streams[1].closed:
            self._streams = (_stream(1), _stream(2))
        sys.stdout, sys.stderr = self._streams
        os.dup2(self._own_out, 1)
        os.dup2(self._own_err, 2)
        os.chdir(self._home)
        os.umask(self._umask)
        sys.path[:] = self._path
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


class _Variables:
    """`os.environ`, made into what the next task is to see at the price of what differs from the last one.

    Going through all variables costs a tenth of a millisecond, so what a task itself has changed is found
    by comparing the dictionary behind `os.environ`, where it is where CPython has always had it.
    """

    def __init__(self) -> None:
        self._now: dict[str, str] = dict(os.environ)
        self._raw: dict[bytes, bytes] | None = self._behind()

    def become(self, wanted: dict[str, str]) -> None:
        """Set and remove variables until there are just these."""
        behind = getattr(os.environ, "_data", None)
        if behind is None or behind != self._raw:
            self._now = dict(os.environ)
        for name in self._now.keys() - wanted.keys():
            del os.environ[name]
        for name, value in wanted.items():
            if self._now.get(name) != value:
                os.environ[name] = value
        self._now = wanted
        self._raw = self._behind()

    @staticmethod
    def _behind() -> dict[bytes, bytes] | None:
        behind = getattr(os.environ, "_data", None)
        return None if behind is None else dict(behind)


class _Signals:
    """While a command runs, its end and SIGTERM wake this process up; neither ends it."""

    def __init__(self) -> None:
        self.termed = False

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._before_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda _number, _frame: None),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_term),
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        self._read.close()
        self._write.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal."""
        select.select([self._read], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)

    def _on_term(self, _number: int, _frame: FrameType | None) -> None:
        self.termed = True


def _not_started(task: Task, sandbox: Sandbox, error: OSError | ValueError) -> Ended:
    """A command that the kernel did not take: the user's fault, unless the machine is short of something."""
    os.write(sandbox.stderr, f"cook_jupyter: the command could not be started: {error}\n".encode())
    short = isinstance(error, OSError) and error.errno in (
        errno.EAGAIN,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
    )
    return Ended(End(task.instance_id, None if short else NOT_RUN, now_ms()))


def _with_result(end: End, task: Task, sandbox: Sandbox) -> End:
    """The end with the result of a call that ran as a plain command, if it left one."""
    if not any(name in task.env for name in CALL_VARIABLES):
        return end
    try:
        with open(f"{sandbox.path}/{RESULT_FILE}", encoding="utf-8") as file:
            said = json.load(file)
        return end._replace(
            blob=str(said["blob"]), size=int(said["size"]), memory=bool(said["out_of_memory"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return end


def _streams(sandbox: Sandbox) -> Iterator[str]:
    return iter((f"{sandbox.path}/stdout", f"{sandbox.path}/stderr"))


def _no_threads_left() -> bool:
    """Whether no thread but this one would keep the process busy. Daemons (tqdm's monitor) are let be."""
    if threading.active_count() == 1:
        return True
    return all(thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread())


def _stream(descriptor: int) -> TextIO:
    """Standard output or error that shows each line when it is whole."""
    stream = open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    assert isinstance(stream, TextIOWrapper)  # noqa: S101
    return stream


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"worker {os.getpid()}: {text}\n".encode())
