"""Warm workers without an agent: a spawner, workers that it forks, and calls sent to one of them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cook_jupyter.clusters.translation import task_of
from cook_jupyter.payload.results import read_result
from cook_jupyter.worker.frames import Frame, FrameReader, Header, pack
from cook_jupyter.worker.task import end_of
from tests.clusters.harness import LocalSite
from tests.waiting import HANG_S


class CallEnd(NamedTuple):
    """The end of a call, as its worker reported it."""

    header: Header
    value: Any
    error: BaseException | None

    @property
    def remaining(self) -> list[str]:
        """What the worker is retired for."""
        return list(self.header.get("remaining", ()))


class WarmWorker:
    """One worker, spoken to as the agent does."""

    def __init__(self, site: LocalSite, sock: socket.socket) -> None:
        self._site = site
        self._sock = sock
        self._frames = Frames(sock)

    def call(self, function: Callable[..., Any], *arguments: Any, **spec: Any) -> CallEnd:
        """Run a call to its end."""
        launch = self._site.call(function, *arguments, **spec)
        self._sock.sendall(task_of(launch, ()).packed())
        frame = self._frames.next()
        if end_of(frame.header).exit_code is None or not frame.tail:
            return CallEnd(frame.header, None, None)
        result = read_result(
            bytearray(frame.tail),
            key=self._site.key,
            job_id=launch.spec.job_id,
            instance_id=launch.instance.instance_id,
            private=self._site.store.private,
        )
        return CallEnd(frame.header, result.value if result.error is None else None, result.error)

    def has_left(self) -> bool:
        """Wait for the worker to hang up."""
        return self._sock.recv(1) == b""


class WarmSpawner:
    """A spawner process.

    Args:
        site: home of its workers.
    """

    def __init__(self, site: LocalSite) -> None:
        self._site = site
        for folder in ("journal", "sandboxes"):
            (site.home / folder).mkdir(parents=True, exist_ok=True)
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(HANG_S)
        self._frames = Frames(self._sock)
        self._count = 0
        words = [sys.executable, "-P", "-m", "cook_jupyter.worker", "spawner"]
        with theirs:
            self.process = subprocess.Popen(
                [*words, str(theirs.fileno()), str(site.home), "1.0", "survive"], pass_fds=[theirs.fileno()]
            )
        assert self._frames.next().header["t"] == "ready"

    def worker(self) -> WarmWorker:
        """A new worker."""
        self._count += 1
        ours, theirs = socket.socketpair()
        ours.settimeout(HANG_S)
        with theirs:
            socket.send_fds(self._sock, [pack({"worker": f"w{self._count}"})], [theirs.fileno()])
            while self._frames.next().header["t"] != "born":
                pass  # others died
        return WarmWorker(self._site, ours)

    def close(self) -> None:
        """Let the spawner go."""
        self._sock.close()
        self.process.kill()
        self.process.wait()


class Frames:
    """The frames that arrive at a socket, one by one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._waiting: list[Frame] = []

    def next(self) -> Frame:
        """Wait for the next one."""
        while not self._waiting:
            data = self._sock.recv(1 << 18)
            assert data, "the other side has hung up"
            self._waiting = self._reader.feed(data)
        return self._waiting.pop(0)


def site_in(folder: Path) -> LocalSite:
    """A home whose journal and sandboxes exist."""
    os.umask(0o22)
    return LocalSite(folder)
