"""The fair-share specification, sections 2 to 5, word for word and without any speed.

The real functions are held to this module (`tests.scheduling.ways_agree`). It shares nothing with them but
the values they take and return.

Not here: columns, heaps, caches. Preemption is in `tests.scheduling.reference_preemption`.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cook_jupyter.model.decisions import Match, Matching, Refusal, Scaleback
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.offer import HostKind, Offer
from cook_jupyter.model.pool import DruMode
from cook_jupyter.scheduling.constraints.constraints import GroupPlacement, PlacementKind, PoolDefaults
from tests.scheduling.queues import job_id

Task = Mapping[str, Any]


# --- section 1: words


def key(task: Task) -> tuple[float, ...]:
    started = task.get("start_ms")
    return (
        -task.get("priority", 50),
        float("inf") if started is None else started,
        float("-inf") if started is None else task.get("task_seq", 0),
        task["seq"],
    )


def usage(task: Task) -> Usage:
    return Usage(count=1, cpus=task["cpus"], mem_mb=task["mem"], gpus=task.get("gpus", 0.0))


def plus(one: Usage, other: Usage) -> Usage:
    return Usage(
        count=one.count + other.count,
        cpus=one.cpus + other.cpus,
        mem_mb=one.mem_mb + other.mem_mb,
        gpus=one.gpus + other.gpus,
    )


def total(tasks: Iterable[Task]) -> Usage:
    used = Usage()
    for task in tasks:
        used = plus(used, usage(task))
    return used


def waits(task: Task) -> bool:
    return task.get("start_ms") is None


def by_user(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Each user's tasks in the user's order; users in order of name."""
    users: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=key):
        users.setdefault(task["user"], []).append(task)
    return dict(sorted(users.items()))


# --- section 3: ranking


def cut(tasks: Sequence[Task], quota: Quota, limit: int) -> list[Task]:
    kept: list[Task] = []
    used, over = Usage(), 0
    for task in tasks:
        used = plus(used, usage(task))
        if not quota.allows(used):
            over += 1
            if over > limit:
                break
        kept.append(task)
    return kept


def rank(
    tasks: Sequence[Task], limits: UserLimits, mode: DruMode = DruMode.DEFAULT, over_quota: int = 100
) -> list[tuple[float, Task]]:
    """Score and task of all waiting jobs in rank order."""
    lists: list[list[tuple[float, Task]]] = []
    for user, job_constraints in by_user(tasks).items():
        share = limits.share(user)
        scored: list[tuple[float, Task]] = []
        held = Usage()
        for task in cut(job_constraints, limits.quota(user), over_quota):
            held = plus(held, usage(task))
            if mode is DruMode.GPU:
                dru = held.gpus / share.gpus
            else:
                dru = max(held.mem_mb / share.mem_mb, held.cpus / share.cpus)
            scored.append((dru, task))
        lists.append(scored)
    merged: list[tuple[float, Task]] = []
    taken = [0] * len(lists)  # elements of each list
    served = [-1] * len(lists)  # when each list was served last
    left = [number for number, scored in enumerate(lists) if scored]
    while left:
        # Smallest score; among equals the list served last, then lists never served in starting order.
        number = min(left, key=lambda at: (lists[at][taken[at]][0], -served[at], at))
        merged.append(lists[number][taken[number]])
        served[number] = len(merged)
        taken[number] += 1
        if taken[number] == len(lists[number]):
            left.remove(number)
    return [(dru, task) for dru, task in merged if waits(task)]


def rank_fifo(tasks: Sequence[Task]) -> list[Task]:
    """All waiting jobs by priority, then as they were created, whoever's they are."""
    return sorted((task for task in tasks if waits(task)), key=key)


def seq_filter(queue: Sequence[Task], used: Usage, quota: Quota) -> list[Task]:
    kept: list[Task] = []
    for job in queue:
        used = plus(used, usage(job))
        if quota.allows(used):
            kept.append(job)
    return kept


