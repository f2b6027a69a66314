"""The log of the node agent and its spawners: lines on their stderr, which is a file.

Lives here: `log`, `log_exception`, `printable_line`. (The module `logging` would take a tenth of the agent's
start.)
"""

import contextlib
import os
import time


def log(text: str) -> None:
    r"""Write a line to the log; unprintable characters are escaped, as in `\x1b`."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}: {printable_line(text)}\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode())


def log_exception(text: str) -> None:
    """Write a line, and below it the traceback of the exception that is being handled."""
    import traceback  # rarely needed

    log(text)
    for line in traceback.format_exc().splitlines():
        log(f"  {line}")


def printable_line(text: str) -> str:
    r"""Return text as one line without control characters and lone surrogates, which jobs may contain."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
