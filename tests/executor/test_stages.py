"""The way of a job to the scheduler, one step after the other."""

import itertools

import pytest

from cook_jupyter.executor.stages import STEPS, Stage, step


@pytest.mark.parametrize(("current", "target"), list(itertools.product(Stage, Stage)))
def test_a_job_takes_the_steps_of_the_table_and_no_other(current: Stage, target: Stage) -> None:
    if target is current or target in STEPS[current]:
        assert step(current, target) is target
    else:
        with pytest.raises(ValueError, match="cannot become"):
            step(current, target)


@pytest.mark.parametrize("last", [Stage.WITHDRAWN, Stage.ACCEPTED])
def test_what_was_withdrawn_is_never_sent_and_what_was_accepted_stays(last: Stage) -> None:
    assert not STEPS[last]
