"""What a scheduler does before most of its modules are imported.

Lives here: the lock that keeps two schedulers out of one home directory, and the start of the node agent, so
that it starts on another core while this process is still importing. This module imports little on purpose.
Not here: the scheduler (`service.process.embedded`), which finds the agent and connects to it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cook_jupyter.clusters.local.agent_command import agent_options, start_detached
from cook_jupyter.errors import Conflict
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings

LOCK_TIMEOUT_S = 0.5  # a client that checks whether the lock is free holds it for some microseconds
POLL_INTERVAL_S = 0.01


@contextmanager
def hold_home_lock(home: Home) -> Iterator[None]:
    """Hold the lock of a home directory; it is released when this process ends, however it ends.

    Raises:
        Conflict: another scheduler is running in this home directory.
    """
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, home)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, home: Home) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise Conflict(
                    f"a scheduler is already running in {home.root}: `cook-jupyter status` shows it,"
                    " `cook-jupyter down` stops it"
                ) from error
            time.sleep(POLL_INTERVAL_S)
        else:
            return


def prestart_agent(settings: Settings, home: Home) -> AbstractContextManager[object]:
    """Start the node agent of a home directory, unless it is running or no cluster needs it.

    Returns:
        the starter process, for which the caller must wait.
    """
    local = settings.local_cluster
    if local is None:
        return nullcontext()
    options = agent_options(kill_grace_s=local.kill_grace_s, idle_exit_s=local.agent_idle_exit_s)
    return start_detached(home.agent, home.logs / "agent.log", options)
