"""Each way in which preemption differs from Cook's, and what Cook does: both values of every setting."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cook_jupyter.errors import NotFound
from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import UNLIMITED, Quota, Share, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import PoolDefaults
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.rebalancing.preemption import (
    PreemptionSettings,
    RebalanceState,
    rebalance,
    reservations_after,
)
from tests.scheduling.preemption_snapshots import NOW_MS, SWITCHES, Snapshot
from tests.scheduling.queues import an_index, job_id, seq_of

Task = dict[str, Any]
OURS = PreemptionSettings(min_dru_diff=0.0)
COOKS = PreemptionSettings.cook(min_dru_diff=0.0)
LIMITS = UserLimits(default_share=Share(cpus=10.0, mem_mb=10.0, gpus=1.0))


def running(seq: int, user: str, host: str = "host-0", **fields: Any) -> Task:
    return waiting(seq, user, start_ms=seq, task_seq=seq, host=host, **fields)


def waiting(seq: int, user: str, **fields: Any) -> Task:
    return {"seq": seq, "user": user, "cpus": 10.0, "mem": 1.0, "gpus": 0.0, "priority": 50, **fields}


def victims(tasks: list[Task], settings: PreemptionSettings, **fields: Any) -> list[int]:
    """The seqs of what is stopped."""
    decided = Snapshot(tasks=tasks, settings=settings, **{"limits": LIMITS, **fields}).rebalance()
    return [seq_of(victim) for victim in decided.victims]


def test_no_more_victims_of_one_dru_are_preempted_than_necessary() -> None:
    tasks = [running(1, "ada"), running(2, "bob"), running(3, "cyd"), waiting(9, "dan", cpus=1.0)]

    assert victims(tasks, OURS) == [3]  # started last, so that least is lost
    assert victims(tasks, COOKS) == [1, 2, 3]


def test_a_victim_that_is_not_needed_is_spared() -> None:
    # Ada's task is the furthest along, but only bob's is large enough.
    tasks = [
        running(1, "ada", cpus=10.0, mem=40.0),
        running(2, "bob", cpus=30.0, mem=1.0),
        waiting(9, "dan", cpus=20.0),
    ]

    assert victims(tasks, OURS) == [2]
    assert victims(tasks, COOKS) == [1, 2]


def test_of_victims_that_are_not_needed_the_one_with_most_work_is_spared() -> None:
    # Eve's task is needed, with either of the other two; ada's has run for longer than bob's.
    tasks = [
        running(1, "ada", cpus=10.0, mem=50.0),
        running(8, "bob", cpus=10.0, mem=40.0),
        running(5, "eve", cpus=20.0, mem=30.0),
        waiting(9, "dan", cpus=30.0),
    ]
    by_memory = UserLimits(default_share=Share(cpus=1000.0, mem_mb=10.0))

    assert victims(tasks, OURS, limits=by_memory) == [8, 5]
    assert victims(tasks, replace(OURS, least_work_lost=False), limits=by_memory) == [1, 5]


def test_an_unknown_host_is_not_chosen_for_a_job_of_a_unique_group() -> None:
    snapshot = Snapshot(
        tasks=[waiting(9, "dan", cpus=1.0, group="apart")],
        spare={"host-0": Resources(cpus=1.0, mem_mb=1.0)},
        limits=LIMITS,
    )

    assert [made.host for made in replace(snapshot, settings=OURS).rebalance().preemptions] == ["host-0"]
    assert replace(snapshot, settings=COOKS).rebalance().preemptions == ()


def test_a_rate_limited_user_does_not_block_room_for_others() -> None:
    index = an_index([running(1, "ada", cpus=50.0), waiting(8, "dan"), waiting(9, "eve")])
    slow = QueueFilters(tokens={"dan": 0.0})

    decided = rebalance(index, Hosts(), LIMITS, settings=OURS, filters=slow)

    assert [seq_of(made.beneficiary) for made in decided.preemptions] == [9]


def test_of_equal_hosts_the_one_that_loses_least_work_is_chosen() -> None:
    tasks = [running(5, "ada", "host-0"), running(1, "bob", "host-1"), waiting(9, "dan", cpus=1.0)]

    assert victims(tasks, OURS) == [5]
    assert victims(tasks, COOKS) == [1]  # on the last host by name


@pytest.mark.parametrize("settings", [OURS, COOKS], ids=["ours", "Cook's"])
def test_among_hosts_that_lose_the_same_work_the_last_by_name_is_chosen(settings: PreemptionSettings) -> None:
    tasks = [running(seq, f"user-{seq}", f"host-{seq % 2}") | {"start_ms": 1} for seq in (1, 2)]

    assert victims([*tasks, waiting(9, "dan", cpus=1.0)], settings) == [1]


def test_gpu_pools_are_rebalanced() -> None:
    tasks = [running(1, "ada", gpus=2.0), waiting(9, "dan", gpus=1.0)]

    assert victims(tasks, replace(OURS, mode=DruMode.GPU)) == [1]
    assert victims(tasks, replace(COOKS, mode=DruMode.GPU)) == []


def test_gpus_of_victims_count_as_room() -> None:
    tasks = [running(1, "ada", cpus=20.0, gpus=2.0), waiting(9, "dan", gpus=1.0)]

    assert victims(tasks, OURS) == [1]
    assert victims(tasks, COOKS) == []


def test_gpus_of_victims_count_as_room_after_an_earlier_decision_for_the_host_too() -> None:
    tasks = [running(1, "ada", cpus=50.0, gpus=1.0), running(2, "bob", cpus=60.0)]
    tasks += [waiting(8, "dan", cpus=10.0), waiting(9, "eve", cpus=11.0, gpus=1.0)]

    assert victims(tasks, OURS) == [2, 1]
    assert victims(tasks, COOKS) == [2]


def test_attributes_of_a_host_are_known_even_if_nothing_runs_there() -> None:
    snapshot = Snapshot(
        tasks=[waiting(9, "dan", cpus=1.0, wants=(("zone", "east"),))],
        spare={"host-0": Resources(cpus=1.0, mem_mb=1.0)},
    )

    assert replace(snapshot, settings=OURS).rebalance().preemptions[0].host == "host-0"
    assert replace(snapshot, settings=COOKS).rebalance().preemptions == ()


def test_only_preempted_tasks_of_the_group_itself_are_left_out_of_its_placement() -> None:
    # Dan's first job stops ada's task on host-1; his second must keep apart from its group.
    tasks = [
        running(1, "ada", "host-1", cpus=50.0, mem=5.0),
        waiting(8, "dan", cpus=20.0),
        waiting(9, "dan", cpus=20.0, group="apart"),
    ]

    for settings, decided in ((OURS, 2), (COOKS, 1)):
        assert len(Snapshot(tasks=tasks, settings=settings, limits=LIMITS).rebalance().preemptions) == decided


def test_a_group_stays_balanced_without_its_preempted_tasks() -> None:
    # Ada's group has a task in either zone. Without that in the west, a second one may not go to the east.
    tasks = [
        running(1, "ada", "host-0", group="spread"),
        running(2, "ada", "host-2", cpus=90.0, group="spread"),
        waiting(9, "eve", cpus=20.0, group="spread"),
    ]
    dans = waiting(8, "dan", cpus=90.0)
    limits = replace(LIMITS, shares={"dan": Share(cpus=1000.0, mem_mb=1000.0)})
    spare = {"host-1": Resources(cpus=20.0, mem_mb=1.0)}

    for more, hosts in (([], ["host-1"]), ([dans], ["host-2"])):
        decided = Snapshot(tasks=[*tasks, *more], settings=OURS, limits=limits, spare=spare).rebalance()
        assert [made.host for made in decided.preemptions] == hosts


def test_by_cooks_rules_preempted_tasks_of_others_count_for_a_group() -> None:
    # The group has a task on host-2 already when dan's second job stops ada's task on host-1.
    tasks = [
        running(1, "ada", "host-1", cpus=90.0, mem=5.0),
        running(2, "eve", "host-2"),
        waiting(7, "dan", cpus=20.0, group="apart"),
        waiting(8, "dan", cpus=20.0),
        waiting(9, "dan", cpus=20.0, group="apart"),
    ]
    spare = {"host-2": Resources(cpus=20.0, mem_mb=1.0)}
    decided = Snapshot(tasks=tasks, settings=COOKS, limits=LIMITS, spare=spare).rebalance()

    assert [made.host for made in decided.preemptions] == ["host-2", "host-1"]


def test_a_host_is_reserved_for_its_beneficiary_from_the_first_victim_on() -> None:
    one, two = a_decision("one", "a"), a_decision("two", "b", "c")
    room = a_decision("room")

    assert reservations_after([one, two, room]) == {"one": "host of one", "two": "host of two"}
    assert reservations_after([one, two, room], reserve_from=2) == {"two": "host of two"}
    assert (OURS.reserve_from, COOKS.reserve_from) == (1, 2)


def test_no_host_is_reserved_for_a_job_that_has_been_launched() -> None:
    made = [a_decision("one", "a"), a_decision("two", "b", "c")]

    assert reservations_after(made, {JobId("two")}) == {"one": "host of one"}


def test_a_job_that_lost_its_place_has_no_reservation_unless_told_to_be_like_cook() -> None:
    def made(job: str, *victims: str, displaced: tuple[str, ...] = ()) -> Preemption:
        return Preemption(
            beneficiary=JobId(job),
            host="host",
            cluster="",
            victims=tuple(map(JobId, victims)),
            displaced=tuple(map(JobId, displaced)),
        )

    decisions = [made("first", "victim"), made("second", "other", displaced=("first",))]

    assert reservations_after(decisions, leftovers=True) == {"second": "host"}
    assert reservations_after(decisions) == {"first": "host", "second": "host"}


def test_displaced_jobs_count_as_preempted() -> None:
    made = replace(a_decision("one", "a"), displaced=(JobId("b"),))

    assert reservations_after([made], reserve_from=2) == {"one": "host of one"}


def a_decision(job: str, *stopped: str) -> Preemption:
    return Preemption(
        beneficiary=JobId(job), host=f"host of {job}", cluster="", victims=tuple(map(JobId, stopped))
    )


def test_a_user_over_quota_makes_room_within_the_quota() -> None:
    tasks = [running(1, "ada", cpus=20.0), waiting(9, "ada", cpus=1.0, priority=99)]
    full = replace(LIMITS, quotas={"ada": Quota(count=1)})
    roomy = {"host-1": Resources(cpus=9.0, mem_mb=9.0)}

    assert victims(tasks, OURS, limits=full, spare=roomy) == [1]
    assert victims(tasks, COOKS, limits=full, spare=roomy) == []


def test_a_cycle_reserves_hosts_from_the_number_of_victims_that_is_set() -> None:
    tasks = [running(1, "ada"), waiting(9, "dan", cpus=1.0)]

    def reserved(settings: PreemptionSettings) -> list[str]:
        return list(Snapshot(tasks=tasks, settings=settings, limits=LIMITS).rebalance().reservations)

    assert reserved(COOKS) == []
    assert reserved(replace(COOKS, reserve_from=1)) == [job_id(9)]


@pytest.mark.parametrize("more", [{}, {"avoid": ["host-3"]}], ids=["anywhere", "not everywhere"])
@pytest.mark.parametrize("settings", [OURS, COOKS])
def test_what_a_victim_holds_suffices_for_a_job_of_its_size(
    settings: PreemptionSettings, more: dict[str, Any]
) -> None:
    tasks = [running(seq, "ada", f"host-{seq}", gpus=1.0) for seq in (1, 2)]
    settings = replace(settings, freed_gpus_count=True)

    assert victims([*tasks, waiting(9, "dan", cpus=5.0, gpus=1.0, **more)], settings) == [2]
    assert victims([*tasks, waiting(9, "dan", cpus=9.5, **more)], settings) == [2]
    even = [running(seq, "ada", f"host-{seq}", cpus=8.0) for seq in (1, 2)]
    assert victims([*even, waiting(9, "dan", cpus=8.0, **more)], settings) == [2]
    assert victims([*even, waiting(9, "dan", cpus=8.1, **more)], settings) == []
    assert victims([*even, waiting(9, "dan", cpus=8.0, mem=1.1, **more)], settings) == []
    assert victims([*even, waiting(9, "dan", cpus=8.0, gpus=0.1, **more)], settings) == []


def test_own_tasks_that_are_spared_are_passed_over() -> None:
    tasks = [
        running(1, "ada"),
        running(2, "ada"),
        running(3, "ada", preempted_ms=[NOW_MS - 1]),
        waiting(9, "ada", priority=90),
    ]
    limits = replace(LIMITS, quotas={"ada": Quota(count=3)})

    assert victims(tasks, replace(COOKS, max_preemptions_per_hour=1), limits=limits) == [2]
    assert victims(tasks, COOKS, limits=limits) == [3]


def test_cooks_settings_have_the_demands_of_the_pool() -> None:
    defaults = PoolDefaults(gpu_model="p100")

    assert PreemptionSettings.cook(defaults=defaults).defaults == defaults


def test_of_own_tasks_of_one_dru_the_one_goes_that_loses_least_work() -> None:
    # Memory decides on the DRU, so that the second task does not raise it; it holds many cpus.
    tasks = [
        running(1, "ada", cpus=1.0, mem=50.0),
        running(8, "ada", cpus=9.0, mem=0.0),
        waiting(9, "ada", cpus=1.0, mem=0.0, priority=90),
    ]
    limits = replace(LIMITS, quotas={"ada": Quota(count=2)})
    shortest = replace(COOKS, shortest_prefix=True)

    assert victims(tasks, shortest, limits=limits) == [8]
    assert victims(tasks, replace(shortest, least_work_lost=True), limits=limits) == [1]


def test_own_tasks_are_preempted_together_with_those_of_others_on_their_host() -> None:
    # Ada's job of high priority needs the memory of both tasks on host-0.
    tasks = [
        running(1, "ada", "host-0", cpus=40.0),
        running(2, "bob", "host-1", cpus=50.0),
        running(3, "bob", "host-0", cpus=1.0),
        waiting(9, "ada", cpus=1.0, mem=2.0) | {"priority": 90},
    ]

    assert set(victims(tasks, replace(OURS, max_lost_ms_beyond_share=None))) == {1, 3}


def test_the_settings_of_a_pool_include_its_rules_mode_and_constraints() -> None:
    demands = PoolDefaults(gpu_model="p100")

    settings = PreemptionSettings.from_rules(COOKS, mode=DruMode.GPU, defaults=demands)

    assert settings == replace(COOKS, mode=DruMode.GPU, defaults=demands)


def test_cooks_settings_have_none_of_the_improvements() -> None:
    settings = PreemptionSettings.cook()

    assert not any(getattr(settings, name) for name in SWITCHES)
    assert settings.max_preemptions_per_hour is None
    assert settings.max_lost_ms_beyond_share is None


@pytest.mark.parametrize(("until_ms", "stopped"), [(1999, ()), (2000, (job_id(1),)), (None, (job_id(1),))])
def test_no_task_is_preempted_for_a_job_that_would_outlive_the_host(
    until_ms: int | None, stopped: tuple[str, ...]
) -> None:
    index = an_index([running(1, "ada", cpus=50.0), waiting(9, "dan", longest_ms=2000)])
    host = Offer(host="host-0", cluster="", pool=PoolName(""), room=Resources(), until_ms=until_ms)
    context = PlacementContext(limited={"host-0": host})

    assert rebalance(index, Hosts(), LIMITS, settings=OURS, placement_context=context).victims == stopped


# --- what is the same for both

BOTH = pytest.mark.parametrize("settings", [OURS, COOKS], ids=["ours", "Cook's"])


@BOTH
def test_no_task_is_preempted_if_there_is_room(settings: PreemptionSettings) -> None:
    decided = Snapshot(
        tasks=[running(1, "ada", cpus=50.0), waiting(9, "dan", cpus=1.0)],
        spare={"host-0": Resources(cpus=1.0, mem_mb=1.0), "host-1": Resources(cpus=2.0, mem_mb=2.0)},
        settings=settings,
    ).rebalance()

    assert [(made.host, made.victims, made.dru) for made in decided.preemptions] == [
        ("host-1", (), UNLIMITED)
    ]
    assert decided.reservations == {}


@BOTH
def test_of_hosts_with_room_the_last_one_that_meets_the_constraints_is_chosen(
    settings: PreemptionSettings,
) -> None:
    decided = Snapshot(
        tasks=[waiting(9, "dan", cpus=1.0, avoid=["host-3"])],
        spare={f"host-{number}": Resources(cpus=1.0, mem_mb=1.0) for number in range(4)},
        settings=settings,
    ).rebalance()

    assert [made.host for made in decided.preemptions] == ["host-2"]


@BOTH
def test_of_tasks_with_equal_drus_the_last_started_one_is_preempted_first(
    settings: PreemptionSettings,
) -> None:
    tasks = [running(1, "ada", cpus=20.0), running(2, "ada", cpus=0.0, mem=0.0)]

    state = Snapshot(tasks=tasks, settings=settings).state()

    assert [seq_of(job) for job, _ in state.order()] == [2, 1]


@BOTH
def test_hosts_whose_last_victims_are_equal_compete_whatever_the_number_of_victims(
    settings: PreemptionSettings,
) -> None:
    # One task of ada's is enough, or two on the other host; each of the three has a DRU of 2.
    earlier = [running(3, "bob", "host-2"), running(4, "cyd", "host-2")]
    for ada, other, expected in (("host-0", "host-1", {5, 6}), ("host-1", "host-0", {8})):
        tasks = [running(5, "bob", other), running(6, "cyd", other), waiting(9, "dan", cpus=15.0)]
        adas = running(8 if expected == {8} else 1, "ada", ada, cpus=20.0)  # most or least work

        assert set(victims([*earlier, *tasks, adas], settings)) == expected


@BOTH
@pytest.mark.parametrize("request_of_dan", [{"cpus": 10.5}, {"cpus": 1.0, "mem": 1.5}])
def test_a_host_without_an_offer_has_only_the_room_of_its_tasks(
    settings: PreemptionSettings, request_of_dan: dict[str, float]
) -> None:
    tasks = [running(1, "ada", "host-1", cpus=10.0, mem=1.0), running(2, "ada", "host-2", cpus=10.0, mem=1.0)]
    tasks = [*tasks, waiting(9, "dan", **request_of_dan)]

    decided = Snapshot(tasks=tasks, settings=settings, limits=LIMITS).rebalance()

    assert decided.preemptions == ()


@BOTH
def test_the_room_of_two_hosts_is_never_combined(settings: PreemptionSettings) -> None:
    tasks = [running(1, "ada", "host-0", cpus=20.0), running(2, "ada", "host-1", cpus=20.0)]

    assert victims([*tasks, waiting(9, "dan", cpus=30.0)], settings) == []


@BOTH
def test_a_task_at_the_safe_dru_may_be_preempted_but_not_one_below(
    settings: PreemptionSettings,
) -> None:
    tasks = [running(1, "ada", cpus=20.0), waiting(9, "dan", cpus=1.0)]

    assert victims(tasks, replace(settings, safe_dru_threshold=2.0)) == [1]
    assert victims(tasks, replace(settings, safe_dru_threshold=2.0001)) == []


@BOTH
def test_the_dru_gap_to_a_victim_must_exceed_the_minimum(settings: PreemptionSettings) -> None:
    tasks = [running(1, "ada", cpus=20.0), waiting(9, "dan", cpus=10.0)]

    assert victims(tasks, replace(settings, min_dru_diff=1.0)) == []  # 2.0 against 1.0
    assert victims(tasks, replace(settings, min_dru_diff=0.999)) == [1]


@BOTH
def test_a_cycle_considers_no_more_jobs_than_its_limit(settings: PreemptionSettings) -> None:
    huge = waiting(8, "dan", cpus=1000.0)
    tasks = [running(1, "ada", cpus=50.0), huge, waiting(9, "eve", cpus=20.0, priority=99)]

    assert victims(tasks, replace(settings, max_preemption=2)) == [1]
    first = Snapshot(tasks=tasks, settings=replace(settings, max_preemption=1)).queue()
    assert [task["seq"] for task in first] == [9]


@BOTH
def test_own_tasks_of_lower_priority_are_preempted(settings: PreemptionSettings) -> None:
    tasks = [running(1, "ada", cpus=20.0, priority=10), waiting(9, "ada", cpus=10.0, priority=90)]

    assert victims(tasks, settings) == [1]


@BOTH
def test_jobs_over_the_quota_of_the_pool_preempt_no_task(settings: PreemptionSettings) -> None:
    index = an_index([running(1, "ada", cpus=50.0), waiting(9, "dan", cpus=1.0)])
    full = QueueFilters(pool_quota=Quota(count=1))

    assert rebalance(index, Hosts(), LIMITS, settings=settings).victims == (job_id(1),)
    assert rebalance(index, Hosts(), LIMITS, settings=settings, filters=full).preemptions == ()


@BOTH
def test_a_queue_that_is_already_ranked_is_used_as_it_is(settings: PreemptionSettings) -> None:
    index = an_index([running(1, "ada", cpus=50.0, mem=5.0), waiting(8, "dan"), waiting(9, "eve")])
    queue = [job_id(9), job_id(1), job_id(7), job_id(8)]  # one runs by now, one is gone

    decided = rebalance(index, Hosts(), LIMITS, settings=settings, queue=queue)

    assert [made.beneficiary for made in decided.preemptions] == [job_id(9), job_id(8)]


@BOTH
def test_a_host_without_an_offer_is_returned_with_its_cluster(settings: PreemptionSettings) -> None:
    index = an_index([running(1, "ada", cpus=50.0), waiting(9, "dan")])

    [made] = rebalance(index, Hosts(), LIMITS, settings=settings, clusters={"host-0": "west"}).preemptions

    assert (made.host, made.cluster) == ("host-0", "west")


@BOTH
def test_the_room_of_an_earlier_decision_may_be_used_without_further_victims(
    settings: PreemptionSettings,
) -> None:
    # Dan's second job would take him far along, so it gives way to eve's, which comes behind his first two:
    # the ranking counts a job of hers that finds no place, what she would hold does not.
    tasks = [
        waiting(1, "dan", cpus=20.0),
        waiting(2, "eve", cpus=500.0, priority=99),
        waiting(3, "eve", cpus=15.0),
    ]
    decided = Snapshot(
        tasks=tasks, settings=settings, spare={"host-0": Resources(cpus=20.0, mem_mb=1.0)}, limits=LIMITS
    ).rebalance()

    assert [(seq_of(made.beneficiary), made.victims, made.displaced) for made in decided.preemptions] == [
        (1, (), ()),
        (3, (), (job_id(1),)),
    ]


@BOTH
def test_a_node_gets_one_job_with_gpus_in_a_cycle(settings: PreemptionSettings) -> None:
    node = Offer(
        host="node",
        cluster="k8s",
        pool=PoolName("pool"),
        room=Resources(cpus=64.0, mem_mb=64.0, gpus=4.0),
        attributes={"HOSTNAME": "node"},
        kind=HostKind.KUBERNETES,
        gpu_models={"a100": 2.0},
    )
    jobs = [waiting(seq, "dan", cpus=1.0, gpus=2.0, gpu_model="a100") for seq in (1, 2)]

    decided = rebalance(an_index(jobs), Hosts([node]), LIMITS, settings=settings)

    assert [seq_of(made.beneficiary) for made in decided.preemptions] == [1]


def test_there_is_no_decision_about_a_job_that_is_not_in_the_queue() -> None:
    state = RebalanceState(an_index([]), Hosts(), LIMITS, placement_context=PlacementContext())

    with pytest.raises(NotFound):
        state.decide(job_id(1))


def test_there_are_no_decisions_if_nothing_runs_or_nothing_waits() -> None:
    empty: Sequence[list[Task]] = [[], [waiting(1, "ada")], [running(1, "ada", cpus=99.0)]]

    assert [victims(tasks, OURS) for tasks in empty] == [[], [], []]
