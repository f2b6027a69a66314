"""`%cook` and `%%cook` in a real shell, with a real scheduler."""

import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from traitlets import TraitError

from cook_jupyter.client.answers import GroupOfJob
from cook_jupyter.errors import (
    BadExit,
    InvalidRequest,
    JobKilled,
    NotFound,
    OutOfMemory,
    ResultLost,
    TimedOut,
    Unsatisfiable,
)
from cook_jupyter.notebook.cell_job import VALUE_LIMIT_BYTES
from cook_jupyter.notebook.extension import load, unload
from cook_jupyter.notebook.job_views import JobsView
from cook_jupyter.notebook.views import SettingsView, StateView, UsageView, WhyView
from tests.notebook.conftest import Shell, waiting_for
from tests.waiting import HANG_S

# --- a cell as a job ---


def test_a_cell_runs_elsewhere_and_gives_its_value_back(shell: Shell) -> None:
    shell.good("import os\nhere = os.getpid()\nfactor = 6\ndef times(x): return x * factor")

    ran = shell.good("%%cook\n(times(7), os.getpid() != here)")

    assert ran.value == (42, True)
    assert shell.names["_"] == (42, True)


def test_what_a_cell_prints_arrives(shell: Shell) -> None:
    ran = shell.good("%%cook\nimport sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)")

    assert "to stdout\n" in ran.stdout
    assert "to stderr\n" in ran.stderr


def test_names_come_back_only_when_asked_for(shell: Shell) -> None:
    shell.good("%%cook --out kept, also\nkept = [1, 2]\nalso = 'x'\ndropped = 3")

    assert (shell.names["kept"], shell.names["also"]) == ([1, 2], "x")
    assert "dropped" not in shell.names


def test_classes_of_the_notebook_come_back_as_themselves(shell: Shell) -> None:
    shell.good("class Point:\n    def __init__(self, x): self.x = x")
    shell.good("%%cook --out p\np = Point(3)")

    assert isinstance(shell.names["p"], shell.names["Point"])


def test_a_function_that_comes_back_uses_the_names_of_the_notebook(shell: Shell) -> None:
    shell.good("rate = 2\ndef helper(x): return rate * x")
    shell.good("%%cook --out scaled\nextra = 100\nrate = 7\ndef scaled(x): return helper(x) + extra")

    assert shell.good("scaled(1)").value == 102, "rate was not brought back, extra came with the function"

    shell.good("rate = 5\nextra = 0\ndef helper(x): return -rate * x")
    assert shell.good("scaled(1)").value == -5
    assert shell.good("(scaled.__globals__ is globals(), scaled.__module__)").value == (True, "__main__")


def test_a_function_of_the_notebook_comes_back_as_itself_unless_the_cell_defined_another(
    shell: Shell,
) -> None:
    shell.good("def f(): return 1\ndef g(): return 1\nfirst = f\nsecond = g")
    shell.good("%%cook --out f,g\ndef g(): return 2\nf, g")

    assert shell.good("(f is first, g is second, g())").value == (True, False, 2)


def test_a_cell_pickles_and_awaits_what_the_notebook_and_itself_define(shell: Shell) -> None:
    shell.good("class Point:\n    pass\nasync def later(x): return x")
    ran = shell.good(
        "%%cook\nimport pickle\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "class Own: pass\ndef double(x): return 2 * x\n"
        "again = [type(pickle.loads(pickle.dumps(one()))) is one for one in (Point, Own)]\n"
        "with ProcessPoolExecutor(1) as pool: doubled = pool.submit(double, 4).result()\n"
        "(again, doubled, await later(3))"
    )

    assert ran.value == ([True, True], 8, 3)


def test_what_a_cell_displays_is_displayed_here(shell: Shell) -> None:
    ran = shell.good("%%cook\nfrom IPython.display import HTML\ndisplay(HTML('<b>bold</b>'))")

    assert any(bundle.get("text/html") == "<b>bold</b>" for bundle in ran.displays)


