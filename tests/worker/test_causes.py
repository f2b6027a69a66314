"""Why an instance ended: one table."""

import signal

import pytest

from cook_jupyter.clusters.translation import OUTCOMES
from cook_jupyter.model.reason import REASONS
from cook_jupyter.worker.recovery import cause_of
from cook_jupyter.worker.task import Cause, TaskExit

KILL, TERM, SEGV = signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV


@pytest.mark.parametrize(
    ("end", "doom", "seen_mb", "cause"),
    [
        ({"exit_code": 0}, None, 0, Cause.DONE),
        ({"exit_code": 0}, Cause.KILLED, 0, Cause.DONE),  # it was done before it was told to stop
        ({"exit_code": 0, "termed": True}, Cause.KILLED, 0, Cause.KILLED),
        ({"exit_code": 0, "termed": True}, None, 0, Cause.EXTERNAL),
        ({"exit_code": 3}, None, 0, Cause.FAILED),
        ({"exit_code": 1, "memory": True}, None, 0, Cause.MEMORY),
        ({"exit_code": 139, "signal": SEGV}, None, 0, Cause.FAILED),
        ({"exit_code": 143, "signal": TERM}, None, 0, Cause.FAILED),
        ({"exit_code": 143, "signal": TERM, "termed": True}, None, 0, Cause.EXTERNAL),
        ({"exit_code": 143, "signal": TERM, "termed": True}, Cause.RUNTIME, 0, Cause.RUNTIME),
        ({"exit_code": 137, "signal": KILL}, None, 50, Cause.EXTERNAL),
        ({"exit_code": 137, "signal": KILL}, None, 99, Cause.MEMORY),
        ({"exit_code": 137, "signal": KILL}, Cause.MEMORY, 0, Cause.MEMORY),
        ({"exit_code": 137, "signal": KILL}, Cause.STOPPED, 0, Cause.STOPPED),
        ({"exit_code": None}, None, 0, Cause.UNLAUNCHED),
        ({"exit_code": None}, Cause.KILLED, 0, Cause.KILLED),
    ],
)
def test_an_end_has_this_cause(end: dict, doom: str | None, seen_mb: float, cause: str) -> None:
    told = TaskExit(**{"instance_id": "i", "at_ms": 0, **end})

    assert cause_of(told, doom, mem_mb=100.0, seen_mb=seen_mb) == cause


def test_every_cause_has_an_outcome_with_a_reason_of_cooks() -> None:
    causes = {value for name, value in vars(Cause).items() if not name.startswith("_")}

    assert set(OUTCOMES) == causes
    assert {reason for _, reason in OUTCOMES.values() if reason is not None} <= set(REASONS)


@pytest.mark.parametrize(
    ("cause", "ours"),
    [
        (Cause.FAILED, False),
        (Cause.MEMORY, False),
        (Cause.RUNTIME, False),
        (Cause.KILLED, False),
        (Cause.STOPPED, True),
        (Cause.EXTERNAL, True),
        (Cause.LOST, True),
        (Cause.UNLAUNCHED, True),
    ],
)
def test_the_user_pays_only_for_what_the_user_did(cause: str, ours: bool) -> None:
    reason = OUTCOMES[cause][1]

    assert reason is not None
    assert REASONS[reason].mea_culpa is ours
