"""Which master leads.

Lives here: addresses of masters, `LeaderDetector`, detection by a list of masters, and `leader_detector`,
which reads a setting.
Not here: detection by ZooKeeper (`clusters.mesos.transport.zookeeper`), following the redirect of a master
that does not lead (`clusters.mesos.transport.http_stream`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self
from urllib.parse import urlsplit

DEFAULT_PORT = 5050


@dataclass(frozen=True, slots=True)
class MasterAddress:
    """Where a master listens."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        """Return `host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in `host`, `host:port`, `[::1]:port` or a URL of any path.

        Raises:
            ValueError: it has none.
        """
        text = text.strip()
        try:
            parts = urlsplit(text if "//" in text else f"//{text}")
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError:
            host, port = None, 0
        if not host:
            raise ValueError(f"{text!r} is not the address of a Mesos master: write host:port")
        return cls(host, port)


class LeaderDetector(Protocol):
    """Tells which master to subscribe to."""

    async def start(self) -> None:
        """Begin to look. Called once, before the other methods."""

    async def close(self) -> None:
        """Stop looking."""

    async def candidate(self) -> MasterAddress:
        """Return the master that leads, or one that knows which does; wait until there is one."""

    def found(self, master: MasterAddress) -> None:
        """Note that a master has accepted a subscription."""

    def failed(self, master: MasterAddress) -> None:
        """Note that a master could not be reached, or did not lead."""

    async def replaced(self, master: MasterAddress) -> None:
        """Wait until another master than this one leads; for ever if that cannot be seen."""


def leader_detector(masters: str, *, by_hostname: bool = False) -> LeaderDetector:
    """Return a detector.

    Args:
        masters: `host:port,host:port`, or `zk://[user:password@]host:port,host:port/path`.
        by_hostname: whether masters found through ZooKeeper are addressed by host name, which TLS needs.

    Raises:
        ValueError: `masters` is neither.
    """
    if masters.startswith("zk://"):
        from cook_jupyter.clusters.mesos.transport.zookeeper import ZooKeeperDetector, ZooKeeperUrl

        return ZooKeeperDetector(ZooKeeperUrl.parse(masters), by_hostname=by_hostname)
    return MasterList([MasterAddress.parse(one) for one in masters.split(",") if one.strip()])


class MasterList:
    """Detects the leader by asking masters in turn; one that does not lead redirects to the one that does.

    Args:
        masters: addresses of at least one master.
    """

    def __init__(self, masters: Sequence[MasterAddress]) -> None:
        if not masters:
            raise ValueError("there is no address of a Mesos master: write host:port,host:port")
        self._masters = tuple(masters)
        self._next = 0
        self._leader: MasterAddress | None = None

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def candidate(self) -> MasterAddress:
        """Return the last leader, or the next of the masters if that has failed."""
        return self._leader or self._masters[self._next]

    def found(self, master: MasterAddress) -> None:
        """Prefer a master from now on."""
        self._leader = master

    def failed(self, master: MasterAddress) -> None:
        """Go on with the next master."""
        if self._leader is not None:
            self._leader = None
        elif master == self._masters[self._next]:
            self._next = (self._next + 1) % len(self._masters)

    async def replaced(self, master: MasterAddress) -> None:
        """Wait for ever: nobody tells, except by the end of the subscription."""
        await asyncio.get_running_loop().create_future()
