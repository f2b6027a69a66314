"""A host on which unrelated jobs fail at once gets no jobs for a while, and waiting jobs report it."""

from cook_jupyter.model.job import JobSpec, JobState
from cook_jupyter.model.waiting import WaitKind
from cook_jupyter.scheduling.hosts.host_health import INITIAL_PAUSE_MS
from tests.builders import a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory


async def fail_at_once(manual: ManualScheduler, *specs: JobSpec) -> None:
    """Let the host fail jobs as soon as they start."""
    await manual.submit(*specs)
    assert await manual.match() == len(specs)
    for spec in specs:
        manual.cluster.finish(manual.task_of(spec), exit_code=1)
    await manual.settle()


async def test_a_host_that_fails_jobs_of_all_users_gets_none_until_its_pause_is_over(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        await fail_at_once(manual, *[a_job_spec(user=user) for user in ("ada", "grace", "alan")])
        waiting = a_job_spec(user="edsger")
        await manual.submit(waiting)

        assert await manual.match() == 0

        manual.clock.advance(INITIAL_PAUSE_MS)
        assert await manual.match() == 1


async def test_a_job_that_waits_for_a_host_out_of_use_says_so(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cpus=4) as manual:
        await fail_at_once(manual, *[a_job_spec(user=user) for user in ("ada", "grace", "alan")])
        waiting = a_job_spec(user="edsger")
        await manual.submit(waiting)
        await manual.match()

        told = {reason.kind: reason for reason in await manual.scheduler.why(waiting.job_id)}

        assert told[WaitKind.OUT_OF_USE].sentence.startswith(
            "The host h1 is out of use: jobs of 3 users in a row failed there at once. It is tried again in"
        )
        assert [host["host"] for host in told[WaitKind.OUT_OF_USE].data["hosts"]] == ["h1"]


async def test_other_hosts_go_on_while_one_is_out_of_use(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler(cpus=3, hosts=2) as manual:
        users = [a_job_spec(user=user) for user in ("ada", "grace", "alan", "edsger", "barbara", "john")]
        await manual.submit(*users)
        await manual.match()
        on_h1 = [spec for spec in users if manual.where()[spec.job_id] == "h1"]
        for spec in on_h1:
            manual.cluster.finish(manual.task_of(spec), exit_code=1)
        for spec in users:
            if spec not in on_h1:
                manual.cluster.finish(manual.task_of(spec))
        await manual.settle()
        later = [a_job_spec() for _ in range(3)]
        await manual.submit(*later)

        await manual.match()

        assert set(manual.where().values()) == {"h2"}
        assert {(await manual.job(spec)).state for spec in later} == {JobState.RUNNING}
