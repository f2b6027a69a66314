"""The state that lets preemption come to an end: order of launches, reservations, preemption histories."""

from itertools import count, pairwise

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.settings.tables import RebalancerSettings
from cook_jupyter.service.state.reservations import Reservations
from tests.builders import a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory

HOUR_MS = 3_600_000


async def fill(manual: ManualScheduler, number: int, user: str = "hog", **fields: object) -> list[JobSpec]:
    """Start jobs of one cpu, one per second."""
    jobs = [a_job_spec(user=user, **fields) for _ in range(number)]
    for job in jobs:
        await manual.submit(job)
        await manual.match()
        manual.clock.advance(1000)
    return jobs


async def share(manual: ManualScheduler, **cpus: float) -> None:
    for user, amount in cpus.items():
        await manual.scheduler.set_limits(
            LimitKind.SHARE, user, DEFAULT_POOL, {"cpus": amount, "mem": 1e6}, "test"
        )


def launched_before(manual: ManualScheduler, first: JobSpec, second: JobSpec) -> bool:
    index = manual.scheduler.queues.index(DEFAULT_POOL)
    return index.launch(index.row_of(first.job_id)) < index.launch(index.row_of(second.job_id))


async def test_tasks_started_in_one_cycle_stand_in_the_order_in_which_they_were_matched(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        jobs = [a_job_spec(user="ada", priority=priority) for priority in (20, 80, 50)]
        await manual.submit(*jobs)
        await manual.match()

        low, high, middle = jobs
        assert launched_before(manual, high, middle)
        assert launched_before(manual, middle, low)


async def test_a_job_with_reserved_room_stands_before_what_its_user_starts_while_victims_end(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4, hosts=2) as manual:
        await share(manual, hog=1, late=4)
        await fill(manual, 8)
        large = a_job_spec(user="late", cpus=2)
        await manual.submit(large)
        manual.cluster.ignores_kills = True
        assert await manual.rebalance() == 2

        small = a_job_spec(user="late", cpus=1)
        await manual.submit(small)
        reserved = manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL)[large.job_id]
        elsewhere = next(i for i, task in manual.cluster.tasks.items() if task.instance.host != reserved)
        manual.cluster.finish(elsewhere)
        await manual.settle()
        manual.clock.advance(1000)
        await manual.match()
        assert small.job_id in manual.where()
        assert large.job_id not in manual.where()

        manual.clock.advance(1000)
        manual.cluster.ignores_kills = False
        await manual.scheduler.kills.repeat()
        await manual.settle()
        await manual.match()
        assert manual.where()[large.job_id] == reserved
        assert launched_before(manual, large, small)


async def test_a_restart_keeps_the_order_of_starts(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(cpus=4) as manual:
        jobs = await fill(manual, 3, priority=50) + await fill(manual, 1, priority=80)
    async with manual_scheduler(cluster=manual.cluster) as manual:
        assert all(launched_before(manual, one, other) for one, other in pairwise(jobs))


async def test_a_job_is_preempted_at_most_twice_an_hour_also_over_a_restart(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=2) as manual:
        await share(manual, hog=1.5, late=2)
        _, victim = await fill(manual, 2)
        for _ in range(2):
            late = a_job_spec(user="late")
            await manual.submit(late)
            assert await manual.rebalance() == 1
            await manual.match()
            manual.cluster.finish(manual.task_of(late))
            await manual.settle()
            await manual.match()
        assert len((await manual.job(victim)).instances) == 3
        await manual.submit(a_job_spec(user="late"))
        assert await manual.rebalance() == 0
    async with manual_scheduler(cluster=manual.cluster) as manual:
        manual.clock.advance(10_000)  # the clock of the test begins anew
        assert await manual.rebalance() == 0

        manual.clock.advance(HOUR_MS + 10_000)
        assert await manual.rebalance() == 1


async def test_other_jobs_do_not_use_up_the_quota_of_a_job_with_reserved_room(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4, hosts=2) as manual:
        await share(manual, hog=1, late=4)
        await fill(manual, 8)
        large, small = a_job_spec(user="late", cpus=2), a_job_spec(user="late", cpus=1)
        await manual.submit(large)
        manual.cluster.ignores_kills = True
        await manual.rebalance()
        await manual.scheduler.set_limits(LimitKind.QUOTA, "late", DEFAULT_POOL, {"count": 1}, "test")
        await manual.submit(small)
        for task in list(manual.cluster.tasks):
            manual.cluster.finish(task)
        await manual.settle()
        await manual.match()
        await manual.match()

        assert large.job_id in manual.where()
        assert small.job_id not in manual.where()


async def test_a_reservation_that_is_of_no_use_lapses_and_nobody_is_stopped_for_the_job_again(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        await share(manual, hog=1, late=4)
        await fill(manual, 4)
        late = a_job_spec(user="late", cpus=2, ports=5000)  # the host has no ports
        await manual.submit(late)
        assert await manual.rebalance() == 2
        stopped = []
        for _ in range(5):
            manual.clock.advance(10_000)
            await manual.match()
            stopped.append(await manual.rebalance())

        assert late.job_id not in manual.where()
        assert stopped == [0, 0, 0, 0, 0]
        assert manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL) == {}
        await manual.match()
        assert manual.users() == ["hog"] * 4

        manual.clock.advance(HOUR_MS + 10_000)
        assert await manual.rebalance() == 2


async def test_jobs_that_share_a_host_wait_for_the_same_victims(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        await share(manual, hog=1, late=4)
        await fill(manual, 1, cpus=4)
        jobs = [a_job_spec(user="late", cpus=2), a_job_spec(user="late", cpus=2)]
        await manual.submit(*jobs)
        manual.cluster.ignores_kills = True
        assert await manual.rebalance() == 1
        assert set(manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL)) == {
            job.job_id for job in jobs
        }
        for _ in range(3):  # however long the victim takes to end
            assert await rebalance_all(manual.scheduler) == 0
        assert set(manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL)) == {
            job.job_id for job in jobs
        }

        manual.cluster.ignores_kills = False
        await manual.scheduler.kills.repeat()
        await manual.settle()
        await manual.match()
        assert manual.users() == ["late", "late"]


ONE, TWO, VICTIM = JobId("one"), JobId("two"), InstanceId("victim")


def test_what_is_kept_on_a_host_counts_each_victim_once() -> None:
    reservations = Reservations(RebalancerSettings(), ending=[VICTIM])
    reservations.replace(DEFAULT_POOL, {ONE: "h1", TWO: "h1"}, count().__next__)
    held = {VICTIM: Resources(cpus=2)}
    reservations.record_victims({ONE: held, TWO: held})
    offers = [Offer(host="h1", cluster="c", pool=DEFAULT_POOL, room=Resources(cpus=3))]

    (left,) = reservations.unreserved_offers(offers, lambda pool, job: Resources(cpus=2))

    assert left.room.cpus == 1


def test_a_reservation_that_is_taken_back_leaves_no_place_in_the_order_of_launches() -> None:
    reservations = Reservations(RebalancerSettings(), ending=())
    numbers = count(1)
    reservations.replace(DEFAULT_POOL, {ONE: "h1", TWO: "h1"}, numbers.__next__)
    assert (reservations.launch_number(ONE), reservations.launch_number(TWO)) == (1, 2)

    reservations.replace(DEFAULT_POOL, {TWO: "h1"}, numbers.__next__)

    assert reservations.remove(DEFAULT_POOL, ONE) is None
    assert reservations.remove(DEFAULT_POOL, TWO) == 2
