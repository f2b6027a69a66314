"""Launching ahead: committed instances of short tasks wait for a running task to end.

Lives here: `LaunchAheadQueue`, which decides how much more than its room a host offers, keeps the instances
that do not fit yet, and returns them as tasks end.
Not here: the agent (`clusters.local.cluster`), which is never sent more than fits on the host.

Between the end of a task and the launch of the next are a commit, a match and another commit. For tasks of
a few milliseconds that is most of the time. So while tasks are short, a host offers room for a few more than
it can run: they are matched and committed many at a time, and each starts as soon as another ends. If a task
turns out to be long, the instances behind it fail soon with a reason that is the system's fault, and nothing
is launched ahead for a while.

Measured for separate calls without any work, on two cpus: docs/decisions/0006-launching-ahead.md.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.resources import Resources

LOOK_S = 0.25  # interval of looking for stuck instances
_BRIEF_S = 0.02  # longest mean run time of tasks that are launched ahead
_AHEAD_S = 0.05  # work that may wait on a host, by the mean run time
_MOST = 16  # most room to launch ahead, in multiples of the host
_STUCK_S = 0.5  # instances that have waited that long are stuck
_COOL_S, _LONGEST_COOL_S = 30.0, 3600.0  # pause of launching ahead after that
_WEIGHT = 0.2  # of the newest run time in the mean


class LaunchAheadQueue:
    """The instances that wait for room on one host.

    Args:
        now: a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._waiting: deque[InstanceId] = deque()
        self._since: dict[InstanceId, float] = {}  # start of the wait of each waiting instance
        self._sent: dict[InstanceId, tuple[float, Resources]] = {}
        self._mean_s = 1.0  # tasks are long until measured
        self._cool_s = _COOL_S
        self._cold_until = 0.0

    def offerable(self, whole: Resources, held: Resources) -> Resources:
        """Return the room to offer: that of the host, or more while tasks are short.

        More is offered only when half of the instances launched ahead have started, so that many are launched
        at a time. The offer may be larger than the host; matching excludes single jobs that are.

        Args:
            whole: resources of the empty host.
            held: resources of all instances, including those that wait here.
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
    def has_waiting(self) -> bool:
        """Whether an instance waits for a task to end."""
        return bool(self._waiting)

    def put(self, instance_id: InstanceId) -> None:
        """Add a launched instance."""
        if instance_id not in self._since:
            self._waiting.append(instance_id)
            self._since[instance_id] = self._now()

    def pop_ready(self, whole: Resources, held_by: Callable[[InstanceId], Resources]) -> Sequence[InstanceId]:
        """Remove and return the instances that fit on the host now, in order; they count as sent.

        An instance that requests more than the host has is returned when nothing else runs.

        Args:
            whole: resources of the empty host.
            held_by: returns the resources of an instance.
        """
        if not self._waiting:
            return ()
        ready: list[InstanceId] = []
        free = remaining(whole, sum_resources(held for _, held in self._sent.values()))
        while self._waiting:
            first = self._waiting[0]
            requested = held_by(first)
            if not requested.fits_in(free) and self._sent:
                break
            self._waiting.popleft()
            del self._since[first]
            self._sent[first] = (self._now(), requested)
            free = remaining(free, requested)
            ready.append(first)
        return ready

    def adopt(self, instance_id: InstanceId, held: Resources) -> None:
        """Count an instance that runs on the host already."""
        self._sent[instance_id] = (self._now(), held)

    def ended(self, instance_id: InstanceId) -> None:
        """Stop counting an instance that has ended, and update the mean run time."""
        sent = self._sent.pop(instance_id, None)
        if sent is not None:
            self._mean_s += _WEIGHT * (self._now() - sent[0] - self._mean_s)

    def withdraw(self, instance_id: InstanceId) -> bool:
        """Remove a waiting instance; return False if it does not wait here."""
        if self._since.pop(instance_id, None) is None:
            return False
        self._waiting.remove(instance_id)
        return True

    def forget_sent(self) -> None:
        """Forget all running instances, before the agent reports them again."""
        self._sent.clear()

    def pop_stuck(self) -> Sequence[InstanceId]:
        """Remove and return instances that wait behind long tasks; none while the agent is away."""
        if not self._sent or not self._waiting:
            return ()
        now = self._now()
        if now - self._since[self._waiting[0]] < _STUCK_S:
            return ()
        stuck = list(self._waiting)
        self._waiting.clear()
        self._since.clear()
        self._mean_s = 1.0
        self._cold_until = now + self._cool_s
        self._cool_s = min(2 * self._cool_s, _LONGEST_COOL_S)
        return stuck
