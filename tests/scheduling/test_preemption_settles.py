"""Why preemption settles: what each decision improves, and which tasks are spared."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given

from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import GroupPlacement, JobConstraints, PlacementKind
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.queue.preemption_history import HOUR_MS, PreemptionHistory
from cook_jupyter.scheduling.queue.queue_index import QueuedJob, QueueIndex, launch_number
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.rebalancing.preemption import (
    PreemptionSettings,
    RebalanceState,
    ReservedRoom,
    rebalance,
)
from tests.scheduling.preemption_snapshots import Snapshot, Task, snapshots
from tests.scheduling.queues import job_id
from tests.scheduling.reference_preemption import launch_key_of
from tests.scheduling.test_preemption import on_many

LIMITS = UserLimits(default_share=Share(cpus=2, mem_mb=1024))
OURS = PreemptionSettings(min_dru_diff=0.1)
NOW_MS = 10 * HOUR_MS


def an_index(*tasks: tuple[str, str, float, int | None], priority: int = 50) -> QueueIndex:
    """Tasks by name, user, cpus and launch (None: it waits), all on one host."""
    index = QueueIndex()
    for seq, (name, user, cpus, launch) in enumerate(tasks):
        index.add(QueuedJob(JobId(name), user, cpus, 0.0, seq, priority=priority))
        if launch is not None:
            index.mark_running(JobId(name), launch, "host")
    return index


def victims(index: QueueIndex, **changed: object) -> list[tuple[str, tuple[str, ...]]]:
    """Beneficiaries and their victims."""
    arguments: dict[str, object] = {
        "settings": OURS,
        "placement_context": PlacementContext(now_ms=NOW_MS),
        **changed,
    }
    decided = rebalance(index, Hosts(), LIMITS, **arguments)  # type: ignore[arg-type]
    return [(made.beneficiary, made.victims) for made in decided.preemptions]


# --- what a cycle improves


def sorted_scores(snapshot: Snapshot, tasks: Iterable[Task]) -> list[float]:
    """The ascending scores of tasks, each user's in order of launch."""
    of_user: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        of_user[task["user"]].append(task)
    scores = []
    for user, job_constraints in of_user.items():
        share = snapshot.limits.share(user)
        cpus = mem = gpus = 0.0
        for task in sorted(job_constraints, key=launch_key_of):
            cpus, mem, gpus = cpus + task["cpus"], mem + task["mem"], gpus + task["gpus"]
            in_gpus = snapshot.settings.mode is DruMode.GPU
            scores.append(gpus / share.gpus if in_gpus else max(mem / share.mem_mb, cpus / share.cpus))
    return sorted(scores)


def is_better(scores: list[float], than: list[float]) -> bool:
    """Compare lexicographically; a missing entry counts as infinite."""
    return [*scores, float("inf")] < [*than, float("inf")]


@on_many
@given(snapshots)
def test_a_cycle_that_preempts_tasks_of_others_lowers_the_sorted_drus(snapshot: Snapshot) -> None:
    if not snapshot.settings.launch_order:
        return
    decided = snapshot.rebalance()
    tasks = {job_id(task["seq"]): task for task in snapshot.tasks}
    job_constraints = [
        made
        for made in decided.preemptions
        if any(
            tasks[stopped]["user"] == tasks[made.beneficiary]["user"]
            for stopped in (*made.victims, *made.displaced)
        )
    ]
    if job_constraints or not decided.victims or snapshot.settings.reserve_from > 1:
        return
    running = [task for task in snapshot.tasks if "start_ms" in task]
    left = [task for task in running if job_id(task["seq"]) not in decided.victims]
    granted = [{**tasks[job], "placed": place} for place, job in enumerate(decided.reservations, 1)]

    assert is_better(sorted_scores(snapshot, left + granted), than=sorted_scores(snapshot, running))


