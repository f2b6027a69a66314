"""Find the scheduler of a session, initially and again.

Lives here: when to start a scheduler that no longer answers.
Not here: where a scheduler is looked for (`client.connect`).
"""

from __future__ import annotations

from cook_jupyter.client.connect import configured_target, connect
from cook_jupyter.client.home import home_folder
from cook_jupyter.client.runtime import RUNTIME_FILE, RuntimeFile, StaleRuntimeFile, read_runtime
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import WrongType


class SchedulerLocator:
    """Finds the scheduler of a session.

    Args:
        client: a client, or the URL of a scheduler; None for this user's own.
        user: user name to act as.

    Raises:
        SchedulerUnreachable: there is no scheduler and none could be started.
        InvalidRequest: the URL or the user name is invalid.
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
        """Return a client of the scheduler after it was restarted, perhaps at another address.

        A scheduler that was specified by its URL must return there, perhaps with another token. This user's
        own is started again if there is something to send, or if it crashed while results are awaited. A
        scheduler that was shut down deliberately stays down otherwise.

        Raises:
            SchedulerUnreachable: the scheduler is not there.
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
        """Return a value that changes when this user's own scheduler starts to listen; None for others."""
        if not self._own:
            return None
        try:
            status = (home_folder() / RUNTIME_FILE).stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns


def _identity_of_home() -> tuple[int, int] | None:
    """Return the identity of the home directory, or None. A scheduler exits when its home is removed."""
    try:
        status = home_folder().stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _is_own(client: JobClient) -> bool:
    """Return whether a client is connected to this user's embedded scheduler."""
    runtime = read_runtime(home_folder())
    return isinstance(runtime, RuntimeFile) and runtime.url.rstrip("/") == client.url.rstrip("/")
