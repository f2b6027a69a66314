"""What happened in a simulation: events in order, each with its virtual time.

Lives here: `Trace`, and its digest, by which two runs are compared. Not here: who writes to it.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

Event = tuple[Any, ...]


class Trace:
    """The events of one simulation.

    Args:
        time: function that returns the virtual time in seconds.
        is_kept: whether events are kept; a trace that keeps none costs next to nothing.
    """

    def __init__(self, time: Callable[[], float], *, is_kept: bool) -> None:
        self._time = time
        self._events: list[Event] = []
        self.is_kept = is_kept

    def note(self, kind: str, *details: object) -> None:
        """Add an event."""
        if self.is_kept:
            self._events.append((round(self._time(), 6), kind, *details))

    def lines(self) -> Iterator[str]:
        """Yield one line for each event."""
        for at_s, kind, *details in self._events:
            yield f"{at_s:10.3f}  {kind:22} {' '.join(map(str, details))}"

    def digest(self) -> str:
        """Return a hash over all events."""
        hashed = hashlib.sha256()
        for event in self._events:
            hashed.update(repr(event).encode())
        return hashed.hexdigest()