@on_many
@given(snapshots)
def test_own_victims_have_a_lower_priority_than_a_beneficiary_that_was_not_preempted_before(
    snapshot: Snapshot,
) -> None:
    tasks = {job_id(task["seq"]): task for task in snapshot.tasks}
    for made in snapshot.rebalance().preemptions if snapshot.settings.launch_order else ():
        job = tasks[made.beneficiary]
        job_constraints = [tasks[victim] for victim in made.victims if tasks[victim]["user"] == job["user"]]
        assert all(task["priority"] < job["priority"] for task in job_constraints)
        assert not (job_constraints and job.get("by_others"))


# --- the order of launches


def test_a_task_launched_later_does_not_raise_the_dru_of_an_earlier_one() -> None:
    # The worked example: C was created first and starts in the same millisecond as B.
    index = QueueIndex()
    for seq, (name, cpus, mem) in enumerate((("first", 1.0, 128.0), ("C", 0.5, 1024.0), ("B", 0.5, 128.0))):
        index.add(QueuedJob(JobId(name), "u1", cpus, mem, seq))
    index.add(QueuedJob(JobId("A"), "u0", 1.0, 512.0, 3))
    index.mark_running(JobId("first"), 1, "host")
    index.mark_running(JobId("B"), 2, "host", launch=launch_number(2, 0))
    index.mark_running(JobId("C"), 2, "host", launch=launch_number(2, 1))
    limits = UserLimits(shares={"u0": Share(cpus=1, mem_mb=1024)}, default_share=Share(cpus=2, mem_mb=1024))

    decided = rebalance(index, Hosts(), limits, settings=OURS).victims
    cooks = rebalance(index, Hosts(), limits, settings=PreemptionSettings.cook(min_dru_diff=0.1)).victims

    assert decided == ()
    assert set(cooks) == {"B", "C"}


@pytest.mark.parametrize("priorities", [(20, 80), (80, 20), (50, 51), (51, 50)])
def test_tasks_that_were_launched_together_are_ordered_by_the_creation_of_their_jobs(
    priorities: tuple[int, int],
) -> None:
    index = QueueIndex()
    for seq, (name, priority) in enumerate(zip(map(JobId, ("first", "second")), priorities, strict=True)):
        index.add(QueuedJob(name, "ada", 1.0, 0.0, seq, priority=priority))
        index.mark_running(name, 1, "host", launch=launch_number(1, 0))

    order = RebalanceState(index, Hosts(), LIMITS, OURS).order()

    assert order == [("second", 1.0), ("first", 0.5)]


def test_a_job_with_reserved_room_counts_as_launched_when_the_room_was_reserved() -> None:
    tasks = (("hog-1", "hog", 2.0, 1), ("hog-2", "hog", 1.6, 2), ("late-1", "late", 1.0, None))
    index = an_index(*tasks, ("late-2", "late", 1.0, None))
    assert victims(index) == [("late-1", ("hog-2",))]

    # The victim has not ended yet: the same user gets nothing more at the level of the first job.
    index.add(QueuedJob(JobId("late-3"), "late", 1.5, 0.0, 9))
    reserved = {"late-1": ReservedRoom("host", launch_number(3))}
    index.remove(JobId("hog-2"))
    index.add(QueuedJob(JobId("hog-3"), "hog", 1.2, 0.0, 10))
    index.mark_running(JobId("hog-3"), 4, "host")
    assert victims(index, reserved=reserved) == [("late-2", ("hog-3",))]
    reserved["late-2"] = ReservedRoom("host", launch_number(4))
    assert victims(index, reserved=reserved) == []


def test_a_job_with_reserved_room_does_not_give_way_to_another_of_its_user() -> None:
    index = an_index(("ada-1", "ada", 2.0, 1), ("kept", "ada", 1.0, None), priority=20)
    index.add(QueuedJob(JobId("urgent"), "ada", 1.0, 0.0, 9, priority=80))

    assert victims(index, reserved={"kept": ReservedRoom("host", launch_number(2))}) == [
        ("urgent", ("ada-1",))
    ]


