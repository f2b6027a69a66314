"""What users of `CookExecutor` may count on, with a real scheduler, node agent and workers."""

import asyncio
import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import cook_jupyter.executor.connection as connection_module
from cook_jupyter.client.runtime import RuntimeFile, read_runtime
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import (
    BadExit,
    CookError,
    InvalidRequest,
    JobKilled,
    NotFound,
    OutOfMemory,
    SchedulerUnreachable,
    TimedOut,
    Unpicklable,
    Unsatisfiable,
)
from cook_jupyter.executor import CookExecutor, attach, recent
from tests.waiting import HANG_S, wait_until

SOON_S = HANG_S


def test_a_call_comes_back_with_its_result(executor: CookExecutor) -> None:
    offset = 1

    future = executor.submit(lambda value: value + offset, 41)

    assert future.result(SOON_S) == 42
    assert future.status == "success"
    assert future.attempts == 1


def test_arguments_named_like_options_reach_the_function(executor: CookExecutor) -> None:
    assert executor.submit(lambda **fields: fields, cpus=7, fn=1).result(SOON_S) == {"cpus": 7, "fn": 1}


def test_large_arrays_come_back(executor: CookExecutor) -> None:
    array = np.arange(500_000.0)

    doubled = executor.submit(lambda a: a * 2, array).result(SOON_S)

    np.testing.assert_array_equal(doubled, array * 2)


def test_equal_calls_are_never_merged(executor: CookExecutor) -> None:
    import random

    futures = [executor.submit(random.random) for _ in range(5)]

    assert len({future.result(SOON_S) for future in futures}) == 5
    assert len({future.key for future in futures}) == 5


def test_a_changed_closure_or_global_is_sent_anew(executor: CookExecutor) -> None:
    box = [1]
    namespace: dict[str, Any] = {"rate": 1}
    exec("def read():\n    return rate", namespace)

    before = executor.submit(lambda: box[0]), executor.submit(namespace["read"])
    box[0] = 2
    namespace["rate"] = 2
    after = executor.submit(lambda: box[0]), executor.submit(namespace["read"])

    assert [future.result(SOON_S) for future in (*before, *after)] == [1, 1, 2, 2]


def test_the_functions_own_exception_comes_back_with_its_frames(executor: CookExecutor) -> None:
    def fail() -> NoReturn:
        raise ValueError("sand")

    future = executor.submit(fail)

    with pytest.raises(ValueError, match="sand") as caught:
        future.result(SOON_S)
    assert any("Cook job " + future.key in note for note in caught.value.__notes__)
    assert caught.traceback[-1].name == "fail"
    assert future.status == "failed"


def test_what_cannot_travel_is_refused_at_once(executor: CookExecutor) -> None:
    lock = threading.Lock()

    with pytest.raises(Unpicklable, match="closure 'lock'"):
        executor.submit(lambda: lock)


def test_a_call_instead_of_a_function_is_explained(executor: CookExecutor) -> None:
    with pytest.raises(TypeError, match="first argument must be a function"):
        executor.submit(42)  # type: ignore[arg-type]


def test_options_are_checked_at_once(executor: CookExecutor) -> None:
    for wrong in (
        {"cpus": -1},
        {"cpus": float("nan")},
        {"mem_mb": 0},
        {"gpus": 0.5},
        {"retries": -1},
        {"priority": 10**9},
        {"env": {"A": 1}},
        {"group": "not a uuid"},
        {"max_runtime_s": 0},
        {"no_such_option": 1},
    ):
        with pytest.raises(InvalidRequest):
            executor.with_(**wrong)


def test_a_view_has_other_options_and_the_same_line(executor: CookExecutor, started: JobClient) -> None:
    future = executor.with_(cpus=0.25, name="small", labels={"of": "view"}, env={"WHO": "ada"}).submit(
        lambda: os.environ.get("WHO")
    )

    assert future.result(SOON_S) == "ada"
    job = started.job(future.key)
    assert (job.cpus, job.name, job.labels["of"]) == (0.25, "small", "view")
    assert executor.options.cpus == 0.5


