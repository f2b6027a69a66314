"""kill -9 of the agent, its spawner and the scheduler's side, at any moment: each instance ends once.

The work are calls and commands that append a line to a file when they succeed: a success that was run twice
shows there, whatever anybody reports.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cook_jupyter.clusters.base import Launch
from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.model.instance import InstanceId, StatusUpdate, TaskState
from cook_jupyter.model.reason import AGENT_RESTARTED
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports, a_launch

AT_ONCE = 8
ROOM = {"cpus": float(AT_ONCE), "mem_mb": 512.0 * AT_ONCE}
KILLS = 7  # per test; what remains then has to get done


def leave_a_mark(path: str, seconds: float) -> str:
    import time

    time.sleep(seconds)
    with Path(path).open("a", encoding="ascii") as file:
        file.write(os.environ["COOK_INSTANCE_UUID"] + "\n")
    return os.environ["COOK_INSTANCE_UUID"]


class Backlog:
    """Launches that are given to a cluster as room comes, a few at once."""

    def __init__(self, site: LocalSite, count: int, rng: random.Random) -> None:
        self.marks = site.folder / "marks"
        self.marks.touch()
        self.launches = [self._one(site, rng) for _ in range(count)]

    def _one(self, site: LocalSite, rng: random.Random) -> Launch:
        seconds = rng.choice([0, 0, 0.005, 0.05])
        if rng.random() < 0.7:
            return site.call(leave_a_mark, str(self.marks), seconds, cpus=0.1, mem_mb=64.0)
        command = f"sleep {seconds}; echo $COOK_INSTANCE_UUID >> {self.marks}"
        return a_launch(command, cpus=0.1, mem_mb=64.0)

    async def run(self, cluster: LocalCluster, reports: Reports) -> None:
        """Give all of them out, and wait for their ends."""
        given = 0
        while given < len(self.launches):
            await reports.until(lambda: len(reports.ends) > given - AT_ONCE)  # noqa: B023 - awaited at once
            more = self.launches[given : len(reports.ends) + AT_ONCE]
            given += len(more)
            await cluster.launch(more)
        await reports.until(lambda: len(reports.ends) == len(self.launches))

    def check(self, reports: Reports) -> Counter[TaskState]:
        """Each ended once, and what is said of it is true."""
        ran = Counter(self.marks.read_text().split())
        assert not [instance_id for instance_id, times in ran.items() if times > 1]
        assert set(reports.ends) == {launch.instance.instance_id for launch in self.launches}
        for instance_id, end in reports.ends.items():
            if end.state is TaskState.FINISHED:
                assert ran[instance_id] == 1
            else:
                assert (end.state, end.reason) == (TaskState.LOST, AGENT_RESTARTED), end
                assert ran[instance_id] == 0, "a success was reported as lost, and would be run again"
        return Counter(end.state for end in reports.ends.values())


@pytest.mark.parametrize("seed", range(3))
async def test_an_agent_killed_at_random_moments_loses_no_end_and_runs_nothing_twice(
    site: LocalSite, seed: int
) -> None:
    rng = random.Random(seed)
    backlog, reports, cluster = Backlog(site, 300, rng), Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])

    async with kill_repeatedly(site.agent_pid, rng) as killed:
        await backlog.run(cluster, reports)

    ends = backlog.check(reports)
    assert ends[TaskState.FINISHED] > 150
    await until_settled(site, cluster)
    assert killed


async def test_a_spawner_killed_at_random_moments_costs_nothing_that_runs(site: LocalSite) -> None:
    rng = random.Random(7)
    backlog, reports, cluster = Backlog(site, 200, rng), Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])

    async with kill_repeatedly(site.spawner_pid, rng) as killed:
        await backlog.run(cluster, reports)

    ends = backlog.check(reports)
    assert ends == Counter({TaskState.FINISHED: 200})
    assert killed
    await until_settled(site, cluster)


async def test_a_scheduler_that_goes_and_comes_at_random_moments_hears_of_every_end(site: LocalSite) -> None:
    rng = random.Random(11)
    backlog = Backlog(site, 100, rng)
    ends: dict[InstanceId, StatusUpdate] = {}
    waiting = list(backlog.launches)
    given: list[Launch] = []
    killed = 0
    while len(ends) < len(backlog.launches):
        still_open = [launch for launch in given if launch.instance.instance_id not in ends]
        reports, cluster = Reports(), site.cluster(**ROOM)
        await cluster.start(reports, still_open)
        for _ in range(rng.randint(1, 6)):
            room = AT_ONCE - sum(launch.instance.instance_id not in reports.ends for launch in still_open)
            more = [waiting.pop() for _ in range(min(room, len(waiting)))]
            still_open += more
            given += more
            await cluster.launch(more)
            await asyncio.sleep(rng.uniform(0, 0.1))
        if killed < KILLS and rng.random() < 0.3:
            os.kill(await agent_of(site), signal.SIGKILL)
            killed += 1
        await cluster.close()  # whatever was not reported by now was not heard
        for instance_id, end in reports.ends.items():
            ends.setdefault(instance_id, end)

    heard = Reports()
    heard.ends = ends
    finished = backlog.check(heard)[TaskState.FINISHED]
    assert finished >= 100 - killed * AT_ONCE  # a kill costs no more than what had been given out
    last = site.cluster(**ROOM)
    await last.start(Reports(), [])
    await until_settled(site, last)


async def test_a_running_call_is_adopted_and_its_result_arrives(site: LocalSite) -> None:
    reports, cluster = Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])
    launch = site.call(leave_a_mark, str(site.folder / "marks"), 1.0)
    await cluster.launch([launch])
    await reports.running(launch)

    os.kill(await agent_of(site), signal.SIGKILL)

    end = await reports.end_of(launch)
    assert end.state is TaskState.FINISHED
    assert site.read(end, launch).value == launch.instance.instance_id
    await until_settled(site, cluster)


@pytest.mark.parametrize("kind", ["call", "command", "stubborn command"])
async def test_an_adopted_instance_can_be_killed_and_leaves_nothing(site: LocalSite, kind: str) -> None:
    reports, cluster = Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])
    commands = {
        "command": "(setsid sleep 600 &) ; sleep 601",
        "stubborn command": "trap '' TERM; sleep 602 & while :; do sleep 0.1; done",
    }
    launch = site.call(leave_a_mark, "never", 600) if kind == "call" else a_launch(commands[kind])
    await cluster.launch([launch])
    await reports.running(launch)
    os.kill(await agent_of(site), signal.SIGKILL)
    await reports.until(lambda: reports.states[launch.instance.instance_id].count(TaskState.RUNNING) > 1)

    await cluster.kill([launch.instance.instance_id])

    assert (await reports.end_of(launch)).state is TaskState.KILLED
    assert not [words for words in site.processes().values() if words.startswith("sleep")]
    await until_settled(site, cluster)


async def test_the_maximum_run_time_of_an_adopted_instance_still_holds(site: LocalSite) -> None:
    reports, cluster = Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])
    launch = a_launch("sleep 600", max_runtime_ms=1000)
    await cluster.launch([launch])
    await reports.running(launch)

    os.kill(await agent_of(site), signal.SIGKILL)

    assert (await reports.end_of(launch)).reason == "max-runtime-exceeded"
    await until_settled(site, cluster)


async def test_a_kill_that_was_asked_for_while_the_agent_was_dead_is_not_forgotten(site: LocalSite) -> None:
    reports, cluster = Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])
    running, fresh = a_launch("sleep 600"), a_launch("sleep 600")
    await cluster.launch([running])
    await reports.running(running)

    os.kill(await agent_of(site), signal.SIGKILL)
    await cluster.launch([fresh])
    await cluster.kill([running.instance.instance_id, fresh.instance.instance_id])

    for launch in (running, fresh):
        assert (await reports.end_of(launch)).state is TaskState.KILLED
    await until_settled(site, cluster)


async def test_nothing_is_kept_of_what_was_acknowledged(site: LocalSite) -> None:
    reports, cluster = Reports(), site.cluster(**ROOM)
    await cluster.start(reports, [])
    launches = [site.call(abs, -1, cpus=0.1) for _ in range(50)]
    await cluster.launch(launches)
    await reports.until(lambda: len(reports.ends) == 50)
    await cluster.close()

    os.kill(await agent_of(site), signal.SIGKILL)
    again, heard = site.cluster(**ROOM), Reports()
    await again.start(heard, [])

    launch = a_launch("true")
    await again.launch([launch])
    await heard.end_of(launch)
    assert len(heard.updates) <= 2  # its own alone
    assert (site.home / "journal" / "ledger").stat().st_size < 2000
    await until_settled(site, again)


@asynccontextmanager
async def kill_repeatedly(victim: Callable[[], int], rng: random.Random) -> AsyncIterator[list[int]]:
    """Kill whoever it is, again and again, at random moments: some while they start or recover."""
    killed: list[int] = []

    async def murder() -> None:
        while len(killed) < KILLS:
            with suppress(LookupError, ProcessLookupError):  # there is none just now
                pid = victim()
                await asyncio.sleep(rng.choice([0.0, 0.1, 0.3, 0.6]) * rng.random())
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            await asyncio.sleep(0.01)

    murderer = asyncio.create_task(murder())
    try:
        yield killed
    finally:
        murderer.cancel()


async def agent_of(site: LocalSite) -> int:
    """The pid of the agent; the one before it may just have died."""
    while True:
        try:
            return site.agent_pid()
        except LookupError:
            await asyncio.sleep(0.005)


async def until_settled(site: LocalSite, cluster: LocalCluster) -> None:
    """End the cluster; the fixture sees that nothing is left."""
    await cluster.stop_agent()
    await cluster.close()
