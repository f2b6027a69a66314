"""A scheduler behind real HTTP, on an event loop in its own thread, with blocking requests for tests."""

import asyncio
import base64
import http.client
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import msgspec

from cook_jupyter.api.auth import Authenticator, TokenAuthenticator
from cook_jupyter.api.routes import make_application
from cook_jupyter.api.server import ServerLimits, serve
from cook_jupyter.clusters.local.sandboxes import LocalSandboxes
from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.model.instance import InstanceId, StatusUpdate, TaskState
from cook_jupyter.model.job import JobId
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.payload.keys import make_key
from cook_jupyter.service.clock import SystemClock
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from tests.waiting import HANG_S, wait_until

TOKEN = "a token of the tests"
OWNER = "owner"
POOLS = (
    Pool(name=DEFAULT_POOL, purpose="this machine"),
    Pool(name=PoolName("other")),
    Pool(name=PoolName("closed"), active=False),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class ApiServer:
    """A running API server and its scheduler."""

    def __init__(
        self, url: str, scheduler: Scheduler, cluster: MemoryCluster, loop: asyncio.AbstractEventLoop
    ):
        self.url = url
        self.scheduler = scheduler
        self.cluster = cluster
        self._loop = loop
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 0)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        /,
        *,
        by: str | None = OWNER,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Reply:
        """Send one request; `body` is sent as JSON unless it is bytes."""
        if query:
            path += "?" + urlencode(dict(query), doseq=True)
        sent: dict[str, str] = {} if by is None else authorization(by)
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        connection = http.client.HTTPConnection(*self.address, timeout=HANG_S)
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def on_loop(self, act: Callable[[], Awaitable[T]]) -> T:
        """Await an awaitable on the event loop of the server."""

        async def acting() -> T:
            return await act()

        return asyncio.run_coroutine_threadsafe(acting(), self._loop).result(HANG_S)

    def submit(self, user: str = OWNER, **fields: Any) -> JobId:
        """Submit one job; return its uuid."""
        job = a_request(**fields)
        reply = self.ask("POST", "/jobs", {"jobs": [job]}, by=user)
        assert reply.status == 201, reply.text
        return JobId(job["uuid"])

    def job(self, uuid: str) -> Any:
        """Return a job from /jobs."""
        reply = self.ask("GET", f"/jobs/{uuid}")
        assert reply.status == 200, reply.text
        return reply.json

    def started(self, uuid: str) -> InstanceId:
        """Wait until a job runs; return its instance."""
        wait_until(
            lambda: self.job(uuid)["instances"] and self.job(uuid)["instances"][-1]["status"] == "running"
        )
        return InstanceId(self.job(uuid)["instances"][-1]["task_id"])

    def finish(self, uuid: str, **how: Any) -> InstanceId:
        """End the running instance of a job; return the id of the instance."""
        task = self.started(uuid)

        async def end() -> None:
            self.cluster.finish(task, **how)

        self.on_loop(end)
        wait_until(lambda: self.ask("GET", f"/instances/{task}").json["status"] in ("success", "failed"))
        return task

    def give_sandbox(self, task: InstanceId, sandbox: Path) -> None:
        """Report the sandbox of an instance to the scheduler."""
        update = StatusUpdate(instance_id=task, state=TaskState.RUNNING, at_ms=1, sandbox=str(sandbox))
        self.on_loop(lambda: self.scheduler.store.report([update]))

    def raw(self) -> socket.socket:
        """Open a TCP connection to the server."""
        return socket.create_connection(self.address, timeout=HANG_S)


def a_request(**fields: Any) -> dict[str, Any]:
    """Return the body of a small job with a new uuid."""
    return {"uuid": str(uuid4()), "command": "true", "max_retries": 1, "cpus": 0.5, "mem": 32.0, **fields}


def authorization(user: str, token: str = TOKEN) -> dict[str, str]:
    if user == OWNER:
        return {"Authorization": f"Bearer {token}"}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()}


@contextmanager
def serving(
    home: Path,
    *,
    settings: Settings | None = None,
    limits: ServerLimits | None = None,
    authenticator: Authenticator | None = None,
    heartbeat_s: float = 15.0,
    socket_path: Path | None = None,
    with_address: bool = False,
    write_timeout_s: float = 30.0,
    store: Store | None = None,
    has_fixed_capacity: bool = False,
) -> Iterator[ApiServer]:
    """Serve a scheduler with two small hosts in a thread.

    Args:
        socket_path: path of a Unix socket to listen on instead of an address.
        with_address: whether to listen on an address besides the Unix socket.
        has_fixed_capacity: whether no host can join.
    """
    settings = settings or Settings(pools=POOLS)
    authenticator = authenticator or TokenAuthenticator(TOKEN, owner=OWNER)
    hosts = {"h1": Resources(cpus=2, mem_mb=4096), "h2": Resources(cpus=2, mem_mb=4096)}
    cluster = MemoryCluster(
        hosts,
        pools=(DEFAULT_POOL, PoolName("other")),
        has_fixed_capacity=has_fixed_capacity,
        sandboxes=LocalSandboxes(),
    )
    answers: list[ApiServer] = []
    began, end = threading.Event(), threading.Event()

    async def live() -> None:
        place = Home(root=home)
        place.make()
        key = make_key(b"the key of the tests' instances ....")
        chosen = store or MemoryStore()
        async with run_scheduler(
            chosen, [cluster], settings, place, SystemClock(), instance_key=key
        ) as scheduler:
            application = make_application(
                scheduler, authenticator, heartbeat_s=heartbeat_s, write_timeout_s=write_timeout_s
            )
            listener = serve(
                application,
                authenticator,
                host=None if socket_path is not None and not with_address else "127.0.0.1",
                limits=limits,
                socket_path=socket_path,
            )
            answers.append(ApiServer(listener.url, scheduler, cluster, asyncio.get_running_loop()))
            began.set()
            await asyncio.to_thread(end.wait)
            await listener.close()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        assert began.wait(HANG_S)
        yield answers[0]
    finally:
        end.set()
        thread.join(HANG_S)
