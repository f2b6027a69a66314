"""The log of the node agent and its spawners: lines on their stderr, which is a file.

Lives here: `log`. (The module `logging` would cost a tenth of the agent's start.)
"""

import contextlib
import os
import time


def log(text: str) -> None:
    """Write a line."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}: {text}\n".encode())
