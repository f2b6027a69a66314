"""A scheduler that its user shut down stays down, whatever an open notebook still waits for."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cook_jupyter.client.runtime import RUNTIME_FILE
from cook_jupyter.errors import SchedulerUnreachable
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor import connection as connection_module
from cook_jupyter.executor.blobs import HttpStore
from cook_jupyter.payload.envelope import Buffer
from tests.waiting import HANG_S, wait_until


class GatedStore(HttpStore):
    """A store behind the scheduler whose blobs can be fetched once `may_fetch` is set."""

    def __init__(self, executor: CookExecutor) -> None:
        session = executor._holder.current_session()
        super().__init__(session.scheduler.info.blobs, lambda: session.client)
        session.scheduler.__dict__["store"] = self
        self.is_fetching, self.may_fetch = threading.Event(), threading.Event()

    def get(self, name: str) -> Buffer:
        self.is_fetching.set()
        assert self.may_fetch.wait(HANG_S)
        return super().get(name)


def down(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "cook_jupyter", "down"], check=True, capture_output=True)
    assert not (home / RUNTIME_FILE).exists()


def up() -> None:
    subprocess.run([sys.executable, "-m", "cook_jupyter", "up"], check=True, capture_output=True)


def test_fetching_a_result_leaves_a_scheduler_down_and_goes_on_when_it_is_back(
    cook_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_module, "REQUEST_TIMEOUT_S", 0.3)
    executor = CookExecutor(cpus=0.5, mem_mb=256)
    store = GatedStore(executor)
    future = executor.submit(bytes, 1_000_000)
    assert store.is_fetching.wait(HANG_S)
    down(cook_home)

    with caplog.at_level(logging.WARNING):
        store.may_fetch.set()
        wait_until(lambda: caplog.text.count("could not be fetched") >= 2)
    assert not (cook_home / RUNTIME_FILE).exists()
    assert not future.done()

    up()
    assert future.result(HANG_S) == bytes(1_000_000)


QUESTIONS: dict[str, Callable[[CookExecutor], object]] = {
    "asked for": lambda executor: executor._holder.current_session().call(
        lambda client: client.pools(), restart=True
    ),
    "not asked for": lambda executor: executor._holder.current_session().call(
        lambda client: client.pools(), restart=False
    ),
}


@pytest.mark.parametrize("how", QUESTIONS)
def test_a_question_starts_a_scheduler_again_only_if_that_is_asked_for(
    how: str, cook_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = CookExecutor(cpus=0.5, mem_mb=256)
    assert executor.submit(pow, 2, 2).result(HANG_S) == 4
    down(cook_home)

    if how == "asked for":
        assert QUESTIONS[how](executor)
    else:
        executor._holder.current_session().scheduler.request_timeout_s = 0.5
        with pytest.raises(SchedulerUnreachable):
            QUESTIONS[how](executor)
    assert (cook_home / RUNTIME_FILE).exists() == (how == "asked for")
