from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import Job, JobId, JobState
from cook_jupyter.model.limits import Quota, Share, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitKind
from cook_jupyter.scheduling.constraints import constraints
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.explaining import wait_texts
from cook_jupyter.scheduling.explaining.wait_reasons import (
    WAITING_LOOKED_AT,
    Position,
    WaitContext,
    exceeded,
    host_counts,
    position,
    sentences,
    unsatisfiable,
    wait_reasons,
)
from cook_jupyter.scheduling.hosts.host_health import Outage
from cook_jupyter.scheduling.matching.cycle import refusal_now
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts
from cook_jupyter.scheduling.planned.placement_failures import count_placement_failures
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from tests.builders import a_job, an_instance
from tests.golden.cases import cases, ignore
from tests.scheduling.queues import (
    a_queued_job,
    a_share,
    an_index,
    job_id,
    limits,
    quota_with,
    running_jobs,
    usage_of,
    waiting_jobs,
)

Input = dict[str, Any]


@pytest.mark.parametrize(("inputs", "expect"), cases("unscheduled", ops=["summarize"]))
def test_placement_failures_are_counted_as_in_cook(inputs: Input, expect: Input) -> None:
    result = [(failure["constraint"], failure["resources"]) for failure in inputs["failures"]]
    assert count_placement_failures(result) == expect["summary"]


@pytest.mark.parametrize(("inputs", "expect"), cases("unscheduled", ops=["exceed"]))
def test_limits_that_a_job_would_exceed_are_as_in_cook(inputs: Input, expect: Input) -> None:
    tasks = [usage_of({"count": 1, **task}) for task in (*inputs["running"], inputs["job"])]
    together = Usage(
        count=sum(task.count for task in tasks),
        cpus=sum(task.cpus for task in tasks),
        mem_mb=sum(task.mem_mb for task in tasks),
        gpus=sum(task.gpus for task in tasks),
    )
    actual, result = exceeded(together, quota_with(inputs["limits"])), expect["exceeded"]
    assert actual.keys() == result.keys()
    for name, pair in result.items():
        assert actual[name] == pytest.approx(pair, rel=1e-9)


@pytest.mark.parametrize(("inputs", "expect"), cases("unscheduled", ops=["placement_reasons"]))
def test_placement_failures_are_reported_with_resources_first(inputs: Input, expect: Input) -> None:
    refusal = _refusal(JobId("j"), inputs["last_failure"])
    actual = [] if refusal is None else [list(count) for count in host_counts(refusal)]
    assert actual == expect.get("host_counts", [])
    ignore(
        inputs, "under_investigation"
    )  # placements are worked out when asked for, so no job need be flagged
    result = wait_reasons(a_job(job_id="j"), QueueIndex(), UserLimits(), WaitContext(placement=refusal))
    assert [reason.kind for reason in result] == [
        WaitKind.NOT_PLACED if inputs["last_failure"] else WaitKind.UNDER_INVESTIGATION
    ]
    if "kinds" in expect:
        assert [reason.kind for reason in result] == [KINDS[kind] for kind in expect["kinds"]]


def _refusal(job: JobId, stored: Input | None) -> Refusal | None:
    """What was stored of the job's last failing match; None if nothing."""
    return Refusal(job_id=job, **{part: hosts or {} for part, hosts in stored.items()}) if stored else None


@pytest.mark.parametrize(("inputs", "expect"), cases("unscheduled", ops=["queue_position"]))
def test_the_position_in_the_queue_of_the_user_is_as_in_cook(inputs: Input, expect: Input) -> None:
    running = [_task(number, start_ms=number + 1) for number in range(inputs["running"])]
    waiting = [_task(number + inputs["running"]) for number in range(inputs["waiting"])]
    index = an_index([*running, *waiting])
    place = inputs["index_in_queue"]
    requested = (*running_jobs(index, "u"), *waiting_jobs(index, "u"))[-1 if place is None else place]
    stands = position(index, requested, inputs.get("waiting_looked_at", WAITING_LOOKED_AT))
    assert stands.ahead == (expect["position"] or 0)  # who is first has no position to be told of
    if expect.get("at_least") is not None:
        assert stands.at_least is expect["at_least"]
    if expect.get("ahead_listed") is not None:
        assert len(stands.jobs) == expect["ahead_listed"]


def _task(seq: int, **more: Any) -> Input:
    return {"seq": seq, "user": "u", "cpus": 1.0, "mem": 1.0, **more}


