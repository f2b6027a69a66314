"""The rebalance cycle written down as its rules tell it: every candidate looked at for every job.

Slow and plain on purpose: what `cook_jupyter.scheduling.rebalancing.preemption` is compared with. Cook's rule
is that of the fair-share specification; the rule that settles is that of `docs/explanation/preemption.md`.
Tasks are golden ones (`tests.scheduling.strategies`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any

from cook_jupyter.model.decisions import Preemption
from cook_jupyter.model.job import GroupId
from cook_jupyter.model.limits import UNLIMITED, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.scheduling.constraints.constraints import (
    GroupPlacement,
    PlacementKind,
    failing_class_constraint,
    failing_group_constraint,
)
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings
from tests.scheduling.queues import a_queued_job, job_id

Task = dict[str, Any]
Key = tuple[float, float, int, int]


@dataclass(kw_only=True)
class Reference:
    """The state of a cycle: what runs, what is spare, what was decided so far."""

    running: list[Task]
    spare: dict[str, Resources]
    limits: UserLimits
    settings: PreemptionSettings
    placements: Mapping[GroupId, GroupPlacement]
    attributes: Mapping[str, Mapping[str, str]]
    now_ms: int
    known: frozenset[str] = frozenset()
    cohosts: list[tuple[str | None, str]] | None = None  # group and host of each task that counts for groups

    def __post_init__(self) -> None:
        self.known = frozenset(task["host"] for task in self.running)
        self.cohosts = [(task.get("group"), task["host"]) for task in self.running]
        self.preempted: list[tuple[str | None, str]] = []
        self.placed = 0

    def drus(self) -> dict[int, float]:
        """The DRU of each task, by seq."""
        drus: dict[int, float] = {}
        for user in {task["user"] for task in self.running}:
            cpus = mem = gpus = 0.0
            share = self.limits.share(user)
            for task in sorted((t for t in self.running if t["user"] == user), key=self.key):
                cpus, mem, gpus = cpus + task["cpus"], mem + task["mem"], gpus + task["gpus"]
                drus[task["seq"]] = (
                    gpus / share.gpus
                    if self.settings.mode is DruMode.GPU
                    else max(mem / share.mem_mb, cpus / share.cpus)
                )
        return drus

    @property
    def key(self) -> Callable[[Task], Key]:
        """What orders the tasks of one user."""
        return launch_key_of if self.settings.launch_order else key_of

    def is_spared(self, task: Task) -> bool:
        """Whether the task's job was preempted too often in the last hour, or is placed for good."""
        if task.get("firm"):
            return True
        limit = self.settings.max_preemptions_per_hour
        recent = [at_ms for at_ms in task.get("preempted_ms", ()) if at_ms >= self.now_ms - 3_600_000]
        return limit is not None and len(recent) >= limit and not task.get("placed")

    def dru_behind(self, job: Task, tasks: Sequence[Task]) -> float:
        """The DRU of a user who holds these tasks, in this order, and then the job."""
        cpus = mem = gpus = 0.0
        for task in (*tasks, job):
            cpus, mem, gpus = cpus + task["cpus"], mem + task["mem"], gpus + task["gpus"]
        share = self.limits.share(job["user"])
        if self.settings.mode is DruMode.GPU:
            return gpus / share.gpus
        return max(mem / share.mem_mb, cpus / share.cpus)

    def pending_dru(self, job: Task) -> float:
        """The DRU of a waiting job; in Cook's order at most."""
        if self.settings.launch_order:
            mine = [task for task in self.running if task["user"] == job["user"]]
            return self.dru_behind(job, sorted(mine, key=launch_key_of))
        drus = self.drus()
        before = [t for t in self.running if t["user"] == job["user"] and key_of(t) <= key_of(job)]
        base = drus[max(before, key=key_of)["seq"]] if before else 0.0
        share = self.limits.share(job["user"])
        if self.settings.mode is DruMode.GPU:
            return base + job["gpus"] / share.gpus
        return base + max(job["mem"] / share.mem_mb, job["cpus"] / share.cpus)

    def work(self, task: Task) -> float:
        """What is lost if the task is stopped, where that decides between equals."""
        return self.lost(task) if self.settings.least_work_lost else 0.0

    def lost(self, task: Task) -> float:
        """Run time of the task times its cpus, or gpus in gpu mode."""
        if task.get("placed"):
            return 0.0
        amount: float = task["gpus"] if self.settings.mode is DruMode.GPU else task["cpus"]
        return max(0, self.now_ms - task["start_ms"]) * amount

    def decide(self, job: Task) -> tuple[str, list[Task], float, Resources] | None:
        """The host, the tasks to stop, the DRU of the last of them, and what that frees."""
        settings = self.settings
        if settings.mode is DruMode.GPU and not settings.gpu_pools:
            return None
        if settings.launch_order:
            return self.decide_in_launch_order(job)
        drus = self.drus()
        pending = self.pending_dru(job)
        own_only = not self.is_within_quota(job)
        victims = [
            task
            for task in self.running
            if drus[task["seq"]] >= settings.safe_dru_threshold
            and drus[task["seq"]] - pending > settings.min_dru_diff
            and (task["user"] == job["user"] or not own_only)
            and not self.is_spared(task)
        ]
        return self.choose(job, victims, drus)

    def decide_in_launch_order(self, job: Task) -> tuple[str, list[Task], float, Resources] | None:
        """Spare room; else tasks of others, if they would not come back at once; else tasks of one's own."""
        settings = self.settings
        drus = self.drus()
        own_only = not self.is_within_quota(job)
        pending = self.pending_dru(job)
        if not (own_only and settings.quota_counts):
            roomy = self.choose(job, [], drus)
            if roomy is not None:
                return roomy
        others = [
            task
            for task in self.running
            if task["user"] != job["user"]
            and drus[task["seq"]] >= settings.safe_dru_threshold
            and drus[task["seq"]] - pending > settings.min_dru_diff
            and not self.is_spared(task)
            and not own_only
        ]
        tried: set[str] = set()
        for _ in range(32):
            chosen = self.choose(job, [task for task in others if task["host"] not in tried], drus, tried)
            if chosen is None:
                break
            if self.lasts(pending, chosen[1]) and self.is_worth(job, pending, chosen[1]):
                return chosen
            tried.add(chosen[0])
        if job.get("by_others"):
            return None
        if settings.max_lost_ms_beyond_share is not None and pending > settings.safe_dru_threshold:
            others = []
        mine = sorted((t for t in self.running if t["user"] == job["user"]), key=launch_key_of)
        mine.sort(key=lambda task: -task["priority"])
        ahead = [task for task in mine if task["priority"] >= job["priority"]]
        pending = self.dru_behind(job, ahead)
        scores = {task["seq"]: self.dru_behind(task, mine[:place]) for place, task in enumerate(mine)}
        job_constraints = [
            task
            for task in mine[len(ahead) :]
            if scores[task["seq"]] >= settings.safe_dru_threshold
            and scores[task["seq"]] - pending > settings.min_dru_diff
            and not self.is_spared(task)
        ]
        hosts = {task["host"] for task in job_constraints}
        victims = job_constraints + [task for task in others if task["host"] in hosts]
        elsewhere = {*self.spare, *self.known} - hosts
        return self.choose(
            job, victims, {**drus, **{t["seq"]: scores[t["seq"]] for t in job_constraints}}, elsewhere
        )

    def lasts(self, pending: float, stopped: Sequence[Task]) -> bool:
        """Whether none of the tasks could take its room back from a beneficiary at that DRU."""
        if pending < self.settings.safe_dru_threshold or len(stopped) == 1:
            return True
        left = [task for task in self.running if task not in stopped]
        again = [self.dru_behind(v, [t for t in left if t["user"] == v["user"]]) for v in stopped]
        return all(pending - dru <= self.settings.min_dru_diff for dru in again)

    def is_worth(self, job: Task, pending: float, stopped: Sequence[Task]) -> bool:
        """Whether the tasks lose no more work than a job at that DRU may destroy."""
        limit_ms = self.settings.max_lost_ms_beyond_share
        if limit_ms is None or pending <= self.settings.safe_dru_threshold:
            return True
        size = job["gpus"] if self.settings.mode is DruMode.GPU else job["cpus"]
        return sum(map(self.lost, stopped)) <= limit_ms * size

    def choose(
        self, job: Task, victims: list[Task], drus: Mapping[int, float], without: Collection[str] = ()
    ) -> tuple[str, list[Task], float, Resources] | None:
        """The host where the nearest of the victims to its share is as far along as anywhere."""
        settings = self.settings
        victims = sorted(victims, key=lambda t: t["seq"])
        # Among equals of one user: what was only placed before what runs, then the last one first.
        victims.sort(key=self.key, reverse=True)
        victims.sort(key=lambda t: (0, -t["placed"]) if t.get("placed") else (1, 0))
        victims.sort(key=lambda t: (-drus[t["seq"]], self.work(t), t["user"]))
        candidates = []
        for host in sorted({*self.spare, *self.known}):
            if host in without or not self.takes(job, host):
                continue
            mine = [task for task in victims if task["host"] == host]
            for length in range(0 if host in self.spare else 1, len(mine) + 1):
                if self.suffices(job, host, mine[:length]):
                    dru = drus[mine[length - 1]["seq"]] if length else UNLIMITED
                    candidates.append((dru, host, length, mine[:length]))
        if not candidates:
            return None
        best = max(dru for dru, *_ in candidates)
        by_host: dict[str, list[Task]] = {}
        for dru, host, _, tasks in candidates:  # by host, then from the shortest on
            if dru == best and not (settings.shortest_prefix and host in by_host):
                by_host[host] = tasks
        chosen = {host: self.needed(job, host, tasks) for host, tasks in by_host.items()}
        host = max(chosen, key=lambda host: (-sum(map(self.work, chosen[host])), host))
        tasks = chosen[host]
        return host, tasks, min((drus[t["seq"]] for t in tasks), default=UNLIMITED), self.freed(host, tasks)

    def needed(self, job: Task, host: str, tasks: list[Task]) -> list[Task]:
        """The tasks without those that need not be stopped; what loses most work is spared first."""
        if not self.settings.drop_unneeded:
            return tasks
        kept = list(tasks)
        for task in sorted(tasks[::-1], key=self.work, reverse=True):  # noqa: C415 - the last of equals first
            rest = [other for other in kept if other is not task]
            if self.suffices(job, host, rest):
                kept = rest
        return kept

    def freed(self, host: str, tasks: Sequence[Task]) -> Resources:
        """The host's spare room and what the tasks hold."""
        sums = self.spare.get(host, Resources())
        for task in tasks:
            sums += Resources(
                cpus=task["cpus"],
                mem_mb=task["mem"],
                gpus=task["gpus"] if self.settings.freed_gpus_count else 0.0,
            )
        return sums

    def suffices(self, job: Task, host: str, tasks: Sequence[Task]) -> bool:
        """Whether the job fits into what is freed, and its user's quota lets it."""
        return Resources(cpus=job["cpus"], mem_mb=job["mem"], gpus=job["gpus"]).fits_in(
            self.freed(host, tasks)
        ) and (not self.settings.quota_counts or self.is_within_quota(job, tasks))

    def is_within_quota(self, job: Task, without: Sequence[Task] = ()) -> bool:
        """Whether the user may run the job as well, and not some tasks."""
        mine = [t for t in self.running if t["user"] == job["user"] and t not in without]
        job_constraints = [*sorted(mine, key=self.key), job]
        cpus = mem = gpus = 0.0
        for task in job_constraints:
            cpus, mem, gpus = cpus + task["cpus"], mem + task["mem"], gpus + task["gpus"]
        return self.limits.quota(job["user"]).allows(
            Usage(count=len(job_constraints), cpus=cpus, mem_mb=mem, gpus=gpus)
        )

    def takes(self, job: Task, host: str) -> bool:
        """Whether the job's constraints let it go to the host."""
        known = self.settings.spare_hosts_known or host in self.known
        attributes = {"HOSTNAME": host, **self.attributes.get(host, {})} if known else {}
        offer = Offer(host=host, cluster="", pool=PoolName(""), room=Resources(), attributes=attributes)
        queued = a_queued_job(job)
        if host in job.get("avoid", ()):
            return False
        required = tuple(job.get("wants", ()))
        if any(attributes.get(name) != value for name, value in required):
            return False
        if (
            failing_class_constraint(queued.constraints, job["gpus"], offer, self.settings.defaults)
            is not None
        ):
            return False
        placement = self.placements.get(GroupId(job.get("group") or ""))
        if placement is None or placement.kind is PlacementKind.ALL:
            return True
        if placement.kind is PlacementKind.UNIQUE and not known:
            return False
        counted = [h for group, h in self.cohosts or () if group == job["group"]]
        if not self.settings.groups_apart:
            counted += [h for group, h in self.preempted if group != job["group"]]
            return self.is_group_met(placement, host, attributes, counted)
        left = list(counted)
        for group, gone in self.preempted:
            if group == job["group"]:
                left.remove(gone)
        return all(self.is_group_met(placement, host, attributes, item) for item in (counted, left))

    def is_group_met(
        self, placement: GroupPlacement, host: str, attributes: Mapping[str, str], counted: list[str]
    ) -> bool:
        """Whether a group with tasks on these hosts may have one more on the host."""
        tasks = {h: counted.count(h) for h in counted}
        theirs = {
            h: {"HOSTNAME": h, **self.attributes.get(h, {})}
            if self.settings.spare_hosts_known or h in self.known
            else {}
            for h in counted
        }
        return failing_group_constraint(placement, host, attributes, theirs, tasks) is None

    def advance(self, job: Task, host: str, tasks: Sequence[Task], freed: Resources) -> None:
        """Stop the tasks and put the job on the host."""
        gone = [task["seq"] for task in tasks]
        self.running = [task for task in self.running if task["seq"] not in gone]
        self.placed += 1
        firm = self.settings.launch_order and any(task["user"] == job["user"] for task in tasks)
        self.running.append({**job, "host": host, "placed": self.placed, "firm": firm})
        self.spare[host] = freed - Resources(cpus=job["cpus"], mem_mb=job["mem"], gpus=job["gpus"])
        self.preempted += [(task.get("group"), task["host"]) for task in tasks]
        assert self.cohosts is not None
        self.cohosts.append((job.get("group"), host))

    def decisions(self, jobs: Sequence[Task]) -> Iterator[Preemption]:
        """What is decided for each job in turn, or always for the user who is furthest below share."""
        if self.settings.launch_order:
            yield from islice(self.decisions_by_share(jobs), self.settings.max_preemption)
            return
        for job in jobs:
            decided = self.decide(job)
            if decided is not None:
                yield self.carry_out(job, *decided)

    def decisions_by_share(self, jobs: Sequence[Task]) -> Iterator[Preemption]:
        """What is decided; a job is looked at again where a decision may have changed its lot."""
        pending = list(jobs)
        passed: list[Task] = []
        looks: Counter[int] = Counter()
        while pending:
            firsts: dict[str, Task] = {}
            for job in sorted(pending, key=jobs.index):
                firsts.setdefault(job["user"], job)
            job = min(firsts.values(), key=lambda item: (self.pending_dru(item), jobs.index(item)))
            pending.remove(job)
            looks[job["seq"]] += 1
            decided = self.decide(job)
            if decided is None and not self.is_within_quota(job):
                pending = [item for item in pending if item["user"] != job["user"]]
            elif decided is None:
                passed.append(job)
            else:
                host, tasks, *_ = decided
                yield self.carry_out(job, *decided)
                if not tasks:
                    continue
                passed += [item for item in jobs if item["seq"] in {t["seq"] for t in tasks}]
                passed = [item for item in passed if looks[item["seq"]] < 4]
                users = {task["user"] for task in tasks}
                woken = [
                    item
                    for item in passed
                    if item["user"] in users
                    or Resources(cpus=item["cpus"], mem_mb=item["mem"], gpus=item["gpus"]).fits_in(
                        self.spare[host]
                    )
                ]
                passed = [item for item in passed if item not in woken]
                pending += woken

    def carry_out(
        self, job: Task, host: str, tasks: Sequence[Task], dru: float, freed: Resources
    ) -> Preemption:
        """Put a decision in force."""
        self.advance(job, host, tasks, freed)
        return Preemption(
            beneficiary=job_id(job["seq"]),
            host=host,
            cluster="",
            victims=tuple(job_id(task["seq"]) for task in tasks if not task.get("placed")),
            displaced=tuple(job_id(task["seq"]) for task in tasks if task.get("placed")),
            dru=dru,
            freed=freed,
        )


def key_of(task: Task) -> Key:
    """The place of a task among its user's."""
    if "start_ms" in task:
        return (-task["priority"], task["start_ms"], task.get("task_seq", 0), task["seq"])
    return (-task["priority"], inf, -1, task["seq"])


def launch_key_of(task: Task) -> Key:
    """The place of a task among its user's in the order of launches; what was only placed comes last."""
    if task.get("placed"):
        return (inf, task["placed"], 0, 0)
    return (task["start_ms"], task.get("task_seq", 0), task["seq"], 0)
