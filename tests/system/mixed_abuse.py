"""Mixed abuse beside a steady load of good jobs: no good job fails.

    python -m tests.system.mixed_abuse 30 --seed 1

Runs for that many minutes, in a home of its own. Four threads submit good jobs without pause and compare each
result with the right one: single calls, maps, arrays there and back, calls that write and read a file. Beside
them one fault after the other is done, in random order: calls that spoil their worker (descriptors, limits,
timers, patched modules, threads, memory, ...), workers, spawners and schedulers that are killed with -9,
files removed, a store that is locked, functions cut short on disk, connections that nobody reads.

Prints a table of faults with what became of the calls that did them, and of good jobs; exits with 1 if one of
these failed or was wrong.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import numpy as np

from cook_jupyter import CookExecutor
from cook_jupyter.executor.connection import FILE_CHECK_INTERVAL_S

_CALL_TIMEOUT_S = 120.0
_PAUSE_S = 0.5  # between two faults

Fault = Callable[[], object]


# --- faults: calls that run in a job


def lower_descriptor_limit() -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))
    return 1


def keep_descriptors_open() -> int:
    import builtins

    kept: list[object] = []
    builtins.kept = kept  # type: ignore[attr-defined]
    try:
        while True:
            kept.append(Path("/dev/null").open())  # noqa: SIM115 the fault is that nobody closes it
    except OSError:
        return len(kept)


def leave_profiling_timer() -> int:
    signal.setitimer(signal.ITIMER_PROF, 0.05, 0.05)
    return 1


def lower_file_size_limit() -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return 1


def lower_memory_limit() -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (40 << 20, 40 << 20))
    return 1


def patch_builtins() -> int:
    import builtins

    builtins.open = None  # type: ignore[assignment]
    os.open = None  # type: ignore[assignment]
    return 1


def patch_json_and_time() -> int:
    json.loads = lambda *args, **kwargs: {}
    time.time = lambda: 0.0
    return 1


def close_standard_streams() -> int:
    sys.stdout.close()
    sys.stderr.close()
    return 1


def set_a_failing_trace() -> int:
    def trace(*args: object) -> None:
        raise RuntimeError("traced")

    sys.settrace(trace)
    return 1


def lower_recursion_limit() -> int:
    import gc

    gc.disable()
    sys.setrecursionlimit(60)
    return 1


def forbid_imports() -> int:
    class Finder:
        def find_spec(self, *args: object) -> None:
            raise ImportError("no more imports")

    sys.meta_path.insert(0, Finder())
    return 1


def leave_a_thread_that_ends_the_process() -> int:
    def end() -> None:
        time.sleep(0.3)
        os._exit(9)

    threading.Thread(target=end, daemon=True).start()
    return 1


def leave_a_printing_thread() -> int:
    def speak() -> None:
        while True:
            print("poisoned", flush=True)
            time.sleep(0.02)

    threading.Thread(target=speak, daemon=True).start()
    return 1


def leave_a_child() -> int:
    import subprocess

    subprocess.Popen(["sleep", "600"])
    return 1


def block_signals() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    return 1


def numbers_raise() -> int:
    import decimal
    import warnings

    np.seterr(all="raise")
    warnings.simplefilter("error")
    decimal.getcontext().prec = 2
    socket.setdefaulttimeout(0.001)
    return 1


def change_directory_and_environment() -> int:
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    return 1


def keep_memory() -> int:
    import builtins

    kept = bytearray(200 << 20)
    kept[::4096] = b"x" * len(kept[::4096])
    builtins.cache = kept  # type: ignore[attr-defined]
    return 1


def use_more_memory_than_asked_for() -> int:
    kept = bytearray(2 << 30)
    kept[::4096] = b"x" * len(kept[::4096])
    return len(kept)


def crash() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def exit_at_once() -> None:
    os._exit(3)


def kill_the_parent() -> int:
    os.kill(os.getppid(), signal.SIGKILL)
    return 1


def remove_spare_sandboxes() -> int:
    for folder in Path(os.environ["MESOS_SANDBOX"]).parent.glob(".w*"):
        shutil.rmtree(folder, ignore_errors=True)
    return 1


def send_nonsense_to_the_agent() -> int:
    sent = 0
    for path in Path(os.environ["MESOS_SANDBOX"]).parents[1].glob("*.sock"):
        for frame in (b"{}\n", b"\0" * 64, b"\xff" * 4096, b'{"op":"end","instance":"x"}\n'):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(path))
                connection.sendall(frame)
                sent += 1
    return sent


CALLS: tuple[Fault, ...] = (
    lower_descriptor_limit,
    keep_descriptors_open,
    leave_profiling_timer,
    lower_file_size_limit,
    lower_memory_limit,
    patch_builtins,
    patch_json_and_time,
    close_standard_streams,
    set_a_failing_trace,
    lower_recursion_limit,
    forbid_imports,
    leave_a_thread_that_ends_the_process,
    leave_a_printing_thread,
    leave_a_child,
    block_signals,
    numbers_raise,
    change_directory_and_environment,
    keep_memory,
    use_more_memory_than_asked_for,
    crash,
    exit_at_once,
    kill_the_parent,
    remove_spare_sandboxes,
    send_nonsense_to_the_agent,
)


# --- faults from outside


class Site:
    """One home, seen from outside."""

    def __init__(self, home: Path, chooser: random.Random, good: "GoodJobs") -> None:
        self.home = home
        self._chooser = chooser
        self._good = good

    def runtime(self) -> dict[str, object]:
        """Return what the scheduler's runtime file says; empty if there is none."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, object] = json.loads((self.home / "scheduler.json").read_text())
            return found
        return {}

    def processes(self, word: str) -> list[int]:
        """Return the processes of this home that have a word on their command line."""
        found = []
        home = str(self.home).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    # Of an embedded scheduler only the environment names the home.
                    texts = [*words, *(entry / "environ").read_bytes().split(b"\0")]
                    if word.encode() in words and any(home in text for text in texts):
                        found.append(int(entry.name))
        return found

    def kill(self, word: str) -> int:
        """Kill one such process; return how many there were."""
        found = self.processes(word)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chooser.choice(found), signal.SIGKILL)
        return len(found)

    def kill_the_scheduler(self) -> int:
        """Kill the scheduler; the next call starts another."""
        return self.kill("serve")

    def kill_the_agent(self) -> int:
        """Running jobs go on."""
        return self.kill("agent")

    def kill_a_worker_or_spawner(self) -> int:
        """Its call, if it has one, runs again: a job that somebody kills from outside costs no retry."""
        return self.kill("spawner")

    def remove_ended_sandboxes(self) -> int:
        """How one makes room on a full disk."""
        removed = 0
        for folder in (self.home / "agent" / "sandboxes").glob("*"):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        return removed

    def truncate_functions(self) -> int:
        """As a power loss would, which no call under way survives: it happens between good jobs."""
        cut = 0
        self._good.pause()
        for path in (self.home / "blobs" / "functions").glob("*"):
            with contextlib.suppress(OSError):
                os.truncate(path, path.stat().st_size // 2)
                cut += 1
        time.sleep(2 * FILE_CHECK_INTERVAL_S)  # for so long an executor does not look at a file again
        self._good.go_on()
        return cut

    def lock_the_store(self) -> float:
        """As a backup would, for three seconds."""
        connection = apsw.Connection(str(self.home / "store.sqlite"))
        begun = time.monotonic()
        with contextlib.suppress(apsw.BusyError):
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(3)
            connection.execute("ROLLBACK")
        connection.close()
        return time.monotonic() - begun

    def connections_that_say_nothing(self) -> int:
        """Hold as many as there may be, for two seconds."""
        port = int(str(self.runtime().get("url", "http://x:0")).rsplit(":", 1)[1])
        held: list[socket.socket] = []
        with contextlib.suppress(OSError):
            while len(held) < 560:
                held.append(socket.create_connection(("127.0.0.1", port), timeout=0.2))
        time.sleep(2)
        for connection in held:
            connection.close()
        return len(held)

    def readers_that_never_read(self) -> int:
        """Ask for long lists on twenty connections and read nothing of the answers."""
        found = self.runtime()
        port = int(str(found.get("url", "http://x:0")).rsplit(":", 1)[1])
        held: list[socket.socket] = []
        ask = f"GET /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {found.get('token')}\r\n\r\n"
        with contextlib.suppress(OSError):
            for _ in range(20):
                held.append(socket.create_connection(("127.0.0.1", port), timeout=0.2))
                held[-1].sendall(ask.encode() * 5)
        time.sleep(2)
        for connection in held:
            connection.close()
        return len(held)

    def faults(self) -> Iterator[Fault]:
        """Yield the faults that are done from outside."""
        yield from (
            self.kill_the_scheduler,
            self.kill_the_agent,
            self.kill_a_worker_or_spawner,
            self.remove_ended_sandboxes,
            self.truncate_functions,
            self.lock_the_store,
            self.connections_that_say_nothing,
            self.readers_that_never_read,
        )


# --- good jobs


def square(number: int) -> int:
    """Return the square of a number."""
    return number * number


def twice(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return an array times two."""
    return values * 2


def through_a_file(text: str) -> str:
    """Write a text into a file of the working directory and read it again."""
    path = Path("good.txt")
    path.write_text(text)
    return path.read_text()


class GoodJobs:
    """Threads that submit good jobs without pause until told to stop."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s: dict[str, float] = {}
        self._stop = threading.Event()
        self._under_way = 0
        self._may_begin = True
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._repeat, args=(kind,))
            for kind in (self._call, self._map, self._array, self._file)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the jobs under way end, and return."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def pause(self) -> None:
        """Begin no more, and wait until what is under way has ended."""
        with self._changed:
            self._may_begin = False
            self._changed.wait_for(lambda: not self._under_way)

    def go_on(self) -> None:
        """Begin again."""
        with self._changed:
            self._may_begin = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._may_begin)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _repeat(self, kind: Callable[[CookExecutor, int], int]) -> None:
        name = kind.__name__.strip("_")
        number = 0
        executor = CookExecutor(cpus=0.2, mem_mb=150, name=f"good-{name}")
        while not self._stop.is_set():
            number += 1
            begun = time.monotonic()
            try:
                with self._counted():
                    self.right[name] += kind(executor, number)
            except Exception as error:  # noqa: BLE001 what this program looks for: counted and shown
                self.failures.append(f"{name} {number}: {type(error).__name__}: {str(error)[:400]}")
                print("FAILED", self.failures[-1], flush=True)
            taken_s = time.monotonic() - begun
            self.slowest_s[name] = max(self.slowest_s.get(name, 0.0), taken_s)
        executor.shutdown(wait=False)

    @staticmethod
    def _call(executor: CookExecutor, number: int) -> int:
        _check(executor.submit(square, number).result(_CALL_TIMEOUT_S) == number * number)
        return 1

    @staticmethod
    def _map(executor: CookExecutor, number: int) -> int:
        found = list(executor.map(square, range(number, number + 300), timeout=_CALL_TIMEOUT_S))
        _check(found == [each * each for each in range(number, number + 300)])
        return 300

    @staticmethod
    def _array(executor: CookExecutor, number: int) -> int:
        values = np.arange(20_000.0) + number
        _check(np.array_equal(executor.submit(twice, values).result(_CALL_TIMEOUT_S), values * 2))
        return 1

    @staticmethod
    def _file(executor: CookExecutor, number: int) -> int:
        text = f"good {number}"
        _check(executor.submit(through_a_file, text).result(_CALL_TIMEOUT_S) == text)
        return 1


