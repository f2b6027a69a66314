"""A simulated cluster driven by an external clock.

Lives here: `SimulatedCluster`, which passes the contract suite of all clusters. Nothing in it happens by
itself: whoever advances the clock calls `process_due`, which ends tasks, or `deliver`, which reports updates.
A launch, an end and the offers of a thousand hosts cost microseconds, so that a million jobs can run.
Not here: run times and their origin (`simulation`), the cluster for tests in real time (`clusters.memory`).

A task ends when the time is *past* its start plus its run time, as in Cook's simulator.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from itertools import chain
from typing import Final, NamedTuple

from cook_jupyter.clusters.base import AlwaysUsable, ClusterListener, FixedSize, Launch
from cook_jupyter.clusters.sandboxes import MemorySandboxes, Sandboxes
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import InstanceId, InstanceStatus, StatusUpdate, TaskState
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.reason import AGENT_RESTARTED, KILLED_BY_USER, MAX_RUNTIME_EXCEEDED, ReasonName
from cook_jupyter.model.resources import Resources

_update, _new_offer, _resources = (
    fast_constructor(StatusUpdate),
    fast_constructor(Offer),
    fast_constructor(Resources),
)

_DECIMALS: Final = 6  # of amounts, so that sums of fractions have no rounding errors
_SPAN_BITS: Final = 14  # of a bucket of ends: 16 s in milliseconds
_PARTS: Final = 1024.0


class ScheduledExit(NamedTuple):
    """How a task ends by itself: its run time, its last state, and the reason of a failure."""

    after_ms: int
    state: TaskState = TaskState.FINISHED
    reason: ReasonName | None = None
    exit_code: int | None = None


ExitPlan = Callable[[JobSpec], ScheduledExit | None]


class SimulatedCluster(FixedSize, AlwaysUsable):
    """Simulated hosts. It may be closed and started again, as when a scheduler is restarted.

    Args:
        hosts: each host as if it were empty; the field `cluster` is ignored. A host whose offer names a pool
            is in that pool alone.
        behaviour: returns how the task of a job ends, or None if it runs until it is killed.
        now_ms: returns the time.
        pools: pools of the hosts whose offers name none.
        reports_starts: whether the start of a task is reported when it is launched. Otherwise it is reported
            with the end, and by `report_running` for tasks that still run: one report less for each task.
        enforce_max_runtime: whether tasks are ended after the maximum run time of their job.
    """

    def __init__(
        self,
        hosts: Sequence[Offer],
        *,
        behaviour: ExitPlan,
        now_ms: Callable[[], int],
        name: str = "simulated",
        pools: Sequence[PoolName] = (DEFAULT_POOL,),
        reports_starts: bool = True,
        enforce_max_runtime: bool = True,
    ) -> None:
        self._name = name
        self._sandboxes = MemorySandboxes()
        self._behaviour = behaviour
        self._now_ms = now_ms
        self._reports_starts = reports_starts
        self._enforce_max_runtime = enforce_max_runtime
        self._hosts = {host.hostname: host for host in map(_Host, hosts)}
        self._whole: list[Offer] = []  # of empty hosts: by pool, then by host
        own_pools = (host.whole.pool for host in self._hosts.values() if host.whole.pool)
        for pool in dict.fromkeys((*pools, *own_pools)):
            for host in self._hosts.values():
                if host.whole.pool == pool or (not host.whole.pool and pool in pools):
                    host.places.append(len(self._whole))
                    self._whole.append(_offer(host.whole, name, pool))
        self._offers = list(self._whole)
        self._changed: set[_Host] = set()
        self._listener: ClusterListener | None = None
        self._tasks: dict[InstanceId, _Task] = {}
        self._due = _ExitTimers()
        self._launched = 0
        self._unreported: list[StatusUpdate] = []  # oldest first

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._name

    @property
    def tasks(self) -> Collection[InstanceId]:
        """The running tasks, in the order of launch."""
        return self._tasks.keys()

    @property
    def has_fixed_capacity(self) -> bool:
        """Return False: hosts may join later in a trace."""
        return False

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of the instances: there are none."""
        return self._sandboxes

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Connect; tasks that were reported to run and do not run any more are lost."""
        self._listener = listener
        ended = {update.instance_id for update in self._unreported}
        for launch in open_launches:
            instance = launch.instance
            if instance.instance_id in self._tasks or instance.instance_id in ended:
                continue
            if instance.status is InstanceStatus.UNKNOWN:
                await self.launch([launch])
            else:
                self._enqueue(instance.instance_id, TaskState.LOST, reason=AGENT_RESTARTED)
        if self._reports_starts:
            await self.report_running()
        listener.offers_changed()

    async def close(self) -> None:
        """Disconnect; tasks go on."""
        self._listener = None

    def offers(self) -> Sequence[Offer]:
        """Return the room of each host, for each pool; the offer of an unchanged host is the same object."""
        if self._changed:
            self._offers = self._offers.copy()  # callers may still hold the last list
            for host in self._changed:
                offer = host.offer()
                for place in host.places:
                    self._offers[place] = _offer(offer, self._name, self._whole[place].pool)
            self._changed.clear()
        return self._offers

    def capacity(self) -> Sequence[Offer]:
        """Return each host as if it were empty."""
        return self._whole

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start tasks at once."""
        now_ms = self._now_ms()
        for launch in launches:
            instance_id = launch.instance.instance_id
            host = self._hosts[launch.instance.host]
            spec = launch.spec
            task = self._tasks[instance_id] = _Task(spec, host, now_ms)
            host.take(spec)
            self._changed.add(host)
            ending = self._behaviour(spec)
            if self._enforce_max_runtime and spec.max_runtime_ms < UNLIMITED_RUNTIME_MS:
                overlong = ScheduledExit(spec.max_runtime_ms, TaskState.FAILED, MAX_RUNTIME_EXCEEDED)
                ending = overlong if ending is None or ending.after_ms > overlong.after_ms else ending
            if ending is not None:
                self._launched += 1
                task.ending = ending
                self._due.note(now_ms + ending.after_ms, self._launched, instance_id)
            if self._reports_starts:
                self._enqueue(instance_id, TaskState.RUNNING)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """End tasks as killed, at once."""
        for instance_id in instance_ids:
            task = self._stop(instance_id)
            if task is not None:
                self._enqueue(instance_id, TaskState.KILLED, reason=KILLED_BY_USER, began_ms=task.began_ms)

    async def process_due(self) -> int:
        """End the tasks that are due, and report all pending updates; return the number of ends."""
        now_ms = self._now_ms()
        ended = 0
        for instance_id in self._due.before(now_ms):
            task = self._stop(instance_id)
            if task is not None and (ending := task.ending) is not None:
                ended += 1
                self._unreported.append(
                    _update(
                        instance_id=instance_id,
                        state=ending.state,
                        at_ms=now_ms,
                        reason=ending.reason,
                        exit_code=ending.exit_code,
                        began_ms=task.began_ms,
                    )
                )
        await self.deliver()
        return ended

    async def deliver(self) -> None:
        """Report all pending updates, in order. If the listener fails, they remain pending.

        Raises:
            CookError, OSError: the listener failed.
        """
        if self._unreported and self._listener is not None:
            batch = tuple(self._unreported)
            await self._listener.report(self._name, batch)
            del self._unreported[: len(batch)]
            self._listener.offers_changed()

    async def report_running(self) -> None:
        """Report the start of all running tasks, with the time at which they started."""
        for instance_id, task in self._tasks.items():
            self._enqueue(instance_id, TaskState.RUNNING, at_ms=task.began_ms)
        await self.deliver()

    def _stop(self, instance_id: InstanceId) -> "_Task | None":
        task = self._tasks.pop(instance_id, None)
        if task is not None:
            task.host.give_back(task.spec)
            self._changed.add(task.host)
        return task

    def _enqueue(
        self,
        instance_id: InstanceId,
        state: TaskState,
        *,
        reason: ReasonName | None = None,
        exit_code: int | None = None,
        at_ms: int | None = None,
        began_ms: int | None = None,
    ) -> None:
        self._unreported.append(
            _update(
                instance_id=instance_id,
                state=state,
                at_ms=self._now_ms() if at_ms is None else at_ms,
                reason=reason,
                exit_code=exit_code,
                began_ms=began_ms,
            )
        )


