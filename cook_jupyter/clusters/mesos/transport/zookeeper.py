"""Which master leads, as ZooKeeper knows.

Lives here: `ZooKeeperDetector` and the URL of masters in ZooKeeper.
Not here: detection by a list of masters, and the choice between the two (`clusters.mesos.transport.leader`).

Each master that could lead has a node `json.info_N` below a path; the lowest N leads. Other nodes (`info_N`
of old masters, `log_replicas`) are of no concern here. ZooKeeper is only asked who leads: while it is away,
the last leader that was known counts, and a subscription that works goes on.

kazoo runs threads of its own; what they learn is handed to the event loop.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote

import msgspec

from cook_jupyter.clusters.mesos.transport.leader import MasterAddress
from cook_jupyter.errors import ClusterUnusable

if TYPE_CHECKING:
    from kazoo.client import KazooClient

SCHEME = "zk://"

log = logging.getLogger(__name__)

_NODE = "json.info_"
_SESSION_S = 10.0
_LONGEST_PAUSE_S = 5.0  # between attempts to connect
_REPEAT_S = 60.0  # for which a message of kazoo is not logged again
_STATES: Final[Mapping[str, str]] = MappingProxyType({"LOST": "lost", "SUSPENDED": "interrupted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooKeeperUrl:
    """Where masters write who leads.

    Attributes:
        hosts: servers, as `host:port,host:port`.
        path: path of the masters, with a slash before it.
        credential: `user:password` for ZooKeeper's digest authentication; empty without.
    """

    hosts: str
    path: str
    credential: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the URL `zk://[user:password@]host:port,host:port/path`.

        Raises:
            ValueError: it is of another form.
        """
        rest = text.removeprefix(SCHEME)
        location, slash, path = rest.partition("/")
        credential, _, hosts = location.rpartition("@")
        names = hosts.split(",")
        path = path.strip("/")
        if rest == text or not slash or not path or not all(names) or (credential and ":" not in credential):
            raise ValueError(
                "the URL of Mesos masters in ZooKeeper is zk://host:port,host:port/path or "
                "zk://user:password@host:port,host:port/path"
            )
        return cls(hosts=hosts, path=f"/{path}", credential=unquote(credential))


class ZooKeeperDetector:
    """Detects the leader through ZooKeeper.

    Args:
        url: where masters write who leads.
        by_hostname: whether masters are addressed by host name, which TLS needs, rather than by IP address.
    """

    def __init__(self, url: ZooKeeperUrl, *, by_hostname: bool = False) -> None:
        self._url = url
        self._by_hostname = by_hostname
        self._client: KazooClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking = threading.Lock()
        # The rest is used by the event loop only.
        self._names: tuple[MasterAddress, ...] = ()  # of the leader; we use the first
        self._asked: MasterAddress | None = None
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Connect to ZooKeeper in the background.

        Raises:
            ClusterUnusable: kazoo is not installed.
        """
        try:
            from kazoo.client import KazooClient
        except ImportError as error:
            raise ClusterUnusable(
                "finding Mesos masters through ZooKeeper needs kazoo: pip install 'cook_jupyter[mesos]'"
            ) from error
        self._loop = asyncio.get_running_loop()
        url = self._url
        self._client = KazooClient(
            hosts=url.hosts,
            timeout=_SESSION_S,
            auth_data=[("digest", url.credential)] if url.credential else None,
            connection_retry={"max_tries": -1, "delay": 0.2, "max_delay": _LONGEST_PAUSE_S},
            logger=_kazoo_log(),
        )
        self._client.add_listener(self._on_state)
        self._client.start_async()

    async def close(self) -> None:
        """Disconnect from ZooKeeper."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(_stop, client)

    async def candidate(self) -> MasterAddress:
        """Return the leader; wait until one is known."""
        if not self._names:
            log.info("waiting until ZooKeeper (%s) names the leading Mesos master", self._url.hosts)
        while not self._names:
            await self._next_change()
        self._asked = self._names[0]
        return self._asked

    def found(self, master: MasterAddress) -> None:
        """Do nothing: ZooKeeper knows."""

    def failed(self, master: MasterAddress) -> None:
        """Do nothing: ZooKeeper knows."""

    async def replaced(self, master: MasterAddress) -> None:
        """Wait until ZooKeeper names another leader than this master and the one that redirected to it."""
        while True:
            if master in self._names:
                self._asked = None
            elif self._names and self._names[0] != self._asked:
                return
            await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _on_leader(self, names: tuple[MasterAddress, ...]) -> None:
        if names != self._names:
            log.info("ZooKeeper names the Mesos master %s as the leader", names[0])
            self._names = names
            self._changed.set()

    # In threads of kazoo

    def _on_state(self, state: str) -> None:
        """Look again after each interruption: watches may have been lost."""
        client = self._client
        if client is None:
            return
        if state == "CONNECTED":
            client.handler.spawn(self._look)
        else:
            log.warning("the connection to ZooKeeper (%s) is %s", self._url.hosts, _STATES.get(state, state))

    def _look(self, *_event: object) -> None:
        """Read who leads, and watch for changes."""
        from kazoo.exceptions import KazooException, NoNodeError

        client, loop = self._client, self._loop
        if client is None or loop is None:
            return
        path = self._url.path
        try:
            with self._looking:
                try:
                    nodes = client.get_children(path, watch=self._look)
                except NoNodeError:
                    log.warning(
                        "ZooKeeper has no node %s: is the path in `master` that of the masters?", path
                    )
                    if client.exists(path, watch=self._look) is not None:
                        client.handler.spawn(self._look)  # made in between
                    return
                candidates = sorted(
                    (int(number), node)
                    for node in nodes
                    if node.startswith(_NODE) and (number := node.removeprefix(_NODE)).isdigit()
                )
                if not candidates:
                    return
                data, _ = client.get(f"{path}/{candidates[0][1]}")
        except NoNodeError:
            return  # it has gone since, which the watch tells
        except KazooException as error:
            log.warning("the leading Mesos master cannot be read from ZooKeeper: %r", error)
            return  # lost connections: `_on_state` looks again
        try:
            names = self._addresses(data)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("the node %s in ZooKeeper cannot be read: %s", candidates[0][1], error)
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._on_leader, names)

    def _addresses(self, data: bytes) -> tuple[MasterAddress, ...]:
        """Return the addresses of a master, the preferred one first."""
        master = msgspec.json.decode(data, type=_MasterNode)
        hosts = [master.address.ip, master.address.hostname or master.hostname]
        if self._by_hostname:
            hosts.reverse()
        names = tuple(MasterAddress(host, master.address.port) for host in hosts if host)
        if not names:
            raise ValueError("no address")
        return names


class _OncePerMinute(logging.Filter):
    """Drops a message that was logged less than a minute ago."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        now_s, text = time.monotonic(), record.getMessage()
        if now_s < self._logged_s.get(text, -_REPEAT_S) + _REPEAT_S:
            return False
        self._logged_s[text] = now_s
        return True


def _kazoo_log() -> logging.Logger:
    """Return the logger of kazoo, which logs each of its attempts: several per second."""
    logger = logging.getLogger(f"{__name__}.kazoo")
    logger.setLevel(logging.WARNING)
    if not logger.filters:
        logger.addFilter(_OncePerMinute())
    return logger


class _Address(msgspec.Struct):
    port: int
    ip: str = ""
    hostname: str = ""


class _MasterNode(msgspec.Struct):
    """What a master writes about itself."""

    address: _Address
    hostname: str = ""


def _stop(client: "KazooClient") -> None:
    """Stop kazoo's threads."""
    client.stop()
    client.close()
