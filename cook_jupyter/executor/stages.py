"""Stages: how far the job of a future is on its way to the scheduler.

Lives here: the stages and every step between them. No other code decides one.
Not here: what becomes of the job there; the end of a future, left to `concurrent.futures`: a job that
is refused ends its future while it is being sent.
"""

from __future__ import annotations

from enum import Enum


class Stage(Enum):
    """How far a job is on its way to the scheduler."""

    QUEUED = "queued"  # in this process
    WITHDRAWN = "withdrawn"  # taken back before it was sent
    SENDING = "sending"  # whether it has arrived is not known yet
    ACCEPTED = "accepted"  # the scheduler has it

    __hash__ = object.__hash__  # each is one object; before Python 3.12 Enum's own costs a Python call


STEPS: dict[Stage, frozenset[Stage]] = {
    # A future that was made for a job of an earlier session begins with what the scheduler has.
    Stage.QUEUED: frozenset({Stage.WITHDRAWN, Stage.SENDING, Stage.ACCEPTED}),
    Stage.WITHDRAWN: frozenset(),
    Stage.SENDING: frozenset({Stage.ACCEPTED}),
    Stage.ACCEPTED: frozenset(),
}


def step(current: Stage, target: Stage) -> Stage:
    """Return the stage after a step; staying where one is, is none.

    Raises:
        ValueError: there is no such step.
    """
    if target is not current and target not in STEPS[current]:
        raise ValueError(f"a job that is {current.value} cannot become {target.value}")
    return target
