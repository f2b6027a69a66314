"""The order in which a rebalance cycle looks for room: always for the user furthest below share.

Lives here: `BeneficiaryQueue`. Cook takes jobs in the order of the ranking, in which also jobs count that fit
nowhere; here a job counts with what its user really holds.
Not here: what is decided for a job (`scheduling.rebalancing.preemption`).
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

_LOOKS: Final = 4  # how often a cycle looks for room for one job, at most


class CycleState(Protocol):
    """What the queue asks of the cycle."""

    def user_of(self, job_id: JobId) -> str:
        """Return the user of a job."""

    def pending_dru(self, job_id: JobId) -> float:
        """Return the DRU of a job if it were launched now."""

    def is_below_quota(self, job_id: JobId) -> bool:
        """Return whether the user stays within quota if the job runs as well."""

    def requests_of(self, jobs: Sequence[JobId]) -> tuple[Floats, Floats, Floats]:
        """Return the cpus, memory and gpus that jobs ask for."""


class _Entry(NamedTuple):
    """The first job that a user has left; only the latest entry of a user counts."""

    dru: float
    place: int
    version: int
    user: str


class BeneficiaryQueue:
    """The waiting jobs for which a cycle looks for room.

    A user's jobs come in the order given. A job for which nothing was decided, or whose room a later decision
    takes, is passed over, and looked at again once a decision leaves room that it fits in, or stops a task of
    its user.

    Args:
        state: the cycle; the queue is to be told of each decision that is put in force in it.
        jobs: the jobs, in the order of the ranking.
    """

    def __init__(self, state: CycleState, jobs: Iterable[JobId]) -> None:
        self._state = state
        self._jobs = list(jobs)
        self._places = {job_id: place for place, job_id in enumerate(self._jobs)}
        self._users = [state.user_of(job_id) for job_id in self._jobs]
        self._pending: dict[str, list[int]] = {}  # heaps of places
        for place, user in enumerate(self._users):
            self._pending.setdefault(user, []).append(place)
        self._requests = state.requests_of(self._jobs)
        self._least = [float(column.min(initial=inf)) for column in self._requests[:2]]  # asked by any job
        self._passed = np.zeros(len(self._jobs), dtype=bool)
        self._any_passed = False  # ever
        self._looks = [0] * len(self._jobs)
        self._versions = dict.fromkeys(self._pending, 0)
        self._entries: list[_Entry] = []
        for user in self._pending:
            self._push(user)

    def pop(self) -> tuple[JobId, float] | None:
        """Take out the next job, with its DRU if it were launched now; None if there is none."""
        while self._entries:
            entry = heapq.heappop(self._entries)
            if entry.version == self._versions[entry.user]:
                heapq.heappop(self._pending[entry.user])
                self._looks[entry.place] += 1
                return self._jobs[entry.place], entry.dru
        return None

    def pass_over(self, job_id: JobId) -> None:
        """Follow that nothing was decided for a job.

        What a match cycle would not start gets no room either: it starts no job of a user behind one that is
        over the user's quota.
        """
        place = self._places[job_id]
        user = self._users[place]
        if self._state.is_below_quota(job_id):
            self._mark_passed(place)
        else:
            self._pending[user].clear()
        self._push(user)

    def follow(self, decision: Preemption, room: Resources) -> None:
        """Follow a decision that is in force; `room` is what it leaves on its host."""
        touched = {self._users[self._places[decision.beneficiary]]}
        if decision.victims or decision.displaced:
            stopped = {self._state.user_of(job) for job in (*decision.victims, *decision.displaced)}
            touched |= stopped & self._pending.keys()
            for job_id in decision.displaced:
                self._mark_passed(self._places[job_id])
            for place in self._woken(room, stopped & self._pending.keys()):
                self._passed[place] = False
                heapq.heappush(self._pending[self._users[place]], place)
                touched.add(self._users[place])
        for user in touched:
            self._push(user)

    def _mark_passed(self, place: int) -> None:
        """Let a job wait for room that a later decision leaves, unless it was looked at often enough."""
        self._passed[place] = self._looks[place] < _LOOKS
        self._any_passed = True

    def _woken(self, room: Resources, stopped: AbstractSet[str]) -> list[int]:
        """Return the places of jobs passed over that fit in the room, or are of users with stopped tasks."""
        woken: list[int] = []
        if not self._any_passed:
            return woken
        if self._least[0] <= room.cpus and self._least[1] <= room.mem_mb:
            cpus, mem, gpus = self._requests
            fits = self._passed & (cpus <= room.cpus) & (mem <= room.mem_mb) & (gpus <= room.gpus)
            woken += np.flatnonzero(fits).tolist()
        if stopped:
            passed = np.flatnonzero(self._passed).tolist()
            woken += [place for place in passed if self._users[place] in stopped and place not in woken]
        return woken

    def _push(self, user: str) -> None:
        """Let a user stand in the queue with what the user holds now."""
        self._versions[user] += 1
        pending = self._pending[user]
        if pending:
            dru = self._state.pending_dru(self._jobs[pending[0]])
            heapq.heappush(self._entries, _Entry(dru, pending[0], self._versions[user], user))
