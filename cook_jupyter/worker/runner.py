"""A worker: a warm process that runs one task at a time, and records its end before reporting it.

Lives here: the main loop of a worker, calls (in its own process) and shell commands (each in its own
session).
Not here: starting workers (`worker.spawner`), assigning tasks to them (`worker.supervisor`), verifying,
unpickling and running a call (`payload.calls`).

A worker belongs to one user. It reads no messages while it runs a task, and is reached by signals:

- during a call, SIGTERM ends the worker, and a new one replaces it;
- during a command, SIGTERM is passed on to the command's process group, followed by SIGKILL after the grace
period.

When the node agent goes away, the worker finishes its task, records the end and exits.
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
from cook_jupyter.worker.start import package_variables, worker_command
from cook_jupyter.worker.task import Task, TaskExit, unpacked

RESULT_FILE = "cook-result.json"  # outcome of a call that ran as a plain command
NOT_RUN = 126  # the shell's exit code for a command that cannot be executed
_POLL_INTERVAL_S = 1.0  # for progress
_CHUNK = 1 << 16  # a larger buffer would be mapped and unmapped for each message
_getpid, _exit = os.getpid, os._exit  # bound here, because a call may replace them


class FinishedTask(NamedTuple):
    """An end with its result."""

    end: TaskExit
    result: bytes = b""


class Worker:
    """A warm worker process.

    Args:
        sock: blocking socket to the node agent.
        name: name that is unique among all workers of this home, past ones included.
        home: home directory of the agent.
        grace_s: time between SIGTERM and SIGKILL.
        segment: segment of the journal to continue.
    """

    def __init__(
        self, sock: socket.socket, *, name: str, home: str, grace_s: float, segment: int = 0
    ) -> None:
        self._sock = sock
        self._name = name
        self._home = home
        self._grace_s = grace_s
        self._journal = WorkerJournal(f"{home}/journal", name, segment=segment)
        self._sandboxes = SandboxPool(f"{home}/{FOLDER}", name)
        self._state = ProcessState(home)
        self._residue = Residue()
        self._shell_started = False
        self._memory = processes.OwnMemory()
        self._fresh_mb = self._memory.held_mb()
        self._fresh_resident_mb = processes.own_resident_mb()
        self._libc = ctypes.CDLL(None)
        self._pid = os.getpid()

    def serve(self, first: Frame | None = None) -> None:
        """Run tasks until the agent goes away or a task leaves something that cannot be restored.

        Args:
            first: a task that this process received before it was replaced by a fresh interpreter.
        """
        reader = FrameReader()
        with contextlib.suppress(OSError):
            self._sandboxes.refill()
        serves = first is None or self._serve(unpacked(first))
        while serves and (data := self._receive()):
            for frame in reader.feed(data):
                task = unpacked(frame)
                if task.python is not None and _has_stale_modules():
                    self._restart_interpreter(frame)
                serves = self._serve(task)
        self._sandboxes.close()

    def _restart_interpreter(self, frame: Frame) -> None:
        """Replace the program of this process by a fresh interpreter, which runs the task and those after it.

        For the agent it is the same process, with the same id, group and socket. Returns only if replacing is
        impossible; the task then imports all local modules again in this interpreter.
        """
        self._sandboxes.close()
        try:
            with tempfile.TemporaryFile(dir=self._home) as handover:
                handover.write(frame.packed())
                handover.seek(0)
                handover.flush()
                os.set_inheritable(handover.fileno(), True)
                self._sock.set_inheritable(True)
                worker_arguments = [str(self._sock.fileno()), self._name, self._home, str(self._grace_s)]
                worker_arguments += [str(self._journal.segment), str(handover.fileno())]
                arguments = [*worker_command(sys.executable), "worker", *worker_arguments]
                environment = self._state.process_environment
                os.execve(sys.executable, arguments, environment)  # noqa: S606 - no shell wanted
        except OSError as error:
            self._sock.set_inheritable(False)
            _log(f"no fresh interpreter for {self._name}: {error}")

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
        with contextlib.suppress(OSError):  # a full disk: the agent still receives the end below
            header["segment"] = self._journal.roll()
        message = pack({"segment": self._journal.segment, **header}, ended.result)
        try:
            self._journal.append(message)
        except OSError as error:
            _log(f"the end of {task.instance_id} could not be recorded: {error}")
        with contextlib.suppress(OSError):  # the agent is gone: the record is enough
            self._sock.sendall(message)
        if clean:
            with contextlib.suppress(OSError):
                self._sandboxes.refill()
        return clean

    def _run(self, task: Task) -> FinishedTask:
        try:
            sandbox = self._sandboxes.acquire(task.instance_id)
        except OSError as error:
            return self._unlaunched(task, f"no sandbox: {error}")
        if task.python is None:  # Cook's clients read the sandboxes of commands, even empty ones
            self._shell_started = False
            try:
                ended, written = self._run_command(task, sandbox), True
            except OSError as error:
                if self._shell_started:
                    raise
                ended, written = self._unlaunched(task, f"its shell cannot be started: {error}"), True
            sandbox.close()
        else:
            ended = self._run_call(task, sandbox)
            written = self._sandboxes.release(sandbox)
        return ended._replace(end=ended.end._replace(written=written))

    # --- calls ------------------------------------------------------------------------------------

    def _run_call(self, task: Task, sandbox: Sandbox) -> FinishedTask:
        from cook_jupyter.payload.calls import CallOutcome, run_call

        outcome: CallOutcome | None = None
        reason = ""
        was_started = False

        def call() -> CallOutcome:
            nonlocal was_started
            was_started = True
            return run_call(task.env, job_id=task.job_id, instance_id=task.instance_id)

        processes.reset_peak()
        try:
            variables = task_environment(task, sandbox.path)
            self._state.enter(sandbox, variables, segment=self._journal.segment)
            outcome = self._state.run(call)
        except BaseException as error:  # noqa: BLE001 - run_call only raises if the call patched what it uses
            reason = f"{type(error).__name__}: {error}"
        finally:
            if _getpid() != self._pid:
                _leave_fork(outcome is not None and outcome.exit_code == 0)
            peak_mb = processes.peak_mb() - self._fresh_resident_mb  # a system call, without opening a file
            self._libc.fflush(None)
            self._residue = self._state.restore()
        if not was_started:
            return self._unlaunched(task, reason)
        if outcome is not None and not outcome.begun:
            return self._unlaunched(task, "the call could not be read; see its stderr")
        if outcome is None:
            os.write(sandbox.stderr, f"cook_jupyter: the call broke its worker: {reason}\n".encode())
        progress = None
        if os.fstat(sandbox.stdout).st_size or os.fstat(sandbox.stderr).st_size:
            progress = ProgressReader(_streams(sandbox), task.progress_regex).read_new(at_end=True)
        end = TaskExit(task.instance_id, 1, now_ms(), peak_mb=max(0.0, peak_mb), progress=progress)
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

    def _unlaunched(self, task: Task, reason: str) -> FinishedTask:
        """Return the end of a task that failed before any code of its user ran: a failure of the system.

        The worker is retired, because it may be the cause.
        """
        _log(f"{task.instance_id} was not started: {reason}")
        self._residue = Residue(remaining=(reason,))
        return FinishedTask(TaskExit(task.instance_id, None, now_ms()))

    # --- commands ---------------------------------------------------------------------------------

    def _run_command(self, task: Task, sandbox: Sandbox) -> FinishedTask:
        environment = {**self._state.environment, **task_environment(task, sandbox.path)}
        if is_call(task.env):
            environment.update(package_variables(environment.get("PYTHONPATH")))
        progress = ProgressReader(
            (*_streams(sandbox), progress_path(environment, sandbox.path)), task.progress_regex
        )
        with _Signals() as signals:
            try:
                shell = subprocess.Popen(
                    ["/bin/sh", "-c", task.command],
                    cwd=sandbox.path,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=sandbox.stdout,
                    stderr=sandbox.stderr,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                ended = _not_started(task, sandbox, error)
                return ended if ended.end.exit_code is not None else self._unlaunched(task, str(error))
            self._shell_started = True
            self._record_shell(task, shell.pid)
            status, peak_mb = self._wait(task, shell.pid, signals, progress)
            shell.returncode = os.waitstatus_to_exitcode(status)
            processes.signal_group(shell.pid, signal.SIGKILL)
            processes.end_descendants()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        exit_code = 128 + number if number else os.WEXITSTATUS(status)
        if task.closing_lines:
            closing_lines = f"Command exited with status {exit_code}\nExecutor completed execution\n"
            with contextlib.suppress(OSError):
                os.write(sandbox.stdout, closing_lines.encode())
        end = TaskExit(
            task.instance_id,
            exit_code,
            now_ms(),
            signal=number,
            termed=signals.termed,
            peak_mb=peak_mb,
            progress=progress.read_new(at_end=True),
        )
        return FinishedTask(_with_result(end, task, sandbox))

    def _record_shell(self, task: Task, pid: int) -> None:
        """Record which process group to kill in case this process and the agent are both killed."""
        header = {"t": "shell", "id": task.instance_id, "pid": pid, "mark": processes.process_identity(pid)}
        with contextlib.suppress(OSError):
            self._journal.append(pack(header))

    def _wait(
        self, task: Task, pid: int, signals: "_Signals", progress: ProgressReader
    ) -> tuple[int, float | None]:
        """Wait for the shell; return its status, and the peak memory of its largest process if known."""
        kill_at: float | None = None
        own_peak_mb = processes.peak_mb()
        while True:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                peak_mb = used.ru_maxrss * (1 / 1024 if processes.LINUX else 1 / 2**20)
                # A forked child inherits the peak of its parent until it calls exec.
                return status, peak_mb if peak_mb > own_peak_mb else None
            if signals.termed and kill_at is None:
                processes.signal_group(pid, signal.SIGTERM)
                processes.signal_group(pid, signal.SIGCONT)  # a stopped process does not receive SIGTERM
                kill_at = time.monotonic() + self._grace_s
            if kill_at is not None and (signals.terms > 1 or time.monotonic() >= kill_at):
                processes.signal_group(pid, signal.SIGKILL)
            self._send_progress(task, progress)
            signals.wait(
                _POLL_INTERVAL_S
                if kill_at is None
                else max(0.01, min(_POLL_INTERVAL_S, kill_at - time.monotonic()))
            )

    def _send_progress(self, task: Task, progress: ProgressReader) -> None:
        if (latest := progress.read_new()) is not None:
            with contextlib.suppress(OSError):
                self._sock.sendall(pack({"t": "progress", "id": task.instance_id, "progress": latest}))


def resume_worker(words: list[str]) -> None:
    """Continue as the worker that replaced its program by this one.

    Args:
        words: arguments from `Worker._restart_interpreter`.
    """
    descriptor, name, home, grace_s, segment, handover = words
    with open(int(handover), "rb") as file:
        (frame,) = whole_frames(file.read())
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    processes.become_subreaper()
    Worker(sock, name=name, home=home, grace_s=float(grace_s), segment=int(segment)).serve(frame)


def _leave_fork(is_success: bool) -> NoReturn:
    """End a forked process that has returned from the call; only the worker itself reports."""
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    _exit(0 if is_success else 1)


def _has_stale_modules() -> bool:
    from cook_jupyter.payload.call_context import has_stale_modules

    return has_stale_modules()


class _Signals:
    """Wakes this process up for SIGCHLD and SIGTERM while a command runs; neither signal ends it."""

    def __init__(self) -> None:
        self.terms = 0

    @property
    def termed(self) -> bool:
        """Whether SIGTERM has arrived."""
        return self.terms > 0

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._old_wakeup_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda _number, _frame: None),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_term),
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup_fd)
        self._read.close()
        self._write.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal."""
        select.select([self._read], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)

    def _on_term(self, _number: int, _frame: FrameType | None) -> None:
        self.terms += 1


