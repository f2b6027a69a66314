"""Calls in warm workers: results, surroundings, memory, and all the ways to take a worker down."""

import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.reason import (
    KILLED_BY_USER,
    KILLED_EXTERNALLY,
    LAUNCH_FAILED,
    MEMORY_LIMIT_EXCEEDED,
    NON_ZERO_EXIT,
)
from tests.clusters.harness import LocalSite
from tests.clusters.reports import Reports, a_launch
from tests.waiting import wait_until_async


def wait_and_print(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.02)
    print("done")


async def test_a_call_gives_back_what_its_function_returns(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(lambda a, b: a * b, 6, 7)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.exit_code) == (TaskState.FINISHED, 0)
    assert site.read(end, launch).value == 42


async def test_a_large_result_rests_in_the_blob_store(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(lambda: np.arange(100_000))

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert end.result is not None
    assert end.result.blob == f"results/{launch.instance.instance_id}"
    assert end.result.size > 800_000
    assert site.read(end, launch).value.sum() == 4999950000


async def test_what_a_function_raises_comes_back_with_exit_code_1(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(lambda: 1 / 0)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.exit_code, end.reason) == (TaskState.FAILED, 1, NON_ZERO_EXIT)
    assert isinstance(site.read(end, launch).error, ZeroDivisionError)
    assert "ZeroDivisionError" in site.stderr(launch)


async def test_a_library_makes_as_many_threads_as_its_call_has_cpus_whatever_ran_before(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def threads() -> tuple[int, int]:
        import numpy as np

        np.ones((200, 200)) @ np.ones((200, 200))
        return os.getpid(), len(list(Path("/proc/self/task").iterdir()))

    seen = []
    for cpus in (1.0, 2.0, 1.0, 2.0):
        launch = site.call(threads, cpus=cpus)
        await cluster.launch([launch])
        seen.append(site.read(await reports.end_of(launch), launch).value)

    most = len(os.sched_getaffinity(0))
    assert [count for _, count in seen] == [1, min(2, most), 1, min(2, most)]
    assert seen[:2] == seen[2:]  # each in a warm worker


async def test_a_variable_that_a_package_reads_when_it_is_imported_has_its_effect_in_a_warm_worker(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def backend() -> str:
        import matplotlib as mpl

        return str(mpl.get_backend())

    seen = []
    for name in ("svg", "pdf", "svg"):
        launch = site.call(backend, env={"MPLBACKEND": name})
        await cluster.launch([launch])
        seen.append(site.read(await reports.end_of(launch), launch).value)

    assert seen == ["svg", "pdf", "svg"]


async def test_variables_of_their_own_do_not_make_calls_heap_up_workers(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def imports() -> int:
        import msgspec  # noqa: F401

        return os.getpid()

    pids = set()
    for number in range(30):
        launch = site.call(imports, env={"NUMBER": str(number)})
        await cluster.launch([launch])
        pids.add(site.read(await reports.end_of(launch), launch).value)

    assert len(pids) == 30
    await wait_until_async(lambda: len(pids & site.processes().keys()) <= 10)


async def test_calls_that_import_nothing_share_a_worker_whatever_their_variables(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    pids = set()
    for number in range(4):
        launch = site.call(os.getpid, env={"NUMBER": str(number)}, cpus=1.0 + number % 2)
        await cluster.launch([launch])
        pids.add(site.read(await reports.end_of(launch), launch).value)

    assert len(pids) == 1


async def test_a_call_writes_to_its_sandbox_also_from_outside_of_python(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def noisy() -> None:
        import ctypes
        import subprocess

        print("from python")
        ctypes.CDLL(None).printf(b"from C\n")
        subprocess.run(["echo", "from a child"], check=True)

    launch = site.call(noisy)

    await cluster.launch([launch])
    await reports.end_of(launch)

    assert sorted(site.stdout(launch).splitlines()) == ["from C", "from a child", "from python"]


async def test_a_call_that_writes_nothing_leaves_no_sandbox(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launches = [site.call(abs, -1) for _ in range(20)]

    await cluster.launch(launches)
    for launch in launches:
        await reports.end_of(launch)

    assert not [path for path in (site.home / "sandboxes").iterdir() if not path.name.startswith(".")]


async def test_a_call_keeps_a_file_that_it_left_in_its_sandbox(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def leave() -> None:
        (Path(os.environ["MESOS_SANDBOX"]) / "plot.png").write_bytes(b"x")

    launch = site.call(leave)

    await cluster.launch([launch])
    await reports.end_of(launch)

    assert (site.sandbox(launch) / "plot.png").exists()


async def test_a_call_leaves_nothing_of_its_surroundings_to_the_next(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def spoil() -> int:
        os.environ["SPOILT"] = "yes"
        os.environ["OMP_NUM_THREADS"] = "77"
        del os.environ["PATH"]
        os.umask(0o777)
        sys.stdout = None
        sys.stderr.close()
        sys.path.insert(0, "/spoilt")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.chdir("/")
        return os.getpid()

    def look() -> tuple:
        print("heard")
        old = os.umask(0)
        spoilt = [name for name in ("SPOILT", "PATH") if name in os.environ]
        return (
            os.getpid(),
            spoilt,
            os.environ["OMP_NUM_THREADS"],
            old,
            signal.getsignal(signal.SIGTERM),
            sys.path[0],
        )

    first, second = site.call(spoil), site.call(look)
    await cluster.launch([first])
    spoiled = site.read(await reports.end_of(first), first)

    await cluster.launch([second])

    seen = site.read(await reports.end_of(second), second).value
    assert seen[:3] == (spoiled.value, ["PATH"], "1")
    assert seen[3] == 0o22
    assert seen[4] == signal.SIG_DFL
    assert seen[5] != "/spoilt"
    assert site.stdout(second) == "heard\n"


@pytest.mark.parametrize("pattern", ["*", ".*/*", ".w*", "."])
async def test_work_goes_on_after_sandboxes_were_removed(
    cluster: LocalCluster, reports: Reports, site: LocalSite, pattern: str
) -> None:
    gate = site.folder / "gate"
    warm, call = site.call(abs, -1), site.call(wait_and_print, str(gate))
    command = a_launch(f"while [ ! -e {gate} ]; do sleep 0.02; done")
    await cluster.launch([warm])
    await reports.end_of(warm)
    await cluster.launch([call, command])
    await reports.running(call)
    await reports.running(command)

    folder = site.home / "sandboxes"
    for path in [folder] if pattern == "." else list(folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    gate.touch()

    later = [site.call(print, "after") for _ in range(4)] + [a_launch("echo after") for _ in range(4)]
    await cluster.launch(later)
    ends = [await reports.end_of(launch) for launch in (call, command, *later)]
    assert [end.state for end in ends] == [TaskState.FINISHED] * 10
    assert [site.stdout(launch) for launch in later] == ["after\n"] * 8


async def test_a_call_sees_its_own_variables_and_keeps_its_users_home(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(lambda: dict(os.environ), env={"GREETING": "hello"}, cpus=2.0)

    await cluster.launch([launch])

    seen = site.read(await reports.end_of(launch), launch).value
    assert seen["GREETING"] == "hello"
    assert seen["COOK_INSTANCE_UUID"] == launch.instance.instance_id
    assert seen["OMP_NUM_THREADS"] == "2"
    assert seen["HOME"] == os.environ["HOME"]
    assert "COOK_CALL" not in seen


async def test_a_call_that_leaves_processes_or_threads_behind_ends_with_them(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def leave_process() -> int:
        import subprocess

        subprocess.Popen(["sleep", "600"], start_new_session=True)
        return os.getpid()

    def leave_thread() -> int:
        import threading

        threading.Thread(target=time.sleep, args=(600,)).start()
        return os.getpid()

    pids = set()
    for function in (leave_process, leave_thread, os.getpid):
        launch = site.call(function)
        await cluster.launch([launch])
        pids.add(site.read(await reports.end_of(launch), launch).value)

    assert len(pids) == 3
    assert not [words for words in site.processes().values() if words.startswith("sleep")]


async def test_random_numbers_differ_between_calls_and_workers(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def draw() -> tuple[float, float]:
        import random

        import numpy as np

        time.sleep(0.05)
        return random.random(), float(np.random.random())

    launches = [site.call(draw, cpus=1.0) for _ in range(4)]
    await cluster.launch(launches)

    drawn = [site.read(await reports.end_of(launch), launch).value for launch in launches]

    assert len({number for pair in drawn for number in pair}) == 8


async def test_killing_a_call_frees_its_cpu_without_waiting_for_the_grace_period(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def burn() -> None:
        while True:
            pass

    launch = site.call(burn)
    await cluster.launch([launch])
    await reports.running(launch)

    await cluster.kill([launch.instance.instance_id])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.KILLED, KILLED_BY_USER)
    assert end.exit_code == 128 + signal.SIGTERM  # so the grace period was not waited for


async def test_a_call_that_ignores_term_is_killed_after_the_grace_period(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def stubborn() -> None:
        import multiprocessing

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        multiprocessing.Process(target=time.sleep, args=(600,)).start()
        print("ready")
        time.sleep(600)

    launch = site.call(stubborn)
    await cluster.launch([launch])
    await wait_until_async(lambda: site.stdout(launch) == "ready\n")

    await cluster.kill([launch.instance.instance_id])

    end = await reports.end_of(launch)
    assert (end.state, end.exit_code) == (TaskState.KILLED, 137)


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        (lambda: os._exit(7), 7, NON_ZERO_EXIT),
        (lambda: os._exit(0), 0, NON_ZERO_EXIT),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), 139, NON_ZERO_EXIT),
        (os.abort, 134, NON_ZERO_EXIT),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 137, KILLED_EXTERNALLY),
    ],
    ids=["exit 7", "exit 0", "segfault", "abort", "SIGKILL"],
)
async def test_a_call_that_takes_its_worker_down_fails_with_that_code(
    cluster: LocalCluster, reports: Reports, site: LocalSite, how: Callable[[], None], code: int, reason: str
) -> None:
    launch, following = site.call(how), site.call(abs, -1)

    await cluster.launch([launch])
    end = await reports.end_of(launch)
    await cluster.launch([following])

    assert (end.state, end.exit_code, end.reason) == (TaskState.FAILED, code, reason)
    assert (await reports.end_of(following)).state is TaskState.FINISHED


async def test_a_call_whose_worker_dies_before_it_began_is_the_systems_failure(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    first = site.call(os.getpid)
    await cluster.launch([first])
    worker = site.read(await reports.end_of(first), first).value
    os.kill(worker, signal.SIGSTOP)
    second = site.call(os.getpid)
    await cluster.launch([second])
    await reports.running(second)  # the worker has been given it

    os.kill(worker, signal.SIGKILL)

    end = await reports.end_of(second)
    assert (end.state, end.reason, end.exit_code) == (TaskState.LOST, LAUNCH_FAILED, None)


@pytest.mark.parametrize("kind", ["call", "command"])
async def test_a_task_that_finds_its_worker_damaged_is_the_systems_failure_and_the_next_one_runs(
    cluster: LocalCluster, reports: Reports, site: LocalSite, kind: str
) -> None:
    """A worker is damaged from outside here: whatever calls do to it is restored."""
    first = site.call(os.getpid)
    await cluster.launch([first])
    worker = site.read(await reports.end_of(first), first).value
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, 3))

    damaged = site.call(len, bytes(1 << 20)) if kind == "call" else a_launch("true")  # must open a file
    await cluster.launch([damaged])
    end = await reports.end_of(damaged)

    assert (end.state, end.reason) == (TaskState.LOST, LAUNCH_FAILED)
    again = site.call(os.getpid)
    await cluster.launch([again])
    assert site.read(await reports.end_of(again), again).value != worker


async def test_what_a_worker_is_retired_for_is_in_the_log_of_the_agent(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(lambda: len([os.dup(1) for _ in range(7)]))

    await cluster.launch([launch])

    assert site.read(await reports.end_of(launch), launch).value == 7
    line = f"retired after {launch.instance.instance_id} of ada: descriptors: 7 left open, 0 closed"
    assert line in cluster.agent_log.read_text()


async def test_a_segmentation_fault_shows_where_it_came_from(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def the_guilty_function() -> None:
        import ctypes

        ctypes.string_at(0)

    launch = site.call(the_guilty_function)

    await cluster.launch([launch])
    await reports.end_of(launch)

    assert "Segmentation fault" in site.stderr(launch)
    assert "the_guilty_function" in site.stderr(launch)


def hold_one_large_object() -> None:
    kept = b"x" * (1 << 30)
    threading.Event().wait(len(kept))


def hold_shared_memory() -> None:
    kept = mmap.mmap(-1, 1 << 30)
    kept[::4096] = b"x" * (len(kept) // 4096)
    threading.Event().wait(len(kept))


def let_a_child_hold_it() -> None:
    subprocess.run(
        [sys.executable, "-c", "import time; kept = b'x' * (1 << 30); time.sleep(600)"], check=True
    )


@pytest.mark.parametrize("work", [hold_one_large_object, hold_shared_memory, let_a_child_hold_it])
async def test_a_call_that_holds_more_than_its_limit_is_ended(
    cluster: LocalCluster, reports: Reports, site: LocalSite, work: Callable[[], None]
) -> None:
    launch = site.call(work, mem_mb=100.0)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.FAILED, MEMORY_LIMIT_EXCEEDED)


def run_threads(_: str) -> int:
    from concurrent.futures import ThreadPoolExecutor

    count = 400
    together = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(lambda _: together.wait() >= 0, range(count)))


def reserve(_: str) -> int:
    return len(mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def let_a_child_reserve(_: str) -> int:
    program = "import mmap; print(len(mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)))"
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)


def map_a_file(path: str) -> int:
    with Path(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return sum(mapped[place] for place in range(0, len(mapped), 4096)) + len(mapped)


@pytest.mark.parametrize(
    ("work", "value"),
    [(run_threads, 400), (reserve, 4 << 30), (let_a_child_reserve, 4 << 30), (map_a_file, 300 << 20)],
)
async def test_what_is_reserved_or_can_be_read_again_does_not_count_against_the_limit(
    cluster: LocalCluster, reports: Reports, site: LocalSite, work: Callable[[str], int], value: int
) -> None:
    def work_for_a_while(path: str) -> int:
        kept = work(path)
        end = time.monotonic() + 1.5  # the agent looks at least once a second
        while time.monotonic() < end:
            kept = work(path)
        return kept

    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:  # /tmp may be in memory
        file.truncate(300 << 20)
        launch = site.call(work_for_a_while, file.name, mem_mb=100.0)
        await cluster.launch([launch])
        end = await reports.end_of(launch)

    assert end.state is TaskState.FINISHED, site.stderr(launch)
    assert site.read(end, launch).value == value


async def test_a_call_that_grows_past_its_limit_is_ended(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    def hog() -> None:
        kept = []
        while True:
            kept.append(bytearray(1 << 20))
            time.sleep(0.001)

    launch = site.call(hog, mem_mb=100.0)

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.reason) == (TaskState.FAILED, MEMORY_LIMIT_EXCEEDED)


async def test_the_peak_of_a_call_is_its_own(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    large, small = site.call(lambda: len(bytearray(200 << 20))), site.call(abs, -1)
    await cluster.launch([large])
    first = await reports.end_of(large)

    await cluster.launch([small])
    second = await reports.end_of(small)

    assert first.peak_mem_mb is not None
    assert 190 < first.peak_mem_mb < 300
    assert second.peak_mem_mb is not None
    assert second.peak_mem_mb < 100


async def test_a_call_tells_its_progress(cluster: LocalCluster, reports: Reports, site: LocalSite) -> None:
    gate = site.folder / "gate"

    def work() -> None:
        print("progress: 30 loading")
        while not gate.exists():
            time.sleep(0.02)
        print("progress: 80 almost")

    launch = site.call(work)

    await cluster.launch([launch])
    await reports.until(lambda: any(told.percent == 30 for told in reports.told_progress))
    gate.touch()
    await reports.until(lambda: any(told.percent == 80 for told in reports.told_progress))

    assert [(told.percent, told.message) for told in reports.told_progress] == [
        (30, "loading"),
        (80, "almost"),
    ]


async def test_a_call_whose_interpreter_has_no_worker_runs_as_the_command_it_is(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    other = site.folder / "other-python"
    other.write_text(f'#!/bin/sh\ncase "$1" in *bootstrap.py) exit 1; esac\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    launch = site.call(lambda: 6 * 7, python=str(other))

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert end.state is TaskState.FINISHED, site.stderr(launch)
    assert end.result is not None
    assert end.result.blob == f"results/{launch.instance.instance_id}"
    assert site.read(end, launch).value == 42


async def test_a_call_whose_interpreter_is_missing_fails_as_its_command_does(
    cluster: LocalCluster, reports: Reports, site: LocalSite
) -> None:
    launch = site.call(abs, -1, python="/nowhere/python")

    await cluster.launch([launch])

    end = await reports.end_of(launch)
    assert (end.state, end.exit_code) == (TaskState.FAILED, 127)
    assert "/nowhere/python" in site.stderr(launch)