def test_a_job_with_reserved_room_raises_the_score_of_what_its_user_launched_later() -> None:
    index = an_index(("hog-1", "hog", 1.0, 1), ("kept", "hog", 2.0, None), ("hog-2", "hog", 1.0, 3))
    index.add(QueuedJob(JobId("eve"), "eve", 3.0, 0.0, 8))
    index.mark_running(JobId("eve"), 2, "other")
    index.add(QueuedJob(JobId("late"), "late", 1.0, 0.0, 9))
    cheaply = PreemptionSettings(min_dru_diff=0.1, max_lost_ms_beyond_share=None)

    # Hog-2 stands at 1.0 alone, but at 2.0 behind the reserved job; eve at 1.5.
    assert victims(index, settings=cheaply, queue=["late"]) == [("late", ("eve",))]
    reserved = {"kept": ReservedRoom("host", launch_number(2))}
    assert victims(index, settings=cheaply, queue=["late"], reserved=reserved) == [("late", ("hog-2",))]


def test_a_job_with_reserved_room_counts_in_its_group() -> None:
    apart = JobConstraints(group=GroupId("apart"))
    index = QueueIndex()
    for seq, name in enumerate(("kept", "other")):
        index.add(QueuedJob(JobId(name), "ada", 1.0, 1.0, seq, job_constraints=apart))
    room = Resources(cpus=4.0, mem_mb=4.0)
    hosts = Hosts(
        Offer(host=host, cluster="", pool=PoolName(""), room=room, attributes={"HOSTNAME": host})
        for host in ("a", "b")
    )
    context = PlacementContext(groups={GroupId("apart"): GroupPlacement(kind=PlacementKind.UNIQUE)})

    def chosen(**reserved: str) -> list[str]:
        rooms = {JobId(job): ReservedRoom(host, launch_number(1)) for job, host in reserved.items()}
        decided = rebalance(index, hosts, LIMITS, settings=OURS, placement_context=context, reserved=rooms)
        return [made.host for made in decided.preemptions]

    assert chosen() == ["b", "a"]
    assert chosen(kept="b") == ["a"]
    assert chosen(kept="gone") == ["b"]


def test_the_dru_of_a_waiting_job_includes_the_whole_usage_of_its_user() -> None:
    index = an_index(("hog-1", "hog", 4.4, 1), ("ada-1", "ada", 2.0, 2))
    index.add(QueuedJob(JobId("ada-2"), "ada", 2.3, 0.0, 9, priority=90))  # would end at 2.15; hog is at 2.2

    assert victims(index) == []
    assert victims(index, settings=PreemptionSettings.cook(min_dru_diff=0.1)) == [("ada-2", ("hog-1",))]


# --- who is spared


def test_a_job_is_preempted_at_most_twice_an_hour_except_with_cooks_settings() -> None:
    index = an_index(("hog-1", "hog", 2.0, 1), ("hog-2", "hog", 2.0, 2), ("late", "late", 1.0, None))
    assert victims(index) == [("late", ("hog-2",))]

    twice = PreemptionHistory((NOW_MS - HOUR_MS, NOW_MS - 1), by_others=True)
    index.set_preemptions(JobId("hog-2"), twice)
    assert victims(index) == [("late", ("hog-1",))]
    index.set_preemptions(JobId("hog-1"), twice)
    assert victims(index) == []
    unlimited = PreemptionSettings(min_dru_diff=0.1, max_preemptions_per_hour=None)
    assert victims(index, settings=unlimited) == [("late", ("hog-2",))]
    assert victims(index, settings=PreemptionSettings.cook()) == [("late", ("hog-2",))]

    later = PlacementContext(now_ms=NOW_MS + 1)
    assert victims(index, placement_context=later) == [("late", ("hog-2",))]


