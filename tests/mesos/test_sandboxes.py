"""Sandboxes on real agents keep the promises of all sandboxes."""

import asyncio
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from cook_jupyter.clusters.mesos.sandboxes import MesosSandboxes
from cook_jupyter.errors import CookError, InvalidRequest, NotFound, SchedulerError, TooLarge, Unverifiable
from cook_jupyter.model.instance import Instance, InstanceId
from cook_jupyter.model.job import JobId
from tests.builders import an_instance
from tests.clusters.sandbox_contract import SandboxContract, SandboxHarness, content_of
from tests.mesos.local_mesos.cluster import LocalMesos
from tests.mesos.raw_framework import RawFramework
from tests.waiting import wait_until


class SandboxesOnAgents:
    """Sandboxes of command tasks that wait; each is used by one instance after the other."""

    def __init__(self, mesos: LocalMesos, framework: RawFramework) -> None:
        self._mesos = mesos
        self._framework = framework
        self._unused: list[tuple[str, Path]] = []

    def take(self) -> tuple[str, Path]:
        """Return a host and an empty sandbox on it."""
        if not self._unused:
            self._unused.append(self._start())
        return self._unused.pop()

    def give_back(self, host: str, sandbox: Path) -> None:
        """Empty a sandbox for the next instance; forget one that was removed."""
        if not sandbox.exists():
            return
        for path in sandbox.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._unused.append((host, sandbox))

    def _start(self) -> tuple[str, Path]:
        task_id = self._framework.run_command("pwd > here.part; mv here.part here; sleep 1000")
        status = self._framework.wait_for_state(task_id, "TASK_RUNNING")
        assert status.agent_id is not None
        hosts = {agent_id: host for host, agent_id in self._mesos.registered_agents().items()}
        host = hosts[status.agent_id.value]
        agent = next(agent for agent in self._mesos.agents if agent.host == host)
        runs = f"slaves/*/frameworks/{self._framework.framework_id}/executors/{task_id}/runs/*/here"
        wait_until(lambda: list(agent.work_dir.glob(runs)), "the sandbox")
        here = next(path for path in agent.work_dir.glob(runs) if path.parent.name != "latest")
        sandbox = Path(here.read_text().strip())
        for path in sandbox.iterdir():
            path.unlink()
        return host, sandbox


class AgentHarness:
    """The instances of one test."""

    def __init__(self, mesos: LocalMesos, on_agents: SandboxesOnAgents) -> None:
        self.sandboxes = MesosSandboxes(mesos.agent_url)
        self._on_agents = on_agents
        self._taken: dict[InstanceId, tuple[str, Path]] = {}

    def host(self, instance_id: InstanceId) -> str:
        return self._place(instance_id)[0]

    def directory(self, instance_id: InstanceId) -> str:
        return str(self._place(instance_id)[1])

    def write(self, instance_id: InstanceId, path: str, content: bytes) -> None:
        file = self._place(instance_id)[1] / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def link(self, instance_id: InstanceId, path: str, target: str) -> None:
        (self._place(instance_id)[1] / path).symlink_to(target)

    def remove(self, instance_id: InstanceId) -> None:
        shutil.rmtree(self._place(instance_id)[1])

    def end(self) -> None:
        for host, sandbox in self._taken.values():
            self._on_agents.give_back(host, sandbox)

    def _place(self, instance_id: InstanceId) -> tuple[str, Path]:
        if instance_id not in self._taken:
            self._taken[instance_id] = self._on_agents.take()
        return self._taken[instance_id]


@pytest.fixture(scope="module")
def on_agents(mesos: LocalMesos) -> Iterator[SandboxesOnAgents]:
    with RawFramework(mesos.master) as framework:
        yield SandboxesOnAgents(mesos, framework)


@pytest.fixture
def harness(mesos: LocalMesos, on_agents: SandboxesOnAgents) -> Iterator[AgentHarness]:
    harness = AgentHarness(mesos, on_agents)
    yield harness
    harness.end()


class TestMesosSandboxes(SandboxContract):
    """The contract; a link can reach what is in the sandbox of the same executor."""

    def instance_with(self, harness: SandboxHarness, files: dict[str, bytes]) -> Instance:
        assert isinstance(harness, AgentHarness)
        instance = super().instance_with(harness, files)
        return replace(instance, host=harness.host(instance.instance_id))

    async def test_a_large_binary_file_is_read_as_it_is(self, harness: AgentHarness) -> None:
        content = os.urandom(5_000_001)
        instance = self.instance_with(harness, {"data": content})

        async with harness.sandboxes.open(instance, "data") as file:
            assert file.size == len(content)
            assert await file.read(0, file.size) == content
            assert await file.read(65_535, 3) == content[65_535:65_538]
            assert await file.read(4_000_000, 10**12) == content[4_000_000:]

    async def test_a_file_that_grows_can_be_followed(self, harness: AgentHarness) -> None:
        instance = self.instance_with(harness, {"stdout": b"one\n"})

        async with harness.sandboxes.open(instance, "stdout") as file:
            harness.write(instance.instance_id, "stdout", b"one\ntwo\n")

            assert await file.read(4, 100) == b"two\n"

    @pytest.mark.parametrize("name", ["a?*[b] {c}&d=e#f%41+", 'quote"\\', "ünï", os.fsdecode(b"raw\xff")])
    async def test_any_name_is_that_of_a_file(self, harness: AgentHarness, name: str) -> None:
        instance = self.instance_with(harness, {name: b"data"})

        assert [entry.name for entry in await harness.sandboxes.browse(instance, "")] == [name]
        assert await content_of(harness.sandboxes, instance, name) == b"data"

    async def test_a_pipe_does_not_stop_the_agent(self, harness: AgentHarness) -> None:
        instance = self.instance_with(harness, {"stdout": b""})
        os.mkfifo(Path(harness.directory(instance.instance_id)) / "pipe")

        with pytest.raises(NotFound):
            await content_of(harness.sandboxes, instance, "pipe")

    async def test_the_sandbox_of_a_task_is_a_directory_in_that_of_its_executor(
        self, harness: AgentHarness
    ) -> None:
        ours, neighbour = str(uuid4()), str(uuid4())
        executor = self.instance_with(
            harness, {f"tasks/{ours}/stdout": b"ours", f"tasks/{neighbour}/stdout": b"neighbour's"}
        )
        instance = replace(executor, sandbox=f"{executor.sandbox}/tasks/{ours}")

        assert await content_of(harness.sandboxes, instance, "stdout") == b"ours"
        for path in (f"../{neighbour}/stdout", f"{executor.sandbox}/tasks/{neighbour}/stdout", "../.."):
            with pytest.raises(NotFound):
                await content_of(harness.sandboxes, instance, path)

    async def test_the_url_of_an_instance_is_that_of_its_agent(
        self, harness: AgentHarness, mesos: LocalMesos, instance: Instance
    ) -> None:
        assert harness.sandboxes.url(instance) == mesos.agent_url(instance.host)


