"""The in-memory implementation of `ComputeCluster`.

Lives here: `MemoryCluster`, for unit tests of the layers above; it passes the contract suite of all clusters.
Not here: simulated time (`clusters.simulated`); tasks of this cluster run in real time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cook_jupyter.clusters.base import AlwaysUsable, ClusterListener, Launch
from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.clusters.sandboxes import MemorySandboxes, Sandboxes
from cook_jupyter.errors import CookError
from cook_jupyter.model.instance import InstanceId, InstanceStatus, ResultPayload, StatusUpdate, TaskState
from cook_jupyter.model.job import UNLIMITED_RUNTIME_MS, JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.reason import (
    AGENT_RESTARTED,
    KILLED_BY_USER,
    MAX_RUNTIME_EXCEEDED,
    NON_ZERO_EXIT,
    ReasonName,
)
from cook_jupyter.model.resources import Resources

NO_HOSTS: Final[Mapping[str, Resources]] = MappingProxyType({})
_RETRY_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedExit:
    """When and with which exit code a task ends by itself."""

    after_s: float = 0.0
    exit_code: int = 0


ExitPlan = Callable[[JobSpec], PlannedExit | None]


class MemoryCluster(AlwaysUsable):
    """Hosts and tasks in memory. It may be closed and started again, as when a scheduler is restarted.

    Args:
        hosts: resources of each empty host, by name.
        pools: pools of every host, or those of each host by its name.
        spare_hosts: hosts that join when the cluster is asked to grow.
        finds_hosts: whether its hosts are unknown before it has started.
        behaviour: returns how the task of a job ends, or None if it runs until `finish` is called; by
            default all tasks do.
        now_ms: returns the time of updates.
        has_fixed_capacity: value of the property of that name.
        sandboxes: the files of instances; None for sandboxes in memory.
    """

    def __init__(  # noqa: PLR0913 - settings of one thing, each by its name
        self,
        hosts: Mapping[str, Resources],
        *,
        name: str = "memory",
        pools: Sequence[PoolName] | Mapping[str, Sequence[PoolName]] = (DEFAULT_POOL,),
        spare_hosts: Mapping[str, Resources] = NO_HOSTS,
        finds_hosts: bool = False,
        behaviour: ExitPlan = lambda spec: None,
        now_ms: Callable[[], int] = lambda: 0,
        has_fixed_capacity: bool = False,
        sandboxes: Sandboxes | None = None,
    ) -> None:
        self._sandboxes = MemorySandboxes() if sandboxes is None else sandboxes
        self._name = name
        self._has_fixed_capacity = has_fixed_capacity
        self._hosts = dict(hosts)
        self._pools = pools
        self._spare_hosts = dict(spare_hosts)
        self._is_known = not finds_hosts
        self._behaviour = behaviour
        self._now_ms = now_ms
        self._listener: ClusterListener | None = None
        self._tasks: dict[InstanceId, Launch] = {}
        self._unreported: list[StatusUpdate] = []  # oldest first
        self._reporting: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._name

    @property
    def tasks(self) -> Mapping[InstanceId, Launch]:
        """The running tasks."""
        return self._tasks

    @property
    def heard(self) -> bool:
        """Whether all updates have been reported."""
        return not self._unreported

    @property
    def has_fixed_capacity(self) -> bool:
        """The value that the constructor was given."""
        return self._has_fixed_capacity

    @property
    def sandboxes(self) -> Sandboxes:
        """The files of the instances."""
        return self._sandboxes

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        """Connect; tasks that were reported to run and do not run any more are lost."""
        self._listener = listener
        self._is_known = True
        ended = {update.instance_id for update in self._unreported}
        for launch in open_launches:
            instance = launch.instance
            if instance.instance_id in self._tasks or instance.instance_id in ended:
                continue
            if instance.status is InstanceStatus.UNKNOWN:
                await self.launch([launch])
            else:
                self._enqueue(instance.instance_id, TaskState.LOST, reason=AGENT_RESTARTED)
        for task in self._tasks:
            self._enqueue(task, TaskState.RUNNING)
        listener.offers_changed()

    async def close(self) -> None:
        """Disconnect; tasks go on."""
        self._listener = None
        if self._reporting is not None:
            await self._reporting

    def offers(self) -> Sequence[Offer]:
        """Return the room of each host, for each of its pools."""
        offers = []
        for host, whole in self._known_hosts():
            resources = [task.spec.resources for task in self._tasks.values() if task.instance.host == host]
            held = sum_resources(resources)
            offers += [
                self._offer(host, pool, remaining(whole, held), held, len(resources))
                for pool in self._pools_of(host)
            ]
        return offers

    def capacity(self) -> Sequence[Offer]:
        """Return each host as if it were empty, for each of its pools."""
        return [
            self._offer(host, pool, whole, Resources(), 0)
            for host, whole in self._known_hosts()
            for pool in self._pools_of(host)
        ]

    def can_grow(self, pool: PoolName) -> bool:
        """Return whether there are spare hosts of a pool."""
        return any(pool in self._pools_of(host) for host in self._spare_hosts)

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        """Let spare hosts join until the jobs would fit on those that did."""
        joined: dict[str, Resources] = {}
        for spec in specs:
            spare = {host: room for host, room in self._spare_hosts.items() if pool in self._pools_of(host)}
            rooms = joined | spare
            host = next((host for host, room in rooms.items() if spec.resources.fits_in(room)), None)
            if host is not None:
                self._hosts.setdefault(host, rooms[host])
                self._spare_hosts.pop(host, None)
                joined[host] = remaining(rooms[host], spec.resources)
        if joined and self._listener is not None:
            self._listener.offers_changed()

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start tasks; each runs at once, and ends as `behaviour` says."""
        loop = asyncio.get_running_loop()
        for launch in launches:
            task = launch.instance.instance_id
            self._tasks[task] = launch
            self._enqueue(task, TaskState.RUNNING)
            ending = self._behaviour(launch.spec)
            if ending is not None and ending.after_s == 0:
                self.finish(task, exit_code=ending.exit_code)
            elif ending is not None:
                loop.call_later(ending.after_s, self._end, task, ending.exit_code)
            if launch.spec.max_runtime_ms < UNLIMITED_RUNTIME_MS:
                loop.call_later(launch.spec.max_runtime_ms / 1000, self._overrun, task)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """Kill tasks."""
        for task in instance_ids:
            if self._tasks.pop(task, None) is not None:
                self._enqueue(task, TaskState.KILLED, reason=KILLED_BY_USER)

    def finish(
        self, instance_id: InstanceId, *, exit_code: int = 0, result: ResultPayload | None = None
    ) -> None:
        """End a task as if it ended by itself."""
        del self._tasks[instance_id]
        has_succeeded = exit_code == 0
        self._report(
            StatusUpdate(
                instance_id=instance_id,
                state=TaskState.FINISHED if has_succeeded else TaskState.FAILED,
                at_ms=self._now_ms(),
                reason=None if has_succeeded else NON_ZERO_EXIT,
                exit_code=exit_code,
                result=result,
            )
        )

    def lose(self, instance_id: InstanceId) -> None:
        """Remove a task without a report, as when its host dies; the next reconciliation reports it lost."""
        del self._tasks[instance_id]

    def _known_hosts(self) -> Iterable[tuple[str, Resources]]:
        return self._hosts.items() if self._is_known else ()

    def _pools_of(self, host: str) -> Sequence[PoolName]:
        return self._pools[host] if isinstance(self._pools, Mapping) else self._pools

    def _end(self, instance_id: InstanceId, exit_code: int) -> None:
        if instance_id in self._tasks:
            self.finish(instance_id, exit_code=exit_code)

    def _overrun(self, instance_id: InstanceId) -> None:
        if self._tasks.pop(instance_id, None) is not None:
            self._enqueue(instance_id, TaskState.FAILED, reason=MAX_RUNTIME_EXCEEDED)

    def _offer(self, host: str, pool: PoolName, room: Resources, held: Resources, tasks: int) -> Offer:
        return Offer(
            host=host,
            cluster=self._name,
            pool=pool,
            room=room,
            running=held,
            attributes={"HOSTNAME": host},
            task_count=tasks,
        )

    def _enqueue(
        self, instance_id: InstanceId, state: TaskState, *, reason: ReasonName | None = None
    ) -> None:
        self._report(StatusUpdate(instance_id=instance_id, state=state, at_ms=self._now_ms(), reason=reason))

    def _report(self, update: StatusUpdate) -> None:
        self._unreported.append(update)
        if self._listener is not None and (self._reporting is None or self._reporting.done()):
            self._reporting = asyncio.ensure_future(self._deliver())

    async def _deliver(self) -> None:
        """Report all pending updates, in order; repeat until the listener accepts them."""
        while self._unreported and (listener := self._listener) is not None:
            batch = tuple(self._unreported)
            try:
                await listener.report(self._name, batch)
            except (CookError, OSError):
                await asyncio.sleep(_RETRY_S)  # for example, a full disk: the updates remain pending
                continue
            del self._unreported[: len(batch)]
            listener.offers_changed()