class _Task:
    """A running task."""

    __slots__ = ("began_ms", "ending", "host", "spec")

    def __init__(self, spec: JobSpec, host: "_Host", began_ms: int) -> None:
        self.spec = spec
        self.host = host
        self.began_ms = began_ms
        self.ending: ScheduledExit | None = None


class _ExitTimers:
    """The ends of tasks by time, in buckets of 16 s that are sorted when due: faster than one heap."""

    __slots__ = ("_buckets", "_spans")

    def __init__(self) -> None:
        self._spans: list[int] = []  # a heap
        self._buckets: dict[
            int, list[tuple[int, int, InstanceId]]
        ] = {}  # span -> (last_ms, number, instance)

    def note(self, last_ms: int, number: int, instance_id: InstanceId) -> None:
        """Record that a task, the `number`-th that was launched, ends when `last_ms` is past."""
        span = last_ms >> _SPAN_BITS
        bucket = self._buckets.get(span)
        if bucket is None:
            bucket = self._buckets[span] = []
            heappush(self._spans, span)
        bucket.append((last_ms, number, instance_id))

    def before(self, now_ms: int) -> list[InstanceId]:
        """Remove and return the tasks whose `last_ms` is past, in the order of `last_ms`, then of launch."""
        spans, last = self._spans, now_ms >> _SPAN_BITS
        due: list[tuple[int, int, InstanceId]] = []
        while spans and spans[0] <= last:
            due += self._buckets.pop(heappop(spans))
        due.sort()
        past = bisect_left(due, (now_ms,))
        if past < len(due):
            self._buckets[last] = due[past:]
            heappush(spans, last)
        return [instance_id for _, _, instance_id in due[:past]]


