from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.job import JobId
from cook_jupyter.scheduling.growth.cluster_choice import choose_for
from cook_jupyter.scheduling.limits.id_hash import hash_of, is_among, position_of
from cook_jupyter.scheduling.planned.staged_values import staged_value

job_ids = st.uuids().map(lambda uuid: JobId(str(uuid)))


@pytest.mark.parametrize(
    ("job_id", "number"),
    [
        ("00000000-0000-0000-0000-000000000000", 0),
        ("00000000-0000-0000-0000-0000ffffffff", -1),
        ("00000001-0000-0002-0000-000400000008", 15),
        ("80000000-0000-0000-0000-000000000000", -(2**31)),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", 0),
    ],
)
def test_the_hash_folds_a_uuid_into_32_bits_with_a_sign(job_id: JobId, number: int) -> None:
    assert hash_of(job_id) == number


@given(job_id=job_ids, portions=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_every_job_gets_one_of_the_values_and_always_the_same(job_id: JobId, portions: list[float]) -> None:
    values = list(enumerate(portions))
    actual = staged_value(job_id, values)
    assert actual in range(len(values))
    assert staged_value(JobId(job_id.upper()), values) == actual


@given(job_id=job_ids, smaller=st.floats(0, 1), larger=st.floats(0, 1))
def test_a_job_that_has_a_new_value_keeps_it_as_the_portion_grows(
    job_id: JobId, smaller: float, larger: float
) -> None:
    smaller, larger = sorted((smaller, larger))
    if staged_value(job_id, [("new", smaller), ("old", 1 - smaller)]) == "new":
        assert staged_value(job_id, [("new", larger), ("old", 1 - larger)]) == "new"
    if is_among(job_id, smaller):
        assert is_among(job_id, larger)


@given(job_id=job_ids)
def test_no_job_is_among_none_and_each_is_among_all(job_id: JobId) -> None:
    assert not is_among(job_id, 0.0)
    assert is_among(job_id, 1.0)
    assert 0 <= position_of(job_id) <= 1.000001
    assert choose_for(job_id, ["only"]) == "only"


def test_a_portion_is_a_number_of_hundredths_of_the_hash() -> None:
    assert is_among(JobId(str(UUID(int=100))), 0.01)
    assert not is_among(JobId(str(UUID(int=101))), 0.01)
    assert not is_among(JobId(str(UUID(int=99))), 0.99)


def test_each_portion_applies_to_about_as_many_jobs_as_it_states() -> None:
    ids = [
        JobId(str(UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128))) for number in range(2000)
    ]
    a_third = sum(staged_value(job_id, [(True, 1 / 3), (False, 2 / 3)]) for job_id in ids)
    moved = sum(is_among(job_id, 0.25) for job_id in ids)
    first = sum(choose_for(job_id, [1, 0]) for job_id in ids)
    assert a_third / 2000 == pytest.approx(1 / 3, abs=0.05)
    assert moved / 2000 == pytest.approx(0.25, abs=0.05)
    assert first / 2000 == pytest.approx(0.5, abs=0.05)