# --- sections 3 and 4: the queue and its considerable jobs


def accept_all(_: Task) -> bool:
    return True


@dataclass(kw_only=True)
class Filters:
    pool_quota: Quota = field(default_factory=Quota)
    group_quota: Quota = field(default_factory=Quota)
    group_usage: Usage = field(default_factory=Usage)
    tokens: Mapping[str, float] | None = None
    accepts: Callable[[Task], bool] = accept_all
    largest: tuple[float, float] = (math.inf, math.inf)  # cpus and memory


def pool_usage(tasks: Sequence[Task]) -> Usage:
    """What runs, added up by user in order of name."""
    used = Usage()
    for job_constraints in by_user(task for task in tasks if not waits(task)).values():
        used = plus(used, total(job_constraints))
    return used


def queue_of(
    tasks: Sequence[Task],
    limits: UserLimits,
    filters: Filters,
    mode: DruMode = DruMode.DEFAULT,
    over_quota: int = 100,
    *,
    fair: bool = True,
) -> list[Task]:
    """Cook's queue: ranked, within the quotas of pool and group, without offensive jobs."""
    queue = [job for _, job in rank(tasks, limits, mode, over_quota)] if fair else rank_fifo(tasks)
    queue = seq_filter(queue, pool_usage(tasks), filters.pool_quota)
    queue = seq_filter(queue, filters.group_usage, filters.group_quota)
    return [job for job in queue if job["cpus"] <= filters.largest[0] and job["mem"] <= filters.largest[1]]


def considerable(
    tasks: Sequence[Task],
    limits: UserLimits,
    filters: Filters,
    number: int,
    mode: DruMode = DruMode.DEFAULT,
    over_quota: int = 100,
    *,
    fair: bool = True,
) -> tuple[list[Task], dict[str, int]]:
    """The jobs to be matched now, and how many of each user the launch rate held back."""
    queue = queue_of(tasks, limits, filters, mode, over_quota, fair=fair)
    used = {
        user: total(task for task in job_constraints if not waits(task))
        for user, job_constraints in by_user(tasks).items()
    }
    within: list[Task] = []
    for job in queue:  # each user's own seq_filter
        user = job["user"]
        used[user] = plus(used[user], usage(job))
        if limits.quota(user).allows(used[user]):
            within.append(job)
    seen: dict[str, int] = {}
    held: dict[str, int] = {}
    rated: list[Task] = []
    for job in within:
        user = job["user"]
        seen[user] = seen.get(user, 0) + 1
        if filters.tokens is None or seen[user] <= filters.tokens.get(user, math.inf):
            rated.append(job)
        else:
            held[user] = held.get(user, 0) + 1
    rated = seq_filter(rated, pool_usage(tasks), filters.pool_quota)
    return [job for job in rated if filters.accepts(job)][:number], held


# --- section 5: placing


@dataclass(kw_only=True)
class Facts:
    """What placing looks at besides jobs and offers; running tasks of groups are (group, host)."""

    good_enough: float = 0.8
    defaults: PoolDefaults = field(default_factory=PoolDefaults)
    reservations: Mapping[JobId, str] = field(default_factory=dict)
    groups: Mapping[GroupId, GroupPlacement] = field(default_factory=dict)
    running: Sequence[tuple[str, str]] = ()
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    now_ms: int = 0


@dataclass(kw_only=True)
class Host:
    """One host in one cycle: its offer, and the jobs that the cycle has assigned to it."""

    offer: Offer
    cpus: float = 0.0
    mem: float = 0.0
    gpus: float = 0.0
    free_ports: list[int] = field(default_factory=list)
    disk: dict[str, float] = field(default_factory=dict)
    tasks: int = 0


