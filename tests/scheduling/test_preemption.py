from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.pool import DruMode
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.rebalancing import task_drus, victims
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings, rebalance
from tests.scheduling.preemption_snapshots import (
    HOSTS,
    Snapshot,
    Task,
    a_settings,
    a_share,
    a_snapshot,
    snapshots,
)
from tests.scheduling.queues import job_id, running_jobs, waiting_jobs
from tests.scheduling.strategies import USERS

on_many = settings(max_examples=300)
on_snapshots = settings(on_many, max_examples=80)


@on_many
@given(snapshots)
def test_decisions_agree_with_a_simple_reference_implementation(snapshot: Snapshot) -> None:
    assert snapshot.rebalance().preemptions == _as_the_rules_say(snapshot)


@settings(on_many, max_examples=20)
@given(st.integers(0, 2**48), st.integers(1, 6))
def test_decisions_agree_with_the_reference_in_a_larger_pool(seed: int, users: int) -> None:
    rng = Random(seed)
    snapshot = a_larger_pool(rng, users)

    assert snapshot.rebalance().preemptions == _as_the_rules_say(snapshot)


def a_larger_pool(rng: Random, users: int) -> Snapshot:
    """Few users with many tasks, and large jobs, so that one decision moves many tasks past each other."""
    shape = {"mem": 1.0, "gpus": 0.0}
    tasks = [
        {**shape, "seq": seq, "user": f"user-{seq % users}", "cpus": rng.uniform(0.5, 2.0)}
        | {"start_ms": seq, "task_seq": seq, "host": f"host-{rng.randrange(30)}"}
        | {"priority": rng.choice([50, 50, 50, 20, 70])}
        for seq in range(300)
    ]
    tasks += [
        {**shape, "seq": seq, "user": f"user-{rng.randrange(9)}", "cpus": rng.uniform(1.0, 6.0)}
        | {"priority": rng.choice([50, 60])}
        for seq in range(300, 324)
    ]
    chosen = a_settings(rng)
    return Snapshot(
        tasks=tasks,
        settings=replace(chosen, safe_dru_threshold=0.0, max_preemption=100, mode=DruMode.DEFAULT),
    )


def test_a_host_may_get_any_number_of_jobs_in_one_cycle() -> None:
    small = {"cpus": 1.0, "mem": 1.0, "gpus": 0.0, "priority": 50, "host": "host-1"}
    runs = {**small, "user": "hog", "start_ms": 1, "host": "host-2"}
    snapshot = Snapshot(
        tasks=[{**small, "seq": seq, "user": ("ada", "bob")[seq % 2]} for seq in range(1, 41)]
        + [{**runs, "seq": seq, "task_seq": seq} for seq in range(100, 140)],
        spare={"host-1": Resources(cpus=30.0, mem_mb=30.0)},
        limits=UserLimits(default_share=Share(cpus=2.0, mem_mb=2.0)),
    )

    decided = snapshot.rebalance()

    assert decided.preemptions == _as_the_rules_say(snapshot)
    assert [made.host for made in decided.preemptions] == ["host-1"] * 30 + ["host-2"] * 10


def test_a_cycle_places_any_number_of_jobs() -> None:
    small = {"cpus": 1.0, "mem": 1.0, "gpus": 0.0, "priority": 50}
    snapshot = Snapshot(
        tasks=[{**small, "seq": seq, "user": "ada"} for seq in range(1, 301)],
        spare={"host-1": Resources(cpus=270.0, mem_mb=1000.0)},
        settings=replace(PreemptionSettings(), max_preemption=1000),
    )

    made = snapshot.rebalance().preemptions

    assert [decision.beneficiary for decision in made] == [job_id(seq) for seq in range(1, 271)]


def test_as_many_placed_jobs_are_displaced_as_necessary() -> None:
    small = {"cpus": 1.0, "mem": 1.0, "gpus": 0.0, "priority": 50}
    # Eve's first job fits nowhere, but puts her second one behind all of bob's.
    hers = [
        {**small, "seq": 90, "cpus": 2000.0, "priority": 70},
        {**small, "seq": 91, "cpus": 10.0, "mem": 10.0},
    ]
    snapshot = Snapshot(
        tasks=[{**small, "seq": seq, "user": "bob"} for seq in range(1, 13)]
        + [{**task, "user": "eve"} for task in hers],
        spare={"host-1": Resources(cpus=12.0, mem_mb=12.0)},
        limits=UserLimits(
            shares={"eve": Share(cpus=100.0, mem_mb=100.0)}, default_share=Share(cpus=1.0, mem_mb=1.0)
        ),
    )

    decided = snapshot.rebalance()

    assert decided.preemptions == _as_the_rules_say(snapshot)
    assert decided.preemptions[-1].displaced == tuple(job_id(seq) for seq in range(12, 2, -1))


