"""Admission of jobs: the checks of a submission that depend on the present state.

Lives here: pools that accept jobs, quotas of single jobs, limits on waiting jobs, jobs that no host could
ever run, and the pool mover.
Not here: checks that need no state (`api`, `wire`), quotas of all running jobs together (`scheduling`).

Source: the fair-share specification, sections 4, 8 and 9; the messages are Cook's.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from cook_jupyter.errors import InvalidRequest, QuotaExceeded, Unsatisfiable
from cook_jupyter.model.job import HIGHEST_PRIORITY, JobSpec
from cook_jupyter.model.pool import PoolName
from cook_jupyter.scheduling.limits.id_hash import is_among
from cook_jupyter.scheduling.limits.pool_patterns import first_matching
from cook_jupyter.scheduling.limits.queue_limit import QueueLengths, max_waiting
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.state.limits import Limits
from cook_jupyter.service.state.queues import Queues
from cook_jupyter.service.state.rates import Rates


class Admission:
    """Checks the submissions to one scheduler.

    Args:
        settings: settings of the scheduler.
        limits: shares and quotas in force.
        queues: queues of all pools.
        rates: submission rates of users.
    """

    def __init__(self, settings: Settings, limits: Limits, queues: Queues, rates: Rates) -> None:
        self._settings = settings
        self._limits = limits
        self._queues = queues
        self._rates = rates
        self._pools = {pool.name: pool for pool in settings.pools}
        self._moves = {move.pool: move for move in settings.pool_moves}
        self._being_submitted = QueueLengths()

    def admit(self, specs: Sequence[JobSpec], now_ms: int) -> Sequence[JobSpec]:
        """Check jobs, and move them to the pools in which they are to run.

        Returns:
            the jobs to submit.

        Raises:
            InvalidRequest: a pool does not exist or accepts no jobs; a user submits too fast; an amount is
                not a finite number.
            QuotaExceeded: a single job exceeds its user's quota, or too many jobs wait.
        """
        for name in {spec.pool for spec in specs}:
            self._require_pool(name)
        for spec in specs:
            _require_amounts(spec)
        for user in sorted({spec.user for spec in specs}):
            self._rates.require_submission_tokens(user, now_ms)
        if self._moves:
            specs = [self._move(spec) for spec in specs]
        self._require_within_quota(specs)
        self._require_within_queue_limit(specs)
        return specs

    def require_satisfiable(self, specs: Sequence[JobSpec]) -> None:
        """Refuse jobs that no host could ever run.

        Args:
            specs: admitted jobs; the hosts of their pools are up to date, and will not grow.

        Raises:
            Unsatisfiable: the hosts are known, and none could ever run one of the jobs.
        """
        distinct = {(spec.pool, spec.resources, spec.constraints): spec for spec in specs}
        for spec in distinct.values():
            reason = self._queues.unsatisfiable(spec)
            if reason is not None:
                raise Unsatisfiable(f"The job {spec.name} was not accepted. {reason.sentence}")

    @contextmanager
    def counted_as_waiting(self, specs: Sequence[JobSpec]) -> Iterator[None]:
        """Count admitted jobs as waiting until their submission has succeeded or failed.

        Otherwise two simultaneous submissions could exceed a limit on waiting jobs together.
        """
        if not self._settings.queue_limits:
            yield
            return
        for (user, pool), count in Counter((spec.user, spec.pool) for spec in specs).items():
            self._being_submitted = self._being_submitted.added(pool, user, count)
        try:
            yield
        finally:
            self._being_submitted = self._being_submitted.killed((spec.pool, spec.user) for spec in specs)

    def record_submission(self, specs: Sequence[JobSpec], now_ms: int) -> None:
        """Count jobs that were submitted towards the submission rates of their users."""
        for user, count in Counter(spec.user for spec in specs).items():
            self._rates.spend_submissions(user, count, now_ms)

    def _move(self, spec: JobSpec) -> JobSpec:
        """Return a job in the pool in which it is to run."""
        move = self._moves.get(spec.pool)
        if move is None or not is_among(spec.job_id, move.users.get(spec.user, 0.0)):
            return spec
        return replace(spec, pool=move.destination, submit_pool=spec.submit_pool or spec.pool)

    def _require_pool(self, name: PoolName) -> None:
        """Refuse a pool that does not exist or accepts no jobs."""
        pool = self._pools.get(name)
        if pool is None:
            raise InvalidRequest(f"{name} is not a valid pool name.")
        if not pool.active:
            raise InvalidRequest(f"{name} is not accepting job submissions.")

    def _require_within_quota(self, specs: Sequence[JobSpec]) -> None:
        """Refuse jobs if a single one of them exceeds its user's quota."""
        problems = []
        for user, pool in {(spec.user, spec.pool) for spec in specs}:
            quota = self._limits.quota(user, pool)
            if quota.count <= 0:
                problems.append(f"User {user} has a quota of 0 jobs in pool {pool}")
            if not quota.limits_usage:
                continue
            for spec in specs:
                if (spec.user, spec.pool) != (user, pool):
                    continue
                requests = (
                    ("cpus", spec.cpus, quota.cpus),
                    ("mem", spec.mem_mb, quota.mem_mb),
                    ("gpus", float(spec.gpus), quota.gpus),
                )
                problems.extend(
                    f"Job {spec.job_id} exceeds quota for {name}: {amount} > {limit}"
                    for name, amount, limit in requests
                    if amount > limit
                )
        if problems:
            raise QuotaExceeded("\n".join(problems))

    def _require_within_queue_limit(self, specs: Sequence[JobSpec]) -> None:
        """Refuse jobs if more would wait than may."""
        if not self._settings.queue_limits:
            return
        new_jobs: dict[tuple[str, PoolName], int] = defaultdict(int)
        for spec in specs:
            new_jobs[(spec.user, spec.pool)] += 1
        for (user, pool), count in new_jobs.items():
            limit = first_matching(pool, ((limit.pool_regex, limit) for limit in self._settings.queue_limits))
            if limit is None:
                continue
            largest = max_waiting(
                self._queues.waiting_count(pool=pool) + self._being_submitted.of_pool(pool),
                threshold=limit.pool_global_threshold,
                normal=limit.user_limit_normal,
                constrained=limit.user_limit_constrained,
            )
            waiting = self._queues.waiting_count(user, pool) + self._being_submitted.of_user(pool, user)
            if waiting + count > largest:
                raise QuotaExceeded(
                    f"User has too many jobs queued in pool {pool}: {waiting} wait,"
                    f" {count} more were sent, {largest} may wait"
                )


def _require_amounts(spec: JobSpec) -> None:
    """Refuse amounts that a queue cannot hold: once stored, they would prevent each start of the scheduler.

    The API refuses them earlier, field by field (`wire.submission`); this check covers all other callers.
    """
    if not 0 <= spec.priority <= HIGHEST_PRIORITY:
        raise InvalidRequest(f"job {spec.job_id}: priority {spec.priority} is not in 0..{HIGHEST_PRIORITY}")
    if 0 <= spec.cpus < inf and 0 <= spec.mem_mb < inf and 0 <= spec.gpus < inf and 0 <= spec.ports < inf:
        return
    amounts = {"cpus": spec.cpus, "mem": spec.mem_mb, "gpus": spec.gpus, "ports": spec.ports}
    name = next(name for name, amount in amounts.items() if not 0 <= amount < inf)
    raise InvalidRequest(f"job {spec.job_id}: {name} {amounts[name]} is not a finite number of at least 0")
