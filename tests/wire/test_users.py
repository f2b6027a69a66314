"""Names of users in requests."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.api.auth import TokenAuthenticator
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.wire.users import process_user, require_user_name
from tests.conftest import missing_part


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("lab:ada", "contains a colon"),
        (":", "contains a colon"),
        ("", "is empty"),
        ("ada\n", "control character"),
        ("ada\r\nX-Cook-Impersonate: root", "colon|control"),
        ("ada\0", "control character"),
        ("ada\x85", "control character"),
        ("ada\u2028", "control character"),
        ("\ud800", "control character"),
        ("a" * 256, "longer than 255 bytes"),
    ],
)
def test_a_name_that_no_header_can_carry_is_refused_by_name(name: str, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        require_user_name(name)


@settings(deadline=None)
@given(st.text())
def test_a_user_name_is_refused_by_the_client_or_arrives_as_it_is(name: str) -> None:
    authenticator = TokenAuthenticator("secret:token", owner="owner")
    try:
        client = JobClient("http://127.0.0.1:1", token="secret:token", user=name)
    except InvalidRequest:
        return
    header = client._pool._authorization
    assert header is not None
    assert authenticator.identify({"Authorization": header}).user == name


@pytest.mark.parametrize("token", ["a\nb", "é", "\x7f"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest, match="the token contains"):
        JobClient("http://127.0.0.1:1", token=token)


def test_the_process_acts_under_a_name_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")

    assert process_user() == "ada"


def test_a_name_of_the_environment_that_no_header_can_carry_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGNAME", "lab:ada")

    assert ":" not in process_user()


def test_a_uid_without_a_name_acts_under_its_number() -> None:
    program = (
        "import os\n"
        "from cook_jupyter.wire.users import process_user\n"
        "from cook_jupyter.client.home import config_file, home_folder\n"
        "from cook_jupyter.errors import InvalidRequest\n"
        "if os.getuid() == 0: os.setuid(54321)\n"
        "print(process_user(), config_file())\n"
        "try: home_folder()\n"
        "except InvalidRequest as error: print(error)\n"
    )
    named = {"USER", "LOGNAME", "LNAME", "USERNAME", "HOME", "COOK_JUPYTER_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in named}
    nameless = [] if os.getuid() == 0 else ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if nameless and subprocess.run([*nameless, "true"], check=False, capture_output=True).returncode:
        missing_part("user namespaces (unshare), or root: without them no process has a uid without a name")

    ended = subprocess.run(
        [*nameless, sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stdout.splitlines() == [
        "uid54321 None",
        "uid 54321 has no home directory: set COOK_JUPYTER_HOME to a directory of your own, or set HOME",
    ], ended.stderr
