"""What the service keeps so that preemption comes to an end: order of launches, reserved room, histories."""

from itertools import count, pairwise

from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.settings.tables import RebalancerSettings
from cook_jupyter.service.state.reservations import Reservations
from tests.builders import a_job_spec
from tests.service.conftest import HandTurned, ManualScheduler

HOUR_MS = 3_600_000


async def fill(hand: ManualScheduler, number: int, user: str = "hog", **fields: object) -> list[JobSpec]:
    """Start jobs of one cpu, each a second after the one before."""
    jobs = [a_job_spec(user=user, **fields) for _ in range(number)]
    for job in jobs:
        await hand.submit(job)
        await hand.match()
        hand.clock.advance(1000)
    return jobs


async def share(hand: ManualScheduler, **cpus: float) -> None:
    for user, amount in cpus.items():
        await hand.scheduler.set_limits(LimitKind.SHARE, user, "", {"cpus": amount, "mem": 1e6}, "test")


def launched_before(hand: ManualScheduler, first: JobSpec, second: JobSpec) -> bool:
    index = hand.scheduler.queues.index("default")
    return index.launch(index.row_of(first.job_id)) < index.launch(index.row_of(second.job_id))


async def test_tasks_started_in_one_cycle_stand_in_the_order_in_which_they_were_matched(
    by_hand: HandTurned,
) -> None:
    async with by_hand(cpus=4) as hand:
        jobs = [a_job_spec(user="ada", priority=priority) for priority in (20, 80, 50)]
        await hand.submit(*jobs)
        await hand.match()

        low, high, middle = jobs
        assert launched_before(hand, high, middle)
        assert launched_before(hand, middle, low)


async def test_a_job_with_reserved_room_stands_before_what_its_user_starts_while_victims_end(
    by_hand: HandTurned,
) -> None:
    async with by_hand(cpus=4, hosts=2) as hand:
        await share(hand, hog=1, late=4)
        await fill(hand, 8)
        large = a_job_spec(user="late", cpus=2)
        await hand.submit(large)
        hand.cluster.deaf = True
        assert await hand.rebalance() == 2

        small = a_job_spec(user="late", cpus=1)
        await hand.submit(small)
        reserved = hand.scheduler.queues.reservations.for_pool("default")[large.job_id]
        elsewhere = next(i for i, task in hand.cluster.tasks.items() if task.instance.host != reserved)
        hand.cluster.finish(elsewhere)
        await hand.settle()
        hand.clock.advance(1000)
        await hand.match()
        assert small.job_id in hand.where()
        assert large.job_id not in hand.where()

        hand.clock.advance(1000)
        hand.cluster.deaf = False
        await hand.scheduler.kills.repeat()
        await hand.settle()
        await hand.match()
        assert hand.where()[large.job_id] == reserved
        assert launched_before(hand, large, small)


async def test_a_restart_keeps_the_order_of_starts(by_hand: HandTurned) -> None:
    async with by_hand(cpus=4) as hand:
        jobs = await fill(hand, 3, priority=50) + await fill(hand, 1, priority=80)
    async with by_hand(cluster=hand.cluster) as hand:
        assert all(launched_before(hand, one, other) for one, other in pairwise(jobs))


async def test_a_job_is_preempted_at_most_twice_an_hour_also_over_a_restart(by_hand: HandTurned) -> None:
    async with by_hand(cpus=2) as hand:
        await share(hand, hog=1.5, late=2)
        _, victim = await fill(hand, 2)
        for _ in range(2):
            late = a_job_spec(user="late")
            await hand.submit(late)
            assert await hand.rebalance() == 1
            await hand.match()
            hand.cluster.finish(hand.task_of(late))
            await hand.settle()
            await hand.match()
        assert len((await hand.job(victim)).instances) == 3
        await hand.submit(a_job_spec(user="late"))
        assert await hand.rebalance() == 0
    async with by_hand(cluster=hand.cluster) as hand:
        hand.clock.advance(10_000)  # the clock of the test begins anew
        assert await hand.rebalance() == 0

        hand.clock.advance(HOUR_MS + 10_000)
        assert await hand.rebalance() == 1