KINDS = {
    "running": WaitKind.RUNNING,
    "completed": WaitKind.COMPLETED,
    "retries_exhausted": WaitKind.RETRIES_EXHAUSTED,
    "exceeds_quota": WaitKind.EXCEEDS_QUOTA,
    "exceeds_share": WaitKind.EXCEEDS_SHARE,
    "rate_limited": WaitKind.RATE_LIMITED,
    "launch_rate_limited": WaitKind.RATE_LIMITED,
    "deferred": WaitKind.DEFERRED,
    "launch_filter": WaitKind.DEFERRED,
    "plugin": WaitKind.DEFERRED,
    "queue_position": WaitKind.QUEUE_POSITION,
    "under_investigation": WaitKind.UNDER_INVESTIGATION,
    "placement": WaitKind.NOT_PLACED,
    "not_placed": WaitKind.NOT_PLACED,
}


@pytest.mark.parametrize(("inputs", "expect"), cases("unscheduled", ops=["reasons"]))
def test_reasons_and_their_order_are_as_in_cook(inputs: Input, expect: Input) -> None:
    index = an_index([_task(seq, start_ms=seq) for seq in range(1, inputs.get("running_jobs", 0) + 1)])
    index.add(a_queued_job(_task(100)))
    names = {job_id(seq): name for seq, name in enumerate(inputs.get("running_ids", []), 1)}
    job = a_job(
        job_id=job_id(100),
        user="u",
        cpus=1.0,
        mem_mb=1.0,
        max_retries=inputs.get("max_retries", 1),
        state=JobState(inputs["job_state"]),
    )
    ignore(
        inputs, "under_investigation"
    )  # placements are worked out when asked for, so no job need be flagged
    held = inputs.get("rate_limited_jobs") or inputs.get("launch_rate_limited") or 0
    filtered = inputs.get("launch_filter")
    result = wait_reasons(
        job,
        index,
        UserLimits(
            quotas={"u": quota_with(inputs.get("user_quota") or {})},
            shares={"u": a_share(inputs.get("user_share") or {})},
        ),
        WaitContext(
            attempts=inputs.get("attempts_consumed", 0),
            held=held if inputs.get("enforce_launch_rate") else None,
            deferred=(filtered["plugin"], filtered["message"]) if filtered else None,
            placement=_refusal(job.job_id, inputs.get("last_failure")),
        ),
    )
    if "kinds" in expect:
        assert [reason.kind for reason in result] == [KINDS[kind] for kind in expect["kinds"]]
    if "not_in" in expect:  # reasons that must not be among those that are given
        assert not {reason.kind for reason in result} & {KINDS[kind] for kind in expect["not_in"]}
    if "reasons" not in expect:
        return
    for reason, expected in zip(result, expect["reasons"], strict=True):
        assert reason.kind is KINDS[expected["kind"]]
        if "max_retries" in expected:
            assert reason.data == {
                "max-retries": expected["max_retries"],
                "instance-count": expected["instance_count"],
            }
        if "exceeded" in expected:
            assert reason.data == expected["exceeded"]
        if "num_ratelimited" in expected:
            assert reason.data == {"num-ratelimited": expected["num_ratelimited"]}
        if "plugin" in expected:
            assert (reason.data["plugin"], reason.data["message"]) == (
                expected["plugin"],
                expected["message"],
            )
        if "host_counts" in expected:
            assert [result["host_count"] for result in reason.data["reasons"]] == [
                hosts for _, hosts in expected["host_counts"]
            ]
        if "ahead" in expected:
            assert [names[ahead] for ahead in reason.data["jobs"]] == expected["ahead"]
            assert f" {expected['position']} other jobs ahead" in reason.text


LAPTOP = Offer(
    host="laptop",
    cluster="local",
    pool=DEFAULT_POOL,
    room=Resources(cpus=1, mem_mb=4000),
    running=Resources(cpus=1, mem_mb=4000),
    attributes={"HOSTNAME": "laptop"},
)


NARROW, SHORT = Resources(cpus=1, mem_mb=100, gpus=1), Resources(cpus=2, mem_mb=50, gpus=1)


def a_waiting_job(**spec: Any) -> tuple[Job, QueueIndex]:
    job = a_job(**spec)
    index = QueueIndex()
    index.add(QueuedJob.of(job.spec, job.seq))
    return job, index


