"""Tab completion after `%cook` and `%%cook`: commands, options, jobs.

Lives here: what may follow. Completion starts no scheduler, and waits for one only briefly.
Not here: the commands and options themselves (`notebook.commands`, `notebook.magics`).
"""

import time
from collections.abc import Iterable
from typing import Any

from cook_jupyter.errors import CookError
from cook_jupyter.notebook.arguments import option_strings
from cook_jupyter.notebook.commands import COMMANDS, UNFINISHED
from cook_jupyter.notebook.magics import CookMagics
from cook_jupyter.notebook.references import ALL, LAST

LINE, CELL = "%cook", "%%cook"
JOB_COMMANDS = frozenset({"wait", "kill", "why", "logs", "result", "list"})
CACHE_S = 2.0
REQUEST_TIMEOUT_S = 0.5
MAX_JOBS = 50


class Completer:
    """Implements IPython's `complete_command` hook.

    Args:
        magics: the magics with their session and settings.
    """

    def __init__(self, magics: CookMagics) -> None:
        self._magics = magics
        self._cache: dict[bool, tuple[float, list[str]]] = {}

    def __call__(self, _shell: Any, event: Any) -> list[str]:
        """Return the possible completions of the word at the cursor."""
        symbol = str(event.symbol)
        text_before = str(event.text_until_cursor)
        words = text_before[: len(text_before) - len(symbol)].split()
        candidates = self._complete_cell(words) if words[:1] == [CELL] else self._complete_line(words, symbol)
        return sorted(candidate for candidate in set(candidates) if candidate.startswith(symbol))

    def _complete_line(self, words: list[str], symbol: str) -> Iterable[str]:
        if len(words) <= 1:
            return [*COMMANDS, "help"]
        command = words[1]
        if command == "help" and len(words) == 2:
            return list(COMMANDS)
        if command not in COMMANDS:
            return []
        options = dict(option_strings(COMMANDS[command]))
        if words[-1] in options and options[words[-1]]:
            return options[words[-1]]
        if symbol.startswith("-"):
            return list(options)
        if command == "config":
            return [f"{name}=" for name, _, _ in self._magics.rows() if name != "url"]
        if command in JOB_COMMANDS:
            keywords = [LAST, ALL] if command == "kill" else [LAST] if command != "list" else []
            return [*self._jobs(unfinished=command in ("kill", "wait")), *keywords]
        return []

    def _complete_cell(self, words: list[str]) -> Iterable[str]:
        namespace = self._magics.session.namespace
        options = dict(option_strings(type(self._magics).cook))
        if words[-1] in ("--in", "--out"):
            return [name for name in namespace if not name.startswith("_")]
        if words[-1] == "--pool":
            return self._query(lambda client: [pool.name for pool in client.pools()])
        return list(options)

    def _jobs(self, *, unfinished: bool) -> list[str]:
        """Return short ids and names of the latest jobs, and variables that hold futures."""
        variables = [
            name
            for name, value in self._magics.session.namespace.items()
            if not name.startswith("_") and isinstance(getattr(value, "key", None), str)
        ]
        cached_at, words = self._cache.get(unfinished, (0.0, []))
        if time.monotonic() - cached_at > CACHE_S:
            states = UNFINISHED if unfinished else ("waiting", "running", "completed")
            words = self._query(
                lambda client: [
                    word
                    for job in client.recent_jobs(MAX_JOBS, states=states)
                    for word in (job.uuid[:8], job.name)
                ]
            )
            self._cache[unfinished] = (time.monotonic(), words)
        return [*variables, *words]

    def _query(self, query: Any) -> list[str]:
        """Query the scheduler, if it is known and answers quickly; otherwise return an empty list."""
        client = self._magics.session.existing_client
        if client is None:
            return []
        try:
            answer: list[str] = query(client.with_timeout(REQUEST_TIMEOUT_S))
        except CookError:
            return []
        return answer
