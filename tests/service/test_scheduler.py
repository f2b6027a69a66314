"""Life of jobs in a running scheduler: submission, start, end, retry, and the events that clients receive."""

import asyncio
from collections.abc import Callable

import pytest

from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.errors import Conflict, InvalidRequest, QuotaExceeded
from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import Job, JobId, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import JobSettings, QueueLimit
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec
from tests.service.conftest import RunningSchedulerFactory
from tests.waiting import HANG_S


async def until(holds: Callable[[], bool]) -> None:
    """Run the event loop until a condition holds."""
    async with asyncio.timeout(HANG_S):
        while not holds():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0)


async def job_of(scheduler: Scheduler, job_id: JobId) -> Job:
    (job,) = await scheduler.jobs([job_id])
    assert job is not None
    return job


async def until_job(scheduler: Scheduler, job_id: JobId, holds: Callable[[Job], bool]) -> Job:
    """Run the event loop until a condition on a job holds; return the job."""
    async with asyncio.timeout(HANG_S):
        while not holds(job := await job_of(scheduler, job_id)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    return job


async def test_a_job_on_an_idle_cluster_starts_at_once(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec()
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))

        (launch,) = cluster.tasks.values()
        assert launch.spec == spec


async def test_a_job_that_ended_makes_room_for_the_next(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        first, second = a_job_spec(cpus=2), a_job_spec(cpus=2)
        await scheduler.submit([first, second])
        await until(lambda: bool(cluster.tasks))
        (running,) = cluster.tasks
        assert cluster.tasks[running].spec == first

        cluster.finish(running)
        await until(lambda: any(t.spec == second for t in cluster.tasks.values()))

        assert (await job_of(scheduler, first.job_id)).outcome == "success"


async def test_a_failed_job_with_retries_left_waits_again_and_runs_again(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec(max_retries=2)
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))
        (first,) = cluster.tasks
        cluster.finish(first, exit_code=1)
        await until(lambda: bool(cluster.tasks) and first not in cluster.tasks)
        (second,) = cluster.tasks
        assert cluster.tasks[second].attempt == 1
        cluster.finish(second, exit_code=1)
        await until(lambda: not scheduler.running_jobs())

        job = await job_of(scheduler, spec.job_id)
        assert (job.outcome, len(job.instances)) == ("failed", 2)


async def test_a_killed_job_is_completed_at_once_and_its_task_killed(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec()
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))

        await scheduler.kill_jobs([spec.job_id])

        assert (await job_of(scheduler, spec.job_id)).state is JobState.COMPLETED
        await until(lambda: not cluster.tasks)


async def test_a_kill_that_comes_while_the_launch_is_on_its_way_is_sent_after_it(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec()
        await asyncio.gather(scheduler.submit([spec]), asyncio.sleep(0))
        await scheduler.kill_jobs([spec.job_id])

        await until_job(scheduler, spec.job_id, lambda job: job.open_instance is None)
        assert not cluster.tasks


async def test_what_waits_and_runs_survives_a_restart(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster, store: MemoryStore
) -> None:
    running, waiting = a_job_spec(cpus=2), a_job_spec(cpus=2)
    async with running_scheduler() as scheduler:
        await scheduler.submit([running, waiting])
        await until(lambda: bool(cluster.tasks))
    async with running_scheduler() as scheduler:
        assert [row.job_id for row in scheduler.running_jobs()] == [running.job_id]
        assert scheduler.queue(10) == {"default": [waiting.job_id]}
        (task,) = cluster.tasks
        cluster.finish(task)
        await until(lambda: any(t.spec == waiting for t in cluster.tasks.values()))


async def test_a_task_that_vanished_while_the_scheduler_was_away_runs_again_and_costs_no_retry(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    spec = a_job_spec(max_retries=1)
    async with running_scheduler() as scheduler:
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))
        (lost,) = cluster.tasks
        await until_job(scheduler, spec.job_id, lambda job: job.instances[0].status is InstanceStatus.RUNNING)
    cluster.lose(lost)
    async with running_scheduler() as scheduler:
        await until(lambda: bool(cluster.tasks))
        (again,) = cluster.tasks

        job = await job_of(scheduler, spec.job_id)
        assert (again != lost, job.state, scheduler.attempts(job)) == (True, JobState.RUNNING, 0)