def test_concurrent_futures_tools_work_on_our_futures(executor: CookExecutor) -> None:
    futures = [executor.submit(pow, base, 2) for base in range(5)]

    done, not_done = concurrent.futures.wait(futures, SOON_S)
    in_order_of_completion = {future.result() for future in concurrent.futures.as_completed(futures)}

    assert (len(done), not_done) == (5, set())
    assert in_order_of_completion == {0, 1, 4, 9, 16}


async def test_futures_can_be_awaited(executor: CookExecutor) -> None:
    first, second = executor.submit(pow, 2, 3), executor.submit(pow, 3, 2)

    assert await first == 8
    assert (await asyncio.gather(asyncio.wrap_future(second)))[0] == 9


async def test_cancelling_the_task_that_awaits_kills_the_job(executor: CookExecutor, gate: Path) -> None:
    future = executor.submit(wait_for, str(gate))

    async def await_it() -> Any:
        return await future

    task = asyncio.ensure_future(await_it())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # The scheduler is asked in the background: the event loop must not wait for it.
    await asyncio.to_thread(concurrent.futures.wait, [future], SOON_S)
    assert future.cancelled()


def test_callbacks_are_called(executor: CookExecutor) -> None:
    called = threading.Event()

    executor.submit(pow, 1, 1).add_done_callback(lambda _: called.set())

    assert called.wait(SOON_S)


def test_result_times_out_with_the_builtin_error_and_can_be_asked_again(
    executor: CookExecutor, gate: Path
) -> None:
    future = executor.submit(wait_for, str(gate))

    with pytest.raises(TimeoutError):
        future.result(0.05)
    gate.touch()

    assert future.result(SOON_S) == "open"


# --- stopping -----------------------------------------------------------------------------------------


def test_cancelling_a_running_job_kills_it(executor: CookExecutor, gate: Path, started: JobClient) -> None:
    future = executor.submit(wait_for, str(gate))
    wait_until(future.running)

    assert future.cancel()

    assert future.cancelled()
    assert started.job(future.key).state == "failed"
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(SOON_S)
    wait_until(lambda: not Path(str(gate) + ".waiting").exists() or not alive(Path(str(gate) + ".waiting")))


def test_cancelling_twice_and_after_the_end(executor: CookExecutor, gate: Path) -> None:
    future = executor.submit(wait_for, str(gate))
    done = executor.submit(pow, 1, 1)
    done.result(SOON_S)

    assert (future.cancel(), future.cancel(), done.cancel()) == (True, True, False)


def test_a_killed_job_raises_job_killed(executor: CookExecutor, gate: Path) -> None:
    future = executor.submit(wait_for, str(gate))
    wait_until(future.running)

    future.kill()

    with pytest.raises(JobKilled) as caught:
        future.result(SOON_S)
    assert caught.value.job_id == future.key
    assert "this process killed it while it ran, by future.kill()" in str(caught.value)


def test_an_interrupt_while_waiting_leaves_the_executor_usable(executor: CookExecutor, gate: Path) -> None:
    future = executor.submit(wait_for, str(gate))
    wait_until(future.running)
    timer = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        future.result(SOON_S)
    gate.touch()

    assert future.result(SOON_S) == "open"
    assert executor.submit(pow, 2, 2).result(SOON_S) == 4


