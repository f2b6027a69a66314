"""Shell commands on a real machine: sandbox, variables, signals, limits, progress, ports; and no orphans."""

import signal
import socket
import sys
import time
from dataclasses import replace

import pytest

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.reason import (
    KILLED_BY_USER,
    KILLED_EXTERNALLY,
    MEMORY_LIMIT_EXCEEDED,
    NON_ZERO_EXIT,
)
from tests.clusters.contract import FOREVER
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports, a_launch
from tests.clusters.sandbox_contract import content_of
from tests.waiting import wait_until_async

DAEMON = 'import os; os.fork() or os.setsid() or os.fork() or os.execlp("sleep", "sleep", "604")'


async def test_a_command_runs_in_its_sandbox_with_its_streams_in_files(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = a_launch("pwd; echo oops >&2; cat; touch left-behind")

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert end.sandbox == str(site.sandbox(launch))
    assert site.stdout(launch) == f"{site.sandbox(launch)}\n"
    assert site.stderr(launch) == "oops\n"
    assert (site.sandbox(launch) / "left-behind").exists()


async def test_the_cluster_gives_access_to_the_sandbox_of_an_instance(
    cluster: LocalCluster, reports: Reports
) -> None:
    launch = a_launch("echo hello; touch left-behind")

    await cluster.launch([launch])

    instance = replace(launch.instance, sandbox=(await reports.end_of(launch)).sandbox)
    assert await content_of(cluster.sandboxes, instance, "stdout") == b"hello\n"
    names = [entry.name for entry in await cluster.sandboxes.browse(instance, "")]
    assert names == ["left-behind", "stderr", "stdout"]


async def test_the_sandbox_of_a_command_stays_when_it_wrote_nothing(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = a_launch("true")

    await cluster.launch([launch])
    await reports.end_of(launch)

    assert sorted(path.name for path in site.sandbox(launch).iterdir()) == ["stderr", "stdout"]


async def test_a_command_sees_what_cook_tells_it(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = a_launch("env", env={"GREETING": "hello"}, cpus=0.5, mem_mb=64.0, ports=2, attempt=3)

    await cluster.launch([launch])
    await reports.end_of(launch)

    seen = dict(line.partition("=")[::2] for line in site.stdout(launch).splitlines())
    sandbox = str(site.sandbox(launch))
    assert seen["GREETING"] == "hello"
    assert seen["COOK_JOB_UUID"] == launch.spec.job_id
    assert seen["COOK_INSTANCE_UUID"] == launch.instance.instance_id
    assert (seen["COOK_INSTANCE_NUM"], seen["COOK_JOB_CPUS"], seen["COOK_JOB_MEM_MB"]) == ("3", "0.5", "64.0")
    assert {seen["HOME"], seen["MESOS_SANDBOX"], seen["MESOS_DIRECTORY"], seen["PWD"]} == {sandbox}
    assert seen["PORT0"] != seen["PORT1"]
    assert seen["OMP_NUM_THREADS"] == "1"
    assert "COOK_JOB_GROUP_UUID" not in seen
    assert "COOK_JOB_GPUS" not in seen


async def test_nothing_that_a_command_started_outlives_it(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = a_launch(
        "sleep 600 & (setsid sleep 601 &) ; nohup sh -c 'sleep 602 & sleep 603' & "
        f"{sys.executable} -c '{DAEMON}'"
    )

    await cluster.launch([launch])

    assert (await reports.end_of(launch)).state is TaskState.FINISHED
    assert not [words for words in site.processes().values() if words.startswith("sleep")]


async def test_a_killed_command_may_tidy_up(cluster: LocalCluster, reports: Reports, site: LocalSite) -> None:
    launch = a_launch("trap 'echo tidy; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    await cluster.launch([launch])
    await wait_until_async(lambda: site.stdout(launch) == "ready\n")

    await cluster.kill([launch.instance.instance_id])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.KILLED, KILLED_BY_USER)
    assert site.stdout(launch) == "ready\ntidy\n"


async def test_who_ignores_term_is_killed_after_the_grace_period_with_all_its_children(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = a_launch("trap '' TERM; sleep 600 & echo ready; while :; do sleep 0.05; done")
    await cluster.launch([launch])
    await wait_until_async(lambda: site.stdout(launch) == "ready\n")
    asked = time.monotonic()

    await cluster.kill([launch.instance.instance_id])

    end = await reports.end_of(launch)
    assert time.monotonic() - asked > 0.9
    assert (end.state, end.exit_code) == (TaskState.KILLED, 137)
    assert not [words for words in site.processes().values() if words.startswith("sleep")]


async def test_a_stopped_command_can_be_killed(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = a_launch("echo ready; kill -STOP $$; echo never")
    await cluster.launch([launch])
    await wait_until_async(lambda: site.stdout(launch) == "ready\n")

    await cluster.kill([launch.instance.instance_id])

    assert (await reports.end_of(launch)).state is TaskState.KILLED


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "TERM", "HUP", "PIPE"])
async def test_a_command_that_dies_of_its_own_signal_has_failed(
    cluster: LocalCluster, reports: Reports, name: str
) -> None:
    launch = a_launch(f"kill -{name} $$")

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.FAILED, NON_ZERO_EXIT)
    assert end.exit_code == 128 + signal.Signals[f"SIG{name}"]


async def test_a_command_that_somebody_kills_with_sigkill_was_killed_externally(
    cluster: LocalCluster, reports: Reports
) -> None:
    launch = a_launch("kill -KILL $$")

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason, end.exit_code) == (TaskState.FAILED, KILLED_EXTERNALLY, 137)


@pytest.mark.parametrize(
    "command", ["echo a\0b", "true " + "x" * 300_000], ids=["with a null byte", "too long"]
)
async def test_a_command_that_the_kernel_refuses_has_failed_and_says_why(
    cluster: LocalCluster, reports: Reports, site: LocalSite, command: str
) -> None:
    launch = a_launch(command)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason, end.exit_code) == (TaskState.FAILED, NON_ZERO_EXIT, 126)
    assert "could not be started" in site.stderr(launch)


async def test_an_overrun_of_memory_ends_the_whole_command(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    hog = f"{sys.executable} -c 'x = bytearray(400 << 20); import time; time.sleep(60)'"
    launch = a_launch(f"sleep 600 & {hog}", mem_mb=128.0)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.FAILED, MEMORY_LIMIT_EXCEEDED)
    assert end.peak_mem_mb is not None
    assert end.peak_mem_mb > 128
    await wait_until_async(
        lambda: not [words for words in site.processes().values() if words.startswith("sleep")]
    )


async def test_the_peak_of_a_successful_command_is_told(cluster: LocalCluster, reports: Reports) -> None:
    launch = a_launch(f"{sys.executable} -c 'bytearray(200 << 20)'", mem_mb=600.0)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert end.state is TaskState.FINISHED
    assert end.peak_mem_mb is not None
    assert 200 < end.peak_mem_mb < 300


async def test_progress_is_told_while_it_runs_and_at_its_end(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    gates = [site.folder / "first", site.folder / "second"]
    command = f"""
        echo "progress: 20 started"
        until [ -e {gates[0]} ]; do sleep 0.02; done
        echo "progress: 55.5 halfway" >> $EXECUTOR_PROGRESS_OUTPUT_FILE
        until [ -e {gates[1]} ]; do sleep 0.02; done
        printf "progress: 100 done"
    """
    launch = a_launch(command)

    await cluster.launch([launch])
    for percent, gate in zip((20, 56), gates, strict=True):
        await reports.until(lambda: reports.told_progress and reports.told_progress[-1].percent == percent)  # noqa: B023 - awaited at once
        gate.touch()
    await reports.end_of(launch)
    await reports.until(lambda: reports.told_progress and reports.told_progress[-1].percent == 100)

    told = [(update.percent, update.message) for update in reports.told_progress]
    assert told == [(20, "started"), (56, "halfway"), (100, "done")]
    sequences = [update.sequence for update in reports.told_progress]
    assert sequences == sorted(set(sequences))


async def test_a_job_may_bring_its_own_progress_file_and_expression(
    cluster: LocalCluster, reports: Reports
) -> None:
    extra = {"progress_output_file": "how-far", "progress_regex_string": r"at (\d+) percent: (.*)"}
    launch = a_launch("echo 'we are at 40 percent: fine' >> how-far", extra=extra)

    await cluster.launch([launch])
    await reports.until(lambda: reports.told_progress)

    assert [(told.percent, told.message) for told in reports.told_progress] == [(40, "fine")]


async def test_cooks_executor_says_its_last_words_when_asked_for_by_name(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    named, unnamed = a_launch("echo hi", extra={"executor": "cook"}), a_launch("echo hi")

    await cluster.launch([named, unnamed])
    await reports.end_of(named)
    await reports.end_of(unnamed)

    assert site.stdout(named) == "hi\nCommand exited with status 0\nExecutor completed execution\n"
    assert site.stdout(unnamed) == "hi\n"


# Ports


async def test_ports_are_free_and_everybody_has_their_own(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launches = [a_launch("echo $PORT0 $PORT1; " + FOREVER, ports=2) for _ in range(3)]

    await cluster.launch(launches)
    await wait_until_async(lambda: all(site.stdout(launch) for launch in launches))

    given = [int(word) for launch in launches for word in site.stdout(launch).split()]
    assert len(set(given)) == 6
    first, last = cluster.offers()[0].ports[0]
    assert not set(given) & set(range(first, last + 1))


async def test_a_port_that_somebody_else_has_is_refused_and_not_offered_again(
    cluster: LocalCluster, reports: Reports
) -> None:
    with socket.socket() as other:
        port = cluster.offers()[0].ports[0][0]
        while True:
            try:
                other.bind(("", port))
                break
            except OSError:
                port += 1
        other.listen()
        launch = a_launch("true", given=(port,))

        await cluster.launch([launch])

        assert (await reports.end_of(launch)).state is TaskState.LOST
        assert not any(first <= port <= last for first, last in cluster.offers()[0].ports)
