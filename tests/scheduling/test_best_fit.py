from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.hosts.fitness import fitness_of
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.hosts.room import HostRoom
from cook_jupyter.scheduling.matching.best_fit import best_fit, suits
from cook_jupyter.scheduling.matching.matching import MatchSettings, match
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling.queues import job_id
from tests.scheduling.strategies import on_snapshots

SIZES = ((4.0, 64.0), (8.0, 64.0), (3.0, 48.0))
ODD_SIZE = (2.2, 64.0)


@st.composite
def hosts_in_use(draw: st.DrawFn) -> Hosts:
    sizes = [*SIZES, ODD_SIZE] if draw(st.integers(0, 9)) == 0 else SIZES[: draw(st.integers(1, 3))]
    offers = []
    for number in range(draw(st.integers(1, 30))):
        cpus, mem_mb = draw(st.sampled_from(sizes))
        running = Resources(
            cpus=cpus * draw(st.sampled_from([0.0, 0.5, 0.75])),
            mem_mb=mem_mb * draw(st.sampled_from([0, 0.25, 1])),
        )
        whole = Resources(cpus=cpus, mem_mb=mem_mb)
        offers.append(
            Offer(
                host=f"host-{number:02}",
                cluster="east",
                pool=PoolName("pool"),
                room=whole - running,
                running=running,
            )
        )
    return Hosts(offers)


jobs = st.tuples(
    st.sampled_from([0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 2.0, 0.1, 3.0]),
    st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.5, 8.0, 8.1, 16.0, 32.0]),
)


@on_snapshots
@given(hosts=hosts_in_use(), asked=st.lists(jobs, min_size=20, max_size=80), good=st.sampled_from([0.7, 1.0]))
def test_jobs_of_many_sizes_are_placed_as_if_hosts_were_checked_one_by_one(
    hosts: Hosts, asked: list[tuple[float, float]], good: float
) -> None:
    requests = [TaskRequest(job_id(seq), cpus, mem_mb) for seq, (cpus, mem_mb) in enumerate(asked)]
    few, many = (
        match(requests, hosts, settings=MatchSettings(good_enough=good, columnar_from=columnar_from))
        for columnar_from in (10**9, 0)
    )
    assert many == few


@on_snapshots
@given(hosts=hosts_in_use(), asked=st.lists(jobs, max_size=60))
def test_the_first_of_the_fittest_hosts_is_chosen(hosts: Hosts, asked: list[tuple[float, float]]) -> None:
    room = HostRoom(hosts.columns)
    fit = best_fit(room, hosts.columns)
    if fit is None:
        assert any(offer.room.cpus + offer.running.cpus == ODD_SIZE[0] for offer in hosts.offers)
        return
    for seq, (cpus, mem_mb) in enumerate(asked):
        request = TaskRequest(job_id(seq), cpus, mem_mb)
        if not suits(request):
            continue
        fitnesses = [
            room.fitness(at, request) if room.fits(at, request) else -1.0 for at in range(len(hosts))
        ]
        most = max(fitnesses)
        best = fitnesses.index(most) if most >= 0 else -1

        assert fit.choose(request) == (best, most)

        if best >= 0:
            room.assign(best, request)
            fit.refresh(best)


def test_the_host_with_the_least_room_left_is_chosen_and_the_first_of_equals() -> None:
    room = Resources(cpus=4.0, mem_mb=64.0)
    hosts = Hosts(
        Offer(host=f"host-{number}", cluster="east", pool=PoolName("pool"), room=room) for number in range(3)
    )
    holds = HostRoom(hosts.columns)
    fit = best_fit(holds, hosts.columns)
    assert fit is not None
    assert fit.choose(TaskRequest(job_id(1), 1.0, 16.0)) == (0, fitness_of(0.5))

    holds.assign(2, TaskRequest(job_id(1), 1.0, 16.0))
    fit.refresh(2)

    assert fit.choose(TaskRequest(job_id(2), 1.0, 16.0)) == (2, fitness_of(1.0))
    assert fit.choose(TaskRequest(job_id(3), 4.0, 16.0)) == (0, fitness_of(1.25))
    assert fit.choose(TaskRequest(job_id(4), 4.5, 16.0)) == (-1, -1.0)


def test_the_room_left_is_relative_to_the_size_of_the_host() -> None:
    # The job leaves 3/4 of the cpus and 1/4 of the memory of one host, and 1/8 of the cpus of the other.
    sizes = ((4.0, 64.0, Resources(mem_mb=16.0)), (8.0, 32.0, Resources(cpus=6.0)))
    hosts = Hosts(
        Offer(
            host=f"host-{number}",
            cluster="east",
            pool=PoolName("pool"),
            room=Resources(cpus=cpus, mem_mb=mem_mb) - running,
            running=running,
        )
        for number, (cpus, mem_mb, running) in enumerate(sizes)
    )
    fit = best_fit(HostRoom(hosts.columns), hosts.columns)
    assert fit is not None
    assert fit.choose(TaskRequest(job_id(1), 1.0, 32.0)) == (1, fitness_of(1.875))


