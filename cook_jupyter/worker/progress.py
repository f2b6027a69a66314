"""How far a task says it is, in lines that it writes.

Lives here: looking for such lines in files that grow.
Not here: how often (`worker.runner` for commands, `worker.supervisor` for calls), who is told.

Source: Cook's executor, as told in the REST specification, section 17: the expression is searched in each
line of the progress file, stdout and stderr; group 1 is the percentage, group 2 the message.
"""

import contextlib
import os
import re
from collections.abc import Iterable

DEFAULT_REGEX = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"
LONGEST_MESSAGE = 512  # characters
_LONGEST_LINE = 1024  # characters that are searched
_MOST_AT_ONCE = 1 << 18  # bytes; the last word counts, so what came before a flood may go unread

Progress = tuple[float, str | None]


class ProgressReader:
    """Reads what was added to files since it last looked."""

    def __init__(self, paths: Iterable[str], regex: str | None = None) -> None:
        self._read_up_to = dict.fromkeys(paths, 0)
        self._rests: dict[str, bytes] = {}
        try:
            self._regex = re.compile(regex or DEFAULT_REGEX)
        except re.error:  # the user's own; the task is worth more than its progress
            self._regex = re.compile(DEFAULT_REGEX)

    def look(self, *, at_end: bool = False) -> Progress | None:
        """Return the last progress that was added, if any was.

        Args:
            at_end: nothing more will be written: a last line without an end is one too.
        """
        found = None
        for path in self._read_up_to:
            with contextlib.suppress(OSError):
                found = self._look_into(path, at_end=at_end) or found
        return found

    def _look_into(self, path: str, *, at_end: bool) -> Progress | None:
        start = self._read_up_to[path]
        size = os.stat(path).st_size
        if size <= start and not (at_end and self._rests.get(path)):
            return None
        rest = self._rests.pop(path, b"")
        if size - start > _MOST_AT_ONCE:
            start, rest = size - _MOST_AT_ONCE, b""
        with open(path, "rb") as file:
            file.seek(start)
            data = rest + file.read(_MOST_AT_ONCE)
        self._read_up_to[path] = start + len(data) - len(rest)
        lines = data.replace(b"\r", b"\n").split(b"\n")
        if not at_end and len(lines[-1]) <= _LONGEST_LINE:
            self._rests[path] = lines.pop()
        for line in reversed(lines):
            progress = self._parse(line[:_LONGEST_LINE].decode("utf-8", "replace"))
            if progress is not None:
                return progress
        return None

    def _parse(self, line: str) -> Progress | None:
        match = self._regex.search(line)
        if match is None:
            return None
        try:
            percent = float(match.group(1))
        except (IndexError, TypeError, ValueError):
            return None
        if not 0 <= percent <= 100:
            return None
        message = match.group(2) if self._regex.groups >= 2 else None
        return percent, (message or "").strip()[:LONGEST_MESSAGE] or None
