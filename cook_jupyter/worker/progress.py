"""Progress of a task, as it writes it in lines of text.

Lives here: finding such lines in growing files.
Not here: how often (`worker.runner` for commands, `worker.supervisor` for calls), reporting progress.

Source: Cook's executor, as described in the REST specification, section 17: the expression is searched in
each line of the progress file, stdout and stderr; group 1 is the percentage, group 2 the message.
"""

import contextlib
import os
import re
from collections.abc import Iterable

DEFAULT_REGEX = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"
MAX_MESSAGE = 512  # characters
_MAX_LINE = 1024  # characters that are searched
_MAX_READ_BYTES = 1 << 18  # the latest progress counts, so the start of a larger addition is skipped

Progress = tuple[float, str | None]


class ProgressReader:
    """Finds progress in what was added to files since the last call."""

    def __init__(self, paths: Iterable[str], regex: str | None = None) -> None:
        self._read_up_to = dict.fromkeys(paths, 0)
        self._incomplete_lines: dict[str, bytes] = {}
        try:
            self._regex = re.compile(regex or DEFAULT_REGEX)
        except re.error:  # the user's own expression; the task is more important than its progress
            self._regex = re.compile(DEFAULT_REGEX)

    def read_new(self, *, at_end: bool = False) -> Progress | None:
        """Return the latest progress that was added to the files, if any.

        Args:
            at_end: whether the files are complete, so that an unfinished last line counts, too.
        """
        progress = None
        for path in self._read_up_to:
            with contextlib.suppress(OSError):
                progress = self._read_file(path, at_end=at_end) or progress
        return progress

    def _read_file(self, path: str, *, at_end: bool) -> Progress | None:
        start = self._read_up_to[path]
        size = os.stat(path).st_size
        if size <= start and not (at_end and self._incomplete_lines.get(path)):
            return None
        rest = self._incomplete_lines.pop(path, b"")
        if size - start > _MAX_READ_BYTES:
            start, rest = size - _MAX_READ_BYTES, b""
        with open(path, "rb") as file:
            file.seek(start)
            data = rest + file.read(_MAX_READ_BYTES)
        self._read_up_to[path] = start + len(data) - len(rest)
        lines = data.replace(b"\r", b"\n").split(b"\n")
        if not at_end and len(lines[-1]) <= _MAX_LINE:
            self._incomplete_lines[path] = lines.pop()
        for line in reversed(lines):
            progress = self._parse(line[:_MAX_LINE].decode("utf-8", "replace"))
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
        return percent, (message or "").strip()[:MAX_MESSAGE] or None
