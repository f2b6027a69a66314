"""What is decided in time: reconciliation, partitions, offers, executors."""

from collections.abc import Iterable
from itertools import pairwise

import pytest

from cook_jupyter.clusters.mesos.executors import ExecutorTable
from cook_jupyter.clusters.mesos.holding import REVIVE_ALONE_S, REVIVE_SHARED_S, OfferHolding
from cook_jupyter.clusters.mesos.hosts import HostTable
from cook_jupyter.clusters.mesos.messages import AgentId, Call
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.clusters.mesos.partitions import LABEL, Partitions
from cook_jupyter.clusters.mesos.reconciliation import (
    BATCH,
    BATCH_INTERVAL_S,
    EXPLICIT_S,
    IMPLICIT_S,
    LAST_RETRY_S,
    SILENT_LAUNCH_S,
    Reconciliation,
)
from cook_jupyter.model.instance import InstanceId
from tests.builders import a_job_spec
from tests.clusters.mesos.builders import an_offer

A1 = AgentId("a1")


def ids(*names: str) -> list[InstanceId]:
    return [InstanceId(name) for name in names]


def asked(calls: Iterable[Call]) -> list[list[str]]:
    """The tasks of each RECONCILE; none for an implicit one."""
    return [[task["task_id"]["value"] for task in call["reconcile"]["tasks"]] for call in calls]


# --- reconciliation ---------------------------------------------------------------------------------------


def test_after_a_subscription_all_tasks_are_asked_about_until_they_are_answered() -> None:
    reconciliation = Reconciliation()
    open_instances = dict.fromkeys(ids("i1", "i2"), A1)

    reconciliation.begin(open_instances, 0.0)
    assert asked(reconciliation.calls(open_instances, 0.0)) == [[], ["i1", "i2"]]
    assert not reconciliation.is_answered
    reconciliation.answered(InstanceId("i1"))

    times = [
        tenth / 10
        for tenth in range(3000)
        if asked(reconciliation.calls(open_instances, tenth / 10)) == [["i2"]]
    ]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == pytest.approx(1.0)
    assert gaps[:5] == pytest.approx([2.0, 4.0, 8.0, 16.0, 32.0])
    assert max(gaps) == pytest.approx(LAST_RETRY_S)

    reconciliation.answered(InstanceId("i2"))
    assert reconciliation.is_answered


def test_the_agent_is_named_if_it_is_known() -> None:
    reconciliation = Reconciliation()
    open_instances = {InstanceId("i1"): A1, InstanceId("i2"): None}

    reconciliation.begin(open_instances, 0.0)
    _, explicit = reconciliation.calls(open_instances, 0.0)

    assert explicit["reconcile"]["tasks"] == [
        {"task_id": {"value": "i1"}, "agent_id": {"value": "a1"}},
        {"task_id": {"value": "i2"}},
    ]


def test_many_tasks_are_asked_about_in_batches() -> None:
    reconciliation = Reconciliation()
    open_instances = dict.fromkeys(ids(*(f"i{n}" for n in range(2 * BATCH + 1))), A1)

    reconciliation.begin(open_instances, 0.0)
    now_s = 0.0
    sizes: list[int] = []
    while len(sizes) < 3:
        sizes += [len(tasks) for tasks in asked(reconciliation.calls(open_instances, now_s)) if tasks]
        now_s += BATCH_INTERVAL_S

    assert sizes == [BATCH, BATCH, 1]


def test_everything_is_asked_about_now_and_then() -> None:
    reconciliation = Reconciliation()
    open_instances = dict.fromkeys(ids("i1"), A1)
    reconciliation.begin(open_instances, 0.0)
    list(reconciliation.calls(open_instances, 0.0))
    reconciliation.answered(InstanceId("i1"))

    assert asked(reconciliation.calls(open_instances, EXPLICIT_S - 1)) == []
    assert asked(reconciliation.calls(open_instances, EXPLICIT_S)) == [["i1"]]
    reconciliation.answered(InstanceId("i1"))
    assert [] in asked(reconciliation.calls(open_instances, IMPLICIT_S))


def test_a_launch_without_a_status_is_asked_about() -> None:
    reconciliation = Reconciliation()
    open_instances = dict.fromkeys(ids("i1", "i2"), A1)
    reconciliation.begin([], 0.0)
    list(reconciliation.calls(open_instances, 0.0))
    for instance_id in open_instances:
        reconciliation.launched(instance_id, 10.0)
    reconciliation.answered(InstanceId("i1"))

    assert asked(reconciliation.calls(open_instances, 9.0 + SILENT_LAUNCH_S)) == []
    assert asked(reconciliation.calls(open_instances, 10.0 + SILENT_LAUNCH_S)) == [["i2"]]


def test_what_has_ended_is_not_asked_about() -> None:
    reconciliation = Reconciliation()

    reconciliation.begin(ids("i1"), 0.0)

    assert asked(reconciliation.calls({}, 0.0)) == [[]]
    assert reconciliation.is_answered


# --- partitions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "expired_s"), [("wait", 60.0), ("rerun_now", 0.0), ("never", None)])
@pytest.mark.parametrize("is_label", [False, True])
def test_a_partition_policy_says_how_long_an_instance_is_waited_for(
    policy: str, expired_s: float | None, is_label: bool
) -> None:
    other = "never" if policy != "never" else "wait"
    options = MesosOptions(partition_policy=other if is_label else policy, partition_wait_s=60.0)  # type: ignore[arg-type]
    partitions = Partitions(options)
    spec = a_job_spec(labels={LABEL: policy} if is_label else {})

    partitions.add(InstanceId("i1"), "h1", spec, 100.0)
    partitions.add(InstanceId("i1"), "h1", spec, 150.0)  # told again

    expired = next((s for s in range(1000) if partitions.pop_expired(100.0 + s, 2)), None)
    assert expired == expired_s


