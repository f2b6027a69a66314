"""Which variables jobs see: a defined base, what the notebook names, nothing of the scheduler's starter."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.errors import CookError, InvalidRequest
from cook_jupyter.executor import CookExecutor
from cook_jupyter.executor.options import Options
from tests.executor.test_executor import SOON_S

SEE = """
import os
from pathlib import Path
from cook_jupyter import CookExecutor, connect

def see():
    return dict(os.environ), Path("/proc/self/environ").read_text() if os.path.exists("/proc/self") else ""

with CookExecutor(mem_mb=200) as executor:
    variables, started_with = executor.submit(see).result()
    print("API_KEY" in variables, "secret" in started_with, variables.get("DATA_DIR"), sorted(variables))
client = connect()
(uuid,) = client.submit([{"command": "env", "cpus": 1, "mem": 64, "max_retries": 1}])
while client.job(uuid).status != "completed":
    pass
print("secret" in client.logs(uuid).data.decode())
"""


def see(**variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SEE],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=SOON_S,
    )
    return done.stdout


def test_jobs_see_the_same_whoever_started_the_scheduler(cook_home: Path) -> None:
    first = see(DATA_DIR="/data/a", API_KEY="secret", TZ="Asia/Tokyo", PATH=f"/mine:{os.environ['PATH']}")
    second = see(DATA_DIR="/data/b")

    assert first == second
    assert first.startswith("False False None [")
    assert first.endswith("False\n")


def test_jobs_see_what_the_notebook_names_as_it_is_when_they_are_submitted(
    executor: CookExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="DATA_DIR, NOT_SET, which are not set"):
        named = executor.with_(environment=["DATA_DIR", "LAB_*", "NOT_SET"], env={"LAB_REGION": "mine"})

    def visible() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith(("DATA", "LAB", "NOT"))}

    for value in ("/a", "/b"):
        monkeypatch.setenv("DATA_DIR", value)
        monkeypatch.setenv("LAB_PROFILE", "lab")
        monkeypatch.setenv("LAB_REGION", "here")
        expected = {"DATA_DIR": value, "LAB_PROFILE": "lab", "LAB_REGION": "mine"}
        assert named.submit(visible).result(SOON_S) == expected
        assert list(named.map(lambda _: visible(), [0])) == [expected]
    assert executor.submit(visible).result(SOON_S) == {}
    names = named.submit(os.environ.get, "COOK_JUPYTER_ENVIRONMENT").result(SOON_S)
    assert names == "DATA_DIR,LAB_*,NOT_SET"  # so that jobs of the job see them, too


def test_a_named_variable_that_is_not_set_is_warned_of_where_it_is_named(
    executor: CookExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="NOPE, which is not set in this process.*'NOPE\\*'") as warned:
        named = executor.with_(environment=["PATH", "NOPE", "NOPE_*"])
    assert [each.filename for each in warned] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named.with_(cpus=1)
        monkeypatch.setenv("COOK_JUPYTER_ENVIRONMENT", "NOT_SET_EVERYWHERE")
        CookExecutor(executor._holder.current_session().client)


def test_the_names_may_come_from_the_environment_or_the_configuration_file(
    started: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cook_jupyter").mkdir()
    (tmp_path / "cook_jupyter" / "config.toml").write_text('[client]\nenvironment = "ONE, TWO_*"\n')

    assert CookExecutor().options.environment == ("ONE", "TWO_*")
    monkeypatch.setenv("COOK_JUPYTER_ENVIRONMENT", "THREE")
    assert CookExecutor().options.environment == ("THREE",)
    assert CookExecutor(environment=[]).options.environment == ()


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"env": {"A": "x\0y"}},
        {"env": {"A\0": "x"}},
        {"env": {"A": "\udcff"}},
        {"env": {"A": "x" * 140_000}},
        {"env": {"A": 1}},
        {"environment": ["A=1"]},
        {"environment": [""]},
        {"environment": {"A": "1"}},
        {"environment": 3},
    ],
)
def test_variables_that_no_process_can_be_given_are_refused_when_they_are_set(
    options: dict[str, Any],
) -> None:
    with pytest.raises(InvalidRequest, match="env"):
        Options(**options)
    assert issubclass(InvalidRequest, CookError)
