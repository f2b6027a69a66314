"""Decisions: what a cycle proposes, and why it refused other jobs.

Lives here: `Match`, `Refusal`, `Matching` and `Scaleback`, which is passed from one match cycle to the next;
`Preemption` and `Rebalancing`. A decision changes nothing by itself: the service commits it.
Not here: how decisions are made (`scheduling`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UNLIMITED
from cook_jupyter.model.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Start a job on a host of a cluster, with these ports."""

    job_id: JobId
    host: str
    cluster: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no host took a considerable job, as numbers of hosts.

    Each host is counted once under the first constraint that fails there, or else once under each resource
    that it lacks. Both are as they were at the turn of the job, with everything placed earlier in the cycle.
    """

    job_id: JobId
    resources: Mapping[str, int] = field(default_factory=dict)  # "cpus", "mem", "gpus", "ports" -> hosts
    constraints: Mapping[str, int] = field(default_factory=dict)  # Cook's names of constraints -> hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaleback:
    """Number of jobs that a pool considers per cycle; reduced while the head of its queue finds no host.

    Attributes:
        considerable: number of jobs that the next cycle considers.
        cycles_at_floor: number of successive cycles for which that number has been 1.
    """

    considerable: int = 1000
    cycles_at_floor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The decisions of a match cycle of one pool.

    Attributes:
        matches: matches to commit and launch, in queue order.
        refusals: refusals of the considered jobs that found no host, in queue order. The cycle ends after the
            first of them at whose turn no host has room for the least cpus and the least memory of all
            waiting jobs; later jobs are not listed.
        unmatched: number of considered jobs without a match.
        considered: number of considerable jobs that the cycle tried to match.
        head_matched: whether the first considerable job has a host, or nothing was matched at all.
        scaleback: argument of the pool's next cycle.
        rate_limited: user -> number of queued jobs that the launch rate holds back.
        reservations: reservations that remain after the matches.
    """

    matches: tuple[Match, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    considered: int = 0
    head_matched: bool = True
    scaleback: Scaleback = Scaleback()
    rate_limited: Mapping[str, int] = field(default_factory=dict)
    reservations: Mapping[JobId, str] = field(default_factory=dict)

    @property
    def unmatched(self) -> int:
        """Number of considered jobs without a match."""
        return self.considered - len(self.matches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """Stop the tasks of `victims`, all on `host`, so that `beneficiary` can start there.

    Attributes:
        beneficiary: the waiting job that gets the room.
        host, cluster: host of the victims, and its cluster.
        victims: jobs whose running task is to be stopped; none if spare room suffices.
        displaced: beneficiaries of earlier decisions of the same cycle whose room this decision takes. They
            do not run yet, so nothing is stopped.
        dru: lowest DRU among the victims; `UNLIMITED` if there are none.
        freed: room that the decision counts on: the spare room of the host and the resources of the victims.
    """

    beneficiary: JobId
    host: str
    cluster: str
    victims: tuple[JobId, ...] = ()
    displaced: tuple[JobId, ...] = ()
    dru: float = UNLIMITED
    freed: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalancing:
    """The decisions of a rebalance cycle of one pool.

    Attributes:
        preemptions: decisions in the order in which they were made, also those that stop nothing.
        reservations: job -> the host that was freed for it. They replace those of the pool's last cycle.
    """

    preemptions: tuple[Preemption, ...] = ()
    reservations: Mapping[JobId, str] = field(default_factory=dict)

    @property
    def victims(self) -> tuple[JobId, ...]:
        """The jobs whose running task is to be stopped, in the order of the decisions."""
        return tuple(victim for preemption in self.preemptions for victim in preemption.victims)
