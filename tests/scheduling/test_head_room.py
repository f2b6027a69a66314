"""Room for the head of the queue: where it is kept, what may start beside it, and what comes before it."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Share, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import ConstraintClass
from cook_jupyter.scheduling.limits.run_times import UNKNOWN_RUN_TIME, RunTime
from cook_jupyter.scheduling.matching.head_room import (
    NOTHING,
    HeadOfQueue,
    HostAmounts,
    HostState,
    RunningTask,
    amounts_of,
    amounts_requested,
    choose_host,
    ends_in_time,
    gives_way,
    holds_more_than_share,
    is_within_limit,
    room_beside,
    sum_of,
    update_awaited,
    whole_of,
    with_task,
    without_kept,
)
from cook_jupyter.scheduling.queue.counted_values import CountedValues
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.builders import a_job_spec

NOW = 1000


def cpus(number: float) -> HostAmounts:
    return HostAmounts(cpus=number)


def a_head(number: float = 2, **fields: Any) -> HeadOfQueue:
    return HeadOfQueue(**{"job_id": "j", "user": "bob", "asked": cpus(number), "since_ms": NOW, **fields})


def a_task(
    job_id: str, number: float = 1, *, started_ms: int = 0, expected_ms: int | None = None
) -> RunningTask:
    return RunningTask(JobId(job_id), started_ms, cpus(number), expected_ms)


def a_host(host: str, number: float, *tasks: RunningTask, **fields: Any) -> HostState:
    return HostState(host=host, whole=cpus(number), tasks=tasks, **fields)


# --- choosing a host


def test_room_is_kept_on_the_host_where_it_is_available_first() -> None:
    late = a_host("a", 2, a_task("t1", expected_ms=1500), a_task("t2", expected_ms=9000))
    soon = a_host("b", 2, a_task("t3", expected_ms=3000), a_task("t4", expected_ms=2500))

    chosen = choose_host(a_head(), [late, soon], NOW)

    assert chosen is not None
    assert (chosen.host, chosen.free_at_ms) == ("b", 3000)
    assert chosen.awaited == {("t3", 0), ("t4", 0)}


def test_no_more_tasks_are_awaited_than_necessary() -> None:
    host = a_host("a", 4, a_task("t1", 2, expected_ms=9000), a_task("t2", 2, expected_ms=3000))

    chosen = choose_host(a_head(), [host], NOW)

    assert chosen is not None
    assert chosen.awaited == {("t2", 0)}


def test_without_known_run_times_the_expected_time_is_unknown() -> None:
    chosen = choose_host(a_head(), [a_host("a", 2, a_task("t1"), a_task("t2", expected_ms=5000))], NOW)

    assert chosen is not None
    assert chosen.free_at_ms is None


@pytest.mark.parametrize("expected_ms", [500, NOW])
def test_a_task_past_its_expected_run_time_counts_as_one_of_unknown_run_time(expected_ms: int) -> None:
    overdue = a_host("a", 2, a_task("t1", expected_ms=expected_ms), a_task("t2", expected_ms=2000))
    in_time = a_host("b", 2, a_task("t3", expected_ms=1900), a_task("t4", expected_ms=1800))

    chosen = choose_host(a_head(), [overdue, in_time], NOW)

    assert chosen is not None
    assert (chosen.host, chosen.free_at_ms) == ("b", 1900)
    alone = choose_host(a_head(), [overdue], NOW)
    assert alone is not None
    assert alone.free_at_ms is None


def test_a_task_of_unknown_run_time_is_expected_to_run_for_the_average_age_of_such_tasks() -> None:
    hosts = [
        a_host("a", 2, a_task("t1")),
        a_host("b", 2, a_task("t2", expected_ms=2500)),
        a_host("c", 2, a_task("t3", started_ms=NOW)),  # until 1500
    ]

    chosen = choose_host(a_head(), hosts, NOW)

    assert chosen is not None
    assert chosen.host == "c"


def test_ties_between_hosts_are_broken_by_the_number_of_awaited_tasks_and_then_by_name() -> None:
    two = a_host("a", 2, a_task("t1", expected_ms=3000), a_task("t2", expected_ms=3000))
    one = a_host("b", 2, a_task("t3", 2, expected_ms=3000))
    same = a_host("c", 2, a_task("t4", 2, expected_ms=3000))

    chosen = choose_host(a_head(), [same, two, one], NOW)

    assert chosen is not None
    assert chosen.host == "b"


def test_no_room_is_kept_for_a_job_that_fits_no_empty_host() -> None:
    assert choose_host(a_head(4), [a_host("a", 2, a_task("t1"))], NOW) is None


def test_tasks_that_started_later_are_never_awaited() -> None:
    later = a_host("a", 2, a_task("t1", started_ms=NOW + 1, expected_ms=1), a_task("t2"))
    earlier = a_host("b", 2, a_task("t3"), a_task("t4"))

    chosen = choose_host(a_head(), [later, earlier], NOW + 2)

    assert chosen is not None
    assert chosen.host == "b"
    assert choose_host(a_head(), [later], NOW + 2) is None


def test_tasks_that_were_launched_out_of_order_are_awaited_too() -> None:
    ahead = a_host("a", 2, *(a_task(f"t{number}") for number in range(10)))

    chosen = choose_host(a_head(), [ahead], NOW)

    assert chosen is not None
    assert len(chosen.awaited) == 10
    assert room_beside(chosen, ahead).cpus == 0


def test_a_node_that_assigns_all_its_gpus_to_one_task_is_kept_as_a_whole() -> None:
    node = a_host("a", 8, a_task("t1"), a_task("t2"), exclusive=True)

    chosen = choose_host(a_head(1), [node], NOW)

    assert chosen is not None
    assert chosen.awaited == {("t1", 0), ("t2", 0)}
    assert max(room_beside(chosen, node)) <= 0


# --- from cycle to cycle


def test_the_tasks_that_end_first_make_room() -> None:
    host = a_host("a", 4, a_task("t1", 2, expected_ms=9000), a_task("t2", 2, expected_ms=3000))
    chosen = choose_host(a_head(), [host], NOW)
    assert chosen is not None

    again = update_awaited(chosen, replace(host, tasks=host.tasks[1:]), NOW)  # t1 was earlier than expected

    assert again is not None
    assert again.awaited == frozenset()
    assert again.free_at_ms == NOW


def test_the_expected_time_does_not_change_without_new_run_times() -> None:
    chosen = choose_host(a_head(), [a_host("a", 2, a_task("t1", 2, expected_ms=3000))], NOW)
    assert chosen is not None

    again = update_awaited(chosen, a_host("a", 2, a_task("t1", 2)), NOW)

    assert again is not None
    assert again.free_at_ms == 3000


def test_the_expected_time_only_becomes_earlier() -> None:
    host = a_host("a", 2, a_task("t1", 2, expected_ms=3000))
    chosen = choose_host(a_head(), [host], NOW)
    assert chosen is not None

    lent = replace(chosen, lent=frozenset({(JobId("t2"), NOW)}))
    overlong = a_host("a", 2, a_task("t2", 2, started_ms=NOW, expected_ms=8000))
    again = update_awaited(lent, overlong, NOW + 1)

    assert again is not None
    assert again.free_at_ms == 3000


def test_another_host_is_chosen_when_later_tasks_block_the_room() -> None:
    chosen = choose_host(a_head(), [a_host("a", 2, a_task("t1", 2))], NOW)
    assert chosen is not None

    assert update_awaited(chosen, a_host("a", 2, a_task("new", 1, started_ms=NOW + 1)), NOW + 2) is None


# --- beside the head


def test_other_jobs_may_use_the_room_beside_the_head_and_the_remaining_tasks() -> None:
    host = a_host("a", 8, a_task("t1", 2, expected_ms=9000), a_task("t2", 5, expected_ms=3000))
    chosen = choose_host(a_head(3), [host], NOW)
    assert chosen is not None

    assert room_beside(chosen, host).cpus == 3  # 8 less 3 of the head and 2 that stay


def test_what_no_task_holds_and_nobody_was_promised_is_free() -> None:
    tasks = (a_task("t1", 1), a_task("t2", 2))

    assert a_host("a", 8, *tasks, promised=cpus(3)).free == cpus(2)
    assert a_host("a", 8).free == cpus(8)


def test_nothing_starts_beside_a_head_that_needs_a_whole_node() -> None:
    head = a_head(exclusive=True, awaited=frozenset({("t1", 0)}))

    assert room_beside(head, a_host("a", 8, a_task("t1"))) == HostAmounts()
    assert room_beside(head, a_host("a", 8, a_task("t1"), a_task("t2"))).is_negative


def test_every_resource_is_kept_beside_promised_room_and_remaining_tasks() -> None:
    amounts = HostAmounts(cpus=16, mem_mb=160, gpus=8, ports=32, tasks=64)
    head = a_head(asked=HostAmounts(cpus=1, mem_mb=10, gpus=2, ports=3, tasks=1))
    promised = HostAmounts(cpus=2, mem_mb=20, gpus=1, ports=5, tasks=7)
    staying = RunningTask(JobId("t1"), NOW + 1, HostAmounts(cpus=3, mem_mb=30, gpus=1, ports=11, tasks=1))
    host = HostState(host="a", whole=amounts, tasks=[staying], promised=promised)

    assert room_beside(head, host) == HostAmounts(cpus=10, mem_mb=100, gpus=4, ports=13, tasks=55)


@pytest.mark.parametrize(
    ("run_time", "fits"),
    [
        (RunTime(expected_ms=2000), True),
        (RunTime(expected_ms=2001), False),
        (RunTime(longest_ms=2000), True),
        (RunTime(expected_ms=9000, longest_ms=100), True),
        (RunTime(group=GroupId("g")), True),
        (RunTime(group=GroupId("other")), False),
        (UNKNOWN_RUN_TIME, False),
    ],
)
def test_only_jobs_that_end_in_time_may_use_kept_room(run_time: RunTime, fits: bool) -> None:
    head = a_head(host="a", free_at_ms=NOW + 2000)

    assert ends_in_time(head, run_time, {"g": 1500}.get, NOW) is fits
    assert not ends_in_time(replace(head, free_at_ms=None), run_time, {"g": 1500}.get, NOW)


def test_kept_room_is_subtracted_from_an_offer_for_each_resource() -> None:
    offer = Offer(
        host="a",
        cluster="c",
        pool=PoolName("p"),
        room=Resources(cpus=3, mem_mb=100, gpus=1),
        running=Resources(cpus=5),
        ports=((10, 11), (20, 29)),
    )

    left = without_kept(offer, HostAmounts(1, -5, 2, 3, inf), HostAmounts(8, 200, 1, 12, inf))

    assert left.room == Resources(cpus=1, mem_mb=0, gpus=1)
    assert left.room + left.running == offer.room + offer.running
    assert left.ports == ((10, 11), (20, 20))
    left = without_kept(offer, HostAmounts(1, 5, 2, 2, inf), HostAmounts(8, 200, 1, 12, inf))
    assert left.room == Resources(cpus=1, mem_mb=5, gpus=1)
    assert left.ports == ((10, 11),)


@pytest.mark.parametrize(("kind", "gpus"), [(HostKind.PLAIN, 2.0), (HostKind.MESOS, 3.0)])
def test_an_offer_loses_what_a_new_task_takes(kind: HostKind, gpus: float) -> None:
    offer = Offer(
        host="a",
        cluster="c",
        pool=PoolName("p"),
        room=Resources(cpus=3, mem_mb=100, gpus=3),
        running=Resources(cpus=5),
        ports=((10, 12), (20, 20)),
        kind=kind,
        task_count=7,
    )
    request = TaskRequest(JobId("j"), 1.0, 30.0, 1.0, 2)

    left = with_task(offer, request, (10, 20))

    assert left.room == Resources(cpus=2, mem_mb=70, gpus=gpus)
    assert left.room + left.running == offer.room + offer.running
    assert left.ports == ((11, 11), (12, 12))
    assert left.task_count == 8
    assert with_task(offer, request, ()).ports is offer.ports


def test_amounts_are_added_and_compared_one_by_one() -> None:
    one, other = HostAmounts(1, 20, 3, 40, 5), HostAmounts(10, 2, 30, 4, 50)

    assert one.plus(other) == HostAmounts(11, 22, 33, 44, 55)
    assert one.minus(other) == HostAmounts(-9, 18, -27, 36, -45)
    assert one.minimum(other) == HostAmounts(1, 2, 3, 4, 5)
    assert sum_of([one, other, one]) == HostAmounts(12, 42, 36, 84, 60)
    assert sum_of([]) == NOTHING
    assert HostAmounts(0.3, 0.3, 0.3).minus(HostAmounts(0.1 + 0.2, 0.1 + 0.2, 0.1 + 0.2)) == NOTHING
    assert one.fit_in(one)
    assert not NOTHING.is_negative
    for name in HostAmounts._fields:
        less = one._replace(**{name: getattr(one, name) - 1})
        assert not one.fit_in(less)
        assert less.fit_in(one)
        assert NOTHING._replace(**{name: -1.0}).is_negative


def test_amounts_of_offers_and_requests() -> None:
    offer = Offer(
        host="a",
        cluster="c",
        pool=PoolName("p"),
        room=Resources(cpus=3, mem_mb=100, gpus=2),
        running=Resources(cpus=1, mem_mb=10, gpus=1),
        ports=((10, 12), (20, 20)),
    )

    assert amounts_of(offer) == HostAmounts(3, 100, 2, 4, inf)
    assert whole_of(offer, None) == HostAmounts(4, 110, 3, 4, inf)
    assert whole_of(offer, 9) == HostAmounts(4, 110, 3, 4, 9)
    assert whole_of(replace(offer, kind=HostKind.MESOS), 9) == HostAmounts(4, 110, inf, 4, 9)
    assert amounts_requested(TaskRequest(JobId("j"), 1.0, 30.0, 2.0, 5)) == HostAmounts(1, 30, 2, 5, 1)


def test_an_offer_without_kept_room_is_the_same_value() -> None:
    offer = Offer(host="a", cluster="c", pool=PoolName("p"), room=Resources(cpus=3, mem_mb=100))

    assert without_kept(offer, HostAmounts(3, 100, 0, 0, inf), HostAmounts(4, 200, 0, 0, inf)) is offer


@pytest.mark.parametrize(
    ("tasks", "beside", "expected"), [(1, 2.0, 3), (4, 2.0, 4), (1, -1.0, 5), (1, inf, 1)]
)
def test_an_offer_counts_as_many_tasks_as_leave_what_is_kept(
    tasks: int, beside: float, expected: int
) -> None:
    offer = Offer(
        host="a", cluster="c", pool=PoolName("p"), room=Resources(cpus=3, mem_mb=100), task_count=tasks
    )
    room = HostAmounts(3, 100, 0, 0, beside)

    assert without_kept(offer, room, HostAmounts(8, 200, 0, 0, 5.0)).task_count == expected


def test_one_task_of_the_maximum_per_host_is_kept() -> None:
    offer = Offer(host="a", cluster="c", pool=PoolName("p"), room=Resources(cpus=3, mem_mb=100), task_count=1)
    head = a_head(host="a", asked=HostAmounts(1, 10, 0, 0, 1), awaited=frozenset({("t1", 0)}))
    tasks = [RunningTask(JobId("t1"), 0, HostAmounts(1, 10, 0, 0, 1))]
    state = HostState(host="a", whole=whole_of(replace(offer, kind=HostKind.PLAIN), 2), tasks=tasks)

    assert without_kept(offer, room_beside(head, state), state.whole).task_count == 1
    full = replace(state, whole=whole_of(offer, 1))
    assert without_kept(offer, room_beside(head, full), full.whole).task_count == 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.3]), st.integers(0, 2000)), max_size=8),
    st.sampled_from([0.3, 1.0, 2.0, 4.0]),
)
def test_the_head_fits_after_the_awaited_tasks_even_if_others_use_all_that_they_may(
    tasks: list[tuple[float, int]], asked: float
) -> None:
    running = [a_task(f"t{number}", held, started_ms=start) for number, (held, start) in enumerate(tasks)]
    host = a_host("a", round(sum(held for held, _ in tasks) + 0.7, 6), *running)
    head = a_head(asked)

    chosen = choose_host(head, [host], NOW)

    if chosen is None:
        later = sum(task.held.cpus for task in running if task.started_ms > NOW)
        assert asked + later > host.whole.cpus + 1e-6 or asked + later == pytest.approx(host.whole.cpus)
        return
    staying = sum(task.held.cpus for task in running if task.key not in chosen.awaited)
    others = max(0.0, room_beside(chosen, host).cpus)
    assert staying + others + asked <= host.whole.cpus + 1e-6
    assert choose_host(head, [host], NOW) == chosen, "the same input is decided the same way"


# --- for whom


def test_at_most_a_fraction_of_the_pool_is_kept_but_always_room_for_one_job() -> None:
    whole = Resources(cpus=16, mem_mb=1)
    one, other = a_head(3), a_head(1, job_id="k")

    assert is_within_limit(cpus(16), [], whole, 0.25)
    assert is_within_limit(cpus(1), [one], whole, 0.25)
    assert not is_within_limit(cpus(1), [one, other], whole, 0.25)


@pytest.mark.parametrize("amount", ["cpus", "mem_mb", "gpus"])
def test_the_limit_of_kept_room_applies_to_each_resource(amount: str) -> None:
    whole = Resources(cpus=16, mem_mb=16, gpus=16)
    head = a_head(asked=HostAmounts(**{amount: 3}))

    assert is_within_limit(HostAmounts(**{amount: 1}), [head], whole, 0.25)
    assert not is_within_limit(HostAmounts(**{amount: 2}), [head], whole, 0.25)


def pool(*jobs: QueuedJob, running: tuple[QueuedJob, ...] = ()) -> QueueIndex:
    index = QueueIndex()
    for job in (*running, *jobs):
        index.add(job)
    for job in running:
        index.mark_running(job.job_id, 0, "a")
    return index


def anybody(job_id: JobId) -> bool:
    """Let every job start."""
    return True


SHARES = UserLimits(default_share=Share(cpus=2, mem_mb=1000, gpus=1))


def test_a_user_within_share_yields_to_no_user() -> None:
    index = pool(
        QueuedJob(JobId("j"), "bob", 4, 1, 3),
        QueuedJob(JobId("k"), "eve", 1, 1, 4),
        running=(QueuedJob(JobId("r"), "bob", 2, 1, 1),),
    )
    head = a_head(asked=HostAmounts(4, 1, 0, 0, 1))

    assert gives_way(head, index, SHARES, DruMode.DEFAULT, anybody) is False


def test_a_user_past_share_yields_to_a_larger_job_that_fits_on_the_host_now() -> None:
    index = pool(
        QueuedJob(JobId("j"), "bob", 1, 1, 3),
        QueuedJob(JobId("k"), "eve", 2, 1, 4),
        running=(QueuedJob(JobId("r"), "bob", 4, 1, 1),),
    )

    def yields(free: float) -> bool:
        free_amounts = HostAmounts(cpus=free, mem_mb=100, tasks=4)
        return gives_way(head, index, SHARES, DruMode.DEFAULT, anybody, free_amounts)

    head = a_head(asked=HostAmounts(cpus=1, mem_mb=1, tasks=1))
    assert (yields(1), yields(2)) == (False, True)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({}, True),
        ({"cpus": 3.0}, True),
        ({"cpus": 4.0}, False),  # would take eve further along than bob is
        ({"constraints": ConstraintClass(attributes=(("rack", "7"),))}, False),
        ({"gpus": 1.0}, False),  # the head has none to give
        ({"user": "bob"}, False),
    ],
)
def test_a_user_past_share_yields_to_a_user_who_has_less(job: dict[str, Any], expected: bool) -> None:
    other = {"job_id": "k", "user": "eve", "cpus": 1.0, "mem_mb": 1.0, "seq": 4, **job}
    index = pool(
        QueuedJob(JobId("j"), "bob", 4, 1, 3),
        QueuedJob(**other),
        running=(QueuedJob(JobId("r"), "bob", 3, 1, 1),),
    )
    head = a_head(asked=HostAmounts(4, 1, 0, 0, 1))

    assert gives_way(head, index, SHARES, DruMode.DEFAULT, anybody) is expected


def test_a_head_does_not_yield_to_a_job_that_may_not_start() -> None:
    index = pool(
        QueuedJob(JobId("j"), "bob", 4, 1, 3),
        QueuedJob(JobId("k"), "eve", 1, 1, 4),
        running=(QueuedJob(JobId("r"), "bob", 3, 1, 1),),
    )
    head = a_head(asked=HostAmounts(4, 1, 0, 0, 1))

    assert not gives_way(head, index, SHARES, DruMode.DEFAULT, lambda job_id: job_id != "k")


@pytest.mark.parametrize(
    ("mode", "amounts", "expected"),
    [
        (DruMode.DEFAULT, (0.0, 1000.0, 0.0), True),  # as far along as bob
        (DruMode.DEFAULT, (0.0, 2001.0, 0.0), False),
        (DruMode.GPU, (0.0, 0.0, 2.0), True),
        (DruMode.GPU, (0.0, 0.0, 4.0), False),
    ],
)
def test_each_resource_counts_for_who_takes_precedence(
    mode: DruMode, amounts: tuple[float, float, float], expected: bool
) -> None:
    index = pool(
        QueuedJob(JobId("j"), "bob", 4, 1, 3),
        QueuedJob(JobId("k"), "eve", amounts[0], amounts[1], 4, gpus=amounts[2]),
        running=(
            QueuedJob(JobId("r"), "bob", 3, 1, 1, gpus=3.0),
            QueuedJob(JobId("s"), "eve", 0, 400, 2, gpus=0.5),
        ),
    )
    head = a_head(asked=HostAmounts(9, 9000, 9, 0, 1))

    assert gives_way(head, index, SHARES, mode, anybody) is expected


def test_a_users_own_jobs_do_not_take_precedence() -> None:
    index = pool(
        QueuedJob(JobId("j"), "bob", 0, 1, 3),
        running=(QueuedJob(JobId("r"), "bob", 3, 1, 1),),
    )
    head = a_head(asked=HostAmounts(4, 1, 0, 0, 1))

    assert not gives_way(head, index, SHARES, DruMode.DEFAULT, anybody)


@pytest.mark.parametrize(
    "first",
    [
        {"cpus": 5.0},
        {"cpus": 4.0},
        {"constraints": ConstraintClass(attributes=(("rack", "7"),))},
        {"job_id": "refused"},
    ],
)
def test_each_other_user_may_take_precedence(first: dict[str, Any]) -> None:
    als = {"job_id": "a", "user": "al", "cpus": 1.0, "mem_mb": 1.0, "seq": 5, **first}
    index = pool(
        QueuedJob(JobId("j"), "bob", 4, 1, 3),
        QueuedJob(JobId("k"), "eve", 1, 1, 4),
        QueuedJob(**als),
        running=(QueuedJob(JobId("r"), "bob", 3, 1, 1),),
    )
    head = a_head(asked=HostAmounts(4, 1, 0, 0, 1))

    assert gives_way(head, index, SHARES, DruMode.DEFAULT, lambda job_id: job_id != "refused")


def test_users_without_waiting_jobs_are_passed_over() -> None:
    runs = tuple(QueuedJob(JobId(user), user, 1, 1, seq) for seq, user in enumerate(("al", "cy"), 5))
    index = pool(
        QueuedJob(JobId("j"), "bob", 4, 1, 3),
        QueuedJob(JobId("k"), "eve", 1, 1, 4),
        running=(QueuedJob(JobId("r"), "bob", 3, 1, 1), *runs),
    )
    head = a_head(asked=HostAmounts(4, 1, 0, 0, 1))

    assert gives_way(head, index, SHARES, DruMode.DEFAULT, anybody)


@pytest.mark.parametrize(("cpus", "expected"), [(2.0, False), (2.5, True)])
def test_a_user_at_exactly_the_share_is_not_past_it(cpus: float, expected: bool) -> None:
    index = pool(running=(QueuedJob(JobId("r"), "bob", cpus, 1, 1),))

    assert holds_more_than_share("bob", index, SHARES, DruMode.DEFAULT) is expected


# --- run times


def test_the_run_time_is_the_one_that_the_job_states() -> None:
    assert RunTime.of(a_job_spec()) is UNKNOWN_RUN_TIME
    stated = RunTime.of(a_job_spec(expected_runtime_ms=5, max_runtime_ms=7, group="g"))
    assert stated == RunTime(expected_ms=5, longest_ms=7, group=GroupId("g"))
    assert stated.expectation_ms({"g": 6}.get) == 5
    assert RunTime(longest_ms=7).expectation_ms({"g": 6}.get) is None, "a limit is no expectation"


def test_a_run_time_is_stored_once_and_forgotten_with_its_last_job() -> None:
    table = CountedValues(UNKNOWN_RUN_TIME)
    first = table.acquire(RunTime(expected_ms=5))
    again = table.acquire(RunTime(expected_ms=5))

    assert first == again != 0
    assert table[first] == RunTime(expected_ms=5)
    table.release(first)
    assert table
    table.release(first)
    assert not table
    assert table.acquire(RunTime(group=GroupId("g"))) == first, "its number is used again"


def test_the_index_has_run_times_and_the_tasks_of_a_host() -> None:
    index = pool(running=(QueuedJob(JobId("r"), "bob", 3, 1, 1, run_time=RunTime(expected_ms=5)),))
    many = [
        QueuedJob(JobId(f"m{n}"), "bob", 1, 1, 10 + n, run_time=RunTime(group=GroupId("g")))
        for n in range(40)
    ]
    index.add_many(many)

    row = index.row_of(JobId("r"))
    assert index.run_time(row) == RunTime(expected_ms=5)
    assert index.run_time(index.row_of(JobId("m39"))) == RunTime(group=GroupId("g"))
    assert dict(index.tasks_on("a")) == {row: 0}
    assert index.waiting_before(index.row_of(JobId("m7"))) == 7
    index.remove(JobId("r"))
    assert dict(index.tasks_on("a")) == {}
    for job in many:
        index.remove(job.job_id)
    assert not index.knows_run_times