async def test_other_jobs_do_not_use_up_the_quota_of_a_job_with_reserved_room(by_hand: HandTurned) -> None:
    async with by_hand(cpus=4, hosts=2) as hand:
        await share(hand, hog=1, late=4)
        await fill(hand, 8)
        large, small = a_job_spec(user="late", cpus=2), a_job_spec(user="late", cpus=1)
        await hand.submit(large)
        hand.cluster.deaf = True
        await hand.rebalance()
        await hand.scheduler.set_limits(LimitKind.QUOTA, "late", "", {"count": 1}, "test")
        await hand.submit(small)
        for task in list(hand.cluster.tasks):
            hand.cluster.finish(task)
        await hand.settle()
        await hand.match()
        await hand.match()

        assert large.job_id in hand.where()
        assert small.job_id not in hand.where()


async def test_a_reservation_that_is_of_no_use_lapses_and_nobody_is_stopped_for_the_job_again(
    by_hand: HandTurned,
) -> None:
    async with by_hand(cpus=4) as hand:
        await share(hand, hog=1, late=4)
        await fill(hand, 4)
        late = a_job_spec(user="late", cpus=2, ports=5000)  # the host has no ports
        await hand.submit(late)
        assert await hand.rebalance() == 2
        stopped = []
        for _ in range(5):
            hand.clock.advance(10_000)
            await hand.match()
            stopped.append(await hand.rebalance())

        assert late.job_id not in hand.where()
        assert stopped == [0, 0, 0, 0, 0]
        assert hand.scheduler.queues.reservations.for_pool("default") == {}
        await hand.match()
        assert hand.users() == ["hog"] * 4

        hand.clock.advance(HOUR_MS + 10_000)
        assert await hand.rebalance() == 2


async def test_jobs_that_share_a_host_wait_for_the_same_victims(by_hand: HandTurned) -> None:
    async with by_hand(cpus=4) as hand:
        await share(hand, hog=1, late=4)
        await fill(hand, 1, cpus=4)
        jobs = [a_job_spec(user="late", cpus=2), a_job_spec(user="late", cpus=2)]
        await hand.submit(*jobs)
        hand.cluster.deaf = True
        assert await hand.rebalance() == 1
        assert set(hand.scheduler.queues.reservations.for_pool("default")) == {job.job_id for job in jobs}
        for _ in range(3):  # however long the victim takes to end
            assert await rebalance_all(hand.scheduler) == 0
        assert set(hand.scheduler.queues.reservations.for_pool("default")) == {job.job_id for job in jobs}

        hand.cluster.deaf = False
        await hand.scheduler.kills.repeat()
        await hand.settle()
        await hand.match()
        assert hand.users() == ["late", "late"]


def test_what_is_kept_on_a_host_counts_each_victim_once() -> None:
    reservations = Reservations(RebalancerSettings(), ending=["victim"])
    reservations.replace("default", {"one": "h1", "two": "h1"}, count().__next__)
    held = {"victim": Resources(cpus=2)}
    reservations.record_victims({"one": held, "two": held})
    offers = [Offer(host="h1", cluster="c", pool="default", room=Resources(cpus=3))]

    (left,) = reservations.unreserved_offers(offers, lambda pool, job: Resources(cpus=2))

    assert left.room.cpus == 1


def test_a_reservation_that_is_taken_back_leaves_no_place_in_the_order_of_launches() -> None:
    reservations = Reservations(RebalancerSettings(), ending=())
    numbers = count(1)
    reservations.replace("default", {"one": "h1", "two": "h1"}, numbers.__next__)
    assert (reservations.launch_number("one"), reservations.launch_number("two")) == (1, 2)

    reservations.replace("default", {"two": "h1"}, numbers.__next__)

    assert reservations.remove("default", "one") is None
    assert reservations.remove("default", "two") == 2
