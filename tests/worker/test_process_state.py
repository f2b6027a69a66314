"""What a call changes in its worker, the next call does not see: the table in docs/reference, row by row."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.worker.warm import WarmSpawner, WarmWorker, site_in

PAGE = Path(__file__).parents[2] / "docs/reference/warm-workers.md"


class Row(NamedTuple):
    """One row of the table: what a call does, and what the next one looks at (it sets `seen`)."""

    leak: str
    look: str


STAND_IN_FOR_TQDM = """
import threading, types, importlib.machinery
class Monitor(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.killed = threading.Event()
        self.start()
    def run(self): self.killed.wait()
    def exit(self): self.killed.set(); self.join()
tqdm = types.ModuleType("tqdm")
tqdm.__spec__ = importlib.machinery.ModuleSpec("tqdm", None)
tqdm.tqdm = type("tqdm", (), {"monitor": Monitor()})
sys.modules["tqdm"] = tqdm
"""

ROWS = {
    "environment variables": Row(
        "os.environ['LEAKED'] = '1'; del os.environ['PATH']",
        "seen = 'LEAKED' in os.environ, 'PATH' in os.environ",
    ),
    "working directory": Row("os.chdir('/usr')", "seen = os.getcwd() == '/usr'"),
    "file creation mask": Row("os.umask(0o777)", "seen = os.umask(0o22)"),
    "sys.path and sys.argv": Row(
        "sys.path.insert(0, '/leaked'); sys.argv[:] = ['leaked']; sys.path = ['/gone']",
        "seen = '/leaked' in sys.path, 'leaked' in sys.argv, len(sys.path)",
    ),
    "sys.modules": Row(
        "import types; sys.modules['fake_module'] = types.ModuleType('fake'); sys.modules['json'] = types.ModuleType('x');"
        "sys.modules['absent_module'] = None; del sys.modules['socket'], sys.modules['time']; sys.modules['__main__'] = 1",
        "seen = 'fake_module' in sys.modules, hasattr(sys.modules['json'], 'loads'), 'absent_module' in sys.modules,"
        " 'socket' in sys.modules, 'time' in sys.modules, sys.modules['__main__'] == 1",
    ),
    "sys.meta_path": Row(
        "class Finder:\n def find_spec(self, *words): raise ImportError('no more imports')\nsys.meta_path.insert(0, Finder())",
        "import colorsys; seen = [type(finder).__name__ for finder in sys.meta_path]",
    ),
    "sys.path_hooks": Row("sys.path_hooks.insert(0, lambda path: 1 / 0)", "seen = len(sys.path_hooks)"),
    "standard streams": Row(
        "import io; sys.stdout = io.StringIO(); sys.stderr.close(); sys.__stdout__ = sys.stdin = None",
        "print('shown'); seen = (sys.stdout.fileno(), sys.stderr.fileno(), sys.__stdout__ is None, sys.stdin is None)",
    ),
    "descriptors left open": Row(
        "kept = [os.dup(1) for _ in range(40)]",
        "seen = len(os.listdir('/proc/self/fd'))",
    ),
    "interval timers": Row(
        "import signal; signal.setitimer(signal.ITIMER_PROF, 5, 5); signal.setitimer(signal.ITIMER_VIRTUAL, 5); signal.alarm(9)",
        "import signal; seen = [signal.getitimer(which)[0] for which in range(3)]",
    ),
    "signal handlers": Row(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGWINCH, print);"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        "import signal; seen = [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGWINCH, signal.SIGPIPE)]",
    ),
    "signal mask": Row(
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})",
        "import signal; seen = signal.pthread_sigmask(signal.SIG_BLOCK, ())",
    ),
    "signal wakeup descriptor": Row(
        "import signal; os.set_blocking(1, False); signal.set_wakeup_fd(1)",
        "import signal; seen = signal.set_wakeup_fd(-1)",
    ),
    "resource limits: soft": Row(
        "import resource as r\nfor limit in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_CORE): r.setrlimit(limit, (99, r.getrlimit(limit)[1]))",
        "import resource as r; seen = [r.getrlimit(limit) for limit in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_CORE)]",
    ),
    "resource limits: hard": Row(
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (3000, 3000))",
        "import resource; seen = resource.getrlimit(resource.RLIMIT_CPU)",
    ),
    "niceness": Row("os.nice(5)", "seen = os.nice(0)"),
    "cpu affinity": Row(
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "seen = len(os.sched_getaffinity(0))"
    ),
    "scheduling policy": Row(
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", "seen = os.sched_getscheduler(0)"
    ),
    "rounding of floating-point numbers": Row(
        "import ctypes; up = {'x86_64': 0x800, 'aarch64': 0x400000}; ctypes.CDLL(None).fesetround(up[os.uname().machine])",
        "import ctypes; seen = ctypes.CDLL(None).fegetround(), 1.0 / 3.0 * 3.0",
    ),
    "attributes of the process: prctl": Row(
        "import ctypes\nfor number, value in ((4, 0), (29, 10**9), (1, 9), (36, 0)): ctypes.CDLL(None).prctl(number, value, 0, 0, 0)",
        "import ctypes; number = ctypes.c_int(); prctl = ctypes.CDLL(None).prctl\n"
        "seen = [prctl(which, 0, 0, 0, 0) for which in (3, 30)]\n"
        "for which in (2, 37): prctl(which, ctypes.byref(number), 0, 0, 0); seen.append(number.value)",
    ),
    "no new privileges": Row(
        "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)",
        "import ctypes; seen = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)",
    ),
    "time zone": Row(
        "import time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
        "import time; seen = time.tzname, time.localtime(0)[3]",
    ),
    "locale": Row(
        "import locale; locale.setlocale(locale.LC_ALL, 'POSIX' if locale.setlocale(locale.LC_ALL) != 'C' else 'C.UTF-8')",
        "import locale; seen = locale.setlocale(locale.LC_ALL)",
    ),
    "threads": Row(
        "import threading, time; threading.Thread(target=time.sleep, args=(600,), name='left').start()",
        "import threading; seen = threading.active_count()",
    ),
    "daemon threads": Row(
        "import _thread, time; _thread.start_new_thread(time.sleep, (600,))",
        "import _thread; seen = _thread._count()",
    ),
    "the monitor thread of tqdm": Row(
        STAND_IN_FOR_TQDM,
        "import _thread; seen = _thread._count()",
    ),
    "child processes": Row("import subprocess; subprocess.Popen(['sleep', '600'])", "seen = None"),
    "trace and profile functions": Row(
        "import threading; threading.settrace(print); threading.setprofile(print); sys.setprofile(lambda *words: None);"
        "sys.settrace(lambda *words: None)",
        "import threading; seen = sys.gettrace(), sys.getprofile(), threading._trace_hook, threading._profile_hook",
    ),
    "recursion limit": Row("sys.setrecursionlimit(150)", "seen = sys.getrecursionlimit()"),
    "switch interval": Row("sys.setswitchinterval(1.0)", "seen = sys.getswitchinterval()"),
    "thread stack size": Row(
        "import threading; threading.stack_size(1 << 20)", "import threading; seen = threading.stack_size()"
    ),
    "limit on digits of integers": Row(
        "sys.set_int_max_str_digits(640)", "seen = sys.get_int_max_str_digits()"
    ),
    "dynamic loading flags": Row(
        "sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_NOW)", "seen = sys.getdlopenflags()"
    ),
    "asynchronous generator hooks": Row(
        "sys.set_asyncgen_hooks(print, print)", "seen = tuple(sys.get_asyncgen_hooks())"
    ),
    "coroutine origin tracking": Row(
        "sys.set_coroutine_origin_tracking_depth(3)", "seen = sys.get_coroutine_origin_tracking_depth()"
    ),
    "garbage collector": Row(
        "import gc; gc.disable(); gc.set_threshold(1); gc.callbacks.append(print)",
        "import gc; seen = gc.isenabled(), gc.get_threshold(), len(gc.callbacks), gc.get_debug()",
    ),
    "tracemalloc": Row(
        "import tracemalloc; tracemalloc.start()", "import tracemalloc; seen = tracemalloc.is_tracing()"
    ),
    "faulthandler": Row(
        "import faulthandler; faulthandler.disable()", "import faulthandler; seen = faulthandler.is_enabled()"
    ),
    "sys.excepthook, displayhook, unraisablehook, breakpointhook": Row(
        "sys.excepthook = sys.displayhook = sys.unraisablehook = sys.breakpointhook = print",
        "seen = [str(h) for h in (sys.excepthook, sys.displayhook, sys.unraisablehook, sys.breakpointhook)] and"
        " [h is print for h in (sys.excepthook, sys.displayhook, sys.unraisablehook, sys.breakpointhook)]",
    ),
    "warning filters": Row(
        "import warnings; warnings.simplefilter('error'); warnings.catch_warnings().__enter__(); warnings.simplefilter('ignore');"
        "warnings.showwarning = print",
        "import warnings; seen = len(warnings.filters), warnings.filters[0][0], warnings.showwarning is print",
    ),
    "warnings that are shown once": Row(
        "import warnings, textwrap; warnings.warn_explicit('once', UserWarning, 'textwrap.py', 1, 'textwrap', textwrap.__dict__.setdefault('__warningregistry__', {}))",
        "import warnings, textwrap, io; text = sys.stderr = io.StringIO(); warnings.warn_explicit('once', UserWarning, 'textwrap.py', 1, 'textwrap',"
        " textwrap.__dict__.setdefault('__warningregistry__', {})); seen = 'once' in text.getvalue()",
    ),
    "logging: handlers, levels, filters, propagation": Row(
        "import logging; logging.basicConfig(level=10, filename=os.environ['MESOS_SANDBOX'] + '/one.log'); own = logging.getLogger('own'); own.setLevel(50);"
        "own.propagate = False; own.addHandler(logging.StreamHandler()); own.disabled = True; own.addFilter(print);"
        "logging.raiseExceptions = False; logging.setLogRecordFactory(print)",
        "import logging; own = logging.getLogger('own'); seen = (logging.root.level, len(logging.root.handlers), own.level, own.propagate,"
        " own.handlers, own.disabled, own.filters, logging.raiseExceptions, logging.getLogRecordFactory() is print)",
    ),
    "logging.disable": Row(
        "import logging; logging.disable(logging.CRITICAL)",
        "import logging; seen = logging.root.isEnabledFor(logging.ERROR)",
    ),
    "names of log levels": Row(
        "import logging; logging.addLevelName(logging.ERROR, 'OOPS')",
        "import logging; seen = logging.getLevelName(logging.ERROR)",
    ),
    "decimal context": Row(
        "import decimal; decimal.getcontext().prec = 3; decimal.getcontext().traps[decimal.Inexact] = True",
        "import decimal; seen = str(decimal.Decimal(1) / 7)",
    ),
    "decimal contexts": Row(
        "import decimal; decimal.DefaultContext.prec = 5; decimal.setcontext(decimal.ExtendedContext)",
        "import decimal; seen = str(decimal.Decimal(1) / 7), decimal.DefaultContext.prec",
    ),
    "context variables": Row(
        "import contextvars, colorsys; colorsys.kept = contextvars.ContextVar('kept', default=0); colorsys.kept.set(1)",
        "import colorsys; seen = getattr(colorsys, 'kept', None) and colorsys.kept.get()",
    ),
    "socket timeout": Row(
        "import socket; socket.setdefaulttimeout(0.001)", "import socket; seen = socket.getdefaulttimeout()"
    ),
    "tempfile.tempdir": Row(
        "import tempfile; tempfile.tempdir = '/absent'", "import tempfile; seen = tempfile.gettempdir()"
    ),
    "csv field size limit": Row(
        "import csv; csv.field_size_limit(3)", "import csv; seen = csv.field_size_limit()"
    ),
    "XML namespaces": Row(
        "import xml.etree.ElementTree as e; e.register_namespace('leak', 'urn:leak')",
        "import xml.etree.ElementTree as e; seen = 'urn:leak' in e._namespace_map",
    ),
    "codec error handlers": Row(
        "import codecs; codecs.register_error('strict', codecs.ignore_errors)",
        "import codecs; seen = codecs.lookup_error('strict').__name__",
    ),
    "multiprocessing start method": Row(
        "import multiprocessing as m; m.set_start_method('spawn')",
        "import multiprocessing as m; seen = m.get_start_method(True)",
    ),
    "running event loop": Row(
        "import asyncio; loop = asyncio.new_event_loop(); loop.close(); asyncio._set_running_loop(loop)",
        "import asyncio; seen = asyncio._get_running_loop()",
    ),
    "asyncio event loop policy": Row(
        "import asyncio\nclass Policy(asyncio.DefaultEventLoopPolicy):\n def new_event_loop(self): raise RuntimeError('patched')\n"
        "asyncio.set_event_loop_policy(Policy())",
        "import asyncio; asyncio.run(asyncio.sleep(0)); seen = type(asyncio.get_event_loop_policy()).__name__",
    ),
    "the default SSL context and URL opener": Row(
        "import ssl, urllib.request as u; ssl._create_default_https_context = ssl._create_unverified_context; u.install_opener(u.build_opener())",
        "import ssl, urllib.request as u; seen = ssl._create_default_https_context.__name__, u._opener",
    ),
    "random numbers": Row(
        "import random; random.seed(1); random.random = lambda: 4",
        "import random; seen = random.random() in (4, 0.13436424411240122)",
    ),
    "builtins": Row(
        "import builtins as b; b.cache = bytearray(1 << 20); b.open = b.len = b.set = b.Exception = None; b.print = print",
        "import builtins as b; seen = hasattr(b, 'cache'), b.open is None, b.len is None, b.set is None, b.Exception is None",
    ),
    "patches of standard functions": Row(
        "import json, time, hashlib, statistics; os.open = os.listdir = os.dup2 = None; json.loads = json.dumps = lambda *a, **k: {};"
        "time.sleep = time.time = lambda *a: 0; hashlib.sha256 = None; statistics.mean = None; sys._current_frames = None",
        "import json, time, statistics; seen = (os.open is None, json.loads('[1]'), time.time() == 0, statistics.mean([1, 3]),"
        " sys._current_frames is None)",
    ),
    "patches of standard classes": Row(
        "import json, pathlib, socket, logging, threading; json.JSONEncoder.default = pathlib.Path.open = socket.socket.connect = print;"
        "logging.Logger.info = print; threading.Thread.leaked = 1; del pathlib.Path.stat",
        "import json, pathlib, socket, logging, threading; seen = (json.JSONEncoder.default is print, pathlib.Path.open is print,"
        " 'connect' in vars(socket.socket), logging.Logger.info is print, hasattr(threading.Thread, 'leaked'), bool(pathlib.Path('/').stat()))",
    ),
    "patches of cook_jupyter and cloudpickle": Row(
        "import cloudpickle, cook_jupyter.payload.calls as calls\n"
        "import cook_jupyter.worker.runner as runner, cook_jupyter.worker.process_state as state\n"
        "for module in (cloudpickle, cloudpickle.cloudpickle, calls, runner):\n"
        " for name, value in list(vars(module).items()):\n"
        "  if name in ('run_call', 'loads', 'unpacked', 'task_environment'): setattr(module, name, None)\n"
        "state.ProcessState.enter = state.Sandbox.close = None; del runner.Worker._run_command",
        "import cloudpickle, cook_jupyter.worker.runner as runner\n"
        "seen = cloudpickle.loads(cloudpickle.dumps(lambda: 7))(), hasattr(runner.Worker, '_run_command')",
    ),
    "patches of functions of packages": Row(
        "import numpy, pandas; numpy.mean = print; numpy.linalg.inv = numpy.linalg.det; del numpy.sum;"
        "pandas.describe = lambda: 1\nexec('def max(*words): return 9', vars(numpy))",
        "import numpy as n, pandas\nseen = n.mean([2, 4]), n.linalg.inv(n.eye(1)).shape, hasattr(n, 'sum'),"
        " hasattr(pandas, 'describe'), n.max([1, 2])",
    ),
    "patches of public classes of packages": Row(
        "import pandas\npandas.DataFrame.head = lambda self: 'patched'; pandas.Series.__len__ = lambda self: 9\n"
        "pandas.DataFrame.mine = print; del pandas.Series.map",
        "import pandas\nseen = str(pandas.DataFrame([1]).head()), len(pandas.Series([1])),"
        " hasattr(pandas.DataFrame, 'mine'), hasattr(pandas.Series, 'map')",
    ),
    "variables added to standard modules": Row(
        "import json, colorsys; json.my_cache = {}; colorsys.my_cache = {}; os.linesep = '?'",
        "import json, colorsys; seen = hasattr(json, 'my_cache'), hasattr(colorsys, 'my_cache'), os.linesep",
    ),
    "numpy.seterr": Row(
        "import numpy; numpy.seterr(all='raise'); numpy.setbufsize(16)",
        "import numpy; seen = numpy.geterr(), numpy.getbufsize()",
    ),
    "numpy.set_printoptions": Row(
        "import numpy; numpy.set_printoptions(precision=2)",
        "import numpy; seen = numpy.get_printoptions()['precision']",
    ),
    "pandas options": Row(
        "import pandas; pandas.set_option('display.max_rows', 3)",
        "import pandas; seen = pandas.get_option('display.max_rows')",
    ),
    "matplotlib rcParams": Row(
        "import matplotlib; matplotlib.rcParams['lines.linewidth'] = 77",
        "import matplotlib; seen = matplotlib.rcParams['lines.linewidth']",
    ),
    "open figures": Row(
        "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as p; p.figure()",
        "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as p; seen = p.get_fignums()",
    ),
}


def page_rows() -> dict[str, str]:
    """What docs/reference/warm-workers.md says of each thing."""
    lines = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: outcome for name, outcome in lines[1:] if not name.startswith("---")}


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmSpawner]:
    spawner = WarmSpawner(site_in(tmp_path_factory.mktemp("warm")))
    yield spawner
    spawner.close()


@pytest.fixture
def worker(spawner: WarmSpawner) -> WarmWorker:
    return spawner.worker()


def run(worker: WarmWorker, code: str, **spec: Any) -> Any:
    """Run code in a call; return its end, with what it calls `seen` as its value."""

    def call() -> Any:
        import os
        import sys

        names: dict[str, Any] = {"os": os, "sys": sys, "__name__": "__main__"}
        exec(code, names)
        return names.get("seen")

    return worker.call(call, **spec)


def test_the_page_on_warm_workers_lists_what_is_tested() -> None:
    assert list(page_rows()) == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_call_does_not_see_what_the_call_before_changed(
    name: str, worker: WarmWorker, spawner: WarmSpawner
) -> None:
    row, outcome = ROWS[name], page_rows()[name]
    expected = run(spawner.worker(), row.look)
    assert expected.error is None

    leaked = run(worker, row.leak)

    assert leaked.error is None
    if outcome == "retired":
        assert leaked.remaining
    elif outcome == "restored":
        assert not leaked.remaining
    if leaked.remaining:
        assert worker.has_left()
        worker = spawner.worker()
    seen = run(worker, row.look)
    assert (seen.error, seen.value) == (None, expected.value)


@pytest.mark.parametrize("name", ROWS)
def test_a_call_that_only_looks_costs_no_worker(name: str, worker: WarmWorker) -> None:
    for _ in range(2):
        assert run(worker, ROWS[name].look).remaining == []


def test_what_a_package_does_when_it_is_imported_stays_for_as_long_as_it_is_loaded(
    worker: WarmWorker,
) -> None:
    fresh = run(worker, "import warnings; seen = len(warnings.filters)").value
    first = run(worker, "import numpy, warnings; seen = len(warnings.filters)").value

    second = run(worker, "import numpy, warnings; seen = len(warnings.filters)").value

    assert fresh < first == second


def test_a_patch_beside_the_import_of_a_package_retires_the_worker(worker: WarmWorker) -> None:
    # Perhaps the package made it, and would miss it in the next call: importing it again does nothing.
    end = run(worker, "import numpy, json; json.loads = print")

    assert "json.loads" in end.remaining[0]


def test_a_patch_of_a_package_after_an_import_is_restored_and_one_before_it_retires_the_worker(
    worker: WarmWorker, spawner: WarmSpawner
) -> None:
    after = run(worker, "import numpy, pandas; numpy.mean = print")
    assert after.remaining == []

    before = run(worker, "import numpy; numpy.mean = print; import matplotlib")
    assert "numpy.mean" in before.remaining[0]


def test_a_patch_of_the_standard_library_before_an_import_of_it_is_restored(worker: WarmWorker) -> None:
    run(worker, "import json; json.loads = print; import colorsys")

    assert run(worker, "import json; seen = json.loads('1')").value == 1


def test_a_worker_whose_restoring_fails_is_retired(worker: WarmWorker) -> None:
    code = "class Odd:\n def __eq__(self, other): raise SystemExit\nsys.argv[0] = Odd()"

    end = run(worker, code)

    assert end.error is None
    assert "SystemExit" in end.remaining[0]
    assert worker.has_left()


def test_reading_a_package_lazily_or_using_temporary_files_costs_no_worker(worker: WarmWorker) -> None:
    codes = (
        "import numpy, tempfile; tempfile.TemporaryDirectory().cleanup(); numpy.linalg.inv(numpy.eye(50))",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "import pandas; pandas.DataFrame({'a': [1, 2]}).describe().to_csv()",
        "import mimetypes, uuid, platform, locale; mimetypes.guess_type('a.png'); uuid.uuid1(); platform.platform()",
        "import decimal, zoneinfo; decimal.Decimal(1) / 3",
        "import subprocess; subprocess.run(['true'], check=True)",
        "import pandas; from concurrent.futures import ThreadPoolExecutor as T\nwith T(4) as t: list(t.map(abs, range(9)))",
        "import sqlite3, json, logging; sqlite3.connect(':memory:').close(); logging.getLogger('own').info('x')",
    )
    for code in codes:
        end = run(worker, code)
        assert (end.error, end.remaining) == (None, [])


@pytest.mark.parametrize("end", ["return 'child'", "raise RuntimeError", "sys.exit()"])
def test_a_process_that_a_call_forked_ends_with_the_call_and_is_no_second_worker(
    end: str, worker: WarmWorker
) -> None:
    code = f"def fork():\n if os.fork() == 0: {end}\n return os.WIFEXITED(os.wait()[1])\nseen = fork()\n"
    code += "if seen == 'child': raise SystemExit"

    forked = run(worker, code)

    assert (forked.error, forked.value, forked.remaining) == (None, True, [])
    assert run(worker, "seen = 7").value == 7