class _Host:
    """A host and the resources that its tasks hold."""

    __slots__ = (
        "_cpus",
        "_gpus",
        "_is_rounded",
        "_mem_mb",
        "_ports",
        "_tasks",
        "hostname",
        "places",
        "whole",
    )

    def __init__(self, whole: Offer) -> None:
        self.hostname = whole.host
        self.places: list[int] = []  # indices of its offers, one for each pool
        self.whole = Offer(
            host=whole.host,
            cluster=whole.cluster,
            pool=whole.pool,
            room=whole.room,
            attributes={**whole.attributes, "HOSTNAME": whole.host},
            ports=whole.ports,
            location=whole.location,
            until_ms=whole.until_ms,
            users=whole.users,
        )
        self._cpus = self._mem_mb = self._gpus = 0.0
        self._ports = 0
        self._tasks = 0
        # Whether sums have rounding errors: multiples of 1/1024 add up exactly, tenths do not.
        room = whole.room
        self._is_rounded = not ((_PARTS * room.cpus).is_integer() and (_PARTS * room.mem_mb).is_integer())

    def take(self, spec: JobSpec) -> None:
        """Add the resources of a task."""
        self._tasks += 1
        if not self._is_rounded:
            self._is_rounded = not ((_PARTS * spec.cpus).is_integer() and (_PARTS * spec.mem_mb).is_integer())
        self._cpus += spec.cpus
        self._mem_mb += spec.mem_mb
        self._gpus += spec.gpus
        self._ports += spec.ports

    def give_back(self, spec: JobSpec) -> None:
        """Subtract the resources of a task; without tasks all sums are zero."""
        self._tasks -= 1
        if not self._tasks:
            self._cpus = self._mem_mb = self._gpus = 0.0
            self._ports = 0
            return
        self._cpus -= spec.cpus
        self._mem_mb -= spec.mem_mb
        self._gpus -= spec.gpus
        self._ports -= spec.ports

    def offer(self) -> Offer:
        """Return the room of the host."""
        whole = self.whole
        room = whole.room
        cpus, mem_mb, gpus = self._cpus, self._mem_mb, self._gpus
        if self._is_rounded:
            cpus, mem_mb = round(cpus, _DECIMALS), round(mem_mb, _DECIMALS)
            free_cpus = round(room.cpus - cpus, _DECIMALS)
            free_mem_mb = round(room.mem_mb - mem_mb, _DECIMALS)
        else:
            free_cpus, free_mem_mb = room.cpus - cpus, room.mem_mb - mem_mb
        return _new_offer(
            host=whole.host,
            cluster=whole.cluster,
            pool=whole.pool,
            room=_resources(cpus=free_cpus, mem_mb=free_mem_mb, gpus=room.gpus - gpus),
            running=_resources(cpus=cpus, mem_mb=mem_mb, gpus=gpus),
            attributes=whole.attributes,
            ports=_without(whole.ports, self._ports) if self._ports else whole.ports,
            task_count=self._tasks,
            location=whole.location,
            until_ms=whole.until_ms,
            users=whole.users,
        )


def _without(ports: tuple[tuple[int, int], ...], count: int) -> tuple[tuple[int, int], ...]:
    """Return ports without the first `count`: in a simulation it does not matter which are taken."""
    free = list(chain.from_iterable(range(first, last + 1) for first, last in ports))[count:]
    return tuple((port, port) for port in free)


def _offer(offer: Offer, cluster: str, pool: PoolName) -> Offer:
    if offer.cluster == cluster and offer.pool == pool:
        return offer
    return Offer(
        host=offer.host,
        cluster=cluster,
        pool=pool,
        room=offer.room,
        running=offer.running,
        attributes=offer.attributes,
        ports=offer.ports,
        task_count=offer.task_count,
        location=offer.location,
        until_ms=offer.until_ms,
        users=offer.users,
    )
