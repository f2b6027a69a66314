"""Start programs, and end all that they leave behind: `supervisor.py DIRECTORY`, in a process of its own.

Reads orders from its standard input, one line of JSON each, and answers each with a line:

    {"order": "start", "name": ..., "program": ..., "environment": {...}, "directory": ..., "log": ...}
    {"order": "signal", "name": ..., "number": ...}    with SIGKILL, the answer comes after the end
    {"order": "status"}

An answer is `{name: {"pid": ..., "running": ...}}`, or `{"error": ...}`. At the end of its input, on SIGTERM,
or when its parent has ended, it kills the programs and their descendants, including daemons, removes the
directory, and exits.

Standard library only: it runs without site-packages.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_REAP_INTERVAL_S = 0.2


class Supervisor:
    """The programs by name, and the orphans that this process has adopted."""

    def __init__(self) -> None:
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out an order, and return the answer."""
        match order.pop("order"):
            case "start":
                self.start(**order)
            case "signal":
                self.send_signal(**order)
        self.reap()
        return {
            name: {"pid": program.pid, "running": program.returncode is None}
            for name, program in self._programs.items()
        }

    def start(
        self, *, name: str, program: str, environment: dict[str, str], directory: str, log: str
    ) -> None:
        """Start a program in a session of its own."""
        with Path(log).open("ab") as output:
            self._programs[name] = subprocess.Popen(
                [program],
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send_signal(self, *, name: str, number: int) -> None:
        """Send a signal to a program that runs."""
        program = self._programs[name]
        if program.poll() is None:
            program.send_signal(number)
            if number == signal.SIGKILL:
                program.wait()

    def reap(self) -> list[int]:
        """Reap programs and orphans that have ended; return the pids of orphans that run."""
        for program in self._programs.values():
            program.poll()
        programs = {program.pid for program in self._programs.values() if program.returncode is None}
        return [pid for pid in _children() - programs if os.waitpid(pid, os.WNOHANG) == (0, 0)]

    def stop(self) -> None:
        """Kill everything."""
        for name in self._programs:
            self.send_signal(name=name, number=signal.SIGKILL)
        while orphans := self.reap():
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def _children() -> set[int]:
    """Return the child processes of this process."""
    me = os.getpid()
    children = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == me:
            children.add(int(entry.name))
    return children


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Take orders until there are no more."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the tests, not for their cluster
    parent = os.getppid()
    supervisor = Supervisor()
    buffer = b""
    try:
        # A fork of the parent may hold the other end of our input open: look at the parent, too.
        while os.getppid() == parent:
            supervisor.reap()
            if not select.select([0], [], [], _REAP_INTERVAL_S)[0]:
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                try:
                    answer = supervisor.carry_out(json.loads(line))
                except (OSError, KeyError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                os.write(1, json.dumps(answer).encode() + b"\n")
    finally:
        supervisor.stop()
        shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