def hosts_of(offers: Sequence[Offer]) -> list[Host]:
    """Hosts by name. Several offers of one host are added up."""
    by_name: dict[str, Offer] = {}
    for offer in offers:
        first = by_name.get(offer.host)
        by_name[offer.host] = offer if first is None else added_up(first, offer)
    return [
        Host(
            offer=offer,
            free_ports=sorted(port for first, last in offer.ports for port in range(first, last + 1)),
            disk=dict(offer.disk_mb),
        )
        for _, offer in sorted(by_name.items())
    ]


def added_up(first: Offer, second: Offer) -> Offer:
    untils = [offer.until_ms for offer in (first, second) if offer.until_ms is not None]
    users = [offer.users for offer in (first, second) if offer.users is not None]
    return replace(
        first,
        room=first.room + second.room,
        ports=first.ports + second.ports,
        gpu_models={**first.gpu_models, **second.gpu_models},
        disk_mb={**first.disk_mb, **second.disk_mb},
        until_ms=min(untils, default=None),
        users=frozenset.intersection(*users) if users else None,
    )


def disk_asked(job: Task, defaults: PoolDefaults) -> tuple[str, float] | None:
    named = job.get("disk_type") or defaults.disk_type
    if not defaults.disk or named is None:
        return None
    requested = job.get("disk_request")
    return defaults.disk_types.get(named, named), defaults.disk_mb if requested is None else requested


MACHINE_TYPE = {"cpu-architecture", "node-family", "node-type"}
Cohosts = Sequence[tuple[str, str]]  # group and host of its tasks


def failing_constraint(
    job: Task, host: Host, facts: Facts, cohosts: Cohosts, by_name: Mapping[str, Host]
) -> str | None:
    """The first hard constraint that fails."""
    for name, fails in constraints_of(job, host, facts):
        if fails:
            return name
    return failing_group_constraint(job, host.offer, facts, cohosts, by_name)


def constraints_of(job: Task, host: Host, facts: Facts) -> Iterator[tuple[str, bool]]:
    """The hard constraints in the order of the specification's table, groups aside."""
    offer, defaults = host.offer, facts.defaults
    yield "novel_host_constraint", offer.host in job.get("avoid", ())
    yield (
        "gpu_host_constraint" if job.get("gpus") else "non_gpu_host_constraint",
        wrong_gpus(job, host, facts),
    )
    disk = disk_asked(job, defaults)
    on_kubernetes = offer.kind is HostKind.KUBERNETES
    yield (
        "disk_host_constraint",
        on_kubernetes and disk is not None and host.disk.get(disk[0], 0.0) < disk[1],
    )
    demands = list(job.get("constraints", ()))
    named = {attribute for attribute, _ in demands}
    named |= MACHINE_TYPE if named & MACHINE_TYPE else set()
    demands += [demand for demand in defaults.constraints if demand[0] not in named]
    yield "user_defined_constraint", any(offer.attributes.get(name) != value for name, value in demands)
    started, runtime_ms = offer.attributes.get("host-start-time"), job.get("runtime_ms")
    if runtime_ms is not None and started is not None and defaults.host_lifetime_ms is not None:
        dies_ms = float(started) * 1000 + defaults.host_lifetime_ms
        yield "estimated_completion_constraint", not facts.now_ms + runtime_ms < dies_ms
    location = job.get("location")
    yield "checkpoint_locality_constraint", location is not None and offer.location != location
    yield "offer_users_constraint", offer.users is not None and job["user"] not in offer.users
    ends_ms = facts.now_ms + job.get("longest_ms", math.inf)
    yield "offer_end_constraint", offer.until_ms is not None and ends_ms > offer.until_ms
    is_reserved = offer.host in facts.reservations.values()
    is_for_it = facts.reservations.get(job_id(job["seq"])) == offer.host
    yield "rebalancer_reservation_constraint", is_reserved and not is_for_it
    most = defaults.max_tasks_per_host
    yield "max_tasks_per_host_constraint", most is not None and not offer.task_count + host.tasks < most


