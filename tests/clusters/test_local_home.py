"""The node agent makes again what somebody removes of its folder, or says why it cannot."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.model.instance import TaskState
from cook_jupyter.worker.address import LOCK, SECRET, SOCKET
from cook_jupyter.worker.home import FACTS, AgentHome, HomeRemoved, HomeTaken
from cook_jupyter.worker.journal import JOURNAL_FILE, AgentJournal, WorkerJournal, read_frames
from cook_jupyter.worker.spawner import find_orphans
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports, a_launch
from tests.waiting import wait_until_async

SOON = {"housekeeping_s": 0.1}
PARTS = (SOCKET, LOCK, FACTS, SECRET, "journal", f"journal/{JOURNAL_FILE}", "sandboxes")


def remove(path: Path) -> None:
    """As `rm -rf` does, as often as it takes: the agent may be making its folder again."""
    if not path.is_dir():
        path.unlink()
        return
    while path.exists():
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
            return


@contextlib.asynccontextmanager
async def a_running_site(site: LocalSite) -> AsyncIterator[tuple[LocalCluster, Reports]]:
    """A cluster whose agent looks after its folder often."""
    cluster, reports = site.cluster(**SOON), Reports()
    await cluster.start(reports, [])
    yield cluster, reports
    await cluster.stop_agent()
    await cluster.close()


def wait_for(gate: str) -> str:
    import time

    Path(f"{gate}.call").touch()
    while not Path(gate).exists():
        time.sleep(0.02)
    return "done"


async def have_begun(gate: Path) -> None:
    """Wait until code of the call and of the command runs: what is reported as running may still begin."""
    await wait_until_async(lambda: all(Path(f"{gate}.{kind}").exists() for kind in ("call", "command")))


def runs_sleep(site: LocalSite) -> bool:
    return any(words.startswith("sleep") for words in site.processes().values())


@pytest.mark.parametrize("removed", [*[[part] for part in PARTS], list(PARTS), ["."]], ids=" ".join)
async def test_what_is_removed_of_the_agents_folder_is_made_again(
    site: LocalSite, removed: list[str]
) -> None:
    gate = site.folder / "gate"
    cluster, reports = site.cluster(**SOON), Reports()
    await cluster.start(reports, [])
    agent = site.agent_pid()
    call, command = (
        site.call(wait_for, str(gate)),
        a_launch(f"touch {gate}.command; while [ ! -e {gate} ]; do sleep 0.02; done"),
    )
    await cluster.launch([call, command])
    await have_begun(gate)

    for part in removed:
        if (site.home / part).exists():
            remove(site.home / part)
    await wait_until_async(lambda: all((site.home / part).exists() for part in PARTS))
    await cluster.close()
    again, heard = site.cluster(**SOON), Reports()
    await again.start(heard, [])
    gate.touch()

    assert site.agent_pid() == agent
    later = site.call(abs, -1)
    await again.launch([later])
    for launch in (call, command, later):
        assert (await heard.end_of(launch)).state is TaskState.FINISHED
    assert site.home.stat().st_mode & 0o777 == 0o700
    await again.stop_agent()
    await again.close()


async def test_what_runs_is_known_to_the_next_agent_though_the_journal_was_removed(site: LocalSite) -> None:
    gate = site.folder / "gate"
    async with a_running_site(site) as (cluster, reports):
        launches = [
            site.call(wait_for, str(gate)),
            a_launch(f"touch {gate}.command; while [ ! -e {gate} ]; do sleep 0.02; done"),
        ]
        await cluster.launch(launches)
        await have_begun(gate)
        remove(site.home / "journal")
        await wait_until_async((site.home / "journal" / JOURNAL_FILE).exists)

        os.kill(site.agent_pid(), signal.SIGKILL)
        await reports.until(
            lambda: all(reports.states[x.instance.instance_id].count(TaskState.RUNNING) > 1 for x in launches)
        )
        gate.touch()

        for launch in launches:
            assert (await reports.end_of(launch)).state is TaskState.FINISHED


async def test_a_second_agent_does_not_start_beside_one_whose_lock_was_removed(site: LocalSite) -> None:
    async with a_running_site(site) as (_, _reports):
        agent = site.agent_pid()
        remove(site.home / LOCK)

        others = [site.cluster(**SOON) for _ in range(3)]
        await asyncio.gather(*(other.start(Reports(), []) for other in others))

        assert site.agent_pid() == agent
        for other in others:
            await other.close()
        last = site.cluster(**SOON)  # which of the three holds the agent is chance: one takes it from them
        await last.start(Reports(), [])
        await last.stop_agent()
        await last.close()


async def test_an_agent_whose_home_became_anothers_leaves_and_runs_nothing_twice(site: LocalSite) -> None:
    cluster, reports = site.cluster(**SOON), Reports()
    await cluster.start(reports, [])
    first = site.agent_pid()
    launch = a_launch("sleep 600")
    await cluster.launch([launch])
    await wait_until_async(lambda: runs_sleep(site))
    await cluster.close()
    os.kill(first, signal.SIGSTOP)
    remove(site.home)

    again, heard = site.cluster(**SOON), Reports()
    await again.start(heard, [])
    os.kill(first, signal.SIGCONT)

    await wait_until_async(
        lambda: not [words for words in site.processes().values() if words.startswith("sleep")]
    )
    await wait_until_async(lambda: first not in site.processes())
    later = a_launch("true")
    await again.launch([later])
    assert (await heard.end_of(later)).state is TaskState.FINISHED
    await again.stop_agent()
    await again.close()


async def test_a_home_that_was_removed_with_all_above_it_is_reported_and_nothing_is_offered(
    site: LocalSite, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, reports = site.cluster(**SOON), Reports()
    await cluster.start(reports, [])
    launch = a_launch("sleep 600")
    await cluster.launch([launch])
    await wait_until_async(lambda: runs_sleep(site))

    with caplog.at_level(logging.ERROR):
        remove(site.folder)
        # While the directory is being removed, the report may be that files cannot be restored.
        await wait_until_async(
            lambda: "was removed: instances keep running, but none is started" in caplog.text
        )

    assert not cluster.offers()
    assert launch.instance.instance_id not in reports.ends
    site.folder.mkdir()
    await wait_until_async(cluster.offers)
    later = a_launch("true")
    await cluster.launch([later])
    assert (await reports.end_of(later)).state is TaskState.FINISHED
    await cluster.stop_agent()
    await cluster.close()


async def test_without_a_scheduler_an_agent_whose_home_was_removed_ends_what_runs_and_leaves(
    site: LocalSite,
) -> None:
    cluster, reports = site.cluster(**SOON), Reports()
    await cluster.start(reports, [])
    launch = a_launch("sleep 600")
    await cluster.launch([launch])
    await wait_until_async(lambda: runs_sleep(site))
    await cluster.close()

    remove(site.folder)

    await wait_until_async(lambda: not site.processes())
    site.folder.mkdir()


def test_a_home_that_another_agent_holds_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = AgentHome(str(tmp_path / "agent"))

    with pytest.raises(HomeTaken):
        AgentHome(home.path)
    (tmp_path / "agent" / LOCK).unlink()
    with pytest.raises(HomeTaken):
        AgentHome(home.path)

    assert LOCK in home.restore()
    home.listener.close()


def test_a_home_that_another_agent_has_taken_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "agent"
    first = AgentHome(str(path))
    shutil.rmtree(path)
    second = AgentHome(str(path))

    with pytest.raises(HomeTaken):
        first.restore()
    first.leave()

    assert (path / SOCKET).exists()
    shutil.rmtree(path)
    assert set(second.restore()) >= {str(path), LOCK, SOCKET, SECRET, FACTS}
    assert second.restore() == []
    for home in (first, second):
        home.listener.close()


def test_an_agent_whose_lock_was_removed_a_moment_ago_leaves_no_socket_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = AgentHome(str(tmp_path / "agent"))
    home.write_facts()
    (tmp_path / "agent" / LOCK).unlink()

    home.leave()

    assert not (tmp_path / "agent" / SOCKET).exists()
    assert not (tmp_path / "agent" / FACTS).exists()
    home.listener.close()


def test_a_home_without_a_place_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = AgentHome(str(tmp_path / "cook" / "agent"))
    assert home.exists()

    (tmp_path / "cook").rename(tmp_path / "moved")

    assert not home.exists()
    assert home.is_moved()
    with pytest.raises(HomeRemoved):
        home.restore()
    shutil.rmtree(tmp_path / "moved")
    assert not home.is_moved()
    monkeypatch.chdir(tmp_path)
    home.listener.close()


def test_a_ledger_and_a_log_that_were_removed_are_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    ledger, log = AgentJournal(str(folder), {}), WorkerJournal(str(folder), "w1")
    ledger.record("a", {"t": "launch"})
    ledger.flush()
    shutil.rmtree(folder)

    log.append(b"")
    ledger.restore()
    ledger.record("b", {"t": "launch"})
    ledger.flush()

    assert list(AgentJournal.read(str(folder))) == ["a", "b"]
    assert read_frames(str(folder / "w1.0")) == []


async def test_a_job_that_no_agent_can_find_any_more_does_not_run_for_ever(site: LocalSite) -> None:
    cluster, reports = site.cluster(**SOON), Reports()
    await cluster.start(reports, [])
    launches = [site.call(wait_for, str(site.folder / "never")), a_launch("(setsid sleep 600 &); sleep 601")]
    await cluster.launch(launches)
    for launch in launches:
        await reports.running(launch)
    await cluster.close()
    agent = site.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    remove(site.home)

    os.kill(agent, signal.SIGKILL)

    await wait_until_async(lambda: not site.processes())


def test_a_worker_is_orphaned_when_the_ledger_does_not_know_it_or_its_time_is_long_over(
    tmp_path: Path,
) -> None:
    ledger = AgentJournal(str(tmp_path), {})
    for name, deadline in (("endless", None), ("timely", 1000.0), ("late", 100.0), ("settled", None)):
        header = {"t": "launch", "worker": name, "pid": 7, "mark": None, "base_mb": 0.0, "until": deadline}
        ledger.record(f"of {name}", header)
    ledger.flush()
    ledger.settle(["of settled"])
    ledger.flush()
    workers = ["endless", "timely", "late", "settled", "unknown"]

    assert find_orphans(str(tmp_path), workers, 500.0) == {"late", "settled", "unknown"}
    assert find_orphans(str(tmp_path / "removed"), workers, 500.0) == set(workers)
