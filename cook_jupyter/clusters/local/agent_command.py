"""The command line of the node agent.

Lives here: the words, so that whoever starts an agent starts the same one, and `start_detached` for
those who do not want to wait for it. Kept light: it is imported before anything else of a scheduler.
Not here: finding a running agent and speaking to it (`clusters.local.connection`).
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def agent_words(home: Path, log: Path, options: Sequence[str]) -> list[str]:
    """Return the command that leaves an agent of this home running and ends when it listens.

    Args:
        home: the agent's folder.
        log: where the agent's own words go.
        options: further words, see `agent_options`.
    """
    # -P: a file beside the caller must not become a module of the agent's.
    module = [sys.executable, "-P", "-m", "cook_jupyter.worker", "agent"]
    return [*module, "--home", str(home), "--detach", str(log), *options]


def agent_options(
    *, kill_grace_s: float, idle_exit_s: float, housekeeping_s: float | None = None
) -> tuple[str, ...]:
    """Return the words for how an agent behaves; None leaves what is usual."""
    words = ("--grace", str(kill_grace_s), "--idle-exit", str(idle_exit_s))
    return words if housekeeping_s is None else (*words, "--housekeeping", str(housekeeping_s))


def start_detached(home: Path, log: Path, options: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Begin to start an agent, and do not wait: it starts while its scheduler still does.

    Harmless if one runs already; whatever goes wrong shows when the scheduler connects.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return subprocess.Popen(
        agent_words(home, log, options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
