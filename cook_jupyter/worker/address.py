"""How the node agent of a home is reached: words that both sides of its socket must know.

Lives here: names and numbers alone, so that a scheduler that talks to an agent need not import one.
Not here: the agent (`worker.agent`), how it is started (`worker.daemon`).
"""

from typing import Final

SOCKET: Final = "agent.sock"  # in the agent's home
LOCK: Final = "agent.lock"  # held by the living agent
SECRET: Final = "agent.secret"  # noqa: S105 - a file beside it; a scheduler shows what it holds
VERSION: Final = 2  # of what is said over it and of what the journals hold

# What starting an agent can come to, as exit codes.
READY: Final = 0
FAILED: Final = 1
ALREADY_RUNNING: Final = 3  # this home has an agent already