def test_an_instance_that_is_back_is_not_given_up() -> None:
    partitions = Partitions(MesosOptions(partition_wait_s=60.0))
    partitions.add(InstanceId("i1"), "h1", None, 0.0)

    partitions.remove(InstanceId("i1"))

    assert partitions.pop_expired(1000.0, 2) == []


def test_nothing_is_given_up_while_many_hosts_are_unreachable() -> None:
    partitions = Partitions(MesosOptions(partition_wait_s=60.0))
    for number in range(4):
        partitions.add(InstanceId(f"i{number}"), f"h{number}", None, 0.0)

    assert partitions.pop_expired(1000.0, 13) == []
    assert len(partitions.pop_expired(1000.0, 14)) == 4


# --- offers -----------------------------------------------------------------------------------------------


def hosts_with_offers(count: int) -> HostTable:
    hosts = HostTable("mesos", pools=(), now_s=lambda: 0.0)
    for number in range(count):
        executors = ("cook-ada",) if number == 0 else ()
        hosts.add_offer(an_offer(f"o{number}", host=f"h{number}", agent=f"a{number}", executors=executors))
    return hosts


def test_a_framework_that_is_alone_keeps_all_offers() -> None:
    holding = OfferHolding(MesosOptions())
    holding.is_alone = True

    assert holding.choose_declined(list(hosts_with_offers(4)), 1e9) == []
    assert not holding.has_declined


def test_beside_other_frameworks_a_part_is_kept_and_warm_hosts_first() -> None:
    holding = OfferHolding(MesosOptions(max_held=0.5, hold_s=5.0))
    hosts = hosts_with_offers(4)

    assert holding.choose_declined(list(hosts), 4.0) == []
    declined = holding.choose_declined(list(hosts), 5.0)

    assert len(declined) == 2
    assert "o0" not in declined
    assert holding.has_declined
    assert holding.choose_declined(list(hosts), 100.0) == []  # of all hosts, not of the rest
    holding.revived(100.0)
    assert not holding.has_declined


@pytest.mark.parametrize(("is_alone", "interval_s"), [(True, REVIVE_ALONE_S), (False, REVIVE_SHARED_S)])
def test_revive_is_not_sent_too_often(is_alone: bool, interval_s: float) -> None:
    holding = OfferHolding(MesosOptions())
    holding.is_alone = is_alone

    assert holding.revive_due_s(10.0) == 0.0
    holding.revived(10.0)
    assert holding.revive_due_s(10.0) == pytest.approx(interval_s)
    assert holding.revive_due_s(10.0 + 2 * interval_s) == 0.0


# --- executors --------------------------------------------------------------------------------------------


def test_the_tasks_of_a_user_on_a_host_share_an_executor_up_to_a_number() -> None:
    table = ExecutorTable(MesosOptions(max_tasks_per_executor=2), "1.0")

    first, same, second = (table.choose("h1", "ada") for _ in range(3))

    assert first == same != second
    assert table.choose("h1", "grace") not in {first, second}
    assert table.choose("h2", "ada") not in {first, second}
    table.task_ended("h1", first)
    assert table.choose("h1", "ada") == first


def test_an_executor_that_has_ended_is_never_used_again() -> None:
    table = ExecutorTable(MesosOptions(), "1.0")
    executor_id = table.choose("h1", "ada")

    table.end("h1", executor_id)
    table.note_existing("h1", [executor_id], ["ada"])

    assert table.choose("h1", "ada") != executor_id


def test_executors_of_an_earlier_scheduler_are_used_if_they_run_the_same_code() -> None:
    options = MesosOptions()
    executor_id = ExecutorTable(options, "1.0").choose("h1", "ada")

    table = ExecutorTable(options, "1.0")
    table.note_existing("h1", [executor_id, "another-framework's"], ["ada", "grace"])
    assert table.choose("h1", "ada") == executor_id
    assert table.choose("h1", "grace") != executor_id

    for changed in (ExecutorTable(options, "1.1"), ExecutorTable(MesosOptions(kill_grace_s=9.0), "1.0")):
        changed.note_existing("h1", [executor_id], ["ada"])
        assert changed.choose("h1", "ada") != executor_id


def test_executors_of_an_earlier_scheduler_are_used_if_all_jobs_run_as_the_same_user() -> None:
    options = MesosOptions(run_as="cook")
    executor_id = ExecutorTable(options, "1.0").choose("h1", "cook")

    table = ExecutorTable(options, "1.0")
    table.note_existing("h1", [executor_id], ["ada"])

    assert table.choose("h1", "cook") == executor_id


def test_the_info_of_an_executor_never_changes() -> None:
    first, second = (ExecutorTable(MesosOptions(), "1.0") for _ in range(2))
    executor_id = first.choose("h1", "ada")

    assert first.info(executor_id, "ada", "f1") == second.info(executor_id, "ada", "f1")


@pytest.mark.parametrize("user", ["Ada Lovelace", "ada/../root", "ada@lab", ""])
def test_any_user_name_gives_an_id_that_is_a_directory(user: str) -> None:
    executor_id = ExecutorTable(MesosOptions(), "1.0").choose("h1", user)

    assert "/" not in executor_id
    assert " " not in executor_id


def test_a_package_is_fetched_and_run() -> None:
    table = ExecutorTable(MesosOptions(executor_package="https://files.example/cook.pyz"), "1.0")

    command = table.info(table.choose("h1", "ada"), "ada", "f1")["command"]

    assert command["value"].startswith("exec python3 ./cook.pyz mesos-executor")
    assert [uri["value"] for uri in command["uris"]] == ["https://files.example/cook.pyz"]
    assert command["user"] == "ada"
