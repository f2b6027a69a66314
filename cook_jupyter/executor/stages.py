"""Stages of a job on its way from a future to the scheduler.

Lives here: the stages and all steps between them.
Not here: the state of the job at the scheduler; the end of a future, which `concurrent.futures` handles: a
job that is refused ends its future while it is being sent.
"""

from __future__ import annotations

from enum import Enum


class Stage(Enum):
    """Stage of a job on its way to the scheduler."""

    QUEUED = "queued"  # in this process
    WITHDRAWN = "withdrawn"  # removed before it was sent
    SENDING = "sending"  # it is unknown whether it has arrived
    ACCEPTED = "accepted"  # the scheduler has it

    __hash__ = object.__hash__  # members are unique; before Python 3.12 Enum's own is a Python function


STEPS: dict[Stage, frozenset[Stage]] = {
    # The future of a job of an earlier session is accepted immediately.
    Stage.QUEUED: frozenset({Stage.WITHDRAWN, Stage.SENDING, Stage.ACCEPTED}),
    Stage.WITHDRAWN: frozenset(),
    Stage.SENDING: frozenset({Stage.ACCEPTED}),
    Stage.ACCEPTED: frozenset(),
}


def step(current: Stage, target: Stage) -> Stage:
    """Return the target stage, if it can be reached from the current one.

    Raises:
        ValueError: there is no such step.
    """
    if target is not current and target not in STEPS[current]:
        raise ValueError(f"a job that is {current.value} cannot become {target.value}")
    return target
