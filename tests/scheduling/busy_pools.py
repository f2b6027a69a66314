"""Random hosts in use and jobs that ask for them, from a generator of random numbers.

Amounts come from few values, so that hosts tie; jobs of one shape often follow each other.
"""

import random
from typing import Any

from cook_jupyter.model.job import GroupId
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    ConstraintClass,
    GroupPlacement,
    JobConstraints,
    PlacementKind,
    PoolDefaults,
)
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.queue.task_request import TaskRequest
from tests.scheduling.queues import job_id

HARDLY = 1e-9  # more than fits, yet less than the error of estimates
GROUPS = {
    GroupId("apart"): GroupPlacement(kind=PlacementKind.UNIQUE),
    GroupId("alike"): GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
    GroupId("spread"): GroupPlacement(kind=PlacementKind.BALANCED, attribute="rack", minimum=3),
    GroupId("by-host"): GroupPlacement(kind=PlacementKind.BALANCED, attribute="HOSTNAME", minimum=2),
    GroupId("anyhow"): GroupPlacement(),
}
DEMANDS: tuple[dict[str, Any], ...] = (
    {"gpus": 1.0},
    {"gpus": 1.0, "constraints": ConstraintClass(gpu_model="k80")},
    {"ports": 2},
    {"constraints": ConstraintClass(attributes=(("zone", "a"),))},
    {"constraints": ConstraintClass(attributes=(("zone", "b"), ("rack", "s")))},
    {"constraints": ConstraintClass(attributes=(("zone", "nowhere"),))},
    {"constraints": ConstraintClass(disk_type="ssd", disk_mb=40.0)},
    {"constraints": ConstraintClass(disk_type="ssd", disk_mb=0.0)},
    {"constraints": ConstraintClass(disk_type="ssd", disk_mb=0.5)},
    {"constraints": ConstraintClass(disk_type="fast")},
    {"job_constraints": JobConstraints(avoid=frozenset({"host-00", "host-01", "gone"}))},
    {"job_constraints": JobConstraints(location="lab")},
    {"job_constraints": JobConstraints(runtime_ms=600)},
    *({"job_constraints": JobConstraints(group=group)} for group in GROUPS),
)


def some_offers(rng: random.Random) -> list[Offer]:
    """Hosts of few sizes, used in few ways or each in its own."""
    sizes = rng.choice(
        (
            ((4.0, 64.0),),
            ((4.0, 64.0), (8.0, 64.0)),
            ((4.0, 64.0), (4.0, 64.0), (0.0, 64.0), (4.0, 0.0)),
            ((1.1, 30.0), (2.0, 32.0), (3.0, 8.0)),
        )
    )
    parts = rng.choice(((0.0,), (0.0, 0.25, 0.5), (0.5, 0.875, 1.0), None))
    is_plain, is_limited = rng.random() < 0.7, rng.random() < 0.15

    def used(whole: float) -> float:
        return whole * (rng.random() if parts is None else rng.choice(parts))

    offers = []
    for number in range(rng.choice((1, 5, 30, 70))):
        cpus, mem_mb = rng.choice(sizes)
        running = Resources(cpus=used(cpus), mem_mb=used(mem_mb))
        name = f"host-{number:02}"
        started = rng.choice(({}, {"host-start-time": "1"}, {"host-start-time": "1.4"}))
        places = {"HOSTNAME": name, "zone": rng.choice("ab"), "rack": rng.choice("rst")}
        offers.append(
            Offer(
                host=name,
                cluster="east",
                pool=PoolName("pool"),
                room=Resources(cpus=cpus, mem_mb=mem_mb, gpus=rng.choice((0.0, 2.0))) - running,
                running=running,
                attributes={**places, **started},
                ports=rng.choice(((), ((1, 2), (5, 9)))),
                kind=HostKind.PLAIN if is_plain else rng.choice(list(HostKind)),
                gpu_models=rng.choice(({}, {"p100": 1.0}, {"k80": 1.0})),
                disk_mb=rng.choice(({}, {"ssd": 100.0})),
                location=rng.choice((None, "lab")),
                task_count=rng.randrange(2),
                until_ms=rng.choice((None, 1500, 5000)) if is_limited else None,
                users=rng.choice((None, frozenset({"ada"}))) if is_limited else None,
            )
        )
    return offers


def some_requests(rng: random.Random, *, is_limited: bool, number: int = 60) -> list[TaskRequest]:
    """Jobs, often several of one shape in a row.

    Args:
        rng: generator of random numbers.
        is_limited: whether any offer ends or is for some users only.
        number: least number of jobs.
    """
    demanding = rng.random() < 0.5
    cpus = rng.choice(
        (
            (1.0,),
            (0.5, 1.0, 3.0),
            (0.0, 0.1, 0.7, 4.0),
            (1.0, 2.0 + HARDLY),
            (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
        )
    )
    mem_mb = rng.choice(((0.0,), (8.0,), (0.0, 7.0, 30.0), (16.0, 32.0 + HARDLY), (1.0, 2.0, 4.0, 8.0, 16.0)))
    requests: list[TaskRequest] = []
    while len(requests) < number:
        amounts = (rng.choice(cpus), rng.choice(mem_mb))
        more = dict(rng.choice(DEMANDS)) if demanding and not rng.randrange(3) else {}
        if is_limited and "job_constraints" not in more:
            longest_ms = rng.choice((None, 0, 500, 501))
            more["job_constraints"] = JobConstraints(user=rng.choice(("ada", "bob")), longest_ms=longest_ms)
        more_of_them = range(rng.choice((1, 1, 2, 9, 30)))
        requests += [TaskRequest(job_id(len(requests) + more_), *amounts, **more) for more_ in more_of_them]
    return requests


def some_defaults(rng: random.Random) -> PoolDefaults:
    """What a pool demands of hosts; nothing most of the time."""
    if rng.random() < 0.6:
        return PoolDefaults()
    return PoolDefaults(
        constraints=rng.choice(((), (("zone", "b"),))),
        gpu_model=rng.choice((None, "p100")),
        disk=rng.random() < 0.7,
        disk_type=rng.choice((None, "ssd")),
        disk_mb=20.0,
        disk_types={"fast": "ssd"},
        host_lifetime_ms=rng.choice((None, 600)),
        max_tasks_per_host=rng.choice((None, 2, 3)),
    )


def a_context(rng: random.Random) -> PlacementContext:
    """Groups with running tasks, and now and then reservations."""
    hosts = ("host-02", "host-03", "gone")
    is_reserving = rng.random() < 0.15
    running = rng.choice(({}, {"host-01": 1}, {"host-01": 1, "gone": 2}, {"host-00": 2, "host-03": 1}))
    return PlacementContext(
        reservations={job_id(rng.randrange(30)): rng.choice(hosts) for _ in range(2)} if is_reserving else {},
        groups=GROUPS,
        group_hosts=lambda group: {} if group == "alike" else running,
        attributes={"gone": {"HOSTNAME": "gone", "zone": "a"}},
        now_ms=1000,
    )
