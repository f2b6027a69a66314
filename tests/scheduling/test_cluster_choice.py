from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.scheduling.growth.cluster_choice import acceptable_clusters, distribute_jobs
from cook_jupyter.scheduling.planned.clusters import OfferBuffer, considered_within, match_interval_ms
from tests.builders import a_job, an_instance

LOCATIONS = {"east-1": "east", "west": "west", "east-2": "east"}


def test_a_job_without_a_checkpoint_may_use_any_cluster() -> None:
    ran = an_instance(status=InstanceStatus.FAILED, cluster="west")
    assert acceptable_clusters(a_job(instances=(ran,)), LOCATIONS) == list(LOCATIONS)


def test_a_checkpoint_of_a_removed_cluster_is_ignored() -> None:
    ran = an_instance(status=InstanceStatus.FAILED, cluster="sold")
    job = a_job(instances=(ran,), extra={"checkpoint": {"mode": "auto"}})
    assert acceptable_clusters(job, LOCATIONS) == list(LOCATIONS)


@given(
    count=st.integers(0, 20),
    capacity=st.none() | st.dictionaries(st.sampled_from([*LOCATIONS, "unknown"]), st.integers(0, 8)),
)
def test_clusters_get_as_many_jobs_as_they_accept(count: int, capacity: dict[str, int] | None) -> None:
    jobs = [a_job() for _ in range(count)]
    sent = distribute_jobs(jobs, LOCATIONS, capacity)
    went = [job for some in sent.values() for job in some]
    assert len(set(went)) == len(went)
    if capacity is None:
        assert len(went) == count
        return
    assert all(len(some) <= capacity[name] for name, some in sent.items())
    assert len(went) == min(count, sum(capacity.get(name, 0) for name in LOCATIONS))


def test_a_job_is_always_sent_to_the_same_of_several_clusters() -> None:
    jobs = [a_job() for _ in range(50)]
    assert distribute_jobs(jobs, LOCATIONS) == distribute_jobs(jobs, LOCATIONS)
    assert len(distribute_jobs(jobs, LOCATIONS)) == 3


def test_pools_take_turns_but_not_too_fast() -> None:
    assert [match_interval_ms(pools) for pools in (0, 1, 7, 30, 100)] == [3000, 3000, 428, 100, 100]


def test_no_more_jobs_are_considered_than_clusters_accept() -> None:
    assert considered_within({"a": 30, "b": 12}) == 42
    assert considered_within({"a": 300, "b": 300}) == 500


def test_a_full_buffer_takes_offers_again_once_it_was_emptied() -> None:
    buffer: OfferBuffer[str] = OfferBuffer(2)
    assert [buffer.add(batch) for batch in (["a", "b"], ["c"], ["d"])] == [True, True, False]
    assert buffer.drain() == ["a", "b", "c"]
    assert buffer.add(["d"])
    assert buffer.drain() == ["d"]
