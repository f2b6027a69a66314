"""Random pools for the differential test: tasks, limits, filters, hosts and facts, from a seed.

Most are small; some have hundreds of users or hosts. Amounts, shares and sizes are drawn from few values, so
that scores and fitnesses tie, and quotas are met exactly or missed by the last bit.
"""

import random
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from enum import Enum
from math import nextafter
from typing import Any

from cook_jupyter.model.decisions import Scaleback
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import UNLIMITED, Quota, Share, Usage, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import GroupPlacement, PlacementKind, PoolDefaults
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.ranking.ranking import Order, RankSettings
from tests.scheduling.queues import job_id

Task = dict[str, Any]


@dataclass(kw_only=True)
class World:
    """All that a match cycle of one pool decides by."""

    seed: int
    tasks: list[Task]
    offers: list[Offer]
    offers_before: list[Offer]  # of the cycle before; hosts that are kept have followed these
    limits: UserLimits
    rank: RankSettings
    filters: QueueFilters
    refused: frozenset[str]  # jobs that the launch filter defers
    good_enough: float
    defaults: PoolDefaults
    reservations: dict[JobId, str]
    groups: dict[GroupId, GroupPlacement]
    attributes: dict[str, dict[str, str]]  # of hosts without offer
    now_ms: int
    scaleback: Scaleback
    max_considered: int
    indebted: frozenset[str]

    def __str__(self) -> str:
        lines = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                lines += [f"{field.name}:", *(f"    {brief(item)}" for item in value)]
            else:
                lines.append(f"{field.name}: {brief(value)}")
        return "\n".join(lines)


