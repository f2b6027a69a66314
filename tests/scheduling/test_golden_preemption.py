from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from cook_jupyter.model import lifecycle
from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.instance import InstanceId, InstanceStatus
from cook_jupyter.model.job import Job, JobId, JobState
from cook_jupyter.model.limits import Quota, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.reason import PREEMPTED
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import GroupPlacement, JobConstraints, PlacementKind
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.matching.cycle import decide_matches
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.rebalancing.preemption import (
    PreemptionSettings,
    RebalanceState,
    iter_decisions,
    rebalance,
    reservations_after,
)
from tests.builders import a_job, an_instance
from tests.golden.cases import cases
from tests.scheduling.queues import a_queued_job, an_index, job_id, limits, quota_with, rank, seq_of

Input = dict[str, Any]
NOBODY_SEQ = 10**9


def _index(given: Input) -> QueueIndex:
    index = QueueIndex()
    for task in given.get("running", []):
        index.add(a_queued_job(task))
        index.mark_running(
            job_id(task["seq"]), task["start_ms"], task.get("host", ""), task_seq=task.get("task_seq", 0)
        )
    for job in _jobs(given):
        index.add(_waiting(job, given))
    return index


def _jobs(given: Input) -> list[Input]:
    return [given["job"]] if "job" in given else list(given.get("jobs", []))


def _waiting(job: Input, given: Input) -> QueuedJob:
    """A waiting job with what the case says of its earlier instances and its group."""
    queued = a_queued_job(job)
    group = job.get("group", (given.get("group") or {}).get("name"))
    earlier: list[Input] = job.get("previous_instances") or given.get("previous_instances") or []
    hosts = [(instance["host"], instance.get("preempted")) for instance in earlier]
    avoid = frozenset(host for host, preempted in hosts if not preempted)
    if group is not None or avoid:
        queued = queued._replace(job_constraints=JobConstraints(avoid=avoid, group=group))
    return queued


def _limits(given: Input) -> UserLimits:
    quotas = given.get("user_quotas") or {}
    default = quotas.get("default", {})
    return replace(
        limits(given.get("shares", {})),
        quotas={user: quota_with({**default, **job_constraints}) for user, job_constraints in quotas.items()},
        default_quota=quota_with(default) if default else Quota(),
    )


def _settings(given: Input) -> PreemptionSettings:
    return replace(
        PreemptionSettings.cook(
            safe_dru_threshold=given.get("safe_dru_threshold", 1.0),
            min_dru_diff=given.get("min_dru_diff", 0.5),
            max_preemption=int(given.get("max_preemption", 100)),
            mode=DruMode(given.get("mode", "default")),
        ),
        spare_hosts_known="host_attributes" in given,  # the case says what Cook had cached
    )


def _hosts(given: Input) -> Hosts:
    attributes = _attributes(given)
    return Hosts(
        Offer(
            host=host,
            cluster="cluster",
            pool=PoolName("pool"),
            room=_resources(room),
            attributes={"HOSTNAME": host, **attributes.get(host, {})},
            kind=HostKind.PLAIN,
        )
        for host, room in (given.get("spare") or {}).items()
    )


def _attributes(given: Input) -> dict[str, dict[str, str]]:
    return {
        host: dict(job_constraints) for host, job_constraints in (given.get("host_attributes") or {}).items()
    }


def _resources(amounts: Input) -> Resources:
    return Resources(cpus=amounts["cpus"], mem_mb=amounts["mem"], gpus=amounts.get("gpus") or 0.0)


def _placement_context(given: Input) -> PlacementContext:
    group = given.get("group")
    placements = {}
    if group is not None:
        placements[group["name"]] = GroupPlacement(
            kind=PlacementKind(group["placement"]),
            attribute=group.get("attribute", "HOSTNAME"),
            minimum=group.get("minimum", 0),
        )
    return PlacementContext(groups=placements, attributes=_attributes(given))


def _state(given: Input) -> RebalanceState:
    index = _index(given)
    tasks: dict[int, Input] = {task["seq"]: task for task in given.get("running", [])}
    already = [tasks[seq] for seq in given.get("preempted_this_cycle", []) if seq in tasks]
    # The case shows these as running still: a job of the same size and user has taken the place of each.
    heirs = [{**task, "seq": NOBODY_SEQ + number} for number, task in enumerate(already)]
    for heir in heirs:
        index.add(a_queued_job(heir))
    state = RebalanceState(
        index, _hosts(given), _limits(given), _settings(given), placement_context=_placement_context(given)
    )
    for task, heir in zip(already, heirs, strict=True):
        state.apply(
            Preemption(
                beneficiary=job_id(heir["seq"]),
                host=task["host"],
                cluster="cluster",
                victims=(job_id(task["seq"]),),
                freed=_resources(task),
            )
        )
    return state


