"""What a scheduler begins before it is there itself.

Lives here: the lock that keeps two schedulers out of one home, and the start of the node agent, so
that it comes up on another core while this process still imports what it needs. Light on purpose: it
is imported before the rest of the service.
Not here: the scheduler (`service.process.embedded`), which finds the agent and speaks to it.
"""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cook_jupyter.clusters.local.agent_command import agent_options, start_detached
from cook_jupyter.errors import Conflict
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings

LOCK_TIMEOUT_S = 0.5  # a client that asks whether the lock is free holds it for some microseconds


@contextmanager
def sole_owner(home: Home) -> Iterator[None]:
    """Hold the home's lock; it is let go when this process ends, however it ends.

    Raises:
        Conflict: another scheduler runs in this home.
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
                    f"a scheduler runs already in {home.root}: `cook-jupyter status` shows it,"
                    " `cook-jupyter down` ends it"
                ) from error
            time.sleep(0.01)
        else:
            return


def start_agent(settings: Settings, home: Home) -> "subprocess.Popen[bytes]":
    """Begin to start this home's node agent, unless one runs; the caller reaps the starter."""
    options = agent_options(
        kill_grace_s=settings.local_cluster.kill_grace_s, idle_exit_s=settings.local_cluster.agent_idle_exit_s
    )
    return start_detached(home.agent, home.logs / "agent.log", options)
