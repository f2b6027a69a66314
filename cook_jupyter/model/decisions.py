"""Decisions: what a cycle proposes, and why it refused the rest.

Lives here: `Match`, `Refusal`, `Matching` and the value that carries the queue's scaleback from one cycle to
the next; `Preemption` and `Rebalancing`. A decision changes nothing by itself: the service commits it.
Not here: how they are reached (`scheduling`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UNLIMITED
from cook_jupyter.model.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Start the job on that host of that cluster, with those ports."""

    job_id: JobId
    host: str
    cluster: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no host took a considerable job, as numbers of hosts.

    Each host is counted once under the first constraint that fails there, or else once under each
    resource it is short of, both as they were at the turn of the job, with what the cycle had placed before.
    """

    job_id: JobId
    resources: Mapping[str, int] = field(default_factory=dict)  # "cpus", "mem", "gpus", "ports" -> hosts
    constraints: Mapping[str, int] = field(default_factory=dict)  # Cook's names of constraints -> hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaleback:
    """How many jobs a pool considers per cycle; fewer while the head of its queue finds no host.

    Attributes:
        considerable: how many jobs the next cycle considers.
        cycles_at_floor: how many cycles in a row that number has been 1.
    """

    considerable: int = 1000
    cycles_at_floor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """What one match cycle of one pool decided.

    Attributes:
        matches: in queue order; what the service should commit and launch.
        refusals: for each considerable job that was looked at and found no host, in queue order. The cycle
            ends behind the first of them at whose turn no host has room for the least cpus and the least
            memory of all waiting jobs; jobs behind it are not listed.
        unmatched: how many considerable jobs were looked at without a match.
        considered: how many considerable jobs were looked at.
        head_matched: the first considerable job has a host, or nothing was matched at all.
        scaleback: to be handed to the pool's next cycle.
        rate_limited: per user, how many jobs of the whole queue the launch rate holds back.
        reservations: those that are left after the matches.
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
        """How many considerable jobs were looked at without a match."""
        return self.considered - len(self.matches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """Stop the tasks of `victims`, all on `host`, so that `beneficiary` can start there.

    Attributes:
        beneficiary: the waiting job that gets the room.
        host, cluster: where.
        victims: jobs whose running task is to be stopped; none if spare room suffices.
        displaced: beneficiaries of earlier decisions of the same cycle whose room this one takes. They run
            nowhere yet, so nothing is stopped for it.
        dru: how far along its user's share the nearest of the victims is; `UNLIMITED` if there is none.
        freed: what the decision counts on: the host's spare room and what the victims hold.
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
    """What one rebalance cycle of one pool decided.

    Attributes:
        preemptions: in the order of their beneficiaries in the queue, also those that stop nothing.
        reservations: job -> the host that was freed for it. They replace those of the pool's last cycle.
    """

    preemptions: tuple[Preemption, ...] = ()
    reservations: Mapping[JobId, str] = field(default_factory=dict)

    @property
    def victims(self) -> tuple[JobId, ...]:
        """The jobs whose running task is to be stopped, in the order of the decisions."""
        return tuple(victim for preemption in self.preemptions for victim in preemption.victims)