def test_an_array_comes_back_without_being_mangled(shell: Shell) -> None:
    shell.good("import numpy as np\nvalues = np.arange(1_000_000)")
    shell.good("%%cook --out doubled\ndoubled = values * 2")

    assert shell.names["doubled"].sum() == 2 * shell.names["values"].sum()


def test_a_cell_takes_and_returns_arrays_of_40_kb(shell: Shell) -> None:
    shell.good("import numpy as np\nnumbers = np.arange(5040.0)")

    shell.good("%%cook --out doubled\ndoubled = numbers * 2")

    assert shell.names["doubled"].sum() == shell.names["numbers"].sum() * 2


def test_a_value_too_large_to_show_is_shown_by_the_job(shell: Shell) -> None:
    ran = shell.good(f"%%cook\nimport numpy as np\nnp.zeros({VALUE_LIMIT_BYTES // 4})")

    assert ran.value is None
    assert any("array([0., 0., 0." in bundle["text/plain"] for bundle in ran.displays)
    assert "too large" in ran.stderr


def test_a_name_that_cannot_come_back_is_named(shell: Shell) -> None:
    error = shell.failing("%%cook --out lock,n\nimport threading\nlock = threading.Lock()\nn = 5")

    assert isinstance(error, ResultLost)
    assert "lock cannot be sent back" in str(error)
    assert shell.names["n"] == 5


def test_a_cell_that_fails_fails_here_with_its_own_lines(shell: Shell) -> None:
    shell.good("def divide(a, b):\n    return a / b")
    ran = shell.run("%%cook\nprint('before')\ndivide(1, 0)")

    assert isinstance(ran.error, ZeroDivisionError)
    assert "before" in ran.stdout
    assert "This cell, line 2" in ran.stdout
    assert "return a / b" in ran.stdout
    assert "cell_job" not in ran.stdout
    assert "Traceback" not in ran.stderr


def test_a_future_that_fails_shows_the_line_of_the_cell(shell: Shell) -> None:
    shell.good(
        "from cook_jupyter import CookExecutor\nexecutor = CookExecutor(mem_mb=256)\n"
        "def inner(x):\n    y = x\n    return 1 / y\n"
        "def outer(x):\n    return inner(x)"
    )

    ran = shell.run("executor.submit(outer, 0).result()")

    shown = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout)
    assert re.search(r"-> 5\s+return 1 / y", shown)
    assert re.search(r"-> 7\s+return inner\(x\)", shown)


def test_a_traceback_that_a_cell_prints_itself_is_shown(shell: Shell) -> None:
    ran = shell.good(
        "%%cook\nimport traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()"
    )

    assert "ZeroDivisionError: division by zero" in ran.stderr


def test_a_cell_with_magics_is_refused_before_it_is_sent(shell: Shell) -> None:
    error = shell.failing("%%cook\n!ls")

    assert isinstance(error, InvalidRequest)
    assert "subprocess.run" in str(error)


def test_a_cell_that_is_no_python_is_refused_before_it_is_sent(shell: Shell) -> None:
    assert isinstance(shell.failing("%%cook\nx ="), SyntaxError)