def test_a_job_beyond_its_share_only_preempts_tasks_that_lose_little_work() -> None:
    # Shares are two cpus: late's first job stays within its share, the second does not.
    index = an_index(("hog-1", "hog", 4.0, 1), ("hog-2", "hog", 2.0, 2), ("hog-3", "hog", 2.0, 3))
    index.add(QueuedJob(JobId("late-1"), "late", 2.0, 0.0, 8))
    index.add(QueuedJob(JobId("late-2"), "late", 2.0, 0.0, 9))

    def stopped(limit_ms: int | None, age_ms: int) -> list[str]:
        settings = PreemptionSettings(min_dru_diff=0.1, max_lost_ms_beyond_share=limit_ms)
        actual = victims(index, settings=settings, placement_context=PlacementContext(now_ms=3 + age_ms))
        return [job_id for job_id, _ in actual]

    assert stopped(2000, 1000) == ["late-1", "late-2"]
    assert stopped(2000, 3000) == ["late-1"]
    assert stopped(None, HOUR_MS) == ["late-1", "late-2"]


def test_own_tasks_are_preempted_only_if_no_task_of_another_user_can_be() -> None:
    index = an_index(("ada-1", "ada", 2.0, 1), ("ada-2", "ada", 1.0, 2), priority=20)
    index.add(QueuedJob(JobId("urgent"), "ada", 1.0, 0.0, 9, priority=80))
    assert victims(index) == [("urgent", ("ada-2",))]

    index.add(QueuedJob(JobId("hog"), "hog", 5.0, 0.0, 10))
    index.mark_running(JobId("hog"), 3, "host")
    at_any_cost = PreemptionSettings(min_dru_diff=0.1, max_lost_ms_beyond_share=None)
    assert victims(index, settings=at_any_cost) == [("urgent", ("hog",))]
    assert victims(index) == [("urgent", ("ada-2",))]  # beyond its share, and hog has run for long


def test_a_job_that_was_preempted_for_another_user_preempts_no_own_tasks() -> None:
    index = an_index(("ada-1", "ada", 2.0, 1), ("ada-2", "ada", 1.0, 2), priority=20)
    index.add(QueuedJob(JobId("urgent"), "ada", 1.0, 0.0, 9, priority=80))
    index.set_preemptions(JobId("urgent"), PreemptionHistory((1,), by_others=False))
    assert victims(index) == [("urgent", ("ada-2",))]

    index.set_preemptions(JobId("urgent"), PreemptionHistory((1,), by_others=True))
    assert victims(index) == []


def test_no_task_is_preempted_for_a_job_that_the_victim_would_preempt_in_turn() -> None:
    # Without both of hog's tasks the first of them is at 0.5, below the beneficiary's 1.2.
    index = an_index(("hog-1", "hog", 1.0, 1), ("hog-2", "hog", 2.0, 2), ("late", "late", 2.4, None))
    eager = PreemptionSettings(min_dru_diff=0.1, safe_dru_threshold=0.0)
    index.mark_running(JobId("late"), 3, "host")
    assert victims(index, settings=eager) == []
    index.requeue(JobId("late"))

    assert victims(index, settings=eager) == []


# --- who gets what is left over


def test_room_left_by_a_preemption_is_reserved_for_the_user_furthest_below_share() -> None:
    index = an_index(
        ("hog-1", "hog", 1.0, 1),
        ("hog-2", "hog", 4.0, 2),
        ("ada-1", "ada", 4.0, 3),
        ("ada-2", "ada", 1.0, None),  # would stand at 2.5
        ("late-1", "late", 3.0, None),
        ("late-2", "late", 1.0, None),  # would stand at 2.0
    )

    decided = rebalance(
        index, Hosts(), LIMITS, settings=OURS, placement_context=PlacementContext(now_ms=NOW_MS)
    )

    assert decided.victims == ("hog-2",)
    assert decided.reservations == {"late-1": "host", "late-2": "host"}


def test_a_later_job_of_a_user_whose_earlier_one_is_over_quota_gets_no_room() -> None:
    # A match cycle would not start it: it starts nothing of a user behind a job that is over quota.
    index = an_index(
        ("hog-1", "hog", 2.0, 1),
        ("hog-2", "hog", 2.0, 2),
        ("large", "late", 9.0, None),
        ("small", "late", 1.0, None),
    )
    limits = UserLimits(default_share=LIMITS.default_share, quotas={"late": Quota(cpus=8.0)})

    assert rebalance(index, Hosts(), limits, settings=OURS).preemptions == ()
    assert rebalance(index, Hosts(), LIMITS, settings=OURS).victims == ("hog-2",)


