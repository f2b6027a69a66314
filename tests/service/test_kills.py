"""Kills, and reports of the end of the killed instances, in every order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId, JobSpec
from cook_jupyter.model.reason import MAX_RUNTIME_EXCEEDED
from cook_jupyter.service.cycles.stop_instances import stop_instances
from cook_jupyter.store.base import Failure
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory


class SlowToAnswer(MemoryStore):
    """A store that returns from kills some time after their commit."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def kill_jobs(self, job_ids: Sequence[JobId]) -> Sequence[InstanceId]:
        instance_ids = await super().kill_jobs(job_ids)
        await self.may_answer.wait()
        return instance_ids

    async def cancel_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[InstanceId]:
        open_instances = await super().cancel_instances(instance_ids)
        await self.may_answer.wait()
        return open_instances

    async def fail(self, failures: Sequence[Failure]) -> Sequence[bool]:
        done = await super().fail(failures)
        await self.may_answer.wait()
        return done


async def kill(manual: ManualScheduler, job: JobSpec) -> None:
    await manual.scheduler.kill_jobs([job.job_id])


async def cancel(manual: ManualScheduler, job: JobSpec) -> None:
    await manual.scheduler.cancel_instances([manual.task_of(job)])


async def end_by_decision(manual: ManualScheduler, job: JobSpec) -> None:
    failure = Failure(
        job_id=job.job_id, instance_id=manual.task_of(job), reason=MAX_RUNTIME_EXCEEDED, at_ms=1
    )
    await stop_instances(manual.scheduler, [failure])


@pytest.mark.parametrize("way", [kill, cancel, end_by_decision])
async def test_a_task_that_ends_while_its_kill_is_being_answered_is_not_killed_for_ever(
    manual_scheduler: ManualSchedulerFactory, way: Callable[[ManualScheduler, JobSpec], Awaitable[None]]
) -> None:
    store = SlowToAnswer()
    async with manual_scheduler(memory=store) as manual:
        job = a_job_spec()
        await manual.submit(job)
        await manual.match()
        killing = asyncio.ensure_future(way(manual, job))
        await asyncio.sleep(0)
        manual.cluster.finish(manual.task_of(job))
        await manual.settle()
        store.may_answer.set()
        await killing

        assert not manual.scheduler.kills


@pytest.mark.parametrize("way", [kill, cancel, end_by_decision])
async def test_a_task_that_runs_on_while_its_kill_is_being_answered_is_killed_then(
    manual_scheduler: ManualSchedulerFactory, way: Callable[[ManualScheduler, JobSpec], Awaitable[None]]
) -> None:
    store = SlowToAnswer()
    async with manual_scheduler(memory=store) as manual:
        job = a_job_spec()
        await manual.submit(job)
        await manual.match()
        killing = asyncio.ensure_future(way(manual, job))
        await asyncio.sleep(0)
        store.may_answer.set()
        await killing
        await manual.settle()

        assert not manual.cluster.tasks
        assert not manual.scheduler.kills