def wrong_gpus(job: Task, host: Host, facts: Facts) -> bool:
    offer, gpus = host.offer, job.get("gpus", 0.0)
    if offer.kind is HostKind.PLAIN:
        return False  # gpus are a resource there
    if offer.kind is HostKind.MESOS or not gpus:
        return bool(gpus) or (offer.kind is HostKind.KUBERNETES and bool(offer.gpu_models))
    model = job.get("gpu_model") or facts.defaults.gpu_model
    has_tasks = offer.task_count + host.tasks > 0
    return model is None or offer.gpu_models.get(model, 0) != gpus or has_tasks


def failing_group_constraint(
    job: Task, offer: Offer, facts: Facts, cohosts: Cohosts, by_name: Mapping[str, Host]
) -> str | None:
    placement = facts.groups.get(job.get("group", ""))
    if placement is None or placement.kind is PlacementKind.ALL:
        return None
    theirs = [host for group, host in cohosts if group == job["group"]]
    if placement.kind is PlacementKind.UNIQUE:
        return "unique_host_placement_group_constraint" if offer.host in theirs else None

    def value_of(host: str) -> str | None:
        if placement.attribute == "HOSTNAME":
            return host
        if host in by_name:
            return by_name[host].offer.attributes.get(placement.attribute)
        return facts.attributes.get(host, {}).get(placement.attribute)

    values = [value_of(host) for host in theirs]
    value = value_of(offer.host)
    if placement.kind is PlacementKind.ATTRIBUTE_EQUALS:
        fails = bool(values) and value not in values
        return "attribute_equals_host_placement_group_constraint" if fails else None
    frequency = {used: values.count(used) for used in values}
    if not frequency or value not in frequency:
        return None
    least = min(frequency.values()) if len(frequency) >= placement.minimum else 0
    most = max(frequency.values())
    if least == most or frequency[value] < most:
        return None
    return "balanced_host_placement_group_constraint"


def missing(job: Task, host: Host) -> list[str]:
    """The resources that do not fit: used + asked > total. Gpus are a resource on plain hosts."""
    room = host.offer.room
    gpus, ports = job.get("gpus", 0.0), job.get("ports", 0)
    named = {
        "cpus": host.cpus + job["cpus"] > room.cpus,
        "mem": host.mem + job["mem"] > room.mem_mb,
        "gpus": bool(gpus) and host.offer.kind is HostKind.PLAIN and host.gpus + gpus > room.gpus,
        "ports": ports > len(host.free_ports),
    }
    return [name for name, is_short in named.items() if is_short]


def fill(running: float, assigned: float, requested: float, offered: float) -> float:
    whole = offered + running
    return (running + assigned + requested) / (whole or 1.0)


def fitness(job: Task, host: Host) -> float:
    room, running = host.offer.room, host.offer.running
    cpu_fill = fill(running.cpus, host.cpus, job["cpus"], room.cpus)
    mem_fill = fill(running.mem_mb, host.mem, job["mem"], room.mem_mb)
    return 0.5 + 0.35 * ((cpu_fill + mem_fill) / 2)


