"""The constraints of all hosts at once are those of each host."""

import random
from dataclasses import replace

import pytest

from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import GPU, ConstraintClass, PoolDefaults
from cook_jupyter.scheduling.hosts.checker import NO_PLACEMENT_CONTEXT, ConstraintChecker, with_task
from cook_jupyter.scheduling.hosts.hosts import Hosts
from cook_jupyter.scheduling.hosts.masks import ConstraintMasks
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling.busy_pools import a_context, some_defaults, some_offers, some_requests
from tests.scheduling.queues import job_id


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_a_host_fails_the_same_constraint_first_in_columns_and_alone(first: int) -> None:
    for seed in range(first, first + 20):
        rng = random.Random(seed)
        hosts = Hosts(some_offers(rng))
        defaults, context = some_defaults(rng), a_context(rng)
        masks = ConstraintMasks(hosts, defaults, context)
        checker = ConstraintChecker(hosts, defaults, context)

        for request in some_requests(rng, is_limited=hosts.is_limited, number=40):
            failing_at = checker.failing_at(request) or (lambda _: None)
            alone = [failing_at(position) for position in range(len(hosts))]
            in_columns: list[str | None] = [None] * len(hosts)
            for name, mask in masks.failing(request):
                for position in mask.nonzero()[0].tolist():
                    in_columns[position] = in_columns[position] or name
            is_open = masks.open_to(request)

            assert in_columns == alone, f"seed {seed}, {request}"
            assert (
                [name is None for name in alone] == [True] * len(hosts)
                if is_open is None
                else is_open.tolist() == [name is None for name in alone]
            ), f"seed {seed}, {request}"

            if None in alone:
                position = rng.choice([at for at, name in enumerate(alone) if name is None][:3])
                checker.record_assignment(position, request)
                masks.record_assignment(position, request)


@pytest.mark.parametrize(
    ("constraints", "left"),
    [
        (ConstraintClass(), {"ssd": 80.0}),
        (ConstraintClass(disk_mb=30.0), {"ssd": 70.0}),
        (ConstraintClass(disk_type="fast", disk_mb=30.0), {"ssd": 70.0}),
        (ConstraintClass(disk_type="slow", disk_mb=30.0), {"ssd": 100.0, "slow": -30.0}),
    ],
)
def test_a_node_has_one_more_task_and_less_disk_after_a_job(
    constraints: ConstraintClass, left: dict[str, float]
) -> None:
    node = Offer(
        host="node",
        cluster="east",
        pool=PoolName("pool"),
        room=Resources(),
        disk_mb={"ssd": 100.0},
        task_count=2,
    )
    defaults = PoolDefaults(disk=True, disk_type="ssd", disk_mb=20.0, disk_types={"fast": "ssd"})

    after = with_task(node, TaskRequest(job_id(1), 1.0, 1.0, constraints=constraints), defaults)

    assert after == replace(node, task_count=3, disk_mb=left)


def test_a_node_without_a_type_of_disk_has_none_of_it() -> None:
    offer = Offer(
        host="node", cluster="east", pool=PoolName("pool"), room=Resources(), kind=HostKind.KUBERNETES
    )
    masks = ConstraintMasks(Hosts([offer]), PoolDefaults(disk=True), NO_PLACEMENT_CONTEXT)

    for disk_mb, is_open in ((0.0, True), (0.5, False)):
        constraints = ConstraintClass(disk_type="ssd", disk_mb=disk_mb)
        mask = masks.open_to(TaskRequest(job_id(1), 1.0, 1.0, constraints=constraints))
        assert mask is not None
        assert mask.tolist() == [is_open]


def test_constraints_that_are_first_asked_for_later_count_the_jobs_of_the_cycle() -> None:
    nodes = [
        Offer(
            host=host,
            cluster="east",
            pool=PoolName("pool"),
            room=Resources(),
            kind=HostKind.KUBERNETES,
            gpu_models={"p100": 1.0},
            disk_mb={"ssd": 50.0},
        )
        for host in ("a", "b")
    ]
    defaults = PoolDefaults(disk=True, gpu_model="p100")
    on_disk = TaskRequest(
        job_id(1), 1.0, 1.0, 1.0, constraints=ConstraintClass(disk_type="ssd", disk_mb=40.0)
    )
    on_gpu = TaskRequest(job_id(2), 1.0, 1.0, 1.0)
    checker = ConstraintChecker(Hosts(nodes), defaults, NO_PLACEMENT_CONTEXT)
    checker.record_assignment(0, on_disk)

    for request in (on_gpu, on_disk):
        failing_at = checker.failing_at(request)
        assert failing_at is not None
        assert [failing_at(position) for position in range(2)] == [GPU, None]
