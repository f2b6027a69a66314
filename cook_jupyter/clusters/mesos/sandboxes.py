"""Files of instances on agents of Mesos.

Lives here: `MesosSandboxes`: sandboxes of instances, and the results that executors have left in them.
Not here: how an agent serves files (`clusters.mesos.agent_files`), when results are fetched
(`clusters.mesos.result_files`).

The sandbox of an instance is a directory in that of its executor. Paths are kept inside the former, links
inside the latter: an agent does not tell which entries are links. What a link can reach belongs to the same
user, as an executor runs the instances of one user only.
"""

import hashlib
import posixpath
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from cook_jupyter.clusters.mesos.agent_files import (
    AgentFiles,
    AgentRefuses,
    AgentUnreachable,
    FileInaccessible,
    FilesFailed,
)
from cook_jupyter.clusters.mesos.transport.http_calls import Header
from cook_jupyter.clusters.sandboxes import is_directory, no_sandbox, no_such_file, removed_sandbox
from cook_jupyter.errors import NotFound, SchedulerError, TooLarge, Unverifiable
from cook_jupyter.model.files import FileEntry, SandboxFile
from cook_jupyter.model.instance import Instance

MAX_RESULT_BYTES: Final = 1 << 30


class AgentAway(NotFound, ConnectionError):
    """The agent of a host cannot be reached, which may pass."""


class MesosSandboxes:
    """The sandboxes of the instances of a Mesos cluster.

    Args:
        agent_url: function that returns the URL of the agent on a host, or None if there is none.
        headers: headers of each request to agents, such as credentials.
        ssl_context: context for agents that serve https.
        max_result_bytes: size from which results are not fetched.
    """

    def __init__(
        self,
        agent_url: Callable[[str], str | None],
        *,
        headers: Sequence[Header] = (),
        ssl_context: ssl.SSLContext | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        self._agent_url = agent_url
        self._headers = tuple(headers)
        self._ssl_context = ssl_context
        self._max_result_bytes = max_result_bytes

    def url(self, instance: Instance) -> str | None:
        """Return the URL of the agent of an instance; None while its host has no agent."""
        return self._agent_url(instance.host)

    async def browse(self, instance: Instance, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory."""
        sandbox, full_path = _resolve(instance, path)
        async with self._agent(instance.host) as agent:
            try:
                entries = await agent.list(full_path)
            except FileInaccessible:
                raise await _explain(agent, instance, sandbox, path) from None
            if not entries and full_path == sandbox and not await agent.is_directory(sandbox):
                raise removed_sandbox(instance)
            return entries

    @asynccontextmanager
    async def open(self, instance: Instance, path: str) -> AsyncIterator[SandboxFile]:
        """Open a file; it is read over one connection, which stays open."""
        sandbox, full_path = _resolve(instance, path)
        if full_path == sandbox:
            raise is_directory(path)
        async with self._agent(instance.host) as agent:
            entry = await _find(agent, full_path)
            if entry is None:
                raise await _explain(agent, instance, sandbox, path)
            if entry.is_directory and await agent.is_directory(full_path):  # and no link out of the sandbox
                raise is_directory(path)
            if not stat.S_ISREG(entry.mode):
                raise no_such_file(path)
            yield _AgentFile(agent, instance.host, full_path, entry.size)

    async def fetch_result(self, host: str, path: str, *, size: int, digest: str) -> bytes:
        """Return a file of a host, with size and SHA-256 verified.

        Args:
            host: the host.
            path: absolute path there.
            size: size in bytes.
            digest: SHA-256 in hexadecimal.

        Raises:
            TooLarge: it is larger than results may be; nothing was read.
            AgentAway: the agent cannot be reached at present.
            NotFound: there is no such file.
            Unverifiable: the file is not the one that was described.
        """
        if size > self._max_result_bytes:
            raise TooLarge(
                f"the result {path} on {host} has {size:,} bytes;"
                f" at most {self._max_result_bytes:,} are fetched"
            )
        async with self._agent(host) as agent:
            entry = await _find(agent, path)
            if entry is None or not stat.S_ISREG(entry.mode):
                raise NotFound(f"there is no file {path} on {host}")
            if entry.size != size:
                raise Unverifiable(f"the file {path} on {host} has {entry.size:,} bytes instead of {size:,}")
            content = await agent.read(path, 0, size)
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise Unverifiable(f"the file {path} on {host} is not the one that the executor has written")
        return content

    @asynccontextmanager
    async def _agent(self, host: str) -> AsyncIterator[AgentFiles]:
        url = self._agent_url(host)
        if url is None:
            raise AgentAway(f"the files on {host} cannot be read: Mesos has no agent there at present")
        async with AgentFiles(url, headers=self._headers, ssl_context=self._ssl_context) as agent:
            with _errors_of(host):
                yield agent


class _AgentFile:
    """A file on an agent."""

    def __init__(self, agent: AgentFiles, host: str, path: str, size: int) -> None:
        self._agent = agent
        self._host = host
        self._path = path
        self._size = size

    @property
    def size(self) -> int:
        """The size when the file was opened."""
        return self._size

    async def read(self, offset: int, length: int) -> bytes:
        """Return a part of the file."""
        with _errors_of(self._host):
            return await self._agent.read(self._path, offset, length)


def _resolve(instance: Instance, path: str) -> tuple[str, str]:
    """Return the sandbox of an instance and the path of a file in it, as its host knows them.

    Raises:
        NotFound: the instance has no sandbox, or the path leads out of it.
    """
    if instance.sandbox is None:
        raise no_sandbox(instance)
    sandbox = posixpath.normpath(instance.sandbox)
    full_path = posixpath.normpath(posixpath.join(sandbox, path))
    if full_path != sandbox and not full_path.startswith(f"{sandbox}/"):
        raise no_such_file(path)
    return sandbox, full_path


async def _find(agent: AgentFiles, path: str) -> FileEntry | None:
    """Return the entry of a file in its directory; None if it does not exist."""
    directory, _, name = path.rpartition("/")
    try:
        entries = await agent.list(directory)
    except FileInaccessible:
        return None
    return next((entry for entry in entries if entry.name == name), None)


async def _explain(agent: AgentFiles, instance: Instance, sandbox: str, path: str) -> NotFound:
    """Return the error about a path that does not exist: perhaps the whole sandbox does not."""
    return no_such_file(path) if await agent.is_directory(sandbox) else removed_sandbox(instance)


@contextmanager
def _errors_of(host: str) -> Iterator[None]:
    """Translate the errors of an agent."""
    try:
        yield
    except AgentUnreachable as error:
        raise AgentAway(f"the files on {host} cannot be read at present: {error}") from error
    except AgentRefuses as error:
        raise SchedulerError(
            f"the agent on {host} does not let the scheduler read files ({error}): check the principal of the"
            " cluster, and the ACL `access_sandboxes` of the agent"
        ) from error
    except FilesFailed:
        raise NotFound(f"a file on {host} was removed while it was read") from None
