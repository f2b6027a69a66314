"""Progress on its way to the store: the newest word of each instance, gathered for a while.

Lives here: `ProgressBuffer`. Not here: how often it is emptied (`service`), what a word changes
(`model.lifecycle.progress`), where it is read from (`worker.progress`).

Source: Cook's `progress.clj`, as told in the fair-share specification, section 7.
"""

from collections.abc import Mapping
from typing import Final

from cook_jupyter.model.instance import InstanceId, ProgressUpdate

MOST_PENDING: Final = 4000
BATCH: Final = 100
_KNOWN_PER_PENDING: Final = 10


class ProgressBuffer:
    """Holds the newest progress of instances until it is published.

    Args:
        most_pending: of how many instances; what further ones say is dropped until room is made.
        pending, last: what is held already, and the last sequence number of instances.
    """

    def __init__(
        self,
        *,
        most_pending: int = MOST_PENDING,
        pending: Mapping[InstanceId, ProgressUpdate] | None = None,
        last: Mapping[InstanceId, int] | None = None,
    ) -> None:
        self._most = most_pending
        self._pending = dict(pending or {})
        self._last = dict(last or {})

    @property
    def pending(self) -> Mapping[InstanceId, ProgressUpdate]:
        """What is to be published, by instance."""
        return self._pending

    @property
    def last(self) -> Mapping[InstanceId, int]:
        """The last sequence number seen of instances; those heard of longest ago are forgotten."""
        return self._last

    def note(
        self,
        instance_id: InstanceId,
        sequence: int | None,
        *,
        percent: int | None = None,
        message: str | None = None,
    ) -> bool:
        """Take in what an instance says; returns whether it is kept.

        Without a whole number in sequence nobody knows whether it is news: it is dropped. So is what is older
        than the word that is held.
        """
        held = self._pending.get(instance_id)
        if held is None and len(self._pending) >= self._most:
            return False
        if not isinstance(sequence, int):
            return False
        if held is not None and sequence <= self._last.get(instance_id, held.sequence):
            return False
        self._pending[instance_id] = ProgressUpdate(
            instance_id=instance_id, sequence=sequence, percent=percent, message=message
        )
        self._last.pop(instance_id, None)
        self._last[instance_id] = sequence
        if len(self._last) > _KNOWN_PER_PENDING * self._most:
            del self._last[next(iter(self._last))]
        return True

    def published(self, batch: int = BATCH) -> list[list[ProgressUpdate]]:
        """Return all that is held, in batches for one write each, and hold nothing any more."""
        updates = list(self._pending.values())
        self._pending.clear()
        return [updates[at : at + batch] for at in range(0, len(updates), batch)]
