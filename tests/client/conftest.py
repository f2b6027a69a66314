"""One test suite for both clients: the blocking one, and the one for asyncio behind a blocking facade."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

import pytest

from cook_jupyter.client.aio import AsyncEventStream, AsyncJobClient
from cook_jupyter.client.sync import JobClient
from tests.waiting import HANG_S

NewClient = Callable[..., JobClient]


class Blocking:
    """Makes the coroutines of an object blocking; `user` is a property, as in JobClient."""

    def __init__(self, made: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._made = made
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._made, name)
        if not callable(value):
            return value
        return (
            self._wait(value())
            if name == "user"
            else lambda *args, **fields: self._wait(value(*args, **fields))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        async def following() -> Any:
            return await anext(self._made, None)  # no StopAsyncIteration: no task may raise it

        batch = self._wait(following())
        if batch is None:
            raise StopIteration
        return batch

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._made.close)

    def _wait(self, value: Any) -> Any:
        if asyncio.iscoroutine(value):
            value = asyncio.run_coroutine_threadsafe(value, self._loop).result(HANG_S)
        return Blocking(value, self._loop) if isinstance(value, AsyncJobClient | AsyncEventStream) else value


@pytest.fixture(scope="session")
def client_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(HANG_S)
    loop.close()


@pytest.fixture(params=["blocking", "asyncio"])
def new_client(request: pytest.FixtureRequest, client_loop: asyncio.AbstractEventLoop) -> NewClient:
    """The constructor of a client with the methods of JobClient."""
    if request.param == "blocking":
        return JobClient

    def make(*args: Any, **fields: Any) -> JobClient:
        return cast(JobClient, Blocking(AsyncJobClient(*args, **fields), client_loop))

    return make