def why(job: Job, index: QueueIndex, allowed: UserLimits | None = None, **facts: Any) -> tuple[str, ...]:
    placement = refusal_now(index, job.job_id, [LAPTOP])
    result = WaitContext(**{"capacity": [LAPTOP], "placement": placement, **facts})
    return sentences(wait_reasons(job, index, allowed or UserLimits(), result))


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        (0, "Its pool has no hosts at present."),
        (1, "The only host of its pool takes no jobs at present; the log of the scheduler names the cause."),
        (2, "All 2 hosts of its pool take no jobs at present; the log of the scheduler names the cause."),
    ],
)
def test_a_job_waits_for_a_reason_when_no_host_takes_any(hosts: int, sentence: str) -> None:
    job, index = a_waiting_job(cpus=1, mem_mb=100)
    without_offers: dict[str, Any] = {
        "placement": refusal_now(index, job.job_id, []),
        "is_without_offers": True,
    }

    assert why(job, index, capacity=[LAPTOP] * hosts, **without_offers) == (sentence,)
    outage = Outage(host="laptop", until_ms=1000, not_begun=3, users=0)
    [other] = why(job, index, capacity=[LAPTOP] * hosts, outages=[outage], **without_offers)
    assert "out of use" in other


def test_the_reason_of_a_job_larger_than_any_host_has_the_amounts() -> None:
    job, index = a_waiting_job(cpus=64, mem_mb=100)
    assert why(job, index) == (
        "It requests 64 cpus; the most any host has is 2 cpus. It can never start here: request less.",
    )


def test_a_job_that_fits_no_single_host_has_a_reason() -> None:
    big = Offer(host="big", cluster="c", pool=PoolName("p"), room=Resources(cpus=1, mem_mb=99000))
    job, index = a_waiting_job(cpus=2, mem_mb=50000)
    result = why(job, index, capacity=[LAPTOP, big])
    assert result == (
        (
            "It requests 2 cpus and 50000 MB of memory together; no single host has that."
            " It can never start here: request less."
        ),
    )


def test_constraints_that_no_host_meets_are_named() -> None:
    job, index = a_waiting_job(constraints=(("zone", "EQUALS", "mars"),))
    assert why(job, index) == ("No host has zone = mars: it can never start here. Change its constraints.",)


@pytest.mark.parametrize(
    ("spec", "hosts", "excess"),
    [
        ({"cpus": 2, "mem_mb": 100}, [LAPTOP], None),
        ({"cpus": 3, "mem_mb": 100}, [LAPTOP], {"cpus": {"asked": 3, "largest": 2}}),
        ({"cpus": 3, "mem_mb": 9000, "gpus": 1}, [], None),
        (
            {"cpus": 3, "mem_mb": 9000, "gpus": 2},
            [LAPTOP, replace(LAPTOP, room=Resources(gpus=1), running=Resources())],
            {
                "cpus": {"asked": 3, "largest": 2},
                "mem": {"asked": 9000, "largest": 8000},
                "gpus": {"asked": 2, "largest": 1},
            },
        ),
        (
            {"cpus": 1, "mem_mb": 0.5, "gpus": 1, "constraints": (("zone", "EQUALS", "mars"),)},
            [LAPTOP],
            {
                "cpus": {"asked": 1, "largest": 0},
                "mem": {"asked": 0.5, "largest": 0},
                "gpus": {"asked": 1, "largest": 0},
            },
        ),
        (
            {"cpus": 2, "mem_mb": 100},
            [replace(LAPTOP, room=room, running=Resources()) for room in (NARROW, SHORT)],
            {"cpus": {"asked": 2, "largest": 2}, "mem": {"asked": 100, "largest": 100}},
        ),
        (
            {"cpus": 2, "mem_mb": 0.5, "gpus": 1},
            [LAPTOP, replace(LAPTOP, room=Resources(cpus=1, gpus=1), running=Resources())],
            {
                "cpus": {"asked": 2, "largest": 2},
                "mem": {"asked": 0.5, "largest": 8000},
                "gpus": {"asked": 1, "largest": 1},
            },
        ),
    ],
)
def test_what_no_host_has_is_told_beside_the_most_that_any_has(
    spec: dict[str, Any], hosts: list[Offer], excess: dict[str, Any] | None
) -> None:
    reason = unsatisfiable(a_job(**spec).spec, hosts, PoolDefaults())
    assert (None if reason is None else reason.data) == excess


def test_a_job_whose_constraints_only_some_hosts_meet_is_told_what_those_have() -> None:
    elsewhere = replace(LAPTOP, attributes={"HOSTNAME": "elsewhere"})
    job, _ = a_waiting_job(cpus=64, constraints=(("HOSTNAME", "EQUALS", "laptop"),))
    reason = unsatisfiable(job.spec, [elsewhere, LAPTOP], PoolDefaults())
    assert reason is not None
    assert "the most any host that meets its constraints has is 2 cpus" in reason.sentence


