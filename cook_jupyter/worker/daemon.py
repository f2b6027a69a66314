"""Start the node agent as a process of its own: one per home, however often it is started.

Lives here: detaching from the process that starts it, and its resource limits.
Not here: its home directory with lock and socket (`worker.home`), what the agent does (`worker.agent`), when
it is started (`clusters.local`).
"""

import contextlib
import os
import signal

from cook_jupyter.worker import processes
from cook_jupyter.worker.address import ALREADY_RUNNING, FAILED, READY
from cook_jupyter.worker.agent import Agent, AgentSettings
from cook_jupyter.worker.home import AgentHome, HomeTaken


def run_agent(settings: AgentSettings) -> int:
    """Run the agent of a home until it exits; return an exit code."""
    home = _prepare(settings)
    if home is None:
        return ALREADY_RUNNING
    _serve(settings, home, ready=None)
    return READY


def start_agent(settings: AgentSettings, log: str) -> int:
    """Start an agent in a session of its own; return when it accepts connections.

    Args:
        settings: timeouts and home directory of the agent.
        log: file for its stdout and stderr.

    Returns:
        READY, ALREADY_RUNNING or FAILED; the log has the reason.
    """
    log = os.path.abspath(log)  # the agent changes its directory
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        word = os.read(read_end, 16)
        return int(word) if word else FAILED
    os.close(read_end)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    home = _prepare(settings)
    if home is None:
        os.write(write_end, str(ALREADY_RUNNING).encode())
        return ALREADY_RUNNING
    _serve(settings, home, ready=write_end, log_file=log)
    return READY


def _prepare(settings: AgentSettings) -> AgentHome | None:
    """Return the home, locked for this process; None if another agent holds it."""
    try:
        return AgentHome(settings.home)
    except HomeTaken:
        return None


def _serve(settings: AgentSettings, home: AgentHome, ready: int | None, log_file: str | None = None) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(
            number, lambda _number, _frame: None
        )  # not SIG_IGN, which child processes would inherit
    processes.raise_file_limit()
    agent = Agent(settings, home, log_file)
    home.write_facts()
    if ready is not None:
        with contextlib.suppress(BrokenPipeError):  # the process that started the agent is gone
            os.write(ready, str(READY).encode())
        os.close(ready)
    agent.run()
    home.leave()
