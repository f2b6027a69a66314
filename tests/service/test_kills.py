"""Kills and the ends of what is killed, in every order."""

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
from tests.service.conftest import HandTurned, ManualScheduler


class SlowToAnswer(MemoryStore):
    """A store whose answers to kills come some time after their commit."""

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


async def kill(hand: ManualScheduler, job: JobSpec) -> None:
    await hand.scheduler.kill_jobs([job.job_id])


async def cancel(hand: ManualScheduler, job: JobSpec) -> None:
    await hand.scheduler.cancel_instances([hand.task_of(job)])


async def end_by_decision(hand: ManualScheduler, job: JobSpec) -> None:
    failure = Failure(job_id=job.job_id, instance_id=hand.task_of(job), reason=MAX_RUNTIME_EXCEEDED, at_ms=1)
    await stop_instances(hand.scheduler, [failure])


@pytest.mark.parametrize("way", [kill, cancel, end_by_decision])
async def test_a_task_that_ends_while_its_kill_is_being_answered_is_not_killed_for_ever(
    by_hand: HandTurned, way: Callable[[ManualScheduler, JobSpec], Awaitable[None]]
) -> None:
    store = SlowToAnswer()
    async with by_hand(memory=store) as hand:
        job = a_job_spec()
        await hand.submit(job)
        await hand.match()
        killing = asyncio.ensure_future(way(hand, job))
        await asyncio.sleep(0)
        hand.cluster.finish(hand.task_of(job))
        await hand.settle()
        store.may_answer.set()
        await killing

        assert not hand.scheduler.kills


@pytest.mark.parametrize("way", [kill, cancel, end_by_decision])
async def test_a_task_that_runs_on_while_its_kill_is_being_answered_is_killed_then(
    by_hand: HandTurned, way: Callable[[ManualScheduler, JobSpec], Awaitable[None]]
) -> None:
    store = SlowToAnswer()
    async with by_hand(memory=store) as hand:
        job = a_job_spec()
        await hand.submit(job)
        await hand.match()
        killing = asyncio.ensure_future(way(hand, job))
        await asyncio.sleep(0)
        store.may_answer.set()
        await killing
        await hand.settle()

        assert not hand.cluster.tasks
        assert not hand.scheduler.kills
