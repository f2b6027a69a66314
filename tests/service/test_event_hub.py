"""Subscriptions: which changes are sent in one batch."""

from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import JobState
from cook_jupyter.service.requests.events import EventHub, Subscription
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job
from tests.waiting import HANG_S


async def a_subscription() -> tuple[EventHub, Subscription]:
    """Return a subscription that has caught up."""
    store = MemoryStore()
    await store.open()
    hub = EventHub(store)
    reader = hub.subscribe("ada", 0)
    assert await reader.batch(0.0) == []
    return hub, reader


def a_change(number: int, state: JobState) -> JobChange:
    return JobChange(before=JobState.WAITING, job=a_job(state=state, change=number))


async def test_a_start_that_an_end_follows_at_once_is_sent_with_it() -> None:
    hub, reader = await a_subscription()
    start, end = a_change(1, JobState.RUNNING), a_change(2, JobState.COMPLETED)

    hub.publish([start])
    hub.publish([end])

    assert await reader.batch(HANG_S) == [start, end]


async def test_a_start_is_sent_though_nothing_follows() -> None:
    hub, reader = await a_subscription()
    start = a_change(1, JobState.RUNNING)

    hub.publish([start])

    assert await reader.batch(HANG_S) == [start]


async def test_an_end_is_sent_at_once() -> None:
    hub, reader = await a_subscription()
    end = a_change(1, JobState.COMPLETED)

    hub.publish([end])

    assert await reader.batch(0.0) == [end]
