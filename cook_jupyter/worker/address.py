"""Names and numbers that both sides of the node agent's socket need.

Lives here: constants only, so that a scheduler that talks to an agent need not import one.
Not here: the agent (`worker.agent`), how it is started (`worker.daemon`).
"""

from typing import Final

SOCKET: Final = "agent.sock"  # in the agent's home
LOCK: Final = "agent.lock"  # held while the agent lives
SECRET: Final = "agent.secret"  # noqa: S105 - file with the secret that a scheduler must send
VERSION: Final = 2  # of the messages and of the journals

# Exit codes of starting an agent.
READY: Final = 0
FAILED: Final = 1
ALREADY_RUNNING: Final = 3  # this home has an agent already