def _not_started(task: Task, sandbox: Sandbox, error: OSError | ValueError) -> FinishedTask:
    """Return the end of a command that could not be started: the user's fault if it is invalid.

    It is the system's fault if, for instance, the sandbox was just removed or the machine lacks resources.
    """
    os.write(sandbox.stderr, f"cook_jupyter: the command could not be started: {error}\n".encode())
    is_invalid = isinstance(error, ValueError) or error.errno == errno.E2BIG
    return FinishedTask(TaskExit(task.instance_id, NOT_RUN if is_invalid else None, now_ms()))


def _with_result(end: TaskExit, task: Task, sandbox: Sandbox) -> TaskExit:
    """Add the result of a call that ran as a plain command to its end, if it left one."""
    if not is_call(task.env):
        return end
    try:
        with open(f"{sandbox.path}/{RESULT_FILE}", encoding="utf-8") as file:
            outcome = json.load(file)
        return end._replace(
            blob=str(outcome["blob"]), size=int(outcome["size"]), memory=bool(outcome["out_of_memory"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return end


def _streams(sandbox: Sandbox) -> Iterator[str]:
    return iter((f"{sandbox.path}/stdout", f"{sandbox.path}/stderr"))


def _log(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"worker {os.getpid()}: {printable_line(text)}\n".encode())
