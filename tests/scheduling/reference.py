"""The fair-share specification, word for word and without any speed: what the real functions are held to.

Not here: columns, heaps, caches. Every list is sorted again after each step, as Cook does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode

Task = Mapping[str, Any]


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
    for user in sorted({task["user"] for task in tasks}):
        own = sorted((task for task in tasks if task["user"] == user), key=key)
        own = cut(own, limits.quota(user), over_quota)
        share = limits.share(user)
        scored: list[tuple[float, Task]] = []
        held = Usage()
        for task in own:
            held = plus(held, usage(task))
            if mode is DruMode.GPU:
                dru = held.gpus / share.gpus
            else:
                dru = max(held.mem_mb / share.mem_mb, held.cpus / share.cpus)
            scored.append((dru, task))
        lists.append(scored)
    merged: list[tuple[float, Task]] = []
    lists = [each for each in lists if each]
    while lists:
        lists.sort(key=lambda each: each[0][0])  # stable: the list served last stands in front among equals
        served = lists.pop(0)
        merged.append(served.pop(0))
        if served:
            lists.insert(0, served)
    return [(dru, task) for dru, task in merged if task.get("start_ms") is None]


def rank_fifo(tasks: Sequence[Task]) -> list[Task]:
    """All waiting jobs by priority, then as they were created, whoever's they are."""
    return sorted((task for task in tasks if task.get("start_ms") is None), key=key)


def seq_filter(queue: Sequence[Task], used: Usage, quota: Quota) -> list[Task]:
    kept: list[Task] = []
    for job in queue:
        used = plus(used, usage(job))
        if quota.allows(used):
            kept.append(job)
    return kept


@dataclass
class Filters:
    pool_quota: Quota
    group_quota: Quota
    group_usage: Usage
    tokens: Mapping[str, float] | None
    accepts: Callable[[Task], bool]
    largest: tuple[float, float]


def considerable(
    tasks: Sequence[Task],
    limits: UserLimits,
    filters: Filters,
    number: int,
    over_quota: int = 100,
    *,
    fair: bool = True,
) -> tuple[list[Task], dict[str, int]]:
    """The jobs to be matched now, and how many of each user the launch rate held back."""
    running = [task for task in tasks if task.get("start_ms") is not None]
    by_user = {
        user: total(sorted((task for task in running if task["user"] == user), key=key))
        for user in sorted({task["user"] for task in tasks})
    }
    pool = Usage()
    for user in sorted({task["user"] for task in running}):
        pool = plus(pool, by_user[user])
    queue = [job for _, job in rank(tasks, limits, over_quota=over_quota)] if fair else rank_fifo(tasks)
    queue = seq_filter(queue, pool, filters.pool_quota)
    queue = seq_filter(queue, filters.group_usage, filters.group_quota)
    queue = [job for job in queue if job["cpus"] <= filters.largest[0] and job["mem"] <= filters.largest[1]]
    within: list[Task] = []
    for job in queue:
        own = [other for other in queue if other["user"] == job["user"]]
        if job in seq_filter(own, by_user[job["user"]], limits.quota(job["user"])):
            within.append(job)
    seen: dict[str, int] = {}
    held: dict[str, int] = {}
    rated: list[Task] = []
    for job in within:
        user = job["user"]
        seen[user] = seen.get(user, 0) + 1
        if filters.tokens is None or seen[user] <= filters.tokens.get(user, float("inf")):
            rated.append(job)
        else:
            held[user] = held.get(user, 0) + 1
    queue = seq_filter(rated, pool, filters.pool_quota)
    return [job for job in queue if filters.accepts(job)][:number], held


def place(
    jobs: Sequence[Task], offers: Sequence[Offer], good_enough: float
) -> tuple[list[tuple[int, str]], dict[int, dict[str, int]]]:
    """Seq and host of each match, and the resources short, with numbers of hosts, of each refused job."""
    hosts = sorted(offers, key=lambda offer: offer.host)
    used = {offer.host: (0.0, 0.0, 0.0) for offer in hosts}
    matches: list[tuple[int, str]] = []
    refused: dict[int, dict[str, int]] = {}
    for job in jobs:
        best, best_fitness = "", -1.0
        short: dict[str, int] = {}
        for at, offer in enumerate(hosts):
            if at % 10 == 0 and best_fitness > good_enough:
                break
            cpus, mem, gpus = used[offer.host]
            lacks = [
                name
                for name, over in (
                    ("cpus", cpus + job["cpus"] > offer.room.cpus),
                    ("mem", mem + job["mem"] > offer.room.mem_mb),
                    ("gpus", gpus + job.get("gpus", 0.0) > offer.room.gpus),
                )
                if over
            ]
            for name in lacks:
                short[name] = short.get(name, 0) + 1
            if lacks:
                continue
            cpu_fill = (offer.running.cpus + cpus + job["cpus"]) / (offer.room.cpus + offer.running.cpus)
            mem_fill = (offer.running.mem_mb + mem + job["mem"]) / (offer.room.mem_mb + offer.running.mem_mb)
            fitness = 0.5 + 0.35 * ((cpu_fill + mem_fill) / 2)
            if fitness > best_fitness:
                best, best_fitness = offer.host, fitness
        if best:
            cpus, mem, gpus = used[best]
            used[best] = (cpus + job["cpus"], mem + job["mem"], gpus + job.get("gpus", 0.0))
            matches.append((job["seq"], best))
        else:
            refused[job["seq"]] = short
    return matches, refused
