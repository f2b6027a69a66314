"""Start the embedded scheduler as a process of its own, exactly once.

Lives here: the lock by which concurrent starts result in one scheduler, the process, and waiting until it
listens.
Not here: the scheduler itself (`cook-jupyter serve`), which the notebook side never imports.
"""

import fcntl
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cook_jupyter.client.home import private_folder
from cook_jupyter.client.runtime import OWNER_LOCK, RuntimeFile, StaleRuntimeFile, read_runtime
from cook_jupyter.errors import SchedulerUnreachable
from cook_jupyter.model.printable import printable

START_TIMEOUT_S = 30.0
LOG_LINES = 12
_NEEDED = ("apsw", "numpy", "tornado")  # the main packages of the extra [scheduler]
_POLL_INTERVAL_S = 0.005


@contextmanager
def start_lock(home: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock for starting a scheduler in `home`, after others have released it.

    Raises:
        SchedulerUnreachable: another process held it for all of `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(private_folder(home) / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SchedulerUnreachable(
                        f"another process has been starting the scheduler for {timeout_s:g} s; "
                        f"see {_log(home)}"
                    ) from None
                time.sleep(_POLL_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)


def start_embedded(home: Path, timeout_s: float = START_TIMEOUT_S) -> RuntimeFile | None:
    """Start a scheduler in `home`, detached from this process, and wait until it listens.

    It reads the settings file of the scheduler that it replaces: one with other clusters would not know the
    instances that run.

    To be called within `start_lock`, if no living scheduler has left a runtime file.

    Returns:
        The runtime file of the scheduler; None if it listened but has ended since.

    Raises:
        SchedulerUnreachable: its packages are not installed, it ended at once (the message has the end of its
            log), or it did not listen in time.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SchedulerUnreachable(
            f"no scheduler was found, and none can be started here without {', '.join(missing)}: "
            "pip install 'cook_jupyter[scheduler]', or specify a scheduler in COOK_JUPYTER_URL"
        )
    deadline = time.monotonic() + timeout_s
    predecessor = _wait_for_predecessor(home, deadline)
    if predecessor is not None:
        return predecessor
    log = _log(home)
    private_folder(log.parent)
    begin = log.stat().st_size if log.exists() else 0
    dead = read_runtime(home)
    process = _spawn(home, log, dead.config if isinstance(dead, StaleRuntimeFile) else "")
    # Reaped as soon as it ends: a zombie would look alive to those who only check for its id.
    threading.Thread(target=process.wait, name="cook-scheduler-reaper", daemon=True).start()

    while True:
        runtime = read_runtime(home)
        if isinstance(runtime, RuntimeFile):
            return runtime
        if process.poll() is not None:
            # Another process may have started one, and been killed since.
            other = _wait_for_predecessor(home, deadline)
            if other is not None:
                return other
            if isinstance(runtime, StaleRuntimeFile) and runtime.pid == process.pid:
                return None
            raise SchedulerUnreachable(
                f"the scheduler ended with exit code {process.returncode} as soon as it was started. "
                f"The end of {log}:\n{_tail(log, begin)}"
            )
        if time.monotonic() > deadline:
            raise SchedulerUnreachable(
                f"the scheduler (process {process.pid}) was started but does not listen "
                f"after {timeout_s:g} s. The end of {log}:\n{_tail(log, begin)}"
            )
        time.sleep(_POLL_INTERVAL_S)


def _wait_for_predecessor(home: Path, deadline: float) -> RuntimeFile | None:
    """Wait until no scheduler owns the home, or its owner has written a runtime file, which is returned.

    A scheduler that is just ending has no runtime file any more; one that another process, perhaps killed
    since, has just started has none yet.
    """
    try:
        descriptor = os.open(home / OWNER_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                runtime = read_runtime(home)
                if isinstance(runtime, RuntimeFile):
                    return runtime
                if time.monotonic() > deadline:
                    raise SchedulerUnreachable(
                        f"a scheduler is running in {home} but its runtime file is missing: it is suspended,"
                        " hangs, or is just starting. If it stays so, stop it (`ps` shows it as `cook_jupyter"
                        " serve`) and try again"
                    ) from None
                time.sleep(_POLL_INTERVAL_S)
    finally:
        os.close(descriptor)


def _spawn(home: Path, log: Path, config: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "COOK_JUPYTER_HOME": str(home)}
    # The frontend's own settings (such as a kernel's debugger) are not for the scheduler.
    for name in ("PYTHONBREAKPOINT", "PYTHONINSPECT", "MPLBACKEND"):
        environment.pop(name, None)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            # -P: a file `tornado.py` beside the notebook must not become the scheduler's tornado.
            [sys.executable, "-P", "-m", "cook_jupyter", "serve", "--embedded"]
            + (["--config", config] if config else []),
            cwd=home,  # it outlives the notebook, and must not block its directory
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.close(output)


def _log(home: Path) -> Path:
    return home / "log" / "scheduler.log"


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        text = printable(file.read().decode("utf-8", "replace").strip(), lines=True)
    return "\n".join(text.splitlines()[-LOG_LINES:]) or "(no output)"