def test_shutdown_waits_for_what_is_under_way(started: JobClient) -> None:
    with CookExecutor(started, cpus=0.5, mem_mb=256) as executor:
        futures = [executor.submit(pow, 2, power) for power in range(4)]

    assert [future.done() for future in futures] == [True] * 4
    for kind in (RuntimeError, CookError):
        with pytest.raises(kind, match="after shutdown"):
            executor.submit(pow, 1, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(pow, [1], [1])


def test_shutdown_can_cancel_what_has_not_started_while_what_runs_goes_on(
    started: JobClient, gate: Path
) -> None:
    cpus = started.info_v1().capacity.cpus
    executor = CookExecutor(started, cpus=cpus / 2, mem_mb=256)
    futures = [executor.submit(wait_for, str(gate)) for _ in range(5)]
    wait_until(lambda: sum(future.running() for future in futures) == 2)
    running = {future for future in futures if future.running()}

    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    executor.shutdown()

    assert {future for future in futures if not future.cancelled()} == running
    assert [future.result() for future in running] == ["open", "open"]
    with pytest.raises(concurrent.futures.CancelledError):
        (set(futures) - running).pop().result()


def test_killing_an_executor_ends_what_waits_and_what_runs_and_leaves_it_usable(
    executor: CookExecutor, gate: Path
) -> None:
    futures = [executor.submit(wait_for, str(gate)) for _ in range(10)]
    wait_until(lambda: any(future.running() for future in futures))

    executor.kill()

    errors = [future.exception(SOON_S) for future in futures]
    assert {type(error) for error in errors} == {JobKilled}
    assert all("executor.kill()" in str(error) for error in errors)
    assert executor.submit(pow, 2, 3).result(SOON_S) == 8


def test_killing_a_view_spares_the_jobs_of_the_executor_it_was_made_from(
    executor: CookExecutor, gate: Path
) -> None:
    spared = executor.submit(wait_for, str(gate))
    view = executor.with_(cpus=0.25)
    killed = view.submit(wait_for, str(gate))

    view.kill()
    gate.touch()

    assert isinstance(killed.exception(SOON_S), JobKilled)
    assert spared.result(SOON_S) == "open"


def test_ctrl_c_in_a_with_block_kills_what_is_under_way(started: JobClient, gate: Path) -> None:
    executor = CookExecutor(started, cpus=0.5, mem_mb=256)
    future = executor.submit(wait_for, str(gate))

    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt

    assert isinstance(future.exception(SOON_S), JobKilled)


def test_a_view_shuts_down_for_itself(executor: CookExecutor) -> None:
    with executor.with_(cpus=0.25) as view:
        future = view.submit(pow, 2, 2)

    assert future.done()
    with pytest.raises(RuntimeError):
        view.submit(pow, 1, 1)
    assert executor.submit(pow, 2, 3).result(SOON_S) == 8


# --- how jobs may end ---------------------------------------------------------------------------------


def test_a_worker_killed_by_a_signal_is_a_bad_exit_that_names_it(executor: CookExecutor) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(BadExit, match="SIGSEGV") as caught:
        executor.submit(die).result(SOON_S)
    assert caught.value.host


def test_leaving_by_exit_is_a_bad_exit(executor: CookExecutor) -> None:
    with pytest.raises(BadExit, match=r"sys\.exit\(3\)"):
        executor.submit(sys.exit, 3).result(SOON_S)
    with pytest.raises(BadExit, match="exit code 7"):
        executor.submit(os._exit, 7).result(SOON_S)


def test_a_job_that_runs_too_long_times_out(executor: CookExecutor, gate: Path) -> None:
    future = executor.with_(max_runtime_s=0.5).submit(wait_for, str(gate))

    with pytest.raises(TimedOut, match="max_runtime_s"):
        future.result(SOON_S)


def test_memory_errors_are_out_of_memory(executor: CookExecutor) -> None:
    with pytest.raises(OutOfMemory):
        executor.submit(np.ones, (10**7, 10**7)).result(SOON_S)


def test_failures_of_ones_own_are_tried_again_as_often_as_asked(executor: CookExecutor, gate: Path) -> None:
    def third_time_lucky(path: str) -> int:
        with Path(path).open("a") as file:
            file.write("x")
        tries = len(Path(path).read_text())
        if tries < 3:
            raise ValueError(tries)
        return tries

    future = executor.with_(retries=2).submit(third_time_lucky, str(gate))

    assert future.result(SOON_S) == 3
    assert future.attempts == 3


def test_a_refused_job_ends_in_its_future_and_in_no_others(executor: CookExecutor) -> None:
    bad = executor.with_(pool="nowhere").submit(pow, 1, 1)
    good = executor.submit(pow, 2, 2)

    with pytest.raises(InvalidRequest):
        bad.result(SOON_S)
    assert good.result(SOON_S) == 4


@pytest.mark.parametrize("kind", ["cpus", "mem"])
def test_a_job_that_no_host_could_ever_run_is_refused_at_submission(
    executor: CookExecutor, kind: str
) -> None:
    most = getattr(
        executor._holder.current_session().scheduler.info.capacity, "cpus" if kind == "cpus" else "mem_mb"
    )
    larger = executor.with_(**{"cpus" if kind == "cpus" else "mem_mb": most + 1})

    with pytest.raises(
        Unsatisfiable, match=r"pow was not accepted.*the most any host has is .* request less"
    ):
        larger.submit(pow, 1, 1)
    with pytest.raises(Unsatisfiable, match="request less"):
        larger.map(abs, range(10))
    assert executor.submit(pow, 2, 2).result(SOON_S) == 4


def test_a_job_that_asks_for_more_than_any_may_is_refused_at_submission(executor: CookExecutor) -> None:
    with pytest.raises(InvalidRequest, match="only allowed to use"):
        executor.with_(mem_mb=1e11).submit(pow, 1, 1)
    with pytest.raises(InvalidRequest, match="GPU support is not enabled"):
        executor.with_(gpus=1).submit(pow, 1, 1)


def test_a_job_as_large_as_the_machine_is_accepted(executor: CookExecutor) -> None:
    cpus = executor._holder.current_session().scheduler.info.capacity.cpus

    assert executor.with_(cpus=cpus).submit(pow, 2, 2).result(SOON_S) == 4


# --- what a future tells ------------------------------------------------------------------------------


def test_logs_are_what_the_call_wrote(executor: CookExecutor) -> None:
    def speak() -> None:
        print("to the one")
        print("to the other", file=sys.stderr)

    future = executor.submit(speak)
    future.result(SOON_S)

    assert future.logs() == "to the one\n"
    assert future.logs("stderr") == "to the other\n"


def test_logs_of_each_attempt_can_be_read(executor: CookExecutor, gate: Path) -> None:
    def speak(path: str) -> None:
        again = Path(path).exists()
        Path(path).touch()
        print("second" if again else "first")
        if not again:
            raise ValueError

    future = executor.with_(retries=1).submit(speak, str(gate))
    future.result(SOON_S)

    assert (future.logs(attempt=1), future.logs(attempt=2)) == ("first\n", "second\n")
    with pytest.raises(InvalidRequest, match="no attempt 3"):
        future.logs(attempt=3)


def test_a_failed_call_can_be_replayed_here(executor: CookExecutor) -> None:
    here = os.getpid()
    ran_in: list[int] = []

    def fail(value: int) -> None:
        raise ValueError(value, os.getpid())

    future = executor.submit(fail, 7)
    with pytest.raises(ValueError, match="7") as there:
        future.result(SOON_S)
    ran_in.append(there.value.args[1])
    with pytest.raises(ValueError, match="7") as again:
        future.replay()
    ran_in.append(again.value.args[1])

    assert ran_in[0] != here
    assert ran_in[1] == here


def test_reprs_tell_the_state_without_asking_anybody(executor: CookExecutor, gate: Path) -> None:
    future = executor.with_(name="x-ray").submit(wait_for, str(gate))
    wait_until(future.running)

    assert future.key in repr(future)
    assert "running" in repr(future)
    shown = future._repr_html_()
    assert "<script" not in shown
    assert "var(--jp-" in shown
    assert "running" in shown
    assert "0.5 cpus" in repr(executor)
    assert "0.5 cpus" in executor._repr_html_()
    assert "1 cpu, 300 MB, 1 gpu, 1 job under way" in repr(executor.with_(cpus=1, mem_mb=300, gpus=1))


# --- coming back --------------------------------------------------------------------------------------


def test_a_future_is_found_again_by_its_key_before_and_after_its_end(
    executor: CookExecutor, gate: Path, started: JobClient
) -> None:
    future = executor.submit(wait_for, str(gate))
    wait_until(future.running)
    again = attach(future.key, client=started)
    assert not again.done()
    gate.touch()

    assert again.result(SOON_S) == "open"
    assert attach(future.key, client=started).result(SOON_S) == "open"


def test_a_large_result_and_an_exception_come_back_by_key_too(
    executor: CookExecutor, started: JobClient
) -> None:
    large, failed = executor.submit(np.zeros, 300_000), executor.submit(int, "x")
    concurrent.futures.wait([large, failed], SOON_S)

    found = attach([large.key, failed.key], client=started)

    assert len(found[0].result(SOON_S)) == 300_000
    with pytest.raises(ValueError, match="invalid literal"):
        found[1].result(SOON_S)


def test_recent_finds_the_last_calls_by_name(executor: CookExecutor, started: JobClient) -> None:
    futures = [executor.with_(name="weekly").submit(pow, 2, power) for power in range(3)]
    concurrent.futures.wait(futures, SOON_S)

    found = recent(3, name="weekly", client=started)

    assert {future.key for future in found} == {future.key for future in futures}
    assert sorted(future.result(SOON_S) for future in found) == [1, 2, 4]


def test_an_unknown_key_is_named(started: JobClient) -> None:
    key = "0b0b7a56-8d0a-4b5a-8f6b-7a2b5f1c3d4e"

    with pytest.raises(NotFound) as caught:
        attach(key, client=started)

    assert caught.value.missing == (key,)


def test_jobs_survive_the_process_that_submitted_them(started: JobClient, gate: Path) -> None:
    program = (
        "import sys; from cook_jupyter.executor import CookExecutor\n"
        "def f():\n    print('ran'); return 'survived'\n"
        "print(CookExecutor(cpus=0.5, mem_mb=256).submit(f).key)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON_S, check=True
    )

    assert attach(done.stdout.strip(), client=started).result(SOON_S) == "survived"


def test_jobs_that_are_not_detached_end_with_the_process(started: JobClient, gate: Path) -> None:
    program = (
        "import time; from cook_jupyter.executor import CookExecutor\n"
        "future = CookExecutor(cpus=0.5, mem_mb=256, detached=False).submit(time.sleep, 600)\n"
        "print(future.key)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON_S, check=True
    )

    assert started.job(done.stdout.strip()).state == "failed"


def test_a_process_does_not_wait_for_work_under_way(started: JobClient) -> None:
    program = (
        "import time; from cook_jupyter.executor import CookExecutor\n"
        "future = CookExecutor(cpus=0.5, mem_mb=256).submit(time.sleep, 600)\n"
        "print(future.key)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON_S, check=True
    )

    started.kill([done.stdout.strip()])


# --- forks, threads, broken lines ---------------------------------------------------------------------


def test_a_forked_child_can_submit_and_knows_which_futures_are_not_its_own(
    executor: CookExecutor, gate: Path
) -> None:
    future = executor.submit(wait_for, str(gate))
    wait_until(future.running)
    answer, question = os.pipe()
    child = os.fork()
    if child == 0:
        told = "?"
        try:
            own = executor.submit(pow, 3, 3).result(SOON_S)
            told = f"{own} {type(future.exception(SOON_S)).__name__}"
        finally:
            os.write(question, told.encode())
            os._exit(0)
    os.close(question)
    with os.fdopen(answer) as reader:
        told = reader.read()
    os.waitpid(child, 0)
    gate.touch()

    assert told == "27 SchedulerUnreachable"
    assert future.result(SOON_S) == "open"


def test_the_threads_end_with_the_last_executor(started: JobClient) -> None:
    executor = CookExecutor(started, cpus=0.5, mem_mb=256)
    future = executor.submit(pow, 2, 2)
    session = executor._holder.current_session()

    del executor

    assert future.result(SOON_S) == 4
    gc.collect()
    wait_until(lambda: session.is_closed)


def test_one_may_act_as_another_user_of_the_own_scheduler(started: JobClient) -> None:
    with CookExecutor(started, user="bob", cpus=0.5, mem_mb=256) as executor:
        future = executor.submit(pow, 2, 5)

        assert future.result(SOON_S) == 32
        assert started.acting_as("bob").job(future.key).user == "bob"


def test_many_threads_may_submit(executor: CookExecutor) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(lambda value: executor.submit(pow, value, 2), range(64)))

    assert [future.result(SOON_S) for future in futures] == [value**2 for value in range(64)]


