"""A host on which unrelated jobs fail at once is out of use for a while."""

from typing import Any

import pytest

from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import Job
from cook_jupyter.model.reason import (
    KILLED_BY_USER,
    LAUNCH_FAILED,
    MEMORY_LIMIT_EXCEEDED,
    NON_ZERO_EXIT,
    PREEMPTED,
)
from cook_jupyter.scheduling.hosts.host_health import (
    INITIAL_PAUSE_MS,
    MAX_PAUSE_MS,
    WITHIN_MS,
    HostHealth,
    Outage,
)
from tests.builders import a_job, an_instance


def end(
    health: HostHealth, *, at_ms: int = 10_000, user: str = "ada", job: Job | None = None, **instance: Any
) -> Outage | None:
    """Note the end of a job that failed before it began, unless said otherwise."""
    job = job or a_job(user=user)
    fields = {
        "status": InstanceStatus.FAILED,
        "reason": LAUNCH_FAILED,
        "ended_ms": at_ms,
        "started_ms": at_ms - 10,
    }
    return health.ended(job, an_instance(job.job_id, **{**fields, **instance}), at_ms)


def hosts_out(health: HostHealth, now_ms: int) -> list[str]:
    return [outage.host for outage in health.outages(now_ms)]


def test_a_host_that_cannot_begin_three_jobs_in_a_row_is_out_of_use() -> None:
    health = HostHealth()

    outages = [end(health), end(health), end(health)]

    assert outages[:2] == [None, None]
    assert outages[2] == Outage(host="host-1", until_ms=10_000 + INITIAL_PAUSE_MS, not_begun=3, users=0)
    assert hosts_out(health, 10_001) == ["host-1"]
    assert hosts_out(health, 10_000 + INITIAL_PAUSE_MS) == []


def test_one_job_that_can_be_begun_nowhere_takes_no_host_out_of_use() -> None:
    health, job = HostHealth(), a_job()

    assert [end(health, job=job) for _ in range(9)] == [None] * 9


def test_a_job_that_runs_well_tells_that_its_host_is_sound() -> None:
    health = HostHealth()
    end(health)
    end(health)
    end(health, status=InstanceStatus.SUCCESS, reason=None)

    assert end(health) is None
    assert hosts_out(health, 10_001) == []


def test_a_call_that_raises_tells_that_its_host_is_sound() -> None:
    health = HostHealth()
    end(health)
    end(health)
    end(health, reason=NON_ZERO_EXIT, has_result=True)

    assert end(health) is None


def test_jobs_of_three_users_that_fail_at_once_take_their_host_out_of_use() -> None:
    health = HostHealth()

    outages = [end(health, user=user, reason=NON_ZERO_EXIT) for user in ("ada", "grace", "alan")]

    assert outages[2] is not None
    assert (outages[2].not_begun, outages[2].users) == (0, 3)


def test_a_broken_sweep_of_one_user_takes_no_host_out_of_use() -> None:
    health = HostHealth()

    assert [end(health, reason=NON_ZERO_EXIT) for _ in range(99)] == [None] * 99


def test_what_users_the_scheduler_and_time_do_to_jobs_tells_nothing_about_their_host() -> None:
    health = HostHealth()
    for user in "abcdef":
        for reason in (KILLED_BY_USER, MEMORY_LIMIT_EXCEEDED, PREEMPTED):
            assert end(health, user=user, reason=reason) is None
        assert end(health, user=user, reason=NON_ZERO_EXIT, started_ms=0) is None  # after ten seconds


def test_failures_far_apart_are_no_sign() -> None:
    health = HostHealth()

    assert [end(health, at_ms=number * (WITHIN_MS + 1)) for number in range(1, 6)] == [None] * 5


def test_a_host_that_fails_when_it_is_tried_again_pauses_twice_as_long_up_to_a_bound() -> None:
    health, now_ms = HostHealth(), 10_000
    for _ in range(2):
        end(health, at_ms=now_ms)
    pauses = []
    for _ in range(8):
        outage = end(health, at_ms=now_ms)
        assert outage is not None
        pauses.append(outage.until_ms - now_ms)
        now_ms = outage.until_ms

    assert pauses == [min(INITIAL_PAUSE_MS * 2**n, MAX_PAUSE_MS) for n in range(8)]