@pytest.mark.parametrize(
    ("options", "code", "kind", "says"),
    [
        ("--mem 200m", "len(bytearray(900_000_000))", OutOfMemory, "--mem"),
        ("--max-runtime 500ms", "import time\ntime.sleep(60)", TimedOut, "--max-runtime"),
        ("", "import os\nos._exit(7)", BadExit, "exit code 7"),
        ("", "import sys\nsys.exit(3)", BadExit, "sys.exit(3)"),
        ("", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", BadExit, "SIGSEGV"),
    ],
)
def test_a_cell_that_dies_says_of_what_and_what_to_do(
    shell: Shell, options: str, code: str, kind: type[Exception], says: str
) -> None:
    ran = shell.run(f"%%cook {options}\n{code}")

    assert isinstance(ran.error, kind)
    assert says in ran.stdout
    assert "with_(" not in ran.stdout  # a cell has options of its own
    assert "future" not in ran.stdout
    assert ("os._exit" in code or "SIGSEGV" in says) <= ("%cook logs " in ran.stdout)


def test_a_flood_of_output_is_cut_and_can_be_read_afterwards(shell: Shell) -> None:
    ran = shell.good("%%cook --name flood\nprint('x' * 3_000_000)")

    assert len(ran.stdout) < 2_500_000
    assert "%cook logs last" in ran.stdout
    assert len(shell.good("%cook logs flood").stdout) == 3_000_001


def test_quotes_around_an_option_are_no_part_of_it(shell: Shell) -> None:
    shell.good("%%cook --name \"quoted\" --mem '200m'\n1")

    assert shell.good("%cook list 'quoted'").value[0].job.mem_mb == 200.0


@pytest.mark.parametrize(
    "cell",
    [
        "with open(path) as f:\n    text = f.read()\nlen(text)",
        "for f in [1, 2]:\n    pass\nf",
        "if path:\n    f = 4\nf",
        "try:\n    f = 4\nexcept OSError:\n    pass\nf",
        "def setting():\n    global f\n    f = 4\nsetting()\nf",
    ],
)
def test_a_name_that_a_cell_binds_itself_is_not_asked_of_the_notebook_if_it_cannot_travel(
    shell: Shell, cell: str, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("text")
    shell.good(f"path = {str(tmp_path / 'data')!r}\nf = open(path)")

    assert shell.good(f"%%cook\n{cell}").value in (2, 4)


def test_a_cell_that_reads_what_did_not_come_along_is_told_why(shell: Shell) -> None:
    shell.good("import threading\nguard = threading.Lock()")

    ran = shell.run("%%cook\nif not isinstance(3, int):\n    guard = 3\nprint(guard)")

    assert isinstance(ran.error, NameError)
    assert "The notebook's guard was not sent" in ran.stdout


def test_cells_see_the_variables_that_the_settings_name(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", "/data")
    see = "%%cook\nimport os\nos.environ.get('DATA_DIR')"
    assert shell.good(see).value is None

    shown = shell.good("%cook config environment=DATA_DIR").value

    assert "DATA_DIR" in repr(shown)
    assert shell.good(see).value == "/data"
    shell.good("%config CookMagics.environment = ''")
    monkeypatch.setenv("COOK_JUPYTER_ENVIRONMENT", "DATA_*")
    assert "DATA_*" in repr(shell.good("%cook config").value)
    assert shell.good(see).value == "/data"


def test_what_cannot_travel_is_named(shell: Shell) -> None:
    shell.good("import threading\nguard = threading.Lock()")

    error = str(shell.failing("%%cook\nguard.locked()"))

    assert "the cell → global 'guard'" in error
    assert "argument" not in error  # of a call that the user has not written


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--cpus nine", "it must be a number above zero, not 'nine'"),
        ("--mem lots", "not an amount of memory"),
        ("--max-runtime soon", "not a duration"),
        ("--cpus 0", "it must be a number above zero, not '0'"),
        ("--out 1x", "not the name of a variable"),
        ("--out class", "not the name of a variable: class"),
        ("--background 1x", "name of a variable"),
        ("--background if", "name of a variable"),
        ("--in nowhere", "no such name"),
        ("--colour red", "unrecognized arguments"),
        ("--constraint HOSTNAME", "NAME=VALUE"),
        ("--group nothing", "uuid"),
        ("--group In", "expected a Group"),
        ("--expected-runtime 2h --max-runtime 1h", "expected_runtime"),
        ('--name "a b"', "name 'a b' contains ' ': a job's name has letters"),
        ("--name 'a b'", "such as 'a-b'"),
        ("--name évaluation", "contains 'é'"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(shell: Shell, line: str, says: str) -> None:
    assert says in str(shell.failing(f"%%cook {line}\n1"))


def test_a_job_without_a_name_has_the_number_that_its_cell_shows(shell: Shell) -> None:
    shell.good("%%cook\n1")
    number = len(shell.names["In"]) - 1

    assert shell.good("%cook list --count 1").value[0].job.name == f"cell-{number}"


def test_options_reach_the_job(shell: Shell) -> None:
    shell.good("%%cook --cpus 0.5 --mem 200m --name small --priority 70 --retries 2 --max-runtime 10m\n1")
    job = shell.good("%cook list small").value[0].job

    assert (job.cpus, job.mem_mb, job.priority, job.max_retries) == (0.5, 200.0, 70, 3)
    assert job.max_runtime_ms == 600_000


def test_demands_on_hosts_reach_the_job(shell: Shell) -> None:
    shell.good(
        "import os\nfrom cook_jupyter.executor import Group\n"
        "apart = Group(placement='unique', name='apart')\nhost = os.uname().nodename"
    )
    shell.good("%%cook --name apart --group apart --constraint HOSTNAME={host} --expected-runtime 5s\n1")
    job = shell.good("%cook list apart").value[0].job

    assert job.groups == (GroupOfJob(uuid=shell.names["apart"].uuid, name="apart"),)
    assert job.constraints == (("HOSTNAME", "EQUALS", shell.names["host"]),)
    assert job.expected_runtime_ms == 5000


def test_settings_hold_where_no_option_is_given(shell: Shell) -> None:
    shell.good("%config CookMagics.mem_mb = 300")
    shell.good("%%cook --name by_setting\n1")
    shell.good("%cook config mem_mb=1024")

    assert shell.good("%cook list by_setting").value[0].job.mem_mb == 300.0


@pytest.mark.parametrize("background", ["", " --background huge"])
def test_a_request_that_no_host_can_meet_is_refused_at_once(shell: Shell, background: str) -> None:
    ran = shell.run(f"%%cook --cpus 4000 --name huge{background}\n1")

    assert isinstance(ran.error, Unsatisfiable)
    assert "The job huge was not accepted. It requests 4000 cpus" in str(ran.error)


# --- in the background ---


def test_a_cell_in_the_background_lets_the_notebook_go_on(shell: Shell, gate: Path) -> None:
    shell.good(
        f"%%cook --background sweep --out found --name sweep\n{waiting_for(gate)}\nfound = 9\nfound + 1"
    )

    cell = shell.names["sweep"]
    assert cell.status in ("waiting", "running")
    assert "sweep" in repr(cell)
    assert "found" not in shell.names
    gate.touch()
    assert shell.good("%cook wait sweep").value == 10
    assert shell.names["found"] == 9
    assert cell.done()
    assert cell.result() == 10


def test_a_background_cell_can_be_awaited_at_the_top_of_a_cell(shell: Shell) -> None:
    shell.good("%%cook --background soon\n'here'")

    assert shell.good("await soon").value == "here"


def test_a_background_cell_that_fails_raises_when_asked(shell: Shell) -> None:
    shell.good("%%cook --background bad\n[][1]")

    assert isinstance(shell.failing("bad.result()"), IndexError)
    assert isinstance(shell.failing("%cook wait bad"), IndexError)


def test_a_killed_background_cell_says_so(shell: Shell) -> None:
    shell.good("%%cook --background long --name long\nimport time\ntime.sleep(60)")
    killed = shell.good("%cook kill long").value

    assert isinstance(killed, JobsView)
    assert killed[0].mark.word == "killed"
    assert isinstance(shell.failing("long.result(90)"), JobKilled)


# --- Ctrl-C ---


def interrupt_when_running(shell: Shell, name: str) -> threading.Thread:
    """Press Ctrl-C once the job of that name runs."""

    from cook_jupyter.client.connect import connect

    client = connect()

    def press() -> None:
        deadline = time.monotonic() + HANG_S
        while time.monotonic() < deadline:
            if any(job.state == "running" for job in client.recent_jobs(5, name=name)):
                break
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_ctrl_c_kills_what_the_cell_started_and_leaves_the_notebook_usable(shell: Shell) -> None:
    thread = interrupt_when_running(shell, "interrupted")
    ran = shell.run("%%cook --name interrupted\nimport time\ntime.sleep(60)")
    thread.join()

    assert isinstance(ran.error, KeyboardInterrupt)
    assert "interrupted" in ran.stdout
    assert "was killed" in ran.stdout
    job = shell.good("%cook list interrupted").value[0]
    assert job.mark.word == "killed"
    assert shell.good("%%cook\n1 + 1").value == 2


def test_ctrl_c_lets_the_job_go_on_where_that_is_the_setting(shell: Shell, gate: Path) -> None:
    shell.good("%cook config on_interrupt=detach")
    thread = interrupt_when_running(shell, "goes_on")
    ran = shell.run(f"%%cook --name goes_on\n{waiting_for(gate)}\n'ended'")
    thread.join()
    gate.touch()
    shell.good("%cook config on_interrupt=kill")

    assert isinstance(ran.error, KeyboardInterrupt)
    assert "%cook wait" in ran.stdout
    assert shell.good("%cook wait last --timeout 90s").value == "ended"


# --- commands ---


def test_the_state_of_things_is_shown(shell: Shell) -> None:
    shell.good("%%cook\n1")
    state = shell.good("%cook").value

    assert isinstance(state, StateView)
    assert "of 2 cpus" in repr(state) or "cpus" in repr(state)


def test_the_list_shows_the_latest_first_and_filters(shell: Shell) -> None:
    for number in (1, 2, 3):
        shell.good(f"%%cook --name in_order_{number}\n1")

    listed = shell.good("%cook list in_order_* -n 2").value
    assert [job.name for job in listed] == ["in_order_3", "in_order_2"]
    assert len(shell.good("%cook list in_order_* --state failed").value) == 0
    assert len(shell.good("%cook list --user nobody-here").value) == 0


def test_a_job_may_be_meant_by_id_beginning_name_variable_or_last(shell: Shell) -> None:
    shell.good("%%cook --background held --name called_so\n'v'")
    shell.good("%cook wait held")
    key = shell.names["held"].key

    for word in (key, key.upper(), key[:8], "called_so", "held", "last"):
        assert shell.good(f"%cook result {word}").value == "v"


def test_a_name_comes_before_the_beginning_of_an_id(shell: Shell) -> None:
    shell.good("%%cook --background other --name other_job\n'other'")
    shell.good("%cook wait other")
    beginning = shell.names["other"].key[:3]
    shell.good(f"%%cook --name {beginning}\n'named'")

    assert shell.good(f"%cook result {beginning}").value == "named"


def test_a_word_that_means_nothing_says_where_to_look(shell: Shell) -> None:
    error = shell.failing("%cook why no-such-job")

    assert isinstance(error, NotFound)
    assert "%cook list" in str(error)


def test_killing_asks_which_where_several_may_be_meant(shell: Shell) -> None:
    for _ in range(2):
        shell.good("%%cook --background twin --name twins\nimport time\ntime.sleep(60)")
    error = shell.failing("%cook kill twins")  # nobody sits there to be asked

    assert "matches 2 jobs" in str(error)
    assert all(job.state != "failed" for job in shell.good("%cook list twins").value)
    assert "--yes" in str(shell.failing("%cook kill all"))
    assert len(shell.good("%cook kill all --yes").value) >= 2
    assert "Nothing to kill" in shell.good("%cook kill twin").value


def test_why_tells_how_a_job_ended_and_what_to_do(shell: Shell) -> None:
    shell.run("%%cook --name broken\n1 / 0")
    why = shell.good("%cook why broken").value

    assert isinstance(why, WhyView)
    assert why.sentences[0].startswith("It failed (command exited non-zero")
    assert "--stderr" in why.sentences[1]


def test_why_tells_why_a_job_waits(shell: Shell) -> None:
    names = ["first", "second", "third", "fourth"]
    for name in names:
        shell.good(f"%%cook --cpus 1 --background {name} --name {name}\nimport time\ntime.sleep(60)")
    why = shell.good("%cook why fourth").value
    shell.good("%cook kill all --yes")

    assert why.sentences
    assert "waiting" in repr(why)


def test_logs_of_each_stream_can_be_read_afterwards(shell: Shell) -> None:
    shell.good("%%cook --name chatty\nimport sys\nprint('a')\nprint('b')\nprint('c', file=sys.stderr)")

    assert shell.good("%cook logs chatty").stdout == "a\nb\n"
    assert shell.good("%cook logs chatty --tail 1").stdout == "b\n"
    assert shell.good("%cook logs chatty --stderr").stdout == "c\n"
    assert "1 attempt" in str(shell.failing("%cook logs chatty --attempt 2"))


def test_logs_can_be_followed_to_the_end(shell: Shell) -> None:
    shell.good(
        "%%cook --background steps --name steps\n"
        "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.1)"
    )

    assert shell.good("%cook logs steps --follow").stdout == "0\n1\n2\n"


def test_a_result_that_is_not_there_yet_says_what_to_do(shell: Shell) -> None:
    shell.good("%%cook --background later --name later\nimport time\ntime.sleep(60)")

    assert "%cook wait" in str(shell.failing("%cook result later"))
    assert "Not all have ended" in shell.good("%cook wait later --timeout 100ms").stdout
    shell.good("later.kill()")


def test_a_shell_command_is_waited_for_and_has_no_result(shell: Shell) -> None:
    shell.good(
        "from cook_jupyter import connect\n"
        "connect().submit([dict(name='sh', command='echo hello', cpus=1, mem=64, max_retries=1)])"
    )

    assert shell.good("%cook wait sh").value[0].state == "success"
    assert shell.good("%cook logs sh").stdout == "hello\n"
    assert "%cook logs" in str(shell.failing("%cook result sh"))


def test_usage_and_settings_are_shown(shell: Shell) -> None:
    assert isinstance(shell.good("%cook usage").value, UsageView)
    settings = shell.good("%cook config").value

    assert isinstance(settings, SettingsView)
    assert "mem_mb" in repr(settings)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lst", "did you mean %cook list?"),
        ("zzz", "%cook help"),
        ("config mem=3", "did you mean mem_mb?"),
        ("config mem_mb", "NAME=VALUE"),
        ("config on_interrupt=explode", "on_interrupt"),
        ("config cpus=0", "above zero"),
        ("config cpus=nan", "above zero"),
        ("config cpus=inf", "above zero"),
        ("config mem_mb=0", "mem"),
        ("config cpus=-1", "above zero"),
        ("config environment=A=B", "'A=B' is not one"),
        ("config user=lab:ada", "contains a colon"),
        ("config cpus=two", "cpus must be a number above zero, not 'two'"),
        ("config gpus=1.5", "gpus must be a whole number and at least 0, not '1.5'"),
        ("config gpus=-1", "gpus must be a whole number and at least 0, not -1"),
        ("config retries=many", "retries must be a whole number and at least 0, not 'many'"),
        ("config retries=", "retries must be a whole number and at least 0, not ''"),
        ("config priority=16000001", "priority must be between 0 and 16000000, not 16000001"),
        ("config progress=yes", "progress must be auto, always or never, not 'yes'"),
        ("config on_interrupt=", "on_interrupt must be kill or detach, not ''"),
        ("list --count 0", "at least 1, not '0'"),
        ("logs --tail -1", "at least 1, not '-1'"),
        ("logs --attempt x", "at least 1, not 'x'"),
        ("wait --timeout ''", "not a duration: ''"),
        ("list 'half", "No closing quotation"),
        ("list --since tomorrow", "not a duration"),
        ("--mem 4g", "%%cook --mem 4g"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_the_right_word(shell: Shell, line: str, says: str) -> None:
    assert says in str(shell.failing(f"%cook {line}"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cpus", "two", "cpus must be a number above zero, not 'two'"),
        ("cpus", True, "cpus must be a number above zero, not True"),
        ("mem_mb", None, "mem_mb must be a number above zero, not None"),
        ("gpus", 1.5, "gpus must be a whole number and at least 0, not 1.5"),
        ("priority", 16_000_001, "priority must be between 0 and 16000000, not 16000001"),
        ("retries", "x", "retries must be a whole number and at least 0, not 'x'"),
        ("pool", 3, "pool must be a string, not 3"),
        ("user", 3, "user must be a string, not 3"),
        ("environment", ["A"], "environment must be a string, not ['A']"),
        ("progress", 3, "progress must be auto, always or never, not 3"),
    ],
)
def test_a_setting_is_refused_in_our_words_however_it_is_set(
    shell: Shell, name: str, value: object, says: str
) -> None:
    (magics,) = [each for each in shell.ipython.configurables if type(each).__name__ == "CookMagics"]

    with pytest.raises(TraitError) as refused:
        setattr(magics, name, value)
    assert str(refused.value) == says


def test_a_setting_takes_numbers_of_any_library(shell: Shell) -> None:
    shell.good("import numpy as np; amount = np.int64(2)")
    shell.good("%config CookMagics.cpus = amount")
    shell.good("%config CookMagics.retries = amount")

    assert "2.0" in repr(shell.good("%cook config").value)
    shell.good("%cook config cpus=1 retries=0")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--cpus nan", "--cpus: it must be a number above zero, not 'nan'"),
        ("--cpus two", "--cpus: it must be a number above zero, not 'two'"),
        ("--gpus 1.5", "--gpus: it must be a whole number and at least 0, not '1.5'"),
        ("--retries=-1", "--retries: it must be a whole number and at least 0, not '-1'"),
        ("--priority=-1", "--priority: it must be a whole number and at least 0, not '-1'"),
        ("--mem lots", "not an amount of memory: 'lots'"),
        ("--max-runtime ''", "not a duration: ''"),
        ("--expected-runtime soon", "not a duration: 'soon'"),
        ("--name 'a b'", "such as 'a-b'"),
        ("--group ''", "group must be a Group or the uuid of one"),
        ("--constraint rack", "--constraint needs NAME=VALUE"),
    ],
)
def test_an_option_of_a_cell_that_cannot_be_is_refused_in_words(
    shell: Shell, options: str, says: str
) -> None:
    assert says in str(shell.failing(f"%%cook {options}\n1"))


def test_settings_of_one_command_are_all_set_or_none_is(shell: Shell) -> None:
    before = repr(shell.good("%cook config").value)

    shell.failing("%cook config priority=70 cpus=0")
    shell.failing("%cook config priority=70 environment=HOME, SHELL")

    assert repr(shell.good("%cook config").value) == before


def test_help_tells_all_commands_and_each_has_an_example(shell: Shell) -> None:
    overview = shell.good("%cook help").stdout
    for name in ("list", "wait", "kill", "why", "logs", "result", "usage", "config"):
        assert f"%cook {name}" in overview
        assert "Example: " in shell.good(f"%cook {name}?").stdout


# --- completion, loading ---


def completions(shell: Shell, line: str) -> list[str]:
    word = "" if line.endswith(" ") else line.rpartition(" ")[2]
    return list(shell.ipython.complete(word, line, len(line))[1])


@pytest.mark.filterwarnings("ignore:.*Completer.complete:PendingDeprecationWarning")
def test_tab_completes_commands_options_and_jobs(shell: Shell) -> None:
    shell.good("%%cook --background tabbed --name tabbed_job\n1")
    shell.good("%cook wait tabbed")

    assert {"list", "kill", "why", "help"} <= set(completions(shell, "%cook "))
    assert "logs" in completions(shell, "%cook lo")
    assert "--state" in completions(shell, "%cook list --st")
    assert "running" in completions(shell, "%cook list --state ru")
    assert {"tabbed", "tabbed_job"} <= set(completions(shell, "%cook why tab"))
    assert shell.names["tabbed"].key[:8] in completions(shell, f"%cook why {shell.names['tabbed'].key[:3]}")
    assert "--background" in completions(shell, "%%cook --ba")
    assert "default" in completions(shell, "%%cook --pool def")


@pytest.mark.filterwarnings("ignore:.*Completer.complete:PendingDeprecationWarning")
def test_loading_twice_is_loading_once_and_unloading_takes_all_back(shell: Shell) -> None:
    ipython: Any = shell.ipython
    before = len(ipython.input_transformers_cleanup)
    load(ipython)
    assert len(ipython.input_transformers_cleanup) == before

    unload(ipython)
    unload(ipython)
    assert ipython.find_line_magic("cook") is None
    assert completions(shell, "%cook li") == []
    assert not [each for each in ipython.configurables if type(each).__name__ == "CookMagics"]

    load(ipython)
    assert shell.good("%%cook\n5").value == 5
