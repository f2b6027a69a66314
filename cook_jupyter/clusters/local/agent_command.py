"""The command line of the node agent.

Lives here: the command, so that all callers start the same agent, and `start_detached` for callers that do
not wait for it. It imports little, since it is imported before everything else of a scheduler.
Not here: connecting to a running agent (`clusters.local.connection`).
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def agent_command(home: Path, log: Path, options: Sequence[str]) -> list[str]:
    """Return the command that starts an agent in the background and ends when the agent listens.

    Args:
        home: directory of the agent.
        log: log file of the agent.
        options: result of `agent_options`.
    """
    # -P: the agent must not import a file in the directory of the caller.
    module = [sys.executable, "-P", "-m", "cook_jupyter.worker", "agent"]
    return [*module, "--home", str(home), "--detach", str(log), *options]


def agent_options(
    *, kill_grace_s: float, idle_exit_s: float, housekeeping_s: float | None = None
) -> tuple[str, ...]:
    """Return the options of the command of an agent; None leaves the default."""
    words = ("--grace", str(kill_grace_s), "--idle-exit", str(idle_exit_s))
    return words if housekeeping_s is None else (*words, "--housekeeping", str(housekeeping_s))


def start_detached(home: Path, log: Path, options: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start an agent without waiting for it, while its scheduler is still starting.

    Harmless if an agent runs already. A failure becomes visible when the scheduler connects.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return subprocess.Popen(
        agent_command(home, log, options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