def test_amounts_that_may_be_rounded_are_not_handled() -> None:
    offer = Offer(host="a", cluster="east", pool=PoolName("pool"), room=Resources(cpus=1.1, mem_mb=64.0))
    hosts = Hosts([offer])
    assert best_fit(HostRoom(hosts.columns), hosts.columns) is None
    assert not suits(TaskRequest(job_id(1), 0.1, 16.0))
    assert not suits(TaskRequest(job_id(1), 1.0, 16.0, ports=1))
    assert suits(TaskRequest(job_id(1), 0.5, 16.0))


@pytest.mark.parametrize(
    ("room", "running", "is_indexed"),
    [
        (Resources(cpus=2.0**36, mem_mb=2.0**36), Resources(), True),
        (Resources(cpus=2.0**37, mem_mb=64.0), Resources(), False),
        (Resources(cpus=4.0, mem_mb=64.0), Resources(mem_mb=2.0**37), False),
        (Resources(cpus=0.5, mem_mb=0.5), Resources(), True),
        (Resources(cpus=0.0, mem_mb=64.0), Resources(), False),
        (Resources(cpus=4.0, mem_mb=0.0), Resources(), False),
        (Resources(cpus=0.0, mem_mb=0.0), Resources(cpus=4.0, mem_mb=64.0), True),
        (Resources(cpus=4.0, mem_mb=1 / 2048), Resources(), False),
    ],
)
def test_hosts_are_indexed_if_all_amounts_add_up_exactly_and_no_host_is_empty_of_a_resource(
    room: Resources, running: Resources, is_indexed: bool
) -> None:
    usual = Offer(host="a", cluster="east", pool=PoolName("pool"), room=Resources(cpus=4.0, mem_mb=64.0))
    hosts = Hosts([usual, replace(usual, host="b", room=room, running=running)])

    assert (best_fit(HostRoom(hosts.columns), hosts.columns) is not None) is is_indexed


def test_hosts_are_indexed_as_they_are_in_the_middle_of_a_cycle() -> None:
    room = Resources(cpus=4.0, mem_mb=64.0)
    hosts = Hosts(Offer(host=f"host-{n}", cluster="east", pool=PoolName("pool"), room=room) for n in range(3))
    holds = HostRoom(hosts.columns)
    holds.assign(1, TaskRequest(job_id(1), 3.0, 1.0))
    holds.assign(2, TaskRequest(job_id(2), 1.0, 63.0))
    fit = best_fit(holds, hosts.columns)

    assert fit is not None
    assert fit.choose(TaskRequest(job_id(3), 2.0, 2.0))[0] == 0
    assert fit.choose(TaskRequest(job_id(4), 1.0, 63.0))[0] == 1
    assert fit.choose(TaskRequest(job_id(5), 3.0, 1.0))[0] == 2


@pytest.mark.parametrize("different", ["sizes", "levels"])
def test_hosts_of_many_sizes_or_with_many_numbers_of_free_cpus_are_not_indexed(different: str) -> None:
    def is_indexed(number: int) -> bool:
        whole = Resources(cpus=1024.0, mem_mb=64.0)
        offers = [
            Offer(
                host=f"host-{n:03}",
                cluster="east",
                pool=PoolName("pool"),
                room=Resources(cpus=float(1 + n), mem_mb=64.0),
                running=Resources() if different == "sizes" else Resources(cpus=1023.0 - n),
            )
            for n in range(number)
        ]
        hosts = Hosts([*offers, replace(offers[0], host="one-more")])
        assert different == "sizes" or offers[0].room + offers[0].running == whole
        return best_fit(HostRoom(hosts.columns), hosts.columns) is not None

    most = {"sizes": 4, "levels": 72}[different]
    assert (is_indexed(most), is_indexed(most + 1)) == (True, False)


def test_the_largest_amounts_without_rounding_suit() -> None:
    assert suits(TaskRequest(job_id(1), 2.0**36, 2.0**36))
    assert not suits(TaskRequest(job_id(1), 2.0**37, 1.0))
    assert not suits(TaskRequest(job_id(1), 1.0, 2.0**37))
    assert suits(TaskRequest(job_id(1), 1 / 1024, 1 / 1024))
    assert not suits(TaskRequest(job_id(1), 1 / 2048, 1.0))
    assert not suits(TaskRequest(job_id(1), 1.0, 1 / 2048))
    assert not suits(TaskRequest(job_id(1), 1.0, 1.0, gpus=1.0))


def test_a_host_that_gets_as_many_free_cpus_as_another_stays_indexed() -> None:
    whole = Resources(cpus=4.0, mem_mb=64.0)
    used = Resources(cpus=1.0, mem_mb=32.0)
    hosts = Hosts(
        Offer(host=host, cluster="east", pool=PoolName("pool"), room=whole - running, running=running)
        for host, running in (("a", Resources()), ("b", used))
    )
    holds = HostRoom(hosts.columns)
    fit = best_fit(holds, hosts.columns)
    assert fit is not None

    holds.assign(0, TaskRequest(job_id(1), 1.0, 1.0))
    fit.refresh(0)

    assert fit.choose(TaskRequest(job_id(2), 1.0, 1.0))[0] == 1
    assert fit.choose(TaskRequest(job_id(3), 1.0, 33.0))[0] == 0
