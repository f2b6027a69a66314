"""Pauses between subscriptions, and the queue of events."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.clusters.mesos.messages import Event
from cook_jupyter.clusters.mesos.transport.pacing import BackOff, EventQueue
from tests.waiting import wait_until_async


@given(st.integers())
def test_a_master_that_refuses_is_asked_at_most_ten_times_in_a_minute(seed: int) -> None:
    back_off = BackOff(rng=random.Random(seed))
    times = [0.0]
    while times[-1] < 600:
        pause_s = back_off.pause_s(lasted_s=0.0)
        assert 1.0 <= pause_s <= 15.0
        times.append(times[-1] + pause_s)

    assert all(sum(start <= time < start + 60 for time in times) <= 10 for start in times)


@given(st.integers())
def test_subscriptions_that_end_at_once_count_as_failures(seed: int) -> None:
    back_off = BackOff(rng=random.Random(seed))

    pauses = [back_off.pause_s(lasted_s=2.0) for _ in range(6)]

    assert pauses[-1] >= 10


def test_the_first_pause_after_a_subscription_that_lasted_is_short() -> None:
    back_off = BackOff(rng=random.Random(1))
    for _ in range(10):
        back_off.pause_s(lasted_s=0.0)

    assert back_off.pause_s(lasted_s=15.0) <= 1.5


def test_frameworks_do_not_return_together() -> None:
    first, second = (BackOff(rng=random.Random(seed)) for seed in (1, 2))

    assert first.pause_s(0.0) != second.pause_s(0.0)


async def test_the_reader_waits_while_too_many_events_wait() -> None:
    queue = EventQueue(max_events=2)
    reader = asyncio.create_task(fill(queue, ["a", "b", "c"], size=1))
    await wait_until_async(lambda: queue.is_full)
    assert not reader.done()

    assert [await take(queue) for _ in range(3)] == ["a", "b", "c"]
    await reader


async def test_the_reader_waits_while_too_many_bytes_wait() -> None:
    queue = EventQueue(max_bytes=10)
    reader = asyncio.create_task(fill(queue, ["a", "b", "c"], size=9))
    await wait_until_async(lambda: queue.is_full)
    assert not reader.done()

    assert [await take(queue) for _ in range(3)] == ["a", "b", "c"]
    await reader


async def test_a_closed_queue_returns_nothing_and_takes_everything() -> None:
    queue = EventQueue(max_events=1)
    reader = asyncio.create_task(fill(queue, ["a", "b", "c"], size=1))
    await wait_until_async(lambda: queue.is_full)

    queue.close()

    await reader
    assert await queue.get() is None


async def fill(queue: EventQueue, types: list[str], size: int) -> None:
    for one in types:
        await queue.put(Event(type=one), size)


async def take(queue: EventQueue) -> str:
    event = await queue.get()
    assert event is not None
    return event.type
