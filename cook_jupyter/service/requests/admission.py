"""Who may submit what: what is checked of a submission against the present state.

Lives here: pools that take jobs, quotas of single jobs, how many jobs may wait, jobs that no host could ever
take, and the pool mover.
Not here: checks that need no state (`api`, `wire`), the quota of all that runs (`scheduling`).

Source: the fair-share specification, sections 4, 8 and 9; the texts are Cook's.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from cook_jupyter.errors import InvalidRequest, QuotaExceeded, Unsatisfiable
from cook_jupyter.model.job import HIGHEST_PRIORITY, JobSpec
from cook_jupyter.scheduling.limits.id_hash import is_among
from cook_jupyter.scheduling.limits.pool_patterns import first_matching
from cook_jupyter.scheduling.limits.queue_limit import QueueLengths, max_waiting
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.state.limits import Limits
from cook_jupyter.service.state.queues import Queues
from cook_jupyter.service.state.rates import Rates


class Admission:
    """Checks submissions to one scheduler."""

    def __init__(self, settings: Settings, limits: Limits, queues: Queues, rates: Rates) -> None:
        self._settings = settings
        self._limits = limits
        self._queues = queues
        self._rates = rates
        self._pools = {pool.name: pool for pool in settings.pools}
        self._moves = {move.pool: move for move in settings.pool_moves}
        self._under_way = QueueLengths()

    def admit(self, specs: Sequence[JobSpec], now_ms: int) -> Sequence[JobSpec]:
        """Return the jobs as they are to be submitted: in the pools they are to run in.

        Raises:
            InvalidRequest: a pool that is not there or takes no jobs; a user who submits too fast; an amount
                that no queue can hold.
            QuotaExceeded: a job alone is above its user's quota, or too many jobs wait.
        """
        for name in {spec.pool for spec in specs}:
            self._require_pool(name)
        for spec in specs:
            _require_amounts(spec)
        for user in sorted({spec.user for spec in specs}):
            self._rates.require_slow_enough(user, now_ms)
        if self._moves:
            specs = [self._moved(spec) for spec in specs]
        self._require_within_quota(specs)
        self._require_within_queue_limit(specs)
        return specs

    def require_satisfiable(self, specs: Sequence[JobSpec]) -> None:
        """Refuse jobs that no host could ever take.

        Args:
            specs: admitted jobs; the capacity of their pools has been seen, and will not grow.

        Raises:
            Unsatisfiable: the hosts are known, and none could ever take one of the jobs.
        """
        different = {(spec.pool, spec.resources, spec.constraints): spec for spec in specs}
        for spec in different.values():
            reason = self._queues.unsatisfiable(spec)
            if reason is not None:
                raise Unsatisfiable(f"The job {spec.name} was not accepted. {reason.sentence}")

    @contextmanager
    def under_way(self, specs: Sequence[JobSpec]) -> Iterator[None]:
        """Count admitted jobs among those that wait until it is known whether they were submitted.

        Else two submissions at one moment could pass a queue limit together.
        """
        if not self._settings.queue_limits:
            yield
            return
        for (user, pool), number in Counter((spec.user, spec.pool) for spec in specs).items():
            self._under_way = self._under_way.added(pool, user, number)
        try:
            yield
        finally:
            self._under_way = self._under_way.killed((spec.pool, spec.user) for spec in specs)

    def admitted(self, specs: Sequence[JobSpec], now_ms: int) -> None:
        """Learn that jobs were submitted."""
        for user, number in Counter(spec.user for spec in specs).items():
            self._rates.submitted(user, number, now_ms)

    def _moved(self, spec: JobSpec) -> JobSpec:
        move = self._moves.get(spec.pool)
        if move is None or not is_among(spec.job_id, move.users.get(spec.user, 0.0)):
            return spec
        return replace(spec, pool=move.destination, submit_pool=spec.submit_pool or spec.pool)

    def _require_pool(self, name: str) -> None:
        """Refuse a pool that is not there or takes no jobs."""
        pool = self._pools.get(name)
        if pool is None:
            raise InvalidRequest(f"{name} is not a valid pool name.")
        if not pool.active:
            raise InvalidRequest(f"{name} is not accepting job submissions.")

    def _require_within_quota(self, specs: Sequence[JobSpec]) -> None:
        """Refuse jobs of which one alone is above its user's quota."""
        findings = []
        for user, pool in {(spec.user, spec.pool) for spec in specs}:
            quota = self._limits.quota(user, pool)
            if quota.count <= 0:
                findings.append(f"User {user} has a quota of 0 jobs in pool {pool}")
            if not quota.limits_usage:
                continue
            for spec in specs:
                if (spec.user, spec.pool) != (user, pool):
                    continue
                asked = (("cpus", spec.cpus, quota.cpus), ("mem", spec.mem_mb, quota.mem_mb))
                findings.extend(
                    f"Job {spec.job_id} exceeds quota for {name}: {amount} > {limit}"
                    for name, amount, limit in (*asked, ("gpus", float(spec.gpus), quota.gpus))
                    if amount > limit
                )
        if findings:
            raise QuotaExceeded("\n".join(findings))

    def _require_within_queue_limit(self, specs: Sequence[JobSpec]) -> None:
        """Refuse more jobs than may wait."""
        if not self._settings.queue_limits:
            return
        new: dict[tuple[str, str], int] = defaultdict(int)
        for spec in specs:
            new[(spec.user, spec.pool)] += 1
        for (user, pool), number in new.items():
            limit = first_matching(pool, ((each.pool_regex, each) for each in self._settings.queue_limits))
            if limit is None:
                continue
            most = max_waiting(
                self._queues.pool_waiting(pool) + self._under_way.of_pool(pool),
                threshold=limit.pool_global_threshold,
                normal=limit.user_limit_normal,
                constrained=limit.user_limit_constrained,
            )
            waiting = self._queues.waiting_count(user, pool) + self._under_way.of_user(pool, user)
            if waiting + number > most:
                raise QuotaExceeded(
                    f"User has too many jobs queued in pool {pool}: {waiting} wait,"
                    f" {number} more were sent, {most} may wait"
                )


def _require_amounts(spec: JobSpec) -> None:
    """Refuse amounts that a queue could not hold: once stored, they would keep the scheduler from starting.

    The API refuses them earlier, field by field (`wire.submission`); this holds for every caller.
    """
    if not 0 <= spec.priority <= HIGHEST_PRIORITY:
        raise InvalidRequest(f"job {spec.job_id}: priority {spec.priority} is not in 0..{HIGHEST_PRIORITY}")
    if 0 <= spec.cpus < inf and 0 <= spec.mem_mb < inf and 0 <= spec.gpus < inf and 0 <= spec.ports < inf:
        return
    amounts = {"cpus": spec.cpus, "mem": spec.mem_mb, "gpus": spec.gpus, "ports": spec.ports}
    name = next(name for name, amount in amounts.items() if not 0 <= amount < inf)
    raise InvalidRequest(f"job {spec.job_id}: {name} {amounts[name]} is not a number from 0 up")
