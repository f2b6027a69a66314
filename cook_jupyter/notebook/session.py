"""This notebook as the commands see it: its scheduler, its variables, what it has started.

Lives here: one client and one executor per notebook, made when first needed; cells in the background.
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

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class Settings(Protocol):
    """What a session needs of the settings: see `notebook.magics.CookMagics`."""

    user: Any  # whom to act as; empty means oneself

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and origin of each."""

    def change(self, changes: Sequence[tuple[str, str]]) -> None:
        """Set some, each given by name and value; all of them, or none."""


class BackgroundCell:
    """A cell that runs as a job while the notebook goes on: what `%%cook --background NAME` puts in NAME.

    It has the methods of a future, and may be awaited.

    Attributes:
        key: the job's uuid.
        name: the job's name.
    """

    def __init__(self, future: CookFuture, name: str, take: Callable[[CellOutcome], Any]) -> None:
        self.key: str = future.key
        self.name = name
        self._future = future
        self._take = take
        self._taken: list[Any] = []

    @property
    def status(self) -> str:
        """The last that was heard of it; asks nobody."""
        return str(self._future.status)

    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._future.done())

    def result(self, timeout: float | None = None) -> Any:
        """Wait, bring the cell's names back, show what it displayed (once), and return its value.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds.
            Exception: what the cell raised.
        """
        if not self._taken:
            self._taken.append(self._take(self._future.result(timeout)))
        return self._taken[0]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return what the cell raised, if it raised."""
        error: BaseException | None = self._future.exception(timeout)
        return error

    def kill(self) -> None:
        """Kill the job."""
        self._future.kill()

    def logs(self, stream: str = "stdout") -> str:
        """What it has written so far."""
        return str(self._future.logs(stream))

    def why(self) -> str:
        """Why it waits, in sentences."""
        return self._future.why()

    def __await__(self) -> Generator[Any, None, Any]:
        outcome = yield from self._future.__await__()
        if not self._taken:
            self._taken.append(self._take(outcome))
        return self._taken[0]

    def __repr__(self) -> str:
        return f"<cell {self.name} as job {self.key[:8]}: {self.status}>"

    def _repr_html_(self) -> str:
        mark = MARKS.get(self.status, MARKS["waiting"])
        return f"<div>{mark.html} {self.name} <code title={self.key!r}>{self.key[:8]}</code></div>"


class NotebookSession:
    """What a notebook has with a scheduler; commands know it as `commands.Notebook`.

    Args:
        shell: the notebook's.
        settings: reads and sets the settings, which are the magics' traits.
    """

    def __init__(self, shell: InteractiveShell, settings: Settings) -> None:
        self._shell = shell
        self._settings = settings
        self._client: JobClient | None = None
        self._executor: CookExecutor | None = None
        self._user: str | None = None
        self._last_key: str | None = None
        self._cells: dict[str, BackgroundCell] = {}

    @property
    def client(self) -> JobClient:
        """The scheduler; found, or started, when first asked for, and again when it is gone."""
        if self._client is None or (self._settings.user or None) != self._user:
            self.close()
            self.find_again()
        assert self._client is not None  # noqa: S101 - find_again sets it, or raises
        return self._client

    def find_again(self) -> JobClient:
        """Find the scheduler anew: it was restarted, or it is another one now."""
        self._user = self._settings.user or None
        self._client = connect(user=self._user)
        return self._client

    @property
    def existing_client(self) -> JobClient | None:
        """The scheduler, if it was found already: completion must start nothing."""
        return self._client

    @property
    def executor(self) -> CookExecutor:
        """Where cells are sent."""
        client = self.client
        if self._executor is None:
            self._executor = CookExecutor(client=client)
        return self._executor

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables."""
        namespace: dict[str, Any] = self._shell.user_ns
        return namespace

    @property
    def last_key(self) -> str | None:
        """The job that this notebook started last."""
        return self._last_key

    @property
    def watched(self) -> bool:
        """Whether somebody sees the output as it comes."""
        return is_interactive(self._shell)

    def screen(self, *, live: bool) -> Screen:
        """Where the output of a cell goes."""
        return Screen(self._shell, live=live)

    def started(self, key: str, cell: BackgroundCell | None = None) -> None:
        """Remember what was started."""
        self._last_key = key
        if cell is not None:
            self._cells[key] = cell

    def write(self, text: str) -> None:
        """Print."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def asks(self, question: str) -> str | None:
        """The answer of whoever sits there; None if nobody does."""
        if not self.watched:
            return None
        try:
            return input(question)
        except (EOFError, StdinNotImplementedError):
            return None

    def settings(self) -> list[tuple[str, str, str]]:
        """Name, value and origin of each setting."""
        return self._settings.rows()

    def change_settings(self, changes: Sequence[tuple[str, str]]) -> None:
        """Set some, each given by name and value; all of them, or none."""
        self._settings.change(changes)

    def result_of(self, key: str, timeout_s: float | None) -> Any:
        """What a job gave back; a cell's names are brought back, its displays shown."""
        if key in self._cells:
            return self._cells[key].result(timeout_s)
        found = attach(key, client=self.client).result(timeout_s)
        return self.take(found) if isinstance(found, CellOutcome) else found

    def take(self, outcome: CellOutcome) -> Any:
        """Take in what came of a cell."""
        return apply_outcome(outcome, self.namespace, self.screen(live=False))

    def wait_for(self, keys: Sequence[str], timeout_s: float | None) -> list[JobView]:
        """The jobs once all have ended, or as they are when time is up."""
        client = self.client
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        found: dict[str, JobView] = {}
        pause_s = FIRST_PAUSE_S
        while True:
            now_ms = int(time.time() * 1000)
            open_keys = [key for key in keys if key not in found or not found[key].is_over]
            found.update({job.uuid: JobView(job, now_ms) for job in client.jobs(open_keys)})
            over = all(found[key].is_over for key in keys)
            if over or (deadline is not None and time.monotonic() > deadline):
                return [found[key] for key in keys]
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)

    def close(self) -> None:
        """Let go of the scheduler; jobs go on."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        if self._client is not None:
            self._client.close()
        self._executor, self._client = None, None
