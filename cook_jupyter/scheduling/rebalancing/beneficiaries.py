"""The order in which a rebalance cycle handles waiting jobs: the job with the lowest DRU first.

Lives here: `BeneficiaryQueue`. Cook takes jobs in the order of the ranking, in which jobs that fit nowhere
count, too; here the DRU of a job counts only what its user really holds.
Not here: the decision for a job (`scheduling.rebalancing.preemption`).
"""

import heapq
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from math import inf
from typing import Final, NamedTuple, Protocol

import numpy as np

from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.job import JobId
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.arrays import Floats

_MAX_ATTEMPTS: Final = 4  # decisions per job and cycle


class CycleState(Protocol):
    """The state of the rebalance cycle that the queue reads."""

    def user_of(self, job_id: JobId) -> str:
        """Return the user of a job."""

    def pending_dru(self, job_id: JobId) -> float:
        """Return the DRU that a job would have if it were launched now."""

    def is_within_quota(self, job_id: JobId) -> bool:
        """Return whether the job's user stays within quota if the job runs, too."""

    def requests_of(self, jobs: Sequence[JobId]) -> tuple[Floats, Floats, Floats]:
        """Return the cpus, memory and gpus that jobs request."""


class _Entry(NamedTuple):
    """The first pending job of a user; only the latest entry of each user is valid."""

    dru: float
    position: int
    version: int
    user: str


class BeneficiaryQueue:
    """The waiting jobs for which a cycle decides.

    The jobs of one user keep the given order. A job without a decision, or whose room a later decision takes,
    is passed over. It is handled again once a decision leaves enough room for it, or stops a task of its
    user.

    Args:
        state: the state of the cycle; call `apply` for each decision that is applied to it.
        jobs: the jobs, in the order of the ranking.
    """

    def __init__(self, state: CycleState, jobs: Iterable[JobId]) -> None:
        self._state = state
        self._jobs = list(jobs)
        self._positions = {job_id: position for position, job_id in enumerate(self._jobs)}
        self._users = [state.user_of(job_id) for job_id in self._jobs]
        self._pending: dict[str, list[int]] = {}  # user -> heap of positions
        for position, user in enumerate(self._users):
            self._pending.setdefault(user, []).append(position)
        self._requests = state.requests_of(self._jobs)
        self._min_request = [float(column.min(initial=inf)) for column in self._requests[:2]]
        self._passed = np.zeros(len(self._jobs), dtype=bool)
        self._any_passed = False  # at any time
        self._attempts = [0] * len(self._jobs)
        self._versions = dict.fromkeys(self._pending, 0)
        self._entries: list[_Entry] = []
        for user in self._pending:
            self._push(user)

    def pop(self) -> tuple[JobId, float] | None:
        """Remove and return the next job, with the DRU that it would have now; None if there is none."""
        while self._entries:
            entry = heapq.heappop(self._entries)
            if entry.version == self._versions[entry.user]:
                heapq.heappop(self._pending[entry.user])
                self._attempts[entry.position] += 1
                return self._jobs[entry.position], entry.dru
        return None

    def pass_over(self, job_id: JobId) -> None:
        """Record that nothing was decided for a job.

        If the job is over its user's quota, the user's later jobs are dropped: a match cycle would not start
        them.
        """
        position = self._positions[job_id]
        user = self._users[position]
        if self._state.is_within_quota(job_id):
            self._mark_passed(position)
        else:
            self._pending[user].clear()
        self._push(user)

    def apply(self, decision: Preemption, room: Resources) -> None:
        """Update the queue after a decision.

        Args:
            decision: the decision.
            room: room that is left on its host.
        """
        changed_users = {self._users[self._positions[decision.beneficiary]]}
        if decision.victims or decision.displaced:
            stopped = {self._state.user_of(job) for job in (*decision.victims, *decision.displaced)}
            changed_users |= stopped & self._pending.keys()
            for job_id in decision.displaced:
                self._mark_passed(self._positions[job_id])
            for position in self._positions_to_reconsider(room, stopped & self._pending.keys()):
                self._passed[position] = False
                heapq.heappush(self._pending[self._users[position]], position)
                changed_users.add(self._users[position])
        for user in changed_users:
            self._push(user)

    def _mark_passed(self, position: int) -> None:
        """Mark a job as passed over, unless it has been handled too often."""
        self._passed[position] = self._attempts[position] < _MAX_ATTEMPTS
        self._any_passed = True

    def _positions_to_reconsider(self, room: Resources, stopped: AbstractSet[str]) -> list[int]:
        """Return the positions of passed-over jobs that fit in the room, or whose user had a task stopped."""
        positions: list[int] = []
        if not self._any_passed:
            return positions
        if self._min_request[0] <= room.cpus and self._min_request[1] <= room.mem_mb:
            cpus, mem, gpus = self._requests
            fits = self._passed & (cpus <= room.cpus) & (mem <= room.mem_mb) & (gpus <= room.gpus)
            positions += np.flatnonzero(fits).tolist()
        if stopped:
            passed = np.flatnonzero(self._passed).tolist()
            positions += [
                position
                for position in passed
                if self._users[position] in stopped and position not in positions
            ]
        return positions

    def _push(self, user: str) -> None:
        """Add an entry for the first pending job of a user, with its current DRU."""
        self._versions[user] += 1
        pending = self._pending[user]
        if pending:
            dru = self._state.pending_dru(self._jobs[pending[0]])
            heapq.heappush(self._entries, _Entry(dru, pending[0], self._versions[user], user))
