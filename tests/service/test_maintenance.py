"""Upkeep, live: what runs too long, what lags behind its group, how happy users are, progress."""

from cook_jupyter.model.instance import InstanceStatus, ProgressUpdate
from cook_jupyter.model.job import JobState
from cook_jupyter.model.limits import LimitKind, Usage
from cook_jupyter.model.pool import Pool
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
from tests.service.conftest import HandTurned


async def test_a_task_that_outstays_its_time_ends_for_that_reason_whoever_tells_first(
    by_hand: HandTurned,
) -> None:
    async with by_hand(Settings(jobs=JobSettings(max_runtime_ms=60_000))) as hand:
        job = a_job_spec(max_retries=1)
        await hand.submit(job)
        await hand.match()
        hand.clock.advance(60_000)
        assert await stop_lingering(hand.scheduler) == 0  # it may stay to the last moment

        hand.clock.advance(1)
        assert await stop_lingering(hand.scheduler) == 1
        await hand.settle()

        ended = await hand.job(job)
        assert (ended.outcome, ended.instances[0].reason) == ("failed", MAX_RUNTIME_EXCEEDED)
        assert not hand.cluster.tasks


async def test_jobs_that_do_not_say_how_long_they_run_have_the_usual_time(by_hand: HandTurned) -> None:
    async with by_hand(Settings(jobs=JobSettings(default_runtime_ms=10_000))) as hand:
        silent, patient = a_job_spec(), a_job_spec(max_runtime_ms=1_000_000)
        await hand.submit(silent, patient)
        await hand.match()
        (told,) = [
            t.spec.max_runtime_ms for t in hand.cluster.tasks.values() if t.spec.job_id == silent.job_id
        ]
        assert told == 10_000
        hand.clock.advance(20_000)

        assert await stop_lingering(hand.scheduler) == 1
        assert set(hand.where()) <= {silent.job_id, patient.job_id}
        assert (await hand.job(patient)).state is JobState.RUNNING


async def test_a_straggler_is_tried_again_at_no_cost(by_hand: HandTurned) -> None:
    handling = {"type": "quantile-deviation", "parameters": {"quantile": 0.5, "multiplier": 2.0}}
    group = a_group(straggler_handling=handling)
    async with by_hand(cpus=8) as hand:
        jobs = [a_job_spec(group=group.group_id) for _ in range(3)]
        await hand.submit(*jobs, groups=[group])
        await hand.match()
        hand.clock.advance(10_000)
        for job in jobs[:2]:
            hand.cluster.finish(hand.task_of(job))
        await hand.settle()
        hand.clock.advance(10_000)
        assert await stop_stragglers(hand.scheduler) == 0

        hand.clock.advance(1)
        assert await stop_stragglers(hand.scheduler) == 1
        await hand.settle()

        slow = await hand.job(jobs[2])
        assert (slow.state, slow.instances[0].reason) == (JobState.WAITING, STRAGGLER)
        assert hand.scheduler.attempts(slow) == 0


async def test_a_kill_that_got_lost_is_sent_again(by_hand: HandTurned) -> None:
    async with by_hand() as hand:
        job = a_job_spec()
        await hand.submit(job)
        await hand.match()
        hand.cluster.deaf = True
        await hand.scheduler.cancel_instances([hand.task_of(job)])
        assert hand.cluster.tasks

        hand.cluster.deaf = False
        await repeat_kills(hand.scheduler)
        await hand.settle()
        assert not hand.cluster.tasks
        assert not hand.scheduler.kills


async def test_the_monitor_tells_starved_hungry_and_satisfied_users_apart(by_hand: HandTurned) -> None:
    async with by_hand(Settings(head_room=HeadRoomSettings.cook()), cpus=4) as hand:
        for user, cpus in (("hungry", 1.0), ("starved", 3.0), ("satisfied", 1.0)):
            await hand.scheduler.set_limits(LimitKind.SHARE, user, "", {"cpus": cpus, "mem": 100.0}, "test")
        await hand.submit(a_job_spec(user="hungry", cpus=2), a_job_spec(user="hungry", cpus=4))
        await hand.match()
        await hand.submit(a_job_spec(user="satisfied", cpus=2))
        await hand.match()
        await hand.submit(a_job_spec(user="starved", cpus=2, mem_mb=50))
        await refresh_monitoring(hand.scheduler)

        monitoring = hand.scheduler.monitoring
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
        assert hand.scheduler.summary()["monitor"]["default"]["hungry"] == 1

        hand.cluster.finish(next(iter(hand.cluster.tasks)))
        await hand.settle()
        await hand.match()
        await refresh_monitoring(hand.scheduler)
        assert monitoring.reported["default"]["starved"]["starved"] == Usage(), (
            "a user who left a state is reported once more, with zero"
        )
        await refresh_monitoring(hand.scheduler)
        assert "starved" not in monitoring.reported["default"]["starved"]


async def test_the_monitor_adds_up_the_pools_of_a_quota_group(by_hand: HandTurned) -> None:
    settings = Settings(
        pools=(Pool(name="default"), Pool(name="other")), quota_groups={"default": "both", "other": "both"}
    )
    async with by_hand(settings, hosts=2, cpus=2, pools=("default", "other")) as hand:
        await hand.submit(a_job_spec(), a_job_spec(pool="other"))
        await hand.match()
        await refresh_monitoring(hand.scheduler)

        assert hand.scheduler.monitoring.reported["both"]["running"]["ada"] == Usage(
            count=2, cpus=2, mem_mb=256
        )


async def test_progress_is_gathered_and_its_newest_word_written(by_hand: HandTurned) -> None:
    async with by_hand() as hand:
        job = a_job_spec()
        await hand.submit(job)
        await hand.match()
        task = hand.task_of(job)
        updates = ClusterUpdates(hand.scheduler)
        for sequence, percent in ((1, 10), (3, 50), (2, 20)):
            update = ProgressUpdate(instance_id=task, sequence=sequence, percent=percent)
            await updates.progress(hand.cluster.name, [update])
        assert (await hand.job(job)).instances[0].progress == 0

        await publish_progress(hand.scheduler)
        assert (await hand.job(job)).instances[0].progress == 50
        assert (await hand.job(job)).instances[0].status is InstanceStatus.RUNNING
