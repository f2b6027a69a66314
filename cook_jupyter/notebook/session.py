"""Session of a notebook: its scheduler, its variables, and the jobs that it has started.

Lives here: one client and one executor per notebook, created when first needed; cells in the background.
Not here: commands (`notebook.commands`), magics and their settings (`notebook.magics`).
"""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell

from cook_jupyter.client.connect import connect
from cook_jupyter.client.sync import JobClient
from cook_jupyter.executor.attach import attach
from cook_jupyter.executor.executor import CookExecutor
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.notebook.cell_job import CellOutcome
from cook_jupyter.notebook.cell_run import apply_outcome
from cook_jupyter.notebook.job_views import JobView
from cook_jupyter.notebook.rendering import MARKS
from cook_jupyter.notebook.screen import Screen, is_interactive

INITIAL_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0


class SessionSettings(Protocol):
    """The settings that a session needs; implemented by `notebook.magics.CookMagics`."""

    user: Any  # user name for requests; empty for oneself

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, value and origin of each setting."""

    def change(self, changes: Sequence[tuple[str, str]]) -> None:
        """Change settings, each given by name and value; if one is invalid, none is changed."""


class BackgroundCell:
    """A cell that runs as a job in the background: the value of NAME after `%%cook --background NAME`.

    It has the methods of a future, and can be awaited.

    Attributes:
        key: uuid of the job.
        name: name of the job.
    """

    def __init__(self, future: CookFuture, name: str, apply_outcome: Callable[[CellOutcome], Any]) -> None:
        self.key: str = future.key
        self.name = name
        self._future = future
        self._apply_outcome = apply_outcome
        self._values: list[Any] = []

    @property
    def status(self) -> str:
        """Latest known status; does not ask the scheduler."""
        return str(self._future.status)

    def done(self) -> bool:
        """Return whether the job has ended."""
        return bool(self._future.done())

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the cell, set its names, show what it displayed (once), and return its value.

        Raises:
            TimeoutError: the cell has not ended within `timeout` seconds.
            Exception: the cell raised it.
        """
        if not self._values:
            self._values.append(self._apply_outcome(self._future.result(timeout)))
        return self._values[0]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return the exception of the cell, or None."""
        error: BaseException | None = self._future.exception(timeout)
        return error

    def kill(self) -> None:
        """Kill the job."""
        self._future.kill()

    def logs(self, stream: str = "stdout") -> str:
        """Return what the cell has written so far."""
        return str(self._future.logs(stream))

    def why(self) -> str:
        """Return why the job waits, in sentences."""
        return self._future.why()

    def __await__(self) -> Generator[Any, None, Any]:
        outcome = yield from self._future.__await__()
        if not self._values:
            self._values.append(self._apply_outcome(outcome))
        return self._values[0]

    def __repr__(self) -> str:
        return f"<cell {self.name} as job {self.key[:8]}: {self.status}>"

    def _repr_html_(self) -> str:
        mark = MARKS.get(self.status, MARKS["waiting"])
        return f"<div>{mark.html} {self.name} <code title={self.key!r}>{self.key[:8]}</code></div>"


class NotebookSession:
    """The connection of a notebook to a scheduler; implements `commands.Notebook`.

    Args:
        shell: shell of the notebook.
        settings: the settings, which are traits of the magics.
    """

    def __init__(self, shell: InteractiveShell, settings: SessionSettings) -> None:
        self._shell = shell
        self._settings = settings
        self._client: JobClient | None = None
        self._executor: CookExecutor | None = None
        self._user: str | None = None
        self._last_key: str | None = None
        self._cells: dict[str, BackgroundCell] = {}

    @property
    def client(self) -> JobClient:
        """Client of the scheduler, found or started when first needed, and again if the user changes."""
        if self._client is None or (self._settings.user or None) != self._user:
            self.close()
            self.reconnect()
        assert self._client is not None  # noqa: S101 - reconnect sets it, or raises
        return self._client

    def reconnect(self) -> JobClient:
        """Find the scheduler again, after it was restarted or replaced by another."""
        self._user = self._settings.user or None
        self._client = connect(user=self._user)
        return self._client

    @property
    def existing_client(self) -> JobClient | None:
        """Client of the scheduler, if one was found already: completion must not start one."""
        return self._client

    @property
    def executor(self) -> CookExecutor:
        """Executor for cells."""
        client = self.client
        if self._executor is None:
            self._executor = CookExecutor(client=client)
        return self._executor

    @property
    def namespace(self) -> dict[str, Any]:
        """Variables of the notebook."""
        namespace: dict[str, Any] = self._shell.user_ns
        return namespace

    @property
    def last_key(self) -> str | None:
        """Uuid of the job that this notebook started last."""
        return self._last_key

    @property
    def is_interactive(self) -> bool:
        """Whether a user sees the output as it appears."""
        return is_interactive(self._shell)

    def screen(self, *, live: bool) -> Screen:
        """Return the screen for the output of a cell."""
        return Screen(self._shell, live=live)

    def on_started(self, key: str, cell: BackgroundCell | None = None) -> None:
        """Record a job that was started."""
        self._last_key = key
        if cell is not None:
            self._cells[key] = cell

    def write(self, text: str) -> None:
        """Print text."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def prompt(self, question: str) -> str | None:
        """Ask the user a question; return None without an interactive frontend."""
        if not self.is_interactive:
            return None
        try:
            return input(question)
        except (EOFError, StdinNotImplementedError):
            return None

    def settings(self) -> list[tuple[str, str, str]]:
        """Return name, value and origin of each setting."""
        return self._settings.rows()

    def change_settings(self, changes: Sequence[tuple[str, str]]) -> None:
        """Change settings, each given by name and value; if one is invalid, none is changed."""
        self._settings.change(changes)

    def result_of(self, key: str, timeout_s: float | None) -> Any:
        """Return the result of a job; of a cell, also set its names and show its displays."""
        if key in self._cells:
            return self._cells[key].result(timeout_s)
        result = attach(key, client=self.client).result(timeout_s)
        return self.apply_outcome(result) if isinstance(result, CellOutcome) else result

    def apply_outcome(self, outcome: CellOutcome) -> Any:
        """Show what a cell displayed, set its names, and return its value."""
        return apply_outcome(outcome, self.namespace, self.screen(live=False))

    def wait_for(self, keys: Sequence[str], timeout_s: float | None) -> list[JobView]:
        """Wait until jobs have ended or the time is up; return them as they are then."""
        client = self.client
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        jobs: dict[str, JobView] = {}
        pause_s = INITIAL_BACKOFF_S
        while True:
            now_ms = int(time.time() * 1000)
            open_keys = [key for key in keys if key not in jobs or not jobs[key].is_over]
            jobs.update({job.uuid: JobView(job, now_ms) for job in client.jobs(open_keys)})
            all_ended = all(jobs[key].is_over for key in keys)
            if all_ended or (deadline is not None and time.monotonic() > deadline):
                return [jobs[key] for key in keys]
            time.sleep(pause_s)
            pause_s = min(MAX_BACKOFF_S, pause_s * 1.5)

    def close(self) -> None:
        """Close the connection to the scheduler; jobs continue."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        if self._client is not None:
            self._client.close()
        self._executor, self._client = None, None