def test_resources_that_are_short_are_named() -> None:
    job, index = a_waiting_job(cpus=2, mem_mb=100)
    assert why(job, index) == ("No host takes it now: 1 host without enough cpus free.",)


def test_a_job_that_would_start_now_has_no_obstacle() -> None:
    job, index = a_waiting_job(cpus=1, mem_mb=100)
    assert why(job, index) == ()


def test_the_reason_of_a_user_at_the_quota_has_usage_and_quota() -> None:
    job, index = a_waiting_job(cpus=1, mem_mb=100)
    result = why(job, index, UserLimits(default_quota=Quota(cpus=0.5)))
    assert result == (
        "It would take you to 1 cpu (your quota is 0.5): it starts when other jobs of yours have ended.",
    )


def test_a_user_past_the_share_is_informed_that_others_come_first() -> None:
    job, index = a_waiting_job(cpus=1, mem_mb=100)
    result = why(job, index, UserLimits(default_share=Share(mem_mb=50)))
    assert result == (
        (
            "It would take you to 100 MB of memory (your share is 50): others go first, and it may be"
            " preempted for them."
        ),
    )


def test_the_head_of_the_queue_has_no_reason_that_others_come_first() -> None:
    job, index = a_waiting_job(cpus=2, mem_mb=100)
    head = HeadOfQueue(
        job_id=job.job_id, user="ada", asked=HostAmounts(cpus=2, mem_mb=100), since_ms=0, host="a17"
    )

    result = why(job, index, UserLimits(default_share=Share(cpus=1)), head=head)

    assert "It would take you to 2 cpus (your share is 1): it may be preempted for others." in result
    assert not any("go first" in sentence for sentence in result)


@pytest.mark.parametrize(
    ("cpus", "share", "amounts"),
    [
        (1, 2 / 3, "1 cpu (your share is 0.67)"),
        (1 / 3, 0.3, "0.33 cpus (your share is 0.3)"),
        (0.3334, 0.3333, "0.3334 cpus (your share is 0.3333)"),
        (2, 1.999, "2 cpus (your share is 1.999)"),
        (12345.67, 12345.66, "12345.67 cpus (your share is 12345.66)"),
    ],
)
def test_amounts_have_as_many_decimals_as_distinguish_them(cpus: float, share: float, amounts: str) -> None:
    job, index = a_waiting_job(cpus=cpus, mem_mb=100)
    result = why(job, index, UserLimits(default_share=Share(cpus=share)))
    assert any(f"to {amounts}:" in sentence for sentence in result)


def test_a_single_gpu_is_in_the_singular() -> None:
    job, index = a_waiting_job(cpus=1, mem_mb=100, gpus=1)
    assert why(job, index)[0].startswith("It requests 1 gpu; the most any host has is 0 gpus.")


def test_launch_rate_and_launch_filter_are_reasons() -> None:
    job, index = a_waiting_job()
    result = why(job, index, held=3, deferred=("maintenance", "back at noon"))
    assert result == (
        "You start jobs faster than your launch rate allows; 3 jobs wait for that.",
        "The launch filter maintenance holds it back: back at noon",
    )


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.COMPLETED])
def test_a_job_that_does_not_wait_has_a_single_reason(state: JobState) -> None:
    result = wait_reasons(a_job(state=state), QueueIndex(), limits({}), WaitContext())
    assert [reason.kind.name for reason in result] == [state.name]


def test_a_job_behind_many_others_has_a_minimum_number_of_jobs_ahead() -> None:
    index = an_index([_task(seq) for seq in range(300)])
    stands = position(index, job_id(299))
    first_ten = tuple(job_id(seq) for seq in range(10))
    assert (stands.ahead, stands.at_least, stands.jobs) == (100, True, first_ten)
    assert position(index, job_id(5)) == Position(ahead=5, at_least=False, jobs=first_ten[:5])
    assert position(index, job_id(300)) == Position(ahead=0, at_least=False, jobs=()), (
        "it is not in the queue"
    )


