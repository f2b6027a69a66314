"""Starting the node agent as a process of its own: one per home, whoever starts it and how often.

Lives here: letting go of the process that started it, and its own limits.
Not here: its folder, with the lock and the socket (`worker.home`), what the agent does (`worker.agent`), who
starts it (`clusters.local`).
"""

import contextlib
import os
import resource
import signal

from cook_jupyter.worker.address import ALREADY_RUNNING, FAILED, READY
from cook_jupyter.worker.agent import Agent, AgentSettings
from cook_jupyter.worker.home import AgentHome, HomeTaken

_MOST_FILES = 8192


def run_agent(settings: AgentSettings) -> int:
    """Be the agent of a home until it is done; return an exit code."""
    home = _prepare(settings)
    if home is None:
        return ALREADY_RUNNING
    _serve(settings, home, ready=None)
    return READY


def start_agent(settings: AgentSettings, log: str) -> int:
    """Leave an agent running, in a session of its own; return when it can be spoken to.

    Args:
        settings: how it behaves.
        log: where its stdout and stderr go.

    Returns:
        READY, TAKEN or FAILED: the log says why.
    """
    log = os.path.abspath(log)  # the agent changes its directory
    heard, said = os.pipe()
    if os.fork():
        os.close(said)
        word = os.read(heard, 16)
        return int(word) if word else FAILED
    os.close(heard)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, of in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, of)
    home = _prepare(settings)
    if home is None:
        os.write(said, str(ALREADY_RUNNING).encode())
        return ALREADY_RUNNING
    _serve(settings, home, ready=said, log_file=log)
    return READY


def _prepare(settings: AgentSettings) -> AgentHome | None:
    """The home, which is ours alone now; None if it is another agent's."""
    try:
        return AgentHome(settings.home)
    except HomeTaken:
        return None


def _serve(settings: AgentSettings, home: AgentHome, ready: int | None, log_file: str | None = None) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)  # not SIG_IGN: our children would inherit that
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    agent = Agent(settings, home, log_file)
    home.write_facts()
    if ready is not None:
        with contextlib.suppress(BrokenPipeError):  # whoever started us is gone; others will come
            os.write(ready, str(READY).encode())
        os.close(ready)
    agent.run()
    home.leave()
