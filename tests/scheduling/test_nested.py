"""Jobs that wait for jobs of their own: which of them can never go on."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Quota
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.explaining.nested import QueuedChild, WaitingParent, deadlocked

HOST = ("local", "h1")


def a_host(cpus: float = 2, *, name: str = "h1", pool: PoolName = DEFAULT_POOL) -> Offer:
    return Offer(
        host=name,
        cluster="local",
        pool=pool,
        room=Resources(cpus=cpus / 2, mem_mb=4000),
        running=Resources(cpus=cpus / 2, mem_mb=96),
        attributes={"HOSTNAME": name},
    )


def a_parent(
    name: str,
    *children: str,
    cpus: float = 1,
    user: str = "ada",
    host: tuple[str, str] = HOST,
    started_ms: int = 0,
) -> WaitingParent:
    return WaitingParent(
        instance_id=InstanceId(f"i-{name}"),
        job_id=JobId(name),
        user=user,
        pool=DEFAULT_POOL,
        host=host,
        resources=Resources(cpus=cpus, mem_mb=100),
        started_ms=started_ms,
        children=frozenset(map(JobId, children)),
    )


def a_child(name: str, *, cpus: float = 1, user: str = "ada", host: str | None = None) -> QueuedChild:
    return QueuedChild(
        job_id=JobId(name),
        user=user,
        pool=DEFAULT_POOL,
        resources=Resources(cpus=cpus, mem_mb=100),
        demands=() if host is None else (("HOSTNAME", host),),
    )


def stuck(
    parents: list[WaitingParent],
    children: list[QueuedChild],
    hosts: list[Offer] | None = None,
    quota: Quota | None = None,
    *,
    preempts: bool = False,
) -> list[str]:
    actual = deadlocked(
        parents,
        {child.job_id: child for child in children},
        [a_host()] if hosts is None else hosts,
        quota_of=lambda _user, _pool: quota or Quota(),
        is_preempted=lambda _pool: preempts,
    )
    return [parent.job_id for parent in actual]


def test_as_many_parents_as_cpus_are_stuck_and_the_last_to_start_comes_first() -> None:
    parents = [a_parent("p1", "c1", started_ms=1), a_parent("p2", "c2", started_ms=2)]

    assert stuck(parents, [a_child("c1"), a_child("c2")]) == ["p2", "p1"]


def test_one_parent_less_than_cpus_is_not_stuck() -> None:
    assert stuck([a_parent("p1", "c1")], [a_child("c1")]) == []


def test_a_parent_whose_child_runs_is_not_stuck_nor_is_who_waits_for_its_room() -> None:
    parents = [a_parent("p1", "c1"), a_parent("p2", "running")]

    assert stuck(parents, [a_child("c1")]) == []


def test_a_parent_that_also_waits_for_a_running_job_is_not_stuck_yet() -> None:
    parents = [a_parent("p1", "c1"), a_parent("p2", "c2", "running")]

    assert stuck(parents, [a_child("c1"), a_child("c2")]) == []


def test_a_chain_of_parents_is_stuck_as_a_whole() -> None:
    parents = [a_parent("p1", "p2", started_ms=1), a_parent("p2", "c", started_ms=2)]

    assert stuck(parents, [a_child("c")]) == ["p2", "p1"]


def test_a_child_that_demands_a_full_host_is_stuck_beside_an_empty_one() -> None:
    hosts = [a_host(), a_host(name="h2")]
    parents = [a_parent("p1", "c1"), a_parent("p2", "c2")]

    assert stuck(parents, [a_child("c1"), a_child("c2")], hosts) == []
    assert stuck(parents, [a_child("c1", host="h1"), a_child("c2", host="h1")], hosts) == ["p2", "p1"]


def test_a_quota_that_parents_use_up_sticks_them_on_an_empty_machine() -> None:
    parents = [a_parent("p1", "c1"), a_parent("p2", "c2")]
    children = [a_child("c1"), a_child("c2")]

    assert stuck(parents, children, [a_host(64)], Quota(count=2)) == ["p2", "p1"]
    assert stuck(parents, children, [a_host(64)], Quota(count=3)) == []


@pytest.mark.parametrize(
    ("quota", "sticks"),
    [
        (Quota(cpus=3), True),
        (Quota(cpus=4), False),
        (Quota(mem_mb=250), True),
        (Quota(mem_mb=300), False),
        (Quota(gpus=1), True),
        (Quota(gpus=2), False),
        (Quota(cpus=1), False),  # too little even for the child alone, which other reasons tell
        (Quota(mem_mb=50), False),
        (Quota(gpus=0.5), False),
    ],
)
def test_parents_stick_at_a_quota_of_any_amount(quota: Quota, sticks: bool) -> None:
    resources = {"parent": Resources(cpus=1, mem_mb=100), "child": Resources(cpus=2, mem_mb=100, gpus=1)}
    parents = [replace(a_parent(f"p{number}", "c"), resources=resources["parent"]) for number in (1, 2)]
    parents[0] = replace(parents[0], resources=replace(resources["parent"], gpus=1))
    child = replace(a_child("c"), resources=resources["child"])
    host = replace(a_host(64), room=Resources(cpus=64, mem_mb=4096, gpus=9))

    assert bool(stuck(parents, [child], [host], quota)) is sticks


def test_only_tasks_of_other_users_may_be_preempted_for_a_child() -> None:
    parents = [a_parent("p1", "c1"), a_parent("p2", "c2")]

    assert stuck(parents, [a_child("c1"), a_child("c2")], preempts=True) == ["p2", "p1"]


def test_parents_of_other_users_do_not_count_against_a_quota() -> None:
    parents = [a_parent("p1", "c1"), a_parent("p2", "c2", user="bob")]
    children = [a_child("c1"), a_child("c2", user="bob")]

    assert stuck(parents, children, [a_host(64)], Quota(count=1)) == ["p2", "p1"]
    assert stuck(parents, children, [a_host(64)], Quota(count=2)) == []


def test_a_child_that_no_host_could_ever_take_is_told_elsewhere() -> None:
    assert stuck([a_parent("p1", "c1")], [a_child("c1", cpus=64)]) == []
    assert stuck([a_parent("p1", "c1")], [a_child("c1")], [a_host()], Quota(count=0)) == []


def test_where_others_may_be_preempted_for_the_child_nothing_is_certain() -> None:
    parents = [a_parent("p1", "c1"), a_parent("p2", "c2", user="bob")]
    children = [a_child("c1"), a_child("c2", user="bob")]

    assert stuck(parents, children, preempts=True) == []
    assert stuck(parents, children, preempts=False) == ["p2", "p1"]


@given(st.data())
def test_what_is_found_never_moves_however_everything_else_ends(data: st.DataObject) -> None:
    """Play the world on: whatever is not stuck ends, whatever fits starts. No stuck parent ever goes on.

    A parent that is not found goes on in some such play.
    """
    cpus = data.draw(st.integers(1, 4))
    names = count()
    parents: dict[str, list[str]] = {}
    waiting: dict[str, int] = {}
    running: dict[str, int] = {}
    for number in range(data.draw(st.integers(1, cpus))):
        parents[f"p{number}"] = []
        running[f"p{number}"] = 1
    for number in range(cpus - len(parents)):
        if data.draw(st.integers(0, 1)):
            running[f"r{number}"] = 1
    for children in parents.values():
        for _ in range(data.draw(st.integers(1, 2))):
            others = [name for name in running if name.startswith("r")]
            chosen = data.draw(st.sampled_from(["", *others]))
            if chosen:
                children.append(chosen)
            else:
                name = f"c{next(names)}"
                waiting[name] = data.draw(st.integers(1, cpus))
                children.append(name)

    actual = stuck(
        [a_parent(name, *children) for name, children in parents.items()],
        [a_child(name, cpus=requested) for name, requested in waiting.items()],
        [a_host(cpus)],
    )

    open_parents = dict(parents)
    while True:
        ended = [name for name in running if name not in open_parents]
        ended += [
            name
            for name, children in open_parents.items()
            if any(child not in running and child not in waiting for child in children)
        ]
        for name in ended:
            del running[name]
            open_parents.pop(name, None)
        free = cpus - sum(running.values())
        start = next((name for name, requested in waiting.items() if requested <= free), None)
        if start is not None:
            running[start] = waiting.pop(start)
        elif not ended:
            break
    assert set(actual) == set(open_parents)
