"""A cluster of hosts on paper whose tasks end by a clock that somebody else turns.

Lives here: `SimulatedCluster`, which passes the contract suite of the real ones. Nothing in it happens by
itself: whoever turns the clock calls `turn` (what is due by now ends) or `deliver` (what was not told yet is
told). A launch, an end and the offers of a thousand hosts cost microseconds, so that a million jobs can run.
Not here: run times and their origin (`simulation`), the twin for tests in real time (`clusters.memory`).

A task ends when the time is *past* its start plus its run time, as in Cook's simulator.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from itertools import chain
from typing import Final, NamedTuple

from cook_jupyter.clusters.base import ClusterListener, FixedSize, Launch
from cook_jupyter.clusters.sandboxes import MemorySandboxes, Sandboxes
from cook_jupyter.model.fast_dataclass import fast_constructor
from cook_jupyter.model.instance import InstanceId, InstanceStatus, StatusUpdate, TaskState
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.reason import AGENT_RESTARTED, KILLED_BY_USER, MAX_RUNTIME_EXCEEDED, ReasonName
from cook_jupyter.model.resources import Resources

_update, _new_offer, _resources = (
    fast_constructor(StatusUpdate),
    fast_constructor(Offer),
    fast_constructor(Resources),
)

_DECIMALS: Final = 6  # of amounts: sums of fractions must come out even
_SPAN_BITS: Final = 14  # of milliseconds: 16 s
_PARTS: Final = 1024.0


class PlannedExit(NamedTuple):
    """What a task comes to by itself: how long it runs, its last state, and why if that is a failure."""

    after_ms: int
    state: TaskState = TaskState.FINISHED
    reason: ReasonName | None = None
    exit_code: int | None = None


ExitPlan = Callable[[JobSpec], PlannedExit | None]


class SimulatedCluster(FixedSize):
    """Hosts on paper. May be closed and started again, as when a scheduler is restarted.

    Args:
        hosts: each host as if it were empty; `cluster` of these offers is filled in here. A host whose offer
            names a pool is in that one alone.
        behaviour: what a job's task comes to; None goes on until it is killed.
        now_ms: the time.
        pools: the pools of the other hosts.
        tells_starts: whether each task is said to run when it is launched. Else that is told with its end,
            and of those that still run by `tell_running`: one report less for every task.
        ends_overlong: whether tasks are ended after their job's longest run time.
    """

    def __init__(
        self,
        hosts: Sequence[Offer],
        *,
        behaviour: ExitPlan,
        now_ms: Callable[[], int],
        name: str = "simulated",
        pools: Sequence[str] = ("default",),
        tells_starts: bool = True,
        ends_overlong: bool = True,
    ) -> None:
        self._name = name
        self._sandboxes = MemorySandboxes()
        self._behaviour = behaviour
        self._now_ms = now_ms
        self._tells_starts = tells_starts
        self._ends_overlong = ends_overlong
        self._hosts = {host.hostname: host for host in map(_Host, hosts)}
        self._whole: list[Offer] = []  # by pool, then by host
        own_pools = (host.whole.pool for host in self._hosts.values() if host.whole.pool)
        for pool in dict.fromkeys((*pools, *own_pools)):
            for host in self._hosts.values():
                if host.whole.pool == pool or (not host.whole.pool and pool in pools):
                    host.places.append(len(self._whole))
                    self._whole.append(_offer(host.whole, name, pool))
        self._offers = list(self._whole)
        self._changed: set[_Host] = set()
        self._reporter: ClusterListener | None = None
        self._tasks: dict[InstanceId, _Task] = {}
        self._due = _ExitTimers()
        self._launched = 0
        self._unheard: list[StatusUpdate] = []  # in order

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._name

    @property
    def tasks(self) -> Collection[InstanceId]:
        """What runs now, as it was launched."""
        return self._tasks.keys()

    @property
    def has_fixed_capacity(self) -> bool:
        """Never: hosts may join later in a trace."""
        return False

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of the instances: there are none."""
        return self._sandboxes

    async def start(self, reporter: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Connect; what was heard of before and does not run any more is lost."""
        self._reporter = reporter
        ended = {update.instance_id for update in self._unheard}
        for launch in open_launches:
            instance = launch.instance
            if instance.instance_id in self._tasks or instance.instance_id in ended:
                continue
            if instance.status is InstanceStatus.UNKNOWN:
                await self.launch([launch])
            else:
                self._tell(instance.instance_id, TaskState.LOST, reason=AGENT_RESTARTED)
        if self._tells_starts:
            await self.tell_running()
        reporter.room_changed()

    async def close(self) -> None:
        """Let go; tasks stay."""
        self._reporter = None

    def offers(self) -> Sequence[Offer]:
        """Return what is free on each host, for each pool; a host that did not change has the same offer."""
        if self._changed:
            self._offers = self._offers.copy()  # what was returned before is somebody's
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
            if self._ends_overlong and spec.max_runtime_ms < UNLIMITED_RUNTIME_MS:
                overlong = PlannedExit(spec.max_runtime_ms, TaskState.FAILED, MAX_RUNTIME_EXCEEDED)
                ending = overlong if ending is None or ending.after_ms > overlong.after_ms else ending
            if ending is not None:
                self._launched += 1
                task.ending = ending
                self._due.note(now_ms + ending.after_ms, self._launched, instance_id)
            if self._tells_starts:
                self._tell(instance_id, TaskState.RUNNING)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """End tasks as killed, at once."""
        for instance_id in instance_ids:
            task = self._stop(instance_id)
            if task is not None:
                self._tell(instance_id, TaskState.KILLED, reason=KILLED_BY_USER, began_ms=task.began_ms)

    async def turn(self) -> int:
        """End what is due by now, and tell all that was not told; returns how many ended."""
        now_ms = self._now_ms()
        ended = 0
        for instance_id in self._due.before(now_ms):
            task = self._stop(instance_id)
            if task is not None and (ending := task.ending) is not None:
                ended += 1
                self._unheard.append(
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
        """Tell what was not told yet, in order. What the reporter refuses is told again the next time.

        Raises:
            CookError, OSError: as the reporter does.
        """
        if self._unheard and self._reporter is not None:
            batch = tuple(self._unheard)
            await self._reporter.report(self._name, batch)
            del self._unheard[: len(batch)]
            self._reporter.room_changed()

    async def tell_running(self) -> None:
        """Say of all that runs that it runs, since when it does."""
        for instance_id, task in self._tasks.items():
            self._tell(instance_id, TaskState.RUNNING, at_ms=task.began_ms)
        await self.deliver()

    def _stop(self, instance_id: InstanceId) -> "_Task | None":
        task = self._tasks.pop(instance_id, None)
        if task is not None:
            task.host.give_back(task.spec)
            self._changed.add(task.host)
        return task

    def _tell(
        self,
        instance_id: InstanceId,
        state: TaskState,
        *,
        reason: ReasonName | None = None,
        exit_code: int | None = None,
        at_ms: int | None = None,
        began_ms: int | None = None,
    ) -> None:
        self._unheard.append(
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
    """What runs, where and since when."""

    __slots__ = ("began_ms", "ending", "host", "spec")

    def __init__(self, spec: JobSpec, host: "_Host", began_ms: int) -> None:
        self.spec = spec
        self.host = host
        self.began_ms = began_ms
        self.ending: PlannedExit | None = None


class _ExitTimers:
    """Who ends when. By spans of some seconds, each put in order when it has come: cheaper than one heap."""

    __slots__ = ("_spans", "_told")

    def __init__(self) -> None:
        self._spans: list[int] = []  # a heap
        self._told: dict[int, list[tuple[int, int, InstanceId]]] = {}  # last moment, order of launch, who

    def note(self, last_ms: int, number: int, instance_id: InstanceId) -> None:
        """Note that a task, the `number`th, is over when `last_ms` is past."""
        span = last_ms >> _SPAN_BITS
        told = self._told.get(span)
        if told is None:
            told = self._told[span] = []
            heappush(self._spans, span)
        told.append((last_ms, number, instance_id))

    def before(self, now_ms: int) -> list[InstanceId]:
        """Take out whose last moment is past, in order of it, then of launch."""
        spans, last = self._spans, now_ms >> _SPAN_BITS
        due: list[tuple[int, int, InstanceId]] = []
        while spans and spans[0] <= last:
            due += self._told.pop(heappop(spans))
        due.sort()
        past = bisect_left(due, (now_ms,))
        if past < len(due):
            self._told[last] = due[past:]
            heappush(spans, last)
        return [instance_id for _, _, instance_id in due[:past]]


class _Host:
    """One host and what its tasks hold together."""

    __slots__ = ("_cpus", "_gpus", "_is_dusty", "_mem_mb", "_ports", "_tasks", "hostname", "places", "whole")

    def __init__(self, whole: Offer) -> None:
        self.hostname = whole.host
        self.places: list[int] = []  # among the offers of the cluster, one for each of its pools
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
        # Whether sums may be off by some dust: eighths and the like add up exactly, tenths do not.
        room = whole.room
        self._is_dusty = not ((_PARTS * room.cpus).is_integer() and (_PARTS * room.mem_mb).is_integer())

    def take(self, spec: JobSpec) -> None:
        """Let a task hold what it asks for."""
        self._tasks += 1
        if not self._is_dusty:
            self._is_dusty = not ((_PARTS * spec.cpus).is_integer() and (_PARTS * spec.mem_mb).is_integer())
        self._cpus += spec.cpus
        self._mem_mb += spec.mem_mb
        self._gpus += spec.gpus
        self._ports += spec.ports

    def give_back(self, spec: JobSpec) -> None:
        """Free what a task held; the last one leaves no dust behind."""
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
        """What is free now."""
        whole = self.whole
        room = whole.room
        cpus, mem_mb, gpus = self._cpus, self._mem_mb, self._gpus
        if self._is_dusty:
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
    """Ports less the first `count`: on paper it does not matter which are taken."""
    free = list(chain.from_iterable(range(first, last + 1) for first, last in ports))[count:]
    return tuple((port, port) for port in free)


def _offer(offer: Offer, cluster: str, pool: str) -> Offer:
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
