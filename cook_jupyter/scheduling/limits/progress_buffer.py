"""A buffer of progress on its way to the store, with the latest report of each instance.

Lives here: `ProgressBuffer`. Not here: when it is emptied (`service`), the effect of a report
(`model.lifecycle.progress`), the source of reports (`worker.progress`).

Source: Cook's `progress.clj`, as described in the fair-share specification, section 7.
"""

from collections.abc import Mapping
from typing import Final

from cook_jupyter.model.instance import InstanceId, ProgressUpdate

MAX_PENDING: Final = 4000
BATCH: Final = 100
_SEQUENCES_PER_PENDING: Final = 10


class ProgressBuffer:
    """Holds the latest progress of instances until it is written.

    Args:
        max_pending: maximum number of instances; reports of further ones are dropped until the buffer is
            emptied.
        pending, last: initial reports, and last sequence numbers of instances.
    """

    def __init__(
        self,
        *,
        max_pending: int = MAX_PENDING,
        pending: Mapping[InstanceId, ProgressUpdate] | None = None,
        last: Mapping[InstanceId, int] | None = None,
    ) -> None:
        self._max_pending = max_pending
        self._pending = dict(pending or {})
        self._last = dict(last or {})

    @property
    def pending(self) -> Mapping[InstanceId, ProgressUpdate]:
        """Reports that are to be written, by instance."""
        return self._pending

    @property
    def last(self) -> Mapping[InstanceId, int]:
        """The last sequence number of instances; the least recently updated ones are forgotten."""
        return self._last

    def note(
        self,
        instance_id: InstanceId,
        sequence: int | None,
        *,
        percent: int | None = None,
        message: str | None = None,
    ) -> bool:
        """Add a report of an instance, and return whether it is kept.

        A report is dropped if its sequence number is not an integer, or not above that of the report in the
        buffer.
        """
        pending = self._pending.get(instance_id)
        if pending is None and len(self._pending) >= self._max_pending:
            return False
        if not isinstance(sequence, int):
            return False
        if pending is not None and sequence <= self._last.get(instance_id, pending.sequence):
            return False
        self._pending[instance_id] = ProgressUpdate(
            instance_id=instance_id, sequence=sequence, percent=percent, message=message
        )
        self._last.pop(instance_id, None)
        self._last[instance_id] = sequence
        if len(self._last) > _SEQUENCES_PER_PENDING * self._max_pending:
            del self._last[next(iter(self._last))]
        return True

    def drain(self, batch: int = BATCH) -> list[list[ProgressUpdate]]:
        """Remove and return all reports, in batches for one write each."""
        updates = list(self._pending.values())
        self._pending.clear()
        return [updates[begin : begin + batch] for begin in range(0, len(updates), batch)]