def test_after_one_good_job_a_host_is_as_good_as_any() -> None:
    health = HostHealth()
    for _ in range(3):
        end(health)
    end(health, at_ms=20_000, status=InstanceStatus.SUCCESS, reason=None)

    assert [end(health, at_ms=20_000), end(health, at_ms=20_000)] == [None, None]
    outage = end(health, at_ms=20_000)
    assert outage is not None
    assert outage.until_ms == 20_000 + INITIAL_PAUSE_MS


def test_hosts_are_judged_apart() -> None:
    health = HostHealth()
    for host in ("one", "two"):
        end(health, host=host)
        end(health, host=host)
    end(health, host="two")

    assert hosts_out(health, 10_001) == ["two"]


def test_failures_count_for_a_minute() -> None:
    no_fields: dict[str, Any] = {}
    own_fault: dict[str, Any] = {"reason": NON_ZERO_EXIT}
    for late_ms, is_out in ((WITHIN_MS, True), (WITHIN_MS + 1, False)):
        for fields in no_fields, own_fault:
            health = HostHealth()
            end(health, at_ms=10_000, user="ada", **fields)
            end(health, at_ms=10_000 + late_ms, user="bob", **fields)

            assert (end(health, at_ms=10_000 + late_ms, user="cyd", **fields) is not None) is is_out


def test_a_user_or_job_that_fails_again_counts_from_then_on() -> None:
    health, job = HostHealth(), a_job()
    end(health, at_ms=10_000, job=job)
    end(health, at_ms=60_000, job=job)
    end(health, at_ms=60_000)

    assert end(health, at_ms=60_000 + WITHIN_MS) is not None


@pytest.mark.parametrize(
    ("started_ms", "backend_started_ms", "is_sign"),
    [
        (9_001, None, True),
        (9_000, None, False),  # after a second
        (0, 9_001, True),
        (9_999, 9_000, False),
    ],
)
def test_a_job_fails_at_once_within_a_second_of_its_start(
    started_ms: int, backend_started_ms: int | None, is_sign: bool
) -> None:
    health = HostHealth()
    times: dict[str, Any] = {"started_ms": started_ms, "backend_started_ms": backend_started_ms}

    outages = [end(health, user=user, reason=NON_ZERO_EXIT, **times) for user in ("ada", "bob", "cyd")]

    assert (outages[-1] is not None) is is_sign


def test_failures_of_jobs_and_of_users_are_not_put_together() -> None:
    health = HostHealth()
    end(health, user="ada", reason=NON_ZERO_EXIT)
    end(health, user="bob", reason=NON_ZERO_EXIT)

    assert [end(health), end(health)] == [None, None]


def test_jobs_that_were_launched_before_an_outage_do_not_lengthen_it() -> None:
    health = HostHealth()
    for _ in range(3):
        end(health, at_ms=10_000)

    assert end(health, at_ms=10_001) is None
    assert end(health, at_ms=10_000 + INITIAL_PAUSE_MS - 1) is None
    again = end(health, at_ms=10_000 + INITIAL_PAUSE_MS)
    assert again is not None
    assert (again.until_ms, again.not_begun) == (10_000 + 3 * INITIAL_PAUSE_MS, 6)


def test_on_trial_a_job_that_cannot_be_begun_suffices_but_a_job_that_fails_at_once_does_not() -> None:
    health = HostHealth()
    for user in ("ada", "bob", "cyd"):
        end(health, user=user, at_ms=10_000, reason=NON_ZERO_EXIT)
    later_ms = 10_001 + WITHIN_MS

    assert end(health, user="dan", at_ms=later_ms, reason=NON_ZERO_EXIT) is None
    outage = end(health, at_ms=later_ms)
    assert outage is not None
    assert (outage.not_begun, outage.users) == (1, 1)


def test_a_good_job_on_a_host_without_failures_changes_nothing() -> None:
    health = HostHealth()
    end(health, host="other")

    assert end(health, status=InstanceStatus.SUCCESS, reason=None) is None
    assert hosts_out(health, 10_001) == []


@pytest.mark.parametrize(
    ("not_begun", "users", "cause"),
    [
        (3, 0, "3 jobs in a row could not be begun there"),
        (3, 3, "3 jobs in a row could not be begun there"),
        (1, 3, "jobs of 3 users in a row failed there at once"),
    ],
)
def test_the_cause_of_an_outage_is_what_more_failures_show(not_begun: int, users: int, cause: str) -> None:
    assert Outage(host="a", until_ms=1, not_begun=not_begun, users=users).cause == cause
