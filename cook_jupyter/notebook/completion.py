"""Tab after `%cook` and `%%cook`: commands, options, jobs.

Lives here: what may follow. It starts no scheduler, and waits for one no longer than a moment.
Not here: which commands and options there are (`notebook.commands`, `notebook.magics`).
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
OF_JOBS = frozenset({"wait", "kill", "why", "logs", "result", "list"})
FRESH_S = 2.0
PATIENCE_S = 0.5
MOST_JOBS = 50


class Completer:
    """Answers IPython's `complete_command` hook.

    Args:
        magics: whose session and settings count.
    """

    def __init__(self, magics: CookMagics) -> None:
        self._magics = magics
        self._known: dict[bool, tuple[float, list[str]]] = {}

    def __call__(self, _shell: Any, event: Any) -> list[str]:
        """What may stand where the cursor is, given what is already there of the word."""
        symbol = str(event.symbol)
        before = str(event.text_until_cursor)
        words = before[: len(before) - len(symbol)].split()
        offered = self._of_cell(words) if words[:1] == [CELL] else self._of_line(words, symbol)
        return sorted(each for each in set(offered) if each.startswith(symbol))

    def _of_line(self, words: list[str], symbol: str) -> Iterable[str]:
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
        if command in OF_JOBS:
            special = [LAST, ALL] if command == "kill" else [LAST] if command != "list" else []
            return [*self._jobs(unfinished=command in ("kill", "wait")), *special]
        return []

    def _of_cell(self, words: list[str]) -> Iterable[str]:
        namespace = self._magics.session.namespace
        options = dict(option_strings(type(self._magics).cook))
        if words[-1] in ("--in", "--out"):
            return [name for name in namespace if not name.startswith("_")]
        if words[-1] == "--pool":
            return self._ask(lambda client: [pool.name for pool in client.pools()])
        return list(options)

    def _jobs(self, *, unfinished: bool) -> list[str]:
        """Short ids and names of the latest jobs, and variables that hold futures."""
        variables = [
            name
            for name, value in self._magics.session.namespace.items()
            if not name.startswith("_") and isinstance(getattr(value, "key", None), str)
        ]
        asked_at, known = self._known.get(unfinished, (0.0, []))
        if time.monotonic() - asked_at > FRESH_S:
            states = UNFINISHED if unfinished else ("waiting", "running", "completed")
            known = self._ask(
                lambda client: [
                    word
                    for job in client.recent_jobs(MOST_JOBS, states=states)
                    for word in (job.uuid[:8], job.name)
                ]
            )
            self._known[unfinished] = (time.monotonic(), known)
        return [*variables, *known]

    def _ask(self, question: Any) -> list[str]:
        """The answer, if the scheduler is known and answers at once."""
        client = self._magics.session.existing_client
        if client is None:
            return []
        try:
            found: list[str] = question(client.with_timeout(PATIENCE_S))
        except CookError:
            return []
        return found
