"""Replaying a dump gives the decisions of the pool at any moment: match, rebalance and why."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import Job, JobSpec
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling import decisions
from cook_jupyter.scheduling.launch_filter import LaunchAnswer
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.queue_record import index_of
from cook_jupyter.scheduling.snapshot import PoolSnapshot
from cook_jupyter.service import scheduler
from cook_jupyter.service.cycles import match_cycle, rebalance_cycle
from cook_jupyter.service.requests.dumps import FORMAT, read_dump, replay_dump, snapshot_of, take_dump
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import PlacementSettings
from cook_jupyter.service.state.launch_plugin import LaunchPlugin
from tests.builders import a_job_spec
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory, SlowKillCluster
from tests.service.simulated.simulation import simulate

SEEDS = 8
NO_FILTER = LaunchPlugin(None)


class Replaying:
    """Makes each decision twice: about the pool itself, and about a dump of it.

    Attributes:
        decided: number of decisions of each kind, those that decided something.
        differing: decisions that differ.
    """

    def __init__(self) -> None:
        self.decided: Counter[str] = Counter()
        self.differing: list[tuple[str, Any, Any]] = []

    def both(self, decide: Callable[..., Any]) -> Callable[..., Any]:
        def decide_twice(snapshot: PoolSnapshot, index: QueueIndex, *rest: Any, **fields: Any) -> Any:
            jobs = [(job, 0) for job in rest if isinstance(job, Job)]
            text = take_dump(snapshot, index, NO_FILTER, jobs, version="test").encode()
            found = decide(snapshot, index, *rest, **fields)
            dump = read_dump(text)
            rest = tuple(record.job for record in dump.jobs) or rest
            again = decide(snapshot_of(dump.snapshot), index_of(dump.queue), *rest, **fields)
            name = decide.__name__
            self.decided[name] += not _is_empty(found)
            if found != again:
                self.differing.append((name, found, again))
            return found

        return decide_twice


def _is_empty(found: Any) -> bool:
    matching = getattr(found, "matching", found)
    return not (
        getattr(matching, "matches", ()) or getattr(found, "preemptions", ()) or isinstance(found, tuple)
    )


def test_whatever_happens_a_dump_is_decided_about_as_the_pool_was(monkeypatch: pytest.MonkeyPatch) -> None:
    replaying = Replaying()
    for name in ("decide_reserved", "decide_heads", "decide_match", "decide_growth"):
        monkeypatch.setattr(match_cycle, name, replaying.both(getattr(decisions, name)))
    monkeypatch.setattr(rebalance_cycle, "decide_rebalance", replaying.both(decisions.decide_rebalance))
    monkeypatch.setattr(scheduler, "why", replaying.both(decisions.why))

    outcomes = [simulate(seed) for seed in range(SEEDS)]

    assert [outcome.violation for outcome in outcomes] == [None] * SEEDS
    assert not replaying.differing
    assert (+replaying.decided).keys() == {
        "decide_reserved",
        "decide_heads",
        "decide_match",
        "decide_rebalance",
        "why",
    }


def only_small_jobs(spec: JobSpec) -> LaunchAnswer:
    """A launch filter."""
    return LaunchAnswer(accepted=spec.cpus < 2, message="too large for today", holds_ms=60_000)


FILTERED = Settings(placement=PlacementSettings(launch_filter=f"{__name__}:only_small_jobs"))


async def dumped(manual: ManualScheduler, *jobs: JobSpec) -> bytes:
    return await manual.scheduler.dump(DEFAULT_POOL, [job.job_id for job in jobs])


async def test_the_launch_filter_is_replayed_with_what_it_answered(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(FILTERED, cpus=4) as manual:
        small, large = a_job_spec(user="ada"), a_job_spec(user="bob", cpus=2)
        await manual.submit(large)
        await manual.match()
        await manual.submit(small)

        again = replay_dump(read_dump(await dumped(manual, large)))
        told = await manual.scheduler.why(large.job_id)
        await manual.match()

        assert [match.job_id for match in again.match.matches] == [small.job_id]
        assert set(manual.where()) == {small.job_id}
        assert list(again.why[large.job_id]) == list(told)
        assert any("too large for today" in reason.sentence for reason in told)


async def test_a_dump_is_of_one_moment_and_changes_nothing(manual_scheduler: ManualSchedulerFactory) -> None:
    async with manual_scheduler() as manual:
        first = a_job_spec()
        await manual.submit(first)
        text = await dumped(manual)
        await manual.match()

        again = replay_dump(read_dump(text))

        assert [match.job_id for match in again.match.matches] == [first.job_id]
        assert set(manual.where()) == {first.job_id}


async def test_what_preemption_would_do_is_replayed(manual_scheduler: ManualSchedulerFactory) -> None:
    cluster = SlowKillCluster({"h1": Resources(cpus=2, mem_mb=4096)})
    async with manual_scheduler(cluster=cluster) as manual:
        await manual.submit(*(a_job_spec(user="hog") for _ in range(4)))
        await manual.match()
        late = a_job_spec(user="late")
        await manual.submit(late)

        (preemption,) = replay_dump(read_dump(await dumped(manual))).rebalance.preemptions

        assert preemption.beneficiary == late.job_id
        assert await manual.rebalance() == len(preemption.victims)


async def test_for_which_jobs_a_cluster_should_grow_is_replayed(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    cluster = SlowKillCluster(
        {"h1": Resources(cpus=2, mem_mb=4096)}, spare_hosts={"h2": Resources(cpus=8, mem_mb=8192)}
    )
    async with manual_scheduler(cluster=cluster) as manual:
        small, large = a_job_spec(), a_job_spec(cpus=4)
        await manual.submit(small, large)
        async with manual.scheduler.cycle_lock:
            await match_cycle.run_match_cycle(manual.scheduler, DEFAULT_POOL)

        again = replay_dump(read_dump(await dumped(manual)))

        assert again.growth == [large.job_id]
        assert f"growth: {large.job_id} waits for more hosts" in again.lines()
        await manual.match()
        await manual.match()
        assert manual.where() == {small.job_id: "h1", large.job_id: "h2"}


async def test_a_dump_holds_nothing_that_only_a_jobs_user_should_read(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler() as manual:
        job = a_job_spec(command="echo secret", env={"TOKEN": "secret"}, labels={"of": "secret"})
        await manual.submit(job)

        assert b"secret" not in await dumped(manual, job)


async def test_a_pool_or_a_job_that_is_not_there_has_no_dump(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler() as manual:
        with pytest.raises(InvalidRequest, match=r"there is no pool 'x'; the pools are default"):
            await manual.scheduler.dump(PoolName("x"), [])


@pytest.mark.parametrize("text", [b"{}", b"nothing", b'{"format": 1}'])
def test_what_is_no_dump_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="this is not a dump of a pool"):
        read_dump(text)


def test_a_dump_of_another_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match="replay it with the version"):
        read_dump(msgspec.json.encode({"format": FORMAT + 1}))