def test_a_job_with_reserved_room_is_on_no_host_yet() -> None:
    index = QueueIndex()
    for seq, (name, user, cpus, mem_mb) in enumerate(
        (
            ("ada-1", "ada", 4.0, 10.0),
            ("kept", "ada", 0.1, 0.0),
            ("hog", "hog", 3.0, 1.0),
            ("large", "late", 0.4, 10.0),
            ("small", "bob", 0.5, 1.0),
        )
    ):
        index.add(QueuedJob(JobId(name), user, cpus, mem_mb, seq))
    index.mark_running(JobId("ada-1"), 1, "b")
    index.mark_running(JobId("hog"), 3, "a")
    at_any_cost = replace(OURS, max_lost_ms_beyond_share=None)
    reserved = {"kept": ReservedRoom("b", launch_number(2))}

    assert victims(index, settings=at_any_cost, reserved=reserved) == [
        ("large", ("ada-1",)),
        ("small", ("hog",)),
    ]


def test_a_job_with_reserved_room_uses_the_launch_rate_of_its_user() -> None:
    index = an_index(("hog", "hog", 6.0, 1), ("kept", "ada", 1.0, None), ("more", "ada", 0.5, None))
    reserved = {"kept": ReservedRoom("host", launch_number(2))}

    def started(tokens: float) -> list[str]:
        filters = QueueFilters(tokens={"ada": tokens})
        return [job for job, _ in victims(index, filters=filters, reserved=reserved)]

    assert started(1.0) == []
    assert started(2.0) == ["more"]


def test_room_is_freed_only_for_jobs_that_launch_rate_and_filter_allow_to_start() -> None:
    index = an_index(
        ("hog-1", "hog", 2.0, 1),
        ("hog-2", "hog", 1.0, 2),
        ("hog-3", "hog", 1.0, 3),
        ("one", "late", 1.0, None),
        ("two", "late", 1.0, None),
    )
    assert [job for job, _ in victims(index)] == ["one", "two"]

    assert [job for job, _ in victims(index, filters=QueueFilters(tokens={"late": 1.0}))] == ["one"]
    waits = {"one": ReservedRoom("host", launch_number(4))}
    assert victims(index, filters=QueueFilters(tokens={"late": 1.0}), reserved=waits) == []
    assert [job for job, _ in victims(index, filters=QueueFilters(accepts="two".__eq__))] == ["two"]


def test_fractions_of_cpus_fit_although_clusters_round_the_free_room() -> None:
    index = an_index(("hog-1", "hog", 1.95, 1), ("hog-2", "hog", 0.1, 2), ("hog-3", "hog", 0.7, 3))
    index.add(QueuedJob(JobId("fits"), "late", 0.8, 0.0, 9))
    assert 0.1 + 0.7 < 0.8
    assert [job for job, _ in victims(index)] == ["fits"]

    index.remove(JobId("fits"))
    index.add(QueuedJob(JobId("does not"), "late", 0.1 + 0.2 + 0.5000001, 0.0, 9))
    assert victims(index) == []


@pytest.mark.parametrize(
    ("asked", "room", "fits"),
    [
        (1.0, 1 - 4.5e-7, True),  # offered as 1.0
        (1.0, 1 - 5.5e-7, False),
        (0.3, 0.3 - 4.5e-7, True),
        (0.3, 0.3 - 5.5e-7, False),
        (1 / 3, 0.33333355, True),  # offered as 0.333334
        (1 / 3, 0.33333345, False),
    ],
)
@pytest.mark.parametrize("resource", ["cpus", "mem", "gpus"])
def test_room_suffices_if_it_does_after_the_rounding_of_clusters(
    resource: str, asked: float, room: float, fits: bool
) -> None:
    amounts = {"cpus": 0.0, "mem": 0.0, "gpus": 0.0, resource: asked}
    spare = Resources(**{{"cpus": "cpus", "mem": "mem_mb", "gpus": "gpus"}[resource]: room})
    snapshot = Snapshot(tasks=[{"seq": 1, "user": "ada", "priority": 50, **amounts}], spare={"host-0": spare})

    assert bool(snapshot.rebalance().preemptions) is fits


