"""Launching ahead: brief tasks wait for their turn beside the host, not in the queue.

Lives here: `LaunchAheadQueue`, which says how much more than its free room a host may be given, keeps what
was given too early, and hands it out as tasks end. Not here: the agent (`clusters.local.cluster`),
which is never sent more than the host holds.

Between the end of a task and the launch of the next lie a commit, a match and another commit. For
tasks of a few milliseconds that is most of the time. So while tasks are brief, a host is offered
room for a few more than it can run: they are matched and committed many at a time, and each starts
the moment another ends. A task that turns out not to be brief would hold those behind it up; they
are given back soon, as failures that are the system's own, and nothing is launched ahead for a while.

Measured (docs/decisions/0006-launching-ahead.md): separate calls of no length, through two slots.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.resources import Resources

LOOK_S = 0.25  # how often stuck tasks are looked for
_BRIEF_S = 0.02  # mean length up to which tasks are launched ahead
_AHEAD_S = 0.05  # so much work may wait beside a host, going by the mean
_MOST = 16  # times the host's room, however brief tasks are
_STUCK_S = 0.5  # what has waited that long is given back
_COOL_S, _LONGEST_COOL_S = 30.0, 3600.0  # how long nothing is launched ahead after that
_WEIGHT = 0.2  # of the newest length in the mean


class LaunchAheadQueue:
    """What waits beside one host, and how much may.

    Args:
        now: seconds that only grow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._waiting: deque[InstanceId] = deque()
        self._since: dict[InstanceId, float] = {}  # of those that wait
        self._sent: dict[InstanceId, tuple[float, Resources]] = {}
        self._mean_s = 1.0  # until the contrary is seen
        self._cool_s = _COOL_S
        self._cold_until = 0.0

    def room(self, whole: Resources, held: Resources) -> Resources:
        """Return what to offer: what is free, or more while tasks are brief.

        More is offered only when half of what was launched ahead is gone, so that it goes by many at
        a time. A single job may be larger than the host then: who matches keeps those out.

        Args:
            whole: all that the host has.
            held: what instances hold, those that wait here included.
        """
        if self._mean_s > _BRIEF_S or self._now() < self._cold_until:
            return remaining(whole, held)
        times = min(_MOST, int(_AHEAD_S / self._mean_s)) if self._mean_s > 0 else _MOST
        if held.cpus > whole.cpus * (1 + times / 2) or held.mem_mb > whole.mem_mb * (1 + times / 2):
            return Resources()
        return remaining(
            Resources(cpus=whole.cpus * (1 + times), mem_mb=whole.mem_mb * (1 + times), gpus=whole.gpus),
            held,
        )

    @property
    def waits(self) -> bool:
        """Whether something is at hand for when a task ends."""
        return bool(self._waiting)

    def put(self, instance_id: InstanceId) -> None:
        """Take in a launched instance; it is due when there is room."""
        if instance_id not in self._since:
            self._waiting.append(instance_id)
            self._since[instance_id] = self._now()

    def due(self, whole: Resources, held_by: Callable[[InstanceId], Resources]) -> Sequence[InstanceId]:
        """Take out those that fit beside what was sent, first come first; they count as sent now.

        One that asks for more than the host has is due when nothing else runs.
        """
        if not self._waiting:
            return ()
        due: list[InstanceId] = []
        free = remaining(whole, sum_resources(held for _, held in self._sent.values()))
        while self._waiting:
            first = self._waiting[0]
            asked = held_by(first)
            if not asked.fits_in(free) and self._sent:
                break
            self._waiting.popleft()
            del self._since[first]
            self._sent[first] = (self._now(), asked)
            free = remaining(free, asked)
            due.append(first)
        return due

    def adopt(self, instance_id: InstanceId, held: Resources) -> None:
        """Count in what runs on the host already."""
        self._sent[instance_id] = (self._now(), held)

    def ended(self, instance_id: InstanceId) -> None:
        """Count out what has ended, and learn from its length."""
        sent = self._sent.pop(instance_id, None)
        if sent is not None:
            self._mean_s += _WEIGHT * (self._now() - sent[0] - self._mean_s)

    def take_back(self, instance_id: InstanceId) -> bool:
        """Forget an instance that waits; False if it does not wait here."""
        if self._since.pop(instance_id, None) is None:
            return False
        self._waiting.remove(instance_id)
        return True

    def forget_sent(self) -> None:
        """Begin anew with what runs: the host's agent is about to tell."""
        self._sent.clear()

    def stuck(self) -> Sequence[InstanceId]:
        """Take out those that wait behind tasks that were not brief; none while the host is away."""
        if not self._sent or not self._waiting:
            return ()
        now = self._now()
        if now - self._since[self._waiting[0]] < _STUCK_S:
            return ()
        found = list(self._waiting)
        self._waiting.clear()
        self._since.clear()
        self._mean_s = 1.0
        self._cold_until = now + self._cool_s
        self._cool_s = min(2 * self._cool_s, _LONGEST_COOL_S)
        return found
