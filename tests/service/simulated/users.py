"""What users and an administrator do, at random: submit, kill, cancel, retry, ask, listen, set limits.

Lives here: `User` and `Administrator`, which know what they were answered. Each does one thing after the
other; an answer that does not come (the scheduler died) leaves them not knowing whether it was done, and a
submission is then sent again, as the client does.
Not here: how requests reach a scheduler (`simulation`), what must hold (`invariants`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Protocol
from uuid import UUID

from cook_jupyter.errors import Conflict, CookError, InvalidRequest, NotFound, SchedulerUnreachable
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, Group, GroupId, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import PoolName
from cook_jupyter.service.scheduler import Scheduler
from tests.service.simulated.invariants import Invariants
from tests.service.simulated.scenario import Scenario
from tests.service.simulated.trace import Trace

RESEND_PAUSE_S = 1.0
MOST_TRIES = 100
MOST_JOBS = 6  # of a user


class Site(Protocol):
    """Where schedulers are reached.

    Attributes:
        scenario: the scenario.
        invariants: what must hold.
        trace: where events are noted.
        is_healed: whether the time of random actions is over.
    """

    scenario: Scenario
    invariants: Invariants
    trace: Trace
    is_healed: bool

    async def request(self, name: str, act: Callable[[Scheduler], Awaitable[Any]]) -> Any:
        """Let the scheduler that runs now do something, and return its answer.

        Raises:
            SchedulerUnreachable: it died, or none runs; whether it was done is unknown.
            CookError: as the scheduler raises.
        """


class User:
    """One user with jobs of their own.

    Attributes:
        name: name of the user.
        jobs: jobs that were acknowledged.
        groups: groups of theirs that were acknowledged.
        cursor: number of the last change that the event stream has brought.
        store_id: id of the store that the cursor counts in.
        seen: job -> the last change number that the event stream has brought of it.
    """

    def __init__(self, name: str, site: Site) -> None:
        self.name = name
        self._site = site
        self._rng = Random(f"{site.scenario.seed} user {name}")
        self.jobs: dict[JobId, JobSpec] = {}
        self.groups: list[GroupId] = []
        self.cursor = 0
        self.store_id: str | None = None
        self.seen: dict[JobId, int] = {}

    async def act_for_ever(self) -> None:
        """Do one thing after the other until the time of random actions is over."""
        rng = self._rng
        actions: Sequence[tuple[Callable[[], Awaitable[None]], int]] = (
            (self.submit, 6),
            (self.kill, 2),
            (self.cancel, 2),
            (self.retry, 2),
            (self.ask, 1),
        )
        choices = [act for act, weight in actions for _ in range(weight)]
        while not self._site.is_healed:
            await asyncio.sleep(rng.expovariate(1 / self._site.scenario.think_s))
            await rng.choice(choices)()

    async def submit(self) -> None:
        """Submit some jobs; send them again until it is known what became of them."""
        if len(self.jobs) >= MOST_JOBS:
            return
        rng, site = self._rng, self._site
        group: GroupId | None = None
        new_groups: list[Group] = []
        if rng.random() < 0.3:
            if self.groups and rng.random() < 0.5:
                group = rng.choice(self.groups)
            else:
                new_group = group = GroupId(str(UUID(int=rng.getrandbits(128))))
                kind = rng.choice(["unique", "all"])
                new_groups = [Group(group_id=new_group, host_placement={"type": kind})]
        specs = [self._new_spec(group) for _ in range(rng.choice([1, 1, 2, 4]))]
        site.invariants.submitting(specs)
        was_unknown = False
        while True:
            try:
                await site.request(
                    f"{self.name} submits {len(specs)}",
                    lambda scheduler: scheduler.submit(
                        specs, new_groups, override_group_immutability=not new_groups
                    ),
                )
            except SchedulerUnreachable:
                was_unknown = True
                await asyncio.sleep(RESEND_PAUSE_S)
                continue
            except (Conflict, InvalidRequest) as error:
                if not (was_unknown and await self._is_stored(specs)):
                    site.trace.note("refused", self.name, error)
                    return  # above a quota, say
            except CookError:
                await asyncio.sleep(RESEND_PAUSE_S)
                continue
            break
        site.invariants.submitted(specs)
        self.jobs.update((spec.job_id, spec) for spec in specs)
        self.groups += [group.group_id for group in new_groups]

    async def _is_stored(self, specs: Sequence[JobSpec]) -> bool:
        """Return whether a submission that is refused now was carried out before."""
        while True:
            try:
                jobs = await self._site.request(
                    f"{self.name} looks", lambda scheduler: scheduler.jobs([spec.job_id for spec in specs])
                )
            except CookError:
                await asyncio.sleep(RESEND_PAUSE_S)
                continue
            stored = [job for job in jobs if job is not None]
            self._site.invariants.check("I1", len(stored) in (0, len(specs)), "stored in part:", specs)
            return bool(stored)

    async def kill(self) -> None:
        """Kill a job."""
        if self.jobs:
            await self._try_kill([self._rng.choice(list(self.jobs))])

    async def kill_endless(self) -> None:
        """Kill every job that would never end, until it is acknowledged."""
        endless = [job_id for job_id, spec in self.jobs.items() if float(spec.env["run_s"]) > 1e6]
        if endless:
            await until_done(lambda: self._try_kill(endless))

    async def _try_kill(self, job_ids: Sequence[JobId]) -> bool:
        done = await self._try(f"{self.name} kills {job_ids}", lambda s: s.kill_jobs(job_ids))
        if done:
            self._site.invariants.killed(job_ids)
        return done

    async def cancel(self) -> None:
        """Cancel one instance of a job."""
        if not self.jobs:
            return
        job_id = self._rng.choice(list(self.jobs))

        async def cancel(scheduler: Scheduler) -> None:
            (job,) = await scheduler.jobs([job_id])
            if job is not None and job.instances:
                await scheduler.cancel_instances([self._rng.choice(job.instances).instance_id])

        await self._try(f"{self.name} cancels {job_id}", cancel)

    async def retry(self) -> None:
        """Ask for more attempts, or fewer, mostly for a job that has ended."""
        if not self.jobs:
            return
        job_id = self._rng.choice(list(self.jobs))
        more = self._rng.choice([1, 1, 2, 0])

        async def retry(scheduler: Scheduler) -> None:
            (job,) = await scheduler.jobs([job_id])
            if job is not None and (job.state is JobState.COMPLETED or self._rng.random() < 0.3):
                self._site.invariants.retrying([job_id])
                await scheduler.set_retries([job_id], [max(1, scheduler.attempts(job) + more)])

        await self._try(f"{self.name} retries {job_id}", retry)

    async def ask(self) -> None:
        """Ask why a job waits, and for its result."""
        if not self.jobs:
            return
        job_id = self._rng.choice(list(self.jobs))
        await self._try(f"{self.name} asks why", lambda scheduler: scheduler.explain(job_id))
        await self._try(f"{self.name} asks for the result", lambda scheduler: scheduler.result(job_id))

    async def _try(self, name: str, act: Callable[[Scheduler], Awaitable[Any]]) -> bool:
        """Do something once; returns whether it is known to be done."""
        try:
            await self._site.request(name, act)
        except CookError as error:
            if isinstance(error, NotFound):
                self._site.invariants.check("I1", False, "an acknowledged job is not found:", error)
            self._site.trace.note("failed", name, type(error).__name__)
            return False
        return True

    def take_changes(self, changes: Sequence[JobChange]) -> None:
        """Take what the event stream brings."""
        self._site.invariants.told(self.name, changes, self.cursor)
        for change in changes:
            self.cursor = change.job.change
            self.seen[change.job.job_id] = change.job.change

    def _new_spec(self, group: GroupId | None) -> JobSpec:
        rng, scenario = self._rng, self._site.scenario
        host = rng.choice(scenario.hosts)  # which can run the job
        is_endless = rng.random() < 0.1
        run_s = 1e9 if is_endless else rng.choice([0.1, 1.0, 3.0, 8.0, 15.0])
        max_runtime_ms = rng.choice([UNLIMITED_RUNTIME_MS] * 3 + [4000, 20_000])
        return JobSpec(
            job_id=JobId(str(UUID(int=rng.getrandbits(128)))),
            user=self.name,
            command="simulated",
            pool=rng.choice(scenario.settings.pools).name,
            cpus=min(rng.choice([0.5, 1.0, 1.0, 2.0, 3.0, 8.0]), host.whole.cpus),
            mem_mb=rng.choice([64.0, 256.0, 900.0]),
            priority=rng.choice([50, 50, 50, 10, 90]),
            max_retries=rng.choice([1, 2, 3]),
            max_runtime_ms=max_runtime_ms,
            expected_runtime_ms=None if is_endless or rng.random() < 0.7 else int(run_s * 1000),
            disable_mea_culpa_retries=rng.random() < 0.1,
            env={
                "run_s": str(run_s),
                "exits": rng.choice(["0", "0", "1", "1,0", "1,1,0"]),
                "limited": rng.choice(["host", "scheduler"]),
            },
            constraints=(("zone", "EQUALS", host.zone),) if rng.random() < 0.15 else (),
            group=group,
        )


class Administrator:
    """Sets shares, quotas and the rebalancer's parameters."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rng = Random(f"{site.scenario.seed} administrator")
        self._limited: dict[tuple[str, str, PoolName], None] = {}  # kind, user, pool

    async def act_for_ever(self) -> None:
        """Do one thing after the other until the time of random actions is over."""
        rng = self._rng
        while not self._site.is_healed:
            await asyncio.sleep(rng.expovariate(1 / 5))
            act = rng.choice(
                [self._set_share, self._set_quota, self._set_quota, self._retract, self._rebalancer]
            )
            await act()
            await self._try("summary", _summarize)

    async def lift_limits(self) -> None:
        """Retract every limit that was set, until it is acknowledged."""
        for kind, user, pool in list(self._limited):
            await until_done(partial(self._retract_limit, kind, user, pool))
        await self._rebalancer()

    async def _set_share(self) -> None:
        user, pool = self._place()
        values = {"cpus": self._rng.choice([0.5, 1.0, 4.0]), "mem": self._rng.choice([500.0, 4000.0])}
        self._limited[LimitKind.SHARE, user, pool] = None
        await self._try("share", lambda s: s.set_limits(LimitKind.SHARE, user, pool, values, "simulated"))

    async def _set_quota(self) -> None:
        user, pool = self._place()
        name, amounts = self._rng.choice(
            [("count", [0.0, 1.0, 2.0, 5.0]), ("cpus", [1.0, 2.0, 4.0]), ("mem", [300.0, 1000.0])]
        )
        values = {name: self._rng.choice(amounts)}
        self._limited[LimitKind.QUOTA, user, pool] = None
        await self._change_quota(
            user, pool, values, lambda s: s.set_limits(LimitKind.QUOTA, user, pool, values, "simulated")
        )

    async def _retract(self) -> None:
        if self._limited:
            await self._retract_limit(*self._rng.choice(list(self._limited)))

    async def _retract_limit(self, kind: str, user: str, pool: PoolName) -> bool:
        if kind == LimitKind.SHARE:
            return await self._try("retract", lambda s: s.retract_limits(kind, user, pool))
        unset: dict[str, float | None] = dict.fromkeys(("count", "cpus", "mem", "gpus"))
        return await self._change_quota(user, pool, unset, lambda s: s.retract_limits(kind, user, pool))

    async def _change_quota(
        self,
        user: str,
        pool: PoolName,
        values: Mapping[str, float | None],
        act: Callable[[Scheduler], Awaitable[None]],
    ) -> bool:
        invariants = self._site.invariants

        async def change(scheduler: Scheduler) -> None:
            await act(scheduler)
            invariants.changed_quota(user, pool, values)  # before the scheduler does anything else

        invariants.changing_quota(user, pool, values)
        return await self._try(f"quota of {user} in {pool}: {values}", change)

    async def _rebalancer(self) -> None:
        parameters = {"min_dru_diff": self._rng.choice([0.0, 0.1, 0.5])}
        await self._try("rebalancer", lambda s: s.rebalancer.change(s.store, parameters))

    def _place(self) -> tuple[str, PoolName]:
        scenario = self._site.scenario
        user = self._rng.choice((*scenario.users, "default"))
        return user, self._rng.choice(scenario.settings.pools).name

    async def _try(self, name: str, act: Callable[[Scheduler], Awaitable[Any]]) -> bool:
        try:
            await self._site.request(f"administrator: {name}", act)
        except CookError as error:
            self._site.trace.note("failed", name, type(error).__name__)
            return False
        return True


async def until_done(act: Callable[[], Awaitable[bool]]) -> None:
    """Do something again and again until it is known to be done."""
    for _ in range(MOST_TRIES):
        if await act():
            return
        await asyncio.sleep(RESEND_PAUSE_S)
    raise AssertionError(f"not done in {MOST_TRIES} tries")


async def _summarize(scheduler: Scheduler) -> None:
    scheduler.summary()
