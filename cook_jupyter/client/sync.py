"""`JobClient`: the requests to a scheduler as blocking methods.

Lives here: a thin class that performs the exchanges of `client.protocol` over `client.connections`. All
methods may be called by any thread; all have a time limit.
Not here: finding a scheduler (`client.connect`), the same methods for asyncio (`client.aio`), calls and
futures (`executor`).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self, TypeVar

from cook_jupyter.client import protocol, submission
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
from cook_jupyter.client.connections import CONNECT_TIMEOUT_S, Address, ConnectionPool
from cook_jupyter.client.events import EventStream
from cook_jupyter.client.exchange import Exchange
from cook_jupyter.client.protocol import ALL_STATES, LogPiece
from cook_jupyter.client.submission import GroupSubmission, Job

T = TypeVar("T")

TIMEOUT_S = 30.0


class JobClient:
    """A client of a scheduler: of cook_jupyter, or of an original Cook, which lacks everything under `/v1`.

    Args:
        url: `http://HOST:PORT`, `https://...` or `unix:///PATH`.
        token: token of the user; None if the scheduler needs none.
        user: user name to act as. With a token, the scheduler must allow it.
        timeout_s: time limit for an answer.
        socket_path: Unix socket on which the scheduler of an http URL also listens; it is tried first.

    Raises:
        InvalidRequest: the user name (with a colon, for instance) or the token cannot be sent in a request.

    Every method raises `SchedulerUnreachable` if there is no answer, `Unauthenticated` or `Forbidden` if the
    user lacks permission, and otherwise the class of `cook_jupyter.errors` that the scheduler raised.
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
        self._pool = ConnectionPool(address, self._caller.authorization, CONNECT_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"JobClient({self.url!r}, user={self._caller.user!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """URL of the scheduler."""
        return self._pool.address.url

    @property
    def user(self) -> str:
        """Owner of the client's jobs: the user it acts as, or the user of its token."""
        return self._run(protocol.owner(self._caller))

    def acting_as(self, user: str) -> "JobClient":
        """Return another client of the same scheduler that acts as another user."""
        return self._derived(user, self.timeout_s)

    def with_timeout(self, timeout_s: float) -> "JobClient":
        """Return another client of the same scheduler for the same user, with another time limit."""
        return self._derived(self._caller.named_user, timeout_s)

    patient_for = with_timeout  # the former name, for a release

    def close(self) -> None:
        """Close the connections. The client can be used again; it opens new ones."""
        self._pool.close()

    # --- jobs ---

    def submit(
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
        """Submit jobs; when this returns, they are on the scheduler's disk.

        A job without a uuid gets one, which makes sending it again harmless. A list that is too large for one
        request is sent in parts, each of which is accepted or refused as a whole.

        Args:
            jobs: submissions; a mapping has Cook's field names (`command`, `cpus`, `mem` in MiB ...).
            groups: groups that the jobs join.
            pool: pool of the jobs; None for the scheduler's default.
            override_group_immutability: whether jobs may join groups of earlier submissions.
            refuse_unsatisfiable: whether to refuse jobs that no host could ever run, if the scheduler is
                certain of that; otherwise they wait.
            may_have_arrived: whether the jobs were sent before and the reply was lost, so that existing ones
                are not a conflict.
            on_accepted: callback with the uuids of each part once the scheduler has it.

        Returns:
            The uuids, in order.

        Raises:
            InvalidRequest: a job is invalid; nothing of its part was accepted.
            Unsatisfiable: no host could ever run a job, and `refuse_unsatisfiable` was set.
            QuotaExceeded: a quota or a queue limit would be exceeded.
            Conflict: a uuid is already used.
        """
        return self._run(
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

    def jobs(self, uuids: Sequence[str], *, partial: bool = False) -> list[JobAnswer]:
        """Return jobs by uuid, in order. With `partial`, unknown ones are omitted.

        Raises:
            NotFound: a uuid is unknown (without `partial`); `missing` names them.
        """
        return self._run(protocol.jobs(uuids, partial=partial))

    def job(self, uuid: str) -> JobAnswer:
        """Return one job."""
        return self._run(protocol.job(uuid))

    def instances(self, uuids: Sequence[str], *, partial: bool = False) -> list[InstanceAnswer]:
        """Return instances by uuid, each with a short form of its job."""
        return self._run(protocol.instances(uuids, partial=partial))

    def list_jobs(
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
        """Return the jobs of a user that were submitted in a time range, newest first.

        Args:
            user: owner of the jobs; None for the caller.
            states: any of waiting, running, completed, success, failed.
            start_ms: start of the range in epoch milliseconds; None for the last 24 hours.
            end_ms: end of the range, exclusive; None for no end.
            limit: maximum number of jobs; if there are more, Cook returns the *oldest*: see `recent_jobs`.
            name: the whole name, in which `*` matches any characters.
            pool: only jobs of this pool.
        """
        return self._run(
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

    def recent_jobs(
        self,
        count: int = 20,
        *,
        user: str | None = None,
        states: Sequence[str] = ALL_STATES,
        name: str | None = None,
        since_ms: int | None = None,
    ) -> list[JobAnswer]:
        """Return the last `count` submitted jobs, newest first.

        Args:
            count: maximum number of jobs.
            user: owner of the jobs; None for the caller.
            states: any of waiting, running, completed, success, failed.
            name: as in `list_jobs`.
            since_ms: earliest submission, in epoch milliseconds; None for 7 days ago.
        """
        return self._run(
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

    def kill(self, uuids: Sequence[str]) -> None:
        """Kill jobs: they are completed immediately, and their running instances are stopped.

        Raises:
            NotFound: a uuid is unknown.
            Forbidden: a job belongs to another user; nothing was killed.
        """
        self._run(protocol.kill(uuids))

    def cancel_waiting(self, uuids: Sequence[str]) -> list[str]:
        """Cancel those of the jobs that wait, and return their uuids; running jobs continue.

        Raises:
            NotFound: a uuid is unknown, or the scheduler is an original Cook, which cannot do this.
            Forbidden: a job belongs to another user; nothing was cancelled.
        """
        return self._run(protocol.cancel_waiting(uuids))

    def kill_instances(self, uuids: Sequence[str]) -> None:
        """Kill instances; their jobs start again if they have attempts left."""
        self._run(protocol.kill_instances(uuids))

    def kill_groups(self, uuids: Sequence[str]) -> None:
        """Kill all unfinished jobs of groups."""
        self._run(protocol.kill_groups(uuids))

    def retry(
        self,
        uuids: str | Sequence[str],
        *,
        retries: int | None = None,
        increment: int | None = None,
        failed_only: bool = False,
    ) -> int:
        """Give jobs more attempts: a new total (`retries`) or additional ones (`increment`).

        Returns:
            The new total of the first job that was changed; 0 if `failed_only` left none.
        """
        uuid_list = [uuids] if isinstance(uuids, str) else uuids
        return self._run(
            protocol.retry(uuid_list, retries=retries, increment=increment, failed_only=failed_only)
        )

    def groups(
        self, uuids: Sequence[str], *, detailed: bool = False, partial: bool = False
    ) -> list[GroupAnswer]:
        """Return groups; `detailed` adds the numbers of waiting, running and completed jobs."""
        return self._run(protocol.groups(uuids, detailed=detailed, partial=partial))

    # --- limits, pools, the scheduler itself ---

    def usage(
        self, user: str | None = None, *, pool: str | None = None, group_breakdown: bool = False
    ) -> UsageAnswer:
        """Return the usage of a user's running jobs; None for the caller's."""
        return self._run(protocol.usage(self._caller, user, pool=pool, group_breakdown=group_breakdown))

    def share(self, user: str | None = None, *, pool: str | None = None) -> ShareAnswer:
        """Return the share of a user; None for the caller's."""
        return self._run(protocol.share(self._caller, user, pool=pool))

    def set_share(self, user: str, *, reason: str, pool: str | None = None, **values: float) -> ShareAnswer:
        """Set a user's share (`cpus`, `mem`, `gpus`); omitted values do not change. For administrators."""
        return self._run(protocol.set_share(user, values, reason=reason, pool=pool))

    def reset_share(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Reset a user's share to the default."""
        self._run(protocol.reset_limit("share", user, reason=reason, pool=pool))

    def quota(self, user: str | None = None, *, pool: str | None = None) -> QuotaAnswer:
        """Return the quota of a user; None for the caller's."""
        return self._run(protocol.quota(self._caller, user, pool=pool))

    def set_quota(self, user: str, *, reason: str, pool: str | None = None, **values: float) -> QuotaAnswer:
        """Set a user's quota (`cpus`, `mem`, `gpus`, `count`); omitted values do not change."""
        return self._run(protocol.set_quota(user, values, reason=reason, pool=pool))

    def reset_quota(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Reset a user's quota to the default."""
        self._run(protocol.reset_limit("quota", user, reason=reason, pool=pool))

    def pools(self) -> list[PoolAnswer]:
        """Return the pools."""
        return self._run(protocol.pools())

    def queue(self, *, limit: int | None = None) -> dict[str, list[QueueEntry]]:
        """Return the waiting jobs of each pool in the order of the queue. For administrators."""
        return self._run(protocol.queue(limit=limit))

    def running(self, *, limit: int | None = None) -> list[InstanceAnswer]:
        """Return the running instances of all users. For administrators."""
        return self._run(protocol.running(limit=limit))

    def unscheduled(self, uuids: Sequence[str], *, partial: bool = False) -> list[UnscheduledAnswer]:
        """Return Cook's reasons why each of the jobs waits."""
        return self._run(protocol.unscheduled(uuids, partial=partial))

    def info(self) -> CookInfo:
        """Return Cook's facts about the scheduler."""
        return self._run(protocol.info())

    def settings(self) -> dict[str, object]:
        """Return the scheduler's settings."""
        return self._run(protocol.settings())

    def failure_reasons(self) -> list[FailureReason]:
        """Return Cook's table of reasons for the end of instances."""
        return self._run(protocol.failure_reasons())

    # --- cook_jupyter's own, under /v1 ---

    def info_v1(self) -> SchedulerInfo:
        """Return facts about the scheduler: its user, blob store, capacity and limits of requests."""
        return self._run(protocol.info_v1(self._caller))

    def summary(self) -> SummaryAnswer:
        """Return the waiting and running jobs of all users, with capacity and shares."""
        return self._run(protocol.summary())

    def monitor(self) -> MonitorAnswer:
        """Return the latest sample of user satisfaction by pool, with amounts."""
        return self._run(protocol.monitor())

    def rebalancer(self) -> RebalancerAnswer:
        """Return the parameters of preemption in force."""
        return self._run(protocol.rebalancer())

    def set_rebalancer(self, **parameters: float | None) -> RebalancerAnswer:
        """Set `safe_dru_threshold`, `min_dru_diff` or `max_preemption`, from now on. For administrators.

        None disables preemption; omitted parameters do not change. Returns the parameters in force.
        """
        return self._run(protocol.set_rebalancer(parameters))

    def events(
        self,
        cursor: int | None = None,
        label: Mapping[str, str] | None = None,
        *,
        store: str | None = None,
    ) -> EventStream:
        """Stream the events of the user's jobs: first the changes after `cursor`, then live.

        Args:
            cursor: cursor of an earlier batch; None for now.
            label: labels that the jobs must have.
            store: store to which the cursor belongs (`EventBatch.store`). If the scheduler has another one by
                now, the stream starts with the present, and its first batch names the new store.

        Returns:
            An iterator over batches, with its own connection; close it when done. It raises
            SchedulerUnreachable if the connection breaks; `client.events.follow_events` reconnects.
        """
        return EventStream(self._pool, cursor, label or {}, store=store, timeout_s=self.timeout_s)

    def result(self, uuid: str) -> bytes:
        """Return the signed result of a job.

        Raises:
            NotFound: there is no such job, or it has no result.
            Conflict: the job is not completed.
        """
        return self._run(protocol.result(uuid))

    def logs(
        self,
        uuid: str,
        *,
        stream: str = "stdout",
        offset: int = 0,
        length: int = 1024 * 1024,
        wait_s: float = 0.0,
    ) -> LogPiece:
        """Return output of an instance (or of a job's latest one) from `offset` on; see `LogPiece`.

        Args:
            uuid: uuid of an instance or a job.
            stream: "stdout" or "stderr".
            offset: offset in bytes.
            length: maximum size of the piece, in bytes.
            wait_s: how long the scheduler waits for data, at most 20 s.
        """
        return self._run(protocol.logs(uuid, stream=stream, offset=offset, length=length, wait_s=wait_s))

    def why(self, uuid: str) -> WhyAnswer:
        """Return why a job waits: plain sentences, and Cook's reasons."""
        return self._run(protocol.why(uuid))

    def dump(self, pool: str | None = None, uuids: Sequence[str] = ()) -> bytes:
        """Return everything that decisions about a pool read at this moment, as JSON.

        Args:
            pool: name of the pool; None for the scheduler's default.
            uuids: jobs whose waiting is to be explained.

        Raises:
            Forbidden: the user is not an administrator.
        """
        return self._run(protocol.dump(pool, uuids))

    def report_waits(self, instance: str, uuids: Sequence[str]) -> WaitsAnswer:
        """Report the jobs that a running instance waits for without a time limit; none if it continues."""
        return self._run(protocol.report_waits(instance, uuids))

    def put_blob(self, name: str, data: bytes | memoryview) -> None:
        """Store bytes under a name; functions must match their hash."""
        self._run(protocol.put_blob(name, data))

    def get_blob(self, name: str) -> bytes:
        """Return the bytes of a blob."""
        return self._run(protocol.get_blob(name))

    def blob_size(self, name: str) -> int | None:
        """Return the size of a blob in bytes; None if it does not exist."""
        return self._run(protocol.blob_size(name))

    def has_blob(self, name: str) -> bool:
        """Return whether a blob exists."""
        return self.blob_size(name) is not None

    def shutdown(self, *, stop_agent: bool = False) -> None:
        """Stop the embedded scheduler. Running instances continue, unless `stop_agent` is set."""
        self._run(protocol.shutdown(stop_agent=stop_agent))

    # --- implementation ---

    def _derived(self, user: str | None, timeout_s: float) -> "JobClient":
        return JobClient(
            self.url, token=self._caller.token, user=user, timeout_s=timeout_s, socket_path=self._socket_path
        )

    def _run(self, exchange: Exchange[T]) -> T:
        """Perform an exchange over a connection of the pool."""
        try:
            request = next(exchange)
            while True:
                request = exchange.send(self._pool.exchange(request, self.timeout_s))
        except StopIteration as end:
            answer: T = end.value
            return answer


def _now_ms() -> int:
    return int(time.time() * 1000)