def test_a_job_that_took_the_room_of_its_users_own_task_keeps_it_during_the_cycle() -> None:
    index = QueueIndex()
    for seq, (name, user, cpus, mem_mb, priority) in enumerate(
        (
            ("ada-1", "ada", 2.0, 0.0, 80),
            ("ada-2", "ada", 3.0, 10.0, 20),
            ("urgent", "ada", 1.0, 10.0, 80),
            ("late", "late", 1.0, 10.0, 50),
        )
    ):
        index.add(QueuedJob(JobId(name), user, cpus, mem_mb, seq, priority=priority))
    for launch, name in enumerate(("ada-1", "ada-2")):
        index.mark_running(JobId(name), launch, "host")
    context = PlacementContext(now_ms=NOW_MS)
    state = RebalanceState(index, Hosts(), LIMITS, OURS, placement_context=context)
    decision = state.decide(JobId("urgent"))
    assert decision is not None
    assert decision.victims == ("ada-2",)

    state.apply(decision)

    assert state.decide(JobId("late")) is None


@pytest.mark.parametrize(("gap", "is_lasting"), [(0.5, True), (0.499, False)])
def test_a_victim_may_come_back_only_if_it_is_below_by_more_than_the_difference(
    gap: float, is_lasting: bool
) -> None:
    # Hog's second task would start again at 0.5, late's job stands at 1.0.
    index = QueueIndex()
    for seq, (name, user, cpus, mem_mb) in enumerate(
        (("hog-1", "hog", 4.0, 1.0), ("hog-2", "hog", 1.0, 1.0), ("late", "late", 2.0, 2.0))
    ):
        index.add(QueuedJob(JobId(name), user, cpus, mem_mb, seq))
    for launch, name in enumerate(("hog-1", "hog-2")):
        index.mark_running(JobId(name), launch, "host")
    eager = PreemptionSettings(min_dru_diff=gap, safe_dru_threshold=0.0, max_lost_ms_beyond_share=None)

    assert bool(victims(index, settings=eager)) is is_lasting


def test_nobody_gives_way_if_one_of_several_victims_would_come_back() -> None:
    # Without both, hog's first task would start again at 1.5, and the second at 0.25: below late's 0.85.
    index = QueueIndex()
    for seq, (name, user, cpus, mem_mb) in enumerate(
        (("hog-1", "hog", 3.0, 1.0), ("hog-2", "hog", 0.5, 1.0), ("late", "late", 1.7, 2.0))
    ):
        index.add(QueuedJob(JobId(name), user, cpus, mem_mb, seq))
    for launch, name in enumerate(("hog-1", "hog-2")):
        index.mark_running(JobId(name), launch, "host")
    eager = PreemptionSettings(min_dru_diff=0.1, safe_dru_threshold=0.0, max_lost_ms_beyond_share=None)

    assert victims(index, settings=eager) == []
    assert victims(index, settings=replace(eager, safe_dru_threshold=0.85)) == []
    protected = replace(eager, safe_dru_threshold=1.0)  # what is below cannot be taken back
    assert victims(index, settings=protected) == [("late", ("hog-2", "hog-1"))]


def test_spare_room_is_used_before_any_task_is_preempted() -> None:
    index = an_index(("hog-1", "hog", 6.0, 1), ("late", "late", 1.0, None))
    snapshot = Snapshot(tasks=[], spare={"host": Resources(cpus=1.0, mem_mb=1.0)})

    decided = rebalance(index, snapshot.hosts(), LIMITS, settings=OURS)

    assert (decided.victims, decided.reservations) == ((), {})