def test_a_scheduler_that_crashed_is_started_again_by_who_waits(cook_home: Path, gate: Path) -> None:
    executor = CookExecutor(cpus=0.5, mem_mb=256)
    future = executor.submit(wait_for, str(gate))
    wait_until(
        Path(str(gate) + ".waiting").exists
    )  # "running" is told when it is committed, before it is launched
    found = read_runtime(cook_home)
    assert isinstance(found, RuntimeFile)

    os.kill(found.pid, signal.SIGKILL)
    gate.touch()

    assert future.result(SOON_S) == "open"
    assert future.attempts == 1
    assert executor.submit(pow, 2, 2).result(SOON_S) == 4


def test_a_scheduler_that_was_shut_down_stays_down_until_there_is_something_to_send(cook_home: Path) -> None:
    executor = CookExecutor(cpus=0.5, mem_mb=256)
    assert executor.submit(pow, 2, 2).result(SOON_S) == 4
    subprocess.run([sys.executable, "-m", "cook_jupyter", "down"], check=True, capture_output=True)
    assert not (cook_home / "scheduler.json").exists()

    assert executor.submit(pow, 3, 2).result(SOON_S) == 9


def test_without_a_scheduler_futures_say_so_after_a_while(
    cook_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "REQUEST_TIMEOUT_S", 1.0)
    executor = CookExecutor(cpus=0.5, mem_mb=256)
    url = executor._holder.url
    fields = CookExecutor(url, cpus=0.5, mem_mb=256)
    assert fields.submit(pow, 2, 2).result(SOON_S) == 4
    subprocess.run([sys.executable, "-m", "cook_jupyter", "down"], check=True, capture_output=True)

    future = fields.submit(pow, 2, 2)

    with pytest.raises(SchedulerUnreachable, match="cook-jupyter status"):
        future.result(SOON_S)


