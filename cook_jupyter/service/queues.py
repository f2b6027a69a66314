"""The queues of all pools: the scheduler's columns, kept in step with its commits.

Lives here: `Queues`, which follows each changed job into its pool's `QueueIndex` and asks
`scheduling` for decisions about it. Not here: the decisions themselves.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

from cook_jupyter.model.decisions import Matching, Scaleback
from cook_jupyter.model.job import Job, JobId, JobState
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DruMode, Pool
from cook_jupyter.model.resources import Resources
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.columns import QueuedJob, QueueIndex
from cook_jupyter.scheduling.considerable import QueueFilters, ranked_within
from cook_jupyter.scheduling.cycle import CycleSettings, ask_of, match_cycle
from cook_jupyter.scheduling.explain import Facts, reasons
from cook_jupyter.scheduling.hosts import Hosts
from cook_jupyter.scheduling.matching import MatchSettings, refusal_of
from cook_jupyter.scheduling.ranking import RankSettings, lazily
from cook_jupyter.service.config import Settings
from cook_jupyter.service.limits import Limits


class Queues:
    """One queue index a pool, and what decisions need besides it."""

    def __init__(self, pools: Sequence[Pool], limits: Limits, settings: Settings) -> None:
        self._limits = limits
        self._settings = settings
        self._pools = {pool.name: pool for pool in pools}
        self._indexes: dict[str, QueueIndex] = defaultdict(QueueIndex)
        self._scalebacks: dict[str, Scaleback] = {}
        self._cycle_settings: dict[str, CycleSettings] = {}

    def load(self, jobs: Sequence[Job]) -> None:
        """Take in jobs that the store holds, at a restart: many at once."""
        waiting: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.state is JobState.WAITING:
                waiting[job.spec.pool].append(job)
            else:
                self.changed(job)
        for pool, some in waiting.items():
            self._indexes[pool].add_many([QueuedJob.of(job.spec, job.seq) for job in some])

    def changed(self, job: Job) -> None:
        """Bring the job's queue up to what the job is now.

        A killed job whose task still runs stays in as running: it holds room.
        """
        index = self._indexes[job.spec.pool]
        known = job.job_id in index
        alive = job.open_instance
        if alive is not None:
            if not known:
                index.add(QueuedJob.of(job.spec, job.seq))
            if index.is_waiting(job.job_id):
                index.start(job.job_id, alive.started_ms, alive.host)
        elif job.state is JobState.WAITING:
            if not known:
                index.add(QueuedJob.of(job.spec, job.seq))
            elif index.is_running(job.job_id):
                index.wait_again(job.job_id)
        elif known:
            index.end(job.job_id)

    def ranked(self, pool: str, limit: int) -> Sequence[JobId]:
        """Return the first waiting jobs of a pool in launch order, those that quotas let start."""
        index = self._indexes[pool]
        ranked = lazily(index, self._limits.of_pool(pool), self._settings_of(pool).rank)
        allowed = ranked_within(ranked, index, self._filters())
        return index.ids(job.row for job in islice(allowed, limit))

    def might_start(self, pool: str, offers: Sequence[Offer]) -> bool:
        """Tell whether some waiting job could be small enough for some host: if not, why look."""
        cpus, mem_mb = self._indexes[pool].least
        return any(offer.room.cpus >= cpus and offer.room.mem_mb >= mem_mb for offer in offers)

    def match(self, pool: str, offers: Sequence[Offer], capacity: Sequence[Offer]) -> Matching:
        """Decide which waiting jobs of a pool start where now.

        What is larger than the largest host is left out. It can never start; and a host that launches
        ahead offers more room than it has.
        """
        matching = match_cycle(
            self._indexes[pool],
            offers,
            self._limits.of_pool(pool),
            settings=self._settings_of(pool),
            scaleback=self._scalebacks.get(pool),
            filters=self._filters([offer.room for offer in capacity if offer.pool == pool]),
        )
        self._scalebacks[pool] = matching.scaleback
        return matching

    def why(
        self, job: Job, *, attempts: int, offers: Sequence[Offer], capacity: Sequence[Offer]
    ) -> Sequence[WaitReason]:
        """Say why a job has not started: all that holds now, in Cook's order.

        Args:
            job: of one of the pools.
            attempts: how many it has used up.
            offers: the room there is now; hosts of other pools are left out here.
            capacity: every host as if it were empty.
        """
        pool = job.spec.pool
        index = self._indexes[pool]
        placement = None
        if index.is_waiting(job.job_id):
            placement = refusal_of(
                ask_of(index, index.row_of(job.job_id)),
                Hosts([offer for offer in offers if offer.pool == pool]),
                settings=self._settings_of(pool).match,
            )
        facts = Facts(
            attempts=attempts,
            placement=placement,
            capacity=[offer for offer in capacity if offer.pool == pool],
        )
        return reasons(job, index, self._limits.of_pool(pool), facts)

    def users(self) -> set[str]:
        """Return everybody who has a task in some pool."""
        return {user for index in self._indexes.values() for user in index.users()}

    def waiting_count(self, user: str | None = None, pool: str | None = None) -> int:
        """Return how many jobs wait: of a user, of a pool, or of all."""
        indexes = self._indexes.values() if pool is None else [self._indexes[pool]]
        if user is None:
            return sum(index.waiting_count for index in indexes)
        return sum(index.waiting_of(user) for index in indexes)

    def pool_waiting(self, pool: str) -> int:
        """Return how many jobs wait in a pool."""
        return self._indexes[pool].waiting_count

    def _settings_of(self, pool: str) -> CycleSettings:
        found = self._cycle_settings.get(pool)
        if found is None:
            settings = self._settings
            mode = self._pools[pool].dru_mode if pool in self._pools else DruMode.DEFAULT
            found = self._cycle_settings[pool] = CycleSettings(
                rank=RankSettings(mode=mode, max_over_quota_jobs=settings.max_over_quota_jobs),
                match=MatchSettings(good_enough=settings.good_enough),
                max_considered=settings.max_considered,
                scaleback=settings.scaleback,
            )
        return found

    def _filters(self, hosts: Sequence[Resources] = ()) -> QueueFilters:
        settings = self._settings
        return QueueFilters(
            max_cpus=min(settings.max_cpus, max((host.cpus for host in hosts), default=settings.max_cpus)),
            max_mem_mb=min(
                settings.max_mem_mb, max((host.mem_mb for host in hosts), default=settings.max_mem_mb)
            ),
        )
