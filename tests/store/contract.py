"""The guarantees of every store: one suite, run over each implementation.

The tests of an implementation derive a class from `StoreContract`; its fixture `harness` opens a store, and
opens it again as after a restart of the scheduler.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pytest

from cook_jupyter.errors import Conflict, InvalidRequest, NotFound, OutOfStep, SchedulerError
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import (
    Instance,
    InstanceId,
    InstanceStatus,
    ProgressUpdate,
    ResultPayload,
    StatusUpdate,
    TaskState,
)
from cook_jupyter.model.job import GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.lifecycle import Verdict
from cook_jupyter.model.limits import UNLIMITED, LimitEntry
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.reason import HEARTBEAT_LOST, KILLED_BY_USER, NON_ZERO_EXIT, PREEMPTED
from cook_jupyter.store.base import LIST_PAGE_JOBS, Failure, Store
from tests.builders import a_group, a_job_spec, an_instance
from tests.waiting import HANG_S

ALL_OUTCOMES = frozenset({"waiting", "running", "success", "failed"})


class StoreHarness(Protocol):
    """Opens and restarts stores of one implementation."""

    async def open(self) -> Store:
        """Open a new, empty store."""

    async def restart(self, store: Store) -> Store:
        """Close the store and open it again, as a new scheduler would."""


class StoreContract:
    """The guarantees of `cook_jupyter.store.base.Store`."""

    @pytest.fixture
    async def store(self, harness: StoreHarness) -> AsyncIterator[Store]:
        store = await harness.open()
        yield store
        await store.close()

    # Identity

    async def test_a_store_keeps_its_id_and_shares_it_with_no_other(self, harness: StoreHarness) -> None:
        store = await harness.open()
        store_id = store.store_id
        await submit_job(store)
        again = await harness.restart(store)

        assert again.store_id == store_id
        assert len(store_id) == 32
        assert again.broken() is None
        await again.close()

    # Submitting

    async def test_a_submitted_job_waits_with_its_whole_spec(self, store: Store) -> None:
        spec = a_job_spec(
            command="echo 'ünïcode'\0\n" * 100,
            cpus=0.5,
            gpus=1,
            ports=2,
            name="",
            priority=99,
            max_retries=3,
            max_runtime_ms=60_000,
            expected_runtime_ms=1000,
            env={"A": "1", "B": "=é"},
            labels={"a/b": "c"},
            constraints=(("HOSTNAME", "EQUALS", "h1"),),
            submit_pool="gamma",
            disable_mea_culpa_retries=True,
            extra={
                "container": {"type": "docker", "volumes": [{"host-path": "p"}]},
                "disk": {"request": 2.5},
            },
        )

        await store.submit([spec], now_ms=1234)

        job = await the_job(store, spec)
        assert job.spec == spec
        assert (job.state, job.submitted_ms, job.last_waiting_ms) == (JobState.WAITING, 1234, 1234)
        assert (job.max_retries, job.instances, job.killed) == (3, (), False)

    async def test_fields_at_their_default_are_restored_when_a_job_is_read(self, store: Store) -> None:
        spec = await submit_job(store)
        assert (await the_job(store, spec)).spec == spec

    async def test_jobs_are_numbered_in_the_order_of_their_submission(self, store: Store) -> None:
        specs = [a_job_spec() for _ in range(5)]
        await store.submit(specs[:2], now_ms=1)
        await store.submit(specs[2:], now_ms=1)

        jobs = await all_jobs(store, specs)

        seqs = [job.seq for job in jobs]
        assert seqs == sorted(set(seqs))
        changes = [job.change for job in jobs]
        assert changes == sorted(set(changes))

    async def test_a_uuid_in_use_is_refused_and_nothing_of_the_submission_is_added(
        self, store: Store
    ) -> None:
        used = [await submit_job(store), await submit_job(store)]
        new = a_job_spec()
        group = a_group()

        with pytest.raises(Conflict) as refusal:
            await store.submit([used[1], new, used[0]], [group], now_ms=2)

        assert all(spec.job_id in str(refusal.value) for spec in used)
        assert new.job_id not in str(refusal.value)
        assert await store.jobs([new.job_id]) == [None]
        assert await store.groups([group.group_id]) == [None]

    async def test_the_same_uuid_twice_in_one_submission_is_refused(self, store: Store) -> None:
        spec = a_job_spec()
        with pytest.raises(Conflict, match=spec.job_id):
            await store.submit([spec, a_job_spec(), spec], now_ms=1)
        assert await store.jobs([spec.job_id]) == [None]

    async def test_a_job_an_instance_and_a_group_may_have_the_same_uuid(self, store: Store) -> None:
        spec = a_job_spec()
        await store.submit([spec], [a_group(group_id=spec.job_id)], now_ms=1)
        assert len(await store.launch([an_instance(spec.job_id, instance_id=spec.job_id)])) == 1

    @pytest.mark.parametrize("cpus", [float("inf"), float("nan")])
    async def test_a_job_whose_cpus_are_not_finite_is_refused(self, store: Store, cpus: float) -> None:
        spec = a_job_spec(cpus=cpus)
        with pytest.raises(InvalidRequest, match=spec.job_id):
            await store.submit([spec], now_ms=1)

    async def test_an_empty_submission_does_nothing(self, store: Store) -> None:
        seen = record_commits(store)
        assert tuple(await store.submit([], now_ms=1)) == ()
        assert seen == []

    # Groups

    async def test_a_group_that_only_a_job_refers_to_is_created_as_defaultgroup(self, store: Store) -> None:
        group_id = a_group().group_id
        created = await store.submit([a_job_spec(group=group_id)], now_ms=1)

        assert tuple(created) == (group_id,)
        assert await store.groups([group_id]) == [a_group(group_id=group_id, name="defaultgroup")]

    async def test_a_submitted_group_is_stored_unchanged(self, store: Store) -> None:
        group = a_group(
            name="sweep",
            host_placement={"type": "balanced", "parameters": {"attribute": "rack", "minimum": 2}},
            straggler_handling={
                "type": "quantile-deviation",
                "parameters": {"quantile": 0.5, "multiplier": 2},
            },
        )
        other = a_group()
        specs = [a_job_spec(group=group.group_id), a_job_spec(group=group.group_id)]

        created = await store.submit(specs, [group, other], now_ms=1)

        assert tuple(created) == (group.group_id, other.group_id)
        assert await store.groups([other.group_id, GroupId("none"), group.group_id]) == [other, None, group]
        assert list(await store.jobs_of_group(group.group_id)) == [spec.job_id for spec in specs]
        assert list(await store.jobs_of_group(other.group_id)) == []

    async def test_a_stored_group_cannot_be_submitted_again(self, store: Store) -> None:
        group = a_group()
        await store.submit([], [group], now_ms=1)
        spec = a_job_spec()
        with pytest.raises(InvalidRequest, match=group.group_id):
            await store.submit([spec], [group], now_ms=1, grow_groups=True)
        assert await store.jobs([spec.job_id]) == [None]

    async def test_jobs_are_added_to_a_stored_group_only_if_that_is_allowed(self, store: Store) -> None:
        group = a_group()
        first = a_job_spec(group=group.group_id)
        await store.submit([first], [group], now_ms=1)
        later = a_job_spec(group=group.group_id)

        with pytest.raises(InvalidRequest, match=group.group_id):
            await store.submit([later], now_ms=1)
        extended = await store.submit([later], now_ms=1, grow_groups=True)

        assert tuple(extended) == (group.group_id,)
        assert list(await store.jobs_of_group(group.group_id)) == [first.job_id, later.job_id]
        assert await store.groups([group.group_id]) == [group]

    # Launching

    async def test_a_launch_adds_instances_to_waiting_jobs_only(self, store: Store) -> None:
        first, busy, second = [await submit_job(store) for _ in range(3)]
        await launch_job(store, busy)
        requested = [
            an_instance(first.job_id),
            an_instance(busy.job_id),
            an_instance(),
            an_instance(second.job_id),
        ]

        done = await store.launch(requested)

        assert [spec for spec, _ in done] == [first, second]
        assert [i.instance_id for _, i in done] == [requested[0].instance_id, requested[3].instance_id]
        job = await the_job(store, first)
        assert (job.state, job.instances) == (JobState.RUNNING, (done[0][1],))

    async def test_a_launch_records_how_long_the_job_had_waited(self, store: Store) -> None:
        spec = await submit_job(store, now_ms=1000)
        ((_, instance),) = await store.launch([an_instance(spec.job_id, started_ms=1250)])
        assert instance.queue_ms == 250

    async def test_a_launch_starts_a_job_at_most_once(self, store: Store) -> None:
        spec = await submit_job(store)
        done = await store.launch([an_instance(spec.job_id), an_instance(spec.job_id)])
        assert len(done) == 1
        assert len((await the_job(store, spec)).instances) == 1

    async def test_an_instance_id_cannot_be_used_twice(self, store: Store) -> None:
        first, second = await submit_job(store), await submit_job(store)
        instance = await launch_job(store, first)
        with pytest.raises(Conflict, match=instance.instance_id):
            await store.launch([an_instance(second.job_id, instance_id=instance.instance_id)])
        assert (await the_job(store, second)).state is JobState.WAITING

    async def test_a_killed_job_is_not_launched(self, store: Store) -> None:
        spec = await submit_job(store)
        await store.kill_jobs([spec.job_id])
        assert len(await store.launch([an_instance(spec.job_id)])) == 0

    # Reports

    async def test_status_updates_move_an_instance_through_its_life_cycle(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        result = ResultPayload(inline=b"\x00signed", size=7)

        assert await report_update(store, instance, TaskState.RUNNING, at_ms=2010) is Verdict.APPLIED
        running = (await the_job(store, spec)).instances[0]
        ended = await report_update(
            store,
            instance,
            TaskState.FINISHED,
            at_ms=2030,
            result=result,
            exit_code=0,
            sandbox="s",
            peak_mem_mb=1.5,
        )

        assert (running.status, running.backend_started_ms) == (InstanceStatus.RUNNING, 2010)
        assert ended is Verdict.APPLIED
        job = await the_job(store, spec)
        assert (job.state, job.outcome) == (JobState.COMPLETED, "success")
        last = job.instances[0]
        assert (last.status, last.ended_ms, last.has_result) == (InstanceStatus.SUCCESS, 2030, True)
        assert (last.exit_code, last.sandbox, last.peak_mem_mb) == (0, "s", 1.5)
        assert await store.result(instance.instance_id) == result

    async def test_an_update_after_the_end_changes_neither_instance_nor_result(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        result = ResultPayload(blob="results/1", size=9_000_000)
        await report_update(store, instance, TaskState.FINISHED, at_ms=30, result=result)
        before = await the_job(store, spec)

        again = await report_update(
            store, instance, TaskState.FAILED, at_ms=40, result=ResultPayload(inline=b"x", size=1)
        )

        assert again is Verdict.IGNORED
        assert await the_job(store, spec) == before
        assert await store.result(instance.instance_id) == result

    async def test_an_unknown_running_instance_is_to_be_killed(self, store: Store) -> None:
        assert await report_update(store, an_instance(), TaskState.RUNNING) is Verdict.KILL
        assert await report_update(store, an_instance(), TaskState.FINISHED) is Verdict.IGNORED

    async def test_a_running_instance_of_a_killed_job_is_to_be_killed(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        await store.kill_jobs([spec.job_id])
        assert await report_update(store, instance, TaskState.RUNNING) is Verdict.KILL

    async def test_a_failure_costs_an_attempt_and_the_last_one_ends_the_job(self, store: Store) -> None:
        spec = await submit_job(store, max_retries=2)
        instances = []
        for at_ms in (10, 20):
            assert (await the_job(store, spec)).state is JobState.WAITING
            instances.append(await launch_job(store, spec))
            await report_update(
                store, instances[-1], TaskState.FAILED, at_ms=at_ms, reason=NON_ZERO_EXIT, exit_code=3
            )

        job = await the_job(store, spec)
        assert (job.outcome, job.last_waiting_ms) == ("failed", 10)
        assert [i.instance_id for i in job.instances] == [i.instance_id for i in instances]
        assert {i.reason for i in job.instances} == {NON_ZERO_EXIT}

    async def test_the_updates_of_a_batch_are_applied_in_order(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        seen = record_commits(store)

        verdicts = await store.report(
            [
                an_update(instance, TaskState.RUNNING, at_ms=2010),
                an_update(an_instance(), TaskState.RUNNING),
                an_update(instance, TaskState.FINISHED, at_ms=2020),
                an_update(instance, TaskState.RUNNING, at_ms=2030),
            ]
        )

        assert list(verdicts) == [Verdict.APPLIED, Verdict.KILL, Verdict.APPLIED, Verdict.KILL]
        job = await the_job(store, spec)
        assert (job.instances[0].backend_started_ms, job.instances[0].ended_ms) == (2010, 2020)
        assert [change.job.state for change in seen[0]] == [JobState.RUNNING, JobState.COMPLETED]
        assert seen[0][0].job.change < seen[0][1].job.change == job.change

    # Progress, failures, kills, retries

    async def test_progress_is_recorded_and_an_older_sequence_changes_nothing(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        unknown = ProgressUpdate(instance_id=InstanceId("unknown"), sequence=1)

        recorded = await store.progress([a_progress(instance, 2, 40, "almost half"), unknown])
        again = await store.progress([a_progress(instance, 1, 10, "late")])

        assert (list(recorded), list(again)) == ([True, False], [True])
        stored = (await the_job(store, spec)).instances[0]
        assert (stored.progress, stored.progress_message, stored.progress_sequence) == (40, "almost half", 2)

    async def test_the_scheduler_can_fail_an_open_instance_only_once(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        failure = Failure(
            job_id=spec.job_id,
            instance_id=instance.instance_id,
            reason=PREEMPTED,
            at_ms=50,
            preempted=True,
            preempted_for="grace",
        )

        done = await store.fail([failure, replace(failure, job_id=JobId("unknown")), failure])

        assert list(done) == [True, False, False]
        job = await the_job(store, spec)
        assert (job.state, job.last_waiting_ms) == (JobState.WAITING, 50)
        (ended,) = job.instances
        assert (ended.reason, ended.preempted, ended.preempted_for) == (PREEMPTED, True, "grace")

    async def test_a_killed_job_is_completed_at_once_and_its_open_instance_is_returned(
        self, store: Store
    ) -> None:
        waiting, running = await submit_job(store), await submit_job(store)
        instance = await launch_job(store, running)
        ids = [waiting.job_id, running.job_id, running.job_id]

        first = await store.kill_jobs(ids)
        again = await store.kill_jobs(ids)

        assert list(first) == list(again) == [instance.instance_id]
        jobs = await all_jobs(store, [waiting, running])
        assert [job.outcome for job in jobs] == ["failed", "failed"]
        assert all(job.killed for job in jobs)
        assert jobs[1].instances[0].status is InstanceStatus.UNKNOWN
        assert jobs[1].instances[0].reason == KILLED_BY_USER

    async def test_cancelling_completes_waiting_jobs_only(self, store: Store) -> None:
        waiting, running = await submit_job(store), await submit_job(store)
        await launch_job(store, running)
        ids = [waiting.job_id, running.job_id]

        assert await store.cancel_waiting([*ids, waiting.job_id]) == (waiting.job_id,)
        assert await store.cancel_waiting(ids) == ()

        states = [job.state for job in await all_jobs(store, [waiting, running])]
        assert states == [JobState.COMPLETED, JobState.RUNNING]

    async def test_killing_unknown_jobs_names_them_and_kills_none(self, store: Store) -> None:
        spec = await submit_job(store)
        with pytest.raises(NotFound) as refusal:
            await store.kill_jobs([spec.job_id, JobId("no-1"), JobId("no-2"), JobId("no-1")])
        assert refusal.value.missing == ("no-1", "no-2")
        assert (await the_job(store, spec)).state is JobState.WAITING

    async def test_cancelled_instances_are_marked_and_the_open_ones_are_returned(self, store: Store) -> None:
        spec = await submit_job(store, max_retries=2)
        ended = await launch_job(store, spec)
        await report_update(store, ended, TaskState.FAILED, reason=NON_ZERO_EXIT)
        open_instance = await launch_job(store, spec)
        ids = [ended.instance_id, open_instance.instance_id]

        first = await store.cancel_instances(ids)
        again = await store.cancel_instances(ids)

        assert list(first) == list(again) == [open_instance.instance_id]
        assert [i.cancelled for i in (await the_job(store, spec)).instances] == [False, True]

    async def test_cancelling_unknown_instances_names_them_and_marks_none(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        with pytest.raises(NotFound) as refusal:
            await store.cancel_instances([instance.instance_id, InstanceId("no-1")])
        assert refusal.value.missing == ("no-1",)
        assert not (await the_job(store, spec)).instances[0].cancelled

    async def test_a_retried_job_waits_again(self, store: Store) -> None:
        spec = await submit_job(store)
        await store.kill_jobs([spec.job_id])
        await store.retry([spec.job_id], [3], now_ms=99)
        job = await the_job(store, spec)
        assert (job.state, job.max_retries, job.last_waiting_ms, job.killed) == (
            JobState.WAITING,
            3,
            99,
            False,
        )
        assert job.spec.max_retries == 1

    async def test_a_retry_applies_to_all_its_jobs_or_to_none(self, store: Store) -> None:
        fresh, used = await submit_job(store, max_retries=2), await submit_job(store, max_retries=2)
        for _ in range(2):
            await report_update(store, await launch_job(store, used), TaskState.FAILED, reason=NON_ZERO_EXIT)

        with pytest.raises(Conflict, match="Retries would be less than attempts-consumed"):
            await store.retry([fresh.job_id, used.job_id], [5, 1], now_ms=1)
        with pytest.raises(NotFound) as refusal:
            await store.retry([fresh.job_id, JobId("no-1")], [5, 5], now_ms=1)

        assert refusal.value.missing == ("no-1",)
        assert (await the_job(store, fresh)).max_retries == 2

    # Limits and texts

    async def test_a_limit_replaces_the_one_of_the_same_kind_user_pool_and_name(self, store: Store) -> None:
        cpus = a_limit(name="cpus", amount=4.0, reason="first")
        await store.set_limits([cpus, a_limit(name="mem", amount=UNLIMITED), a_limit(user="eve")])
        await store.set_limits([a_limit(name="cpus", amount=0.0, reason="none for now")])

        assert list(await store.limits()) == [
            a_limit(name="cpus", amount=0.0, reason="none for now"),
            a_limit(name="mem", amount=UNLIMITED),
            a_limit(user="eve"),
        ]

    async def test_retracting_removes_a_users_limits_of_one_kind_in_one_pool(self, store: Store) -> None:
        kept = [a_limit(pool="other"), a_limit(kind="quota"), a_limit(user="eve")]
        await store.set_limits([a_limit(name="cpus"), a_limit(name="mem"), *kept])
        await store.retract_limits("share", "ada", DEFAULT_POOL)
        assert sorted(await store.limits(), key=str) == sorted(kept, key=str)

    async def test_a_text_is_stored_under_its_key(self, store: Store) -> None:
        assert await store.get_text("framework") is None
        await store.set_text("framework", "one")
        await store.set_text("framework", "two ½")
        assert await store.get_text("framework") == "two ½"

    # Queries

    async def test_jobs_are_returned_in_the_order_of_the_ids_with_none_for_unknown_ones(
        self, store: Store
    ) -> None:
        specs = [await submit_job(store) for _ in range(3)]
        ids = [specs[2].job_id, JobId("unknown"), specs[0].job_id, specs[2].job_id]
        jobs = await store.jobs(ids)
        assert [job and job.spec for job in jobs] == [specs[2], None, specs[0], specs[2]]
        assert list(await store.jobs([])) == []

    async def test_many_jobs_can_be_queried_at_once(self, store: Store) -> None:
        specs = [a_job_spec() for _ in range(300)]
        await store.submit(specs, now_ms=1)
        jobs = await store.jobs([spec.job_id for spec in specs])
        assert [job and job.spec for job in jobs] == specs

    async def test_the_job_of_an_ended_instance_is_found_too(self, store: Store) -> None:
        first, second = await submit_job(store, max_retries=2), await submit_job(store)
        ended = await launch_job(store, first)
        await report_update(store, ended, TaskState.FAILED, reason=NON_ZERO_EXIT)
        again = await launch_job(store, first)
        other = await launch_job(store, second)

        ids = [other.instance_id, InstanceId("unknown"), ended.instance_id, again.instance_id]
        jobs = await store.jobs_of_instances(ids)

        assert [job and job.spec for job in jobs] == [second, None, first, first]

    async def test_a_list_has_the_jobs_of_a_user_in_a_time_range_newest_first(self, store: Store) -> None:
        for at_ms in (10, 20, 20, 30):
            await store.submit([a_job_spec(name=f"at-{at_ms}"), a_job_spec(user="eve")], now_ms=at_ms)

        listed = await listed_jobs(store, a_query(start_ms=10, end_ms=30))

        assert [job.spec.name for job in listed] == ["at-20", "at-20", "at-10"]
        assert listed[0].seq > listed[1].seq

    async def test_a_list_over_its_limit_keeps_the_oldest_jobs(self, store: Store) -> None:
        for at_ms in (30, 10, 20):
            await store.submit([a_job_spec()], now_ms=at_ms)
        listed = await listed_jobs(store, a_query(limit=2))
        assert [job.submitted_ms for job in listed] == [20, 10]

    @pytest.mark.parametrize("limit", [None, 1, 256, 257, 600, 1000])
    async def test_a_list_of_any_length_is_complete_and_in_pages(
        self, store: Store, limit: int | None
    ) -> None:
        specs = [a_job_spec() for _ in range(600)]
        await store.submit(specs[:599], now_ms=20)  # many at one time
        await store.submit(specs[599:], now_ms=10)

        pages = [page async for page in store.list_jobs(a_query(limit=limit))]

        oldest_first = [specs[599], *specs[:599]]
        assert [job.spec for page in pages for job in page] == oldest_first[:limit][::-1]
        assert all(0 < len(page) <= LIST_PAGE_JOBS for page in pages)

    async def test_changes_while_a_list_is_read_neither_repeat_nor_add_jobs(self, store: Store) -> None:
        specs = [a_job_spec() for _ in range(600)]
        await store.submit(specs, now_ms=20)
        seen: list[JobId] = []

        async for page in store.list_jobs(a_query(limit=600)):
            seen += [job.job_id for job in page]
            await store.submit([a_job_spec()], now_ms=20)
            await store.submit([a_job_spec()], now_ms=30)
            await store.kill_jobs(seen[-1:])

        assert seen == [spec.job_id for spec in specs[::-1]]

    async def test_a_list_can_be_filtered_by_outcome(self, store: Store) -> None:
        specs = {
            name: await submit_job(store, name=name) for name in ("waiting", "running", "success", "failed")
        }
        await launch_job(store, specs["running"])
        await report_update(store, await launch_job(store, specs["success"]), TaskState.FINISHED)
        await store.kill_jobs([specs["failed"].job_id])

        for outcomes in ({"waiting"}, {"running", "failed"}, {"success"}, set(specs), set[str]()):
            listed = await listed_jobs(store, a_query(outcomes=frozenset(outcomes)))
            assert {job.spec.name for job in listed} == outcomes

    @pytest.mark.parametrize(
        ("glob", "matching_names"),
        [
            ("sweep*", {"sweep", "sweep.1", "sweep-1"}),
            ("sweep.*", {"sweep.1"}),
            ("*1", {"sweep.1", "sweep-1"}),
            ("Sweep", set()),
            ("", {""}),
            ("*", {"sweep", "sweep.1", "sweep-1", "", "[a]?"}),
            ("[a]?", {"[a]?"}),
            ("s*e*p", {"sweep"}),
        ],
    )
    async def test_a_list_can_be_filtered_by_name(
        self, store: Store, glob: str, matching_names: set[str]
    ) -> None:
        for name in ("sweep", "sweep.1", "sweep-1", "", "[a]?"):
            await submit_job(store, name=name)
        listed = await listed_jobs(store, a_query(name_glob=glob))
        assert {job.spec.name for job in listed} == matching_names

    async def test_a_list_can_be_filtered_by_pool_or_by_pool_of_submission(self, store: Store) -> None:
        for name, pool, submit_pool in (("a", "gamma", None), ("b", "beta", "gamma"), ("c", "beta", None)):
            await submit_job(store, name=name, pool=pool, submit_pool=submit_pool)
        listed = await listed_jobs(store, a_query(pool="gamma"))
        assert [job.spec.name for job in listed] == ["b", "a"]

    async def test_changed_returns_the_jobs_above_a_change_number(self, store: Store) -> None:
        first, second, third = [await submit_job(store) for _ in range(3)]
        await submit_job(store, user="eve")
        cursor = (await the_job(store, second)).change
        await launch_job(store, first)

        changes = await store.changed("ada", cursor)

        assert [change.job for change in changes] == await all_jobs(store, [third, first])
        assert all(change.before is None for change in changes)
        assert list(await store.changed("ada", await store.last_change())) == []
        assert [change.job.spec for change in await store.changed("ada", 0, limit=2)] == [second, third]

    async def test_changed_can_be_filtered_by_label(self, store: Store) -> None:
        await submit_job(store)
        await submit_job(store, labels={"session": "two", 'odd "key"': "s1"})
        labelled = await submit_job(store, labels={"x": "y", "session": "s1"})
        odd = await submit_job(store, labels={'odd "key"': "%'"})

        assert await specs_changed(store, ("session", "s1")) == [labelled]
        assert await specs_changed(store, ('odd "key"', "%'")) == [odd]
        assert await specs_changed(store, ("session", "s1"), limit=0) == []

    async def test_changed_returns_a_completed_job_with_its_last_instance_and_result(
        self, store: Store
    ) -> None:
        spec = await submit_job(store, max_retries=2)
        failed = await launch_job(store, spec)
        await report_update(
            store, failed, TaskState.FAILED, reason=NON_ZERO_EXIT, result=ResultPayload(inline=b"e", size=1)
        )
        ((waiting,)) = await store.changed("ada", 0)
        ended = await launch_job(store, spec)
        await report_update(store, ended, TaskState.FINISHED, result=ResultPayload(inline=b"value", size=5))

        ((completed,)) = await store.changed("ada", 0)

        assert (waiting.instance, waiting.result) == (None, None)
        assert completed.instance is not None
        assert completed.instance.instance_id == ended.instance_id
        assert completed.result == ResultPayload(inline=b"value", size=5)
        assert await store.result(failed.instance_id) == ResultPayload(inline=b"e", size=1)

    async def test_an_unknown_instance_has_no_result(self, store: Store) -> None:
        assert await store.result(InstanceId("unknown")) is None

    async def test_open_jobs_are_ordered_by_seq(self, store: Store) -> None:
        waiting, running, done, killed, dying = [await submit_job(store) for _ in range(5)]
        await launch_job(store, running)
        await report_update(store, await launch_job(store, done), TaskState.FINISHED)
        open_instance = await launch_job(store, dying)
        await store.kill_jobs([killed.job_id, dying.job_id])

        assert [job.spec for job in await open_jobs(store)] == [waiting, running, dying]
        await report_update(store, open_instance, TaskState.KILLED)
        assert [job.spec for job in await open_jobs(store)] == [waiting, running]

    async def test_open_jobs_are_returned_in_batches(self, store: Store) -> None:
        specs = [a_job_spec() for _ in range(4500)]
        for start in range(0, len(specs), 1500):
            await store.submit(specs[start : start + 1500], now_ms=1)
        batches = [batch async for batch in store.open_jobs()]
        assert len(batches) > 1
        assert [job.spec.job_id for batch in batches for job in batch] == [spec.job_id for spec in specs]

    # Listeners, order, concurrency

    async def test_listeners_are_called_for_each_commit_before_the_caller_resumes(self, store: Store) -> None:
        seen = record_commits(store)
        spec = await submit_job(store)
        assert [change.job.spec for change in seen[-1]] == [spec]
        instance = await launch_job(store, spec)
        assert len(seen) == 2
        await report_update(store, instance, TaskState.FINISHED, result=ResultPayload(inline=b"r", size=1))

        change = seen[-1][0]
        assert (change.before, change.job) == (JobState.RUNNING, await the_job(store, spec))
        assert change.instance == change.job.instances[0]
        assert change.result == ResultPayload(inline=b"r", size=1)
        assert seen[0][0].before is None

    async def test_listeners_are_not_called_when_nothing_changed(self, store: Store) -> None:
        spec = await submit_job(store)
        instance = await launch_job(store, spec)
        await store.kill_jobs([spec.job_id])
        seen = record_commits(store)

        await store.kill_jobs([spec.job_id])
        await store.launch([an_instance(spec.job_id)])
        await report_update(store, instance, TaskState.RUNNING)
        await store.retry([], [], now_ms=1)
        with pytest.raises(NotFound):
            await store.kill_jobs([JobId("unknown")])

        assert seen == []

    async def test_when_a_listener_fails_the_commit_still_reaches_the_others_and_its_caller(
        self, store: Store
    ) -> None:
        store.listen(_fail)
        seen = record_commits(store)

        spec = await submit_job(store)

        assert [change.job.spec for change in seen[0]] == [spec]
        assert (await the_job(store, spec)).spec == spec

    async def test_after_a_listener_failed_every_command_is_refused_and_changes_nothing(
        self, store: Store
    ) -> None:
        store.require_in_step()
        store.listen(_fail)
        spec = await submit_job(store)
        instance = an_instance(spec.job_id)

        commands: Sequence[Callable[[], Awaitable[object]]] = (
            lambda: store.submit([a_job_spec()], now_ms=1),
            lambda: store.launch([instance]),
            lambda: store.report([an_update(instance, TaskState.RUNNING)]),
            lambda: store.progress([a_progress(instance, 1, 5, "")]),
            lambda: store.fail(
                [Failure(job_id=spec.job_id, instance_id=InstanceId("i"), reason="unknown", at_ms=1)]
            ),
            lambda: store.kill_jobs([spec.job_id]),
            lambda: store.cancel_instances([InstanceId("i")]),
            lambda: store.retry([spec.job_id], [5], now_ms=1),
            lambda: store.set_limits([a_limit()]),
            lambda: store.retract_limits("share", "ada", DEFAULT_POOL),
            lambda: store.set_text("key", "value"),
        )
        for command in commands:
            with pytest.raises(OutOfStep, match="RuntimeError: the view is too small"):
                await command()
        with pytest.raises(OutOfStep):
            store.require_in_step()
        assert [job.spec for job in await open_jobs(store)] == [spec]
        assert (await store.limits(), await store.get_text("key")) == ([], None)

    async def test_commands_queued_behind_a_commit_whose_listener_fails_are_refused(
        self, store: Store
    ) -> None:
        store.listen(_fail)
        large = [a_job_spec() for _ in range(10_000)]
        small = [a_job_spec() for _ in range(3)]

        first, *others = await asyncio.gather(
            store.submit(large, now_ms=1),
            *(store.submit([spec], now_ms=1) for spec in small),
            return_exceptions=True,
        )

        assert first == ()
        assert [type(outcome) for outcome in others] == [OutOfStep] * 3
        assert await store.jobs([spec.job_id for spec in small]) == [None] * 3
        assert len(await open_jobs(store)) == 10_000

    async def test_the_failure_of_a_listener_can_be_awaited(self, store: Store) -> None:
        watching = asyncio.ensure_future(store.wait_out_of_step())
        await submit_job(store)
        assert not watching.done()

        store.listen(_fail)
        await submit_job(store)

        async with asyncio.timeout(HANG_S):
            await watching

    async def test_a_reopened_store_has_every_commit_and_accepts_commands(
        self, harness: StoreHarness, store: Store
    ) -> None:
        store.listen(_fail)
        before = await submit_job(store)

        again = await harness.restart(store)
        after = await submit_job(again)

        again.require_in_step()
        assert [job.spec for job in await open_jobs(again)] == [before, after]
        await again.close()

    async def test_change_numbers_follow_the_order_in_which_listeners_are_called(self, store: Store) -> None:
        seen = record_commits(store)
        specs = [a_job_spec() for _ in range(20)]
        await asyncio.gather(*(store.submit([spec], now_ms=1) for spec in specs))
        await asyncio.gather(*(store.launch([an_instance(spec.job_id)]) for spec in specs))

        numbers = [change.job.change for changes in seen for change in changes]
        assert numbers == sorted(set(numbers))
        assert await store.last_change() == numbers[-1]

    async def test_commands_called_together_take_effect_in_the_order_of_the_calls(self, store: Store) -> None:
        spec = a_job_spec()
        instance = an_instance(spec.job_id)
        _, done, verdicts, kills, closed = await asyncio.gather(
            store.submit([spec], now_ms=1),
            store.launch([instance]),
            store.report([an_update(instance, TaskState.RUNNING, at_ms=5)]),
            store.kill_jobs([spec.job_id]),
            store.launch([an_instance(spec.job_id)]),
        )
        assert (len(done), list(verdicts), list(kills)) == (1, [Verdict.APPLIED], [instance.instance_id])
        assert len(closed) == 0

    async def test_a_long_command_is_not_overtaken_by_a_short_one(self, store: Store) -> None:
        seen = record_commits(store)
        specs = [a_job_spec() for _ in range(2000)]
        last = a_job_spec()
        await asyncio.gather(
            store.submit(specs, now_ms=1), store.submit([last], now_ms=1), store.kill_jobs([specs[-1].job_id])
        )
        job_ids = [change.job.spec.job_id for changes in seen for change in changes]
        assert job_ids == [*(spec.job_id for spec in specs), last.job_id, specs[-1].job_id]

    async def test_commands_called_together_succeed_or_fail_independently(self, store: Store) -> None:
        used = await submit_job(store)
        good = [a_job_spec(), a_job_spec()]
        outcomes = await asyncio.gather(
            store.submit([good[0]], now_ms=1),
            store.submit([used], now_ms=1),
            store.kill_jobs([JobId("unknown")]),
            store.submit([good[0], a_job_spec()], now_ms=1),
            store.submit([good[1]], now_ms=1),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes[1:4]] == [Conflict, NotFound, Conflict]
        assert [job.spec for job in await open_jobs(store)] == [used, *good]

    async def test_a_cancelled_caller_affects_no_other_command(self, store: Store) -> None:
        specs = [a_job_spec() for _ in range(3)]
        calls = [asyncio.create_task(store.submit([spec], now_ms=1)) for spec in specs]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.wait(calls)
        after = await submit_job(store)
        open_specs = [job.spec for job in await open_jobs(store)]
        assert open_specs[0] == specs[0]
        assert open_specs[-2:] == [specs[2], after]

    async def test_a_query_sees_every_command_that_has_returned(self, store: Store) -> None:
        for _ in range(50):
            spec = await submit_job(store)
            assert await store.jobs([spec.job_id]) != [None]
            instance = await launch_job(store, spec)
            assert await store.jobs_of_instances([instance.instance_id]) != [None]
            changes = await store.changed("ada", await store.last_change() - 1)
            assert [change.job.spec for change in changes] == [spec]

    # Restart

    async def test_a_restart_keeps_everything_and_continues_the_numbering(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        group = a_group()
        specs = [a_job_spec(group=group.group_id, max_retries=2, env={"A": "b"}) for _ in range(4)]
        await store.submit(specs, [group], now_ms=1)
        instances = [await launch_job(store, spec) for spec in specs[:3]]
        await report_update(
            store, instances[0], TaskState.FINISHED, result=ResultPayload(inline=b"r", size=1)
        )
        await report_update(store, instances[1], TaskState.LOST, reason=HEARTBEAT_LOST)
        await store.set_limits([a_limit()])
        await store.set_text("k", "v")
        before = await all_jobs(store, specs)
        last = await store.last_change()

        again = await harness.restart(store)

        assert await all_jobs(again, specs) == before
        assert [job.spec for job in await open_jobs(again)] == specs[1:]
        assert await again.result(instances[0].instance_id) == ResultPayload(inline=b"r", size=1)
        assert await again.groups([group.group_id]) == [group]
        assert list(await again.limits()) == [a_limit()]
        assert await again.get_text("k") == "v"
        assert await again.last_change() == last
        new = await submit_job(again)
        job = await the_job(again, new)
        assert job.seq > max(old.seq for old in before)
        assert job.change > last
        await again.close()

    async def test_a_new_store_is_empty(self, store: Store) -> None:
        assert await store.last_change() == 0
        assert await open_jobs(store) == []
        assert list(await store.limits()) == []

    async def test_closing_finishes_pending_commands(self, harness: StoreHarness) -> None:
        store = await harness.open()
        specs = [a_job_spec() for _ in range(100)]
        calls = [asyncio.create_task(store.submit([spec], now_ms=1)) for spec in specs]
        await asyncio.sleep(0)

        again = await harness.restart(store)

        await asyncio.gather(*calls)
        assert [job.spec for job in await open_jobs(again)] == specs
        await again.close()

    async def test_a_closed_store_refuses_to_be_used(self, store: Store) -> None:
        await store.close()
        await store.close()
        with pytest.raises(SchedulerError):
            await store.submit([a_job_spec()], now_ms=1)
        with pytest.raises(SchedulerError):
            await store.jobs([JobId("x")])


async def submit_job(store: Store, *, now_ms: int = 1000, **fields: Any) -> JobSpec:
    """Submit a job and return its spec."""
    spec = a_job_spec(**fields)
    await store.submit([spec], now_ms=now_ms)
    return spec


async def launch_job(store: Store, spec: JobSpec) -> Instance:
    """Launch a waiting job and return its instance."""
    ((_, instance),) = await store.launch([an_instance(spec.job_id)])
    return instance


async def report_update(
    store: Store, instance: Instance, state: TaskState, *, at_ms: int = 5000, **fields: Any
) -> Verdict:
    """Report one status update of an instance, and return its verdict."""
    (verdict,) = await store.report([an_update(instance, state, at_ms=at_ms, **fields)])
    return verdict


def _fail(changes: object) -> None:
    raise RuntimeError("the view is too small")


async def the_job(store: Store, spec: JobSpec) -> Job:
    (job,) = await store.jobs([spec.job_id])
    assert job is not None
    return job


async def all_jobs(store: Store, specs: Sequence[JobSpec]) -> list[Job]:
    return [await the_job(store, spec) for spec in specs]


async def open_jobs(store: Store) -> list[Job]:
    return [job async for batch in store.open_jobs() for job in batch]


async def specs_changed(store: Store, label: tuple[str, str], limit: int = 10) -> list[JobSpec]:
    return [change.job.spec for change in await store.changed("ada", 0, label=label, limit=limit)]


async def listed_jobs(store: Store, query: JobQuery) -> list[Job]:
    return [job async for page in store.list_jobs(query) for job in page]


def record_commits(store: Store) -> list[Sequence[JobChange]]:
    """Listen to a store, and return a list to which the changes of each later commit are appended."""
    seen: list[Sequence[JobChange]] = []
    store.listen(seen.append)
    return seen


def an_update(instance: Instance, state: TaskState, *, at_ms: int = 5000, **fields: Any) -> StatusUpdate:
    return StatusUpdate(instance_id=instance.instance_id, state=state, at_ms=at_ms, **fields)


def a_progress(instance: Instance, sequence: int, percent: int, message: str) -> ProgressUpdate:
    return ProgressUpdate(
        instance_id=instance.instance_id, sequence=sequence, percent=percent, message=message
    )


def a_limit(**fields: Any) -> LimitEntry:
    return LimitEntry(
        **{"kind": "share", "user": "ada", "pool": "default", "name": "cpus", "amount": 1.0, **fields}
    )


def a_query(**fields: Any) -> JobQuery:
    return JobQuery(**{"user": "ada", "outcomes": ALL_OUTCOMES, "start_ms": 0, "end_ms": 10**15, **fields})
