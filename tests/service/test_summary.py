"""The summary gives the position of each user along the share, in pools of every kind."""

from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import DEFAULT_POOL, DruMode, Pool, PoolName
from cook_jupyter.service.settings.schema import Settings
from tests.builders import a_job_spec
from tests.service.conftest import ManualSchedulerFactory


async def test_a_user_is_measured_in_the_pool_where_they_are_furthest_along_the_share(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("other"))))
    async with manual_scheduler(settings, pools=("default", "other"), cpus=4) as manual:
        await manual.scheduler.set_limits(LimitKind.SHARE, "default", DEFAULT_POOL, {"cpus": 4.0}, "test")
        await manual.scheduler.set_limits(
            LimitKind.SHARE, "default", PoolName("other"), {"cpus": 0.5}, "test"
        )
        await manual.submit(a_job_spec(user="ada"), a_job_spec(user="ada", pool="other"))
        await manual.match()

        (ada,) = manual.scheduler.summary()["users"]

        assert (ada["cpus"], ada["share_cpus"], ada["dru"]) == (2.0, 0.5, 2.0)


async def test_in_a_pool_of_gpus_these_alone_count(manual_scheduler: ManualSchedulerFactory) -> None:
    settings = Settings(pools=(Pool(name=DEFAULT_POOL, dru_mode=DruMode.GPU),))
    async with manual_scheduler(settings) as manual:
        await manual.scheduler.set_limits(
            LimitKind.SHARE, "default", DEFAULT_POOL, {"cpus": 0.5, "gpus": 2.0}, "test"
        )
        await manual.submit(a_job_spec(user="ada"))
        await manual.match()

        (ada,) = manual.scheduler.summary()["users"]

        assert (ada["running"], ada["dru"]) == (1, 0.0)


async def test_a_user_who_starves_in_any_pool_is_said_to_starve(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    settings = Settings(pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("other"))))
    async with manual_scheduler(settings, pools=("default", "other"), cpus=1) as manual:
        await manual.submit(a_job_spec(user="bob", pool="other"))
        await manual.match()
        await manual.submit(a_job_spec(user="ada"), a_job_spec(user="ada", pool="other", cpus=1000))
        await manual.match()

        standings = {row["user"]: row["standing"] for row in manual.scheduler.summary()["users"]}

        assert standings == {"ada": "starved", "bob": "satisfied"}
