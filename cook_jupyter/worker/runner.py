"""A worker: a warm process that runs one task at a time, and writes down how it ended before it says so.

Lives here: the loop of a worker, calls (in this very process) and shell commands (in a session of their own).
Not here: how workers come to be (`worker.spawner`), which task they get (`worker.supervisor`), the
verification, unpickling and running of a call (`payload.calls`).

A worker belongs to one user. It is deaf while it runs a task; signals are how it is reached:

- a call: whoever sends SIGTERM ends the worker, and a fresh one takes its place;
- a command: SIGTERM is passed on to the command's process group, and after the grace period SIGKILL.

When the node agent goes away the worker finishes its task, writes down the end and leaves.
"""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple, NoReturn, Self

from cook_jupyter.payload.requirements import is_call
from cook_jupyter.worker import processes
from cook_jupyter.worker.agent_log import printable_line
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.environment import progress_path, task_environment
from cook_jupyter.worker.frames import Frame, FrameReader, pack, whole_frames
from cook_jupyter.worker.journal import WorkerJournal
from cook_jupyter.worker.process_state import ProcessState, Residue
from cook_jupyter.worker.progress import ProgressReader
from cook_jupyter.worker.sandbox import FOLDER, Sandbox, SandboxPool
from cook_jupyter.worker.task import Task, TaskExit, unpacked

RESULT_FILE = "cook-result.json"  # where a call that ran as a plain command says what came of it
NOT_RUN = 126  # the shell's own code for a command that could not be executed
_LOOK_S = 1.0  # between two looks for progress
_CHUNK = 1 << 18
_getpid, _exit = os.getpid, os._exit  # a call may have patched them


