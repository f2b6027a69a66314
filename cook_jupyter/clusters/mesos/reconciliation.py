"""Which tasks to ask the master about, and when.

Lives here: `Reconciliation`. Not here: what the answers mean (`clusters.mesos.statuses`).

The answers are ordinary status updates. A master may be silent about a task for minutes, while the agent of
the task has not come back after a failover of the master; so a question without an answer is repeated, and
silence says nothing about a task.

Source of the intervals: Aurora, and Mesos' documentation of reconciliation.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cook_jupyter.clusters.mesos.messages import AgentId, Call, reconcile
from cook_jupyter.model.instance import InstanceId

EXPLICIT_S: Final = 900.0
IMPLICIT_S: Final = 3600.0
FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 60.0
SILENT_LAUNCH_S: Final = 60.0  # time without a status after which a launch is asked about
BATCH: Final = 1000
BATCH_INTERVAL_S: Final = 5.0


class Reconciliation:
    """The questions of one scheduler to its master."""

    def __init__(self) -> None:
        self._unanswered: dict[InstanceId, None] = {}
        self._to_ask: list[InstanceId] = []  # of the present round
        self._next_s = 0.0
        self._retry_s = FIRST_RETRY_S
        self._launched: dict[InstanceId, float] = {}  # without a status so far -> time of the launch
        self._explicit_s = self._implicit_s = 0.0
        self._is_implicit_due = False

    @property
    def is_answered(self) -> bool:
        """Whether the master has answered about all tasks."""
        return not self._unanswered and not self._is_implicit_due

    def begin(self, instance_ids: Iterable[InstanceId], now_s: float) -> None:
        """Ask about all open instances, and for all tasks that the master knows, after a new subscription."""
        self._ask(instance_ids, now_s)
        self._launched.clear()
        self._explicit_s = now_s + EXPLICIT_S
        self._is_implicit_due = True

    def ask(self, instance_ids: Iterable[InstanceId], now_s: float) -> None:
        """Ask about further instances soon."""
        self._unanswered.update(dict.fromkeys(instance_ids))
        self._next_s = min(self._next_s, now_s + FIRST_RETRY_S)

    def answered(self, instance_id: InstanceId) -> None:
        """Note a status of an instance."""
        self._unanswered.pop(instance_id, None)
        self._launched.pop(instance_id, None)

    def launched(self, instance_id: InstanceId, now_s: float) -> None:
        """Note that an instance was launched, whose first status is expected soon."""
        self._launched[instance_id] = now_s

    def calls(self, open_instances: Mapping[InstanceId, AgentId | None], now_s: float) -> Iterator[Call]:
        """Yield the calls that are due.

        Args:
            open_instances: all open instances that were sent to the master, with their agents.
            now_s: monotonic time.
        """
        if self._is_implicit_due or now_s >= self._implicit_s:
            self._is_implicit_due = False
            self._implicit_s = now_s + IMPLICIT_S
            yield reconcile([])
        if now_s >= self._explicit_s:
            self._explicit_s = now_s + EXPLICIT_S
            self._ask(open_instances, now_s)
        silent = [i for i, since_s in self._launched.items() if now_s >= since_s + SILENT_LAUNCH_S]
        for instance_id in silent:
            del self._launched[instance_id]
        if silent:
            self.ask(silent, now_s)
        if not self._unanswered or now_s < self._next_s:
            return
        if not self._to_ask:
            self._to_ask = [i for i in self._unanswered if i in open_instances]
            self._unanswered = dict.fromkeys(self._to_ask)
        batch, self._to_ask = self._to_ask[:BATCH], self._to_ask[BATCH:]
        if self._to_ask:
            self._next_s = now_s + BATCH_INTERVAL_S
        else:
            self._next_s = now_s + self._retry_s
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        if batch:
            yield reconcile([(instance_id, open_instances[instance_id]) for instance_id in batch])

    def _ask(self, instance_ids: Iterable[InstanceId], now_s: float) -> None:
        self._unanswered.update(dict.fromkeys(instance_ids))
        self._to_ask = []
        self._next_s = now_s
        self._retry_s = FIRST_RETRY_S
