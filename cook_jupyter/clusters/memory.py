"""A cluster on paper: hosts are numbers, and tasks end when they are told to.

Lives here: the in-memory twin of `ComputeCluster`, for unit tests of what stands above it. It
passes the contract suite of the real ones. Not here: time (a simulated cluster has that).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from cook_jupyter.clusters.base import Launch, Reporter
from cook_jupyter.model.instance import InstanceId, Result, StatusUpdate, TaskState
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.reason import EXECUTOR_TERMINATED, KILLED_BY_USER, NON_ZERO_EXIT, ReasonName
from cook_jupyter.model.resources import Resources

Behaviour = Callable[[JobSpec], int | None]


class MemoryCluster:
    """Hosts on paper.

    Args:
        hosts: what each host has in all.
        behaviour: the exit code that a job's task ends with at once, or None if it goes on until
            `finish` is called. By default every task goes on.
        now_ms: the time of the updates.
    """

    def __init__(
        self,
        hosts: Mapping[str, Resources],
        *,
        name: str = "memory",
        pools: Sequence[str] = ("default",),
        behaviour: Behaviour = lambda spec: None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._name = name
        self._hosts = dict(hosts)
        self._pools = tuple(pools)
        self._behaviour = behaviour
        self._now_ms = now_ms
        self._reporter: Reporter | None = None
        self._tasks: dict[InstanceId, Launch] = {}
        self._reports: set[asyncio.Task[None]] = set()
        self._unheard: list[StatusUpdate] = []  # ends while no scheduler was connected

    @property
    def name(self) -> str:
        """The name that instances carry."""
        return self._name

    @property
    def tasks(self) -> Mapping[InstanceId, Launch]:
        """What runs now."""
        return self._tasks

    async def start(self, reporter: Reporter, open_launches: Sequence[Launch]) -> None:
        """Connect; what the store holds open and this cluster does not know is lost."""
        self._reporter = reporter
        known = {launch.instance.instance_id for launch in open_launches}
        unheard, self._unheard = self._unheard, []
        lost = known - self._tasks.keys() - {update.instance_id for update in unheard}
        await reporter.report(
            unheard
            + [self._update(i, TaskState.LOST, reason=EXECUTOR_TERMINATED) for i in sorted(lost)]
            + [self._update(i, TaskState.RUNNING) for i in self._tasks]
        )
        reporter.room_changed()

    async def close(self) -> None:
        """Let go; tasks stay."""
        for report in list(self._reports):
            await report
        self._reporter = None

    def offers(self) -> Sequence[Offer]:
        """Return what is free on each host, for each pool."""
        held = {host: Resources() for host in self._hosts}
        count = dict.fromkeys(self._hosts, 0)
        for launch in self._tasks.values():
            held[launch.instance.host] += launch.spec.resources
            count[launch.instance.host] += 1
        return [
            Offer(
                host=host,
                cluster=self._name,
                pool=pool,
                room=total - held[host],
                running=held[host],
                attributes={"HOSTNAME": host},
                task_count=count[host],
            )
            for host, total in self._hosts.items()
            for pool in self._pools
        ]

    def capacity(self) -> Sequence[Offer]:
        """Return each host as if it were empty."""
        return [
            Offer(host=host, cluster=self._name, pool=pool, room=total, attributes={"HOSTNAME": host})
            for host, total in self._hosts.items()
            for pool in self._pools
        ]

    async def launch(self, launches: Sequence[Launch]) -> None:
        """Start tasks: each runs at once, and ends at once if the behaviour says so."""
        updates = []
        for launch in launches:
            task = launch.instance.instance_id
            self._tasks[task] = launch
            updates.append(self._update(task, TaskState.RUNNING))
        self._report(updates)
        for launch in launches:
            exit_code = self._behaviour(launch.spec)
            if exit_code is not None:
                self.finish(launch.instance.instance_id, exit_code=exit_code)

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        """End tasks as killed."""
        known = [i for i in instance_ids if self._tasks.pop(i, None) is not None]
        self._report([self._update(i, TaskState.KILLED, reason=KILLED_BY_USER) for i in known])

    def finish(self, instance_id: InstanceId, *, exit_code: int = 0, result: Result | None = None) -> None:
        """Let a task end by itself."""
        del self._tasks[instance_id]
        well = exit_code == 0
        self._report(
            [
                StatusUpdate(
                    instance_id=instance_id,
                    state=TaskState.FINISHED if well else TaskState.FAILED,
                    at_ms=self._now_ms(),
                    reason=None if well else NON_ZERO_EXIT,
                    exit_code=exit_code,
                    result=result,
                )
            ]
        )

    def lose(self, instance_id: InstanceId) -> None:
        """Let a task vanish without a word, as when its host dies; only a reconciliation tells."""
        del self._tasks[instance_id]

    def _update(
        self, instance_id: InstanceId, state: TaskState, *, reason: ReasonName | None = None
    ) -> StatusUpdate:
        return StatusUpdate(instance_id=instance_id, state=state, at_ms=self._now_ms(), reason=reason)

    def _report(self, updates: Sequence[StatusUpdate]) -> None:
        if self._reporter is None:
            self._unheard.extend(update for update in updates if update.state.is_final)
            return
        report = asyncio.ensure_future(self._deliver(self._reporter, updates))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)

    async def _deliver(self, reporter: Reporter, updates: Sequence[StatusUpdate]) -> None:
        await reporter.report(updates)
        reporter.room_changed()
