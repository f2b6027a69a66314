"""A scheduler process on a real Mesos, which a test may kill and start again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cook_jupyter.client.connect import connect
from cook_jupyter.client.sync import JobClient
from tests.mesos.harness import USER
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.waiting import HANG_S, wait_until

FINAL_STATES = frozenset({"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST"})


class MesosScheduler:
    """`cook-jupyter serve` with one cluster of Mesos; a context manager, which tears the framework down.

    Args:
        mesos: the Mesos.
        home: home directory of the scheduler.
        cluster: options of the cluster that differ from those of tests.
        tables: further tables of the settings file, as TOML.
    """

    def __init__(
        self, mesos: LocalMesos, home: Path, *, cluster: Mapping[str, Any] | None = None, tables: str = ""
    ) -> None:
        self.mesos = mesos
        self.home = home
        options = {
            "type": "mesos",
            "master": mesos.master.removeprefix("http://"),
            "run_as": USER,
            "executor_python": sys.executable,
            "kill_grace_s": 1.0,
            **(cluster or {}),
        }
        home.mkdir(parents=True, exist_ok=True)
        self.settings = home / "settings.toml"  # also that of a scheduler which a client starts
        lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
        self.settings.write_text("\n".join(["[[clusters]]", *lines, tables, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        print(f"the log of the scheduler, for a test that fails:\n{self.log[-10_000:]}")
        self.kill()
        self.tear_down()

    @property
    def log(self) -> str:
        """What the schedulers have logged, those that clients have started at the end."""
        logs = (self.home / "serve.log", self.home / "log" / "scheduler.log")
        return "".join(log.read_text() for log in logs if log.exists())

    def start(self) -> None:
        """Start the scheduler, and wait until it answers."""
        command = [sys.executable, "-m", "cook_jupyter", "serve"]
        with (self.home / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "COOK_JUPYTER_HOME": str(self.home)},
                stdout=log,
                stderr=log,
                cwd=self.home,
            )
        wait_until(lambda: self.pid() is not None or self._has_ended(), "the scheduler answers")
        assert not self._has_ended(), self.log

    def kill(self) -> None:
        """Kill the scheduler, whoever has started it, and wait for its end. Clients start another one."""
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if self._process is not None and self._process.pid == pid:
                self._process.wait(HANG_S)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the scheduler is dead")

    def wait(self) -> int:
        """Wait until the scheduler that this object has started ends by itself, and return its exit code."""
        assert self._process is not None
        return self._process.wait(HANG_S)

    def pid(self) -> int | None:
        """The process that the runtime file names; None if there is no such file."""
        try:
            return int(json.loads((self.home / "scheduler.json").read_text())["pid"])
        except FileNotFoundError:
            return None

    def client(self) -> JobClient:
        """A client of the scheduler, which is started if there is none."""
        return connect()

    def tasks(self) -> dict[str, str]:
        """The tasks that the master knows and that have not ended, with their states."""
        answer = self.mesos.call("GET_TASKS")
        tasks = [*answer.get("tasks", []), *answer.get("unreachable_tasks", [])]
        return {
            task["task_id"]["value"]: task["state"] for task in tasks if task["state"] not in FINAL_STATES
        }

    def framework_ids(self) -> list[str]:
        """The frameworks of ours that the master knows."""
        frameworks = self.mesos.call("GET_FRAMEWORKS").get("frameworks", [])
        return [
            one["framework_info"]["id"]["value"]
            for one in frameworks
            if one["framework_info"]["name"] == "cook_jupyter"
        ]

    def tear_down(self) -> None:
        """Remove our frameworks with all their tasks."""
        for framework_id in self.framework_ids():
            self.mesos.call("TEARDOWN", framework_id={"value": framework_id})

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


def settle(scheduler: MesosScheduler) -> float:
    """Wait until no task is left in Mesos; return how long it took in seconds."""
    begun = time.monotonic()
    wait_until(lambda: not scheduler.tasks(), "no task is left over")
    return time.monotonic() - begun
