"""A scheduler whose views cannot follow a commit stops, and the next one goes on from the store."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cook_jupyter import cli
from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.errors import InvalidRequest, OutOfStep
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import HIGHEST_PRIORITY, JobSpec, JobState
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from cook_jupyter.store.sqlite import SqliteStore
from tests.builders import a_job_spec
from tests.service.conftest import RunningSchedulerFactory
from tests.waiting import HANG_S

STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])


def _store(kind: str, folder: Path) -> Store:
    return MemoryStore() if kind == "memory" else SqliteStore(folder / "store.db")


def _fail(changes: Sequence[JobChange]) -> None:
    raise RuntimeError("the view is too small")


async def _submit_and_fail(
    store: Store, cluster: MemoryCluster, folder: Path, spec: JobSpec, *, start_loops: bool
) -> None:
    """Run a scheduler, submit a job that a listener cannot follow, and wait until cancelled."""
    async with (
        asyncio.timeout(HANG_S),
        run_scheduler(
            store, [cluster], Settings(), Home(root=folder), ManualClock(1000), start_loops=start_loops
        ) as scheduler,
    ):
        store.listen(_fail)
        await scheduler.submit([spec])
        await asyncio.Event().wait()


@STORES
@pytest.mark.parametrize("start_loops", [True, False], ids=["with loops", "manually"])
async def test_a_scheduler_stops_when_its_memory_misses_a_commit(
    kind: str, start_loops: bool, cluster: MemoryCluster, tmp_path: Path
) -> None:
    with pytest.raises(OutOfStep, match="the view is too small"):
        await _submit_and_fail(
            _store(kind, tmp_path), cluster, tmp_path, a_job_spec(), start_loops=start_loops
        )


@STORES
async def test_what_was_accepted_before_the_failure_runs_under_the_next_scheduler(
    kind: str, cluster: MemoryCluster, tmp_path: Path
) -> None:
    store = _store(kind, tmp_path)
    specs = [a_job_spec() for _ in range(2)]
    for spec in specs:
        with pytest.raises(OutOfStep):
            await _submit_and_fail(store, cluster, tmp_path, spec, start_loops=False)

    home = Home(root=tmp_path)
    async with run_scheduler(
        store, [cluster], Settings(), home, ManualClock(1000), start_loops=False
    ) as scheduler:
        launched = await match_all(scheduler)
        states = [job.state for job in await scheduler.jobs([spec.job_id for spec in specs]) if job]

    assert launched == 2
    assert states == [JobState.RUNNING] * 2


@pytest.mark.parametrize(
    ("amounts", "text"),
    [
        ({"priority": HIGHEST_PRIORITY + 1}, "priority"),
        ({"priority": 100_000_000}, "priority"),
        ({"priority": -1}, "priority"),
        ({"cpus": float("nan")}, "cpus"),
        ({"cpus": float("inf")}, "cpus"),
        ({"cpus": -1.0}, "cpus"),
        ({"mem_mb": -1.0}, "mem"),
        ({"mem_mb": float("nan")}, "mem"),
        ({"gpus": -1}, "gpus"),
        ({"ports": -1}, "ports"),
    ],
    ids=str,
)
async def test_a_job_that_no_queue_can_hold_is_refused_before_it_is_stored(
    amounts: dict[str, float], text: str, running_scheduler: RunningSchedulerFactory, store: Store
) -> None:
    async with running_scheduler() as scheduler:
        bad = a_job_spec(**amounts)
        with pytest.raises(InvalidRequest, match=text):
            await scheduler.submit([a_job_spec(), bad, a_job_spec()])

        assert scheduler.waiting_count() == 0
        assert await store.jobs([bad.job_id]) == [None]


def _runs(*outcomes: Exception | None) -> tuple[Callable[[], None], list[Exception | None]]:
    """Return a function that ends in one of the outcomes after the other, and the list of those left."""
    left = list(outcomes)

    def run() -> None:
        outcome = left.pop(0)
        if outcome is not None:
            raise outcome

    return run, left


def test_the_process_builds_the_scheduler_again_from_its_store() -> None:
    run, left = _runs(OutOfStep("first"), OutOfStep("second"), None)

    cli.rebuild_when_out_of_step(run)

    assert left == []


def test_the_process_ends_when_building_again_does_not_help() -> None:
    failures = [OutOfStep(str(number)) for number in range(cli.MAX_REBUILDS + 1)]
    run, left = _runs(*failures, None)

    with pytest.raises(OutOfStep, match=str(cli.MAX_REBUILDS)):
        cli.rebuild_when_out_of_step(run, now_s=lambda: 5.0)

    assert left == [None]


def test_failures_long_ago_do_not_count() -> None:
    times = iter(range(0, 10_000, 30))
    run, left = _runs(*[OutOfStep("again")] * 20, None)

    cli.rebuild_when_out_of_step(run, now_s=lambda: float(next(times)))

    assert left == []