class FinishedTask(NamedTuple):
    """An end, and the result that goes with it."""

    end: TaskExit
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
        self._log = WorkerJournal(f"{home}/journal", name, segment=segment)
        self._stock = SandboxPool(f"{home}/{FOLDER}", name)
        self._state = ProcessState(home)
        self._residue = Residue()
        self._shell_runs = False
        self._memory = processes.OwnMemory()
        self._fresh_mb = self._memory.held_mb()
        self._fresh_resident_mb = processes.own_resident_mb()
        self._libc = ctypes.CDLL(None)
        self._pid = os.getpid()

    def serve(self, first: Frame | None = None) -> None:
        """Run tasks until the agent goes away or a task has left something behind.

        Args:
            first: a task that this process received before it began anew.
        """
        reader = FrameReader()
        with contextlib.suppress(OSError):
            self._stock.refill()
        serves = first is None or self._serve(unpacked(first))
        while serves and (data := self._receive()):
            for frame in reader.feed(data):
                task = unpacked(frame)
                if task.python is not None and _has_stale_modules():
                    self._begin_anew(frame)
                serves = self._serve(task)
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
                environment = self._state.process_environment
                os.execve(sys.executable, arguments, environment)  # noqa: S606 - no shell wanted
        except OSError as error:
            self._sock.set_inheritable(False)
            _say(f"no fresh interpreter for {self._name}: {error}")

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(_CHUNK)
        except OSError:  # the agent was killed, or the task closed all files it could find
            return b""

    def _serve(self, task: Task) -> bool:
        """Run one task; return whether this process is as good as new."""
        self._residue = Residue()
        ended = self._run(task)
        leftover_mb = 0.0
        try:
            leftover_mb = self._memory.held_mb() - self._fresh_mb
        except OSError as error:
            self._residue = self._residue._replace(remaining=(*self._residue.remaining, str(error)))
        clean = not self._residue.remaining
        header = {**ended.end.as_header(), "leftover_mb": leftover_mb, "retires": not clean}
        if not clean:
            header["remaining"] = self._residue.remaining
        if self._state.has_imported:
            header["imported"] = True
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

    def _run(self, task: Task) -> FinishedTask:
        try:
            sandbox = self._stock.take(task.instance_id)
        except OSError as error:
            return self._not_begun(task, f"no sandbox: {error}")
        if task.python is None:  # Cook's clients look into the sandboxes of commands, empty or not
            self._shell_runs = False
            try:
                ended, written = self._run_command(task, sandbox), True
            except OSError as error:
                if self._shell_runs:
                    raise
                ended, written = self._not_begun(task, f"its shell cannot be started: {error}"), True
            sandbox.close()
        else:
            ended = self._run_call(task, sandbox)
            written = self._stock.give_back(sandbox)
        return ended._replace(end=ended.end._replace(written=written))

    # --- calls ------------------------------------------------------------------------------------

    def _run_call(self, task: Task, sandbox: Sandbox) -> FinishedTask:
        from cook_jupyter.payload.calls import CallOutcome, run_call

        outcome: CallOutcome | None = None
        failure = ""
        handed_over = False

        def call() -> CallOutcome:
            nonlocal handed_over
            handed_over = True
            return run_call(task.env, job_id=task.job_id, instance_id=task.instance_id)

        processes.forget_peak()
        try:
            variables = task_environment(task, sandbox.path)
            self._state.enter(sandbox, variables, segment=self._log.segment)
            outcome = self._state.run(call)
        except BaseException as error:  # noqa: BLE001 - run_call raises only if the call patched what it needs
            failure = f"{type(error).__name__}: {error}"
        finally:
            if _getpid() != self._pid:
                _leave_fork(outcome is not None and outcome.exit_code == 0)
            peak_mb = processes.peak_mb() - self._fresh_resident_mb  # asks the kernel, opens no file
            self._libc.fflush(None)
            self._residue = self._state.restore()
        if not handed_over:
            return self._not_begun(task, failure)
        if outcome is not None and not outcome.begun:
            return self._not_begun(task, "the call could not be read; see its stderr")
        if outcome is None:
            os.write(sandbox.stderr, f"cook_jupyter: the call broke its worker: {failure}\n".encode())
        look = None
        if os.fstat(sandbox.stdout).st_size or os.fstat(sandbox.stderr).st_size:
            look = ProgressReader(_streams(sandbox), task.progress_regex).look(at_end=True)
        end = TaskExit(task.instance_id, 1, now_ms(), peak_mb=max(0.0, peak_mb), progress=look)
        if outcome is None:
            return FinishedTask(end)
        end = end._replace(
            exit_code=outcome.exit_code,
            memory=outcome.out_of_memory,
            blob=outcome.blob,
            size=outcome.size,
            inline=outcome.inline is not None,
        )
        return FinishedTask(end, outcome.inline or b"")

    def _not_begun(self, task: Task, why: str) -> FinishedTask:
        """Return the end of a task before any code of its user ran: the system's failure.

        The worker is retired, whether it or the host is the cause.
        """
        _say(f"{task.instance_id} was not begun: {why}")
        self._residue = Residue(remaining=(why,))
        return FinishedTask(TaskExit(task.instance_id, None, now_ms()))

    # --- commands ---------------------------------------------------------------------------------

    def _run_command(self, task: Task, sandbox: Sandbox) -> FinishedTask:
        seen = {**self._state.environment, **task_environment(task, sandbox.path)}
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
                ended = _not_started(task, sandbox, error)
                return ended if ended.end.exit_code is not None else self._not_begun(task, str(error))
            self._shell_runs = True
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
        end = TaskExit(
            task.instance_id,
            exit_code,
            now_ms(),
            signal=number,
            termed=signals.termed,
            peak_mb=peak_mb,
            progress=progress.look(at_end=True),
        )
        return FinishedTask(_with_result(end, task, sandbox))

    def _note_shell(self, task: Task, pid: int) -> None:
        """Write down which group to kill, should this process and the agent both be killed."""
        header = {"t": "shell", "id": task.instance_id, "pid": pid, "mark": processes.process_identity(pid)}
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


def _leave_fork(is_success: bool) -> NoReturn:
    """End a process that a call forked and that returned from the call; only the worker itself reports."""
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    _exit(0 if is_success else 1)


def _has_stale_modules() -> bool:
    from cook_jupyter.payload.call_context import has_stale_modules

    return has_stale_modules()


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


def _not_started(task: Task, sandbox: Sandbox, error: OSError | ValueError) -> FinishedTask:
    """A command that the kernel did not take: the user's fault if it is no valid one, else the system's.

    The system's are also a sandbox that was removed a moment ago, and a machine that is short of something.
    """
    os.write(sandbox.stderr, f"cook_jupyter: the command could not be started: {error}\n".encode())
    is_invalid = isinstance(error, ValueError) or error.errno == errno.E2BIG
    return FinishedTask(TaskExit(task.instance_id, NOT_RUN if is_invalid else None, now_ms()))


def _with_result(end: TaskExit, task: Task, sandbox: Sandbox) -> TaskExit:
    """The end with the result of a call that ran as a plain command, if it left one."""
    if not is_call(task.env):
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


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"worker {os.getpid()}: {printable_line(text)}\n".encode())
