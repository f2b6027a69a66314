"""The hosts of a pool, as if they were empty."""

from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.matching.capacity import PoolCapacity


def an_offer(host: str, cluster: str, room: Resources, running: Resources | None = None) -> Offer:
    return Offer(host=host, cluster=cluster, pool=PoolName("pool"), room=room, running=running or Resources())


def test_a_host_is_all_that_its_clusters_offer_and_what_runs_there() -> None:
    first = an_offer("a", "one", Resources(cpus=1, mem_mb=10, gpus=1), Resources(cpus=2, mem_mb=20, gpus=3))
    second = an_offer("a", "two", Resources(cpus=4, mem_mb=40, gpus=0))
    other = an_offer("b", "one", Resources(cpus=5, mem_mb=90, gpus=1))

    capacity = PoolCapacity.of([first, second, other])

    assert capacity.whole == Resources(cpus=12, mem_mb=160, gpus=5)
    assert capacity.largest == Resources(cpus=7, mem_mb=90, gpus=4)
    assert capacity.clusters == {"a": "two", "b": "one"}


def test_the_largest_of_no_hosts_is_nothing() -> None:
    assert PoolCapacity.of([]).largest == Resources()


def test_hosts_run_no_more_tasks_than_they_may() -> None:
    offer = an_offer("a", "one", Resources(cpus=1, mem_mb=10))

    assert PoolCapacity.of([offer], 7).amounts[0].tasks == 7
    assert PoolCapacity.of([offer], 7).max_tasks == 7
    assert PoolCapacity.of([offer]).amounts[0].tasks == float("inf")


def test_hosts_that_are_for_some_users_are_remembered() -> None:
    limited = Offer(
        host="a", cluster="", pool=PoolName("pool"), room=Resources(cpus=1), users=frozenset({"ada"})
    )

    capacity = PoolCapacity.of([limited, an_offer("b", "", Resources(cpus=1))])

    assert list(capacity.limited) == ["a"]