# Agents


def an_instance_on(host: str) -> Instance:
    return replace(an_instance(JobId(str(uuid4()))), host=host, sandbox="/sandbox")


async def test_a_host_without_an_agent_is_named() -> None:
    sandboxes = MesosSandboxes(lambda host: None)
    instance = an_instance_on("host-7")

    assert sandboxes.url(instance) is None
    with pytest.raises(NotFound, match="host-7"):
        await content_of(sandboxes, instance, "stdout")
    with pytest.raises(NotFound, match="host-7"):
        await sandboxes.browse(instance, "")


async def test_an_agent_that_does_not_listen_is_an_error_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        with pytest.raises(NotFound, match="host-7 cannot be read at present: cannot connect"):
            await content_of(MesosSandboxes(lambda host: url), an_instance_on("host-7"), "stdout")


async def test_an_agent_that_never_answers_is_an_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cook_jupyter.clusters.mesos.agent_files._ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(NotFound, match="did not answer"):
            await content_of(MesosSandboxes(lambda host: url), an_instance_on("host-7"), "stdout")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnone",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{"list_files":{"file_infos":[{}]}}',
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
async def test_something_else_than_an_agent_is_an_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        with pytest.raises(NotFound, match="cannot be read at present"):
            await content_of(MesosSandboxes(lambda host: url), an_instance_on("host-7"), "stdout")


async def test_an_agent_that_requires_other_credentials_is_an_error_of_the_scheduler(
    private_mesos: Callable[..., LocalMesos], tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text('{"credentials": [{"principal": "cook", "secret": "secret"}]}')
    mesos = private_mesos(
        agents=1,
        agent_flags={
            "authenticate_http_readonly": "true",
            "authenticate_http_readwrite": "true",
            "http_credentials": str(credentials),
        },
    )
    instance = an_instance_on(mesos.agents[0].host)

    with pytest.raises(SchedulerError, match="access_sandboxes"):
        await MesosSandboxes(mesos.agent_url).browse(instance, "")
    headers = [("Authorization", "Basic Y29vazpzZWNyZXQ=")]
    with pytest.raises(NotFound, match="was removed"):
        await MesosSandboxes(mesos.agent_url, headers=headers).browse(instance, "")


# Results


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def result(harness: AgentHarness) -> tuple[str, str, bytes]:
    """The host, path and content of a result."""
    instance_id, content = InstanceId(str(uuid4())), os.urandom(300_000)
    harness.write(instance_id, "tasks/result", content)
    return harness.host(instance_id), f"{harness.directory(instance_id)}/tasks/result", content


async def test_a_result_is_fetched_and_verified(
    harness: AgentHarness, result: tuple[str, str, bytes]
) -> None:
    host, path, content = result

    fetched = await harness.sandboxes.fetch_result(host, path, size=len(content), digest=digest(content))

    assert fetched == content


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"size": 299_999}, Unverifiable),
        ({"size": 300_001}, Unverifiable),
        ({"digest": digest(b"other")}, Unverifiable),
        ({"size": (1 << 30) + 1}, TooLarge),
        ({"path": "/etc/passwd"}, NotFound),
        ({"host": "host-7"}, NotFound),
    ],
)
async def test_what_is_not_the_described_result_is_an_error(
    harness: AgentHarness,
    result: tuple[str, str, bytes],
    change: dict[str, object],
    error: type[CookError],
) -> None:
    host, path, content = result
    request = {"host": host, "path": path, "size": len(content), "digest": digest(content), **change}

    with pytest.raises(error):
        await harness.sandboxes.fetch_result(**request)  # type: ignore[arg-type]


async def test_a_result_that_became_a_directory_or_a_pipe_is_not_fetched(
    harness: AgentHarness, result: tuple[str, str, bytes]
) -> None:
    host, path, content = result
    os.unlink(path)  # noqa: PTH108 - as everything here
    os.mkfifo(path)

    with pytest.raises(NotFound):
        await harness.sandboxes.fetch_result(host, path, size=len(content), digest=digest(content))
    os.unlink(path)  # noqa: PTH108
    os.mkdir(path)  # noqa: PTH102
    with pytest.raises((NotFound, InvalidRequest)):
        await harness.sandboxes.fetch_result(host, path, size=len(content), digest=digest(content))