def _check(is_right: bool) -> None:
    if not is_right:
        raise AssertionError("the result is wrong")


def main() -> int:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="names of faults; all if none is given")
    parser.add_argument("--keep", action="store_true", help="the home, to be looked at")
    arguments = parser.parse_args()
    chooser = random.Random(arguments.seed)
    home = Path(tempfile.mkdtemp(prefix="cook-abuse-")) / "home"
    os.environ["COOK_JUPYTER_HOME"] = str(home)
    os.chdir(home.parent)  # calls run in the folder of whoever submits them, and write files there
    good = GoodJobs()
    site = Site(home, chooser, good)
    faults = [
        fault for fault in (*CALLS, *site.faults()) if not arguments.only or fault.__name__ in arguments.only
    ]
    outcomes: dict[str, Counter[str]] = {}
    warm = CookExecutor(cpus=0.2, mem_mb=300, retries=0, name="fault")
    warm.submit(square, 1).result(_CALL_TIMEOUT_S)
    begun = time.monotonic()
    good.start()
    todo: list[Fault] = []
    while time.monotonic() - begun < arguments.minutes * 60 and len(good.failures) < 20:
        if not todo:
            todo = chooser.sample(faults, len(faults))
        fault = todo.pop()
        counts = outcomes.setdefault(fault.__name__, Counter())
        try:
            if fault in CALLS:
                warm.submit(fault).result(_CALL_TIMEOUT_S)
            else:
                fault()
            counts["done"] += 1
        except Exception as error:  # noqa: BLE001 what a faulty call ends with is shown, not judged
            counts[type(error).__name__] += 1
        time.sleep(_PAUSE_S)
    good.stop()
    warm.shutdown(wait=False)
    for name, counts in sorted(outcomes.items()):
        print(f"{name:<40} {dict(counts)}")
    for name, right in good.right.items():
        print(f"good {name:<35} {right:,} right, slowest {good.slowest_s[name]:.1f} s")
    print(
        f"{len(good.failures)} failed in {(time.monotonic() - begun) / 60:.1f} minutes, seed {arguments.seed}"
    )
    for word in ("serve", "agent", "spawner"):
        for pid in site.processes(word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if not arguments.keep:
        shutil.rmtree(home.parent, ignore_errors=True)
    return 1 if good.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