@pytest.mark.parametrize("first", range(0, 400, 40))
def test_so_they_are_on_few_crowded_hosts(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 40):
        rng = Random(seed)
        monkeypatch.setattr(victims, "_FEW", rng.choice((0, 24)))
        snapshot = a_crowded_pool(rng)

        assert snapshot.rebalance().preemptions == _as_the_rules_say(snapshot), f"seed {seed}"


def a_crowded_pool(rng: Random) -> Snapshot:
    """Few hosts and users with tasks of few sizes, and jobs that need several victims."""
    hosts = HOSTS[: rng.randint(1, 3)]
    users = USERS[: rng.choice((1, 2, 3, 3))]
    mem = rng.choice(((0.0,), (0.25,), (0.0, 0.25, 2.0)))
    priorities = rng.choice(((50,), (50, 50, 60), (40, 50, 60)))
    tasks: list[Task] = []
    for seq in range(rng.randint(4, 18)):
        task = {"seq": seq, "user": rng.choice(users), "cpus": rng.choice((0.5, 1.0, 1.0, 2.0))}
        task |= {"mem": rng.choice(mem), "gpus": 0.0, "priority": rng.choice(priorities)}
        started = {"start_ms": rng.choice((1, 5, 9, 10, 10)), "task_seq": seq, "host": rng.choice(hosts)}
        tasks.append(task | started)
    for seq in range(20, 20 + rng.randint(1, 8)):
        cpus = rng.choice((0.0, 1.0, 2.0, 3.0, 4.5))
        task = {"seq": seq, "user": rng.choice((*users, USERS[3])), "cpus": cpus}
        task |= {"mem": rng.choice(mem), "gpus": 0.0, "priority": rng.choice(priorities)}
        tasks.append(task | {"by_others": rng.random() < 0.1})
    chosen = a_settings(rng) if rng.random() < 0.4 else PreemptionSettings()
    return Snapshot(
        tasks=tasks,
        spare={host: Resources(cpus=rng.choice((0.0, 0.5, 1.0)), mem_mb=1.0) for host in hosts},
        limits=UserLimits(
            shares={user: a_share(rng) for user in rng.sample(USERS, rng.randint(0, 3))},
            default_share=a_share(rng),
            quotas={USERS[0]: Quota(cpus=rng.choice((2.0, 4.0)))} if rng.random() < 0.2 else {},
        ),
        settings=replace(
            chosen,
            safe_dru_threshold=rng.choice((0.0, 0.5, 1.0)),
            min_dru_diff=rng.choice((0.0, 0.0, 0.25)),
            max_preemption=100,
            mode=DruMode.DEFAULT,
        ),
    )


@pytest.mark.parametrize("first", range(0, 240, 20))
def test_numbers_that_only_decide_which_way_is_faster_change_no_decision(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + 20):
        rng = Random(seed)
        monkeypatch.setattr(victims, "_FEW", rng.choice((0, 1, 24)))
        monkeypatch.setattr(task_drus, "_FEW", rng.choice((0, 1, 32)))
        snapshot = a_snapshot(seed, running=rng.choice((4, 12, 30)), waiting=rng.choice((3, 12)))

        assert snapshot.rebalance().preemptions == _as_the_rules_say(snapshot), f"seed {seed}"


def _as_the_rules_say(snapshot: Snapshot) -> tuple[Preemption, ...]:
    if snapshot.settings.mode is DruMode.GPU and not snapshot.settings.gpu_pools:
        return ()
    return tuple(snapshot.reference().decisions(snapshot.queue()))


@on_snapshots
@given(snapshots)
def test_victims_have_a_higher_dru_than_their_beneficiary_and_the_safe_dru(snapshot: Snapshot) -> None:
    users = {job_id(task["seq"]): task["user"] for task in snapshot.tasks}
    state = snapshot.state()
    for job in snapshot.queue():
        decision = state.decide(job_id(job["seq"]))
        if decision is None:
            continue
        drus = dict(state.order())
        pending = state.pending_dru(decision.beneficiary)
        for victim in (*decision.victims, *decision.displaced):
            if snapshot.settings.launch_order and users[victim] == job["user"]:
                continue  # of lower priority: test_preemption_settles
            assert drus[victim] >= snapshot.settings.safe_dru_threshold
            assert drus[victim] - pending > snapshot.settings.min_dru_diff
        state.apply(decision)


