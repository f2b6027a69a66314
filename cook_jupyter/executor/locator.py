"""Finding the scheduler, at first and again.

Lives here: what is done when it no longer answers: who may start it anew, and when.
Not here: the order of search (`client.connect`).
"""

from __future__ import annotations

from cook_jupyter.client.connect import configured_target, connect
from cook_jupyter.client.home import home_folder
from cook_jupyter.client.runtime import RUNTIME_FILE, RuntimeFile, StaleRuntimeFile, read_runtime
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import WrongType


class SchedulerLocator:
    """Knows which scheduler is meant.

    Args:
        client: a client of it, or its URL; None means this user's own.
        user: act as this user.

    Raises:
        SchedulerUnreachable: no scheduler is there and none could be started.
        InvalidRequest: not the URL of a scheduler, or not the name of a user.
        WrongType: `client` is neither a client nor a URL.
    """

    def __init__(self, client: JobClient | str | None, user: str | None = None) -> None:
        if not (client is None or isinstance(client, str | JobClient)):
            raise WrongType(f"client must be a JobClient or the URL of a scheduler, not {client!r}")
        self._crashed = False
        self._home = _identity_of_home()
        self._is_given = not (client is None or isinstance(client, str))
        self._url: str | None = None
        if client is None or isinstance(client, str):
            self._url = client
            self.client = connect(client, user=user)
            self._own = client is None and configured_target().url is None
            self._user = user
        else:
            self.client = client if user is None else client.acting_as(user)
            self._own = _is_own(client)
            self._user = self.client.user

    def reconnect(self, *, has_unsent: bool, awaits_results: bool) -> JobClient:
        """A client of the scheduler that was restarted meanwhile, at another address perhaps.

        One that was named by its address has to come back there, with another token perhaps. This user's own
        is started anew when there is something to send, and when it crashed while results are waited for. One
        that was shut down in good order stays down: whoever did that meant it.

        Raises:
            SchedulerUnreachable: it is not there.
        """
        if self._own:
            home = _identity_of_home()
            crashed = isinstance(read_runtime(home_folder()), StaleRuntimeFile) or home != self._home
            self._crashed = self._crashed or crashed
            self.client = connect(user=self._user, start=has_unsent or (awaits_results and self._crashed))
            self._crashed = False
            self._home = _identity_of_home()
        elif not self._is_given:
            self.client = connect(self._url, user=self._user)
        return self.client

    def trace(self) -> object:
        """A value that changes when this user's own scheduler begins to listen; None for a named one."""
        if not self._own:
            return None
        try:
            status = (home_folder() / RUNTIME_FILE).stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns


def _identity_of_home() -> tuple[int, int] | None:
    """Which directory the home is; None if there is none. A scheduler ends when its home is removed."""
    try:
        status = home_folder().stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _is_own(client: JobClient) -> bool:
    """Whether a client speaks to this user's embedded scheduler."""
    found = read_runtime(home_folder())
    return isinstance(found, RuntimeFile) and found.url.rstrip("/") == client.url.rstrip("/")
