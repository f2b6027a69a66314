"""Where a local cluster stands in tests: a folder, its agent, and the processes that came of it.

Also calls, as the executor makes them: `site.call(function, ...)`.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from cook_jupyter.clusters.base import ComputeCluster, Launch
from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.model.instance import StatusUpdate
from cook_jupyter.model.job import JobId
from cook_jupyter.payload.blobs import DirectoryStore
from cook_jupyter.payload.encoding import call_environment, encode_call, encode_function
from cook_jupyter.payload.keys import read_or_make_key
from cook_jupyter.payload.requirements import HostRequirements
from cook_jupyter.payload.results import CallResult, read_result
from cook_jupyter.worker.address import SOCKET
from tests.builders import a_job_spec, an_instance
from tests.waiting import HANG_S


class LocalSite:
    """One home. All processes of it carry its path in their command line or environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "agent"
        self.key_file = folder / "keys" / "ada"
        self.key = read_or_make_key(self.key_file)
        (folder / "blobs").mkdir(mode=0o700)
        self.store = DirectoryStore(folder / "blobs")

    def cluster(self, **fields: Any) -> LocalCluster:
        """A cluster of 4 cpus that is quick to kill."""
        settings: dict[str, Any] = {"cpus": 4.0, "mem_mb": 2048.0, "pools": ("default", "other")}
        return LocalCluster(home=self.home, **{**settings, "kill_grace_s": 1.0, **fields})

    async def settle(self, cluster: ComputeCluster) -> None:
        """Stop the agent, if it still runs, and all it has."""
        assert isinstance(cluster, LocalCluster)
        await cluster.stop_agent()

    def call(
        self, function: Callable[..., Any], *args: Any, python: str = sys.executable, **spec: Any
    ) -> Launch:
        """A launch of a call, as an executor submits it."""
        blob = encode_function(function)
        self.store.put(blob.name, blob.pieces)
        job_id = JobId(str(uuid4()))
        sealed = encode_call(
            blob.reference, args, {}, key=self.key, job_id=job_id, private=self.store.private
        )
        requirements = HostRequirements(
            interpreter=python, store_url=self.store.url, key_file=str(self.key_file)
        )
        env = call_environment(sealed, job_id=job_id, store=self.store, requirements=requirements)
        env = {**env, **spec.pop("env", {})}
        job = a_job_spec(job_id=job_id, command=requirements.command, env=env, **{"mem_mb": 512.0, **spec})
        return Launch(spec=job, instance=an_instance(job_id))

    def read(self, end: StatusUpdate, launch: Launch) -> CallResult:
        """What came of a call."""
        assert end.result is not None, self.stderr(launch)
        inline, blob = end.result.inline, end.result.blob
        if inline is None:
            assert blob is not None
        return read_result(
            bytearray(inline) if inline is not None else self.store.get(blob or ""),
            key=self.key,
            job_id=launch.spec.job_id,
            instance_id=launch.instance.instance_id,
            private=self.store.private,
        )

    def sandbox(self, launch: Launch) -> Path:
        """The directory of an instance."""
        return self.home / "sandboxes" / launch.instance.instance_id

    def stdout(self, launch: Launch) -> str:
        """What it wrote; nothing if it has no sandbox."""
        return self._text(launch, "stdout")

    def stderr(self, launch: Launch) -> str:
        """What it complained of."""
        return self._text(launch, "stderr")

    def processes(self) -> dict[int, str]:
        """All living processes that have to do with this home."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if state not in "ZX" and str(self.home).encode() in said:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def agent_pid(self) -> int:
        """The agent of this home."""
        for pid, words in self.processes().items():
            if " agent --home " in words:
                return pid
        raise LookupError("there is no agent")

    def spawner_pid(self) -> int:
        """The process that forks the workers: the one whose parent is the agent."""
        agent = self.agent_pid()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == agent:
                    return pid
        raise LookupError("the agent has no spawner")

    def end_everything(self) -> dict[int, str]:
        """Wait for the processes of this home to leave; kill and return those that do not."""
        deadline = time.monotonic() + HANG_S
        left = self.processes()
        while left and time.monotonic() < deadline and not self._agent_waits(left):
            time.sleep(0.01)
            left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def _agent_waits(self, left: dict[int, str]) -> bool:
        """Whether the agent lives and has not been told to go: waiting for it is no use."""
        return any(" agent --home " in words for words in left.values()) and (self.home / SOCKET).exists()

    def _text(self, launch: Launch, stream: str) -> str:
        path = self.sandbox(launch) / stream
        return path.read_text(errors="replace") if path.exists() else ""
