"""The small rules of Cook, case by case."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import InstanceId, InstanceStatus, ProgressUpdate
from cook_jupyter.model.job import Job, JobId, JobState
from cook_jupyter.model.limits import Usage
from cook_jupyter.model.reason import MAX_RUNTIME_EXCEEDED
from cook_jupyter.scheduling.explaining.user_states import (
    ALL,
    add_quota_groups,
    classify_users,
    usage_by_state,
    usage_to_report,
)
from cook_jupyter.scheduling.growth.cluster_choice import acceptable_clusters, distribute_jobs
from cook_jupyter.scheduling.limits.lingering import TimedTask, lingering_tasks
from cook_jupyter.scheduling.limits.progress_buffer import MAX_PENDING, ProgressBuffer
from cook_jupyter.scheduling.limits.queue_limit import QueueLengths
from cook_jupyter.scheduling.limits.stragglers import straggler_policy_of, stragglers
from cook_jupyter.scheduling.planned.clusters import OfferBuffer, match_interval_ms
from cook_jupyter.scheduling.planned.staged_values import staged_value, staged_value_or
from cook_jupyter.scheduling.planned.uncommitted import Submitted, to_forget
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from tests.builders import a_group, a_job, an_instance
from tests.golden.cases import cases
from tests.scheduling.queues import a_queued_job, job_id, limits, quota_with

Input = dict[str, Any]
Expect = dict[str, Any]
HOUR_MS = 3_600_000


@pytest.mark.parametrize(("inputs", "expect"), cases("maintenance"))
def test_tasks_and_jobs_are_removed_as_in_cook(inputs: Input, expect: Expect) -> None:
    actual = MAINTENANCE[inputs["op"]](inputs)
    result = dict(expect)
    for name in ("killed", "failed"):
        if name in result:
            assert sorted(result.pop(name)) == sorted(actual[name])
    if isinstance(result.get("status"), str):
        assert {actual["status"][str(task)] for task in actual["failed"]} == {result.pop("status")}
    if "contains" in result:
        assert set(result.pop("contains")) <= set(actual["ids"])
    if "not_in" in result:
        assert not set(result.pop("not_in")) & set(actual["ids"])
    if "ids" in result:
        assert sorted(result.pop("ids")) == sorted(actual["ids"])
    assert {name: actual[name] for name in result} == result


def _lingering(inputs: Input) -> Expect:
    """Tasks as they are found, then killed and failed in one step."""
    cap_ms = None if inputs.get("max_timeout_hours") is None else inputs["max_timeout_hours"] * HOUR_MS
    default_hours = inputs.get("default_timeout_hours")
    ids = lingering_tasks(
        [TimedTask(task["id"], task["start_ms"], task.get("max_runtime_ms")) for task in inputs["tasks"]],
        inputs["now_ms"],
        cap_ms=cap_ms,
        default_ms=None if default_hours is None else default_hours * HOUR_MS,
    )
    after = {task["id"]: _failed_if(task["id"] in ids, task, inputs["now_ms"]) for task in inputs["tasks"]}
    failed = {task for task, job in after.items() if job.open_instance is None}
    reasons = {after[task].instances[-1].reason for task in failed}
    return {
        "ids": ids,
        "killed": sorted(failed),
        "failed": sorted(failed),
        "status": {str(task): job.instances[-1].status.value for task, job in after.items()},
        "reason": next(iter(reasons), None),
        "reasons": {str(task): after[task].instances[-1].reason for task in failed},
    }


def _failed_if(lingers: bool, task: Input, now_ms: int) -> Job:
    instance = an_instance(status=InstanceStatus.RUNNING, started_ms=task["start_ms"])
    job = a_job(state=JobState.RUNNING, instances=(instance,))
    if not lingers:
        return job
    return lifecycle.fail(job, instance.instance_id, reason=MAX_RUNTIME_EXCEEDED, at_ms=now_ms)


def _stragglers(inputs: Input) -> Expect:
    now_ms = 1_000_000_000
    policy = inputs["policy"]
    sent = {"type": "none"} if policy is None else {"type": policy["type"], "parameters": policy}
    jobs = [
        a_job(
            instances=tuple(
                an_instance(
                    instance_id=result.get("id", f"{number}-{place}"),
                    status=InstanceStatus(result["status"]),
                    started_ms=now_ms - 1000 * result.get("age_s", result.get("run_s", 0)),
                    ended_ms=now_ms if "run_s" in result else None,
                )
                for place, result in enumerate(instances)
            )
        )
        for number, instances in enumerate(inputs["jobs"])
    ]
    return {"ids": stragglers(straggler_policy_of(a_group(straggler_handling=sent)), jobs, now_ms)}


def _uncommitted(inputs: Input) -> Expect:
    now_ms = 1_000_000_000_000
    committed = range(inputs.get("committed", 0))
    jobs = [Submitted(JobId(f"committed-{number}"), 0, committed=True) for number in committed]
    jobs += [
        Submitted(JobId(f"uncommitted-{number}"), now_ms - hours * HOUR_MS, committed=False)
        for number, hours in enumerate(inputs["uncommitted_age_hours"])
    ]
    cutoff = inputs.get("cutoff_hours")
    gone = to_forget(jobs, now_ms, *([] if cutoff is None else [cutoff * HOUR_MS]))
    if not inputs.get("leader", True):  # the loops run on the leader alone: it alone asks what to forget
        gone = []
    return {"removed": len(gone), "left": len(jobs) - len(gone), "ids": gone}


MAINTENANCE = {
    "lingering": _lingering,
    "kill_lingering": _lingering,
    "stragglers": _stragglers,
    "clear_uncommitted": _uncommitted,
}


@pytest.mark.parametrize(("inputs", "expect"), cases("monitor"))
def test_user_satisfaction_is_as_in_cook(inputs: Input, expect: Expect) -> None:
    groups = inputs.get("quota_grouping") or {}
    pools = {task.get("pool", "pool") for task in (*inputs["running"], *inputs["waiting"])}
    pools |= groups.keys() or {"pool"}
    running, waiting = {}, {}
    for pool in sorted(pools):
        index = QueueIndex()
        for seq, (state, task) in enumerate((s, t) for s in ("running", "waiting") for t in inputs[s]):
            if task.get("pool", "pool") == pool:
                index.add(a_queued_job({"seq": seq, **task}))
                if state == "running":
                    index.mark_running(job_id(seq), seq)
        running[pool], waiting[pool] = usage_by_state(index)
    running, waiting = add_quota_groups(running, groups), add_quota_groups(waiting, groups)
    shares, quotas = _set(inputs.get("shares")), _set(inputs.get("user_quotas"))
    of_all = quotas.get("default", {})
    allowed = replace(
        limits(shares),
        quotas={user: quota_with({**of_all, **job_constraints}) for user, job_constraints in quotas.items()},
        default_quota=quota_with(of_all),
    )
    stand = {pool: classify_users(running[pool], waiting[pool], allowed) for pool in running}

    for name, value in expect.items():
        state = name.removesuffix("_per_pool")
        by_pool = {next(iter(stand)): value} if name == state else value
        assert name != state or len(stand) == 1
        for pool, result in by_pool.items():
            if state == "users":
                assert {item: stand[pool].users[item] for item in result} == result
            else:
                _check_amounts(stand[pool].states[state], result)


def _set(table: Any) -> dict[str, dict[str, float]]:
    return table if isinstance(table, dict) else {}  # else "none set"


def _check_amounts(actual: Mapping[str, Usage], result: Expect) -> None:
    """Compare amounts with the expected ones; the sum over all users only if it is expected."""
    shown = usage_to_report(actual) if ALL in result else actual
    assert shown.keys() == result.keys()
    for user, amounts in result.items():
        assert [shown[user].count, shown[user].cpus, shown[user].mem_mb] == pytest.approx(amounts), user


@pytest.mark.parametrize(("inputs", "expect"), cases("queue_limit"))
def test_waiting_jobs_are_counted_as_in_cook(inputs: Input, expect: Expect) -> None:
    lengths = QueueLengths(**(inputs.get("start") or {}))
    assert len(inputs["steps"]) == len(expect["after_each"])
    for step, result in zip(inputs["steps"], expect["after_each"], strict=True):
        assert step.keys() <= {"inc", "killed", "read"}
        if "inc" in step:
            lengths = lengths.added(*step["inc"])
        if "killed" in step:
            lengths = lengths.killed((pool, user) for pool, user in step["killed"])
        if "read" in step:  # what waits is counted again from the store; the counts since then are dropped
            lengths = QueueLengths(**(step["read"] or {}))
        assert {"pools": lengths.pools, "users": lengths.users} == result


@pytest.mark.parametrize(("inputs", "expect"), cases("progress"))
def test_progress_is_buffered_as_in_cook(inputs: Input, expect: Expect) -> None:
    gathering = ProgressBuffer(
        max_pending=inputs.get("pending_threshold", MAX_PENDING),
        pending={name: _update(name, result) for name, result in (inputs.get("state") or {}).items()},
        last=inputs.get("last_sequence"),
    )
    messages = inputs["messages"] if "messages" in inputs else [[inputs["instance"], inputs["message"]]]
    for name, result in messages:
        gathering.note(
            name, result.get("sequence"), percent=result.get("percent"), message=result.get("message")
        )
    if "state" in expect:
        assert _as_json(gathering.pending.values()) == expect["state"]
    if "last_sequence" in expect:
        assert gathering.last == expect["last_sequence"]
    for result in expect.get("published", ()):
        assert _as_json(update for batch in gathering.drain() for update in batch) == result


def _update(name: str, result: Input) -> ProgressUpdate:
    return ProgressUpdate(instance_id=InstanceId(name), **result)


def _as_json(updates: Iterable[ProgressUpdate]) -> Expect:
    return {
        item.instance_id: {"message": item.message, "percent": item.percent, "sequence": item.sequence}
        for item in updates
    }


@pytest.mark.parametrize(("inputs", "expect"), cases("incremental"))
def test_the_staged_value_of_a_job_is_as_in_cook(inputs: Input, expect: Expect) -> None:
    result = inputs.get("values")
    values = [(item["value"], item["portion"]) for item in result] if isinstance(result, list) else result
    value, is_picked = staged_value_or(inputs["job"], values, inputs.get("fallback"))
    if is_picked and isinstance(values, list):
        assert staged_value(inputs["job"], values) == value
    if "value" in expect:
        assert value == expect["value"]
    if "not_in" in expect:
        assert value not in expect["not_in"]
    for word in ("fallback_used", "used_fallback", "fallback"):
        if word in expect:
            assert (not is_picked) is expect[word]
    if "picked" in expect:
        assert is_picked is expect["picked"]


@pytest.mark.parametrize(("inputs", "expect"), cases("clusters"))
def test_jobs_and_offers_are_exchanged_with_clusters_as_in_cook(inputs: Input, expect: Expect) -> None:
    actual = CLUSTERS[inputs["op"]](inputs)
    result = dict(expect)
    if "clusters" in result:
        assert sorted(result.pop("clusters")) == sorted(actual["clusters"])
    if "not_in" in result:
        assert not set(result.pop("not_in")) & set(actual["clusters"])
    assert {name: actual[name] for name in result} == result


def _acceptable(inputs: Input) -> Expect:
    return {"clusters": acceptable_clusters(_that_ran(inputs["job"]), inputs["clusters"])}


def _distributed(inputs: Input) -> Expect:
    jobs = [_that_ran(inputs.get("job", {})) for _ in inputs["jobs"]]
    names = {job.job_id: name for job, name in zip(jobs, inputs["jobs"], strict=True)}
    sent = distribute_jobs(jobs, inputs["clusters"], inputs.get("capacity"))
    assignment = {cluster: [names[job] for job in some] for cluster, some in sent.items()}
    return {"assignment": assignment, "assigned_count": sum(len(some) for some in sent.values())}


def _that_ran(job: Input) -> Job:
    return a_job(
        extra={"checkpoint": {"mode": "auto"}} if job.get("checkpoint") else {},
        instances=tuple(
            an_instance(
                status=InstanceStatus.FAILED, cluster=result["cluster"], started_ms=result["start_ms"]
            )
            for result in job.get("instances", ())
        ),
    )


def _match_interval(inputs: Input) -> Expect:
    pools = inputs["pools"] if isinstance(inputs["pools"], int) else len(inputs["pools"])
    interval = match_interval_ms(
        pools, target_per_pool_ms=inputs["target_per_pool_ms"], min_ms=inputs["global_min_ms"]
    )
    return {"interval_ms": interval}


def _receive_offers(inputs: Input) -> Expect:
    buffer: OfferBuffer[str] = OfferBuffer(inputs["buffer"])
    taken = [buffer.add(batch) for batch in inputs["batches"]]
    refused = [batch for batch, was_taken in zip(inputs["batches"], taken, strict=True) if not was_taken]
    return {
        "declined": [offer for batch in refused for offer in batch],
        "match_triggers": sum(taken),
        "accepted": buffer.drain(),
    }


CLUSTERS = {
    "acceptable": _acceptable,
    "distribute": _distributed,
    "match_interval": _match_interval,
    "receive_offers": _receive_offers,
}