def place(
    jobs: Sequence[Task],
    offers: Sequence[Offer],
    facts: Facts,
    smallest: tuple[float, float] = (0.0, 0.0),
) -> tuple[list[Match], list[Refusal]]:
    """Matches and refusals of the jobs that are considered.

    The cycle ends behind the first refused job at whose turn no host has room for `smallest`, cpus and memory
    (docs/reference/scheduling-rules.md).
    """
    hosts = hosts_of(offers)
    by_name = {host.offer.host: host for host in hosts}
    cohosts = list(facts.running)
    matches: list[Match] = []
    refusals: list[Refusal] = []
    for job in jobs:
        best: Host | None = None
        best_fitness = 0.0
        resources: dict[str, int] = {}
        constraints: dict[str, int] = {}
        for at, host in enumerate(hosts):
            if at % 10 == 0 and best is not None and best_fitness > facts.good_enough:
                break
            failing = failing_constraint(job, host, facts, cohosts, by_name)
            if failing is not None:
                constraints[failing] = constraints.get(failing, 0) + 1
                continue
            lacking = missing(job, host)
            for name in lacking:
                resources[name] = resources.get(name, 0) + 1
            if not lacking and (best is None or fitness(job, host) > best_fitness):
                best, best_fitness = host, fitness(job, host)
        if best is None:
            refusals.append(Refusal(job_id=job_id(job["seq"]), resources=resources, constraints=constraints))
            if not any(
                host.cpus + smallest[0] <= host.offer.room.cpus
                and host.mem + smallest[1] <= host.offer.room.mem_mb
                for host in hosts
            ):
                break
            continue
        ports = tuple(best.free_ports[: job.get("ports", 0)])
        del best.free_ports[: len(ports)]
        best.cpus += job["cpus"]
        best.mem += job["mem"]
        best.gpus += job.get("gpus", 0.0)
        best.tasks += 1
        disk = disk_asked(job, facts.defaults)
        if best.offer.kind is HostKind.KUBERNETES and disk is not None:
            best.disk[disk[0]] = best.disk.get(disk[0], 0.0) - disk[1]
        if job.get("group") is not None:
            cohosts.append((job["group"], best.offer.host))
        offer = best.offer
        matches.append(Match(job_id=job_id(job["seq"]), host=offer.host, cluster=offer.cluster, ports=ports))
    return matches, refusals


# --- section 5: the match cycle


def smallest_request(tasks: Sequence[Task]) -> tuple[float, float]:
    """The least cpus and the least memory of all waiting jobs, each rounded down to nine binary digits."""
    waiting = [task for task in tasks if waits(task)]
    return (
        nine_digits(min((job["cpus"] for job in waiting), default=0.0)),
        nine_digits(min((job["mem"] for job in waiting), default=0.0)),
    )


def nine_digits(amount: float) -> float:
    """The amount cut off behind its first nine binary digits: one before the point, eight behind it."""
    (bits,) = struct.unpack("<q", struct.pack("<d", amount))
    (cut_off,) = struct.unpack("<d", struct.pack("<q", bits >> 44 << 44))
    return float(cut_off)


def scaled_back(before: Scaleback, head_ok: bool, most: int) -> Scaleback:
    considered_next = most if head_ok else max(1, math.floor(0.95 * before.considerable))
    if considered_next != 1:
        return Scaleback(considerable=considered_next)
    floor = before.cycles_at_floor + 1
    return Scaleback(considerable=most) if floor >= 1000 else Scaleback(considerable=1, cycles_at_floor=floor)


def match_cycle(
    tasks: Sequence[Task],
    offers: Sequence[Offer],
    limits: UserLimits,
    filters: Filters,
    facts: Facts,
    before: Scaleback,
    *,
    mode: DruMode = DruMode.DEFAULT,
    over_quota: int = 100,
    fair: bool = True,
    max_considered: int = 1000,
    indebted: frozenset[str] = frozenset(),
) -> Matching:
    jobs, held = considerable(tasks, limits, filters, before.considerable, mode, over_quota, fair=fair)
    placed, refusals = place(jobs, offers, facts, smallest_request(tasks))
    matches = tuple(match for match in placed if match.cluster not in indebted)
    matched = {match.job_id for match in matches}
    head_ok = not matches or job_id(jobs[0]["seq"]) in matched
    return Matching(
        matches=matches,
        refusals=tuple(refusals),
        considered=len(placed) + len(refusals),
        head_matched=head_ok,
        scaleback=scaled_back(before, head_ok, max_considered),
        rate_limited=held,
        reservations={job: host for job, host in facts.reservations.items() if job not in matched},
    )