async def test_two_users_share_a_busy_cluster_by_their_shares(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        await scheduler.submit([a_job_spec(user="hog") for _ in range(6)])
        await until(lambda: len(cluster.tasks) == 2)
        await scheduler.submit([a_job_spec(user="late") for _ in range(2)])
        cluster.finish(next(iter(cluster.tasks)))
        await until(lambda: len(cluster.tasks) == 2)

        assert sorted(t.spec.user for t in cluster.tasks.values()) == ["hog", "late"]


async def test_a_user_at_quota_waits_while_others_start(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        await scheduler.set_limits(LimitKind.QUOTA, "ada", DEFAULT_POOL, {"count": 1}, "test")
        await scheduler.submit([a_job_spec(user="ada"), a_job_spec(user="ada")])
        await scheduler.submit([a_job_spec(user="bob")])
        await until(lambda: len(cluster.tasks) == 2)

        assert sorted(t.spec.user for t in cluster.tasks.values()) == ["ada", "bob"]


async def test_a_job_above_its_users_quota_is_refused_and_nothing_is_kept(
    running_scheduler: RunningSchedulerFactory,
) -> None:
    async with running_scheduler() as scheduler:
        await scheduler.set_limits(LimitKind.QUOTA, "ada", DEFAULT_POOL, {"cpus": 1}, "test")
        small, large = a_job_spec(user="ada", cpus=1), a_job_spec(user="ada", cpus=2)

        with pytest.raises(QuotaExceeded, match=f"Job {large.job_id} exceeds quota for cpus: 2"):
            await scheduler.submit([small, large])

        assert list(await scheduler.jobs([small.job_id, large.job_id])) == [None, None]


async def test_a_full_queue_takes_no_more(running_scheduler: RunningSchedulerFactory) -> None:
    settings = Settings(queue_limits=(QueueLimit(user_limit_normal=2),))
    async with running_scheduler(settings) as scheduler:
        await scheduler.submit([a_job_spec(cpus=9), a_job_spec(cpus=9)])

        with pytest.raises(QuotaExceeded, match="User has too many jobs queued"):
            await scheduler.submit([a_job_spec()])


@pytest.mark.parametrize(
    ("pool", "says"),
    [("nowhere", "nowhere is not a valid pool name."), ("shut", "shut is not accepting job submissions.")],
)
async def test_a_pool_that_takes_no_jobs_says_so(
    running_scheduler: RunningSchedulerFactory, pool: str, says: str
) -> None:
    settings = Settings(pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("shut"), active=False)))
    async with running_scheduler(settings) as scheduler:
        with pytest.raises(InvalidRequest) as caught:
            await scheduler.submit([a_job_spec(pool=pool)])

        assert str(caught.value) == says


async def test_the_same_uuid_twice_is_a_conflict(running_scheduler: RunningSchedulerFactory) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec()
        await scheduler.submit([spec])

        with pytest.raises(Conflict, match=spec.job_id):
            await scheduler.submit([spec])


async def test_a_reader_that_comes_back_with_its_cursor_misses_nothing(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec()
        reader = scheduler.subscribe(spec.user, None)
        reader.close()
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))
        cluster.finish(next(iter(cluster.tasks)))
        await until(lambda: not scheduler.running_jobs())

        again = scheduler.subscribe(spec.user, reader.cursor)
        (change,) = await again.batch(1.0)

        assert (change.job.job_id, change.job.outcome) == (spec.job_id, "success")


async def test_a_reader_sees_only_its_users_jobs_with_its_label(
    running_scheduler: RunningSchedulerFactory,
) -> None:
    async with running_scheduler() as scheduler:
        reader = scheduler.subscribe("ada", None, ("session", "s1"))
        wanted = a_job_spec(user="ada", labels={"session": "s1"})
        others = [a_job_spec(user="bob", labels={"session": "s1"}), a_job_spec(labels={"session": "s2"})]
        await scheduler.submit([*others, wanted])
        await scheduler.kill_jobs([*(spec.job_id for spec in others), wanted.job_id])

        changes = [change for _ in range(2) for change in await reader.batch(1.0)]

        assert {change.job.job_id for change in changes} == {wanted.job_id}
        assert changes[-1].job.state is JobState.COMPLETED


async def test_a_job_that_no_host_can_take_waits_and_why_says_so_at_once(
    running_scheduler: RunningSchedulerFactory,
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec(cpus=64)
        await scheduler.submit([spec])

        first, *_ = await scheduler.explain(spec.job_id)

        assert first == (
            "It requests 64 cpus; the most any host has is 2 cpus. It can never start here: request less."
        )
        assert (await job_of(scheduler, spec.job_id)).state is JobState.WAITING


async def test_a_job_behind_others_is_told_how_many_and_that_no_host_is_free(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        await scheduler.submit([a_job_spec(cpus=2), a_job_spec(cpus=2)])
        last = a_job_spec(cpus=2)
        await scheduler.submit([last])
        await until(lambda: bool(cluster.tasks))

        assert list(await scheduler.explain(last.job_id))[-2:] == [
            "2 jobs of yours run or wait before it.",
            "No host takes it now: 1 host without enough cpus free.",
        ]


async def test_why_of_a_running_job_says_that_it_runs(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler() as scheduler:
        spec = a_job_spec()
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))

        (reason,) = await scheduler.why(spec.job_id)

        assert reason.text == "The job is running now."


async def test_no_job_may_run_longer_than_the_operator_says(
    running_scheduler: RunningSchedulerFactory, cluster: MemoryCluster
) -> None:
    async with running_scheduler(Settings(jobs=JobSettings(max_runtime_ms=50))) as scheduler:
        spec = a_job_spec(max_runtime_ms=10_000)
        await scheduler.submit([spec])
        await until(lambda: bool(cluster.tasks))

        job = await until_job(scheduler, spec.job_id, lambda job: job.outcome == "failed")

        assert job.instances[-1].reason == "max-runtime-exceeded"
        assert job.spec.max_runtime_ms == 10_000