def _same_order(state: RebalanceState, expect: Input) -> None:
    order = state.order()
    if "tasks" in expect:
        assert [seq_of(job) for job, _ in order] == expect["tasks"]
    if "drus" in expect:
        assert [dru for _, dru in order] == pytest.approx(expect["drus"], rel=1e-9)


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["order"]))
def test_running_tasks_stand_in_cooks_order(given: Input, expect: Input) -> None:
    _same_order(_state(given), expect)


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["pending_dru"]))
def test_a_waiting_job_has_cooks_score(given: Input, expect: Input) -> None:
    assert _state(given).pending_dru(job_id(given["job"]["seq"])) == pytest.approx(expect["dru"], rel=1e-9)


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["below_quota"]))
def test_below_quota_is_cooks_here_too(given: Input, expect: Input) -> None:
    assert _state(given).is_within_quota(job_id(given["job"]["seq"])) is expect["below"]


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["decide"]))
def test_a_decision_is_cooks(given: Input, expect: Input) -> None:
    decision = _state(given).decide(job_id(given["job"]["seq"]))
    if "decision" in expect and expect["decision"] is None:
        assert decision is None
        return
    assert decision is not None
    _same_decision(decision, expect.get("decision", {}))
    _same_decision(decision, expect)


def _same_decision(decision: Preemption, expect: Input) -> None:
    for word in ("not_in", "host_not_in"):
        if word in expect:
            assert decision.host not in expect[word]
    if "host" in expect:
        assert decision.host == expect["host"]
    if "host_in" in expect:
        assert decision.host in expect["host_in"]
    if "tasks" in expect:
        stopped = (*decision.victims, *decision.displaced)
        assert {seq_of(job) for job in stopped} == set(expect["tasks"])
    if "dru" in expect:
        assert decision.dru == pytest.approx(expect["dru"], rel=1e-9)
    for name, freed in (
        ("cpus", decision.freed.cpus),
        ("mem", decision.freed.mem_mb),
        ("gpus", decision.freed.gpus),
    ):
        if name in expect:
            assert freed == pytest.approx(expect[name] or 0.0, rel=1e-9)


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["advance"]))
def test_a_decision_leaves_cooks_state(given: Input, expect: Input) -> None:
    state = _state(given)
    result = given["decision"]
    state.apply(
        Preemption(
            beneficiary=job_id(given["job"]["seq"]),
            host=result["host"],
            cluster="cluster",
            victims=tuple(job_id(seq) for seq in result["tasks"]),
            freed=_resources(result),
        )
    )
    _same_order(state, expect)
    if "spare" in expect:
        assert state.spare.keys() == expect["spare"].keys()
        for host, room in expect["spare"].items():
            actual, result = state.spare[host], _resources(room)
            assert (actual.cpus, actual.mem_mb, actual.gpus) == pytest.approx(
                (result.cpus, result.mem_mb, result.gpus), rel=1e-9
            )


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["rebalance"]))
def test_a_rebalance_cycle_is_cooks(given: Input, expect: Input) -> None:
    settings = _settings(given)
    queue = [job_id(job["seq"]) for job in given["jobs"]]
    made: Sequence[Preemption] = tuple(
        islice(iter_decisions(_state(given), queue[: settings.max_preemption]), settings.max_preemption)
    )
    _same_cycle(made, given, expect)
    index = _index(given)
    if list(rank(index, _limits(given))) == queue:  # else the case gives a queue of its own making
        whole = rebalance(
            index,
            _hosts(given),
            _limits(given),
            settings=settings,
            placement_context=_placement_context(given),
        )
        assert whole.preemptions == made


def _same_cycle(made: Sequence[Preemption], given: Input, expect: Input) -> None:
    if "jobs" in expect:
        assert [seq_of(decision.beneficiary) for decision in made] == expect["jobs"]
    if "preempted" in expect:
        assert sorted(seq_of(job) for one in made for job in one.victims) == sorted(expect["preempted"])
    if "host" in expect:
        assert {decision.host for decision in made} == {expect["host"]}
    if "hosts" in expect:
        assert [decision.host for decision in made] == expect["hosts"]
    if "host_in" in expect:
        assert {decision.host for decision in made} <= set(expect["host_in"])
    if "not_in" in expect:  # tasks that must not be stopped
        assert not {seq_of(job) for one in made for job in one.victims} & set(expect["not_in"])
    launched = [job_id(seq) for seq in given.get("launched_since_last_cycle", [])]
    if "reservations" in expect:
        reserved = reservations_after(made, launched, reserve_from=2)
        assert {str(seq_of(job)): host for job, host in reserved.items()} == expect["reservations"]
    if "launched_after" in expect:
        # A cycle starts counting anew: jobs launched before it bear on no later one.
        assert expect["launched_after"] == []


