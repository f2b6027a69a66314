"""A real ZooKeeper of its own for tests, from Debian's package.

Lives here: `LocalZooKeeper`, which starts, kills and restarts one server on a free port.
Not here: what masters write into it; tests do that themselves.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.conftest import missing_part
from tests.waiting import wait_until

JAR = Path("/usr/share/java/zookeeper.jar")
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
INSTALL_S = 240


class LocalZooKeeper:
    """A server; a context manager."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cook-zookeeper-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, with what it knew before; return when it serves."""
        config = self._folder / "zoo.cfg"
        config.write_text(
            f"tickTime=200\ndataDir={self._folder}/data\nclientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxSessionTimeout=60000\n"
            "4lw.commands.whitelist=srvr\n"
        )
        options = ["-Xmx64m", "-XX:TieredStopAtLevel=1", "-Dzookeeper.fsync.warningthresholdms=60000"]
        with (self._folder / "out.log").open("ab") as output:
            self._process = subprocess.Popen(
                ["java", *options, "-cp", str(JAR), MAIN, str(config)], stdout=output, stderr=output
            )
        wait_until(self._serves, "ZooKeeper serves")

    def kill(self) -> None:
        """End the server with -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "out.log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"srvr")
                return connection.recv(1000).startswith(b"Zookeeper version")
        except OSError:
            return False


def install_zookeeper() -> None:
    """Install Debian's package if it is missing and we may; otherwise the test is skipped."""
    if _is_installed():
        return
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        options = ["-qq", "-o", "DPkg::Lock::Timeout=120"]
        for command in (["update"], ["install", "-y", "--no-install-recommends", "zookeeper"]):
            subprocess.run(
                ["apt-get", *options, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=INSTALL_S,
                check=False,
            )
    if not _is_installed():
        missing_part("no ZooKeeper: install Debian's package 'zookeeper'")


def _is_installed() -> bool:
    return JAR.exists() and shutil.which("java") is not None
