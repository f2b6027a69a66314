"""Invariants of a scheduler after any operation, in any order.

A random sequence of operations runs on a scheduler: jobs are submitted, tasks end, fail, are killed and
preempted, time passes, the scheduler is restarted. After each operation no host is oversubscribed, no user
exceeds a quota, and the views of the scheduler equal those that a new one builds from the store.
"""

from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceStatus
from cook_jupyter.model.job import Job, JobSpec, JobState
from cook_jupyter.model.limits import LimitKind
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import RebalancerSettings
from tests.builders import a_group, a_job_spec
from tests.scheduling.queues import running_jobs, waiting_jobs
from tests.service.conftest import ManualScheduler, ManualSchedulerFactory, SlowKillCluster

USERS = ("ada", "bob", "eve")
HOSTS = {"h1": Resources(cpus=4, mem_mb=4096), "h2": Resources(cpus=2, mem_mb=4096)}
QUOTA = {"eve": {"count": 2.0}, "bob": {"cpus": 3.0}}
SETTINGS = Settings(rebalancer=RebalancerSettings(min_dru_diff=0.1))
APART = a_group(host_placement={"type": "unique"})


class Day:
    """Operations on a scheduler, and the invariants after each."""

    def __init__(self, manual: ManualScheduler, rng: Random, jobs: list[JobSpec]) -> None:
        self.manual = manual
        self.rng = rng
        self.jobs = jobs

    async def step(self) -> None:
        act = self.rng.choice(
            [self.submit, self.submit, self.match, self.match, self.rebalance, self.end, self.kill, self.wait]
        )
        await act()
        await self.check()

    async def submit(self) -> None:
        spec = a_job_spec(
            user=self.rng.choice(USERS),
            cpus=self.rng.choice([0.5, 1.0, 1.0, 2.0, 3.0]),
            priority=self.rng.choice([50, 50, 90]),
            max_retries=self.rng.choice([1, 3]),
            group=self.rng.choice([None, None, None, APART.group_id]),
        )
        if spec.user == "bob" and spec.cpus > 3:
            return
        self.jobs.append(spec)
        new = spec.group and sum(job.group == spec.group for job in self.jobs) == 1
        await self.manual.scheduler.submit(
            [spec], [APART] if new else [], override_group_immutability=not new
        )

    async def match(self) -> None:
        await self.manual.match()

    async def rebalance(self) -> None:
        before = {row.job_id: row for row in self.manual.scheduler.running_jobs()}
        await self.manual.rebalance()
        for job_id, row in before.items():
            (job,) = await self.manual.scheduler.jobs([job_id])
            assert job is not None
            (was,) = [one for one in job.instances if one.instance_id == row.instance_id]
            assert was.status is InstanceStatus.RUNNING or was.preempted

    async def end(self) -> None:
        if self.manual.cluster.tasks:
            task = self.rng.choice(sorted(self.manual.cluster.tasks))
            self.manual.cluster.finish(task, exit_code=self.rng.choice([0, 0, 1]))
            await self.manual.settle()

    async def kill(self) -> None:
        if self.jobs:
            await self.manual.scheduler.kill_jobs([self.rng.choice(self.jobs).job_id])
            await self.manual.settle()

    async def wait(self) -> None:
        self.manual.clock.advance(self.rng.choice([1, 1000, 60_000]))

    async def check(self) -> None:
        held: dict[str, Resources] = defaultdict(Resources)
        apart: Counter[str] = Counter()
        for task in self.manual.cluster.tasks.values():
            held[task.instance.host] += task.spec.resources
            apart[task.instance.host] += task.spec.group is not None
        assert all(amount.fits_in(HOSTS[host]) for host, amount in held.items())
        assert max(apart.values(), default=0) <= 1
        for user, quota in QUOTA.items():
            rows = self.manual.scheduler.running_jobs(user)
            assert len(rows) <= quota.get("count", len(rows))
            assert sum(row.cpus for row in rows) <= quota.get("cpus", 100)
        for job in await self.manual.scheduler.jobs([spec.job_id for spec in self.jobs]):
            assert job is not None
            self._check_job(job)
        reserved = self.manual.scheduler.queues.reservations.for_pool(DEFAULT_POOL)
        assert all(self.manual.scheduler.queues.is_waiting(DEFAULT_POOL, job_id) for job_id in reserved)

    def _check_job(self, job: Job) -> None:
        queues, row = self.manual.scheduler.queues, self.manual.scheduler.running_job(job.job_id)
        assert queues.is_waiting(DEFAULT_POOL, job.job_id) == (job.state is JobState.WAITING)
        assert (row is not None) == (job.state is JobState.RUNNING)
        if job.state is JobState.WAITING:
            assert self.manual.scheduler.attempts(job) < job.max_retries


def known(scheduler: Scheduler) -> object:
    """Return the state of the views of a scheduler."""
    index = scheduler.queues.index(DEFAULT_POOL)
    return (
        scheduler.queue(1000),
        sorted((row.job_id, row.instance_id, row.attempt) for row in scheduler.running_jobs()),
        {
            user: (index.usage(user), list(waiting_jobs(index, user)), list(running_jobs(index, user)))
            for user in USERS
        },
        dict(index.group_hosts(APART.group_id)),
    )


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 40))
async def test_nothing_is_oversubscribed_nobody_is_over_quota_and_a_restart_forgets_nothing(
    fresh_manual_scheduler: ManualSchedulerFactory, seed: int, steps: int
) -> None:
    rng = Random(seed)
    cluster = SlowKillCluster(HOSTS)
    jobs: list[JobSpec] = []
    async with AsyncExitStack() as stack:
        manual = await stack.enter_async_context(fresh_manual_scheduler(SETTINGS, cluster=cluster))
        for user, quota in QUOTA.items():
            await manual.scheduler.set_limits(LimitKind.QUOTA, user, DEFAULT_POOL, quota, "test")
        day = Day(manual, rng, jobs)
        for _ in range(steps):
            await day.step()
        left = known(manual.scheduler)
        memory = manual.store
    async with fresh_manual_scheduler(SETTINGS, cluster=cluster, memory=memory) as again:
        assert known(again.scheduler) == left
        day = Day(again, rng, jobs)
        for _ in range(5):
            await day.step()


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(shares=st.tuples(*[st.integers(1, 6)] * 3), late=st.permutations(USERS))
async def test_after_two_looks_nobody_below_share_waits_for_what_somebody_above_share_holds(
    fresh_manual_scheduler: ManualSchedulerFactory, shares: tuple[int, ...], late: list[str]
) -> None:
    part = dict(zip(USERS, shares, strict=True))
    unlimited = Settings(rebalancer=RebalancerSettings(min_dru_diff=0.0))
    async with fresh_manual_scheduler(unlimited, hosts=3, cpus=4) as manual:
        for user, cpus in part.items():
            await manual.scheduler.set_limits(
                LimitKind.SHARE, user, DEFAULT_POOL, {"cpus": cpus, "mem": 1e9}, "test"
            )
        for user in late:  # the first takes all there is, the others come after
            await manual.submit(*(a_job_spec(user=user) for _ in range(12)))
            await manual.match()
        for _ in range(2):
            await manual.rebalance()
            await manual.match()

        held = Counter(manual.users())
        assert held.total() == 12
        below = [user for user in USERS if (held[user] + 1) / part[user] <= 1.0]
        above = [user for user in USERS if held[user] / part[user] > 1.0]
        assert not (below and above), held
