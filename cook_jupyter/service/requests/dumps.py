"""Dumps: a snapshot of a pool and its queue in a file, from which decisions can be repeated elsewhere.

Lives here: `Dump`, everything that decisions about a pool read, as JSON; taking, reading and replaying one.
Not here: snapshots and queues in memory (`scheduling.snapshot`, `scheduling.queue.queue_index`), the request
for a dump (`api.debug`).

A dump is the way to report a surprising decision, as every replay comes to the same decision. It contains
names of users and hosts, ids and amounts, but no commands, environments or results.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.decisions import Matching, Rebalancing, Scaleback
from cook_jupyter.model.fast_dataclass import evolve
from cook_jupyter.model.job import GroupId, Job, JobId
from cook_jupyter.model.limits import Quota, Usage, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import Pool, PoolName
from cook_jupyter.model.waiting import WaitReason
from cook_jupyter.scheduling.constraints.constraints import GroupPlacement
from cook_jupyter.scheduling.decisions import (
    decide_growth,
    decide_heads,
    decide_match,
    decide_rebalance,
    decide_reserved,
    why,
)
from cook_jupyter.scheduling.explaining.wait_reasons import host_counts, sentences
from cook_jupyter.scheduling.hosts.checker import PlacementContext
from cook_jupyter.scheduling.hosts.host_health import Outage
from cook_jupyter.scheduling.matching.capacity import PoolCapacity
from cook_jupyter.scheduling.matching.cycle import CycleSettings
from cook_jupyter.scheduling.matching.head_room import HeadOfQueue, HostAmounts, RunningTask
from cook_jupyter.scheduling.queue.queue_index import QueueIndex
from cook_jupyter.scheduling.queue.queue_record import QueueRecord, index_of, record_of
from cook_jupyter.scheduling.ranking.considerable import QueueFilters
from cook_jupyter.scheduling.rebalancing.preemption import PreemptionSettings
from cook_jupyter.scheduling.snapshot import HeadFacts, PoolSnapshot, Reserved
from cook_jupyter.service.state.launch_plugin import LaunchPlugin

FORMAT: Final = 1  # increased when older dumps could no longer be read, or would lead to other decisions


class FiltersRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`QueueFilters`, with the launch filter replaced by the jobs that it holds back."""

    pool_quota: Quota
    group_quota: Quota
    group_usage: Usage
    tokens: Mapping[str, float] | None
    max_cpus: float | None
    max_mem_mb: float | None
    refused: Collection[JobId] | None  # None without a launch filter


class PlacementContextRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`PlacementContext`, with the attributes of hosts of other pools only."""

    reservations: Mapping[JobId, str]
    groups: Mapping[GroupId, GroupPlacement]
    group_hosts: Mapping[GroupId, Mapping[str, int]] | None
    attributes: Mapping[str, Mapping[str, str]]


class HeadsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`HeadFacts`, with the tasks on the hosts of the pool and on hosts that are kept for a head."""

    max_kept: float
    backfill: bool
    by_pool: Mapping[PoolName, Mapping[JobId, HeadOfQueue]]
    nowhere: Sequence[JobId]
    current: Sequence[tuple[JobId, str]]
    capacities: Mapping[PoolName, Sequence[Offer]]  # hosts of other pools that have heads
    tasks: Mapping[str, Sequence[RunningTask]]
    promised: Mapping[str, HostAmounts]
    group_ms: Mapping[GroupId, int]
    least: Sequence[tuple[float, float]]


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`PoolSnapshot`, with values instead of functions."""

    pool: Pool
    now_ms: int
    cycle: CycleSettings
    preemption: PreemptionSettings | None
    capacity: Sequence[Offer]
    max_tasks: int | None
    offers: Sequence[Offer]
    open_offers: Sequence[Offer] | None  # None if nothing is reserved
    limits: UserLimits
    filters: FiltersRecord
    leaves_out_too_large: bool
    placement_context: PlacementContextRecord
    indebted: frozenset[str]
    rate_limited: Mapping[str, int] | None
    deferrals: Mapping[JobId, tuple[str, str]] | None  # None without a launch filter
    scaleback: Scaleback | None
    reserved: Reserved
    heads: HeadsRecord
    outages: Sequence[Outage]
    latest: Matching | None = None
    growing: Sequence[str] = ()


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job, to explain why it waits, and the number of attempts that it has used up."""

    job: Job
    attempts: int


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """A pool at one moment.

    Attributes:
        format: the format of the dump, `FORMAT`.
        version: the version of cook_jupyter that wrote it.
        snapshot: everything that decisions read besides the queue.
        queue: waiting jobs and running tasks.
        jobs: jobs to explain.
    """

    format: int
    version: str
    snapshot: SnapshotRecord
    queue: QueueRecord
    jobs: Sequence[JobRecord] = ()

    def encode(self) -> bytes:
        """Return the dump as JSON."""
        return msgspec.json.encode(self)

    def __str__(self) -> str:
        snapshot, queue = self.snapshot, self.queue
        waiting, running = len(queue.ids) - len(queue.running), len(queue.running)
        return (
            f"pool {snapshot.pool.name} at {snapshot.now_ms} ms, written by cook_jupyter {self.version}:"
            f" {waiting} jobs wait, {running} tasks run, {len(snapshot.capacity)} hosts"
        )


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions about the pool of a dump, each as if it were the next one.

    Attributes:
        reserved: matches of jobs with reserved room.
        heads: matches of jobs at the head of the queue.
        match: matches and refusals of the other jobs.
        rebalance: preemptions.
        growth: jobs for which clusters should grow.
        why: job to explain -> the reasons why it has not started.
    """

    reserved: Matching
    heads: Matching
    match: Matching
    rebalance: Rebalancing
    growth: Sequence[JobId]
    why: Mapping[JobId, Sequence[WaitReason]]

    def encode(self) -> bytes:
        """Return the decisions as JSON."""
        return msgspec.json.encode(self)

    def lines(self) -> Iterator[str]:
        """Yield the decisions as lines of text."""
        for name, matching in (("reserved", self.reserved), ("heads", self.heads), ("match", self.match)):
            for match in matching.matches:
                yield f"{name}: {match.job_id} starts on {match.host}"
            for refusal in matching.refusals:
                counts = ", ".join(f"{reason} on {hosts}" for reason, hosts in host_counts(refusal))
                yield f"{name}: {refusal.job_id} finds no host: {counts}"
        for preemption in self.rebalance.preemptions:
            victims = ", ".join(preemption.victims) or "nobody"
            yield f"rebalance: {preemption.beneficiary} gets room on {preemption.host}; gives way: {victims}"
        for job_id in self.growth:
            yield f"growth: {job_id} waits for more hosts"
        for job_id, reasons in self.why.items():
            for sentence in sentences(reasons):
                yield f"why: {job_id}: {sentence}"


def take_dump(
    snapshot: PoolSnapshot,
    index: QueueIndex,
    plugin: LaunchPlugin,
    jobs: Sequence[tuple[Job, int]] = (),
    *,
    version: str,
) -> Dump:
    """Return a dump of a pool, which later commits do not change.

    Args:
        snapshot: the pool.
        index: queue of the pool.
        plugin: the launch filter.
        jobs: jobs to explain, with the number of attempts that each has used up.
        version: version of cook_jupyter.
    """
    queue = record_of(index)
    has_filter = snapshot.filters.accepts is not None
    refused = plugin.refused(filter(index.is_waiting, queue.ids), snapshot.now_ms) if has_filter else None
    return Dump(
        format=FORMAT,
        version=version,
        snapshot=_record_of(snapshot, refused, queue),
        queue=queue,
        jobs=[JobRecord(job=_without_text(job), attempts=attempts) for job, attempts in jobs],
    )


def read_dump(text: bytes) -> Dump:
    """Decode a dump.

    Raises:
        InvalidRequest: the text is not a dump, or has another format.
    """
    try:
        dump_format = msgspec.json.decode(text, type=_Format).format
        if dump_format != FORMAT:
            raise InvalidRequest(
                f"the dump has format {dump_format}, and this version reads format {FORMAT}: replay it"
                " with the version of cook_jupyter that it names"
            )
        return msgspec.json.decode(text, type=Dump)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"this is not a dump of a pool: {error}") from error


def replay_dump(dump: Dump) -> Replay:
    """Repeat the decisions about the pool of a dump."""
    snapshot, index = snapshot_of(dump.snapshot), index_of(dump.queue)
    return Replay(
        reserved=decide_reserved(snapshot, index),
        heads=decide_heads(snapshot, index).matching,
        match=decide_match(snapshot, index).matching,
        rebalance=decide_rebalance(snapshot, index),
        growth=decide_growth(snapshot, index),
        why={
            record.job.job_id: why(snapshot, index, record.job, attempts=record.attempts)
            for record in dump.jobs
        },
    )


def snapshot_of(record: SnapshotRecord) -> PoolSnapshot:
    """Return the snapshot of a record."""
    filters, heads = record.filters, record.heads
    capacity = PoolCapacity.of(record.capacity, record.max_tasks)
    refused = None if filters.refused is None else frozenset(filters.refused)
    placement_context = record.placement_context
    attributes = {offer.host: offer.attributes for offer in record.capacity}
    group_hosts = placement_context.group_hosts
    return PoolSnapshot(
        pool=record.pool,
        now_ms=record.now_ms,
        cycle=record.cycle,
        preemption=record.preemption,
        capacity=capacity,
        offers=record.offers,
        open_offers=record.offers if record.open_offers is None else record.open_offers,
        limits=record.limits,
        filters=QueueFilters(
            pool_quota=filters.pool_quota,
            group_quota=filters.group_quota,
            group_usage=filters.group_usage,
            tokens=filters.tokens,
            accepts=None if refused is None else lambda job_id: job_id not in refused,
            max_cpus=filters.max_cpus,
            max_mem_mb=filters.max_mem_mb,
        ),
        leaves_out_too_large=record.leaves_out_too_large,
        placement_context=PlacementContext(
            reservations=placement_context.reservations,
            groups=placement_context.groups,
            group_hosts=None if group_hosts is None else lambda group: group_hosts.get(group, {}),
            attributes={**attributes, **placement_context.attributes},
            limited=capacity.limited,
            now_ms=record.now_ms,
        ),
        indebted=record.indebted,
        rate_limited=record.rate_limited,
        deferral=None if record.deferrals is None else record.deferrals.get,
        scaleback=record.scaleback,
        latest=record.latest,
        growing=record.growing,
        reserved=record.reserved,
        heads=HeadFacts(
            max_kept=heads.max_kept,
            backfill=heads.backfill,
            by_pool=heads.by_pool,
            nowhere=frozenset(heads.nowhere),
            current=frozenset(heads.current),
            capacities={
                **{
                    name: PoolCapacity.of(offers, record.max_tasks)
                    for name, offers in heads.capacities.items()
                },
                record.pool.name: capacity,
            },
            tasks_on=lambda host: heads.tasks.get(host, ()),
            promised=heads.promised,
            group_ms=heads.group_ms,
            least=heads.least,
        ),
        outages=record.outages,
    )


def _record_of(
    snapshot: PoolSnapshot, refused: Collection[JobId] | None, queue: QueueRecord
) -> SnapshotRecord:
    filters, placement_context, reserved = snapshot.filters, snapshot.placement_context, snapshot.reserved
    group_hosts, deferral = placement_context.group_hosts, snapshot.deferral
    pool_attributes = {offer.host: offer.attributes for offer in snapshot.capacity.offers}
    return SnapshotRecord(
        pool=snapshot.pool,
        now_ms=snapshot.now_ms,
        cycle=snapshot.cycle,
        preemption=snapshot.preemption,
        capacity=snapshot.capacity.offers,
        max_tasks=snapshot.capacity.max_tasks,
        offers=snapshot.offers,
        open_offers=None if snapshot.open_offers is snapshot.offers else snapshot.open_offers,
        limits=snapshot.limits,
        filters=FiltersRecord(
            pool_quota=filters.pool_quota,
            group_quota=filters.group_quota,
            group_usage=filters.group_usage,
            tokens=filters.tokens,
            max_cpus=filters.max_cpus,
            max_mem_mb=filters.max_mem_mb,
            refused=refused,
        ),
        leaves_out_too_large=snapshot.leaves_out_too_large,
        placement_context=PlacementContextRecord(
            reservations=dict(placement_context.reservations),
            groups=dict(placement_context.groups),
            group_hosts=None
            if group_hosts is None
            else {group: dict(hosts) for group in placement_context.groups if (hosts := group_hosts(group))},
            attributes={
                host: attributes
                for host, attributes in placement_context.attributes.items()
                if pool_attributes.get(host) != attributes
            },
        ),
        indebted=snapshot.indebted,
        rate_limited=None if snapshot.rate_limited is None else dict(snapshot.rate_limited),
        deferrals=None
        if deferral is None
        else {job_id: answer for job_id in queue.ids if (answer := deferral(job_id)) is not None},
        scaleback=snapshot.scaleback,
        latest=snapshot.latest,
        growing=snapshot.growing,
        reserved=replace(
            reserved,
            rooms=dict(reserved.rooms),
            everywhere=dict(reserved.everywhere),
            groups=frozenset(reserved.groups),
            lapsed=tuple(reserved.lapsed),
        ),
        heads=_heads_of(snapshot),
        outages=snapshot.outages,
    )


def _heads_of(snapshot: PoolSnapshot) -> HeadsRecord:
    heads, pool_name = snapshot.heads, snapshot.pool.name
    kept_hosts = [
        head.host for heads_of_pool in heads.by_pool.values() for head in heads_of_pool.values() if head.host
    ]
    hosts = dict.fromkeys([*snapshot.capacity.clusters, *kept_hosts]) if heads.max_kept > 0 else {}
    return HeadsRecord(
        max_kept=heads.max_kept,
        backfill=heads.backfill,
        by_pool={pool: dict(heads_of_pool) for pool, heads_of_pool in heads.by_pool.items()},
        nowhere=sorted(heads.nowhere),
        current=sorted(heads.current),
        capacities={
            pool: heads.capacities[pool].offers
            for pool in heads.by_pool
            if pool != pool_name and pool in heads.capacities
        },
        tasks={host: tuple(tasks) for host in hosts if (tasks := heads.tasks_on(host))},
        promised=dict(heads.promised),
        group_ms=dict(heads.group_ms),
        least=list(heads.least),
    )


def _without_text(job: Job) -> Job:
    """Return a job without the parts that only its user should read. No decision reads them."""
    spec = evolve(job.spec, command="", env={}, labels={}, name="", extra={})
    return evolve(job, spec=spec)


class _Format(msgspec.Struct):
    format: int