def brief(value: Any) -> str:
    """Return a value as text, its fields that are at their default left out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {brief(inner)}" for key, inner in value.items()) + "}"
    if not is_dataclass(value) or isinstance(value, type):
        return str(value) if isinstance(value, Enum) else repr(value)
    named = [(field, getattr(value, field.name)) for field in fields(value)]
    shown = [(field.name, inner) for field, inner in named if inner != _default(field)]
    return f"{type(value).__name__}({', '.join(f'{name}={brief(inner)}' for name, inner in shown)})"


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


AMOUNTS: Sequence[Sequence[float]] = (
    (0.5, 1.0, 1.0, 2.0, 3.0),
    (1.0,),
    (0.1, 0.2, 0.3, 0.7, 1 / 3),
    (1.0, nextafter(1.0, 2.0), nextafter(1.0, 0.0), 0.3, 0.1 + 0.2),
    (0.0, 0.0, 1.0, 0.25),
    (0.0, 1e-9, 1.0, 1e6, 0.1),
)
SHARES: Sequence[float] = (1.0, 1.0, 2.0, 3.0, 0.1, 1 / 3, 1e-300, 5e-324, UNLIMITED, 10.0)
PRIORITIES: Sequence[Sequence[int]] = (
    (50,),
    (50,),
    (50, 50, 20),
    (20, 50, 70),
    (0, 16_000_000),
    tuple(range(40, 61)),
)


# How often of 1000, users from and to, tasks up to, hosts from and to.
SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    "small": (830, 1, 5, 24, 0, 14),
    "few have many": (50, 2, 30, 200, 0, 30),
    "medium": (90, 1, 40, 120, 0, 40),
    "many users": (18, 24, 300, 700, 0, 30),
    "many hosts": (11, 1, 8, 150, 100, 400),
    "very many hosts": (1, 1, 4, 60, 4100, 4500),
}


NOW_MS = 1_100_000


def random_world(seed: int) -> World:
    """Return the world of a seed; the same one each time."""
    rng = random.Random(seed)
    size = rng.choices(list(SIZES), [often for often, *_ in SIZES.values()])[0]
    _, least_users, most_users, most_tasks, least_hosts, most_hosts = SIZES[size]
    users = [f"user-{number:03}" for number in range(rng.randint(least_users, most_users))]
    amounts = rng.choice(AMOUNTS)
    tasks = _tasks(rng, users, rng.randint(0, most_tasks), amounts)
    if size == "few have many" or rng.random() < 0.1:
        _let_what_waits_come_first(rng, tasks)
    offers = _offers(rng, rng.randint(least_hosts, most_hosts), amounts)
    reservable = [job_id(rng.randint(1, len(tasks) + 1)) for _ in range(rng.choice((0, 0, 1, 3)))]
    names = [offer.host for offer in offers] or ["gone-0"]
    max_considered = rng.choice((1000, 1000, 1, 2, 7, 40))
    considerable = rng.choice((max_considered, max(1, max_considered // 2), 1))
    offers_before = _offers_before(rng, offers, amounts)
    if not seed % 6:
        offers, offers_before = _limit(random.Random(seed), tasks, offers, offers_before, users)
    return World(
        seed=seed,
        tasks=tasks,
        offers=offers,
        offers_before=offers_before,
        limits=_limits(rng, users, amounts),
        rank=RankSettings(
            order=rng.choice((Order.FAIR, Order.FAIR, Order.FAIR, Order.FIFO)),
            mode=rng.choice((DruMode.DEFAULT, DruMode.DEFAULT, DruMode.DEFAULT, DruMode.GPU)),
            max_over_quota_jobs=rng.choice((0, 1, 3, 100)),
        ),
        filters=_filters(rng, users, amounts),
        refused=frozenset(job_id(seq) for seq in range(1, len(tasks) + 1) if not rng.randrange(4))
        if rng.random() < 0.2
        else frozenset(),
        good_enough=rng.choice((0.8, 0.8, 1.0, 0.65, 0.5, 0.1, 0.5 + 0.35 * 0.5)),
        defaults=_defaults(rng),
        reservations={job: rng.choice([*names, "gone-1"]) for job in reservable},
        groups=_groups(rng),
        attributes={"gone-0": {"HOSTNAME": "gone-0", "zone": "a"}, "gone-1": {"HOSTNAME": "gone-1"}},
        now_ms=NOW_MS,
        scaleback=Scaleback(considerable=considerable, cycles_at_floor=rng.choice((0, 5, 999))),
        max_considered=max_considered,
        indebted=frozenset({"west"}) if not rng.randrange(8) else frozenset(),
    )


def _limit(
    rng: random.Random,
    tasks: Sequence[Task],
    offers: Sequence[Offer],
    offers_before: Sequence[Offer],
    users: Sequence[str],
) -> tuple[list[Offer], list[Offer]]:
    """Let some offers be for a time or for some users, and some jobs have a longest run time."""
    for task in tasks:
        if rng.randrange(3):
            task["longest_ms"] = rng.choice((1, 1000, 1001, 10**6))

    def limited(offer: Offer) -> Offer:
        until_ms = NOW_MS + rng.choice((0, 1000, 10**6))
        some = frozenset(rng.sample(users, rng.randint(0, len(users))))
        return replace(
            offer,
            until_ms=rng.choice((None, None, until_ms)),
            users=rng.choice((None, None, some)),
        )

    return [limited(offer) for offer in offers], [limited(offer) for offer in offers_before]


def _tasks(rng: random.Random, users: Sequence[str], count: int, amounts: Sequence[float]) -> list[Task]:
    """Tasks of the users; often the users' lists are alike, so that they tie along their whole length."""
    priorities = rng.choice(PRIORITIES)
    runs = rng.choice((0.0, 0.2, 0.5, 0.9))
    alike = rng.random() < 0.4
    demanding = rng.random() < 0.5
    whose = [rng.choice(users) for _ in range(count)]
    if rng.random() < 0.2:  # one user has most of them
        whose = [users[0] if rng.random() < 0.7 else user for user in whose]
    patterns = [
        (rng.choice(amounts), rng.choice(amounts), rng.choice(priorities), rng.random() < runs)
        for _ in range(1 + count)
    ]
    number_of: dict[str, int] = {}
    tasks: list[Task] = []
    for seq, user in enumerate(whose, 1):
        number = number_of[user] = number_of.get(user, 0) + 1
        cpus, mem, priority, is_running = patterns[number if alike else seq]
        task: Task = {"seq": seq, "user": user, "cpus": cpus, "mem": mem, "priority": priority}
        if not rng.randrange(6):
            task["gpus"] = rng.choice((1.0, 2.0, 0.5))
        if demanding:
            task |= _demands(rng)
        if is_running:
            task |= {
                "start_ms": rng.randint(1, 4),
                "task_seq": rng.randrange(3),
                "host": f"host-{rng.randrange(12):04}" if rng.randrange(4) else "gone-0",
            }
        tasks.append(task)
    return tasks


