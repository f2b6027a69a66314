"""A session's connection to its scheduler: the current client, and cached facts about the scheduler.

Lives here: requests, and finding the scheduler again when it no longer answers; its blob store; the user's
key.
Not here: how a scheduler is found (`executor.locator`, `client.connect`), the requests (`client.sync`).
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cook_jupyter.client.home import home_folder
from cook_jupyter.client.keys import key_file
from cook_jupyter.errors import CookError, SchedulerUnreachable, Unauthenticated
from cook_jupyter.executor.blobs import reachable_store
from cook_jupyter.executor.locator import SchedulerLocator
from cook_jupyter.payload.keys import Key, read_key
from cook_jupyter.payload.requirements import HostRequirements

if TYPE_CHECKING:
    from cook_jupyter.client.answers import SchedulerInfo
    from cook_jupyter.client.sync import JobClient
    from cook_jupyter.payload.blobs import BlobStore

logger = logging.getLogger("cook_jupyter.executor")

REQUEST_TIMEOUT_S = 30.0  # for a scheduler that does not answer
FILE_CHECK_INTERVAL_S = 0.25  # maximum age of cached facts about a file
INITIAL_BACKOFF_S = 0.02
MAX_BACKOFF_S = 1.0

T = TypeVar("T")


class SchedulerConnection:
    """The scheduler of a session, even after it was restarted. Safe for use by any thread.

    Args:
        locator: locator of the scheduler.
        awaits_results: callback that returns whether results are awaited; if so, a crashed scheduler is
            restarted.

    Attributes:
        client: client of the scheduler as it was last found.
        closed: event that is set once the session has ended, so that nothing waits any more.
        request_timeout_s: time to wait for a scheduler that does not answer.
        file_check_interval_s: maximum age of cached facts about a file.
    """

    def __init__(self, locator: SchedulerLocator, awaits_results: Callable[[], bool]) -> None:
        self.client: JobClient = locator.client
        self.closed = threading.Event()
        self.request_timeout_s = REQUEST_TIMEOUT_S
        self.file_check_interval_s = FILE_CHECK_INTERVAL_S
        self._locator = locator
        self._awaits_results = awaits_results
        self._locating = threading.Lock()
        self._key: Key | None = None
        self._key_read_at = 0.0

    def call(self, request: Callable[[JobClient], T], *, restart: bool = True) -> T:
        """Send a request that may be repeated, and find the scheduler again if it does not answer.

        Args:
            request: function that sends the request with a client.
            restart: whether to start this user's own scheduler even if it was shut down deliberately.

        Raises:
            SchedulerUnreachable: it did not answer for `request_timeout_s` seconds.
        """
        deadline = time.monotonic() + self.request_timeout_s
        pause_s = INITIAL_BACKOFF_S
        was_late = False
        while True:
            client = self.client
            try:
                return request(client)
            except (SchedulerUnreachable, Unauthenticated):
                is_late = time.monotonic() + pause_s > deadline or self.closed.is_set()
                self.reconnect(client, has_unsent=restart)
                if is_late and (was_late or self.client is client):
                    raise
                was_late = is_late  # a scheduler that was found at last gets the request, however late it is
            self.closed.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    def reconnect(self, failed: JobClient, *, has_unsent: bool = False) -> None:
        """Try to find the scheduler again, unless another thread just has.

        Args:
            failed: the client that got no answer.
            has_unsent: whether to start this user's own scheduler even if it was shut down deliberately.
        """
        with self._locating:
            if self.client is failed and not self.closed.is_set():
                try:
                    self.client = self._locator.reconnect(
                        has_unsent=has_unsent, awaits_results=self._awaits_results()
                    )
                except CookError as error:
                    logger.info("the scheduler was not found again: %s", error)

    def trace(self) -> object:
        """Return a value that changes when this user's own scheduler starts to listen."""
        return self._locator.trace()

    @functools.cached_property
    def info(self) -> SchedulerInfo:
        """Facts that the scheduler reports about itself."""
        return self.call(lambda client: client.info_v1())

    @functools.cached_property
    def store(self) -> BlobStore:
        """The scheduler's blob store."""
        info = self.info
        return self.call(lambda _: reachable_store(info, lambda: self.client))

    @functools.cached_property
    def key_file(self) -> str:
        """Path of the user's key."""
        return str(key_file(home_folder(), self.client.user))

    @functools.cached_property
    def requirements(self) -> HostRequirements:
        """What a host needs to run calls of this process."""
        return HostRequirements(
            interpreter=sys.executable or "python3", store_url=self.store.url, key_file=self.key_file
        )

    @property
    def signing_key(self) -> Key:
        """The user's key, read from its file recently."""
        now = time.monotonic()
        if self._key is None or now - self._key_read_at >= self.file_check_interval_s:
            self._key, self._key_read_at = self.current_key(), now
        return self._key

    def current_key(self) -> Key:
        """Return the user's key as it is in its file, which is created again if it was removed."""
        if not Path(self.key_file).exists():
            logger.warning("The signing key %s was removed: a new one is created.", self.key_file)
            return read_key(key_file(home_folder(), self.client.user))
        return read_key(self.key_file)

    def forget_store(self) -> None:
        """Forget cached facts that were true only for the scheduler's previous store."""
        logger.warning(
            "The store of the scheduler at %s is a new one: the old one was removed or replaced.",
            self.client.url,
        )
        for name in ("info", "store", "key_file", "requirements"):
            self.__dict__.pop(name, None)
        self._key = None
