"""The blob store as this process reaches it.

Lives here: choosing between the scheduler's own directory, a store that both sides know by URL, and HTTP.
Not here: the stores (`payload.blobs`), requests (`client`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cook_jupyter.errors import NotFound
from cook_jupyter.payload.blobs import BlobStore, DirectoryStore, checked_name, open_store
from cook_jupyter.payload.envelope import Buffer

if TYPE_CHECKING:
    from cook_jupyter.client.answers import SchedulerInfo
    from cook_jupyter.client.sync import JobClient

_HERE = frozenset({"127.0.0.1", "localhost", "::1"})


def reachable_store(info: SchedulerInfo, client: Callable[[], JobClient]) -> BlobStore:
    """The store of a scheduler.

    Args:
        info: what `/v1/info` answered.
        client: the client of the moment; another one after the scheduler was restarted.
    """
    place = info.blobs
    if "://" in place:
        return open_store(place)
    address = urlsplit(client().url)
    here = address.scheme == "unix" or address.hostname in _HERE
    if here and os.access(place, os.W_OK | os.X_OK):
        return DirectoryStore(Path(place), synced=info.synchronous == "FULL")
    return HttpStore(place, client)


class HttpStore:
    """A store behind the scheduler, for a notebook on another machine."""

    def __init__(self, place: str, client: Callable[[], JobClient]) -> None:
        self._place = place
        self._client = client

    @property
    def url(self) -> str:
        """How the hosts open the same store."""
        return self._place

    @property
    def private(self) -> bool:
        """Never: it is somebody else's disk."""
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
        """Whether the blob is there."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Ask for the size of a blob."""
        return self._client().blob_size(checked_name(name))

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Compare the size; the scheduler compared the digest when it took the blob."""
        return self.size(name) == size

    def delete(self, name: str) -> None:
        """Left to the scheduler, which knows who still needs it."""
        checked_name(name)
