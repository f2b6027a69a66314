"""Which tasks may be preempted, and the table of them that decisions read and change."""

from copy import copy
from dataclasses import replace
from itertools import chain
from random import Random

import numpy as np
import pytest

from cook_jupyter.model.limits import Share, UserLimits
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.queue.queue_index import launch_number
from cook_jupyter.scheduling.rebalancing import victims
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings, RebalanceState, ReservedRoom
from cook_jupyter.scheduling.rebalancing.victims import VictimThreshold
from tests.scheduling.preemption_snapshots import Snapshot
from tests.scheduling.queues import job_id

ANY = VictimThreshold(safe_dru=0.0, beneficiary_dru=0.0, min_dru_gap=0.0)


@pytest.mark.parametrize(
    ("dru", "allowed"),
    [
        (0.99, False),  # below the threshold of safe tasks
        (1.0, True),
        (1.25, True),
    ],
)
def test_tasks_below_the_safe_dru_are_spared(dru: float, allowed: bool) -> None:
    threshold = VictimThreshold(safe_dru=1.0, beneficiary_dru=0.0, min_dru_gap=0.5)

    assert threshold.allows(dru) is allowed
    assert threshold.allowed_mask(np.array([dru])).tolist() == [allowed]


@pytest.mark.parametrize(("dru", "allowed"), [(1.25, False), (1.5, False), (1.75, True)])
def test_the_dru_of_a_victim_exceeds_that_of_the_beneficiary_by_more_than_the_gap(
    dru: float, allowed: bool
) -> None:
    threshold = VictimThreshold(safe_dru=1.0, beneficiary_dru=1.0, min_dru_gap=0.5)

    assert threshold.allows(dru) is allowed
    assert threshold.allowed_mask(np.array([dru])).tolist() == [allowed]


@pytest.mark.parametrize("few", [0, 24, 1000])  # changed tasks up to which updates are made one by one
@pytest.mark.parametrize("users", [1, 2, 9, 60])
@pytest.mark.parametrize("rules", [PreemptionSettings(), PreemptionSettings.cook()], ids=["ours", "cook"])
@pytest.mark.parametrize("seed", range(4))
def test_a_table_updated_by_decisions_equals_a_newly_built_one(
    seed: int, rules: PreemptionSettings, users: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(victims, "_FEW", few)
    rng = Random(seed)
    pool = a_pool_of_many_tasks(rng, users, hosts=(3, 8, 40, 80)[seed], rules=rules)
    reserved = {job_id(seq): ReservedRoom("host-1", launch_number(3)) for seq in (310, 311) if seed % 2}
    state = RebalanceState(
        pool.index(),
        pool.hosts(),
        pool.limits,
        pool.settings,
        placement_context=pool.placement_context(),
        reserved=reserved,
    )
    table = state._table
    for job in range(300, 310):
        decision = state.decide(job_id(job))
        if decision is None:
            continue
        state.apply(decision)
        rebuilt = copy(table)
        rebuilt._wheres, rebuilt._depths = table._wheres.copy(), table._depths.copy()
        rebuilt._build(np.fromiter(chain.from_iterable(table.tasks_at), np.int64))

        assert table.tasks_at == rebuilt.tasks_at
        assert [table.position_of(task) for tasks in table.tasks_at for task in tasks] == [
            at for at, tasks in enumerate(table.tasks_at) for _ in tasks
        ]
        for cpus in (1.0, 3.0, 8.0):
            request = (cpus, 1.0, 0.0)
            assert table.scores(*request, ANY).tolist() == pytest.approx(
                rebuilt.scores(*request, ANY).tolist()
            )
            assert table.best_hosts(*request, ANY, None) == rebuilt.best_hosts(*request, ANY, None)


def test_tasks_of_a_host_that_got_another_one_are_still_preempted_in_the_order_of_their_drus() -> None:
    # Without the hog's first task, its later ones (29, each on a host of its own) are below eve's job.
    small = {"cpus": 1.0, "mem": 1.0, "gpus": 0.0, "priority": 50}
    tasks = [
        {**small, "seq": seq, "user": "hog", "start_ms": seq, "task_seq": seq, "host": f"host-{seq:02}"}
        for seq in range(1, 31)
    ]
    tasks[0]["cpus"] = 100.0
    waiting = [("eve", 50.0), ("dan", 100.0), ("fay", 1.0)]
    tasks += [{**small, "seq": 50 + n, "user": user, "cpus": cpus} for n, (user, cpus) in enumerate(waiting)]
    entitled = Share(cpus=1000.0, mem_mb=1000.0)
    state = Snapshot(
        tasks=tasks,
        spare={"host-30": Resources(cpus=50.0, mem_mb=1.0)},
        limits=UserLimits(
            shares={"dan": entitled, "fay": entitled}, default_share=Share(cpus=10.0, mem_mb=10.0)
        ),
        settings=PreemptionSettings.cook(min_dru_diff=0.0),
    ).state()

    for job, host, stopped in (
        (50, "host-30", ()),
        (51, "host-01", (job_id(1),)),
        (52, "host-30", (job_id(50),)),
    ):
        decision = state.decide(job_id(job))
        assert decision is not None
        assert (decision.host, decision.victims + decision.displaced) == (host, stopped)
        state.apply(decision)


def a_pool_of_many_tasks(rng: Random, users: int, hosts: int, rules: PreemptionSettings) -> Snapshot:
    """Of few users, one decision changes the DRUs of many tasks, else of a few."""
    tasks = [
        {"seq": seq, "user": f"user-{seq % users}", "cpus": rng.choice([1.0, 2.0]), "mem": 1.0, "gpus": 0.0}
        | {"start_ms": seq, "task_seq": seq, "host": f"host-{rng.randrange(hosts)}", "priority": 50}
        for seq in range(200)
    ]
    tasks += [
        {
            "seq": seq,
            "user": f"user-{rng.randrange(min(9, users + 2))}",
            "cpus": rng.choice([1.0, 4.0, 9.0]),
            "mem": 1.0,
        }
        | {"gpus": 0.0, "priority": rng.choice([50, 60])}
        for seq in range(300, 312)
    ]
    limits = UserLimits(default_share=Share(cpus=0.5, mem_mb=100.0))
    spare = {
        f"host-{host}": Resources(cpus=rng.choice((1.0, 4.0)), mem_mb=2.0)
        for host in rng.sample(range(hosts), 3)
    }
    settings = replace(rules, min_dru_diff=0.0)
    return Snapshot(tasks=tasks, limits=limits, settings=settings, spare=spare)
