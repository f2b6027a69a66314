"""LocalCluster keeps the promises of every cluster, and has one agent per home."""

import asyncio
import os
import signal
import time

import pytest

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.errors import SchedulerError
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.reason import AGENT_RESTARTED, KILLED_EXTERNALLY
from tests.clusters.contract import FOREVER, ClusterContract
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports, a_launch
from tests.waiting import wait_until_async


class TestLocalCluster(ClusterContract):
    pass


async def test_the_agent_is_stopped_with_all_it_runs_and_says_so(site: LocalSite, reports: Reports) -> None:
    cluster = site.cluster()
    await cluster.start(reports, [])
    command, call = a_launch(FOREVER), site.call(time.sleep, 600)
    await cluster.launch([command, call])
    await reports.running(command)
    await reports.running(call)

    await cluster.stop_agent()

    for launch in (command, call):
        end = await reports.end_of(launch)
        assert (end.state, end.reason) == (TaskState.KILLED, KILLED_EXTERNALLY)
    assert not cluster.offers()
    await cluster.close()


async def test_a_newer_scheduler_takes_the_agent_over(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    newer, heard = site.cluster(), Reports()

    await newer.start(heard, [])

    launch = a_launch("true")
    await newer.launch([launch])
    assert (await heard.end_of(launch)).state is TaskState.FINISHED
    await wait_until_async(lambda: not cluster.offers())
    await newer.stop_agent()
    await newer.close()


async def test_two_schedulers_starting_at_once_end_with_one_agent(site: LocalSite) -> None:
    clusters = [site.cluster() for _ in range(3)]

    await asyncio.gather(*(cluster.start(Reports(), []) for cluster in clusters))

    assert len([words for words in site.processes().values() if " agent --home " in words]) == 1
    for cluster in clusters:
        await cluster.stop_agent()
        await cluster.close()


async def test_a_home_too_deep_for_a_socket_is_no_hindrance(site: LocalSite, reports: Reports) -> None:
    site.home = site.folder / ("d" * 60) / ("e" * 60) / "agent"
    cluster = site.cluster()
    await cluster.start(reports, [])
    launch = a_launch("true")

    await cluster.launch([launch])

    assert (await reports.end_of(launch)).state is TaskState.FINISHED
    await cluster.stop_agent()
    await cluster.close()


async def test_an_agent_that_cannot_start_is_a_clear_error(site: LocalSite) -> None:
    site.home.write_text("a file where the agent's folder should be")

    with pytest.raises(SchedulerError, match="cannot be started"):
        await site.cluster().start(Reports(), [])


async def test_an_agent_without_work_and_scheduler_leaves_by_itself(site: LocalSite) -> None:
    cluster = site.cluster(idle_exit_s=0.1)
    await cluster.start(Reports(), [])

    await cluster.close()

    await wait_until_async(lambda: not site.processes(), timeout_s=20)


async def test_an_agent_whose_home_was_removed_leaves(site: LocalSite) -> None:
    cluster = site.cluster()
    await cluster.start(Reports(), [])
    await cluster.close()

    site.home.rename(site.folder / "elsewhere")

    await wait_until_async(lambda: not site.processes(), timeout_s=20)


async def test_an_instance_whose_worker_and_agent_were_killed_is_lost_by_nobodys_fault(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(os.getpid)
    await cluster.launch([launch])
    worker = site.read(await reports.end_of(launch), launch).value
    sleeper = site.call(time.sleep, 600)
    await cluster.launch([sleeper])
    await reports.running(sleeper)

    agent = site.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    os.kill(agent, signal.SIGKILL)

    end = await reports.end_of(sleeper)
    assert (end.state, end.reason) == (TaskState.LOST, AGENT_RESTARTED)


async def test_an_update_that_the_scheduler_cannot_store_holds_up_no_other(
    cluster: LocalCluster, reports: Reports
) -> None:
    poison, *others = [a_launch("true", cpus=0.1) for _ in range(5)]
    instance_id = poison.instance.instance_id
    reports.refused = lambda update: update.instance_id == instance_id and update.state is TaskState.FINISHED

    await cluster.launch([poison, *others])

    for launch in others:
        assert (await reports.end_of(launch)).state is TaskState.FINISHED
    end = await reports.end_of(poison)  # in the words that can be stored: it is lost, and costs no retry
    assert (end.state, end.reason) == (TaskState.LOST, AGENT_RESTARTED)
    refusals = reports.refusals
    later = a_launch("true")
    await cluster.launch([later])
    await reports.end_of(later)
    assert reports.refusals == refusals


async def test_an_update_that_can_be_stored_in_no_words_is_given_up(
    cluster: LocalCluster, reports: Reports
) -> None:
    poison = a_launch("true")
    instance_id = poison.instance.instance_id
    reports.refused = lambda update: update.instance_id == instance_id

    await cluster.launch([poison])
    await wait_until_async(lambda: reports.refusals >= 2)

    later = a_launch("true")
    await cluster.launch([later])
    assert (await reports.end_of(later)).state is TaskState.FINISHED


async def test_a_background_task_that_fails_is_started_again(cluster: LocalCluster, reports: Reports) -> None:
    reports.room_failures = 3

    for _ in range(5):
        launch = a_launch("true")
        await cluster.launch([launch])
        assert (await reports.end_of(launch)).state is TaskState.FINISHED

    assert reports.room_failures == 0
