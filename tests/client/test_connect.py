"""Which scheduler is found, and how the trace of a dead one is told from a living one."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.client.connect import configured_target, connect
from cook_jupyter.client.home import home_folder
from cook_jupyter.client.keys import key_file
from cook_jupyter.client.runtime import RuntimeFile, StaleRuntimeFile, is_alive, read_runtime
from cook_jupyter.errors import (
    Forbidden,
    InvalidRequest,
    SchedulerUnreachable,
    Unauthenticated,
    Unverifiable,
)
from tests.client.stub_server import Answer, ReceivedRequest, StubServer, as_json, stub_server


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def write_runtime(home: Path, **fields: object) -> Path:
    path = home / "scheduler.json"
    text = {
        "url": "http://127.0.0.1:1",
        "token": "t",
        "pid": os.getpid(),
        "pid_started": start_ticks(os.getpid()),
        "version": "0",
        "home": str(home),
        **fields,
    }
    path.write_text(json.dumps(text))
    path.chmod(0o600)
    return path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a configuration file that does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cook_jupyter").mkdir()
    return tmp_path / "cook_jupyter" / "config.toml"


@pytest.fixture
def cook_home(cook_home: Path) -> Iterator[Path]:
    """A home whose runtime files tell of this process: none is left for `cook-jupyter down`."""
    yield cook_home
    (cook_home / "scheduler.json").unlink(missing_ok=True)


@pytest.fixture
def scheduler() -> Iterator[StubServer]:
    """Something that answers as a scheduler does to those who bring the token `t`."""

    def answer(asked: ReceivedRequest) -> Answer:
        if asked.headers["Authorization"] not in ("Bearer t", "Basic YWRhOnQ="):
            return as_json({"error": "who are you?"}, 401)
        return as_json({"name": "cook_jupyter", "user": "grace"})

    with stub_server(answer) as server:
        yield server


# --- the order of search ---


def test_the_argument_comes_before_all(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[client]\nurl = "http://config:1"\n')
    monkeypatch.setenv("COOK_JUPYTER_URL", "http://env:1")

    assert configured_target("http://argument:1").url == "http://argument:1"
    assert configured_target().url == "http://env:1"
    monkeypatch.delenv("COOK_JUPYTER_URL")
    assert configured_target().url == "http://config:1"
    config.unlink()
    assert configured_target().url is None


def test_the_environment_names_scheduler_token_and_user(
    scheduler: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOK_JUPYTER_URL", scheduler.url)
    monkeypatch.setenv("COOK_JUPYTER_TOKEN", "t")
    monkeypatch.setenv("COOK_JUPYTER_USER", "ada")

    assert connect().user == "ada"


def test_a_configured_url_of_ones_own_scheduler_needs_no_token(config: Path, cook_home: Path) -> None:
    write_runtime(cook_home, url="http://127.0.0.1:7", token="t")
    config.write_text('[client]\nurl = "http://127.0.0.1:7"\n')

    assert configured_target().token == "t"


def test_the_token_may_rest_in_a_file_of_its_own(config: Path) -> None:
    config.write_text('[client]\nurl = "http://host:1"\ntoken_file = "token"\n')
    token = config.with_name("token")
    token.write_text("secret\n")
    token.chmod(0o600)

    assert configured_target().token == "secret"


def test_a_token_that_others_can_read_is_refused(config: Path) -> None:
    config.write_text('[client]\nurl = "http://host:1"\ntoken = "secret"\n')
    config.chmod(0o644)

    with pytest.raises(Forbidden, match=f"chmod 600 {config}"):
        configured_target()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[client\n", "is not TOML"),
        ("[client]\nport = 3\n", "port is not a setting"),
        ("[client]\nurl = 3\n", "url is not a setting or not a string"),
        ("client = 3\n", "must be a table"),
        ('[client]\ntoken_file = "gone"\n', "token_file cannot be read"),
    ],
)
def test_a_wrong_configuration_names_the_file_and_the_place(config: Path, text: str, message: str) -> None:
    config.write_text(text)

    with pytest.raises(InvalidRequest, match=message) as raised:
        configured_target()
    assert str(config) in str(raised.value)


def test_a_named_scheduler_that_does_not_answer_is_not_replaced_by_another(
    cook_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub_server(lambda _: Answer()) as server:
        gone = server.url
    monkeypatch.setenv("COOK_JUPYTER_URL", gone)

    with pytest.raises(SchedulerUnreachable, match="comes from COOK_JUPYTER_URL"):
        connect()
    assert not list(cook_home.iterdir())


def test_a_named_scheduler_that_refuses_the_token_says_so(scheduler: StubServer) -> None:
    with pytest.raises(Unauthenticated):
        connect(scheduler.url, token="wrong")


def test_an_original_cook_has_no_v1_and_is_taken_as_it_is() -> None:
    with stub_server(lambda _: as_json({"error": "Not a valid route"}, 404)) as server:
        assert connect(server.url, user="ada").user == "ada"


# --- the embedded one ---


def test_the_runtime_file_leads_to_the_living_scheduler(cook_home: Path, scheduler: StubServer) -> None:
    write_runtime(cook_home, url=scheduler.url)

    client = connect(start=False)

    assert (client.url, client.user) == (scheduler.url, "grace")
    assert connect(start=False, user="ada").user == "ada"


def test_ones_own_scheduler_named_by_url_needs_no_token(cook_home: Path, scheduler: StubServer) -> None:
    write_runtime(cook_home, url=scheduler.url)

    assert connect(scheduler.url).user == "grace"


def test_without_a_scheduler_and_without_leave_to_start_one_the_next_step_is_told(cook_home: Path) -> None:
    with pytest.raises(SchedulerUnreachable, match="`cook-jupyter up` starts one"):
        connect(start=False)


def test_a_dead_scheduler_is_recognised(cook_home: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_runtime(cook_home, pid=ended.pid, pid_started=None)

    with pytest.raises(SchedulerUnreachable, match=f"process {ended.pid}, is gone"):
        connect(start=False)


def test_a_process_that_was_given_the_dead_ones_number_is_recognised(cook_home: Path) -> None:
    write_runtime(cook_home, pid_started=start_ticks(os.getpid()) - 1)

    assert isinstance(read_runtime(cook_home), StaleRuntimeFile)


def test_a_process_that_ended_and_was_not_yet_reaped_is_dead() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(ended.pid, start_ticks(ended.pid))
    assert ended.stdin is not None
    ended.stdin.close()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(ended.pid, None)
    ended.wait()


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (as_json({"error": "who are you?"}, 401), "rejected the token of the runtime file"),
        (as_json({"error": "too many connections"}, 503), "too many connections"),
        (as_json({"error": "not here"}, 404), "not here"),
        (as_json({"error": "broken"}, 500), "broken"),
        (Answer(hang_up=True), "connection"),
    ],
)
def test_a_living_scheduler_keeps_its_runtime_file_whatever_it_answers(
    cook_home: Path, answer: Answer, message: str, start: bool
) -> None:
    with stub_server(lambda _: answer) as server:
        path = write_runtime(cook_home, url=server.url)
        before = path.read_bytes()

        with pytest.raises(SchedulerUnreachable, match=message) as raised:
            connect(start=start, timeout_s=0.1)

    assert raised.value.pid == os.getpid()
    assert "No other is started beside it" in str(raised.value)
    assert path.read_bytes() == before


def test_a_living_scheduler_that_is_silent_keeps_its_runtime_file(cook_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        path = write_runtime(cook_home, url=f"http://127.0.0.1:{listening.getsockname()[1]}")

        with pytest.raises(SchedulerUnreachable, match="has not answered for") as raised:
            connect(timeout_s=0.1)

    assert f"process {os.getpid()}" in str(raised.value)
    assert path.exists()


def test_a_scheduler_that_answers_late_is_waited_for(cook_home: Path) -> None:
    refusals = iter([as_json({"error": "too many connections"}, 503)] * 2)
    with stub_server(lambda _: next(refusals, as_json({"user": "grace"}))) as server:
        write_runtime(cook_home, url=server.url)

        assert connect(start=False).user == "grace"


@pytest.mark.parametrize(
    ("fields", "lock", "gone"),
    [
        ({"pid": 2**22 + 1}, "free", True),
        ({"pid": 2**22 + 1}, "held", True),
        ({"boot_id": "another boot"}, "held", True),
        ({"pid_started": None}, "free", True),
        ({"pid_started": None}, "held", False),
        ({"pid_started": None}, "missing", False),
        ({"pid": 2**22 + 1, "pid_namespace": 1}, "held", False),
        ({"pid": 2**22 + 1, "pid_namespace": 1}, "missing", False),
        ({"pid": 2**22 + 1, "pid_namespace": 1}, "free", True),
    ],
)
def test_a_scheduler_is_gone_when_its_process_or_its_lock_proves_it(
    cook_home: Path, fields: dict[str, object], lock: str, gone: bool
) -> None:
    write_runtime(cook_home, **fields)
    with contextlib.ExitStack() as held:
        if lock != "missing":
            file = held.enter_context((cook_home / "scheduler.lock").open("w"))
            if lock == "held":
                fcntl.flock(file, fcntl.LOCK_EX)

        assert isinstance(read_runtime(cook_home), StaleRuntimeFile) is gone


def test_a_runtime_file_that_cannot_be_read_is_stale(cook_home: Path) -> None:
    path = write_runtime(cook_home)
    path.write_text("{")

    assert read_runtime(cook_home) == StaleRuntimeFile("it cannot be read")


def test_a_runtime_file_that_others_can_read_is_refused(cook_home: Path) -> None:
    path = write_runtime(cook_home)
    path.chmod(0o644)

    with pytest.raises(Forbidden, match=f"chmod 600 {path}"):
        connect(start=False)


def test_a_runtime_file_may_say_more_than_we_know(cook_home: Path) -> None:
    write_runtime(cook_home, something_new=1)

    assert isinstance(read_runtime(cook_home), RuntimeFile)


def test_a_user_name_that_no_header_can_carry_is_refused_before_anything_is_asked(
    cook_home: Path, scheduler: StubServer
) -> None:
    path = write_runtime(cook_home, url=scheduler.url)

    with pytest.raises(InvalidRequest, match="'lab:ada' contains a colon"):
        connect(user="lab:ada")

    assert scheduler.requests == []
    assert path.exists()


# --- home and keys ---


def test_the_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COOK_JUPYTER_HOME", str(tmp_path / "here"))
    assert home_folder() == tmp_path / "here"
    monkeypatch.delenv("COOK_JUPYTER_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert home_folder() == tmp_path / "cook_jupyter"


def test_a_key_is_made_once_for_its_owner_alone(cook_home: Path) -> None:
    path = key_file(cook_home, "ada")

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert key_file(cook_home, "ada").read_text() == path.read_text()
    assert key_file(cook_home, "grace").read_text() != path.read_text()


def test_a_key_that_others_can_read_proves_nothing(cook_home: Path) -> None:
    key_file(cook_home, "ada").chmod(0o644)

    with pytest.raises(Unverifiable, match="chmod 600"):
        key_file(cook_home, "ada")


@pytest.mark.parametrize("name", ["", "../ada", ".hidden", "a/b"])
def test_a_key_cannot_be_led_out_of_its_folder(cook_home: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not a valid user name"):
        key_file(cook_home, name)
