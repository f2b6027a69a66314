"""A host on which unrelated jobs fail at once gets no jobs for a while, and those that wait say so."""

from cook_jupyter.model.job import JobSpec, JobState
from cook_jupyter.model.waiting import WaitKind
from cook_jupyter.scheduling.hosts.host_health import INITIAL_PAUSE_MS
from tests.builders import a_job_spec
from tests.service.conftest import HandTurned, ManualScheduler


async def fail_at_once(hand: ManualScheduler, *specs: JobSpec) -> None:
    """Have the host fail jobs as soon as they begin."""
    await hand.submit(*specs)
    assert await hand.match() == len(specs)
    for spec in specs:
        hand.cluster.finish(hand.task_of(spec), exit_code=1)
    await hand.settle()


async def test_a_host_that_fails_jobs_of_all_users_gets_none_until_its_pause_is_over(
    by_hand: HandTurned,
) -> None:
    async with by_hand(cpus=4) as hand:
        await fail_at_once(hand, *[a_job_spec(user=user) for user in ("ada", "grace", "alan")])
        waiting = a_job_spec(user="edsger")
        await hand.submit(waiting)

        assert await hand.match() == 0

        hand.clock.advance(INITIAL_PAUSE_MS)
        assert await hand.match() == 1


async def test_a_job_that_waits_for_a_host_out_of_use_says_so(by_hand: HandTurned) -> None:
    async with by_hand(cpus=4) as hand:
        await fail_at_once(hand, *[a_job_spec(user=user) for user in ("ada", "grace", "alan")])
        waiting = a_job_spec(user="edsger")
        await hand.submit(waiting)
        await hand.match()

        told = {reason.kind: reason for reason in await hand.scheduler.why(waiting.job_id)}

        assert told[WaitKind.OUT_OF_USE].sentence.startswith(
            "The host h1 is out of use: jobs of 3 users in a row failed there at once. It is tried again in"
        )
        assert [host["host"] for host in told[WaitKind.OUT_OF_USE].data["hosts"]] == ["h1"]


async def test_other_hosts_go_on_while_one_is_out_of_use(by_hand: HandTurned) -> None:
    async with by_hand(cpus=3, hosts=2) as hand:
        users = [a_job_spec(user=user) for user in ("ada", "grace", "alan", "edsger", "barbara", "john")]
        await hand.submit(*users)
        await hand.match()
        on_h1 = [spec for spec in users if hand.where()[spec.job_id] == "h1"]
        for spec in on_h1:
            hand.cluster.finish(hand.task_of(spec), exit_code=1)
        for spec in users:
            if spec not in on_h1:
                hand.cluster.finish(hand.task_of(spec))
        await hand.settle()
        later = [a_job_spec() for _ in range(3)]
        await hand.submit(*later)

        await hand.match()

        assert set(hand.where().values()) == {"h2"}
        assert {(await hand.job(spec)).state for spec in later} == {JobState.RUNNING}
