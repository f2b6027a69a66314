"""`JobClient`: a scheduler's verbs as methods that block.

Lives here: a thin shell that carries the exchanges of `client.protocol` over `client.connections`. All
methods may be called from any thread; all have a deadline.
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
    """Asks a scheduler: ours, or an original Cook for all that is not under `/v1`.

    Args:
        url: `http://HOST:PORT`, `https://...` or `unix:///PATH`.
        token: what the scheduler knows its user by; None where it needs none.
        user: act as this user. With a token, the scheduler must allow it.
        timeout_s: how long an answer may take.
        socket_path: a Unix socket on which the scheduler of an http URL listens as well; it is tried first.

    Raises:
        InvalidRequest: no request can carry the user name (it contains a colon, say) or the token.

    Every method raises `SchedulerUnreachable` when no answer comes, `Unauthenticated` and `Forbidden`
    for want of rights, and else the very class of `cook_jupyter.errors` that the scheduler raised.
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
        """Where the scheduler is."""
        return self._pool.address.url

    @property
    def user(self) -> str:
        """Whose jobs these are: the name acted as, else the one the scheduler knows the token by."""
        return self._run(protocol.owner(self._caller))

    def acting_as(self, user: str) -> "JobClient":
        """Return another client of the same scheduler, acting as another user."""
        return self._derived(user, self.timeout_s)

    def with_timeout(self, timeout_s: float) -> "JobClient":
        """Return another client of the same scheduler for the same user, with another deadline."""
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

        A uuid is made for each job that has none; it is what makes sending again harmless. Of a list that is
        too large for one request, each part is accepted or refused as a whole.

        Args:
            jobs: submissions; a mapping has Cook's field names (`command`, `cpus`, `mem` in MiB ...).
            groups: the groups they name.
            pool: where to; None means the scheduler's default.
            override_group_immutability: let jobs join groups of earlier submissions.
            refuse_unsatisfiable: refuse jobs that no host could ever take, where the scheduler can be certain
                of it; otherwise they wait.
            may_have_arrived: the jobs were sent before and the answer was lost: those that the scheduler has
                by now are no conflict.
            on_accepted: called with the uuids of each part once the scheduler has it.

        Returns:
            The uuids, in order.

        Raises:
            InvalidRequest: a job is not one; nothing of its part was accepted.
            Unsatisfiable: no host could ever take a job, and `refuse_unsatisfiable` was given.
            QuotaExceeded: a quota or a queue limit is in the way.
            Conflict: a uuid is in use.
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
        """Return the jobs with these uuids, in this order. With `partial`, unknown ones are left out.

        Raises:
            NotFound: a uuid is unknown (without `partial`); `missing` names them.
        """
        return self._run(protocol.jobs(uuids, partial=partial))

    def job(self, uuid: str) -> JobAnswer:
        """Return one job."""
        return self._run(protocol.job(uuid))

    def instances(self, uuids: Sequence[str], *, partial: bool = False) -> list[InstanceAnswer]:
        """Return the instances with these uuids, each with a short form of its job."""
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
        """Return the jobs of a user that were submitted in a range of time, newest first.

        Args:
            user: owner of the jobs; None means the caller.
            states: any of waiting, running, completed, success, failed.
            start_ms: from then on (epoch milliseconds); None means the last 24 hours.
            end_ms: up to before then; None means no end.
            limit: if there are more, Cook gives the *oldest* so many: see `recent_jobs`.
            name: the whole name, with `*` for any run of letters.
            pool: only of this one.
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
        """Return the last `count` jobs submitted, newest first.

        Args:
            count: at most so many.
            user: owner of the jobs; None means the caller.
            states: any of waiting, running, completed, success, failed.
            name: as in `list_jobs`.
            since_ms: none older than this; None means 7 days.
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
        """Kill jobs: they are completed at once, and what runs of them is stopped.

        Raises:
            NotFound: a uuid is unknown.
            Forbidden: a job is someone else's; nothing was killed.
        """
        self._run(protocol.kill(uuids))

    def cancel_waiting(self, uuids: Sequence[str]) -> list[str]:
        """Cancel those of the jobs that wait, and return which they are; what runs goes on.

        Raises:
            NotFound: a uuid is unknown, or the scheduler is an original Cook, which cannot do this.
            Forbidden: a job is someone else's; nothing was cancelled.
        """
        return self._run(protocol.cancel_waiting(uuids))

    def kill_instances(self, uuids: Sequence[str]) -> None:
        """Kill instances; their jobs try again if they may."""
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
        """Give jobs more attempts: a new total (`retries`) or so many more (`increment`).

        Returns:
            The total of the first job touched; 0 if `failed_only` left none.
        """
        uuid_list = [uuids] if isinstance(uuids, str) else uuids
        return self._run(
            protocol.retry(uuid_list, retries=retries, increment=increment, failed_only=failed_only)
        )

    def groups(
        self, uuids: Sequence[str], *, detailed: bool = False, partial: bool = False
    ) -> list[GroupAnswer]:
        """Return groups; `detailed` adds how many of their jobs wait, run and are completed."""
        return self._run(protocol.groups(uuids, detailed=detailed, partial=partial))

    # --- limits, pools, the scheduler itself ---

    def usage(
        self, user: str | None = None, *, pool: str | None = None, group_breakdown: bool = False
    ) -> UsageAnswer:
        """Return what the running jobs of a user (None: one's own) hold."""
        return self._run(protocol.usage(self._caller, user, pool=pool, group_breakdown=group_breakdown))

    def share(self, user: str | None = None, *, pool: str | None = None) -> ShareAnswer:
        """Return what a user is entitled to."""
        return self._run(protocol.share(self._caller, user, pool=pool))

    def set_share(self, user: str, *, reason: str, pool: str | None = None, **values: float) -> ShareAnswer:
        """Set a user's share (`cpus`, `mem`, `gpus`); what is not named stays. For administrators."""
        return self._run(protocol.set_share(user, values, reason=reason, pool=pool))

    def reset_share(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Give a user the default share again."""
        self._run(protocol.reset_limit("share", user, reason=reason, pool=pool))

    def quota(self, user: str | None = None, *, pool: str | None = None) -> QuotaAnswer:
        """Return what a user may never exceed."""
        return self._run(protocol.quota(self._caller, user, pool=pool))

    def set_quota(self, user: str, *, reason: str, pool: str | None = None, **values: float) -> QuotaAnswer:
        """Set a user's quota (`cpus`, `mem`, `gpus`, `count`); what is not named stays."""
        return self._run(protocol.set_quota(user, values, reason=reason, pool=pool))

    def reset_quota(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Give a user the default quota again."""
        self._run(protocol.reset_limit("quota", user, reason=reason, pool=pool))

    def pools(self) -> list[PoolAnswer]:
        """Return the pools."""
        return self._run(protocol.pools())

    def queue(self, *, limit: int | None = None) -> dict[str, list[QueueEntry]]:
        """Return waiting jobs in the order in which they would start, by pool. For administrators."""
        return self._run(protocol.queue(limit=limit))

    def running(self, *, limit: int | None = None) -> list[InstanceAnswer]:
        """Return instances that run, everybody's. For administrators."""
        return self._run(protocol.running(limit=limit))

    def unscheduled(self, uuids: Sequence[str], *, partial: bool = False) -> list[UnscheduledAnswer]:
        """Return Cook's reasons why each of these jobs waits."""
        return self._run(protocol.unscheduled(uuids, partial=partial))

    def info(self) -> CookInfo:
        """Return which scheduler this is, in Cook's words."""
        return self._run(protocol.info())

    def settings(self) -> dict[str, object]:
        """Return the scheduler's settings."""
        return self._run(protocol.settings())

    def failure_reasons(self) -> list[FailureReason]:
        """Return the table of reasons."""
        return self._run(protocol.failure_reasons())

    # --- ours, under /v1 ---

    def info_v1(self) -> SchedulerInfo:
        """Return who asks, where blobs are stored, what the hosts have, how large things may be."""
        return self._run(protocol.info_v1(self._caller))

    def summary(self) -> SummaryAnswer:
        """Return who waits and who runs, beside capacity and shares."""
        return self._run(protocol.summary())

    def monitor(self) -> MonitorAnswer:
        """Return who was starved, hungry, satisfied when the scheduler looked last, by pool, with amounts."""
        return self._run(protocol.monitor())

    def rebalancer(self) -> RebalancerAnswer:
        """Return how running tasks give way: the parameters in force."""
        return self._run(protocol.rebalancer())

    def set_rebalancer(self, **parameters: float | None) -> RebalancerAnswer:
        """Set `safe_dru_threshold`, `min_dru_diff` or `max_preemption`, from now on. For administrators.

        None switches preemption off; what is not named stays. Returns the parameters in force.
        """
        return self._run(protocol.set_rebalancer(parameters))

    def events(
        self,
        cursor: int | None = None,
        label: Mapping[str, str] | None = None,
        *,
        store: str | None = None,
    ) -> EventStream:
        """Stream what happens to one's jobs: first what has changed after `cursor`, then live.

        Args:
            cursor: of an earlier batch; None means from now.
            label: only jobs that carry these labels.
            store: the store that the cursor is of (`EventBatch.store`). If the scheduler has another one by
                now, the stream begins with the present, and its first batch names the new store.

        Returns:
            An iterator over batches, on a connection of its own; close it when done. It ends with
            SchedulerUnreachable when the connection breaks: `client.events.follow` comes back.
        """
        return EventStream(self._pool, cursor, label or {}, store=store, timeout_s=self.timeout_s)

    def result(self, uuid: str) -> bytes:
        """Return the signed bytes that a job gave back.

        Raises:
            NotFound: no such job, or it gave back nothing.
            Conflict: it is not completed.
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
        """Return what an instance (or a job's latest one) wrote, from `offset` on; see `LogPiece`.

        Args:
            uuid: of an instance or a job.
            stream: "stdout" or "stderr".
            offset: in bytes.
            length: at most so many bytes.
            wait_s: wait so long for something to be there, at most 20.
        """
        return self._run(protocol.logs(uuid, stream=stream, offset=offset, length=length, wait_s=wait_s))

    def why(self, uuid: str) -> WhyAnswer:
        """Return why a job waits: in plain sentences, and Cook's reasons."""
        return self._run(protocol.why(uuid))

    def dump(self, pool: str | None = None, uuids: Sequence[str] = ()) -> bytes:
        """Return all that the decisions about a pool read at this moment, as JSON.

        Args:
            pool: name of the pool; None means the scheduler's default.
            uuids: jobs to explain: why do they wait?

        Raises:
            Forbidden: the user is no administrator.
        """
        return self._run(protocol.dump(pool, uuids))

    def report_waits(self, instance: str, uuids: Sequence[str]) -> WaitsAnswer:
        """Report what a running instance waits for, without a time limit; no jobs if it goes on."""
        return self._run(protocol.report_waits(instance, uuids))

    def put_blob(self, name: str, data: bytes | memoryview) -> None:
        """Store bytes under a name; functions must match their hash."""
        self._run(protocol.put_blob(name, data))

    def get_blob(self, name: str) -> bytes:
        """Return the bytes of a blob."""
        return self._run(protocol.get_blob(name))

    def blob_size(self, name: str) -> int | None:
        """Return the size of a blob in bytes; None if it is not there."""
        return self._run(protocol.blob_size(name))

    def has_blob(self, name: str) -> bool:
        """Return whether there is such a blob."""
        return self.blob_size(name) is not None

    def shutdown(self, *, stop_agent: bool = False) -> None:
        """End the embedded scheduler. What runs goes on, unless `stop_agent`."""
        self._run(protocol.shutdown(stop_agent=stop_agent))

    # --- how ---

    def _derived(self, user: str | None, timeout_s: float) -> "JobClient":
        return JobClient(
            self.url, token=self._caller.token, user=user, timeout_s=timeout_s, socket_path=self._socket_path
        )

    def _run(self, exchange: Exchange[T]) -> T:
        """Carry an exchange out, over the connections of the pool."""
        try:
            request = next(exchange)
            while True:
                request = exchange.send(self._pool.exchange(request, self.timeout_s))
        except StopIteration as end:
            answer: T = end.value
            return answer


def _now_ms() -> int:
    return int(time.time() * 1000)
