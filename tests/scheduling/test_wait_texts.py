"""Each reason why a job waits: its sentence for users, and its data under the keys of Cook's API."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cook_jupyter.model.decisions import Refusal
from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import JobId
from cook_jupyter.model.waiting import WaitKind, WaitReason
from cook_jupyter.scheduling.explaining import wait_texts
from cook_jupyter.scheduling.explaining.wait_reasons import host_counts
from cook_jupyter.scheduling.hosts.host_health import Outage
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts
from tests.builders import an_instance

NOW_MS = 10 * 3_600_000  # ten o'clock
EXCESS = {"cpus": {"limit": 2.0, "usage": 3.0}, "mem": {"limit": 10.0, "usage": 10.5}}


def a_refusal(**refused: Mapping[str, int]) -> WaitReason | None:
    refusal = Refusal(job_id=JobId("j"), **refused)
    return wait_texts.not_placed(refusal, host_counts(refusal))


def a_head(**fields: Any) -> HeadOfQueue:
    given = {"host": "h1", "asked": HostAmounts(cpus=2, mem_mb=100), **fields}
    return HeadOfQueue(job_id=JobId("j"), user="bob", since_ms=0, **given)


def preempted(*users: str | None) -> WaitReason | None:
    return wait_texts.preempted(
        [an_instance(status=InstanceStatus.FAILED, preempted=True, preempted_for=user) for user in users]
    )


@pytest.mark.parametrize(
    ("reason", "kind", "sentence", "data"),
    [
        (wait_texts.running, WaitKind.RUNNING, "The job is running.", {}),
        (lambda: wait_texts.completed({}), WaitKind.COMPLETED, "The job has completed.", {}),
        (
            lambda: wait_texts.completed(EXCESS),
            WaitKind.COMPLETED,
            (
                "The job was ended before it began: it requests 3 cpus where no job may have more than 2 and"
                " it requests 10.5 MB of memory where no job may have more than 10."
            ),
            EXCESS,
        ),
        (
            lambda: wait_texts.retries_exhausted(1, 1),
            WaitKind.RETRIES_EXHAUSTED,
            "It has used all of its 1 attempt: raise its retries to run it.",
            {"max-retries": 1, "instance-count": 1},
        ),
        (
            lambda: wait_texts.exceeds_quota(EXCESS),
            WaitKind.EXCEEDS_QUOTA,
            (
                "It would take you to 3 cpus (your quota is 2), 10.5 MB of memory (your quota is 10):"
                " it starts when other jobs of yours have ended."
            ),
            EXCESS,
        ),
        (
            lambda: wait_texts.exceeds_share(EXCESS),
            WaitKind.EXCEEDS_SHARE,
            (
                "It would take you to 3 cpus (your share is 2), 10.5 MB of memory (your share is 10):"
                " others go first, and it may be preempted for them."
            ),
            EXCESS,
        ),
        (
            lambda: wait_texts.rate_limited(1),
            WaitKind.RATE_LIMITED,
            "You start jobs faster than your launch rate allows; 1 job waits for that.",
            {"num-ratelimited": 1},
        ),
        (
            lambda: wait_texts.deferred(("plugin", "not now")),
            WaitKind.DEFERRED,
            "The launch filter plugin holds it back: not now",
            {"plugin": "plugin", "message": "not now"},
        ),
        (
            wait_texts.under_investigation,
            WaitKind.UNDER_INVESTIGATION,
            "No cycle has looked for a host for it yet.",
            {},
        ),
        (
            lambda: wait_texts.too_large(EXCESS),
            WaitKind.TOO_LARGE,
            (
                "It can never start: it requests 3 cpus where no job may have more than 2 and it requests"
                " 10.5 MB of memory where no job may have more than 10. Request less."
            ),
            EXCESS,
        ),
        (
            lambda: wait_texts.exceeds_pool_quota(EXCESS),
            WaitKind.EXCEEDS_POOL_QUOTA,
            (
                "It would take all users of the pool to 3 cpus (their quota is 2), 10.5 MB of memory (their"
                " quota is 10): it starts when others have ended."
            ),
            EXCESS,
        ),
        (
            lambda: wait_texts.reserved("h1"),
            WaitKind.RESERVED,
            "The host h1 is kept for it: it starts there as soon as there is room.",
            {"host": "h1"},
        ),
        (
            lambda: wait_texts.at_head(a_head(), NOW_MS),
            WaitKind.AT_HEAD,
            (
                "It is at the head of the queue: room on the host h1 is being kept for it, as tasks that run"
                " there end. It starts earlier where another host has room first."
            ),
            {"host": "h1", "free-at-ms": None},
        ),
        (
            lambda: wait_texts.at_head(a_head(free_at_ms=NOW_MS + 120_000), NOW_MS),
            WaitKind.AT_HEAD,
            (
                "It is at the head of the queue: room on the host h1 is being kept for it, expected to be"
                " free in about 2 min (10:02 UTC)."
            ),
            {"host": "h1", "free-at-ms": NOW_MS + 120_000},
        ),
        (
            lambda: wait_texts.held_back(a_head(), NOW_MS),
            WaitKind.HELD_BACK,
            (
                "2 cpus and 100 MB of memory of the host h1 are kept for a job of bob at the head of the"
                " queue, until tasks that run there have ended."
            ),
            {"host": "h1", "job": "j", "user": "bob", "free-at-ms": None},
        ),
        (
            lambda: wait_texts.held_back(
                a_head(asked=HostAmounts(cpus=1, mem_mb=0.5, gpus=2), free_at_ms=NOW_MS + 60_000), NOW_MS
            ),
            WaitKind.HELD_BACK,
            (
                "1 cpu, 0.5 MB of memory and 2 gpus of the host h1 are kept for a job of bob at the head of"
                " the queue, expected to start in about 1 min (10:01 UTC); jobs that are expected to end"
                " before may start now."
            ),
            {"host": "h1", "job": "j", "user": "bob", "free-at-ms": NOW_MS + 60_000},
        ),
        (
            lambda: wait_texts.out_of_use([Outage(host="h1", until_ms=NOW_MS, not_begun=3, users=0)], NOW_MS),
            WaitKind.OUT_OF_USE,
            (
                "The host h1 is out of use: 3 jobs in a row could not be begun there."
                " It is tried again in less than a minute; the log of its agent names the cause."
            ),
            {"hosts": [{"host": "h1", "until-ms": NOW_MS}]},
        ),
        (
            lambda: wait_texts.out_of_use(
                [Outage(host=host, until_ms=NOW_MS, not_begun=0, users=3) for host in ("h1", "h2", "h3")],
                NOW_MS,
            ),
            WaitKind.OUT_OF_USE,
            (
                "The host h1 is out of use: jobs of 3 users in a row failed there at once."
                " It is tried again in less than a minute; the log of its agent names the cause."
                " So are 2 other hosts."
            ),
            {"hosts": [{"host": host, "until-ms": NOW_MS} for host in ("h1", "h2", "h3")]},
        ),
        (
            lambda: a_refusal(
                resources={"cpus": 2, "mem": 1}, constraints={"novel_host_constraint": 1, "other": 3}
            ),
            WaitKind.NOT_PLACED,
            (
                "No host takes it now: 2 hosts without enough cpus free, 1 host without enough memory free,"
                " 1 host where it failed before, 3 hosts closed by other."
            ),
            {
                "reasons": [
                    {"reason": "Not enough cpus available.", "host_count": 2},
                    {"reason": "Not enough mem available.", "host_count": 1},
                    {"reason": "Job already ran on this host.", "host_count": 1},
                    {"reason": "other", "host_count": 3},
                ]
            },
        ),
        (
            lambda: preempted("bob"),
            WaitKind.PREEMPTED,
            "It was preempted once so that bob could run; it has kept its place.",
            {"times": 1, "for": ["bob"]},
        ),
        (
            lambda: preempted(None, "bob", "ada"),
            WaitKind.PREEMPTED,
            "It was preempted 3 times so that ada and bob could run; it has kept its place.",
            {"times": 3, "for": ["ada", "bob"]},
        ),
    ],
)
def test_a_reason_has_a_sentence_for_users_and_data_for_clients(
    reason: Callable[[], WaitReason | None], kind: WaitKind, sentence: str, data: Mapping[str, Any]
) -> None:
    assert reason() == WaitReason(kind=kind, text=kind.value, sentence=sentence, data=data)


@pytest.mark.parametrize(
    "reason",
    [
        lambda: wait_texts.retries_exhausted(2, 1),
        lambda: wait_texts.exceeds_quota({}),
        lambda: wait_texts.exceeds_share({}),
        lambda: wait_texts.rate_limited(None),
        lambda: wait_texts.rate_limited(0),
        lambda: wait_texts.deferred(None),
        lambda: wait_texts.queue_position(0, [], at_least=False),
        lambda: wait_texts.too_large({}),
        lambda: wait_texts.exceeds_pool_quota({}),
        lambda: wait_texts.reserved(None),
        lambda: wait_texts.at_head(None, NOW_MS),
        lambda: wait_texts.at_head(a_head(host=None), NOW_MS),
        lambda: wait_texts.held_back(None, NOW_MS),
        lambda: wait_texts.out_of_use([], NOW_MS),
        a_refusal,
        preempted,
    ],
)
def test_what_does_not_apply_is_no_reason(reason: Callable[[], WaitReason | None]) -> None:
    assert reason() is None


@pytest.mark.parametrize(
    ("ahead", "at_least", "text", "sentence"),
    [
        (1, False, "You have 1 other jobs ahead in the queue.", "1 job of yours runs or waits before it."),
        (2, False, "You have 2 other jobs ahead in the queue.", "2 jobs of yours run or wait before it."),
        (
            100,
            True,
            "You have at least 100 other jobs ahead in the queue.",
            "At least 100 jobs of yours run or wait before it.",
        ),
    ],
)
def test_the_position_among_a_users_jobs_is_told_in_cooks_words_and_in_ours(
    ahead: int, at_least: bool, text: str, sentence: str
) -> None:
    assert wait_texts.queue_position(ahead, [JobId("a")], at_least=at_least) == WaitReason(
        kind=WaitKind.QUEUE_POSITION, text=text, data={"jobs": ["a"]}, sentence=sentence
    )


ZONE = (("zone", "mars"), ("rack", "7"))


@pytest.mark.parametrize(
    ("excess", "demands", "constraints_met", "sentence"),
    [
        (
            {"cpus": {"asked": 3.0, "largest": 2.0}, "gpus": {"asked": 1.0, "largest": 0.0}},
            (),
            True,
            (
                "It requests 3 cpus and 1 gpu; the most any host has is 2 cpus and 0 gpus."
                " It can never start here: request less."
            ),
        ),
        (
            {"cpus": {"asked": 3.0, "largest": 2.0}, "mem": {"asked": 5.0, "largest": 5.0}},
            ZONE,
            True,
            (
                "It requests 3 cpus and 5 MB of memory; the most any host that meets its constraints has is"
                " 2 cpus and 5 MB of memory. It can never start here: request less."
            ),
        ),
        (
            {"cpus": {"asked": 2.0, "largest": 2.0}, "mem": {"asked": 5.0, "largest": 5.0}},
            (),
            False,
            (
                "It requests 2 cpus and 5 MB of memory together; no single host has that."
                " It can never start here: request less."
            ),
        ),
        (
            {"cpus": {"asked": 2.0, "largest": 0.0}},
            ZONE,
            False,
            "No host has zone = mars and rack = 7: it can never start here. Change its constraints.",
        ),
    ],
)
def test_a_job_that_no_host_could_ever_take_is_told_what_to_change(
    excess: Mapping[str, Mapping[str, float]],
    demands: tuple[tuple[str, str], ...],
    constraints_met: bool,
    sentence: str,
) -> None:
    reason = wait_texts.unsatisfiable(excess, demands, constraints_met=constraints_met)
    kind = WaitKind.UNSATISFIABLE
    assert reason == WaitReason(kind=kind, text=kind.value, sentence=sentence, data=excess)


@pytest.mark.parametrize(
    ("after_ms", "text"),
    [
        (-5, "in less than a minute"),
        (59_999, "in less than a minute"),
        (60_000, "in about 1 min (10:01 UTC)"),
        (59 * 60_000, "in about 59 min (10:59 UTC)"),
        (60 * 60_000, "in about 1 h 0 min (11:00 UTC)"),
        (15 * 3_600_000 + 60_000, "in about 15 h 1 min (01:01 UTC)"),
    ],
)
def test_a_time_is_told_from_now_and_by_the_clock(after_ms: int, text: str) -> None:
    reason = wait_texts.at_head(a_head(free_at_ms=NOW_MS + after_ms), NOW_MS)
    assert reason is not None
    assert reason.sentence.endswith(f"expected to be free {text}.")


def test_a_tiny_amount_is_not_told_as_none() -> None:
    reason = wait_texts.held_back(a_head(asked=HostAmounts(cpus=0.001, mem_mb=0)), NOW_MS)
    assert reason is not None
    assert reason.sentence.startswith("0.001 cpus and 0 MB of memory of the host h1 are kept")


def test_a_second_host_out_of_use_is_told_in_the_singular() -> None:
    outages = [Outage(host=host, until_ms=NOW_MS, not_begun=3, users=0) for host in ("h1", "h2")]
    reason = wait_texts.out_of_use(outages, NOW_MS)
    assert reason is not None
    assert reason.sentence.endswith("names the cause. So is 1 other host.")


@pytest.mark.parametrize(
    ("usage", "limit", "text"),
    [
        (1.0, 0.0, "1 cpu (your quota is 0)"),
        (0.001, 0.0, "0.001 cpus (your quota is 0)"),
        (10.0, 9.0, "10 cpus (your quota is 9)"),
        (1.25, 1.0, "1.25 cpus (your quota is 1)"),
        (1.0000001, 1.0, "1 cpu (your quota is 1)"),
        (1.000001, 1.0, "1.000001 cpus (your quota is 1)"),
    ],
)
def test_amounts_are_told_without_needless_decimals(usage: float, limit: float, text: str) -> None:
    reason = wait_texts.exceeds_quota({"cpus": {"limit": limit, "usage": usage}})
    assert reason is not None
    assert reason.sentence.startswith(f"It would take you to {text}:")
