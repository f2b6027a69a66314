"""The package file: the executor and its workers in interpreters that have nothing of it."""

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cook_jupyter.cli import cook_jupyter
from cook_jupyter.payload import versions
from cook_jupyter.worker import bootstrap
from cook_jupyter.worker.mesos.package import write_package
from cook_jupyter.worker.task import Cause
from tests.clusters.harness import LocalSite
from tests.clusters.reports import a_launch
from tests.worker.front_ends import FrontEnd, InProcess, MesosExecutorProcess


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "cook jupyter.pyz"
    write_package(str(path))
    return path


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return f"{folder}/bin/python"


def old_python(folder: Path) -> str:
    """An interpreter that says that it is Python 3.9."""
    path = folder / "python3.9"
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 1, 'final', 0); del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def _without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls require no NumPy, which other tests may have loaded in this process."""
    monkeypatch.setattr(versions, "_COMPARED_IF_LOADED", ())


@pytest.fixture
def packaged(site: LocalSite, package: Path, bare_python: str) -> Iterator[MesosExecutorProcess]:
    """An executor that runs from the package file, named as agents name it."""
    site.home.mkdir()
    (site.home / package.name).write_bytes(package.read_bytes())
    executor = MesosExecutorProcess(site, program=(bare_python, f"./{package.name}"))
    yield executor
    executor.stop()


def test_a_package_has_the_same_bytes_each_time(package: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from cook_jupyter.worker.mesos.package import write_package; write_package(sys.argv[1])"
    )
    other = tmp_path / "other.pyz"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", program, other], check=True, env=environment)

    assert other.read_bytes() == package.read_bytes()


def test_a_package_has_nothing_of_the_scheduler(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()

    tops = {name.split("/")[1] for name in names if name.startswith("cook_jupyter/")}
    assert {"worker", "payload", "client", "vendored"} <= tops
    assert not {"service", "store", "scheduling", "clusters", "api"} & tops


def test_the_command_writes_a_package_and_prints_its_digest(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.pyz"

    result = CliRunner().invoke(cook_jupyter, ["mesos", "package", "--output", str(path)])

    assert result.exit_code == 0
    assert path.read_bytes() == package.read_bytes()
    assert "sha256" in result.output


def test_calls_and_commands_run_where_nothing_is_installed(
    packaged: MesosExecutorProcess, site: LocalSite, bare_python: str
) -> None:
    pythons = [bare_python, sys.executable]
    calls = [site.call(lambda: (sys.executable, sys.flags.safe_path), python=python) for python in pythons]
    repeated = [site.call(abs, -number, python=bare_python) for number in range(3)]
    command = a_launch("echo $PYTHONPATH")

    packaged.launch(*calls, *repeated, command)

    assert [packaged.result_of(call).value for call in calls] == [(python, True) for python in pythons]
    assert [packaged.result_of(call).value for call in repeated] == [0, 1, 2]
    assert packaged.end_of(command).cause == Cause.DONE
    assert site.stdout(command) == "\n"
    packages = next(f.header["packages"] for f in packaged.agent.messages if f.header["t"] == "hello")
    assert packages["cook_jupyter"]
    assert packages["cloudpickle"]


def test_a_worker_of_a_package_serves_one_call_after_the_other(
    packaged: MesosExecutorProcess, site: LocalSite, bare_python: str
) -> None:
    pids = set()
    for _ in range(3):
        packaged.launch(call := site.call(os.getpid, python=bare_python))
        pids.add(packaged.result_of(call).value)

    assert len(pids) == 1, packaged.log()


def test_a_call_by_the_shell_finds_the_package(
    packaged: MesosExecutorProcess, site: LocalSite, bare_python: str
) -> None:
    call = site.call(abs, -1, python="python")
    path = f"PATH={Path(bare_python).parent}:$PATH"
    shell_call = replace(call, spec=replace(call.spec, command=f"{path}; {call.spec.command}"))

    packaged.launch(shell_call)

    report = packaged.end_of(shell_call)
    assert report.cause == Cause.DONE, site.stderr(shell_call)
    assert report.end.blob is not None


@pytest.mark.parametrize("front_end_type", [InProcess, MesosExecutorProcess])
def test_an_interpreter_that_is_too_old_is_named_to_the_user(
    site: LocalSite, front_end_type: type[FrontEnd]
) -> None:
    python = old_python(site.folder)
    front_end = front_end_type(site)
    call, other = site.call(abs, -1, python=python), site.call(abs, -1)

    front_end.launch(call, other)

    report = front_end.end_of(call)
    text = f"{sys.executable} on host {os.uname().nodename} is Python 3.9; cook_jupyter needs 3.11 or later"
    assert (report.cause, report.end.exit_code, report.end.message) == (Cause.FAILED, 126, text)
    assert site.stderr(call) == f"cook_jupyter: {text}\n"
    assert front_end.result_of(other).value == 1
    front_end.stop()


def test_an_interpreter_without_the_package_is_named_to_the_user(site: LocalSite, bare_python: str) -> None:
    front_end = InProcess(site)
    call = site.call(abs, -1, python=bare_python)

    front_end.launch(call)

    message = front_end.end_of(call).end.message
    assert message is not None
    assert bare_python in message
    assert "has no cook_jupyter: install it there" in message
    front_end.stop()


def test_an_executor_in_an_interpreter_that_is_too_old_says_so(package: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [old_python(tmp_path), package, "mesos-executor"], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.endswith("is Python 3.9; cook_jupyter needs 3.11 or later\n")


def test_old_interpreters_can_read_the_bootstrap() -> None:
    source = Path(bootstrap.__file__).read_text()

    tree = ast.parse(source, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign)]
