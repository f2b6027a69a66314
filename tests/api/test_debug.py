"""A pool is written down from the command line, and decided about again."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cook_jupyter.cli import cook_jupyter
from tests.api.served import TOKEN, ApiServer


def run(*words: object) -> Result:
    return CliRunner().invoke(cook_jupyter, ["debug", *map(str, words)])


def test_a_dump_of_a_pool_is_decided_about_again(
    served: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOK_JUPYTER_URL", served.url)
    monkeypatch.setenv("COOK_JUPYTER_TOKEN", TOKEN)
    waiting = served.submit(cpus=1000)
    file = tmp_path / "strange.json"

    written = run("dump", "default", "--job", waiting, "--out", file)
    again = run("replay", file)

    assert (written.exit_code, again.exit_code) == (0, 0), written.output + again.output
    assert str(file) in written.output
    assert "pool default at" in again.output
    assert "1 jobs wait" in again.output
    assert f"why: {waiting}: It requests 1000 cpus" in again.output
    assert run("replay", file, "--json").output.startswith("{")


def test_what_is_no_dump_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text("{}")

    assert "this is not a dump of a pool" in str(run("replay", file).exception)
    assert "the dump cannot be read" in str(run("replay", tmp_path / "missing.json").exception)