def wait_for(path: str) -> str:
    """Wait until a file is there; runs in a job, where no event of the test's can reach."""
    waiting = Path(path + ".waiting")
    waiting.write_text(str(os.getpid()))
    while not Path(path).exists():
        time.sleep(0.005)
    return "open"


def alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (ProcessLookupError, ValueError, FileNotFoundError):
        return False
    return True


def test_arrays_of_sizes_around_every_threshold_arrive_and_return(executor: CookExecutor) -> None:
    sizes = [1, 32_767, 32_768, 40_320, 48_000, 48_512, 49_152, 64_000, 65_536, 131_072, 4 * 1024 * 1024]
    arrays = [np.full(size, 7, dtype=np.uint8) for size in sizes]

    futures = [executor.submit(lambda array: array, array) for array in arrays]
    mapped = list(executor.map(lambda array: array, arrays, chunksize=1))

    for array, future, result in zip(arrays, futures, mapped, strict=True):
        np.testing.assert_array_equal(future.result(SOON_S), array)
        np.testing.assert_array_equal(result, array)


REGISTERING = """\
import json
assert not hasattr(json, "registered_by_a_test"), "registered twice"
json.registered_by_a_test = True
import os
from costs import FEE
def ask():
    return FEE, os.getpid()
"""


def test_a_worker_goes_on_in_a_fresh_interpreter_when_a_local_module_was_edited(
    executor: CookExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "registering.py").write_text(REGISTERING)

    def ask() -> Any:
        import registering  # type: ignore[import-not-found]

        return registering.ask()

    answers = []
    for fee in range(4):
        (tmp_path / "costs.py").write_text(f"FEE = {fee}\n")
        answers += [executor.submit(ask).result(SOON_S), executor.submit(ask).result(SOON_S)]

    assert [fee for fee, _ in answers] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_call_that_follows_an_edit_has_its_output_limits_and_failures_as_any_other(
    executor: CookExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def fail() -> None:
        import edited_module  # type: ignore[import-not-found]

        print("seen", edited_module.VALUE)
        raise KeyError(edited_module.VALUE)

    for value in (1, 2):
        (tmp_path / "edited_module.py").write_text(f"VALUE = {value}\n")
        future = executor.submit(fail)
        with pytest.raises(KeyError, match=str(value)):
            future.result(SOON_S)
        assert future.logs() == f"seen {value}\n"
        assert "KeyError" in future.logs("stderr")
