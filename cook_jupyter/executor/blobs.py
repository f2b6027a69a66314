"""The blob store of a scheduler, as this process reaches it.

Lives here: choosing between a directory that the scheduler shares with this process, a store that both sides
reach by its URL, and HTTP; the proof that a directory is shared.
Not here: the stores (`payload.blobs`), the identity of a directory (`payload.store_identity`), requests
(`client`).

Neither an address nor a path nor the id of a machine tells whether a directory is shared: behind an SSH
tunnel a distant scheduler seems to be local, equal home directories have equal paths, and the containers of
one machine mount different directories. So the scheduler names the identity that it reads in its directory,
and a client that reads the same one writes a blob, which the scheduler must then have. The identity alone
would also be read in a copy of the directory; the blob alone would be written into any directory of that
path.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cook_jupyter.errors import NotFound, StoreFull
from cook_jupyter.payload.blobs import BlobStore, DirectoryStore, checked_name, open_store
from cook_jupyter.payload.envelope import Buffer
from cook_jupyter.payload.store_identity import read_identity

if TYPE_CHECKING:
    from cook_jupyter.client.answers import SchedulerInfo
    from cook_jupyter.client.sync import JobClient


def reachable_store(info: SchedulerInfo, client: Callable[[], JobClient]) -> BlobStore:
    """Return the blob store of a scheduler; blobs travel over HTTP unless another way is certain.

    Args:
        info: answer of the scheduler to `/v1/info`; older ones name no identity of their store.
        client: returns the current client of the scheduler.

    Raises:
        SchedulerUnreachable: the scheduler did not answer.
    """
    url = info.blob_store.url or info.blobs
    store = open_store(url)
    if not isinstance(store, DirectoryStore):
        return store
    served = HttpStore(url, client)
    return store if _is_shared(store, info.blob_store.identity, served) else served


class HttpStore:
    """The blob store of a scheduler, reached through its API.

    Args:
        url: URL by which hosts open the store.
        client: returns the current client of the scheduler.
    """

    def __init__(self, url: str, client: Callable[[], JobClient]) -> None:
        self._url = url
        self._client = client

    @property
    def url(self) -> str:
        """The URL by which hosts open the store."""
        return self._url

    @property
    def private(self) -> bool:
        """Return False: others may be able to write to the disk of the scheduler."""
        return False

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Send a blob in one request."""
        self._client().put_blob(checked_name(name), b"".join(pieces))

    def get(self, name: str) -> Buffer:
        """Fetch a blob."""
        try:
            return bytearray(self._client().get_blob(checked_name(name)))
        except NotFound as error:
            raise NotFound(f"the scheduler has no blob {name}", missing=(name,)) from error

    def has(self, name: str) -> bool:
        """Return whether the scheduler has the blob."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Ask the scheduler for the size of a blob."""
        return self._client().blob_size(checked_name(name))

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Compare the size; the scheduler compared the digest when it took the blob."""
        return self.size(name) == size

    def delete(self, name: str) -> None:
        """Do nothing: the scheduler knows who still needs the blob."""
        checked_name(name)


def _is_shared(directory: DirectoryStore, identity: str, served: HttpStore) -> bool:
    """Return whether a directory is the one in which a scheduler stores blobs.

    Args:
        directory: the directory of that path on this machine.
        identity: identity that the scheduler reads in its directory; empty if it names none.
        served: the same store, reached through the scheduler.
    """
    if not identity or read_identity(directory.folder) != identity:
        return False
    name, content = f"calls/{uuid.uuid4()}", b"Do both sides see this blob?"
    try:
        directory.put(name, [content])
    except (OSError, StoreFull):
        return False
    try:
        return served.size(name) == len(content)
    finally:
        with contextlib.suppress(OSError):
            directory.delete(name)