Reservations = dict[JobId, str]


def _id(job: int | str) -> JobId:
    """The id of a job that a case names in any way."""
    return JobId(str(job))


def _told(decision: Input) -> Preemption:
    return Preemption(
        beneficiary=_id(decision["job"]),
        host=decision["host"],
        cluster="cluster",
        victims=tuple(map(_id, decision["tasks"])),
    )


def _reserved(
    steps: Any, reserved: Reservations, launched: set[JobId]
) -> list[tuple[Reservations, set[JobId]]]:
    """Return the reservations and the launched jobs after each step.

    A step is a rebalance cycle, given by its decisions, or a match cycle that matched or launched jobs.

    Args:
        steps: in order.
        reserved: the reservations before the first.
        launched: jobs that were launched since the last rebalance cycle before the first.
    """
    after = []
    for result in steps:
        step = result if isinstance(result, dict) else {"decisions": result}
        matched = {_id(job) for job in step.get("matched") or ()}
        reserved = _after_a_match(reserved, matched) if matched else reserved
        launched = launched | matched | {_id(job) for job in step.get("launched") or ()}
        if step.get("decisions") is None:
            reserved = {job: host for job, host in reserved.items() if job not in launched}
        else:
            reserved = reservations_after(map(_told, step["decisions"]), launched, reserve_from=2)
            launched = set()
        after.append((reserved, launched))
    return after


def _after_a_match(reserved: Reservations, matched: set[JobId]) -> Reservations:
    """What a match cycle leaves reserved when these jobs, and no others, find a host in it."""
    seqs = {name: seq for seq, name in enumerate(sorted(matched | reserved.keys()), 1)}
    index = an_index([{"seq": seqs[name], "user": "u", "cpus": 1.0, "mem": 1.0} for name in sorted(matched)])
    hosts = [
        Offer(host=host, cluster="cluster", pool=PoolName("pool"), room=Resources(cpus=99.0, mem_mb=99.0))
        for host in sorted({*reserved.values(), "free"})
    ]
    kept = {job_id(seqs[name]): host for name, host in reserved.items()}
    matching = decide_matches(
        index, hosts, UserLimits(), placement_context=PlacementContext(reservations=kept)
    )
    assert len(matching.matches) == len(matched)
    names = {job_id(seq): name for name, seq in seqs.items()}
    return {names[job]: host for job, host in matching.reservations.items()}


@pytest.mark.parametrize(
    ("given", "expect"), cases("rebalancer", ops=["reserve", "reserve_sequence", "reservations"])
)
def test_hosts_are_reserved_as_in_cook(given: Input, expect: Input) -> None:
    steps = next(
        (given[name] for name in ("steps", "cycles", "sequence", "rounds") if name in given), [given]
    )
    before = {_id(job): host for job, host in (given.get("reservations") or {}).items()}
    launched = {_id(job) for job in given.get("launched_before") or ()}
    after = _reserved(steps, before, launched)
    result = expect["reservations"] if "reservations" in expect else expect["after_each"]
    if isinstance(result, list):
        assert [reserved for reserved, _ in after] == [step.get("reservations", step) for step in result]
    else:
        assert after[-1][0] == result  # each cycle replaces what the one before reserved
    if "launched_after" in expect:
        assert after[-1][1] == {_id(job) for job in expect["launched_after"]}
    if "not_in" in expect:  # jobs for which nothing is reserved
        assert not after[-1][0].keys() & {_id(job) for job in expect["not_in"]}


@pytest.mark.parametrize(("given", "expect"), cases("rebalancer", ops=["transact"]))
def test_a_preemption_is_written_only_for_what_is_open(given: Input, expect: Input) -> None:
    jobs: dict[Any, Job] = {
        result["id"]: a_job(
            state=JobState.RUNNING,
            instances=(
                an_instance(
                    instance_id=str(result["id"]), status=InstanceStatus(result["status"]), reason=None
                ),
            ),
        )
        for result in given["instances"]
    }
    accepted = []
    for which in given["attempts"]:
        after = lifecycle.fail(jobs[which], InstanceId(str(which)), reason=PREEMPTED, at_ms=1, preempted=True)
        accepted.append(after != jobs[which])
        jobs[which] = after
    assert accepted == expect["accepted"]
    for result, taken in zip(given["attempts"], accepted, strict=True):
        if taken:
            instance = jobs[result].instances[0]
            assert (instance.status, instance.reason, instance.preempted) == (
                InstanceStatus.FAILED,
                PREEMPTED,
                True,
            )
            assert jobs[result].state is JobState.WAITING