@on_snapshots
@given(snapshots)
def test_the_freed_room_is_on_one_host_and_sufficient(snapshot: Snapshot) -> None:
    tasks = {job_id(task["seq"]): task for task in snapshot.tasks}
    state = snapshot.state()
    for job in snapshot.queue():
        spare = state.spare
        decision = state.decide(job_id(job["seq"]))
        if decision is None:
            continue
        assert {tasks[victim]["host"] for victim in decision.victims} <= {decision.host}
        stopped = [tasks[victim] for victim in (*decision.victims, *decision.displaced)]
        room = spare.get(decision.host, Resources())
        gpus = sum(task["gpus"] for task in stopped) if snapshot.settings.freed_gpus_count else 0.0
        assert job["cpus"] <= decision.freed.cpus == room.cpus + sum(task["cpus"] for task in stopped)
        assert job["mem"] <= decision.freed.mem_mb == room.mem_mb + sum(task["mem"] for task in stopped)
        assert job["gpus"] <= decision.freed.gpus == room.gpus + gpus
        state.apply(decision)


@on_snapshots
@given(snapshots)
def test_no_victim_is_preempted_unnecessarily(snapshot: Snapshot) -> None:
    snapshot = replace(snapshot, settings=replace(snapshot.settings, drop_unneeded=True, quota_counts=False))
    tasks = {job_id(task["seq"]): task for task in snapshot.tasks}
    for decision in snapshot.rebalance().preemptions:
        job = Resources(**_amounts(tasks[decision.beneficiary]))
        for victim in (*decision.victims, *decision.displaced):
            held = _amounts(tasks[victim])
            if not snapshot.settings.freed_gpus_count:
                held["gpus"] = 0.0
            assert not job.fits_in(decision.freed - Resources(**held))


def _amounts(task: Task) -> dict[str, float]:
    return {"cpus": task["cpus"], "mem_mb": task["mem"], "gpus": task["gpus"]}


@on_snapshots
@given(snapshots)
def test_a_user_over_quota_only_preempts_own_tasks(snapshot: Snapshot) -> None:
    tasks = {job_id(task["seq"]): task for task in snapshot.tasks}
    state = snapshot.state()
    for job in snapshot.queue():
        below = state.is_within_quota(job_id(job["seq"]))
        decision = state.decide(job_id(job["seq"]))
        if decision is None:
            continue
        if not below:
            stopped = (*decision.victims, *decision.displaced)
            assert {tasks[victim]["user"] for victim in stopped} <= {job["user"]}
        state.apply(decision)


@on_snapshots
@given(snapshots, st.integers())
def test_the_order_of_tasks_and_hosts_in_the_input_changes_nothing(snapshot: Snapshot, seed: int) -> None:
    rng = Random(seed)
    result = replace(
        snapshot,
        tasks=rng.sample(snapshot.tasks, len(snapshot.tasks)),
        spare=dict(rng.sample(sorted(snapshot.spare.items()), len(snapshot.spare))),
    )

    assert result.rebalance() == snapshot.rebalance()


@on_snapshots
@given(snapshots)
def test_a_decision_has_no_side_effects_and_is_repeatable(snapshot: Snapshot) -> None:
    index, hosts = snapshot.index(), snapshot.hosts()
    offers = list(hosts.offers)
    before = _state_of(index)

    first, second = (
        rebalance(
            index,
            hosts,
            snapshot.limits,
            settings=snapshot.settings,
            placement_context=snapshot.placement_context(),
        )
        for _ in range(2)
    )

    assert first == second
    assert _state_of(index) == before
    assert hosts.offers == offers


def _state_of(index: QueueIndex) -> dict[str, object]:
    return {
        user: (running_jobs(index, user), waiting_jobs(index, user), index.usage(user))
        for user in index.users()
    }


@on_snapshots
@given(snapshots)
def test_a_cycle_keeps_its_limit_and_preempts_no_task_twice(snapshot: Snapshot) -> None:
    decided = snapshot.rebalance()

    assert len(decided.preemptions) <= snapshot.settings.max_preemption
    assert len(set(decided.victims)) == len(decided.victims)
    running = {job_id(task["seq"]) for task in snapshot.tasks if "start_ms" in task}
    assert running.issuperset(decided.victims)
