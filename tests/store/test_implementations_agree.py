"""Both stores give the same answers to any sequence of commands, across restarts and with a small cache."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from cook_jupyter.errors import CookError
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import InstanceId, ProgressUpdate, ResultPayload, StatusUpdate, TaskState
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.reason import HEARTBEAT_LOST, NON_ZERO_EXIT, PREEMPTED
from cook_jupyter.store import sqlite_writer
from cook_jupyter.store.base import Failure, Store
from cook_jupyter.store.memory import MemoryStore
from cook_jupyter.store.sqlite import SqliteStore
from tests.builders import a_group, a_job_spec, an_instance
from tests.store.contract import a_query, listed_jobs, open_jobs

StoreCall = Callable[[Store], Awaitable[Any]]

USERS = st.sampled_from(["ada", "eve", "zoë"])
TIMES = st.integers(0, 50)
RETRIES = st.integers(1, 4)
RESULTS = st.none() | st.builds(ResultPayload, inline=st.binary(max_size=5), size=st.just(5))
REASONS = st.sampled_from([None, HEARTBEAT_LOST, NON_ZERO_EXIT, PREEMPTED, "no such reason"])


class StoresAgree(RuleBasedStateMachine):
    """A MemoryStore and a SqliteStore that receive the same commands and queries."""

    jobs = Bundle("jobs")
    instances = Bundle("instances")
    groups = Bundle("groups")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cook-"))
        self.loop = asyncio.new_event_loop()
        self.memory: Store = MemoryStore()
        self.commits: tuple[list[JobChange], list[JobChange]] = ([], [])
        self.memory.listen(self.commits[0].extend)
        self.loop.run_until_complete(self.memory.open())
        self.sqlite: Store
        self.loop.run_until_complete(self.open_sqlite())
        self.job_ids: list[JobId] = []
        self.pending: list[StoreCall] = []

    async def open_sqlite(self) -> None:
        self.sqlite = SqliteStore(self.folder / "store.db")
        self.sqlite.listen(self.commits[1].extend)
        await self.sqlite.open()

    def teardown(self) -> None:
        self.execute_pending()
        self.loop.run_until_complete(self.sqlite.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    # Commands are collected and then called together, so batches of any size share a transaction.

    def call(self, call: StoreCall) -> None:
        self.pending.append(call)

    @rule()
    def execute_pending(self) -> None:
        calls, self.pending = self.pending, []
        answers = self.loop.run_until_complete(_answers(calls, self.memory, self.sqlite))
        assert answers[0] == answers[1]

    @rule(target=jobs, user=USERS, group=st.none() | groups, retries=RETRIES, at=TIMES, grow=st.booleans())
    def submit(self, user: str, group: GroupId | None, retries: int, at: int, grow: bool) -> JobId:
        labels = {"at": str(at)}
        spec = a_job_spec(user=user, max_retries=retries, group=group, name=f"job-{at}", labels=labels)
        self.call(lambda store: store.submit([spec], now_ms=at, grow_groups=grow))
        self.job_ids.append(spec.job_id)
        return spec.job_id

    @rule(target=groups)
    def add_group(self) -> GroupId:
        return a_group().group_id

    @rule(used=jobs, group=groups)
    def submit_a_used_uuid_or_group(self, used: JobId, group: GroupId) -> None:
        specs = [a_job_spec(), a_job_spec(job_id=used)]
        self.call(lambda store: store.submit(specs, [a_group(group_id=group)], now_ms=9))

    @rule(target=instances, job_ids=st.lists(jobs, min_size=1, max_size=3), at=TIMES)
    def launch(self, job_ids: list[JobId], at: int) -> Any:
        launches = [an_instance(job_id, started_ms=at) for job_id in job_ids]
        self.call(lambda store: store.launch(launches))
        return multiple(*(instance.instance_id for instance in launches))

    @rule(job_id=jobs, instance=instances)
    def launch_under_a_used_id(self, job_id: JobId, instance: InstanceId) -> None:
        self.call(lambda store: store.launch([an_instance(job_id, instance_id=instance)]))

    @rule(
        ids=st.lists(instances, min_size=1, max_size=3),
        state=st.sampled_from(TaskState),
        at=TIMES,
        reason=REASONS,
        result=RESULTS,
    )
    def report(
        self,
        ids: list[InstanceId],
        state: TaskState,
        at: int,
        reason: str | None,
        result: ResultPayload | None,
    ) -> None:
        updates = [
            StatusUpdate(instance_id=i, state=state, at_ms=at, reason=reason, result=result) for i in ids
        ]
        self.call(lambda store: store.report(updates))

    @rule(instance=instances, sequence=st.integers(0, 3), percent=st.none() | st.integers(0, 100))
    def progress(self, instance: InstanceId, sequence: int, percent: int | None) -> None:
        update = ProgressUpdate(instance_id=instance, sequence=sequence, percent=percent, message="at work")
        self.call(lambda store: store.progress([update]))

    @rule(job_id=jobs, instance=instances, at=TIMES)
    def fail(self, job_id: JobId, instance: InstanceId, at: int) -> None:
        failure = Failure(job_id=job_id, instance_id=instance, reason=PREEMPTED, at_ms=at, preempted=True)
        self.call(lambda store: store.fail([failure]))

    @rule(job_ids=st.lists(jobs | st.just("unknown"), min_size=1, max_size=3))
    def cancel_waiting(self, job_ids: list[JobId]) -> None:
        self.call(lambda store: store.cancel_waiting(job_ids))

    @rule(job_ids=st.lists(jobs | st.just("unknown"), min_size=1, max_size=3))
    def kill(self, job_ids: list[JobId]) -> None:
        self.call(lambda store: store.kill_jobs(job_ids))

    @rule(ids=st.lists(instances | st.just("unknown"), min_size=1, max_size=3))
    def cancel(self, ids: list[InstanceId]) -> None:
        self.call(lambda store: store.cancel_instances(ids))

    @rule(job_ids=st.lists(jobs, min_size=1, max_size=2), retries=RETRIES, at=TIMES)
    def retry(self, job_ids: list[JobId], retries: int, at: int) -> None:
        self.call(lambda store: store.retry(job_ids, [retries] * len(job_ids), now_ms=at))

    @rule(user=USERS, amount=st.floats(0, 9), name=st.sampled_from(["cpus", "mem"]))
    def set_a_limit(self, user: str, amount: float, name: str) -> None:
        entry = LimitEntry(kind="share", user=user, pool=DEFAULT_POOL, name=name, amount=amount)
        self.call(lambda store: store.set_limits([entry]))

    @rule(user=USERS)
    def retract_limits(self, user: str) -> None:
        self.call(lambda store: store.retract_limits("share", user, DEFAULT_POOL))

    @precondition(lambda self: not self.pending)
    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.sqlite.close())
        self.loop.run_until_complete(self.open_sqlite())

    @precondition(lambda self: not self.pending)
    @rule(user=USERS, after=st.integers(0, 60), at=TIMES, limit=st.none() | st.integers(1, 5))
    def query(self, user: str, after: int, at: int, limit: int | None) -> None:
        query = a_query(user=user, end_ms=at, outcomes=frozenset({"running", "failed"}), limit=limit)
        self.assert_same(lambda store: listed_jobs(store, query))
        self.assert_same(lambda store: store.changed(user, after, limit=3))
        self.assert_same(lambda store: store.changed(user, after, label=("at", str(at))))
        self.assert_same(lambda store: store.limits())

    @precondition(lambda self: not self.pending)
    @invariant()
    def both_have_the_same_state(self) -> None:
        self.assert_same(lambda store: store.jobs(self.job_ids))
        self.assert_same(open_jobs)
        self.assert_same(lambda store: store.last_change())
        assert self.commits[0] == self.commits[1]
        self.commits[0].clear()
        self.commits[1].clear()

    def assert_same(self, call: StoreCall) -> None:
        answers = self.loop.run_until_complete(_answers([call], self.memory, self.sqlite))
        assert answers[0] == answers[1]


async def _answers(calls: Sequence[StoreCall], *stores: Store) -> list[list[Any]]:
    return [
        [_comparable(answer) for answer in await asyncio.gather(*(_outcome(call(store)) for call in calls))]
        for store in stores
    ]


async def _outcome(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except CookError as error:
        return type(error), str(error)


def _comparable(answer: Any) -> Any:
    return list(answer) if isinstance(answer, (list, tuple)) else answer


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the cache of recent jobs overflow within the few jobs of a test."""
    monkeypatch.setattr(sqlite_writer, "MAX_CACHED_JOBS", 3)