def _let_what_waits_come_first(rng: random.Random, tasks: list[Task]) -> None:
    """Give running tasks a low priority and often many cpus, and the first user most of the waiting jobs."""
    for task in tasks:
        if task.get("start_ms") is not None:
            task["priority"] = 0
            task["cpus"] *= rng.choice((1.0, 1.0, 30.0))
        else:
            task["priority"] = 50
            if rng.random() < 0.6:
                task["user"] = tasks[0]["user"]


def _demands(rng: random.Random) -> Task:
    """What one job demands of its host."""
    demands: Task = {}
    kind = rng.randrange(12)
    if kind == 0:
        demands["constraints"] = [("zone", rng.choice("abc"))]
    elif kind == 1:
        demands["constraints"] = [("HOSTNAME", f"host-{rng.randrange(4):04}"), ("zone", "a")]
    elif kind == 2:
        demands["avoid"] = [f"host-{number:04}" for number in range(rng.randint(1, 5))]
    elif kind in (3, 4):
        demands["group"] = rng.choice(("apart", "alike", "balanced", "anyhow", "by-host"))
    elif kind == 5:
        demands["ports"] = rng.randint(1, 3)
    elif kind == 6:
        demands["gpu_model"] = rng.choice(("p100", "k80"))
    elif kind == 7:
        demands |= {"disk_request": rng.choice((5.0, 40.0, 80.0)), "disk_type": rng.choice(("ssd", "fast"))}
    elif kind == 8:
        demands["location"] = "lab"
    elif kind == 9:
        demands["runtime_ms"] = rng.choice((0, 399_999, 400_000, 900_000))
    return demands


def _offers(rng: random.Random, count: int, amounts: Sequence[float]) -> list[Offer]:
    """Offers in no particular order; now and then two of one host."""
    sizes = [(rng.choice((1.0, 2.0, 4.0, 3.0, 1.1)), rng.choice((1.0, 2.0, 10.0, 0.7))) for _ in range(3)]
    sizes = sizes[: rng.randint(1, 3)]
    kinds = rng.choice(([HostKind.PLAIN], [HostKind.PLAIN], list(HostKind)))
    in_use = rng.choice((0.0, 0.3, 1.0))
    offers = []
    for number in range(count):
        cpus, mem_mb = rng.choice(sizes)
        running = Resources()
        room = Resources(cpus=cpus, mem_mb=mem_mb, gpus=rng.choice((0.0, 0.0, 1.0, 2.0)))
        if rng.random() < in_use:
            running = Resources(cpus=rng.choice(amounts), mem_mb=rng.choice(amounts))
        if not rng.randrange(40):
            room = Resources(cpus=rng.choice((0.0, -1.0, cpus)), mem_mb=0.0)
        kind = rng.choice(kinds)
        name = f"host-{number:04}"
        offer = Offer(
            host=name,
            cluster=rng.choice(("east", "west")),
            pool=PoolName("pool"),
            room=room,
            running=running,
            attributes={"HOSTNAME": name, "zone": rng.choice("ab")}
            | ({"host-start-time": str(rng.choice((1000, 5000)))} if not rng.randrange(4) else {}),
            ports=((31_000, 31_001), (32_000, 32_000 + rng.randrange(3))) if rng.randrange(3) else (),
            task_count=rng.choice((0, 0, 1, 2)),
            kind=kind,
            gpu_models=rng.choice(({}, {"p100": 1.0}, {"p100": 2.0, "k80": 1.0})),
            disk_mb={"ssd": rng.choice((0.0, 40.0, 100.0))},
            location=rng.choice((None, "lab")),
        )
        offers.append(offer)
        if not rng.randrange(30):
            more = Resources(cpus=rng.choice(amounts), mem_mb=rng.choice(amounts))
            offers.append(
                Offer(
                    host=name,
                    cluster=offer.cluster,
                    pool=PoolName("pool"),
                    room=more,
                    running=running,
                    kind=kind,
                )
            )
    rng.shuffle(offers)
    return offers