def test_the_reason_of_an_offensive_job_names_the_limit_even_after_its_end() -> None:
    filters = QueueFilters(max_cpus=4.0, max_mem_mb=1000.0)
    job, index = a_waiting_job(cpus=8, mem_mb=2000)
    result = why(job, index, filters=filters, capacity=[])
    assert result[0] == (
        "It can never start: it requests 8 cpus where no job may have more than 4 and it requests"
        " 2000 MB of memory where no job may have more than 1000. Request less."
    )
    ended = replace(job, state=JobState.COMPLETED, killed=True)
    for other in (replace(ended, killed=False), replace(ended, instances=(an_instance(),))):
        (normal,) = wait_reasons(other, index, UserLimits(), WaitContext(filters=filters))
        assert normal.sentence == "The job has completed.", "it was not ended for its size"
    (only,) = wait_reasons(ended, index, UserLimits(), WaitContext(filters=filters))
    assert only.kind is WaitKind.COMPLETED
    assert only.data["cpus"] == {"limit": 4.0, "usage": 8}
    assert only.sentence.startswith("The job was ended before it began: it requests 8 cpus")


def test_constraints_of_the_pool_count_for_jobs_that_no_host_could_run() -> None:
    job, index = a_waiting_job()
    result = why(job, index, defaults=PoolDefaults(constraints=(("zone", "mars"),)))
    assert result == ("No host has zone = mars: it can never start here. Change its constraints.",)


@pytest.mark.parametrize(
    "filters",
    [
        QueueFilters(pool_quota=Quota(cpus=2.5)),
        QueueFilters(group_quota=Quota(cpus=2.5), group_usage=Usage(count=9, cpus=2)),
    ],
)
def test_a_quota_of_all_users_is_a_reason(filters: QueueFilters) -> None:
    index = an_index([{"seq": seq, "user": "bob", "cpus": 1.0, "mem": 1.0, "start_ms": 1} for seq in (1, 2)])
    job = a_job(cpus=1, mem_mb=1)
    index.add(QueuedJob.of(job.spec, 3))
    result = why(job, index, filters=filters)
    assert [sentence.partition(":") for sentence in result] == [
        (
            "It would take all users of the pool to 3 cpus (their quota is 2.5)",
            ":",
            " it starts when others have ended.",
        )
    ]


def test_where_both_are_exceeded_the_quota_of_the_pool_is_told() -> None:
    job, index = a_waiting_job(cpus=2, mem_mb=1)
    filters = QueueFilters(pool_quota=Quota(cpus=1), group_quota=Quota(count=0))
    (reason,) = (
        reason
        for reason in wait_reasons(job, index, UserLimits(), WaitContext(filters=filters))
        if reason.kind is WaitKind.EXCEEDS_POOL_QUOTA
    )
    assert reason.data == {"cpus": {"limit": 1, "usage": 2}}


@pytest.mark.parametrize("amount", ["count", "cpus", "mem_mb", "gpus"])
def test_a_quota_of_any_amount_may_be_exceeded(amount: str) -> None:
    job, index = a_waiting_job(cpus=1, mem_mb=1, gpus=1)
    quotas = UserLimits(default_quota=replace(Quota(), **{amount: 0}))
    (reason,) = (
        reason
        for reason in wait_reasons(job, index, quotas, WaitContext())
        if reason.kind is WaitKind.EXCEEDS_QUOTA
    )
    assert reason.data == {amount.removesuffix("_mb"): {"limit": 0, "usage": 1}}


def test_earlier_preemptions_and_reservations_are_reasons() -> None:
    job, index = a_waiting_job()
    ran = [an_instance(status=InstanceStatus.FAILED, preempted=number < 2) for number in range(3)]
    result = why(replace(job, instances=tuple(ran)), index, reserved="laptop")
    assert result == (
        "The host laptop is kept for it: it starts there as soon as there is room.",
        "It was preempted 2 times so that users further below their share could run; it has kept its place.",
    )


def test_the_user_for_whom_a_job_was_preempted_is_named() -> None:
    job, index = a_waiting_job()
    ran = [
        an_instance(status=InstanceStatus.FAILED, preempted=True, preempted_for=user)
        for user in ("grace", "bob", "grace")
    ]
    assert why(replace(job, instances=tuple(ran)), index) == (
        "It was preempted 3 times so that bob and grace could run; it has kept its place.",
    )


def test_every_constraint_has_a_readable_text() -> None:
    names = [name for name in vars(constraints).values() if str(name).endswith("_constraint")]
    assert len(names) == 14
    refusal = Refusal(job_id=JobId("j"), constraints=dict.fromkeys(names, 1))
    result = wait_texts.not_placed(refusal, host_counts(refusal))
    assert result is not None
    assert "_constraint" not in result.sentence
