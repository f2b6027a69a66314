"""`AsyncJobClient`: the requests to a scheduler as coroutines, for asyncio.

Lives here: a thin class around the exchanges of `client.protocol`, over `client.aio_connections`; the event
stream as an asynchronous iterator.
Not here: the same for threads (`client.sync`), where the methods are documented.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Self, TypeVar

from cook_jupyter.client import protocol, submission
from cook_jupyter.client.aio_connections import FAILURES, AsyncConnection, AsyncConnectionPool, Head
from cook_jupyter.client.answers import (
    CookInfo,
    FailureReason,
    GroupAnswer,
    InstanceAnswer,
    JobAnswer,
    MonitorAnswer,
    PoolAnswer,
    QueueEntry,
    QuotaAnswer,
    RebalancerAnswer,
    SchedulerInfo,
    ShareAnswer,
    SummaryAnswer,
    UnscheduledAnswer,
    UsageAnswer,
    WaitsAnswer,
    WhyAnswer,
)
from cook_jupyter.client.caller import Caller
from cook_jupyter.client.connections import CONNECT_TIMEOUT_S, Address
from cook_jupyter.client.events import (
    BREAKS,
    SILENCE_S,
    EventBatch,
    EventParser,
    Resumption,
    as_break,
    events_request,
    no_stream,
    stream_broke,
    stream_ended,
)
from cook_jupyter.client.exchange import Exchange, Reply, reply_error
from cook_jupyter.client.protocol import ALL_STATES, LogPiece
from cook_jupyter.client.submission import GroupSubmission, Job
from cook_jupyter.client.sync import TIMEOUT_S
from cook_jupyter.errors import SchedulerError, SchedulerUnreachable

T = TypeVar("T")


class AsyncJobClient:
    """A client of a scheduler for the tasks of one event loop.

    Arguments, return values and exceptions of the methods are those of `JobClient`.

    Args:
        url: `http://HOST:PORT`, `https://...` or `unix:///PATH`.
        token: token of the user; None if the scheduler needs none.
        user: user name to act as. With a token, the scheduler must allow it.
        timeout_s: time limit for an answer.
        socket_path: Unix socket on which the scheduler of an http URL also listens; it is tried first.

    Raises:
        InvalidRequest: the user name (with a colon, for instance) or the token cannot be sent in a request.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        user: str | None = None,
        timeout_s: float = TIMEOUT_S,
        socket_path: str | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._caller = Caller(token, user)
        self._socket_path = socket_path
        address = Address.of(url, socket_path)
        self._pool = AsyncConnectionPool(address, self._caller.authorization, CONNECT_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"AsyncJobClient({self.url!r}, user={self._caller.user!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """URL of the scheduler."""
        return self._pool.address.url

    async def user(self) -> str:
        """Owner of the client's jobs: the user it acts as, or the user of its token."""
        return await self._run(protocol.owner(self._caller))

    def acting_as(self, user: str) -> AsyncJobClient:
        """Return another client of the same scheduler that acts as another user."""
        return self._derived(user, self.timeout_s)

    def with_timeout(self, timeout_s: float) -> AsyncJobClient:
        """Return another client of the same scheduler for the same user, with another time limit."""
        return self._derived(self._caller.named_user, timeout_s)

    def close(self) -> None:
        """Close the connections. The client can be used again; it opens new ones."""
        self._pool.close()

    # --- jobs ---

    async def submit(
        self,
        jobs: Iterable[Job],
        groups: Sequence[Mapping[str, object] | GroupSubmission] = (),
        *,
        pool: str | None = None,
        override_group_immutability: bool = False,
        refuse_unsatisfiable: bool = False,
        may_have_arrived: bool = False,
        on_accepted: Callable[[Sequence[str]], object] = submission.discard,
    ) -> list[str]:
        """Submit jobs; when this returns, they are on the scheduler's disk."""
        return await self._run(
            submission.submit(
                jobs,
                groups,
                pool=pool,
                override_group_immutability=override_group_immutability,
                refuse_unsatisfiable=refuse_unsatisfiable,
                may_have_arrived=may_have_arrived,
                on_accepted=on_accepted,
            )
        )

    async def jobs(self, uuids: Sequence[str], *, partial: bool = False) -> list[JobAnswer]:
        """Return jobs by uuid, in order. With `partial`, unknown ones are omitted."""
        return await self._run(protocol.jobs(uuids, partial=partial))

    async def job(self, uuid: str) -> JobAnswer:
        """Return one job."""
        return await self._run(protocol.job(uuid))

    async def instances(self, uuids: Sequence[str], *, partial: bool = False) -> list[InstanceAnswer]:
        """Return instances by uuid, each with a short form of its job."""
        return await self._run(protocol.instances(uuids, partial=partial))

    async def list_jobs(
        self,
        *,
        user: str | None = None,
        states: Sequence[str] = ALL_STATES,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 150,
        name: str | None = None,
        pool: str | None = None,
    ) -> list[JobAnswer]:
        """Return the jobs of a user that were submitted in a time range, newest first."""
        return await self._run(
            protocol.list_jobs(
                self._caller,
                now_ms=_now_ms(),
                user=user,
                states=states,
                start_ms=start_ms,
                end_ms=end_ms,
                limit=limit,
                name=name,
                pool=pool,
            )
        )

    async def recent_jobs(
        self,
        count: int = 20,
        *,
        user: str | None = None,
        states: Sequence[str] = ALL_STATES,
        name: str | None = None,
        since_ms: int | None = None,
    ) -> list[JobAnswer]:
        """Return the last `count` submitted jobs, newest first."""
        return await self._run(
            protocol.recent_jobs(
                self._caller,
                count,
                now_ms=_now_ms(),
                user=user,
                states=states,
                name=name,
                since_ms=since_ms,
            )
        )

    async def kill(self, uuids: Sequence[str]) -> None:
        """Kill jobs: they are completed immediately, and their running instances are stopped."""
        await self._run(protocol.kill(uuids))

    async def cancel_waiting(self, uuids: Sequence[str]) -> list[str]:
        """Cancel those of the jobs that wait, and return their uuids; running jobs continue."""
        return await self._run(protocol.cancel_waiting(uuids))

    async def kill_instances(self, uuids: Sequence[str]) -> None:
        """Kill instances; their jobs start again if they have attempts left."""
        await self._run(protocol.kill_instances(uuids))

    async def kill_groups(self, uuids: Sequence[str]) -> None:
        """Kill all unfinished jobs of groups."""
        await self._run(protocol.kill_groups(uuids))

    async def retry(
        self,
        uuids: str | Sequence[str],
        *,
        retries: int | None = None,
        increment: int | None = None,
        failed_only: bool = False,
    ) -> int:
        """Give jobs more attempts: a new total (`retries`) or additional ones (`increment`)."""
        uuid_list = [uuids] if isinstance(uuids, str) else uuids
        return await self._run(
            protocol.retry(uuid_list, retries=retries, increment=increment, failed_only=failed_only)
        )

    async def groups(
        self, uuids: Sequence[str], *, detailed: bool = False, partial: bool = False
    ) -> list[GroupAnswer]:
        """Return groups; `detailed` adds the numbers of waiting, running and completed jobs."""
        return await self._run(protocol.groups(uuids, detailed=detailed, partial=partial))

    # --- limits, pools, the scheduler itself ---

    async def usage(
        self, user: str | None = None, *, pool: str | None = None, group_breakdown: bool = False
    ) -> UsageAnswer:
        """Return the usage of a user's running jobs; None for the caller's."""
        return await self._run(protocol.usage(self._caller, user, pool=pool, group_breakdown=group_breakdown))

    async def share(self, user: str | None = None, *, pool: str | None = None) -> ShareAnswer:
        """Return the share of a user; None for the caller's."""
        return await self._run(protocol.share(self._caller, user, pool=pool))

    async def set_share(
        self, user: str, *, reason: str, pool: str | None = None, **values: float
    ) -> ShareAnswer:
        """Set a user's share (`cpus`, `mem`, `gpus`); omitted values do not change. For administrators."""
        return await self._run(protocol.set_share(user, values, reason=reason, pool=pool))

    async def reset_share(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Reset a user's share to the default."""
        await self._run(protocol.reset_limit("share", user, reason=reason, pool=pool))

    async def quota(self, user: str | None = None, *, pool: str | None = None) -> QuotaAnswer:
        """Return the quota of a user; None for the caller's."""
        return await self._run(protocol.quota(self._caller, user, pool=pool))

    async def set_quota(
        self, user: str, *, reason: str, pool: str | None = None, **values: float
    ) -> QuotaAnswer:
        """Set a user's quota (`cpus`, `mem`, `gpus`, `count`); omitted values do not change."""
        return await self._run(protocol.set_quota(user, values, reason=reason, pool=pool))

    async def reset_quota(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Reset a user's quota to the default."""
        await self._run(protocol.reset_limit("quota", user, reason=reason, pool=pool))

    async def pools(self) -> list[PoolAnswer]:
        """Return the pools."""
        return await self._run(protocol.pools())

    async def queue(self, *, limit: int | None = None) -> dict[str, list[QueueEntry]]:
        """Return the waiting jobs of each pool in the order of the queue. For administrators."""
        return await self._run(protocol.queue(limit=limit))

    async def running(self, *, limit: int | None = None) -> list[InstanceAnswer]:
        """Return the running instances of all users. For administrators."""
        return await self._run(protocol.running(limit=limit))

    async def unscheduled(self, uuids: Sequence[str], *, partial: bool = False) -> list[UnscheduledAnswer]:
        """Return Cook's reasons why each of the jobs waits."""
        return await self._run(protocol.unscheduled(uuids, partial=partial))

    async def info(self) -> CookInfo:
        """Return Cook's facts about the scheduler."""
        return await self._run(protocol.info())

    async def settings(self) -> dict[str, object]:
        """Return the scheduler's settings."""
        return await self._run(protocol.settings())

    async def failure_reasons(self) -> list[FailureReason]:
        """Return Cook's table of reasons for the end of instances."""
        return await self._run(protocol.failure_reasons())

    # --- cook_jupyter's own, under /v1 ---

    async def info_v1(self) -> SchedulerInfo:
        """Return facts about the scheduler: its user, blob store, capacity and limits of requests."""
        return await self._run(protocol.info_v1(self._caller))

    async def summary(self) -> SummaryAnswer:
        """Return the waiting and running jobs of all users, with capacity and shares."""
        return await self._run(protocol.summary())

    async def monitor(self) -> MonitorAnswer:
        """Return the latest sample of user satisfaction by pool, with amounts."""
        return await self._run(protocol.monitor())

    async def rebalancer(self) -> RebalancerAnswer:
        """Return the parameters of preemption in force."""
        return await self._run(protocol.rebalancer())

    async def set_rebalancer(self, **parameters: float | None) -> RebalancerAnswer:
        """Set `safe_dru_threshold`, `min_dru_diff` or `max_preemption`, from now on. For administrators."""
        return await self._run(protocol.set_rebalancer(parameters))

    async def events(
        self,
        cursor: int | None = None,
        label: Mapping[str, str] | None = None,
        *,
        store: str | None = None,
    ) -> AsyncEventStream:
        """Stream the events of the user's jobs: first the changes after `cursor`, then live."""
        return await AsyncEventStream.open(
            self._pool, cursor, label or {}, store=store, timeout_s=self.timeout_s
        )

    async def result(self, uuid: str) -> bytes:
        """Return the signed result of a job."""
        return await self._run(protocol.result(uuid))

    async def logs(
        self,
        uuid: str,
        *,
        stream: str = "stdout",
        offset: int = 0,
        length: int = 1024 * 1024,
        wait_s: float = 0.0,
    ) -> LogPiece:
        """Return output of an instance (or of a job's latest one) from `offset` on; see `LogPiece`."""
        return await self._run(
            protocol.logs(uuid, stream=stream, offset=offset, length=length, wait_s=wait_s)
        )

    async def why(self, uuid: str) -> WhyAnswer:
        """Return why a job waits: plain sentences, and Cook's reasons."""
        return await self._run(protocol.why(uuid))

    async def dump(self, pool: str | None = None, uuids: Sequence[str] = ()) -> bytes:
        """Return everything that decisions about a pool read at this moment, as JSON."""
        return await self._run(protocol.dump(pool, uuids))

    async def report_waits(self, instance: str, uuids: Sequence[str]) -> WaitsAnswer:
        """Report the jobs that a running instance waits for without a time limit; none if it continues."""
        return await self._run(protocol.report_waits(instance, uuids))

    async def put_blob(self, name: str, data: bytes | memoryview) -> None:
        """Store bytes under a name; functions must match their hash."""
        await self._run(protocol.put_blob(name, data))

    async def get_blob(self, name: str) -> bytes:
        """Return the bytes of a blob."""
        return await self._run(protocol.get_blob(name))

    async def blob_size(self, name: str) -> int | None:
        """Return the size of a blob in bytes; None if it does not exist."""
        return await self._run(protocol.blob_size(name))

    async def has_blob(self, name: str) -> bool:
        """Return whether a blob exists."""
        return await self.blob_size(name) is not None

    async def shutdown(self, *, stop_agent: bool = False) -> None:
        """Stop the embedded scheduler. Running instances continue, unless `stop_agent` is set."""
        await self._run(protocol.shutdown(stop_agent=stop_agent))

    # --- implementation ---

    def _derived(self, user: str | None, timeout_s: float) -> AsyncJobClient:
        return AsyncJobClient(
            self.url, token=self._caller.token, user=user, timeout_s=timeout_s, socket_path=self._socket_path
        )

    async def _run(self, exchange: Exchange[T]) -> T:
        """Perform an exchange over a connection of the pool."""
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await self._pool.exchange(request, self.timeout_s))
        except StopIteration as end:
            answer: T = end.value
            return answer


class AsyncEventStream:
    """An asynchronous iterator over batches of events, with its own connection; see `EventStream`."""

    def __init__(self, url: str, connection: AsyncConnection, head: Head, silence_s: float) -> None:
        self._url = url
        self._connection = connection
        self._body = connection.body(head)
        self._silence_s = silence_s
        self._parser = EventParser()
        self._closed = False

    @classmethod
    async def open(
        cls,
        pool: AsyncConnectionPool,
        cursor: int | None,
        labels: Mapping[str, str],
        *,
        store: str | None = None,
        timeout_s: float,
        silence_s: float = SILENCE_S,
    ) -> AsyncEventStream:
        """Open the stream.

        Raises:
            SchedulerUnreachable: it could not be opened.
            CookError: the scheduler refused.
        """
        url = pool.address.url
        connection = await pool.new_connection()
        try:
            await connection.send(events_request(cursor, labels, store), timeout_s)
            head = await connection.read_head("GET", timeout_s)
            if head.status != 200:
                body = await connection.body(head).read_all(timeout_s)
                raise reply_error(Reply(status=head.status, headers=head.headers, body=body))
        except FAILURES as error:
            connection.close()
            raise no_stream(url) from error
        except BaseException:
            connection.close()
            raise
        return cls(url, connection, head, silence_s)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventBatch:
        try:
            while (batch := self._parser.next_batch()) is None:
                self._parser.feed(await self._read())
        except SchedulerError:
            self.close()
            raise
        return batch

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream; a task that waits for its next batch gets StopAsyncIteration."""
        self._closed = True
        self._connection.close()

    async def _read(self) -> bytes:
        try:
            piece = await self._body.read(self._silence_s)
        except FAILURES as error:
            if self._closed:
                raise StopAsyncIteration from None
            self.close()
            raise stream_broke(self._url, error) from error
        if piece:
            return piece
        if self._closed:
            raise StopAsyncIteration
        self.close()
        raise stream_ended(self._url)


async def follow_events(
    subscribe: Callable[[int | None], Awaitable[AsyncEventStream]],
    *,
    cursor: int | None = None,
    on_break: Callable[[SchedulerUnreachable], None] = lambda _: None,
) -> AsyncIterator[EventBatch]:
    """Yield batches until this side closes the stream; after an interruption, resume at the cursor.

    Args:
        subscribe: function that opens the stream after a cursor.
        cursor: initial cursor; None for now.
        on_break: callback after each interruption, before the pause.

    Raises:
        Unauthenticated, NotFound: the scheduler refuses; trying again would not help.
    """
    resumption = Resumption(cursor)
    while True:
        try:
            async with await subscribe(resumption.cursor) as stream:
                async for batch in stream:
                    resumption.on_batch(batch)
                    yield batch
            return  # closed by this side
        except BREAKS as error:
            on_break(as_break(error))
        await asyncio.sleep(resumption.next_pause_s())


def _now_ms() -> int:
    return int(time.time() * 1000)
