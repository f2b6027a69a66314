"""Maintenance: lingering instances, stragglers, offensive jobs, user satisfaction, progress."""

from cook_jupyter.model.instance import InstanceStatus, ProgressUpdate
from cook_jupyter.model.job import JobState
from cook_jupyter.model.limits import LimitKind, Usage
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.reason import MAX_RUNTIME_EXCEEDED, STRAGGLER
from cook_jupyter.service.cluster_updates import ClusterUpdates
from cook_jupyter.service.cycles.maintenance import (
    publish_progress,
    refresh_monitoring,
    repeat_kills,
    stop_lingering,
    stop_stragglers,
)
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import HeadRoomSettings, JobSettings
from tests.builders import a_group, a_job_spec
from tests.service.conftest import ManualSchedulerFactory


async def test_a_task_that_outstays_its_time_ends_for_that_reason_whoever_tells_first(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(jobs=JobSettings(max_runtime_ms=60_000))) as manual:
        job = a_job_spec(max_retries=1)
        await manual.submit(job)
        await manual.match()
        manual.clock.advance(60_000)
        assert await stop_lingering(manual.scheduler) == 0  # it may stay to the last moment

        manual.clock.advance(1)
        assert await stop_lingering(manual.scheduler) == 1
        await manual.settle()

        ended = await manual.job(job)
        assert (ended.outcome, ended.instances[0].reason) == ("failed", MAX_RUNTIME_EXCEEDED)
        assert not manual.cluster.tasks


async def test_jobs_that_do_not_say_how_long_they_run_have_the_usual_time(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(jobs=JobSettings(default_runtime_ms=10_000))) as manual:
        silent, patient = a_job_spec(), a_job_spec(max_runtime_ms=1_000_000)
        await manual.submit(silent, patient)
        await manual.match()
        (told,) = [
            t.spec.max_runtime_ms for t in manual.cluster.tasks.values() if t.spec.job_id == silent.job_id
        ]
        assert told == 10_000
        manual.clock.advance(20_000)

        assert await stop_lingering(manual.scheduler) == 1
        assert set(manual.where()) <= {silent.job_id, patient.job_id}
        assert (await manual.job(patient)).state is JobState.RUNNING


async def test_a_straggler_is_tried_again_at_no_cost(manual_scheduler: ManualSchedulerFactory) -> None:
    handling = {"type": "quantile-deviation", "parameters": {"quantile": 0.5, "multiplier": 2.0}}
    group = a_group(straggler_handling=handling)
    async with manual_scheduler(cpus=8) as manual:
        jobs = [a_job_spec(group=group.group_id) for _ in range(3)]
        await manual.submit(*jobs, groups=[group])
        await manual.match()
        manual.clock.advance(10_000)
        for job in jobs[:2]:
            manual.cluster.finish(manual.task_of(job))
        await manual.settle()
        manual.clock.advance(10_000)
        assert await stop_stragglers(manual.scheduler) == 0

        manual.clock.advance(1)
        assert await stop_stragglers(manual.scheduler) == 1
        await manual.settle()

        slow = await manual.job(jobs[2])
        assert (slow.state, slow.instances[0].reason) == (JobState.WAITING, STRAGGLER)
        assert manual.scheduler.attempts(slow) == 0


async def test_a_kill_that_got_lost_is_sent_again(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler() as manual:
        job = a_job_spec()
        await manual.submit(job)
        await manual.match()
        manual.cluster.ignores_kills = True
        await manual.scheduler.cancel_instances([manual.task_of(job)])
        assert manual.cluster.tasks

        manual.cluster.ignores_kills = False
        await repeat_kills(manual.scheduler)
        await manual.settle()
        assert not manual.cluster.tasks
        assert not manual.scheduler.kills


async def test_the_monitor_tells_starved_hungry_and_satisfied_users_apart(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(Settings(head_room=HeadRoomSettings.cook()), cpus=4) as manual:
        for user, cpus in (("hungry", 1.0), ("starved", 3.0), ("satisfied", 1.0)):
            await manual.scheduler.set_limits(
                LimitKind.SHARE, user, DEFAULT_POOL, {"cpus": cpus, "mem": 100.0}, "test"
            )
        await manual.submit(a_job_spec(user="hungry", cpus=2), a_job_spec(user="hungry", cpus=4))
        await manual.match()
        await manual.submit(a_job_spec(user="satisfied", cpus=2))
        await manual.match()
        await manual.submit(a_job_spec(user="starved", cpus=2, mem_mb=50))
        await refresh_monitoring(manual.scheduler)

        monitoring = manual.scheduler.monitoring
        assert monitoring.user_states["default"].users == {
            "total": 3,
            "starved": 1,
            "waiting_under_quota": 2,
            "hungry": 1,
            "satisfied": 1,
        }
        reported = monitoring.reported["default"]
        assert reported["starved"]["starved"] == Usage(count=1, cpus=2, mem_mb=50)
        assert reported["running"]["all"] == Usage(count=2, cpus=4, mem_mb=256)
        assert manual.scheduler.summary()["monitor"]["default"]["hungry"] == 1

        manual.cluster.finish(next(iter(manual.cluster.tasks)))
        await manual.settle()
        await manual.match()
        await refresh_monitoring(manual.scheduler)
        assert monitoring.reported["default"]["starved"]["starved"] == Usage(), (
            "a user who left a state is reported once more, with zero"
        )
        await refresh_monitoring(manual.scheduler)
        assert "starved" not in monitoring.reported["default"]["starved"]


async def test_the_monitor_adds_up_the_pools_of_a_quota_group(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(
        pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("other"))),
        quota_groups={DEFAULT_POOL: "both", PoolName("other"): "both"},
    )
    async with manual_scheduler(settings, hosts=2, cpus=2, pools=("default", "other")) as manual:
        await manual.submit(a_job_spec(), a_job_spec(pool="other"))
        await manual.match()
        await refresh_monitoring(manual.scheduler)

        assert manual.scheduler.monitoring.reported["both"]["running"]["ada"] == Usage(
            count=2, cpus=2, mem_mb=256
        )


async def test_progress_is_gathered_and_its_newest_word_written(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler() as manual:
        job = a_job_spec()
        await manual.submit(job)
        await manual.match()
        task = manual.task_of(job)
        updates = ClusterUpdates(manual.scheduler)
        for sequence, percent in ((1, 10), (3, 50), (2, 20)):
            update = ProgressUpdate(instance_id=task, sequence=sequence, percent=percent)
            await updates.progress(manual.cluster.name, [update])
        assert (await manual.job(job)).instances[0].progress == 0

        await publish_progress(manual.scheduler)
        assert (await manual.job(job)).instances[0].progress == 50
        assert (await manual.job(job)).instances[0].status is InstanceStatus.RUNNING
