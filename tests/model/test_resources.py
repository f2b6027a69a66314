import pytest

from cook_jupyter.model.resources import Resources

ROOM = Resources(cpus=10.0, mem_mb=20.0, gpus=30.0)


def test_resources_are_added_and_taken_away_amount_by_amount() -> None:
    task = Resources(cpus=1.0, mem_mb=2.0, gpus=3.0)
    assert ROOM + task == Resources(cpus=11.0, mem_mb=22.0, gpus=33.0)
    assert ROOM - task == Resources(cpus=9.0, mem_mb=18.0, gpus=27.0)


@pytest.mark.parametrize(
    ("task", "fits"),
    [
        (ROOM, True),
        (Resources(cpus=10.1), False),
        (Resources(mem_mb=20.1), False),
        (Resources(gpus=30.1), False),
    ],
)
def test_a_task_fits_unless_it_requests_more_of_anything(task: Resources, fits: bool) -> None:
    assert task.fits_in(ROOM) is fits