def _offers_before(rng: random.Random, offers: Sequence[Offer], amounts: Sequence[float]) -> list[Offer]:
    """Offers as they may have been a cycle before: some the same, some other, some missing, some gone."""
    before = [offer for offer in offers if rng.random() < 0.8]
    changed = _offers(rng, min(len(offers), 30), amounts)
    other = {offer.host: offer for offer in changed}
    before = [other.get(offer.host, offer) if not rng.randrange(3) else offer for offer in before]
    if not rng.randrange(2):
        before.append(
            Offer(host="gone-1", cluster="east", pool=PoolName("pool"), room=Resources(cpus=2.0, mem_mb=2.0))
        )
    return before


def _quota(rng: random.Random, amounts: Sequence[float], scale: int) -> Quota:
    """A quota that is often met exactly: a sum of some amounts."""

    def total() -> float:
        used = 0.0
        for _ in range(rng.randrange(scale)):
            used += rng.choice(amounts)
        return used

    kind = rng.randrange(6)
    if kind == 0:
        return Quota(count=rng.randrange(scale))
    if kind == 1:
        return Quota(cpus=total(), mem_mb=rng.choice((UNLIMITED, total())))
    if kind == 2:
        return Quota(gpus=float(rng.randrange(3)))
    if kind == 3:
        return rng.choice((Quota(count=0), Quota(cpus=0.0), Quota(mem_mb=0.0), Quota(gpus=0.0)))
    return Quota()


def _limits(rng: random.Random, users: Sequence[str], amounts: Sequence[float]) -> UserLimits:
    def share() -> Share:
        return Share(cpus=rng.choice(SHARES), mem_mb=rng.choice(SHARES), gpus=rng.choice(SHARES))

    own_shares = rng.choice((0.0, 0.0, 0.3, 1.0))
    own_quotas = rng.choice((0.0, 0.3))
    return UserLimits(
        shares={user: share() for user in users if rng.random() < own_shares},
        quotas={user: _quota(rng, amounts, 8) for user in users if rng.random() < own_quotas},
        default_share=rng.choice((Share(), Share(cpus=1.0, mem_mb=1.0, gpus=1.0), share())),
        default_quota=_quota(rng, amounts, 12) if not rng.randrange(3) else Quota(),
    )


def _filters(rng: random.Random, users: Sequence[str], amounts: Sequence[float]) -> QueueFilters:
    pooled = rng.random() < 0.3
    large = rng.random() < 0.25
    return QueueFilters(
        pool_quota=_quota(rng, amounts, 30) if pooled else Quota(),
        group_quota=_quota(rng, amounts, 30) if pooled else Quota(),
        group_usage=Usage(count=rng.randrange(4), cpus=rng.choice(amounts), mem_mb=rng.choice(amounts)),
        tokens={user: rng.choice((0.0, 1.0, 2.0, 2.5, -1.0, 7.0)) for user in users if rng.randrange(3)}
        if rng.random() < 0.3
        else None,
        max_cpus=rng.choice((None, *amounts)) if large else None,
        max_mem_mb=rng.choice((None, *amounts)) if large else None,
    )


def _defaults(rng: random.Random) -> PoolDefaults:
    return PoolDefaults(
        constraints=rng.choice(((), (), (), (("zone", "a"),))),
        gpu_model=rng.choice((None, "p100")),
        disk=not rng.randrange(2),
        disk_type=rng.choice((None, "ssd")),
        disk_mb=20.0,
        disk_types={"fast": "ssd"},
        host_lifetime_ms=rng.choice((None, 500_000)),
        max_tasks_per_host=rng.choice((None, None, None, 2, 3)),
    )


def _groups(rng: random.Random) -> dict[GroupId, GroupPlacement]:
    return {
        GroupId("apart"): GroupPlacement(kind=PlacementKind.UNIQUE),
        GroupId("alike"): GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS, attribute="zone"),
        GroupId("balanced"): GroupPlacement(
            kind=PlacementKind.BALANCED,
            attribute=rng.choice(("zone", "HOSTNAME")),
            minimum=rng.randrange(4),
        ),
        GroupId("anyhow"): GroupPlacement(),
        GroupId("by-host"): GroupPlacement(kind=PlacementKind.ATTRIBUTE_EQUALS),
    }
